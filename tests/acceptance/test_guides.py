"""Every shell block of docs/guides, pasted into a shell at once, each page twice."""

import re
import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.acceptance.pasted_pages import Ports, moved, sections, shell
from tests.acceptance.programs import ROOT
from tests.acceptance.test_first_session import documents
from tests.acceptance.test_make_run import Own, own_tokenwire
from tests.provision import rabbitmq as brokers

GUIDES = ROOT / "docs" / "guides"
PASTED = {
    "command-line.md": ["Five minutes"],
    "client-developer.md": ["Five minutes"],
    "event-subscriber.md": ["Five minutes, over HTTP", "Over RabbitMQ, without a gap"],
    "identity-server.md": ["Five minutes"],
    "operator.md": ["Five minutes"],
    "webhook-receiver.md": ["Five minutes"],
}
"""The pages and their sections with commands; each is pasted below."""


def test_e6_every_block_of_the_guides_is_pasted() -> None:
    """No page has a shell block that no test of this file runs, and no block in another language."""
    assert {page.name: [*sections(page)] for page in GUIDES.glob("*.md") if sections(page)} == PASTED
    for page in GUIDES.glob("*.md"):
        assert set(re.findall(r"^```(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)) <= {"sh"}


async def pasted_twice(page: str, home: Path, before: str = "") -> list[str]:
    """What a page's section "Five minutes" says, pasted at once into one shell, two times, after this command."""
    ports, (section, *_) = Ports.free(), PASTED[page]
    async with own_tokenwire(home, home / "data") as own, shell(home) as terminal:
        await own.start()
        await let_the_demo_api_log_in_at(own, ports.identity_server)
        blocks = sections(GUIDES / page)[section]
        also = {"/tmp/tokenwire-guide": str(home / "guide"), ".venv/bin/tokenwire": f"{sys.executable} -m cli"}
        everything = moved("\n".join(blocks), own, ports, also)
        told = []
        await terminal.paste(f"export XDG_CONFIG_HOME={shlex.quote(str(home))}; {before}")
        for _ in range(2):
            said = await terminal.paste(everything)
            assert "Traceback" not in said, said
            assert "curl: (7)" not in said, said
            assert "no such" not in said.lower(), said
            told.append(said)
        assert await own.program.stop() == 0
    return told


async def let_the_demo_api_log_in_at(own: Own, port: int) -> None:
    """The demo API's login page is on this port, where the page's identity server listens in this test."""
    headers = {"Authorization": own.operator_key}
    url = f"http://127.0.0.1:{own.port}/api/apis/demo-api"
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.get(url) as shown:
            definition = await shown.text()
        assert "127.0.0.1:9001/login" in definition
        text = definition.replace("127.0.0.1:9001/login", f"127.0.0.1:{port}/login")
        async with http.put(url, data=text, headers={"Content-Type": "application/json"}) as replaced:
            assert replaced.status == 200


async def test_e6_the_client_developer_guide(tmp_path: Path) -> None:
    """Metadata, a token of the client and one of a user, a refresh, and a revocation that ends the grant."""
    for said in await pasted_twice("client-developer.md", tmp_path):
        metadata, *answers = documents(said)
        assert metadata["token_endpoint"]
        assert [answer.get("error") or set(answer) for answer in answers] == [
            {"status"},
            {"status"},
            {"access_token", "expires_in", "token_type", "refresh_token", "scope"},
            {"status", "message"},
            "Key not authorised",
        ]
        assert re.search(r"^redirect uris +http://127\S+/callback, http://localhost:3000/callback$", said, re.M), said
        assert re.search(r"^307 http://127\.0\.0\.1:\d+/login\?\S*code_challenge=", said, re.MULTILINE), said


async def test_e6_the_identity_server_guide(tmp_path: Path) -> None:
    """The browser arrives at the login page, and the code request answers with the client's address."""
    for said in await pasted_twice("identity-server.md", tmp_path):
        assert re.search(r"^200 http://127\.0\.0\.1:\d+/login\?\S*state=af0ifjsldkj", said, re.MULTILINE), said
        code, *changed = documents(said)
        assert [each["Message"] for each in changed] == ["API updated"] * 2
        assert re.search(r"^http://localhost:5000/login\?\S*state=af0ifjsldkj", said, re.MULTILINE), said
        assert set(code) == {"code", "redirect_to", "state"}
        assert f"{code['redirect_to']}".startswith("http://127.0.0.1:")


async def test_e6_the_operator_guide(tmp_path: Path) -> None:
    """API, policy, client; a call that is allowed and one that is not; lists, rotation, revocation, deletion."""
    for said in await pasted_twice("operator.md", tmp_path):
        calls, audit = documents(said), re.search(r'"action": ?"client\.created"', said)
        assert audit, said
        messages = [each.get("error") or each.get("Message") for each in calls]
        allowed, refused = calls[0], messages[1]
        assert {"orders", "client", "user"} == set(allowed)
        assert refused == "Access to this resource has been disallowed"
        assert "Key not authorised" in messages
        assert messages[-3:] == ["Operator deleted", "API deleted", "Data deleted"]


async def test_e1_the_command_line_guide(tmp_path: Path) -> None:
    """A profile, records, events, grants, definitions and an operator, with the command line of this checkout."""
    command = tmp_path / "bin" / "tokenwire"  # no shell function: `kill $!` would end its subshell, and not the command
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cli "$@"\n')
    command.chmod(0o755)
    before = f"PATH={shlex.quote(str(command.parent))}:$PATH"
    for said in await pasted_twice("command-line.md", tmp_path, before):
        assert "tokenwire: " not in said, said
        assert "Usage: " not in said, said
        for sentence in (
            "all is well",
            "order-desk: created",
            "At the counter",
            "grant revoked",
            "demo-api: would be replaced",
            "Operator deleted",
            "User deleted",
            "Data deleted",
        ):
            assert sentence in said, said
        assert re.search(r"^\S+Z  token\.new +api=demo-api client=demo-client", said, re.MULTILINE), said


async def test_e6_the_webhook_receiver_guide(tmp_path: Path) -> None:
    """The receiver takes a test event and one for each token, the one without a library another; forged ones neither.

    Both verify with the signing secret of the API.
    """
    for said in await pasted_twice("webhook-receiver.md", tmp_path):
        assert sorted(re.findall(r"^webhook: (\w+)$", said, re.MULTILINE)) == ["new", "new", "new", "refresh"], said
        assert said.count("the test webhook was delivered") == 2, said
        assert "without a signature: 401" in said
        assert "forged: 401" in said
        (deliveries,) = [each["deliveries"] for each in documents(said) if "deliveries" in each]
        assert isinstance(deliveries, list)
        assert sorted(each["event_type"] for each in deliveries) == ["token.new", "token.refresh"]


def test_e6_the_receivers_of_the_guide_have_thirty_lines() -> None:
    """They stay short enough to be read before they are pasted, and know only the signing secret."""
    page = (GUIDES / "webhook-receiver.md").read_text(encoding="utf-8")
    programs = re.findall(r"<<'END'\n(.*?)\nEND\n", page, re.S)
    assert len(programs) == 2
    for code in programs:
        assert len([line for line in code.splitlines() if line.strip()]) <= 30
        assert "WEBHOOK_SECRET" in code


async def test_e6_the_event_stream_of_the_guide(tmp_path: Path) -> None:
    """The subscriber prints the token that is issued while it is connected."""
    for said in await pasted_twice("event-subscriber.md", tmp_path):
        assert re.search(r"token\.new .*client_id=demo-client", said), said


async def test_e6_the_queue_of_the_guide(tmp_path: Path, rabbitmq: brokers.Broker) -> None:
    """With the user and the policy of the guide, a subscriber gets what was published while it was away."""
    rights, start, follow = sections(GUIDES / "event-subscriber.md")["Over RabbitMQ, without a gap"]
    url = rabbitmq.new_vhost()
    address = urlsplit(url)
    commands = [shlex.split(line) for line in rights.splitlines()]
    assert all(command[0] == "rabbitmqctl" for command in commands)
    async with own_tokenwire(tmp_path, tmp_path / "data", TOKENWIRE_AMQP_URL=url) as own, shell(tmp_path) as terminal:
        assert f"TOKENWIRE_AMQP_URL={url}" == start.split()[0].replace("amqp://guest:guest@127.0.0.1/", url)
        try:
            for command in commands:
                rabbitmq.ctl(*[address.path.strip("/") if word == "/" else word for word in command[1:]])
            await own.start()
            moved_to = {
                "127.0.0.1:8081": f"127.0.0.1:{own.port}",
                "@127.0.0.1/": f"@{address.hostname}:{address.port}{address.path}",
            }
            said = await terminal.paste(moved(follow, own, Ports.free(), moved_to))
        finally:
            rabbitmq.ctl("delete_user", "billing")
        assert said.count("sub.billing is bound to tokenwire.events") == 2
        ids = re.findall(r"token\.new +#1 (grant_id=\S+|.*?grant_id=\S+)", said)
        assert len(set(ids)) == 2, said
        assert await own.program.stop() == 0
