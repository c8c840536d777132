"""Client authentication (RFC 6749 §2.3): reads the credentials of a request and refuses contradictory ones.

Whether the secret is right is decided in libs/access.py.
"""

import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote_plus

from contracts.base import is_client_id
from contracts.clients import Client
from libs.oauth.errors import InvalidClient, InvalidRequest

_LONGEST = 4096


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The client id and secret that a request claims; `secret` is None where it sent none, or an empty one."""

    client_id: str
    secret: str | None


def is_public(client: Client) -> bool:
    """Whether the client has no secret to prove its identity with: a public client (RFC 6749 §2.1)."""
    return not client.secrets


def _form_decoded(text: str) -> str:
    return unquote_plus(text, errors="strict") if "%" in text or "+" in text else text


def parse_basic(header: str) -> tuple[Credentials, ...]:
    """The meanings of a Basic header: parts form-decoded (RFC 6749 §2.3.1 and Appendix B); and as it is, if different.

    Many clients do not encode the parts, and Tyk does not decode them; a `+` or `%xx` then means itself. Raises
    InvalidClient.
    """
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise InvalidClient("the Authorization header is not Basic")
    if len(encoded) > _LONGEST:
        raise InvalidClient("the Basic credentials are malformed")
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError as error:
        raise InvalidClient("the Basic credentials are malformed") from error
    pairs = [(client_id, secret)]
    with suppress(UnicodeDecodeError):
        pairs.insert(0, (_form_decoded(client_id), _form_decoded(secret)))
    readings = [pair for pair in dict.fromkeys(pairs) if pair[0] and "\0" not in pair[0] + pair[1]]
    if not colon or not readings:
        raise InvalidClient("the Basic credentials are malformed")
    # A public client may send the header with an empty password: Go's golang.org/x/oauth2 tries that first.
    return tuple(Credentials(client_id, secret or None) for client_id, secret in readings)


def read_credentials(
    authorization: str | None, client_id: str | None, client_secret: str | None, secret: str | None
) -> Sequence[Credentials]:
    """The credentials of a request, from its header or its body, or from both if they are equal.

    Two, if a Basic header has two meanings (`parse_basic`): if the first is wrong, the second may be right.

    RFC 6749 §2.3: "The client MUST NOT use more than one authentication method in each request". Not enforced for
    equal values, because Tyk's documented examples send both. With an empty password in the header, the secret of the
    body counts. Raises InvalidRequest if they differ, InvalidClient if there are none or the id is malformed.
    """
    given = _given(authorization, client_id, client_secret, secret)
    possible = [credentials for credentials in given if is_client_id(credentials.client_id)]
    if not possible:
        raise InvalidClient("there is no such client: a client_id has 1 to 128 printable ASCII characters and no slash")
    return possible


def _given(
    authorization: str | None, client_id: str | None, client_secret: str | None, secret: str | None
) -> Sequence[Credentials]:
    if client_secret and secret and client_secret != secret:
        raise InvalidRequest("client_secret and secret differ")
    in_body = client_secret or secret or None
    if authorization is None:
        if not client_id:
            raise InvalidClient("client authentication is required")
        return (Credentials(client_id, in_body),)
    agreeing = [
        Credentials(basic.client_id, basic.secret or in_body)
        for basic in parse_basic(authorization)
        if client_id in {None, "", basic.client_id} and in_body in {None, basic.secret or in_body}
    ]
    if not agreeing:
        raise InvalidRequest("the credentials in header and body differ")
    return agreeing
