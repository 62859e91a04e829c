"""authlib with private_key_jwt: its assertions name the token endpoint and live for an hour."""
import json
import sys

from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey

url, agent, key_file, subject_token, intent = sys.argv[1:6]
with open(key_file, encoding="utf-8") as file:
    jwk = json.load(file)
endpoint = f"{url}/token"
session = OAuth2Session(
    agent,
    ECKey.import_key(jwk),
    token_endpoint_auth_method=PrivateKeyJWT(endpoint, headers={"kid": jwk["kid"]}, alg="ES256"),
)
plain = session.fetch_token(
    endpoint, grant_type="client_credentials", scope="mission:stock deploy:read", audience="deploy-api"
)
signed = session.fetch_token(
    endpoint, grant_type="client_credentials", audience="deploy-api", intent=intent
)
exchanged = session.fetch_token(
    endpoint,
    grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token=subject_token,
    subject_token_type="urn:ietf:params:oauth:token-type:jwt",
    audience="deploy-api",
    scope="mission:stock deploy:read",
)
# A session of its own, as a resource server: HTTP Basic.
server = OAuth2Session("deploy-api", "resource-server-secret", token_endpoint_auth_method="client_secret_basic")
before = server.introspect_token(f"{url}/introspect", token=exchanged["access_token"]).json()
revoked = session.revoke_token(f"{url}/revoke", token=exchanged["access_token"])
after = server.introspect_token(f"{url}/introspect", token=exchanged["access_token"]).json()
print(
    json.dumps(
        {
            "plain": plain["access_token"],
            "signed": signed["access_token"],
            "before": before["active"],
            "revoked": revoked.status_code,
            "after": after,
        }
    )
)
