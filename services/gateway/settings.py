"""Settings of the gateway."""

from enum import StrEnum

from pydantic import Field

from libs.outbound.ssrf import DEFAULT_DENY
from libs.settings import DENYLIST_DESCRIPTION, Denylist, Settings


class OnFailure(StrEnum):
    """What happens to calls with limits while the counters are unreachable."""

    ALLOW = "allow"
    DENY = "deny"


class GatewaySettings(Settings):
    """The common settings and those of the gateway."""

    limits_on_failure: OnFailure = Field(
        OnFailure.ALLOW,
        description="Whether calls with rate limits or quotas are allowed while the counters are unreachable.",
    )
    upstream_deny: Denylist = Field(DEFAULT_DENY, description=DENYLIST_DESCRIPTION)
    upstream_connect_timeout: float = Field(
        5, gt=0, le=60, description="Seconds within which a connection to an upstream must be established."
    )
    upstream_timeout: float = Field(
        60,
        gt=0,
        le=3600,
        description="Seconds for which an upstream may neither read the request nor begin to respond.",
    )
    edge_forwards: bool = Field(
        False,
        description="Whether the edge may forward calls to upstreams itself, after asking this gateway. Only for a "
        "gateway that callers reach through the files in edge/, which keep the question away from them.",
    )
