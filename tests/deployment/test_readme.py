"""The README's lists are complete and correct."""

import re
from collections.abc import Sequence

from tests.acceptance.programs import ROOT
from tests.deployment.wiring import SERVICES, settings_class

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
        service: f"`python -m services.{service}`" for service in SERVICES
    }


def test_every_setting_is_listed_with_the_services_that_have_it() -> None:
    """Exactly the settings are listed, each with the services that have it."""
    listed: dict[str, set[str]] = {}
    for names, users, *_ in table("Settings"):
        for name in re.findall(r"`TOKENWIRE_(\w+)`", names):
            listed[name] = set(SERVICES) if users == "all" else set(users.split(", "))
    having: dict[str, set[str]] = {}
    for service in SERVICES:
        for name in settings_class(service).model_fields:
            having.setdefault(name.upper(), set()).add(service)
    assert listed == having
