"""Which version of an API a call is for."""

from urllib.parse import parse_qsl

from contracts.apis import Api, Versioning
from services.gateway.paths import below
from services.gateway.presented import Call


def requested_version(call: Call, api: Api, versioning: Versioning) -> str:
    """The version that the call names where the definition says, else the default one."""
    match versioning.location:
        case "header":
            named = call.headers.get(versioning.key)
        case "url-param":
            named = dict(parse_qsl(call.query)).get(versioning.key)
        case "url":
            segment = below(call.path, api)[1:].partition("/")[0]
            named = segment if segment in versioning.names else None
    return named or versioning.default
