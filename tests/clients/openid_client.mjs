// openid-client with private_key_jwt: discovery, both grants, introspection, revocation.
import { readFileSync } from "node:fs";
import * as client from "openid-client";

const [url, agent, keyFile, subjectToken, intent, exchangeIntent] = process.argv.slice(2);
const jwk = JSON.parse(readFileSync(keyFile, "utf8"));
const key = await crypto.subtle.importKey("jwk", jwk, { name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
const options = { algorithm: "oauth2", execute: [client.allowInsecureRequests] };
const config = await client.discovery(
  new URL(url), agent, undefined, client.PrivateKeyJwt({ key, kid: jwk.kid }), options,
);
const granted = await client.clientCredentialsGrant(config, { audience: "deploy-api", intent });
const exchanged = await client.genericGrantRequest(config, "urn:ietf:params:oauth:grant-type:token-exchange", {
  subject_token: subjectToken,
  subject_token_type: "urn:ietf:params:oauth:token-type:jwt",
  resource: "https://deploy.example",
  intent: exchangeIntent,
});
const server = await client.discovery(
  new URL(url), "deploy-api", undefined, client.ClientSecretBasic("resource-server-secret"), options,
);
const before = await client.tokenIntrospection(server, exchanged.access_token);
await client.tokenRevocation(config, exchanged.access_token);
const after = await client.tokenIntrospection(server, exchanged.access_token);
console.log(JSON.stringify({
  granted: granted.access_token, type: exchanged.token_type, before: before.active, audience: before.aud, after,
}));
