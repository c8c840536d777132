"""Client authentication (RFC 6749 §2.3): which credentials a request carries, and whether they agree."""

import base64
from dataclasses import dataclass
from urllib.parse import unquote_plus

from libs.oauth.errors import InvalidClient, InvalidRequest

_LONGEST = 4096


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Who the client says it is; `secret` None where it sent none."""

    client_id: str
    secret: str | None


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
    return Credentials(client_id, secret)


def read_credentials(
    authorization: str | None, client_id: str | None, client_secret: str | None, secret: str | None
) -> Credentials:
    """The credentials of a request, from header or body, or from both where they agree.

    RFC 6749 §2.3: "The client MUST NOT use more than one authentication method in each request"; the documented
    examples do, with the same values, so agreeing ones pass. Raises InvalidRequest when they differ, InvalidClient when
    there are none.
    """
    if client_secret and secret and client_secret != secret:
        raise InvalidRequest("client_secret and secret differ")
    in_body = client_secret or secret or None
    if authorization is None:
        if not client_id:
            raise InvalidClient("client authentication is required")
        return Credentials(client_id, in_body)
    basic = parse_basic(authorization)
    if (client_id and client_id != basic.client_id) or (in_body is not None and in_body != basic.secret):
        raise InvalidRequest("the credentials in header and body differ")
    return basic
