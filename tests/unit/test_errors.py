"""Errors as responses: one renderer, three envelopes, and nothing that should stay inside."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from libs.addresses import TrustedProxies
from libs.http import errors as http
from libs.http.context import Drain, surroundings
from libs.http.errors import ErrorRenderer, first_fault, oauth_body
from libs.http.headers import constant_headers
from libs.oauth import errors as oauth
from tests.builders import Answer, Caller

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
    oauth.TooManyAttempts: (429, "temporarily_unavailable"),
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
    """Something that can be invalid."""

    client_secret: int


def invalid_document() -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        Document.model_validate({"client_secret": SECRET})
    return refused.value


async def answer_to(
    error: Exception, path: str = OAUTH, *, oauth_error_status: int | None = None, request_id: str = ""
) -> Answer:
    """The answer of an application whose handler raises this."""

    async def fail(_request: web.Request) -> web.Response:
        raise error

    renderer, constant = ErrorRenderer(oauth_error_status), constant_headers("http://auth.example.test")
    app = web.Application(middlewares=[surroundings(renderer, 0, Drain(), TrustedProxies(), constant)])
    app.router.add_get("/{path:.*}", fail)
    async with TestClient(TestServer(app)) as client:
        return await Caller(client)("GET", path, headers={"X-Request-Id": request_id})


def test_every_oauth_error_is_in_the_table() -> None:
    """No error without a status that somebody thought of."""

    def kinds(kind: type[oauth.OAuthError]) -> set[type[oauth.OAuthError]]:
        return {kind}.union(*(kinds(more) for more in kind.__subclasses__()))

    assert kinds(oauth.OAuthError) - {oauth.OAuthError} == set(STATUSES)


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
async def test_an_oauth_error_is_as_the_rfc_says(kind: type[oauth.OAuthError]) -> None:
    """RFC 6749 §5.2: status, error code, description; never cached; the detail is for the log alone."""
    status, code = STATUSES[kind]
    answer = await answer_to(kind("what is wrong", detail=f"because of {SECRET}"))
    assert (answer.status, answer.body) == (status, {"error": code, "error_description": "what is wrong"})
    assert answer.headers["Content-Type"] == "application/json"
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert SECRET.encode() not in answer.raw


async def test_failed_client_authentication_names_the_scheme() -> None:
    """RFC 6749 §5.2: 401 comes with the scheme that the client may use; no other error does."""
    assert (await answer_to(oauth.InvalidClient("who are you"))).headers["WWW-Authenticate"].startswith("Basic ")
    assert "WWW-Authenticate" not in (await answer_to(oauth.InvalidGrant("no"))).headers


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
async def test_one_status_for_every_oauth_error_if_wished(kind: type[oauth.OAuthError]) -> None:
    """`oauth_error_status=403` gives Tyk's status to what a client did wrong; size, path and outage keep theirs."""
    answer = await answer_to(kind("no"), oauth_error_status=403)
    status, code = STATUSES[kind]
    assert answer.status == (403 if status in {400, 401, 403} else status)
    assert answer.body["error"] == code


async def test_an_outage_says_when_to_come_again() -> None:
    """503 with Retry-After, in the envelope of whoever asks."""
    for path in (OAUTH, API):
        answer = await answer_to(oauth.TemporarilyUnavailable("the database is not available"), path)
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
    assert answer.message == "the database is not available"


async def test_too_many_attempts_are_told_when_to_come_again() -> None:
    """429 with Retry-After (RFC 6585 §4), in the envelope of whoever asks."""
    for path in (OAUTH, API):
        answer = await answer_to(oauth.TooManyAttempts("too many attempts have failed", retry_after=42), path)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "42")
    assert answer.message == "too many attempts have failed"


@given(st.text(max_size=60))
def test_a_description_has_only_characters_of_the_rfc(description: str) -> None:
    """RFC 6749 §5.2: %x20-21 / %x23-5B / %x5D-7E, whatever the text was made of."""
    text = oauth_body(oauth.InvalidRequest(description))["error_description"]
    assert len(text) == len(description)
    assert all(" " <= character <= "~" and character not in '"\\' for character in text)


async def test_until_the_redirect_is_proven_the_browser_stays() -> None:
    """RFC 6749 §4.1.2.1: no redirect to where nobody has proven that it belongs to the client."""
    answer = await answer_to(oauth.CannotRedirect(oauth.InvalidRequest("redirect_uri is not registered")))
    assert (answer.status, answer.body["error"]) == (400, "invalid_request")
    assert "Location" not in answer.headers


@pytest.mark.parametrize("state", [None, "x y&z=é"], ids=["no-state", "state"])
async def test_afterwards_the_client_hears_of_it(state: str | None) -> None:
    """RFC 6749 §4.1.2.1 and RFC 9207: error, description, state and issuer, beside the query that was there."""
    redirected = oauth.Redirected(
        oauth.InvalidScope("too much"), "https://app.example.test/cb?a=1", state, "https://edge.example.test/orders"
    )
    answer = await answer_to(redirected)
    location = urlsplit(answer.headers["Location"])
    assert (answer.status, location.netloc, location.path) == (302, "app.example.test", "/cb")
    assert parse_qsl(location.query) == [
        ("a", "1"),
        ("error", "invalid_scope"),
        ("error_description", "too much"),
        *([("state", state)] if state else []),
        ("iss", "https://edge.example.test/orders"),
    ]


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.__name__)
async def test_a_refusal_of_management_is_in_the_dashboards_envelope(kind: type[http.Refusal]) -> None:
    """`Status`, `Message`, `Meta`, and the status of HTTP that goes with it; wherever it was raised."""
    for path in (API, OAUTH):
        answer = await answer_to(kind("what is wrong"), path)
        assert (answer.status, answer.message) == (REFUSALS[kind], "what is wrong")
        assert answer.headers["Cache-Control"] == "no-store"


async def test_an_invalid_document_is_named_and_not_repeated() -> None:
    """What is wrong with a field is said, its value is not: it may be a secret."""
    assert first_fault(invalid_document()).startswith("client_secret: ")
    assert SECRET not in first_fault(invalid_document())
    answer = await answer_to(invalid_document(), API)
    assert (answer.status, answer.message) == (400, first_fault(invalid_document()))
    answer = await answer_to(invalid_document(), OAUTH)
    assert (answer.status, answer.body["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("path", [OAUTH, API], ids=["oauth", "management"])
async def test_what_nobody_foresaw_tells_nothing(path: str) -> None:
    """500 in the right envelope, with the id under which the log has the rest."""
    answer = await answer_to(RuntimeError(f"bug with {SECRET}"), path, request_id="request-0001")
    assert answer.status == 500
    assert answer.headers["X-Request-Id"] == "request-0001"
    assert SECRET.encode() not in answer.raw
    assert b"RuntimeError" not in answer.raw
    assert b"something went wrong here" in answer.raw


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(web.HTTPNotFound(), 404, id="no-such-path"),
        pytest.param(web.HTTPMethodNotAllowed("GET", ["POST"]), 405, id="another-method"),
        pytest.param(web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2), 413, id="too-large"),
        pytest.param(web.HTTPBadRequest(), 400, id="bad-request"),
    ],
)
async def test_what_the_router_says_is_in_our_envelopes(error: web.HTTPException, status: int) -> None:
    """No page of the framework's gets out; 405 says which methods there are."""
    answer = await answer_to(error, OAUTH)
    assert (answer.status, answer.body["error"]) == (status, "invalid_request")
    managed = await answer_to(error, API)
    assert (managed.status, managed.body["Status"]) == (status, "Error")
    assert answer.headers.get("Allow") == ("POST" if status == 405 else None)


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
    """The caller's if it is harmless, else one of our own; in the answer either way."""
    answer = await answer_to(oauth.InvalidGrant("no"), request_id=given)
    assert (answer.headers["X-Request-Id"] == given) is kept
    assert len(answer.headers["X-Request-Id"]) >= 8
