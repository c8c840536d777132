"""The reference of definitions: its examples can be imported, and the schema for editors is that of the extension."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from contracts.apis import DefinitionFormat, GrantType
from libs.tyk.authentication import TokenwireSettings
from libs.tyk.grant_fields import enabling_field, not_offered
from services.management.definitions import read_api

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/definitions.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### ([^\n]*)\n\n```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
SCHEMA = json.loads((ROOT / "contracts/generated/schemas/definition-extension.json").read_text(encoding="utf-8"))
TITLES = {
    "Authorization code": GrantType.AUTHORIZATION_CODE,
    "Client credentials": GrantType.CLIENT_CREDENTIALS,
    "Password": GrantType.PASSWORD,
}


@pytest.mark.parametrize("title", EXAMPLES)
def test_e3_each_complete_definition_is_imported_without_a_warning(title: str) -> None:
    """With the grants that its heading names, and the scopes that it declares."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    api, warnings, _ = read_api(EXAMPLES[title].encode(), "application/json", api_id="orders", now=now, oas_only=False)
    assert warnings == []
    assert api.oauth
    wanted = {grant for name, grant in TITLES.items() if title.startswith(name)}
    assert set(api.oauth.grant_types) == wanted | ({GrantType.REFRESH_TOKEN} if "refresh tokens" in title else set())
    assert api.oauth.scopes == ("read", "write")


def test_e3_there_is_a_complete_definition_for_each_grant_in_each_format() -> None:
    """Every grant type that starts a grant, in Tyk OAS and in Tyk Classic."""
    for name in TITLES:
        for language in ("Tyk OAS", "Tyk Classic"):
            assert any(title.startswith(name) and title.endswith(f"({language})") for title in EXAMPLES)


def test_e3_every_setting_of_the_extension_is_on_the_page_and_in_the_schema() -> None:
    """With its meaning."""
    properties = SCHEMA["$defs"]["TokenwireSettings"]["properties"]
    assert {field.alias for field in TokenwireSettings.model_fields.values()} == properties.keys()
    for name, described in properties.items():
        assert described["description"]
        assert f"| `{name}` |" in PAGE


@pytest.mark.parametrize(
    ("own", "right"),
    [
        pytest.param({"accessTokenLifetime": 900, "refreshReuse": "strict"}, True, id="right"),
        pytest.param({"accessTokenLifetime": 0}, False, id="too-short"),
        pytest.param({"accesTokenLifetime": 900}, False, id="misspelled"),
        pytest.param({"refreshReuse": "never"}, False, id="no-such-choice"),
    ],
)
@pytest.mark.parametrize("place", ["x-tokenwire", "tokenwire"])
def test_e3_an_editor_finds_what_the_import_refuses(place: str, own: dict[str, Any], right: bool) -> None:
    """The schema judges the extension in a whole definition."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert validator.is_valid({"anything": "else", place: own}) is right


def test_e3_the_page_says_what_enables_each_grant() -> None:
    """The same words as in the refusal of a grant."""
    for language in DefinitionFormat:
        for grant in GrantType:
            assert enabling_field(grant, language) in PAGE
            assert not_offered(grant, language).endswith(enabling_field(grant, language))


@pytest.mark.parametrize("language", DefinitionFormat)
@pytest.mark.parametrize("grant", [*GrantType, "implicit"])
def test_e3_the_refusal_has_only_the_characters_of_an_error_description(grant: str, language: DefinitionFormat) -> None:
    """RFC 6749 §5.2: no quotes, no backslashes, ASCII only."""
    assert re.fullmatch(r"[\x20\x21\x23-\x5B\x5D-\x7E]+", not_offered(grant, language))
