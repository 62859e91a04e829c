"""The Python SDK of the Model Context Protocol, with its own provider for clients that have a key."""
import asyncio
import json
import sys

import httpx2
from joserfc.jwk import ECKey
from mcp import ClientSession
from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters
from mcp.client.streamable_http import streamable_http_client

url, agent, key_file, resource = sys.argv[1:5]
with open(key_file, encoding="utf-8") as file:
    pem = ECKey.import_key(json.load(file)).as_pem(private=True).decode()


class Storage:
    tokens = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return None

    async def set_client_info(self, client_info):
        pass


async def main():
    storage = Storage()
    signed = SignedJWTParameters(issuer=agent, subject=agent, signing_key=pem, signing_algorithm="ES256")
    provider = PrivateKeyJWTOAuthProvider(
        server_url=resource,
        storage=storage,
        client_id=agent,
        assertion_provider=signed.create_assertion_provider(),
        issuer=url,
    )
    async with (
        httpx2.AsyncClient(auth=provider) as http,
        streamable_http_client(resource, http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        answer = await session.call_tool("add", {"a": 40, "b": 2})
    print(json.dumps({"answer": answer.content[0].text, "token": storage.tokens.access_token}))


asyncio.run(main())
