"""Finds what was lost, invented or doubled, from the evidence of the clients, the receiver and the subscriber.

MongoDB is asked only which grants exist, to tell a token whose response was lost from one that was never issued. The
system's own counters are not used.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from libs.oauth.token_formats import digest_of
from tests.faults.holders import Held, Holdings, located
from tests.faults.witnesses import Heard, Webhook

_TOKENS = frozenset({"token.new", "token.refresh"})
_GRANTS = _TOKENS | {"token.revoked", "grant.revoked", "code.issued"}

Token = tuple[str, int]
"""Grant id and generation."""


@dataclass(frozen=True)
class Committed:
    """A grant as stored in MongoDB."""

    grant_id: str
    generation: int
    """Number of token pairs issued."""
    sequence: int
    """Number of events."""
    access_digest: bytes | None
    notified: bool
    ended: bool


@dataclass(frozen=True)
class Evidence:
    """Everything observed in one row."""

    holdings: Holdings
    grants: Mapping[str, Committed]
    webhooks: Sequence[Webhook]
    heard: Sequence[Heard] | None
    """None if the subscriber's queue was lost with the broker's disk, so there is no evidence from it."""
    trapped: Collection[str] = ()


@dataclass
class Verdict:
    """The findings. The guarantee is that lost, phantom and doubled are empty."""

    tokens: int = 0
    """Tokens issued: held by a client, or committed with a lost response."""
    events: int | None = 0
    """Distinct events of tokens and grants."""
    webhooks: int = 0
    """Distinct webhooks."""
    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    duplicate_events: int = 0
    duplicate_webhooks: int = 0

    @property
    def clean(self) -> bool:
        return not (self.lost or self.phantom or self.doubled)


def judge(seen: Evidence) -> Verdict:
    """The verdict on this evidence."""
    verdict = Verdict()
    values = _values(seen.holdings, verdict)
    committed = {(grant.grant_id, number) for grant in seen.grants.values() for number in _generations(grant)}
    for missing in values.keys() - committed:
        verdict.phantom.append(f"token {missing} is held, and no such grant is there")
    verdict.tokens = len(committed | values.keys())
    verdict.doubled += seen.holdings.twice
    _judge_webhooks(seen, values, committed, verdict)
    if seen.heard is None:
        verdict.events = None
    else:
        _judge_events(seen, seen.heard, committed, verdict)
    return verdict


def _generations(grant: Committed) -> range:
    return range(1, grant.generation + 1)


def _values(holdings: Holdings, verdict: Verdict) -> dict[Token, Held]:
    values: dict[Token, Held] = {}
    for token in holdings.tokens.values():
        place = token.grant_id, token.generation
        if place in values:
            verdict.doubled.append(f"two tokens of one generation are held: {place}")
        values[place] = token
    return values


def _judge_webhooks(seen: Evidence, values: Mapping[Token, Held], committed: set[Token], verdict: Verdict) -> None:
    ids: dict[Token, set[str]] = defaultdict(set)
    taken: Counter[str] = Counter()
    for webhook in seen.webhooks:
        place = located(webhook.body["new_oauth_token"])
        ids[place].add(webhook.id)
        taken[webhook.id] += webhook.taken
        if fault := _fault(webhook, place, seen, values, committed):
            verdict.phantom.append(f"webhook {webhook.id} of {place}: {fault}")
    verdict.phantom += [f"a redirect was followed to {path}" for path in seen.trapped]
    verdict.webhooks = len({webhook.id for webhook in seen.webhooks})
    verdict.duplicate_webhooks = sum(count - 1 for count in taken.values() if count > 1)
    verdict.doubled += [f"webhooks {sorted(found)} of one token" for found in ids.values() if len(found) > 1]
    arrived = {place for place, found in ids.items() if any(taken[each] for each in found)}
    due = {place for place in committed if seen.grants[place[0]].notified}
    due |= {place for place, token in values.items() if token.notified}
    verdict.lost += [f"no webhook of {place}" for place in due - arrived]


def _fault(
    webhook: Webhook, place: Token, seen: Evidence, values: Mapping[Token, Held], committed: set[Token]
) -> str | None:
    """What is wrong with the webhook; None if its tokens are the ones issued."""
    if place not in committed:
        return "no such token was issued"
    access, refresh = webhook.body["new_oauth_token"], webhook.body["refresh_token"]
    token, grant = values.get(place), seen.grants[place[0]]
    if token is not None and (token.access, token.refresh) != (access, refresh):
        return "its holder has another value"
    if place[1] == grant.generation and digest_of(access) != grant.access_digest:
        return "its value is not the one that was committed"
    return None


def _judge_events(seen: Evidence, heard: Sequence[Heard], committed: set[Token], verdict: Verdict) -> None:
    verdict.duplicate_events = len(heard) - len({event.id for event in heard})
    of_grants = [event for event in heard if event.stem in _GRANTS]
    verdict.events = len({event.id for event in of_grants})
    numbers: dict[str, set[int]] = defaultdict(set)
    tokens: set[Token] = set()
    for event in of_grants:
        numbers[event.subject].add(event.sequence)
        grant = seen.grants.get(event.subject)
        if grant is None or event.sequence > grant.sequence:
            verdict.phantom.append(f"{event.stem} {event.id}: no such state was committed")
        if event.stem in _TOKENS:
            tokens.add(_named(event.data["token_id"]))
    verdict.phantom += [f"an event of {place}: no such token was issued" for place in tokens - committed]
    verdict.doubled += _several(heard)
    verdict.lost += [f"no event of {place}" for place in committed - tokens]
    for grant in seen.grants.values():
        missing = set(range(1, grant.sequence + 1)) - numbers[grant.grant_id]
        verdict.lost += [f"no event {number} of grant {grant.grant_id}" for number in missing]
    told = {event.subject for event in heard if event.stem == "notification.delivered"}
    arrived = {webhook.id for webhook in seen.webhooks if webhook.taken}
    verdict.lost += [f"no notification.delivered of {webhook}" for webhook in arrived - told]


def _several(heard: Iterable[Heard]) -> list[str]:
    """Facts that were published under more than one event id."""
    ids: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for event in heard:
        ids[event.subject, event.sequence].add(event.id)
        if event.stem in _TOKENS:
            ids["token", event.data["token_id"]].add(event.id)
    return [f"{fact}: events {sorted(found)}" for fact, found in ids.items() if len(found) > 1]


def _named(token_id: str) -> Token:
    grant_id, _, generation = token_id.rpartition(".")
    return grant_id, int(generation)
