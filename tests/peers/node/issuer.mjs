// A real authorization server on loopback: npm oidc-provider, an OpenID-certified one, set up for an MCP estate.
// Its own: code + PKCE, refresh, client credentials, registration, resource indicators (RFC 8707) with JWT access tokens.
// It binds tokens to the key of a DPoP proof (RFC 9449), and those of `agent-tls` and `gateway-tls` to a certificate (RFC 8705): that
// of the connection, or its DER, in base64, in the header `client-certificate`, where a proxy that ends TLS would put it.
// Added here: RFC 8693 token exchange, identity assertions for other domains (ID-JAG) and their redemption, and logins without
// pages (`login_hint`, or else "alice", is logged in and consents).
// Environment: TOKEN_TTL (seconds), FACADE_CALLBACK (the redirect URIs of the client `facade`, a gateway that people log in
// through, separated by blanks), CLIENT_KEY (a public JWK: the client `gateway-key` proves itself with it), CALLBACKS (where the client
// `gateway-pages` sends browsers back to, separated by blanks), TRUSTS (the issuer whose assertions are redeemed),
// OPAQUE (access tokens are opaque), GONE (a folder: the client `facade` is given refresh tokens, and whoever has a file of their
// name there is no user any more), TLS_CERTIFICATE, TLS_KEY and TLS_CLIENT_CA (PEM files: all of it is there by TLS as well, where
// clients may show a certificate, and the client `gateway-tls` proves itself with one for the URI spiffe://tests/gateway).
// Prints `listening PORT`, and before that `tls PORT`, where it is; the issuer is http://127.0.0.1:PORT.
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import Provider, { errors } from 'oidc-provider';
import * as jose from 'jose';

const TTL = Number(process.env.TOKEN_TTL ?? 300);
const SCOPES = 'mcp tools:read tools:call admin';
const USERS = {
  alice: { email: 'alice@example.test', groups: ['engineering', 'admins'], tenant: 'acme' },
  bob: { email: 'bob@example.test', groups: ['support'], tenant: 'acme' },
  carol: { email: 'carol@globex.test', groups: ['engineering'], tenant: 'globex' },
};
const TYPE = 'urn:ietf:params:oauth:token-type:';
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const REDEEM = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const TRUSTS = process.env.TRUSTS;

const pair = await jose.generateKeyPair('ES256', { extractable: true });
const signingKey = { ...(await jose.exportJWK(pair.privateKey)), kid: `es256-${crypto.randomBytes(4).toString('hex')}`, alg: 'ES256', use: 'sig' };
const rsa = await jose.generateKeyPair('RS256', { extractable: true });
const rsaKey = { ...(await jose.exportJWK(rsa.privateKey)), kid: `rs256-${crypto.randomBytes(4).toString('hex')}`, alg: 'RS256', use: 'sig' };

const clients = [
  { client_id: 'gateway', client_secret: 'gateway-secret', token_endpoint_auth_method: 'client_secret_basic', redirect_uris: [], response_types: [],
    grant_types: ['client_credentials', EXCHANGE, ...(TRUSTS ? [REDEEM] : [])], scope: `openid ${SCOPES}` },
  { client_id: 'agent', client_secret: 'agent-secret', redirect_uris: [], response_types: [], grant_types: ['client_credentials'], scope: SCOPES },
  { client_id: 'agent-tls', client_secret: 'agent-secret', redirect_uris: [], response_types: [], grant_types: ['client_credentials'], scope: SCOPES,
    tls_client_certificate_bound_access_tokens: true },
  { client_id: 'webapp', client_secret: 'webapp-secret', redirect_uris: ['http://127.0.0.1:3000/callback'],
    grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'] },
];
if (process.env.FACADE_CALLBACK) {
  clients.push({ client_id: 'facade', client_secret: 'facade-secret', redirect_uris: process.env.FACADE_CALLBACK.split(' '),
    grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'], id_token_signed_response_alg: 'ES256' });
}
if (process.env.CALLBACKS) {
  clients.push({ client_id: 'gateway-pages', client_secret: 'pages-secret', id_token_signed_response_alg: 'ES256', redirect_uris: process.env.CALLBACKS.split(' '), response_types: ['code'],
    grant_types: ['authorization_code', 'refresh_token', EXCHANGE, ...(TRUSTS ? [REDEEM] : [])] });
}
if (process.env.CLIENT_KEY) {
  const { client_secret: _, ...gateway } = clients[0];
  clients.push({ ...gateway, client_id: 'gateway-key', token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256', jwks: { keys: [JSON.parse(process.env.CLIENT_KEY)] } });
}

const { TLS_CERTIFICATE, TLS_KEY, TLS_CLIENT_CA } = process.env;
if (TLS_CERTIFICATE) {
  const { client_secret: _, ...gateway } = clients[0];
  clients.push({ ...gateway, client_id: 'gateway-tls', token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_san_uri: 'spiffe://tests/gateway', tls_client_certificate_bound_access_tokens: true });
}

const format = process.env.OPAQUE ? { accessTokenFormat: 'opaque' } : { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } };
const resourceServer = (uri) => ({ scope: SCOPES, audience: uri, accessTokenTTL: TTL, ...format });
const gone = (id) => process.env.GONE && fs.existsSync(`${process.env.GONE}/${id}`);
const account = (id) => gone(id) ? undefined : USERS[id] && {
  accountId: id,
  claims: async () => ({ sub: id, name: id, email: USERS[id].email, email_verified: true, groups: USERS[id].groups, tenant: USERS[id].tenant }),
};

const certificateOf = (context) => {
  const header = context.get('client-certificate');
  const der = context.req.socket.getPeerCertificate?.()?.raw ?? (header && Buffer.from(header, 'base64'));
  return der ? new crypto.X509Certificate(der) : undefined;
};

function issue(issuer) {
  const provider = new Provider(issuer, {
    jwks: { keys: [signingKey, rsaKey] },
    clients,
    findAccount: (_, id) => account(id),
    scopes: ['openid', 'offline_access', ...SCOPES.split(' ')],
    // Who reads nothing but ID tokens finds everything there.
    conformIdTokenClaims: false,
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none', 'tls_client_auth'],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'groups', 'tenant'] },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    issueRefreshToken: async (_, client) => client.clientId === 'gateway-pages' || (Boolean(process.env.GONE) && client.clientId === 'facade'),
    ...(TRUSTS && { discovery: { authorization_grant_profiles_supported: ['urn:ietf:params:oauth:grant-profile:id-jag'] } }),
    ttl: { AccessToken: TTL, ClientCredentials: TTL, IdToken: 600, Grant: 86_400, Session: 86_400, Interaction: 600, RefreshToken: 86_400 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      dPoP: { enabled: true },
      mTLS: {
        enabled: true, certificateBoundAccessTokens: true, tlsClientAuth: true, getCertificate: certificateOf,
        certificateAuthorized: (context) => context.req.socket.authorized === true,
        certificateSubjectMatches: (context, property, expected) => property === 'tls_client_auth_san_uri' && certificateOf(context).subjectAltName === `URI:${expected}`,
      },
      introspection: { enabled: true },
      revocation: { enabled: true },
      registration: { enabled: true, initialAccessToken: false },
      resourceIndicators: { enabled: true, getResourceServerInfo: async (_, uri) => resourceServer(uri), useGrantedResource: async () => true },
    },
    extraTokenClaims: async (context, token) => {
      const user = USERS[token.accountId];
      return { ...(user && { groups: user.groups, tenant: user.tenant }), ...(context.state?.act && { act: context.state.act }) };
    },
    loadExistingGrant: async (context) => {
      const { client, session, params } = context.oidc;
      const known = context.oidc.result?.consent?.grantId ?? session.grantIdFor(client.clientId);
      if (known) return provider.Grant.find(known);
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope(`openid offline_access email profile ${params.scope ?? ''}`);
      for (const uri of [].concat(params.resource ?? [])) grant.addResourceScope(uri, SCOPES);
      await grant.save();
      return grant;
    },
  });
  for (const event of ['server_error', 'grant.error', 'authorization.error']) provider.on(event, (_, error) => console.error(event, error.message, error.error_description ?? ''));
  provider.use(async (context, next) => {
    if (!context.path.startsWith('/interaction/')) return next();
    const { prompt, params, session } = await provider.interactionDetails(context.req, context.res);
    const accountId = session?.accountId ?? (USERS[params.login_hint] ? params.login_hint : 'alice');
    context.respond = false;
    await provider.interactionFinished(context.req, context.res, prompt.name === 'login' ? { login: { accountId } } : { consent: {} }, { mergeWithLastSubmission: true });
  });
  provider.registerGrantType(EXCHANGE, (context) => exchange(provider, issuer, context),
    ['audience', 'resource', 'scope', 'requested_token_type', 'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type'], ['audience', 'resource']);
  if (TRUSTS) provider.registerGrantType(REDEEM, (context) => redeem(provider, issuer, context), ['assertion', 'scope']);
  return provider;
}

// An identity assertion for another domain: `audience` is that domain's issuer, where the client has the same name as here.
async function assert(issuer, { params, client }, subject) {
  const claims = { client_id: client.clientId, resource: params.resource, scope: params.scope };
  return new jose.SignJWT(claims).setProtectedHeader({ alg: 'ES256', typ: 'oauth-id-jag+jwt', kid: signingKey.kid })
    .setIssuer(issuer).setSubject(subject).setAudience(params.audience).setJti(crypto.randomUUID()).setIssuedAt().setExpirationTime('2m').sign(pair.privateKey);
}

// Each assertion once, and for this server, this client and a trusted issuer only.
const redeemed = new Set();
async function redeem(provider, issuer, context) {
  const { params, client } = context.oidc;
  const need = (holds, message) => { if (!holds) throw new errors.InvalidGrant(message); };
  const keys = jose.createRemoteJWKSet(new URL(`${TRUSTS}/jwks`));
  const read = jose.jwtVerify(params.assertion ?? '', keys, { issuer: TRUSTS, audience: issuer, typ: 'oauth-id-jag+jwt' });
  const { payload } = await read.catch((error) => need(false, `bad assertion: ${error.message}`));
  need(payload.client_id === client.clientId, 'the assertion is made out to another client');
  need(!redeemed.has(payload.jti), 'the assertion was used already');
  redeemed.add(payload.jti);
  const token = new provider.AccessToken({ accountId: payload.sub, client, gty: 'id_jag', grantId: `id-jag-${crypto.randomUUID()}` });
  const given = (payload.scope ?? '').split(' ').filter((scope) => SCOPES.split(' ').includes(scope));
  token.scope = given.filter((scope) => !params.scope || params.scope.split(' ').includes(scope)).join(' ') || undefined;
  token.resourceServer = new provider.ResourceServer(payload.resource, resourceServer(payload.resource));
  context.body = { access_token: await token.save(), token_type: 'Bearer', expires_in: token.expiration, scope: token.scope };
}

// RFC 8693 §2: a JWT access token of this issuer, whatever its audience, becomes one for the resource that is named.
async function exchange(provider, issuer, context) {
  const { params, client } = context.oidc;
  const need = (holds, Refusal, message) => { if (!holds) throw new Refusal(message); };
  const { d, p, q, dp, dq, qi, ...publicKey } = signingKey;
  const keys = jose.createLocalJWKSet({ keys: [publicKey] });
  const read = (jwt) => jose.jwtVerify(jwt, keys, { issuer }).then(({ payload }) => payload, (error) => { throw new errors.InvalidGrant(`bad token: ${error.message}`); });

  need(params.subject_token && params.subject_token_type, errors.InvalidRequest, 'subject_token and subject_token_type are required');
  if (params.requested_token_type === `${TYPE}id-jag`) {
    const kind = params.subject_token_type;
    const known = kind === `${TYPE}refresh_token` ? await provider.RefreshToken.find(params.subject_token) : undefined;
    need(kind !== `${TYPE}refresh_token` || (known?.isValid && known.clientId === client.clientId), errors.InvalidGrant, 'bad refresh token');
    const claims = known ? { sub: known.accountId } : await read(params.subject_token);
    need(kind !== `${TYPE}id_token` || claims.aud === client.clientId, errors.InvalidGrant, 'the ID token is made out to another client');
    need(USERS[claims.sub], errors.InvalidGrant, 'nobody to assert');
    const assertion = await assert(issuer, context.oidc, claims.sub);
    context.body = { access_token: assertion, issued_token_type: `${TYPE}id-jag`, token_type: 'N_A', expires_in: 120, scope: params.scope };
    return;
  }
  need([`${TYPE}access_token`, `${TYPE}jwt`].includes(params.subject_token_type), errors.InvalidRequest, 'unsupported subject_token_type');
  need([undefined, `${TYPE}access_token`, `${TYPE}jwt`].includes(params.requested_token_type), errors.InvalidRequest, 'unsupported requested_token_type');
  const subject = await read(params.subject_token);
  const actor = params.actor_token ? await read(params.actor_token) : undefined;
  const target = [].concat(params.resource ?? [], params.audience ?? [])[0];
  need(target, errors.InvalidTarget, 'resource or audience is required');
  const held = (subject.scope ?? '').split(' ').filter(Boolean);
  const asked = params.scope ? params.scope.split(' ') : held;
  need(asked.every((scope) => held.includes(scope)), errors.InvalidScope, 'requested scope exceeds what the subject token holds');

  const token = USERS[subject.sub]
    ? new provider.AccessToken({ accountId: subject.sub, client, gty: 'token_exchange', grantId: `exchange-${crypto.randomUUID()}` })
    : new provider.ClientCredentials({ client });
  token.scope = asked.filter((scope) => SCOPES.split(' ').includes(scope)).join(' ') || undefined;
  token.resourceServer = new provider.ResourceServer(target, resourceServer(target));
  if (client.tlsClientCertificateBoundAccessTokens) token.setThumbprint('x5t', certificateOf(context));
  context.state ??= {};
  context.state.act = { sub: actor?.sub ?? client.clientId, ...(subject.act && { act: subject.act }) };
  context.body = { access_token: await token.save(), issued_token_type: `${TYPE}access_token`, token_type: 'Bearer', expires_in: token.expiration, scope: token.scope };
}

const listener = http.createServer();
listener.listen(0, '127.0.0.1', () => {
  const { port } = listener.address();
  const handle = issue(`http://127.0.0.1:${port}`).callback();
  listener.on('request', (request, response) => {
    // RFC 8414 §3: the library serves OpenID's location only, and MCP clients ask at both.
    if (request.url.split('?')[0] === '/.well-known/oauth-authorization-server') request.url = '/.well-known/openid-configuration';
    handle(request, response);
  });
  if (!TLS_CERTIFICATE) return console.log(`listening ${port}`);
  const [cert, key, ca] = [TLS_CERTIFICATE, TLS_KEY, TLS_CLIENT_CA].map((file) => fs.readFileSync(file));
  const mutual = https.createServer({ cert, key, ca, requestCert: true, rejectUnauthorized: false }, handle);
  mutual.listen(0, '127.0.0.1', () => console.log(`tls ${mutual.address().port}\nlistening ${port}`));
});
