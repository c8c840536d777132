"""API definitions, Tyk OAS and Classic, JSON and YAML: each becomes an API that can be served, or is refused."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from bson import BSON
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api
from libs.http.errors import BadRequest
from libs.tyk.document import parse
from libs.tyk.errors import InvalidDefinition
from services.authorization.metadata import _grants
from services.gateway.destinations import _parts
from services.gateway.metadata import injected_headers
from services.management.definitions import dashboard_entry, definition_of, definition_text, read_api
from tests.fuzz.extent import examples
from tests.fuzz.strange import bytes_like, documents_like, json_bytes, texts_like, yaml_bytes
from tests.unit.tyk_definitions import changed, definition

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
    return changed(document, f"{EXTENSION}/info/versioning", _VERSIONS)


def _full_classic() -> dict[str, Any]:
    document = changed(definition("orders-classic.json"), "tokenwire", _OWN)
    version = {"name": "Default", "global_headers": {"X-Tier": "$tyk_meta.tier"}, "global_headers_remove": ["X-Secret"]}
    return changed(document, "version_data", {"not_versioned": False, "versions": {"Default": version}})


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
    """It can be kept, listed, read back, and calls can be led through it."""
    BSON.encode({"api": api.model_dump(exclude={"definition", "oauth"})})
    for with_secrets in (True, False):
        assert isinstance(orjson.loads(definition_text(api, with_secrets=with_secrets)), dict)
        orjson.dumps(dashboard_entry(api, with_secrets=with_secrets))
        definition_of(api, with_secrets=with_secrets)
    _parts(api.upstream_url)
    assert all(value.isascii() and value.isprintable() for value in injected_headers(api, {"tier": "\n\0é"}).values())
    if api.oauth is not None:
        _grants(api.oauth)


def read(text: bytes, content_type: str | None, *, oas_only: bool = False) -> None:
    """As management does; an API that comes of it is usable, and comes of what GET shows of it as well."""
    with suppress(BadRequest):
        api = read_api(text, content_type, api_id="fuzzed", now=NOW, oas_only=oas_only)
        require_usable(api)
        again = read_api(definition_text(api, with_secrets=True), None, api_id="fuzzed", now=NOW, oas_only=oas_only)
        assert again == api


@pytest.mark.parametrize("models", [pytest.param(OAS, id="oas"), pytest.param(CLASSIC, id="classic")])
@pytest.mark.parametrize("write", [json_bytes, yaml_bytes])
def test_a_definition_becomes_an_api_or_is_refused(models: tuple[Any, ...], write: Any) -> None:
    """With members replaced, changed, added, taken away, or buried."""

    @examples(150)
    @given(documents_like(*models), st.booleans())
    def fuzz(document: Any, oas_only: bool) -> None:
        read(write(document), None, oas_only=oas_only)

    fuzz()


@examples(200)
@given(bytes_like(*TEXTS), st.sampled_from(CONTENT_TYPES))
def test_bytes_become_an_api_or_are_refused(text: bytes, content_type: str | None) -> None:
    """Whatever their content type says they are."""
    read(text, content_type)


@examples(300)
@given(st.lists(texts_like(*SCALARS, "a: 1", "- b", "? c", "{d: [e, f]}", "%YAML 1.1", "---", "..."), max_size=5))
def test_yaml_is_read_or_refused(lines: list[str]) -> None:
    """Indicators, escapes, tags, anchors, directives, in any order; what is read can be kept as JSON."""
    text = "\n".join(("a:", *(f"  {line}" for line in lines))).encode(errors="surrogatepass")
    for content in (text, "\n".join(lines).encode(errors="replace")):
        with suppress(InvalidDefinition):
            orjson.dumps(parse(content, "application/yaml"))
