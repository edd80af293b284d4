// A server that answers everything the official conformance suite asks of a server, in both eras, on the published
// @modelcontextprotocol/server 2.x. Written from the suite's scenario descriptions; only names and texts come from there.
// Environment: HOSTS (further Host names to accept behind a gateway, comma-separated). Prints `listening PORT`.
import { randomUUID } from 'node:crypto';
import { hostHeaderValidation } from '@modelcontextprotocol/express';
import { NodeStreamableHTTPServerTransport, toNodeHandler } from '@modelcontextprotocol/node';
import { acceptedContent, classifyInboundRequest, createMcpHandler, createRequestStateCodec, fromJsonSchema, inputRequired,
  isInitializeRequest, McpServer, ResourceTemplate } from '@modelcontextprotocol/server';
import express from 'express';
import * as z from 'zod/v4';

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg==';
const WAV = Buffer.concat([Buffer.from('RIFF'), Buffer.from([38, 0, 0, 0]), Buffer.from('WAVEfmt '), Buffer.from([16, 0, 0, 0, 1, 0, 1, 0, 64, 31, 0, 0, 128, 62, 0, 0, 2, 0, 16, 0]), Buffer.from('data'), Buffer.from([2, 0, 0, 0, 0, 0])]).toString('base64');
const pause = (ms = 50) => new Promise((r) => setTimeout(r, ms));
const say = (text, more) => ({ content: [{ type: 'text', text }], ...more });
const ask = (message, properties) => inputRequired.elicit({ message, requestedSchema: { type: 'object', properties, required: Object.keys(properties) } });
const sample = (text, maxTokens = 100) => inputRequired.createMessage({ messages: [{ role: 'user', content: { type: 'text', text } }], maxTokens });
const state = createRequestStateCodec({ key: crypto.getRandomValues(new Uint8Array(32)) });
const sessions = new Map();                                          // legacy: session id -> { transport, server }

const schema2020 = { $schema: 'https://json-schema.org/draft/2020-12/schema', type: 'object',
  $defs: { address: { $anchor: 'addressDef', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } } },
  properties: { name: { type: 'string' }, address: { $ref: '#/$defs/address' }, contactMethod: { type: 'string', enum: ['phone', 'email'] }, phone: { type: 'string' }, email: { type: 'string' } },
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }], if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  then: { required: ['phone'] }, else: { required: ['email'] }, additionalProperties: false };
const defaults = { name: { type: 'string', default: 'John Doe' }, age: { type: 'integer', default: 30 }, score: { type: 'number', default: 95.5 },
  status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' }, verified: { type: 'boolean', default: true } };
const titled = (...t) => t.map((title, i) => ({ const: `value${i + 1}`, title }));
const opts = ['option1', 'option2', 'option3'];
const enums = { untitledSingle: { type: 'string', enum: opts }, titledSingle: { type: 'string', oneOf: titled('First Option', 'Second Option', 'Third Option') },
  legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
  untitledMulti: { type: 'array', items: { type: 'string', enum: opts } }, titledMulti: { type: 'array', items: { anyOf: titled('First Choice', 'Second Choice', 'Third Choice') } } };

function build() {
  const s = new McpServer({ name: 'peer-fixture', version: '1.0.0' }, {
    capabilities: { tools: { listChanged: true }, resources: { subscribe: true, listChanged: true }, prompts: { listChanged: true }, logging: {}, completions: {} },
    requestState: { verify: state.verify } });
  const tool = (name, run, inputSchema = z.object({})) => s.registerTool(name, { description: `Conformance fixture ${name}`, inputSchema }, run);
  const constant = (name, ...content) => tool(name, async () => ({ content }));
  const text = (t) => ({ type: 'text', text: t });
  const image = { type: 'image', data: PNG, mimeType: 'image/png' };

  constant('test_simple_text', text('This is a simple text response for testing.'));
  constant('test_image_content', image);
  constant('test_audio_content', { type: 'audio', data: WAV, mimeType: 'audio/wav' });
  constant('test_embedded_resource', { type: 'resource', resource: { uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.' } });
  constant('test_multiple_content_types', text('Multiple content types test:'), image, { type: 'resource', resource: { uri: 'test://mixed-content-resource', mimeType: 'application/json', text: '{"test":"data","value":123}' } });
  constant('test_streaming_elicitation', text('one frame'));
  tool('test_error_handling', async () => { throw new Error('This tool intentionally returns an error for testing'); });
  tool('json_schema_2020_12_tool', async (a) => say(JSON.stringify(a)), fromJsonSchema(schema2020));
  tool('test_x_mcp_header', async ({ region }) => say(`region ${region}`), fromJsonSchema({ type: 'object', properties: { region: { type: 'string', 'x-mcp-header': 'Region' }, level: { type: 'integer' } } }));

  // what a server sends while a call runs
  tool('test_tool_with_logging', async (_, ctx) => {
    for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      await ctx.mcpReq.notify({ method: 'notifications/message', params: { level: 'info', data } }); await pause(); }
    return say('logged');
  });
  tool('test_logging_tool', async (_, ctx) => { await ctx.mcpReq.log('info', 'only with a log level'); return say('logged'); });
  tool('test_tool_with_progress', async (_, ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progressToken !== undefined) await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
      await pause(); }
    return say('done');
  });
  tool('test_reconnection', async (_, ctx) => { sessions.get(ctx.sessionId)?.transport.closeSSEStream(ctx.mcpReq.id); await pause(100); return say('delivered after the stream was closed'); });

  // what a server asks of the client: by an answer, which the package makes a request of in the older revisions
  const asked = (name, params, inputSchema) => tool(name, async (a, ctx) => {
    const r = ctx.mcpReq.inputResponses?.asked;
    return r ? say(`Elicitation completed: action=${r.action}, content=${JSON.stringify(r.content ?? {})}`)
      : inputRequired({ inputRequests: { asked: inputRequired.elicit(params(a)) } }); }, inputSchema);
  tool('test_sampling', async ({ prompt }, ctx) => {
    const r = ctx.mcpReq.inputResponses?.asked;
    return r ? say(`LLM response: ${r.content?.text ?? JSON.stringify(r.content)}`) : inputRequired({ inputRequests: { asked: sample(prompt) } }); }, z.object({ prompt: z.string() }));
  asked('test_elicitation', ({ message }) => ({ message, requestedSchema: { type: 'object', properties: { username: { type: 'string', description: "User's response" }, email: { type: 'string', description: "User's email address" } }, required: ['username', 'email'] } }), z.object({ message: z.string() }));
  asked('test_elicitation_sep1034_defaults', () => ({ message: 'Review the defaults', requestedSchema: { type: 'object', properties: defaults, required: [] } }));
  asked('test_elicitation_sep1330_enums', () => ({ message: 'Choose', requestedSchema: { type: 'object', properties: enums, required: [] } }));

  // multi round trip requests (2026-07-28): answer "input required" until the inputs are there
  const mrtr = (name, run) => tool(name, async (_, ctx) => run(ctx.mcpReq.inputResponses, ctx));
  mrtr('test_input_required_result_elicitation', (r) => {
    const name = acceptedContent(r, 'user_name')?.name;
    return typeof name === 'string' ? say(`Hello, ${name}!`) : inputRequired({ inputRequests: { user_name: ask('What is your name?', { name: { type: 'string' } }) } }); });
  mrtr('test_input_required_result_sampling', (r) => r?.capital_question?.content
    ? say([].concat(r.capital_question.content)[0].text ?? '') : inputRequired({ inputRequests: { capital_question: sample('What is the capital of France?') } }));
  mrtr('test_input_required_result_list_roots', (r) => Array.isArray(r?.client_roots?.roots)
    ? say(`roots: ${r.client_roots.roots.map((x) => x.uri).join(' ')}`) : inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } }));
  mrtr('test_missing_capability', (r) => r?.answer ? say('answered') : inputRequired({ inputRequests: { answer: sample('Answer with one word.', 10) } }));
  mrtr('test_input_required_result_request_state', async (r, ctx) => acceptedContent(r, 'confirm') && ctx.mcpReq.requestState()?.for === 'confirm'
    ? say('state-ok') : inputRequired({ inputRequests: { confirm: ask('Please confirm', { ok: { type: 'boolean' } }) }, requestState: await state.mint({ for: 'confirm' }) }));
  mrtr('test_input_required_result_tampered_state', async (r, ctx) => acceptedContent(r, 'confirm') && ctx.mcpReq.requestState()
    ? say('untampered') : inputRequired({ inputRequests: { confirm: ask('Please confirm', { ok: { type: 'boolean' } }) }, requestState: await state.mint({ n: randomUUID() }) }));
  mrtr('test_input_required_result_multiple_inputs', async (r) => r?.user_name && r?.greeting && r?.client_roots ? say('all three arrived') : inputRequired({
    inputRequests: { user_name: ask('What is your name?', { name: { type: 'string' } }), greeting: sample('Generate a greeting', 50), client_roots: inputRequired.listRoots() }, requestState: await state.mint({ three: true }) }));
  mrtr('test_input_required_result_multi_round', async (r, ctx) => {
    const at = ctx.mcpReq.requestState()?.step;
    if (at === 2 && acceptedContent(r, 'step2')) return say(`${ctx.mcpReq.requestState().name} likes ${acceptedContent(r, 'step2').color}`);
    if (at === 1 && acceptedContent(r, 'step1')) return inputRequired({ inputRequests: { step2: ask('Step 2: What is your favorite color?', { color: { type: 'string' } }) }, requestState: await state.mint({ step: 2, name: acceptedContent(r, 'step1').name }) });
    return inputRequired({ inputRequests: { step1: ask('Step 1: What is your name?', { name: { type: 'string' } }) }, requestState: await state.mint({ step: 1 }) }); });
  mrtr('test_input_required_result_capabilities', (r) => {
    if (r) return say('inputs arrived');
    const can = s.server.getClientCapabilities() ?? {};
    const inputRequests = { ...(can.sampling && { s: sample('Say hello') }), ...(can.elicitation && { e: ask('Your name?', { name: { type: 'string' } }) }), ...(can.roots && { l: inputRequired.listRoots() }) };
    return Object.keys(inputRequests).length ? inputRequired({ inputRequests }) : say('nothing to ask with'); });
  tool('test_trigger_tool_change', async () => { modern.notify.toolsChanged(); sessions.forEach(({ server }) => server.sendToolListChanged()); return say('announced'); });
  tool('test_trigger_prompt_change', async () => { modern.notify.promptsChanged(); sessions.forEach(({ server }) => server.sendPromptListChanged()); return say('announced'); });

  const doc = (name, uri, mimeType, read) => s.registerResource(name, uri, { description: `Conformance fixture ${name}`, mimeType }, read);
  doc('static-text', 'test://static-text', 'text/plain', async (u) => ({ contents: [{ uri: u.href, mimeType: 'text/plain', text: 'This is the content of the static text resource.' }] }));
  doc('static-binary', 'test://static-binary', 'image/png', async (u) => ({ contents: [{ uri: u.href, mimeType: 'image/png', blob: PNG }] }));
  doc('watched-resource', 'test://watched-resource', 'text/plain', async (u) => ({ contents: [{ uri: u.href, mimeType: 'text/plain', text: 'watched' }] }));
  doc('template', new ResourceTemplate('test://template/{id}/data', { list: undefined }), 'application/json', async (u, { id }) => ({ contents: [{ uri: u.href, mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }] }));
  const subscribed = new Set();
  s.server.setRequestHandler('resources/subscribe', async ({ params }) => { subscribed.add(params.uri); return {}; });
  s.server.setRequestHandler('resources/unsubscribe', async ({ params }) => { subscribed.delete(params.uri); return {}; });
  s.server.setRequestHandler('logging/setLevel', async () => ({}));
  s.server.setRequestHandler('completion/complete', async ({ params }) => { const values = ['paris', 'park', 'party'].filter((v) => v.startsWith(params.argument.value)); return { completion: { values, total: values.length, hasMore: false } }; });

  const prompt = (name, args, messages) => s.registerPrompt(name, { description: `Conformance fixture ${name}`, ...(args && { argsSchema: z.object(Object.fromEntries(args.map((a) => [a, z.string()]))) }) }, messages);
  const user = (content) => ({ role: 'user', content });
  prompt('test_simple_prompt', null, async () => ({ messages: [user(text('This is a simple prompt for testing.'))] }));
  prompt('test_prompt_with_arguments', ['arg1', 'arg2'], async ({ arg1, arg2 }) => ({ messages: [user(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))] }));
  prompt('test_prompt_with_embedded_resource', ['resourceUri'], async ({ resourceUri }) => ({ messages: [user({ type: 'resource', resource: { uri: resourceUri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' } }), user(text('Please process the embedded resource above.'))] }));
  prompt('test_prompt_with_image', null, async () => ({ messages: [user(image), user(text('Please analyze the image above.'))] }));
  prompt('test_input_required_result_prompt', null, async (ctx) => {
    const got = acceptedContent(ctx.mcpReq.inputResponses, 'user_context')?.context;
    return typeof got === 'string' ? { messages: [user(text(`Context: ${got}`))] } : inputRequired({ inputRequests: { user_context: ask('What context should the prompt use?', { context: { type: 'string' } }) } }); });
  return s;
}

const modern = createMcpHandler(build, { onerror: (e) => console.error('modern:', e.message) });
const modernNode = toNodeHandler(modern);
const events = [];                                                    // legacy resumability: every event of every stream, in order
const eventStore = {
  storeEvent: async (stream, message) => `${stream}~${events.push({ stream, message })}`,
  replayEventsAfter: async (last, { send }) => { const [stream, n] = last.split('~');
    for (let i = Number(n); i < events.length; i++) if (events[i].stream === stream && Object.keys(events[i].message ?? {}).length) await send(`${stream}~${i + 1}`, events[i].message);
    return stream; },
};
const refuse = (res, status, code, message) => res.status(status).json({ jsonrpc: '2.0', id: null, error: { code, message } });
const one = (v) => (Array.isArray(v) ? v[0] : v);

const app = express();
app.use(hostHeaderValidation(['localhost', '127.0.0.1', '[::1]', ...(process.env.HOSTS?.split(',') ?? [])]));
app.use((req, res, next) => { const o = req.headers.origin; if (!o || ['localhost', '127.0.0.1', '[::1]'].includes(new URL(o).hostname)) return next(); refuse(res, 403, -32000, 'Origin not allowed'); });
app.use(express.json({ limit: '8mb' }));
app.all('/mcp', async (req, res) => {
  const id = one(req.headers['mcp-session-id']);
  if (req.method === 'POST' && classifyInboundRequest({ httpMethod: 'POST', protocolVersionHeader: one(req.headers['mcp-protocol-version']), mcpMethodHeader: one(req.headers['mcp-method']), body: req.body }).kind !== 'legacy')
    return modernNode(req, res, req.body);
  let known = sessions.get(id);
  if (!known && id) return refuse(res, 404, -32001, 'Session not found');
  if (!known && !(req.method === 'POST' && isInitializeRequest(req.body))) return refuse(res, 400, -32000, 'A session is required');
  if (!known) {
    const server = build();
    const transport = new NodeStreamableHTTPServerTransport({ sessionIdGenerator: () => randomUUID(), eventStore, retryInterval: 500, onsessioninitialized: (sid) => { sessions.set(sid, { transport, server }); } });
    transport.onclose = () => sessions.delete(transport.sessionId);
    await server.connect(transport); known = { transport };
  }
  await known.transport.handleRequest(req, res, req.body);
});
const listener = app.listen(0, '127.0.0.1', () => console.log(`listening ${listener.address().port}`));
