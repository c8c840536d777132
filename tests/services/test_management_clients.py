"""/api/apis/oauth/{api_id}[/{client_id}]: clients and their secrets."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from contracts.clients import Client, ClientDeletion, ClientSecret, SecretRotation
from contracts.operators import Permission
from libs import client_secrets
from libs.event_encoding import EventContext
from libs.store.clients import Clients
from services.management.client_mapping import MOST_SECRETS, rotated_secrets
from tests.builders import (
    CALLBACK,
    Caller,
    Response,
    api_document,
    make_api,
    make_client,
    make_operator,
    make_policy,
    settle,
    unique,
)
from tests.services.management import Management, facts, management

OTHER = "https://app.example.test/other"
SECRET = "a-secret-of-24-characters"
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


@pytest.fixture(scope="module", name="place")
async def _place(service: Management) -> str:
    """The clients' URL of an OAuth API."""
    return f"/api/apis/oauth/{(await make_api(service.deps)).api_id}"


async def registered(caller: Caller, place: str, **said: Any) -> dict[str, Any]:
    """Register a client; return it as the response shows it."""
    response = await caller("POST", place, json=said)
    assert response.status == 200, response.body
    body: dict[str, Any] = response.body
    return body


async def stored(service: Management, client_id: str) -> Client:
    client = await service.deps.store.clients.get(client_id)
    assert client is not None
    return client


async def is_secret(service: Management, client_id: str, secret: str, *, later: timedelta = timedelta(0)) -> bool:
    """Whether the secret is accepted now or at another time."""
    now = service.deps.now() + later
    return client_secrets.is_valid(service.deps.keys, await stored(service, client_id), secret, now)


def stem(event: dict[str, Any]) -> str:
    return str(event["type"]).removeprefix("io.tokenwire.")


# Registration


async def test_a_registration_needs_nothing_but_a_redirect_uri(service: Management, place: str) -> None:
    """A redirect URI suffices: id and secret are generated, the response equals GET's, and there is an event."""
    client = await registered(service.writer, place, redirect_uri=CALLBACK)
    assert len(client["client_id"]) == 32
    assert set(client["client_id"]) <= set("0123456789abcdef")
    assert len(client["secret"]) == 43
    shown = {name: value for name, value in client.items() if name not in {"client_id", "secret", "created_at"}}
    assert shown == {
        "api_id": place.rpartition("/")[2],
        "redirect_uri": CALLBACK,
        "redirect_uris": [CALLBACK],
        "policy_id": "",
        "policy_ids": [],
        "meta_data": {},
        "description": "",
        "client_name": "",
        "public": False,
        "resource_server": False,
        "updated_at": client["created_at"],
    }
    assert (await service.writer("GET", f"{place}/{client['client_id']}")).body == client
    (created,) = await service.heard.about(client["client_id"])
    assert stem(created) == "client.created"
    assert facts(created) == {"client_id": client["client_id"], "api_id": client["api_id"], "policy_ids": []}


async def test_a_client_that_needs_no_redirect_uri_has_none(service: Management, place: str) -> None:
    """client_credentials and password clients need no redirect URI."""
    assert (await registered(service.writer, place))["redirect_uris"] == []


async def test_every_registered_field_is_stored(service: Management, place: str) -> None:
    """Every field of a registration is returned, including metadata with any keys."""
    policies = [(await make_policy(service.deps)).policy_id for _ in range(2)]
    said = {
        "client_id": unique("my.client~"),
        "secret": SECRET,
        "api_id": place.rpartition("/")[2],
        "redirect_uris": [CALLBACK, "com.example.app:/done", "http://127.0.0.1/cb"],
        "policy_ids": policies,
        "scope": "read write",
        "meta_data": {"$set": {"a.b": None}, "": [1, 2.5, True], "ключ": "значение"},
        "description": "The app\nof the tests",
        "client_name": "App",
    }
    client = await registered(service.writer, place, **said)
    assert client | said == client
    assert client["redirect_uri"] == ";".join(said["redirect_uris"])
    assert client["policy_id"] == policies[0]
    assert (await service.writer("GET", f"{place}/{said['client_id']}")).body == client
    assert await is_secret(service, str(said["client_id"]), SECRET)


async def test_several_redirect_uris_in_one_field(service: Management, place: str) -> None:
    """Tyk's field may hold several URIs separated by `;`; duplicates are dropped."""
    client = await registered(service.writer, place, redirect_uri=f"{CALLBACK}; {OTHER};{CALLBACK};")
    assert client["redirect_uris"] == [CALLBACK, OTHER]


async def test_both_ways_of_saying_one_thing_may_agree(service: Management, place: str) -> None:
    """Tyk's field and the list may both be given if they agree."""
    client = await registered(
        service.writer, place, redirect_uri=f"{CALLBACK};{OTHER}", redirect_uris=[CALLBACK, OTHER]
    )
    assert client["redirect_uris"] == [CALLBACK, OTHER]


async def test_a_public_client_has_no_secret(service: Management, place: str) -> None:
    """A public client has no secret, and cannot get one by rotation."""
    client = await registered(service.writer, place, redirect_uri=CALLBACK, public=True)
    assert (client["public"], "secret" in client) == (True, False)
    assert (await stored(service, client["client_id"])).secrets == ()
    response = await service.writer("PUT", f"{place}/{client['client_id']}/rotate")
    assert (response.status, response.message) == (400, "a public client has no secret")


async def test_the_database_holds_no_secret_in_clear(service: Management, place: str) -> None:
    """Only a keyed digest and an encrypted copy of the secret are stored."""
    client = await registered(service.writer, place, redirect_uri=CALLBACK)
    document = await service.deps.store.mongo["clients"].find_one({"_id": client["client_id"]})
    assert document is not None
    assert client["secret"] not in str(document)
    assert await is_secret(service, client["client_id"], client["secret"])


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        pytest.param({"redirect_uri": "/relative"}, "redirect_uri", id="relative-uri"),
        pytest.param({"redirect_uri": "ftp://app.example.test/"}, "redirect_uri", id="scheme"),
        pytest.param({"redirect_uri": f"{CALLBACK}#there"}, "fragment", id="fragment"),
        pytest.param({"redirect_uri": f"{CALLBACK};javascript:alert(1)"}, "redirect_uri", id="second-of-two"),
        pytest.param({"redirect_uris": ["https://u:p@app.example.test/"]}, "user information", id="user-information"),
        pytest.param({"redirect_uris": [f"{CALLBACK}\0"]}, "NUL", id="nul"),
        pytest.param({"redirect_uris": CALLBACK}, "redirect_uris", id="string-for-list"),
        pytest.param({"redirect_uris": [{"$ne": ""}]}, "redirect_uris", id="operator-for-uri"),
        pytest.param({"redirect_uri": ["a"]}, "redirect_uri", id="list-for-string"),
        pytest.param(
            {"redirect_uri": CALLBACK, "redirect_uris": [OTHER]},
            "redirect_uri and redirect_uris differ",
            id="disagreeing-redirect-uris",
        ),
        pytest.param({"policy_id": "a", "policy_ids": ["b"]}, "policy_id and policy_ids differ", id="policies-differ"),
        pytest.param({"policy_id": "no-such"}, "there is no policy 'no-such'", id="unknown-policy"),
        pytest.param({"policy_ids": ["a/b"]}, "policy_ids", id="policy-id-malformed"),
        pytest.param({"secret": "only-23-characters-here"}, "secret", id="short-secret"),
        pytest.param({"secret": "x" * 257}, "secret", id="long-secret"),
        pytest.param({"secret": SECRET, "public": True}, "a public client has no secret", id="public-with-secret"),
        pytest.param({"client_id": "a/b"}, "client_id", id="slash-in-id"),
        pytest.param({"client_id": " app"}, "client_id", id="space-before-id"),
        pytest.param({"client_id": "bücher"}, "client_id", id="id-not-ascii"),
        pytest.param({"client_id": {"$gt": ""}}, "client_id", id="operator-for-id"),
        pytest.param({"client_id": "revoke_all"}, "'revoke_all' is reserved", id="reserved-id"),
        pytest.param({"client_id": "tokens"}, "'tokens' is reserved", id="reserved-id-tokens"),
        pytest.param({"client_id": ".."}, "'..' is reserved", id="dots-for-id"),
        pytest.param({"api_id": "another"}, "api_id: differs from", id="another-api"),
        pytest.param({"scope": "a  b"}, "scope", id="malformed-scope"),
        pytest.param({"meta_data": [1]}, "meta_data", id="list-for-meta-data"),
        pytest.param({"public": "perhaps"}, "public", id="not-a-flag"),
        pytest.param({"description": "x" * 4097}, "description", id="long-description"),
        pytest.param({"description": "bell \a"}, "control characters", id="control-character"),
        pytest.param({"$where": "1"}, "$where", id="operator-for-field"),
        pytest.param({"redirect_url": CALLBACK}, "redirect_url", id="misspelt-field"),
        pytest.param({"redirect_uri": "nonsense", "policy_id": "no-such"}, "redirect_uri", id="two-faults-form-first"),
    ],
)
async def test_a_faulty_registration_is_refused(
    service: Management, place: str, said: dict[str, Any], complaint: str
) -> None:
    """400 names the fault without repeating secrets; nothing is registered."""
    before = (await service.reader("GET", f"{place}?p=-1")).body
    response = await service.writer("POST", place, json=said)
    assert response.status == 400, response.body
    assert complaint in response.message
    assert "\n" not in response.message
    assert str(said.get("secret", "no secret")) not in response.message
    assert (await service.reader("GET", f"{place}?p=-1")).body == before


async def test_an_unknown_api_has_no_clients(service: Management) -> None:
    """Unknown APIs get 404 with the Dashboard's text on every route."""
    place = f"/api/apis/oauth/{unique('nowhere')}"
    for method, path in (("POST", place), ("GET", place)):
        response = await service.writer(method, path, json={})
        assert (response.status, response.message) == (404, "API reference not found.")
    for method, path in (("GET", place), ("PUT", place), ("DELETE", place)):
        assert (await service.writer(method, f"{path}/app", json={})).status == 404


async def test_an_api_without_oauth_takes_no_clients(service: Management) -> None:
    """An API without OAuth accepts no clients; its list is empty."""
    keyless = api_document("orders-classic.json", use_oauth2=False, use_keyless=True)
    api = await make_api(service.deps, keyless)
    response = await service.writer("POST", f"/api/apis/oauth/{api.api_id}", json={})
    assert response.status == 400
    assert "OAuth" in response.message
    assert (await service.writer("GET", f"/api/apis/oauth/{api.api_id}")).body == {"apps": [], "pages": 0}


async def test_c4_a_taken_id_without_its_secret_is_409_on_every_api(service: Management, place: str) -> None:
    """Only with the client's secret is it registered on a further API; a conflict changes nothing."""
    client = await registered(service.writer, place, redirect_uri=CALLBACK, client_id=unique("first"))
    other = f"/api/apis/oauth/{(await make_api(service.deps)).api_id}"
    for path in (place, other):
        response = await service.writer("POST", path, json={"client_id": client["client_id"]})
        assert (response.status, client["client_id"] in response.message) == (409, True)
    assert (await service.writer("GET", f"{place}/{client['client_id']}")).body == client


async def test_of_many_registrations_of_one_id_one_wins(service: Management, place: str) -> None:
    """Of concurrent registrations of an id one succeeds, and its secret works."""
    client_id = unique("wanted")
    responses = await asyncio.gather(*(service.writer("POST", place, json={"client_id": client_id}) for _ in range(8)))
    assert sorted(response.status for response in responses) == [200] + [409] * 7
    (winner,) = (response.body for response in responses if response.status == 200)
    assert await is_secret(service, client_id, winner["secret"])


async def test_grants_of_a_deleted_client_with_the_same_id_stay_revoked(service: Management, place: str) -> None:
    """A client registered again has none of its predecessor's grants."""
    client_id = unique("again")
    await registered(service.writer, place, client_id=client_id)
    before = service.deps.now()
    assert (await service.writer("DELETE", f"{place}/{client_id}")).status == 200
    await registered(service.writer, place, client_id=client_id)
    revoked_before = (await stored(service, client_id)).revoked_before
    assert revoked_before is not None
    assert before <= revoked_before <= service.deps.now()


async def test_a_client_registered_while_its_api_is_deleted_is_deleted_too(
    service: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the API is deleted during registration, the client is deleted too, even if the reaction did not see it."""
    api = await make_api(service.deps)
    register = Clients.register

    async def too_late(clients: Clients, client: Client, ctx: EventContext) -> Client:
        await service.deps.store.apis.delete(api, service.deps.event_context("tests"))
        await settle(service.deps)
        return await register(clients, client, ctx)

    monkeypatch.setattr(Clients, "register", too_late)
    client_id = unique("late")
    response = await service.writer("POST", f"/api/apis/oauth/{api.api_id}", json={"client_id": client_id})
    assert (response.status, response.message) == (404, "API reference not found.")
    assert await service.deps.store.clients.get(client_id) is None
    assert (await service.heard.about(client_id))[-1]["data"]["reason"] == ClientDeletion.API_DELETED


# Reading


async def test_the_list_has_pages(mongodb_url: str) -> None:
    """100 clients per page, by id; a negative page returns all; other APIs' clients are excluded."""
    async with management(mongodb_url) as service:
        api, other = await make_api(service.deps), await make_api(service.deps)
        made = await asyncio.gather(*(make_client(service.deps, api) for _ in range(101)))
        await make_client(service.deps, other)
        ids = sorted(client.client_id for client, _ in made)

        async def page(query: str) -> tuple[list[str], int]:
            body = (await service.reader("GET", f"/api/apis/oauth/{api.api_id}{query}")).body
            assert set(body) - {"next"} == {"apps", "pages"}
            return [app["client_id"] for app in body["apps"]], body["pages"]

        assert await page("") == (ids[:100], 2)
        assert await page("?p=2") == (ids[100:], 2)
        assert await page("?p=-1") == (ids, 1)


@pytest.mark.parametrize(
    ("permissions", "sees"),
    [
        pytest.param([Permission.READ], False, id="read"),
        pytest.param([Permission.READ, Permission.WRITE], True, id="read-and-write"),
        pytest.param([Permission.ADMIN], True, id="admin"),
        pytest.param([Permission.READ, Permission.AUTHORIZE, Permission.REVOKE], False, id="all-but-write"),
    ],
)
async def test_secrets_are_shown_with_write_only(
    service: Management, permissions: list[Permission], sees: bool
) -> None:
    """Secrets are shown only with `write`, and uncacheable."""
    api = await make_api(service.deps)
    client, secret = await make_client(service.deps, api)
    operator = service.anybody.with_key(await make_operator(service.deps, *permissions))
    one = await operator("GET", f"/api/apis/oauth/{api.api_id}/{client.client_id}")
    several = await operator("GET", f"/api/apis/oauth/{api.api_id}")
    for shown in (one.body, several.body["apps"][0]):
        assert shown.get("secret") == (secret if sees else None)
    assert {one.headers["Cache-Control"], several.headers["Cache-Control"]} == {"no-store"}


async def test_a_client_is_found_under_its_own_api_only(service: Management, place: str) -> None:
    """A client is found only under its own API, for reads and changes."""
    client = await registered(service.writer, place, redirect_uri=CALLBACK)
    elsewhere = f"/api/apis/oauth/{(await make_api(service.deps)).api_id}/{client['client_id']}"
    for method, path in (("GET", ""), ("PUT", ""), ("PUT", "/rotate"), ("DELETE", "")):
        response = await service.writer(method, elsewhere + path, json={})
        assert (response.status, response.message) == (404, "OAuth client not found")
    assert (await service.writer("GET", f"{place}/{client['client_id']}")).body == client


async def test_a_secret_sealed_under_a_lost_key_is_not_shown(service: Management, place: str) -> None:
    """A secret encrypted with a removed key is not shown; the rest of the response is."""
    client = await registered(service.writer, place)
    lost = {"$set": {"secrets.0.encrypted": "9.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}
    await service.deps.store.mongo["clients"].update_one({"_id": client["client_id"]}, lost)
    response = await service.writer("GET", f"{place}/{client['client_id']}")
    assert (response.status, "secret" in response.body) == (200, False)


async def test_show_once_means_once(mongodb_url: str) -> None:
    """With client_secrets=show_once a secret is only in the response that created it."""
    async with management(mongodb_url, client_secrets="show_once") as service:
        place = f"/api/apis/oauth/{(await make_api(service.deps)).api_id}"
        client = await registered(service.writer, place, redirect_uri=CALLBACK)
        one = f"{place}/{client['client_id']}"
        assert await is_secret(service, client["client_id"], client["secret"])
        for response in (await service.admin("GET", one), await service.admin("GET", place)):
            assert client["secret"].encode() not in response.raw
        new = (await service.writer("PUT", f"{one}/rotate")).body["secret"]
        assert await is_secret(service, client["client_id"], new)
        assert "secret" not in (await service.writer("GET", one)).body
        assert "secret" not in (await service.writer("PUT", one, json={"description": "new"})).body
        assert [secret.encrypted for secret in (await stored(service, client["client_id"])).secrets] == [None]


# Editing


FULL: dict[str, Any] = {
    "redirect_uris": [CALLBACK, OTHER],
    "scope": "read write",
    "meta_data": {"tier": "gold"},
    "description": "before",
    "client_name": "App",
}
NEW = "https://new.example.test/"


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"description": "after"}, {"description": "after"}, id="one-field-others-stay"),
        pytest.param({"description": None}, {"description": ""}, id="null-clears-description"),
        pytest.param({"client_name": None}, {"client_name": ""}, id="null-clears-name"),
        pytest.param({"scope": None}, {"scope": None}, id="null-clears-scope"),
        pytest.param({"scope": "read"}, {"scope": "read"}, id="scope"),
        pytest.param({"meta_data": None}, {"meta_data": {}}, id="null-clears-meta-data"),
        pytest.param({"meta_data": {"a": 1}}, {"meta_data": {"a": 1}}, id="meta-data-is-replaced-whole"),
        pytest.param({"redirect_uri": NEW}, {"redirect_uris": [NEW]}, id="one-uri"),
        pytest.param({"redirect_uri": f"{NEW};{OTHER}"}, {"redirect_uris": [NEW, OTHER]}, id="two-uris-in-one-field"),
        pytest.param({"redirect_uris": [NEW]}, {"redirect_uris": [NEW]}, id="list-of-uris"),
        pytest.param({"redirect_uri": None}, {"redirect_uris": []}, id="null-clears-uris"),
        pytest.param({"redirect_uri": ""}, {"redirect_uris": []}, id="empty-clears-uris"),
        pytest.param({"redirect_uris": None}, {"redirect_uris": []}, id="null-list-clears-uris"),
        pytest.param(
            {"redirect_uri": NEW, "redirect_uris": [CALLBACK, OTHER]},
            {"redirect_uris": [NEW]},
            id="read-and-one-changed",
        ),
        pytest.param(
            {"redirect_uri": f"{CALLBACK};{OTHER}", "redirect_uris": [NEW]},
            {"redirect_uris": [NEW]},
            id="read-and-list-changed",
        ),
        pytest.param({"redirect_uri": NEW, "redirect_uris": [NEW]}, {"redirect_uris": [NEW]}, id="both-changed-alike"),
        pytest.param({"public": False, "secret": None}, {}, id="what-it-is-anyway"),
    ],
)
async def test_an_edit_replaces_what_it_names(
    service: Management, place: str, said: dict[str, Any], becomes: dict[str, Any]
) -> None:
    """An edit changes the given fields; null clears; the response equals GET's."""
    client = await registered(service.writer, place, **FULL)
    one = f"{place}/{client['client_id']}"
    response = await service.writer("PUT", one, json=said)
    assert response.status == 200, response.body
    expected = client | becomes | {"updated_at": response.body["updated_at"]}
    expected["redirect_uri"] = ";".join(expected["redirect_uris"])
    assert response.body == {name: value for name, value in expected.items() if value is not None}
    assert (await service.writer("GET", one)).body == response.body
    assert await is_secret(service, client["client_id"], client["secret"])
    stems = [stem(event) for event in await service.heard.about(client["client_id"])]
    assert stems == (["client.created", "client.updated"] if becomes else ["client.created"])


async def test_the_output_of_get_can_be_sent_back(service: Management, place: str) -> None:
    """GET's document is a valid PUT without effect, even if a URI contains the separator."""
    policies = [(await make_policy(service.deps)).policy_id for _ in range(2)]
    uris = ["https://app.example.test/cb;v=1", CALLBACK]
    client = await registered(service.writer, place, **FULL | {"redirect_uris": uris, "policy_ids": policies})
    one = f"{place}/{client['client_id']}"
    assert (await service.writer("PUT", one, json=client)).body == client
    assert (await stored(service, client["client_id"])).version == 1
    edited = (await service.writer("PUT", one, json=client | {"client_name": "New name"})).body
    assert edited == client | {"client_name": "New name", "updated_at": edited["updated_at"]}


@pytest.mark.parametrize(
    ("said", "left"),
    [
        pytest.param({"policy_id": "{b}"}, ["b"], id="one"),
        pytest.param({"policy_id": "{a}"}, ["a"], id="the-first-alone"),
        pytest.param({"policy_ids": ["{b}", "{a}", "{b}"]}, ["b", "a"], id="several"),
        pytest.param({"policy_id": ""}, [], id="empty-clears"),
        pytest.param({"policy_id": None}, [], id="null-clears"),
        pytest.param({"policy_ids": []}, [], id="empty-list-clears"),
        pytest.param({"policy_id": "{a}", "policy_ids": ["{b}"]}, ["b"], id="read-and-list-changed"),
        pytest.param({"policy_id": "{b}", "policy_ids": ["{a}", "{b}"]}, ["b"], id="read-and-one-changed"),
    ],
)
async def test_an_edit_of_policies(service: Management, place: str, said: dict[str, Any], left: list[str]) -> None:
    """A client may have several policies; Tyk's field shows the first and sets exactly one."""
    ids = {name: (await make_policy(service.deps)).policy_id for name in "ab"}
    client = await registered(service.writer, place, policy_ids=[ids["a"], ids["b"]])

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return value.format(**ids) if value else value

    body = {name: filled(value) for name, value in said.items()}
    response = await service.writer("PUT", f"{place}/{client['client_id']}", json=body)
    assert response.body["policy_ids"] == [ids[name] for name in left]
    assert response.body["policy_id"] == (ids[left[0]] if left else "")


async def test_a_policy_that_is_gone_does_not_block_other_edits(service: Management, place: str) -> None:
    """Only policies that an edit adds or changes must exist."""
    policy = await make_policy(service.deps)
    client = await registered(service.writer, place, policy_id=policy.policy_id)
    await service.deps.store.policies.delete(policy, service.deps.event_context("tests"))
    response = await service.writer("PUT", f"{place}/{client['client_id']}", json=client | {"description": "new"})
    assert (response.status, response.body["description"]) == (200, "new")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        pytest.param({"client_id": "another"}, "client_id: differs from", id="another-id"),
        pytest.param({"api_id": "another"}, "api_id: differs from", id="another-api"),
        pytest.param({"secret": SECRET}, "rotate", id="another-secret"),
        pytest.param({"public": True}, "public", id="from-confidential-to-public"),
        pytest.param({"redirect_uri": "nonsense"}, "redirect_uri", id="uri"),
        pytest.param({"redirect_uri": NEW, "redirect_uris": [CALLBACK]}, "differ", id="both-changed-and-differ"),
        pytest.param({"policy_id": "no-such"}, "there is no policy 'no-such'", id="unknown-policy"),
        pytest.param({"nonsense": 1}, "nonsense", id="unknown-field"),
        pytest.param({"description": "new", "secret": "x"}, "rotate", id="one-right-one-wrong"),
    ],
)
async def test_a_faulty_edit_changes_nothing(
    service: Management, place: str, said: dict[str, Any], complaint: str
) -> None:
    """400 names the fault; the client is unchanged."""
    client = await registered(service.writer, place, **FULL)
    one = f"{place}/{client['client_id']}"
    response = await service.writer("PUT", one, json=said)
    assert response.status == 400, response.body
    assert complaint in response.message
    assert (await service.writer("GET", one)).body == client
    assert (await stored(service, client["client_id"])).version == 1


async def test_concurrent_edits_of_different_fields_all_last(service: Management, place: str) -> None:
    """Concurrent edits of different fields all succeed, because a lost race is retried on the new version."""
    client = await registered(service.writer, place)
    edits: list[dict[str, Any]] = [
        {"description": "new"},
        {"client_name": "New"},
        {"scope": "read"},
        {"redirect_uri": CALLBACK},
    ]
    one = f"{place}/{client['client_id']}"
    responses = await asyncio.gather(*(service.writer("PUT", one, json=edit) for edit in edits))
    assert [response.status for response in responses] == [200] * 4
    after = (await service.writer("GET", one)).body
    assert all(after | edit == after for edit in edits)
    assert (await stored(service, client["client_id"])).version == 5


async def test_concurrent_edits_end_in_200_or_409(service: Management, place: str) -> None:
    """An edit that loses too often gets 409; every 200 is one version and one event."""
    client = await registered(service.writer, place)
    one = f"{place}/{client['client_id']}"
    crowd = await asyncio.gather(
        *(service.writer("PUT", one, json={"description": str(number)}) for number in range(40))
    )
    assert {response.status for response in crowd} <= {200, 409}
    done = sum(response.status == 200 for response in crowd)
    assert (await stored(service, client["client_id"])).version == 1 + done
    events = await service.heard.about(client["client_id"])
    # Events of the same moment may arrive in another order; their sequence tells.
    assert sorted(int(event["sequence"]) for event in events) == list(range(1, 2 + done))


# Rotating


async def rotate(service: Management, place: str, client_id: str, **said: Any) -> Response:
    return await service.writer("PUT", f"{place}/{client_id}/rotate", json=said)


@pytest.mark.parametrize("body", [pytest.param(None, id="no-body"), pytest.param(b"", id="empty"), b"{}", b" \n"])
async def test_rotation_without_overlap_kills_the_old_secret_at_once(
    service: Management, place: str, body: bytes | None
) -> None:
    """Without overlap the old secret is refused at once; the response and GET show the new one; there is an event."""
    client = await registered(service.writer, place)
    response = await service.writer("PUT", f"{place}/{client['client_id']}/rotate", data=body)
    new = response.body["secret"]
    assert response.status == 200
    assert response.body == client | {"secret": new, "updated_at": response.body["updated_at"]}
    assert await is_secret(service, client["client_id"], new)
    assert not await is_secret(service, client["client_id"], client["secret"])
    assert (await service.writer("GET", f"{place}/{client['client_id']}")).body == response.body
    assert [stem(event) for event in await service.heard.about(client["client_id"])] == [
        "client.created",
        "client.secret_rotated",
    ]


async def test_during_an_overlap_both_secrets_work(service: Management, place: str) -> None:
    """With an overlap both secrets work for that many seconds."""
    client = await registered(service.writer, place)
    client_id, old = client["client_id"], client["secret"]
    new = (await rotate(service, place, client_id, overlap=60)).body["secret"]
    for later, old_works in ((timedelta(0), True), (timedelta(seconds=50), True), (timedelta(seconds=61), False)):
        assert await is_secret(service, client_id, old, later=later) is old_works
        assert await is_secret(service, client_id, new, later=later)
    assert (await service.writer("GET", f"{place}/{client_id}")).body["secret"] == new


async def test_a_rotation_without_overlap_ends_every_overlap(service: Management, place: str) -> None:
    """A rotation without overlap ends all overlaps, as needed after a leak."""
    client = await registered(service.writer, place)
    client_id, secrets = client["client_id"], [client["secret"]]
    for _ in range(2):
        secrets.append((await rotate(service, place, client_id, overlap=3600)).body["secret"])
    newest = (await rotate(service, place, client_id)).body["secret"]
    assert [await is_secret(service, client_id, secret) for secret in [*secrets, newest]] == [False] * 3 + [True]


async def test_the_operator_may_choose_the_secret(service: Management, place: str) -> None:
    """The operator may set the new secret, for instance to coordinate two systems."""
    client = await registered(service.writer, place)
    assert (await rotate(service, place, client["client_id"], secret=SECRET)).body["secret"] == SECRET
    assert await is_secret(service, client["client_id"], SECRET)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"overlap": -1}, id="negative"),
        pytest.param({"overlap": 90 * 86400 + 1}, id="over-90-days"),
        pytest.param({"overlap": "soon"}, id="not-a-number"),
        pytest.param({"overlap": 1e300}, id="huge"),
        pytest.param({"overlap": {"$gt": 0}}, id="operator"),
        pytest.param({"secret": "short"}, id="short-secret"),
        pytest.param({"overlaps": 5}, id="misspelt"),
        pytest.param([], id="list"),
    ],
)
async def test_a_faulty_rotation_changes_nothing(service: Management, place: str, said: Any) -> None:
    """400; the secret is unchanged."""
    client = await registered(service.writer, place)
    response = await service.writer("PUT", f"{place}/{client['client_id']}/rotate", json=said)
    assert response.status == 400, response.body
    assert response.message
    assert await is_secret(service, client["client_id"], client["secret"])
    assert (await stored(service, client["client_id"])).version == 1


async def test_concurrent_rotations_leave_one_newest_secret(service: Management, place: str) -> None:
    """After concurrent rotations the secret that GET shows is the newest, and does not expire."""
    client = await registered(service.writer, place)
    client_id = client["client_id"]
    responses = await asyncio.gather(*(rotate(service, place, client_id, overlap=60) for _ in range(4)))
    assert {response.status for response in responses} <= {200, 409}
    new = [response.body["secret"] for response in responses if response.status == 200]
    assert len(set(new)) == len(new) >= 1
    shown = (await service.writer("GET", f"{place}/{client_id}")).body["secret"]
    assert shown in new
    assert await is_secret(service, client_id, shown, later=timedelta(days=1000))
    assert len((await stored(service, client_id)).secrets) == min(MOST_SECRETS, 1 + len(new))


def kept(name: str, *, expires_at: datetime | None = None) -> ClientSecret:
    return ClientSecret(digest=name, created_at=NOW, expires_at=expires_at)


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("before", "overlap", "after"),
    [
        pytest.param([("a", None)], HOUR, [("new", None), ("a", HOUR)], id="overlap"),
        pytest.param([("a", None)], timedelta(0), [("new", None)], id="no-overlap"),
        pytest.param(
            [("b", None), ("a", 2 * HOUR)],
            HOUR,
            [("new", None), ("b", HOUR), ("a", HOUR)],
            id="a-shorter-overlap-shortens-older-ones",
        ),
        pytest.param(
            [("b", None), ("a", HOUR / 2)],
            HOUR,
            [("new", None), ("b", HOUR), ("a", HOUR / 2)],
            id="an-older-overlap-is-not-renewed",
        ),
        pytest.param(
            [("b", None), ("a", timedelta(0))], HOUR, [("new", None), ("b", HOUR)], id="what-has-expired-is-pruned"
        ),
        pytest.param(
            [("d", None), ("c", HOUR), ("b", HOUR), ("a", HOUR)],
            HOUR,
            [("new", None), ("d", HOUR), ("c", HOUR), ("b", HOUR)],
            id="the-oldest-goes-early",
        ),
    ],
)
def test_which_secrets_a_rotation_leaves(
    before: list[tuple[str, timedelta | None]], overlap: timedelta, after: list[tuple[str, timedelta | None]]
) -> None:
    """At most MOST_SECRETS are kept: the new one, then replaced ones in their overlap, which is not extended."""

    def listed(secrets: list[tuple[str, timedelta | None]]) -> tuple[ClientSecret, ...]:
        return tuple(kept(name, expires_at=None if end is None else NOW + end) for name, end in secrets)

    assert rotated_secrets(listed(before), kept("new"), SecretRotation(overlap=overlap), NOW) == listed(after)
    assert len(after) <= MOST_SECRETS


# Deletion


async def test_a_deleted_client_is_gone(service: Management, place: str) -> None:
    """The Dashboard's text; then 404, for a second DELETE too; the event has the reason."""
    client = await registered(service.writer, place)
    one = f"{place}/{client['client_id']}"
    response = await service.writer("DELETE", one)
    assert response.status == 200
    assert response.body == {"Status": "OK", "Message": "OAuth client deleted successfully.", "Meta": None}
    for method, path in (("GET", one), ("PUT", one), ("PUT", f"{one}/rotate"), ("DELETE", one)):
        assert (await service.writer(method, path, json={})).status == 404
    deleted = (await service.heard.about(client["client_id"]))[-1]
    assert (stem(deleted), deleted["data"]["reason"]) == ("client.deleted", "client_deleted")


async def test_of_many_deletions_one_is_done(service: Management, place: str) -> None:
    """Of concurrent deletions one gets 200 and has an event; the others get 404."""
    client = await registered(service.writer, place)
    responses = await asyncio.gather(*(service.writer("DELETE", f"{place}/{client['client_id']}") for _ in range(6)))
    assert sorted(response.status for response in responses) == [200] + [404] * 5
    stems = [stem(event) for event in await service.heard.about(client["client_id"])]
    assert stems == ["client.created", "client.deleted"]


# Tyk's Dashboard and its clients


async def test_c8_empty_strings_mean_not_given(service: Management, place: str) -> None:
    """The Dashboard's form sends every field; empty ones are generated or have their defaults."""
    empty = dict.fromkeys(
        ("client_id", "secret", "redirect_uri", "policy_id", "description", "client_name", "scope"), ""
    )
    client = await registered(service.writer, place, **empty, api_id="", meta_data="")
    assert len(client["client_id"]) == 32
    assert len(client["secret"]) >= 40
    assert (client["redirect_uri"], client["policy_id"], client["meta_data"]) == ("", "", {})
    assert "scope" not in client


async def test_c8_an_edit_with_empty_strings_keeps_id_secret_and_scope(service: Management) -> None:
    """What an edit cannot change, and the scope, whose absence would widen, are left alone by empty strings."""
    flows = {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {"read": "", "write": ""}}}
    api = await make_api(service.deps, api_document(components__securitySchemes__tykOAuth__flows=flows))
    place = f"/api/apis/oauth/{api.api_id}"
    client = await registered(service.writer, place, scope="read", meta_data={"a": 1})
    body = {"client_id": "", "api_id": "", "secret": "", "scope": "", "meta_data": "", "description": "new"}
    response = await service.writer("PUT", f"{place}/{client['client_id']}", json=body)
    assert response.status == 200, response.body
    changed = {"description": "new", "updated_at": response.body["updated_at"]}
    assert response.body == client | changed


@pytest.mark.parametrize(
    "client_id", ["me@example.test", "my app", "a+b", "50%", "a:b", "{x}", "a;b?c#d&e=f", "a\\b~'\""]
)
async def test_c7_a_client_id_has_any_printable_character_but_the_slash(
    service: Management, place: str, client_id: str
) -> None:
    """Such a client is registered, read, edited, rotated and deleted under its percent-encoded id."""
    named = f"{client_id} {unique('x')}"
    client = await registered(service.writer, place, client_id=named)
    path = URL(f"{place}/{quote(named, safe='')}", encoded=True)
    assert client["client_id"] == named
    assert (await service.writer("GET", path)).body == client
    assert (await service.writer("PUT", path, json={"description": "new"})).status == 200
    assert (await service.writer("PUT", URL(f"{path}/rotate", encoded=True))).status == 200
    assert (await service.writer("DELETE", path)).status == 200
    assert (await service.writer("GET", path)).status == 404


async def test_c7_separator_and_length_of_secrets_are_settings(mongodb_url: str) -> None:
    """Tyk's separator and short secrets can be allowed; a secret that is too short is refused with the number."""
    async with management(mongodb_url, min_client_secret_length=6, redirect_uri_separator=",") as service:
        place = f"/api/apis/oauth/{(await make_api(service.deps)).api_id}"
        client = await registered(service.writer, place, secret="tyk-secret", redirect_uri=f"{CALLBACK}, {OTHER}")
        assert client["redirect_uris"] == [CALLBACK, OTHER]
        assert client["redirect_uri"] == f"{CALLBACK},{OTHER}"
        path = f"{place}/{client['client_id']}"
        assert (await service.writer("PUT", path, json=client)).body == client
        assert (await service.writer("PUT", f"{path}/rotate", json={"secret": "shorter"})).status == 200
        for method, where in (("POST", place), ("PUT", f"{path}/rotate")):
            response = await service.writer(method, where, json={"secret": "five5"})
            assert (response.status, response.message) == (400, "secret: at least 6 characters are required")
        (secret, *_) = (await stored(service, client["client_id"])).secrets
        assert secret.short


async def test_the_lists_are_searched_by_what_is_known_of_a_client(service: Management) -> None:
    """By id, name, description, redirect URI and metadata, in any letter case and as text; of one API, or of all."""
    word = unique("word")
    api, other = await make_api(service.deps), await make_api(service.deps)
    made = [
        await make_client(service.deps, owner, **fields)
        for owner, fields in (
            (api, {"name": f"The {word.upper()}"}),
            (api, {"description": f"(.*{word}"}),
            (api, {"redirect_uris": (f"https://{word}.example.test/cb",)}),
            (api, {"meta_data": {"team": {"mail": f"{word}@example.test"}}}),
            (other, {"name": word}),
            (api, {"name": "another"}),
        )
    ]
    ids = [client.client_id for client, _ in made]

    async def found(path: str, text: str) -> set[str]:
        response = await service.reader("GET", path, params={"q": text})
        assert response.status == 200, response.body
        return {app["client_id"] for app in response.body["apps"]}

    of_api = f"/api/apis/oauth/{api.api_id}"
    assert await found("/api/clients", word) == set(ids[:5])
    assert await found(of_api, word) == set(ids[:4])
    assert await found(of_api, f"(.*{word}") == {ids[1]}
    assert await found(of_api, ids[5].upper()) == {ids[5]}
    assert await found(of_api, "") == set(ids[:4]) | {ids[5]}
    for query in ({"q": "x" * 257}, {"q": word, "p": "2"}, {"q": word, "after": "nonsense"}):
        assert (await service.reader("GET", of_api, params=query)).status == 400


async def test_a_search_on_one_api_knows_only_its_registration(service: Management) -> None:
    """A client of two APIs is found on each by what is registered there, and on all of them together by either."""
    one, other = await make_api(service.deps), await make_api(service.deps)
    client, secret = await make_client(service.deps, one, name="Desk")
    also = {"client_id": client.client_id, "secret": secret, "client_name": "Counter"}
    assert (await service.writer("POST", f"/api/apis/oauth/{other.api_id}", json=also)).status == 200

    async def count(path: str, text: str) -> int:
        return len((await service.reader("GET", path, params={"q": text})).body["apps"])

    assert [await count(f"/api/apis/oauth/{one.api_id}", text) for text in ("desk", "counter")] == [1, 0]
    assert [await count(f"/api/apis/oauth/{other.api_id}", text) for text in ("desk", "counter")] == [0, 1]


async def test_a_search_of_clients_goes_on_with_its_cursor(
    service: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every match is found once, however far apart they are."""
    monkeypatch.setattr("libs.store.clients.MOST_CLIENTS_SEARCHED", 3)
    api = await make_api(service.deps)
    names = ["x", "far", "x", "x", "x", "far", "x", "x"]
    made = [(await make_client(service.deps, api, name=name))[0].client_id for name in names]
    found: list[str] = []
    query = {"q": "far"}
    for _ in range(9):
        body = (await service.reader("GET", f"/api/apis/oauth/{api.api_id}", params=query)).body
        found += [app["client_id"] for app in body["apps"]]
        if "next" not in body:
            break
        query = {"q": "far", "after": body["next"]}
    assert found == sorted([made[1], made[5]])
