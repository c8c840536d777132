"""Errors as responses: one renderer, three formats, no leaks."""

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from pydantic import BaseModel, ValidationError

from contracts.base import require_readable
from contracts.clients import ClientRegistration
from contracts.policies import Policy, PolicyDocument
from libs.client_address import TrustedProxies
from libs.http import error_responses as http
from libs.http.context import Drain, request_middleware
from libs.http.error_responses import ErrorRenderer, first_fault, oauth_body
from libs.http.security_headers import security_headers
from libs.oauth import errors as oauth
from libs.oauth.scopes import grant_scope, parse_scope
from libs.precis import prepare_username
from services.authorization.key_rules import parse_key_rules
from services.gateway.calls import received_call
from tests.builders import Caller, Response

OAUTH, API = "/orders/oauth/token", "/api/apis"
SECRET = "s3cr3t-of-a-client"
STATUSES = {
    oauth.InvalidRequest: (400, "invalid_request"),
    oauth.BodyTooLarge: (413, "invalid_request"),
    oauth.BodyTooSlow: (408, "invalid_request"),
    oauth.InvalidClient: (401, "invalid_client"),
    oauth.InvalidGrant: (400, "invalid_grant"),
    oauth.UnauthorizedClient: (400, "unauthorized_client"),
    oauth.UnsupportedGrantType: (400, "unsupported_grant_type"),
    oauth.UnsupportedResponseType: (400, "unsupported_response_type"),
    oauth.InvalidScope: (400, "invalid_scope"),
    oauth.AccessDenied: (403, "access_denied"),
    oauth.UnknownApi: (404, "invalid_request"),
    oauth.TemporarilyUnavailable: (503, "temporarily_unavailable"),
    oauth.TooManyRequests: (429, "temporarily_unavailable"),
    oauth.TooManyAttempts: (429, "temporarily_unavailable"),
    oauth.TooManyTokens: (429, "temporarily_unavailable"),
}
REFUSALS = {
    http.BadRequest: 400,
    http.NotAuthenticated: 401,
    http.NotPermitted: 403,
    http.NotFound: 404,
    http.Taken: 409,
    http.TooLarge: 413,
}


class Document(BaseModel):
    """A model that can be invalid."""

    client_secret: int


def invalid_document() -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        Document.model_validate({"client_secret": SECRET})
    return refused.value


async def response_to(
    error: Exception, path: str = OAUTH, *, oauth_error_status: int | None = None, request_id: str = ""
) -> Response:
    """The response of an application whose handler raises this error."""

    async def fail(_request: web.Request) -> web.Response:
        raise error

    renderer, constant = ErrorRenderer(oauth_error_status), security_headers("http://auth.example.test")
    app = web.Application(middlewares=[request_middleware(renderer, 0, Drain(), TrustedProxies(), constant)])
    app.router.add_get("/{path:.*}", fail)
    async with TestClient(TestServer(app)) as client:
        return await Caller(client)("GET", path, headers={"X-Request-Id": request_id})


def test_every_oauth_error_is_in_the_table() -> None:
    """Every OAuth error has a status."""

    def kinds(kind: type[oauth.OAuthError]) -> set[type[oauth.OAuthError]]:
        return {kind}.union(*(kinds(more) for more in kind.__subclasses__()))

    assert kinds(oauth.OAuthError) - {oauth.OAuthError} == set(STATUSES)


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
async def test_an_oauth_error_is_as_the_rfc_says(kind: type[oauth.OAuthError]) -> None:
    """RFC 6749 §5.2: status, code and description, uncacheable; the detail is only logged."""
    status, code = STATUSES[kind]
    response = await response_to(kind("what is wrong", detail=f"because of {SECRET}"))
    assert (response.status, response.body) == (status, {"error": code, "error_description": "what is wrong"})
    assert response.headers["Content-Type"] == "application/json"
    assert (response.headers["Cache-Control"], response.headers["Pragma"]) == ("no-store", "no-cache")
    assert SECRET.encode() not in response.raw


async def test_failed_client_authentication_names_the_scheme() -> None:
    """RFC 6749 §5.2: only 401 has a challenge."""
    assert (await response_to(oauth.InvalidClient("who are you"))).headers["WWW-Authenticate"].startswith("Basic ")
    assert "WWW-Authenticate" not in (await response_to(oauth.InvalidGrant("no"))).headers


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
async def test_one_status_for_every_oauth_error_if_wished(kind: type[oauth.OAuthError]) -> None:
    """`oauth_error_status=403` applies to client errors, not to size, path and outage."""
    response = await response_to(kind("no"), oauth_error_status=403)
    status, code = STATUSES[kind]
    assert response.status == (403 if status in {400, 401, 403} else status)
    assert response.body["error"] == code


async def test_an_outage_has_retry_after() -> None:
    """An outage is 503 with Retry-After, in the path's format."""
    for path in (OAUTH, API):
        response = await response_to(oauth.TemporarilyUnavailable("the database is not available"), path)
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    assert response.message == "the database is not available"


async def test_too_many_attempts_get_retry_after() -> None:
    """Throttling is 429 with Retry-After (RFC 6585 §4), in the path's format."""
    for path in (OAUTH, API):
        response = await response_to(oauth.TooManyAttempts("too many attempts have failed", retry_after=42), path)
        assert (response.status, response.headers["Retry-After"]) == (429, "42")
    assert response.message == "too many attempts have failed"


@given(st.text(max_size=60))
def test_a_description_has_only_characters_of_the_rfc(description: str) -> None:
    """RFC 6749 §5.2: descriptions contain only %x20-21 / %x23-5B / %x5D-7E."""
    text = oauth_body(oauth.InvalidRequest(description))["error_description"]
    assert len(text) == len(description)
    assert all(" " <= character <= "~" and character not in '"\\' for character in text)


async def test_until_the_redirect_is_proven_the_browser_stays() -> None:
    """RFC 6749 §4.1.2.1: no redirect before client and redirect URI are verified."""
    response = await response_to(oauth.CannotRedirect(oauth.InvalidRequest("redirect_uri is not registered")))
    assert (response.status, response.body["error"]) == (400, "invalid_request")
    assert "Location" not in response.headers


@pytest.mark.parametrize("state", [None, "x y&z=é"], ids=["no-state", "state"])
async def test_afterwards_errors_redirect_to_the_client(state: str | None) -> None:
    """RFC 6749 §4.1.2.1, RFC 9207: afterwards a redirect with error, description, state and issuer, next to the
    existing query.
    """
    redirected = oauth.Redirected(
        oauth.InvalidScope("too much"), "https://app.example.test/cb?a=1", state, "https://edge.example.test/orders"
    )
    response = await response_to(redirected)
    location = urlsplit(response.headers["Location"])
    assert (response.status, location.netloc, location.path) == (302, "app.example.test", "/cb")
    assert parse_qsl(location.query) == [
        ("a", "1"),
        ("error", "invalid_scope"),
        ("error_description", "too much"),
        *([("state", state)] if state else []),
        ("iss", "https://edge.example.test/orders"),
    ]


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.__name__)
async def test_a_refusal_of_management_is_in_the_dashboards_envelope(kind: type[http.Refusal]) -> None:
    """`Status`, `Message`, `Meta` and the HTTP status, wherever the error was raised."""
    for path in (API, OAUTH):
        response = await response_to(kind("what is wrong"), path)
        assert (response.status, response.message) == (REFUSALS[kind], "what is wrong")
        assert response.headers["Cache-Control"] == "no-store"


async def test_an_invalid_document_is_named_and_not_repeated() -> None:
    """An invalid field is named; its value, which may be a secret, is not repeated."""
    assert first_fault(invalid_document()).startswith("client_secret: ")
    assert SECRET not in first_fault(invalid_document())
    response = await response_to(invalid_document(), API)
    assert (response.status, response.message) == (400, first_fault(invalid_document()))
    response = await response_to(invalid_document(), OAUTH)
    assert (response.status, response.body["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("path", [OAUTH, API], ids=["oauth", "management"])
async def test_an_unexpected_error_reveals_nothing(path: str) -> None:
    """An unexpected exception gives 500 in the path's format with the request id, and nothing else."""
    response = await response_to(RuntimeError(f"bug with {SECRET}"), path, request_id="request-0001")
    assert response.status == 500
    assert response.headers["X-Request-Id"] == "request-0001"
    assert SECRET.encode() not in response.raw
    assert b"RuntimeError" not in response.raw
    assert b"internal error" in response.raw


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(web.HTTPNotFound(), 404, id="no-such-path"),
        pytest.param(web.HTTPMethodNotAllowed("GET", ["POST"]), 405, id="another-method"),
        pytest.param(web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2), 413, id="too-large"),
        pytest.param(web.HTTPBadRequest(), 400, id="bad-request"),
    ],
)
async def test_routing_errors_have_our_formats(error: web.HTTPException, status: int) -> None:
    """Routing errors have our formats; 405 names the allowed methods."""
    response = await response_to(error, OAUTH)
    assert (response.status, response.body["error"]) == (status, "invalid_request")
    managed = await response_to(error, API)
    assert (managed.status, managed.body["Status"]) == (status, "Error")
    assert response.headers.get("Allow") == ("POST" if status == 405 else None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param("0123-abc.DEF_9", True, id="a-good-one"),
        pytest.param("short", False, id="short"),
        pytest.param("x" * 65, False, id="long"),
        pytest.param("<script>x</script>", False, id="not-harmless"),
    ],
)
async def test_a_request_has_one_id(given: str, kept: bool) -> None:
    """A harmless request id of the caller is kept, else one is made; the response has it."""
    response = await response_to(oauth.InvalidGrant("no"), request_id=given)
    assert (response.headers["X-Request-Id"] == given) is kept
    assert len(response.headers["X-Request-Id"]) >= 8


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"partitions": 3}, "partitions: a JSON object is expected"),
        ({"access_rights": [1]}, "access_rights: a JSON object is expected"),
        ({"access_rights": {"a": 1}}, "access_rights.a: a JSON object is expected"),
        ([], "a JSON object is expected"),
        (
            {"name": "a\u202eb"},
            "name: characters that change the text direction, such as U+202E, are not allowed",
        ),
        ({"name": "a\nb"}, "name: control characters and line breaks are not allowed"),
    ],
)
def test_b10_no_class_of_ours_is_in_a_sentence(document: object, said: str) -> None:
    """Error texts name JSON types, not Python classes."""
    with pytest.raises(ValidationError) as refused:
        PolicyDocument.model_validate(document)
    assert first_fault(refused.value) == said


@pytest.mark.parametrize("text", ["\u202eabc", "a\u2066b", "a\u200fb", "a\tb", "a\u0085b", "a\u2028b"])
def test_b10_names_are_shown_as_they_are_stored(text: str) -> None:
    """Names are returned as stored; older stored forms are still read."""
    with pytest.raises(ValidationError):
        ClientRegistration(client_name=text)
    with pytest.raises(ValueError, match="not allowed"):
        require_readable(text)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert Policy(policy_id="p", name=text, created_at=now, updated_at=now).name
    assert ClientRegistration(client_name="שלום Ünï", description="two\nlines").description == "two\nlines"


def test_b10_a_scope_is_granted_once() -> None:
    """Repeated scopes are granted once, in the order requested."""
    assert parse_scope("read write read read") == "read write"
    assert grant_scope(None, "read read", ["read"]) == "read"


def test_b10_dots_are_no_user_names() -> None:
    """`.` and `..` are no user names, because they cannot be in a path."""
    assert [prepare_username(name) for name in (".", "..", "...", "a.b")] == [None, None, "...", "a.b"]


@pytest.mark.parametrize("text", ["[]", "1", '"a"', "null"])
def test_b10_key_rules_must_be_an_object(text: str) -> None:
    """The error text names no class of ours."""
    with pytest.raises(oauth.InvalidRequest, match=r"^key_rules must be a JSON object$"):
        parse_key_rules(text)


def test_b10_no_description_has_a_character_that_is_replaced() -> None:
    """RFC 6749 §5.2 does not allow `§` in error_description."""
    request = make_mocked_request("GET", "/things", headers=CIMultiDict([("Host", "a"), ("Host", "b")]))
    with pytest.raises(oauth.InvalidRequest) as refused:
        received_call(request)
    assert oauth_body(refused.value)["error_description"].endswith("(RFC 9112 section 3.2)")
