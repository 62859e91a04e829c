// openid-client with private_key_jwt and DPoP: both grants, from a first request without a nonce.
import { readFileSync } from "node:fs";
import * as client from "openid-client";

const [url, agent, keyFile, proofKeyFile, subjectToken, intent, exchangeIntent] = process.argv.slice(2);
const read = (file) => JSON.parse(readFileSync(file, "utf8"));
const imported = (jwk, use) => crypto.subtle.importKey("jwk", jwk, { name: "ECDSA", namedCurve: "P-256" }, use === "verify", [use]);
const jwk = read(keyFile);
const key = await imported(jwk, "sign");
const options = { algorithm: "oauth2", execute: [client.allowInsecureRequests] };
const config = await client.discovery(
  new URL(url), agent, undefined, client.PrivateKeyJwt({ key, kid: jwk.kid }), options,
);
const { d, ...publicHalf } = read(proofKeyFile);
const pair = { privateKey: await imported({ d, ...publicHalf }, "sign"), publicKey: await imported(publicHalf, "verify") };
const DPoP = client.getDPoPHandle(config, pair);
const granted = await client.clientCredentialsGrant(config, { audience: "deploy-api", intent }, { DPoP });
const exchanged = await client.genericGrantRequest(config, "urn:ietf:params:oauth:grant-type:token-exchange", {
  subject_token: subjectToken,
  subject_token_type: "urn:ietf:params:oauth:token-type:jwt",
  resource: "https://deploy.example",
  intent: exchangeIntent,
}, { DPoP });
console.log(JSON.stringify({
  algorithms: config.serverMetadata().dpop_signing_alg_values_supported,
  tokens: [granted, exchanged].map((answer) => [answer.token_type, answer.access_token]),
}));
