//! Operators are callers too: an OIDC token whose claims give a role, or the break-glass token.

use super::{Broker, Bundle, Reason, Refusal, possession};
use crate::audit::{Entry, Event};
use crate::identity::{
    Caller, ClientCertificate, DpopProof, Identity, Presented, PresentedToken, TokenType,
};
use crate::ids::ShardId;
use crate::policy::Administration;
use crate::replay::{self, ReplayMark};
use crate::secret::Secret;
use crate::store::Key;
use crate::telemetry::metric;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

/// What an operator may do; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads agents, leases, audit.
    Viewer,
    /// Also explains refusals, approves what waits for people, and keeps or narrows what is reviewed.
    Reviewer,
    /// Also revokes, holds, lifts and retires.
    Operator,
    /// Also rotates keys, and takes a retirement back.
    Admin,
}

impl Role {
    /// As it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Reviewer => "reviewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// An operator who has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub name: String,
    /// As its issuer calls it, where that is not the name.
    pub subject: Option<String>,
    pub role: Role,
    /// Came in by the break-glass token: may revoke and hold, never lift or register.
    pub break_glass: bool,
}

impl Operator {
    fn development() -> Self {
        Self {
            name: "development-operator".to_owned(),
            subject: None,
            role: Role::Admin,
            break_glass: false,
        }
    }
}

/// SECURITY: who may give anything, the configuration in force says, and not the one that a replica still has.
/// Whatever takes away is taken from everybody who ever could.
const GIVES: &[&str] = &[
    "lift",
    "liftRestriction",
    "giveUpLease",
    "review",
    "invite",
    "rotateKey",
    "publishConfiguration",
    "registerAgent",
    "approve",
];

/// An operator who was let in, with what it takes to see whether it still would be.
#[derive(Debug)]
pub struct StillOperator {
    operator: Operator,
    token: Secret<String>,
    certificate: Option<ClientCertificate>,
    action: &'static str,
}

impl StillOperator {
    pub fn new(
        operator: Operator,
        token: Secret<String>,
        certificate: Option<ClientCertificate>,
        action: &'static str,
    ) -> Self {
        Self {
            operator,
            token,
            certificate,
            action,
        }
    }

    pub(in crate::broker) fn name(&self) -> &str {
        &self.operator.name
    }

    pub(in crate::broker) fn is_break_glass(&self) -> bool {
        self.operator.break_glass
    }
}

/// What an operators' request shows that it holds, beside its token.
#[derive(Debug, Default)]
pub struct Possession {
    pub dpop: Option<DpopProof>,
    pub certificate: Option<ClientCertificate>,
}

/// `[operators]`.
#[derive(Debug, Clone, Default)]
pub struct OperatorSettings {
    /// URL of the issuer of their tokens.
    pub issuer: Option<String>,
    pub roles: Vec<RoleRule>,
    /// SHA-256 of tokens that the development broker makes for itself.
    pub development_tokens: Vec<[u8; 32]>,
}

/// Whoever's token carries all of these claims has the role.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleRule {
    pub role: Role,
    pub claims: BTreeMap<String, Value>,
}

/// Knows operators: their issuer, their roles.
#[derive(Debug)]
pub struct Operators {
    identity: Option<Identity>,
    settings: OperatorSettings,
}

/// The stored side of a break-glass token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlass {
    pub name: String,
    #[serde(with = "time::serde::timestamp")]
    pub made_at: OffsetDateTime,
}

impl BreakGlass {
    /// `dayflyop_` marks it for secret scanners.
    pub const PREFIX: &'static str = "dayflyop_";

    /// Where its record lies. The token itself is never stored.
    pub fn key(token: &str) -> Key {
        Key {
            shard: ShardId::INSTALLATION,
            name: [b"break-glass/".as_slice(), sha256(token).as_slice()].concat(),
        }
    }
}

impl Operators {
    /// `identity` knows the operators' issuer and nothing else.
    pub fn new(identity: Option<Identity>, settings: OperatorSettings) -> Self {
        Self { identity, settings }
    }

    fn development(&self, token: &str) -> bool {
        let hash = sha256(token);
        self.settings
            .development_tokens
            .iter()
            .any(|known| known.as_slice().ct_eq(hash.as_slice()).into())
    }

    /// Who gives them their tokens, for the metadata.
    pub(in crate::broker) fn issuer(&self) -> Option<&str> {
        self.settings.issuer.as_deref()
    }

    fn known(&self, caller: &Caller) -> Result<Operator, Refusal> {
        let role = self.role(caller.claims()).ok_or_else(|| {
            let problem = format!("{} has no role", caller.subject());
            Refusal::new(Reason::NotPermitted, problem)
        })?;
        Ok(Operator {
            name: name(caller.subject(), caller.claims()),
            subject: Some(caller.subject().to_owned()),
            role,
            break_glass: false,
        })
    }

    /// The highest role whose claims are all there, exactly or as a member of an array claim.
    fn role(&self, claims: &serde_json::Map<String, Value>) -> Option<Role> {
        self.settings
            .roles
            .iter()
            .filter(|rule| {
                !rule.claims.is_empty()
                    && rule
                        .claims
                        .iter()
                        .all(|(name, wanted)| match claims.get(name) {
                            Some(Value::Array(values)) => values.contains(wanted),
                            Some(value) => value == wanted,
                            None => false,
                        })
            })
            .map(|rule| rule.role)
            .max()
    }
}

impl Broker {
    /// Who stands at an operators' door, and whether the role suffices.
    ///
    /// A `dpop` proof came with the token under the scheme `DPoP` (RFC 9449 section 7.1): then the token
    /// must be bound to its key. Without one it must be bound to the certificate, or to nothing.
    pub async fn operator(
        &self,
        token: &str,
        possession: Possession,
        (needed, action): (Role, &str),
    ) -> Result<Operator, Refusal> {
        let operator = self.recognise(token, possession).await?;
        let now = self.clock.now();
        if operator.break_glass {
            // Loud, and first: what cannot be written down is not done.
            let entry = Entry::new(Event::BreakGlassUsed, now)
                .operator(operator.name.as_str())
                .with("action", action);
            self.record
                .append(entry, ShardId::INSTALLATION, now)
                .await?;
            metrics::counter!(metric::ALARMS, "kind" => "break_glass_used").increment(1);
        }
        if operator.role < needed {
            return Err(Refusal::new(
                Reason::NotPermitted,
                format!(
                    "{} has role {:?}, this needs {needed:?}",
                    operator.name, operator.role
                ),
            ));
        }
        if GIVES.contains(&action) {
            self.decides_here().await?;
        }
        self.may(&operator, action)?;
        Ok(operator)
    }

    /// Whether the organisation's policies let it.
    fn may(&self, operator: &Operator, action: &str) -> Result<(), Refusal> {
        self.may_by(&self.bundle.load(), operator, action)
    }

    fn may_by(&self, bundle: &Bundle, operator: &Operator, action: &str) -> Result<(), Refusal> {
        let asked = Administration {
            name: &operator.name,
            role: operator.role.as_str(),
            break_glass: operator.break_glass,
            action,
            now: self.clock.now(),
        };
        bundle
            .policy
            .administer(&asked)
            .map_err(|why| Refusal::new(Reason::NotPermitted, why))
    }

    async fn recognise(&self, bearer: &str, possession: Possession) -> Result<Operator, Refusal> {
        let bundle = self.bundle.load_full();
        let with_proof = possession.dpop.is_some();
        let unbound = || Refusal::new(Reason::NotAuthenticated, "a proof beside an unbound token");
        let ours = bundle.operators.development(bearer) || bearer.starts_with(BreakGlass::PREFIX);
        if ours && with_proof {
            return Err(unbound());
        }
        if bundle.operators.development(bearer) {
            return Ok(Operator::development());
        }
        if bearer.starts_with(BreakGlass::PREFIX) {
            let operator = self.break_glass_of(bearer).await?;
            tracing::warn!(operator = operator.name, "break-glass token used");
            return Ok(operator);
        }
        let caller = self.signed_in(&bundle, bearer, possession).await?;
        possession::of_its_holder(&caller)?;
        if with_proof {
            // SECURITY: or a stolen bearer token could dress up as one that is bound to a key.
            if caller.bound_key().is_none() {
                return Err(unbound());
            }
            self.spend(&proofs(&caller), self.clock.now()).await?;
        }
        bundle.operators.known(&caller)
    }

    /// Whose token it is, whether or not its key was shown.
    async fn signed_in(
        &self,
        bundle: &Bundle,
        bearer: &str,
        possession: Possession,
    ) -> Result<Caller, Refusal> {
        let Some(identity) = &bundle.operators.identity else {
            return Err(Refusal::new(
                Reason::NotAuthenticated,
                "no operators are configured",
            ));
        };
        let presented = Presented {
            subject_token: Some(PresentedToken {
                unverified: Secret::new(bearer.to_owned()),
                token_type: TokenType::IdToken,
            }),
            dpop: possession.dpop,
            certificate: possession.certificate,
            ..Presented::default()
        };
        let now = self.clock.now();
        identity.verify(&presented, now).await.map_err(|error| {
            let refusal = Refusal::from(error);
            match refusal.reason {
                Reason::IssuerUnavailable | Reason::InvalidDpopProof | Reason::UseDpopNonce => {
                    refusal
                }
                _ => Refusal::new(Reason::NotAuthenticated, refusal.detail),
            }
        })
    }

    /// Whether an operator who was let in some time ago still would be. What proved the key of a bound
    /// token was for that moment, and is not asked for again.
    pub(in crate::broker) async fn still_operator(
        &self,
        seen: &StillOperator,
    ) -> Result<(), Refusal> {
        let bundle = self.bundle.load_full();
        let operator = self.operator_by(&bundle, seen).await?;
        self.may(&operator, seen.action)
    }

    /// Whether an operator would be let in for the same with another configuration, and as an admin.
    pub(in crate::broker) async fn admin_by(
        &self,
        bundle: &Bundle,
        seen: &StillOperator,
    ) -> Result<(), Refusal> {
        let operator = self.operator_by(bundle, seen).await?;
        if operator.role < Role::Admin {
            let why = format!("{} would have role {:?}", operator.name, operator.role);
            return Err(Refusal::new(Reason::NotPermitted, why));
        }
        self.may_by(bundle, &operator, seen.action)
    }

    async fn operator_by(
        &self,
        bundle: &Bundle,
        seen: &StillOperator,
    ) -> Result<Operator, Refusal> {
        let bearer = seen.token.expose();
        Ok(if bundle.operators.development(bearer) {
            Operator::development()
        } else if bearer.starts_with(BreakGlass::PREFIX) {
            self.break_glass_of(bearer).await?
        } else {
            let possession = Possession {
                dpop: None,
                certificate: seen.certificate.clone(),
            };
            let caller = self.signed_in(bundle, bearer, possession).await?;
            bundle.operators.known(&caller)?
        })
    }

    /// Works while the identity provider is down.
    async fn break_glass_of(&self, token: &str) -> Result<Operator, Refusal> {
        let found = self.store.get(&[BreakGlass::key(token)]).await?;
        let record = found.into_iter().next().flatten().ok_or_else(|| {
            Refusal::new(
                Reason::NotAuthenticated,
                "not a break-glass token of this store",
            )
        })?;
        let known: BreakGlass = serde_json::from_slice(&record.value)
            .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        Ok(Operator {
            name: known.name,
            subject: None,
            role: Role::Operator,
            break_glass: true,
        })
    }
}

/// The token itself is presented again and again.
fn proofs(caller: &Caller) -> Vec<ReplayMark> {
    let marks = caller.replay().iter();
    marks
        .filter(|mark| mark.kind == replay::DPOP_PROOF)
        .cloned()
        .collect()
}

/// The name in the audit. An address that its issuer did not verify could be somebody else's.
pub(in crate::broker) fn name(subject: &str, claims: &serde_json::Map<String, Value>) -> String {
    let doubtful = claims
        .get("email_verified")
        .is_some_and(|verified| verified != true && verified != "true");
    claims
        .get("email")
        .and_then(Value::as_str)
        .filter(|_| !doubtful)
        .unwrap_or(subject)
        .to_owned()
}

fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    let hash = digest(&SHA256, text.as_bytes());
    bytes
        .iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(role: Role, claims: Value) -> RoleRule {
        RoleRule {
            role,
            claims: serde_json::from_value(claims).unwrap(),
        }
    }

    fn role_of(rules: Vec<RoleRule>, claims: &Value) -> Option<Role> {
        let settings = OperatorSettings {
            roles: rules,
            ..OperatorSettings::default()
        };
        Operators::new(None, settings).role(claims.as_object().unwrap())
    }

    #[test]
    fn the_highest_role_whose_claims_are_all_there_counts() {
        let rules = vec![
            rule(Role::Viewer, json!({"groups": "staff"})),
            rule(Role::Operator, json!({"groups": "oncall", "amr": "hwk"})),
        ];
        let staff = json!({"groups": ["staff", "oncall"]});
        assert_eq!(role_of(rules.clone(), &staff), Some(Role::Viewer));
        let oncall = json!({"groups": ["staff", "oncall"], "amr": "hwk"});
        assert_eq!(role_of(rules.clone(), &oncall), Some(Role::Operator));
        assert_eq!(role_of(rules, &json!({"groups": "guests"})), None);
    }

    #[test]
    fn a_rule_without_claims_gives_nobody_a_role() {
        assert_eq!(
            role_of(vec![rule(Role::Admin, json!({}))], &json!({"sub": "x"})),
            None
        );
    }

    #[test]
    fn an_address_that_was_not_verified_names_nobody_in_the_audit() {
        let named = |claims: Value| name("sub-1", claims.as_object().unwrap());
        assert_eq!(named(json!({"email": "a@acme.example"})), "a@acme.example");
        let verified = json!({"email": "a@acme.example", "email_verified": true});
        assert_eq!(named(verified), "a@acme.example");
        let doubtful = json!({"email": "a@acme.example", "email_verified": false});
        assert_eq!(named(doubtful), "sub-1");
        assert_eq!(named(json!({})), "sub-1");
    }

    #[test]
    fn a_development_token_is_known_by_its_hash_alone() {
        let settings = OperatorSettings {
            development_tokens: vec![sha256("dayflyop_a")],
            ..OperatorSettings::default()
        };
        let operators = Operators::new(None, settings);
        assert!(operators.development("dayflyop_a"));
        assert!(!operators.development("dayflyop_b"));
    }
}
