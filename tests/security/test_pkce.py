"""PKCE (RFC 7636; RFC 9700 §2.1.1, §4.8): rows 42 to 50."""

import pytest

from tests.acceptance.stack import Stack
from tests.security.apps import CHALLENGE, PKCE, VERIFIER, App, new_api, query_of, refused

NONE = {"code_challenge": "", "code_challenge_method": ""}
WRONG = "w" * 43


async def no_code(app: App, **changes: str) -> bool:
    """Whether the request brings `invalid_request` to the client, by way of the browser, and no code."""
    sent = await app.authorize(**changes)
    assert sent.status == 302, sent.raw
    told = [query_of(sent.headers["Location"])]
    answer = await app.authorized(**changes)
    assert answer.status == 400
    told.append(query_of(answer.body["redirect_to"]))
    assert all(each["error"] == "invalid_request" and "code" not in each for each in told), told
    return True


async def test_042_a_public_client_needs_a_challenge(spa: App) -> None:
    """RFC 9700 §2.1.1: "Public clients MUST use PKCE"."""
    assert await no_code(spa, **NONE)


async def test_043_every_client_needs_one_where_the_api_says_so(cluster: Stack) -> None:
    """`pkceRequired` in the definition; a secret makes no difference then."""
    app = await (await new_api(cluster, {"pkceRequired": True})).app()
    assert await no_code(app)
    assert (await app.exchange(await app.code(**PKCE), code_verifier=VERIFIER)).status == 200


@pytest.mark.parametrize("method", ["plain", "foo", "s256", "S512", ""])
async def test_044_only_s256_is_taken(spa: App, web: App, method: str) -> None:
    """An omitted method means `plain` (RFC 7636 §4.3)."""
    for app in (spa, web):
        assert await no_code(app, code_challenge=CHALLENGE, code_challenge_method=method)
        assert await no_code(app, code_challenge=VERIFIER, code_challenge_method=method)


@pytest.mark.parametrize(
    "challenge",
    [CHALLENGE[:-1], "A" * 129, f"{CHALLENGE}=", CHALLENGE[:-1] + "+", CHALLENGE[:-1] + "ü", CHALLENGE[:-1] + "."],
    ids=["42", "129", "padded", "plus", "no-ascii", "dot"],
)
async def test_045_a_malformed_challenge_is_refused(spa: App, challenge: str) -> None:
    """A challenge of S256 is 43 characters of base64url; none other can ever be met."""
    assert await no_code(spa, code_challenge=challenge)


async def test_046_a_code_with_a_challenge_needs_its_verifier(spa: App, web: App) -> None:
    """`invalid_grant` (RFC 7636 §4.6); with a secret, too."""
    for app in (spa, web):
        code = await app.code(**PKCE)
        assert refused(await app.exchange(code, code_verifier=""), "invalid_grant")
        assert (await app.exchange(code, code_verifier=VERIFIER)).status == 200


async def test_047_three_wrong_verifiers_burn_a_code(spa: App) -> None:
    """The product's rule: twice may be a mistake, and the right one is still taken; after three it is not any more."""
    for wrong, status in ((1, 200), (2, 200), (3, 400), (4, 400)):
        code = await spa.code()
        for _ in range(wrong):
            assert refused(await spa.exchange(code, code_verifier=WRONG), "invalid_grant")
        assert (await spa.exchange(code)).status == status, wrong


@pytest.mark.parametrize("verifier", ["a" * 42, "a" * 129, "ü" * 43, VERIFIER[:-1] + "+", f"{VERIFIER}=", "a b" * 15])
async def test_048_a_malformed_verifier_is_refused(spa: App, verifier: str) -> None:
    """43 to 128 characters that need no escaping (RFC 7636 §4.1)."""
    code = await spa.code()
    assert refused(await spa.exchange(code, code_verifier=verifier), "invalid_grant")


async def test_049_a_verifier_without_a_challenge_is_a_downgrade(web: App) -> None:
    """RFC 9700 §4.8.2: somebody has taken the challenge out of the request; without the verifier the code is good."""
    code = await web.code()
    assert refused(await web.exchange(code, code_verifier=VERIFIER), "invalid_grant")
    assert (await web.exchange(code)).status == 200


async def test_050_the_challenge_is_not_its_own_verifier(spa: App) -> None:
    """Whoever has seen the authorization request has seen the challenge: it opens nothing."""
    code = await spa.code()
    assert refused(await spa.exchange(code, code_verifier=CHALLENGE), "invalid_grant")
    assert (await spa.exchange(code)).status == 200
