"""An MCP server on the Python SDK `mcp` 2.x: both eras on one endpoint, a port of its own choice.

Prints `listening PORT` once it takes connections, or with the argument `stdio` serves there.
"""

import asyncio
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("peer-python", version="1.0.0")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def echo(message: str) -> str:
    """Returns its argument."""
    return message


@server.tool()
async def count(steps: int, ctx: Context) -> str:
    """Reports progress for each step."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps)
        await asyncio.sleep(0.05)
    return f"counted {steps}"


@server.tool()
async def wait(ms: int) -> str:
    """Answers after ms milliseconds; says on the console when it is cancelled."""
    print("wait began", flush=True)
    try:
        await asyncio.sleep(ms / 1000)
    except asyncio.CancelledError:
        print("wait cancelled", flush=True)
        raise
    return f"waited {ms}"


@server.resource("note://{name}")
def note(name: str) -> str:
    """A note by name."""
    return f"note {name}"


@server.prompt()
def greet(name: str) -> str:
    """A greeting."""
    return f"Greet {name}."


async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    app = server.streamable_http_app(host="127.0.0.1")
    web = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    print(f"listening {listener.getsockname()[1]}", flush=True)
    await web.serve(sockets=[listener])


if sys.argv[1:] == ["stdio"]:
    server.run("stdio")
else:
    asyncio.run(main())
