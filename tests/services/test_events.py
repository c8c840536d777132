"""Every change of a grant has exactly one event, and no event, log line or record contains a secret."""

import base64
import logging
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import bson
import orjson
import pytest
import structlog
from pydantic import TypeAdapter

from contracts.events import AnyEvent
from libs.bus.local import LocalBus
from libs.bus.port import Delivery, Exchange, Message, Mode, Outcome, Subscription
from tests.builders import CALLBACK, settle
from tests.eventually import eventually
from tests.services.system import (
    CHALLENGE,
    PASSWORD,
    SCHEME,
    VERIFIER,
    Party,
    System,
    document,
    open_system,
    tokens_of,
)

EVENTS: TypeAdapter[Any] = TypeAdapter(AnyEvent)
CREDENTIALS = {"grant_type": "client_credentials"}


def stem(event: dict[str, Any]) -> str:
    return str(event["type"].removeprefix("io.tokenwire."))


async def story_of(system: System, value: str) -> list[dict[str, Any]]:
    """The events of the grant of a code or token; their sequence must have no gap or repetition."""
    events = await system.heard.about((await system.grant_of(value)).grant_id)
    assert [event["sequence"] for event in events] == [f"{number:010d}" for number in range(1, len(events) + 1)]
    assert len({event["id"] for event in events}) == len(events)
    grant = await system.grant_of(value)
    assert (grant.sequence, grant.last_event) == (len(events), events[-1]["id"])
    return events


async def stems_of(system: System, value: str) -> list[str]:
    return [stem(event) for event in await story_of(system, value)]


# One event for each change


async def test_each_change_has_its_event_in_order(system: System) -> None:
    """Code, exchange, refresh, revocation of the access token, refresh, revocation: six changes, six events."""
    party = await system.party()
    code = await party.code()
    first = tokens_of(await party.exchange(code))
    second = await party.refreshed(first.refresh)
    await party.revoke(second.access)
    third = await party.refreshed(second.refresh)
    await party.revoke(third.refresh)
    assert await stems_of(system, code) == [
        "code.issued",
        "token.new",
        "token.refresh",
        "token.revoked",
        "token.refresh",
        "grant.revoked",
    ]


async def test_requests_without_effect_have_no_event(system: System) -> None:
    """Refusals, repetitions, recovered responses and checks have no event."""
    party = await system.party()
    code = await party.code(code_challenge=CHALLENGE, code_challenge_method="S256")
    await party.exchange(code, code_verifier="x" * 43)
    first = tokens_of(await party.exchange(code, code_verifier=VERIFIER))
    await party.exchange(code, code_verifier=VERIFIER)
    second = await party.refreshed(first.refresh)
    assert (await party.refreshed(first.refresh)).access == second.access
    await party.refresh(second.refresh, scope="more")
    await party.verify(second.access)
    await party.revoke(first.access)
    await party.revoke(code)
    outsider = await system.client_of(party.api)
    await outsider.revoke(second.refresh)
    await outsider.refresh(second.refresh)
    assert await stems_of(system, code) == ["code.issued", "token.new", "token.refresh"]


@pytest.mark.parametrize("how", ["code_replay", "refresh_reuse", "client_request", "operator"])
async def test_the_end_says_why(system: System, how: str) -> None:
    """One `grant.revoked` with its reason, however often revocation is repeated."""
    party = await system.party()
    code = await party.code()
    first = tokens_of(await party.exchange(code))
    second = await party.refreshed(first.refresh)
    system.clock.advance(60)
    for _ in range(2):
        match how:
            case "code_replay":
                await party.exchange(code)
            case "refresh_reuse":
                await party.refresh(first.refresh)
            case "client_request":
                await party.revoke(second.refresh)
            case _:
                path = f"/api/apis/oauth/{party.id}/revoke"
                await system.operator("POST", path, data={"token": second.refresh})
    events = await story_of(system, code)
    assert [stem(event) for event in events] == ["code.issued", "token.new", "token.refresh", "grant.revoked"]
    assert events[-1]["data"]["reason"] == how


@pytest.mark.parametrize("grant_type", ["client_credentials", "password"])
async def test_a_grant_without_a_code_begins_with_its_tokens(system: System, grant_type: str) -> None:
    """Without a code, `token.new` is the first event."""
    party = await system.party()
    user = await system.user()
    form = {"grant_type": grant_type, "username": user.username, "password": PASSWORD}
    access = tokens_of(await party.token(form)).access
    (event,) = await story_of(system, access)
    assert stem(event) == "token.new"
    assert event["data"]["grant_type"] == grant_type
    assert event["data"].get("resource_owner") == (user.username if grant_type == "password" else None)


# Contents of events


async def test_an_event_is_a_cloudevent_of_the_catalogue(system: System) -> None:
    """CloudEvents 1.0 in structured mode with source, time and trace; our contract reads it."""
    party = await system.party()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    tokens = tokens_of(await party.token(CREDENTIALS, traceparent=trace))
    (event,) = await story_of(system, tokens.access)
    EVENTS.validate_python(event)
    assert event["specversion"] == "1.0"
    assert event["source"] == "urn:tokenwire:token"
    assert event["datacontenttype"] == "application/json"
    assert event["traceparent"] == trace
    assert datetime.fromisoformat(event["time"]) == system.clock()
    assert re.fullmatch(r"evt_[0-9a-f]{32}", event["id"])


async def test_sources_are_the_services(system: System) -> None:
    """The source is the service that made the change; the trace is that of the request."""
    party = await system.party()
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    await party.revoke(tokens.refresh)
    events = await story_of(system, code)
    assert [event["source"].removeprefix("urn:tokenwire:") for event in events] == [
        "authorization",
        "token",
        "revocation",
    ]
    assert len({event["traceparent"] for event in events}) == 3


async def test_the_data_are_ids_and_times(system: System) -> None:
    """The data are public ids and times."""
    party = await system.party()
    code = await party.code(subject="alice", scope="a b")
    first = tokens_of(await party.exchange(code))
    await party.refreshed(first.refresh, scope="a")
    grant_id, at = (await system.grant_of(code)).grant_id, system.clock()
    facts = {
        "grant_id": grant_id,
        "api_id": party.api.api_id,
        "client_id": party.id,
        "grant_type": "authorization_code",
        "resource_owner": "alice",
        "scope": "a b",
    }
    issued, new, refreshed = [event["data"] for event in await story_of(system, code)]
    assert issued.pop("actor").keys() == {"operator_id", "name", "address", "request_id"}

    def at_time(data: dict[str, Any]) -> dict[str, Any]:
        return {
            name: datetime.fromisoformat(value) if name.endswith("expires_at") else value
            for name, value in data.items()
        }

    access, refresh = at + timedelta(hours=1), at + timedelta(days=14)
    tokens = {"expires_at": access, "refresh_expires_at": refresh, "notify": True}
    assert at_time(issued) == facts | {"expires_at": at + timedelta(seconds=60)}
    assert at_time(new) == facts | tokens | {"token_id": f"{grant_id}.1"}
    assert at_time(refreshed) == facts | tokens | {
        "scope": "a",
        "token_id": f"{grant_id}.2",
        "previous_token_id": f"{grant_id}.1",
    }


# Notifications


async def test_the_webhook_s_five_keys_are_sealed_for_the_notifier(system: System) -> None:
    """The five webhook keys are encrypted for the notifier, empty where not applicable, for code, password, refresh."""
    party, user = await system.party(), await system.user()
    code = await party.code()
    first = tokens_of(await party.exchange(code))
    second = await party.refreshed(first.refresh)
    login = tokens_of(await party.password(user.username))
    _, new, refreshed = await story_of(system, code)
    (by_password,) = await story_of(system, login.access)
    assert system.notified.bodies[new["id"]] == {
        "auth_code": code,
        "new_oauth_token": first.access,
        "refresh_token": first.refresh,
        "old_refresh_token": "",
        "notification_type": "new",
    }
    assert system.notified.bodies[refreshed["id"]] == {
        "auth_code": "",
        "new_oauth_token": second.access,
        "refresh_token": second.refresh,
        "old_refresh_token": first.refresh,
        "notification_type": "refresh",
    }
    assert system.notified.bodies[by_password["id"]] == {
        "auth_code": "",
        "new_oauth_token": login.access,
        "refresh_token": login.refresh,
        "old_refresh_token": "",
        "notification_type": "new",
    }


async def test_events_without_notification_encrypt_nothing(system: System) -> None:
    """client_credentials, codes, revocations and APIs without a webhook URL have no notification."""
    party = await system.party()
    silent = await system.party(document(**{SCHEME + "notifications": {"onKeyChangeUrl": ""}}))
    own = tokens_of(await party.token(CREDENTIALS))
    code = await party.code()
    tokens = await silent.tokens()
    await silent.revoke((await silent.refreshed(tokens.refresh)).refresh)
    events = [
        *await story_of(system, own.access),
        *await story_of(system, code),
        *await story_of(system, tokens.access),
    ]
    assert not {event["id"] for event in events} & set(system.notified.bodies)
    assert not any(event["data"].get("notify") for event in events)


class Unanswered(LocalBus):
    """A bus that delivers everything, and can lose confirmations."""

    unanswered = False

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        outcomes = await super().publish(messages)
        return [Outcome.UNKNOWN] * len(messages) if self.unanswered else outcomes


async def test_a_republished_event_is_identical(mongodb_url: str) -> None:
    """An unconfirmed event is published again by the sweeper, byte for byte with the same id."""
    bus = Unanswered()
    async with open_system(mongodb_url, bus=bus) as system:
        party = await system.party()
        bus.unanswered = True
        tokens = await party.tokens()
        grant = await system.grant_of(tokens.access)
        system.clock.advance(3)

        def copies() -> list[dict[str, Any]]:
            mine = [event for event in system.heard.events if event["subject"] == grant.grant_id]
            return [event for event in mine if stem(event) == "token.new"]

        await eventually(lambda: len(copies()) >= 3)
        assert all(copy == copies()[0] for copy in copies())


# No secrets


@dataclass
class Secrets:
    """Every value that must not be found, by name."""

    values: dict[str, str] = field(default_factory=dict)

    def found_in(self, *haystacks: bytes) -> set[str]:
        """The secrets in these, in clear, in base64, or a token's parts as raw bytes."""
        needles = {name: set(_spellings(value)) for name, value in self.values.items()}
        return {
            name
            for name, spellings in needles.items()
            for haystack in haystacks
            if any(s in haystack for s in spellings)
        }


def _spellings(value: str) -> Iterable[bytes]:
    yield value.encode()
    for start in range(3):
        yield base64.b64encode(b" " * start + value.encode())[4:-4]
    if value.startswith("tw_"):
        raw = base64.urlsafe_b64decode(value[6:])
        yield raw[21:-16]
        yield raw[21:-16].hex().encode()


@pytest.fixture(name="lines")
async def _lines() -> AsyncIterator[list[Any]]:
    """Unredacted log lines, and libraries' lines from warnings on, as in production."""
    with structlog.testing.capture_logs() as lines:

        class Keep(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                lines.append({"library": record.getMessage()})

        root, handler = logging.getLogger(), Keep(logging.WARNING)
        root.addHandler(handler)
        yield lines
        root.removeHandler(handler)


async def everything_happens(system: System, secrets: Secrets) -> None:
    """Use every grant type, every refusal that quotes input, and every kind of revocation."""
    shared = "the-shared-secret-of-the-webhooks"
    party: Party = await system.party(document(**{SCHEME + "notifications__sharedSecret": shared}))
    user = await system.user()
    keep = secrets.values
    keep |= {"client secret": party.secret, "password": PASSWORD, "webhook secret": shared}
    keep |= {"operator key": system.operator.headers["Authorization"], "verifier": VERIFIER}
    code = await party.code(code_challenge=CHALLENGE, code_challenge_method="S256", subject="alice")
    first = tokens_of(await party.exchange(code, code_verifier=VERIFIER))
    second = await party.refreshed(first.refresh)
    login = tokens_of(await party.password(user.username))
    own = tokens_of(await party.token(CREDENTIALS))
    unused = await party.code()
    keep |= {"code": code, "unused code": unused, "own": own.access}
    for name, tokens in {"first": first, "second": second, "login": login}.items():
        keep |= {f"{name} access": tokens.access, f"{name} refresh": tokens.refresh}
    # Refused requests with a secret in the wrong place.
    path = party.at("oauth/token")
    await party.exchange(code, code_verifier=VERIFIER)
    await party.exchange(unused, redirect_uri=CALLBACK + code)
    await party.refresh(first.access)
    await party.password(PASSWORD, second.refresh)
    await party.token({"grant_type": second.access})
    await party.token({**CREDENTIALS, "scope": f'"{second.access}"'})
    await party.token({**CREDENTIALS, second.refresh: "1"})
    await system.call("POST", f"{path}?token={second.access}", headers=party.basic)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    twice = f"code={code}&code={code}"
    await system.call("POST", path, data=twice, headers=form | party.basic)
    await system.call("POST", path, json={"code": [code], second.access: [1]}, headers=party.basic)
    await system.call("POST", path, data=CREDENTIALS, headers={"Authorization": f"Bearer {second.access}"})
    await system.call("GET", party.at(f"oauth/authorize?client_id={second.access}"))
    await system.call("GET", "/verify", headers={"Authorization": second.access})
    await party.verify(second.access)
    await party.verify(first.access)
    await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke", data={"token": [login.access, "x"]})
    await system.operator("GET", f"/api/apis/oauth/{party.id}/tokens")
    await party.revoke(own.access)
    await party.revoke(login.refresh)
    system.clock.advance(60)
    await party.exchange(code, code_verifier=VERIFIER)


async def dumped(system: System) -> bytes:
    """The whole database as stored bytes."""
    database = system.deps.store.mongo["grants"].database
    parts = []
    for name in await database.list_collection_names():
        parts += [bson.encode(stored) async for stored in database[name].find()]
    return b"\n".join(parts)


async def test_nothing_secret_is_in_events_logs_or_database(mongodb_url: str, lines: list[Any]) -> None:
    """Row 100: only ids and digests. Notifications are encrypted on their way, too."""
    secrets, messages = Secrets(), []

    async def keep(delivery: Delivery) -> None:
        headers = orjson.dumps(dict(delivery.message.headers))
        messages.append(b"%b %b %b" % (delivery.message.key.encode(), headers, delivery.message.body))

    async with open_system(mongodb_url, notifier=False, access_log_sample=1) as system:
        for name, exchange, key in (("all", Exchange.EVENTS, "#"), ("sealed", Exchange.NOTIFY, "notify")):
            system.deps.bus.subscribe(Subscription(name, exchange, (key,), keep, Mode.BROADCAST))
        await everything_happens(system, secrets)
        await settle(system.deps)
        # The notifications are not acknowledged yet, so their ciphertext is in the dump too.
        pending = await system.deps.store.grants.awaiting_handover(system.clock() + timedelta(days=1), 1000)
        stored = await dumped(system)
    assert any(event.sealed and event.sealed in stored for event in pending)
    assert any(b'"sealed"' in message for message in messages)
    assert len(secrets.values) > 10
    assert all(event.body in stored for event in pending)
    assert secrets.found_in(stored) == set()
    assert secrets.found_in(*messages) == set()
    assert len(lines) > 20
    assert secrets.found_in(*(repr(line).encode() for line in lines)) == set()


async def test_the_search_for_secrets_finds_them() -> None:
    """The search itself works: it finds a value in clear, in base64 at any offset, and a token's raw bytes."""
    token = "tw_at_" + base64.urlsafe_b64encode(bytes(range(57))).decode()
    secrets = Secrets({"token": token, "password": PASSWORD})
    assert secrets.found_in(f"x{token}x".encode()) == {"token"}
    assert secrets.found_in(b"-" + bytes(range(57)) + b"-") == {"token"}
    for start in range(4):
        assert secrets.found_in(base64.b64encode(b"." * start + PASSWORD.encode() + b"...")) == {"password"}
    assert secrets.found_in(b"nothing here") == set()


async def test_settled_grants_keep_no_event(system: System) -> None:
    """Published events and consumed notifications are removed from the grant."""
    party = await system.party()
    silent = await system.party(document(**{SCHEME + "notifications": {"onKeyChangeUrl": ""}}))
    notified, unnotified = await party.tokens(), await silent.tokens()
    await settle(system.deps)
    grants = system.deps.store.grants
    assert await events_with(system, unnotified.access) == 0
    assert await events_with(system, notified.access) == 1
    await grants.handed_over(await grants.awaiting_handover(system.clock() + timedelta(days=1), 1000))
    assert await events_with(system, notified.access) == 0


async def events_with(system: System, value: str) -> int:
    """Number of events stored with the grant of this code or token."""
    stored = await system.deps.store.mongo["grants"].find_one({"_id": (await system.grant_of(value)).grant_id})
    assert stored is not None
    return len(stored.get("pending", ()))
