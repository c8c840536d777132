"""What a Tyk Classic definition demands of a call besides a token."""

from collections.abc import Iterator
from datetime import datetime

from contracts.guards import Guards, PathGuards, PathRule, RateRule, SizeRule
from libs.tyk.guards import Endpoint, closes, domain, enforced, expiry, guards_or_none, limits, refuses
from libs.tyk.import_notes import ImportNotes
from libs.tyk.members import says_something
from libs.tyk.part import Part

_DEFAULTS = ("Default", "default", "")
"""The version that counts where an API has no versions but several are defined."""
_NO_ACTION = frozenset({"", "no_action"})


def classic_guards(definition: Part, listen_path: str, notes: ImportNotes) -> Guards | None:
    """What the gateway has to enforce; None where it is nothing. Raises InvalidDefinition."""
    allowed = _addresses(definition, "enable_ip_whitelisting", "allowed_ips", notes)
    blocked = _addresses(definition, "enable_ip_blacklisting", "blacklisted_ips", notes)
    counted = not definition.flag("disable_rate_limit")
    common = definition.part("global_rate_limit")
    rated = counted and not common.flag("disabled") and says_something(common.members)
    return guards_or_none(
        Guards(
            internal=enforced(definition, "internal", notes),
            domain=None if definition.flag("domain_disabled") else domain(definition, "domain", notes),
            allowed_addresses=allowed,
            blocked_addresses=blocked,
            limits=limits(common, common.number("rate"), common.number("per"), notes) if rated else None,
            paths=tuple(_versions(definition, listen_path, notes, counted=counted)),
            fall_back=_fall_back(definition),
        )
    )


def _addresses(definition: Part, switch: str, key: str, notes: ImportNotes) -> tuple[str, ...]:
    """The list there, unless it is switched off: by its own switch, or by the one of newer versions of Tyk."""
    if definition.flag(switch, default=not definition.flag("ip_access_control_disabled")):
        networks = definition.networks(key)
        if not networks and definition.flag(switch):
            notes.warn(definition.path_of(switch), f"{key} names no address, so that everybody may call, as in Tyk")
        if networks:
            notes.enforce(definition.path_of(key))
        return networks
    if definition.members.get(switch) is False and definition.members.get(key):
        notes.unused(definition.path_of(key), f"not used, since {switch} is false")
    return ()


def _fall_back(definition: Part) -> str | None:
    if not definition.part("definition").flag("fallback_to_default"):
        return None
    return definition.part("version_data").name("default_version") or None


def _versions(definition: Part, listen_path: str, notes: ImportNotes, *, counted: bool) -> Iterator[PathGuards]:
    data = definition.part("version_data")
    versions = data.part("versions")
    if data.flag("not_versioned", default=True):
        names = [_only_version(versions)] if versions.members else []
        for name in names:
            version = _Version(versions.part(name), listen_path, notes, counted)
            expires = expiry(definition, "expiration", notes)
            yield version.guards(None, expires)
        if not names and (expires := expiry(definition, "expiration", notes)):
            yield PathGuards(expires_at=expires)
        return
    for name in versions.members:
        version = _Version(versions.part(name), listen_path, notes, counted)
        yield version.guards(name, expiry(version.part, "expires", notes))


def _only_version(versions: Part) -> str:
    names = list(versions.members)
    if len(names) == 1:
        return names[0]
    found = next((name for name in _DEFAULTS if name in names), None)
    if found is None:
        raise versions.wrong(names[0], "the API has no versions (not_versioned), so that one, `Default`, is expected")
    return found


class _Version:
    """One entry of `version_data.versions`."""

    def __init__(self, part: Part, listen_path: str, notes: ImportNotes, counted: bool) -> None:
        self.part = part
        self._listen_path = listen_path
        self._notes = notes
        self._counted = counted
        self._extended = part.part("extended_paths")
        self._says_so = part.members.get("use_extended_paths") is not None
        self._uses_extended = part.flag("use_extended_paths", default=bool(self._extended.members))

    def guards(self, name: str | None, expires: datetime | None) -> PathGuards:
        """What this version demands."""
        allowed = self._endpoints("white_list")
        size = self.part.whole_number("global_size_limit", 2**53)
        if self.part.flag("global_size_limit_disabled"):
            size = 0
        elif size:
            self._notes.enforce(self.part.path_of("global_size_limit"))
        return PathGuards(
            version=name,
            internal=(*self._closing("internal"), *self._virtual(), *self._refusing_mocks()),
            ignored=self._opening("ignored") if self._may_open() else (),
            blocked=self._closing("black_list"),
            allowed=self._opening("white_list"),
            allowed_only=bool(allowed),
            rates=tuple(self._rates()) if self._counted else (),
            sizes=tuple(self._sizes()),
            size=size,
            expires_at=expires,
        )

    def _may_open(self) -> bool:
        """Whether `ignored` opens anything: not by extended paths that Tyk would not read."""
        if self._extended.has("ignored") and not self._says_so:
            self._notes.unused(self._extended.path_of("ignored"), "not used without use_extended_paths: true")
            return False
        return True

    def _endpoints(self, key: str) -> list[Endpoint]:
        """Those of the list in use; not those that are disabled."""
        found = list(self._extended_endpoints(key)) if self._uses_extended else []
        plain = list(self._plain_endpoints(key))
        if plain and self._uses_extended and key != "black_list":
            self._notes.unused(self.part.part("paths").path_of(key), "not used together with extended_paths")
        if key == "black_list" or not self._uses_extended:
            found += plain
        if not self._uses_extended:
            self._note_unused(key)
        return found

    def _plain_endpoints(self, key: str) -> Iterator[Endpoint]:
        if key == "internal":
            return
        paths = self.part.part("paths")
        for index, path in enumerate(paths.texts(key)):
            yield Endpoint(paths, f"{key}[{index}]", path, (), self._ignores_case)

    def _extended_endpoints(self, key: str) -> Iterator[Endpoint]:
        for entry in self._extended.parts_or_texts(key):
            if not entry.flag("disabled"):
                yield self._endpoint(entry, key)

    def _endpoint(self, entry: Part, key: str) -> Endpoint:
        methods: tuple[str, ...] = (entry.name("method"),) if entry.name("method") else ()
        actions = entry.part("method_actions")
        if entry.has("method_actions"):
            methods = tuple(self._acting_methods(actions, key))
        ignores_case = self._ignores_case or entry.flag("ignore_case")
        return Endpoint(entry, "path", entry.text("path"), methods, ignores_case)

    def _acting_methods(self, actions: Part, key: str) -> Iterator[str]:
        for method in actions.members:
            action = actions.part(method).text("action")
            if action in _NO_ACTION or key == "black_list":
                yield method
            else:
                self._notes.unused(actions.path_of(method), f"not used: only the action no_action is offered in {key}")

    def _is_empty(self, endpoint: Endpoint) -> bool:
        """Whether it has `method_actions` for no method at all: Tyk then finds it for none."""
        return endpoint.place.has("method_actions") and not endpoint.methods

    def _opening(self, key: str) -> tuple[PathRule, ...]:
        rules = []
        for endpoint in self._endpoints(key):
            if self._is_empty(endpoint):
                self._notes.warn(endpoint.place.path_of("method_actions"), "it names no method, so nothing is opened")
            else:
                self._notes.enforce(endpoint.where)
                rules.append(endpoint.opening(self._listen_path))
        return tuple(rules)

    def _closing(self, key: str) -> tuple[PathRule, ...]:
        endpoints = self._endpoints(key)
        for endpoint in endpoints:
            self._notes.enforce(endpoint.where)
        return tuple(endpoint.closing(self._listen_path) for endpoint in endpoints)

    def _virtual(self) -> Iterator[PathRule]:
        """Rules for endpoints that Tyk does not forward, because code of a plugin answers them."""
        for entry in self._extended_parts("virtual"):
            if not entry.flag("disabled"):
                closes(entry, self._notes)
                yield self._endpoint(entry, "virtual").closing(self._listen_path)

    def _refusing_mocks(self) -> Iterator[PathRule]:
        """Rules for endpoints that Tyk does not forward, because it mocks an error."""
        for entry in self._extended.parts("mock_response") if self._uses_extended else ():
            if not entry.flag("disabled") and refuses(entry, self._notes):
                yield self._endpoint(entry, "mock_response").closing(self._listen_path)

    def _extended_parts(self, key: str) -> tuple[Part, ...]:
        """The entries of the list in use."""
        if self._uses_extended:
            return self._extended.parts(key)
        self._note_unused(key)
        return ()

    def _note_unused(self, key: str) -> None:
        if self._extended.members.get(key):
            self._notes.unused(self._extended.path_of(key), "not used, since use_extended_paths is false")

    def _rates(self) -> Iterator[RateRule]:
        for entry in self._extended_parts("rate_limit"):
            if entry.flag("disabled"):
                continue
            if limit := limits(entry, entry.number("rate"), entry.number("per"), self._notes):
                yield self._endpoint(entry, "rate_limit").rate(self._listen_path, limit)

    def _sizes(self) -> Iterator[SizeRule]:
        for entry in self._extended_parts("size_limits"):
            if entry.flag("disabled"):
                continue
            most = entry.whole_number("size_limit", 2**53)
            if not most:
                self._notes.warn(entry.path, "size_limit is zero, so that every body is too large, as in Tyk")
            self._notes.enforce(entry.path)
            yield self._endpoint(entry, "size_limits").size(self._listen_path, most)

    @property
    def _ignores_case(self) -> bool:
        return self.part.flag("ignore_endpoint_case")
