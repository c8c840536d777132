"""Which version of an API a call is for."""

import re
import unicodedata

from contracts.apis import Api, Versioning
from services.gateway.calls import Call
from services.gateway.paths import below
from services.gateway.queries import named_value
from services.gateway.refusals import AMBIGUOUS_VERSION, Denial

_END = re.compile("[\0?#]")
"""Characters that end a segment for a server that decodes the path before it parses it."""


def requested_versions(call: Call, api: Api, versioning: Versioning) -> frozenset[str] | Denial:
    """Every version that the upstream may read from the call: more than one only if the readings of its path differ.

    The default version if the call names none. A Denial if a header or parameter names the version twice, in another
    spelling, or in a header that `Connection` lists: the upstream could then serve another version than was checked.
    """
    match versioning.location:
        case "header":
            return _version(_in_header(call, versioning.key), versioning)
        case "url-param":
            named = named_value(call.query, versioning.key)
            return AMBIGUOUS_VERSION if isinstance(named, list) else _version(named, versioning)
        case "url":
            return frozenset(name for path in call.paths for name in _in_path(path, api, versioning))


def _version(named: str | Denial | None, versioning: Versioning) -> frozenset[str] | Denial:
    return named if isinstance(named, Denial) else frozenset({named or versioning.default})


def _in_header(call: Call, key: str) -> str | Denial | None:
    values = call.values(key)
    if call.is_for_this_connection(key):
        return AMBIGUOUS_VERSION
    if not values:
        return None
    exact = [value for name, value in call.fields if name.lower() == key.lower()]
    # RFC 9110 §5.2: a recipient may combine field lines of one name with commas, and take such a value for a list.
    return AMBIGUOUS_VERSION if exact != values or len(values) > 1 or "," in values[0] else values[0]


def _in_path(path: str, api: Api, versioning: Versioning) -> list[str]:
    """The versions that the first segment below the listen path may name; the default one if it names none."""
    segment = _plain(below(path, api)[1:].partition("/")[0])
    return [name for name in versioning.names if _plain(name) == segment] or [versioning.default]


def _plain(segment: str) -> str:
    """The segment without what some servers ignore: case, and trailing spaces and dots (Windows)."""
    segment = _END.split(segment, maxsplit=1)[0].strip().rstrip(". ")
    return (segment if segment.isascii() else unicodedata.normalize("NFKC", segment)).casefold()
