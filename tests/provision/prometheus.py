"""promtool for tests of alerts: this machine's, or Debian's, installed if permitted."""

from pathlib import Path

from tests.provision import debian

INSTEAD = "put promtool (of Prometheus 2.42 or later) on PATH"


def promtool() -> Path:
    """The path of promtool. Raises CannotProvide with what to do."""
    return debian.provided("promtool", "prometheus", INSTEAD)
