"""The authorization code grant (RFC 6749 §4.1.3, RFC 7636): one use, bound to client, redirect URI and verifier."""

import base64
import hashlib

import pytest

from contracts.grants import GrantState, RevocationReason
from tests.builders import CALLBACK, settle
from tests.services.system import ABSENT, CHALLENGE, VERIFIER, System, Tokens, document, refused, tokens_of

PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
OTHER = "https://app.example.test/other"


async def alive(system: System, tokens: Tokens) -> bool:
    """Whether the gateway admits the access token; where it does not, the grant must be over, too."""
    grant = await system.grant_of(tokens.access)
    party_path = (await system.deps.store.apis.get(grant.api_id)).listen_path  # type: ignore[union-attr]
    admitted = (await system.verify(party_path, Authorization=f"Bearer {tokens.access}")).status == 200
    assert admitted is (grant.state is GrantState.ACTIVE)
    return admitted


# One use


async def test_a_used_code_that_comes_again_soon_is_a_retry(system: System) -> None:
    """Row 104: within two seconds of its first use a code gets `invalid_grant`, and the tokens live."""
    party = await system.party()
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    system.clock.advance(2)
    assert refused(await party.exchange(code), "invalid_grant")
    assert await alive(system, tokens)


@pytest.mark.parametrize("later", [2.001, 61, 86_400], ids=["just-later", "after-its-lifetime", "a-day-later"])
async def test_a_replay_ends_the_grant(system: System, later: float) -> None:
    """Row 52: a code replayed later is theft (RFC 6749 §4.1.2); access and refresh token die with it."""
    party = await system.party(document(accessTokenLifetime=172_800))
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    system.clock.advance(later)
    assert refused(await party.exchange(code), "invalid_grant")
    assert not await alive(system, tokens)
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    assert (await system.grant_of(code)).ended_reason is RevocationReason.CODE_REPLAY


async def test_a_replay_after_refreshes_ends_the_newest_tokens(system: System) -> None:
    """The code is the root of the grant, however many tokens have followed."""
    party = await system.party()
    code = await party.code()
    newest = await party.refreshed(tokens_of(await party.exchange(code)).refresh)
    system.clock.advance(60)
    assert refused(await party.exchange(code), "invalid_grant")
    assert not await alive(system, newest)


@pytest.mark.parametrize("stranger", ["other-client", "wrong-secret", "wrong-redirect-uri", "no-redirect-uri"])
async def test_a_stranger_s_replay_is_harmless(system: System, stranger: str) -> None:
    """Row 53: whoever cannot use the code cannot kill the grant with it, either."""
    party = await system.party()
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    system.clock.advance(60)
    match stranger:
        case "other-client":
            assert refused(await (await system.client_of(party.api)).exchange(code), "invalid_grant")
        case "wrong-secret":
            assert refused(await party.exchange(code, client_secret="wrong"), "invalid_request")
        case "wrong-redirect-uri":
            assert refused(await party.exchange(code, redirect_uri=OTHER), "invalid_grant")
        case _:
            assert refused(await party.exchange(code, redirect_uri=ABSENT), "invalid_grant")
    assert await alive(system, tokens)


@pytest.mark.parametrize("verifier", [ABSENT, "x" * 43, CHALLENGE])
async def test_a_replay_without_the_verifier_is_harmless(system: System, verifier: str) -> None:
    """A public client's id is no secret, so its replay counts only with the verifier."""
    party = await system.party(public=True)
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    system.clock.advance(60)
    assert refused(await party.exchange(code, code_verifier=verifier), "invalid_grant")
    assert await alive(system, tokens)
    assert refused(await party.exchange(code), "invalid_grant")
    assert not await alive(system, tokens)


# Whose it is


async def test_another_client_s_code_stays_good_for_its_own(system: System) -> None:
    """Row 54: presented by another client first, the code is refused there and works here."""
    party = await system.party()
    code = await party.code()
    assert refused(await (await system.client_of(party.api)).exchange(code), "invalid_grant")
    assert refused(await (await system.party()).exchange(code), "invalid_grant")
    assert (await party.exchange(code)).status == 200


async def test_a_code_is_of_one_kind(system: System) -> None:
    """Row 69: no token is a code, and no code is a token."""
    party = await system.party()
    code, tokens = await party.code(), await party.tokens()
    for other in (tokens.access, tokens.refresh):
        assert refused(await party.exchange(other), "invalid_grant")
    assert refused(await party.refresh(code), "invalid_grant")
    assert (await party.verify(code)).status == 403


@pytest.mark.parametrize("change", ["last", "first", "middle", "shorter", "longer", "padded"])
async def test_a_changed_code_is_refused(system: System, change: str) -> None:
    """Row 70: one changed character anywhere, and it is nobody's code; the right one still works."""
    party = await system.party()
    code = await party.code()
    changed = {
        "last": code[:-1] + ("A" if code[-1] != "A" else "B"),
        "first": code[:6] + ("A" if code[6] != "A" else "B") + code[7:],
        "middle": code[:40] + ("A" if code[40] != "A" else "B") + code[41:],
        "shorter": code[:-1],
        "longer": code + "A",
        "padded": code + "=",
    }[change]
    assert refused(await party.exchange(changed), "invalid_grant")
    assert (await party.exchange(code)).status == 200


# How long


@pytest.mark.parametrize(("lifetime", "own"), [(60, {}), (600, {"codeLifetime": 600}), (1, {"codeLifetime": 1})])
async def test_a_code_expires(system: System, lifetime: int, own: dict[str, int]) -> None:
    """Row 56: sixty seconds unless the API says otherwise; at the end of its lifetime it is dead, and nothing else."""
    party = await system.party(document(**own))
    kept, late = await party.code(), await party.code()
    system.clock.advance(lifetime - 0.001)
    assert (await party.exchange(kept)).status == 200
    system.clock.advance(0.001)
    assert refused(await party.exchange(late), "invalid_grant")
    assert (await system.grant_of(late)).state is GrantState.PENDING


# Where it was sent


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(CALLBACK, 200, id="the-same"),
        pytest.param(ABSENT, 400, id="row-55-missing"),
        pytest.param(OTHER, 400, id="row-55-another-registered-one"),
        pytest.param(CALLBACK + "/", 400, id="row-55-with-a-slash"),
        pytest.param(CALLBACK + "?", 400, id="row-55-with-a-query"),
        pytest.param("", 400, id="row-55-empty"),
    ],
)
async def test_the_redirect_uri_must_be_repeated(system: System, sent: str, status: int) -> None:
    """RFC 6749 §4.1.3: if it was in the authorization request, "their values MUST be identical"."""
    party = await system.party(redirect_uris=(CALLBACK, OTHER))
    answer = await party.exchange(await party.code(), redirect_uri=sent)
    assert answer.status == 200 if status == 200 else refused(answer, "invalid_grant", status)


@pytest.mark.parametrize(("sent", "status"), [(ABSENT, 200), (CALLBACK, 200), (OTHER, 400)])
async def test_a_redirect_uri_that_was_not_asked_for_need_not_be_repeated(
    system: System, sent: str, status: int
) -> None:
    """Row 28: where the only registered one was used, it may be left out, and must not be another."""
    party = await system.party()
    answer = await party.exchange(await party.code(redirect_uri=ABSENT), redirect_uri=sent)
    assert answer.status == 200 if status == 200 else refused(answer, "invalid_grant", status)


async def test_a_refused_exchange_uses_nothing_up(system: System) -> None:
    """A wrong redirect URI leaves the code as it was."""
    party = await system.party()
    code = await party.code()
    before = await system.grant_of(code)
    for _ in range(5):
        assert refused(await party.exchange(code, redirect_uri=OTHER), "invalid_grant")
    assert await system.grant_of(code) == before
    assert (await party.exchange(code)).status == 200


# PKCE


@pytest.mark.parametrize("public", [True, False], ids=["public", "confidential"])
async def test_the_right_verifier_opens_the_code(system: System, public: bool) -> None:
    """RFC 7636 §4.6, also for a client with a secret that chose to use it."""
    party = await system.party(public=public)
    assert (await party.exchange(await party.code(**PKCE), code_verifier=VERIFIER)).status == 200


@pytest.mark.parametrize(
    "verifier",
    [
        pytest.param(ABSENT, id="row-46-none"),
        pytest.param("", id="row-46-empty"),
        pytest.param("x" * 43, id="row-47-wrong"),
        pytest.param("x" * 42, id="row-48-42-characters"),
        pytest.param("x" * 129, id="row-48-129-characters"),
        pytest.param(VERIFIER[:-1] + "!", id="row-48-bad-character"),
        pytest.param(VERIFIER[:-1] + "é", id="row-48-non-ascii"),
        pytest.param(CHALLENGE, id="row-50-the-challenge-itself"),
        pytest.param(VERIFIER + "=", id="padded"),
    ],
)
async def test_a_wrong_verifier_is_refused(system: System, verifier: str) -> None:
    """400 `invalid_grant`, and the right verifier still opens the code afterwards."""
    party = await system.party(public=True)
    code = await party.code()
    assert refused(await party.exchange(code, code_verifier=verifier), "invalid_grant")
    assert (await party.exchange(code)).status == 200


async def test_three_wrong_verifiers_burn_the_code(system: System) -> None:
    """Row 47: after the third the right one is too late; no tokens ever existed, so nothing is revoked."""
    party = await system.party(public=True)
    code = await party.code()
    for _ in range(3):
        assert refused(await party.exchange(code, code_verifier="x" * 43), "invalid_grant")
    assert refused(await party.exchange(code), "invalid_grant")
    assert (await system.grant_of(code)).state is GrantState.PENDING


async def test_only_who_is_authenticated_can_burn_a_code(system: System) -> None:
    """Row 47: wrong verifiers of strangers do not count."""
    party = await system.party()
    code = await party.code(**PKCE)
    stranger = await system.client_of(party.api)
    for _ in range(4):
        assert refused(await stranger.exchange(code, code_verifier="x" * 43), "invalid_grant")
        assert refused(await party.exchange(code, code_verifier="x" * 43, redirect_uri=OTHER), "invalid_grant")
    assert (await party.exchange(code, code_verifier=VERIFIER)).status == 200


async def test_a_verifier_without_a_challenge_is_a_downgrade(system: System) -> None:
    """Row 49, RFC 9700 §4.8.2: somebody took the challenge out of the authorization request."""
    party = await system.party()
    code = await party.code()
    assert refused(await party.exchange(code, code_verifier=VERIFIER), "invalid_grant")
    assert (await party.exchange(code)).status == 200


@pytest.mark.parametrize("length", [43, 128])
async def test_verifiers_of_every_allowed_length_work(system: System, length: int) -> None:
    """RFC 7636 §4.1: 43 to 128 characters, of `-`, `.`, `_` and `~` too."""
    party, verifier = await system.party(public=True), ("a-._~" * 26)[:length]
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    answer = await party.exchange(await party.code(code_challenge=challenge), code_verifier=verifier)
    assert answer.status == 200


async def test_a_client_made_public_cannot_use_a_code_without_a_challenge(system: System) -> None:
    """A code that was issued while the client had a secret proves nothing about who holds it now."""
    party = await system.party()
    code = await party.code()
    public = await system.deps.store.clients.rotate(party.client, (), system.deps.origin("tests"))
    assert public is not None
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": party.id}
    assert refused(await system.call("POST", party.at("oauth/token"), data=form), "invalid_grant")


# What it gives


async def test_the_scope_is_the_one_that_was_consented(system: System) -> None:
    """Row 57: a scope at the token endpoint changes nothing; the answer says which one was granted."""
    party = await system.party()
    tokens = await party.tokens(scope="orders:read")
    assert tokens.body["scope"] == "orders:read"
    widened = tokens_of(await party.exchange(await party.code(scope="orders:read"), scope="orders:read admin"))
    assert widened.body["scope"] == "orders:read"
    assert "scope" not in (await party.tokens()).body


async def test_tokens_never_outlive_the_grant(system: System) -> None:
    """The absolute lifetime of the grant cuts the first tokens' lifetimes, too; it runs from the code on."""
    party = await system.party(document(grantLifetime=100, accessTokenLifetime=3600))
    code = await party.code()
    system.clock.advance(40)
    tokens = tokens_of(await party.exchange(code))
    assert tokens.body["expires_in"] == 60
    system.clock.advance(60)
    assert (await party.verify(tokens.access)).status == 401
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")


async def test_the_exchange_is_one_write(system: System) -> None:
    """The grant that had a code has tokens: the same document, one version on, and digests only."""
    party = await system.party()
    code = await party.code(subject="alice")
    pending = await system.grant_of(code)
    tokens = tokens_of(await party.exchange(code))
    active = await system.grant_of(tokens.access)
    assert (active.grant_id, active.version, active.sequence) == (pending.grant_id, 2, 2)
    assert (active.state, active.generation, active.subject) == (GrantState.ACTIVE, 1, "alice")
    assert active.code is not None
    assert active.code.used_at == system.clock()
    assert active.access is not None
    assert active.access.digest == hashlib.sha256(tokens.access.encode()).digest()
    await settle(system.deps)
    stored = await system.deps.store.mongo["grants"].find_one({"_id": active.grant_id})
    assert all(value.encode() not in str(stored).encode() for value in (code, tokens.access, tokens.refresh))
