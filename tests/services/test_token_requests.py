"""POST /<listen-path>/oauth/token: success and error responses, accepted request forms, invalid input."""

import gzip
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from contracts.grants import RevocationRequest, TokenRequest
from contracts.introspection import IntrospectionRequest
from tests.builders import CALLBACK, Response, api_document
from tests.services.system import (
    PASSWORD,
    Party,
    System,
    basic,
    document,
    open_system,
    raw,
    refused,
    tokens_of,
)

FORM = "application/x-www-form-urlencoded"
CREDENTIALS = b"grant_type=client_credentials"


# Success


async def by_code(party: Party) -> Response:
    return await party.exchange(await party.code())


async def by_credentials(party: Party) -> Response:
    return await party.token({"grant_type": "client_credentials"})


async def by_password(party: Party) -> Response:
    return await party.password((await party.system.user()).username)


async def by_refresh(party: Party) -> Response:
    return await party.refresh((await party.tokens()).refresh)


WITH_REFRESH = {"access_token", "expires_in", "token_type", "refresh_token"}


@pytest.mark.parametrize(
    ("ask", "keys"),
    [
        pytest.param(by_code, WITH_REFRESH, id="row-51-authorization-code"),
        pytest.param(by_credentials, WITH_REFRESH - {"refresh_token"}, id="row-18-client-credentials"),
        pytest.param(by_password, WITH_REFRESH, id="password"),
        pytest.param(by_refresh, WITH_REFRESH, id="row-59-refresh-token"),
    ],
)
async def test_the_response_is_that_of_rfc_6749(
    system: System, ask: Callable[[Party], Awaitable[Response]], keys: set[str]
) -> None:
    """Exactly the documented keys, an integer lifetime, `bearer`, uncacheable (§5.1)."""
    party = await system.party()
    response = await ask(party)
    assert response.status == 200
    assert set(response.body) == keys
    assert (response.body["expires_in"], response.body["token_type"]) == (3600, "bearer")
    assert type(response.body["expires_in"]) is int
    assert response.body["access_token"].startswith("tw_at_")
    assert response.body.get("refresh_token", "tw_rt_").startswith("tw_rt_")
    assert response.headers["Content-Type"] == "application/json"
    assert (response.headers["Cache-Control"], response.headers["Pragma"]) == ("no-store", "no-cache")
    assert (await party.verify(response.body["access_token"])).status == 200


@pytest.mark.parametrize("ask", [by_code, by_password])
async def test_an_api_without_refresh_tokens_issues_none(
    system: System, ask: Callable[[Party], Awaitable[Response]]
) -> None:
    """With `refreshToken: false` there is no refresh token."""
    party = await system.party(document(**{SCHEME_REFRESH: False}))
    assert set((await ask(party)).body) == WITH_REFRESH - {"refresh_token"}
    assert refused(await party.refresh("tw_rt_x"), "unsupported_grant_type")


async def test_e6_a_grant_type_in_the_query_is_told_to_be_in_the_body(system: System) -> None:
    """A first mistake with curl; RFC 6749 §3.2 has the parameters in the body."""
    party = await system.party()
    response = await system.call("POST", party.at("oauth/token") + "?grant_type=client_credentials", data={})
    assert response.body["error_description"] == "grant_type is missing; send it in the body, as a form"


SCHEME_REFRESH = "x-tyk-api-gateway__server__authentication__securitySchemes__tykOAuth__refreshToken"


async def test_lifetimes_are_those_of_the_api(system: System) -> None:
    """`expires_in` is the definition's lifetime."""
    party = await system.party(document(accessTokenLifetime=77))
    assert tokens_of(await by_credentials(party)).body["expires_in"] == 77
    assert (await party.tokens()).body["expires_in"] == 77


# Request forms


@pytest.mark.parametrize("path", ["oauth/token", "oauth/token/"])
@pytest.mark.parametrize("by", ["listen path", "api id"])
async def test_every_spelling_of_the_path_is_routed(system: System, path: str, by: str) -> None:
    """Listen path and API id, with and without a slash."""
    party = await system.party()
    place = party.api.listen_path if by == "listen path" else f"/{party.api.api_id}/"
    response = await system.call("POST", place + path, data=CREDENTIALS, headers={"Content-Type": FORM, **party.basic})
    assert response.status == 200


@pytest.mark.parametrize("name", ["client_secret", "secret"])
@pytest.mark.parametrize("header", [True, False], ids=["with-basic", "without-basic"])
async def test_the_secret_may_be_in_the_body(system: System, name: str, header: bool) -> None:
    """Credentials may be in the body as `client_secret` or `secret`, with or without Basic."""
    party = await system.party()
    form = {"grant_type": "client_credentials", "client_id": party.id, name: party.secret}
    response = await system.call("POST", party.at("oauth/token"), data=form, headers=party.basic if header else {})
    assert response.status == 200


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_a_json_object_is_as_good_as_a_form(system: System, content_type: str) -> None:
    """A flat JSON object is accepted; null means omitted."""
    party = await system.party()
    body = {
        "grant_type": "authorization_code",
        "code": await party.code(),
        "redirect_uri": CALLBACK,
        "code_verifier": None,
    }
    response = await system.call(
        "POST", party.at("oauth/token"), json=body, headers={"Content-Type": content_type, **party.basic}
    )
    assert set(tokens_of(response).body) == WITH_REFRESH


@pytest.mark.parametrize("content_type", [None, FORM, f"{FORM}; charset=UTF-8", "Application/X-WWW-Form-URLencoded"])
async def test_a_form_may_have_content_type_parameters(system: System, content_type: str | None) -> None:
    """A form is accepted with charset, any letter case, or without Content-Type."""
    party = await system.party()
    header = b"" if content_type is None else f"Content-Type: {content_type}\r\n".encode()
    assert await status_of(system, party, CREDENTIALS, header) == 200


async def test_unknown_parameters_are_ignored(system: System) -> None:
    """RFC 6749 §3.2, row 7: unknown parameters are ignored, in the query too."""
    party = await system.party()
    response = await system.call(
        "POST",
        party.at("oauth/token?utm_source=mail&grant_type=password"),
        data={"grant_type": "client_credentials", "resource": "x", "$where": "1", "": "nameless"},
        headers=party.basic,
    )
    assert response.status == 200


@pytest.mark.parametrize("name", ["scope", "client_id", "client_secret", "redirect_uri", "code_verifier"])
async def test_an_empty_parameter_is_an_omitted_one(system: System, name: str) -> None:
    """RFC 6749 §3.2: "Parameters sent without a value MUST be treated as if they were omitted"."""
    party = await system.party()
    assert (await party.token({"grant_type": "client_credentials", name: ""})).status == 200


async def test_a_compressed_form_is_read(system: System) -> None:
    """A compressed form is decompressed before its size is checked."""
    party = await system.party()
    body = gzip.compress(CREDENTIALS)
    assert await status_of(system, party, body, f"Content-Type: {FORM}\r\nContent-Encoding: gzip\r\n".encode()) == 200


# Errors


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_only_post_is_answered(system: System, method: str) -> None:
    """Row 1: other methods get 405 with POST, and no token."""
    party = await system.party()
    response = await system.call(method, party.at("oauth/token?grant_type=client_credentials"), headers=party.basic)
    assert response.status == 405
    assert response.headers["Allow"] == "POST"
    assert b"tw_at_" not in response.raw


@pytest.mark.parametrize(
    ("form", "error"),
    [
        pytest.param({}, "invalid_request", id="row-03-no-grant-type"),
        pytest.param({"grant_type": ""}, "invalid_request", id="row-03-empty-grant-type"),
        pytest.param({"grant_type": "foo"}, "unsupported_grant_type", id="row-04-unknown-grant-type"),
        pytest.param({"grant_type": "implicit"}, "unsupported_grant_type", id="implicit"),
        pytest.param({"grant_type": "CLIENT_CREDENTIALS"}, "unsupported_grant_type", id="other-case"),
        pytest.param({"grant_type": "authorization_code"}, "invalid_request", id="no-code"),
        pytest.param({"grant_type": "refresh_token"}, "invalid_request", id="no-refresh-token"),
        pytest.param({"grant_type": "password", "username": "u"}, "invalid_request", id="no-password"),
        pytest.param({"grant_type": "password", "password": PASSWORD}, "invalid_request", id="no-username"),
        pytest.param({"grant_type": "authorization_code", "code[$ne]": "x"}, "invalid_request", id="row-24-code-ne"),
        pytest.param({"grant_type": "authorization_code", "code": "[$ne]"}, "invalid_grant", id="row-24-operator"),
        pytest.param({"grant_type": "client_credentials", "scope": 'a"b'}, "invalid_scope", id="row-21-quote"),
        pytest.param({"grant_type": "client_credentials", "scope": "a\\b"}, "invalid_scope", id="row-21-backslash"),
        pytest.param({"grant_type": "client_credentials", "scope": "a\tb"}, "invalid_scope", id="row-21-tab"),
        pytest.param({"grant_type": "client_credentials", "scope": "ä"}, "invalid_scope", id="row-21-non-ascii"),
        pytest.param({"grant_type": "client_credentials", "scope": "a  b"}, "invalid_scope", id="row-21-two-spaces"),
        pytest.param({"grant_type": "client_credentials", "scope": "x" * 2049}, "invalid_scope", id="huge-scope"),
        pytest.param({"grant_type": "authorization_code", "code": "tw_ac_" + "A" * 76}, "invalid_grant", id="forged"),
        pytest.param({"grant_type": "refresh_token", "refresh_token": "é"}, "invalid_grant", id="non-ascii-token"),
        pytest.param(
            {"grant_type": "refresh_token", "refresh_token": "tw_rt_" + "x" * 60_000}, "invalid_grant", id="row-70-64k"
        ),
    ],
)
async def test_each_mistake_has_its_error(system: System, form: dict[str, str], error: str) -> None:
    """RFC 6749 §5.2's errors with 400."""
    assert refused(await (await system.party()).token(form), error)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param(b"grant_type=client_credentials&scope=a&scope=b", FORM, id="row-06-repeated"),
        pytest.param(b"grant_type=client_credentials&grant_type=client_credentials", FORM, id="row-06-the-same-twice"),
        pytest.param(b"grant_type=client_credentials&scope=&scope=a", FORM, id="row-06-once-empty"),
        pytest.param(b"grant_type=client_credentials&scope=a%00b", FORM, id="nul-in-value"),
        pytest.param(b"grant_type=client_credentials&a%00b=c", FORM, id="nul-in-name"),
        pytest.param(b"grant_type=client_credentials&scope=%ff", FORM, id="encoded-non-utf-8"),
        pytest.param(b"grant_type=client_credentials&scope=\xff", FORM, id="non-utf-8"),
        pytest.param(b"&".join(b"p%d=1" % number for number in range(65)), FORM, id="65-parameters"),
        pytest.param(CREDENTIALS, "text/plain", id="text-plain"),
        pytest.param(CREDENTIALS, "multipart/form-data; boundary=x", id="multipart"),
        pytest.param(CREDENTIALS, "", id="empty-content-type"),
        pytest.param(b"", FORM, id="empty"),
        pytest.param(b"", "application/json", id="empty-json"),
        pytest.param(b"{", "application/json", id="half-json"),
        pytest.param(b"[]", "application/json", id="json-array"),
        pytest.param(b'"client_credentials"', "application/json", id="json-string"),
        pytest.param(b'{"grant_type": 1}', "application/json", id="json-number"),
        pytest.param(b'{"grant_type": ["client_credentials"]}', "application/json", id="json-list-value"),
        pytest.param(b'{"grant_type": {"$ne": ""}}', "application/json", id="row-24-json-operator"),
        pytest.param(b'{"grant_type":"client_credentials","grant_type":"x"}', "application/json", id="json-repeated"),
        pytest.param(b'{"grant_type": "client_credentials", "scope": "\\ud800"}', "application/json", id="surrogate"),
        pytest.param(b'{"grant_type": "client_credentials", "\\udfff": 1}', "application/json", id="surrogate-name"),
        pytest.param(b'{"grant_type": "client_credentials", "a": "\\u0000"}', "application/json", id="json-nul"),
        pytest.param(b'{"grant_type": "\xff"}', "application/json", id="json-non-utf-8"),
        pytest.param(b'{"a":' * 5000 + b"1" + b"}" * 5000, "application/json", id="deep-json"),
        pytest.param(b'{"a": NaN}', "application/json", id="json-nan"),
        pytest.param(b'{"a": ' + b"1" * 5000 + b"}", "application/json", id="json-huge-number"),
    ],
)
async def test_a_malformed_body_is_an_invalid_request(system: System, body: bytes, kind: str) -> None:
    """A malformed body gets 400 `invalid_request`, never a 5xx."""
    party = await system.party()
    headers = {"Content-Type": kind, **party.basic}
    assert refused(await system.call("POST", party.at("oauth/token"), data=body, headers=headers), "invalid_request")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_what_its_encoding_says_is_refused(system: System, encoding: str) -> None:
    """A body that does not match its Content-Encoding is a client error."""
    header = f"Content-Type: {FORM}\r\nContent-Encoding: {encoding}\r\n".encode()
    assert await status_of(system, await system.party(), b"garbage", header) == 400


@pytest.mark.parametrize("length", [65_536, 65_537])
@pytest.mark.parametrize("chunked", [False, True], ids=["with-length", "chunked"])
async def test_a_body_over_64_kib_is_413(system: System, length: int, chunked: bool) -> None:
    """64 KiB are accepted, a byte more gets 413, announced or not."""
    party = await system.party()
    body = CREDENTIALS + b"&x=" + b"y" * (length - len(CREDENTIALS) - 3)
    header = f"Content-Type: {FORM}\r\n".encode()
    assert await status_of(system, party, body, header, chunked) == (200 if length == 65_536 else 413)


async def test_a_compressed_body_counts_by_what_is_in_it(system: System) -> None:
    """The decompressed size counts."""
    body = gzip.compress(CREDENTIALS + b"&x=" + b"y" * 10_000_000)
    header = f"Content-Type: {FORM}\r\nContent-Encoding: gzip\r\n".encode()
    assert await status_of(system, await system.party(), body, header) == 413


@pytest.mark.parametrize("name", ["client_secret", "secret", "password", "code", "refresh_token", "code_verifier"])
async def test_credentials_in_the_query_are_refused(system: System, name: str) -> None:
    """RFC 6749 §2.3.1: credentials "MUST NOT be included in the request URI", even with valid ones (row 13)."""
    party = await system.party()
    path = party.at(f"oauth/token?client_id={party.id}&{name}={party.secret}")
    response = await system.call("POST", path, data={"grant_type": "client_credentials"}, headers=party.basic)
    assert refused(response, "invalid_request")


@pytest.mark.parametrize("place", ["/nowhere/", "/%00/", "/%ff/", "/%2e%2e/", "/../", "//", "/" + "x" * 2000 + "/"])
async def test_a_path_of_no_api_is_404(system: System, place: str) -> None:
    """An unknown path gets 404."""
    request = f"POST {place}oauth/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    response = await raw(system.call, request.encode())
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b'"error":"invalid_request"' in response


async def test_an_api_that_is_not_active_issues_nothing(system: System) -> None:
    """An inactive API gets the same response as an unknown one."""
    party = await system.party(document(**{"x-tyk-api-gateway__info__state__active": False}))
    response = await party.token({"grant_type": "client_credentials"})
    assert (response.status, response.body["error"]) == (404, "invalid_request")


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        pytest.param("orders-oas.json", "flows.password of the API's security scheme", id="oas"),
        pytest.param("orders-classic.json", "oauth_meta.allowed_access_types with password", id="classic"),
    ],
)
async def test_e3_the_refusal_of_a_grant_names_the_field_that_enables_it(
    system: System, definition: str, field: str
) -> None:
    """In the words of the format that the API was imported in; also at the authorization endpoint."""
    only = (
        {"components__securitySchemes__tykOAuth__flows": {"clientCredentials": {"tokenUrl": "/t", "scopes": {}}}}
        if definition == "orders-oas.json"
        else {"oauth_meta__allowed_access_types": ["client_credentials"]}
    )
    party = await system.party(api_document(definition, **only))
    response = await party.token({"grant_type": "password", "username": "a", "password": "b"})
    assert refused(response, "unsupported_grant_type")
    expected = f"this API does not offer password; its definition enables it by {field}"
    assert response.body["error_description"] == expected
    unknown = await party.token({"grant_type": "implicit"})
    assert (
        "there are authorization_code, client_credentials, password, refresh_token" in unknown.body["error_description"]
    )


async def test_a_grant_that_the_api_does_not_offer_is_unsupported(system: System) -> None:
    """Rows 5 and 86: only the definition's grant types are available."""
    flows = {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {}}}
    party = await system.party(document(components__securitySchemes__tykOAuth__flows=flows))
    user = await system.user()
    assert refused(await party.password(user.username), "unsupported_grant_type")
    assert refused(await party.exchange("tw_ac_x"), "unsupported_grant_type")
    assert refused(await party.refresh("tw_rt_x"), "unsupported_grant_type")
    assert (await by_credentials(party)).status == 200


# Two errors: which one is reported


@pytest.mark.parametrize(
    ("path", "body", "header", "expected"),
    [
        pytest.param("/no", b"a=1&a=2", "wrong", (404, "invalid_request"), id="unknown-api-before-malformed-body"),
        pytest.param("", b"a=1&a=2", "wrong", (400, "invalid_request"), id="malformed-body-before-wrong-secret"),
        pytest.param("", b"", "wrong", (400, "invalid_request"), id="missing-grant-type-before-wrong-secret"),
        pytest.param("", b"grant_type=foo", "wrong", (401, "invalid_client"), id="wrong-secret-before-unknown-grant"),
        pytest.param(
            "", b"grant_type=authorization_code", "wrong", (401, "invalid_client"), id="wrong-secret-before-no-code"
        ),
        pytest.param(
            "", b"grant_type=foo&client_id=other", "right", (400, "invalid_request"), id="disagreeing-before-grant"
        ),
        pytest.param(
            "", b"grant_type=foo&scope=%22", "right", (400, "unsupported_grant_type"), id="unknown-grant-before-scope"
        ),
        pytest.param(
            "",
            b"grant_type=refresh_token&scope=%22&refresh_token=x",
            "right",
            (400, "invalid_scope"),
            id="malformed-scope-before-unknown-token",
        ),
        pytest.param(
            "",
            b"grant_type=password&scope=%22&username=u&password=p",
            "right",
            (400, "invalid_scope"),
            id="malformed-scope-before-unknown-user",
        ),
        pytest.param("", b"x" * 70_000, "wrong", (413, "invalid_request"), id="too-large-before-wrong-secret"),
    ],
)
async def test_of_two_errors_one_is_reported(
    system: System, path: str, body: bytes, header: str, expected: tuple[int, str]
) -> None:
    """Order: API, body, `grant_type`, client, grant, its parameters."""
    party = await system.party()
    credentials = party.basic if header == "right" else {"Authorization": basic(party.id, "wrong")}
    response = await system.call(
        "POST", path + party.at("oauth/token"), data=body, headers={"Content-Type": FORM, **credentials}
    )
    assert (response.status, response.body["error"]) == expected


# Information leaks


@pytest.mark.parametrize(
    "form",
    [
        {"grant_type": "<canary>"},
        {"grant_type": "authorization_code", "code": "<canary>"},
        {"grant_type": "refresh_token", "refresh_token": "<canary>"},
        {"grant_type": "password", "username": "<canary>", "password": "<canary>"},
        {"grant_type": "client_credentials", "scope": "<canary>\\"},
        {"grant_type": "client_credentials", "client_id": "<canary>"},
        {"grant_type": "client_credentials", "client_secret": "<canary>"},
    ],
)
async def test_an_error_never_repeats_what_was_sent(system: System, form: dict[str, str]) -> None:
    """Row 23: descriptions contain neither input nor internals."""
    response = await (await system.party()).token(form)
    assert response.status in {400, 401}
    assert b"canary" not in response.raw
    assert all(word not in response.raw.lower() for word in (b"mongo", b"traceback", b"pydantic", b"python"))


# Tyk's statuses


@pytest.mark.parametrize(
    ("form", "secret", "error"),
    [
        pytest.param({"grant_type": "foo"}, "", "unsupported_grant_type", id="unsupported"),
        pytest.param({"grant_type": "client_credentials"}, "wrong", "invalid_client", id="wrong-secret"),
        pytest.param({"grant_type": "authorization_code", "code": "x"}, "", "invalid_grant", id="bad-code"),
        pytest.param({}, "", "invalid_request", id="malformed"),
    ],
)
async def test_oauth_error_status_gives_every_oauth_error_tyk_s_status(
    tyk_like: System, form: dict[str, str], secret: str, error: str
) -> None:
    """With `oauth_error_status=403` errors have that status and unchanged bodies."""
    party = await tyk_like.party()
    header = {"Authorization": basic(party.id, secret or party.secret)}
    response = await tyk_like.call("POST", party.at("oauth/token"), data=form, headers=header)
    assert (response.status, response.body["error"]) == (403, error)


async def test_oauth_error_status_leaves_successes_and_the_rest_alone(tyk_like: System) -> None:
    """Successes and non-OAuth errors keep their statuses."""
    party = await tyk_like.party()
    assert (await by_credentials(party)).status == 200
    assert (await tyk_like.call("GET", party.at("oauth/token"))).status == 405
    large = {"Content-Type": FORM, **party.basic}
    assert (await tyk_like.call("POST", party.at("oauth/token"), data=b"x" * 70_000, headers=large)).status == 413


@pytest.fixture(scope="module", name="tyk_like")
async def _tyk_like(mongodb_url: str) -> Any:
    async with open_system(mongodb_url, oauth_error_status=403) as system:
        yield system


async def status_of(system: System, party: Party, body: bytes, header: bytes, chunked: bool = False) -> int:
    """The status for these exact bytes from the authenticated client."""
    if chunked:
        pieces = [body[start : start + 9000] for start in range(0, len(body), 9000)]
        framing = b"Transfer-Encoding: chunked\r\n"
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        framing = b"Content-Length: %d\r\n" % len(body)
    start = f"POST {party.at('oauth/token')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    credentials = f"Authorization: {party.basic['Authorization']}\r\n"
    response = await raw(system.call, start.encode() + credentials.encode() + framing + header + b"\r\n" + body)
    return int(response.split(b" ", 2)[1])


# Repeated parameters

RESOURCES = "resource=https%3A%2F%2Fa.example.test&resource=https%3A%2F%2Fb.example.test&x=1&x="


@pytest.mark.parametrize("kind", [FORM, "application/json"])
async def test_d11_unknown_parameters_may_be_repeated(system: System, kind: str) -> None:
    """RFC 6749 §3.2, RFC 8707 §2: unknown parameters such as `resource` may repeat at token, revocation and
    introspection.
    """
    party = await system.party()
    asked = [("oauth/token", {"grant_type": "client_credentials"}), ("oauth/revoke", {"token": "unknown"})]
    for path, form in [*((party.at(path), form) for path, form in asked), ("/oauth/introspect", {"token": "x"})]:
        if kind == FORM:
            body = f"{urlencode(form)}&{RESOURCES}"
        else:
            members = ",".join(f'"{name}":"{value}"' for name, value in form.items())
            body = f'{{{members},"resource":"a","resource":"b","audience":["a","b"],"nested":{{"a":1}}}}'
        response = await system.call("POST", path, data=body, headers={"Content-Type": kind, **party.basic})
        assert response.status == 200, (path, response.body)


@pytest.mark.parametrize(
    ("path", "known"),
    [
        *[("oauth/token", name) for name in TokenRequest.model_fields],
        *[("oauth/revoke", name) for name in RevocationRequest.model_fields],
        *[("/oauth/introspect", name) for name in IntrospectionRequest.model_fields],
    ],
)
async def test_d11_a_known_parameter_may_not_be_repeated(system: System, path: str, known: str) -> None:
    """A repeated known parameter is refused, even with equal or empty values."""
    party = await system.party()
    path = path if path.startswith("/") else party.at(path)
    for pair in (f"{known}=a&{known}=a", f"{known}=&{known}=b"):
        response = await system.call("POST", path, data=f"{pair}&x=1", headers={"Content-Type": FORM, **party.basic})
        assert refused(response, "invalid_request")
    body = f'{{"{known}":"a","{known}":"a"}}'
    headers = {"Content-Type": "application/json", **party.basic}
    assert refused(await system.call("POST", path, data=body, headers=headers), "invalid_request")
