// oauth4webapi, which speaks https alone and checks every answer: metadata, both grants, introspection, revocation.
import { readFileSync } from "node:fs";
import * as oauth from "oauth4webapi";

const [url, agent, keyFile, subjectToken, intent, exchangeIntent] = process.argv.slice(2);
const jwk = JSON.parse(readFileSync(keyFile, "utf8"));
const key = await crypto.subtle.importKey("jwk", jwk, { name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
const issuer = new URL(url);
const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: "oauth2" }));
const client = { client_id: agent };
const proof = oauth.PrivateKeyJwt({ key, kid: jwk.kid });

const granted = await oauth.processClientCredentialsResponse(as, client,
  await oauth.clientCredentialsGrantRequest(as, client, proof, { audience: "deploy-api", intent }));
const exchanged = await oauth.processGenericTokenEndpointResponse(as, client,
  await oauth.genericTokenEndpointRequest(as, client, proof, "urn:ietf:params:oauth:grant-type:token-exchange", {
    subject_token: subjectToken,
    subject_token_type: "urn:ietf:params:oauth:token-type:jwt",
    resource: "https://deploy.example",
    intent: exchangeIntent,
  }));

const server = { client_id: "deploy-api" };
const secret = oauth.ClientSecretBasic("resource-server-secret");
const introspected = async (token, options) => oauth.processIntrospectionResponse(as, server,
  await oauth.introspectionRequest(as, server, secret, token, options));
const before = await introspected(exchanged.access_token);
// RFC 9701: the library verifies the answer's signature with the published keys.
const response = await oauth.introspectionRequest(as, server, secret, granted.access_token, { requestJwtResponse: true });
const signed = await oauth.processIntrospectionResponse(as, { ...server, introspection_signed_response_alg: "ES256" }, response);
await oauth.validateApplicationLevelSignature(as, response);
await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, proof, exchanged.access_token));
const after = await introspected(exchanged.access_token);

// A refusal is read as RFC 6749 has it.
let refused;
try {
  await oauth.processClientCredentialsResponse(as, client,
    await oauth.clientCredentialsGrantRequest(as, client, proof, { audience: "deploy-api", intent }));
} catch (error) {
  refused = { error: error.error, status: error.status };
}
console.log(JSON.stringify({ granted: granted.access_token, before: before.active, signed: signed.active, after, refused }));
