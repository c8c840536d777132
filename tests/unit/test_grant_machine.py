"""The life of a grant: every order of events that hypothesis thinks of, and the edges of each window by name."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr, TypeAdapter

from contracts.apis import Api, DefinitionFormat, GrantType, OAuthSettings, RefreshReuse
from contracts.clients import Client
from contracts.events import AnyEvent, Event
from contracts.grants import Grant, GrantState, RevocationReason
from libs.events import Origin
from libs.oauth.errors import InvalidGrant, InvalidScope, OAuthError
from libs.oauth.grants import (
    CODE_RETRY_WINDOW,
    MAX_VERIFIER_FAILURES,
    RECOVERY_WINDOW,
    Recovery,
    TokenPair,
    Transition,
    belongs_to,
    end,
    exchange_code,
    issue_code,
    issue_tokens,
    live_access_token,
    refresh,
    revoke_access_token,
)
from libs.oauth.tokens import Minted, TokenCodec, TokenKind, new_grant_id
from libs.sealing import open_as_holder, seal_for_holder
from tests.unit.test_pkce import CHALLENGE, VERIFIER

START = datetime(2026, 5, 4, 12, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
CALLBACK = "https://app.example.test/callback"
EVENTS: TypeAdapter[Event] = TypeAdapter(AnyEvent)
SETTINGS = OAuthSettings(
    refresh_token=True,
    code_lifetime=timedelta(seconds=60),
    access_token_lifetime=timedelta(minutes=5),
    refresh_token_lifetime=timedelta(hours=1),
    grant_lifetime=timedelta(hours=2),
)
API = Api(
    api_id="orders",
    name="Orders",
    listen_path="/orders/",
    upstream_url="http://upstream.example.test/",
    format=DefinitionFormat.OAS,
    definition=SecretStr("{}"),
    created_at=START,
    updated_at=START,
)
CLIENT = Client(client_id="app", api_id="orders", created_at=START, updated_at=START)


@dataclass
class Issued:
    """A pair as its client has it."""

    access: Minted
    refresh: Minted | None
    at: datetime


@dataclass
class World:
    """One grant and everybody who holds something of it: decides as the services do, and commits what was decided."""

    settings: OAuthSettings = SETTINGS
    public: bool = False
    challenge: str | None = None
    redirect_uri_requested: bool = True
    scope: str | None = "a b"
    now: datetime = START
    grant: Grant = field(init=False)
    code: Minted = field(init=False)
    pairs: list[Issued] = field(default_factory=list)
    """Those that were handed out; the one of generation n at n-1."""
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        counter = itertools.count()
        self.codec = TokenCodec({1: bytes(32)}, 1, lambda count: next(counter).to_bytes(count, "big"))
        grant_id = new_grant_id(b"0123456789abcdef")
        self.code = self.codec.mint(TokenKind.CODE, grant_id, 0)
        issued = issue_code(
            grant_id,
            self.code,
            API,
            CLIENT,
            settings=self.settings,
            redirect_uri=CALLBACK,
            redirect_uri_requested=self.redirect_uri_requested,
            scope=self.scope,
            code_challenge=self.challenge,
            subject="ada",
            key_rules=None,
            at=self.at(),
        )
        assert issued.before is None
        self.grant = issued.after
        self._record(issued)

    def at(self) -> Origin:
        return Origin("urn:tokenwire:tests", self.now)

    def pass_time(self, time: timedelta) -> None:
        self.now += time

    def exchange(
        self, *, redirect_uri: str | None = CALLBACK, verifier: str | None = None, code: Minted | None = None
    ) -> Issued:
        """The code's first tokens. Raises InvalidGrant, after committing what that may have meant."""
        presented = self.codec.read(TokenKind.CODE, (code or self.code).value)
        assert presented is not None
        pair = self.mint(1)
        decided = exchange_code(
            self.grant,
            presented,
            pair,
            settings=self.settings,
            public=self.public,
            redirect_uri=redirect_uri,
            verifier=verifier,
            sealed=b"sealed",
            at=self.at(),
        )
        return self._handed_out(decided, pair)

    def refresh(self, value: Minted, scope: str | None = None) -> Issued:
        """The next pair, or the same once more. Raises InvalidGrant or InvalidScope, as `exchange` does."""
        presented = self.codec.read(TokenKind.REFRESH, value.value)
        assert presented is not None
        pair = self.mint(presented.generation + 1)
        recover = self.settings.refresh_reuse is RefreshReuse.RECOVER
        assert pair.refresh is not None
        values = orjson.dumps([pair.access.value, pair.refresh.value])
        decided = self.decide_refresh(value, pair, scope, seal_for_holder(value.value, values) if recover else None)
        if isinstance(decided, Recovery):
            access, successor = orjson.loads(open_as_holder(value.value, decided.box))
            again = self.pairs[presented.generation]
            assert again.refresh is not None
            assert (access, successor) == (again.access.value, again.refresh.value)
            return again
        return self._handed_out(decided, pair)

    def decide_refresh(
        self, value: Minted, pair: TokenPair, scope: str | None = None, successor: bytes | None = b"box"
    ) -> Transition | Recovery:
        presented = self.codec.read(TokenKind.REFRESH, value.value)
        assert presented is not None
        return refresh(
            self.grant,
            presented,
            pair,
            settings=self.settings,
            scope=scope,
            successor=successor,
            sealed=b"sealed",
            at=self.at(),
        )

    def revoke_access(self, generation: int) -> bool:
        decided = revoke_access_token(self.grant, generation, RevocationReason.OPERATOR, self.at())
        if decided is not None:
            self._commit(decided)
        return decided is not None

    def end(self, reason: RevocationReason = RevocationReason.OPERATOR) -> None:
        self._commit(end(self.grant, reason, self.at()))

    def mint(self, generation: int) -> TokenPair:
        access = self.codec.mint(TokenKind.ACCESS, self.grant.grant_id, generation)
        return TokenPair(
            access,
            self.codec.mint(TokenKind.REFRESH, self.grant.grant_id, generation)
            if self.settings.refresh_token
            else None,
        )

    def live_access(self) -> list[int]:
        """Generations of the access tokens that the gateway takes, expired or not."""
        handles = [self.codec.read(TokenKind.ACCESS, pair.access.value) for pair in self.pairs]
        return [
            number
            for number, handle in enumerate(handles, 1)
            if handle is not None and live_access_token(self.grant, handle) is not None
        ]

    def live_refresh(self) -> list[int]:
        """Generations of the refresh tokens that would get a new pair now."""
        live = []
        for number, pair in enumerate(self.pairs, 1):
            if pair.refresh is None:
                continue
            try:
                decided = self.decide_refresh(pair.refresh, self.mint(number + 1))
            except InvalidGrant:
                continue
            if isinstance(decided, Transition) and decided.after.state is GrantState.ACTIVE:
                live.append(number)
        return live

    def _handed_out(self, decided: Transition | Recovery, pair: TokenPair) -> Issued:
        assert isinstance(decided, Transition)
        self._commit(decided)
        if decided.refusal is not None:
            raise decided.refusal
        self.pairs.append(Issued(pair.access, pair.refresh, self.now))
        return self.pairs[-1]

    def _commit(self, decided: Transition) -> None:
        assert decided.before is self.grant
        assert decided.after.version == self.grant.version + 1
        if decided.event is None:
            kept = {"sequence", "last_event", "state", "generation", "access", "refresh", "used_refresh"}
            assert decided.after.model_dump(include=kept) == self.grant.model_dump(include=kept)
        self.grant = decided.after
        self._record(decided)

    def _record(self, decided: Transition) -> None:
        if decided.event is None:
            return
        event = EVENTS.validate_json(decided.event.body)
        assert decided.event.body == event.model_dump_json(exclude_none=True).encode(), "as the model writes it"
        assert event.sequence == f"{decided.after.sequence:010d}" == f"{len(self.events) + 1:010d}"
        assert event.id == decided.event.id == decided.after.last_event
        assert event.id not in {earlier.id for earlier in self.events}
        assert event.subject == decided.event.owner == self.grant.grant_id
        assert decided.event.key == f"{event.stem}.orders"
        self.events.append(event)

    def stems(self) -> list[str]:
        return [event.stem for event in self.events]


# Any order of events

MOMENTS = [timedelta(0), MILLISECOND, timedelta(seconds=1), timedelta(seconds=5), timedelta(minutes=20)]


class AnyLife(RuleBasedStateMachine):
    """What the product promises of a grant, beside what the code does, under any sequence of deeds.

    The model is the set of values that are good: which code, which access token, which refresh token, until when.
    """

    @initialize(
        reuse=st.sampled_from(RefreshReuse),
        refreshes=st.sampled_from([True, True, True, False]),
        pkce=st.sampled_from(["none", "confidential", "public"]),
        redirect_uri_requested=st.booleans(),
    )
    def authorize(self, reuse: RefreshReuse, refreshes: bool, pkce: str, redirect_uri_requested: bool) -> None:
        """Somebody logs in and agrees."""
        self.world = World(
            SETTINGS.model_copy(update={"refresh_reuse": reuse, "refresh_token": refreshes}),
            public=pkce == "public",
            challenge=None if pkce == "none" else CHALLENGE,
            redirect_uri_requested=redirect_uri_requested,
        )
        self.state = GrantState.PENDING
        self.code_good_until = START + SETTINGS.code_lifetime
        self.code_used_at: datetime | None = None
        self.code_failures = 0
        self.live_access: int | None = None
        self.live_refresh: int | None = None
        self.refresh_good_until = START
        self.previous_good_until = START
        self.rotated_at = START

    @contextmanager
    def nothing_happens(self, error: type[OAuthError] = InvalidGrant) -> Iterator[None]:
        """A refusal that leaves the grant as it was."""
        before = self.world.grant
        with pytest.raises(error):
            yield
        assert self.world.grant is before

    @contextmanager
    def the_grant_ends(self, reason: RevocationReason) -> Iterator[None]:
        """A refusal that revokes the grant, with its event."""
        with pytest.raises(InvalidGrant):
            yield
        self.gone(reason)

    def gone(self, reason: RevocationReason) -> None:
        self.state, self.live_access, self.live_refresh = GrantState.REVOKED, None, None
        assert self.world.events[-1].stem == "grant.revoked"
        assert self.world.grant.ended_reason is reason
        assert self.world.grant.ended_at == self.world.now

    def issued(self, generation: int) -> None:
        self.state, self.live_access = GrantState.ACTIVE, generation
        if self.world.settings.refresh_token:
            self.live_refresh = generation
            self.refresh_good_until = min(self.world.now + SETTINGS.refresh_token_lifetime, self.world.grant.expires_at)

    @rule(time=st.sampled_from(MOMENTS))
    def time_passes(self, time: timedelta) -> None:
        self.world.pass_time(time)

    @rule(data=st.data(), beside=st.sampled_from([-MILLISECOND, timedelta(0), MILLISECOND]))
    def an_edge_comes_near(self, data: st.DataObject, beside: timedelta) -> None:
        """Time passes to the end of something, or a millisecond to one side of it."""
        ends = [self.code_good_until, self.refresh_good_until, self.rotated_at + RECOVERY_WINDOW]
        if self.code_used_at is not None:
            ends.append(self.code_used_at + CODE_RETRY_WINDOW)
        to_come = [end + beside for end in ends if end + beside > self.world.now]
        if to_come:
            self.world.now = data.draw(st.sampled_from(to_come))

    @rule(
        redirect_uri=st.sampled_from([CALLBACK, CALLBACK, None, "https://evil.example.test/"]),
        verifier=st.sampled_from([VERIFIER, VERIFIER, None, "x" * 43]),
    )
    def the_client_presents_the_code(self, redirect_uri: str | None, verifier: str | None) -> None:
        """Product §3, code: single use, bound to redirect URI and challenge; replay ends, a retry does not."""
        if self.world.challenge is None and verifier == VERIFIER:
            verifier = None
        is_redirect_right = redirect_uri == CALLBACK or (redirect_uri is None and not self.world.redirect_uri_requested)
        is_proven = verifier == VERIFIER if self.world.challenge else verifier is None

        def present() -> Issued:
            return self.world.exchange(redirect_uri=redirect_uri, verifier=verifier)

        is_used = self.code_used_at is not None
        is_over = self.state is GrantState.REVOKED or self.code_failures == MAX_VERIFIER_FAILURES
        counts = not is_used and self.world.challenge is not None
        if is_over or not is_redirect_right or not (is_proven or counts):
            with self.nothing_happens():
                present()
        elif not is_proven:
            with pytest.raises(InvalidGrant):
                present()
            self.code_failures += 1
        elif self.code_used_at is not None and self.world.now - self.code_used_at <= CODE_RETRY_WINDOW:
            with self.nothing_happens():
                present()
        elif is_used:
            with self.the_grant_ends(RevocationReason.CODE_REPLAY):
                present()
        elif self.world.now >= self.code_good_until:
            with self.nothing_happens():
                present()
        else:
            present()
            self.code_used_at = self.world.now
            self.issued(1)

    @precondition(lambda self: any(pair.refresh for pair in self.world.pairs))
    @rule(data=st.data(), scope=st.sampled_from([None, None, None, "a", "z"]))
    def the_client_presents_a_refresh_token(self, data: st.DataObject, scope: str | None) -> None:
        """Product §3, refresh: single use, the lost response again within ten seconds, any other reuse ends."""
        newest, now = len(self.world.pairs), self.world.now
        generation = max(1, newest - data.draw(st.sampled_from([0, 0, 0, 1, 1, 2, 9])))
        value = self.world.pairs[generation - 1].refresh
        assert value is not None

        def present() -> Issued:
            return self.world.refresh(value, scope)

        recoverable = (
            self.world.settings.refresh_reuse is RefreshReuse.RECOVER
            and generation == newest - 1
            and now - self.rotated_at <= RECOVERY_WINDOW
            and now < self.previous_good_until
        )
        if self.state is GrantState.REVOKED or (generation == newest and now >= self.refresh_good_until):
            with self.nothing_happens():
                present()
        elif generation == newest and scope == "z":
            with self.nothing_happens(InvalidScope):
                present()
        elif generation == newest:
            present()
            self.previous_good_until, self.rotated_at = self.refresh_good_until, now
            self.issued(generation + 1)
            assert self.world.grant.access is not None
            assert self.world.grant.access.scope == (scope or "a b")
        elif recoverable:
            before = self.world.grant
            assert present() is self.world.pairs[-1]
            assert self.world.grant is before
        else:
            with self.the_grant_ends(RevocationReason.REFRESH_REUSE):
                present()

    @precondition(lambda self: self.world.pairs)
    @rule(data=st.data())
    def an_access_token_is_revoked(self, data: st.DataObject) -> None:
        """Revoking an access token leaves the refresh token usable; revoking a dead one changes nothing."""
        generation = data.draw(st.integers(1, len(self.world.pairs)))
        assert self.world.revoke_access(generation) == (generation == self.live_access)
        if generation == self.live_access:
            self.live_access = None

    @precondition(lambda self: self.state is not GrantState.REVOKED)
    @rule(
        reason=st.sampled_from([RevocationReason.OPERATOR, RevocationReason.CLIENT_DELETED]), seldom=st.integers(0, 19)
    )
    def it_is_ended(self, reason: RevocationReason, seldom: int) -> None:
        """Somebody with the right to it ends the grant; not often, or little else would be seen."""
        if seldom == 19:
            self.world.end(reason)
            self.gone(reason)

    @rule(data=st.data())
    def a_stranger_tries(self, data: st.DataObject) -> None:
        """Whoever has not what was handed out, or is not whom it was handed to, changes nothing."""
        values = [self.world.code, *(pair.refresh for pair in self.world.pairs if pair.refresh)]
        value = data.draw(st.sampled_from([minted.value for minted in values]))
        place = data.draw(st.integers(6, len(value) - 1))
        guess = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
        assert self.world.codec.read_any(guess) is None
        assert not belongs_to(self.world.grant, CLIENT.model_copy(update={"client_id": "another"}), API)
        assert not belongs_to(self.world.grant, CLIENT, API.model_copy(update={"api_id": "invoices"}))
        with self.nothing_happens():
            self.world.exchange(code=self.world.codec.mint(TokenKind.CODE, self.world.grant.grant_id, 0))

    @invariant()
    def the_live_values_are_those_of_the_model(self) -> None:
        """At most one access token and one refresh token of a grant are good, and the model says which."""
        assert self.world.live_access() == [generation for generation in [self.live_access] if generation]
        good = self.live_refresh if self.world.now < self.refresh_good_until else None
        assert self.world.live_refresh() == [generation for generation in [good] if generation]
        assert self.world.grant.state is self.state

    @invariant()
    def revoked_is_final(self) -> None:
        """Once revoked there is no event any more, and nothing is good."""
        if "grant.revoked" in self.world.stems():
            assert self.world.stems()[-1] == "grant.revoked"
            assert self.world.grant.state is GrantState.REVOKED

    @invariant()
    def nothing_outlives_the_grant(self) -> None:
        """No token is good for longer than the grant as a whole."""
        grant = self.world.grant
        ends = [part.expires_at for part in (grant.access, grant.refresh) if part is not None]
        assert max(ends, default=START) <= grant.expires_at

    @invariant()
    def no_value_is_kept_or_told(self) -> None:
        """Neither the document nor any event holds a value that opens anything."""
        kept = repr(self.world.grant.model_dump()) + repr([event.model_dump() for event in self.world.events])
        values = [
            self.world.code,
            *(value for pair in self.world.pairs for value in (pair.access, pair.refresh) if value),
        ]
        assert not any(value.value in kept for value in values)


def test_any_life() -> None:
    """Whatever happens in whatever order, a grant keeps the promises of the product."""
    run_state_machine_as_test(AnyLife, settings=settings(max_examples=200, stateful_step_count=40, deadline=None))


# The edges of each window, by name


def active(**changes: Any) -> World:
    """A world in which the code was exchanged at START."""
    world = World(**changes)
    world.exchange(verifier=VERIFIER if world.challenge else None)
    return world


@pytest.mark.parametrize(
    ("after", "lives"),
    [
        pytest.param(timedelta(0), True, id="at-once"),
        pytest.param(CODE_RETRY_WINDOW, True, id="2-s"),
        pytest.param(CODE_RETRY_WINDOW + MILLISECOND, False, id="2.001-s"),
        pytest.param(timedelta(minutes=1), False, id="when-the-code-would-have-expired"),
        pytest.param(timedelta(minutes=90), False, id="when-every-token-has-expired"),
    ],
)
def test_a_replayed_code_ends_the_grant_unless_it_is_a_retry(after: timedelta, lives: bool) -> None:
    """RFC 6749 §4.1.2: within 2 s of the first use it is taken for a retry, later the grant is revoked."""
    world = active()
    world.pass_time(after)
    with pytest.raises(InvalidGrant):
        world.exchange()
    assert (world.grant.state is GrantState.ACTIVE) is lives
    assert world.live_access() == ([1] if lives else [])
    assert world.stems() == ["code.issued", "token.new"] + ([] if lives else ["grant.revoked"])


@pytest.mark.parametrize(
    ("redirect_uri", "verifier"),
    [
        pytest.param("https://evil.example.test/", VERIFIER, id="wrong-redirect-uri"),
        pytest.param(None, VERIFIER, id="no-redirect-uri"),
        pytest.param(CALLBACK, "x" * 43, id="wrong-verifier"),
        pytest.param(CALLBACK, None, id="no-verifier"),
    ],
)
def test_a_thief_of_a_used_code_cannot_end_the_grant(redirect_uri: str | None, verifier: str | None) -> None:
    """Who cannot prove redirect URI and verifier is not the rightful client: the grant lives on, untouched."""
    world = active(challenge=CHALLENGE)
    before = world.grant
    world.pass_time(timedelta(minutes=1))
    with pytest.raises(InvalidGrant):
        world.exchange(redirect_uri=redirect_uri, verifier=verifier)
    assert world.grant is before


@pytest.mark.parametrize(
    ("after", "good"),
    [
        pytest.param(SETTINGS.code_lifetime - MILLISECOND, True, id="just-in-time"),
        pytest.param(SETTINGS.code_lifetime, False, id="just-too-late"),
    ],
)
def test_a_code_is_good_for_its_lifetime(after: timedelta, good: bool) -> None:
    """A code expires to the millisecond; an expired one issues nothing and ends nothing."""
    world = World()
    world.pass_time(after)
    if good:
        world.exchange()
    else:
        with pytest.raises(InvalidGrant):
            world.exchange()
    assert world.grant.state is (GrantState.ACTIVE if good else GrantState.PENDING)


def test_wrong_verifiers_burn_a_code() -> None:
    """Three wrong verifiers and the right one is too late; a wrong redirect URI costs nothing."""
    world = World(challenge=CHALLENGE)
    for _ in range(MAX_VERIFIER_FAILURES):
        with pytest.raises(InvalidGrant):
            world.exchange(verifier="x" * 43, redirect_uri="https://evil.example.test/")
        with pytest.raises(InvalidGrant):
            world.exchange(verifier="x" * 43)
    with pytest.raises(InvalidGrant):
        world.exchange(verifier=VERIFIER)
    assert world.grant.state is GrantState.PENDING
    assert world.stems() == ["code.issued"]


def test_a_public_client_proves_itself_by_pkce_only() -> None:
    """A code without challenge is worth nothing to a client without a secret, should one ever be issued."""
    with pytest.raises(InvalidGrant):
        World(public=True, challenge=None).exchange()


@pytest.mark.parametrize(
    ("after", "good"),
    [
        pytest.param(SETTINGS.refresh_token_lifetime - MILLISECOND, True, id="just-in-time"),
        pytest.param(SETTINGS.refresh_token_lifetime, False, id="just-too-late"),
    ],
)
def test_a_refresh_token_is_good_for_its_lifetime(after: timedelta, good: bool) -> None:
    """A refresh token expires to the millisecond; presenting an expired one that was never used ends nothing."""
    world = active()
    assert world.pairs[0].refresh is not None
    world.pass_time(after)
    if good:
        world.refresh(world.pairs[0].refresh)
    else:
        with pytest.raises(InvalidGrant):
            world.refresh(world.pairs[0].refresh)
    assert world.grant.state is GrantState.ACTIVE


def test_nothing_is_recovered_past_the_lifetime() -> None:
    """A token that was used just before it expired gets its lost response no longer than it would have lived."""
    world = active()
    assert world.pairs[0].refresh is not None
    world.pass_time(SETTINGS.refresh_token_lifetime - timedelta(seconds=1))
    second = world.refresh(world.pairs[0].refresh)
    world.pass_time(timedelta(seconds=1) - MILLISECOND)
    assert world.refresh(world.pairs[0].refresh) is second
    world.pass_time(MILLISECOND)
    with pytest.raises(InvalidGrant):
        world.refresh(world.pairs[0].refresh)


@pytest.mark.parametrize(
    ("after", "reuse", "used_again", "lives"),
    [
        pytest.param(timedelta(0), RefreshReuse.RECOVER, False, True, id="at-once"),
        pytest.param(RECOVERY_WINDOW, RefreshReuse.RECOVER, False, True, id="10-s"),
        pytest.param(RECOVERY_WINDOW + MILLISECOND, RefreshReuse.RECOVER, False, False, id="10.001-s"),
        pytest.param(timedelta(0), RefreshReuse.RECOVER, True, False, id="successor-used"),
        pytest.param(timedelta(0), RefreshReuse.STRICT, False, False, id="strict"),
    ],
)
def test_the_token_used_last_recovers_its_successors(
    after: timedelta, reuse: RefreshReuse, used_again: bool, lives: bool
) -> None:
    """RFC 9700 §4.14: one lost response may be repeated within 10 s; any other reuse is theft and ends the grant."""
    world = active(settings=SETTINGS.model_copy(update={"refresh_reuse": reuse}))
    first = world.pairs[0].refresh
    assert first is not None
    second = world.refresh(first)
    if used_again:
        assert second.refresh is not None
        world.refresh(second.refresh)
    world.pass_time(after)
    if lives:
        assert world.refresh(first) is second
    else:
        with pytest.raises(InvalidGrant):
            world.refresh(first)
    assert (world.grant.state is GrantState.ACTIVE) is lives
    assert ("grant.revoked" in world.stems()) is not lives


def test_a_recovery_does_not_renew_its_window() -> None:
    """Asking again and again does not keep the old token good: the window counts from its one use."""
    world = active()
    first = world.pairs[0].refresh
    assert first is not None
    world.refresh(first)
    for _ in range(2):
        world.pass_time(RECOVERY_WINDOW / 2)
        world.refresh(first)
    world.pass_time(MILLISECOND)
    with pytest.raises(InvalidGrant):
        world.refresh(first)
    assert world.grant.ended_reason is RevocationReason.REFRESH_REUSE


def test_an_older_token_is_never_recovered() -> None:
    """Two generations back is theft, however fast it was."""
    world = active()
    first = world.pairs[0].refresh
    assert first is not None
    second = world.refresh(first).refresh
    assert second is not None
    world.refresh(second)
    with pytest.raises(InvalidGrant):
        world.refresh(first)
    assert world.grant.state is GrantState.REVOKED


def test_a_value_of_a_lost_race_is_nobodys() -> None:
    """A pair that another process minted for the same generation, and never committed, opens nothing, ends nothing."""
    world = active()
    first = world.pairs[0].refresh
    lost = world.mint(1).refresh
    assert first is not None
    assert lost is not None
    with pytest.raises(InvalidGrant):
        world.refresh(lost)
    world.refresh(first)
    with pytest.raises(InvalidGrant):
        world.refresh(lost)
    assert world.grant.state is GrantState.ACTIVE


def test_a_narrowed_scope_may_be_widened_to_the_grants_again() -> None:
    """RFC 6749 §6: narrowing is of the new access token; the refresh token keeps the scope of the grant."""
    world = active()
    assert world.pairs[0].refresh is not None
    narrowed = world.refresh(world.pairs[0].refresh, "a")
    assert world.grant.access is not None
    assert world.grant.access.scope == "a"
    assert narrowed.refresh is not None
    world.refresh(narrowed.refresh)
    assert world.grant.access is not None
    assert world.grant.access.scope == "a b"


def test_refreshing_does_not_outlive_the_grant() -> None:
    """The absolute lifetime caps every later token: what is left of it is what they get, then nothing."""
    world = active()
    value = world.pairs[0].refresh
    for _ in range(2):
        world.pass_time(timedelta(minutes=59))
        assert value is not None
        value = world.refresh(value).refresh
    assert world.grant.access is not None
    assert world.grant.refresh is not None
    assert world.grant.access.expires_at == START + SETTINGS.grant_lifetime
    assert world.grant.refresh.expires_at == START + SETTINGS.grant_lifetime
    world.pass_time(timedelta(minutes=2))
    assert value is not None
    with pytest.raises(InvalidGrant):
        world.refresh(value)


def test_a_revoked_access_token_leaves_the_refresh_token() -> None:
    """The pair's refresh token is good, and the pair that it gets is alive."""
    world = active()
    assert world.revoke_access(1)
    assert not world.revoke_access(1)
    assert world.pairs[0].refresh is not None
    world.refresh(world.pairs[0].refresh)
    assert world.live_access() == [2]
    assert world.stems() == ["code.issued", "token.new", "token.revoked", "token.refresh"]


def test_an_event_tells_of_the_pair_before() -> None:
    """A refresh names both pairs by their public ids, and says whether a webhook follows."""
    world = active()
    assert world.pairs[0].refresh is not None
    world.refresh(world.pairs[0].refresh)
    data = world.events[-1].model_dump()["data"]
    grant_id = world.grant.grant_id
    assert (data["previous_token_id"], data["token_id"]) == (f"{grant_id}.1", f"{grant_id}.2")
    assert data["notify"] is True
    assert data["resource_owner"] == "ada"


@pytest.mark.parametrize(
    ("holder", "api", "own"),
    [
        pytest.param(CLIENT, API, True, id="own"),
        pytest.param(CLIENT.model_copy(update={"client_id": "other"}), API, False, id="another-client"),
        pytest.param(CLIENT, API.model_copy(update={"api_id": "invoices"}), False, id="another-api"),
        pytest.param(CLIENT.model_copy(update={"revoked_before": START}), API, False, id="revoked-with-all-others"),
        pytest.param(
            CLIENT.model_copy(update={"revoked_before": START - MILLISECOND}), API, True, id="made-after-revoke-all"
        ),
    ],
)
def test_a_grant_belongs_to_its_client_on_its_api(holder: Client, api: Api, own: bool) -> None:
    """Nobody else's, on no other API; and no longer, from the moment of `revoke_all` on."""
    assert belongs_to(World().grant, holder, api) is own


def test_a_grant_without_refresh_token_ends_with_its_access_token() -> None:
    """A client credentials grant has one access token and lives as long as it does."""
    world = World()
    pair = replace(world.mint(1), refresh=None)
    issued = issue_tokens(
        world.grant.grant_id,
        pair,
        API,
        CLIENT,
        GrantType.CLIENT_CREDENTIALS,
        settings=SETTINGS,
        scope=None,
        at=world.at(),
    )
    assert issued.before is None
    assert issued.after.refresh is None
    assert issued.after.expires_at == START + SETTINGS.access_token_lifetime
    assert issued.event is not None
    assert issued.event.sealed is None
    assert EVENTS.validate_json(issued.event.body).model_dump()["data"]["notify"] is False
