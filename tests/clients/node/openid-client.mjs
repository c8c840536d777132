// openid-client: configured by nothing but the issuer and the client's own credentials.
import assert from 'node:assert/strict';
import * as client from 'openid-client';
import { issued, loggedIn, opens, shut } from './party.mjs';

export async function run(party) {
  const methods = party.clientSecret
    ? [client.ClientSecretBasic(party.clientSecret), client.ClientSecretPost(party.clientSecret)]
    : [client.None()];
  for (const method of methods) {
    const configuration = await client.discovery(new URL(party.issuer), party.clientId, undefined, method, {
      algorithm: 'oauth2',
      execute: [client.allowInsecureRequests],
    });
    await grant(party, configuration);
    if (party.clientSecret) await machine(party, configuration);
  }
}

async function grant(party, configuration) {
  const verifier = client.randomPKCECodeVerifier();
  const state = client.randomState();
  const url = client.buildAuthorizationUrl(configuration, {
    redirect_uri: party.redirectUri,
    scope: party.scope,
    state,
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  });
  const checks = { pkceCodeVerifier: verifier, expectedState: state };
  const tokens = await client.authorizationCodeGrant(configuration, await loggedIn(party, url), checks);
  const access = issued(tokens, { refreshable: true });
  assert.ok(tokens.expiresIn() > 0);
  assert.equal(await opens(party, access), true);

  const renewed = await client.refreshTokenGrant(configuration, tokens.refresh_token);
  const next = issued(renewed, { refreshable: true });
  assert.equal(await opens(party, next), true);
  await shut(party, access);

  if (party.clientSecret) {
    const told = await client.tokenIntrospection(configuration, next);
    assert.deepEqual([told.active, told.client_id, told.scope], [true, party.clientId, party.scope]);
  }

  await client.tokenRevocation(configuration, renewed.refresh_token, { token_type_hint: 'refresh_token' });
  await shut(party, next);
  await assert.rejects(client.refreshTokenGrant(configuration, renewed.refresh_token), { error: 'invalid_grant' });
}

async function machine(party, configuration) {
  const tokens = await client.clientCredentialsGrant(configuration, { scope: party.scope });
  const access = issued(tokens, { refreshable: false });
  assert.equal(await opens(party, access), true);
  await client.tokenRevocation(configuration, access);
  await shut(party, access);
}
