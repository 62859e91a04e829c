//! What every other room is built from: the configuration as domain values.

use super::document::Document;
use super::problem::Problems;
use crate::agents::Agent;
use crate::broker::CertificateDoors;
use crate::broker::respond::ResponseSettings;
use crate::broker::watched::Template;
use crate::connectors::ConnectorSettings;
use crate::http::{DoorSettings, ListenSettings};
use crate::identity::{
    CertificateRule, CertificateSettings, ClientSettings, IssuerSettings, Recognised, SPIFFE_FACTS,
    TrustDomainSettings,
};
use crate::ids::MissionId;
use crate::intent::{IntentIssuer, Witness};
use crate::jose::{Algorithm, KeySet};
use crate::policy::{Mission, Policy, PolicyError, StatedRequest, Target};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// A whole configuration without an error in it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub broker: BrokerSettings,
    pub issuers: Vec<IssuerSettings>,
    pub trust_domains: Vec<TrustDomainSettings>,
    pub clients: Vec<ClientSettings>,
    pub certificates: Vec<CertificateSettings>,
    pub intent_issuers: Vec<IntentIssuer>,
    pub witnesses: Vec<Witness>,
    pub agents: Vec<Agent>,
    pub missions: Vec<Mission>,
    pub targets: Vec<(Target, ConnectorSettings)>,
    /// Name of the file and its text, for each of `policies/*.cedar`.
    pub forbids: Vec<(String, String)>,
    pub resource_servers: Vec<ResourceServerTable>,
    pub operators: Option<OperatorsTable>,
    pub sources: Vec<SourceTable>,
    pub notify: Vec<NotifyTable>,
    pub responses: Vec<ResponseSettings>,
    pub cases: Vec<Case>,
    /// SHA-256, in hex, of the names and bytes of every file and of every key set they refer to.
    pub hash: String,
    /// SHA-256 of what all replicas must have in common: everything but `[broker]`, where each has its own
    /// addresses and paths.
    pub decides: String,
    /// What is not wrong and should be looked at.
    pub warnings: Problems,
    /// The replica's own part of it.
    pub node: Node,
    /// Every reference to a secret.
    pub references: BTreeSet<String>,
    /// Key sets and certificates that were read, by the names that stand there.
    pub read: BTreeMap<String, Vec<u8>>,
    /// The tables themselves, where a mission lets agents be registered: those are read beside them.
    pub document: Option<Arc<Document>>,
}

/// What each replica has for itself: the file with `[broker]` in it, and what paths are relative to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub file: (String, String),
    pub base: PathBuf,
}

impl Settings {
    /// Who may ask for a credential, and how each shows who it is.
    pub fn recognised(&self) -> Recognised {
        Recognised {
            issuers: self.issuers.clone(),
            trust_domains: self.trust_domains.clone(),
            clients: self.clients.clone(),
            certificates: self.certificates.clone(),
        }
    }

    /// The policy room of this configuration, which knows the facts of its own issuers and authorities.
    pub fn policy(&self) -> Result<Policy, Vec<PolicyError>> {
        let facts: BTreeSet<String> = self
            .issuers
            .iter()
            .flat_map(|issuer| issuer.facts.keys())
            .chain(self.witnesses.iter().flat_map(|witness| &witness.proves))
            .cloned()
            .chain(SPIFFE_FACTS.map(str::to_owned))
            .collect();
        Policy::with_facts(
            self.missions.clone(),
            self.targets
                .iter()
                .map(|(target, _)| target.clone())
                .collect(),
            &self.forbids,
            self.hash.clone(),
            &facts.into_iter().collect::<Vec<_>>(),
        )
    }
}

/// `[broker]`.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// The issuer identifier, without a trailing slash.
    pub url: String,
    pub listen: ListenSettings,
    /// For clients that show a certificate, where they have doors of their own.
    pub mtls: Option<MtlsSettings>,
    /// `/livez`, `/readyz`, `/metrics`.
    pub health_listen: ListenSettings,
    pub doors: DoorSettings,
    pub store: StoreSettings,
    /// A view older than this decides nothing.
    pub fence_view_max_age: Duration,
    /// References to the sealing keys (see [`super::sealing_key`]): the first seals, every one opens.
    pub sealing_keys: Vec<String>,
    /// ES256 or Ed25519; takes effect with the next rotation.
    pub access_token_algorithm: Algorithm,
    /// Every DPoP proof must carry a nonce of ours.
    pub dpop_nonce: bool,
    /// Once one was published, that is the configuration, and of the folder `[broker]` alone counts.
    pub published: bool,
    /// Where the audit is exported to, as JSON Lines.
    pub audit_path: PathBuf,
    /// The broker itself is on loopback without TLS, so issuers may be, too.
    pub allow_loopback: bool,
}

/// `mtls` of `[broker]`.
#[derive(Debug, Clone)]
pub struct MtlsSettings {
    /// Where those doors are, for the metadata (RFC 8705 section 5).
    pub url: String,
    /// Absent where a proxy stands there.
    pub listen: Option<ListenSettings>,
}

impl BrokerSettings {
    /// Whether any client can show a certificate.
    pub fn takes_certificates(&self) -> bool {
        self.listen.tls.as_ref().is_some_and(|tls| tls.ask_client)
            || self.mtls.is_some()
            || self.doors.client_cert_header
    }

    pub fn certificate_doors(&self) -> CertificateDoors {
        CertificateDoors {
            taken: self.takes_certificates(),
            url: self.mtls.as_ref().map(|mtls| mtls.url.clone()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSettings {
    Embedded {
        path: PathBuf,
    },
    Redis {
        /// Reference to the URL, which may hold a password.
        url: String,
        /// How many replicas have to acknowledge a commit that lets a credential leave.
        min_replicas: u32,
        /// PEM of the authorities that vouch for the servers, in the place of the system's.
        ca: Option<PathBuf>,
        /// PEM of our own certificate and of its key, for servers that ask for one.
        identity: Option<(PathBuf, PathBuf)>,
    },
}

/// `[resource_server.NAME]`.
#[derive(Debug, Clone)]
pub struct ResourceServerTable {
    pub name: String,
    /// How it authenticates.
    pub proof: ResourceServerProof,
    /// Tokens for these audiences it may introspect.
    pub audiences: Vec<String>,
}

#[derive(Debug, Clone)]
pub enum ResourceServerProof {
    /// Reference to the secret it sends with HTTP Basic.
    Secret(String),
    /// `private_key_jwt`.
    Keys(KeySet),
    /// `tls_client_auth` or `self_signed_tls_client_auth`.
    Certificate(CertificateRule),
}

/// `[operators]`.
#[derive(Debug, Clone)]
pub struct OperatorsTable {
    pub issuer: IssuerSettings,
    /// The public client that `dayfly login` is to the issuer.
    pub client_id: Option<String>,
    pub roles: Vec<RoleTable>,
}

/// Whoever's token carries all of these claims has the role.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleTable {
    /// `viewer`, `reviewer`, `operator` or `admin`.
    pub role: String,
    pub claims: BTreeMap<String, Value>,
}

/// `[source.NAME]`: who may say that a context has ended, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    pub name: String,
    /// `github`, `gitlab`, `generic` or `scim`; `facts` for `[facts.NAME] webhook`.
    pub kind: String,
    /// Reference to the secret that its messages are signed with. `None`: it is asked, and tells nothing.
    pub secret: Option<String>,
    /// The issuer whose facts it speaks about.
    pub issuer_url: String,
    /// Repository or project ids whose runs it may end; for `generic`, kinds of context.
    pub may_end: Vec<String>,
    pub poll: Option<PollTable>,
}

/// `poll` of `[source.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollTable {
    pub url: Template,
    /// What leases hang on, as missions write it in `tether`.
    pub tether: String,
    pub pointer: String,
    pub ended_when: Vec<String>,
    /// Reference to the token that the source is asked with.
    pub bearer: Option<String>,
    pub every: Duration,
    /// It may be on a private network.
    pub private: bool,
}

impl SourceTable {
    /// `[facts.NAME] webhook`.
    pub(in crate::config) fn telling(witness: &Witness) -> Option<Self> {
        Some(Self {
            name: witness.name.to_string(),
            kind: "facts".to_owned(),
            secret: Some(witness.poll.as_ref()?.hmac.clone()?),
            issuer_url: witness.issuer.clone(),
            may_end: Vec::new(),
            poll: None,
        })
    }
}

/// `[[notify]]`: how somebody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyTable {
    pub name: String,
    pub way: NotifyWay,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifyWay {
    Webhook {
        url: String,
        /// Reference to the secret that its messages are signed with.
        secret: String,
    },
    Command {
        words: Vec<String>,
        to: Vec<String>,
    },
}

/// `[[case]]`: a request, and what should come of it.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    /// `FILE:LINE` of the case.
    pub at: String,
    pub request: StatedRequest,
    /// Absent: the time at which `check` runs.
    pub now: Option<OffsetDateTime>,
    pub expect: Expectation,
    pub(in crate::config) place: super::source::Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// By this mission, where one is named.
    Granted(Option<MissionId>),
    /// With this reason.
    Refused(String),
}
