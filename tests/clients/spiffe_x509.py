"""py-spiffe reads the X.509-SVID and its bundle; requests shows the same certificate to the broker."""
import json
import ssl
import sys

import requests
from cryptography.hazmat.primitives.serialization import Encoding
from requests.adapters import HTTPAdapter
from spiffe import TrustDomain, X509Bundle, X509Svid

url, svid_file, key_file, bundle_file, ca_file, intent = sys.argv[1:7]
svid = X509Svid.load(svid_file, key_file, Encoding.PEM)
bundle = X509Bundle.load(TrustDomain("acme.test"), bundle_file, Encoding.PEM)
for authority in bundle.x509_authorities:
    svid.cert_chain[-1].verify_directly_issued_by(authority)


class WithCertificate(HTTPAdapter):
    def init_poolmanager(self, *args, **kwargs):
        context = ssl.create_default_context(cafile=ca_file)
        context.load_cert_chain(svid_file, key_file)
        super().init_poolmanager(*args, ssl_context=context, **kwargs)


session = requests.Session()
session.mount(url, WithCertificate())
answer = session.post(
    f"{url}/token",
    data={
        "grant_type": "client_credentials",
        "client_id": str(svid.spiffe_id),
        "audience": "deploy-api",
        "intent": intent,
    },
    timeout=10,
)
print(json.dumps({"status": answer.status_code, "spiffe_id": str(svid.spiffe_id), **answer.json()}))
