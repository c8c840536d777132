"""The kill matrix's judge finds what it must: a judge that never finds anything would prove nothing."""

from dataclasses import replace

import pytest

from libs.oauth.token_formats import OpaqueTokens, TokenKind, digest_of, new_grant_id
from tests.faults.holders import Held, Holdings, located
from tests.faults.judge import Committed, Evidence, Verdict, judge
from tests.faults.witnesses import Heard, Webhook

GRANT = new_grant_id(bytes(range(16)))
_OPAQUE = OpaqueTokens({1: bytes(32)}, 1, lambda count: bytes(count))


def token(generation: int) -> Held:
    """A token of the grant, as a client holds it."""
    access = _OPAQUE.mint(TokenKind.ACCESS, GRANT, generation).value
    refresh = _OPAQUE.mint(TokenKind.REFRESH, GRANT, generation).value
    return Held(GRANT, generation, access, refresh, notified=True)


def webhook(generation: int, identifier: str = "", *, taken: bool = True) -> Webhook:
    """The webhook of that token."""
    of = token(generation)
    body = {"new_oauth_token": of.access, "refresh_token": of.refresh}
    return Webhook(identifier or f"evt-{generation}", "/", body, taken, 0.0)


def event(sequence: int, identifier: str = "", stem: str = "token.refresh") -> Heard:
    """The event with this number; the first is that of the code."""
    data = {"token_id": f"{GRANT}.{sequence - 1}"}
    return Heard(identifier or f"evt-{sequence - 1}", stem, GRANT, sequence, data, 0.0)


def told(identifier: str) -> Heard:
    """The event that reports the arrival of a webhook."""
    return Heard(f"of-{identifier}", "notification.delivered", identifier, 1, {}, 0.0)


def two_tokens() -> Evidence:
    """Flawless evidence of a code, a token and its refresh."""
    held = {each.access: each for each in (token(1), token(2))}
    grant = Committed(
        GRANT, generation=2, sequence=3, access_digest=digest_of(token(2).access), notified=True, ended=False
    )
    heard = [
        event(1, "evt-0", "code.issued"),
        event(2, stem="token.new"),
        event(3),
        told("evt-1"),
        told("evt-2"),
    ]
    return Evidence(Holdings(tokens=held), {GRANT: grant}, [webhook(1), webhook(2)], heard)


def counts(verdict: Verdict) -> tuple[int, int, int]:
    """Numbers of lost, phantom and doubled."""
    return len(verdict.lost), len(verdict.phantom), len(verdict.doubled)


def test_a_healthy_stack_passes() -> None:
    """Tokens with their events and webhooks are neither lost, phantom nor doubled."""
    verdict = judge(two_tokens())
    assert counts(verdict) == (0, 0, 0), verdict
    assert (verdict.tokens, verdict.events, verdict.webhooks) == (2, 3, 2)


def test_a_token_says_where_it_belongs() -> None:
    """Grant and generation are read from the value itself."""
    assert located(token(7).access) == (GRANT, 7)


def without(seen: Evidence, *identifiers: str) -> Evidence:
    """The same evidence without these event ids."""
    heard = [each for each in seen.heard or () if each.id not in identifiers]
    return replace(seen, heard=heard)


def test_a_missing_event_is_a_loss() -> None:
    """A token without an event is a loss, and so is the missing number in its grant."""
    assert counts(judge(without(two_tokens(), "evt-2"))) == (2, 0, 0)


def test_a_missing_event_of_anything_else_is_a_loss() -> None:
    """A number that is missing in the sequence of a grant."""
    assert counts(judge(without(two_tokens(), "evt-0"))) == (1, 0, 0)


def test_a_missing_webhook_is_a_loss() -> None:
    """A token without its webhook is a loss."""
    seen = two_tokens()
    assert counts(judge(replace(seen, webhooks=[webhook(1)]))) == (1, 0, 0)


def test_a_refused_webhook_has_not_arrived() -> None:
    """A webhook that never got a 2xx response is a loss."""
    seen = two_tokens()
    assert counts(judge(replace(seen, webhooks=[webhook(1), webhook(2, taken=False)]))) == (1, 0, 0)


def test_a_webhook_that_is_not_reported_as_received_counts_as_lost() -> None:
    """A delivered webhook without a `notification.delivered` event is a loss."""
    assert counts(judge(without(two_tokens(), "of-evt-1"))) == (1, 0, 0)


def test_a_lost_response_is_no_phantom() -> None:
    """Events of a committed token are correct even if its client never got the response."""
    seen = two_tokens()
    held = {token(1).access: token(1)}
    verdict = judge(replace(seen, holdings=Holdings(tokens=held)))
    assert counts(verdict) == (0, 0, 0), verdict
    assert verdict.tokens == 2


@pytest.mark.parametrize(
    "webhooks",
    [
        pytest.param([webhook(3)], id="of a generation that was never committed"),
        pytest.param(
            [replace(webhook(2), body={**webhook(2).body, "refresh_token": "another"})], id="with another value"
        ),
    ],
)
def test_a_made_up_webhook_is_a_phantom(webhooks: list[Webhook]) -> None:
    """A webhook whose tokens were not issued is a phantom."""
    seen = two_tokens()
    verdict = judge(replace(seen, webhooks=[*seen.webhooks, *webhooks]))
    assert len(verdict.phantom) == 1, verdict


def test_an_uncommitted_value_is_a_phantom() -> None:
    """If no client holds the token, the digest in MongoDB shows whether a webhook's value was issued."""
    seen = two_tokens()
    grant = replace(seen.grants[GRANT], access_digest=digest_of("another"))
    held = {token(1).access: token(1)}
    verdict = judge(replace(seen, grants={GRANT: grant}, holdings=Holdings(tokens=held)))
    assert counts(verdict) == (0, 1, 0), verdict


def test_a_made_up_event_is_a_phantom() -> None:
    """An event of a state that was never committed is a phantom."""
    seen = two_tokens()
    verdict = judge(replace(seen, heard=[*(seen.heard or ()), event(4)]))
    assert len(verdict.phantom) == 2, verdict


def test_a_followed_redirect_is_a_phantom() -> None:
    """A request after a redirect is a phantom: webhooks must not follow redirects."""
    assert counts(judge(replace(two_tokens(), trapped=["/hook"]))) == (0, 1, 0)


def test_two_ids_of_one_fact_are_a_doubling() -> None:
    """Two ids for one number of a grant, or for one token, are a doubling."""
    seen = two_tokens()
    verdict = judge(replace(seen, heard=[*(seen.heard or ()), event(3, "evt-other")]))
    assert counts(verdict) == (0, 0, 2), verdict


def test_two_ids_of_one_webhook_are_a_doubling() -> None:
    """Two ids for one webhook are a doubling, because the receiver cannot recognise them as the same."""
    seen = two_tokens()
    verdict = judge(replace(seen, webhooks=[*seen.webhooks, webhook(2, "evt-other")], heard=None))
    assert counts(verdict) == (0, 0, 1), verdict


def test_two_tokens_of_one_generation_are_a_doubling() -> None:
    """Two token pairs of one generation are a doubling."""
    seen = two_tokens()
    other = replace(token(2), access=f"{token(2).access[:-4]}AAAA")
    held = {**seen.holdings.tokens, other.access: other}
    verdict = judge(replace(seen, holdings=Holdings(tokens=held)))
    assert len(verdict.doubled) == 1, verdict


def test_the_same_again_is_a_duplicate() -> None:
    """The same id twice is counted as a duplicate, and is no violation."""
    seen = two_tokens()
    verdict = judge(replace(seen, webhooks=[*seen.webhooks, webhook(1)], heard=[*(seen.heard or ()), event(3)]))
    assert counts(verdict) == (0, 0, 0), verdict
    assert (verdict.duplicate_events, verdict.duplicate_webhooks) == (1, 1)
