"""PKCE (RFC 7636; RFC 9700 §2.1.1, §4.8): rows 42 to 50."""

import pytest

from tests.acceptance.stack import Stack
from tests.security.apps import CHALLENGE, PKCE, VERIFIER, App, new_api, query_of, refused

NONE = {"code_challenge": "", "code_challenge_method": ""}
WRONG = "w" * 43


async def no_code(app: App, **changes: str) -> bool:
    """Whether the request is refused with `invalid_request` by redirect, without a code."""
    sent = await app.authorize(**changes)
    assert sent.status == 302, sent.raw
    told = [query_of(sent.headers["Location"])]
    response = await app.authorized(**changes)
    assert response.status == 400
    told.append(query_of(response.body["redirect_to"]))
    assert all(each["error"] == "invalid_request" and "code" not in each for each in told), told
    return True


async def test_042_a_public_client_needs_a_challenge(spa: App) -> None:
    """A public client must send a challenge (RFC 9700 §2.1.1: "Public clients MUST use PKCE")."""
    assert await no_code(spa, **NONE)


async def test_043_every_client_needs_one_where_the_api_says_so(cluster: Stack) -> None:
    """With `pkceRequired` in the definition, confidential clients must send one too."""
    app = await (await new_api(cluster, {"pkceRequired": True})).app()
    assert await no_code(app)
    assert (await app.exchange(await app.code(**PKCE), code_verifier=VERIFIER)).status == 200


@pytest.mark.parametrize("method", ["plain", "foo", "s256", "S512", ""])
async def test_044_only_s256_is_taken(spa: App, web: App, method: str) -> None:
    """Only S256 is accepted; an omitted method means `plain` (RFC 7636 §4.3) and is refused."""
    for app in (spa, web):
        assert await no_code(app, code_challenge=CHALLENGE, code_challenge_method=method)
        assert await no_code(app, code_challenge=VERIFIER, code_challenge_method=method)


@pytest.mark.parametrize(
    "challenge",
    [CHALLENGE[:-1], "A" * 129, f"{CHALLENGE}=", CHALLENGE[:-1] + "+", CHALLENGE[:-1] + "ü", CHALLENGE[:-1] + "."],
    ids=["42", "129", "padded", "plus", "no-ascii", "dot"],
)
async def test_045_a_malformed_challenge_is_refused(spa: App, challenge: str) -> None:
    """An S256 challenge must be 43 characters of base64url; no verifier could match any other."""
    assert await no_code(spa, code_challenge=challenge)


async def test_046_a_code_with_a_challenge_needs_its_verifier(spa: App, web: App) -> None:
    """A code with a challenge requires the verifier, from confidential clients too: `invalid_grant` (RFC 7636 §4.6)."""
    for app in (spa, web):
        code = await app.code(**PKCE)
        assert refused(await app.exchange(code, code_verifier=""), "invalid_grant")
        assert (await app.exchange(code, code_verifier=VERIFIER)).status == 200


async def test_047_three_wrong_verifiers_burn_a_code(spa: App) -> None:
    """A code survives two wrong verifiers and is revoked after the third. Tokenwire's own rule."""
    for wrong, status in ((1, 200), (2, 200), (3, 400), (4, 400)):
        code = await spa.code()
        for _ in range(wrong):
            assert refused(await spa.exchange(code, code_verifier=WRONG), "invalid_grant")
        assert (await spa.exchange(code)).status == status, wrong


@pytest.mark.parametrize("verifier", ["a" * 42, "a" * 129, "ü" * 43, VERIFIER[:-1] + "+", f"{VERIFIER}=", "a b" * 15])
async def test_048_a_malformed_verifier_is_refused(spa: App, verifier: str) -> None:
    """A verifier must have 43 to 128 unreserved characters (RFC 7636 §4.1)."""
    code = await spa.code()
    assert refused(await spa.exchange(code, code_verifier=verifier), "invalid_grant")


async def test_049_a_verifier_without_a_challenge_is_a_downgrade(web: App) -> None:
    """A verifier for a code without a challenge is refused as a downgrade attack (RFC 9700 §4.8.2); without it the code
    works.
    """
    code = await web.code()
    assert refused(await web.exchange(code, code_verifier=VERIFIER), "invalid_grant")
    assert (await web.exchange(code)).status == 200


async def test_050_the_challenge_is_not_its_own_verifier(spa: App) -> None:
    """The challenge is not accepted as the verifier, because it is visible in the authorization request."""
    code = await spa.code()
    assert refused(await spa.exchange(code, code_verifier=CHALLENGE), "invalid_grant")
    assert (await spa.exchange(code)).status == 200
