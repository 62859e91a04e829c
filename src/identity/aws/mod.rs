//! A signed `sts:GetCallerIdentity` as a proof, for AWS accounts without tokens of their own.
//!
//! The caller signs the one request that asks "who am I?" (Signature Version 4) and sends it here
//! instead of to AWS. The broker sends on exactly that question, to an endpoint that it was
//! configured with, and AWS answers whose signature it is. The secret key never leaves the caller;
//! the request is good for this broker (a signed header names it), for minutes, and once.

pub(crate) mod principal;
pub(crate) mod request;

use super::settings::{IssuerSettings, SettingsError};
use super::{
    Caller, Confirmation, Identity, IdentityError, PresentedToken, Proof, TokenFault, audience,
    workload,
};
use crate::jose::{KeyClient, LEEWAY, RemoteKeysError};
use crate::replay;
use request::SignedRequest;
use serde_json::{Map, Value};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

pub use request::{BODY, NONCE, SERVER_ID};

/// `subject_token_type` of such a request.
pub const TOKEN_TYPE: &str = "urn:dayfly:params:token-type:aws-signed-request";

/// AWS itself accepts a signature for five minutes; never more than fifteen here.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Questions under way at once.
const AT_ONCE: usize = 32;

/// An issuer whose proofs STS judges.
#[derive(Debug)]
pub(super) struct Sts {
    settings: IssuerSettings,
    /// Origins, as `https://sts.eu-west-1.amazonaws.com`.
    endpoints: Vec<String>,
    client: KeyClient,
    room: Semaphore,
}

impl Sts {
    pub(super) fn new(
        settings: IssuerSettings,
        fetcher: &KeyClient,
    ) -> Result<Self, SettingsError> {
        let bad = |error: RemoteKeysError| SettingsError::Issuer {
            issuer: settings.id.clone(),
            fault: error.to_string(),
        };
        let client = fetcher.to_service(None).map_err(bad)?;
        let mut origins = Vec::new();
        for endpoint in &settings.sts {
            client.check_address(endpoint).map_err(bad)?;
            origins.push(endpoint.trim_end_matches('/').to_owned());
        }
        Ok(Self {
            settings,
            endpoints: origins,
            client,
            room: Semaphore::new(AT_ONCE),
        })
    }

    /// All that can be said without asking anybody.
    fn check(&self, request: &SignedRequest, now: OffsetDateTime) -> Result<(), TokenFault> {
        let refused = |why| Err(TokenFault::SignedRequest(why));
        if request.signed_at > now + LEEWAY {
            return refused("its date is in the future");
        }
        if now - request.signed_at > self.settings.max_lifetime.min(LONGEST) + LEEWAY {
            return refused("it was signed too long ago");
        }
        Ok(())
    }

    /// Who AWS says signed it.
    async fn ask(&self, request: &SignedRequest) -> Result<Map<String, Value>, IdentityError> {
        let unasked = |why: String| IdentityError::Unasked {
            issuer: self.settings.id.clone(),
            why,
        };
        let _place = self
            .room
            .try_acquire()
            .map_err(|_| unasked("too many questions are under way".to_owned()))?;
        // SECURITY: the address is the configured one, the body our own constant and the headers a
        // closed list. Whatever else a caller could put into a request to STS could make the answer
        // say something of the caller's choice.
        let headers = request.headers();
        let (status, body) = self
            .client
            .post(&format!("{}/", request.origin), &headers, BODY.to_owned())
            .await
            .map_err(|error| unasked(error.to_string()))?;
        let text = String::from_utf8(body).unwrap_or_default();
        match status {
            200 => principal::claims(&text)
                .map_err(|why| IdentityError::InvalidToken(TokenFault::SignedRequest(why))),
            400..=499 if !principal::is_throttled(status, &text) => Err(
                IdentityError::InvalidToken(TokenFault::Disowned(principal::shown(status, &text))),
            ),
            _ => Err(unasked(principal::shown(status, &text))),
        }
    }

    fn caller(
        &self,
        request: &SignedRequest,
        claims: Map<String, Value>,
        bound_key: Option<Confirmation>,
        token_sha256: [u8; 32],
    ) -> Result<Caller, TokenFault> {
        let settings = &self.settings;
        workload::check_tenant(&claims, settings)?;
        let subject = claims
            .get("sub")
            .and_then(Value::as_str)
            .ok_or(TokenFault::Subject)?
            .to_owned();
        let expires_at = request.signed_at + settings.max_lifetime.min(LONGEST);
        // The signature is over the whole question, and AWS confirmed it: it has no second spelling.
        let mark = replay::mark(
            replay::SUBJECT_TOKEN,
            &settings.url,
            None,
            request.signature.as_bytes(),
            expires_at,
        );
        Ok(Caller {
            issuer: settings.id.clone(),
            issuer_url: settings.url.clone(),
            subject,
            proof: Proof::SignedRequest,
            issuer_key: request.access_key_id.clone(),
            facts: workload::facts(&claims, &settings.facts),
            barred: workload::barred(&claims, &settings.refused),
            claims,
            bound_key,
            proved_key: None,
            token_sha256,
            expires_at,
            client: None,
            beside: None,
            instance: None,
            named_client: None,
            replay: vec![mark],
        })
    }
}

impl Identity {
    pub(super) async fn signed_request(
        &self,
        token: &PresentedToken,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let text = token.unverified.expose();
        let refused = |fault: TokenFault| IdentityError::InvalidToken(fault);
        let request =
            SignedRequest::parse(text).map_err(|why| refused(TokenFault::SignedRequest(why)))?;
        let sts = self
            .sts
            .iter()
            .find(|sts| sts.endpoints.contains(&request.origin))
            .ok_or(refused(TokenFault::SignedRequest(
                "its URL is not a configured endpoint",
            )))?;
        sts.check(&request, now).map_err(refused)?;
        // Before anybody is asked: a request for another service is none of our business.
        let named = Map::from_iter([("aud".to_owned(), Value::from(request.server_id.as_str()))]);
        let bound_key = audience::bound_key(&named, &sts.settings.audiences).map_err(refused)?;
        let claims = sts.ask(&request).await?;
        sts.caller(&request, claims, bound_key, workload::sha256(text))
            .map_err(refused)
    }
}
