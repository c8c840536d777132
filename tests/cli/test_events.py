"""`tokenwire events tail`: events as they happen, over lost connections."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.builders import settle
from tests.cli.conftest import CommandLine
from tests.ports import free_port
from tests.services.system import System


async def test_e1_events_are_printed_as_they_happen(tokenwire: CommandLine, system: System) -> None:
    """One JSON object a line; types are chosen by the server, the client app here; Ctrl-C ends with status 130."""
    party, other = await system.party(), await system.party()
    arguments = ("events", "tail", "--json", "--type", "token.*", "--client", party.id)
    async with tokenwire.running(*arguments) as running:
        # Tokens until the command is connected and prints the first.
        printed = asyncio.create_task(running.line())
        while not printed.done():
            await other.tokens()
            await party.tokens()
            await asyncio.sleep(0.2)
        event = json.loads(await printed)
        assert (event["type"], event["data"]["client_id"]) == ("io.tokenwire.token.new", party.id)
        assert await running.interrupt() == 130
        assert "Traceback" not in await running.errors()


async def test_e1_an_event_for_people_is_one_line_with_its_ids(tokenwire: CommandLine, system: System) -> None:
    """Time, type, API, client app and user; of one API only."""
    party = await system.party()
    async with tokenwire.running("events", "tail", "--api", party.api.api_id) as running:
        printed = asyncio.create_task(running.line())
        while not printed.done():
            await party.tokens(subject="alice")
            await asyncio.sleep(0.2)
        line = await printed
        assert f"api={party.api.api_id} client={party.id} resource_owner=alice" in line, line


async def test_e1_past_events_are_listed(tokenwire: CommandLine, system: System) -> None:
    """By type, API and client app, as a table or JSON."""
    party = await system.party()
    await party.tokens()
    await settle(system.deps)
    listed = await tokenwire("events", "list", "--client", party.id, "--type", "token.*", "--type", "code.*", "--json")
    assert sorted(event["type"] for event in listed.json) == ["code.issued", "token.new"], listed.err
    table = await tokenwire("events", "list", "--api", party.api.api_id)
    assert ("client.created" in table.out, party.id in table.out) == (True, True)
    wrong = await tokenwire("events", "list", "--type", "tokens.*")
    assert (wrong.status, "no event type matches" in wrong.err) == (1, True), wrong.err


@asynccontextmanager
async def server(port: int, frames: list[bytes]) -> AsyncIterator[None]:
    """A stream of these frames on this port, which then stays open until the end of the block."""
    over = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for frame in frames:
            await response.write(frame)
        await over.wait()
        return response

    app = web.Application()
    app.router.add_get("/api/events/stream", stream)
    async with TestServer(app, port=port):
        try:
            yield
        finally:
            over.set()


def frame(kind: str) -> bytes:
    event = {"type": f"io.tokenwire.{kind}", "time": "2026-05-04T12:00:00Z", "data": {"api_id": "orders"}}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


async def test_e1_a_lost_connection_is_said_and_made_again(tokenwire: CommandLine) -> None:
    """What happened in between is missing, and the command says for how long; it prints what comes afterwards."""
    port = free_port()
    connected = b": connected\n\n"
    async with tokenwire.running("events", "tail", TOKENWIRE_URL=f"http://127.0.0.1:{port}") as away:
        assert "cannot be reached" in " ".join([await away.complaint(), await away.errors()])
        assert await away.process.wait() == 3
    running = tokenwire.running("events", "tail", TOKENWIRE_URL=f"http://127.0.0.1:{port}")
    async with server(port, [connected, frame("token.new")]):
        command = await running.__aenter__()
        assert await command.line() == "12:00:00Z  token.new              api=orders\n"
    try:
        lost = await command.complaint()
        assert lost.startswith("connection lost at "), lost
        async with server(port, [connected, frame("token.refresh")]):
            assert await command.line() == "12:00:00Z  token.refresh          api=orders\n"
            said = await command.complaint()
            while "connected again" not in said:
                said = await command.complaint()
            assert "seconds were missed" in said
            assert await command.interrupt() == 130
    finally:
        await running.__aexit__(None, None, None)


async def test_e1_a_refused_stream_ends_at_once(tokenwire: CommandLine) -> None:
    """A wrong pattern and a wrong key are errors, not reasons to connect again."""
    wrong = await tokenwire("events", "tail", "--type", "tokens.*")
    assert (wrong.status, "no event type matches" in wrong.err) == (1, True), wrong.err
    refused = await tokenwire("events", "tail", TOKENWIRE_OPERATOR_KEY="wrong")
    assert (refused.status, "tokenwire login" in refused.err) == (1, True), refused.err
