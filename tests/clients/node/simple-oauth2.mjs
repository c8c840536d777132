// simple-oauth2: told where each endpoint is; knows PKCE only as parameters that it passes on.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { AuthorizationCode, ClientCredentials } from 'simple-oauth2';
import { issued, loggedIn, opens, shut } from './party.mjs';

export async function run(party) {
  for (const authorizationMethod of ['header', 'body']) {
    const { origin, pathname } = new URL(party.issuer);
    const configuration = {
      client: { id: party.clientId, secret: party.clientSecret },
      auth: {
        tokenHost: origin,
        tokenPath: `${pathname}/oauth/token`,
        revokePath: `${pathname}/oauth/revoke`,
        authorizePath: `${pathname}/oauth/authorize`,
      },
      options: { authorizationMethod },
    };
    await grant(party, new AuthorizationCode(configuration));
    const { auth: { authorizePath, ...auth }, ...rest } = configuration;
    await machine(party, new ClientCredentials({ ...rest, auth }));
  }
}

async function grant(party, client) {
  const verifier = randomBytes(32).toString('base64url');
  const state = randomBytes(16).toString('base64url');
  const url = client.authorizeURL({
    redirect_uri: party.redirectUri,
    scope: party.scope,
    state,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  });
  const redirect = (await loggedIn(party, url)).searchParams;
  assert.equal(redirect.get('state'), state);
  const first = await client.getToken({
    code: redirect.get('code'), redirect_uri: party.redirectUri, code_verifier: verifier,
  });
  const access = issued(first.token, { refreshable: true });
  assert.equal(await opens(party, access), true);

  const second = await first.refresh();
  const next = issued(second.token, { refreshable: true });
  assert.equal(await opens(party, next), true);
  await shut(party, access);

  await second.revokeAll();
  await shut(party, next);
  await assert.rejects(second.refresh(), (error) => error.output.statusCode === 400);
}

async function machine(party, client) {
  const token = await client.getToken({ scope: party.scope });
  const access = issued(token.token, { refreshable: false });
  assert.equal(await opens(party, access), true);
  await token.revoke('access_token');
  await shut(party, access);
}
