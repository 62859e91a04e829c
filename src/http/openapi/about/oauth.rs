//! The doors of OAuth, and of platforms.

use super::{
    AGENT, About, Content, Field, Gives, LEASE, MAY_BE_EMPTY, MISSION, NO_MORE, OAUTH, OBJECT,
    PLATFORM, PROOF, Param, Refuses, TARGET, TEXT, TOKEN, Takes, body, field, header, ok, path,
    query, required, typed,
};
use crate::broker::Reason;
use crate::wire;

const CLIENT_ID: Field = field(
    "client_id",
    TEXT,
    "May be absent where the assertion's `sub` says it; the name of who authenticates with a certificate (RFC 8705).",
);
const CLIENT_ASSERTION: Field = field(
    "client_assertion",
    MAY_BE_EMPTY,
    "`private_key_jwt` (RFC 7523): `iss` = `sub` = the client, `aud` = this broker's URL and nothing else.",
);
const CLIENT_ASSERTION_TYPE: Field = field(
    "client_assertion_type",
    r#"{"type":"string","enum":["urn:ietf:params:oauth:client-assertion-type:jwt-bearer","urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"]}"#,
    "With `client_assertion`, and only with it.",
);
/// RFC 9440. What a handshake shows is in no parameter.
const CLIENT_CERT: Param = header(
    "Client-Cert",
    "From a trusted proxy that ended TLS, where it is switched on: the client's certificate, base64 of its DER between colons (RFC 9440). \
From anyone else the request is refused.",
);
const CLIENT_CERT_CHAIN: Param = header(
    "Client-Cert-Chain",
    "Beside it: the certificates between it and its root.",
);
const THE_TOKEN: Field = required(
    "token",
    TOKEN,
    "The credential, or the handle that came in `access_token`.",
);
const TOKEN_TYPE_HINT: Field = field(
    "token_type_hint",
    TEXT,
    "Not needed: credentials say what they are.",
);

pub const EXCHANGE: About = About {
    id: "exchange",
    tag: OAUTH,
    summary: "A proof and a signed intent in, a credential for minutes out",
    text: "Token exchange (RFC 8693), `client_credentials` with `private_key_jwt`, or `jwt-bearer` (RFC 7523). Each parameter comes once, \
`audience` and `resource` apart; an empty value counts as absent. A certificate of the TLS handshake may be the proof, too (RFC 8705).",
    params: &[PROOF, CLIENT_CERT, CLIENT_CERT_CHAIN],
    takes: Takes::Form {
        fields: &[
            required(
                "grant_type",
                r#"{"type":"string","enum":["urn:ietf:params:oauth:grant-type:token-exchange","client_credentials","urn:ietf:params:oauth:grant-type:jwt-bearer"]}"#,
                "Which of the three.",
            ),
            field(
                "subject_token",
                MAY_BE_EMPTY,
                "With token exchange: the platform's token, a person's, or a credential of this broker to hand on.",
            ),
            field(
                "subject_token_type",
                r#"{"type":"string","enum":["urn:ietf:params:oauth:token-type:jwt","urn:ietf:params:oauth:token-type:id_token","urn:ietf:params:oauth:token-type:access_token","urn:ietf:params:oauth:token-type:self_signed","urn:dayfly:params:token-type:aws-signed-request"]}"#,
                "With `self_signed` the token is the intent.",
            ),
            field(
                "actor_token",
                MAY_BE_EMPTY,
                "With token exchange: who acts, where the subject is someone else.",
            ),
            field(
                "actor_token_type",
                r#"{"type":"string","enum":["urn:ietf:params:oauth:token-type:jwt","urn:ietf:params:oauth:token-type:id_token","urn:ietf:params:oauth:token-type:access_token","urn:dayfly:params:token-type:aws-signed-request"]}"#,
                "With `actor_token`, and only with it.",
            ),
            field(
                "assertion",
                MAY_BE_EMPTY,
                "With `jwt-bearer`: a platform's token, or one that the agent signed itself.",
            ),
            field(
                "intent",
                MAY_BE_EMPTY,
                "The signed intent: a compact JWS with `typ` `intent+jwt`.",
            ),
            field(
                "audience",
                r#"{"type":"array","items":{"type":"string","minLength":1,"maxLength":2048},"maxItems":8}"#,
                "The target by its name. All that are named must be the same target.",
            ),
            field(
                "resource",
                r#"{"type":"array","items":{"type":"string","format":"uri","minLength":1,"maxLength":2048},"maxItems":8}"#,
                "The target by a URL of its own (RFC 8707).",
            ),
            field(
                "scope",
                r#"{"type":"string","maxLength":4096}"#,
                "May only narrow; `mission:NAME` names the mission.",
            ),
            field(
                "authorization_details",
                r##"{"type":"string","contentMediaType":"application/json","contentSchema":{"type":"array","items":{"$ref":"#/components/schemas/AuthorizationDetail"},"minItems":1,"maxItems":16}}"##,
                "RFC 9396: may only narrow the intent.",
            ),
            field(
                "requested_token_type",
                r#"{"type":"string","format":"uri","maxLength":2048}"#,
                "What the target gives, or absent.",
            ),
            CLIENT_ID,
            CLIENT_ASSERTION,
            CLIENT_ASSERTION_TYPE,
        ],
        example: r#"{"grant_type":"urn:ietf:params:oauth:grant-type:token-exchange","subject_token":"eyJhbGciOi...","subject_token_type":"urn:ietf:params:oauth:token-type:jwt","intent":"eyJ0eXAiOi...","audience":["aws-prod"]}"#,
    },
    gives: &[ok(
        "The credential, recorded and replicated before it left.",
        body::<wire::TokenResponse>(
            r#"{"access_token":"eyJ0eXAiOi...","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":599,"scope":"deploy:write","authorization_details":[{"type":"access_token","identifier":"deploy-api","actions":["deploy:write"],"locations":["https://deploy.example/checkout"]}],"lease_id":"dfla6jwgyzy3e7dqmx5yqfzvbtmcq","mission":"deploy-checkout","revocation":{"class":"broker","within_seconds":1}}"#,
        ),
    )],
    refuses: Refuses::LikeAnExchange,
};

pub const INTROSPECT: About = About {
    id: "introspect",
    tag: OAUTH,
    summary: "Is this credential alive, and what may it do?",
    text: "RFC 7662, for resource servers. Unknown, dead and foreign look alike. `Accept: application/token-introspection+jwt` has the \
answer signed (RFC 9701).",
    params: &[
        header(
            "Accept",
            "`application/token-introspection+jwt` for the signed form.",
        ),
        CLIENT_CERT,
        CLIENT_CERT_CHAIN,
    ],
    takes: Takes::Form {
        fields: &[
            THE_TOKEN,
            TOKEN_TYPE_HINT,
            CLIENT_ID,
            CLIENT_ASSERTION,
            CLIENT_ASSERTION_TYPE,
        ],
        example: r#"{"token":"eyJ0eXAiOi..."}"#,
    },
    gives: &[typed(
        "`active`, and if it is, all that the resource server needs.",
        &[
            (
                "application/json",
                r#"{"type":"object","required":["active"],"properties":{"active":{"type":"boolean"}}}"#,
            ),
            ("application/token-introspection+jwt", TEXT),
        ],
    )],
    refuses: NO_MORE,
};

pub const RELEASE: About = About {
    id: "release",
    tag: OAUTH,
    summary: "The holder is done with its credential",
    text: "RFC 7009. Whoever presents the credential may end it; an agent that authenticates may name its lease id instead. 503: dead at this broker, not yet on enough replicas of the store; send it again.",
    params: &[PROOF, CLIENT_CERT, CLIENT_CERT_CHAIN],
    takes: Takes::Form {
        fields: &[
            THE_TOKEN,
            TOKEN_TYPE_HINT,
            CLIENT_ID,
            CLIENT_ASSERTION,
            CLIENT_ASSERTION_TYPE,
        ],
        example: r#"{"token":"eyJ0eXAiOi..."}"#,
    },
    gives: &[Gives {
        status: 200,
        text: "Dead at every broker, durably; or never alive.",
        content: Content::Empty,
    }],
    refuses: NO_MORE,
};

pub const ENROL: About = About {
    id: "enrol",
    tag: PLATFORM,
    summary: "A machine without a platform enrols a key of its own",
    text: "Spends a join token for the key that signs `proof`. The same token with the same key is answered again; every other fault of \
token, proof or agent has one face.",
    params: &[],
    takes: Takes::Form {
        fields: &[
            required(
                "join_token",
                r#"{"type":"string","minLength":1,"maxLength":256}"#,
                "From the invitation; good once.",
            ),
            required(
                "proof",
                r#"{"type":"string","minLength":1,"maxLength":8192}"#,
                "A compact JWS with `typ` `enrolment+jwt`, the new key in its header.",
            ),
        ],
        example: r#"{"join_token":"dayflyjoin_0123","proof":"eyJ0eXAiOi..."}"#,
    },
    gives: &[ok(
        "The key proves who it is, at every replica.",
        body::<wire::EnrolAnswer>(
            r#"{"agent":"backup","thumbprint":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I","expires_at":"2027-03-02T00:00:00Z"}"#,
        ),
    )],
    refuses: Refuses::These(&[Reason::NotPermitted]),
};

pub const WEBHOOK: About = About {
    id: "webhook",
    tag: PLATFORM,
    summary: "A run is over, and so are its credentials",
    text: "The signature is over the exact bytes. What a source may end is configured; repeats are harmless, and answered anew: 503 until what ended is on enough replicas of the store. At most 1 MiB.",
    params: &[
        path(
            "source",
            TEXT,
            "`[source.NAME]`, or `[facts.NAME]` with `webhook`.",
        ),
        header(
            "X-Hub-Signature-256",
            "GitHub's: `sha256=` and the HMAC in hexadecimal.",
        ),
        header("X-GitHub-Event", "GitHub's."),
        header(
            "Webhook-Signature",
            "GitLab's, with a signing token: `v1,` and the HMAC of `ID.TIMESTAMP.BODY` in base64, one or more.",
        ),
        header("Webhook-Id", "GitLab's, with a signing token."),
        header(
            "Webhook-Timestamp",
            "GitLab's, with a signing token: seconds since 1970.",
        ),
        header(
            "X-Gitlab-Token",
            "GitLab's, without a signing token: the secret itself.",
        ),
        header(
            "X-Dayfly-Timestamp",
            "Of a generic source: seconds since 1970.",
        ),
        header(
            "X-Dayfly-Signature",
            "Of a generic source: `sha256=` and the HMAC of `TIMESTAMP.BODY`.",
        ),
    ],
    takes: Takes::Message {
        schema: OBJECT,
        example: r#"{"kind":"pipeline","id":"77"}"#,
    },
    gives: &[Gives {
        status: 204,
        text: "The end is durable, or there was nothing to end.",
        content: Content::Empty,
    }],
    refuses: Refuses::These(&[
        Reason::NotAuthenticated,
        Reason::NotPermitted,
        Reason::StoreUnavailable,
        Reason::StaleView,
    ]),
};

const A_PROVIDERS_LOOK: Refuses = Refuses::These(&[
    Reason::NotAuthenticated,
    Reason::StoreUnavailable,
    Reason::StaleView,
]);

pub const FIND_USER: About = About {
    id: "findUser",
    tag: PLATFORM,
    summary: "An identity provider looks whether somebody is here",
    text: "SCIM 2.0 (RFC 7644 section 3.4.2), by one filter alone. Nobody is listed: whoever the source may speak of is there, with the `userName` as `id`, and active unless they have left. The secret of the source is the bearer token.",
    params: &[
        query("filter", TEXT, "`userName eq \"NAME\"`."),
        query("startIndex", TEXT, "Ignored: there is one at most."),
        query("count", TEXT, "Ignored."),
        query("attributes", TEXT, "Ignored."),
        query("excludedAttributes", TEXT, "Ignored."),
    ],
    takes: Takes::Nothing,
    gives: &[typed(
        "One user, or none.",
        &[("application/scim+json", OBJECT)],
    )],
    refuses: A_PROVIDERS_LOOK,
};

pub const A_USER: About = About {
    id: "aUser",
    tag: PLATFORM,
    summary: "The same by the id",
    text: "`userName` and `active`. The secret of the source of kind `scim` is the bearer token.",
    params: &[path("id", TEXT, "The user's `userName`.")],
    takes: Takes::Nothing,
    gives: &[typed("The user.", &[("application/scim+json", OBJECT)])],
    refuses: A_PROVIDERS_LOOK,
};

pub const PATCH_USER: About = About {
    id: "patchUser",
    tag: PLATFORM,
    summary: "An identity provider: somebody has left, or is back",
    text: "SCIM 2.0 (RFC 7644 section 3.5.2): exactly one operation, `replace` of `active`, by its path or as a value without one. What the user owned is held, or is held for that no more. Everything else is refused. The secret of the source of kind `scim` is the bearer token. Refusals have SCIM's members (`schemas`, `status`, `scimType`, `detail`) beside those of every refusal; what is refused before the door has the latter alone.",
    params: &[path("id", TEXT, "The user's `userName`.")],
    takes: Takes::Message {
        schema: OBJECT,
        example: r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","path":"active","value":false}]}"#,
    },
    gives: &[Gives {
        status: 204,
        text: "It is durable, or nothing was new.",
        content: Content::Empty,
    }],
    refuses: Refuses::These(&[
        Reason::NotAuthenticated,
        Reason::NotPermitted,
        Reason::StoreUnavailable,
        Reason::StaleView,
    ]),
};

const LAST_EVENT_ID: Param = header(
    "Last-Event-ID",
    "The `id` of the last event that was taken: what came after it is told first.",
);
const STREAM: &[Gives] = &[typed(
    "Server-sent events, until one of the two hangs up. The last one, `bye`, says why.",
    &[("text/event-stream", TEXT)],
)];
const TEXT_OF_EVENTS: &str = "Operators are told the entries of the audit, by their names there. Resource servers are told of their own \
audiences' leases: `issued`, `fenced`, `revoked`, `ended`. To both: `ready`, `gap` (some were missed), `bye`. Eight streams of one caller at a replica.";

pub const EVENTS: About = About {
    id: "events",
    tag: OAUTH,
    summary: "What happens, as it happens",
    text: TEXT_OF_EVENTS,
    params: &[
        LAST_EVENT_ID,
        query(
            "client_id",
            TEXT,
            "Of a resource server that shows a certificate: its name.",
        ),
        query("event", TEXT, "Of operators: only entries with this name."),
        query("agent", AGENT, "Of operators: only of this agent."),
        query("mission", MISSION, "Of operators: only of this mission."),
        query("target", TARGET, "Of operators: only of this target."),
        query("lease", LEASE, "Of operators: only of this lease."),
        CLIENT_CERT,
        CLIENT_CERT_CHAIN,
    ],
    takes: Takes::Nothing,
    gives: STREAM,
    refuses: NO_MORE,
};

pub const EVENTS_BY_FORM: About = About {
    id: "eventsByForm",
    tag: OAUTH,
    summary: "The same for resource servers that prove themselves in a form",
    text: TEXT_OF_EVENTS,
    params: &[LAST_EVENT_ID, CLIENT_CERT, CLIENT_CERT_CHAIN],
    takes: Takes::Form {
        fields: &[CLIENT_ID, CLIENT_ASSERTION, CLIENT_ASSERTION_TYPE],
        example: r#"{"client_assertion_type":"urn:ietf:params:oauth:client-assertion-type:jwt-bearer","client_assertion":"eyJhbGciOi..."}"#,
    },
    gives: STREAM,
    refuses: NO_MORE,
};
