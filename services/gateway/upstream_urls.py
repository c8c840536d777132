"""The URL that a call is forwarded to: the upstream's, with the rest of the path and the query unchanged."""

from functools import lru_cache
from itertools import count
from urllib.parse import quote

from yarl import URL

from contracts.apis import Api
from services.gateway.calls import Call
from services.gateway.decision import Admitted
from services.gateway.paths import below, leads_out
from services.gateway.queries import without_parameter

_turns = count()
"""Of all APIs with several upstreams together."""
_SENDABLE = "".join(map(chr, range(0x21, 0x7F)))


def upstream_url(call: Call, admitted: Admitted) -> URL | None:
    """The upstream's URL for this call; None if the path could lead out of the upstream's base path (`..`).

    Percent-encoding is not touched: decoding and encoding again would change what some upstreams see.
    """
    api = admitted.api
    rest = below(call.path, api) if api.strip_listen_path else call.path
    if leads_out(rest):
        return None
    base, own_query = _parts(_next_upstream(api) if api.further_upstream_urls else api.upstream_url)
    query = without_parameter(call.query, api.token_location.query) if strips_token(admitted) else call.query
    target = base.removesuffix("/") + rest if rest else base
    queries = "&".join(filter(None, (own_query, query)))
    return URL(f"{target}?{queries}" if queries else target, encoded=True)


def _next_upstream(api: Api) -> str:
    """The upstream whose turn it is."""
    turn = next(_turns) % (len(api.further_upstream_urls) + 1)
    return api.further_upstream_urls[turn - 1] if turn else api.upstream_url


def strips_token(admitted: Admitted) -> bool:
    """Whether the token must be removed before the call is forwarded (`stripAuthorizationData`)."""
    api = admitted.api
    # Also for paths that need no token, since a caller may send one anyway.
    return api.strip_authorization_data and (api.oauth is not None or api.auth_token)


@lru_cache(maxsize=1024)
def _parts(upstream_url: str) -> tuple[str, str]:
    """The upstream's URL without its query, and the query. Only characters that no URL may contain are encoded."""
    whole, _, query = upstream_url.partition("#")[0].partition("?")
    scheme, _, rest = whole.partition("://")
    authority, slash, path = rest.partition("/")
    origin = str(URL(f"{scheme}://{authority}")).rstrip("/")
    return origin + _sendable(slash + path), _sendable(query)


def _sendable(text: str) -> str:
    """Percent-encode what a request line cannot contain (RFC 3986 §2.1)."""
    return quote(text, safe=_SENDABLE)


def log_path(api: Api) -> str:
    """The path to show in logs for calls of this API: only the listen path, since the rest may contain secrets."""
    return f"{api.listen_path}{{path}}"
