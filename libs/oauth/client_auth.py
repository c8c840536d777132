"""Client authentication (RFC 6749 §2.3): reads the credentials of a request and refuses contradictory ones.

Whether the secret is right is decided in libs/access.py.
"""

import base64
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


def parse_basic(header: str) -> Credentials:
    """Credentials of a Basic header: Base64, then each part form-decoded (RFC 6749 §2.3.1 and Appendix B).

    Raises InvalidClient.
    """
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise InvalidClient("the Authorization header is not Basic")
    if len(encoded) > _LONGEST:
        raise InvalidClient("the Basic credentials are malformed")
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        client_id, secret = _form_decoded(client_id), _form_decoded(secret)
    except ValueError as error:
        raise InvalidClient("the Basic credentials are malformed") from error
    if not colon or not client_id or "\0" in client_id + secret:
        raise InvalidClient("the Basic credentials are malformed")
    # A public client may send the header with an empty password: Go's golang.org/x/oauth2 tries that first.
    return Credentials(client_id, secret or None)


def read_credentials(
    authorization: str | None, client_id: str | None, client_secret: str | None, secret: str | None
) -> Credentials:
    """The credentials of a request, from its header or its body, or from both if they are equal.

    RFC 6749 §2.3: "The client MUST NOT use more than one authentication method in each request". Not enforced for
    equal values, because Tyk's documented examples send both. With an empty password in the header, the secret of the
    body counts. Raises InvalidRequest if they differ, InvalidClient if there are none or the id is malformed.
    """
    credentials = _given(authorization, client_id, client_secret, secret)
    if not is_client_id(credentials.client_id):
        raise InvalidClient("there is no such client: a client_id has 1 to 128 letters, digits and . _ ~ -")
    return credentials


def _given(
    authorization: str | None, client_id: str | None, client_secret: str | None, secret: str | None
) -> Credentials:
    if client_secret and secret and client_secret != secret:
        raise InvalidRequest("client_secret and secret differ")
    in_body = client_secret or secret or None
    if authorization is None:
        if not client_id:
            raise InvalidClient("client authentication is required")
        return Credentials(client_id, in_body)
    basic = parse_basic(authorization)
    secret = basic.secret or in_body
    if (client_id and client_id != basic.client_id) or (in_body and in_body != secret):
        raise InvalidRequest("the credentials in header and body differ")
    return Credentials(basic.client_id, secret)
