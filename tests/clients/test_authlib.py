"""Authlib with requests and httpx: every grant type, refresh, introspection and revocation."""

import asyncio
from typing import Any

import pytest
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.requests_client import OAuth2Session

from tests.clients.relying_party import HEARD_WITHIN, NARROW, RelyingParty
from tests.eventually import eventually

METHODS = ["client_secret_basic", "client_secret_post"]


def configured(party: RelyingParty, method: str) -> dict[str, Any]:
    """The library's settings for a client, for both of its session types."""
    return {
        "client_id": party.client_id,
        "client_secret": party.secret or None,
        "token_endpoint_auth_method": method,
        "revocation_endpoint_auth_method": method,
        "redirect_uri": party.redirect_uri,
        "scope": NARROW,
        "code_challenge_method": "S256",
    }


async def lived_on_requests(party: RelyingParty, method: str) -> None:
    """A grant from login to revocation; in a thread, because the library blocks."""
    with OAuth2Session(**configured(party, method)) as session:
        verifier = generate_token(48)
        url, state = session.create_authorization_url(party.authorize_url, code_verifier=verifier)
        redirect = await party.logged_in(url)
        response = await asyncio.to_thread(
            session.fetch_token,
            party.token_url,
            authorization_response=redirect,
            state=state,
            code_verifier=verifier,
        )
        access, refresh = party.issued(response, refreshable=True)
        assert await party.opens(access)

        response = await asyncio.to_thread(session.refresh_token, party.token_url, refresh)
        renewed, refresh = party.issued(response, refreshable=True)
        assert await party.opens(renewed)
        assert await party.shuts(access)
        if party.secret:
            reply = await asyncio.to_thread(session.introspect_token, party.introspect_url, token=renewed)
            assert party.is_told_of(reply.json())

        reply = await asyncio.to_thread(
            session.revoke_token, party.revoke_url, token=refresh, token_type_hint="refresh_token"
        )
        assert reply.status_code == 200
        assert await party.shuts(renewed)
        with pytest.raises(OAuthError, match="invalid_grant"):
            await asyncio.to_thread(session.refresh_token, party.token_url, refresh)


async def lived_on_httpx(party: RelyingParty, method: str) -> None:
    """The same without a thread."""
    async with AsyncOAuth2Client(**configured(party, method)) as session:
        verifier = generate_token(48)
        url, state = session.create_authorization_url(party.authorize_url, code_verifier=verifier)
        redirect = await party.logged_in(url)
        response = await session.fetch_token(
            party.token_url, authorization_response=redirect, state=state, code_verifier=verifier
        )
        access, refresh = party.issued(response, refreshable=True)
        assert await party.opens(access)

        response = await session.refresh_token(party.token_url, refresh)
        renewed, refresh = party.issued(response, refreshable=True)
        assert await party.opens(renewed)
        assert await party.shuts(access)
        if party.secret:
            reply = await session.introspect_token(party.introspect_url, token=renewed)
            assert party.is_told_of(reply.json())

        reply = await session.revoke_token(party.revoke_url, token=refresh, token_type_hint="refresh_token")
        assert reply.status_code == 200
        assert await party.shuts(renewed)
        if party.secret:

            async def is_known_to_be_dead() -> bool:
                reply = await session.introspect_token(party.introspect_url, token=renewed)
                return bool(reply.json() == {"active": False})

            await eventually(is_known_to_be_dead, HEARD_WITHIN)
        with pytest.raises(OAuthError, match="invalid_grant"):
            await session.refresh_token(party.token_url, refresh)


@pytest.mark.parametrize("method", METHODS)
async def test_authlib_on_requests_lives_with_a_secret(confidential: RelyingParty, method: str) -> None:
    """Code with PKCE, refresh and revocation, with each authentication method."""
    await lived_on_requests(confidential, method)


async def test_authlib_on_requests_lives_without_a_secret(public: RelyingParty) -> None:
    """The same for a public client."""
    await lived_on_requests(public, "none")


@pytest.mark.parametrize("method", METHODS)
async def test_authlib_on_httpx_lives_with_a_secret(confidential: RelyingParty, method: str) -> None:
    """Code with PKCE, refresh and revocation, with each authentication method."""
    await lived_on_httpx(confidential, method)


async def test_authlib_on_httpx_lives_without_a_secret(public: RelyingParty) -> None:
    """The same for a public client."""
    await lived_on_httpx(public, "none")


@pytest.mark.parametrize("method", METHODS)
async def test_authlib_gets_a_machine_its_token(confidential: RelyingParty, method: str) -> None:
    """client_credentials by both sessions; after revocation the token is refused."""
    with OAuth2Session(**configured(confidential, method)) as session:
        response = await asyncio.to_thread(session.fetch_token, confidential.token_url, grant_type="client_credentials")
        access, _ = confidential.issued(response, refreshable=False)
        assert await confidential.opens(access)
        reply = await asyncio.to_thread(session.revoke_token, confidential.revoke_url, token=access)
        assert reply.status_code == 200
        assert await confidential.shuts(access)
    async with AsyncOAuth2Client(**configured(confidential, method)) as session:
        response = await session.fetch_token(confidential.token_url, grant_type="client_credentials")
        access, _ = confidential.issued(response, refreshable=False)
        assert await confidential.opens(access)
        assert (await session.revoke_token(confidential.revoke_url, token=access)).status_code == 200
        assert await confidential.shuts(access)


async def test_authlib_understands_a_refusal(confidential: RelyingParty) -> None:
    """A wrong secret raises the library's own error with the RFC's code."""
    settings = configured(confidential, "client_secret_basic") | {"client_secret": "x" * 32}
    async with AsyncOAuth2Client(**settings) as session:
        with pytest.raises(OAuthError, match="invalid_client"):
            await session.fetch_token(confidential.token_url, grant_type="client_credentials")
