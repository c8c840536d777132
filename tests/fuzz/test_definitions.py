"""API definitions in Tyk OAS and Classic, JSON and YAML: each becomes a usable API or is refused."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from bson import BSON
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api
from libs.http.error_responses import BadRequest
from libs.oauth.grant_types import offered
from libs.tyk.definition_text import parse
from libs.tyk.invalid_definition import InvalidDefinition
from services.gateway.guards.chain import ApiGuards
from services.gateway.guards.guard_input import GuardInput
from services.gateway.injected_headers import injected_headers
from services.gateway.refusals import Denial
from services.gateway.upstream_urls import _parts
from services.management.definitions import dashboard_entry, definition_of, definition_text, read_api
from tests.fuzz.extent import examples
from tests.fuzz.strange import bytes_like, documents_like, json_bytes, texts_like, yaml_bytes
from tests.unit.tyk_definitions import GUARDED_CLASSIC, GUARDED_OAS, GUARDED_VERSION, changed, definition

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
EXTENSION = "x-tyk-api-gateway"
_HEADERS = {"enabled": True, "add": [{"name": "X-Tier", "value": "$tyk_meta.tier"}], "remove": ["X-Secret"]}
_VERSIONS = {
    "enabled": True,
    "name": "v1",
    "default": "self",
    "location": "header",
    "key": "x-v",
    "versions": [{"name": "v2", "id": "other"}],
}
_OWN = {"accessTokenLifetime": 60, "codeLifetime": 60, "pkceRequired": True, "refreshReuse": "strict"}


def _full_oas() -> dict[str, Any]:
    document = changed(definition("orders-oas.json"), "x-tokenwire", _OWN)
    document = changed(document, f"{EXTENSION}/middleware/global/transformRequestHeaders", _HEADERS)
    for path, value in GUARDED_OAS.items():
        document = changed(document, path, value)
    return changed(document, f"{EXTENSION}/info/versioning", _VERSIONS)


def _full_classic() -> dict[str, Any]:
    document = changed(definition("orders-classic.json"), "tokenwire", _OWN)
    version = {"name": "Default", "global_headers": {"X-Tier": "$tyk_meta.tier"}, "global_headers_remove": ["X-Secret"]}
    for path, value in GUARDED_CLASSIC.items():
        document = changed(document, path, value)
    return changed(
        document, "version_data", {"not_versioned": False, "versions": {"Default": version | GUARDED_VERSION}}
    )


OAS = (_full_oas(), definition("my-oauth-api.json"))
CLASSIC = (_full_classic(), {"api_definition": definition("orders-classic.json")})
TEXTS = tuple(write(document) for document in (*OAS, *CLASSIC) for write in (json_bytes, yaml_bytes))
CONTENT_TYPES = (None, "application/json", "application/yaml", "application/x-yaml", "text/plain; charset=latin-1")
SCALARS = (
    "0o17",
    "0x1F",
    "-.5e3",
    "1_000",
    "~",
    "yes",
    "2026-05-04",
    "'it''s'",
    '"\\x41\\ud800"',
    "!!int 3",
    "*a",
    "&a b",
)


def require_usable(api: Api) -> None:
    """The API can be stored, listed, read back, and calls can be proxied."""
    BSON.encode({"api": api.model_dump(exclude={"definition", "oauth"})})
    for with_secrets in (True, False):
        assert isinstance(orjson.loads(definition_text(api, with_secrets=with_secrets)), dict)
        orjson.dumps(dashboard_entry(api, with_secrets=with_secrets))
        definition_of(api, with_secrets=with_secrets)
    _parts(api.upstream_url)
    if api.guards is not None:
        ready, paths = ApiGuards(api, api.guards), frozenset({api.listen_path, f"{api.listen_path}things/7"})
        ready.host_refusal(lambda: ("api.example.test",))
        guarded = ready.check(GuardInput({"GET"}, paths, {"v1", "v2"}, "192.0.2.7", None), NOW)
        assert isinstance(guarded, Denial) or guarded.counters() is not None
    assert all(value.isascii() and value.isprintable() for value in injected_headers(api, {"tier": "\n\0é"}).values())
    if api.oauth is not None:
        offered(api.oauth)


def read(text: bytes, content_type: str | None, *, oas_only: bool = False) -> None:
    """Import as management does. The API must be usable, and GET's document must give the same API."""
    with suppress(BadRequest):
        api, *_ = read_api(text, content_type, api_id="fuzzed", now=NOW, oas_only=oas_only, accept_unsupported=True)
        require_usable(api)
        again, *_ = read_api(definition_text(api, with_secrets=True), None, api_id="fuzzed", now=NOW, oas_only=oas_only)
        assert again == api


@pytest.mark.parametrize("models", [pytest.param(OAS, id="oas"), pytest.param(CLASSIC, id="classic")])
@pytest.mark.parametrize("write", [json_bytes, yaml_bytes])
def test_a_definition_becomes_an_api_or_is_refused(models: tuple[Any, ...], write: Any) -> None:
    """A definition with changed, added, removed or deeply nested members is imported or refused."""

    @examples(150)
    @given(documents_like(*models), st.booleans())
    def fuzz(document: Any, oas_only: bool) -> None:
        read(write(document), None, oas_only=oas_only)

    fuzz()


@examples(200)
@given(bytes_like(*TEXTS), st.sampled_from(CONTENT_TYPES))
def test_bytes_become_an_api_or_are_refused(text: bytes, content_type: str | None) -> None:
    """Any bytes with any content type are imported or refused."""
    read(text, content_type)


@examples(300)
@given(st.lists(texts_like(*SCALARS, "a: 1", "- b", "? c", "{d: [e, f]}", "%YAML 1.1", "---", "..."), max_size=5))
def test_yaml_is_read_or_refused(lines: list[str]) -> None:
    """Any YAML is read or refused; what is read can be stored as JSON."""
    text = "\n".join(("a:", *(f"  {line}" for line in lines))).encode(errors="surrogatepass")
    for content in (text, "\n".join(lines).encode(errors="replace")):
        with suppress(InvalidDefinition):
            orjson.dumps(parse(content, "application/yaml"))
