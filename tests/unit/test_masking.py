"""What operators with only `read` see of definitions and URLs."""

import copy
from typing import Any

import pytest

from libs.masking import MASK, first_masked, masked, masked_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("https://api.example.test/orders/v1/", "https://api.example.test/orders/v1/", id="nothing-secret"),
        pytest.param("https://u:p@api.example.test/", f"https://{MASK}@api.example.test/", id="user-and-password"),
        pytest.param("https://u@api.example.test:8443/", f"https://{MASK}@api.example.test:8443/", id="user"),
        pytest.param("https://a.test/x?key=s3cr3t&v=", f"https://a.test/x?key={MASK}&v={MASK}", id="query"),
        pytest.param("https://a.test/x?s3cr3t", f"https://a.test/x?{MASK}", id="query-without-a-name"),
        pytest.param("https://a.test/x#s3cr3t", f"https://a.test/x#{MASK}", id="fragment"),
        pytest.param("https://a.test/T0/B1/Zq7x8Kp2Lm4Nv6Rt", f"https://a.test/T0/B1/{MASK}", id="random-segment"),
        pytest.param("https://a.test/internationalization-x", "https://a.test/internationalization-x", id="long-word"),
        pytest.param("http://[::1", MASK, id="no-url"),
    ],
)
def test_a10_credentials_in_urls_are_masked(url: str, shown: str) -> None:
    """Scheme, host, path and parameter names are shown; values are masked."""
    assert masked_url(url) == shown


DOCUMENT: dict[str, Any] = {
    "proxy": {"target_url": "https://a.test/?key=one", "target_list": ["https://u:two@a.test/"]},
    "notifications": {"shared_secret": "three", "oauth_on_keychange_url": "https://b.test/?four"},
    "global_headers": {"X-Key": "five", "X-Tier": "$tyk_meta.tier", "name": "six", "X-None": ""},
    "extended_paths": {"transform_headers": [{"path": "/x", "add_headers": {"Authorization": "Bearer seven"}}]},
    "global": {"transformRequestHeaders": {"enabled": True, "add": [{"name": "X-Key", "value": "eight"}]}},
    "upstream_auth": {"basic_auth": {"username": "known", "password": "nine"}},
    "jwt_source": "ten",
    "oauth_meta": {"auth_login_redirect": "https://login.test/?theme=dark"},
    "description": "see https://docs.test/?page=1 for more",
    "responses": {"200": {"headers": {"X-Rate": {"description": "of no consequence"}}}},
}
SHOWN: dict[str, Any] = {
    "proxy": {"target_url": f"https://a.test/?key={MASK}", "target_list": [f"https://{MASK}@a.test/"]},
    "notifications": {"shared_secret": MASK, "oauth_on_keychange_url": f"https://b.test/?{MASK}"},
    "global_headers": {"X-Key": MASK, "X-Tier": "$tyk_meta.tier", "name": MASK, "X-None": ""},
    "extended_paths": {"transform_headers": [{"path": "/x", "add_headers": {"Authorization": MASK}}]},
    "global": {"transformRequestHeaders": {"enabled": True, "add": [{"name": "X-Key", "value": MASK}]}},
    "upstream_auth": {"basic_auth": {"username": "known", "password": MASK}},
    "jwt_source": MASK,
    "oauth_meta": {"auth_login_redirect": "https://login.test/?theme=dark"},
    "description": "see https://docs.test/?page=1 for more",
    "responses": {"200": {"headers": {"X-Rate": {"description": "of no consequence"}}}},
}


def test_a10_a_definition_is_shown_without_its_secrets() -> None:
    """In both formats secrets are masked; descriptions and public settings stay."""
    before = copy.deepcopy(DOCUMENT)
    assert masked(DOCUMENT) == SHOWN
    assert before == DOCUMENT


def test_a10_a_mask_is_found_wherever_it_may_stand() -> None:
    """A mask is recognised wherever it may be, so that it is never stored in place of a secret."""
    assert first_masked(DOCUMENT) is None
    assert first_masked(SHOWN) == "proxy.target_url"
    for name in ("notifications", "global_headers", "extended_paths", "global", "upstream_auth", "jwt_source"):
        found = first_masked({name: SHOWN[name]})
        assert found is not None
        assert found.startswith(name)
    assert first_masked({"description": f"a password is shown as {MASK}"}) is None
