// oauth4webapi: found by its issuer, every response checked as strictly as the RFCs allow.
import assert from 'node:assert/strict';
import * as oauth from 'oauth4webapi';
import { issued, loggedIn, opens, shut } from './party.mjs';

const plainHttp = { [oauth.allowInsecureRequests]: true };

export async function run(party) {
  const issuer = new URL(party.issuer);
  const found = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...plainHttp });
  const server = await oauth.processDiscoveryResponse(issuer, found);
  assert.equal(server.authorization_response_iss_parameter_supported, true);
  const methods = party.clientSecret
    ? [oauth.ClientSecretBasic(party.clientSecret), oauth.ClientSecretPost(party.clientSecret)]
    : [oauth.None()];
  for (const method of methods) {
    await grant(party, server, { client_id: party.clientId }, method);
    if (party.clientSecret) await machine(party, server, { client_id: party.clientId }, method);
  }
}

async function grant(party, server, client, method) {
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const url = new URL(server.authorization_endpoint);
  url.search = new URLSearchParams({
    client_id: client.client_id,
    redirect_uri: party.redirectUri,
    response_type: 'code',
    scope: party.scope,
    state,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  });
  // Checks `state`, and `iss` against the issuer (RFC 9207).
  const parameters = oauth.validateAuthResponse(server, client, await loggedIn(party, url), state);
  const exchanged = await oauth.authorizationCodeGrantRequest(
    server, client, method, parameters, party.redirectUri, verifier, plainHttp);
  const tokens = await oauth.processAuthorizationCodeResponse(server, client, exchanged);
  const access = issued(tokens, { refreshable: true });
  assert.equal(await opens(party, access), true);

  const refreshed = await oauth.refreshTokenGrantRequest(server, client, method, tokens.refresh_token, plainHttp);
  const renewed = await oauth.processRefreshTokenResponse(server, client, refreshed);
  const next = issued(renewed, { refreshable: true });
  assert.equal(await opens(party, next), true);
  await shut(party, access);

  if (party.clientSecret) {
    const asked = await oauth.introspectionRequest(server, client, method, next, plainHttp);
    const told = await oauth.processIntrospectionResponse(server, client, asked);
    assert.deepEqual([told.active, told.client_id, told.scope], [true, party.clientId, party.scope]);
  }

  const revoked = await oauth.revocationRequest(server, client, method, renewed.refresh_token, plainHttp);
  await oauth.processRevocationResponse(revoked);
  await shut(party, next);

  const again = await oauth.refreshTokenGrantRequest(server, client, method, renewed.refresh_token, plainHttp);
  await assert.rejects(oauth.processRefreshTokenResponse(server, client, again), { error: 'invalid_grant', status: 400 });
}

async function machine(party, server, client, method) {
  const scope = { scope: party.scope };
  const answer = await oauth.clientCredentialsGrantRequest(server, client, method, scope, plainHttp);
  const tokens = await oauth.processClientCredentialsResponse(server, client, answer);
  assert.equal(await opens(party, issued(tokens, { refreshable: false })), true);

  const wrong = oauth.ClientSecretBasic('x'.repeat(32));
  const refused = await oauth.clientCredentialsGrantRequest(server, client, wrong, scope, plainHttp);
  // A 401 with a challenge is told apart from any other refusal (RFC 6749 §5.2).
  await assert.rejects(oauth.processClientCredentialsResponse(server, client, refused), (error) => {
    assert.equal(error.status, 401);
    assert.equal(error.cause[0].scheme, 'basic');
    return true;
  });
}
