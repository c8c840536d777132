"""Registrations whose response is lost: the same request returns the same client, and never creates a second one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import orjson
import pytest

from contracts.clients import Client
from libs.store import mongo
from libs.store.clients import Clients
from tests.builders import Caller, api_document, make_api, unique
from tests.eventually import eventually
from tests.services.management import Management, management
from tests.store.slow import Slow


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


async def registering(service: Management, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Path and body of a registration on a new API."""
    api = await make_api(service.deps, api_document())
    return f"/api/apis/oauth/{api.api_id}", {"redirect_uri": "https://app.example.test/callback", **fields}


async def clients_at(service: Management, path: str) -> list[dict[str, Any]]:
    response = await service.writer("GET", path)
    return list(response.body["apps"])


async def abandoned(
    service: Management, path: str, body: dict[str, Any], step: Literal["register", "register_also"] = "register"
) -> None:
    """Register, and disconnect after this step has written the client but before the response is."""
    http = service.writer.http
    assert http.server.runner is not None
    server = http.server.runner.server
    assert server is not None
    clients, register = service.deps.store.clients, getattr(service.deps.store.clients, step)
    there, gone = asyncio.Event(), asyncio.Event()

    async def and_wait(*arguments: Any) -> Any:
        setattr(clients, step, register)
        registered = await register(*arguments)
        there.set()
        await gone.wait()
        return registered

    def connected() -> int:
        return sum(connection.transport is not None for connection in server.connections)

    setattr(clients, step, and_wait)
    before = connected()
    reader, writer = await asyncio.open_connection(http.host, http.port)
    text = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: tests\r\nAuthorization: {service.writer.headers['Authorization']}\r\n"
    writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
    await there.wait()
    writer.close()
    await eventually(lambda: connected() <= before)
    gone.set()
    assert await reader.read() == b""


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="nothing-chosen"),
        pytest.param({"client_id": "chosen"}, id="id-chosen"),
        pytest.param({"client_id": "chosen", "secret": "a secret of twenty-four or more"}, id="both-chosen"),
        pytest.param({"public": True}, id="public"),
    ],
)
async def test_b2_a_registration_that_was_cut_off_is_answered_again(
    service: Management, fields: dict[str, Any]
) -> None:
    """Repeating returns the existing client with a working secret, and there is one event."""
    if "client_id" in fields:
        fields = fields | {"client_id": unique("chosen")}
    path, body = await registering(service, **fields)
    await abandoned(service, path, body)
    response = await service.writer("POST", path, json=body)
    assert response.status == 200, response.raw
    (client,) = await clients_at(service, path)
    assert client["client_id"] == response.body["client_id"] == fields.get("client_id", client["client_id"])
    assert client.get("secret") == response.body.get("secret")
    assert fields.get("secret", response.body.get("secret")) == response.body.get("secret")
    assert len(await service.heard.about(client["client_id"])) == 1


async def test_b2_a_registration_that_was_answered_is_not_repeated(service: Management) -> None:
    """After a delivered response the same body registers another client, or conflicts; so do other operators and
    bodies.
    """
    path, body = await registering(service)
    responses = [await service.writer("POST", path, json=body) for _ in range(3)]
    assert len({response.body["client_id"] for response in responses}) == 3
    chosen = body | {"client_id": unique("chosen")}
    assert [(await service.writer("POST", path, json=chosen)).status for _ in range(2)] == [200, 409]


async def test_c4_a_cut_off_registration_on_a_further_api_is_answered_again(mongodb_url: str) -> None:
    """With secrets that are shown once, the retry gets the secret that it sent, and rotates nothing."""
    async with management(mongodb_url, client_secrets="show_once") as service:
        path, body = await registering(service, client_id=unique("chosen"), secret="a secret of twenty-four or more")
        assert (await service.writer("POST", path, json=body)).status == 200
        before = await service.deps.store.clients.get(body["client_id"])
        further, _ = await registering(service)
        await abandoned(service, further, body, "register_also")
        response = await service.writer("POST", further, json=body)
        assert (response.status, response.body["secret"]) == (200, body["secret"])
        (client,) = await clients_at(service, further)
        assert client["client_id"] == body["client_id"]
        assert len(await service.heard.about(body["client_id"])) == 2
        after = await service.deps.store.clients.get(body["client_id"])
        assert before is not None
        assert after is not None
        assert after.secrets == before.secrets


@pytest.mark.parametrize("who", ["another-operator", "another-body"])
async def test_b2_another_operator_does_not_get_an_interrupted_registration(service: Management, who: str) -> None:
    """Another operator gets 409 for the chosen id and never the secret."""
    path, body = await registering(service, client_id=unique("chosen"))
    await abandoned(service, path, body)
    caller: Caller = service.admin if who == "another-operator" else service.writer
    other = body | ({"description": "another"} if who == "another-body" else {})
    assert (await caller("POST", path, json=other)).status == 409


async def test_b2_simultaneous_registrations_are_clients_of_their_own(service: Management) -> None:
    """Concurrent identical requests that are all answered create separate clients."""
    path, body = await registering(service)
    responses = await asyncio.gather(*(service.writer("POST", path, json=body) for _ in range(4)))
    assert [response.status for response in responses] == [200] * 4
    assert len({response.body["client_id"] for response in responses}) == len(await clients_at(service, path)) == 4


async def test_b2_a_deleted_client_does_not_come_back_under_its_generated_id(service: Management) -> None:
    """After deletion the same body creates a new client."""
    path, body = await registering(service)
    first = (await service.writer("POST", path, json=body)).body["client_id"]
    assert (await service.writer("DELETE", f"{path}/{first}")).status == 200
    assert (await service.writer("POST", path, json=body)).body["client_id"] != first


async def test_b2_a_secret_that_is_shown_once_is_replaced(mongodb_url: str) -> None:
    """With show_once the lost secret cannot be read again, so the repetition creates a new one."""
    async with management(mongodb_url, client_secrets="show_once") as service:
        path, body = await registering(service)
        await abandoned(service, path, body)
        response = await service.writer("POST", path, json=body)
        assert response.status == 200
        assert response.body["secret"]
        assert len(await clients_at(service, path)) == 1


# MongoDB responds late


@pytest.fixture(scope="module", name="slow")
def _slow(mongodb_url: str) -> Iterator[Slow]:
    with Slow(mongodb_url).running() as slow:
        yield slow


async def test_b2_obeying_a_503_registers_one_client(slow: Slow) -> None:
    """If MongoDB's response comes too late, the operator gets 503, and the client when it repeats."""
    patch = pytest.MonkeyPatch()
    patch.setattr(mongo, "OPERATION_TIMEOUT_MS", 400)
    patch.setattr(mongo, "AMBIGUITY_DEADLINE", 0.6)
    async with management(slow.url) as service:
        path, body = await registering(service)
        register = Clients.register

        async def late(clients: Clients, client: Client, at: Any) -> Client:
            slow.delay = 1.5
            return await register(clients, client, at)

        patch.setattr(Clients, "register", late)
        first = await service.writer("POST", path, json=body)
        patch.undo()
        slow.delay = 0.0
        assert (first.status, first.headers["Retry-After"]) == (503, "2")
        response = await service.writer("POST", path, json=body)
        assert response.status == 200, response.raw
        (client,) = await clients_at(service, path)
        assert (client["client_id"], client["secret"]) == (response.body["client_id"], response.body["secret"])
