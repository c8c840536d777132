"""Settings of the gateway."""

from enum import StrEnum

from pydantic import Field

from libs.settings import Settings


class OnFailure(StrEnum):
    """What becomes of a call that cannot be counted."""

    ALLOW = "allow"
    DENY = "deny"


class GatewaySettings(Settings):
    """What the gateway needs beside the common settings."""

    limits_on_failure: OnFailure = Field(
        OnFailure.ALLOW, description="allow or deny: calls with limits while the counters cannot be reached."
    )
