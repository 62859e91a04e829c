"""requests-oauthlib, which speaks https alone. Its assertions live for an hour, have no `jti`, and name the token endpoint."""
import json
import sys
import time

import jwt
from joserfc.jwk import RSAKey
from oauthlib.oauth2 import BackendApplicationClient, ServiceApplicationClient
from requests_oauthlib import OAuth2Session

url, agent, key_file, resource, scope = sys.argv[1:6]
with open(key_file, encoding="utf-8") as file:
    pem = RSAKey.import_key(json.load(file)).as_pem(private=True).decode()
endpoint = f"{url}/token"


def granted(session, **more):
    # Named here, the client goes into `Authorization: Basic` with an empty password.
    return session.fetch_token(endpoint, client_id=agent, scope=[scope], resource=resource, **more)


service = ServiceApplicationClient(agent, private_key=pem, subject=agent, issuer=agent, audience=endpoint)
by_grant = granted(OAuth2Session(client=service))
now = int(time.time())
claims = {"iss": agent, "sub": agent, "aud": endpoint, "iat": now, "exp": now + 3600}
by_client = granted(
    OAuth2Session(client=BackendApplicationClient(agent)),
    client_assertion=jwt.encode(claims, pem, "RS256"),
    client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
)
print(json.dumps({"grant": by_grant, "client": by_client}))
