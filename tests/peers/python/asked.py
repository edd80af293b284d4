"""What the clients of both generations answer to what servers ask of them."""

import os

from mcp import types


async def elicit(context, params):
    properties = (getattr(params, "requestedSchema", None) or getattr(params, "requested_schema", None) or {}).get("properties", {})
    filled = {name: True if field.get("type") == "boolean" else f"ada-{name}@example.test" for name, field in properties.items()}
    return types.ElicitResult(action="accept", content=filled)


async def sample(context, params):
    return types.CreateMessageResult(role="assistant", model="test", content=types.TextContent(type="text", text="sampled"))


async def roots(context):
    return types.ListRootsResult(roots=[types.Root(uri="file:///work", name="work")])


# What servers ask is answered: forms with one value for every field, one text, one root.
INPUT = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots} if os.environ.get("INPUT") else {}
