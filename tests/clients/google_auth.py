"""google-auth `external_account`, as it comes: no client id, no extra form field."""
import json
import sys

import google.auth.transport.requests
from google.auth import identity_pool

url, token_file, target, scope = sys.argv[1:5]
credentials = identity_pool.Credentials(
    audience=target,
    subject_token_type="urn:ietf:params:oauth:token-type:jwt",
    token_url=f"{url}/token",
    credential_source={"file": token_file},
    scopes=[scope],
)
credentials.refresh(google.auth.transport.requests.Request())
print(json.dumps({"token": credentials.token, "expires": credentials.expiry is not None}))
