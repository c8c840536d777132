"""/api/apis/keys/basic[/{username}]: users for the password grant."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from contracts.resource_owners import ResourceOwner
from libs.passwords import PasswordHasher
from tests.builders import make_policy, make_resource_owner, unique
from tests.services.management import Management, facts, management

PLACE = "/api/apis/keys/basic"
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


async def stored(service: Management, username: str) -> ResourceOwner:
    owner = await service.deps.store.resource_owners.get(username)
    assert owner is not None
    return owner


async def logs_in(service: Management, username: str, password: str) -> bool:
    """Whether the user can log in with the password."""
    hasher = PasswordHasher(threads=1)
    verified = await hasher.verify((await stored(service, username)).password_hash, password)
    hasher.close()
    return verified


async def test_a_user_is_added(service: Management) -> None:
    """The response equals GET's, without password or hash; there is an event."""
    policy = await make_policy(service.deps)
    username = unique("bob")
    said = {"password": PASSWORD, "policy_ids": [policy.policy_id], "meta_data": {"$a": {"b.c": 1}}}
    response = await service.writer("POST", f"{PLACE}/{username}", json=said)
    assert response.status == 200
    assert {name: value for name, value in response.body.items() if not name.endswith("_at")} == {
        "username": username,
        "active": True,
        "policy_ids": [policy.policy_id],
        "meta_data": {"$a": {"b.c": 1}},
    }
    assert (await service.reader("GET", f"{PLACE}/{username}")).body == response.body
    assert await logs_in(service, username, PASSWORD)
    (created,) = await service.heard.about(username)
    told = {"username": username, "policy_ids": [policy.policy_id]}
    assert (created["type"], facts(created)) == ("io.tokenwire.resource_owner.created", told)


async def test_c8_the_password_may_be_in_tyk_s_place(service: Management) -> None:
    """`basic_auth_data.password` is taken by POST and PUT; two different passwords are refused."""
    path = f"{PLACE}/{unique('bob')}"
    said = {"basic_auth_data": {"password": PASSWORD, "hash_type": "bcrypt"}}
    response = await service.writer("POST", path, json=said)
    assert response.status == 200, response.body
    assert "basic_auth_data" not in response.body
    username = path.rpartition("/")[2]
    assert await logs_in(service, username, PASSWORD)
    other = {"basic_auth_data": {"password": "another password"}}
    assert (await service.writer("PUT", path, json=other)).status == 200
    assert await logs_in(service, username, "another password")
    differing = await service.writer("PUT", path, json={"password": PASSWORD, **other})
    assert (differing.status, "differ" in differing.message) == (400, True)
    short = await service.writer("PUT", path, json={"basic_auth_data": {"password": "short"}})
    assert (short.status, "basic_auth_data.password" in short.message) == (400, True)
    empty = await service.writer("POST", f"{PLACE}/{unique('eve')}", json={"basic_auth_data": {}})
    assert (empty.status, empty.message) == (400, "password: required")


async def test_the_database_holds_no_password(service: Management) -> None:
    """Only an argon2id hash is stored."""
    username = unique("bob")
    await service.writer("POST", f"{PLACE}/{username}", json={"password": PASSWORD})
    assert (await stored(service, username)).password_hash.startswith("$argon2id$")
    document = await service.deps.store.mongo["resource_owners"].find_one({"_id": username})
    assert PASSWORD not in str(document)


@pytest.mark.parametrize("name", ["bob@example.test", "Bob Builder", "ключ", "$where", "a.b", "50%", "?", "#", "basic"])
async def test_user_names_are_free(service: Management, name: str) -> None:
    """Mail addresses, spaces, any script, and MongoDB operators are valid user names."""
    username = f"{name} {unique('x')}"
    path = URL(f"{PLACE}/{quote(username, safe='')}", encoded=True)
    caller = service.writer
    async with caller.http.request("POST", path, json={"password": PASSWORD}, headers=caller.headers) as response:
        assert response.status == 200
        assert (await response.json())["username"] == username
    assert (await stored(service, username)).username == username


@pytest.mark.parametrize("name", ["a/b", "a\0b", "new\nline", "x" * 257, "\x7f"])
async def test_an_impossible_user_name_is_refused(service: Management, name: str) -> None:
    """An invalid user name gets 400 for every method."""
    path = URL(f"{PLACE}/{quote(name, safe='')}", encoded=True)
    caller = service.writer
    for method in ("POST", "GET", "PUT", "DELETE"):
        async with caller.http.request(method, path, json={"password": PASSWORD}, headers=caller.headers) as response:
            assert response.status == 400
            assert "user name" in (await response.json())["Message"]


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"active": False}, {"active": False}, id="one-field-others-stay"),
        pytest.param({"password": "another password"}, {}, id="password-only"),
        pytest.param({"password": None, "meta_data": {}}, {"meta_data": {}}, id="null-password-stays"),
        pytest.param({"policy_ids": []}, {"policy_ids": []}, id="no-policies"),
    ],
)
async def test_an_edit_replaces_what_it_names(
    service: Management, said: dict[str, Any], changed: dict[str, Any]
) -> None:
    """PUT keeps fields not given: a new password neither activates a user nor removes policies."""
    policy = await make_policy(service.deps)
    fields: dict[str, Any] = {"policy_ids": (policy.policy_id,), "meta_data": {"a": 1}}
    owner = await make_resource_owner(service.deps, PASSWORD, **fields)
    place = f"{PLACE}/{owner.username}"
    before = (await service.reader("GET", place)).body
    response = await service.writer("PUT", place, json=said)
    assert response.status == 200
    assert response.body == before | changed | {"updated_at": response.body["updated_at"]}
    assert (await service.reader("GET", place)).body == response.body
    assert await logs_in(service, owner.username, said.get("password") or PASSWORD)
    assert len(await service.heard.about(owner.username)) == (2 if said else 1)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        pytest.param({"password": "7 chars"}, "password", id="short-password"),
        pytest.param({"password": "x" * 257}, "password", id="long-password"),
        pytest.param({"password": {"$ne": ""}}, "password", id="operator-for-password"),
        pytest.param({"password": f"{PASSWORD}\0"}, "NUL", id="nul"),
        pytest.param({"password": PASSWORD, "policy_ids": ["no-such"]}, "there is no policy 'no-such'", id="policy"),
        pytest.param({"password": PASSWORD, "policy_ids": "a"}, "policy_ids", id="string-for-list"),
        pytest.param({"password": PASSWORD, "meta_data": []}, "meta_data", id="list-for-meta-data"),
        pytest.param({"password": PASSWORD, "active": None}, "active", id="null-for-flag"),
        pytest.param({"password": PASSWORD, "admin": True}, "admin", id="unknown-field"),
    ],
)
async def test_a_faulty_user_is_refused(service: Management, said: dict[str, Any], complaint: str) -> None:
    """400 without the password in the response; nothing changes."""
    username = unique("bob")
    owner = await make_resource_owner(service.deps, PASSWORD)
    for method, name in (("POST", username), ("PUT", owner.username)):
        response = await service.writer(method, f"{PLACE}/{name}", json=said)
        assert response.status == 400, response.body
        assert complaint in response.message
        assert PASSWORD not in response.message
    assert await service.deps.store.resource_owners.get(username) is None
    assert await stored(service, owner.username) == owner


async def test_a_new_user_needs_a_password(service: Management) -> None:
    """A new user needs a password."""
    response = await service.writer("POST", f"{PLACE}/{unique('bob')}", json={"active": True})
    assert (response.status, response.message) == (400, "password: required")


async def test_a_taken_name_is_409(service: Management) -> None:
    """Of concurrent POSTs with one name exactly one succeeds, and its password works."""
    username = unique("bob")
    passwords = [f"password number {number}" for number in range(4)]
    responses = await asyncio.gather(
        *(service.writer("POST", f"{PLACE}/{username}", json={"password": password}) for password in passwords)
    )
    assert sorted(response.status for response in responses) == [200, 409, 409, 409]
    (first,) = (index for index, response in enumerate(responses) if response.status == 200)
    assert await logs_in(service, username, passwords[first])


async def test_too_many_passwords_at_once_are_503(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent hashing is limited by the number of cores; more requests get 503."""
    monkeypatch.setattr("libs.passwords.os.cpu_count", lambda: 2)
    async with management(mongodb_url) as service:
        responses = await asyncio.gather(
            *(service.writer("POST", f"{PLACE}/{unique('flood')}", json={"password": PASSWORD}) for _ in range(100))
        )
    refused = [response for response in responses if response.status == 503]
    assert {response.status for response in responses} == {200, 503}
    assert all(response.headers["Retry-After"] == "2" and response.message for response in refused)


async def test_an_unknown_user_is_404(service: Management) -> None:
    """An unknown user gets 404; PUT does not create one."""
    place = f"{PLACE}/{unique('nobody')}"
    for method in ("GET", "PUT", "DELETE"):
        response = await service.writer(method, place, json={"password": PASSWORD})
        assert (response.status, response.message) == (404, "user not found")


async def test_a_deleted_user_is_gone(service: Management) -> None:
    """Then 404, with an event; the name can be used again."""
    owner = await make_resource_owner(service.deps, PASSWORD)
    place = f"{PLACE}/{owner.username}"
    response = await service.writer("DELETE", place)
    assert response.body == {"Status": "OK", "Message": "User deleted", "Meta": None}
    assert (await service.writer("GET", place)).status == 404
    assert (await service.heard.about(owner.username))[-1]["type"] == "io.tokenwire.resource_owner.deleted"
    assert (await service.writer("POST", place, json={"password": PASSWORD})).status == 200


async def test_the_list_has_pages(mongodb_url: str) -> None:
    """100 users per page, by name."""
    async with management(mongodb_url) as service:
        assert (await service.reader("GET", PLACE)).body == {"users": [], "pages": 0}
        made = await asyncio.gather(
            *(make_resource_owner(service.deps, PASSWORD, password_hash="the hash") for _ in range(101))
        )
        names = sorted(owner.username for owner in made)
        for query, expected in (("", names[:100]), ("?p=2", names[100:]), ("?p=-1", names)):
            response = await service.reader("GET", PLACE + query)
            assert [user["username"] for user in response.body["users"]] == expected
            assert b"the hash" not in response.raw
