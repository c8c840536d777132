"""Every grant type declares what it allows, has one handler, and is advertised only where it works."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from contracts.apis import GrantType, OAuthSettings
from contracts.grants import TokenRequest
from libs.oauth.grant_types import PROFILES, GrantProfile, is_offered, offered, offers_public_clients
from libs.oauth.grants import IssueContext
from services.token import grants
from services.token.grants.grant_handler import GrantHandler, IssuedTokens, by_grant_type


def handler_classes() -> Iterator[type[Any]]:
    """The classes with a method `issue` in the modules of services/token/grants, except the Protocol itself."""
    for found in pkgutil.iter_modules(grants.__path__, f"{grants.__name__}."):
        module = importlib.import_module(found.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == found.name and kind is not GrantHandler and hasattr(kind, "issue"):
                yield kind


def test_every_handler_declares_its_profile() -> None:
    """A handler without `profile`, or with another handler's, fails here before it fails a request."""
    declared = [getattr(kind, "profile", None) for kind in handler_classes()]
    assert all(isinstance(profile, GrantProfile) for profile in declared)
    assert sorted(profile.grant_type for profile in declared if profile) == sorted(GrantType)


def test_every_grant_type_has_a_profile() -> None:
    """And each is filed under its own grant type."""
    assert {profile.grant_type: profile for profile in PROFILES.values()} == PROFILES
    assert set(PROFILES) == set(GrantType)


def handler(declared: GrantProfile) -> GrantHandler:
    """A handler with this profile, that issues nothing."""

    class Handler:
        profile: ClassVar[GrantProfile] = declared

        async def issue(self, request: TokenRequest, context: IssueContext) -> IssuedTokens:
            raise NotImplementedError

    return Handler()


def test_the_token_endpoint_needs_one_handler_for_each_profile() -> None:
    """A forgotten or repeated handler stops the process at its start."""
    handlers = [handler(profile) for profile in PROFILES.values()]
    assert by_grant_type(*handlers) == {each.profile.grant_type: each for each in handlers}
    with pytest.raises(ValueError, match="one handler is needed for each of"):
        by_grant_type(*handlers[1:])
    with pytest.raises(ValueError, match="one handler is needed for each of"):
        by_grant_type(*handlers, handler(replace(handlers[0].profile, issues_refresh_tokens=False)))


@pytest.mark.parametrize("refresh", [True, False], ids=["with-refresh", "without-refresh"])
@pytest.mark.parametrize("grant_type", [each for each in GrantType if each is not GrantType.REFRESH_TOKEN])
def test_what_an_api_offers_follows_from_the_profile(grant_type: GrantType, refresh: bool) -> None:
    """refresh_token needs a grant type that issues refresh tokens; `none` needs one that admits public clients."""
    settings = OAuthSettings(grant_types=(grant_type,), refresh_token=refresh)
    profile = PROFILES[grant_type]
    assert is_offered(GrantType.REFRESH_TOKEN, settings) is (refresh and profile.issues_refresh_tokens)
    assert offered(settings) == tuple(each for each in GrantType if is_offered(each, settings))
    assert offers_public_clients(settings) is profile.admits_public_clients
    assert not is_offered("urn:example:unknown", settings)
