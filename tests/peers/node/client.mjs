// A client on the TypeScript SDK 2.x, both eras. `client.mjs URL COMMANDS`; the README beside the peers has the commands.
// Environment: TOKEN (bearer), LOGIN_PORT and CLIENT_METADATA (a person logs in, see person.mjs), CLIENT_KEY and its like (it signs who it is, see machine.mjs), INPUT (answers what servers ask), ERA (auto, legacy or 2026-07-28), NODE_EXTRA_CA_CERTS (PEM of the authority to trust).
import { Client, PrivateKeyJwtProvider, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { answers, converse, provided } from './converse.mjs';
import { machine } from './machine.mjs';
import { person } from './person.mjs';

const [url, commands] = process.argv.slice(2);
const { TOKEN, ERA = 'auto', INPUT } = process.env;
const mode = ERA === 'auto' || ERA === 'legacy' ? ERA : { pin: ERA };
const client = new Client({ name: 'peer-typescript', version: '2' }, { versionNegotiation: { mode }, capabilities: INPUT ? provided : {} });
if (INPUT) for (const [method, answer] of Object.entries(answers)) client.setRequestHandler(method, answer);
const login = process.env.LOGIN_PORT ? person() : undefined;
const authProvider = login?.provider ?? machine(PrivateKeyJwtProvider);
const reach = () => new StreamableHTTPClientTransport(new URL(url), TOKEN ? { requestInit: { headers: { Authorization: `Bearer ${TOKEN}` } } } : { authProvider });
let transport = reach();

await converse(commands, {
  sdk: client,
  connect: async () => {
    await client.connect(transport).catch(async (error) => {
      if (!login?.asked()) throw error;
      await transport.finishAuth(await login.answer);
      transport = reach();
      await client.connect(transport);
    });
    return { sdk: 'typescript 2', protocol: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion, server: client.getServerVersion()?.name };
  },
  list: async () => (await client.listTools()).tools,
  call: (name, args, options) => client.callTool({ name, arguments: args }, options),
  close: () => client.close(),
});
