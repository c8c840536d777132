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
    upstream_connect_timeout: float = Field(
        5, gt=0, le=60, description="Seconds that a connection to an upstream may take."
    )
    upstream_timeout: float = Field(
        60,
        gt=0,
        le=3600,
        description="Seconds for which an upstream may neither take what is sent nor begin to answer.",
    )
