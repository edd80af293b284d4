"""How the two Python clients prove who they are in their own name, by a key (RFC 7523 §2.2).

Environment: CLIENT_KEY (the file of a P-256 key), CLIENT_ID, CLIENT_ISSUER (the authorization server that knows it).
"""

import os
from pathlib import Path

from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters

from person import Kept


def machine(url):
    """The way in, or nothing where there is no key."""
    if "CLIENT_KEY" not in os.environ:
        return None
    client, key = os.environ["CLIENT_ID"], Path(os.environ["CLIENT_KEY"]).read_text()
    signs = SignedJWTParameters(issuer=client, subject=client, signing_key=key, signing_algorithm="ES256")
    return PrivateKeyJWTOAuthProvider(url, Kept(), client, signs.create_assertion_provider(), issuer=os.environ["CLIENT_ISSUER"])
