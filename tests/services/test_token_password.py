"""The password and client credentials grants (RFC 6749 §4.3, §4.4): who gets tokens, and what refusals tell."""

import argon2
import pytest

from contracts.grants import GrantState
from tests.builders import make_policy
from tests.services.system import PASSWORD, System, document, refused, tokens_of


async def test_the_tokens_are_the_user_s(system: System) -> None:
    """The grant is active at once and names its user, and the policies that come with the user."""
    party = await system.party()
    policy = await make_policy(system.deps, party.api.api_id)
    user = await system.user(policy_ids=(policy.policy_id,))
    tokens = tokens_of(await party.password(user.username))
    grant = await system.grant_of(tokens.access)
    assert (grant.state, grant.subject, grant.policy_ids) == (GrantState.ACTIVE, user.username, (policy.policy_id,))
    answer = await party.verify(tokens.access)
    assert (answer.status, answer.headers["X-Tokenwire-Subject"]) == (200, user.username)


@pytest.fixture(name="hashed")
def _hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parameters of every argon2 that runs."""
    hashed: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, hash: str, password: str) -> bool:
        hashed.append(hash.rsplit("$", 2)[0])
        return verify(self, hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    return hashed


async def test_wrong_user_and_wrong_password_are_indistinguishable(system: System, hashed: list[str]) -> None:
    """Row 87: the same status, body and headers after the same work — one argon2 of the same cost each."""
    party, user = await system.party(), await system.user()
    inactive = await system.user(active=False)
    answers = [
        await party.password(user.username, "wrong"),
        await party.password("nobody", "wrong"),
        await party.password("nobody", PASSWORD),
        await party.password(inactive.username, "wrong"),
        await party.password(inactive.username, PASSWORD),
        await party.password(user.username.upper(), PASSWORD),
        await party.password("$ne", PASSWORD),
    ]
    assert all(refused(answer, "invalid_grant") for answer in answers)
    assert len({answer.raw for answer in answers}) == 1
    assert len({tuple(sorted(set(answer.headers) - {"X-Request-ID"})) for answer in answers}) == 1
    assert len(hashed) == len(answers)
    assert len(set(hashed)) == 1


@pytest.mark.parametrize(
    "password",
    [PASSWORD.upper(), PASSWORD + " ", " " + PASSWORD, PASSWORD[:-1], "é" * 1000, "x" * 60_000],
    ids=["case", "trailing-space", "leading-space", "shorter", "unicode", "huge"],
)
async def test_no_other_password_will_do(system: System, password: str) -> None:
    """Every character counts, and none of them is a server error."""
    party, user = await system.party(), await system.user()
    assert refused(await party.password(user.username, password), "invalid_grant")


async def test_a_failed_attempt_touches_no_tokens(system: System) -> None:
    """The user's tokens are as good after any number of wrong passwords as they were before."""
    party, user = await system.party(), await system.user()
    tokens = tokens_of(await party.password(user.username))
    before = await system.grant_of(tokens.access)
    for _ in range(3):
        assert refused(await party.password(user.username, "wrong"), "invalid_grant")
    assert await system.grant_of(tokens.access) == before
    assert (await party.verify(tokens.access)).status == 200
    assert (await party.refresh(tokens.refresh)).status == 200


async def test_a_second_login_is_a_second_grant(system: System) -> None:
    """Two logins of one user are two grants; neither ends the other."""
    party, user = await system.party(), await system.user()
    first, second = [tokens_of(await party.password(user.username)) for _ in range(2)]
    assert (await party.verify(first.access)).status == 200
    assert (await party.verify(second.access)).status == 200


async def test_the_client_must_authenticate(system: System) -> None:
    """Row 89: the right password is not enough, and a wrong client does not learn whether it was right."""
    party, user = await system.party(), await system.user()
    form = {"grant_type": "password", "username": user.username, "password": PASSWORD, "client_id": party.id}
    assert refused(await system.call("POST", party.at("oauth/token"), data=form), "invalid_client", 401)


# Scope


@pytest.mark.parametrize("grant_type", ["client_credentials", "password"])
@pytest.mark.parametrize(
    ("registered", "asked", "granted"),
    [
        pytest.param(None, "a b", "a b", id="unrestricted"),
        pytest.param(None, "", None, id="unrestricted-and-nothing-asked"),
        pytest.param("a b c", "c a", "c a", id="row-20-part-of-the-registered"),
        pytest.param("a b c", "", "a b c", id="row-20-nothing-asked-gets-all"),
    ],
)
async def test_scope_is_what_the_client_may_have(
    system: System, grant_type: str, registered: str | None, asked: str, granted: str | None
) -> None:
    """What it asked for, or all that is registered; the answer says it (RFC 6749 §3.3, §5.1)."""
    party, user = await system.party(scope=registered), await system.user()
    form = {"grant_type": grant_type, "username": user.username, "password": PASSWORD, "scope": asked}
    tokens = tokens_of(await party.token(form))
    assert tokens.body.get("scope") == granted
    assert (await party.verify(tokens.access)).headers.get("X-Tokenwire-Scope") == granted


@pytest.mark.parametrize("grant_type", ["client_credentials", "password"])
@pytest.mark.parametrize("asked", ["d", "a d", "A"])
async def test_scope_outside_the_registered_is_refused(system: System, grant_type: str, asked: str) -> None:
    """Row 19: `invalid_scope`, and no part of it is granted."""
    party, user = await system.party(scope="a b c"), await system.user()
    form = {"grant_type": grant_type, "username": user.username, "password": PASSWORD, "scope": asked}
    assert refused(await party.token(form), "invalid_scope")


# Client credentials


async def test_client_credentials_name_no_user_and_give_no_refresh_token(system: System) -> None:
    """RFC 6749 §4.4.3: the token is the client's own; it lives as long as the API says and not longer."""
    party = await system.party(document(accessTokenLifetime=50))
    tokens = tokens_of(await party.token({"grant_type": "client_credentials"}))
    grant = await system.grant_of(tokens.access)
    assert (grant.subject, grant.refresh, tokens.refresh) == (None, None, "")
    assert "X-Tokenwire-Subject" not in (await party.verify(tokens.access)).headers
    system.clock.advance(50)
    assert (await party.verify(tokens.access)).status == 401


async def test_a_client_without_redirect_uri_uses_the_grants_that_need_none(system: System) -> None:
    """Only the code grant sends a browser anywhere."""
    party, user = await system.party(redirect_uris=()), await system.user()
    assert (await party.token({"grant_type": "client_credentials"})).status == 200
    assert (await party.password(user.username)).status == 200
