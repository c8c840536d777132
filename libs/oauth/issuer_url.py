"""The issuer identifier of an API (RFC 8414 §2), the same in metadata, responses and introspection."""

from urllib.parse import unquote, urlsplit

from contracts.apis import Api


def issuer_of(public_url: str, api: Api) -> str:
    """The public URL followed by the API's listen path, without a trailing slash."""
    return public_url + api.listen_path.rstrip("/")


def api_ref_of_metadata_path(public_url: str, path: str) -> str:
    """The API reference (listen path or id) in the part of a metadata URL that follows the well-known prefix.

    RFC 8414 §3.1 inserts the well-known prefix between the host and the path of the issuer, so a path of the public
    URL comes after it and before the API reference. It may be missing: a reverse proxy may have stripped it, as it
    does from other paths.
    """
    base = [segment for segment in unquote(urlsplit(public_url).path).split("/") if segment]
    segments = path.strip("/").split("/")
    return "/".join(segments[len(base) :] if segments[: len(base)] == base else segments)
