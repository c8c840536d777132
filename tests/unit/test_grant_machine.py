"""The life of a grant: every order of events that Hypothesis finds, and the edges of each time window."""

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
from contracts.clients import Client, ClientSecret
from contracts.events import AnyEvent, Event
from contracts.grants import Grant, GrantState, RevocationReason
from libs.deadlines import UNSENT_RESPONSE_WINDOW
from libs.encryption import decrypt_with_token, encrypt_with_token
from libs.event_encoding import EventContext
from libs.oauth.errors import InvalidGrant, InvalidScope, OAuthError
from libs.oauth.grants import (
    CODE_RETRY_WINDOW,
    MAX_VERIFIER_FAILURES,
    RECOVERY_WINDOW,
    SAME_TIME,
    CodeBinding,
    IssueContext,
    Recovery,
    TokenPair,
    Transition,
    belongs_to,
    exchange_code,
    issue_code,
    issue_tokens,
    live_access_token,
    revoke_access_token,
    revoke_grant,
    rotate_refresh_token,
)
from libs.oauth.token_formats import MintedToken, OpaqueTokens, TokenKind, new_grant_id
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
CLIENT = Client(
    client_id="app",
    api_id="orders",
    secrets=(ClientSecret(digest="1.digest", created_at=START),),
    created_at=START,
    updated_at=START,
)


@dataclass
class Issued:
    """A token pair as its client has it."""

    access: MintedToken
    refresh: MintedToken | None
    at: datetime


@dataclass
class World:
    """A grant and all holders of its values. Decides as the services do, and commits the decisions."""

    settings: OAuthSettings = SETTINGS
    public: bool = False
    challenge: str | None = None
    redirect_uri_requested: bool = True
    scope: str | None = "a b"
    allowed: tuple[str, ...] = ("a", "b", "c")
    """What the client may have now."""
    now: datetime = START
    grant: Grant = field(init=False)
    code: MintedToken = field(init=False)
    pairs: list[Issued] = field(default_factory=list)
    """The issued pairs; generation n at index n-1."""
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        counter = itertools.count()
        self.token_format = OpaqueTokens({1: bytes(32)}, 1, lambda count: next(counter).to_bytes(count, "big"))
        grant_id = new_grant_id(b"0123456789abcdef")
        self.code = self.token_format.mint(TokenKind.CODE, grant_id, 0)
        binding = CodeBinding(
            redirect_uri=CALLBACK,
            redirect_uri_requested=self.redirect_uri_requested,
            scope=self.scope,
            code_challenge=self.challenge,
            subject="ada",
        )
        issued = issue_code(self.context(), grant_id, self.code, binding)
        assert issued.before is None
        self.grant = issued.after
        self._record(issued)

    def ctx(self) -> EventContext:
        return EventContext("urn:tokenwire:tests", self.now)

    def context(self) -> IssueContext:
        settings = self.settings.model_copy(update={"scopes": self.allowed})
        client = CLIENT.model_copy(update={"secrets": () if self.public else CLIENT.secrets})
        return IssueContext(API, settings, client, self.ctx())

    def pass_time(self, time: timedelta) -> None:
        self.now += time

    def exchange(
        self,
        *,
        redirect_uri: str | None = CALLBACK,
        verifier: str | None = None,
        code: MintedToken | None = None,
        lost: bool = False,
    ) -> Issued:
        """Exchange the code. Raises InvalidGrant, after committing the consequences.

        `lost`: the response is never written to the client.
        """
        presented = self.token_format.read(TokenKind.CODE, (code or self.code).value)
        assert presented is not None
        pair = self.mint(1)
        pair = replace(pair, encrypted=boxed(code or self.code, pair), sealed_notification=b"sealed")
        decided = exchange_code(
            self.context(), self.grant, presented, pair, redirect_uri=redirect_uri, verifier=verifier
        )
        return self._handed_out(decided, pair, code or self.code, lost=lost)

    def refresh(self, value: MintedToken, scope: str | None = None, *, lost: bool = False) -> Issued:
        """Refresh, or recover the last refresh. Raises InvalidGrant or InvalidScope, as `exchange` does."""
        presented = self.token_format.read(TokenKind.REFRESH, value.value)
        assert presented is not None
        pair = self.mint(presented.generation + 1)
        decided = self.decide_refresh(value, pair, scope, boxed(value, pair))
        return self._handed_out(decided, pair, value, lost=lost)

    def decide_refresh(
        self, value: MintedToken, pair: TokenPair, scope: str | None = None, box: bytes = b"box"
    ) -> Transition | Recovery:
        presented = self.token_format.read(TokenKind.REFRESH, value.value)
        assert presented is not None
        pair = replace(pair, encrypted=box, sealed_notification=b"sealed")
        return rotate_refresh_token(self.context(), self.grant, presented, pair, scope=scope)

    def revoke_access(self, generation: int) -> bool:
        decided = revoke_access_token(self.grant, generation, RevocationReason.OPERATOR, self.ctx())
        if decided is not None:
            self._commit(decided)
        return decided is not None

    def end(self, reason: RevocationReason = RevocationReason.OPERATOR) -> None:
        self._commit(revoke_grant(self.grant, reason, self.ctx()))

    def mint(self, generation: int) -> TokenPair:
        access = self.token_format.mint(TokenKind.ACCESS, self.grant.grant_id, generation)
        return TokenPair(
            access,
            self.token_format.mint(TokenKind.REFRESH, self.grant.grant_id, generation)
            if self.settings.refresh_token
            else None,
        )

    def live_access(self) -> list[int]:
        """Generations of access tokens that the gateway accepts, ignoring expiry."""
        presented = [self.token_format.read(TokenKind.ACCESS, pair.access.value) for pair in self.pairs]
        return [
            number
            for number, token in enumerate(presented, 1)
            if token is not None and live_access_token(self.grant, token) is not None
        ]

    def live_refresh(self) -> list[int]:
        """Generations of refresh tokens that would get a new pair now."""
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

    def _handed_out(
        self, decided: Transition | Recovery, pair: TokenPair, presented: MintedToken, *, lost: bool
    ) -> Issued:
        if isinstance(decided, Recovery):
            issued = self.pairs[-1]
            values = [issued.access.value, issued.refresh.value if issued.refresh else None]
            assert orjson.loads(decrypt_with_token(presented.value, decided.box)) == values
            if decided.mark is not None:
                self._commit(decided.mark)
            assert decided.grant is self.grant
        else:
            self._commit(decided)
            if decided.refusal is not None:
                raise decided.refusal
            self.pairs.append(Issued(pair.access, pair.refresh, self.now))
        if not lost:
            self.response_is_sent()
        return self.pairs[-1]

    def response_is_sent(self) -> None:
        """Note the newest response as written, as the store does."""
        response = self.grant.response
        assert response is not None
        if response.written_at is None:
            box = response.box if response.recoverable else None
            response = response.model_copy(update={"written_at": self.now, "box": box})
            self.grant = self.grant.model_copy(update={"response": response})

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


def boxed(presented: MintedToken, pair: TokenPair) -> bytes:
    """The pair, encrypted for the holder of the presented value."""
    values = [pair.access.value, pair.refresh.value if pair.refresh else None]
    return encrypt_with_token(presented.value, orjson.dumps(values))


# Any order of events

MOMENTS = [timedelta(0), MILLISECOND, timedelta(seconds=1), timedelta(seconds=5), timedelta(minutes=20)]


class AnyLife(RuleBasedStateMachine):
    """The guarantees of a grant, checked under any sequence of actions.

    The model is the set of valid values: which code, access token and refresh token, and until when.
    """

    @initialize(
        reuse=st.sampled_from(RefreshReuse),
        refreshes=st.sampled_from([True, True, True, False]),
        pkce=st.sampled_from(["none", "confidential", "public"]),
        redirect_uri_requested=st.booleans(),
    )
    def authorize(self, reuse: RefreshReuse, refreshes: bool, pkce: str, redirect_uri_requested: bool) -> None:
        """A user logs in and consents."""
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
        self.response_at = START
        self.written_at: datetime | None = None
        self.recovered = False
        self.shared = False

    def answered(self, lost: bool) -> None:
        """A response was made, or repeated; it reaches the connection or not."""
        if not lost and self.written_at is None:
            self.written_at = self.world.now

    def is_unwritten(self) -> bool:
        """Whether the newest response was never written and may still be requested."""
        return self.written_at is None and self.world.now - self.response_at <= UNSENT_RESPONSE_WINDOW

    @property
    def code_response_at(self) -> datetime:
        """When the code's response was written, if it is the newest; otherwise when the code was used."""
        assert self.code_used_at is not None
        return (self.written_at if len(self.world.pairs) == 1 else None) or self.code_used_at

    def overlaps(self) -> bool:
        return self.written_at is not None and self.world.now <= self.written_at

    @contextmanager
    def nothing_happens(self, error: type[OAuthError] = InvalidGrant) -> Iterator[None]:
        """A refusal that leaves the grant unchanged."""
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
        self.shared, self.recovered = self.recovered, False
        self.response_at, self.written_at = self.world.now, None
        if self.world.settings.refresh_token:
            self.live_refresh = generation
            self.refresh_good_until = min(self.world.now + SETTINGS.refresh_token_lifetime, self.world.grant.expires_at)

    @rule(time=st.sampled_from(MOMENTS))
    def time_passes(self, time: timedelta) -> None:
        self.world.pass_time(time)

    @rule(data=st.data(), beside=st.sampled_from([-MILLISECOND, timedelta(0), MILLISECOND]))
    def an_edge_comes_near(self, data: st.DataObject, beside: timedelta) -> None:
        """Advance the clock to the end of a time window, or a millisecond before or after it."""
        ends = [self.code_good_until, self.refresh_good_until, self.rotated_at + RECOVERY_WINDOW]
        if self.code_used_at is not None:
            ends += [self.code_response_at + CODE_RETRY_WINDOW, self.response_at + UNSENT_RESPONSE_WINDOW]
            ends.append(self.rotated_at + SAME_TIME)
        to_come = [end + beside for end in ends if end + beside > self.world.now]
        if to_come:
            self.world.now = data.draw(st.sampled_from(to_come))

    @rule(
        redirect_uri=st.sampled_from([CALLBACK, CALLBACK, None, "https://evil.example.test/"]),
        verifier=st.sampled_from([VERIFIER, VERIFIER, None, "x" * 43]),
        lost=st.sampled_from([False, False, True]),
    )
    def the_client_presents_the_code(self, redirect_uri: str | None, verifier: str | None, lost: bool) -> None:
        """A code works once, bound to redirect URI and challenge. A replay revokes; a retry does not; an unwritten
        response is no use.
        """
        if self.world.challenge is None and verifier == VERIFIER:
            verifier = None
        is_redirect_right = redirect_uri == CALLBACK or (redirect_uri is None and not self.world.redirect_uri_requested)
        is_proven = verifier == VERIFIER if self.world.challenge else verifier is None

        def present() -> Issued:
            return self.world.exchange(redirect_uri=redirect_uri, verifier=verifier, lost=lost)

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
        elif is_used and len(self.world.pairs) == 1 and self.is_unwritten():
            assert present() is self.world.pairs[0]
            self.answered(lost)
        elif is_used and self.world.now - self.code_response_at <= CODE_RETRY_WINDOW:
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
            self.answered(lost)

    @precondition(lambda self: any(pair.refresh for pair in self.world.pairs))
    @rule(
        data=st.data(),
        scope=st.sampled_from([None, None, None, "a", "z"]),
        lost=st.sampled_from([False, False, True]),
    )
    def the_client_presents_a_refresh_token(self, data: st.DataObject, scope: str | None, lost: bool) -> None:
        """A refresh token works once. An unwritten response is repeated, a written one once within ten seconds; other
        reuse revokes.
        """
        newest, now = len(self.world.pairs), self.world.now
        generation = max(1, newest - data.draw(st.sampled_from([0, 0, 0, 1, 1, 2, 9])))
        value = self.world.pairs[generation - 1].refresh
        assert value is not None

        def present() -> Issued:
            return self.world.refresh(value, scope, lost=lost)

        is_previous, age = generation == newest - 1, now - self.rotated_at
        recoverable = (
            self.world.settings.refresh_reuse is RefreshReuse.RECOVER
            and not self.world.public
            and is_previous
            and age <= RECOVERY_WINDOW
            and now < self.previous_good_until
        )
        repeatable = (is_previous and self.is_unwritten()) or (
            recoverable and (self.overlaps() or (self.recovered and not self.shared and age <= SAME_TIME))
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
            self.answered(lost)
            assert self.world.grant.access is not None
            assert self.world.grant.access.scope == (scope or "a b")
        elif repeatable:
            version = self.world.grant.version
            assert present() is self.world.pairs[-1]
            assert self.world.grant.version == version
            self.answered(lost)
        elif recoverable and not self.shared and not self.recovered:
            version = self.world.grant.version
            assert present() is self.world.pairs[-1]
            assert self.world.grant.version == version + 1
            self.recovered, self.response_at, self.written_at = True, now, None
            self.answered(lost)
        else:
            with self.the_grant_ends(RevocationReason.REFRESH_REUSE):
                present()

    @precondition(lambda self: self.world.pairs)
    @rule(data=st.data())
    def an_access_token_is_revoked(self, data: st.DataObject) -> None:
        """Revoking an access token leaves the refresh token valid; revoking an ended one changes nothing."""
        generation = data.draw(st.integers(1, len(self.world.pairs)))
        assert self.world.revoke_access(generation) == (generation == self.live_access)
        if generation == self.live_access:
            self.live_access = None

    @precondition(lambda self: self.state is not GrantState.REVOKED)
    @rule(
        reason=st.sampled_from([RevocationReason.OPERATOR, RevocationReason.CLIENT_DELETED]), seldom=st.integers(0, 19)
    )
    def it_is_ended(self, reason: RevocationReason, seldom: int) -> None:
        """An authorized party revokes the grant; rare, so that other states are reached."""
        if seldom == 19:
            self.world.end(reason)
            self.gone(reason)

    @rule(data=st.data())
    def a_stranger_tries(self, data: st.DataObject) -> None:
        """Without the issued values, or as another client, nothing can be changed."""
        values = [self.world.code, *(pair.refresh for pair in self.world.pairs if pair.refresh)]
        value = data.draw(st.sampled_from([minted.value for minted in values]))
        place = data.draw(st.integers(6, len(value) - 1))
        guess = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
        assert self.world.token_format.read_any(guess) is None
        assert not belongs_to(self.world.grant, CLIENT.model_copy(update={"client_id": "another"}), API)
        assert not belongs_to(self.world.grant, CLIENT, API.model_copy(update={"api_id": "invoices"}))
        with self.nothing_happens():
            self.world.exchange(code=self.world.token_format.mint(TokenKind.CODE, self.world.grant.grant_id, 0))

    @invariant()
    def the_live_values_are_those_of_the_model(self) -> None:
        """At most one access token and one refresh token are valid, as in the model."""
        assert self.world.live_access() == [generation for generation in [self.live_access] if generation]
        good = self.live_refresh if self.world.now < self.refresh_good_until else None
        assert self.world.live_refresh() == [generation for generation in [good] if generation]
        assert self.world.grant.state is self.state

    @invariant()
    def revoked_is_final(self) -> None:
        """After revocation there are no more events and no valid values."""
        if "grant.revoked" in self.world.stems():
            assert self.world.stems()[-1] == "grant.revoked"
            assert self.world.grant.state is GrantState.REVOKED

    @invariant()
    def nothing_outlives_the_grant(self) -> None:
        """No token outlives the grant's absolute lifetime."""
        grant = self.world.grant
        ends = [part.expires_at for part in (grant.access, grant.refresh) if part is not None]
        assert max(ends, default=START) <= grant.expires_at

    @invariant()
    def no_value_is_kept_or_told(self) -> None:
        """Neither the document nor any event contains a usable value."""
        kept = repr(self.world.grant.model_dump()) + repr([event.model_dump() for event in self.world.events])
        values = [
            self.world.code,
            *(value for pair in self.world.pairs for value in (pair.access, pair.refresh) if value),
        ]
        assert not any(value.value in kept for value in values)


def test_any_life() -> None:
    """The guarantees of a grant hold under any sequence of actions."""
    run_state_machine_as_test(AnyLife, settings=settings(max_examples=200, stateful_step_count=40))


# The edges of each time window


def active(**changes: Any) -> World:
    """A grant whose code was exchanged at START."""
    world = World(**changes)
    world.exchange(verifier=VERIFIER if world.challenge else None)
    return world


def refresh_of(world: World, number: int) -> MintedToken:
    """The refresh token of this pair."""
    value = world.pairs[number].refresh
    assert value is not None
    return value


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
    """RFC 6749 §4.1.2: within 2 s of the first use a repeated code is a retry; later it revokes the grant."""
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
def test_an_attacker_with_a_used_code_cannot_revoke_the_grant(redirect_uri: str | None, verifier: str | None) -> None:
    """Someone without redirect URI and verifier cannot revoke the grant by a replay."""
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
    """A code expires to the millisecond; an expired one has no effect."""
    world = World()
    world.pass_time(after)
    if good:
        world.exchange()
    else:
        with pytest.raises(InvalidGrant):
            world.exchange()
    assert world.grant.state is (GrantState.ACTIVE if good else GrantState.PENDING)


def test_wrong_verifiers_burn_a_code() -> None:
    """Three wrong verifiers revoke the code; a wrong redirect URI has no effect."""
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
    """A public client cannot use a code without a challenge."""
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
    """A refresh token expires to the millisecond; an expired unused one has no effect."""
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
    """A lost response cannot be recovered beyond the used token's own lifetime."""
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
        pytest.param(MILLISECOND, RefreshReuse.STRICT, False, False, id="strict"),
    ],
)
def test_the_token_used_last_recovers_its_successors(
    after: timedelta, reuse: RefreshReuse, used_again: bool, lives: bool
) -> None:
    """RFC 9700 §4.14: one lost response may be repeated within 10 s; other reuse is theft and revokes the grant."""
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


def test_a15_a_response_that_was_written_is_recovered_once_within_its_window() -> None:
    """The window starts at the first use and allows one recovery; a second is reuse."""
    world = active()
    first = refresh_of(world, 0)
    second = world.refresh(first)
    world.pass_time(RECOVERY_WINDOW / 2)
    assert world.refresh(first) is second
    world.pass_time(MILLISECOND)
    with pytest.raises(InvalidGrant):
        world.refresh(first)
    assert world.grant.ended_reason is RevocationReason.REFRESH_REUSE


def test_a15_simultaneous_requests_of_one_client_all_get_the_pair() -> None:
    """Requests that begin within SAME_TIME of the first use all get the pair, even after the first response was
    written.
    """
    world = active()
    first = refresh_of(world, 0)
    second = world.refresh(first)
    for _ in range(20):
        world.pass_time(SAME_TIME / 20)
        assert world.refresh(first) is second


@pytest.mark.parametrize("later", [MILLISECOND, timedelta(minutes=5)], ids=["at-once", "later"])
def test_a15_an_attacker_who_recovers_responses_is_detected_at_the_next_refresh(later: timedelta) -> None:
    """If a pair was handed out twice and both holders use it, the grant is revoked with an event.

    Owner and attacker behave alike, so either may be the one that refreshes first.
    """
    world = active()
    first = refresh_of(world, 0)
    world.refresh(first)
    world.pass_time(MILLISECOND)
    shared = world.refresh(first).refresh  # the attacker's, recovered with the previous token
    assert shared is not None
    world.pass_time(later)
    third = world.refresh(shared)
    world.pass_time(MILLISECOND)
    assert third.refresh is not None
    assert world.live_refresh() == [3]
    with pytest.raises(InvalidGrant):
        world.refresh(shared)
    assert world.grant.ended_reason is RevocationReason.REFRESH_REUSE
    assert world.stems()[-1] == "grant.revoked"


def test_a15_a_client_continues_after_one_recovery() -> None:
    """A client that recovered one lost response can keep refreshing, and recover another later."""
    world = active()
    lost_response = refresh_of(world, 0)
    world.refresh(lost_response)
    world.pass_time(MILLISECOND)
    value = world.refresh(lost_response).refresh
    for _ in range(2):
        world.pass_time(timedelta(minutes=5))
        assert value is not None
        before, value = value, world.refresh(value).refresh
    world.pass_time(timedelta(seconds=3))
    world.refresh(before)
    assert world.grant.state is GrantState.ACTIVE


@pytest.mark.parametrize("reuse", RefreshReuse)
def test_a15_a_public_client_has_no_recovery(reuse: RefreshReuse) -> None:
    """A public client recovers nothing, because the refresh token alone would let an attacker follow."""
    world = active(public=True, challenge=CHALLENGE, settings=SETTINGS.model_copy(update={"refresh_reuse": reuse}))
    first = refresh_of(world, 0)
    world.refresh(first)
    world.pass_time(MILLISECOND)
    with pytest.raises(InvalidGrant):
        world.refresh(first)
    assert world.grant.ended_reason is RevocationReason.REFRESH_REUSE


@pytest.mark.parametrize("public", [True, False], ids=["public", "confidential"])
@pytest.mark.parametrize("reuse", RefreshReuse)
@pytest.mark.parametrize(
    ("after", "lives"),
    [
        pytest.param(timedelta(0), True, id="at-once"),
        pytest.param(timedelta(seconds=12), True, id="after-a-503"),
        pytest.param(UNSENT_RESPONSE_WINDOW, True, id="at-the-last"),
        pytest.param(UNSENT_RESPONSE_WINDOW + MILLISECOND, False, id="too-late"),
    ],
)
@pytest.mark.parametrize("what", ["code", "refresh"])
def test_b2_a_response_that_was_never_written_is_not_a_use(
    what: str, after: timedelta, lives: bool, reuse: RefreshReuse, public: bool
) -> None:
    """If a response was never written, code or refresh token gets the same pair again, strict or not; once written,
    not.
    """
    world = World(public=public, challenge=CHALLENGE, settings=SETTINGS.model_copy(update={"refresh_reuse": reuse}))
    pair = world.exchange(verifier=VERIFIER, lost=what == "code")
    first = pair.refresh
    assert first is not None
    if what == "refresh":
        pair = world.refresh(first, lost=True)

    def again(lost: bool) -> Issued:
        return world.exchange(verifier=VERIFIER, lost=lost) if what == "code" else world.refresh(first, lost=lost)

    world.pass_time(after)
    if not lives:
        with pytest.raises(InvalidGrant):
            again(lost=False)
        assert world.grant.state is GrantState.REVOKED
        return
    assert again(lost=True) is pair
    assert again(lost=False) is pair
    assert len(world.stems()) == (2 if what == "code" else 3)
    world.pass_time(RECOVERY_WINDOW + MILLISECOND)
    with pytest.raises(InvalidGrant):
        again(lost=False)
    assert world.grant.state is GrantState.REVOKED


@pytest.mark.parametrize(
    ("redirect_uri", "verifier"), [("https://evil.example.test/", VERIFIER), (None, VERIFIER), (CALLBACK, "x" * 43)]
)
def test_b2_an_unwritten_response_is_for_its_client_only(redirect_uri: str | None, verifier: str) -> None:
    """Without redirect URI and verifier an unwritten response is not repeated, and the grant is unchanged."""
    world = World(challenge=CHALLENGE)
    pair = world.exchange(verifier=VERIFIER, lost=True)
    before = world.grant
    with pytest.raises(InvalidGrant):
        world.exchange(redirect_uri=redirect_uri, verifier=verifier)
    assert world.grant is before
    assert world.exchange(verifier=VERIFIER) is pair


def test_b2_a_pair_that_was_refreshed_had_arrived() -> None:
    """A pair that was used had arrived, so its code is used up even without the note."""
    world = World()
    first = world.exchange(lost=True).refresh
    assert first is not None
    world.refresh(first)
    world.pass_time(CODE_RETRY_WINDOW + MILLISECOND)
    with pytest.raises(InvalidGrant):
        world.exchange()
    assert world.grant.ended_reason is RevocationReason.CODE_REPLAY


def test_an_older_token_is_never_recovered() -> None:
    """A token two generations old is theft, however quick."""
    world = active()
    first = world.pairs[0].refresh
    assert first is not None
    second = world.refresh(first).refresh
    assert second is not None
    world.refresh(second)
    with pytest.raises(InvalidGrant):
        world.refresh(first)
    assert world.grant.state is GrantState.REVOKED


def test_a_value_of_a_lost_race_is_refused() -> None:
    """A pair that lost the race for its generation was never committed; it is refused without effect."""
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
    """RFC 6749 §6: narrowing affects the new access token; the refresh token keeps the grant's scope."""
    world = active()
    assert world.pairs[0].refresh is not None
    narrowed = world.refresh(world.pairs[0].refresh, "a")
    assert world.grant.access is not None
    assert world.grant.access.scope == "a"
    assert narrowed.refresh is not None
    world.refresh(narrowed.refresh)
    assert world.grant.access is not None
    assert world.grant.access.scope == "a b"


def test_a16_a_refresh_gives_what_the_client_may_have_now() -> None:
    """A refresh yields what the client may have now, up to what was granted."""
    world = active()
    value = world.pairs[0].refresh
    for allowed, expected in ((("b", "c"), "b"), ((), None), (("a", "b", "c"), "a b")):
        world.allowed = allowed
        assert value is not None
        value = world.refresh(value).refresh
        assert world.grant.access is not None
        assert world.grant.access.scope == expected


def test_a16_a_code_gives_what_the_client_may_have_now() -> None:
    """A client that was narrowed between code and exchange gets the narrower scope."""
    world = World()
    world.allowed = ("b",)
    world.exchange()
    assert world.grant.access is not None
    assert world.grant.access.scope == "b"


def test_refreshing_does_not_outlive_the_grant() -> None:
    """The absolute lifetime limits every later token."""
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
    """After its access token was revoked, the refresh token still works."""
    world = active()
    assert world.revoke_access(1)
    assert not world.revoke_access(1)
    assert world.pairs[0].refresh is not None
    world.refresh(world.pairs[0].refresh)
    assert world.live_access() == [2]
    assert world.stems() == ["code.issued", "token.new", "token.revoked", "token.refresh"]


def test_a_refresh_event_names_the_previous_token() -> None:
    """A refresh event names both pairs by public ids, and whether a webhook follows."""
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
    """A grant belongs to one client on one API, and is invalid from `revoke_all` on."""
    assert belongs_to(World().grant, holder, api) is own


def test_a_grant_without_refresh_token_ends_with_its_access_token() -> None:
    """A client_credentials grant ends with its access token."""
    world = World()
    pair = replace(world.mint(1), refresh=None)
    issued = issue_tokens(world.context(), world.grant.grant_id, GrantType.CLIENT_CREDENTIALS, pair, scope=None)
    assert issued.before is None
    assert issued.after.refresh is None
    assert issued.after.expires_at == START + SETTINGS.access_token_lifetime
    assert issued.event is not None
    assert issued.event.sealed is None
    assert EVENTS.validate_json(issued.event.body).model_dump()["data"]["notify"] is False
