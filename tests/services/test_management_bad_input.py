"""Invalid input to the management API gets the right status and one sentence, and changes nothing."""

import gzip
import io
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from yarl import URL

from tests.builders import (
    Response,
    api_document,
    make_api,
    make_client,
    make_operator,
    make_policy,
    make_resource_owner,
)
from tests.services.management import Management, management

MEBIBYTE = 1024 * 1024
JSON = {"Content-Type": "application/json"}

WRITING = [
    pytest.param("POST", "/api/apis", id="import"),
    pytest.param("POST", "/api/apis/oas", id="import-oas"),
    pytest.param("PUT", "/api/apis/{api}", id="replace-api"),
    pytest.param("PUT", "/api/apis/oas/{api}", id="replace-oas"),
    pytest.param("POST", "/api/apis/oauth/{api}", id="register"),
    pytest.param("PUT", "/api/apis/oauth/{api}/{client}", id="edit"),
    pytest.param("PUT", "/api/apis/oauth/{api}/{client}/rotate", id="rotate"),
    pytest.param("POST", "/api/portal/policies", id="add-policy"),
    pytest.param("PUT", "/api/portal/policies/{policy}", id="replace-policy"),
    pytest.param("POST", "/api/apis/keys/basic/somebody-new", id="add-user"),
    pytest.param("PUT", "/api/apis/keys/basic/{user}", id="edit-user"),
    pytest.param("POST", "/api/operators", id="add-operator"),
    pytest.param("PUT", "/api/operators/{operator}", id="replace-operator"),
]


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


@pytest.fixture(scope="module", name="ids")
async def _ids(service: Management) -> dict[str, str]:
    """One record of each kind."""
    api = await make_api(service.deps)
    client, _ = await make_client(service.deps, api)
    await make_operator(service.deps)
    return {
        "api": api.api_id,
        "client": client.client_id,
        "policy": (await make_policy(service.deps)).policy_id,
        "user": (await make_resource_owner(service.deps, "a password")).username,
        "operator": (await service.deps.store.operators.all())[0].operator_id,
    }


async def everything(service: Management) -> list[Any]:
    """Every document of the database."""
    store = service.deps.store
    collections = (store.apis, store.clients, store.policies, store.resource_owners, store.operators)
    return [
        document
        for collection in collections
        for document in await store.mongo[collection.name].find({}, {"pending": 0, "pending_since": 0}).to_list(None)
    ]


def refused(response: Response, *statuses: int) -> None:
    """The status must be one of these, in the management format with one line."""
    assert response.status in statuses, response.raw
    assert response.headers["Content-Type"].startswith("application/json")
    assert "\n" not in response.message
    assert 0 < len(response.message) < 400


@pytest.mark.parametrize(("method", "path"), WRITING)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="unfinished"),
        pytest.param(b'{"name": "x"', id="cut-off"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'"text"', id="string"),
        pytest.param(b"null", id="null"),
        pytest.param(b"7", id="number"),
        pytest.param(b"\xff\xfe{\x00}\x00", id="utf-16"),
        pytest.param(b'{"name": "\xe4"}', id="latin-1"),
        pytest.param(b'{"name": "\\u0000"}', id="nul"),
        pytest.param(b'{"na\\u0000me": 1}', id="nul-in-key"),
        pytest.param(b'{"name": "\\ud800"}', id="half-a-surrogate-pair"),
        pytest.param(b'{"name": "a", "name": "b"}', id="key-twice"),
        pytest.param(b'{"rate": NaN}', id="not-a-number"),
        pytest.param(b'{"rate": 1e999}', id="infinite"),
        pytest.param(b'{"rate": ' + b"9" * 5000 + b"}", id="endless-number"),
        pytest.param(b'{"meta_data": ' + b"[" * 5000 + b"]" * 5000 + b"}", id="nested-too-deep"),
        pytest.param(b"name=x&permissions=read", id="form"),
        pytest.param(b"<xml/>", id="xml"),
    ],
)
async def test_a_malformed_body_is_400(
    service: Management, ids: dict[str, str], method: str, path: str, body: bytes
) -> None:
    """A malformed body gets 400 on every route with a body; nothing changes."""
    before = await everything(service)
    response = await service.admin(method, path.format(**ids), data=body, headers=JSON)
    refused(response, 400)
    assert await everything(service) == before


@pytest.mark.parametrize(("method", "path"), [case for case in WRITING if "polic" not in str(case.id)])
async def test_a_database_operator_is_an_unknown_field(
    service: Management, ids: dict[str, str], method: str, path: str
) -> None:
    """Keys with `$` are refused as unknown fields; nothing changes."""
    before = await everything(service)
    body = {"$set": {"active": True}, "$where": "sleep(1000)"}
    refused(await service.admin(method, path.format(**ids), json=body), 400)
    assert await everything(service) == before


async def test_a_policy_ignores_unknown_fields(service: Management) -> None:
    """Policies ignore unknown fields, as Tyk's have many; MongoDB operators among them have no effect."""
    before = await everything(service)
    policy_id = (await service.admin("POST", "/api/portal/policies", json={"$set": {"active": False}})).message
    policy = await service.deps.store.policies.get(policy_id)
    assert policy is not None
    assert policy.active
    assert len(await everything(service)) == len(before) + 1


@pytest.mark.parametrize(("method", "path"), WRITING)
async def test_a_body_over_one_mebibyte_is_413(
    service: Management, ids: dict[str, str], method: str, path: str
) -> None:
    """A body over 1 MiB gets 413 before parsing, whether announced, chunked or compressed."""
    before = await everything(service)
    large = b'{"name": "' + b" " * MEBIBYTE + b'"}'

    async def streamed() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    packed = gzip.compress(b" " * 64 * MEBIBYTE, 1)
    assert len(packed) < MEBIBYTE
    for body, headers in (
        (io.BytesIO(large), JSON),
        (streamed(), JSON),
        (packed, JSON | {"Content-Encoding": "gzip"}),
    ):
        response = await service.admin(method, path.format(**ids), data=body, headers=headers)
        refused(response, 413)
        assert "1048576" in response.message
    assert await everything(service) == before


async def test_a_body_of_one_mebibyte_is_read(service: Management) -> None:
    """A body of exactly 1 MiB is accepted."""
    document = api_document("orders-classic.json")
    text = orjson.dumps(document)
    padded = io.BytesIO(text + b" " * (MEBIBYTE - len(text)))
    assert (await service.writer("POST", "/api/apis", data=padded, headers=JSON)).status == 200


async def test_a_large_definition_comes_back(service: Management) -> None:
    """A definition of nearly the limit is stored and listed."""
    document = api_document("orders-classic.json", notes="ü" * 500_000)
    body = io.BytesIO(orjson.dumps(document))
    api_id = (await service.writer("POST", "/api/apis", data=body, headers=JSON)).body["ID"]
    assert (await service.writer("GET", f"/api/apis/{api_id}")).body == document


async def test_a_packed_body_is_unpacked(service: Management) -> None:
    """A compressed body is accepted."""
    packed = gzip.compress(orjson.dumps(api_document()))
    headers = JSON | {"Content-Encoding": "gzip"}
    assert (await service.writer("POST", "/api/apis", data=packed, headers=headers)).status == 200


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        pytest.param(b"this is not gzip, not even nearly", "gzip", id="not-packed"),
        pytest.param(gzip.compress(b'{"name": "x"}')[:-9], "gzip", id="cut-off"),
        pytest.param(b"{}", "compress", id="unknown-packing"),
    ],
)
async def test_a_body_that_cannot_be_unpacked_is_400(service: Management, body: bytes, encoding: str) -> None:
    """A body that cannot be decompressed gets 400."""
    headers = JSON | {"Content-Encoding": encoding}
    refused(await service.writer("POST", "/api/apis", data=body, headers=headers), 400)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param({"proxy__listen_path": "/api/"}, "proxy.listen_path: /api/ is reserved", id="reserved-path"),
        pytest.param({"proxy__listen_path": "/a/../b/"}, "proxy.listen_path", id="dots-in-path"),
        pytest.param({"proxy__listen_path": {"$ne": 1}}, "proxy.listen_path", id="operator-for-path"),
        pytest.param({"proxy__target_url": "file:///etc/passwd"}, "proxy.target_url", id="not-a-web-url"),
        pytest.param({"name": ""}, "name", id="no-name"),
        pytest.param({"api_id": "a.b"}, "api_id", id="malformed-id"),
        pytest.param({"use_oauth2": "yes"}, "use_oauth2", id="string-for-flag"),
    ],
)
async def test_a_faulty_definition_is_refused(service: Management, change: dict[str, Any], complaint: str) -> None:
    """A faulty definition gets 400 with the path of the fault, on import and replacement; nothing changes."""
    document = api_document("orders-classic.json")
    await service.writer("POST", "/api/apis", json=document)
    before = await everything(service)
    faulty = api_document("orders-classic.json", **change)
    for method, path in (("POST", "/api/apis"), ("PUT", f"/api/apis/{document['api_id']}")):
        response = await service.writer(method, path, json=faulty)
        refused(response, 400)
        assert complaint in response.message
    assert await everything(service) == before


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"openapi: 3.0.3\n  bad: [", id="yaml-unfinished"),
        pytest.param(b"a: &x [1]\nb: *x", id="yaml-alias"),
        pytest.param(b"!!python/object/apply:os.system ['true']", id="yaml-tag"),
        pytest.param(b"a: 1\n---\nb: 2", id="two-documents"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\0", id="nul"),
        pytest.param(b"{}", id="no-definition"),
        pytest.param(b'{"openapi": "3.0.3"}', id="openapi-without-extension"),
        pytest.param(b'{"x-tyk-api-gateway": 1}', id="extension-is-a-number"),
    ],
)
@pytest.mark.parametrize("path", ["/api/apis", "/api/apis/oas"])
async def test_a_body_that_is_no_definition_is_400(service: Management, path: str, body: bytes) -> None:
    """A body that is no definition gets 400, whatever its type."""
    before = await everything(service)
    for content_type in ("application/json", "application/yaml", "text/plain", "nonsense"):
        refused(await service.writer("POST", path, data=body, headers={"Content-Type": content_type}), 400)
    assert await everything(service) == before


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/api/apis/%00", id="nul"),
        pytest.param("/api/apis/%FF%FE", id="not-utf-8"),
        pytest.param("/api/apis/$where", id="operator"),
        pytest.param("/api/apis/{}", id="braces"),
        pytest.param("/api/apis/" + "x" * 4000, id="long"),
        pytest.param("/api/apis/a%2Fb", id="slash"),
        pytest.param("/api/apis/oas/%00", id="oas-nul"),
        pytest.param("/api/apis/oauth/%00/%00", id="client-nul"),
        pytest.param("/api/apis/oauth/%FF/a%0Ab", id="client-line-break"),
        pytest.param("/api/portal/policies/%00", id="policy-nul"),
        pytest.param("/api/operators/%FF", id="operator-not-utf-8"),
        pytest.param("/api/portal/nothing", id="no-such-route"),
    ],
)
async def test_an_unknown_path_is_404(service: Management, path: str) -> None:
    """An unknown path gets 404 in the management format."""
    caller = service.admin
    for method in ("GET", "PUT", "DELETE"):
        async with caller.http.request(
            method, URL(path, encoded=True), headers=caller.headers | JSON, data=b"{}"
        ) as response:
            refused(Response(response.status, response.headers, await response.read()), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("PATCH", "/api/apis/x", id="patch"),
        pytest.param("DELETE", "/api/apis", id="delete-all"),
        pytest.param("POST", "/api/apis/oauth/x/y", id="post-to-a-client"),
        pytest.param("GET", "/api/apis/oauth/x/y/rotate", id="get-rotate"),
        pytest.param("PUT", "/api/operators", id="put-operators"),
        pytest.param("POST", "/api/events/stream", id="post-stream"),
    ],
)
async def test_another_method_is_405(service: Management, method: str, path: str) -> None:
    """Other methods get 405 with the allowed ones."""
    response = await service.admin(method, path, json={})
    refused(response, 405)
    assert method not in response.headers["Allow"]
