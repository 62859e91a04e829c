// The TypeScript SDK of the Model Context Protocol, with its own provider for clients that have a key.
import { readFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { PrivateKeyJwtProvider } from "@modelcontextprotocol/sdk/client/auth-extensions.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, agent, keyFile, resource] = process.argv.slice(2);
const authProvider = new PrivateKeyJwtProvider({
  clientId: agent,
  privateKey: JSON.parse(readFileSync(keyFile, "utf8")),
  algorithm: "ES256",
  expectedIssuer: url,
});
const client = new Client({ name: "dayfly-test", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(resource), { authProvider }));
const answer = await client.callTool({ name: "add", arguments: { a: 40, b: 2 } });
await client.close();
console.log(JSON.stringify({ answer: answer.content[0].text, token: authProvider.tokens().access_token }));
