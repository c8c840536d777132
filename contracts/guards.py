"""What an API's definition requires of a call besides a token, and which of its requirements are not supported."""

from typing import Annotated

from pydantic import Field

from contracts.base import Contract, Moment, Name, Text
from contracts.limits import Limits


class PathRule(Contract):
    """Selects calls of an API by path and method."""

    pattern: Text
    """A regular expression (RE2), searched for in the path below the listen path, which begins with a slash."""
    methods: tuple[Name, ...] = ()
    """In upper case; empty: every method."""
    with_listen_path: bool = False
    """Whether the pattern is also searched for in the path including the listen path."""


class RateRule(PathRule):
    """A rate limit for one endpoint."""

    name: Name
    """Names the counter of this endpoint; depends only on path and method, so that edits keep the count."""
    limits: Limits


class SizeRule(PathRule):
    """Maximum body size for one endpoint."""

    most: Annotated[int, Field(ge=0)]
    """Bytes."""


class PathGuards(Contract):
    """What one version of an API requires."""

    version: Name | None = None
    """None: the API has no versions."""
    internal: tuple[PathRule, ...] = ()
    """Paths that the upstream must not serve: those that only other APIs of the gateway may call, those that a plugin
    answers, and mocks of an error. They are refused, also if they are in `ignored`."""
    ignored: tuple[PathRule, ...] = ()
    """Paths that need no token; they take precedence over `blocked` and `allowed`, as in Tyk."""
    blocked: tuple[PathRule, ...] = ()
    allowed: tuple[PathRule, ...] = ()
    allowed_only: bool = False
    """True: paths that are not in `allowed` are refused."""
    rates: tuple[RateRule, ...] = ()
    """Shared by all callers. The first match applies, instead of the API's rate limit."""
    sizes: tuple[SizeRule, ...] = ()
    """The first match applies, in addition to the version's limit."""
    size: Annotated[int, Field(ge=0)] = 0
    """Maximum body size of this version in bytes; 0: not limited."""
    expires_at: Moment | None = None
    """From then on all calls are refused; None: never."""


class Guards(Contract):
    """What the definition of an API requires of a call besides a token."""

    internal: bool = False
    """The API cannot be called from outside."""
    domain: Text | None = None
    """A regular expression of RE2 that the whole host of a call must match, without its port and in lower case."""
    allowed_addresses: tuple[Name, ...] = ()
    """Addresses and networks that may call; empty: all."""
    blocked_addresses: tuple[Name, ...] = ()
    limits: Limits | None = None
    """Rate limit of all calls of the API together."""
    paths: tuple[PathGuards, ...] = ()
    """One per version; at most one if the API has no versions."""
    fall_back: Name | None = None
    """The version whose rules apply to calls of a version that does not exist; None: such calls are refused."""


class Unsupported(Contract):
    """A part of a definition that would protect the API, but is not enforced."""

    path: Text
    """The path of this part in the definition, for example `proxy.target_url`."""
    reason: Text
