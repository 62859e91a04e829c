"""The public key of one `kid` of a key set, as PEM."""
import json
import sys

from joserfc.jwk import ECKey

jwks, kid = json.load(sys.stdin), sys.argv[1]
key = next(key for key in jwks["keys"] if key["kid"] == kid)
print(json.dumps(ECKey.import_key(key).as_pem(private=False).decode()))
