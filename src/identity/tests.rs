use super::tokens::{self, GithubSubject, Signer};
use super::*;
use crate::jose::{JoseError, KeySet, Reach};
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

mod assertions;
mod certificates;
mod clients;
mod remote;
mod settings_rules;
mod spiffe;
mod workloads;

pub(crate) const NOW: i64 = 1_795_250_000;
pub(crate) const BROKER: &str = "https://broker.acme.example";
pub(crate) const GITHUB: &str = "https://token.actions.githubusercontent.com";
const GITLAB: &str = "https://gitlab.acme.example";
const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const AGENT: &str = "checkout-deployer";

pub(crate) fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW + seconds).unwrap()
}

/// A broker that knows three platforms and one agent with a key of its own.
pub(crate) struct Bench {
    pub(crate) identity: Identity,
    pub(crate) platform: Signer,
    pub(crate) agent: Signer,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    fn with(change: impl FnOnce(&mut Vec<IssuerSettings>, &mut ClientSettings)) -> Self {
        let platform = Signer::rs256("platform-1");
        let agent = Signer::es256("agent-1");
        let mut issuers = vec![
            issuer("github", GITHUB, &platform),
            issuer("gitlab", GITLAB, &platform),
            issuer("kubernetes", CLUSTER, &platform),
        ];
        let mut client = ClientSettings {
            agent: AGENT.parse().unwrap(),
            keys: keys(&agent),
            legacy_audience: false,
            enrol: false,
        };
        change(&mut issuers, &mut client);
        let identity = Identity::new(issuers, vec![client], BROKER.to_owned(), &fetcher()).unwrap();
        Self {
            identity,
            platform,
            agent,
        }
    }

    pub(crate) async fn token(&self, text: &str) -> Result<Caller, IdentityError> {
        self.identity.verify(&subject(text), at(0)).await
    }

    /// The same with a DPoP proof of this key beside it.
    pub(crate) async fn proving(&self, text: &str, key: &Signer) -> Caller {
        let claims = json!({
            "jti": "proof", "htm": "POST", "htu": format!("{BROKER}/token"), "iat": NOW,
        });
        let mut presented = subject(text);
        presented.dpop = Some(proof(&key.dpop(&claims)));
        self.identity.verify(&presented, at(0)).await.unwrap()
    }
}

/// A `DPoP` header at the token endpoint.
pub(crate) fn proof(text: &str) -> DpopProof {
    DpopProof {
        unverified: Secret::new(text.to_owned()),
        method: "POST".to_owned(),
        url: format!("{BROKER}/token"),
        access_token: None,
    }
}

/// Fetches from loopback too: that is where the issuers of tests are.
pub(crate) fn fetcher() -> KeyClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let reach = Reach {
        loopback: true,
        private: false,
    };
    KeyClient::new(reach, &[]).unwrap()
}

pub(crate) fn keys(signer: &Signer) -> KeySet {
    KeySet::parse(signer.jwks().to_string().as_bytes()).unwrap()
}

fn issuer(preset: &str, url: &str, signer: &Signer) -> IssuerSettings {
    let mut settings = presets::by_name(preset)
        .unwrap()
        .settings(
            preset.parse().unwrap(),
            Some(url.to_owned()),
            vec![BROKER.to_owned()],
        )
        .unwrap();
    settings.keys = KeySource::Fixed(keys(signer));
    if preset == "github" {
        settings
            .tenant
            .insert("repository_owner_id".to_owned(), vec![json!("4321")]);
    }
    settings
}

pub(crate) fn github() -> Value {
    tokens::github(NOW, GITHUB, BROKER, GithubSubject::Immutable)
}

pub(crate) fn subject(text: &str) -> Presented {
    Presented {
        subject_token: Some(PresentedToken {
            unverified: Secret::new(text.to_owned()),
            token_type: TokenType::Jwt,
        }),
        ..Presented::default()
    }
}

pub(crate) fn assertion(text: &str) -> Presented {
    Presented {
        client_assertion: Some(Secret::new(text.to_owned())),
        ..Presented::default()
    }
}

fn token_fault(result: Result<Caller, IdentityError>) -> TokenFault {
    match result {
        Err(IdentityError::InvalidToken(fault)) => fault,
        other => panic!("expected a bad subject token, got {other:?}"),
    }
}

fn client_fault(result: Result<Caller, IdentityError>) -> ClientFault {
    match result {
        Err(IdentityError::InvalidClient(fault)) => fault,
        other => panic!("expected a bad client, got {other:?}"),
    }
}

#[tokio::test]
async fn whoever_presents_nothing_is_told_so() {
    let bench = Bench::new();
    let result = bench.identity.verify(&Presented::default(), at(0)).await;
    assert!(matches!(result, Err(IdentityError::Missing)));
}

#[tokio::test]
async fn a_self_signed_token_is_an_intent_and_proves_nobody() {
    let bench = Bench::new();
    let mut presented = subject(&bench.platform.sign(&json!({}), &github()));
    presented.subject_token.as_mut().unwrap().token_type = TokenType::SelfSigned;
    let result = bench.identity.verify(&presented, at(0)).await;
    assert!(matches!(result, Err(IdentityError::Missing)));
}

#[tokio::test]
async fn with_both_proofs_the_caller_is_the_tokens_and_both_are_spent() {
    let bench = Bench::with(|issuers, _| issuers[0].single_use = true);
    let mut presented = subject(&bench.platform.sign(&json!({}), &github()));
    let claims = tokens::assertion(NOW, AGENT, BROKER);
    presented.client_assertion = Some(Secret::new(bench.agent.sign(&json!({}), &claims)));
    presented.client_id = Some(AGENT.to_owned());
    let caller = bench.identity.verify(&presented, at(0)).await.unwrap();
    assert_eq!(caller.proof(), Proof::WorkloadToken);
    assert_eq!(caller.issuer().as_str(), "github");
    assert_eq!(caller.client().unwrap().as_str(), AGENT);
    assert_eq!(caller.named_client(), None);
    assert_eq!(caller.replay().len(), 2);
    assert_ne!(caller.replay()[0].hash, caller.replay()[1].hash);
}

#[tokio::test]
async fn a_bad_proof_never_falls_back_to_a_good_one_beside_it() {
    let bench = Bench::new();
    let token = bench.platform.sign(&json!({}), &github());
    let good = bench
        .agent
        .sign(&json!({}), &tokens::assertion(NOW, AGENT, BROKER));

    let mut presented = subject(&bench.agent.sign(&json!({}), &github()));
    presented.client_assertion = Some(Secret::new(good));
    token_fault(bench.identity.verify(&presented, at(0)).await);

    let mut presented = subject(&token);
    presented.client_assertion = Some(Secret::new(token.clone()));
    client_fault(bench.identity.verify(&presented, at(0)).await);
}

#[tokio::test]
async fn a_client_id_beside_a_token_is_kept_as_a_statement() {
    let bench = Bench::new();
    let mut presented = subject(&bench.platform.sign(&json!({}), &github()));
    presented.client_id = Some("someone".to_owned());
    let caller = bench.identity.verify(&presented, at(0)).await.unwrap();
    assert_eq!(caller.named_client(), Some("someone"));
    assert_eq!(caller.client(), None);
    // A remembered token remembers nobody's statement.
    presented.client_id = None;
    let caller = bench.identity.verify(&presented, at(0)).await.unwrap();
    assert_eq!(caller.named_client(), None);
}

#[tokio::test]
async fn what_was_presented_is_in_no_error() {
    let bench = Bench::new();
    let token = bench.agent.sign(&json!({}), &github());
    let shown = format!("{:?}", bench.token(&token).await);
    for part in token.split('.') {
        assert!(!shown.contains(part), "{shown}");
    }
}
