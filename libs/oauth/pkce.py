"""Proof Key for Code Exchange, PKCE (RFC 7636), with the S256 method only."""

import base64
import hashlib
import hmac
import re

from libs.oauth.errors import InvalidGrant, InvalidRequest

# code-verifier = 43*128unreserved; an S256 challenge is the base64url of 32 bytes.
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


def parse_challenge(challenge: str | None, method: str | None, *, required: bool) -> str | None:
    """The S256 challenge to bind the code to; None where none was sent and none is required. Raises InvalidRequest."""
    if not challenge:
        if method:
            raise InvalidRequest("code_challenge_method without code_challenge")
        if required:
            raise InvalidRequest("code_challenge is required")
        return None
    # RFC 7636 §4.3: an absent method means "plain", which RFC 9700 §2.1.1 rules out.
    if method != "S256":
        raise InvalidRequest("code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise InvalidRequest("code_challenge is malformed")
    return challenge


def verify_code_verifier(verifier: str | None, challenge: str | None) -> None:
    """Return if the verifier proves the challenge, or neither exists. Raises InvalidGrant (RFC 7636 §4.6)."""
    if challenge is None:
        # RFC 9700 §2.1.1, against PKCE downgrade: "a token request containing a code_verifier parameter is accepted
        # only if a code_challenge parameter was present in the authorization request".
        if verifier:
            raise InvalidGrant("code_verifier without a code_challenge")
        return
    if not verifier or not _VERIFIER.fullmatch(verifier):
        raise InvalidGrant("code_verifier is missing or malformed")
    digest = hashlib.sha256(verifier.encode()).digest()
    if not hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), challenge):
        raise InvalidGrant("code_verifier does not match")
