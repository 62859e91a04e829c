//! A token that the platform issued (OpenID Connect workload tokens).
//!
//! The token's own `iss` only picks among the configured issuers; everything else that is tried
//! on it (keys, algorithms, audiences, tenant) belongs to that issuer alone.

use super::review::{self, Reviewer};
use super::settings::{IssuerSettings, KeySource, SettingsError};
use super::{
    Caller, Facts, Identity, IdentityError, Instance, IssuerKeys, PresentedToken, Proof,
    TokenFault, TokenType, audience, cache, claims, person,
};
use crate::jose::RemoteKeysError;
use crate::jose::claims::times;
use crate::jose::{Compact, JoseError, KeyClient, KeySet, TypRule, Verified};
use crate::replay;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;

/// GitHub's largest are near 4 KiB.
pub(super) const MAX_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Issuer {
    settings: IssuerSettings,
    /// As an authorization grant its tokens may name the token endpoint where they may name the
    /// broker (RFC 7523 section 3; 7523bis leaves that to grants).
    grant_audiences: Vec<String>,
    keys: IssuerKeys,
    reviewer: Option<Reviewer>,
}

impl Identity {
    pub(super) async fn workload(
        &self,
        token: &PresentedToken,
        now: OffsetDateTime,
    ) -> Result<Caller, IdentityError> {
        let text = token.unverified.expose();
        let key = cache::Key {
            sha256: sha256(text),
            token_type: token.token_type,
        };
        if let Some(found) = self.cache.get(&key)
            && let Some(caller) = self.still_good(&found, now).await?
        {
            self.review(text, &caller, now).await?;
            return Ok(caller);
        }
        let compact =
            Compact::parse(text, MAX_BYTES, &typ_rule(token.token_type)).map_err(fault)?;
        let issuer = compact
            .unverified_claims()
            .get("iss")
            .and_then(Value::as_str)
            .and_then(|iss| self.issuers.get(iss));
        let Some(issuer) = issuer else {
            let domain = self
                .trust_domain_of(&compact)
                .ok_or(IdentityError::InvalidToken(TokenFault::UnknownIssuer))?;
            return domain.subject_token(compact, token, key.sha256, now).await;
        };
        let verified = issuer.verify(compact, &key, now).await?;
        self.cache.put(key, verified.clone());
        self.review(text, &verified.caller, now).await?;
        Ok(verified.caller)
    }

    /// SECURITY: not part of what is remembered about a token: remembering must not outlive a no.
    async fn review(
        &self,
        text: &str,
        caller: &Caller,
        now: OffsetDateTime,
    ) -> Result<(), IdentityError> {
        let issuer = self.issuers.get(&caller.issuer_url);
        match issuer.and_then(|issuer| Some((issuer, issuer.reviewer.as_ref()?))) {
            Some((issuer, reviewer)) => {
                let accepted = &issuer.grant_audiences;
                reviewer.confirm(text, accepted, caller, now).await
            }
            None => Ok(()),
        }
    }

    /// A remembered caller is as good as a fresh one only while its key is still among its issuer's
    /// and its times hold.
    async fn still_good(
        &self,
        found: &cache::Entry,
        now: OffsetDateTime,
    ) -> Result<Option<Caller>, IdentityError> {
        let Some(issuer) = self.issuers.get(&found.caller.issuer_url) else {
            return Ok(None);
        };
        let keys = issuer.keys(found.kid.as_deref(), now).await?;
        // SECURITY: whoever's key was withdrawn is out at once, remembered or not.
        let known = keys
            .candidates(found.kid.as_deref(), found.algorithm)
            .iter()
            .any(|key| key.thumbprint() == found.caller.issuer_key);
        let in_time = times(&found.caller.claims, now, issuer.settings.max_lifetime).is_ok();
        Ok((known && in_time).then(|| found.caller.clone()))
    }
}

impl Issuer {
    /// Its name, and whether its keys can be had.
    pub(super) async fn reach(&self, now: OffsetDateTime) -> (String, Result<(), RemoteKeysError>) {
        let keys = self.keys.current(None, now).await.map(drop);
        (self.settings.id.to_string(), keys)
    }

    pub(super) fn new(
        mut settings: IssuerSettings,
        broker_url: &str,
        fetcher: &KeyClient,
    ) -> Result<Self, SettingsError> {
        let mut grant_audiences = settings.audiences.clone();
        if grant_audiences
            .iter()
            .any(|audience| audience == broker_url)
        {
            grant_audiences.push(audience::token_endpoint(broker_url));
        }
        let bad = |settings: &IssuerSettings, fault: String| SettingsError::Issuer {
            issuer: settings.id.clone(),
            fault,
        };
        let source = std::mem::replace(&mut settings.keys, KeySource::Discovery);
        let keys = match (source, &settings.review) {
            (KeySource::Discovery, Some(review)) => {
                review::keys(review, fetcher).map(IssuerKeys::Remote)
            }
            (source, _) => {
                // SECURITY: further than the public internet only for the issuer that says so itself.
                let (private, ca) = (settings.private_network, settings.ca.as_deref());
                fetcher
                    .reaching(private, ca)
                    .and_then(|fetcher| IssuerKeys::new(source, &settings.url, &fetcher))
                    .map_err(|error| error.to_string())
            }
        };
        let keys = keys.map_err(|fault| bad(&settings, fault))?;
        let keys = keys.kept_for(settings.keys_max_age);
        let reviewer = match settings.review.clone() {
            Some(review) => {
                let reviewer = Reviewer::new(review, fetcher);
                Some(reviewer.map_err(|fault| bad(&settings, fault))?)
            }
            None => None,
        };
        Ok(Self {
            settings,
            grant_audiences,
            keys,
            reviewer,
        })
    }

    pub(super) fn audiences(&self) -> &[String] {
        &self.settings.audiences
    }

    pub(super) fn is_of_people(&self) -> bool {
        self.settings.people
    }

    async fn keys(
        &self,
        kid: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Arc<KeySet>, IdentityError> {
        let keys = self.keys.current(kid, now).await;
        keys.map_err(|source| IdentityError::Unavailable {
            issuer: self.settings.id.clone(),
            source,
        })
    }

    async fn verify(
        &self,
        compact: Compact,
        key: &cache::Key,
        now: OffsetDateTime,
    ) -> Result<cache::Entry, IdentityError> {
        let algorithm = compact.alg();
        let kid = compact.kid().map(str::to_owned);
        if !self.settings.algorithms.contains(&algorithm) {
            return Err(fault(JoseError::AlgorithmRefused));
        }
        let keys = self.keys(kid.as_deref(), now).await?;
        let candidates = keys.candidates(kid.as_deref(), algorithm);
        if candidates.is_empty() {
            return Err(IdentityError::InvalidToken(TokenFault::UnknownKey));
        }
        let verified = compact
            .verify(&candidates, &self.settings.algorithms)
            .map_err(fault)?;
        let caller = self
            .caller(&verified, key, now)
            .map_err(IdentityError::InvalidToken)?;
        Ok(cache::Entry {
            caller,
            kid,
            algorithm,
        })
    }

    fn caller(
        &self,
        verified: &Verified,
        key: &cache::Key,
        now: OffsetDateTime,
    ) -> Result<Caller, TokenFault> {
        let settings = &self.settings;
        let audiences = match key.token_type {
            TokenType::Assertion => &self.grant_audiences,
            _ => &settings.audiences,
        };
        let claims = verified.claims();
        let times = times(claims, now, settings.max_lifetime)?;
        // SECURITY: an actor that is not looked at would be dropped from the chain.
        if claims.contains_key("act") {
            return Err(TokenFault::Delegated);
        }
        let mut bound_key = audience::bound_key(claims, audiences)?;
        if settings.people
            && let Some(key) = person::key_of_nonce(claims)?
            && *bound_key.get_or_insert_with(|| key.clone()) != key
        {
            return Err(TokenFault::BoundKey);
        }
        // A token that names a key is held to that one.
        let pin = settings.pin.as_ref().filter(|_| bound_key.is_none());
        let instance = pin.and_then(|pin| Instance::of(claims, pin));
        let subject = bounded(claims, "sub", 1024)
            .map_err(|()| TokenFault::Subject)?
            .ok_or(TokenFault::Subject)?;
        check_tenant(claims, settings)?;
        let jti = bounded(claims, "jti", 256).map_err(|()| TokenFault::TokenId)?;
        let replay = settings.single_use.then(|| {
            replay::mark(
                replay::SUBJECT_TOKEN,
                &settings.url,
                jti,
                verified.signing_input(),
                times.expires_at,
            )
        });
        Ok(Caller {
            issuer: settings.id.clone(),
            issuer_url: settings.url.clone(),
            subject: subject.to_owned(),
            proof: if settings.people {
                Proof::Person
            } else {
                Proof::WorkloadToken
            },
            issuer_key: verified.key().thumbprint().to_owned(),
            facts: facts(claims, &settings.facts),
            barred: barred(claims, &settings.refused),
            claims: claims.clone(),
            bound_key,
            proved_key: None,
            token_sha256: key.sha256,
            expires_at: times.expires_at,
            client: None,
            beside: None,
            instance,
            named_client: None,
            replay: replay.into_iter().collect(),
        })
    }
}

/// What a token may call itself. Absent is what most platforms send.
fn typ_rule(token_type: TokenType) -> TypRule {
    match token_type {
        TokenType::AccessToken => TypRule::AbsentOr(&["JWT", "JOSE", "at+jwt"]),
        TokenType::Jwt
        | TokenType::IdToken
        | TokenType::SelfSigned
        | TokenType::Assertion
        | TokenType::AwsSignedRequest => TypRule::AbsentOr(&["JWT", "JOSE"]),
    }
}

pub(super) fn check_tenant(
    claims: &Map<String, Value>,
    settings: &IssuerSettings,
) -> Result<(), TokenFault> {
    for (claim, values) in &settings.tenant {
        let actual = claims::find(claims, claim);
        if !actual.is_some_and(|actual| values.iter().any(|value| claims::same(actual, value))) {
            return Err(TokenFault::Tenant(claim.clone()));
        }
    }
    Ok(())
}

pub(super) fn facts(claims: &Map<String, Value>, mapping: &BTreeMap<String, String>) -> Facts {
    mapping
        .iter()
        .filter_map(|(fact, path)| {
            let value = match path.strip_prefix('=') {
                Some(literal) => Value::from(literal),
                None => claims::find(claims, path)
                    .filter(|value| claims::is_fact(value))?
                    .clone(),
            };
            Some((fact.clone(), value))
        })
        .collect()
}

pub(super) fn barred(
    claims: &Map<String, Value>,
    refused: &BTreeMap<String, Vec<Value>>,
) -> BTreeMap<String, Value> {
    refused
        .iter()
        .filter_map(|(claim, values)| {
            let actual = claims::find(claims, claim)?;
            values
                .iter()
                .any(|value| claims::same(actual, value))
                .then(|| (claim.clone(), actual.clone()))
        })
        .collect()
}

/// A string claim of 1 to `max` characters without control characters; absent is `None`.
pub(super) fn bounded<'a>(
    claims: &'a Map<String, Value>,
    name: &str,
    max: usize,
) -> Result<Option<&'a str>, ()> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text))
            if !text.is_empty()
                && text.chars().count() <= max
                && !text.chars().any(char::is_control) =>
        {
            Ok(Some(text))
        }
        Some(_) => Err(()),
    }
}

pub(super) fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes
        .iter_mut()
        .zip(digest(&SHA256, text.as_bytes()).as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}

fn fault(error: JoseError) -> IdentityError {
    IdentityError::InvalidToken(error.into())
}
