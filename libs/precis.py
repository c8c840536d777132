"""Prepares user names and passwords for comparison (RFC 8265), so that what looks the same is the same text."""

from precis_i18n import get_profile

from contracts.resource_owners import is_username

MAX_CHARACTERS = 512
"""Longer text is not prepared. Twice the limit of names and passwords, because NFC is shorter than NFD."""
_USERNAME = get_profile("UsernameCasePreserved")
_PASSWORD = get_profile("OpaqueString")


def prepare_username(text: str) -> str | None:
    """The form in which a user name is stored, looked up and counted; None if no user can have this name.

    Each part between spaces is prepared with the profile UsernameCasePreserved (RFC 8265 §3.4, §3.5): width is mapped,
    the normal form is NFC, and case and spaces are preserved.
    """
    if not _is_plain(text):
        if len(text) > MAX_CHARACTERS:
            return None
        try:
            text = " ".join(_USERNAME.enforce(part) if part else part for part in text.split(" "))
        except UnicodeError:
            return None
    return text if is_username(text) else None


def prepare_password(text: str) -> str | None:
    """The form in which a password is hashed, with the profile OpaqueString (RFC 8265 §4.2): spaces are U+0020, NFC.

    None for what the profile forbids, such as control characters: no user can have such a password.
    """
    if not text or len(text) > MAX_CHARACTERS:
        return None
    if _is_plain(text):
        return text
    try:
        return _PASSWORD.enforce(text)
    except UnicodeError:
        return None


def _is_plain(text: str) -> bool:
    """Whether both profiles leave the text unchanged: printable ASCII. The fast path."""
    return text.isascii() and text.isprintable()
