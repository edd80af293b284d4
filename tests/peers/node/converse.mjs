// What the two TypeScript clients share: run the commands in order, print one JSON line for each.
export const provided = { elicitation: { form: {}, url: {} }, sampling: {}, roots: {} };
// Forms are filled in with one value for every field, the model says one thing, and there is one root.
export const answers = {
  'elicitation/create': async ({ params }) => ({ action: 'accept', content: Object.fromEntries(Object.entries(params.requestedSchema?.properties ?? {})
    .map(([name, { type }]) => [name, type === 'boolean' ? true : type === 'string' ? `ada-${name}@example.test` : 1])) }),
  'sampling/createMessage': async () => ({ role: 'assistant', model: 'test', content: { type: 'text', text: 'sampled' } }),
  'roots/list': async () => ({ roots: [{ uri: 'file:///work', name: 'work' }] }),
};
const say = (line) => console.log(JSON.stringify(line));
const described = (error) => ({ code: error.code ?? null, message: error.message, data: error.data ?? null });

// What servers offer besides calls: both generations of the SDK have the same names for it.
const offers = {
  'tools/list': 'listTools', 'prompts/list': 'listPrompts', 'prompts/get': 'getPrompt', 'completion/complete': 'complete',
  'resources/list': 'listResources', 'resources/templates/list': 'listResourceTemplates', 'resources/read': 'readResource',
};

async function call(client, command) {
  const seen = [];
  const options = { timeout: 30_000 };
  if (command.progress) options.onprogress = ({ progress }) => seen.push(progress);
  if (command.cancel_after_ms === undefined) {
    const result = await client.call(command.call, command.arguments ?? {}, options);
    return command.progress ? { result, progress: seen } : { result };
  }
  const abort = new AbortController();
  setTimeout(() => abort.abort('enough'), command.cancel_after_ms);
  const cancelled = await client.call(command.call, command.arguments ?? {}, { ...options, signal: abort.signal }).then(() => false, () => abort.signal.aborted);
  // What the cancellation sends needs a moment to leave before the process ends.
  await new Promise((resolve) => setTimeout(resolve, 200));
  return { cancelled };
}

async function act(client, command) {
  if (command.list) return { tools: (await client.list()).map((tool) => tool.name) };
  if (command.ask) return { result: await client.sdk[offers[command.ask]](command.params) };
  return call(client, command);
}

export async function converse(commands, client) {
  try {
    say({ connected: await client.connect() });
  } catch (error) {
    say({ failed: described(error) });
    process.exit(1);
  }
  for (const command of JSON.parse(commands)) {
    try {
      say(await act(client, command));
    } catch (error) {
      say({ error: described(error) });
    }
  }
  await client.close();
  process.exit(0);
}
