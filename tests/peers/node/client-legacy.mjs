// A client on the TypeScript SDK 1.x, the revisions before 2026-07-28. `client-legacy.mjs URL COMMANDS`.
// Environment: TOKEN (bearer), LOGIN_PORT and CLIENT_METADATA (a person logs in, see person.mjs), CLIENT_KEY and its like (it signs who it is, see machine.mjs), INPUT (answers what servers ask), NODE_EXTRA_CA_CERTS (PEM of the authority to trust).
import { PrivateKeyJwtProvider } from '@modelcontextprotocol/sdk/client/auth-extensions.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { answers, converse, provided } from './converse.mjs';
import { machine } from './machine.mjs';
import { person } from './person.mjs';

const [url, commands] = process.argv.slice(2);
const { TOKEN, INPUT } = process.env;
const client = new Client({ name: 'peer-typescript', version: '1' }, { capabilities: INPUT ? provided : {} });
const asked = { 'elicitation/create': ElicitRequestSchema, 'sampling/createMessage': CreateMessageRequestSchema, 'roots/list': ListRootsRequestSchema };
if (INPUT) for (const [method, answer] of Object.entries(answers)) client.setRequestHandler(asked[method], answer);
const login = process.env.LOGIN_PORT ? person() : undefined;
const authProvider = login?.provider ?? machine(PrivateKeyJwtProvider);
const reach = () => new StreamableHTTPClientTransport(new URL(url), TOKEN ? { requestInit: { headers: { Authorization: `Bearer ${TOKEN}` } } } : { authProvider });
let transport = reach();

await converse(commands, {
  sdk: client,
  connect: async () => {
    await client.connect(transport).catch(async (error) => {
      if (!login?.asked()) throw error;
      await transport.finishAuth((await login.answer).get('code'));
      transport = reach();
      await client.connect(transport);
    });
    return { sdk: 'typescript 1', protocol: transport.protocolVersion, server: client.getServerVersion()?.name, session: Boolean(transport.sessionId) };
  },
  list: async () => (await client.listTools()).tools,
  call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
  close: () => client.close(),
});
