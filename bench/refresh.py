"""Chains of refreshes at the token endpoint: each client sends the refresh token of the response before.

The load is on one process, as for `bench.tokens`. Every grant begins with the password grant.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import orjson
import uvloop

from bench.report import Figures, MeasurementFailed, Report, Target
from bench.testbed import TOKEN, Running, Testbed, token_request
from bench.wire import HttpConnection
from libs.demo_credentials import CLIENT_ID, CLIENT_SECRET, PASSWORD, USERNAME
from libs.oauth.token_formats import OpaqueTokens, TokenKind, new_grant_id

CLIENTS = (32, 128)
TARGETS = {32: 0.050, 128: 0.068}
"""Fraction of the bare handler's rate, by number of clients."""
LOGINS_AT_ONCE = 8


def measure(testbed: Testbed) -> Report:
    """Run the bare handler and chains of refreshes in turn. Raises MeasurementFailed if a refresh is refused."""
    system = asyncio.run(testbed.new_system())
    program = system.program("token")
    results = {(name, number): Figures() for name in ("bare", "refresh") for number in CLIENTS}
    anything = OpaqueTokens({1: bytes(32)}, 1, os.urandom).mint(TokenKind.REFRESH, new_grant_id(bytes(16)), 1)
    request = token_request(
        CLIENT_ID, CLIENT_SECRET, f"grant_type=refresh_token&refresh_token={anything.value}"
    )  # every refresh token has this length
    for _ in range(testbed.rounds):
        for number in CLIENTS:
            results["bare", number].rounds.append(testbed.run_bare(number))

            def begun(running: Running, number: int = number) -> Path:
                file = testbed.home / "refresh.tokens"
                file.write_text("\n".join(uvloop.run(_logged_in(running, number))))
                return file

            results["refresh", number].rounds.append(testbed.run_load(program, request, TOKEN, number, begun))
    report = Report("Chains of refreshes, one process")
    for number in CLIENTS:
        bare, ours = (results[name, number] for name in ("bare", "refresh"))
        report.heading(f"{number} clients")
        report.row("bare", bare, bare)
        report.row("refresh", ours, bare)
        report.targets.append(
            Target(f"{number} clients, fraction of the bare handler", ours.ratio(bare), TARGETS[number])
        )
    return report


async def _logged_in(running: Running, number: int) -> Sequence[str]:
    """So many new refresh tokens."""
    body = f"grant_type=password&username={USERNAME}&password={PASSWORD.replace(' ', '+')}"
    request, loop, left = token_request(CLIENT_ID, CLIENT_SECRET, body), asyncio.get_running_loop(), iter(range(number))
    tokens: list[str] = []

    async def ask() -> None:
        _, connection = await loop.create_connection(HttpConnection, "127.0.0.1", running.port)
        for _ in left:
            status, raw = await connection.ask(request)
            if status != 200:
                raise MeasurementFailed(f"a login was refused: {status} {raw[:200]!r}")
            tokens.append(orjson.loads(raw)["refresh_token"])
        connection.close()

    await asyncio.gather(*(ask() for _ in range(LOGINS_AT_ONCE)))
    return tokens
