"""Whose address counts behind the edge: the client's own, not the edge's, and not what the client makes up."""

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
"""Twenty in a minute, and the minute may end in between."""


async def test_who_fails_too_often_is_throttled_and_nobody_else(stack: Stack, tenant_of: NewTenant) -> None:
    """Row 25 through the edge, over two instances: 429 for this client at this address, whatever X-Forwarded-For it
    sends; from another address the client gets its token.
    """
    tenant = await tenant_of()
    connector = aiohttp.TCPConnector(local_addr=(ELSEWHERE, 0))
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        elsewhere = replace(stack.anybody, http=http)
        for number in range(MORE_THAN_THE_LIMIT):
            guess = secrets.token_urlsafe(24)
            stack.secrets.add(guess)
            forged = elsewhere.with_header("X-Forwarded-For", f"198.51.100.{number}")
            answer = await tenant.client_credentials(by=forged, secret=guess)
            if answer.status == 429:
                break
            assert answer.status == 401
        assert answer.status == 429
        assert answer.body["error"] == "temporarily_unavailable"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert (await tenant.client_credentials()).status == 200

    def client_of_the_answer() -> str:
        for name in ("token", "token-2"):
            for line in stack.logs(name).splitlines():
                if f'"request_id":"{answer.headers["X-Request-Id"]}"' in line and '"event":"request"' in line:
                    return str(orjson.loads(line)["client"])
        return ""

    assert await eventually(client_of_the_answer) == ELSEWHERE
