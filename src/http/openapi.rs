//! `GET /openapi.json`: every door as an OpenAPI 3.1 document.
//!
//! Made from the table of routes, from what stands beside each route ([`about`]), from the wire
//! types' own schemas and from the one place that knows a reason's face. Nothing is listed twice, so
//! nothing can be forgotten: a route without its [`About`] does not compile.

pub(super) mod about;
mod refusals;

use super::Doors;
use super::error::told;
use super::routes::{Listener, Route, TABLE, Who};
use crate::broker::{Reason, Refusal, Role};
use crate::wire::ErrorBody;
use about::{About, Body, Content, Field, Gives, Param, Takes};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use refusals::Refused;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

/// Anyone may read it: it says what this version does, and names nothing of this installation but
/// its own URL.
pub(super) async fn serve(State(doors): State<Doors>) -> Response {
    let document = doors
        .openapi
        .get_or_init(|| Bytes::from(document(doors.broker.url()).to_string()));
    let mut response = document.clone().into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, super::discovery::CACHE),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The document of a broker with this URL.
pub fn document(url: &str) -> Value {
    let mut schemas = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in TABLE {
        let operation = operation(route, &mut schemas);
        // A rest of a path is a parameter, too.
        let name = route.path.replace("{*", "{");
        let path = paths.entry(name).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.to_ascii_lowercase(), operation);
            if route.listener == Listener::Health {
                path.insert("servers".to_owned(), health_servers());
            }
        }
    }
    let error = schemas.subschema_for::<ErrorBody>();
    debug_assert_eq!(error.as_value(), &json!({ "$ref": ERROR }));
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Dayfly",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Credentials for agents and pipelines: narrow, minutes long, recorded, killable.",
            "description": about::DOCUMENT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": url }],
        "tags": about::TAGS.iter()
            .map(|(name, description)| json!({ "name": name, "description": description }))
            .collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": security_schemes(),
            "headers": headers(),
        },
    })
}

const ERROR: &str = "#/components/schemas/ErrorBody";

fn health_servers() -> Value {
    json!([{
        "url": "http://{health_listen}",
        "description": "The listener for probes, never the public one.",
        "variables": { "health_listen": { "default": "127.0.0.1:8421" } },
    }])
}

fn security_schemes() -> Value {
    json!({
        "operator": {
            "type": "http", "scheme": "bearer",
            "description": "An ID token of the configured operators' issuer, or a break-glass token. A token that is bound to a key comes under the scheme `DPoP`, with a proof. The role needed is in `x-dayfly-role`.",
        },
        "resource_server": {
            "type": "http", "scheme": "basic",
            "description": "The name and the secret of a `[resource_server.NAME]`.",
        },
    })
}

fn headers() -> Value {
    json!({
        "dpop-nonce": {
            "description": "RFC 9449: for the next proof, to whoever sent one.",
            "schema": { "type": "string" },
        },
        "no-store": {
            "description": "What holds or describes a credential is not stored.",
            "schema": { "type": "string", "const": "no-store" },
            "required": true,
        },
        "retry-after": {
            "description": "Seconds to wait.",
            "schema": { "type": "integer", "minimum": 0 },
            "required": true,
        },
        "www-authenticate": {
            "description": "How to authenticate, where the `Authorization` header is the way.",
            "schema": { "type": "string" },
        },
    })
}

fn operation(route: &Route, schemas: &mut SchemaGenerator) -> Value {
    let About {
        id,
        tag,
        summary,
        text,
        params,
        takes,
        gives,
        ..
    } = route.about;
    let mut operation = json!({
        "operationId": id,
        "tags": [tag],
        "summary": summary,
        "description": text,
        "security": security(route.who),
        "x-dayfly-audited": route.audited,
        "responses": responses(route, gives, schemas),
    });
    if let Some(members) = operation.as_object_mut() {
        if let Some(role) = role(route) {
            members.insert("x-dayfly-role".to_owned(), json!(role));
        }
        let proof = role(route).map(|_| &about::PROOF);
        let params: Vec<_> = params.iter().chain(proof).map(param).collect();
        if !params.is_empty() {
            members.insert("parameters".to_owned(), Value::Array(params));
        }
        if let Some(body) = body(takes, schemas) {
            members.insert("requestBody".to_owned(), body);
        }
    }
    operation
}

/// Where a DPoP proof is looked at, its reasons are told and its next nonce is offered.
fn reads_a_proof(route: &Route) -> bool {
    let named = |param: &Param| param.name == about::PROOF.name;
    role(route).is_some() || route.about.params.iter().any(named)
}

/// What operators need there.
fn role(route: &Route) -> Option<Role> {
    match route.who {
        Who::Operator(role) => Some(role),
        Who::Watcher => Some(Role::Viewer),
        Who::Anyone | Who::Client | Who::ResourceServer | Who::Platform => None,
    }
}

/// What OpenAPI can say of it: a proof in the form is for the form's own fields to say.
fn security(who: Who) -> Value {
    match who {
        Who::Operator(_) => json!([{ "operator": [] }]),
        Who::ResourceServer => json!([{ "resource_server": [] }, {}]),
        Who::Watcher => json!([{ "operator": [] }, { "resource_server": [] }, {}]),
        Who::Anyone | Who::Client | Who::Platform => json!([]),
    }
}

fn param(param: &Param) -> Value {
    json!({
        "name": param.name,
        "in": param.place.as_str(),
        "required": param.required(),
        "description": param.text,
        "schema": parsed(param.schema),
    })
}

fn body(takes: &Takes, schemas: &mut SchemaGenerator) -> Option<Value> {
    let (media, content) = match takes {
        Takes::Nothing => return None,
        Takes::Form { fields, example } => (
            "application/x-www-form-urlencoded",
            json!({ "schema": form_schema(fields), "example": parsed(example) }),
        ),
        Takes::Json(Body { schema, example }) => (
            "application/json",
            json!({ "schema": schema(schemas), "example": parsed(example) }),
        ),
        Takes::Message { schema, example } => (
            "application/json",
            json!({ "schema": parsed(schema), "example": parsed(example) }),
        ),
    };
    Some(json!({ "required": true, "content": { media: content } }))
}

fn form_schema(fields: &[Field]) -> Value {
    let required: Vec<_> = fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    let properties: Map<_, _> = fields
        .iter()
        .map(|field| {
            let mut schema = parsed(field.schema);
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".to_owned(), json!(field.text));
            }
            (field.name.to_owned(), schema)
        })
        .collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn responses(route: &Route, gives: &[Gives], schemas: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for given in gives {
        responses.insert(given.status.to_string(), success(route, given, schemas));
    }
    for (status, refused) in refusals::of(route) {
        if gives.iter().any(|given| given.status == status) {
            continue;
        }
        let mut refusal = refusal(status, &refused);
        if route.path.starts_with("/scim/")
            && let Some(Value::Object(content)) = refusal.get_mut("content")
            && let Some(told) = content.get("application/json").cloned()
        {
            content.insert(super::scim::MEDIA_TYPE.to_owned(), told);
        }
        responses.insert(status.to_string(), refusal);
    }
    if reads_a_proof(route) {
        for response in responses.values_mut().filter_map(Value::as_object_mut) {
            let headers = response.entry("headers").or_insert_with(|| json!({}));
            if let Some(headers) = headers.as_object_mut() {
                headers.insert("DPoP-Nonce".to_owned(), header("dpop-nonce"));
            }
        }
    }
    Value::Object(responses)
}

fn success(route: &Route, given: &Gives, schemas: &mut SchemaGenerator) -> Value {
    let mut response = json!({ "description": given.text });
    let content = match given.content {
        Content::Empty => None,
        Content::Json(Body { schema, example }) => Some(json!({
            "application/json": { "schema": schema(schemas), "example": parsed(example) },
        })),
        Content::Typed(kinds) => Some(Value::Object(
            kinds
                .iter()
                .map(|(media, schema)| ((*media).to_owned(), json!({ "schema": parsed(schema) })))
                .collect(),
        )),
    };
    if let (Some(response), Some(content)) = (response.as_object_mut(), content) {
        response.insert("content".to_owned(), content);
        if !matches!(route.who, Who::Anyone | Who::Platform) {
            response.insert(
                "headers".to_owned(),
                json!({ "Cache-Control": header("no-store") }),
            );
        }
    }
    response
}

/// One status that is a refusal: its `error` values, and the reasons that may be told.
fn refusal(status: u16, refused: &Refused) -> Value {
    let mut headers = json!({ "Cache-Control": header("no-store") });
    if let Some(headers) = headers.as_object_mut() {
        if refused.waits {
            headers.insert("Retry-After".to_owned(), header("retry-after"));
        }
        if status == 401 {
            headers.insert("WWW-Authenticate".to_owned(), header("www-authenticate"));
        }
    }
    let mut told = json!({ "error": { "enum": refused.errors } });
    if let Some(told) = told.as_object_mut() {
        let codes: Vec<_> = refused.reasons.iter().map(|reason| reason.code()).collect();
        told.insert("dayfly_reason".to_owned(), json!({ "enum": codes }));
    }
    let lines = refused
        .reasons
        .iter()
        .map(|reason| format!("- `{}`: {}\n", reason.code(), reason.meaning()));
    json!({
        "description": format!("Refused.\n\n{}", lines.collect::<String>()),
        "headers": headers,
        "content": { "application/json": {
            "schema": { "allOf": [{ "$ref": ERROR }, { "properties": told }] },
            "example": refused.reasons.first().map(|reason| example(*reason)),
        }},
    })
}

fn example(reason: Reason) -> ErrorBody {
    let mut refusal = Refusal::new(reason, "").exact();
    refusal.id = uuid::Uuid::from_u128(0x01a1_fdb2_4457_751c_9e33_b36b_87ea_0c65);
    told(&refusal).1
}

fn header(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

/// JSON of ours. What does not parse shows as null, which the tests look for.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests;
