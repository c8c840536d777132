"""How a process says that it is well."""

from typing import Literal

from pydantic import ConfigDict

from contracts.base import Response


class Status(Response):
    """All is well."""

    status: Literal["ok"] = "ok"


class Readiness(Response):
    """Ready or not; beside `status` each dependency by its name, with `ok` or what is wrong with it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    status: Literal["ok", "unavailable"]
