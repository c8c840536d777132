"""Reads what both languages say of cross-origin requests."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from contracts.apis import ANY, Cors
from libs.tyk.import_notes import ImportNotes
from libs.tyk.part import FIELD_NAME, Part

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


def cors(part: Part, words: Words, notes: ImportNotes) -> Cors | None:
    """Which scripts may call; None where it is absent or disabled. No methods or headers named: Tyk's own.

    What cannot be an origin, a method or a header admits nobody, so it is left out with a warning.
    """
    if not part.flag(words.enabled):
        return None
    return Cors(
        allowed_origins=_origins(part, words.origins, notes),
        allowed_methods=_methods(part, words.methods, notes) or _METHODS,
        allowed_headers=_headers(part, words.headers, notes) or _HEADERS,
        exposed_headers=_headers(part, words.exposed, notes),
        allow_credentials=part.flag(words.credentials),
        max_age=min(part.whole_number(words.max_age, 2**31), _LONGEST_AGE),
        options_passthrough=part.flag(words.passthrough),
    )


def _origins(part: Part, key: str, notes: ImportNotes) -> tuple[str, ...]:
    sentence = "an origin such as https://app.example.test, https://*.example.test or * is expected"
    # Browsers send an origin without the slash at its end that is often written.
    origins = tuple(origin.strip().lower().removesuffix("/") for origin in part.texts(key))
    return _usable(part, key, origins, lambda origin: origin == ANY or bool(_ORIGIN.fullmatch(origin)), sentence, notes)


def _methods(part: Part, key: str, notes: ImportNotes) -> tuple[str, ...]:
    methods = tuple(method.strip().upper() for method in part.texts(key))
    return _usable(part, key, methods, lambda method: bool(_METHOD.fullmatch(method)), "a method is expected", notes)


def _headers(part: Part, key: str, notes: ImportNotes) -> tuple[str, ...]:
    names = tuple(name.strip() for name in part.texts(key))
    return _usable(part, key, names, lambda name: bool(FIELD_NAME.fullmatch(name)), "a header is expected", notes)


def _usable(
    part: Part, key: str, texts: tuple[str, ...], is_usable: Callable[[str], bool], sentence: str, notes: ImportNotes
) -> tuple[str, ...]:
    """Those that are usable; a warning for each of the others."""
    for index, text in enumerate(texts):
        if not is_usable(text):
            notes.unused(part.path_of(f"{key}[{index}]"), f"not used: {sentence}")
    return tuple(text for text in texts if is_usable(text))
