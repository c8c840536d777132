"""`tokenwire apis import` and `export`: definitions from files, and what of them counts."""

import json
from pathlib import Path

import yaml

from contracts.operators import Permission
from tests.builders import api_document, make_operator
from tests.cli.conftest import CommandLine
from tests.services.system import System
from tests.unit.tyk_definitions import changed


def id_of(document: dict[str, object]) -> str:
    return str(document["x-tyk-api-gateway"]["info"]["id"])  # type: ignore[index]


async def test_e1_a_directory_is_imported_exported_and_imported_again(tokenwire: CommandLine, tmp_path: Path) -> None:
    """JSON, YAML and Classic; what exists is refused without --replace; an export is an import."""
    oas, in_yaml, classic = api_document(), api_document(), api_document("orders-classic.json")
    home = tmp_path / "apis"
    home.mkdir()
    (home / "a.json").write_text(json.dumps(oas))
    (home / "b.yaml").write_text(yaml.safe_dump(in_yaml))
    (home / "c.json").write_text(json.dumps(classic))
    (home / "notes.txt").write_text("no definition")
    ids = [id_of(oas), id_of(in_yaml), classic["api_id"]]

    tried = await tokenwire("apis", "import", "apis", "--dry-run")
    assert (tried.status, tried.out.count("would be created")) == (0, 3), tried.out + tried.err
    assert (await tokenwire("apis", "show", ids[0])).status == 1
    done = await tokenwire("apis", "import", "apis", "--json")
    assert (done.status, [each["api_id"] for each in done.json]) == (0, ids), done.err
    again = await tokenwire("apis", "import", "apis")
    assert (again.status, again.out.count("HTTP 409")) == (1, 3), again.out
    exported = await tokenwire("apis", "export", *ids, "--to", "exported")
    assert (exported.status, exported.err) == (0, "")
    assert sorted(file.stem for file in (tmp_path / "exported").iterdir()) == sorted(ids)
    replaced = await tokenwire("apis", "import", "exported", "--replace", "--json")
    assert {each["result"] for each in replaced.json} == {"replaced"}, replaced.out
    alone = await tokenwire("apis", "export", ids[0])
    assert alone.json["x-tyk-api-gateway"]["info"]["id"] == ids[0]
    assert ids[0] in [id_of(each) for each in (await tokenwire("apis", "export")).json if "x-tyk-api-gateway" in each]
    assert (await tokenwire("apis", "delete", ids[0], "--yes")).status == 0


async def test_e1_long_work_shows_its_progress_on_a_terminal_only(tokenwire: CommandLine, tmp_path: Path) -> None:
    """A bar for several definitions; nothing of it in a pipe."""
    documents = [api_document(), api_document()]
    (tmp_path / "all.json").write_text(json.dumps(documents))
    piped = await tokenwire.process("apis", "import", "all.json", "--dry-run")
    assert (piped.status, piped.err) == (0, "")
    shown = await tokenwire.on_a_terminal(
        "apis", "import", "all.json", "--dry-run", until=f"{id_of(documents[1])}: would"
    )
    assert "Importing" in shown


async def test_e1_an_import_says_what_counts_and_what_is_refused(tokenwire: CommandLine, tmp_path: Path) -> None:
    """Enforced, unused and refused parts by path; some refused is status 4, and accepting them is an option."""
    lists = {"enabled": True, "allow": ["10.0.0.0/8"]}
    guarded = changed(api_document(), "x-tyk-api-gateway/server/ipAccessControl", lists)
    refused = changed(api_document("orders-classic.json"), "use_mutual_tls_auth", True)
    (tmp_path / "both.json").write_text(json.dumps([guarded, refused]))
    outcome = await tokenwire("apis", "import", "both.json")
    assert outcome.status == 4, outcome.err
    assert f"{id_of(guarded)}: created (both.json[1])\n  enforced  " in outcome.out, outcome.out
    assert f"{refused['api_id']}: refused (both.json[2])\n" in outcome.out
    assert "  refused   use_mutual_tls_auth: " in outcome.out
    (tmp_path / "one.json").write_text(json.dumps(refused))
    accepted = await tokenwire("apis", "import", "one.json", "--accept-unsupported", "--json")
    assert (accepted.status, accepted.json[0]["result"]) == (0, "created"), accepted.err
    assert (await tokenwire("apis", "import", "-", given=json.dumps(refused))).status == 1


async def test_e1_a_file_that_is_no_definition_is_named(tokenwire: CommandLine, tmp_path: Path) -> None:
    """Missing, not JSON, an empty directory: one sentence each, and nothing is sent."""
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for name, said in (("nowhere.json", "cannot be read"), ("broken.json", "is not JSON"), ("empty", "has no files")):
        outcome = await tokenwire("apis", "import", name)
        assert (outcome.status, f"{name} {said}" in outcome.err) == (1, True), outcome.err


async def test_e1_an_export_without_the_right_to_see_secrets_says_so(tokenwire: CommandLine, system: System) -> None:
    """Masked definitions cannot be imported, so the one who exports hears of it."""
    notifications = {"onKeyChangeUrl": "https://a.example.test/", "sharedSecret": "a-secret-of-the-tests"}
    path = "x-tyk-api-gateway__server__authentication__securitySchemes__tykOAuth__notifications"
    party = await system.party(api_document(**{path: notifications}))
    key = await make_operator(system.deps, Permission.READ)
    exported = await tokenwire("apis", "export", party.api.api_id, TOKENWIRE_OPERATOR_KEY=key)
    assert (exported.status, "secrets are masked" in exported.err) == (0, True), exported.err
    assert "a-secret-of-the-tests" not in exported.out
