"""Lost responses: a response that was never written does not count as a use; a written one does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from contracts.grants import GrantState, RevocationReason
from libs.oauth.grants import RECOVERY_WINDOW, Transition
from libs.store import mongo
from tests.builders import CALLBACK, Response, settle
from tests.eventually import eventually
from tests.services.system import VERIFIER, Party, System, Tokens, document, open_system, refused, tokens_of
from tests.store.slow import Slow

Repeat = Callable[[], Awaitable[Response]]


async def asking(party: Party, what: str) -> Repeat:
    """Returns a function that repeats the same request, with a new code or a new grant's refresh token."""
    if what == "code":
        code = await party.code()
        return lambda: party.exchange(code)
    refresh_token = (await party.tokens()).refresh
    return lambda: party.refresh(refresh_token)


KINDS = [
    pytest.param("code", False, "recover", id="code"),
    pytest.param("code", True, "recover", id="code-of-a-public-client"),
    pytest.param("refresh", False, "recover", id="refresh"),
    pytest.param("refresh", False, "strict", id="refresh-where-the-api-is-strict"),
    pytest.param("refresh", True, "recover", id="refresh-of-a-public-client"),
]


async def is_alive(party: Party, tokens: Tokens) -> bool:
    """Whether both tokens work; uses up the refresh token."""
    assert (await party.verify(tokens.access)).status == 200
    assert (await party.refresh(tokens.refresh)).status == 200
    return True


async def replay_revokes(party: Party, repeat: Repeat, tokens: Tokens, what: str) -> bool:
    """Whether the same request, after its response was written, revokes the grant."""
    party.system.clock.advance(RECOVERY_WINDOW.total_seconds() + 1)
    assert refused(await repeat(), "invalid_grant")
    grant = await party.system.grant_of(tokens.access)
    assert grant.state is GrantState.REVOKED
    reason = RevocationReason.CODE_REPLAY if what == "code" else RevocationReason.REFRESH_REUSE
    assert grant.ended_reason is reason
    return (await party.verify(tokens.access)).status == 403


# A 503 and a compliant client


@pytest.fixture(scope="module", name="slow")
def _slow(mongodb_url: str) -> Iterator[Slow]:
    with Slow(mongodb_url).running() as slow:
        yield slow


@pytest.fixture(scope="module", name="slowed")
async def _slowed(slow: Slow) -> AsyncIterator[System]:
    """Time-outs are a tenth of the normal ones; only what follows them is tested."""
    patch = pytest.MonkeyPatch()
    patch.setattr(mongo, "OPERATION_TIMEOUT_MS", 400)
    patch.setattr(mongo, "AMBIGUITY_DEADLINE", 0.6)
    async with open_system(slow.url) as system:
        yield system
    patch.undo()


@asynccontextmanager
async def late_write_replies(system: System, slow: Slow) -> AsyncIterator[None]:
    """From the next write of a grant on, MongoDB applies writes but responds too late."""
    grants = system.deps.store.grants
    commit = grants.commit

    async def committed(transition: Transition) -> bool:
        slow.delay = 1.5
        return await commit(transition)

    grants.commit = committed  # type: ignore[method-assign]
    try:
        yield
    finally:
        slow.delay = 0.0
        grants.commit = commit  # type: ignore[method-assign]


@pytest.mark.parametrize(("what", "public", "reuse"), KINDS)
async def test_b2_obeying_a_503_gets_the_tokens(
    slowed: System, slow: Slow, what: str, public: bool, reuse: str
) -> None:
    """If MongoDB's response comes too late, the client gets 503, and the tokens when it repeats after `Retry-After`.

    They are the tokens of one use, with one event and one webhook. Once this response is written, a replay revokes.
    """
    party = await slowed.party(document(refreshReuse=reuse), public=public)
    repeat = await asking(party, what)
    await settle(slowed.deps)
    async with late_write_replies(slowed, slow):
        first = await repeat()
    assert (first.status, first.headers["Retry-After"]) == (503, "2")
    slowed.clock.advance(12)
    tokens = tokens_of(await repeat())
    assert (await party.verify(tokens.access)).status == 200
    grant = await slowed.grant_of(tokens.access)
    assert grant.generation == (1 if what == "code" else 2)
    await eventually(lambda: webhooks(slowed, tokens) == 1)
    assert await replay_revokes(party, repeat, tokens, what)


def webhooks(system: System, tokens: Tokens) -> int:
    """Number of webhooks about the access token; each must have its own id."""
    return sum(body["new_oauth_token"] == tokens.access for body in system.notified.bodies.values())


async def test_b2_a_second_503_does_not_lose_the_response(slowed: System, slow: Slow) -> None:
    """The repetition may fail, too; the one after it gets the tokens."""
    party = await slowed.party()
    repeat = await asking(party, "code")
    async with late_write_replies(slowed, slow):
        assert (await repeat()).status == 503
        slowed.clock.advance(12)
        assert (await repeat()).status == 503
    slowed.clock.advance(12)
    assert await is_alive(party, tokens_of(await repeat()))


# A disconnected client


def raw_request(party: Party, form: dict[str, str]) -> bytes:
    """The token request as bytes."""
    body = urlencode(party.named | form).encode()
    lines = [
        f"POST {party.at('oauth/token')} HTTP/1.1",
        "Host: tokens.example.test",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in party.basic.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def abandoned(party: Party, form: dict[str, str]) -> None:
    """Send the request, and disconnect after the grant is written but before the response is."""
    grants, http = party.system.deps.store.grants, party.system.call.http
    assert http.server.runner is not None
    server = http.server.runner.server
    assert server is not None
    commit, committed, gone = grants.commit, asyncio.Event(), asyncio.Event()

    async def and_wait(transition: Transition) -> bool:
        grants.commit = commit  # type: ignore[method-assign]
        done = await commit(transition)
        committed.set()
        await gone.wait()
        return done

    grants.commit = and_wait  # type: ignore[method-assign]

    def connected() -> int:
        return sum(connection.transport is not None for connection in server.connections)

    before = connected()
    reader, writer = await asyncio.open_connection(http.host, http.port)
    writer.write(raw_request(party, form))
    await committed.wait()
    writer.close()
    await eventually(lambda: connected() <= before)
    gone.set()
    assert await reader.read() == b""


def form_of(what: str, value: str, party: Party) -> dict[str, str]:
    """The parameters of the token request."""
    if what == "refresh":
        return {"grant_type": "refresh_token", "refresh_token": value}
    verifier = {} if party.secret else {"code_verifier": VERIFIER}
    return {"grant_type": "authorization_code", "code": value, "redirect_uri": CALLBACK, **verifier}


@pytest.mark.parametrize(("what", "public", "reuse"), KINDS)
async def test_b2_a_client_that_was_cut_off_gets_the_tokens(
    system: System, what: str, public: bool, reuse: str
) -> None:
    """A client that disconnected before the response gets it by repeating at once; then a replay revokes."""
    party = await system.party(document(refreshReuse=reuse), public=public)
    value = await party.code() if what == "code" else (await party.tokens()).refresh
    form = form_of(what, value, party)
    await abandoned(party, form)
    tokens = tokens_of(await party.token(form))
    assert (await party.verify(tokens.access)).status == 200
    await settle(system.deps)
    assert webhooks(system, tokens) == 1
    assert await replay_revokes(party, lambda: party.token(form), tokens, what)


async def test_b2_a_disconnected_client_may_repeat_within_a_minute(system: System) -> None:
    """The window covers two longest requests with their pauses; after it the code is used up."""
    party = await system.party()
    for seconds, status in ((64, 200), (64.001, 400)):
        code = await party.code()
        form = form_of("code", code, party)
        await abandoned(party, form)
        system.clock.advance(seconds)
        assert (await party.token(form)).status == status


@pytest.mark.parametrize("outsider", ["other-client", "wrong-verifier", "wrong-redirect-uri"])
async def test_b2_a_lost_response_is_for_its_client_only(system: System, outsider: str) -> None:
    """Only the same client with redirect URI and verifier gets a lost response."""
    party = await system.party(public=True)
    form = form_of("code", await party.code(), party)
    await abandoned(party, form)
    match outsider:
        case "other-client":
            other = await system.client_of(party.api, public=True)
            assert refused(await other.token(form), "invalid_grant")
        case "wrong-verifier":
            assert refused(await party.token(form | {"code_verifier": "x" * 43}), "invalid_grant")
        case _:
            assert refused(await party.token(form | {"redirect_uri": f"{CALLBACK}/x"}), "invalid_grant")
    assert await is_alive(party, tokens_of(await party.token(form)))


async def test_b2_a_lost_response_is_stored_encrypted_for_its_client_only(system: System) -> None:
    """Until it is written the response is stored encrypted with a key derived from the code; then it is deleted."""
    party = await system.party()
    code = await party.code()
    form = form_of("code", code, party)
    await abandoned(party, form)
    kept = (await system.grant_of(code)).response
    assert kept is not None
    assert kept.box is not None
    tokens = tokens_of(await party.token(form))
    assert tokens.access.encode() not in kept.box
    assert tokens.refresh.encode() not in kept.box

    async def forgotten() -> bool:
        response = (await stored(system, code)).get("response", {})
        return "box" not in response and response.get("written_at") is not None

    await eventually(forgotten)


async def stored(system: System, value: str) -> dict[str, Any]:
    """The stored grant of a code or token."""
    presented = system.deps.token_format.read_any(value)
    assert presented is not None
    found = await system.deps.store.mongo["grants"].find_one({"_id": presented.grant_id})
    assert found is not None
    return dict(found)


async def test_b2_the_note_costs_no_write_of_its_own(system: System) -> None:
    """Noting that the response was written costs no extra write: it is part of the one that clears the event."""
    party = await system.party()
    await settle(system.deps)
    noted = 0
    flushed = system.deps.store.grants._note

    async def counted(notes: Any) -> None:
        nonlocal noted
        noted += 1
        await flushed(notes)

    system.deps.store.grants._notes._write = counted
    try:
        for _ in range(10):
            await party.tokens()
            await settle(system.deps)
    finally:
        system.deps.store.grants._notes._write = flushed
    assert noted == 0


# A response that was written but did not arrive


async def test_a15_reuse_of_a_public_client_s_refresh_token_is_detected_at_once(system: System) -> None:
    """For a public client, reuse of a refresh token after its response was written revokes the grant at once."""
    party = await system.party(public=True)
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    system.clock.advance(0.001)
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert (await party.verify(second.access)).status == 403
    await settle(system.deps)
    grant = await system.grant_of(second.access)
    (event,) = [
        event
        for event in system.heard.events
        if event["subject"] == grant.grant_id and event["type"] == "io.tokenwire.grant.revoked"
    ]
    assert event["data"]["reason"] == "refresh_reuse"


@pytest.mark.parametrize("pause", [0.001, 1, 9])
async def test_a15_an_attacker_cannot_follow_a_grant_forever(system: System, pause: float) -> None:
    """An attacker who also has the secret and repeats each refresh is detected at the second one."""
    party = await system.party()
    values = [(await party.tokens()).refresh]
    for _ in range(2):
        response = await party.refresh(values[-1])
        system.clock.advance(pause)
        attacker = await party.refresh(values[-1])
        if attacker.status != 200:
            break
        assert attacker.body["refresh_token"] == response.body["refresh_token"]
        values.append(response.body["refresh_token"])
        system.clock.advance(60)
    assert len(values) == 2
    assert refused(attacker, "invalid_grant")
    grant = await system.grant_of(values[0])
    assert (grant.state, grant.ended_reason) == (GrantState.REVOKED, RevocationReason.REFRESH_REUSE)


async def test_a15_use_of_both_the_first_and_the_recovered_pair_revokes_the_grant(system: System) -> None:
    """If both the first and the recovered pair are used, the grant is revoked, in either order."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    system.clock.advance(3)
    recovered = await party.refreshed(first.refresh)
    assert (recovered.access, recovered.refresh) == (second.access, second.refresh)
    system.clock.advance(3)
    third = await party.refreshed(recovered.refresh)
    system.clock.advance(0.001)
    assert refused(await party.refresh(second.refresh), "invalid_grant")
    assert (await party.verify(third.access)).status == 403
