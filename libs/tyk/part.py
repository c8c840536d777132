"""An object within a definition, with its path, so that errors can name the field."""

import re
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from contracts.apis import RESERVED_PATHS, ListenPath
from contracts.base import Name, PublicId, Text, require_readable
from libs.tyk.invalid_definition import InvalidDefinition, shown

_T = TypeVar("_T")

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_PUBLIC_ID: TypeAdapter[str] = TypeAdapter(PublicId)
_LISTEN_PATH: TypeAdapter[str] = TypeAdapter(ListenPath)

FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
"""The name of a header or cookie (RFC 9110 §5.6.2)."""
_FIELD_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e]{0,1022}[\x21-\x7e])?)?")
_WEBSOCKET = re.compile(r"(?i:ws)((?i:s?)):")
_LARGEST = 2**53
_AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(f"(?:{_AMOUNT.pattern})*|0")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_NOT_IN_A_URI = re.compile(r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]")


@dataclass(frozen=True, slots=True)
class Part:
    """An object within the definition. A null member counts as absent, as in Tyk."""

    members: dict[str, Any]
    path: str = ""

    @classmethod
    def whole(cls, document: Any) -> Self:
        """The whole definition."""
        if not isinstance(document, dict):
            raise InvalidDefinition("the definition: an object is expected")
        return cls(document)

    def wrong(self, key: str, sentence: str) -> InvalidDefinition:
        """The error that names this member."""
        return InvalidDefinition(f"{self.path_of(key)}: {sentence}")

    def has(self, key: str) -> bool:
        """Whether the member exists and is not null."""
        return self.members.get(key) is not None

    def part(self, key: str) -> "Part":
        """The object in this member; empty if it is absent."""
        return Part(self._typed(key, dict, "an object") or {}, self.path_of(key))

    def parts(self, key: str) -> tuple["Part", ...]:
        """The objects in the array of this member; empty if it is absent."""
        items = self._typed(key, list, "an array") or []
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                raise self.wrong(f"{key}[{index}]", "an object is expected")
        return tuple(Part(item, f"{self.path_of(key)}[{index}]") for index, item in enumerate(items))

    def parts_or_texts(self, key: str) -> tuple["Part", ...]:
        """Like `parts`; a string is short for an object with this `path`."""
        items = self._typed(key, list, "an array") or []
        objects = [{"path": item} if isinstance(item, str) else item for item in items]
        return Part({key: objects}, self.path).parts(key)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """The boolean in this member."""
        value = self._typed(key, bool, "true or false")
        return default if value is None else value

    def field_names(self, key: str) -> tuple[str, ...]:
        """The header names in the array of this member; empty if it is absent."""
        names = self._typed(key, list, "an array") or []
        for index, name in enumerate(names):
            if not isinstance(name, str) or not FIELD_NAME.fullmatch(name):
                raise self.wrong(f"{key}[{index}]", "the name of a header is expected")
        return tuple(names)

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings in the array of this member; empty if it is absent."""
        texts = self._typed(key, list, "an array") or []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise self.wrong(f"{key}[{index}]", "a string is expected")
        return tuple(texts)

    def whole_number(self, key: str, most: int) -> int:
        """The integer in this member, from 0 to `most`; 0 if it is absent."""
        number = self.members.get(key)
        if number is None:
            return 0
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
            raise self.wrong(key, f"a whole number from 0 to {most} is expected")
        return number

    def number(self, key: str) -> float:
        """The number in this member, not negative; 0 if it is absent."""
        number = self.members.get(key)
        if number is None:
            return 0
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number < _LARGEST:
            raise self.wrong(key, "a number from 0 to 2^53 is expected")
        return number

    def duration(self, key: str) -> float:
        """The duration in this member, such as `1m30s`, in seconds; 0 if it is absent or empty."""
        text = self.text(key)
        if not _DURATION.fullmatch(text):
            raise self.wrong(key, "a duration is expected, such as 10s, 1m30s or 1h")
        return sum(float(amount) * _SECONDS[unit] for amount, unit in _AMOUNT.findall(text))

    def networks(self, key: str) -> tuple[str, ...]:
        """The IP addresses and networks in the array of this member; empty if it is absent."""
        networks = self.texts(key)
        for index, network in enumerate(networks):
            try:
                ip_network(network.strip(), strict=False)
            except ValueError:
                raise self.wrong(
                    f"{key}[{index}]", "an IP address or network is expected, such as 192.0.2.7 or 2001:db8::/32"
                ) from None
        return tuple(str(ip_network(network.strip(), strict=False)) for network in networks)

    def text(self, key: str) -> str:
        """The string in this member; empty if it is absent."""
        return self._checked(key, _TEXT, "a string of at most 4096 characters without control characters is expected")

    def name(self, key: str) -> str:
        """The label in this member; empty if it is absent."""
        return self._checked(key, _NAME, "a string of at most 256 characters without control characters is expected")

    def required_name(self, key: str) -> str:
        """The label in this member. Raises InvalidDefinition if it is empty or absent."""
        name = self._required(key, self.name(key), "a name is expected")
        try:
            return require_readable(name)
        except ValueError as reason:
            raise self.wrong(key, str(reason)) from None

    def field_name(self, key: str, default: str) -> str:
        """The name of a header or cookie (RFC 9110 §5.6.2); the default if it is absent or empty."""
        name = self.name(key) or default
        if not FIELD_NAME.fullmatch(name):
            raise self.wrong(key, "the name of a header or cookie holds letters, digits and !#$%&'*+-.^_`|~ only")
        return name

    def field_value(self, key: str) -> str:
        """A string that can be sent as a header value (RFC 9110 §5.5)."""
        value = self.text(key)
        if not _FIELD_VALUE.fullmatch(value):
            raise self.wrong(
                key, "it is sent in a header: at most 1024 printable ASCII characters, no space at either end"
            )
        return value

    def public_id(self, key: str, default: str) -> str:
        """The id in this member; the default if it is absent or empty."""
        if not self.text(key):
            return default
        sentence = "an id holds 1 to 64 letters, digits, '-' and '_'"
        public_id = self._checked(key, _PUBLIC_ID, sentence)
        # The API's OAuth endpoints are also reachable below /<api_id>/, so ids and reserved paths must differ.
        if public_id in RESERVED_PATHS:
            raise self.wrong(key, f"'{public_id}' is reserved")
        return public_id

    def listen_path(self, key: str) -> str:
        """The listen path in this member, with a slash at both ends."""
        sentence = "a listen path is expected, e.g. /orders/: segments of letters, digits and '-', '.', '_', '~'"
        self._required(key, self.text(key), sentence)
        return self._checked(key, _LISTEN_PATH, sentence)

    def url(self, key: str, *, fragment: bool = False) -> str:
        """The absolute http or https URL in this member; empty if it is absent.

        `fragment` allows one, for URLs that a browser opens.
        """
        url = self.text(key)
        if wrong := _NOT_IN_A_URI.search(url):
            raise self.wrong(key, _wrong_character(wrong[0]))
        if "#" in url and not fragment:
            raise self.wrong(
                key, "a fragment ('#' and what follows) is never sent to a server; remove it (RFC 9110 §7.1)"
            )
        if url and not _is_web_url(url):
            raise self.wrong(key, "an absolute http or https URL without user and password is expected")
        return url

    def upstream_url(self, key: str) -> str:
        """The URL of an upstream in this member, empty if it is absent. `ws` and `wss` are http and https."""
        url = self.text(key)
        if (found := _WEBSOCKET.match(url)) is not None:
            return Part({key: f"http{found[1].lower()}{url[found.end(1) :]}"}, self.path).url(key)
        return self.url(key)

    def required_upstream_url(self, key: str) -> str:
        """The same. Raises InvalidDefinition if it is empty or absent."""
        return self._required(key, self.upstream_url(key), "an absolute http or https URL is expected")

    def _required(self, key: str, value: str, sentence: str) -> str:
        if not value:
            raise self.wrong(key, sentence)
        return value

    def path_of(self, key: str) -> str:
        """The path of this member in the definition."""
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
    """The message of a validator of ours, if it raised the error."""
    first = error.errors(include_url=False, include_input=False)[0]
    return str(first["ctx"]["error"]) if first["type"] == "value_error" else None


def _wrong_character(character: str) -> str:
    if character.isprintable() and not character.isascii():
        return f"'{character}' is not allowed in a URL: percent-encode it, or write the host as xn--… (RFC 3986 §2)"
    if not character.isprintable():
        return "a control character is not allowed in a URL; remove it (RFC 3986 §2)"
    shown_as = "a space" if character == " " else f"'{character}'"
    return f"{shown_as} is not allowed in a URL: write %{ord(character):02X} for it (RFC 3986 §2.1)"


def _is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError where it is none
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
