"""What a Tyk OAS definition requires of a call besides a token."""

from collections.abc import Iterator
from typing import NamedTuple

from contracts.guards import Guards, PathGuards, PathRule, RateRule, SizeRule
from contracts.limits import Limits
from libs.tyk.guards import Endpoint, closes, domain, enforced, expiry, guards_or_none, limits, refuses
from libs.tyk.import_notes import ImportNotes
from libs.tyk.members import is_on, says_something
from libs.tyk.part import Part

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
"""Of OpenAPI 3."""

_CLOSING = ("allow", "block", "internal", "rateLimit", "requestSizeLimit", "virtualEndpoint")
"""Settings of an operation that can cause a call to be refused."""


_EVERY_BODY = "every body is too large"
"""What a limit of zero means on an operation."""


class _Operation(NamedTuple):
    """Tyk's settings for an operation, and its endpoint in the document."""

    settings: Part
    endpoint: Endpoint


def oas_guards(whole: Part, extension: Part, listen_path: str, notes: ImportNotes) -> Guards | None:
    """What the gateway must enforce; None if nothing. Raises InvalidDefinition."""
    info, server = extension.part("info"), extension.part("server")
    everywhere = extension.part("middleware").part("global")
    counted = not everywhere.flag("skipRateLimit")
    addresses, custom = server.part("ipAccessControl"), server.part("customDomain")
    allowed, blocked = _lists(addresses, notes) if is_on(addresses, notes) else ((), ())
    operations = list(_operations(whole, extension, notes))
    reader = _Paths(listen_path, operations, notes)
    common = everywhere.part("requestSizeLimit")
    return guards_or_none(
        Guards(
            internal=enforced(info.part("state"), "internal", notes),
            domain=domain(custom, "name", notes) if is_on(custom, notes) else None,
            allowed_addresses=allowed,
            blocked_addresses=blocked,
            limits=_limits(extension.part("upstream").part("rateLimit"), notes) if counted else None,
            paths=(
                PathGuards(
                    internal=(*reader.closing("internal"), *reader.virtual(), *reader.refusing_mocks()),
                    ignored=reader.opening("ignoreAuthentication"),
                    blocked=reader.closing("block"),
                    allowed=reader.opening("allow"),
                    allowed_only=bool(reader.opening("allow")),
                    rates=tuple(reader.rates()) if counted else (),
                    sizes=tuple(reader.sizes()),
                    size=_size(common, notes, "nothing is limited") if is_on(common, notes) else 0,
                    expires_at=expiry(info, "expiration", notes),
                ),
            ),
        )
    )


def _lists(part: Part, notes: ImportNotes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    allowed, blocked = part.networks("allow"), part.networks("block")
    if not (allowed or blocked):
        notes.warn(part.path, "enabled without any address, so that everybody may call, as in Tyk")
    for key, networks in (("allow", allowed), ("block", blocked)):
        if networks:
            notes.enforce(part.path_of(key))
    return allowed, blocked


def _limits(part: Part, notes: ImportNotes) -> Limits | None:
    return limits(part, part.number("rate"), part.duration("per"), notes) if is_on(part, notes) else None


def _size(part: Part, notes: ImportNotes, without_value: str) -> int:
    most = part.whole_number("value", 2**53)
    if not most:
        notes.warn(part.path, f"value must be more than zero; without it, {without_value}, as in Tyk")
    if most or without_value == _EVERY_BODY:
        notes.enforce(part.path)
    return most


class _Paths:
    """The operations of a document, longest path first, which is Tyk's order of precedence."""

    def __init__(self, listen_path: str, operations: list[_Operation], notes: ImportNotes) -> None:
        self._listen_path = listen_path
        self._notes = notes
        self._operations = sorted(operations, key=lambda operation: -len(operation.endpoint.path))

    def _on(self, key: str) -> Iterator[tuple[Part, Endpoint]]:
        for operation in self._operations:
            settings = operation.settings.part(key)
            if is_on(settings, self._notes):
                ignores_case = operation.endpoint.ignore_case or settings.flag("ignoreCase")
                yield settings, operation.endpoint.with_case(ignored=ignores_case)

    def opening(self, key: str) -> tuple[PathRule, ...]:
        """Rules that admit calls of the operations with this setting."""
        return tuple(endpoint.opening(self._listen_path) for endpoint in self._enforced(key))

    def closing(self, key: str) -> tuple[PathRule, ...]:
        """Rules that refuse calls of the operations with this setting."""
        return tuple(endpoint.closing(self._listen_path) for endpoint in self._enforced(key))

    def refusing_mocks(self) -> Iterator[PathRule]:
        """Rules for operations that Tyk does not forward, because it mocks an error."""
        for settings, endpoint in self._on("mockResponse"):
            if not settings.part("fromOASExamples").flag("enabled") and refuses(settings, self._notes):
                yield endpoint.closing(self._listen_path)

    def virtual(self) -> Iterator[PathRule]:
        """Rules for operations that Tyk does not forward, because code of a plugin answers them."""
        for settings, endpoint in self._on("virtualEndpoint"):
            closes(settings, self._notes)
            yield endpoint.closing(self._listen_path)

    def _enforced(self, key: str) -> Iterator[Endpoint]:
        for settings, endpoint in self._on(key):
            self._notes.enforce(settings.path)
            yield endpoint

    def rates(self) -> Iterator[RateRule]:
        """The rate limits of single operations."""
        for settings, endpoint in self._on("rateLimit"):
            if limit := _limits(settings, self._notes):
                yield endpoint.rate(self._listen_path, limit)

    def sizes(self) -> Iterator[SizeRule]:
        """The body size limits of single operations."""
        for settings, endpoint in self._on("requestSizeLimit"):
            most = _size(settings, self._notes, _EVERY_BODY)
            yield endpoint.size(self._listen_path, most)


def _operations(whole: Part, extension: Part, notes: ImportNotes) -> Iterator[_Operation]:
    settings = extension.part("middleware").part("operations")
    ignore_case = extension.part("middleware").part("global").part("ignoreCase").flag("enabled")
    places = _places(whole)
    for name in settings.members:
        part = settings.part(name)
        found = places.get(name, ())
        if not found and any(says_something(part.members.get(key)) for key in _CLOSING):
            notes.refuse(part.path, "no operation in `paths` has this operationId, so that it cannot be enforced")
        elif not found and says_something(part.members):
            notes.unused(part.path, "not used, since no operation in `paths` has this operationId")
        for path, method in found:
            yield _Operation(part, Endpoint(whole, "paths", path, (method,), ignore_case, whole=True))


def _places(whole: Part) -> dict[str, list[tuple[str, str]]]:
    """Path and method of every operation with an operationId, by that id."""
    places: dict[str, list[tuple[str, str]]] = {}
    for path, method, operation in operations_of(whole):
        if name := operation.text("operationId"):
            places.setdefault(name, []).append((path, method))
    return places


def operations_of(whole: Part) -> Iterator[tuple[str, str, Part]]:
    """Path, method in upper case, and settings of every operation in `paths`."""
    paths = whole.part("paths")
    for path in paths.members:
        if path.startswith("x-"):
            continue
        item = paths.part(path)
        for method in _METHODS:
            if item.has(method):
                yield path, method.upper(), item.part(method)
