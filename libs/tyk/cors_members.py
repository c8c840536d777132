"""Reads what both languages say of cross-origin requests."""

import re
from dataclasses import dataclass

from contracts.apis import ANY, Cors
from libs.tyk.part import Part

_ORIGIN = re.compile(
    r"https?://(\*\.)?([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)
_METHOD = re.compile(r"[A-Z]{1,32}")
_LONGEST_AGE = 86_400 * 7
_METHODS = ("GET", "POST", "HEAD")
_HEADERS = ("Accept", "Content-Type", "X-Requested-With")


@dataclass(frozen=True, slots=True)
class Words:
    """What a language calls the members."""

    enabled: str
    origins: str
    methods: str
    headers: str
    exposed: str
    credentials: str
    max_age: str
    passthrough: str


OAS = Words(
    "enabled",
    "allowedOrigins",
    "allowedMethods",
    "allowedHeaders",
    "exposedHeaders",
    "allowCredentials",
    "maxAge",
    "optionsPassthrough",
)
CLASSIC = Words(
    "enable",
    "allowed_origins",
    "allowed_methods",
    "allowed_headers",
    "exposed_headers",
    "allow_credentials",
    "max_age",
    "options_passthrough",
)


def cors(part: Part, words: Words) -> Cors | None:
    """Which scripts may call; None where it is absent or disabled. No methods or headers named: Tyk's own."""
    if not part.flag(words.enabled):
        return None
    return Cors(
        allowed_origins=_origins(part, words.origins),
        allowed_methods=_methods(part, words.methods) or _METHODS,
        allowed_headers=part.field_names(words.headers) or _HEADERS,
        exposed_headers=part.field_names(words.exposed),
        allow_credentials=part.flag(words.credentials),
        max_age=part.whole_number(words.max_age, _LONGEST_AGE),
        options_passthrough=part.flag(words.passthrough),
    )


def _origins(part: Part, key: str) -> tuple[str, ...]:
    origins = tuple(origin.lower() for origin in part.texts(key))
    for index, origin in enumerate(origins):
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise part.wrong(
                f"{key}[{index}]", "an origin such as https://app.example.test, https://*.example.test or * is expected"
            )
    return origins


def _methods(part: Part, key: str) -> tuple[str, ...]:
    methods = tuple(method.upper() for method in part.texts(key))
    for index, method in enumerate(methods):
        if not _METHOD.fullmatch(method):
            raise part.wrong(f"{key}[{index}]", "a method is expected")
    return methods
