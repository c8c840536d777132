"""Clients that follow the protocol exactly: after a 503 they wait for `Retry-After` and repeat the same request; after
a dropped connection they repeat it at once. None of them may lose a login that way or find anything doubled.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import aiohttp

from contracts.grants import GrantState, RevocationReason
from tests.acceptance.tenants import CALLBACK, Tenant
from tests.builders import unique
from tests.eventually import eventually
from tests.faults.holders import Ask, Held, Holder, Holdings, Outcome

PATIENCE = 180.0
"""Seconds for which one request is repeated."""
AT_ONCE = 0.05
"""Seconds before a dropped request is repeated, to leave time for a new connection."""
REPLAYED_AFTER = 2.5
"""Seconds after which replaying an exchanged code must revoke the grant."""
NOTED_WITHIN = 30.0
"""Seconds within which a replay must revoke; far less than a code can be exchanged again if its response was lost."""
_THEFT = [RevocationReason.CODE_REPLAY.value, RevocationReason.REFRESH_REUSE.value]


class CompliantClient(Holder):
    """Such a client; it also registers clients. Any refusal is a complaint."""

    async def _life(self) -> None:
        if self.rng.random() < 0.15:
            await self._register()
        else:
            await super()._life()

    async def _register(self) -> None:
        name = unique("app")
        document = {"redirect_uri": CALLBACK, "client_name": name}
        path = f"/api/apis/oauth/{self.tenant.api_id}"
        asked = await self._insist("register", lambda: self.tenant.operator("POST", path, json=document))
        if asked.response is None or not asked.succeeded:
            self._refused("register", asked)
            return
        self.holdings.registered[name] = (asked.response.body["client_id"], asked.response.body["secret"])

    async def _insist(self, what: str, ask: Ask) -> Outcome:
        await asyncio.sleep(self.pause * self.rng.uniform(0.5, 1.5))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while loop.time() < deadline:
            try:
                response = await ask()
            except (aiohttp.ClientError, TimeoutError, OSError) as fault:
                self.holdings.failed[f"{what}: {type(fault).__name__}"] += 1
                await asyncio.sleep(AT_ONCE)
                continue
            if response.status < 500:
                return Outcome(response, ambiguous=False)
            self.holdings.failed[f"{what}: {response.status}"] += 1
            # The edge's own 502 and 504 mean a dropped connection.
            await asyncio.sleep(float(response.headers.get("Retry-After", AT_ONCE)))
        self.holdings.given_up.append(what)
        return Outcome(None, ambiguous=True)


async def lost_logins(tenants: Sequence[Tenant], holdings: Holdings, database: Any) -> list[str]:
    """Grants that were wrongly revoked as if stolen, and registrations that were lost or doubled."""
    stolen = {"client_id": {"$in": [tenant.client_id for tenant in tenants]}, "ended_reason": {"$in": _THEFT}}
    found = [f"grant {each['_id']} revoked: {each['ended_reason']}" async for each in database["grants"].find(stolen)]
    apps: dict[str, list[str]] = {}
    async for client in database["clients"].find({"api_id": {"$in": [tenant.api_id for tenant in tenants]}}):
        apps.setdefault(client["name"], []).append(client["_id"])
    del apps[""]  # the tenants' own clients
    found += [f"registration {name} lost" for name, (ours, _) in holdings.registered.items() if ours not in apps[name]]
    found += [f"registration {name} doubled: {ids}" for name, ids in apps.items() if len(ids) > 1]
    return found


async def survivors_of_replay(holdings: Holdings, sample: int, database: Any) -> list[str]:
    """Grants that survive a replay of their code although the response was delivered; there must be none."""
    newest = asyncio.get_running_loop().time() - REPLAYED_AFTER
    old = [(code, pair) for code, pair, at in holdings.answered if at < newest]
    found = []
    for code, pair in old[-sample:]:
        try:
            await eventually(partial(_revoked, holdings, code, pair, database), NOTED_WITHIN, every=REPLAYED_AFTER)
        except AssertionError as survival:
            found.append(str(survival))
    return found


async def _revoked(holdings: Holdings, code: str, pair: Held, database: Any) -> bool:
    """Replay the code. Until its response is noted as sent, it may be answered once more."""
    response = await holdings.tenants[pair.grant_id].exchanged(code)
    grant = await database["grants"].find_one({"_id": pair.grant_id})
    revoked = response.status == 400 and grant["state"] == GrantState.REVOKED
    assert revoked, f"grant {pair.grant_id} outlived a replay: {response.status}, {grant['state']}"
    return True
