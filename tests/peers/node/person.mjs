// How the two TypeScript clients have a person log in: the page that is to be opened is printed, and whoever opens it comes back to a port of this program.
// Environment: LOGIN_PORT (that port), CLIENT_METADATA (the URL that the client is known by, where the server takes such).
import crypto from 'node:crypto';
import http from 'node:http';

export function person() {
  const { LOGIN_PORT, CLIENT_METADATA } = process.env;
  const redirectUrl = `http://127.0.0.1:${LOGIN_PORT}/callback`;
  const kept = {};
  let asked = false;
  const answer = new Promise((resolve) => {
    http.createServer((request, response) => {
      response.end('back');
      resolve(new URL(request.url, redirectUrl).searchParams);
    }).listen(Number(LOGIN_PORT), '127.0.0.1');
  });
  const provider = {
    redirectUrl,
    clientMetadataUrl: CLIENT_METADATA,
    clientMetadata: {
      client_name: 'Peer', redirect_uris: [redirectUrl], grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'], token_endpoint_auth_method: 'none', application_type: 'native',
    },
    state: () => crypto.randomUUID(),
    clientInformation: () => kept.client,
    saveClientInformation: (client) => { kept.client = client; },
    tokens: () => kept.tokens,
    saveTokens: (tokens) => { kept.tokens = tokens; },
    redirectToAuthorization: (page) => {
      asked = true;
      console.log(JSON.stringify({ login: page.href }));
    },
    saveCodeVerifier: (verifier) => { kept.verifier = verifier; },
    codeVerifier: () => kept.verifier,
  };
  return { provider, answer, asked: () => asked };
}
