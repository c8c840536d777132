"""Guards in definitions: read, refused if they cannot be enforced, or reported."""

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.apis import Api
from contracts.guards import Guards
from libs.tyk.classic import read_classic
from libs.tyk.import_notes import ImportNotes, UnsupportedDefinition
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas
from libs.tyk.part import Part
from tests.unit.tyk_definitions import GUARDED_CLASSIC, GUARDED_OAS, GUARDED_VERSION, changed, definition

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
OAS, CLASSIC = definition("orders-oas.json"), definition("orders-classic.json")
TYK = "x-tyk-api-gateway"
SCHEMES = f"{TYK}/server/authentication/securitySchemes"
VERSION = "version_data/versions/Default"
ON = {"enabled": True}


def read(document: dict[str, Any], **named: Any) -> Api:
    reader = read_oas if "openapi" in document else read_classic
    return reader(document, **{"api_id": "generated", "now": NOW, **named})


def oas(path: str, value: Any, *more: Any) -> dict[str, Any]:
    document = changed(OAS, path, value)
    return oas_more(document, *more)


def oas_more(document: dict[str, Any], *more: Any) -> dict[str, Any]:
    for path, value in zip(more[::2], more[1::2], strict=True):
        document = changed(document, path, value)
    return document


def operation(**settings: Any) -> dict[str, Any]:
    """The orders API with one operation and its Tyk settings."""
    document = changed(OAS, "paths", {"/things/{id}": {"get": {"operationId": "things"}}})
    return changed(document, f"{TYK}/middleware/operations", {"things": settings})


def classic(path: str, value: Any, *more: Any) -> dict[str, Any]:
    return oas_more(changed(CLASSIC, path, value), *more)


def extended(**lists: Any) -> dict[str, Any]:
    return classic(f"{VERSION}/extended_paths", lists)


def with_scheme(name: str, declared: Any, settings: Any, security: Any, mode: str = "legacy") -> dict[str, Any]:
    """The orders API with another security scheme."""
    document = changed(OAS, f"components/securitySchemes/{name}", declared)
    document = changed(document, f"{SCHEMES}/{name}", settings)
    document = changed(document, f"{TYK}/server/authentication/securityProcessingMode", mode)
    return changed(document, "security", security)


def secured(security: Any) -> dict[str, Any]:
    """The orders API with an operation that has its own `security`."""
    return changed(OAS, "paths", {"/things": {"get": {"security": security}}})


JWT = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
KEY = {"type": "apiKey", "in": "header", "name": "X-Key"}
LISTED = {"path": "/things", "method": "GET"}
PLUGIN = [{"enabled": True, "functionName": "f", "path": "x.js"}]

REFUSED = [
    pytest.param(with_scheme("jwt", JWT, ON, [{"tykOAuth": [], "jwt": []}]), "security[0].jwt", id="oas-jwt"),
    pytest.param(
        with_scheme("basic", {"type": "http", "scheme": "basic"}, ON, [{"basic": [], "tykOAuth": []}]),
        "security[0].basic",
        id="oas-basic-first",
    ),
    pytest.param(with_scheme("key", KEY, ON, [{"tykOAuth": [], "key": []}]), "security[0].key", id="oas-key-elsewhere"),
    pytest.param(
        with_scheme("jwt", JWT, ON, [{"tykOAuth": [], "jwt": []}, {"tykOAuth": []}]),
        "security[0].jwt",
        id="oas-legacy-counts-the-first",
    ),
    pytest.param(oas(f"{TYK}/server/authentication/hmac", ON), f"{TYK}.server.authentication.hmac", id="oas-hmac"),
    pytest.param(
        oas(f"{TYK}/server/authentication/oidc", {**ON, "providers": []}),
        f"{TYK}.server.authentication.oidc",
        id="oas-oidc",
    ),
    pytest.param(
        oas(f"{TYK}/server/authentication/custom", {**ON, "config": {"enabled": True, "functionName": "f"}}),
        f"{TYK}.server.authentication.custom",
        id="oas-custom",
    ),
    pytest.param(
        oas(f"{TYK}/server/clientCertificates", {**ON, "allowlist": ["c"]}),
        f"{TYK}.server.clientCertificates",
        id="oas-client-certificates",
    ),
    pytest.param(
        oas(f"{TYK}/server/authentication/certificateAuth", ON),
        f"{TYK}.server.authentication.certificateAuth",
        id="oas-certificate-auth",
    ),
    pytest.param(
        operation(validateRequest={**ON, "errorResponseCode": 422}),
        f"{TYK}.middleware.operations.things.validateRequest",
        id="oas-validate-request",
    ),
    pytest.param(
        operation(postPlugins=PLUGIN), f"{TYK}.middleware.operations.things.postPlugins[0]", id="oas-endpoint-plugin"
    ),
    pytest.param(operation(scopeCheck=ON), f"{TYK}.middleware.operations.things.scopeCheck", id="oas-scope-check"),
    *(
        pytest.param(
            oas(f"{TYK}/middleware/global/{hook}", PLUGIN), f"{TYK}.middleware.global.{hook}[0]", id=f"oas-{hook}"
        )
        for hook in ("prePlugins", "postAuthenticationPlugins", "postPlugins")
    ),
    pytest.param(
        oas(f"{TYK}/middleware/global/prePlugin", {"plugins": PLUGIN}),
        f"{TYK}.middleware.global.prePlugin.plugins[0]",
        id="oas-old-pre-plugin",
    ),
    pytest.param(
        oas(f"{TYK}/middleware/global/pluginConfig", {"driver": "goplugin", "bundle": {**ON, "path": "b.zip"}}),
        f"{TYK}.middleware.global.pluginConfig.bundle",
        id="oas-bundle",
    ),
    pytest.param(
        oas(f"{TYK}/middleware/operations", {"misspelt": {"block": ON}}),
        f"{TYK}.middleware.operations.misspelt",
        id="oas-operation-that-is-not-there",
    ),
    pytest.param(oas(f"{TYK}/upstream/certificatePinning", ON), f"{TYK}.upstream.certificatePinning", id="oas-pinning"),
    pytest.param(
        oas(f"{TYK}/middleware/mcpTools", {"tool": {"allow": ON}}), f"{TYK}.middleware.mcpTools", id="oas-mcp"
    ),
    *(
        pytest.param(classic(flag, True), flag, id=f"classic-{flag}")
        for flag in (
            "use_basic_auth",
            "use_openid",
            "use_go_plugin_auth",
            "use_mutual_tls_auth",
            "enable_jwt",
            "enable_signature_checking",
            "enable_coprocess_auth",
            "custom_plugin_auth_enabled",
        )
    ),
    pytest.param(classic("external_oauth", ON), "external_oauth.enabled", id="classic-external-oauth"),
    pytest.param(extended(validate_json=[LISTED]), f"{VERSION}/extended_paths/validate_json[0]", id="classic-json"),
    pytest.param(
        extended(validate_request=[{**LISTED, "enabled": True}]),
        f"{VERSION}/extended_paths/validate_request[0]",
        id="classic-validate-request",
    ),
    pytest.param(extended(go_plugin=[LISTED]), f"{VERSION}/extended_paths/go_plugin[0]", id="classic-go-plugin"),
    *(
        pytest.param(
            classic(f"custom_middleware/{hook}", [{"name": "f", "path": "x.js"}]),
            f"custom_middleware/{hook}[0]",
            id=f"classic-{hook}",
        )
        for hook in ("pre", "post", "post_key_auth")
    ),
    pytest.param(
        classic("custom_middleware/auth_check", {"name": "f"}), "custom_middleware/auth_check", id="classic-auth-check"
    ),
    pytest.param(classic("custom_middleware_bundle", "b.zip"), "custom_middleware_bundle", id="classic-bundle"),
    pytest.param(
        classic("auth_configs/oauth/use_certificate", True), "auth_configs/oauth/use_certificate", id="classic-cert"
    ),
    pytest.param(
        classic("auth_configs/authToken", {"validate_signature": True}),
        "auth_configs/authToken/validate_signature",
        id="classic-signature",
    ),
    pytest.param(classic("graphql", {"enabled": True}), "graphql/enabled", id="classic-graphql"),
    pytest.param(classic("pinned_public_keys", {"*": "k"}), "pinned_public_keys", id="classic-pinning"),
    pytest.param(oas("security", [{"tykOAuth": ["admin"]}]), "security[0].tykOAuth", id="oas-scopes"),
    pytest.param(
        oas("security", [{"tykOAuth": ["admin"]}, {"tykOAuth": []}]), "security[0].tykOAuth", id="oas-legacy-scopes"
    ),
    pytest.param(secured([{"tykOAuth": ["admin"]}]), "paths//things/get/security", id="oas-operation-scopes"),
    pytest.param(secured([{"jwt": []}]), "paths//things/get/security", id="oas-operation-scheme"),
    pytest.param(secured([{"tykOAuth": []}, {"jwt": []}]), "paths//things/get/security", id="oas-operation-either"),
    pytest.param({"api_definition": classic("enable_jwt", True)}, "api_definition.enable_jwt", id="wrapped"),
]


@pytest.mark.parametrize(("document", "path"), REFUSED)
def test_a8_unsupported_guards_are_refused_by_path(document: Any, path: str) -> None:
    """An unsupported guard is refused with its path. If it is accepted explicitly, the API lists it."""
    path = path.replace("/", ".").replace("..", "./")
    with pytest.raises(UnsupportedDefinition) as refused:
        read(document)
    assert [field.path for field in refused.value.fields] == [path]
    assert f"{path}: " in str(refused.value)
    before = copy.deepcopy(document)
    api = read(document, accept_unsupported=True)
    assert document == before
    assert [field.path for field in api.unsupported] == [path]
    kept = json.loads(api.definition.get_secret_value())
    own = kept.get("api_definition", kept)
    own = own.get("tokenwire") or own["x-tokenwire"]
    assert own["acceptedUnsupported"] == [path]
    # GET's document may be sent back; another unsupported part would be refused again.
    assert read(kept).unsupported == api.unsupported


def test_a8_operations_with_long_names_are_accepted_apart() -> None:
    """Names of over a hundred characters, which tools make of paths, are told apart by their ends."""
    names = [f"get{'InternationalStandingOrder' * 4}{end}" for end in ("Details", "Payments")]
    document = changed(OAS, "paths", {f"/{name}": {"get": {"operationId": name}} for name in names})
    document = changed(document, f"{TYK}/middleware/operations", {name: {"validateRequest": ON} for name in names})
    with pytest.raises(UnsupportedDefinition) as refused:
        read(document)
    first, second = [field.path for field in refused.value.fields]
    with pytest.raises(UnsupportedDefinition) as again:
        read(changed(document, "x-tokenwire", {"acceptedUnsupported": [first]}))
    assert [field.path for field in again.value.fields] == [second]


def test_a8_accepted_parts_are_accepted_alone() -> None:
    """Acceptance covers only the listed parts."""
    accepted = classic("enable_jwt", True, "tokenwire", {"acceptedUnsupported": ["enable_jwt"]})
    assert [field.path for field in read(accepted).unsupported] == ["enable_jwt"]
    with pytest.raises(UnsupportedDefinition) as refused:
        read({**accepted, "use_basic_auth": True})
    assert [field.path for field in refused.value.fields] == ["use_basic_auth"]
    gone = read({**accepted, "enable_jwt": False})
    assert gone.unsupported == ()
    assert json.loads(gone.definition.get_secret_value())["tokenwire"] == {}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(with_scheme("jwt", JWT, {"enabled": False}, [{"tykOAuth": [], "jwt": []}]), id="scheme-disabled"),
        pytest.param(with_scheme("jwt", JWT, ON, [{"tykOAuth": []}]), id="scheme-not-required"),
        pytest.param(with_scheme("jwt", JWT, ON, [{"tykOAuth": []}, {"jwt": []}], "compliant"), id="alternative"),
        pytest.param(
            with_scheme("jwt", JWT, ON, [{"tykOAuth": [], "jwt": []}, {"tykOAuth": []}], "compliant"), id="either"
        ),
        pytest.param(
            with_scheme("key", {**KEY, "name": "Authorization"}, ON, [{"tykOAuth": [], "key": []}]), id="same-place"
        ),
        pytest.param(
            oas(f"{TYK}/server/clientCertificates", {"enabled": False, "allowlist": ["c"]}), id="oas-mtls-off"
        ),
        pytest.param(operation(validateRequest={"enabled": False}), id="oas-validation-off"),
        pytest.param(
            oas(f"{TYK}/middleware/global/prePlugins", [{"enabled": False, "functionName": "f"}]), id="oas-plugin-off"
        ),
        pytest.param(extended(validate_json=[{**LISTED, "disabled": True}]), id="classic-validation-off"),
        pytest.param(
            classic("custom_middleware/pre", [{"name": "f", "path": "x.js", "disabled": True}]), id="classic-hook-off"
        ),
        pytest.param(
            classic("custom_middleware_bundle", "b.zip", "custom_middleware_bundle_disabled", True), id="bundle-off"
        ),
        pytest.param(
            classic("pinned_public_keys", {"*": "k"}, "certificate_pinning_disabled", True), id="classic-pinning-off"
        ),
        pytest.param(
            classic("use_keyless", True, "enable_jwt", True), id="keyless-so-that-tyk-asks-for-nothing-either"
        ),
        pytest.param(
            classic(f"{VERSION}/use_extended_paths", False, f"{VERSION}/extended_paths", {"validate_json": [LISTED]}),
            id="classic-extended-paths-off",
        ),
        pytest.param(secured([{"tykOAuth": []}]), id="oas-operation-says-the-same"),
        pytest.param(
            oas(
                "security",
                [{"tykOAuth": ["admin"]}, {"tykOAuth": []}],
                f"{TYK}/server/authentication/securityProcessingMode",
                "compliant",
            ),
            id="oas-either-scopes-or-none",
        ),
        pytest.param(classic("graphql", {"enabled": False, "schema": "type Q"}), id="graphql-off"),
    ],
)
def test_a8_disabled_guards_are_ignored(document: Any) -> None:
    """`enabled: false` and `disabled: true` are respected."""
    assert read(document).unsupported == ()


def warnings_of(document: Any) -> list[str]:
    notes = ImportNotes()
    read(document, notes=notes)
    return notes.warnings


@pytest.mark.parametrize(
    ("document", "warning"),
    [
        pytest.param(oas(f"{SCHEMES}/tykOAuth/refreshtoken", True), "did you mean refreshToken?", id="oas-case"),
        pytest.param(
            oas(f"{SCHEMES}/tykOAuth/authLoginRedirct", "x"), "did you mean authLoginRedirect?", id="oas-misspelt"
        ),
        pytest.param(
            oas(f"{SCHEMES}/tykOAuth/notifications/shared_secret", "x"), "did you mean sharedSecret?", id="oas-style"
        ),
        pytest.param(oas(f"{SCHEMES}/tykOAuth/header/nam", "X"), "did you mean name?", id="oas-source"),
        pytest.param(
            oas("components/securitySchemes/tykOAuth/flows/clientCredential", {}),
            "did you mean clientCredentials?",
            id="oas-flow",
        ),
        pytest.param(oas("x-tokenwir", {"codeLifetime": 30}), "did you mean x-tokenwire?", id="oas-own-settings"),
        pytest.param(oas(f"{TYK}/sever", {}), "did you mean server?", id="oas-part"),
        pytest.param(
            oas(f"{TYK}/server/ipAccesControl", {**ON, "allow": []}), "did you mean ipAccessControl?", id="oas-guard"
        ),
        pytest.param(operation(blok=ON), "did you mean block?", id="oas-operation"),
        pytest.param(
            classic("oauth_meta/allowed_acess_types", []), "did you mean allowed_access_types?", id="classic-oauth"
        ),
        pytest.param(
            classic("auth_configs/oauth/auth_header", "X"), "did you mean auth_header_name?", id="classic-config"
        ),
        pytest.param(
            classic("notifications/oauth_on_key_change_url", "x"),
            "did you mean oauth_on_keychange_url?",
            id="classic-notifications",
        ),
        pytest.param(classic("enable_ip_whitelist", True), "did you mean enable_ip_whitelisting?", id="classic-guard"),
        pytest.param(extended(blacklist=[LISTED]), "did you mean black_list?", id="classic-list"),
        pytest.param(classic("nonsense", 0), "nonsense: unknown, and not used", id="classic-unknown"),
    ],
)
def test_a8_a_member_that_tyk_does_not_know_is_reported(document: Any, warning: str) -> None:
    """An unknown member is reported with its path and the likely one, so typing errors are noticed."""
    (said,) = warnings_of(document)
    assert said.endswith(warning)


@pytest.mark.parametrize(
    ("document", "warning"),
    [
        pytest.param(operation(cache=ON), f"{TYK}.middleware.operations.things.cache: ", id="oas-cache"),
        pytest.param(
            operation(transformRequestHeaders={**ON, "add": [{"name": "a", "value": "b"}]}),
            f"{TYK}.middleware.operations.things.transformRequestHeaders: headers of single endpoints",
            id="oas-endpoint-headers",
        ),
        pytest.param(
            oas(f"{TYK}/middleware/global/responsePlugins", PLUGIN),
            f"{TYK}.middleware.global.responsePlugins[0]: ",
            id="oas-response-plugin",
        ),
        pytest.param(oas(f"{TYK}/server/eventHandlers", [ON]), f"{TYK}.server.eventHandlers[0]: ", id="oas-events"),
        pytest.param(
            with_scheme("jwt", JWT, ON, [{"tykOAuth": []}, {"jwt": []}], "compliant"), "security[1].jwt: ", id="or"
        ),
        pytest.param(
            with_scheme("jwt", JWT, {"enabled": False}, [{"tykOAuth": [], "jwt": []}]),
            "security[0].jwt: not used, since",
            id="not-enabled",
        ),
        pytest.param(
            classic("cache_options", {"enable_cache": True, "cache_timeout": 60}),
            "cache_options.enable_cache: ",
            id="classic-cache",
        ),
        pytest.param(
            extended(url_rewrites=[LISTED]),
            "version_data.versions.Default.extended_paths.url_rewrites[0]: ",
            id="classic-rewrite",
        ),
        pytest.param(
            oas(
                f"{TYK}/middleware/operations", {"misspelt": {"cache": {"enabled": False}, "ignoreAuthentication": ON}}
            ),
            f"{TYK}.middleware.operations.misspelt: not used, since no operation",
            id="oas-operation-that-is-not-there",
        ),
        pytest.param(
            oas(f"{TYK}/server/ipAccessControl", {**ON, "allow": []}),
            f"{TYK}.server.ipAccessControl: enabled without any address",
            id="oas-no-address",
        ),
        pytest.param(
            classic("enable_ip_whitelisting", True, "allowed_ips", []),
            "enable_ip_whitelisting: allowed_ips names no address",
            id="classic-no-address",
        ),
        pytest.param(
            classic("enable_ip_whitelisting", False, "allowed_ips", ["10.0.0.1"]),
            "allowed_ips: not used, since enable_ip_whitelisting is false",
            id="classic-ip-off",
        ),
        pytest.param(
            extended(ignored=[{"path": "/a", "method_actions": {}}]),
            "version_data.versions.Default.extended_paths.ignored[0].method_actions: it names no method",
            id="classic-no-method",
        ),
        pytest.param(
            classic(f"{VERSION}/use_extended_paths", False, f"{VERSION}/extended_paths", {"black_list": [LISTED]}),
            "version_data.versions.Default.extended_paths.black_list: not used, since use_extended_paths is false",
            id="classic-extended-paths-off",
        ),
        pytest.param(
            classic(f"{VERSION}/use_extended_paths", False, f"{VERSION}/extended_paths", {"rate_limit": [LISTED]}),
            "version_data.versions.Default.extended_paths.rate_limit: not used, since use_extended_paths is false",
            id="classic-extended-rates-off",
        ),
        pytest.param(secured([]), "paths./things.get.security: not used; the document's", id="oas-operation-open"),
    ],
)
def test_a8_unused_parts_are_reported(document: Any, warning: str) -> None:
    """Unused parts of a definition are reported."""
    (said,) = warnings_of(document)
    assert said.startswith(warning)


UPSTREAM_RATE, GLOBAL_SIZE = f"{TYK}/upstream/rateLimit", f"{TYK}/middleware/global/requestSizeLimit"
THINGS = f"{TYK}.middleware.operations.things"
NOTHING = "limits nothing: rate and per"


@pytest.mark.parametrize(
    ("document", "warning"),
    [
        *(
            pytest.param(oas(UPSTREAM_RATE, {**ON, **rate}), f"{TYK}.upstream.rateLimit: {NOTHING}", id=f"oas-{rate}")
            for rate in ({}, {"rate": 1, "per": ""}, {"rate": 1, "per": "0s"}, {"rate": 0, "per": "1m"}, {"rate": 1})
        ),
        pytest.param(operation(rateLimit={**ON, "rate": 1}), f"{THINGS}.rateLimit: {NOTHING}", id="oas-operation"),
        pytest.param(
            oas(UPSTREAM_RATE, {"rate": 1, "per": "1m"}),
            f"{TYK}.upstream.rateLimit: not used, since it has no enabled: true",
            id="oas-rate-without-enabled",
        ),
        pytest.param(operation(block={"ignoreCase": True}), f"{THINGS}.block: not used, since", id="oas-block"),
        pytest.param(
            oas(f"{TYK}/server/ipAccessControl", {"allow": ["10.0.0.0/8"]}),
            f"{TYK}.server.ipAccessControl: not used, since",
            id="oas-addresses",
        ),
        pytest.param(
            oas(f"{TYK}/server/customDomain", {"name": "a.test"}), f"{TYK}.server.customDomain: not used", id="domain"
        ),
        pytest.param(
            oas(GLOBAL_SIZE, ON), f"{TYK}.middleware.global.requestSizeLimit: value must be more", id="oas-size"
        ),
        pytest.param(
            oas(GLOBAL_SIZE, {"value": 5}), f"{TYK}.middleware.global.requestSizeLimit: not used", id="oas-size-enabled"
        ),
        pytest.param(operation(requestSizeLimit=ON), f"{THINGS}.requestSizeLimit: value must", id="oas-endpoint-size"),
        pytest.param(
            classic("global_rate_limit", {"rate": 5, "per": 0}), f"global_rate_limit: {NOTHING}", id="classic-per"
        ),
        pytest.param(classic("global_rate_limit", {"per": 60}), f"global_rate_limit: {NOTHING}", id="classic-rate"),
        pytest.param(
            extended(rate_limit=[{**LISTED, "rate": 5}]),
            f"version_data.versions.Default.extended_paths.rate_limit[0]: {NOTHING}",
            id="classic-endpoint-rate",
        ),
        pytest.param(
            extended(size_limits=[LISTED]),
            "version_data.versions.Default.extended_paths.size_limits[0]: size_limit is zero",
            id="classic-endpoint-size",
        ),
    ],
)
def test_a8_a_limit_without_a_usable_value_is_reported(document: Any, warning: str) -> None:
    """A limit without a usable value is reported."""
    (said,) = warnings_of(document)
    assert said.startswith(warning)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("1m30s", 90), ("1h30m", 5400), ("1h1m1s", 3661), ("1.5h", 5400), ("90s", 90), ("500ms", 0.5), ("", 0), ("0", 0)],
)
def test_a8_a_duration_has_any_number_of_units(duration: str, seconds: float) -> None:
    """Durations have any number of units, as in Go."""
    assert Part({"per": duration}).duration("per") == seconds


@pytest.mark.parametrize("duration", ["1mm", "10ss", "1", "s", "1m 30s", "1m30", "-1s", "1hms", "1m,30s"])
def test_a8_a_duration_with_a_unit_too_many_is_refused(duration: str) -> None:
    """An invalid duration is refused rather than guessed."""
    with pytest.raises(InvalidDefinition, match="per: a duration is expected"):
        Part({"per": duration}).duration("per")


ADDS = {"add": [{"name": "X-Role", "value": "admin"}], "remove": ["X-Internal"]}


@pytest.mark.parametrize(
    ("document", "where"),
    [
        pytest.param(
            operation(transformRequestHeaders={**ON, **ADDS}), f"{THINGS}.transformRequestHeaders", id="oas-operation"
        ),
        pytest.param(
            extended(transform_headers=[{**LISTED, "add_headers": {"X-Role": "a"}, "delete_headers": ["X-Internal"]}]),
            "version_data.versions.Default.extended_paths.transform_headers[0]",
            id="classic-endpoint",
        ),
        pytest.param(
            classic(
                "version_data",
                {
                    "not_versioned": False,
                    "default_version": "v1",
                    "versions": {
                        "v1": {"name": "v1"},
                        "v2": {"global_headers": {"X-Role": "a"}, "global_headers_remove": ["X-Internal"]},
                    },
                },
            ),
            "version_data.versions.v2",
            id="classic-other-version",
        ),
    ],
)
def test_a2_headers_of_single_endpoints_are_never_the_caller_s(document: Any, where: str) -> None:
    """Headers for single endpoints are not set but removed from callers' requests everywhere, with a warning."""
    (said,) = warnings_of(document)
    assert said.startswith(f"{where}: ")
    assert "not " in said
    assert said.endswith("dropped from every call to the API, so that callers cannot forge them")
    api = read(document)
    assert api.request_headers == ()
    assert set(api.removed_request_headers) == {"X-Role", "X-Internal"}


def test_a2_headers_about_the_message_stay_the_caller_s() -> None:
    """`Content-Type` and similar headers for one endpoint are not removed from others' requests."""
    adds = {"enabled": True, "add": [{"name": "Content-Type", "value": "text/xml"}, {"name": "X-Role", "value": "a"}]}
    entry = {**LISTED, "add_headers": {"content-type": "text/xml", "X-Role": "a"}, "delete_headers": ["Accept"]}
    for document in (operation(transformRequestHeaders=adds), extended(transform_headers=[entry])):
        assert read(document).removed_request_headers == ("X-Role",)


def test_a2_headers_that_are_switched_off_are_the_caller_s() -> None:
    """Disabled headers are left to callers, as in Tyk."""
    off = operation(transformRequestHeaders={"enabled": False, **ADDS})
    entry = {**LISTED, "disabled": True, "add_headers": {"X-Role": "a"}}
    for document in (off, extended(transform_headers=[entry])):
        assert warnings_of(document) == []
        assert read(document).removed_request_headers == ()


@pytest.mark.parametrize(
    "variable",
    [
        *("$tyk_context.remote_addr", "$tyk_context.jwt_claims_sub", "$secret_vault.a.b", "$secret_env.KEY"),
        *("Bearer $secret_conf.KEY", "$tyk_meta", "$tyk_meta.", "$other.name", "env://KEY", "vault://a/b.c"),
    ],
)
def test_a2_variables_that_nothing_replaces_never_go_upstream(variable: str) -> None:
    """A header with an unknown variable is removed, so neither the variable's text nor the caller's value reaches the
    upstream.
    """
    added = {**ON, "add": [{"name": "X-Who", "value": variable}]}
    for document, where in (
        (oas(f"{TYK}/middleware/global/transformRequestHeaders", added), "transformRequestHeaders.add[0].value: "),
        (classic(f"{VERSION}/global_headers", {"X-Who": variable}), "global_headers.X-Who: "),
    ):
        (said,) = warnings_of(document)
        assert where in said
        assert "is not a variable here" in said
        assert said.endswith("no header X-Who")
        (header,) = read(document).request_headers
        assert (header.name, header.value) == ("X-Who", "")


@pytest.mark.parametrize("value", ["US$5", "$tyk_meta.role", "a$b.c", "pa$$word", "$5.00", "$tyk_meta.a-$tyk_meta.b"])
def test_a2_other_dollars_are_text(value: str) -> None:
    """Other dollar signs are text, as in Tyk."""
    document = classic(f"{VERSION}/global_headers", {"X-Who": value})
    assert warnings_of(document) == []
    assert read(document).request_headers[0].value == value


def test_a8_security_without_authentication_is_reported() -> None:
    """`security` without authentication enabled is reported, because the API is keyless."""
    document = changed(secured([{"tykOAuth": ["admin"]}]), f"{TYK}/server/authentication", None)
    assert [said.partition(", since there is no ")[0] for said in warnings_of(document)] == [
        "security: not used",
        "paths./things.get.security: not used",
    ]
    assert warnings_of(changed(document, f"{TYK}/server/authentication", {"enabled": False})) == []


@pytest.mark.parametrize("name", ["orders-oas.json", "orders-classic.json"])
def test_a8_zero_values_and_descriptions_are_no_news(name: str) -> None:
    """Tyk's exports contain every member; those without effect are not reported."""
    document = definition(name)
    if "openapi" not in document:
        document |= {"use_basic_auth": False, "graphql": {"enabled": False}, "tags": ["a"], "slug": "s", "domain": ""}
        document |= {"custom_middleware": {"pre": None, "auth_check": {"name": "", "disabled": False}, "driver": ""}}
    assert warnings_of(document) == []


def guards_of(document: dict[str, Any]) -> Guards | None:
    return read(document, accept_unsupported=True).guards


def test_a8_both_languages_say_the_same_guards() -> None:
    """A guard has the same meaning in both formats."""
    listed = {"path": "/things/{id}", "method": "GET"}
    lists: dict[str, Any] = {key: [listed] for key in ("ignored", "black_list", "internal")}
    lists["rate_limit"] = [{**listed, "rate": 5, "per": 60}]
    document = extended(**lists, size_limits=[{**listed, "size_limit": 1000}])
    for key, value in (GUARDED_CLASSIC | {f"{VERSION}/global_size_limit": 5000}).items():
        document = changed(document, key, value)
    document["expiration"] = "2099-12-31 23:59"
    document["domain"] = "{name:[a-z]+}.example.test"
    other = OAS
    for key, value in GUARDED_OAS.items():
        other = changed(other, key, value)
    settings = other[TYK]["middleware"]["operations"]["things"]
    del settings["allow"], settings["block"]["ignoreCase"]
    one, two = guards_of(document), guards_of(other)
    assert one is not None
    assert two is not None
    assert one.model_copy(update={"paths": ()}) == two.model_copy(update={"paths": ()})
    (ours,), (theirs,) = one.paths, two.paths
    assert ours.model_copy(update={"ignored": ()}) == theirs.model_copy(update={"ignored": ()})
    assert [rule.pattern for rule in ours.ignored] == ["/things/([^/]+)"]
    assert [rule.pattern for rule in theirs.ignored] == ["^(?:/things/([^/]+))/?$"]


def test_a8_no_guards_are_none() -> None:
    """Without guards nothing is checked."""
    assert guards_of(OAS) is None
    assert guards_of(CLASSIC) is None
    assert guards_of(classic(f"{VERSION}/paths", {"ignored": [], "white_list": [], "black_list": []})) is None


def test_a8_every_version_has_its_own() -> None:
    """Each version has its own guards; all versions are known if one has any."""
    versions = {"v1": {"name": "v1"}, "v2": {"name": "v2", **GUARDED_VERSION}}
    data = {"not_versioned": False, "default_version": "v1", "versions": versions}
    guards = guards_of(classic("version_data", data))
    assert guards is not None
    assert [(paths.version, bool(paths.blocked), paths.size) for paths in guards.paths] == [
        ("v1", False, 0),
        ("v2", True, 5000),
    ]
    assert guards.fall_back is None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param(classic("allowed_ips", ["10.0.0"]), "allowed_ips[0]: an IP address or network", id="address"),
        pytest.param(
            oas(f"{TYK}/server/ipAccessControl", {**ON, "block": ["10.0.0.0/33"]}),
            f"{TYK}.server.ipAccessControl.block[0]: an IP address or network",
            id="network",
        ),
        pytest.param(extended(black_list=[{"path": "/a("}]), "black_list[0].path: a path or a regular", id="pattern"),
        pytest.param(extended(black_list=[7]), "extended_paths.black_list[0]: an object is expected", id="no-object"),
        pytest.param(
            extended(ignored=[{"path": "/a", "method": "a b"}]), "ignored[0].path: its method is not one", id="method"
        ),
        pytest.param(classic("global_rate_limit", {"rate": -1}), "global_rate_limit.rate: a number from 0", id="rate"),
        pytest.param(
            oas(f"{TYK}/upstream/rateLimit", {**ON, "rate": 1, "per": "soon"}),
            f"{TYK}.upstream.rateLimit.per: a duration is expected",
            id="duration",
        ),
        pytest.param(classic("expiration", "tomorrow"), "expiration: a moment in UTC is expected", id="moment"),
        pytest.param(classic("domain", "{a:(}.test"), "domain: a path or a regular expression", id="domain"),
        pytest.param(
            classic("version_data/versions", {"a": {}, "b": {}}),
            "version_data.versions.a: the API has no versions",
            id="which-version",
        ),
    ],
)
def test_a8_a_guard_that_cannot_be_read_is_refused(document: Any, message: str) -> None:
    """A malformed guard is refused with its path."""
    with pytest.raises(InvalidDefinition) as refused:
        read(document)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        pytest.param(
            operation(virtualEndpoint={**ON, "functionName": "f"}, ignoreAuthentication=ON),
            f"{TYK}.middleware.operations.things.virtualEndpoint",
            id="oas",
        ),
        pytest.param(
            extended(virtual=[LISTED], ignored=[LISTED]),
            f"{VERSION}/extended_paths/virtual[0]".replace("/", "."),
            id="classic",
        ),
    ],
)
def test_c2_a_virtual_endpoint_is_closed(document: dict[str, Any], path: str) -> None:
    """Its code is not run, so its calls are refused, as the import says; it needs no switch."""
    notes = ImportNotes()
    api = read(document, notes=notes)
    assert api.unsupported == ()
    assert api.guards is not None
    assert len(api.guards.paths[0].internal) == 1
    assert path in notes.report.enforced
    assert f"{path}: its code is not run, so calls of this endpoint are refused with 403" in notes.warnings


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(operation(virtualEndpoint={"enabled": False, "functionName": "f"}), id="oas"),
        pytest.param(extended(virtual=[{**LISTED, "disabled": True}]), id="classic"),
    ],
)
def test_c2_a_virtual_endpoint_that_is_switched_off_closes_nothing(document: dict[str, Any]) -> None:
    """Such calls go to the upstream, as at Tyk."""
    assert read(document).guards is None
