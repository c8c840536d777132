"""The token endpoint (RFC 6749 §2.3, §3.2, §5): rows 1 to 24. Row 25 is in test_throttling.py."""

import base64
import json
import re
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK
from tests.builders import Response
from tests.security.apps import Api, App, User, basic, new_api, refused, unencoded_basic

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
ASKED = {"grant_type": "client_credentials"}


# Requests


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_001_only_post_is_answered(web: App, method: str) -> None:
    """Methods other than POST get 405 with `Allow: POST` and no token, even with a valid query (§3.2)."""
    response = await web.edge(method, f"{web.path}/oauth/token?{urlencode(ASKED)}", headers=web.basic)
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert b"access_token" not in response.raw


async def test_002_a_json_object_is_taken_for_the_form_it_stands_for(web: App) -> None:
    """A flat JSON object is accepted like the form with the same parameters. Tokenwire's own rule."""
    response = await web.post("token", json.dumps(ASKED), headers=web.basic | JSON)
    assert response.status == 200


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param('["grant_type"]', "application/json", id="no-object"),
        pytest.param('{"grant_type": {"a": "b"}}', "application/json", id="not-flat"),
        pytest.param('{"grant_type": "client_credentials"', "application/json", id="cut-off"),
        pytest.param("grant_type=client_credentials", "text/plain", id="text"),
        pytest.param("<grant_type>client_credentials</grant_type>", "application/xml", id="xml"),
        pytest.param("grant_type=client_credentials", "multipart/form-data; boundary=x", id="multipart"),
    ],
)
async def test_002_no_other_body_is_read(web: App, body: str, content_type: str) -> None:
    """Any other body is refused."""
    response = await web.post("token", body, headers=web.basic | {"Content-Type": content_type})
    assert refused(response, "invalid_request")


@pytest.mark.parametrize("form", [{}, {"grant_type": ""}, {"scope": "a"}])
async def test_003_a_missing_grant_type_is_refused(web: App, form: dict[str, str]) -> None:
    """A missing or empty grant_type is refused (§3.2)."""
    assert refused(await web.token(**form), "invalid_request")


@pytest.mark.parametrize("grant_type", ["foo", "implicit", "CLIENT_CREDENTIALS", "urn:ietf:params:oauth:grant-type:x"])
async def test_004_an_unknown_grant_type_is_unsupported(web: App, grant_type: str) -> None:
    """An unknown grant type is unsupported, and so is a known one in other letter case."""
    assert refused(await web.token(grant_type=grant_type), "unsupported_grant_type")


async def test_005_a_grant_that_is_not_the_client_s_is_refused(cluster: Stack, spa: App, alice: User) -> None:
    """A grant type that the API does not offer is refused; public clients may use only those with a code. Product's
    rule.
    """
    for response in (await spa.credentials(), await spa.password(alice)):
        assert refused(response, "unauthorized_client")
    flows = {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {}}}
    machine = await (await new_api(cluster, components__securitySchemes__tykOAuth__flows=flows)).app()
    assert (await machine.credentials()).status == 200
    for form in (
        {"grant_type": "password", "username": alice.username, "password": alice.password},
        {"grant_type": "authorization_code", "code": "x"},
        {"grant_type": "refresh_token", "refresh_token": "x"},
    ):
        assert refused(await machine.token(**form), "unsupported_grant_type")


KNOWN = {
    "token": ("grant_type", "scope", "code", "client_id", "client_secret", "redirect_uri", "code_verifier"),
    "revoke": ("token", "token_type_hint", "client_id", "client_secret"),
    "revoke_all": ("client_id", "client_secret"),
}
"""Known parameters of each endpoint."""


@pytest.mark.parametrize(
    ("endpoint", "name"), [(endpoint, name) for endpoint, names in KNOWN.items() for name in names]
)
async def test_006_a_known_parameter_sent_twice_is_refused(web: App, endpoint: str, name: str) -> None:
    """A repeated known parameter is refused, even with equal or empty values (§3.2)."""
    sent = {**ASKED, "token": "x", "client_id": web.client_id}
    for second in (sent.get(name, "x"), ""):
        pairs = [*({name: "x"} | sent).items(), (name, second)]
        assert refused(await web.post(endpoint, urlencode(pairs), headers=web.basic | FORM), "invalid_request")
    once, again = json.dumps(sent)[:-1], json.dumps({name: "x"})[1:]
    if name in sent:
        assert refused(await web.post(endpoint, f"{once}, {again}", headers=web.basic | JSON), "invalid_request")


@pytest.mark.parametrize("endpoint", KNOWN)
async def test_d11_an_unknown_parameter_may_repeat(web: App, endpoint: str) -> None:
    """An unknown parameter may repeat, as `resource` does (RFC 8707 §2); it is ignored."""
    pairs = [*({**ASKED, "token": "x"}).items(), ("resource", "https://a.example"), ("resource", "https://b.example")]
    assert (await web.post(endpoint, urlencode(pairs), headers=web.basic | FORM)).status == 200


async def test_007_an_unknown_parameter_is_ignored(web: App) -> None:
    """§3.2: "The authorization server MUST ignore unrecognized request parameters"."""
    assert (await web.credentials(resource="https://x.example", audience="y", nonce="z")).status == 200


# Client authentication


async def test_008_an_unknown_client_is_refused_like_a_wrong_secret(web: App) -> None:
    """An unknown client gets 401 with a challenge, byte for byte as for a wrong secret. Timing is tested in
    test_timing.py.
    """
    unknown = await web.post("token", ASKED, headers={"Authorization": basic("nobody", web.secret)})
    assert refused(unknown, "invalid_client", 401)
    wrong = await web.post("token", ASKED, headers={"Authorization": basic(web.client_id, "nothing-but-wrong")})
    assert unknown.raw == wrong.raw
    assert headers_of(unknown) == headers_of(wrong)


def headers_of(response: Response) -> dict[str, str]:
    """All headers except date and request id."""
    lowered = {name.lower(): value for name, value in response.headers.items()}
    return {name: value for name, value in lowered.items() if name not in {"date", "x-request-id"}}


async def test_009_a_wrong_secret_is_refused(web: App, other: App) -> None:
    """A wrong secret, including another client's, gets 401 with a challenge."""
    for secret in ("nothing-but-wrong", other.secret, web.secret[:-1], f"{web.secret}x", ""):
        response = await web.post("token", ASKED, headers={"Authorization": basic(web.client_id, secret)})
        assert refused(response, "invalid_client", 401)


@pytest.mark.parametrize("name", ["client_secret", "secret"])
async def test_010_a_wrong_secret_in_the_body_is_refused(web: App, name: str) -> None:
    """A wrong secret in the body gets 401 with a challenge."""
    form = {**ASKED, "client_id": web.client_id, name: "nothing-but-wrong"}
    assert refused(await web.post("token", form), "invalid_client", 401)


async def test_011_credentials_in_header_and_body_must_agree(web: App, other: App) -> None:
    """Credentials in both header and body must agree; Tyk's documented examples send both. Tokenwire's own rule."""
    agreeing = {**ASKED, "client_id": web.client_id, "client_secret": web.secret}
    assert (await web.post("token", agreeing, headers=web.basic)).status == 200
    for wrong in ({"client_secret": other.secret}, {"secret": "nothing-but-wrong"}):
        assert refused(await web.post("token", agreeing | wrong, headers=web.basic), "invalid_request")
    assert refused(await web.post("token", agreeing, headers=other.basic), "invalid_request")


async def test_012_a_client_id_in_the_body_must_be_the_one_in_the_header(web: App, other: App) -> None:
    """A client_id in the body must equal the one in the header. Tokenwire's own rule."""
    assert (await web.post("token", ASKED | {"client_id": web.client_id}, headers=web.basic)).status == 200
    for client_id in (other.client_id, "nobody", web.client_id.upper()):
        form = {**ASKED, "client_id": client_id}
        assert refused(await web.post("token", form, headers=web.basic), "invalid_request")


@pytest.mark.parametrize("endpoint", ["token", "revoke", "revoke_all"])
async def test_013_credentials_in_the_url_are_refused(web: App, endpoint: str) -> None:
    """Credentials in the URL are refused (§2.3.1: "MUST NOT be included in the request URI"), even with valid ones in
    the body.
    """
    query = urlencode({"client_id": web.client_id, "client_secret": web.secret})
    for headers in ({}, web.basic):
        response = await web.post(f"{endpoint}?{query}", ASKED | {"token": "x"}, headers=headers)
        assert refused(response, "invalid_request")


async def test_014_a_secret_of_any_characters_is_form_encoded_first(api: Api) -> None:
    """A secret with colon, percent, plus, space or non-ASCII characters works form-encoded (appendix B) or not."""
    odd = await api.app(secret="a:b%c+d e%20ü€\U0001f511 and so on")
    assert (await odd.credentials()).status == 200
    plain = {"Authorization": unencoded_basic(odd.client_id, odd.secret)}
    assert (await odd.post("token", ASKED, headers=plain)).status == 200
    posted = {**ASKED, "client_id": odd.client_id, "client_secret": odd.secret}
    assert (await odd.post("token", posted)).status == 200


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param(base64.b64encode(b"no colon").decode(), id="no-colon"),
        pytest.param("%%%", id="no-base64"),
        pytest.param(base64.b64encode(b"a:b\0c").decode(), id="nul"),
        pytest.param(base64.b64encode(b"a%00b:c").decode(), id="encoded-nul"),
        pytest.param(base64.b64encode(b"\xff\xfe:\xff").decode(), id="no-utf-8"),
        pytest.param(base64.b64encode(b"%ff:%fe").decode(), id="encoded-no-utf-8"),
        pytest.param(base64.b64encode(b":secret").decode(), id="no-client"),
        pytest.param("", id="nothing"),
        pytest.param("A" * 6000, id="long"),
    ],
)
async def test_015_malformed_credentials_are_refused(web: App, credentials: str) -> None:
    """Malformed credentials never cause a 5xx."""
    response = await web.post("token", ASKED, headers={"Authorization": f"Basic {credentials}"})
    assert refused(response, "invalid_client", 401)


@pytest.mark.parametrize("size", [10_000, 30_000, 60_000])
async def test_015_credentials_of_any_size_are_refused(cluster: Stack, web: App, size: int) -> None:
    """Credentials of any size are refused by the edge or the service; oversized ones are cut off while being sent."""
    headers = {"Authorization": f"Basic {'A' * size}"}
    for place in (web, *web.over(cluster, "token", 2)):
        assert (await place.post("token", ASKED, headers=headers)).status in {400, 401, 431}
    assert (await web.credentials()).status == 200


async def test_016_a_client_with_a_secret_must_prove_it(web: App) -> None:
    """A confidential client's id alone is refused (§3.2.1)."""
    for grant in ({**ASKED}, {"grant_type": "authorization_code", "code": await web.code()}):
        form = {**grant, "client_id": web.client_id, "redirect_uri": CALLBACK}
        assert refused(await web.post("token", form), "invalid_client", 401)


async def test_017_a_client_without_a_secret_must_not_send_one(spa: App) -> None:
    """A public client that sends a secret is refused."""
    code = await spa.code()
    for response in (
        await spa.exchange(code, client_secret="nothing-but-wrong"),
        await spa.post("token", ASKED, headers={"Authorization": basic(spa.client_id, "nothing-but-wrong")}),
    ):
        assert refused(response, "invalid_client", 401)
    assert (await spa.exchange(code)).status == 200


# Grants


async def test_018_client_credentials_give_an_access_token_alone(web: App) -> None:
    """client_credentials yields no refresh token (§4.4.3); the response has type and lifetime in seconds, and is
    uncacheable (§5.1).
    """
    response = await web.credentials()
    assert response.status == 200
    assert set(response.body) == {"access_token", "token_type", "expires_in"}
    assert response.body["token_type"].lower() == "bearer"
    assert type(response.body["expires_in"]) is int
    assert response.headers["Content-Type"] == "application/json"
    assert (response.headers["Cache-Control"], response.headers["Pragma"]) == ("no-store", "no-cache")


@pytest.fixture(scope="module", name="limited")
async def _limited(api: Api) -> App:
    return await api.app(scope="read write")


@pytest.mark.parametrize("scope", ["admin", "read admin", "READ", "read,write"])
async def test_019_a_scope_that_is_not_the_client_s_is_refused(limited: App, scope: str) -> None:
    """A scope outside the client's is refused entirely; no part of it is granted."""
    assert refused(await limited.credentials(scope=scope), "invalid_scope")
    assert (await limited.authorized(scope=scope)).body["error"] == "invalid_scope"


async def test_020_a_scope_that_was_not_asked_for_is_named(limited: App) -> None:
    """A granted scope that differs from the requested one is named in the response (§5.1 REQUIRED)."""
    assert (await limited.credentials()).body["scope"] == "read write"
    assert (await limited.credentials(scope="read")).body["scope"] == "read"
    assert (await limited.exchange(await limited.code())).body["scope"] == "read write"


@pytest.mark.parametrize("scope", ['a"b', "a\\b", "a\tb", "ä", "a  b", " a", "a ", "a\nb", "x" * 3000])
async def test_021_a_scope_of_other_characters_is_refused(web: App, scope: str) -> None:
    """A scope must be printable ASCII without quote and backslash, separated by single spaces (§3.3)."""
    assert refused(await web.credentials(scope=scope), "invalid_scope")


async def test_022_a_client_without_a_secret_has_no_credentials(spa: App) -> None:
    """A public client gets no client credentials (§4.4: "MUST only be used by confidential clients")."""
    assert refused(await spa.credentials(), "unauthorized_client")


# Error texts

MARK = "z7Qk-echo-me-2v"
INNARDS = re.compile(r"Traceback|File \"|mongo|pymongo|bson|Exception|\$ne|\$gt|line \d+|object at 0x", re.IGNORECASE)


def mistakes(app: App) -> list[tuple[str, str, dict[str, str]]]:
    """Endpoints, forms and headers with the marker wherever something is wrong."""
    token = [
        {"grant_type": MARK},
        {"grant_type": "authorization_code", "code": MARK, "redirect_uri": MARK},
        {"grant_type": "authorization_code", "code": f"tw_ac_{MARK}", "code_verifier": MARK},
        {"grant_type": "refresh_token", "refresh_token": MARK, "scope": MARK},
        {"grant_type": "password", "username": MARK, "password": MARK},
        {"grant_type": "client_credentials", "scope": f'"{MARK}"'},
        {"grant_type": "client_credentials", "client_id": MARK, "client_secret": MARK},
        {"grant_type": "client_credentials", "client_secret": MARK, "secret": f"{MARK}2"},
        {f"grant_type[$ne]{MARK}": MARK},
    ]
    right, wrong = app.basic, {"Authorization": basic(app.client_id, MARK)}
    odd = [{"Authorization": f"Basic {MARK}"}, {"Authorization": f"{MARK} x"}]
    asked = [("token", urlencode(form), headers) for form in token for headers in (right, wrong, *odd)]
    asked += [("token", f"{MARK}={MARK}&{MARK}={MARK}", right), ("revoke", f"token={MARK}", wrong)]
    asked += [("revoke", f"token_type_hint={MARK}", right), ("revoke_all", f"x={MARK}%ff", right)]
    return asked


async def test_023_errors_reveal_neither_input_nor_internals(web: App) -> None:
    """A description has only the characters of §5.2, and reveals neither input, secrets nor internals."""
    responses = [await web.post(place, body, headers=headers | FORM) for place, body, headers in mistakes(web)]
    responses += [await web.post("token", f'{{"grant_type": "{MARK}"', headers=web.basic | JSON)]
    responses += [await web.post("token", MARK, headers=web.basic | {"Content-Type": MARK})]
    responses += [await web.authorize(client_id=MARK), await web.authorize(redirect_uri=MARK)]
    assert len(responses) > 40
    for response in responses:
        assert 400 <= response.status < 500, response.raw
        assert says_nothing_of(response, MARK, web.secret)


def says_nothing_of(response: Response, *texts: str) -> bool:
    """Whether the body contains none of these texts and no server internals."""
    said = response.raw.decode()
    assert not any(text in said or quote_plus(text) in said for text in texts), said
    assert not INNARDS.search(said), said
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", response.body["error_description"]), said
    return True


def injected() -> list[Any]:
    """Bodies with MongoDB query operators in place of values."""
    forms = [
        "grant_type=authorization_code&code[$ne]=x",
        "grant_type[$ne]=x",
        "grant_type=refresh_token&refresh_token[$gt]=",
        "grant_type=password&username[$ne]=x&password[$ne]=x",
        "grant_type=password&username=%7B%22%24ne%22%3A1%7D&password=xxxxxxxx",
        "grant_type=client_credentials&client_id[$gt]=&client_secret[$gt]=",
    ]
    documents: list[dict[str, Any]] = [
        {"grant_type": "authorization_code", "code": {"$ne": "x"}},
        {"grant_type": "refresh_token", "refresh_token": {"$gt": ""}},
        {"grant_type": "password", "username": {"$ne": "x"}, "password": {"$ne": "x"}},
        {"grant_type": "client_credentials", "client_id": {"$gt": ""}, "client_secret": {"$gt": ""}},
        {"grant_type": "authorization_code", "code": ["x"]},
    ]
    return [(form, FORM) for form in forms] + [(json.dumps(document), JSON) for document in documents]


@pytest.mark.parametrize(("body", "content_type"), injected())
async def test_024_an_operator_of_the_database_is_just_a_wrong_value(
    web: App, body: str, content_type: dict[str, str]
) -> None:
    """MongoDB operators are treated as wrong values: 400 or 401, with credentials and without."""
    for headers in ({}, {"Authorization": basic("$ne", "$ne")}) if "client_id" in body else (web.basic, {}):
        response = await web.post("token", body, headers=headers | content_type)
        assert response.status in {400, 401}, response.raw
        assert "error" in response.body
