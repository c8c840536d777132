"""The password and client credentials grants (RFC 6749 §4.3, §4.4): who gets tokens, and what refusals disclose."""

from urllib.parse import quote

import argon2
import pytest

from contracts.grants import GrantState
from tests.services.system import PASSWORD, System, document, open_system, refused, tokens_of


async def test_the_tokens_are_the_user_s(system: System) -> None:
    """The grant is active at once and names its user; the user's policies are not copied."""
    party, user = await system.party(), await system.user()
    tokens = tokens_of(await party.password(user.username))
    grant = await system.grant_of(tokens.access)
    assert (grant.state, grant.subject) == (GrantState.ACTIVE, user.username)
    response = await party.verify(tokens.access)
    assert (response.status, response.headers["X-Tokenwire-Subject"]) == (200, user.username)


@pytest.fixture(name="hashed")
def _hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parameters of every Argon2 hash that is computed."""
    hashed: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, hash: str, password: str) -> bool:
        hashed.append(hash.rsplit("$", 2)[0])
        return verify(self, hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    return hashed


async def test_wrong_user_and_wrong_password_are_indistinguishable(system: System, hashed: list[str]) -> None:
    """Row 87: the same status, body and headers after the same work: one Argon2 hash of the same cost."""
    party, user = await system.party(), await system.user()
    inactive = await system.user(active=False)
    responses = [
        await party.password(user.username, "wrong"),
        await party.password("nobody", "wrong"),
        await party.password("nobody", PASSWORD),
        await party.password(inactive.username, "wrong"),
        await party.password(inactive.username, PASSWORD),
        await party.password(user.username.upper(), PASSWORD),
        await party.password("$ne", PASSWORD),
    ]
    assert all(refused(response, "invalid_grant") for response in responses)
    assert len({response.raw for response in responses}) == 1
    assert len({tuple(sorted(set(response.headers) - {"X-Request-ID"})) for response in responses}) == 1
    assert len(hashed) == len(responses)
    assert len(set(hashed)) == 1


@pytest.mark.parametrize(
    "password",
    [PASSWORD.upper(), PASSWORD + " ", " " + PASSWORD, PASSWORD[:-1], "é" * 1000, "x" * 60_000],
    ids=["case", "trailing-space", "leading-space", "shorter", "unicode", "huge"],
)
async def test_no_other_password_will_do(system: System, password: str) -> None:
    """Every character counts, and no password causes a server error."""
    party, user = await system.party(), await system.user()
    assert refused(await party.password(user.username, password), "invalid_grant")


async def test_a_failed_login_leaves_tokens_valid(system: System) -> None:
    """Wrong passwords, however many, do not affect tokens that the user already has."""
    party, user = await system.party(), await system.user()
    tokens = tokens_of(await party.password(user.username))
    before = await system.grant_of(tokens.access)
    for _ in range(3):
        assert refused(await party.password(user.username, "wrong"), "invalid_grant")
    assert await system.grant_of(tokens.access) == before
    assert (await party.verify(tokens.access)).status == 200
    assert (await party.refresh(tokens.refresh)).status == 200


async def test_a_second_login_is_a_second_grant(system: System) -> None:
    """Two logins of one user are two grants, and neither affects the other."""
    party, user = await system.party(), await system.user()
    first, second = [tokens_of(await party.password(user.username)) for _ in range(2)]
    assert (await party.verify(first.access)).status == 200
    assert (await party.verify(second.access)).status == 200


async def test_the_client_must_authenticate(system: System) -> None:
    """Row 89: with a wrong client the response does not show whether the password is right."""
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
async def test_scope_is_the_requested_or_the_registered_one(
    system: System, grant_type: str, registered: str | None, asked: str, granted: str | None
) -> None:
    """The requested scope, or all that the client is registered for; the response names it (RFC 6749 §3.3, §5.1)."""
    party, user = await system.party(scope=registered), await system.user()
    form = {"grant_type": grant_type, "username": user.username, "password": PASSWORD, "scope": asked}
    tokens = tokens_of(await party.token(form))
    assert tokens.body.get("scope") == granted
    assert (await party.verify(tokens.access)).headers["X-Tokenwire-Scope"] == (granted or "")


@pytest.mark.parametrize("grant_type", ["client_credentials", "password"])
@pytest.mark.parametrize("asked", ["d", "a d", "A"])
async def test_scope_outside_the_registered_is_refused(system: System, grant_type: str, asked: str) -> None:
    """Row 19: `invalid_scope`; no part is granted."""
    party, user = await system.party(scope="a b c"), await system.user()
    form = {"grant_type": grant_type, "username": user.username, "password": PASSWORD, "scope": asked}
    assert refused(await party.token(form), "invalid_scope")


# Client credentials


async def test_client_credentials_name_no_user_and_give_no_refresh_token(system: System) -> None:
    """RFC 6749 §4.4.3: the token belongs to the client itself and expires after the API's token lifetime."""
    party = await system.party(document(accessTokenLifetime=50))
    tokens = tokens_of(await party.token({"grant_type": "client_credentials"}))
    grant = await system.grant_of(tokens.access)
    assert (grant.subject, grant.refresh, tokens.refresh) == (None, None, "")
    assert (await party.verify(tokens.access)).headers["X-Tokenwire-Subject"] == ""
    system.clock.advance(50)
    assert (await party.verify(tokens.access)).status == 401


async def test_a_client_without_redirect_uri_uses_the_grants_that_need_none(system: System) -> None:
    """Only the authorization code grant needs a redirect URI."""
    party, user = await system.party(redirect_uris=()), await system.user()
    assert (await party.token({"grant_type": "client_credentials"})).status == 200
    assert (await party.password(user.username)).status == 200


# Unicode normalisation of names and passwords (RFC 8265)

NFC, NFD = "zo\u00eb", "zoe\u0308"
BASIC = "/api/apis/keys/basic/"


async def test_d12_a_name_in_either_normal_form_is_one_user(system: System) -> None:
    """A name or password in one Unicode normal form works in the other for login and management, and is taken there."""
    party = await system.party()
    password = f"pass{NFC}word"
    assert (await system.operator("POST", BASIC + quote(NFD), json={"password": password})).body["username"] == NFC
    for name in (NFC, NFD):
        response = await system.operator("POST", BASIC + quote(name), json={"password": PASSWORD})
        assert response.status == 409
        assert (await system.operator("GET", BASIC + quote(name))).body["username"] == NFC
        for spelling in (password, password.replace(NFC, NFD)):
            tokens = tokens_of(await party.password(name, spelling))
            assert (await system.grant_of(tokens.access)).subject == NFC
        assert refused(await party.password(name, PASSWORD), "invalid_grant")
    assert (await system.operator("PUT", BASIC + quote(NFD), json={"password": f"{NFD} number two"})).status == 200
    assert (await party.password(NFC, f"{NFC} number two")).status == 200
    assert (await system.operator("DELETE", BASIC + quote(NFD))).status == 200
    assert (await system.operator("GET", BASIC + quote(NFC))).status == 404


@pytest.mark.parametrize("name", ["a\u200db", "\ufb01", "\U0001f600", "a\u202eb", "a\u00a0b"])
async def test_d12_a_name_or_password_that_the_profile_refuses_is_400_when_it_is_made(
    system: System, name: str
) -> None:
    """The error says what is allowed, and quotes nothing of a password."""
    for method in ("POST", "GET", "PUT", "DELETE"):
        body = None if method in {"GET", "DELETE"} else {"password": PASSWORD}
        response = await system.operator(method, BASIC + quote(name), json=body)
        assert response.status == 400
        assert response.message.startswith("a user name has 1 to 256 characters")
    user = await system.user()
    for method, path in (("POST", BASIC + "somebody-new"), ("PUT", BASIC + user.username)):
        for password, says in (("secret\twith tab", "control characters"), ("e\u0301" * 5, "at least 8")):
            response = await system.operator(method, path, json={"password": password})
            assert response.status == 400
            assert response.message.startswith("password: ")
            assert says in response.message
            assert "secret" not in response.message


async def test_d12_at_the_login_such_a_name_is_refused_like_a_wrong_password(system: System, hashed: list[str]) -> None:
    """The same response after the same work: one look-up and one Argon2 hash of the same cost."""
    party, user = await system.party(), await system.user()
    responses = [
        await party.password(user.username, "wrong"),
        *[await party.password(name, PASSWORD) for name in ("a\u200db", "\ufb01", "a/b", "x" * 5000, "\u00e9" * 5000)],
        *[await party.password(user.username, password) for password in ("tab\there", "\u0378" * 9, "\u00e9" * 9000)],
    ]
    assert all(refused(response, "invalid_grant") for response in responses)
    assert len({response.raw for response in responses}) == 1
    assert len(hashed) == len(responses)
    assert len(set(hashed)) == 1


async def test_d12_failures_are_counted_for_the_prepared_name(mongodb_url: str) -> None:
    """Another spelling of the name does not get around the brute-force protection."""
    async with open_system(mongodb_url, throttle_user="3/3600") as system:
        party = await system.party()
        await system.user(username=NFC)
        for name in (NFD, NFC, NFD):
            assert refused(await party.password(name, "wrong"), "invalid_grant")
        for name in (NFC, NFD):
            assert (await party.password(name)).status == 429
