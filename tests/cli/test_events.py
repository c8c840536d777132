"""`tokenwire events tail`: events as they happen, over lost connections."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.builders import settle
from tests.cli.conftest import CommandLine, RunningCommand
from tests.eventually import eventually
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


@dataclass
class StreamServer:
    """A stream of these frames on this port, which then stays open until the end of the block."""

    port: int
    requests: list[tuple[str | None, dict[str, str]]] = field(default_factory=list)
    """The Last-Event-ID and the query of each request."""

    @asynccontextmanager
    async def sending(self, *frames: bytes) -> AsyncIterator[None]:
        over = asyncio.Event()

        async def stream(request: web.Request) -> web.StreamResponse:
            self.requests.append((request.headers.get("Last-Event-ID"), dict(request.query)))
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for frame in frames:
                await response.write(frame)
            await over.wait()
            return response

        app = web.Application()
        app.router.add_get("/api/events/stream", stream)
        async with TestServer(app, port=self.port):
            try:
                yield
            finally:
                over.set()


def frame(event_id: str, kind: str) -> bytes:
    event = {"id": event_id, "type": f"io.tokenwire.{kind}", "time": "2026-05-04T12:00:00Z", "data": {"api_id": "a"}}
    return f"id: {event_id}\ndata: {json.dumps(event)}\n\n".encode()


async def complaint_with(command: RunningCommand, words: str) -> str:
    """The next line of the standard error that has these words."""
    while words not in (said := await command.complaint()):
        assert said, "the command has ended"
    return said


BEGIN, AGAIN = b"retry: 2000\nid: evt_0\n: connected\n\n", b"retry: 2000\n: connected\n\n"
NEW, REFRESH = "12:00:00Z  token.new              api=a\n", "12:00:00Z  token.refresh          api=a\n"


async def test_e1_a_lost_connection_is_said_and_continued(tokenwire: CommandLine) -> None:
    """From the last event on, or from where the stream began; what comes twice is printed once."""
    server = StreamServer(free_port())
    url = f"http://127.0.0.1:{server.port}"
    async with tokenwire.running("events", "tail", TOKENWIRE_URL=url) as away:
        assert "cannot be reached" in " ".join([await away.complaint(), await away.errors()])
        assert await away.process.wait() == 3
    async with AsyncExitStack() as stack:
        async with server.sending(BEGIN):
            command = await stack.enter_async_context(tokenwire.running("events", "tail", TOKENWIRE_URL=url))
            await eventually(lambda: len(server.requests) == 1)
        assert (await command.complaint()).startswith("connection lost at ")
        async with server.sending(AGAIN, frame("evt_1", "token.new")):
            assert await command.line() == NEW
        await complaint_with(command, "what happened meanwhile follows")
        async with server.sending(AGAIN, frame("evt_1", "token.new"), frame("evt_2", "token.refresh")):
            assert await command.line() == REFRESH
        assert server.requests == [(None, {}), ("evt_0", {}), ("evt_1", {})]
        async with server.sending(b": events before 2026-05-01T00:00:00Z are no longer stored\n" + AGAIN):
            said = await complaint_with(command, "no longer stored")
            assert said == "some events are missing: events before 2026-05-01T00:00:00Z are no longer stored\n"
            assert await command.interrupt() == 130


async def test_e1_events_of_the_past_are_printed_first(tokenwire: CommandLine, system: System) -> None:
    """With --since, in their order; then those that happen."""
    party = await system.party()
    await party.tokens()
    await settle(system.deps)
    listing = ("events", "list", "--client", party.id, "--type", "token.*", "--json")
    ids = [event["id"] for event in (await tokenwire(*listing)).json]
    arguments = ("events", "tail", "--json", "--type", "token.*", "--client", party.id, "--since", "1h")
    async with tokenwire.running(*arguments) as running:
        assert [json.loads(await running.line())["id"]] == ids
        await party.tokens()
        assert json.loads(await running.line())["data"]["client_id"] == party.id


async def test_e1_a_refused_stream_ends_at_once(tokenwire: CommandLine) -> None:
    """A wrong pattern and a wrong key are errors, not reasons to connect again."""
    wrong = await tokenwire("events", "tail", "--type", "tokens.*")
    assert (wrong.status, "no event type matches" in wrong.err) == (1, True), wrong.err
    refused = await tokenwire("events", "tail", TOKENWIRE_OPERATOR_KEY="wrong")
    assert (refused.status, "tokenwire login" in refused.err) == (1, True), refused.err
