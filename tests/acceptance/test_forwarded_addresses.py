"""The client address seen behind the edge: the client's own, not the edge's, and not a forged one."""

import secrets
from dataclasses import replace

import aiohttp
import orjson

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import NewTenant
from tests.eventually import eventually

ELSEWHERE = "127.0.0.2"
"""Another address of this machine."""
MORE_THAN_THE_LIMIT = 45
"""Twice the limit of twenty per minute and more, because the minute may end in between."""


async def test_failures_throttle_only_their_address(stack: Stack, tenant_of: NewTenant) -> None:
    """Row 25 through the edge with two instances: 429 for this client at this address, with any X-Forwarded-For.

    From another address the client gets its token.
    """
    tenant = await tenant_of()
    connector = aiohttp.TCPConnector(local_addr=(ELSEWHERE, 0))
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        elsewhere = replace(stack.anybody, http=http)
        for number in range(MORE_THAN_THE_LIMIT):
            guess = secrets.token_urlsafe(24)
            stack.secrets.add(guess)
            forged = elsewhere.with_header("X-Forwarded-For", f"198.51.100.{number}")
            response = await tenant.client_credentials(by=forged, secret=guess)
            if response.status == 429:
                break
            assert response.status == 401
        assert response.status == 429
        assert response.body["error"] == "temporarily_unavailable"
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert (await tenant.client_credentials()).status == 200

    def client_of_the_response() -> str:
        for name in ("token", "token-2"):
            for line in stack.logs(name).splitlines():
                if f'"request_id":"{response.headers["X-Request-Id"]}"' in line and '"event":"request"' in line:
                    return str(orjson.loads(line)["client"])
        return ""

    assert await eventually(client_of_the_response) == ELSEWHERE
