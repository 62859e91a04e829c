"""Names of things that exist, for every second well-formed case, so that doors are tried open and shut."""
import itertools
import json
import os

import schemathesis
from schemathesis.generation import GenerationMode

SEEN = os.environ["DAYFLY_SEEN"]
WORLD = json.loads(os.environ["DAYFLY_WORLD"])
turn = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    positive = case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE
    body = case.body if isinstance(case.body, dict) else None
    if body is not None and body.get("selector") == "all":
        # Everything is ended, and things go on: the cases after this one still mean something.
        body["kill_only"] = True
    if not positive or next(turn) % 2:
        return
    case.path_parameters.update(
        (name, WORLD["paths"][case.operation.path]) for name in case.path_parameters if case.operation.path in WORLD["paths"]
    )
    # A proof is for one request with one token, and so nothing to make up. A certificate from anyone but a
    # trusted proxy shuts every door.
    for name in ("DPoP", "Client-Cert", "Client-Cert-Chain"):
        case.headers.pop(name, None)
    # The past is not kept.
    case.query.pop("time", None)
    if case.operation.path == "/hooks/{source}":
        case.headers["X-Gitlab-Token"] = WORLD["hook"]
    if case.operation.path.startswith("/scim/"):
        case.headers["Authorization"] = f"Bearer {WORLD['hook']}"
        if case.operation.method.upper() == "PATCH":
            case.body = dict(WORLD["bodies"][case.operation.path])
        elif case.operation.path == "/scim/v2/Users":
            case.query["filter"] = 'userName eq "ann@acme.example"'
        return
    if body is not None:
        body.update(WORLD["bodies"].get(case.operation.path, {}))
        if case.operation.path == "/token":
            case.body = dict(WORLD["bodies"]["/token"])


@schemathesis.hook
def after_call(context, case, response):
    with open(SEEN, "a", encoding="utf-8") as file:
        print(case.operation.method.upper(), case.operation.path, response.status_code, file=file)
