"""How much a grant may call."""

from typing import Annotated

from pydantic import Field

from contracts.base import Contract


class Limits(Contract):
    """What a grant's policies allow it in number, on one API or on all of them together."""

    rate: Annotated[int, Field(ge=0)] = 0
    """Requests in any `per` seconds; 0: not limited."""
    per: Annotated[float, Field(ge=0)] = 0
    quota_max: Annotated[int, Field(ge=-1)] = -1
    """Requests in one window; -1: not limited."""
    quota_renewal_rate: Annotated[int, Field(ge=0)] = 0
    """Seconds of the window, which begins with its first request; 0: it never ends."""
