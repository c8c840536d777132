"""What both languages say of the way to the upstream: the versions of an API, and the headers that are added."""

import re
from collections.abc import Iterable

from contracts.apis import RequestHeader, Versioning
from libs.tyk.import_notes import ImportNotes
from libs.tyk.members import FORGEABLE, is_off, is_on, says_something
from libs.tyk.part import Part

_ABOUT_THE_MESSAGE = frozenset(
    {
        *("accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "content-encoding"),
        *("content-language", "content-type", "date", "if-match", "if-modified-since", "if-none-match", "if-range"),
        *("if-unmodified-since", "pragma", "range", "te", "user-agent"),
    }
)
"""Headers that say nothing of the caller and its rights. Calls of other endpoints may depend on them, so they are not
dropped because one endpoint sets them."""
LOCATIONS = ("header", "url-param", "url")
_UNKNOWN_VARIABLE = re.compile(
    r"\$(?:tyk_(?!meta\.[A-Za-z0-9_-])|secret_)[A-Za-z0-9_.-]*|(?<![^ ])\$(?!tyk_meta\.)[A-Za-z_]\w*\.[\w.-]+"
    r"|^(?:env|secrets|consul|vault)://"
)
"""In a value: what Tyk replaces, or what is written like that, and is no metadata."""


def oas_versioning(info: Part) -> Versioning | None:
    """`info.versioning` of a base API; None where it is absent or disabled."""
    versioning = info.part("versioning")
    if not versioning.flag("enabled"):
        return None
    own = versioning.name("name")
    others = [version.required_name("name") for version in versioning.parts("versions")]
    default = versioning.name("default")
    names = [name for name in (own, *others) if name]
    return _versioning(versioning, own if default in {"", "self"} else default, names)


def classic_versioning(definition: Part) -> Versioning | None:
    """`definition` and `version_data`; None where the API says that it has no versions."""
    data = definition.part("version_data")
    if data.flag("not_versioned", default=True):
        return None
    versions = data.part("versions")
    names = [Part({"name": name}, versions.path).name("name") for name in versions.members]
    return _versioning(definition.part("definition"), data.name("default_version"), names)


def _versioning(place: Part, default: str, names: Iterable[str]) -> Versioning:
    location = place.text("location") or "header"
    if location not in LOCATIONS:
        raise place.wrong("location", f"one of {', '.join(LOCATIONS)} is expected")
    key = place.field_name("key", "x-api-version") if location == "header" else place.name("key")
    if location == "url-param" and not key:
        raise place.wrong("key", "the name of the parameter is expected")
    return Versioning.model_validate({"location": location, "key": key, "default": default, "names": tuple(names)})


def oas_headers(extension: Part, notes: ImportNotes) -> tuple[tuple[RequestHeader, ...], tuple[str, ...]]:
    """What `middleware.global.transformRequestHeaders` adds, and every other name that a caller must not send: those
    that it removes, and those that an operation adds or removes.
    """
    middleware = extension.part("middleware")
    operations = middleware.part("operations")
    single = [name for operation in operations.members for name in _oas_names(operations.part(operation))]
    transform = middleware.part("global").part("transformRequestHeaders")
    if not is_on(transform, notes):
        return (), _without_repeats(_forgeable(single))
    added = [_header(header, header.field_name("name", ""), "value", notes) for header in transform.parts("add")]
    return tuple(added), _without_repeats([*transform.field_names("remove"), *_forgeable(single)])


def _oas_names(operation: Part) -> list[str]:
    transform = operation.part("transformRequestHeaders")
    if is_off(transform.members):
        return []
    added = [header.field_name("name", "") for header in transform.parts("add")]
    return [*added, *transform.field_names("remove")]


def classic_headers(definition: Part, notes: ImportNotes) -> tuple[tuple[RequestHeader, ...], tuple[str, ...]]:
    """What `global_headers` of the default version add, and every other name that a caller must not send: those that
    `global_headers_remove` removes, and those that another version or an endpoint adds or removes.
    """
    data = definition.part("version_data")
    versions = data.part("versions")
    default = data.name("default_version") or next(iter(versions.members), "Default")
    added: list[RequestHeader] = []
    dropped: list[str] = []
    for name in versions.members:
        version = versions.part(name)
        if not version.flag("global_headers_disabled"):
            headers = version.part("global_headers")
            if name == default:
                added = [_header(headers, _classic_name(headers, header), header, notes) for header in headers.members]
            elif says_something(headers.members) or says_something(version.members.get("global_headers_remove")):
                notes.unused(
                    version.path, f"its global_headers and global_headers_remove are not used on it alone; {FORGEABLE}"
                )
                dropped += _forgeable(_classic_name(headers, header) for header in headers.members)
            dropped += version.field_names("global_headers_remove")
        if version.flag("use_extended_paths", default=True):
            for entry in version.part("extended_paths").parts("transform_headers"):
                dropped += _forgeable(_classic_names(entry))
    return tuple(added), _without_repeats(dropped)


def _classic_names(entry: Part) -> list[str]:
    if is_off(entry.members):
        return []
    headers = entry.part("add_headers")
    return [*(_classic_name(headers, header) for header in headers.members), *entry.field_names("delete_headers")]


def _classic_name(headers: Part, name: str) -> str:
    return Part({"name": name}, headers.path).field_name("name", "")


def _forgeable(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower() not in _ABOUT_THE_MESSAGE]


def _without_repeats(names: Iterable[str]) -> tuple[str, ...]:
    return tuple({name.lower(): name for name in names}.values())


def _header(part: Part, name: str, key: str, notes: ImportNotes) -> RequestHeader:
    """The header with the value there; with an empty one, and a warning, where that has variables of Tyk's that nothing
    replaces here: upstreams would get them as they are written.
    """
    value = part.field_value(key)
    if unknown := _UNKNOWN_VARIABLE.search(value):
        variable = unknown[0]
        notes.warn(
            part.path_of(key),
            f"{variable} is not a variable here, only $tyk_meta.<key> is; the upstream gets no header {name}",
        )
        return RequestHeader(name=name)
    return RequestHeader(name=name, value=value)
