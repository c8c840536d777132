"""`tokenwire migrate tyk`, against a stand-in of Tyk's gateway and against exported files."""

import base64
import json
from pathlib import Path
from typing import Any

from tests.builders import CALLBACK, api_document, unique
from tests.cli.conftest import CommandLine, Outcome
from tests.cli.tyk_gateway import SECRET, TykGateway, tyk_gateway
from tests.services.system import System
from tests.unit.tyk_definitions import changed


def records() -> dict[str, Any]:
    """An OAS and a Classic API, one that needs mTLS, policies, and clients, some of which cannot move."""
    oas, classic = api_document(), api_document("orders-classic.json")
    oas_id = oas["x-tyk-api-gateway"]["info"]["id"]
    guarded = changed(api_document("orders-classic.json"), "use_mutual_tls_auth", True)
    gold, lost = unique("gold"), unique("lost")
    right: dict[str, Any] = {"api_id": oas_id, "api_name": "Orders", "versions": ["Default"]}
    right |= {"allowed_urls": None, "limit": None, "endpoints": [{"path": "/a", "methods": None}]}
    gone = {"api_id": "gone", "versions": ["Default"]}
    policy = {
        "_id": "5ead7120575961000181867e",
        "id": gold,
        "name": "Gold",
        "org_id": "1",
        "active": True,
        "rate": 1000,
    }
    policy |= {"per": 60, "quota_max": -1, "access_rights": {oas_id: right, "gone": gone}, "throttle_retry_limit": 3}
    client: dict[str, Any] = {
        "client_id": unique("app"),
        "secret": "c2VjcmV0LXNlY3JldC1zZWNyZXQtMTIzNDU2Nzg5MA==",
        "policy_id": gold,
    }
    client |= {"redirect_uri": f"{CALLBACK};{CALLBACK}/2", "meta_data": {"tier": "gold"}, "description": "An app"}
    other: dict[str, Any] = {
        "client_id": unique("classic"),
        "secret": "Zm9yLXRoZS1vdGhlci1hcHAtMTIzNDU2Nzg5MA==",
        "meta_data": None,
    }
    other |= {"redirect_uri": CALLBACK, "description": ""}
    orphan = other | {"client_id": unique("orphan"), "policy_id": lost}
    return {
        "oas": [oas],
        "classic": [classic, guarded],
        "policies": [policy],
        "clients": {oas_id: [client, orphan], classic["api_id"]: [other]},
        "keys": ["5e9d9544a1dcd60001d0ed20alice"],
    }


async def migrated(tokenwire: CommandLine, tyk: TykGateway, *more: str, **environment: str) -> Outcome:
    return await tokenwire("migrate", "tyk", "--gateway", tyk.url, *more, TYK_GATEWAY_SECRET=SECRET, **environment)


def actions(outcome: Outcome) -> dict[str, str]:
    """What became of each record, by its id."""
    return {record["id"]: record["action"] for record in outcome.json["records"]}


async def test_c6_a_running_gateway_is_moved_with_ids_secrets_and_policies(
    tokenwire: CommandLine, system: System
) -> None:
    """The plan writes nothing; --apply creates everything that can move, and the clients' old secrets work."""
    has = records()
    oas_id, classic_id = has["oas"][0]["x-tyk-api-gateway"]["info"]["id"], has["classic"][0]["api_id"]
    guarded_id, gold = has["classic"][1]["api_id"], has["policies"][0]["id"]
    (client, orphan), (other,) = has["clients"][oas_id], has["clients"][classic_id]
    async with tyk_gateway(**has) as tyk:
        planned = await migrated(tokenwire, tyk, "--json")
        assert planned.status == 4, planned.err  # something cannot move
        expected = dict.fromkeys((oas_id, classic_id, gold, client["client_id"], other["client_id"]), "create")
        expected |= dict.fromkeys((guarded_id, orphan["client_id"]), "cannot move")
        assert actions(planned) == expected
        assert (await system.operator("GET", f"/api/apis/{oas_id}")).status == 404
        assert "Nothing has been written" in (tokenwire.home / "tyk-migration.md").read_text()

        applied = await migrated(tokenwire, tyk, "--apply", "--json", "--report", "done.md")
        assert (applied.status, actions(applied)) == (4, expected), applied.err
        assert {method for method, _ in tyk.requests} == {"GET"}

        shown = (await system.operator("GET", f"/api/apis/oauth/{oas_id}/{client['client_id']}")).body
        assert shown["redirect_uris"] == [CALLBACK, f"{CALLBACK}/2"]
        assert {name: shown[name] for name in ("secret", "policy_id", "meta_data", "description")} == {
            name: client[name] for name in ("secret", "policy_id", "meta_data", "description")
        }
        policy = (await system.operator("GET", f"/api/portal/policies/{gold}")).body
        assert (policy["access_rights"].keys(), policy["rate"]) == ({oas_id}, 1000)
        path = has["oas"][0]["x-tyk-api-gateway"]["server"]["listenPath"]["value"]
        basic = base64.b64encode(f"{client['client_id']}:{client['secret']}".encode()).decode()
        token = await system.call(
            "POST",
            f"{path}oauth/token",
            data={"grant_type": "client_credentials"},
            headers={"Authorization": f"Basic {basic}"},
        )
        assert token.status == 200, token.raw

        report = (tokenwire.home / "done.md").read_text()
        for sentence in (
            f"api `{guarded_id}` (Orders): ",
            "use_mutual_tls_auth",
            "there is no such API",
            "1: tokens, and users of the password grant",
            "names no method",
            "Tokens do not",
        ):
            assert sentence in report, report
        for secret in (client["secret"], other["secret"], SECRET, tokenwire.settings["TOKENWIRE_OPERATOR_KEY"]):
            assert secret not in report + applied.out + applied.err + planned.out

        again = await migrated(tokenwire, tyk, "--apply", "--json")
        assert set(actions(again).values()) == {"unchanged", "cannot move"}, again.json


async def test_c6_a_repeated_migration_brings_what_has_changed(tokenwire: CommandLine, system: System) -> None:
    """A rotated secret, another redirect URI, an edited policy and definition at Tyk arrive with the next run."""
    has = records()
    oas_id, gold = has["oas"][0]["x-tyk-api-gateway"]["info"]["id"], has["policies"][0]["id"]
    client = has["clients"][oas_id][0]
    async with tyk_gateway(**has) as tyk:
        assert (await migrated(tokenwire, tyk, "--apply")).status == 4
        tyk.oas[0] = changed(tyk.oas[0], "x-tyk-api-gateway/info/name", "Renamed")
        tyk.policies[0]["rate"] = 7
        client |= {"secret": "YW5vdGhlci1zZWNyZXQtMTIzNDU2Nzg5MA==", "redirect_uri": f"{CALLBACK}/3"}
        changed_ones = {oas_id: "update", gold: "update", client["client_id"]: "update"}
        applied = actions(await migrated(tokenwire, tyk, "--apply", "--json"))
        assert {key: applied[key] for key in changed_ones} == changed_ones
    shown = (await system.operator("GET", f"/api/apis/oauth/{oas_id}/{client['client_id']}")).body
    assert (shown["secret"], shown["redirect_uri"]) == (client["secret"], f"{CALLBACK}/3")
    assert (await system.operator("GET", f"/api/portal/policies/{gold}")).body["rate"] == 7


async def test_c6_with_accept_unsupported_an_api_moves_and_the_report_says_what_is_not_enforced(
    tokenwire: CommandLine, system: System
) -> None:
    """Only if the operator says so; the same list is kept with the API."""
    guarded = changed(api_document("orders-classic.json"), "use_mutual_tls_auth", True)
    async with tyk_gateway(classic=[guarded]) as tyk:
        applied = await migrated(tokenwire, tyk, "--apply", "--json", "--accept-unsupported")
    assert (applied.status, actions(applied)) == (0, {guarded["api_id"]: "create"}), applied.err
    assert any("NOT ENFORCED" in warning for warning in applied.json["records"][0]["warnings"])
    assert (await system.operator("GET", f"/api/apis/{guarded['api_id']}")).status == 200


async def test_c6_exported_files_and_directories_are_moved(
    tokenwire: CommandLine, system: System, tmp_path: Path
) -> None:
    """The gateway's directories: definitions one a file, policies by id in one file, clients in a file by API."""
    has = records()
    oas_id, classic_id = has["oas"][0]["x-tyk-api-gateway"]["info"]["id"], has["classic"][0]["api_id"]
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "orders.json").write_text(json.dumps(has["oas"][0]))
    # Editors on Windows write a byte order mark, and many indent with tabs.
    (tmp_path / "apps" / "classic.json").write_text("\ufeff" + json.dumps(has["classic"][0], indent="\t"))
    (tmp_path / "apps" / "notes.json").write_text('"nothing of Tyk"')
    (tmp_path / "policies.json").write_text(
        json.dumps({policy["id"]: {**policy, "id": "", "_id": ""} for policy in has["policies"]})
    )
    (tmp_path / f"{oas_id}.json").write_text(json.dumps(has["clients"][oas_id][:1]))
    (tmp_path / "more.json").write_text(json.dumps({classic_id: has["clients"][classic_id]}))
    files = [str(tmp_path / name) for name in ("apps", "policies.json", f"{oas_id}.json", "more.json")]
    applied = await tokenwire("migrate", "tyk", *files, "--apply", "--json")
    assert applied.status == 0, applied.err + applied.out
    assert set(actions(applied).values()) == {"create"}
    assert len(actions(applied)) == 5
    assert any("notes.json" in note for note in applied.json["notes"])
    clients = [(oas_id, has["clients"][oas_id][0]), (classic_id, has["clients"][classic_id][0])]
    for api_id, client in clients:
        shown = (await system.operator("GET", f"/api/apis/oauth/{api_id}/{client['client_id']}")).body
        assert shown["secret"] == client["secret"]
    again = await tokenwire("migrate", "tyk", *files, "--apply", "--json")
    assert set(actions(again).values()) == {"unchanged"}, again.out


async def test_c6_the_directory_of_a_gateway_has_oas_definitions_twice(tokenwire: CommandLine, tmp_path: Path) -> None:
    """Beside `x-oas.json` Tyk keeps `x.json` with its internal form, which is not another API."""
    api = api_document()
    api_id = api["x-tyk-api-gateway"]["info"]["id"]
    internal = {"api_id": api_id, "is_oas": True, "name": "Orders", "proxy": {"listen_path": "/other/"}}
    (tmp_path / f"{api_id}.json").write_text(json.dumps(internal))
    (tmp_path / f"{api_id}-oas.json").write_text(json.dumps(api))
    planned = await tokenwire("migrate", "tyk", str(tmp_path), "--json")
    assert (planned.status, actions(planned), len(planned.json["records"])) == (0, {api_id: "create"}, 1), planned.out


async def test_c6_the_table_has_ids_and_names_and_the_reasons_are_below(tokenwire: CommandLine) -> None:
    """An id begins its line, to be copied; a reason is a line of its own."""
    has = records()
    guarded_id, gold = has["classic"][1]["api_id"], has["policies"][0]["id"]
    async with tyk_gateway(**has) as tyk:
        planned = await migrated(tokenwire, tyk)
    lines = [line.split() for line in planned.out.splitlines()]
    assert [guarded_id, "api", "Orders", "cannot", "move", "see", "below"] in lines
    assert [gold, "policy", "Gold", "to", "create", "3", "warnings"] in lines
    (reason,) = [line for line in planned.out.splitlines() if line.startswith(f"api {guarded_id} cannot move: ")]
    assert "use_mutual_tls_auth" in reason
    assert "The plan with all warnings is in tyk-migration.md." in planned.out


async def test_c2_references_to_the_environment_are_replaced_as_tyk_does(
    tokenwire: CommandLine, system: System, tmp_path: Path
) -> None:
    """In files, `env://NAME` is the variable of the command's environment; without it the plan names the part."""
    api = changed(api_document("orders-classic.json"), "proxy/target_url", "env://ORDERS_UPSTREAM")
    api = changed(api, "notifications/shared_secret", "env://ORDERS_SECRET")
    (tmp_path / "api.json").write_text(json.dumps(api))
    unset = await tokenwire("migrate", "tyk", str(tmp_path / "api.json"), "--json")
    assert (unset.status, "nothing replaces this reference" in unset.json["records"][0]["reason"]) == (4, True)
    values = {"ORDERS_UPSTREAM": "http://orders.example.test/", "ORDERS_SECRET": "a-secret-of-the-environment"}
    applied = await tokenwire("migrate", "tyk", str(tmp_path / "api.json"), "--apply", "--json", **values)
    assert (applied.status, actions(applied)) == (0, {api["api_id"]: "create"}), applied.err
    shown = (await system.operator("GET", f"/api/apis/{api['api_id']}")).body
    assert shown["proxy"]["target_url"] == values["ORDERS_UPSTREAM"]
    assert shown["notifications"]["shared_secret"] == values["ORDERS_SECRET"]


async def test_c6_a_plan_of_files_needs_no_server(tmp_path: Path) -> None:
    """Without `tokenwire login` the plan supposes an empty Tokenwire; --apply says what is missing."""
    (tmp_path / "api.json").write_text(json.dumps(api_document()))
    alone = CommandLine(tmp_path / "home")
    alone.home.mkdir()
    planned = await alone("migrate", "tyk", str(tmp_path / "api.json"))
    assert planned.status == 0, planned.err
    assert "to create" in planned.out
    assert "supposes that it is empty" in planned.out
    applied = await alone("migrate", "tyk", str(tmp_path / "api.json"), "--apply")
    assert applied.status == 1
    assert "tokenwire login" in applied.err
    assert "Traceback" not in applied.err


async def test_c6_failures_are_one_sentence(tokenwire: CommandLine, tmp_path: Path) -> None:
    """A wrong secret, a gateway that is away, a broken file, both sources at once."""
    async with tyk_gateway() as tyk:
        wrong = await tokenwire("migrate", "tyk", "--gateway", tyk.url, TYK_GATEWAY_SECRET="wrong")
    assert (wrong.status, "give the gateway's `secret`" in wrong.err) == (1, True), wrong.err
    away = await tokenwire("migrate", "tyk", "--gateway", "http://127.0.0.1:9", TYK_GATEWAY_SECRET="x")
    assert (away.status, "cannot be reached" in away.err) == (3, True), away.err
    (tmp_path / "broken.json").write_text("{")
    broken = await tokenwire("migrate", "tyk", str(tmp_path / "broken.json"))
    assert (broken.status, "broken.json cannot be read" in broken.err) == (1, True), broken.err
    missing = await tokenwire("migrate", "tyk", str(tmp_path / "missing.json"))
    assert (missing.status, "does not exist" in missing.err) == (1, True), missing.err
    both = await tokenwire("migrate", "tyk", str(tmp_path), "--gateway", "http://127.0.0.1:9")
    assert both.status == 2
    assert all("Traceback" not in outcome.err for outcome in (wrong, away, broken, missing, both))


async def test_c6_tokenwire_s_own_gateway_api_can_be_read_like_tyk_s(
    tokenwire: CommandLine, system: System, tmp_path: Path
) -> None:
    """The other way round: what was moved is read back through the Tyk gateway's API, and nothing has changed."""
    api = api_document()
    (tmp_path / "api.json").write_text(json.dumps(api))
    assert (await tokenwire("migrate", "tyk", str(tmp_path / "api.json"), "--apply")).status == 0
    url = tokenwire.settings["TOKENWIRE_URL"]
    read = await tokenwire(
        "migrate", "tyk", "--gateway", url, "--json", TYK_GATEWAY_SECRET=tokenwire.settings["TOKENWIRE_OPERATOR_KEY"]
    )
    assert actions(read)[api["x-tyk-api-gateway"]["info"]["id"]] == "unchanged", read.out + read.err
