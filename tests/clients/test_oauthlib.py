"""oauthlib alone and in requests-oauthlib: every grant type, refresh and revocation."""

import asyncio
import urllib.request

import pytest
import requests
from oauthlib.oauth2 import BackendApplicationClient, InvalidGrantError, WebApplicationClient
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from tests.acceptance.tenants import basic
from tests.clients.relying_party import NARROW, RelyingParty


def posted(url: str, headers: dict[str, str], body: str) -> str:
    """Send a request that oauthlib prepared; it has no transport of its own."""
    request = urllib.request.Request(url, body.encode(), headers, method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
        return str(response.read().decode())


async def test_requests_oauthlib_lives_with_a_secret(confidential: RelyingParty) -> None:
    """Code with PKCE, automatic refresh and revocation; the granted scope is the requested one."""
    party, credentials = confidential, HTTPBasicAuth(confidential.client_id, confidential.secret)
    with OAuth2Session(party.client_id, redirect_uri=party.redirect_uri, scope=NARROW.split(), pkce="S256") as session:
        url, _state = session.authorization_url(party.authorize_url)
        redirect = await party.logged_in(url)
        response = await asyncio.to_thread(
            session.fetch_token, party.token_url, authorization_response=redirect, auth=credentials
        )
        access, refresh = party.issued(response, refreshable=True)
        assert await party.opens(access)

        response = await asyncio.to_thread(session.refresh_token, party.token_url, refresh, auth=credentials)
        renewed, refresh = party.issued(response, refreshable=True)
        assert await party.opens(renewed)
        assert await party.shuts(access)

        await revoked(party, refresh)
        assert await party.shuts(renewed)
        with pytest.raises(InvalidGrantError):
            await asyncio.to_thread(session.refresh_token, party.token_url, refresh, auth=credentials)


async def test_requests_oauthlib_lives_without_a_secret(public: RelyingParty) -> None:
    """The same for a public client."""
    with OAuth2Session(public.client_id, redirect_uri=public.redirect_uri, pkce="S256") as session:
        url, _state = session.authorization_url(public.authorize_url)
        redirect = await public.logged_in(url)
        response = await asyncio.to_thread(
            session.fetch_token, public.token_url, authorization_response=redirect, include_client_id=True
        )
        access, refresh = public.issued(response, refreshable=True)
        response = await asyncio.to_thread(session.refresh_token, public.token_url, refresh, client_id=public.client_id)
        renewed, _ = public.issued(response, refreshable=True)
        assert await public.opens(renewed)
        assert await public.shuts(access)


async def test_requests_oauthlib_gets_a_machine_its_token(confidential: RelyingParty) -> None:
    """client_credentials with the secret in the header and in the body."""
    for in_body in (False, True):
        with OAuth2Session(client=BackendApplicationClient(confidential.client_id, scope=[NARROW])) as session:
            response = await asyncio.to_thread(
                session.fetch_token,
                confidential.token_url,
                client_id=confidential.client_id,
                client_secret=confidential.secret,
                include_client_id=in_body,
            )
            access, _ = confidential.issued(response, refreshable=False)
            assert response["scope"] == [NARROW]
            assert await confidential.opens(access)


async def test_oauthlib_lives_by_itself(confidential: RelyingParty) -> None:
    """oauthlib's requests are accepted, and it accepts the responses."""
    party = confidential
    client = WebApplicationClient(party.client_id)
    verifier = client.create_code_verifier(64)
    url, _headers, _body = client.prepare_authorization_request(
        party.authorize_url,
        redirect_url=party.redirect_uri,
        scope=[NARROW],
        code_challenge=client.create_code_challenge(verifier, "S256"),
        code_challenge_method="S256",
    )
    redirect = await party.logged_in(url)
    token_url, headers, body = client.prepare_token_request(
        party.token_url, authorization_response=redirect, redirect_url=party.redirect_uri, code_verifier=verifier
    )
    headers |= basic(party.client_id, party.secret)
    response = client.parse_request_body_response(await asyncio.to_thread(posted, token_url, headers, body))
    access, refresh = party.issued(response, refreshable=True)
    assert await party.opens(access)

    token_url, headers, body = client.prepare_refresh_token_request(party.token_url, refresh)
    headers |= basic(party.client_id, party.secret)
    response = client.parse_request_body_response(await asyncio.to_thread(posted, token_url, headers, body))
    renewed, refresh = party.issued(response, refreshable=True)
    assert await party.opens(renewed)

    url, headers, body = client.prepare_token_revocation_request(party.revoke_url, refresh, "refresh_token")
    headers |= basic(party.client_id, party.secret)
    await asyncio.to_thread(posted, url, headers, body)
    assert await party.shuts(renewed)


async def revoked(party: RelyingParty, token: str) -> None:
    """Revoke with a request prepared by oauthlib; requests-oauthlib has no call for it."""
    url, headers, body = WebApplicationClient(party.client_id).prepare_token_revocation_request(
        party.revoke_url, token, "refresh_token"
    )
    credentials = HTTPBasicAuth(party.client_id, party.secret)
    response = await asyncio.to_thread(requests.post, url, headers=headers, data=body, auth=credentials, timeout=10)
    assert response.status_code == 200, response.text
