// google-auth-library `external_account`, as it comes.
import { ExternalAccountClient } from "google-auth-library";

const [url, file, target, scope] = process.argv.slice(2);
const client = ExternalAccountClient.fromJSON({
  type: "external_account",
  audience: target,
  subject_token_type: "urn:ietf:params:oauth:token-type:jwt",
  token_url: `${url}/token`,
  credential_source: { file },
});
client.scopes = [scope];
const { token } = await client.getAccessToken();
console.log(JSON.stringify({ token }));
