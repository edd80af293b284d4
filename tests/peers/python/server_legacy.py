"""An MCP server on the Python SDK `mcp` 1.x: the revisions before 2026-07-28.

`sse` serves HTTP+SSE at /sse on a port of its own choice, and prints `listening PORT`; `stdio` serves there.
"""

import asyncio
import socket
import sys

import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp.types import ElicitRequestURLParams

server = FastMCP("peer-python-legacy")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
async def count(steps: int, ctx: Context) -> str:
    """Reports progress for each step."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps)
        await asyncio.sleep(0.05)
    return f"counted {steps}"


visited = set()


@server.tool()
def visit(who: str) -> str:
    """Sends each to a page first, by the error that 2025-11-25 has for it; the second time they have been there."""
    if who not in visited:
        visited.add(who)
        page = ElicitRequestURLParams(mode="url", message="Connect", url="https://pages.example/connect", elicitationId="page-1")
        raise UrlElicitationRequiredError([page])
    return "visited"


async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    web = uvicorn.Server(uvicorn.Config(server.sse_app(), log_level="warning", timeout_graceful_shutdown=1))
    print(f"listening {listener.getsockname()[1]}", flush=True)
    await web.serve(sockets=[listener])


if sys.argv[1] == "stdio":
    server.run("stdio")
else:
    asyncio.run(main())
