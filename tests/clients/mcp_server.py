"""A tool server of the Model Context Protocol, made with its SDK: it asks the broker about each token, and checks its signature."""
import asyncio
import sys

import httpx2
import jwt
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer

url, port, secret = sys.argv[1:4]
resource = f"http://127.0.0.1:{port}/mcp"


class Verifier:
    """RFC 7662, and RFC 9068 with the published keys."""

    keys = jwt.PyJWKClient(f"{url}/jwks")

    async def verify_token(self, token: str) -> AccessToken | None:
        async with httpx2.AsyncClient() as http:
            answer = await http.post(f"{url}/introspect", auth=("tools", secret), data={"token": token})
        told = answer.json()
        if not told["active"] or jwt.get_unverified_header(token)["typ"] != "at+jwt":
            return None
        key = await asyncio.to_thread(self.keys.get_signing_key_from_jwt, token)
        claims = jwt.decode(token, key, algorithms=["ES256"], audience=resource, issuer=url)
        assert claims["aud"] == told["aud"]
        return AccessToken(
            token=token,
            client_id=told["client_id"],
            subject=told["sub"],
            scopes=told["scope"].split(),
            expires_at=told["exp"],
            resource=told["aud"],
        )


server = MCPServer(
    "tools",
    token_verifier=Verifier(),
    auth=AuthSettings(
        issuer_url=url,
        resource_server_url=resource,
        required_scopes=["tools:call"],
        validate_token_resource=True,
    ),
    log_level="WARNING",
)


@server.tool()
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


asyncio.run(server.run_streamable_http_async(port=int(port), json_response=True))
