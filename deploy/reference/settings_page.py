"""docs/reference/settings.md, from the settings classes of the services."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from inspect import getmembers, isclass
from pathlib import Path

from deploy.reference.tables import allowed, cell, default
from libs.settings import PREFIX, ServerSettings, Settings
from services.__main__ import AllInOneSettings

_HEAD = """\
# Settings

Generated from the settings classes in the code by `make contracts`; change them there.

Every setting is an environment variable, or the content of the file that `<name>_FILE` points to; the variable itself
takes precedence. If one is wrong or missing, the service does not start and prints one line that names it.
`python -m services.<name> --help` lists the settings of one service. Times are in seconds, and limits such as `20/60`
are how many in how many seconds. `.env.example` has the same settings as a file to copy, with those of the container
stack and of OpenTelemetry.
"""
_SERVICES = Path(__file__).parents[2] / "services"
_COLUMNS = "| setting | default | allowed | meaning |\n|---|---|---|---|"


def settings_page() -> str:
    """The whole page."""
    classes = {path.parent.name: _settings_class(path.parent.name) for path in sorted(_SERVICES.glob("*/settings.py"))}
    common = set(ServerSettings.model_fields)
    owners: dict[tuple[str, ...], dict[str, type[ServerSettings]]] = {}
    for name, service in ((name, service) for service, found in classes.items() for name in found.model_fields):
        if name not in common:
            having = tuple(each for each, found in classes.items() if name in found.model_fields)
            owners.setdefault(having, {})[name] = classes[service]
    with_records = tuple(name for name, found in classes.items() if issubclass(found, Settings))
    parts = [_HEAD, _section("Every service", _rows(ServerSettings, ServerSettings.model_fields))]
    for having, fields in sorted(owners.items(), key=lambda owned: (owned[0] != with_records, owned[0])):
        rows = (row for name, found in fields.items() for row in _rows(found, [name]))
        others = [name for name in classes if name not in having]
        heading = f"Every service but {', '.join(others)}" if having == with_records else ", ".join(having)
        parts.append(_section(heading, rows))
    parts.append(_make_run())
    return "\n".join(parts)


def _settings_class(service: str) -> type[ServerSettings]:
    module = import_module(f"services.{service}.settings")
    (found,) = [
        member
        for _, member in getmembers(module, isclass)
        if issubclass(member, ServerSettings) and member.__module__ == module.__name__
    ]
    return found


def _make_run() -> str:
    """The settings that `make run` has other defaults for."""
    fields, ordinary = AllInOneSettings.model_fields, Settings.model_fields
    other = [name for name, field in fields.items() if name not in ordinary or field.default != ordinary[name].default]
    text = (
        "These have other defaults with `make run`, where every service is in one process on a developer's machine. "
        "All\nothers are as above, except that the public URL follows the address and the port.\n\n"
    )
    return _section("With `make run`", _rows(AllInOneSettings, other), text)


def _section(heading: str, rows: Iterable[str], text: str = "") -> str:
    return f"## {heading}\n\n{text}{_COLUMNS}\n" + "\n".join(rows) + "\n"


def _rows(settings: type[ServerSettings], names: Iterable[str]) -> Iterator[str]:
    schema = settings.model_json_schema()
    for name in names:
        described = schema["properties"][name]
        required = name in schema.get("required", ())
        shown = "required" if required else default(described.get("default"))
        cells = [f"`{PREFIX}{name.upper()}`", shown, allowed(described, schema), described.get("description", "")]
        yield f"| {' | '.join(map(cell, cells))} |"
