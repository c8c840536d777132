"""A part of a definition that knows its path, so that whatever is wrong in it can be named."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from contracts.apis import RESERVED_PATHS, ListenPath
from contracts.base import Name, PublicId, Text
from libs.tyk.errors import InvalidDefinition, shown

_T = TypeVar("_T")

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_PUBLIC_ID: TypeAdapter[str] = TypeAdapter(PublicId)
_LISTEN_PATH: TypeAdapter[str] = TypeAdapter(ListenPath)

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_FIELD_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e]{0,1022}[\x21-\x7e])?)?")
_URI_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


@dataclass(frozen=True, slots=True)
class Part:
    """One object of the definition. A member that is null counts as absent, as in Tyk."""

    members: dict[str, Any]
    path: str = ""

    @classmethod
    def whole(cls, document: Any) -> Self:
        """The definition itself."""
        if not isinstance(document, dict):
            raise InvalidDefinition("the definition: an object is expected")
        return cls(document)

    def wrong(self, key: str, sentence: str) -> InvalidDefinition:
        """The refusal that names this member."""
        return InvalidDefinition(f"{self._path_of(key)}: {sentence}")

    def has(self, key: str) -> bool:
        """Whether the member is there and not null."""
        return self.members.get(key) is not None

    def part(self, key: str) -> "Part":
        """The object there; an absent one is empty."""
        return Part(self._typed(key, dict, "an object") or {}, self._path_of(key))

    def parts(self, key: str) -> tuple["Part", ...]:
        """The objects of the array there; an absent one is empty."""
        items = self._typed(key, list, "an array") or []
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                raise self.wrong(f"{key}[{index}]", "an object is expected")
        return tuple(Part(item, f"{self._path_of(key)}[{index}]") for index, item in enumerate(items))

    def flag(self, key: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._typed(key, bool, "true or false")
        return default if value is None else value

    def choices(self, key: str, known: Collection[str]) -> tuple[str, ...]:
        """The words of the array there, each of them known; an absent one is empty."""
        words = self._typed(key, list, "an array") or []
        for index, word in enumerate(words):
            if word not in known:
                raise self.wrong(f"{key}[{index}]", f"one of {', '.join(known)} is expected")
        return tuple(words)

    def field_names(self, key: str) -> tuple[str, ...]:
        """The names of headers in the array there; an absent one is empty."""
        names = self._typed(key, list, "an array") or []
        for index, name in enumerate(names):
            if not isinstance(name, str) or not _FIELD_NAME.fullmatch(name):
                raise self.wrong(f"{key}[{index}]", "the name of a header is expected")
        return tuple(names)

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings of the array there; an absent one is empty."""
        texts = self._typed(key, list, "an array") or []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise self.wrong(f"{key}[{index}]", "a string is expected")
        return tuple(texts)

    def whole_number(self, key: str, most: int) -> int:
        """The number there, from zero to `most`; an absent one is zero."""
        number = self.members.get(key)
        if number is None:
            return 0
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
            raise self.wrong(key, f"a whole number from 0 to {most} is expected")
        return number

    def text(self, key: str) -> str:
        """The string there; an absent one is empty."""
        return self._checked(key, _TEXT, "a string of at most 4096 characters without control characters is expected")

    def name(self, key: str) -> str:
        """The label there; an absent one is empty."""
        return self._checked(key, _NAME, "a string of at most 256 characters without control characters is expected")

    def required_name(self, key: str) -> str:
        """The label there, which is not empty."""
        return self._required(key, self.name(key), "a name is expected")

    def field_name(self, key: str, default: str) -> str:
        """The name of a header or a cookie (RFC 9110 §5.6.2); an absent or empty one is the default."""
        name = self.name(key) or default
        if not _FIELD_NAME.fullmatch(name):
            raise self.wrong(key, "the name of a header or cookie holds letters, digits and !#$%&'*+-.^_`|~ only")
        return name

    def field_value(self, key: str) -> str:
        """What can be sent as the value of a header (RFC 9110 §5.5)."""
        value = self.text(key)
        if not _FIELD_VALUE.fullmatch(value):
            raise self.wrong(
                key, "it is sent in a header: at most 1024 printable ASCII characters, no space at either end"
            )
        return value

    def public_id(self, key: str, default: str) -> str:
        """The id there; an absent or empty one is the default."""
        if not self.text(key):
            return default
        sentence = "an id holds 1 to 64 letters, digits, '-' and '_'"
        public_id = self._checked(key, _PUBLIC_ID, sentence)
        # The API's routes exist under /<api_id>/ too.
        if public_id in RESERVED_PATHS:
            raise self.wrong(key, f"'{public_id}' is reserved")
        return public_id

    def listen_path(self, key: str) -> str:
        """The listen path there, with a slash at both ends."""
        sentence = "a listen path is expected, e.g. /orders/: segments of letters, digits and '-', '.', '_', '~'"
        self._required(key, self.text(key), sentence)
        return self._checked(key, _LISTEN_PATH, sentence)

    def url(self, key: str) -> str:
        """The absolute http or https URL there; an absent one is empty."""
        url = self.text(key)
        if url and not _is_web_url(url):
            raise self.wrong(key, "an absolute http or https URL without user and password is expected")
        return url

    def required_url(self, key: str) -> str:
        """The absolute http or https URL there, which is not empty."""
        return self._required(key, self.url(key), "an absolute http or https URL is expected")

    def _required(self, key: str, value: str, sentence: str) -> str:
        if not value:
            raise self.wrong(key, sentence)
        return value

    def _path_of(self, key: str) -> str:
        return f"{self.path}.{shown(key)}" if self.path else shown(key)

    def _typed(self, key: str, kind: type[_T], noun: str) -> _T | None:
        value = self.members.get(key)
        if value is None or isinstance(value, kind):
            return value
        raise self.wrong(key, f"{noun} is expected")

    def _checked(self, key: str, adapter: TypeAdapter[str], sentence: str) -> str:
        try:
            return adapter.validate_python(self._typed(key, str, "a string") or "")
        except ValidationError as error:
            raise self.wrong(key, _reason(error) or sentence) from None


def _reason(error: ValidationError) -> str | None:
    """The contract's own sentence, where it has one."""
    first = error.errors(include_url=False, include_input=False)[0]
    return str(first["ctx"]["error"]) if first["type"] == "value_error" else None


def _is_web_url(url: str) -> bool:
    if not _URI_CHARACTERS.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError where it is none
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
