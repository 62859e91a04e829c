"""py-spiffe reads the bundle and checks the JWT-SVID that the broker is then shown."""
import json
import sys

import requests
from spiffe import JwtBundle, JwtSvid, TrustDomain

url, bundle_file, token, intent = sys.argv[1:5]
with open(bundle_file, "rb") as file:
    bundle = JwtBundle.parse(TrustDomain("acme.test"), file.read())
svid = JwtSvid.parse_and_validate(token, bundle, {url})
common = {"audience": "deploy-api", "client_id": str(svid.spiffe_id)}
answers = {}
for name, form in {
    "assertion": {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
        "client_assertion": svid.token,
        "intent": intent,
    },
    "subject": {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": svid.token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "scope": "mission:stock deploy:read",
    },
}.items():
    answer = requests.post(f"{url}/token", data=common | form, timeout=10)
    answers[name] = {"status": answer.status_code, **answer.json()}
print(json.dumps(answers))
