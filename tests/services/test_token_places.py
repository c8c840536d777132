"""C5, C10: where a token is read from, and the status without one, as in Tyk, for the proxy and `/verify` alike."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.builders import Response, make_policy
from tests.services.system import SCHEME, Party, System, auth_token, document, tokens_of
from tests.services.test_gateway_verify import SOURCES
from tests.services.upstreams import Upstream, upstream

DOORS = ("proxy", "verify")


@pytest.fixture(scope="module", name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


async def ask(party: Party, door: str, query: str = "", **headers: str) -> Response:
    """Call the API through the proxy, or ask `/verify` about the same call."""
    target = party.at("things") + query
    if door == "verify":
        return await party.system.verify(target, **headers)
    return await party.system.call("GET", target, headers=headers)


def of(behind: Upstream, *sources: str) -> dict[str, Any]:
    """A definition with this upstream that reads tokens from these places."""
    places = {SCHEME + name: SOURCES[name] if name in sources else {"enabled": False} for name in SOURCES}
    strip = {"x-tyk-api-gateway__server__authentication__stripAuthorizationData": True}
    return document(**places, **strip, **{"x-tyk-api-gateway__upstream__url": behind.url})


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param("session=Bearer {}", id="bearer"),
        pytest.param('session="Bearer {}"', id="bearer-quoted"),
        pytest.param("session=bearer%20{}", id="bearer-encoded"),
        pytest.param("session={}", id="bare"),
        pytest.param("a=b c; session = Bearer {} ; d=e", id="among-others"),
        pytest.param("session={}; session=stale", id="first-of-two"),
        pytest.param("session=Bearer {}; session=Bearer stale", id="first-of-two-bearer"),
        pytest.param("xsession=stale; session={}", id="another-name"),
    ],
)
async def test_c5_the_first_cookie_counts_with_or_without_its_scheme(
    system: System, behind: Upstream, door: str, cookie: str
) -> None:
    """`Bearer <token>` and the bare token, quoted or percent-encoded; of two cookies with one name, the first."""
    party = await system.party(of(behind, "cookie"))
    token = tokens_of(await party.token({"grant_type": "client_credentials"})).access
    assert (await ask(party, door, Cookie=cookie.format(token))).status == 200


@pytest.mark.parametrize("door", DOORS)
async def test_c5_a_stale_first_value_is_not_helped_by_a_second(system: System, behind: Upstream, door: str) -> None:
    """A good token in the second place is not looked at, in cookies and in the query."""
    party = await system.party(of(behind, "cookie", "query"))
    token = tokens_of(await party.token({"grant_type": "client_credentials"})).access
    assert (await ask(party, door, Cookie=f"session=stale; session={token}")).status == 403
    assert (await ask(party, door, f"?access_token=stale&access_token={token}")).status == 403
    assert (await ask(party, door, f"?access_token={token}&access_token=stale")).status == 200
    assert (await ask(party, door, f"?access_token=&access_token={token}")).status == 400


async def test_c5_every_cookie_of_that_name_is_stripped(system: System, behind: Upstream) -> None:
    """The upstream gets neither the one that counted nor another of its name."""
    party = await system.party(of(behind, "cookie"))
    token = tokens_of(await party.token({"grant_type": "client_credentials"})).access
    cookie = f"a=1; session=Bearer {token}; session=other; b=2"
    assert (await ask(party, "proxy", Cookie=cookie)).status == 200
    assert dict(behind.latest.headers)["Cookie"] == "a=1; b=2"


@pytest.mark.parametrize("door", DOORS)
async def test_c10_auth_token_apis_answer_401_without_a_token(system: System, behind: Upstream, door: str) -> None:
    """An API with Auth Token answers a call without a token with 401, one with OAuth with 400, as in Tyk."""
    issuing = await system.party(of(behind, "header"))
    accepting = await system.party(auth_token())
    without = await ask(accepting, door)
    assert (without.status, without.body["error"]) == (401, "Authorization field missing")
    assert without.headers["WWW-Authenticate"].startswith("Bearer ")
    assert (await ask(issuing, door)).status == 400
    limits = await system.call("GET", accepting.at("tyk/rate-limits"))
    assert limits.status == 401
    policy = await make_policy(system.deps, issuing.api.api_id, accepting.api.api_id)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    token = tokens_of(await party.token({"grant_type": "client_credentials"})).access
    assert (await system.verify(accepting.at("x"), Authorization=f"Bearer {token}")).status == 200
    assert (await system.verify(accepting.at("x"), Authorization="Bearer unknown")).status == 403
