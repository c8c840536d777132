"""Bodies of the health endpoints."""

from typing import Literal

from pydantic import ConfigDict

from contracts.base import Response


class Status(Response):
    """Status `ok`."""

    status: Literal["ok"] = "ok"


class Readiness(Response):
    """Readiness. Besides `status` there is a field for each dependency, with `ok` or what is wrong with it.

    `degraded`: requests are served, but background work is late.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    status: Literal["ok", "degraded", "unavailable"]
