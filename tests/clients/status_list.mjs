// @sd-jwt/jwt-status-list reads what tokens point to and what stands there; jose verifies both.
import { getListFromStatusListJWT, getStatusListFromJWT } from "@sd-jwt/jwt-status-list";
import { createRemoteJWKSet, jwtVerify } from "jose";

const [url, ...tokens] = process.argv.slice(2);
const metadata = await (await fetch(`${url}/.well-known/oauth-authorization-server`)).json();
const keys = createRemoteJWKSet(new URL(metadata.jwks_uri));
const { status_lists: lists } = await (await fetch(metadata.status_list_aggregation_endpoint)).json();

const status = [];
let typ, aggregated = true;
for (const token of tokens) {
  await jwtVerify(token, keys, { issuer: url, typ: "at+jwt" });
  const { idx, uri } = getStatusListFromJWT(token);
  aggregated &&= lists.includes(uri);
  const response = await fetch(uri, { headers: { accept: "application/statuslist+jwt" } });
  if (!response.ok) throw new Error(`${response.status} ${uri}`);
  const list = await response.text();
  // `subject`: a list says of itself where it is.
  const { protectedHeader } = await jwtVerify(list, keys, { typ: "statuslist+jwt", subject: uri, requiredClaims: ["iat", "exp", "ttl"] });
  typ = protectedHeader.typ;
  status.push(getListFromStatusListJWT(list).getStatus(idx));
}
console.log(JSON.stringify({ status, aggregated, typ }));
