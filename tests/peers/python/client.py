"""A client on the Python SDK `mcp` 2.x. `client.py URL COMMANDS`; the README beside the peers has the commands.

Environment: TOKEN (bearer), LOGIN_PORT and CLIENT_METADATA (a person logs in, see person.py), CLIENT_KEY and its like (it signs who it is, see machine.py), INPUT (answers what servers ask), ERA (auto, legacy or 2026-07-28), CA (PEM of the authority to trust).
"""

import asyncio
import json
import os
import ssl
import sys

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import PromptReference, ResourceTemplateReference

from asked import INPUT
from mcp.shared.auth import AuthorizationCodeResult
from machine import machine
from person import person


def say(line):
    print(json.dumps(line), flush=True)


def described(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    fault = getattr(error, "error", error)
    return {"code": getattr(fault, "code", None), "message": str(getattr(fault, "message", error)) or repr(error), "data": getattr(fault, "data", None)}


async def call(client, command):
    seen = []

    async def progress(done, total, message):
        seen.append(done)

    work = asyncio.ensure_future(
        client.call_tool(command["call"], command.get("arguments", {}), progress_callback=progress if command.get("progress") else None)
    )
    if "cancel_after_ms" in command:
        await asyncio.sleep(command["cancel_after_ms"] / 1000)
        work.cancel()
        await asyncio.wait([work])
        # What the cancellation sends needs a moment to leave before the connection closes.
        await asyncio.sleep(0.2)
        return {"cancelled": work.cancelled()}
    result = await work
    answer = {"result": printed(result)}
    return {**answer, "progress": seen} if command.get("progress") else answer


async def ask(client, method, params):
    """What servers offer besides calls."""
    match method:
        case "tools/list":
            return await client.list_tools()
        case "prompts/list":
            return await client.list_prompts()
        case "prompts/get":
            return await client.get_prompt(params["name"], params.get("arguments"))
        case "resources/list":
            return await client.list_resources()
        case "resources/templates/list":
            return await client.list_resource_templates()
        case "resources/read":
            return await client.read_resource(params["uri"])
        case "completion/complete":
            ref, kind = params["ref"], PromptReference if "name" in params["ref"] else ResourceTemplateReference
            return await client.complete(kind.model_validate(ref), params["argument"], params.get("context", {}).get("arguments"))


def printed(result):
    return json.loads(result.model_dump_json(exclude_none=True, by_alias=True))


async def act(client, command):
    if "list" in command:
        return {"tools": [tool.name for tool in (await client.list_tools()).tools]}
    if "ask" in command:
        return {"result": printed(await ask(client, command["ask"], command.get("params", {})))}
    return await call(client, command)


async def main():
    url, commands = sys.argv[1], json.loads(sys.argv[2])
    token, authority = os.environ.get("TOKEN"), os.environ.get("CA")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    verify = ssl.create_default_context(cafile=authority) if authority else True
    came_back = lambda given: AuthorizationCodeResult(**{name: given.get(name) for name in ("code", "state", "iss")})
    async with httpx2.AsyncClient(headers=headers, timeout=30, verify=verify, auth=person(url, came_back) or machine(url)) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=os.environ.get("ERA", "auto"), **INPUT) as client:
            say({"connected": {"sdk": "python 2", "protocol": client.session.protocol_version}})
            for command in commands:
                try:
                    say(await act(client, command))
                except Exception as error:
                    say({"error": described(error)})


try:
    asyncio.run(main())
except Exception as error:
    say({"failed": described(error)})
    sys.exit(1)
