"""Parsing of definitions as JSON or YAML."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import DefinitionFormat
from libs.tyk.definition_text import format_of, json_text, parse
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.json_values import MAX_DEPTH

DATA = Path(__file__).parent.parent / "data"
JSON = "application/json"
YAML = "application/yaml"


@pytest.mark.parametrize("name", ["my-oauth-api.json", "orders-oas.json", "orders-classic.json"])
def test_json_and_yaml_say_the_same(name: str) -> None:
    """JSON and YAML have the same meaning."""
    text = (DATA / name).read_bytes()
    document = json.loads(text)
    assert parse(text, JSON) == document
    assert parse(yaml.safe_dump(document).encode(), YAML) == document


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        pytest.param("application/json; charset=utf-8", b'{"a": 1}', id="json-with-charset"),
        pytest.param("application/vnd.oai.openapi+json;version=3.0", b'{"a": 1}', id="openapi-json"),
        pytest.param("application/x-yaml", b"a: 1", id="x-yaml"),
        pytest.param("text/yaml", b"a: 1", id="text-yaml"),
        pytest.param("application/vnd.oai.openapi", b"a: 1", id="openapi"),
        pytest.param(None, b"a: 1", id="untyped-yaml"),
        pytest.param("", b'{"a": 1}', id="untyped-json"),
        pytest.param("application/x-www-form-urlencoded", b'{"a": 1}', id="what-curl-says"),
        pytest.param(None, b'{"a": 1,}', id="untyped-flow-mapping-with-trailing-comma"),
        pytest.param(JSON, b'\xef\xbb\xbf{"a": 1}', id="byte-order-mark"),
    ],
)
def test_the_content_type_chooses_the_language_and_the_text_where_it_does_not(
    content_type: str | None, text: bytes
) -> None:
    """A JSON or YAML content type decides; otherwise the text does."""
    assert parse(text, content_type) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("2026-01-31", "2026-01-31", id="date"),
        pytest.param("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z", id="timestamp"),
        pytest.param("yes", "yes", id="yes-of-yaml-1.1"),
        pytest.param("12:30:45", "12:30:45", id="sexagesimal-of-yaml-1.1"),
        pytest.param("3.0.3", "3.0.3", id="version"),
        pytest.param('"1"', "1", id="quoted-number"),
        pytest.param("!!str 1", "1", id="tagged-string"),
        pytest.param("~", None, id="null"),
        pytest.param("", None, id="nothing"),
        pytest.param("True", True, id="true"),
        pytest.param("-017", -17, id="leading-zero"),
        pytest.param("0x1F", 31, id="hexadecimal"),
        pytest.param("0o17", 15, id="octal"),
        pytest.param("1e3", 1000.0, id="real"),
        pytest.param("123456789012345678901234567890", 123456789012345678901234567890.0, id="beyond-64-bits"),
        pytest.param("|\n  a\n  b", "a\nb", id="block"),
        pytest.param("[1, {b: c}]", [1, {"b": "c"}], id="flow"),
    ],
)
def test_yaml_scalars_become_json_values(text: str, value: object) -> None:
    """YAML 1.2 core schema; values that JSON lacks stay strings."""
    read = parse(f"a: {text}".encode(), YAML)
    assert read == {"a": value}
    assert type(read["a"]) is type(value)


def test_yaml_keys_are_strings() -> None:
    """Keys such as status codes become strings."""
    assert parse(b"200: {}\ntrue: 1\nnull: 2\n2026-01-31: 3", YAML) == {
        "200": {},
        "true": 1,
        "null": 2,
        "2026-01-31": 3,
    }


@pytest.mark.parametrize(
    ("text", "content_type", "sentence"),
    [
        pytest.param(b"{", JSON, "not JSON", id="json-cut-off"),
        pytest.param(b'{"a": 1,}', JSON, "not JSON", id="json-trailing-comma"),
        pytest.param(b"a: 1", JSON, "not JSON", id="yaml-called-json"),
        pytest.param(b"", JSON, "not JSON", id="empty-json"),
        pytest.param(b"", YAML, "an object is expected", id="empty-yaml"),
        pytest.param(b'{"a" 1', None, "not JSON", id="untyped-meant-as-json"),
        pytest.param(b"a: [", None, "not YAML", id="untyped-meant-as-yaml"),
        pytest.param(b"[1]", JSON, "an object is expected", id="json-array"),
        pytest.param(b"- 1", YAML, "an object is expected", id="yaml-sequence"),
        pytest.param(b"text", None, "an object is expected", id="plain-text"),
        pytest.param(b'{"a": 1, "b": 2, "a": 3}', JSON, "'a' occurs twice", id="json-key-twice"),
        pytest.param(b'{"a": {"\\u0061": 1, "a": 3}}', None, "'a' occurs twice", id="json-key-twice-escaped"),
        pytest.param(b"a: 1\na: 2", YAML, "'a' occurs twice", id="yaml-key-twice"),
        pytest.param(b"1: 1\n'1': 2", YAML, "'1' occurs twice", id="yaml-key-twice-quoted"),
        pytest.param(b'{"a": NaN}', JSON, "NaN is not a JSON value", id="json-nan"),
        pytest.param(b'{"a": -Infinity}', None, "-Infinity is not a JSON value", id="json-infinity"),
        pytest.param(b'{"a": 1e999}', JSON, "too large", id="json-overflow"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", JSON, "too large", id="json-five-thousand-digits"),
        pytest.param(b"a: .nan", YAML, "not-a-number", id="yaml-nan"),
        pytest.param(b"a: -.inf", YAML, "infinity", id="yaml-infinity"),
        pytest.param(b"a: 0x" + b"f" * 5000, YAML, "too large", id="yaml-hexadecimal-overflow"),
        pytest.param(b"a: &x 1", YAML, "anchors and aliases", id="yaml-anchor"),
        pytest.param(b"a: &x 1\nb: *x", YAML, "anchors and aliases", id="yaml-alias"),
        pytest.param(b"a: *x", YAML, "anchors and aliases", id="yaml-alias-of-nothing"),
        pytest.param(b"&x a: 1", YAML, "anchors and aliases", id="yaml-anchored-key"),
        pytest.param(b"a: !!binary aGk=", YAML, "tags are not supported", id="yaml-binary"),
        pytest.param(b"a: !!set {b, c}", YAML, "tags are not supported", id="yaml-set"),
        pytest.param(b"a: !!python/object/apply:os.getcwd []", YAML, "tags are not supported", id="yaml-python"),
        pytest.param(b"? [a, b]\n: 1", YAML, "a key is a scalar", id="yaml-sequence-as-key"),
        pytest.param(b"? *x\n: 1", YAML, "anchors and aliases", id="yaml-alias-as-key"),
        pytest.param(b"a: 1\n---\nb: 2", YAML, "one document is expected", id="yaml-two-documents"),
        pytest.param(b'a: "\\UFFFFFFFF"', YAML, "not YAML", id="yaml-escape-beyond-unicode"),
        pytest.param(b"%YAML 9.9\n---\na: 1", YAML, "not YAML", id="yaml-unknown-version"),
        pytest.param(b"a: \x01", YAML, "not YAML", id="yaml-control-character"),
        pytest.param(b"\xff\xfe{\x00}\x00", JSON, "not UTF-8", id="utf-16"),
        pytest.param(b'{"a": "\xe9"}', JSON, "not UTF-8 (byte 7)", id="latin-1"),
        pytest.param(b'{"a": "\x00"}', None, "NUL", id="nul-byte"),
        pytest.param(b'{"a": ["\\u0000"]}', JSON, "a[0]: NUL", id="nul-escaped"),
        pytest.param(b'a: {b: "\\0"}', YAML, "a.b: NUL", id="nul-escaped-in-yaml"),
        pytest.param(b'{"a": {"\\u0000": 1}}', JSON, "a: NUL", id="nul-in-key"),
        pytest.param(b'{"a": "\\ud800"}', JSON, "a: NUL and lone surrogates", id="lone-surrogate"),
        pytest.param(b'{"a":' * 101 + b"1" + b"}" * 101, JSON, "more than 100", id="json-101-deep"),
        pytest.param(b'{"a":' * 100_000, JSON, "more than 100", id="json-very-deep"),
        pytest.param(b"{a: " * 102 + b"1" + b"}" * 102, YAML, "more than 100", id="yaml-102-deep"),
        pytest.param(b"{a: " * 100_000, YAML, "more than 100", id="yaml-very-deep"),
        pytest.param(b"- " * 100_000, YAML, "more than 100", id="yaml-very-deep-blocks"),
    ],
)
def test_text_that_is_no_definition_is_refused(text: bytes, content_type: str | None, sentence: str) -> None:
    """Text that is no JSON document is refused with the reason."""
    with pytest.raises(InvalidDefinition) as refusal:
        parse(text, content_type)
    assert sentence in str(refusal.value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("content_type", [JSON, YAML])
def test_the_deepest_nesting_is_the_same_in_both_languages(content_type: str) -> None:
    """Nesting up to MAX_DEPTH is accepted in both formats."""
    deepest = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert parse(deepest, content_type)
    with pytest.raises(InvalidDefinition):
        parse(b'{"a":' + deepest + b"}", content_type)


def test_a_yaml_refusal_names_the_line() -> None:
    """A YAML error names the line."""
    with pytest.raises(InvalidDefinition, match=r"line 3, column 6"):
        parse(b"a:\n  b: 1\n  c: *x", YAML)


@pytest.mark.parametrize(
    ("document", "definition_format"),
    [
        pytest.param({"openapi": "3.0.3"}, DefinitionFormat.OAS, id="openapi"),
        pytest.param({"x-tyk-api-gateway": {}}, DefinitionFormat.OAS, id="extension-alone"),
        pytest.param({"name": "Orders"}, DefinitionFormat.CLASSIC, id="classic"),
        pytest.param({"api_definition": {}}, DefinitionFormat.CLASSIC, id="dashboard-wrapper"),
    ],
)
def test_the_format_is_detected_from_the_document(
    document: dict[str, object], definition_format: DefinitionFormat
) -> None:
    """OpenAPI's version or Tyk's extension means OAS."""
    assert format_of(document) is definition_format


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), VALUES, max_size=3))
def test_written_json_reads_the_same(document: dict[str, object]) -> None:
    """The stored JSON means what was imported."""
    assert parse(json_text(document).encode(), JSON) == document


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from([JSON, YAML, None]))
def test_any_bytes_give_an_object_or_a_refusal(text: bytes, content_type: str | None) -> None:
    """Any bytes give an object or raise InvalidDefinition."""
    with contextlib.suppress(InvalidDefinition):
        assert isinstance(parse(text, content_type), dict)


@given(st.text(st.sampled_from("ab:- \n{}[],\"'&*!|>?%#~\\0x1.e@`\t"), max_size=40))
def test_any_yaml_gives_json_values_or_a_refusal(text: str) -> None:
    """Any YAML gives JSON values or raises."""
    with contextlib.suppress(InvalidDefinition):
        document = parse(text.encode(), YAML)
        assert json.loads(json_text(document)) == document
