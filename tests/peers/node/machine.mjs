// How the two TypeScript clients prove who they are in their own name, by a key (RFC 7523 §2.2): each with the provider of its own SDK.
// Environment: CLIENT_KEY (the file of a P-256 key), CLIENT_ID, CLIENT_ISSUER (the authorization server that knows it).
import fs from 'node:fs';

export function machine(Provider) {
  const { CLIENT_KEY, CLIENT_ID, CLIENT_ISSUER } = process.env;
  if (!CLIENT_KEY) return undefined;
  return new Provider({ clientId: CLIENT_ID, privateKey: fs.readFileSync(CLIENT_KEY, 'utf8'), algorithm: 'ES256', expectedIssuer: CLIENT_ISSUER });
}
