"""The authorization code grant (RFC 6749 §4.1.3, RFC 7636): a code works once, with its redirect URI and verifier."""

import base64
import hashlib

import pytest

from contracts.grants import GrantState, RevocationReason
from tests.builders import CALLBACK, settle
from tests.services.system import ABSENT, CHALLENGE, VERIFIER, System, Tokens, document, refused, tokens_of

PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
OTHER = "https://app.example.test/other"


async def is_active(system: System, tokens: Tokens) -> bool:
    """Whether the gateway accepts the access token; if it does not, the grant must be revoked, too."""
    grant = await system.grant_of(tokens.access)
    party_path = (await system.deps.store.apis.get(grant.api_id)).listen_path  # type: ignore[union-attr]
    admitted = (await system.verify(party_path, Authorization=f"Bearer {tokens.access}")).status == 200
    assert admitted is (grant.state is GrantState.ACTIVE)
    return admitted


# One use


async def test_a_code_used_again_within_two_seconds_is_a_retry(system: System) -> None:
    """Row 104: within two seconds of its first use a code gets `invalid_grant`, and the tokens stay valid."""
    party = await system.party()
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    system.clock.advance(2)
    assert refused(await party.exchange(code), "invalid_grant")
    assert await is_active(system, tokens)


@pytest.mark.parametrize("later", [2.001, 61, 86_400], ids=["just-later", "after-its-lifetime", "a-day-later"])
async def test_a_code_used_twice_revokes_the_grant(system: System, later: float) -> None:
    """Row 52: a code used again later is taken for stolen; access and refresh token are revoked (RFC 6749 §4.1.2)."""
    party = await system.party(document(accessTokenLifetime=172_800))
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    system.clock.advance(later)
    assert refused(await party.exchange(code), "invalid_grant")
    assert not await is_active(system, tokens)
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    assert (await system.grant_of(code)).ended_reason is RevocationReason.CODE_REPLAY


async def test_a_code_used_again_after_refreshes_revokes_the_newest_tokens(system: System) -> None:
    """A replayed code revokes whatever tokens the grant has by then."""
    party = await system.party()
    code = await party.code()
    newest = await party.refreshed(tokens_of(await party.exchange(code)).refresh)
    system.clock.advance(60)
    assert refused(await party.exchange(code), "invalid_grant")
    assert not await is_active(system, newest)


@pytest.mark.parametrize("outsider", ["other-client", "wrong-secret", "wrong-redirect-uri", "no-redirect-uri"])
async def test_a_replay_by_another_client_revokes_nothing(system: System, outsider: str) -> None:
    """Row 53: a client that could not have used the code cannot revoke the grant with it, either."""
    party = await system.party()
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    system.clock.advance(60)
    match outsider:
        case "other-client":
            assert refused(await (await system.client_of(party.api)).exchange(code), "invalid_grant")
        case "wrong-secret":
            assert refused(await party.exchange(code, client_secret="wrong"), "invalid_request")
        case "wrong-redirect-uri":
            assert refused(await party.exchange(code, redirect_uri=OTHER), "invalid_grant")
        case _:
            assert refused(await party.exchange(code, redirect_uri=ABSENT), "invalid_grant")
    assert await is_active(system, tokens)


@pytest.mark.parametrize("verifier", [ABSENT, "x" * 43, CHALLENGE])
async def test_a_replay_without_the_verifier_revokes_nothing(system: System, verifier: str) -> None:
    """For a public client a replay counts only with the verifier."""
    party = await system.party(public=True)
    code = await party.code()
    tokens = tokens_of(await party.exchange(code))
    system.clock.advance(60)
    assert refused(await party.exchange(code, code_verifier=verifier), "invalid_grant")
    assert await is_active(system, tokens)
    assert refused(await party.exchange(code), "invalid_grant")
    assert not await is_active(system, tokens)


# Client binding


async def test_a_code_presented_by_another_client_stays_valid(system: System) -> None:
    """Row 54: the other client is refused, and the code still works for the client it was issued to."""
    party = await system.party()
    code = await party.code()
    assert refused(await (await system.client_of(party.api)).exchange(code), "invalid_grant")
    assert refused(await (await system.party()).exchange(code), "invalid_grant")
    assert (await party.exchange(code)).status == 200


async def test_codes_and_tokens_are_not_interchangeable(system: System) -> None:
    """Row 69: a token is refused as a code, and a code is refused as a token."""
    party = await system.party()
    code, tokens = await party.code(), await party.tokens()
    for other in (tokens.access, tokens.refresh):
        assert refused(await party.exchange(other), "invalid_grant")
    assert refused(await party.refresh(code), "invalid_grant")
    assert (await party.verify(code)).status == 403


@pytest.mark.parametrize("change", ["last", "first", "middle", "shorter", "longer", "padded"])
async def test_a_changed_code_is_refused(system: System, change: str) -> None:
    """Row 70: a code with one changed character is refused, and the right one still works."""
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


# Lifetime


@pytest.mark.parametrize(("lifetime", "own"), [(60, {}), (600, {"codeLifetime": 600}), (1, {"codeLifetime": 1})])
async def test_a_code_expires(system: System, lifetime: int, own: dict[str, int]) -> None:
    """Row 56: after sixty seconds by default a code is refused; nothing is revoked."""
    party = await system.party(document(**own))
    kept, late = await party.code(), await party.code()
    system.clock.advance(lifetime - 0.001)
    assert (await party.exchange(kept)).status == 200
    system.clock.advance(0.001)
    assert refused(await party.exchange(late), "invalid_grant")
    assert (await system.grant_of(late)).state is GrantState.PENDING


# Redirect URI


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
    """RFC 6749 §4.1.3: if the authorization request had a redirect URI, "their values MUST be identical"."""
    party = await system.party(redirect_uris=(CALLBACK, OTHER))
    response = await party.exchange(await party.code(), redirect_uri=sent)
    assert response.status == 200 if status == 200 else refused(response, "invalid_grant", status)


@pytest.mark.parametrize(("sent", "status"), [(ABSENT, 200), (CALLBACK, 200), (OTHER, 400)])
async def test_a_redirect_uri_that_was_not_requested_need_not_be_repeated(
    system: System, sent: str, status: int
) -> None:
    """Row 28: if the only registered URI was used, `redirect_uri` may be omitted, but not be another one."""
    party = await system.party()
    response = await party.exchange(await party.code(redirect_uri=ABSENT), redirect_uri=sent)
    assert response.status == 200 if status == 200 else refused(response, "invalid_grant", status)


async def test_a_refused_exchange_leaves_the_code_valid(system: System) -> None:
    """After an exchange with a wrong redirect URI the code still works."""
    party = await system.party()
    code = await party.code()
    before = await system.grant_of(code)
    for _ in range(5):
        assert refused(await party.exchange(code, redirect_uri=OTHER), "invalid_grant")
    assert await system.grant_of(code) == before
    assert (await party.exchange(code)).status == 200


# PKCE


@pytest.mark.parametrize("public", [True, False], ids=["public", "confidential"])
async def test_the_right_verifier_is_accepted(system: System, public: bool) -> None:
    """RFC 7636 §4.6, also for a confidential client."""
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
    """400 `invalid_grant`; the right verifier works afterwards."""
    party = await system.party(public=True)
    code = await party.code()
    assert refused(await party.exchange(code, code_verifier=verifier), "invalid_grant")
    assert (await party.exchange(code)).status == 200


async def test_three_wrong_verifiers_invalidate_the_code(system: System) -> None:
    """Row 47: after three wrong ones the right verifier is refused, too; there are no tokens to revoke."""
    party = await system.party(public=True)
    code = await party.code()
    for _ in range(3):
        assert refused(await party.exchange(code, code_verifier="x" * 43), "invalid_grant")
    assert refused(await party.exchange(code), "invalid_grant")
    assert (await system.grant_of(code)).state is GrantState.PENDING


async def test_only_an_authenticated_client_can_invalidate_a_code(system: System) -> None:
    """Row 47: wrong verifiers of unauthenticated clients are not counted."""
    party = await system.party()
    code = await party.code(**PKCE)
    outsider = await system.client_of(party.api)
    for _ in range(4):
        assert refused(await outsider.exchange(code, code_verifier="x" * 43), "invalid_grant")
        assert refused(await party.exchange(code, code_verifier="x" * 43, redirect_uri=OTHER), "invalid_grant")
    assert (await party.exchange(code, code_verifier=VERIFIER)).status == 200


async def test_a_verifier_without_a_challenge_is_a_downgrade(system: System) -> None:
    """Row 49, RFC 9700 §2.1.1: the challenge may have been stripped from the authorization request."""
    party = await system.party()
    code = await party.code()
    assert refused(await party.exchange(code, code_verifier=VERIFIER), "invalid_grant")
    assert (await party.exchange(code)).status == 200


@pytest.mark.parametrize("length", [43, 128])
async def test_verifiers_of_every_allowed_length_work(system: System, length: int) -> None:
    """RFC 7636 §4.1: 43 to 128 unreserved characters."""
    party, verifier = await system.party(public=True), ("a-._~" * 26)[:length]
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    response = await party.exchange(await party.code(code_challenge=challenge), code_verifier=verifier)
    assert response.status == 200


async def test_a_client_made_public_cannot_use_a_code_without_a_challenge(system: System) -> None:
    """Without secret and challenge, nothing proves that the holder of the code is the client."""
    party = await system.party()
    code = await party.code()
    public = await system.deps.store.clients.rotate(party.client, (), system.deps.event_context("tests"))
    assert public is not None
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": party.id}
    assert refused(await system.call("POST", party.at("oauth/token"), data=form), "invalid_grant")


# Tokens


async def test_the_scope_is_the_one_the_user_consented_to(system: System) -> None:
    """Row 57: `scope` in the token request changes nothing; the response names the granted scope."""
    party = await system.party()
    tokens = await party.tokens(scope="read")
    assert tokens.body["scope"] == "read"
    widened = tokens_of(await party.exchange(await party.code(scope="read"), scope="read admin"))
    assert widened.body["scope"] == "read"
    assert "scope" not in (await party.tokens()).body


async def test_tokens_never_outlive_the_grant(system: System) -> None:
    """The grant's lifetime counts from the code and limits the first tokens' lifetimes, too."""
    party = await system.party(document(grantLifetime=100, accessTokenLifetime=3600))
    code = await party.code()
    system.clock.advance(40)
    tokens = tokens_of(await party.exchange(code))
    assert tokens.body["expires_in"] == 60
    system.clock.advance(60)
    assert (await party.verify(tokens.access)).status == 401
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")


async def test_the_exchange_is_one_write(system: System) -> None:
    """The same document, one version later, has the tokens, and only their digests."""
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
