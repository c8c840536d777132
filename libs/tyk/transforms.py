"""What both languages say of the way to the upstream: the versions of an API, and the headers that are added."""

from collections.abc import Iterable

from contracts.apis import RequestHeader, Versioning
from libs.tyk.part import Part

LOCATIONS = ("header", "url-param", "url")


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


def oas_headers(extension: Part) -> tuple[tuple[RequestHeader, ...], tuple[str, ...]]:
    """What `middleware.global.transformRequestHeaders` adds and removes."""
    transform = extension.part("middleware").part("global").part("transformRequestHeaders")
    if not transform.flag("enabled"):
        return (), ()
    added = (_header(header, header.field_name("name", "")) for header in transform.parts("add"))
    return tuple(added), transform.field_names("remove")


def classic_headers(definition: Part) -> tuple[tuple[RequestHeader, ...], tuple[str, ...]]:
    """What `global_headers` of the default version add, and `global_headers_remove` removes."""
    data = definition.part("version_data")
    versions = data.part("versions")
    name = data.name("default_version") or next(iter(versions.members), "Default")
    version = versions.part(name)
    if version.flag("global_headers_disabled"):
        return (), ()
    headers = version.part("global_headers")
    for header in headers.members:
        Part({"name": header}, headers.path).field_name("name", "")
    added = (RequestHeader(name=header, value=headers.field_value(header)) for header in headers.members)
    return tuple(added), version.field_names("global_headers_remove")


def _header(part: Part, name: str) -> RequestHeader:
    return RequestHeader(name=name, value=part.field_value("value"))
