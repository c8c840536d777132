"""Every shell block of the README, pasted into a shell."""

import json
import re
import sys
from pathlib import Path

from tests.acceptance.pasted_pages import Ports, moved, sections, shell
from tests.acceptance.programs import ROOT
from tests.acceptance.test_make_run import Own, own_tokenwire
from tests.ports import free_port
from tests.provision import rabbitmq

README = sections(ROOT / "README.md")
ALONE = {"Checking tokens", "Usage analytics"}
"""Sections that are pasted alone, each into a new shell."""


def documents(said: str) -> list[dict[str, object]]:
    """The JSON objects in the output, one a line."""
    return [json.loads(line) for line in re.findall(r"^\{.*\}$", said, re.MULTILINE)]


def test_e7_every_block_is_pasted() -> None:
    """No section of the README has a shell block that no test of this file runs."""
    assert README.keys() == ALONE | {"A first session", "Your own MongoDB and RabbitMQ"}


async def test_e7_the_first_session_works_pasted_at_once_and_twice(tmp_path: Path) -> None:
    """Every command prints what the text around it says, also the second time; nothing prints a traceback."""
    ports = Ports.free()
    async with own_tokenwire(tmp_path, tmp_path / "data") as own, shell(tmp_path) as terminal:
        await own.start()
        everything = moved("\n".join(README["A first session"]), own, ports)
        for expected in (own.port, ports.receiver, ports.upstream):
            assert f"127.0.0.1:{expected}" in everything
        for _ in range(2):
            assert_told(await terminal.paste(everything))
        assert await own.program.stop() == 0


def assert_told(said: str) -> None:
    """The output of one whole session."""
    assert "Traceback" not in said, said
    assert "curl: (7)" not in said, said
    assert "onKeyChangeUrl: " in said
    assert "upstream may now be " in said
    client_id = re.search(r"^[Ll]ocation: http://identityserver\.com/\S*client_id=(\w+)", said, re.MULTILINE)
    assert client_id, said
    assert re.search(r"^HTTP/1\.1 200 OK\s[\s\S]*^X-Tokenwire-Client-Id: " + client_id[1], said, re.MULTILINE), said
    told = documents(said)
    kinds = [each.get("error") or each.get("message") or each.get("Message") or set(each) for each in told]
    assert kinds == [
        {"access_token", "expires_in", "token_type"},
        {"access_token", "expires_in", "token_type", "refresh_token"},
        {"orders", "client", "user"},
        "Key not authorised",
        {"orders", "client", "user"},
        {"status"},
        "token revoked successfully",
        "Key not authorised",
        {"deliveries", "next"},
        "API deleted",
    ]
    (listed,) = [each["deliveries"] for each in told if "deliveries" in each]
    assert isinstance(listed, list)
    assert [delivery["event_type"] for delivery in listed] == ["token.refresh", "token.new"]
    assert {delivery["client_id"] for delivery in listed} == {client_id[1]}
    assert "webhook " in said


async def test_e7_the_other_sections_stand_alone(tmp_path: Path) -> None:
    """Each section works in a new shell, without what another section defined."""
    async with own_tokenwire(tmp_path, tmp_path / "data") as own:
        await own.start()
        (introspected,) = documents(await pasted_alone("Checking tokens", own, tmp_path / "tokens"))
        assert (introspected["active"], introspected["client_id"]) == (True, "demo-client")
        (counted,) = documents(await pasted_alone("Usage analytics", own, tmp_path / "analytics"))
        assert "clients" in counted


async def pasted_alone(section: str, own: Own, home: Path) -> str:
    home.mkdir()
    async with shell(home) as terminal:
        said = await terminal.paste(moved("\n".join(README[section]), own, Ports.free()))
    assert "Traceback" not in said
    return said


async def test_e7_make_run_uses_the_servers_that_are_named(
    tmp_path: Path, mongodb_url: str, rabbitmq: rabbitmq.Broker
) -> None:
    """The command with the URLs of one's own servers starts on them, without a demo client."""
    (command,) = README["Your own MongoDB and RabbitMQ"]
    urls = {
        "mongodb://user:password@db.example.test/?replicaSet=rs0&authSource=admin": mongodb_url,
        "amqp://user:password@mq.example.test/": rabbitmq.new_vhost(),
    }
    for documented, real in urls.items():
        assert documented in command
        command = command.replace(documented, real)
    port, data = free_port(), tmp_path / "data"
    # What `make run` runs, once everything is installed; it must not install while other tests run.
    command = command.replace("make run", f"{sys.executable} -m services --port {port} --data '{data}'")
    started = f"TOKENWIRE_MONGODB_DATABASE=tokenwire_test_{port} {command.strip()} & RUN=$!"
    ready = f"curl -sS --retry 120 --retry-delay 1 --retry-connrefused http://127.0.0.1:{port}/readyz"
    async with shell(tmp_path) as terminal:
        said = await terminal.paste(f"{started}\n{ready}; kill $RUN; wait $RUN")
    # On a slow machine the banner comes before MongoDB and RabbitMQ are prepared; curl asks until they are.
    assert f" on http://127.0.0.1:{port}\n" in said, said
    assert re.search(r'"mongodb":"ok","bus":"ok"', said), said
    assert "demo client" not in said
    assert not (data / "mongodb").exists()
