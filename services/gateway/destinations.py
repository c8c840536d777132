"""Where a call goes: the upstream's URL with the rest of the path and the query as they came."""

from functools import lru_cache
from urllib.parse import unquote_plus

from yarl import URL

from contracts.apis import Api
from services.gateway.decision import Admitted
from services.gateway.paths import below, leads_out
from services.gateway.presented import Call


def destination(call: Call, admitted: Admitted) -> URL | None:
    """The URL to ask, percent-encoding untouched; None where the path leads out of the upstream's own."""
    api = admitted.api
    rest = below(call.path, api) if api.strip_listen_path else call.path
    if leads_out(rest):
        return None
    base, own_query = _parts(api.upstream_url)
    query = without_parameter(call.query, api.token_location.query) if strips_token(admitted) else call.query
    target = base.rstrip("/") + rest if rest else base
    queries = "&".join(filter(None, (own_query, query)))
    return URL(f"{target}?{queries}" if queries else target, encoded=True)


def strips_token(admitted: Admitted) -> bool:
    """Whether the upstream must not see the token that opened this call (`stripAuthorizationData`)."""
    return admitted.grant is not None and admitted.api.strip_authorization_data


def without_parameter(query: str, name: str | None) -> str:
    """The query without the parameter of this name; the others stay as they are written."""
    if not name:
        return query
    return "&".join(pair for pair in query.split("&") if unquote_plus(pair.partition("=")[0]) != name)


@lru_cache(maxsize=1024)
def _parts(upstream_url: str) -> tuple[str, str]:
    """The upstream's URL up to its path, and its query."""
    url = URL(upstream_url)
    return str(url.with_query(None).with_fragment(None)), url.raw_query_string


def place(api: Api) -> str:
    """How a call of the API is named in logs: nothing of it but the listen path."""
    return f"{api.listen_path}{{path}}"
