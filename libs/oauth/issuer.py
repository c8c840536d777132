"""The issuer identifier of an API (RFC 8414 §2), the same in metadata, responses and introspection."""

from contracts.apis import Api


def issuer_of(public_url: str, api: Api) -> str:
    """The public URL and the API's listen path, without a slash at the end."""
    return public_url + api.listen_path.rstrip("/")
