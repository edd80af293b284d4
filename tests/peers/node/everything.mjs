// npm server-everything, the revisions before 2026-07-28, on the transport that is named: `streamableHttp` with sessions
// unless another is, `sse`, or `stdio`. Over HTTP it prints `listening PORT`.
// The package takes its port from the environment (PORT) and cannot choose one; where none is given one is chosen for it.
import net from 'node:net';

const free = () => new Promise((resolve) => {
  const probe = net.createServer().listen(0, '127.0.0.1', () => {
    const { port } = probe.address();
    probe.close(() => resolve(port));
  });
});
const answers = (port) => new Promise((resolve) => {
  const socket = net.connect(port, '127.0.0.1', () => { socket.destroy(); resolve(true); });
  socket.on('error', () => resolve(false));
});

process.argv[2] ??= 'streamableHttp';
const port = process.env.PORT ?? await free();
process.env.PORT = String(port);
await import('@modelcontextprotocol/server-everything/dist/index.js');
if (process.argv[2] !== 'stdio') {
  while (!(await answers(port))) await new Promise((resolve) => setTimeout(resolve, 20));
  console.log(`listening ${port}`);
}
