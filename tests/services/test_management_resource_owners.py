"""/api/apis/keys/basic[/{username}]: the users of the password grant."""

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
    """Whether the password is the user's."""
    hasher = PasswordHasher(threads=1)
    verified = await hasher.verify((await stored(service, username)).password_hash, password)
    hasher.close()
    return verified


async def test_a_user_is_added(service: Management) -> None:
    """The answer is the user as GET shows it: never a password, never a hash; the event follows."""
    policy = await make_policy(service.deps)
    username = unique("bob")
    said = {"password": PASSWORD, "policy_ids": [policy.policy_id], "meta_data": {"$a": {"b.c": 1}}}
    answer = await service.writer("POST", f"{PLACE}/{username}", json=said)
    assert answer.status == 200
    assert {name: value for name, value in answer.body.items() if not name.endswith("_at")} == {
        "username": username,
        "active": True,
        "policy_ids": [policy.policy_id],
        "meta_data": {"$a": {"b.c": 1}},
    }
    assert (await service.reader("GET", f"{PLACE}/{username}")).body == answer.body
    assert await logs_in(service, username, PASSWORD)
    (created,) = await service.heard.about(username)
    assert (created["type"], facts(created)) == ("io.tokenwire.resource_owner.created", {"username": username})


async def test_the_database_holds_no_password(service: Management) -> None:
    """Only an argon2id hash of it."""
    username = unique("bob")
    await service.writer("POST", f"{PLACE}/{username}", json={"password": PASSWORD})
    assert (await stored(service, username)).password_hash.startswith("$argon2id$")
    document = await service.deps.store.mongo["resource_owners"].find_one({"_id": username})
    assert PASSWORD not in str(document)


@pytest.mark.parametrize("name", ["bob@example.test", "Bob Builder", "ключ", "$where", "a.b", "50%", "?", "#", "basic"])
async def test_user_names_are_free(service: Management, name: str) -> None:
    """Mail addresses, spaces, other scripts and what a database would take for an operator."""
    username = f"{name} {unique('x')}"
    path = URL(f"{PLACE}/{quote(username, safe='')}", encoded=True)
    caller = service.writer
    async with caller.http.request("POST", path, json={"password": PASSWORD}, headers=caller.headers) as answer:
        assert answer.status == 200
        assert (await answer.json())["username"] == username
    assert (await stored(service, username)).username == username


@pytest.mark.parametrize("name", ["a/b", "a\0b", "new\nline", "x" * 257, "\x7f"])
async def test_an_impossible_user_name_is_refused(service: Management, name: str) -> None:
    """400, whatever is done with it."""
    path = URL(f"{PLACE}/{quote(name, safe='')}", encoded=True)
    caller = service.writer
    for method in ("POST", "GET", "PUT", "DELETE"):
        async with caller.http.request(method, path, json={"password": PASSWORD}, headers=caller.headers) as answer:
            assert answer.status == 400
            assert "user name" in (await answer.json())["Message"]


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
    """What PUT leaves out stays: a new password neither wakes a user who is inactive nor takes the policies away."""
    policy = await make_policy(service.deps)
    fields: dict[str, Any] = {"policy_ids": (policy.policy_id,), "meta_data": {"a": 1}}
    owner = await make_resource_owner(service.deps, PASSWORD, **fields)
    place = f"{PLACE}/{owner.username}"
    before = (await service.reader("GET", place)).body
    answer = await service.writer("PUT", place, json=said)
    assert answer.status == 200
    assert answer.body == before | changed | {"updated_at": answer.body["updated_at"]}
    assert (await service.reader("GET", place)).body == answer.body
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
    """400 without the password in the answer, new or not; nothing is stored or changed."""
    username = unique("bob")
    owner = await make_resource_owner(service.deps, PASSWORD)
    for method, name in (("POST", username), ("PUT", owner.username)):
        answer = await service.writer(method, f"{PLACE}/{name}", json=said)
        assert answer.status == 400, answer.body
        assert complaint in answer.message
        assert PASSWORD not in answer.message
    assert await service.deps.store.resource_owners.get(username) is None
    assert await stored(service, owner.username) == owner


async def test_a_new_user_needs_a_password(service: Management) -> None:
    """Otherwise nobody could log in."""
    answer = await service.writer("POST", f"{PLACE}/{unique('bob')}", json={"active": True})
    assert (answer.status, answer.message) == (400, "password: required")


async def test_a_taken_name_is_409(service: Management) -> None:
    """Of many POSTs one is first; its password is the one that works."""
    username = unique("bob")
    passwords = [f"password number {number}" for number in range(4)]
    answers = await asyncio.gather(
        *(service.writer("POST", f"{PLACE}/{username}", json={"password": password}) for password in passwords)
    )
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
    (first,) = (index for index, answer in enumerate(answers) if answer.status == 200)
    assert await logs_in(service, username, passwords[first])


async def test_too_many_passwords_at_once_are_503(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing is bounded by the number of cores: a flood is told to come back."""
    monkeypatch.setattr("libs.passwords.os.cpu_count", lambda: 2)
    async with management(mongodb_url) as service:
        answers = await asyncio.gather(
            *(service.writer("POST", f"{PLACE}/{unique('flood')}", json={"password": PASSWORD}) for _ in range(100))
        )
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} == {200, 503}
    assert all(answer.headers["Retry-After"] == "2" and answer.message for answer in refused)


async def test_an_unknown_user_is_404(service: Management) -> None:
    """PUT does not make one."""
    place = f"{PLACE}/{unique('nobody')}"
    for method in ("GET", "PUT", "DELETE"):
        answer = await service.writer(method, place, json={"password": PASSWORD})
        assert (answer.status, answer.message) == (404, "user not found")


async def test_a_deleted_user_is_gone(service: Management) -> None:
    """Nothing answers, and the event follows; the name can be used again."""
    owner = await make_resource_owner(service.deps, PASSWORD)
    place = f"{PLACE}/{owner.username}"
    answer = await service.writer("DELETE", place)
    assert answer.body == {"Status": "OK", "Message": "User deleted", "Meta": None}
    assert (await service.writer("GET", place)).status == 404
    assert (await service.heard.about(owner.username))[-1]["type"] == "io.tokenwire.resource_owner.deleted"
    assert (await service.writer("POST", place, json={"password": PASSWORD})).status == 200


async def test_the_list_has_pages(mongodb_url: str) -> None:
    """100 users are a page, by name."""
    async with management(mongodb_url) as service:
        assert (await service.reader("GET", PLACE)).body == {"users": [], "pages": 0}
        made = await asyncio.gather(
            *(make_resource_owner(service.deps, PASSWORD, password_hash="the hash") for _ in range(101))
        )
        names = sorted(owner.username for owner in made)
        for query, expected in (("", names[:100]), ("?p=2", names[100:]), ("?p=-1", names)):
            answer = await service.reader("GET", PLACE + query)
            assert [user["username"] for user in answer.body["users"]] == expected
            assert b"the hash" not in answer.raw
