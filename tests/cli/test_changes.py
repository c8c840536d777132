"""`tokenwire clients | users | operators | policies`: what they create, change and revoke."""

import json
from pathlib import Path

from contracts.operators import Permission
from tests.builders import make_operator, unique
from tests.cli.conftest import CommandLine
from tests.services.system import System

CALLBACK = "https://app.example.test/callback"


async def test_e1_a_client_app_is_registered_and_changed(tokenwire: CommandLine, system: System) -> None:
    """The secret is shown to give it away; an update touches only what it names; an empty id removes all policies."""
    party = await system.party()
    at = ("--api", party.api.api_id)
    name = unique("app")
    created = await tokenwire("clients", "create", *at, "--id", name, "--redirect-uri", CALLBACK, "--name", "Shop")
    assert created.status == 0, created.err
    shown = (await tokenwire("clients", "show", name, *at)).json
    assert shown["secret"] in created.out
    assert (shown["client_name"], shown["redirect_uris"]) == ("Shop", [CALLBACK])
    other = f"{CALLBACK}/2"
    uris = ("--redirect-uri", CALLBACK, "--redirect-uri", other)
    changed = await tokenwire("clients", "update", name, *at, *uris, "--resource-server", "--json")
    assert (changed.status, changed.json["redirect_uris"], changed.json["resource_server"]) == (
        0,
        [CALLBACK, other],
        True,
    )
    assert changed.json["client_name"] == "Shop"
    assert (await tokenwire("clients", "update", name, *at, "--policy", "", "--json")).json["policy_ids"] == []
    nothing = await tokenwire("clients", "update", name, *at)
    assert (nothing.status, "nothing to change" in nothing.err) == (2, True), nothing.err
    taken = await tokenwire("clients", "create", *at, "--id", name)
    assert (taken.status, "HTTP 409" in taken.err) == (1, True), taken.err
    everywhere = await tokenwire("clients", "list", "--json")
    assert name in [client["client_id"] for client in everywhere.json]
    assert name in (await tokenwire("clients", "list", *at)).out


async def test_e1_a_user_is_created_disabled_and_gets_a_new_password(
    tokenwire: CommandLine, system: System, tmp_path: Path
) -> None:
    """The password comes from a file or a prompt that asks twice, and is never printed."""
    party, name, first, second = await system.party(), unique("user"), "correct horse battery", "staple of horses"
    (tmp_path / "password").write_text(f"{first}\n")
    created = await tokenwire("users", "create", name, "--password-file", "password")
    assert (created.status, first in created.out) == (0, False), created.err
    assert (await party.password(name, first)).status == 200
    unequal = await tokenwire("users", "password", name, given=f"{second}\nanother\n")
    assert unequal.status == 1
    changed = await tokenwire("users", "password", name, given=f"{second}\n{second}\n")
    assert (changed.status, second in changed.out) == (0, False), changed.err
    assert [(await party.password(name, each)).status for each in (first, second)] == [400, 200]
    disabled = await tokenwire("users", "disable", name)
    assert (disabled.status, "users revoke-all" in disabled.out) == (0, True), disabled.err
    assert (await party.password(name, second)).status == 400
    assert (await tokenwire("users", "enable", name, "--json")).json["active"] is True
    assert (await party.password(name, second)).status == 200
    missing = await tokenwire("users", "create", name, "--password-file", "nowhere")
    assert (missing.status, "nowhere" in missing.err) == (1, True), missing.err


async def test_e2_operators_get_keys_that_are_shown_once(tokenwire: CommandLine, system: System) -> None:
    """Created, rotated with an overlap, revoked; the standard error says that the key is not shown again."""
    created = await tokenwire("operators", "create", "Auditor", "-p", "read", "-p", "revoke", "--json")
    operator = created.json
    assert (operator["permissions"], operator["key"][:6]) == (["read", "revoke"], "tw_ok_")
    own = await tokenwire("operators", "show", TOKENWIRE_OPERATOR_KEY=operator["key"])
    assert own.json["operator_id"] == operator["operator_id"]
    rotated = await tokenwire("operators", "rotate", operator["operator_id"], "--overlap", "60")
    (line,) = [line for line in rotated.out.splitlines() if line.startswith("key ")]
    assert ("not shown again" in rotated.err, operator["key"] in rotated.out) == (True, False)
    for key in (operator["key"], line.split()[1]):
        assert (await tokenwire("operators", "show", TOKENWIRE_OPERATOR_KEY=key)).status == 0
    listed = await tokenwire("operators", "list")
    assert (operator["operator_id"] in listed.out, "tw_ok_" in listed.out) == (True, False)
    assert (await tokenwire("operators", "revoke", operator["operator_id"], "--yes")).status == 0
    refused = await tokenwire("operators", "show", TOKENWIRE_OPERATOR_KEY=line.split()[1])
    assert (refused.status, "tokenwire login" in refused.err) == (1, True), refused.err
    unknown = await tokenwire("operators", "create", "Auditor", "-p", "everything")
    assert unknown.status == 2


async def test_e1_a_key_that_may_not_do_it_is_told_where_to_look(tokenwire: CommandLine, system: System) -> None:
    """403 names the command that shows what the key may do."""
    key = await make_operator(system.deps, Permission.READ)
    refused = await tokenwire("users", "revoke-all", "alice", "--yes", TOKENWIRE_OPERATOR_KEY=key)
    assert (refused.status, "`tokenwire operators show`" in refused.err) == (1, True), refused.err


async def test_e1_policies_are_applied_by_their_id(tokenwire: CommandLine, system: System, tmp_path: Path) -> None:
    """A directory creates, a second run replaces; warnings are shown; without an id nothing is sent."""
    party, first, second = await system.party(), unique("policy"), unique("policy")
    right = {party.api.api_id: {"api_id": party.api.api_id, "versions": ["Default"]}}
    (tmp_path / "policies").mkdir()
    document = {"id": first, "name": "First", "rate": 5, "per": 1, "access_rights": right}
    (tmp_path / "policies" / "first.json").write_text(json.dumps(document))
    (tmp_path / "policies" / "second.yaml").write_text(
        f"id: {second}\nname: Second\naccess_rights:\n  gone-api:\n    api_id: gone-api\n    versions: [Default]\n"
    )
    applied = await tokenwire("policies", "apply", "policies")
    assert applied.status == 0, applied.err
    assert f"{first}: created\n{second}: created\n" in applied.out
    assert "gone-api" in applied.out
    again = await tokenwire("policies", "apply", "-", "--json", given=json.dumps(document | {"rate": 7}))
    assert [(each["id"], each["result"]) for each in again.json] == [(first, "replaced")]
    assert (await tokenwire("policies", "show", first)).json["rate"] == 7
    assert f"{first} " in (await tokenwire("policies", "list")).out
    nameless = await tokenwire("policies", "apply", "-", given="{}")
    assert (nameless.status, "with an `id`" in nameless.err) == (1, True), nameless.err
    damaged = await tokenwire("policies", "apply", "-", given="{]")
    assert (damaged.status, "standard input is not JSON or YAML" in damaged.err) == (1, True), damaged.err
    assert (await tokenwire("policies", "delete", first, "--yes")).status == 0
