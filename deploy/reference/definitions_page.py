"""docs/reference/definitions.md, from the tables and models with which definitions are read."""

import json
from collections.abc import Iterator, Mapping

from pydantic.alias_generators import to_camel

from contracts.apis import DefinitionFormat, GrantType, OAuthSettings
from deploy.reference.definition_examples import EXAMPLES
from deploy.reference.definition_texts import CLASSIC as CLASSIC_TEXTS
from deploy.reference.definition_texts import OAS as OAS_TEXTS
from deploy.reference.tables import allowed, cell, default
from libs.tyk.authentication import TokenwireSettings
from libs.tyk.classic_members import CLASSIC
from libs.tyk.grant_fields import enabling_field
from libs.tyk.members import Each, Known, Members, Refused, Unused, When
from libs.tyk.oas_members import AUTH_TOKEN_SCHEME, DECLARED_SCHEME, DOCUMENT, ISSUING_SCHEME

_HEAD = """\
# API definitions

Generated from the tables and models with which definitions are read, by `make contracts`; change them there.

An API is described by a Tyk OAS or a Tyk Classic definition, with an extension of ours. This page has every field that
Tokenwire reads, those that it does not use (the import succeeds, with a warning for each) and those that it refuses
(protections that it does not enforce). [management.md](../management.md#what-of-a-definition-counts) explains the
difference and how a refusal is overruled. A field with another name is reported with the name that was probably meant.
`<name>` stands for a name of yours, of a scheme, an operation (`operationId`) or a version.
"""
_EXTENSION = """\
## The extension

`x-tokenwire` at the top of a Tyk OAS definition, `tokenwire` in a Tyk Classic definition. Unknown settings are refused.
An editor completes and checks it with `contracts/generated/schemas/definition-extension.json`: in YAML with the first
line `# yaml-language-server: $schema=<path to that file>`, in Visual Studio Code with an entry in `json.schemas`.

| field | allowed | default | effect |
|---|---|---|---|
"""
_SCHEMES = "x-tyk-api-gateway.server.authentication.securitySchemes.<name>"


def definitions_page() -> str:
    """The whole page. Raises ValueError if the texts and the tables do not name the same fields."""
    oas = {
        **dict(_leaves(DOCUMENT, "")),
        **dict(_leaves(ISSUING_SCHEME, _SCHEMES)),
        **dict(_leaves(AUTH_TOKEN_SCHEME, _SCHEMES)),
        **dict(_leaves(DECLARED_SCHEME, "components.securitySchemes.<name>")),
    }
    parts = [
        _HEAD,
        _grants(),
        _EXTENSION + "\n".join(_extension_rows()) + "\n",
        _examples(),
        _language("Tyk OAS", oas, OAS_TEXTS),
        _language("Tyk Classic", dict(_leaves(CLASSIC, "")), CLASSIC_TEXTS),
    ]
    return "\n".join(parts)


def _leaves(node: object, path: str) -> Iterator[tuple[str, Known | Unused | Refused]]:
    """Every field of the table, with what becomes of it."""
    match node:
        case Members(known):
            for name, inner in known.items():
                yield from _leaves(inner, f"{path}.{name}" if path else name)
        case Each(Members() as inner):
            yield from _leaves(inner, f"{path}.<name>")
        case Each(inner):
            yield from _leaves(inner, path)
        case When(_, _, inner):
            yield from _leaves(inner, path)
        case Known() | Unused() | Refused():
            yield path, node


def _grants() -> str:
    languages = (DefinitionFormat.OAS, DefinitionFormat.CLASSIC)
    fields = {grant: [enabling_field(grant, language) for language in languages] for grant in GrantType}
    rows = [f"| `{grant}` | {' | '.join(map(cell, texts))} |" for grant, texts in fields.items()]
    head = "## What enables a grant\n\n| grant type | Tyk OAS | Tyk Classic |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _extension_rows() -> Iterator[str]:
    schema = TokenwireSettings.model_json_schema()
    for name in TokenwireSettings.model_fields:
        described = schema["properties"][to_camel(name)]
        field = OAuthSettings.model_fields.get(name)
        shown = default(field.get_default() if field else described.get("default"))
        cells = [f"`{to_camel(name)}`", allowed(described, schema), shown, described["description"]]
        yield f"| {' | '.join(map(cell, cells))} |"


def _examples() -> str:
    parts = ["## Complete definitions\n\nEach can be imported as it is, with `POST /api/apis`.\n"]
    for title, document in EXAMPLES.items():
        text = json.dumps(document, indent=2, ensure_ascii=False)
        parts.append(f"### {title}\n\n```json\n{text}\n```\n")
    return "\n".join(parts)


def _language(name: str, leaves: Mapping[str, Known | Unused | Refused], texts: Mapping[str, str]) -> str:
    known = [path for path, node in leaves.items() if isinstance(node, Known)]
    if unlike := sorted(set(known) ^ set(texts)):
        raise ValueError(f"deploy/reference/definition_texts.py and libs/tyk differ in {', '.join(unlike)}")
    rows = [_known_row(path, texts[path]) for path in known if texts[path]]
    nothing = [path for path in known if not texts[path]]
    unused = [(path, node.effect) for path, node in leaves.items() if isinstance(node, Unused)]
    refused = [(path, node.reason) for path, node in leaves.items() if isinstance(node, Refused)]
    return "\n".join(
        [
            f"## {name}: fields that are read\n\n| field | type | default | effect |\n|---|---|---|---|",
            *rows,
            f"\n## {name}: fields that are refused\n\n| field | protection that is not enforced |\n|---|---|",
            *(f"| `{path}` | {cell(reason)} |" for path, reason in refused),
            f"\n## {name}: fields that are not used\n\nThe import has a warning for each.\n",
            "| field | instead |\n|---|---|",
            *(f"| `{path}` | {cell(effect)} |" for path, effect in unused),
            "\nThese change nothing about calls, and bring no warning:\n",
            *_wrapped([f"`{path}`" for path in nothing]),
            "",
        ]
    )


def _known_row(path: str, text: str) -> str:
    type_, default_, effect = text.split(" | ")
    return f"| `{path}` | {type_} | {default_} | {effect} |"


def _wrapped(words: list[str], width: int = 118) -> Iterator[str]:
    """Lines of at most this width; words are not broken."""
    line = ""
    for word in words:
        word = f"{word}{'' if word == words[-1] else ','}"
        if line and len(line) + len(word) + 1 > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line
