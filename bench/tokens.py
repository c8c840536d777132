"""The token endpoint against a bare handler and the naive way.

client_credentials, one process, MongoDB with majority, each token's event published and confirmed, the access line on.
One durable quorum queue takes the events in both cases, ours being that of the audit.
"""

import asyncio
import time
from collections.abc import Mapping

from motor.motor_asyncio import AsyncIOMotorClient

from bench.ground import TOKEN, Ground, Program, token_request
from bench.report import Figures, Report, Target, Wrong
from bench.servers import SECRET as NAIVE_SECRET
from services.demo_data import CLIENT_ID, CLIENT_SECRET

CONNECTIONS = (32, 128)
TARGETS = {32: 0.07, 128: 0.13}
"""Of the bare handler."""
OVER_NAIVE = 2.0
_PENDING = {"pending_since": {"$exists": True}}
NAMES = ("bare", "tokenwire", "naive")


def measure(ground: Ground) -> Report:
    """Rounds of the three in turn. Raises Wrong where an event was not published in the end."""
    system = asyncio.run(ground.new_system())
    ours = system.program("token")
    naive = Program("naive", ["bench.servers", "naive", *_servers(system.values)])
    results = {(name, number): Figures() for name in NAMES for number in CONNECTIONS}
    for _ in range(ground.rounds):
        for number in CONNECTIONS:
            request = token_request(CLIENT_ID, CLIENT_SECRET)
            results["bare", number].rounds.append(ground.bare(number))
            results["tokenwire", number].rounds.append(ground.loaded(ours, request, TOKEN, number))
            request = token_request(CLIENT_ID, NAIVE_SECRET)
            results["naive", number].rounds.append(ground.loaded(naive, request, '{"access_token": "tw_at_', number))
    if left := asyncio.run(_unpublished(system.values)):
        raise Wrong(f"{left} events were committed and not published a minute after the load")
    return _report(results)


def _report(results: Mapping[tuple[str, int], Figures]) -> Report:
    report = Report("Token endpoint, client_credentials")
    for number in CONNECTIONS:
        bare, ours, naive = (results[name, number] for name in NAMES)
        report.heading(f"{number} connections")
        for name in NAMES:
            report.row(name, results[name, number], bare)
        report.targets.append(Target(f"{number} connections, of the bare handler", ours.ratio(bare), TARGETS[number]))
        report.targets.append(Target(f"{number} connections, times the naive way", ours.ratio(naive), OVER_NAIVE))
    return report


def _servers(values: Mapping[str, str]) -> list[str]:
    return ["--mongodb", values["mongodb_url"], "--amqp", values["amqp_url"]]


async def _unpublished(values: Mapping[str, str]) -> int:
    client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(values["mongodb_url"])
    grants = client[values["mongodb_database"]]["grants"]
    deadline = time.monotonic() + 60
    try:
        # Nobody tells when the last one is published.
        while (left := await grants.count_documents(_PENDING)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        return left
    finally:
        client.close()
