"""/api/apis and /api/apis/oas: import, unique listen paths, deletion."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml

from contracts.apis import Api
from contracts.events import ApiData, ApiDeleted
from libs.bus.local import LocalBus
from libs.bus.outbox import messages_of
from libs.bus.port import Exchange, Message
from libs.event_encoding import new_event_id, pending
from libs.runtime import utc_now
from tests.builders import Caller, Response, api_document, make_api, make_client, settle, unique
from tests.services.management import Management, facts, management
from tests.unit.tyk_definitions import ABSENT, changed, definition

OAS = "orders-oas.json"
CLASSIC = "orders-classic.json"
OAS_ID = "x-tyk-api-gateway/info/id"
OAS_PATH = "x-tyk-api-gateway/server/listenPath/value"
OAS_SECRET = "x-tyk-api-gateway/server/authentication/securitySchemes/tykOAuth/notifications/sharedSecret"
MASK = "********"


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


def at(document: Any, path: str) -> Any:
    for key in path.split("/"):
        document = document[key]
    return document


async def imported(caller: Caller, document: dict[str, Any], path: str = "/api/apis") -> str:
    """Import the document; return the id."""
    response = await caller("POST", path, json=document)
    assert response.status == 200, response.body
    return str(response.body["ID"])


def wrapped(document: dict[str, Any]) -> dict[str, Any]:
    return {"api_definition": document, "hook_references": [], "is_site": False}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param("/api/apis/oas", "my-oauth-api.json", id="original-example-at-oas"),
        pytest.param("/api/apis", "my-oauth-api.json", id="original-example"),
        pytest.param("/api/apis/oas", OAS, id="oas-at-oas"),
        pytest.param("/api/apis", OAS, id="oas"),
        pytest.param("/api/apis", CLASSIC, id="classic"),
    ],
)
async def test_the_documented_definitions_import_as_they_are(mongodb_url: str, path: str, name: str) -> None:
    """Each test definition is imported unchanged, and returned with only its id added."""
    document = definition(name)
    async with management(mongodb_url) as service:
        response = await service.writer("POST", path, json=document)
        api_id = response.body["ID"]
        assert response.status == 200
        report = {"warnings": [WITHOUT_SCOPES], "enforced": [], "unused": [], "refused": []}
        meta = {"api_id": api_id, **report} if name == "my-oauth-api.json" else api_id
        assert response.body == {"Status": "OK", "Message": "API created", "Meta": meta, "ID": api_id}
        read = (await service.writer("GET", f"/api/apis/{api_id}")).body
        key = "api_id" if name == CLASSIC else OAS_ID
        assert at(read, key) == api_id
        assert read == changed(document, key, api_id)


WITHOUT_SCOPES = (
    "components.securitySchemes.oauth.flows: no flow declares scopes, so tokens have none and a request for one is "
    "refused; declare those that clients may ask for"
)


async def test_a19_a_definition_without_scopes_is_imported_with_a_warning(service: Management) -> None:
    """An OAuth definition without scopes is imported with a warning, in both formats."""
    classic = {name: member for name, member in api_document(CLASSIC).items() if name != "tokenwire"}
    flows = changed(api_document(), "components/securitySchemes/tykOAuth/flows", {"clientCredentials": {"scopes": {}}})
    for document, path in ((classic, "tokenwire.scopes"), (flows, "components.securitySchemes.tykOAuth.flows")):
        response = await service.writer("POST", "/api/apis", json=document)
        (warning,) = response.body["Meta"]["warnings"]
        assert warning.startswith(f"{path}: no ")


async def test_a8_unused_settings_are_returned_as_warnings(service: Management) -> None:
    """Unused settings are returned as warnings by POST and PUT; `Meta` also names the API, `ID` is unchanged."""
    document = changed(api_document(CLASSIC), "oauth_meta/allowed_acces_types", [])
    expected = "oauth_meta.allowed_acces_types: unknown, and not used; did you mean allowed_access_types?"
    response = await service.writer("POST", "/api/apis", json=document)
    api_id = document["api_id"]
    assert (response.status, response.body["ID"]) == (200, api_id)
    path, _, reason = expected.partition(": ")
    report = {"enforced": [], "unused": [{"path": path, "reason": reason}], "refused": []}
    assert response.body["Meta"] == {"api_id": api_id, "warnings": [expected], **report}
    response = await service.writer("PUT", f"/api/apis/{api_id}", json=document)
    assert response.body["Meta"] == {"api_id": api_id, "warnings": [expected], **report}


@pytest.mark.parametrize(
    ("document", "path", "own"),
    [
        pytest.param(
            api_document(**{"x-tyk-api-gateway__server__clientCertificates": {"enabled": True, "allowlist": ["c"]}}),
            "x-tyk-api-gateway.server.clientCertificates",
            "x-tokenwire",
            id="oas",
        ),
        pytest.param(api_document(CLASSIC, use_mutual_tls_auth=True), "use_mutual_tls_auth", "tokenwire", id="classic"),
    ],
)
async def test_a8_a_guard_that_is_not_supported_is_refused_unless_accepted(
    service: Management, document: dict[str, Any], path: str, own: str
) -> None:
    """An unsupported guard is refused by name unless accepted; the accepted list is stored, and GET's document can be
    sent back.
    """
    refused = await service.writer("POST", "/api/apis", json=document)
    assert refused.status == 400
    assert path in refused.message
    assert [field["path"] for field in refused.body["Meta"]["refused"]] == [path]
    assert (await service.writer("POST", "/api/apis?accept_unsupported=perhaps", json=document)).status == 400

    accepted = await service.writer("POST", "/api/apis?accept_unsupported=true", json=document)
    assert accepted.status == 200
    api_id = accepted.body["ID"]
    (warning,) = accepted.body["Meta"]["warnings"]
    assert warning.startswith(f"{path}: NOT ENFORCED")
    shown = (await service.reader("GET", f"/api/apis/{api_id}")).body
    assert shown[own]["acceptedUnsupported"] == [path]
    kept = await service.deps.store.apis.get(api_id)
    assert kept is not None
    assert [field.path for field in kept.unsupported] == [path]

    mine = (await service.writer("GET", f"/api/apis/{api_id}")).body
    assert (await service.writer("PUT", f"/api/apis/{api_id}", json=mine)).status == 200
    more = changed(
        mine, "enable_jwt" if own == "tokenwire" else "x-tyk-api-gateway/upstream/certificatePinning/enabled", True
    )
    assert (await service.writer("PUT", f"/api/apis/{api_id}", json=more)).status == 400
    del mine[own]
    assert (await service.writer("PUT", f"/api/apis/{api_id}", json=mine)).status == 400
    assert (await service.writer("PUT", f"/api/apis/{api_id}?accept_unsupported=true", json=mine)).status == 200


async def test_a_generated_id_is_32_hexadecimal_digits(service: Management) -> None:
    """A generated id fits in paths and routing keys."""
    api_id = await imported(service.writer, changed(api_document(), OAS_ID, ABSENT))
    assert len(api_id) == 32
    assert set(api_id) <= set("0123456789abcdef")


async def test_yaml_imports_as_json_does(service: Management) -> None:
    """YAML is imported like JSON; GET returns JSON."""
    document = api_document()
    body = yaml.safe_dump(document).encode()
    response = await service.writer("POST", "/api/apis/oas", data=body, headers={"Content-Type": "application/yaml"})
    assert response.status == 200
    assert (await service.writer("GET", f"/api/apis/oas/{response.body['ID']}")).body == document


async def test_curl_s_default_content_type_imports(service: Management) -> None:
    """`curl -d @file` sends the form media type; the content decides."""
    body = json.dumps(api_document()).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await service.writer("POST", "/api/apis/oas", data=body, headers=headers)).status == 200


async def test_a_wrapped_definition_comes_back_wrapped(service: Management) -> None:
    """A definition in the Dashboard's wrapper is returned in it."""
    document = wrapped(api_document(CLASSIC))
    api_id = await imported(service.writer, document)
    assert (await service.writer("GET", f"/api/apis/{api_id}")).body == document


async def test_the_list_is_the_dashboards(mongodb_url: str) -> None:
    """Entries have `api_definition`: Classic in full, as imported; OAS as a summary with `is_oas`."""
    bare, boxed, oas = api_document(CLASSIC), wrapped(api_document(CLASSIC)), api_document(OAS)
    async with management(mongodb_url) as service:
        for document in (bare, boxed, oas):
            await imported(service.writer, document)
        response = await service.writer("GET", "/api/apis")
        only_oas = await service.writer("GET", "/api/apis/oas")
    assert response.body["pages"] == 1
    entries = {entry["api_definition"]["api_id"]: entry for entry in response.body["apis"]}
    assert entries[bare["api_id"]] == {"api_definition": bare}
    assert entries[boxed["api_definition"]["api_id"]] == boxed
    outline = entries[at(oas, OAS_ID)]["api_definition"]
    assert (outline["is_oas"], outline["name"], outline["proxy"]["listen_path"]) == (True, "Orders", at(oas, OAS_PATH))
    assert len(entries) == 3
    assert only_oas.body == {"apis": [oas], "pages": 1}


async def test_lists_have_pages(mongodb_url: str) -> None:
    """`?p=` counts from 1 with 100 per page; negative returns all, non-numbers the first."""
    async with management(mongodb_url) as service:
        documents = [api_document(CLASSIC) for _ in range(101)]
        await asyncio.gather(*(make_api(service.deps, document) for document in documents))
        ids = sorted(document["api_id"] for document in documents)

        async def page(query: str) -> tuple[list[str], int]:
            body = (await service.reader("GET", f"/api/apis{query}")).body
            return [entry["api_definition"]["api_id"] for entry in body["apis"]], body["pages"]

        assert await page("") == (ids[:100], 2)
        assert await page("?p=1") == (ids[:100], 2)
        assert await page("?p=2") == (ids[100:], 2)
        assert await page("?p=3") == ([], 2)
        assert await page("?p=999999999") == ([], 2)
        assert await page("?p=-2") == (ids, 1)
        for not_a_page in ("0", "x", "", "9" * 30, "1;2", "%00"):
            assert await page(f"?p={not_a_page}") == (ids[:100], 2)


async def test_the_list_is_searched_by_id_name_and_listen_path(service: Management) -> None:
    """In any letter case, as text and not as a pattern; an empty text selects all."""
    word = unique("word")
    by_name = await make_api(service.deps, api_document(**{"x-tyk-api-gateway__info__name": f"(.*{word.upper()}"}))
    by_id = await make_api(service.deps, api_document(CLASSIC, api_id=f"{word}-id"))
    by_path = await make_api(service.deps, api_document(CLASSIC, proxy__listen_path=f"/a/{word}/"))
    await make_api(service.deps)

    async def found(query: dict[str, str]) -> set[str]:
        response = await service.reader("GET", "/api/apis", params=query)
        assert response.status == 200, response.body
        return {entry["api_definition"]["api_id"] for entry in response.body["apis"]}

    assert await found({"q": word}) == {by_name.api_id, by_id.api_id, by_path.api_id}
    assert await found({"q": f" (.*{word} "}) == {by_name.api_id}
    assert await found({"q": f"/a/{word}/"}) == {by_path.api_id}
    assert await found({"q": ".*"}) == {by_name.api_id}
    assert await found({"q": unique("nothing")}) == set()
    assert await found({"q": ""}) == await found({})


@pytest.mark.parametrize(
    ("query", "named"),
    [
        pytest.param({"q": "x" * 257}, "q", id="too-long"),
        pytest.param({"q": "a\0b"}, "q", id="nul"),
        pytest.param({"q": "a", "p": "2"}, "p", id="by-page"),
        pytest.param({"q": "a", "after": "nonsense"}, "after", id="no-cursor"),
    ],
)
async def test_a_wrong_search_is_refused(service: Management, query: dict[str, str], named: str) -> None:
    """400 that names the parameter."""
    response = await service.reader("GET", "/api/apis", params=query)
    assert (response.status, response.message.partition(":")[0]) == (400, named), response.body


async def test_a_search_looks_among_so_many_apis_and_goes_on_with_its_cursor(
    service: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every match is found once, however far apart they are; no request looks among more than the limit."""
    monkeypatch.setattr("libs.store.apis.MOST_SEARCHED", 3)
    word = unique("far")
    made = [
        await make_api(service.deps, api_document(CLASSIC, api_id=f"zz{n}-{word if n % 4 == 1 else 'x'}"))
        for n in range(9)
    ]
    found: list[str] = []
    query = {"q": word}
    for _ in range(100):
        body = (await service.reader("GET", "/api/apis", params=query)).body
        assert len(body["apis"]) <= 3
        found += [entry["api_definition"]["api_id"] for entry in body["apis"]]
        if "next" not in body:
            break
        query = {"q": word, "after": body["next"]}
    assert found == [made[1].api_id, made[5].api_id]


async def test_a_replacement_names_the_version_that_it_replaces(service: Management) -> None:
    """With `If-Match`, a definition that was changed since it was read is not replaced: 412; without it, or with `*`,
    whatever is stored is replaced. The dry run says the same.
    """
    document = api_document()
    path = f"/api/apis/{await imported(service.writer, document)}"
    first = (await service.writer("GET", path)).headers["ETag"]
    assert (await service.writer("GET", path.replace("/apis/", "/apis/oas/"))).headers["ETag"] == first

    async def replace(name: str, **headers: str) -> int:
        changed_document = changed(document, "x-tyk-api-gateway/info/name", name)
        for query in ({"dry_run": "true"}, {}):
            response = await service.writer("PUT", path, json=changed_document, headers=headers, params=query)
        return response.status

    assert await replace("One", **{"If-Match": first}) == 200
    second = (await service.writer("GET", path)).headers["ETag"]
    assert second != first
    assert await replace("Two", **{"If-Match": first}) == 412
    assert await replace("Two", **{"If-Match": "nonsense"}) == 412
    assert (await service.writer("GET", path)).headers["ETag"] == second
    assert await replace("Two", **{"If-Match": f"{first}, {second}"}) == 200
    assert await replace("Three", **{"If-Match": "*"}) == 200
    assert await replace("Four") == 200


async def test_an_empty_list_has_no_pages(mongodb_url: str) -> None:
    """An empty list has no pages."""
    async with management(mongodb_url) as service:
        for path in ("/api/apis", "/api/apis/oas", "/api/apis?p=-1"):
            assert (await service.reader("GET", path)).body == {"apis": [], "pages": 0}


async def test_a_classic_api_is_not_read_as_oas(service: Management) -> None:
    """A Classic API is not converted to OAS; the error says where its definition is."""
    api_id = await imported(service.writer, api_document(CLASSIC))
    response = await service.writer("GET", f"/api/apis/oas/{api_id}")
    assert response.status == 400
    assert "Classic" in response.message


async def test_oas_routes_take_oas_only(service: Management) -> None:
    """A Classic definition sent to /api/apis/oas is refused."""
    document = api_document(CLASSIC)
    assert (await service.writer("POST", "/api/apis/oas", json=document)).status == 400
    assert (await service.writer("GET", f"/api/apis/{document['api_id']}")).status == 404


# Secrets


@pytest.mark.parametrize("name", [OAS, CLASSIC, "wrapped"])
async def test_a_reader_sees_no_secret(service: Management, name: str) -> None:
    """The shared secret is shown only with `write`, else masked, in lists too."""
    document = wrapped(api_document(CLASSIC)) if name == "wrapped" else api_document(name)
    assert "s3cr3t" in json.dumps(document)
    api_id = await imported(service.writer, document)
    for path in (f"/api/apis/{api_id}", "/api/apis?p=-1", "/api/apis/oas?p=-1"):
        masked = await service.reader("GET", path)
        assert masked.status == 200
        assert b"s3cr3t" not in masked.raw
        assert masked.headers["Cache-Control"] == "no-store"
    masked = (await service.reader("GET", f"/api/apis/{api_id}")).body
    assert json.dumps(masked) == json.dumps(document).replace("s3cr3t", MASK)
    assert (await service.writer("GET", f"/api/apis/{api_id}")).body == document
    assert (await service.admin("GET", f"/api/apis/{api_id}")).body == document


async def test_the_mask_is_not_taken_for_a_secret(service: Management) -> None:
    """A definition with the mask is refused, so that a reader's copy cannot overwrite the secret."""
    document = api_document()
    api_id = await imported(service.writer, document)
    response = await service.writer("PUT", f"/api/apis/oas/{api_id}", json=changed(document, OAS_SECRET, MASK))
    assert response.status == 400
    assert "sharedSecret" in response.message
    assert (await service.writer("GET", f"/api/apis/{api_id}")).body == document


async def test_the_database_holds_no_secret_in_clear(service: Management) -> None:
    """Definition and shared secret are encrypted at rest."""
    document = changed(api_document(), OAS_SECRET, "very-recognisable-secret")
    api_id = await imported(service.writer, document)
    stored = await service.deps.store.mongo["apis"].find_one({"_id": api_id})
    assert stored is not None
    assert "very-recognisable-secret" not in str(stored)
    api = await service.deps.store.apis.get(api_id)
    assert api is not None
    assert api.oauth is not None
    assert api.oauth.notifications is not None
    assert api.oauth.notifications.shared_secret.get_secret_value() == "very-recognisable-secret"


# Replacing


async def test_put_replaces_the_definition(service: Management) -> None:
    """GET returns the new definition with the same id, and there is an event."""
    document = api_document()
    api_id = await imported(service.writer, document)
    after = changed(changed(document, OAS_ID, ABSENT), "x-tyk-api-gateway/info/name", "Renamed")
    response = await service.writer("PUT", f"/api/apis/oas/{api_id}", json=after)
    assert (response.status, response.message, response.body["ID"]) == (200, "API updated", api_id)
    assert (await service.writer("GET", f"/api/apis/oas/{api_id}")).body == changed(after, OAS_ID, api_id)
    created, updated = await service.heard.about(api_id)
    assert (created["type"], created["sequence"]) == ("io.tokenwire.api.created", "0000000001")
    assert (updated["type"], updated["sequence"]) == ("io.tokenwire.api.updated", "0000000002")
    assert facts(updated) == {"api_id": api_id, "listen_path": at(document, OAS_PATH)}


async def test_put_may_change_the_language(service: Management) -> None:
    """A Classic API may be replaced by an OAS definition."""
    classic = api_document(CLASSIC)
    api_id = await imported(service.writer, classic)
    oas = changed(api_document(OAS), OAS_ID, api_id)
    assert (await service.writer("PUT", f"/api/apis/oas/{api_id}", json=classic)).status == 400
    assert (await service.writer("PUT", f"/api/apis/oas/{api_id}", json=oas)).status == 200
    assert (await service.writer("GET", f"/api/apis/oas/{api_id}")).body == oas
    assert (await service.writer("PUT", f"/api/apis/{api_id}", json=classic)).status == 200
    assert (await service.writer("GET", f"/api/apis/{api_id}")).body == classic


async def test_put_under_another_id_is_refused(service: Management) -> None:
    """An id in the body that differs from the path is refused."""
    document, other = api_document(), api_document()
    api_id = await imported(service.writer, document)
    response = await service.writer("PUT", f"/api/apis/{api_id}", json=other)
    assert response.status == 400
    assert api_id in response.message
    assert (await service.writer("GET", f"/api/apis/{api_id}")).body == document


async def test_the_created_time_survives_a_replacement(service: Management) -> None:
    """Replacement keeps the creation time, by which clients of a deleted predecessor are told apart."""
    document = api_document()
    api_id = await imported(service.writer, document)
    before = await service.deps.store.apis.get(api_id)
    await service.writer("PUT", f"/api/apis/{api_id}", json=document)
    after = await service.deps.store.apis.get(api_id)
    assert before is not None
    assert after is not None
    assert (after.created_at, after.version) == (before.created_at, 2)


async def test_concurrent_replacements_all_count_or_are_refused(service: Management) -> None:
    """Each concurrent PUT is one version or gets 409."""
    document = api_document()
    api_id = await imported(service.writer, document)
    names = [f"Name {number}" for number in range(12)]
    responses = await asyncio.gather(
        *(
            service.writer("PUT", f"/api/apis/{api_id}", json=changed(document, "x-tyk-api-gateway/info/name", name))
            for name in names
        )
    )
    assert {response.status for response in responses} <= {200, 409}
    done = sum(response.status == 200 for response in responses)
    api = await service.deps.store.apis.get(api_id)
    assert api is not None
    assert done >= 1
    assert (api.version, api.name in names) == (1 + done, True)
    assert len(await service.heard.about(api_id)) == 1 + done


# Unique listen paths


async def taken(service: Management, response: Response) -> str:
    assert response.status == 409, response.body
    return response.message


async def test_a_taken_listen_path_is_409(service: Management) -> None:
    """409 names the API with the same path, on PUT too; its own path is no conflict."""
    first, second, third = api_document(), api_document(CLASSIC), api_document()
    path = at(first, OAS_PATH)
    first_id, third_id = await imported(service.writer, first), await imported(service.writer, third)
    clashing = changed(second, "proxy/listen_path", path)
    assert first_id in await taken(service, await service.writer("POST", "/api/apis", json=clashing))
    moved = changed(third, OAS_PATH, path.strip("/"))
    assert first_id in await taken(service, await service.writer("PUT", f"/api/apis/{third_id}", json=moved))
    assert (await service.writer("GET", f"/api/apis/{third_id}")).body == third
    assert (await service.writer("PUT", f"/api/apis/{first_id}", json=first)).status == 200


async def test_a_taken_id_is_409(service: Management) -> None:
    """Importing an existing id gets 409."""
    document = api_document()
    api_id = await imported(service.writer, document)
    for again in (document, changed(document, OAS_PATH, f"/{unique('elsewhere')}/")):
        assert api_id in await taken(service, await service.writer("POST", "/api/apis", json=again))
    assert (await service.writer("GET", f"/api/apis/{api_id}")).body == document


async def test_ids_and_listen_paths_are_one_namespace(service: Management) -> None:
    """Ids and listen paths share a namespace, because an API is reached by both."""
    first = api_document()
    first_id = await imported(service.writer, first)
    at_its_id = changed(api_document(), OAS_PATH, f"/{first_id}/")
    assert first_id in await taken(service, await service.writer("POST", "/api/apis", json=at_its_id))
    named_as_its_path = changed(api_document(), OAS_ID, at(first, OAS_PATH).strip("/"))
    await taken(service, await service.writer("POST", "/api/apis", json=named_as_its_path))
    itself = api_document()
    assert (await service.writer("POST", "/api/apis", json=changed(itself, OAS_PATH, at(itself, OAS_ID)))).status == 200


async def test_of_many_that_want_one_path_one_gets_it(service: Management) -> None:
    """Of concurrent imports with one path exactly one succeeds, by a unique index."""
    path = f"/{unique('wanted')}/"
    documents = [changed(api_document(), OAS_PATH, path) for _ in range(8)]
    responses = await asyncio.gather(*(service.writer("POST", "/api/apis", json=document) for document in documents))
    assert sorted(response.status for response in responses) == [200] + [409] * 7


@pytest.mark.parametrize("reserved", ["oas", "oauth", "keys", "api"])
async def test_a_reserved_id_is_refused(service: Management, reserved: str) -> None:
    """An id that is a route's name is refused."""
    response = await service.writer("POST", "/api/apis", json=changed(api_document(), OAS_ID, reserved))
    assert response.status == 400
    assert reserved in response.message


# Deletion


@pytest.mark.parametrize("path", ["/api/apis", "/api/apis/oas"])
async def test_a_deleted_api_is_gone_and_its_path_free(service: Management, path: str) -> None:
    """After DELETE the API gets 404, a second DELETE too, and it can be imported again."""
    document = api_document()
    api_id = await imported(service.writer, document)
    response = await service.writer("DELETE", f"{path}/{api_id}")
    assert (response.status, response.message) == (200, "API deleted")
    assert (await service.writer("GET", f"/api/apis/{api_id}")).status == 404
    assert (await service.writer("PUT", f"/api/apis/{api_id}", json=document)).status == 404
    assert (await service.writer("DELETE", f"{path}/{api_id}")).status == 404
    assert await imported(service.writer, document) == api_id
    events = await service.heard.about(api_id)
    assert [event["type"].removeprefix("io.tokenwire.") for event in events] == [
        "api.created",
        "api.deleted",
        "api.created",
    ]
    assert [int(event["sequence"]) for event in events] == [1, 2, 3]


async def test_deleting_an_api_deletes_its_clients(service: Management) -> None:
    """All its clients are deleted, beyond one page, each with event and reason; other APIs' clients stay."""
    api, other = await make_api(service.deps), await make_api(service.deps)
    made = await asyncio.gather(*(make_client(service.deps, api) for _ in range(103)))
    stays, _ = await make_client(service.deps, other)
    assert (await service.writer("DELETE", f"/api/apis/{api.api_id}")).status == 200
    await settle(service.deps)
    assert not (await service.deps.store.clients.page_of_api(api.api_id, None)).records
    assert await service.deps.store.clients.get(stays.client_id) == stays
    for client, _ in made:
        deleted = (await service.heard.about(client.client_id))[-1]
        assert deleted["type"] == "io.tokenwire.client.deleted"
        assert facts(deleted) == {
            "client_id": client.client_id,
            "api_id": api.api_id,
            "reason": "api_deleted",
        }


async def announce_deletion(service: Management, api_id: str, when: datetime) -> None:
    """Publish the event of an API's deletion, and wait for the reaction."""
    event = ApiDeleted(
        id=new_event_id(when),
        source="urn:tokenwire:tests",
        time=when,
        subject=api_id,
        sequence="0000000009",
        data=ApiData(api_id=api_id, listen_path="/gone/"),
    )
    assert all(await service.deps.bus.publish(list(messages_of(pending(event, api_id, api_id)))))
    await settle(service.deps)


async def test_a_deletion_spares_the_clients_of_a_new_api_with_the_same_id(service: Management) -> None:
    """If the event is late or repeated, clients registered since the API was imported again stay."""
    api, when = await make_api(service.deps), utc_now()
    before, _ = await make_client(service.deps, api, created_at=when)
    after, _ = await make_client(service.deps, api, created_at=when + timedelta(milliseconds=1))
    for _ in range(2):
        await announce_deletion(service, api.api_id, when)
        assert await service.deps.store.clients.get(before.client_id) is None
        assert await service.deps.store.clients.get(after.client_id) == after
    assert len(await service.heard.about(before.client_id)) == 2


async def test_clients_of_a_deleted_api_are_deleted(service: Management) -> None:
    """Without such a successor every client is deleted, whatever the clocks say."""
    when = utc_now()
    orphan, _ = await make_client(service.deps, await deleted_api(service), created_at=when + timedelta(hours=1))
    await announce_deletion(service, orphan.api_id, when)
    assert await service.deps.store.clients.get(orphan.client_id) is None


async def test_the_reaction_continues_the_trace_of_the_request(service: Management) -> None:
    """The reaction continues the trace of the DELETE request."""
    api = await make_api(service.deps)
    client, _ = await make_client(service.deps, api)
    trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    await service.writer("DELETE", f"/api/apis/{api.api_id}", headers={"traceparent": trace})
    assert (await service.heard.about(api.api_id))[-1]["traceparent"] == trace
    assert (await service.heard.about(client.client_id))[-1]["traceparent"] == trace


async def test_a_malformed_event_is_dead_lettered(mongodb_url: str) -> None:
    """A malformed message is dead-lettered, and the next one is handled."""
    async with management(mongodb_url) as service:
        message = Message("nonsense", Exchange.EVENTS, "api.deleted.x", b'{"type":"io.tokenwire.api.created"}')
        await service.deps.bus.publish([message])
        assert isinstance(service.deps.bus, LocalBus)
        assert await service.deps.bus.dead_letters("management") == 1
        orphan, _ = await make_client(service.deps, await deleted_api(service))
        await announce_deletion(service, orphan.api_id, utc_now())
        assert await service.deps.store.clients.get(orphan.client_id) is None


async def deleted_api(service: Management) -> Api:
    """A deleted API, after the reaction."""
    api = await make_api(service.deps)
    assert await service.deps.store.apis.delete(api, service.deps.event_context("tests"))
    await settle(service.deps)
    return api


@pytest.mark.parametrize("name", [OAS, CLASSIC])
async def test_a10_only_writers_see_upstream_credentials(service: Management, name: str) -> None:
    """Credentials in the upstream's URL and added headers are shown with `write` only, encrypted at rest, and used by
    the gateway.
    """
    secret = secrets.token_urlsafe(24)
    document = api_document(name)
    url = f"https://upstream.example.test/base?key={secret}"
    if name == OAS:
        tyk = "x-tyk-api-gateway"
        document = changed(document, f"{tyk}/upstream/url", url)
        headers: Any = {"enabled": True, "add": [{"name": "X-Key", "value": secret}]}
        document = changed(document, f"{tyk}/middleware/global/transformRequestHeaders", headers)
    else:
        document = changed(document, "proxy/target_url", url)
        document = changed(document, "version_data/versions/Default/global_headers", {"X-Key": secret})
    api_id = await imported(service.writer, document)
    for path in (f"/api/apis/{api_id}", "/api/apis?p=-1", "/api/apis/oas?p=-1"):
        assert secret.encode() not in (await service.reader("GET", path)).raw
    assert secret.encode() in (await service.writer("GET", f"/api/apis/{api_id}")).raw
    masked = (await service.reader("GET", f"/api/apis/{api_id}")).body
    response = await service.writer("PUT", f"/api/apis/{api_id}", json=masked)
    assert response.status == 400
    assert "send the secret itself" in response.message

    assert (await service.writer("PUT", f"/api/apis/{api_id}", json=document)).status == 200
    stored = await service.deps.store.mongo["apis"].find_one({"_id": api_id})
    assert secret not in str(stored)
    assert "upstream.example.test" not in str(stored)
    api = await service.deps.store.apis.get(api_id)
    assert api is not None
    assert (api.upstream_url, [header.value for header in api.request_headers]) == (url, [secret])
    heard = [event for event in service.heard.events if secret in json.dumps(event)]
    assert heard == []
    logged = await service.reader("GET", f"/api/audit?subject={api_id}")
    assert secret.encode() not in logged.raw
