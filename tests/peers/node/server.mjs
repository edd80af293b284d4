// An MCP server on the TypeScript SDK 2.x: 2026-07-28 and, statelessly, the older revisions.
// It is open, or takes only access tokens made out to itself: signature by the issuer's keys, issuer, audience, scope.
// Environment: ISSUER (absent: open), RESOURCE (default http://127.0.0.1:PORT/mcp), NAME. Prints `listening PORT`, or
// with the argument `stdio` serves there.
import http from 'node:http';
import { createMcpExpressApp, getOAuthProtectedResourceMetadataUrl, requireBearerAuth } from '@modelcontextprotocol/express';
import { toNodeHandler } from '@modelcontextprotocol/node';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import { completable, createMcpHandler, McpServer, OAuthError, OAuthErrorCode, ResourceTemplate } from '@modelcontextprotocol/server';
import { createRemoteJWKSet, jwtVerify } from 'jose';
import * as z from 'zod/v4';

const { ISSUER, NAME = 'peer-typescript' } = process.env;
const pause = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener('abort', () => { clearTimeout(timer); reject(new Error('cancelled')); });
});
const text = (value) => ({ content: [{ type: 'text', text: typeof value === 'string' ? value : JSON.stringify(value) }] });

function build({ authInfo }) {
  const server = new McpServer({ name: NAME, version: '1.0.0' });
  server.registerTool('whoami', { description: 'Returns what the server knows of its caller.', inputSchema: z.object({}) },
    async () => text({ auth: authInfo ? { clientId: authInfo.clientId, scopes: authInfo.scopes, ...authInfo.extra } : null }));
  server.registerTool('echo', { description: 'Returns its argument.', inputSchema: z.object({ message: z.string() }), annotations: { readOnlyHint: true } },
    async ({ message }) => text(message));
  server.registerTool('add', { description: 'Adds two numbers.', inputSchema: z.object({ a: z.number(), b: z.number() }), outputSchema: z.object({ sum: z.number() }) },
    async ({ a, b }) => ({ ...text(`${a + b}`), structuredContent: { sum: a + b } }));
  server.registerTool('fail', { description: 'Fails, as a tool error.', inputSchema: z.object({}) },
    async () => ({ ...text('it failed'), isError: true }));
  server.registerTool('blob', { description: 'Returns a text of n bytes.', inputSchema: z.object({ n: z.number() }) },
    async ({ n }) => text('x'.repeat(n)));
  server.registerTool('count', { description: 'Reports progress for each step.', inputSchema: z.object({ steps: z.number() }) },
    async ({ steps }, context) => {
      const { progressToken } = context.mcpReq._meta ?? {};
      for (let progress = 1; progress <= steps; progress += 1) {
        if (progressToken !== undefined) await context.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: steps } });
        await pause(50);
      }
      return text(`counted ${steps}`);
    });
  server.registerTool('wait', { description: 'Answers after ms milliseconds; says on the console when it is cancelled.', inputSchema: z.object({ ms: z.number() }) },
    async ({ ms }, context) => {
      console.log('wait began');
      await pause(ms, context.mcpReq.signal).catch((error) => { console.log('wait cancelled'); throw error; });
      return text(`waited ${ms}`);
    });
  server.registerResource('all', 'note://all', { description: 'All notes.', mimeType: 'text/plain' },
    async ({ href }) => ({ contents: [{ uri: href, mimeType: 'text/plain', text: 'all notes' }] }));
  const names = (value) => ['ada', 'alan', 'grace'].filter((name) => name.startsWith(value));
  server.registerResource('one', new ResourceTemplate('note://of/{name}', { list: undefined, complete: { name: names } }), { description: 'The note of somebody.' },
    async ({ href }, { name }) => ({ contents: [{ uri: href, mimeType: 'text/plain', text: `the note of ${name}` }] }));
  server.registerPrompt('greet', { description: 'A greeting, and where to read on.', argsSchema: z.object({ name: completable(z.string(), names) }) },
    async ({ name }) => ({ messages: [
      { role: 'user', content: { type: 'text', text: `Greet ${name}.` } },
      { role: 'user', content: { type: 'resource_link', uri: `note://of/${name}`, name: 'one' } },
    ] }));
  return server;
}

function guard(resource) {
  const keys = createRemoteJWKSet(new URL(`${ISSUER}/jwks`));
  const verifier = {
    async verifyAccessToken(token) {
      try {
        const { payload } = await jwtVerify(token, keys, { issuer: ISSUER, audience: resource });
        return { token, clientId: payload.client_id, scopes: (payload.scope ?? '').split(' ').filter(Boolean), expiresAt: payload.exp,
          extra: { sub: payload.sub, act: payload.act, aud: payload.aud, tenant: payload.tenant } };
      } catch (error) {
        throw new OAuthError(OAuthErrorCode.InvalidToken, error.message);
      }
    },
  };
  return requireBearerAuth({ verifier, requiredScopes: ['tools:read'], resourceMetadataUrl: getOAuthProtectedResourceMetadataUrl(new URL(resource)) });
}

const app = createMcpExpressApp();
const listener = http.createServer(app);
if (process.argv[2] === 'stdio') serveStdio(() => build({}));
else listener.listen(0, '127.0.0.1', () => {
  const { port } = listener.address();
  const handler = toNodeHandler(createMcpHandler(build, { onerror: (error) => console.error(error.message) }));
  const checks = ISSUER ? [guard(process.env.RESOURCE ?? `http://127.0.0.1:${port}/mcp`)] : [];
  app.all('/mcp', ...checks, (request, response) => void handler(request, response, request.body));
  console.log(`listening ${port}`);
});
