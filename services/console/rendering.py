"""Makes pages of templates: the environment of all templates, and the few filters that they use."""

import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp_jinja2
import jinja2
from aiohttp import web

from libs.version import VERSION
from services.console.service_calls import segment
from services.console.session_cookies import PATH
from services.console.static_files import StaticFiles

TEMPLATES = Path(__file__).parent / "templates"
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def moment(at: datetime) -> str:
    """A time for readers, in UTC and whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def from_seconds(seconds: int) -> datetime:
    """The time of these Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def duration(length: timedelta | float) -> str:
    """A duration in its largest unit that it is a multiple of: `14 d`, `90 min`."""
    seconds = int(length.total_seconds() if isinstance(length, timedelta) else length)
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0 and (seconds >= size or size == 1))
    return f"{seconds // size}\N{NO-BREAK SPACE}{unit}"


def pretty(value: object) -> str:
    """A value as indented JSON text."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def shell(text: str) -> str:
    """The text as one word of a shell, for commands to copy: text of others must not become a command."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def count(number: float) -> str:
    """A number with separated thousands."""
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def set_up(app: web.Application, static: StaticFiles, places: Collection[str]) -> None:
    """Give the application the templates. Everything that a template writes is escaped, and an unknown name fails."""
    environment = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        default_helpers=False,
    )
    environment.filters.update(
        moment=moment,
        duration=duration,
        pretty=pretty,
        count=count,
        from_seconds=from_seconds,
        segment=segment,
        shell=shell,
    )
    environment.globals.update(
        root=PATH, places_there=places, static=lambda name: PATH + static.url(name), version=VERSION
    )
