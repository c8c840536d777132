"""`tokenwire grants`, `users revoke-all`, `audit list`: the state of grants, their history and their end."""

import json

from tests.builders import settle, unique
from tests.cli.conftest import CommandLine
from tests.services.system import System


async def test_e1_grants_are_listed_by_client_api_user_and_state(tokenwire: CommandLine, system: System) -> None:
    """Every filter of the management API, alone and together; a table shows ids that can be copied whole."""
    party, other = await system.party(), await system.party()
    user = unique("user")
    await party.tokens(subject=user)
    await other.tokens(subject=user)
    listed = (await tokenwire("grants", "list", "--subject", user, "--json")).json
    assert {grant["client_id"] for grant in listed} == {party.id, other.id}
    for option, value in (("--client", party.id), ("--api", party.api.api_id)):
        (grant,) = (await tokenwire("grants", "list", "--subject", user, option, value, "--json")).json
        assert (grant["client_id"], grant["state"]) == (party.id, "active")
    assert (await tokenwire("grants", "list", "--subject", user, "--state", "revoked", "--json")).json == []
    table = await tokenwire("grants", "list", "--subject", user, COLUMNS="80")
    assert all(grant["grant_id"] in table.out for grant in listed), table.out
    wrong = await tokenwire("grants", "list", "--state", "lost")
    assert (wrong.status, "'pending', 'active', 'revoked'" in wrong.err) == (2, True), wrong.err


async def test_e1_a_limit_says_that_there_is_more(tokenwire: CommandLine, system: System) -> None:
    """Fewer records than there are end with a sentence on the standard error, and --limit 0 shows all."""
    party = await system.party()
    for _ in range(3):
        await party.tokens()
    some = await tokenwire("grants", "list", "--client", party.id, "--limit", "2", "--json")
    assert (len(some.json), some.err) == (2, "only the first 2 are shown; --limit 0 shows all\n")
    every = await tokenwire("grants", "list", "--client", party.id, "--limit", "0", "--json")
    assert (len(every.json), every.err) == (3, "")


async def test_e1_a_grant_is_found_by_its_token_shown_and_ended(tokenwire: CommandLine, system: System) -> None:
    """The token comes from a pipe and is not repeated; the timeline names who did what; the grant ends at once."""
    party, user = await system.party(), unique("user")
    tokens = await party.tokens(subject=user)
    found = await tokenwire("grants", "lookup", given=f"{tokens.access}\n")
    assert found.out.startswith("access token, valid\n"), found.out
    assert tokens.access not in found.out + found.err
    grant_id = (await tokenwire("grants", "lookup", "--json", given=f"{tokens.access}\n")).json["grant"]["grant_id"]
    assert grant_id in found.out
    assert (await tokenwire("grants", "show", grant_id)).json["subject"] == user
    kept = await tokenwire("grants", "revoke", grant_id, given="n\n")
    assert (kept.status, (await party.verify(tokens.access)).status) == (1, 200)
    ended = await tokenwire("grants", "revoke", grant_id, "--yes")
    assert (ended.status, (await party.verify(tokens.access)).status) == (0, 403), ended.err
    await settle(system.deps)
    table = await tokenwire("grants", "timeline", grant_id)
    for word in ("code.issued", "token.new", "grant.revoked", "an operator of the tests", "operator"):
        assert word in table.out, table.out
    entries = (await tokenwire("grants", "timeline", grant_id, "--json")).json["entries"]
    assert [entry["type"] for entry in entries][-1] == "grant.revoked"
    gone = await tokenwire("grants", "show", "nothing")
    assert (gone.status, "HTTP 404" in gone.err) == (1, True), gone.err


async def test_e1_an_id_that_begins_with_a_dash_is_no_option(tokenwire: CommandLine, system: System) -> None:
    """One id of 64 does; no letter of it is taken for an option, such as `y` for --yes."""
    grant_id, party = "-pYwuaR-zHEoDbA5a026qy", await system.party()
    for arguments in (("show", grant_id), ("timeline", grant_id, "--json"), ("revoke", grant_id, "--yes")):
        missing = await tokenwire("grants", *arguments)
        assert (missing.status, "HTTP 404" in missing.err) == (1, True), missing.err
    asked = await tokenwire("grants", "revoke", grant_id, given="n\n")
    assert f"End the grant '{grant_id}'?" in asked.out
    revoked = await tokenwire("tokens", "revoke", party.id, f"{grant_id}.1")
    assert revoked.status == 0, revoked.err


async def test_e2_a_user_is_off_boarded_with_one_command(tokenwire: CommandLine, system: System) -> None:
    """Every grant of the user ends, on all APIs; the name may have any characters; others keep their tokens."""
    party, other = await system.party(), await system.party()
    user = unique("a/b ü")
    tokens = [await party.tokens(subject=user), await other.tokens(subject=user)]
    kept = await party.tokens(subject=unique("user"))
    outcome = await tokenwire("users", "revoke-all", user, "--yes", "--json")
    assert (outcome.status, outcome.json["Meta"]["ended"]) == (0, 2), outcome.err
    assert (await party.verify(tokens[0].access)).status == 403
    assert (await other.verify(tokens[1].access)).status == 403
    assert (await party.verify(kept.access)).status == 200


async def test_e1_the_audit_log_is_filtered(tokenwire: CommandLine, system: System) -> None:
    """By action, record, operator and time, relative or absolute."""
    created = (await tokenwire("operators", "create", unique("auditor"), "-p", "read", "--json")).json
    await settle(system.deps)
    listed = await tokenwire("audit", "list", "--subject", created["operator_id"], "--action", "operator.*", "--json")
    (entry,) = listed.json
    assert entry["action"] == "operator.created"
    table = await tokenwire("audit", "list", "--subject", created["operator_id"], "--since", "1h")
    assert "operator.created" in table.out
    assert "an operator of the tests" in table.out
    ended = ("--until", "2026-01-01T00:00:00Z")
    assert (await tokenwire("audit", "list", "--subject", created["operator_id"], *ended)).out == "nothing found\n"
    wrong = await tokenwire("audit", "list", "--since", "yesterday")
    assert (wrong.status, "15m" in wrong.err) == (2, True), wrong.err


async def test_e1_watch_redraws_a_list_on_a_terminal(tokenwire: CommandLine, system: System) -> None:
    """In place, with the time and how to end it."""
    party = await system.party()
    await party.tokens()
    arguments = ("grants", "list", "--client", party.id, "--watch", "0.2")
    shown = await tokenwire.on_a_terminal(*arguments, until="\x1b[1A")  # the cursor goes up a line
    (grant,) = (await tokenwire("grants", "list", "--client", party.id, "--json")).json
    assert "every 0.2 s; Ctrl-C ends" in shown
    assert grant["grant_id"] in shown


async def test_e1_watch_repeats_a_list_until_it_is_interrupted(tokenwire: CommandLine, system: System) -> None:
    """Not on a terminal: one list after the other, as one line of JSON each; Ctrl-C ends it with status 130."""
    party = await system.party()
    await party.tokens()
    async with tokenwire.running("grants", "list", "--client", party.id, "--watch", "0.2", "--json") as running:
        first = json.loads(await running.line())
        await party.tokens()
        lists = [json.loads(await running.line()) for _ in range(20)]
        assert (len(first), len(lists[-1])) == (1, 2)
        assert await running.interrupt() == 130
        assert "Traceback" not in await running.errors()
