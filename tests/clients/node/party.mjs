// What happens around a client library: the user's login in the browser, and calls of the API with the token.
import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';

globalThis.crypto ??= webcrypto; // Node 18 has it, but not under the name that browsers have it under

/** Where the browser that was sent to this URL ends up, after its user has logged in and agreed. */
export async function loggedIn(party, url) {
  const sentOn = await fetch(url, { redirect: 'manual' });
  assert.equal(sentOn.status, 307);
  const request = new URL(sentOn.headers.get('location')).searchParams;
  request.set('subject', 'alice');
  const answer = await fetch(`${party.url}/api/apis/oauth/${party.apiId}/authorize-client`, {
    method: 'POST',
    headers: { authorization: party.operatorKey },
    body: request,
  });
  assert.equal(answer.status, 200);
  return new URL((await answer.json()).redirect_to);
}

/** Whether a call of the API with this token is let through. */
export async function opens(party, token) {
  const headers = {
    authorization: `Bearer ${token}`,
    'x-forwarded-uri': `${new URL(party.issuer).pathname}/things/1`,
  };
  return (await fetch(`${party.url}/verify`, { headers })).status === 200;
}

/** The token opens nothing any more, as soon as every instance has heard of it; that takes milliseconds. */
export async function shut(party, token) {
  for (const until = Date.now() + 5000; await opens(party, token);) {
    assert.ok(Date.now() < until, 'a dead token still opens the API');
    await setTimeout(20);
  }
}

/** The access token of what the library made of a token response, which is printed: logs must not have it. */
export function issued(response, { refreshable }) {
  process.stdout.write(`${JSON.stringify(response)}\n`);
  assert.equal(response.token_type.toLowerCase(), 'bearer');
  assert.equal('refresh_token' in response, refreshable);
  return response.access_token;
}
