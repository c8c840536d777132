"""C2: the response to an import says what is enforced, unused and refused; a dry run does too, and writes nothing."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.builders import Response, api_document, unique
from tests.services.management import Management, management
from tests.unit.tyk_definitions import changed

TYK = "x-tyk-api-gateway"
ON = {"enabled": True}
CLASSIC = "orders-classic.json"
VERSION = "version_data/versions/Default"
PATHS = f"{VERSION}/extended_paths"
OPERATION = {"/things": {"get": {"operationId": "getThings", "responses": {}}}}


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


def with_changes(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        document = changed(document, path, value)
    return document


def oas(changes: dict[str, Any]) -> dict[str, Any]:
    return with_changes(changed(api_document(), "paths", OPERATION), changes)


def classic(changes: dict[str, Any]) -> dict[str, Any]:
    return with_changes(api_document(CLASSIC), changes)


def operation(**settings: Any) -> dict[str, Any]:
    """Settings of the one operation of the OAS document."""
    return {f"{TYK}/middleware/operations": {"getThings": settings}}


def dotted(path: str) -> str:
    return path.replace("/", ".")


async def told(service: Management, document: dict[str, Any], query: str = "") -> dict[str, Any]:
    """The report of an import."""
    response = await service.writer("POST", f"/api/apis{query}", json=document)
    meta = response.body["Meta"]
    return meta if isinstance(meta, dict) else {"enforced": [], "unused": [], "refused": []}


def paths(parts: list[dict[str, str]]) -> list[str]:
    assert all(part["reason"] for part in parts)
    return [part["path"] for part in parts]


@pytest.mark.parametrize(
    ("document", "enforced"),
    [
        pytest.param(oas({}), [], id="oas-none"),
        pytest.param(
            oas({f"{TYK}/server/ipAccessControl": {**ON, "allow": ["10.0.0.0/8"], "block": ["10.1.1.1"]}}),
            [f"{TYK}.server.ipAccessControl.allow", f"{TYK}.server.ipAccessControl.block"],
            id="oas-addresses",
        ),
        pytest.param(
            oas({f"{TYK}/server/ipAccessControl": {"enabled": False, "allow": ["10.0.0.0/8"]}}),
            [],
            id="oas-switched-off",
        ),
        pytest.param(oas({f"{TYK}/info/state/internal": True}), [f"{TYK}.info.state.internal"], id="oas-internal"),
        pytest.param(
            oas({f"{TYK}/server/customDomain": {**ON, "name": "a.test"}}),
            [f"{TYK}.server.customDomain.name"],
            id="oas-host",
        ),
        pytest.param(
            oas({f"{TYK}/upstream/rateLimit": {**ON, "rate": 1, "per": "1s"}}),
            [f"{TYK}.upstream.rateLimit"],
            id="oas-rate",
        ),
        pytest.param(
            oas({f"{TYK}/upstream/rateLimit": {**ON, "rate": 0, "per": "1s"}}), [], id="oas-rate-without-a-value"
        ),
        pytest.param(oas({f"{TYK}/info/expiration": "2090-01-01 00:00"}), [f"{TYK}.info.expiration"], id="oas-expiry"),
        pytest.param(
            oas({f"{TYK}/middleware/global/requestSizeLimit": {**ON, "value": 9}}),
            [f"{TYK}.middleware.global.requestSizeLimit"],
            id="oas-size",
        ),
        *(
            pytest.param(
                oas(operation(**{name: setting})), [f"{TYK}.middleware.operations.getThings.{name}"], id=f"oas-{name}"
            )
            for name, setting in {
                "allow": ON,
                "block": ON,
                "internal": ON,
                "ignoreAuthentication": ON,
                "rateLimit": {**ON, "rate": 1, "per": "1s"},
                "requestSizeLimit": {**ON, "value": 9},
            }.items()
        ),
        pytest.param(classic({}), [], id="classic-none"),
        pytest.param(
            classic({"enable_ip_whitelisting": True, "allowed_ips": ["10.0.0.1"]}),
            ["allowed_ips"],
            id="classic-allowed",
        ),
        pytest.param(
            classic({"enable_ip_blacklisting": True, "blacklisted_ips": ["10.0.0.1"]}),
            ["blacklisted_ips"],
            id="classic-blocked",
        ),
        pytest.param(classic({"internal": True}), ["internal"], id="classic-internal"),
        pytest.param(classic({"domain": "a.test"}), ["domain"], id="classic-domain"),
        pytest.param(classic({"domain": "a.test", "domain_disabled": True}), [], id="classic-domain-off"),
        pytest.param(classic({"global_rate_limit": {"rate": 1, "per": 1}}), ["global_rate_limit"], id="classic-rate"),
        pytest.param(
            classic({"global_rate_limit": {"rate": 1, "per": 1}, "disable_rate_limit": True}), [], id="classic-rate-off"
        ),
        pytest.param(
            classic({f"{VERSION}/global_size_limit": 9}), [dotted(f"{VERSION}/global_size_limit")], id="classic-size"
        ),
        *(
            pytest.param(
                classic({PATHS: {name: [{"path": "/a", "method": "GET", **more}]}}),
                [f"{dotted(PATHS)}.{name}[0]"],
                id=name,
            )
            for name, more in {
                "ignored": {},
                "white_list": {},
                "black_list": {},
                "internal": {},
                "size_limits": {"size_limit": 9},
                "rate_limit": {"rate": 1, "per": 1},
            }.items()
        ),
        pytest.param(
            classic({f"{VERSION}/use_extended_paths": False, f"{VERSION}/paths": {"black_list": ["/a"]}}),
            [f"{dotted(VERSION)}.paths.black_list[0]"],
            id="classic-plain-paths",
        ),
        pytest.param(
            classic({f"{VERSION}/use_extended_paths": False, PATHS: {"black_list": [{"path": "/a", "method": "GET"}]}}),
            [],
            id="classic-lists-off",
        ),
    ],
)
async def test_c2_an_import_says_what_is_enforced(service: Management, document: Any, enforced: list[str]) -> None:
    """Every protection that is enforced is listed by its path, and nothing that is switched off or without a value."""
    report = await told(service, document)
    assert report["enforced"] == enforced
    assert report["refused"] == []


@pytest.mark.parametrize(
    ("document", "unused"),
    [
        pytest.param(
            oas({f"{TYK}/middleware/global/cache": {**ON, "timeout": 5}}),
            f"{TYK}.middleware.global.cache",
            id="oas-cache",
        ),
        pytest.param(oas({f"{TYK}/server/ipAccesControl": ON}), f"{TYK}.server.ipAccesControl", id="oas-misspelt"),
        pytest.param(
            oas({f"{TYK}/server/authentication/securitySchemes/tykOAuth/refreshTokens": True}),
            f"{TYK}.server.authentication.securitySchemes.tykOAuth.refreshTokens",
            id="oas-misspelt-in-the-scheme",
        ),
        pytest.param(
            oas(operation(mockResponse={**ON, "code": 200})),
            f"{TYK}.middleware.operations.getThings.mockResponse",
            id="oas-mock",
        ),
        pytest.param(
            classic({"cache_options": {"enable_cache": True}}), "cache_options.enable_cache", id="classic-cache"
        ),
        pytest.param(
            classic({"oauth_meta/auth_login_redirct": "x"}), "oauth_meta.auth_login_redirct", id="classic-misspelt"
        ),
        pytest.param(classic({"notifications/sharedsecret": "x"}), "notifications.sharedsecret", id="classic-webhook"),
        pytest.param(classic({"proxy/target_urls": ["x"]}), "proxy.target_urls", id="classic-proxy"),
        pytest.param(
            classic({f"{PATHS}/blacklist": [{"path": "/a"}]}), f"{dotted(PATHS)}.blacklist", id="classic-misspelt-list"
        ),
        pytest.param(
            classic({f"{VERSION}/use_extended_paths": False, PATHS: {"white_list": [{"path": "/a"}]}}),
            f"{dotted(PATHS)}.white_list",
            id="classic-list-off",
        ),
    ],
)
async def test_c2_an_import_says_what_is_unused(service: Management, document: Any, unused: str) -> None:
    """Features that are not offered and misspelt members are listed with a reason, and are warnings."""
    report = await told(service, document)
    assert paths(report["unused"]) == [unused]
    assert any(warning.startswith(f"{unused}: ") for warning in report["warnings"])


@pytest.mark.parametrize(
    ("document", "refused"),
    [
        pytest.param(
            oas({f"{TYK}/server/clientCertificates": {**ON, "allowlist": ["x"]}}),
            f"{TYK}.server.clientCertificates",
            id="oas-mtls",
        ),
        pytest.param(
            oas(operation(validateRequest=ON)),
            f"{TYK}.middleware.operations.getThings.validateRequest",
            id="oas-validation",
        ),
        pytest.param(
            oas({f"{TYK}/middleware/global/prePlugins": [{**ON, "functionName": "f", "path": "p"}]}),
            f"{TYK}.middleware.global.prePlugins[0]",
            id="oas-plugin",
        ),
        pytest.param(classic({"use_basic_auth": True}), "use_basic_auth", id="classic-second-method"),
        pytest.param(classic({"use_mutual_tls_auth": True}), "use_mutual_tls_auth", id="classic-mtls"),
        pytest.param(
            classic({f"{PATHS}/validate_json": [{"path": "/a", "method": "POST"}]}),
            f"{dotted(PATHS)}.validate_json[0]",
            id="classic-validation",
        ),
        pytest.param(
            classic({"custom_middleware/pre": [{"name": "f", "path": "p"}]}),
            "custom_middleware.pre[0]",
            id="classic-plugin",
        ),
    ],
)
async def test_c2_an_import_says_what_is_refused(service: Management, document: Any, refused: str) -> None:
    """A protection that is not enforced refuses the import (400) with its path; accepted, it stays in the list, and GET
    shows it. What is enforced beside it is listed in both cases.
    """
    document = changed(document, f"{TYK}/info/state/internal" if TYK in document else "internal", True)
    internal = f"{TYK}.info.state.internal" if TYK in document else "internal"
    response = await service.writer("POST", "/api/apis", json=document)
    assert response.status == 400
    assert (paths(response.body["Meta"]["refused"]), response.body["Meta"]["enforced"]) == ([refused], [internal])
    report = await told(service, document, "?accept_unsupported=true")
    assert (paths(report["refused"]), report["enforced"]) == ([refused], [internal])
    shown = (await service.reader("GET", f"/api/apis/{report['api_id']}")).body
    assert shown["x-tokenwire" if TYK in document else "tokenwire"]["acceptedUnsupported"] == [refused]


async def tried(service: Management, method: str, path: str, document: dict[str, Any]) -> tuple[Response, Response]:
    """The response of a dry run, then that of the request itself; nothing has changed in between."""
    before = await counted(service)
    separator = "&" if "?" in path else "?"
    dry = await service.writer(method, f"{path}{separator}dry_run=true", json=document)
    assert await counted(service) == before
    return dry, await service.writer(method, path, json=document)


async def counted(service: Management) -> list[Any]:
    """Every stored API, and how many events there are."""
    apis = await service.deps.store.apis.all()
    return [*((api.api_id, api.version, api.listen_path) for api in apis), len(service.heard.events)]


@pytest.mark.parametrize("query", ["", "?accept_unsupported=true"])
@pytest.mark.parametrize(
    "document",
    [
        pytest.param(oas({}), id="plain"),
        pytest.param(
            classic({"enable_jwt": True, "domain": "a.test", "cache_options": {"enable_cache": True}}), id="mixed"
        ),
        pytest.param(oas({f"{TYK}/upstream/url": "nonsense"}), id="invalid"),
    ],
)
async def test_c2_a_dry_run_answers_the_same_and_writes_nothing(service: Management, document: Any, query: str) -> None:
    """Status and report are those of the import, for POST and PUT; no API and no event comes of it."""
    api_id = unique("dry")
    document = changed(document, f"{TYK}/info/id" if TYK in document else "api_id", api_id)
    place = f"{TYK}/server/listenPath/value" if TYK in document else "proxy/listen_path"
    document = changed(document, place, f"/{api_id}/")
    dry, real = await tried(service, "POST", f"/api/apis{query}", document)
    assert (dry.status, dry.body["Meta"]) == (real.status, real.body["Meta"])
    assert "dry run" in dry.message or dry.status == 400
    if real.status == 200:
        dry, real = await tried(service, "PUT", f"/api/apis/{api_id}{query}", document)
        assert (dry.status, dry.body["Meta"]) == (real.status, real.body["Meta"]) == (200, real.body["Meta"])


async def test_c2_a_dry_run_notices_what_is_taken(service: Management) -> None:
    """An id or listen path of another API is 409 in a dry run, too."""
    one, two = oas({}), oas({})
    assert (await service.writer("POST", "/api/apis", json=one)).status == 200
    path = f"{TYK}/server/listenPath/value"
    same_path = changed(two, path, one[TYK]["server"]["listenPath"]["value"])
    same_id = changed(two, f"{TYK}/info/id", one[TYK]["info"]["id"])
    for document in (same_path, same_id):
        dry, real = await tried(service, "POST", "/api/apis/oas", document)
        assert (dry.status, dry.message) == (real.status, real.message) == (409, real.message)
    assert (await service.writer("POST", "/api/apis/oas", json=two)).status == 200
    dry, real = await tried(service, "PUT", f"/api/apis/oas/{two[TYK]['info']['id']}", same_path)
    assert (dry.status, real.status) == (409, 409)
    refused = await service.writer("POST", "/api/apis?dry_run=perhaps", json=oas({}))
    assert (refused.status, refused.message) == (400, "dry_run: must be true or false")


@pytest.mark.parametrize(
    ("document", "query"),
    [
        pytest.param(oas({}), "", id="nothing-to-say"),
        pytest.param(oas({f"{TYK}/server/eventHandlers": [ON], f"{TYK}/info/state/internal": True}), "", id="unused"),
        pytest.param(
            classic({"enable_jwt": True, "domain": "a.test", "cache_options": {"enable_cache": True}}),
            "?accept_unsupported=true",
            id="accepted",
        ),
    ],
)
async def test_c2_get_shows_what_is_unused_and_what_is_not_enforced(
    service: Management, document: Any, query: str
) -> None:
    """The report of a stored definition is that of its import; a reader may see it."""
    response = await service.writer("POST", f"/api/apis{query}", json=document)
    meta = response.body["Meta"]
    report = (
        meta
        if isinstance(meta, dict)
        else {"api_id": meta, "warnings": [], "enforced": [], "unused": [], "refused": []}
    )
    shown = await service.reader("GET", f"/api/apis/{report['api_id']}/report")
    assert (shown.status, shown.body) == (200, report)
    assert (await service.reader("GET", "/api/apis/nothing/report")).status == 404


async def test_c2_a_report_says_that_a_definition_would_be_refused_today(service: Management) -> None:
    """An API of an earlier version, which read less of its definition, has a report, too."""
    response = await service.writer("POST", "/api/apis", json=oas({}))
    api = await service.deps.store.apis.get(response.body["ID"])
    assert api is not None
    broken = json.dumps(changed(json.loads(api.definition.get_secret_value()), f"{TYK}/upstream/url", "nonsense"))
    apis = service.deps.store.apis
    await apis.replace(api, api.model_copy(update={"definition": SecretStr(broken)}), service.deps.event_context("t"))
    shown = await service.reader("GET", f"/api/apis/{api.api_id}/report")
    assert shown.status == 200
    assert ["would be refused today" in said for said in shown.body["warnings"]] == [True]
