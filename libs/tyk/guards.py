"""Requirements that the gateway enforces (paths, limits, sizes, addresses, hosts), in both formats."""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

from pydantic import StringConstraints, TypeAdapter

from contracts.base import Text
from contracts.guards import Guards, PathGuards, PathRule, RateRule, SizeRule
from contracts.limits import Limits
from libs.allowances import limits_of, quota_allowance, rate_allowance
from libs.endpoint_rates import endpoint_pattern
from libs.policies import compiled
from libs.tyk.import_notes import ImportNotes
from libs.tyk.part import Part

_EXPIRY = "%Y-%m-%d %H:%M"
_NEVER = frozenset({"", "-1"})
_HOST_PARAMETER = re.compile(r"\{[^{}:]*(?::((?:[^{}]|\{[^{}]*\})*))?\}")
_METHOD = re.compile(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,31}")
_PATTERN: TypeAdapter[str] = TypeAdapter(Annotated[Text, StringConstraints(max_length=2000)])
_PORT = re.compile(r":\d{1,5}\Z")


def guards_or_none(guards: Guards) -> Guards | None:
    """None if nothing is required, so that the gateway can skip the checks."""
    paths = tuple(path for path in guards.paths if path != PathGuards(version=path.version))
    # Versions without requirements are kept if any version has some: they tell which versions exist.
    kept = guards if paths else guards.model_copy(update={"paths": ()})
    return None if kept.model_copy(update={"fall_back": None}) == Guards() else kept


def enforced(part: Part, key: str, notes: ImportNotes, *, on: bool = True) -> bool:
    """Whether this switch is on; it is then reported as enforced."""
    is_on = on and part.flag(key)
    if is_on:
        notes.enforce(part.path_of(key))
    return is_on


def limits(part: Part, rate: float, per: float, notes: ImportNotes) -> Limits | None:
    """`rate` calls in any `per` seconds; None, with a warning, if one of them is zero, which is no limit in Tyk."""
    if rate <= 0 or per <= 0:
        notes.warn(part.path, "limits nothing: rate and per must both be more than zero")
        return None
    notes.enforce(part.path)
    return limits_of(rate_allowance(rate, per), quota_allowance(0, 0))


def refuses(mock: Part, notes: ImportNotes) -> bool:
    """Whether this mock response is an error; calls are then refused, and it is reported as enforced."""
    code = mock.members.get("code")
    is_error = isinstance(code, int) and code >= HTTPStatus.BAD_REQUEST
    if is_error:
        notes.enforce(mock.path)
        notes.warn(mock.path, "calls are refused with 403, whatever the status and body of the mock")
    return is_error


def closes(virtual: Part, notes: ImportNotes) -> None:
    """Report a virtual endpoint, whose calls are refused: its code is not run, and the upstream does not serve it."""
    notes.enforce(virtual.path)
    notes.warn(virtual.path, "its code is not run, so calls of this endpoint are refused with 403")


def expiry(part: Part, key: str, notes: ImportNotes) -> datetime | None:
    """The time in this member, in Tyk's format and UTC; None if it is absent."""
    text = part.text(key).strip()
    if text in _NEVER:
        return None
    notes.enforce(part.path_of(key))
    try:
        return datetime.strptime(text, _EXPIRY).replace(tzinfo=UTC)
    except ValueError:
        raise part.wrong(key, "a moment in UTC is expected, such as 2030-01-31 23:59") from None


def domain(part: Part, key: str, notes: ImportNotes) -> str | None:
    """A regular expression for the host pattern in this member (`{name}`, `{name:expression}`); None if empty."""
    text = _PORT.sub("", part.text(key).strip()).rstrip(".").lower()
    if not text:
        return None
    notes.enforce(part.path_of(key))
    pieces: list[str] = []
    end = 0
    for match in _HOST_PARAMETER.finditer(text):
        pieces += [_host_text(text[end : match.start()]), f"(?:{match[1]})" if match[1] else "[^.]+"]
        end = match.end()
    pattern = "".join([*pieces, _host_text(text[end:])])
    _require_usable(part, key, pattern)
    return pattern


def _host_text(text: str) -> str:
    return re.escape(text).replace(r"\*", "[^.]+")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint in a definition: a path, possibly with parameters, and methods."""

    place: Part
    key: str
    """The member of `place` that has the path, for error messages."""
    path: str
    methods: tuple[str, ...] = ()
    ignore_case: bool = False
    whole: bool = False
    """The path is from OpenAPI's `paths`; a rule that opens it must match it completely."""

    @property
    def where(self) -> str:
        """The path in the definition of the rule that names this endpoint."""
        return self.place.path if self.key == "path" else self.place.path_of(self.key)

    def opening(self, listen_path: str) -> PathRule:
        """A rule that admits calls of this endpoint. Matches as in Tyk, but never because of the listen path alone."""
        pattern = f"^(?:{_without_end(self._pattern().removeprefix('^'))})/?$" if self.whole else self._pattern()
        named = self.path.removeprefix("^").startswith(listen_path)
        return self._rule(pattern, self._checked_methods(), with_listen_path=named)

    def closing(self, listen_path: str) -> PathRule:
        """A rule that refuses or counts calls of this endpoint. Matches as in Tyk, anywhere in the path."""
        named = listen_path.strip("/") in self.path or not self.path.startswith("/")
        return self._rule(self._pattern(), _with_head(self._checked_methods()), with_listen_path=named)

    def rate(self, listen_path: str, limits: Limits) -> RateRule:
        """The rate limit of this endpoint."""
        said = f"{','.join(self.methods)}:{self.path}"
        name = hashlib.sha256(said.encode()).hexdigest()[:24]
        return RateRule(**dict(self.closing(listen_path)), name=name, limits=limits)

    def size(self, listen_path: str, most: int) -> SizeRule:
        """The body size limit of this endpoint."""
        return SizeRule(**dict(self.closing(listen_path)), most=most)

    def with_case(self, *, ignored: bool) -> "Endpoint":
        """The same endpoint, with or without case sensitivity."""
        return replace(self, ignore_case=ignored)

    def _pattern(self) -> str:
        pattern = endpoint_pattern(self.path)
        _require_usable(self.place, self.key, pattern)
        return pattern

    def _rule(self, pattern: str, methods: tuple[str, ...], *, with_listen_path: bool) -> PathRule:
        pattern = f"(?i){pattern}" if self.ignore_case else pattern
        _require_usable(self.place, self.key, pattern)
        return PathRule(pattern=pattern, methods=methods, with_listen_path=with_listen_path)

    def _checked_methods(self) -> tuple[str, ...]:
        methods = tuple(method.upper() for method in self.methods)
        for method in methods:
            if not _METHOD.fullmatch(method):
                raise self.place.wrong(self.key, "its method is not one of HTTP")
        return methods


def _without_end(pattern: str) -> str:
    """The pattern without a `$` and a slash at its end, unless they are escaped."""
    for end in ("$", "/"):
        if pattern.endswith(end) and not pattern.endswith(f"\\{end}"):
            pattern = pattern.removesuffix(end)
    return pattern


def _with_head(methods: tuple[str, ...]) -> tuple[str, ...]:
    """A rule for GET also covers HEAD, which most upstreams answer with the same code (RFC 9110 §9.3.2)."""
    return (*methods, "HEAD") if "GET" in methods and "HEAD" not in methods else methods


def _require_usable(part: Part, key: str, pattern: str) -> None:
    try:
        compiled(_PATTERN.validate_python(pattern))
    except ValueError:
        raise part.wrong(key, "a path or a regular expression of RE2 is expected") from None
