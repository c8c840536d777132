"""Every refusal of the protected API as in Tyk, and how it is counted."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from contracts.clients import ClientDeletion
from contracts.policies import AccessRight
from contracts.usage import UsageQuery
from tests.builders import Response, make_policy
from tests.eventually import eventually
from tests.services.system import Party, System, document

Case = Callable[[System], Awaitable[tuple[Party, Response]]]


async def under_policy(system: System, party: Party, right: dict[str, Any] | None = None, **fields: Any) -> Party:
    """A client of the party's API under a policy with this access right."""
    api_id = party.api.api_id
    granted = AccessRight.model_validate({"api_id": api_id, **(right or {})})
    policy = await make_policy(system.deps, **{"access_rights": {api_id: granted}, **fields})
    return await system.client_of(party.api, policy_ids=(policy.policy_id,))


async def nothing(system: System) -> tuple[Party, Response]:
    """No credentials."""
    party = await system.party()
    return party, await system.verify(party.at("x"))


async def one_part(system: System) -> tuple[Party, Response]:
    """Fewer than two parts."""
    party = await system.party()
    return party, await system.verify(party.at("x"), Authorization="Bearer")


async def other_scheme(system: System) -> tuple[Party, Response]:
    """A scheme that is not Bearer."""
    party = await system.party()
    return party, await system.verify(party.at("x"), Authorization="Basic abc")


async def short(system: System) -> tuple[Party, Response]:
    """Too short for a token."""
    party = await system.party()
    return party, await party.verify("x")


async def revoked(system: System) -> tuple[Party, Response]:
    """A revoked token."""
    party = await system.party()
    token = (await party.tokens()).access
    await party.revoke(token)
    return party, await party.verify(token)


async def policy_failure(system: System) -> tuple[Party, Response]:
    """The policy has been deleted."""
    party = await under_policy(system, await system.party(), active=False)
    return party, await party.verify((await party.tokens()).access)


async def client_deleted(system: System) -> tuple[Party, Response]:
    """The client has been deleted."""
    party = await system.party()
    token = (await party.tokens()).access
    ctx = system.deps.event_context("tests")
    assert await system.deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, ctx)
    return party, await party.verify(token)


async def inactive(system: System) -> tuple[Party, Response]:
    """The session is inactive."""
    party = await under_policy(system, await system.party(), is_inactive=True)
    return party, await party.verify((await party.tokens()).access)


async def expired(system: System) -> tuple[Party, Response]:
    """Past its time."""
    party = await system.party(document(accessTokenLifetime=1))
    token = (await party.tokens()).access
    system.clock.advance(1)
    return party, await party.verify(token)


async def no_right(system: System) -> tuple[Party, Response]:
    """The access rights do not include the API."""
    party = await under_policy(system, await system.party(), access_rights={})
    return party, await party.verify((await party.tokens()).access)


async def version_not_listed(system: System) -> tuple[Party, Response]:
    """The version is not in the access right."""
    versioning = {"enabled": True, "name": "v1", "location": "header", "key": "version", "versions": []}
    issuing = await system.party(document(**{"x-tyk-api-gateway__info__versioning": versioning}))
    party = await under_policy(system, issuing, {"versions": ["v2"]})
    return party, await party.verify((await party.tokens()).access)


async def url_not_allowed(system: System) -> tuple[Party, Response]:
    """No allowed URL matches."""
    party = await under_policy(system, await system.party(), {"allowed_urls": [{"url": "/elsewhere"}]})
    return party, await party.verify((await party.tokens()).access)


async def over_the_rate(system: System) -> tuple[Party, Response]:
    """The rate is reached."""
    party = await under_policy(system, await system.party(), rate=1, per=60)
    token = (await party.tokens()).access
    await party.verify(token)
    return party, await party.verify(token)


async def over_the_quota(system: System) -> tuple[Party, Response]:
    """The quota is used up."""
    party = await under_policy(system, await system.party(), quota_max=1)
    token = (await party.tokens()).access
    await party.verify(token)
    return party, await party.verify(token)


async def blocked_path(system: System) -> tuple[Party, Response]:
    """The definition blocks the path."""
    things = {"operationId": "things"}
    block = {"things": {"block": {"enabled": True}}}
    party = await system.party(
        document(paths={"/things": {"get": things}}, **{"x-tyk-api-gateway__middleware__operations": block})
    )
    return party, await party.verify((await party.tokens()).access)


@pytest.mark.parametrize(
    ("case", "status", "message", "reason", "of_client"),
    [
        (nothing, 400, "Authorization field missing", "missing", False),
        (one_part, 400, "Authorization field missing", "missing", False),
        (other_scheme, 400, "Bearer token malformed", "malformed", False),
        (short, 403, "Key not authorised", "unknown_token", False),
        (revoked, 403, "Key not authorised", "unknown_token", True),
        (policy_failure, 403, "Key not authorised", "unknown_token", True),
        (client_deleted, 403, "Key not authorised. OAuth client access was revoked", "client_gone", True),
        (inactive, 403, "Key is inactive, please renew", "inactive", True),
        (expired, 401, "Key has expired, please renew", "expired", True),
        (no_right, 403, "Access to this API has been disallowed", "api_disallowed", True),
        (version_not_listed, 403, "Access to this API has been disallowed", "api_disallowed", True),
        (url_not_allowed, 403, "Access to this resource has been disallowed", "url_disallowed", True),
        (blocked_path, 403, "Requested endpoint is forbidden", "endpoint", False),
        (over_the_rate, 429, "Rate Limit Exceeded", "rate_limit", True),
        (over_the_quota, 403, "Quota exceeded", "quota", True),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
async def test_each_refusal_is_tyks_and_is_counted(
    system: System, case: Case, status: int, message: str, reason: str, of_client: bool
) -> None:
    """Status and body are Tyk's; the refusal is counted under API, client (if known) and reason."""
    party, response = await case(system)
    assert (response.status, response.body) == (status, {"error": message})
    query = UsageQuery(api_id=party.api.api_id, client_id=party.id if of_client else None)
    now = system.clock()

    async def counted() -> bool:
        found = await system.deps.store.usage.sums(query, now - timedelta(hours=2), now + timedelta(hours=2))
        return found.total.reasons.get(reason) == 1

    await eventually(counted)
