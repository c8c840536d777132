"""compose.yaml, read as Compose reads it: defaults for what is not set, merge keys resolved."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@functools.cache
def compose() -> dict[str, Any]:
    """The whole file, with the defaults of its variables."""
    text = _VARIABLE.sub(lambda variable: variable[2], (ROOT / "compose.yaml").read_text())
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def containers() -> dict[str, dict[str, Any]]:
    """What is run, by name."""
    services: dict[str, dict[str, Any]] = compose()["services"]
    return services


def variables() -> dict[str, str]:
    """What `.env` may set, and what holds otherwise."""
    found = dict(_VARIABLE.findall((ROOT / "compose.yaml").read_text()))
    assert "$" not in _VARIABLE.sub("", (ROOT / "compose.yaml").read_text()).replace("$$", "")
    return found


def environment(name: str) -> dict[str, str]:
    """What a container's processes find in their environment; a name without value is passed on where it is set."""
    return {key: str(value) for key, value in containers()[name]["environment"].items() if value is not None}


def secrets(name: str) -> dict[str, Path]:
    """The secrets a container gets: path inside → file here, relative to the project."""
    files = {secret: Path(source["file"]) for secret, source in compose()["secrets"].items()}
    mounted: dict[str, Path] = {}
    for entry in containers()[name].get("secrets", []):
        wanted = {"source": entry, "target": entry} if isinstance(entry, str) else entry
        mounted[f"/run/secrets/{wanted['target']}"] = files[wanted["source"]]
    return mounted
