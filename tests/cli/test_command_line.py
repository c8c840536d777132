"""`tokenwire`: profiles, records, revocation, errors, and the commands of the services behind it."""

import stat
from pathlib import Path

from contracts.operators import Permission
from libs.version import VERSION
from tests.builders import make_operator
from tests.cli.conftest import CommandLine, url_of
from tests.services.system import System


async def test_e1_login_keeps_a_key_that_works_and_only_its_owner_can_read_it(system: System, tmp_path: Path) -> None:
    """A wrong key is refused and not kept; profiles are separate; the environment wins over a profile."""
    tokenwire = CommandLine(tmp_path)
    party, key = await system.party(), await make_operator(system.deps, Permission.READ)
    wrong = await tokenwire("login", "--url", url_of(system), given="wrong\n")
    assert (wrong.status, "Not authorised (HTTP 401)" in wrong.err) == (1, True), wrong.err
    without_scheme = await tokenwire("login", "--url", url_of(system).removeprefix("http://"), given=f"{key}\n")
    assert (without_scheme.status, "does not begin with https://" in without_scheme.err) == (2, True), without_scheme
    before = await tokenwire("apis", "list")
    assert (before.status, "tokenwire login" in before.err) == (1, True), before.err
    kept = await tokenwire("login", "--url", url_of(system), "--profile", "staging", given=f"{key}\n")
    assert (kept.status, key in kept.out + kept.err) == (0, False), kept.err
    file = tmp_path / "tokenwire" / "profiles.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    listed = await tokenwire("apis", "list", "--profile", "staging", "--json")
    assert party.api.api_id in [entry["api_definition"]["api_id"] for entry in listed.json]
    assert (await tokenwire("apis", "list", TOKENWIRE_PROFILE="staging")).status == 0
    other = await tokenwire("apis", "list", "--profile", "staging", TOKENWIRE_URL="http://127.0.0.1:9")
    assert (other.status, "cannot be reached" in other.err) == (3, True), other.err
    file.write_text("{")
    damaged = await tokenwire("apis", "list")
    assert (damaged.status, "run `tokenwire login` again" in damaged.err) == (1, True), damaged.err


async def test_e1_records_are_listed_shown_and_deleted(tokenwire: CommandLine, system: System) -> None:
    """Tables for people, JSON for scripts, confirmation before a deletion, the server's own message on refusal."""
    party, user = await system.party(), await system.user()
    table = await tokenwire("apis", "list")
    assert (table.status, party.api.api_id in table.out) == (0, True), table.err
    clients = await tokenwire("clients", "list", "--api", party.api.api_id, "--json")
    assert [client["client_id"] for client in clients.json] == [party.id]
    shown = await tokenwire("clients", "show", party.id, "--api", party.api.api_id)
    assert shown.json["secret"] == party.secret
    rotated = await tokenwire("clients", "rotate", party.id, "--api", party.api.api_id, "--overlap", "60")
    assert rotated.json["secret"] != party.secret
    kept = await tokenwire("users", "delete", user.username, given="n\n")
    assert kept.status == 1
    assert (await tokenwire("users", "show", user.username)).json["username"] == user.username
    assert (await tokenwire("users", "delete", user.username, "--yes")).out == "User deleted\n"
    gone = await tokenwire("users", "show", user.username)
    assert (gone.status, gone.err) == (1, "tokenwire: user not found (HTTP 404)\n")


async def test_e1_tokens_are_listed_and_revoked(tokenwire: CommandLine, system: System) -> None:
    """One by its id, then all of the client."""
    party = await system.party()
    one, two = await party.tokens(), await party.tokens()
    listed = (await tokenwire("tokens", "list", party.id, "--json")).json
    assert len(listed) == 2
    assert (await tokenwire("tokens", "revoke", party.id, listed[0]["code"])).status == 0
    assert sorted([(await party.verify(each.access)).status for each in (one, two)]) == [200, 403]
    assert (await tokenwire("tokens", "revoke-all", party.id, "--yes")).status == 0
    assert [(await party.verify(each.access)).status for each in (one, two)] == [403, 403]


async def test_e1_commands_of_the_services_keep_their_arguments_and_status(tmp_path: Path) -> None:
    """`tokenwire config-lint` is `python -m services config-lint`, with its own help, errors and exit status."""
    tokenwire = CommandLine(tmp_path)
    assert (await tokenwire("--version")).out == f"tokenwire {VERSION}\n"
    assert (await tokenwire("nothing")).status == 2
    helped = await tokenwire.process("config-lint", "--help")
    assert (helped.status, "--level" in helped.out) == (0, True)
    wrong = await tokenwire.process("run", "--port", "many")
    assert (wrong.status, "--port" in wrong.err) == (2, True), wrong.err


async def test_e1_server_commands_have_a_form_of_two_words(tmp_path: Path) -> None:
    """`config lint`, `dead-letters list` and `dead-letters redrive` are the commands with one word."""
    tokenwire = CommandLine(tmp_path)
    linted = await tokenwire.process("config", "lint", "--help")
    assert (linted.status, "--level" in linted.out) == (0, True), linted.err
    counted = await tokenwire.process("dead-letters", "list")
    assert "dead-letters: TOKENWIRE_AMQP_URL is not set" in counted.err
    redriven = await tokenwire.process("dead-letters", "redrive", "nothing")
    assert (redriven.status, "nothing" in redriven.err) == (2, True), redriven.err


async def test_e1_a_failure_is_one_line(tmp_path: Path) -> None:
    """On the standard error, with the exit status, and without a traceback."""
    outcome = await CommandLine(tmp_path).process("apis", "list")
    assert (outcome.status, outcome.out) == (1, "")
    assert " ".join(outcome.err.split()).startswith("tokenwire: no server is known for the profile 'default'; run")


async def test_e1_a_server_that_answers_something_else_is_named(system: System, tmp_path: Path) -> None:
    """A URL that is no Tokenwire is an error that says what came back, not a traceback."""
    tokenwire = CommandLine(tmp_path, {"TOKENWIRE_URL": f"{url_of(system)}/nothing", "TOKENWIRE_OPERATOR_KEY": "x"})
    outcome = await tokenwire("policies", "list")
    assert outcome.status == 1
    assert "HTTP 404" in outcome.err
    assert "Traceback" not in outcome.err
