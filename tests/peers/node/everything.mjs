// npm server-everything, streamable HTTP with sessions, the revisions before 2026-07-28. Prints `listening PORT`.
// The package takes its port from the environment and cannot choose one, so one is chosen for it.
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

const port = await free();
process.env.PORT = String(port);
process.argv[2] = 'streamableHttp';
await import('@modelcontextprotocol/server-everything/dist/index.js');
while (!(await answers(port))) await new Promise((resolve) => setTimeout(resolve, 20));
console.log(`listening ${port}`);
