"""CORS at the protected API: the definition's settings replace the upstream's."""

from collections.abc import AsyncIterator

import pytest

from tests.services.system import System
from tests.services.test_cross_origin import CORS, ORIGIN, PREFLIGHT, SETTINGS, protocol
from tests.services.upstreams import Upstream, protected, saying, upstream

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nAccess-Control-Allow-Origin: *\r\n"


@pytest.fixture(name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


async def test_a_preflight_is_answered_without_a_token_and_without_the_upstream(
    system: System, behind: Upstream
) -> None:
    """A preflight is answered without a token or the upstream; the call itself is checked."""
    api = await protected(system, behind.url, **{CORS: SETTINGS})
    response = await system.call("OPTIONS", api.at("x"), headers=PREFLIGHT)
    assert (response.status, response.raw) == (204, b"")
    assert protocol(response.headers)["Access-Control-Allow-Origin"] == ORIGIN
    assert behind.asked == []
    refused = await system.call("OPTIONS", api.at("x"), headers={"Origin": ORIGIN})
    assert refused.status == 400, "it asks for no other method, so it is a call"


async def test_the_upstream_may_be_asked_instead(system: System, behind: Upstream) -> None:
    """With `optionsPassthrough` the upstream answers the preflight, without a token."""
    api = await protected(system, behind.url, **{CORS: {**SETTINGS, "optionsPassthrough": True}})
    own = b"Access-Control-Allow-Origin: https://own.example.test"
    behind.answering = saying(b"HTTP/1.1 204 No Content\r\n" + own + b"\r\n\r\n")
    response = await system.call("OPTIONS", api.at("x"), headers=PREFLIGHT)
    assert response.status == 204
    assert protocol(response.headers) == {"Access-Control-Allow-Origin": "https://own.example.test"}


async def test_a_script_may_read_responses_and_refusals(system: System, behind: Upstream) -> None:
    """Responses and refusals have the definition's CORS headers in place of the upstream's; the upstream's Vary is
    kept.
    """
    api = await protected(system, behind.url, **{CORS: SETTINGS})
    behind.answering = saying(ANSWER + b"Vary: Accept\r\n\r\nx")
    response = await api("GET", "x", headers={"Origin": ORIGIN})
    assert (response.status, response.raw) == (200, b"x")
    assert response.headers.getall("Access-Control-Allow-Origin") == [ORIGIN]
    assert sorted(response.headers.getall("Vary")) == ["Accept", "Origin"]
    refused = await system.call("GET", api.at("x"), headers={"Origin": ORIGIN})
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (400, ORIGIN)
    foreign = await api("GET", "x", headers={"Origin": "https://other.example.test"})
    assert protocol(foreign.headers) == {}


async def test_without_a_word_of_the_definition_the_upstream_decides(system: System, behind: Upstream) -> None:
    """Without CORS settings the upstream's headers pass unchanged."""
    api = await protected(system, behind.url)
    behind.answering = saying(ANSWER + b"\r\nx")
    response = await api("GET", "x", headers={"Origin": ORIGIN})
    assert protocol(response.headers) == {"Access-Control-Allow-Origin": "*"}
    assert (await system.call("OPTIONS", api.at("x"), headers=PREFLIGHT)).status == 400
