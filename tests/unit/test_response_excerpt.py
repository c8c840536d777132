"""What is kept of a webhook's response has none of the secrets that an endpoint may have sent back."""

import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.masking import MASK
from libs.outbound.response_excerpt import KEPT_CHARACTERS, READ_BYTES, excerpt, values_in

SECRET = 'a "secret" & more/+ä'


@pytest.mark.parametrize(
    ("start", "kept"),
    [
        pytest.param(b"", None, id="empty"),
        pytest.param(b"ok", "ok", id="short"),
        pytest.param(b"\xff\x00", "\ufffd\ufffd", id="not-text"),
        pytest.param(b"a\nb\tc", "a\nb\tc", id="lines"),
        pytest.param("\u202eevil".encode(), "\ufffdevil", id="direction"),
        pytest.param(f"<{SECRET}>".encode(), f"<{MASK}>", id="plain"),
        pytest.param(json.dumps({"a": SECRET}).encode(), f'{{"a": "{MASK}"}}', id="json"),
        pytest.param(html.escape(SECRET).encode(), MASK, id="html"),
        pytest.param(quote(SECRET, safe="").encode(), MASK, id="url"),
        pytest.param(b"tw_rt_AAAA tw_ok_b whsec_c= tw_x", f"{MASK} {MASK} {MASK} tw_x", id="ours"),
    ],
)
def test_e8_secrets_are_masked_and_text_is_readable(start: bytes, kept: str | None) -> None:
    """Whatever was sent is masked in every usual spelling; the rest is text without control characters."""
    assert excerpt(start, [SECRET]) == kept


@given(st.integers(0, READ_BYTES), st.text("xyz-_ ", min_size=8, max_size=200))
def test_e8_no_part_of_a_secret_is_left_where_the_response_is_cut(offset: int, secret: str) -> None:
    """Wherever the secret begins, nothing of it is kept, and never more than 1024 characters."""
    body = (b"." * offset + secret.encode() * 200)[:READ_BYTES]
    kept = excerpt(body, [secret]) or ""
    assert len(kept) <= KEPT_CHARACTERS
    assert not set(kept) & set("xyz-_ ")


def test_e8_the_values_of_a_notification_are_what_was_sent() -> None:
    """Only texts; a body of another form has none."""
    assert list(values_in(b'{"a": "b", "c": 1}')) == ["b"]
    assert list(values_in(b"[]")) == list(values_in(b"no")) == []
