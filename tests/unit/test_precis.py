"""D12: user names and passwords are prepared as in RFC 8265 before comparison."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.passwords import PasswordHasher
from libs.precis import MAX_CHARACTERS, prepare_password, prepare_username

ZOE = "zo\u00eb"


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        pytest.param("alice@example.test", "alice@example.test", id="ascii"),
        pytest.param("".join(map(chr, range(0x20, 0x7F))).replace("/", ""), None, id="all-of-ascii"),
        pytest.param("Zoe\u0308", "Zo\u00eb", id="nfd-and-case-is-kept"),
        pytest.param("\uff41\uff42\uff11", "ab1", id="full-width"),
        pytest.param("\u212b", "\u00c5", id="angstrom-sign"),
        pytest.param("Bob  Builder", "Bob  Builder", id="spaces-inside"),
        pytest.param(" boss", " boss", id="space-before-is-another-name"),
        pytest.param("zoe\u0308 b", "zo\u00eb b", id="part-by-part"),
        pytest.param("\u043a\u043b\u044e\u0447", "\u043a\u043b\u044e\u0447", id="another-script"),
        pytest.param("e\u0301" * 256, "\u00e9" * 256, id="longest-in-nfd"),
    ],
)
def test_d12_a_user_name_is_prepared(text: str, prepared: str | None) -> None:
    """UsernameCasePreserved for each part; printable ASCII is unchanged."""
    assert prepare_username(text) == (text if prepared is None else prepared)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("a/b", id="slash"),
        pytest.param("a\uff0fb", id="full-width-slash"),
        pytest.param("a\0", id="nul"),
        pytest.param("a\nb", id="line-break"),
        pytest.param("a\u200db", id="zero-width-joiner"),
        pytest.param("a\u202eb", id="direction-override"),
        pytest.param("a\u00adb", id="soft-hyphen"),
        pytest.param("a\u00a0b", id="no-break-space"),
        pytest.param("a\u3000b", id="ideographic-space"),
        pytest.param("\ufb01", id="ligature"),
        pytest.param("\U0001f600", id="emoji"),
        pytest.param("\u05d0a", id="two-directions"),
        pytest.param("a\ud800", id="half-a-surrogate-pair"),
        pytest.param("\u0378", id="unassigned"),
        pytest.param("x" * 257, id="too-long"),
        pytest.param("\u00e9" * 257, id="too-long-beyond-ascii"),
        pytest.param("e\u0301" * 30_000, id="endless"),
    ],
)
def test_d12_names_outside_the_profile_are_refused(text: str) -> None:
    """A name outside the profile is refused, without other exceptions."""
    assert prepare_username(text) is None


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        pytest.param("correct horse", "correct horse", id="ascii"),
        pytest.param("cafe\u0301 1234", "caf\u00e9 1234", id="nfd"),
        pytest.param("a\u00a0b\u3000c", "a b c", id="other-spaces"),
        pytest.param("\uff41\ufb01", "\uff41\ufb01", id="width-and-ligatures-are-kept"),
        pytest.param("\U0001f600 password", "\U0001f600 password", id="emoji"),
        pytest.param(" lead and trail ", " lead and trail ", id="outer-spaces"),
        pytest.param("a\tb", None, id="tab"),
        pytest.param("a\0", None, id="nul"),
        pytest.param("\ud800", None, id="half-a-surrogate-pair"),
        pytest.param("\u0378", None, id="unassigned"),
        pytest.param("", None, id="empty"),
        pytest.param("x" * (MAX_CHARACTERS + 1), None, id="endless"),
    ],
)
def test_d12_a_password_is_prepared(text: str, prepared: str | None) -> None:
    """OpaqueString."""
    assert prepare_password(text) == prepared


@given(st.text(max_size=40))
def test_d12_preparing_twice_changes_nothing(text: str) -> None:
    """Preparation is idempotent, and equal for both normalization forms."""
    for prepare in (prepare_username, prepare_password):
        once = prepare(text)
        if once is not None:
            assert prepare(once) == once
            assert prepare(unicodedata.normalize("NFD", once)) == once


async def test_d12_a_password_is_hashed_and_verified_as_it_is_prepared() -> None:
    """Hashing and verifying use the prepared password; one that cannot be prepared never matches."""
    hasher = PasswordHasher(threads=1)
    try:
        hashed = await hasher.hash("Cafe\u0301 au lait")
        assert await hasher.verify(hashed, "Caf\u00e9 au lait")
        assert await hasher.verify(hashed, "Cafe\u0301\u00a0au lait")
        assert not await hasher.verify(hashed, "Cafe au lait")
        assert not await hasher.verify(hasher._argon2.hash("tab\there"), "tab\there")
        with pytest.raises(ValueError, match="may not have"):
            await hasher.hash("tab\there")
    finally:
        hasher.close()
