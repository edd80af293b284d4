"""How the two Python clients have a person log in: the page that is to be opened is printed, and whoever opens it comes back to a port of this program.

Environment: LOGIN_PORT (that port), CLIENT_METADATA (the URL that the client is known by, where the server takes such).
"""

import asyncio
import json
import os
from urllib.parse import parse_qs, urlparse

from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import OAuthClientMetadata


class Kept:
    """What is remembered: nothing, at the start."""

    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


def person(url, came_back):
    """The way in, or nothing where nobody logs in; `came_back` makes of the answer's parameters what the SDK wants."""
    port = os.environ.get("LOGIN_PORT")
    if not port:
        return None
    callback = f"http://127.0.0.1:{port}/callback"
    asked = {"redirect_uris": [callback], "client_name": "Peer", "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none"}
    if "application_type" in OAuthClientMetadata.model_fields:
        asked["application_type"] = "native"

    async def open_page(page):
        print(json.dumps({"login": page}), flush=True)

    async def answer():
        arrived = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            line = (await reader.readline()).decode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nback")
            await writer.drain()
            writer.close()
            if not arrived.done():
                arrived.set_result({name: values[0] for name, values in parse_qs(urlparse(line.split(" ")[1]).query).items()})

        async with await asyncio.start_server(serve, "127.0.0.1", int(port)):
            return came_back(await arrived)

    return OAuthClientProvider(url, OAuthClientMetadata.model_validate(asked), Kept(), open_page, answer, client_metadata_url=os.environ.get("CLIENT_METADATA"))
