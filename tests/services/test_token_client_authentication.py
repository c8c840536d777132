"""Client authentication at the token endpoint (RFC 6749 §2.3)."""

import base64
from datetime import timedelta
from urllib.parse import quote

import pytest

from contracts.clients import ClientDeletion
from libs import client_secrets
from tests.builders import CALLBACK, Response, make_api, make_client, settle, unique
from tests.services.system import VERIFIER, Party, System, basic, open_system, raw, refused, tokens_of, unencoded_basic

CREDENTIALS = {"grant_type": "client_credentials"}
AWKWARD = "p:a%s+s w&o=r/d?é漢" + "x" * 12
"""What appendix B is about: colon, percent, plus, space and non-ASCII."""


async def ask(party: Party, header: str | None, form: dict[str, str] = CREDENTIALS) -> Response:
    headers = {} if header is None else {"Authorization": header}
    return await party.system.call("POST", party.at("oauth/token"), data=form, headers=headers)


async def awkward(system: System) -> Party:
    """A client with this operator-chosen secret."""
    api, ctx = await make_api(system.deps), system.deps.event_context("tests")
    client, _ = await make_client(system.deps, api)
    kept = (client_secrets.protect(system.deps.keys, client.client_id, AWKWARD, ctx.now, retrievable=True),)
    changed = await system.deps.store.clients.rotate(client, kept, ctx)
    assert changed is not None
    return Party(system, api, changed, AWKWARD)


async def test_credentials_are_form_encoded_before_they_are_base64(system: System) -> None:
    """RFC 6749 §2.3.1, appendix B (row 14): a form-encoded secret works, in header and body."""
    party = await awkward(system)
    assert (await ask(party, basic(party.id, AWKWARD))).status == 200
    assert (await ask(party, unencoded_basic(party.id, quote(AWKWARD, safe="")))).status == 200
    in_body = {**CREDENTIALS, "client_id": party.id, "client_secret": AWKWARD}
    assert (await ask(party, None, in_body)).status == 200
    assert (await ask(party, basic(party.id, AWKWARD), in_body)).status == 200


async def test_c7_the_same_secret_counts_without_the_encoding(system: System) -> None:
    """Row 14: many clients do not encode, and Tyk does not decode."""
    party = await awkward(system)
    assert (await ask(party, unencoded_basic(party.id, AWKWARD))).status == 200


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
async def test_the_scheme_is_read_in_any_case(system: System, scheme: str) -> None:
    """RFC 9110 §11.1: the scheme's name is case-insensitive."""
    party = await system.party()
    assert (await ask(party, basic(party.id, party.secret).replace("Basic", scheme))).status == 200


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(lambda party: basic("nobody", party.secret), id="row-08-unknown-client"),
        pytest.param(lambda party: basic(party.id, "wrong"), id="row-09-wrong-secret"),
        pytest.param(lambda party: basic(party.id, ""), id="row-16-empty-secret"),
        pytest.param(lambda party: basic(party.id, party.secret + "x"), id="longer-secret"),
        pytest.param(lambda party: basic(party.id, party.secret[:-1]), id="shorter-secret"),
        pytest.param(lambda party: basic(party.id.upper(), party.secret), id="other-case"),
        pytest.param(lambda party: basic("", party.secret), id="row-15-no-client-id"),
        pytest.param(lambda party: basic("$ne", party.secret), id="row-24-operator"),
        pytest.param(lambda party: basic(party.id + "\0", party.secret), id="row-15-nul"),
        pytest.param(lambda party: f"Bearer {party.secret}", id="other-scheme"),
        pytest.param(lambda party: "Basic", id="row-15-nothing"),
        pytest.param(lambda party: "Basic !!!", id="row-15-not-base64"),
        pytest.param(lambda party: "Basic é", id="row-15-not-ascii"),
        pytest.param(lambda party: "Basic " + base64.b64encode(b"no colon").decode(), id="row-15-no-colon"),
        pytest.param(lambda party: "Basic " + base64.b64encode(b"\xff:\xfe").decode(), id="row-15-not-utf-8"),
        pytest.param(lambda party: "Basic " + base64.b64encode(b"%ff:x").decode(), id="row-15-encoded-not-utf-8"),
        pytest.param(lambda party: "Basic " + "A" * 7000, id="row-15-huge"),
        pytest.param(lambda party: None, id="none"),
    ],
)
async def test_failed_authentication_is_invalid_client(system: System, header: object) -> None:
    """Every failure is 401 `invalid_client` with a Basic challenge (RFC 6749 §5.2)."""
    party = await system.party()
    assert refused(await ask(party, header(party)), "invalid_client", 401)  # type: ignore[operator]


async def test_a_header_larger_than_the_server_takes_is_400(system: System) -> None:
    """Row 15: a megabyte of credentials is refused before it is read."""
    party = await system.party()
    start = f"POST {party.at('oauth/token')} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic ".encode()
    assert b" 400 " in (await raw(system.call, start + b"A" * 20_000))[:20]


async def test_an_unknown_client_and_a_wrong_secret_are_indistinguishable(system: System) -> None:
    """Rows 8 and 9: status, body and headers are the same, so ids cannot be enumerated."""
    party = await system.party()
    unknown, wrong = await ask(party, basic("nobody", "x" * 43)), await ask(party, basic(party.id, "x" * 43))
    assert unknown.raw == wrong.raw
    own = {"X-Request-ID": "", "Date": ""}
    assert {**unknown.headers, **own} == {**wrong.headers, **own}


@pytest.mark.parametrize(
    ("form", "status"),
    [
        pytest.param({"client_id": "<id>", "client_secret": "<secret>"}, 200, id="row-11-agreeing"),
        pytest.param({"client_id": "<id>"}, 200, id="only-the-id"),
        pytest.param({"client_secret": "<secret>"}, 200, id="only-the-secret"),
        pytest.param({"client_id": "<id>", "client_secret": "<secret>", "secret": "<secret>"}, 200, id="all-agreeing"),
        pytest.param({"client_id": "other"}, 400, id="row-12-other-id"),
        pytest.param({"client_id": "<id>", "client_secret": "wrong"}, 400, id="row-11-other-secret"),
        pytest.param({"client_secret": "wrong", "secret": "<secret>"}, 400, id="alias-differs"),
    ],
)
async def test_header_and_body_must_agree(system: System, form: dict[str, str], status: int) -> None:
    """Tyk's examples send both: equal credentials pass, different ones are refused."""
    party = await system.party()
    form = {name: value.replace("<id>", party.id).replace("<secret>", party.secret) for name, value in form.items()}
    response = await ask(party, party.basic["Authorization"], {**CREDENTIALS, **form})
    assert response.status == 200 if status == 200 else refused(response, "invalid_request", status)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        pytest.param({"client_id": "<id>", "client_secret": "wrong"}, "invalid_client", id="row-10-wrong-secret"),
        pytest.param({"client_id": "<id>", "secret": "wrong"}, "invalid_client", id="wrong-secret-by-alias"),
        pytest.param({"client_id": "<id>"}, "invalid_client", id="row-16-confidential-client-with-its-id-only"),
        pytest.param({"client_secret": "<secret>"}, "invalid_client", id="secret-without-id"),
        pytest.param({"client_id[$gt]": "", "client_secret": "<secret>"}, "invalid_client", id="row-24-operator"),
        pytest.param({"client_id": "nobody", "client_secret": "<secret>"}, "invalid_client", id="unknown-client"),
    ],
)
async def test_credentials_in_the_body_are_checked_alike(system: System, form: dict[str, str], error: str) -> None:
    """Missing or wrong credentials in the body get the same 401 as in the header."""
    party = await system.party()
    form = {name: value.replace("<id>", party.id).replace("<secret>", party.secret) for name, value in form.items()}
    assert refused(await ask(party, None, {**CREDENTIALS, **form}), error, 401)


async def test_a_client_of_another_api_is_unknown_here(system: System) -> None:
    """A client of another API is unknown, even with the right secret."""
    here, there = await system.party(), await system.party()
    assert refused(await ask(here, there.basic["Authorization"]), "invalid_client", 401)


# Public clients


async def test_a_public_client_uses_the_code_grant_with_pkce_and_refreshes(system: System) -> None:
    """A public client proves a code by its verifier; a refresh token proves itself."""
    party = await system.party(public=True)
    tokens = await party.tokens()
    assert (await party.refreshed(tokens.refresh)).access != tokens.access


@pytest.mark.parametrize(
    "form",
    [
        pytest.param({"grant_type": "client_credentials"}, id="row-22-client-credentials"),
        pytest.param({"grant_type": "password", "username": "u", "password": "p"}, id="row-89-password"),
    ],
)
async def test_a_public_client_may_use_no_other_grant(system: System, form: dict[str, str]) -> None:
    """Other grants require a client secret."""
    assert refused(await (await system.party(public=True)).token(form), "unauthorized_client")


@pytest.mark.parametrize("where", ["header", "body"])
async def test_a_public_client_has_no_secret_to_send(system: System, where: str) -> None:
    """Row 17: a public client that sends a secret is refused."""
    party = await system.party(public=True)
    form = {
        "grant_type": "authorization_code",
        "code": await party.code(),
        "redirect_uri": party.client.redirect_uris[0],
        "code_verifier": VERIFIER,
        "client_id": party.id,
    }
    if where == "header":
        assert refused(await ask(party, basic(party.id, "secret"), form), "invalid_client", 401)
    else:
        assert refused(await ask(party, None, {**form, "client_secret": "secret"}), "invalid_client", 401)
    assert (await ask(party, None, form)).status == 200


# Rotation and deletion


async def test_both_secrets_work_while_a_rotation_overlaps(system: System) -> None:
    """Row 111: during the overlap both secrets work, afterwards only the new one."""
    party = await system.party()
    ctx = system.deps.event_context("tests")
    fresh = client_secrets.protect(system.deps.keys, party.id, "n" * 24, ctx.now, retrievable=True)
    old = party.client.secrets[0].model_copy(update={"expires_at": ctx.now + timedelta(seconds=30)})
    assert await system.deps.store.clients.rotate(party.client, (fresh, old), ctx)
    assert (await ask(party, basic(party.id, party.secret))).status == 200
    assert (await ask(party, basic(party.id, "n" * 24))).status == 200
    system.clock.advance(30)
    assert refused(await ask(party, basic(party.id, party.secret)), "invalid_client", 401)
    assert (await ask(party, basic(party.id, "n" * 24))).status == 200


async def test_a_deleted_client_is_unknown_at_once(system: System) -> None:
    """Rows 58 and 68: credentials, codes and refresh tokens of a deleted client are refused at once."""
    party = await system.party()
    code, tokens = await party.code(), await party.tokens()
    deleted = await system.deps.store.clients.delete(
        party.client, ClientDeletion.CLIENT_DELETED, system.deps.event_context("tests")
    )
    assert deleted
    assert refused(await ask(party, party.basic["Authorization"]), "invalid_client", 401)
    assert refused(await party.exchange(code), "invalid_client", 401)
    assert refused(await party.refresh(tokens.refresh), "invalid_client", 401)
    await settle(system.deps)


# An empty secret

EMPTY = [
    pytest.param(True, {}, id="basic"),
    pytest.param(True, {"client_id": "<id>"}, id="basic-and-id-in-the-body"),
    pytest.param(False, {"client_id": "<id>", "client_secret": ""}, id="body"),
    pytest.param(False, {"client_id": "<id>", "secret": ""}, id="body-with-the-alias"),
]


@pytest.mark.parametrize(("in_header", "body"), EMPTY)
async def test_d6_an_empty_secret_is_none_for_a_public_client(
    system: System, in_header: bool, body: dict[str, str]
) -> None:
    """Go's oauth2 sends `Basic id:` first: for a public client that equals its id alone, at every endpoint."""
    party = await system.party(public=True)
    named = {name: value.replace("<id>", party.id) for name, value in body.items()}
    header = {"Authorization": basic(party.id, "")} if in_header else {}

    async def ask(path: str, **form: str) -> Response:
        return await system.call("POST", party.at(path), data={**named, **form}, headers=header)

    code = {"grant_type": "authorization_code", "code": await party.code(), "redirect_uri": CALLBACK}
    first = tokens_of(await ask("oauth/token", **code, code_verifier=VERIFIER))
    second = tokens_of(await ask("oauth/token", grant_type="refresh_token", refresh_token=first.refresh))
    assert (await ask("oauth/revoke", token=second.refresh)).status == 200
    assert (await party.verify(second.access)).status == 403
    assert refused(await ask("oauth/token", **CREDENTIALS), "unauthorized_client")


@pytest.mark.parametrize(("in_header", "body"), EMPTY)
async def test_d6_an_empty_secret_proves_no_client_that_has_one(
    system: System, in_header: bool, body: dict[str, str]
) -> None:
    """A confidential client with an empty secret is refused as with a wrong one."""
    party = await system.party()
    named = {name: value.replace("<id>", party.id) for name, value in body.items()}
    header = {"Authorization": basic(party.id, "")} if in_header else {}
    code = {"grant_type": "authorization_code", "code": await party.code(), "redirect_uri": CALLBACK}
    for form in (CREDENTIALS, code):
        response = await system.call("POST", party.at("oauth/token"), data={**named, **form}, headers=header)
        assert refused(response, "invalid_client", 401)


@pytest.mark.parametrize("name", ["client_secret", "secret"])
async def test_d6_an_empty_password_leaves_the_secret_to_the_body(system: System, name: str) -> None:
    """`Basic id:` with the secret in the form is accepted if the secret is right, else 401."""
    party = await system.party()
    header = {"Authorization": basic(party.id, "")}

    async def ask(secret: str, **form: str) -> Response:
        data = {**CREDENTIALS, name: secret, **form}
        return await system.call("POST", party.at("oauth/token"), data=data, headers=header)

    assert tokens_of(await ask(party.secret)).access
    assert tokens_of(await ask(party.secret, client_id=party.id)).access
    assert refused(await ask("wrong"), "invalid_client", 401)
    assert refused(await ask(party.secret, client_id="another"), "invalid_request")


@pytest.mark.parametrize(
    ("client_id", "secret"),
    [
        pytest.param("app", "a+secret+with%41%zzin-it", id="secret"),
        pytest.param("me+you@example.test", "a-secret-of-24-characters", id="plus-in-the-id"),
        pytest.param("my app", "a secret of 24 characters", id="spaces"),
        pytest.param("50%25", "a-secret-of-24-characters", id="percent-in-the-id"),
    ],
)
async def test_c7_basic_credentials_count_encoded_or_as_they_are(system: System, client_id: str, secret: str) -> None:
    """Form-encoded (RFC 6749) and raw (as Tyk's clients send them) are both accepted; nothing else is."""
    api = await make_api(system.deps)
    client_id = f"{client_id}{unique('x')}"
    body = {"client_id": client_id, "secret": secret}
    assert (await system.operator("POST", f"/api/apis/oauth/{api.api_id}", json=body)).status == 200

    async def status(authorization: str) -> int:
        form = {"grant_type": "client_credentials"}
        path, headers = f"{api.listen_path}oauth/token", {"Authorization": authorization}
        return (await system.call("POST", path, data=form, headers=headers)).status

    assert await status(basic(client_id, secret)) == 200
    assert await status(unencoded_basic(client_id, secret)) == 200
    assert await status(unencoded_basic(client_id, f"{secret}x")) == 401
    assert await status(unencoded_basic(f"{client_id}x", secret)) == 401


async def test_c7_a_header_with_two_meanings_counts_against_both_clients(mongodb_url: str) -> None:
    """Guesses cannot be hidden from the throttle by a spelling that is decoded to another id."""
    async with open_system(mongodb_url, throttle_client="3/3600") as system:
        api = await make_api(system.deps)
        secret = "a-secret-of-24-characters"
        for client_id in ("a+b", "a b"):
            body = {"client_id": client_id, "secret": secret}
            assert (await system.operator("POST", f"/api/apis/oauth/{api.api_id}", json=body)).status == 200

        async def status(authorization: str) -> int:
            form = {"grant_type": "client_credentials"}
            path, headers = f"{api.listen_path}oauth/token", {"Authorization": authorization}
            return (await system.call("POST", path, data=form, headers=headers)).status

        assert [await status(unencoded_basic("a+b", "wrong")) for _ in range(3)] == [401] * 3
        assert await status(basic("a+b", secret)) == 429
        assert await status(basic("a b", secret)) == 429
