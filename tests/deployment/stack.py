"""compose.yaml as Compose reads it: variables have their defaults, and merge keys are resolved."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@functools.cache
def compose() -> dict[str, Any]:
    """The whole file with default values for variables."""
    text = _VARIABLE.sub(lambda variable: variable[2], (ROOT / "compose.yaml").read_text())
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def containers() -> dict[str, dict[str, Any]]:
    """The containers by name."""
    services: dict[str, dict[str, Any]] = compose()["services"]
    return services


def variables() -> dict[str, str]:
    """The variables that `.env` may set, with their defaults."""
    found = dict(_VARIABLE.findall((ROOT / "compose.yaml").read_text()))
    assert "$" not in _VARIABLE.sub("", (ROOT / "compose.yaml").read_text()).replace("$$", "")
    return found


def environment(name: str) -> dict[str, str]:
    """The environment of a container's processes. A name without a value is passed on from ours if set."""
    return {key: str(value) for key, value in containers()[name]["environment"].items() if value is not None}


def secrets(name: str) -> dict[str, Path]:
    """The secrets of a container: path inside to file here, relative to the project."""
    files = {secret: Path(source["file"]) for secret, source in compose()["secrets"].items()}
    mounted: dict[str, Path] = {}
    for entry in containers()[name].get("secrets", []):
        wanted = {"source": entry, "target": entry} if isinstance(entry, str) else entry
        mounted[f"/run/secrets/{wanted['target']}"] = files[wanted["source"]]
    return mounted


def tracing() -> frozenset[str]:
    """OpenTelemetry's variables that the services get from ours."""
    return frozenset(name for name in compose()["x-settings"] if name.startswith("OTEL_"))
