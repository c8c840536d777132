"""Where the command line finds its server: profiles that `tokenwire login` keeps, and the environment, which wins."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.failures import Failure

URL, KEY = "TOKENWIRE_URL", "TOKENWIRE_OPERATOR_KEY"
DEFAULT_PROFILE = "default"


@dataclass(frozen=True, slots=True)
class Profile:
    """A server and the operator key for it."""

    url: str
    key: str


def path() -> Path:
    """The file with the profiles, readable by its owner only."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "tokenwire" / "profiles.json"


def load(name: str) -> Profile:
    """The profile of this name; TOKENWIRE_URL and TOKENWIRE_OPERATOR_KEY replace its parts. Raises Failure."""
    kept = _kept().get(name, {})
    url, key = os.environ.get(URL) or kept.get("url"), os.environ.get(KEY) or kept.get("key")
    if not url or not key:
        missing = "server" if not url else "operator key"
        raise Failure(
            f"no {missing} is known for the profile '{name}'; run `tokenwire login --url http://127.0.0.1:8080`, "
            f"or set {URL} and {KEY}"
        )
    return Profile(url.rstrip("/"), key)


def save(name: str, profile: Profile) -> Path:
    """Keep the profile; the path of the file, which only its owner can read."""
    kept = {**_kept(), name: {"url": profile.url, "key": profile.key}}
    place = path()
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = place.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(kept, file, indent=1)
    new.replace(place)
    return place


def _kept() -> Mapping[str, Mapping[str, Any]]:
    try:
        kept = json.loads(path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Failure(f"{path()} cannot be read ({error}); remove it and run `tokenwire login` again") from None
    return kept if isinstance(kept, dict) else {}
