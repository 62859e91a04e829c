"""Signs the request that proves AWS credentials to Dayfly. Nothing is sent to AWS from here."""
import base64
import json
import sys
import uuid

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.session import Session

endpoint, region, broker = sys.argv[1:4]
body = "Action=GetCallerIdentity&Version=2011-06-15"
request = AWSRequest(
    method="POST",
    url=endpoint + "/",
    data=body,
    headers={
        "Host": endpoint.split("://")[1],
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Dayfly-Server-Id": broker,
        "X-Dayfly-Nonce": uuid.uuid4().hex,
    },
)
SigV4Auth(Session().get_credentials().get_frozen_credentials(), "sts", region).add_auth(request)
signed = {"method": "POST", "url": endpoint + "/", "headers": dict(request.headers), "body": body}
token = base64.urlsafe_b64encode(json.dumps(signed).encode()).rstrip(b"=").decode()
print(json.dumps({"subject_token": token, "subject_token_type": "urn:dayfly:params:token-type:aws-signed-request"}))
