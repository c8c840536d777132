"""The README's lists are complete and correct."""

import re
from collections.abc import Sequence

from libs.settings import ServerSettings
from services.__main__ import AllInOneSettings
from tests.acceptance.programs import ROOT
from tests.deployment.wiring import EVERY_SERVICE, settings_class

README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(heading: str) -> Sequence[Sequence[str]]:
    """The body cells of the first table under this heading."""
    _, _, section = README.partition(f"\n## {heading}\n")
    rows = re.findall(r"^\|(.+)\|$", section.partition("\n## ")[0], re.MULTILINE)[2:]
    assert rows, heading
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def test_every_command_exists() -> None:
    """Every `make …` is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", " ".join(row[0] for row in table("Commands"))))
    assert named >= {"run", "demo", "test", "check", "bench", "faults", "up", "down"}
    assert named <= targets


def test_every_service_is_listed_with_its_command() -> None:
    """Exactly the services are listed, each with its command."""
    assert {row[0]: row[2] for row in table("Services")} == {
        service: f"`python -m services.{service}`" for service in EVERY_SERVICE
    }


DEFAULT_TEXTS = {"required", "none", "an embedded one", "an in-process bus", "made at the first start", "its address"}
"""For defaults that are no value."""


def default_of(settings: type[ServerSettings], name: str) -> str:
    """The default as the table shows it."""
    field = settings.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default()
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value is not None else "none"


def test_e9_the_settings_of_the_readme_have_the_defaults_of_the_code() -> None:
    """Each listed setting exists; its defaults are those of the services, and of `make run`."""
    classes = [settings_class(service) for service in EVERY_SERVICE]
    rows = table("Settings")
    assert len(rows) >= 8
    for named, default, with_make_run, _ in rows:
        name = named.strip("`").removeprefix("TOKENWIRE_").lower()
        having = [each for each in classes if name in each.model_fields]
        assert {default_of(each, name) for each in having} == {default}, name
        own = AllInOneSettings if name in AllInOneSettings.model_fields else having[0]
        # The development default of this one is worked out at the start.
        expected = "`true`" if name == "allow_private_destinations" else default_of(own, name)
        assert with_make_run in DEFAULT_TEXTS or with_make_run == expected, name
