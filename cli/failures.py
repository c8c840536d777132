"""Why a command could not do its work, in one sentence that says what to do; each has an exit status."""

from typing import Any

FAILED = 1
"""The server refused the request, or a file is wrong."""
UNREACHABLE = 3
"""The server could not be reached."""
INCOMPLETE = 4
"""The command is done, but not everything could be done; its output says what and why."""


class Failure(Exception):
    """The command ends with this sentence and status."""

    def __init__(self, sentence: str, status: int = FAILED) -> None:
        super().__init__(sentence)
        self.status = status


class Refused(Failure):
    """The server refused the request."""

    def __init__(self, sentence: str, http_status: int, meta: Any = None) -> None:
        super().__init__(sentence)
        self.http_status = http_status
        self.meta = meta
        """The `Meta` of the response; None if it has none."""
