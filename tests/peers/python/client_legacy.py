"""A client on the Python SDK `mcp` 1.x, the revisions before 2026-07-28. `client_legacy.py URL COMMANDS`.

Environment: TOKEN (bearer), LOGIN_PORT and CLIENT_METADATA (a person logs in, see person.py), CLIENT_KEY and its like (it signs who it is, see machine.py), INPUT (answers what servers ask), CA (PEM of the authority to trust).
"""

import asyncio
import json
import os
import ssl
import sys
from datetime import timedelta

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import PromptReference, ResourceTemplateReference
from pydantic import AnyUrl

from asked import INPUT
from machine import machine
from person import person


def say(line):
    print(json.dumps(line), flush=True)


def described(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    fault = getattr(error, "error", error)
    return {"code": getattr(fault, "code", None), "message": str(getattr(fault, "message", error)) or repr(error), "data": getattr(fault, "data", None)}


async def call(session, command):
    seen = []

    async def progress(done, total, message):
        seen.append(done)

    result = await session.call_tool(
        command["call"],
        command.get("arguments", {}),
        read_timeout_seconds=timedelta(seconds=30),
        progress_callback=progress if command.get("progress") else None,
    )
    answer = {"result": printed(result)}
    return {**answer, "progress": seen} if command.get("progress") else answer


async def ask(session, method, params):
    """What servers offer besides calls."""
    match method:
        case "tools/list":
            return await session.list_tools()
        case "prompts/list":
            return await session.list_prompts()
        case "prompts/get":
            return await session.get_prompt(params["name"], params.get("arguments"))
        case "resources/list":
            return await session.list_resources()
        case "resources/templates/list":
            return await session.list_resource_templates()
        case "resources/read":
            return await session.read_resource(AnyUrl(params["uri"]))
        case "completion/complete":
            ref, kind = params["ref"], PromptReference if "name" in params["ref"] else ResourceTemplateReference
            return await session.complete(kind.model_validate(ref), params["argument"], params.get("context", {}).get("arguments"))


def printed(result):
    return json.loads(result.model_dump_json(exclude_none=True, by_alias=True))


async def act(session, command):
    if "list" in command:
        return {"tools": [tool.name for tool in (await session.list_tools()).tools]}
    if "ask" in command:
        return {"result": printed(await ask(session, command["ask"], command.get("params", {})))}
    return await call(session, command)


async def main():
    url, commands = sys.argv[1], json.loads(sys.argv[2])
    token, authority = os.environ.get("TOKEN"), os.environ.get("CA")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    verify = ssl.create_default_context(cafile=authority) if authority else True
    auth = person(url, lambda given: (given["code"], given.get("state"))) or machine(url)
    async with httpx.AsyncClient(headers=headers, timeout=30, verify=verify, follow_redirects=True, auth=auth) as http:
        async with streamable_http_client(url, http_client=http) as (read, write, _), ClientSession(read, write, **INPUT) as session:
            began = await session.initialize()
            say({"connected": {"sdk": "python 1", "protocol": began.protocolVersion, "server": began.serverInfo.name}})
            for command in commands:
                try:
                    say(await act(session, command))
                except Exception as error:
                    say({"error": described(error)})


try:
    asyncio.run(main())
except Exception as error:
    say({"failed": described(error)})
    sys.exit(1)
