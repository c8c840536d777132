"""Policies as the management API returns them, read back."""

from contracts.base import Response
from contracts.policies import PolicyView


class ShownPolicy(PolicyView):
    """A policy; its id is read once, not a second time under the name that Tyk's tools expect."""

    stored_id: str = ""


class ShownPolicies(Response):
    """One page of the list."""

    Data: list[ShownPolicy]
    next: str | None = None
