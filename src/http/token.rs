//! `POST /token`: a form in, a credential out (RFC 8693, RFC 6749 section 4.4, RFC 7523 section 2.1).
//!
//! Parses and bounds; nothing is verified here. What is offered is taken, what is known and not
//! offered is refused rather than ignored, what is unknown is ignored.

use super::Doors;
use super::certificate::Shown;
use super::client_auth;
use super::dpop;
use super::error::Refused;
use super::form;
use super::form::Form;
use super::form::malformed;
use super::to_its_end;
use crate::authority::AuthorizationDetail;
use crate::broker::ExchangeRequest;
use crate::broker::GrantType;
use crate::broker::Reason;
use crate::broker::Refusal;
use crate::identity::ClientCertificate;
use crate::identity::Presented;
use crate::identity::PresentedToken;
use crate::identity::TokenType;
use crate::ids::MissionId;
use crate::intent::Asked;
use crate::secret::Secret;
use crate::telemetry;
use crate::wire::CLIENT_CREDENTIALS;
use crate::wire::JWT_BEARER;
use crate::wire::TOKEN_EXCHANGE;
use crate::wire::TokenResponse;
use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use url::Url;

/// Longer than any workload token seen; an intent has its own, lower bound.
const MAX_TOKEN: usize = 16 * 1024;
const MAX_TARGETS: usize = 8;
const MAX_TARGET: usize = 2048;
const MAX_SCOPE: usize = 4096;

pub(super) async fn exchange(
    State(doors): State<Doors>,
    Extension(shown): Extension<Shown>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let refused = |refusal: Refusal| {
        telemetry::decided(Some(refusal.reason.code()));
        Refused::new(refusal, client_auth::challenge(&headers))
    };
    let form = form::read_form(&headers, body).await.map_err(refused)?;
    let mut request = parse(&headers, &form, shown.0).map_err(refused)?;
    let broker = doors.broker.clone();
    request.presented.dpop =
        dpop::read(&headers, &broker, &Method::POST, "/token").map_err(refused)?;
    let answer = to_its_end(async move { broker.exchange(request).await })
        .await
        .map_err(refused)?;
    telemetry::decided(None);
    Ok(answered(&answer))
}

/// RFC 6749 section 5.1.
fn answered(answer: &TokenResponse) -> Response {
    let mut response = Json(answer).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// The request as the corridor takes it.
pub(crate) fn parse(
    headers: &HeaderMap,
    form: &Form,
    certificate: Option<ClientCertificate>,
) -> Result<ExchangeRequest, Refusal> {
    let grant = match form.require("grant_type")? {
        TOKEN_EXCHANGE => GrantType::TokenExchange,
        CLIENT_CREDENTIALS => GrantType::ClientCredentials,
        JWT_BEARER => GrantType::JwtBearer,
        _ => {
            return Err(
                Refusal::new(Reason::UnsupportedGrantType, "another grant type")
                    .exact()
                    .at(Some("grant_type".to_owned())),
            );
        }
    };
    let mut presented = client_auth::read(headers, form, certificate)?;
    presented.actor_token = actor_token(form)?;
    if presented.actor_token.is_some() && grant != GrantType::TokenExchange {
        return Err(malformed(
            "only token exchange has an actor",
            Some("actor_token"),
        ));
    }
    let mut unverified_intent = bounded(form, "intent")?.map(str::to_owned);
    if grant == GrantType::TokenExchange {
        let subject = subject_token(form)?;
        if subject.token_type == TokenType::SelfSigned {
            // Transaction Tokens' way to send what we call the intent.
            if unverified_intent.is_some() {
                return Err(malformed("an intent twice", Some("intent")));
            }
            unverified_intent = Some(subject.unverified.expose().clone());
        } else {
            presented.subject_token = Some(subject);
        }
    } else if form.get("subject_token").is_some() || form.get("subject_token_type").is_some() {
        return Err(malformed(
            "only token exchange has a subject",
            Some("subject_token"),
        ));
    }
    if grant == GrantType::JwtBearer {
        form.require("assertion")?;
        let text = bounded(form, "assertion")?.unwrap_or_default();
        presented.subject_token = Some(PresentedToken {
            unverified: Secret::new(text.to_owned()),
            token_type: TokenType::Assertion,
        });
    } else if form.get("assertion").is_some() {
        return Err(malformed("only jwt-bearer has it", Some("assertion")));
    }
    proof_must_be_there(&presented)?;
    let (scope, mission) = scope(form)?;
    Ok(ExchangeRequest {
        grant,
        presented,
        asked: Asked {
            unverified_intent,
            targets: targets(form)?,
            authorization_details: authorization_details(form)?,
            scope,
            mission,
        },
        requested_token_type: requested_token_type(form)?,
    })
}

fn proof_must_be_there(presented: &Presented) -> Result<(), Refusal> {
    let Presented {
        subject_token,
        basic,
        client_assertion,
        client_svid,
        certificate,
        ..
    } = presented;
    let has_client = basic.is_some()
        || client_assertion.is_some()
        || client_svid.is_some()
        || certificate.is_some();
    if subject_token.is_none() && !has_client {
        return Err(Refusal::new(Reason::NoProof, "neither subject nor client").exact());
    }
    Ok(())
}

fn bounded<'form>(form: &'form Form, name: &'static str) -> Result<Option<&'form str>, Refusal> {
    let value = form.get(name);
    if value.is_some_and(|value| value.len() > MAX_TOKEN) {
        return Err(malformed("a parameter is too long", Some(name)));
    }
    Ok(value)
}

fn subject_token(form: &Form) -> Result<PresentedToken, Refusal> {
    form.require("subject_token")?;
    form.require("subject_token_type")?;
    typed_token(form, "subject_token", "subject_token_type")?
        .ok_or_else(|| malformed("a parameter is missing", Some("subject_token")))
}

/// RFC 8693 section 2.1: the type comes with the token, and never without it.
fn actor_token(form: &Form) -> Result<Option<PresentedToken>, Refusal> {
    let token = typed_token(form, "actor_token", "actor_token_type")?;
    if token
        .as_ref()
        .is_some_and(|t| t.token_type == TokenType::SelfSigned)
    {
        return Err(malformed(
            "what the actor signed itself proves nobody",
            Some("actor_token_type"),
        ));
    }
    Ok(token)
}

fn typed_token(
    form: &Form,
    name: &'static str,
    type_name: &'static str,
) -> Result<Option<PresentedToken>, Refusal> {
    let (token, urn) = match (bounded(form, name)?, form.get(type_name)) {
        (None, None) => return Ok(None),
        (Some(token), Some(urn)) => (token, urn),
        (Some(_), None) => return Err(malformed("a token without its type", Some(type_name))),
        (None, Some(_)) => return Err(malformed("a type without its token", Some(name))),
    };
    let token_type = TokenType::parse(urn)
        .ok_or_else(|| malformed("a token type that is not taken", Some(type_name)))?;
    Ok(Some(PresentedToken {
        unverified: Secret::new(token.to_owned()),
        token_type,
    }))
}

/// An absolute URI; which ones can be had is for the corridor to say.
fn requested_token_type(form: &Form) -> Result<Option<String>, Refusal> {
    let Some(value) = form.get("requested_token_type") else {
        return Ok(None);
    };
    if value.len() > MAX_TARGET || Url::parse(value).is_err() {
        return Err(malformed(
            "requested_token_type is no URI",
            Some("requested_token_type"),
        ));
    }
    Ok(Some(value.to_owned()))
}

/// `audience` values, then `resource` values, each once. RFC 8707 section 2 for `resource`.
fn targets(form: &Form) -> Result<Vec<String>, Refusal> {
    let refused = |detail: &str, at: &str| {
        Refusal::new(Reason::InvalidTarget, detail)
            .exact()
            .at(Some(at.to_owned()))
    };
    let mut targets: Vec<String> = Vec::new();
    for name in ["audience", "resource"] {
        for value in form.all(name) {
            if value.len() > MAX_TARGET || value.chars().any(char::is_control) {
                return Err(refused(
                    "a target too long, or with control characters",
                    name,
                ));
            }
            if name == "resource" && !is_resource(value) {
                return Err(refused("not an absolute URI without a fragment", name));
            }
            if !targets.iter().any(|other| other == value) {
                targets.push(value.to_owned());
            }
            if targets.len() > MAX_TARGETS {
                return Err(refused("too many targets", name));
            }
        }
    }
    Ok(targets)
}

fn is_resource(value: &str) -> bool {
    let visible = value.bytes().all(|byte| matches!(byte, 0x21..=0x7e));
    visible && !value.contains('#') && Url::parse(value).is_ok()
}

/// RFC 6749 section 3.3, with `mission:NAME` taken out.
fn scope(form: &Form) -> Result<(Vec<String>, Option<MissionId>), Refusal> {
    let refused = |detail: &str| {
        Refusal::new(Reason::InvalidScope, detail)
            .exact()
            .at(Some("scope".to_owned()))
    };
    let text = form.get("scope").unwrap_or_default();
    if text.len() > MAX_SCOPE {
        return Err(refused("the scope is too long"));
    }
    let mut scopes = Vec::new();
    let mut mission: Option<MissionId> = None;
    for token in text.split(' ').filter(|token| !token.is_empty()) {
        if !token
            .bytes()
            .all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
        {
            return Err(refused("a character that no scope has"));
        }
        let Some(name) = token.strip_prefix("mission:") else {
            scopes.push(token.to_owned());
            continue;
        };
        let name: MissionId = name.parse().map_err(|_| refused("not a mission's name"))?;
        if mission.as_ref().is_some_and(|other| *other != name) {
            return Err(refused("several missions"));
        }
        mission = Some(name);
    }
    Ok((scopes, mission))
}

fn authorization_details(form: &Form) -> Result<Vec<AuthorizationDetail>, Refusal> {
    let Some(text) = form.get("authorization_details") else {
        return Ok(Vec::new());
    };
    AuthorizationDetail::parse_list(text).map_err(|error| {
        Refusal::new(Reason::InvalidAuthorizationDetails, error.why)
            .exact()
            .at(Some(error.at))
    })
}

#[cfg(test)]
mod tests;
