"""/api/portal/policies[/{id}]: policies in Tyk's format."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.builders import make_api, make_policy, unique
from tests.services.management import Management, facts, management

PLACE = "/api/portal/policies"


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


@pytest.fixture(scope="module", name="api_id")
async def _api_id(service: Management) -> str:
    """An API for access rights."""
    return (await make_api(service.deps)).api_id


def in_tyks_words(api_id: str) -> dict[str, Any]:
    """A policy as Tyk's Dashboard sends it, with nulls and unused fields."""
    return {
        "_id": "",
        "id": "",
        "name": "Gold",
        "org_id": "5e9d9544a1dcd60001d0ed20",
        "active": True,
        "is_inactive": False,
        "rate": 10,
        "per": 60,
        "quota_max": 1000,
        "quota_renewal_rate": 3600,
        "throttle_interval": -1,
        "throttle_retry_limit": -1,
        "key_expires_in": 0,
        "partitions": {"quota": False, "rate_limit": False, "acl": False},
        "tags": None,
        "meta_data": None,
        "last_updated": "1655965189",
        "access_rights": {
            api_id: {
                "api_name": "Orders",
                "api_id": api_id,
                "versions": ["Default"],
                "allowed_urls": [{"url": "/orders/.*", "methods": ["GET", "POST"]}, {"url": "/any", "methods": None}],
                "limit": None,
                "allowance_scope": "",
            }
        },
    }


async def test_a_policy_in_tyks_words_is_taken(service: Management, api_id: str) -> None:
    """POST returns the id as the message, as Tyk's Dashboard does; GET returns the policy."""
    response = await service.writer("POST", PLACE, json=in_tyks_words(api_id))
    assert response.status == 200
    policy_id = response.message
    assert response.body == {"Status": "OK", "Message": policy_id, "Meta": None, "ID": policy_id}
    shown = (await service.reader("GET", f"{PLACE}/{policy_id}")).body
    assert shown["created_at"] == shown["updated_at"]
    assert {name: value for name, value in shown.items() if not name.endswith("_at")} == {
        "id": policy_id,
        "_id": policy_id,
        "name": "Gold",
        "org_id": "5e9d9544a1dcd60001d0ed20",
        "active": True,
        "is_inactive": False,
        "rate": 10,
        "per": 60,
        "quota_max": 1000,
        "quota_renewal_rate": 3600,
        "partitions": dict.fromkeys(("quota", "rate_limit", "acl", "complexity", "per_api"), False),
        "tags": [],
        "meta_data": {},
        "access_rights": {
            api_id: {
                "api_id": api_id,
                "api_name": "Orders",
                "versions": ["Default"],
                "allowed_urls": [
                    {"url": "/orders/.*", "methods": ["GET", "POST"]},
                    {"url": "/any", "methods": []},
                ],
                "allowance_scope": "",
            }
        },
    }
    (created,) = await service.heard.about(policy_id)
    assert (created["type"], facts(created)) == ("io.tokenwire.policy.created", {"policy_id": policy_id})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param({"id": "{new}"}, "{new}", id="id"),
        pytest.param({"_id": "{new}"}, "{new}", id="underscore-id"),
        pytest.param({"id": "{new}", "_id": "5ead7120575961000181867e"}, "{new}", id="id-before-underscore-id"),
        pytest.param({"id": "", "_id": "{new}"}, "{new}", id="empty-id-is-absent"),
        pytest.param({"id": None, "_id": "{new}"}, "{new}", id="null-id-is-absent"),
    ],
)
async def test_the_id_may_be_given(service: Management, said: dict[str, Any], expected: str) -> None:
    """The id may be given as `id` or as Tyk's `_id`."""
    new = unique("gold")
    body = {key: value.format(new=new) if value else value for key, value in said.items()}
    response = await service.writer("POST", PLACE, json=body)
    assert (response.status, response.message) == (200, expected.format(new=new))


async def test_the_output_of_get_can_be_sent_back(service: Management, api_id: str) -> None:
    """GET's document is a valid PUT without effect."""
    policy_id = (await service.writer("POST", PLACE, json=in_tyks_words(api_id))).message
    before = (await service.reader("GET", f"{PLACE}/{policy_id}")).body
    assert (await service.writer("PUT", f"{PLACE}/{policy_id}", json=before)).status == 200
    after = (await service.reader("GET", f"{PLACE}/{policy_id}")).body
    assert after == before | {"updated_at": after["updated_at"]}


async def test_put_replaces_the_whole_policy(service: Management, api_id: str) -> None:
    """PUT replaces the whole policy; missing fields get their defaults."""
    policy_id = (await service.writer("POST", PLACE, json=in_tyks_words(api_id))).message
    response = await service.writer("PUT", f"{PLACE}/{policy_id}", json={"name": "Silver", "active": False})
    assert response.body == {"Status": "OK", "Message": "Data updated", "Meta": None, "ID": policy_id}
    after = (await service.reader("GET", f"{PLACE}/{policy_id}")).body
    assert (after["name"], after["active"], after["access_rights"], after["rate"]) == ("Silver", False, {}, 0)
    assert [event["type"] for event in await service.heard.about(policy_id)] == [
        "io.tokenwire.policy.created",
        "io.tokenwire.policy.updated",
    ]


async def test_meta_data_has_whatever_keys(service: Management) -> None:
    """Metadata may have any keys, including MongoDB operators and paths."""
    meta = {"$set": {"a.b": 1}, "": None, "tier": ["gold", 1.5, False]}
    policy_id = (await service.writer("POST", PLACE, json={"meta_data": meta})).message
    assert (await service.reader("GET", f"{PLACE}/{policy_id}")).body["meta_data"] == meta


async def test_an_access_right_is_about_the_api_it_is_filed_under(service: Management, api_id: str) -> None:
    """An access right's inner id may be missing, but must not differ from its key."""
    filed = {"access_rights": {api_id: {"versions": ["v1"]}}}
    policy_id = (await service.writer("POST", PLACE, json=filed)).message
    right = (await service.reader("GET", f"{PLACE}/{policy_id}")).body["access_rights"][api_id]
    assert (right["api_id"], right["versions"]) == (api_id, ["v1"])
    other = (await make_api(service.deps)).api_id
    response = await service.writer("POST", PLACE, json={"access_rights": {api_id: {"api_id": other}}})
    assert response.status == 400
    assert f"access_rights.{api_id}.api_id" in response.message


FAULTS = [
    pytest.param({"access_rights_array": [{"api_name": "x"}]}, "access_rights_array: a list", id="array-without-ids"),
    pytest.param(
        {"access_rights_array": [{"api_id": "a"}, {"api_id": "a"}]}, "more than once", id="an-api-twice-in-the-array"
    ),
    pytest.param(
        {"access_rights": {"a": {"versions": ["v1"]}}, "access_rights_array": [{"api_id": "a"}]},
        "access_rights and access_rights_array differ",
        id="two-differing-rights",
    ),
    pytest.param({"access_rights": {"a/b": {}}}, "access_rights", id="api-id-malformed"),
    pytest.param({"access_rights": {"$where": {}}}, "access_rights", id="operator-for-api-id"),
    pytest.param({"access_rights": []}, "access_rights", id="list-of-rights"),
    pytest.param({"access_rights": {"a": "all"}}, "access_rights", id="string-for-right"),
    pytest.param({"access_rights": {"a": {"allowed_urls": "/"}}}, "allowed_urls", id="string-for-urls"),
    pytest.param({"access_rights": {"a": {"allowed_urls": ["/"]}}}, "allowed_urls", id="string-for-url"),
    pytest.param({"access_rights": {"a": {"allowed_urls": [{}]}}}, "url", id="url-missing"),
    pytest.param({"rate": -2}, "rate", id="negative-rate"),
    pytest.param({"rate": {"$gt": 0}}, "rate", id="operator-for-rate"),
    pytest.param({"per": "often"}, "per", id="not-a-number"),
    pytest.param({"quota_max": 1.5}, "quota_max", id="half-a-request"),
    pytest.param({"quota_max": 1e300}, "quota_max", id="more-than-an-integer"),
    pytest.param({"quota_max": 2**63}, "quota_max", id="more-than-64-bits"),
    pytest.param({"quota_renewal_rate": 2**63}, "quota_renewal_rate", id="seconds-of-more-than-64-bits"),
    pytest.param({"rate": "inf"}, "rate", id="infinite-rate"),
    pytest.param({"per": "Infinity"}, "per", id="infinitely-long"),
    pytest.param({"rate": 1e30}, "rate", id="rate-of-more-than-64-bits"),
    pytest.param({"access_rights": {"a": {"limit": {"rate": "inf"}}}}, "limit.rate", id="infinite-rate-of-one-api"),
    pytest.param({"tags": [1]}, "tags", id="number-for-tag"),
    pytest.param({"meta_data": "x"}, "meta_data", id="string-for-meta-data"),
    pytest.param({"name": "x" * 257}, "name", id="long-name"),
    pytest.param({"active": "perhaps"}, "active", id="not-a-flag"),
]


@pytest.mark.parametrize(
    ("said", "complaint"), [*FAULTS, pytest.param({"id": "a b"}, "id", id="malformed-id"), pytest.param([], "object")]
)
async def test_a_faulty_policy_is_refused(service: Management, said: Any, complaint: str) -> None:
    """400 names the fault and nothing is stored, because a typo would silently grant nothing."""
    before = (await service.reader("GET", f"{PLACE}?p=-1")).body
    response = await service.writer("POST", PLACE, json=said)
    assert response.status == 400, response.body
    assert complaint in response.message
    assert (await service.reader("GET", f"{PLACE}?p=-1")).body == before


@pytest.mark.parametrize(("said", "complaint"), [*FAULTS, pytest.param({"id": "other"}, "in the path", id="other-id")])
async def test_a_faulty_replacement_changes_nothing(service: Management, said: Any, complaint: str) -> None:
    """400; the policy is unchanged."""
    policy = await make_policy(service.deps)
    response = await service.writer("PUT", f"{PLACE}/{policy.policy_id}", json=said)
    assert response.status == 400, response.body
    assert complaint in response.message
    assert await service.deps.store.policies.get(policy.policy_id) == policy


async def test_the_list_is_the_dashboards(mongodb_url: str) -> None:
    """`Data` and `Pages`, by id, 100 per page, all at once for a negative page."""
    async with management(mongodb_url) as service:
        assert (await service.reader("GET", PLACE)).body == {"Data": [], "Pages": 0}
        made = await asyncio.gather(*(make_policy(service.deps) for _ in range(101)))
        ids = sorted(policy.policy_id for policy in made)
        for query, expected in (("", ids[:100]), ("?p=2", ids[100:]), ("?p=-2", ids)):
            body = (await service.reader("GET", PLACE + query)).body
            assert ([policy["id"] for policy in body["Data"]], set(body) - {"next"}) == (expected, {"Data", "Pages"})
            assert body["Pages"] == (1 if "-" in query else 2)


async def test_a_taken_id_is_409(service: Management) -> None:
    """An existing id gets 409; of concurrent POSTs with one id exactly one succeeds."""
    policy_id = unique("wanted")
    responses = await asyncio.gather(*(service.writer("POST", PLACE, json={"id": policy_id}) for _ in range(6)))
    assert sorted(response.status for response in responses) == [200] + [409] * 5
    assert all(policy_id in response.message for response in responses)


async def test_concurrent_replacements_all_count_or_are_refused(service: Management) -> None:
    """Each concurrent PUT is one version or gets 409."""
    policy = await make_policy(service.deps)
    place = f"{PLACE}/{policy.policy_id}"
    responses = await asyncio.gather(*(service.writer("PUT", place, json={"rate": rate}) for rate in range(12)))
    assert {response.status for response in responses} <= {200, 409}
    after = await service.deps.store.policies.get(policy.policy_id)
    assert after is not None
    assert after.version == 1 + sum(response.status == 200 for response in responses) > 1


async def test_a_deleted_policy_is_gone(service: Management) -> None:
    """Then 404, for a second DELETE too, and there is an event."""
    policy = await make_policy(service.deps)
    place = f"{PLACE}/{policy.policy_id}"
    response = await service.writer("DELETE", place)
    assert response.body == {"Status": "OK", "Message": "Data deleted", "Meta": None}
    for method in ("GET", "PUT", "DELETE"):
        response = await service.writer(method, place, json={})
        assert (response.status, response.message) == (404, "policy not found")
    assert (await service.heard.about(policy.policy_id))[-1]["type"] == "io.tokenwire.policy.deleted"


async def test_b10_a_policy_without_a_name_has_its_id_as_name(service: Management) -> None:
    """A policy without a name gets its id as the name, after a replacement too."""
    added = await service.writer("POST", PLACE, json={})
    assert added.status == 200, added.raw
    policy_id = added.body["Message"]
    assert (await service.writer("GET", f"{PLACE}/{policy_id}")).body["name"] == policy_id
    assert (await service.writer("PUT", f"{PLACE}/{policy_id}", json={"name": ""})).status == 200
    assert (await service.writer("GET", f"{PLACE}/{policy_id}")).body["name"] == policy_id
