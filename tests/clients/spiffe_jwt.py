"""py-spiffe fetches a JWT-SVID and the bundle from the Workload API, and the broker takes what it fetched."""
import json
import os
import sys
from concurrent import futures

import grpc
import requests
from spiffe import JwtSvid, TrustDomain, WorkloadApiClient
from spiffe._proto import workload_pb2, workload_pb2_grpc

url, bundle_file, token, intent = sys.argv[1:5]


class SpireAgent(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """What stands for SPIRE: refuses what the specification has it refuse."""

    def ask(self, context):
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")

    def FetchJWTSVID(self, request, context):
        self.ask(context)
        if list(request.audience) != [url]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "another audience")
        return workload_pb2.JWTSVIDResponse(svids=[workload_pb2.JWTSVID(spiffe_id=subject, svid=token)])

    def FetchJWTBundles(self, request, context):
        self.ask(context)
        with open(bundle_file, "rb") as file:
            yield workload_pb2.JWTBundlesResponse(bundles={"spiffe://acme.test": file.read()})


subject = str(JwtSvid.parse_insecure(token, {url}).spiffe_id)
socket = f"unix://{os.path.dirname(os.path.abspath(bundle_file))}/workload.sock"
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(SpireAgent(), server)
server.add_insecure_port(socket)
server.start()

with WorkloadApiClient(socket_path=socket) as workload:
    svid = workload.fetch_jwt_svid(audience={url})
    bundle = workload.fetch_jwt_bundles().get_bundle_for_trust_domain(TrustDomain("acme.test"))
server.stop(None)
JwtSvid.parse_and_validate(svid.token, bundle, {url})

assertion = {
    "grant_type": "client_credentials",
    "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
    "client_assertion": svid.token,
    "intent": intent,
}
subject_token = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token": svid.token,
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "scope": "mission:stock deploy:read",
}
answers = {}
for name, form in {"assertion": assertion, "subject": subject_token}.items():
    form |= {"audience": "deploy-api", "client_id": str(svid.spiffe_id)}
    answer = requests.post(f"{url}/token", data=form, timeout=10)
    answers[name] = {"status": answer.status_code, **answer.json()}
print(json.dumps(answers))
