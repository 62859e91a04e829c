//! Settings in, a bundle out: everything that a reload swaps.

use super::output::Failure;
use crate::agents::Registry;
use crate::broker::operators::Operators;
use crate::broker::publish::{Build, Files, Purpose, Stored, Unfit};
use crate::broker::registered::{Joined, Read, Reader};
use crate::broker::release::ResourceServers;
use crate::broker::respond::{Notify, Responses, Way};
use crate::broker::watched::Asking;
use crate::broker::{
    Bundle, OperatorSettings, ResourceServerSettings, Role, RoleRule, SigningSecret, SourceKind,
    SourceSettings,
};
use crate::clock::Clock;
use crate::config;
use crate::config::{Node, NotifyWay, PollTable, ResourceServerProof, Settings, secret_reference};
use crate::connectors::{Connectors, Setup};
use crate::identity::{
    CertificateSettings, ClientSettings, Enrolment, Identity, Nonces, Recognised,
};
use crate::ids;
use crate::ids::AgentId;
use crate::intent::{Board, Intents};
use crate::jose::{KeyClient, Keyring, Reach};
use crate::secret::{Renewed, Sealer, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use std::sync::Arc;
use std::time::Duration;

/// How long one call to a downstream may take in all.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// What bundles are made with, for as long as the broker runs.
#[derive(Debug)]
pub(super) struct Maker {
    pub keyring: Arc<Keyring>,
    pub enrolment: Arc<Enrolment>,
    pub sealer: Sealer,
    pub board: Arc<Board>,
    pub clock: Arc<dyn Clock>,
    /// SHA-256 of the tokens that the development broker made for itself.
    pub development_tokens: Vec<[u8; 32]>,
}

impl Maker {
    /// A bundle with which everything that it names can be had.
    pub async fn ready(self: &Arc<Self>, settings: &Settings) -> Result<Bundle, Failure> {
        let (maker, own) = (Arc::clone(self), settings.clone());
        // Secrets come from files and commands, which may be slow: not where requests are answered.
        let bundle = tokio::task::spawn_blocking(move || maker.bundle(&own)).await;
        // SECURITY: what a panic says may quote a secret.
        let broken = |_| Failure::failed("the configuration could not be built: see the log");
        let bundle = bundle.map_err(broken)??;
        bundle
            .connectors
            .prepare(self.clock.now())
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        Ok(bundle)
    }

    /// What the broker makes bundles of published files with. `node`: this replica's own part.
    pub fn of_published(self: &Arc<Self>, node: Node) -> Arc<Build> {
        let (maker, node) = (Arc::clone(self), Arc::new(node));
        Arc::new(move |files, purpose| {
            let (maker, node) = (Arc::clone(&maker), Arc::clone(&node));
            Box::pin(async move {
                let now = maker.clock.now();
                // Secrets come from files, and policies are compiled.
                let settings =
                    tokio::task::spawn_blocking(move || read(&node, &files, purpose, now));
                let settings = settings
                    .await
                    .map_err(|_| Unfit::Here("reading it was ended".to_owned()))??;
                let built = maker.ready(&settings).await;
                built.map_err(|failure| Unfit::Here(failure.message))
            })
        })
    }

    /// What was published last, as it is read here; `None`: the folder decides.
    pub async fn settings_of(&self, stored: &Stored, node: Node) -> Result<Settings, Failure> {
        let files = stored.files.clone();
        let now = self.clock.now();
        let read =
            tokio::task::spawn_blocking(move || read(&node, &files, Purpose::TakingOver, now));
        let failed = |why: String| {
            Failure::failed(format!("the published configuration cannot be used: {why}"))
        };
        let settings = read
            .await
            .map_err(|_| failed("reading it was ended".to_owned()))?;
        let settings = settings.map_err(|unfit| failed(unfit.to_string()))?;
        if settings.hash != stored.hash {
            return Err(failed("it is read here as another one".to_owned()));
        }
        Ok(settings)
    }

    /// Everything that a reload swaps.
    fn bundle(&self, settings: &Settings) -> Result<Bundle, Failure> {
        let Self {
            keyring,
            enrolment,
            sealer,
            board,
            clock,
            development_tokens,
            ..
        } = self;
        let url = &settings.broker.url;
        let reach = Reach {
            loopback: settings.broker.allow_loopback,
            private: false,
        };
        let http =
            KeyClient::new(reach, &[]).map_err(|error| Failure::failed(error.to_string()))?;
        let nonces = settings
            .broker
            .dpop_nonce
            .then(|| Nonces::new(sealer.clone(), url.clone()));
        let identity = |recognised: Recognised| {
            Identity::of(recognised, url.clone(), &http)
                .map(|identity| identity.demanding(nonces.clone()))
                .map_err(|error| Failure::failed(error.to_string()))
        };
        let targets: Vec<_> = settings
            .targets
            .iter()
            .map(|(target, connector)| (target.id.clone(), connector.clone()))
            .collect();
        let setup = Setup {
            keyring: keyring.clone(),
            clock: clock.clone(),
            broker_url: url,
            fence_view_max_age: settings.broker.fence_view_max_age,
            call_timeout: CALL_TIMEOUT,
            resolve: &|text| secret_reference(text).map_err(|error| error.to_string()),
        };
        let connectors = Connectors::build(&targets, &setup).map_err(|wrong| together(&wrong))?;
        let policy = settings.policy().map_err(|wrong| together(&wrong))?;
        let operators = match &settings.operators {
            Some(table) => Some(identity(Recognised {
                issuers: vec![table.issuer.clone()],
                ..Recognised::default()
            })?),
            None => None,
        };
        let (servers, servers_known) = resource_servers(settings)?;
        Ok(Bundle {
            identity: identity(settings.recognised())?.with_enrolment(enrolment.clone()),
            intents: Intents::new(
                url.clone(),
                settings.intent_issuers.clone(),
                settings.witnesses.clone(),
                &http,
            )
            .map(|intents| Arc::new(intents.on(board.clone())))
            .map_err(|error| Failure::failed(error.to_string()))?,
            agents: Registry::new(settings.agents.clone())
                .map_err(|error| Failure::failed(error.to_string()))?,
            policy: Arc::new(policy),
            connectors: Arc::new(connectors),
            resource_servers: Arc::new(ResourceServers::new(identity(servers_known)?, servers)),
            operators: Arc::new(Operators::new(
                operators,
                operator_settings(settings, development_tokens)?,
            )),
            sources: Arc::new(sources(settings, &http)?),
            responses: Arc::new(responses(settings, &http)?),
            hash: settings.hash.clone(),
            decides: settings.decides.clone(),
            revision: 0,
            reader: settings.document.is_some().then(|| reader(settings)),
            joined: Joined::default(),
        })
    }
}

/// Registered agents, as they stand beside these settings.
fn reader(settings: &Settings) -> Reader {
    let settings = settings.clone();
    Reader::new(move |definitions| {
        let joined = settings.joined(definitions)?;
        let policy = joined.settings.policy().map_err(|wrong| lines(&wrong))?;
        let (own, clients) = (settings.agents.len(), settings.clients.len());
        let told = |(id, problems): (AgentId, Vec<config::Problem>)| {
            let each = problems.iter();
            let told = each.filter_map(|problem| serde_json::to_value(problem).ok());
            (id, told.collect())
        };
        Ok(Read {
            // Behind those of the files.
            agents: joined.settings.agents.into_iter().skip(own).collect(),
            clients: joined.settings.clients.into_iter().skip(clients).collect(),
            policy: Arc::new(policy),
            problems: joined.problems.into_iter().map(told).collect(),
        })
    })
}

/// The whole of a published configuration, or everything that is wrong.
fn read(
    node: &Node,
    files: &Files,
    purpose: Purpose,
    now: time::OffsetDateTime,
) -> Result<Settings, Unfit> {
    let document = config::published(node, files);
    let told = |problems: &config::Problems| {
        let each = problems.0.iter();
        each.filter_map(|problem| serde_json::to_value(problem).ok())
            .collect()
    };
    if purpose == Purpose::Publishing {
        let report = config::check_published(&document, now);
        if !report.ok {
            return Err(Unfit::Wrong(told(&report.problems)));
        }
    }
    let settings = document.whole();
    let settings = settings.map_err(|problems| Unfit::Wrong(told(&problems)))?;
    if purpose == Purpose::Publishing
        && let Some(name) = config::secret_within(&settings, files)
    {
        let why = format!("`{name}` holds the value of a secret: write a reference to it");
        return Err(Unfit::Here(why));
    }
    Ok(settings)
}

fn together(wrong: &[impl std::fmt::Display]) -> Failure {
    Failure::failed(lines(wrong))
}

fn lines(wrong: &[impl std::fmt::Display]) -> String {
    let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn operator_settings(
    settings: &Settings,
    development_tokens: &[[u8; 32]],
) -> Result<OperatorSettings, Failure> {
    let mut roles = Vec::new();
    for rule in settings.operators.iter().flat_map(|table| &table.roles) {
        let role = match rule.role.as_str() {
            "viewer" => Role::Viewer,
            "reviewer" => Role::Reviewer,
            "operator" => Role::Operator,
            "admin" => Role::Admin,
            other => return Err(Failure::failed(format!("`{other}` is no role"))),
        };
        roles.push(RoleRule {
            role,
            claims: rule.claims.clone(),
        });
    }
    let issuer = settings.operators.as_ref();
    Ok(OperatorSettings {
        issuer: issuer.map(|table| table.issuer.url.clone()),
        roles,
        development_tokens: development_tokens.to_vec(),
    })
}

fn resource_servers(
    settings: &Settings,
) -> Result<(Vec<ResourceServerSettings>, Recognised), Failure> {
    let mut servers = Vec::new();
    let mut known = Recognised::default();
    for table in &settings.resource_servers {
        let name = || {
            let name = table.name.parse();
            name.map_err(|error| Failure::failed(format!("resource server: {error}")))
        };
        let secret_sha256 = match &table.proof {
            ResourceServerProof::Secret(reference) => {
                let secret = secret_reference(reference)
                    .map_err(|error| Failure::failed(error.to_string()))?;
                digest(&SHA256, secret.expose().as_bytes())
                    .as_ref()
                    .try_into()
                    .ok()
            }
            ResourceServerProof::Keys(keys) => {
                known.clients.push(ClientSettings {
                    agent: name()?,
                    keys: keys.clone(),
                    legacy_audience: false,
                    enrol: false,
                });
                None
            }
            ResourceServerProof::Certificate(rule) => {
                known.certificates.push(CertificateSettings {
                    agent: name()?,
                    rule: rule.clone(),
                });
                None
            }
        };
        servers.push(ResourceServerSettings {
            name: table.name.clone(),
            secret_sha256,
            audiences: table.audiences.clone(),
        });
    }
    Ok((servers, known))
}

fn sources(settings: &Settings, http: &KeyClient) -> Result<Vec<SourceSettings>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let mut sources = Vec::new();
    for table in &settings.sources {
        let kind = match table.kind.as_str() {
            "github" => SourceKind::Github,
            "gitlab" => SourceKind::Gitlab,
            "generic" => SourceKind::Generic,
            "scim" => SourceKind::Scim,
            "facts" => SourceKind::Facts,
            other => return Err(Failure::failed(format!("`{other}` is no kind of source"))),
        };
        let secret = match &table.secret {
            Some(reference) => secret_reference(reference).map_err(|error| failed(&error))?,
            // SECURITY: nobody knows it, so nobody signs by it.
            None => Secret::new(URL_SAFE_NO_PAD.encode(ids::random::<32>())),
        };
        if kind == SourceKind::Gitlab
            && let Some(Err(why)) = SigningSecret::of(&secret)
        {
            return Err(failed(&format!("its secret begins with whsec_ and {why}")));
        }
        sources.push(SourceSettings {
            name: table.name.clone(),
            kind,
            secret,
            issuer_url: table.issuer_url.clone(),
            may_end: table.may_end.clone(),
            asking: match &table.poll {
                Some(poll) => Some(asking(poll, http)?),
                None => None,
            },
        });
    }
    Ok(sources)
}

fn asking(poll: &PollTable, http: &KeyClient) -> Result<Asking, Failure> {
    let client = http.reaching(poll.private, None);
    let mut client = client.map_err(|error| Failure::failed(error.to_string()))?;
    // Tokens of a platform's API are short: read again for each question.
    if let Some(reference) = poll.bearer.clone() {
        client = client.as_bearer(Renewed::new(move || {
            secret_reference(&reference).map_err(|error| error.to_string())
        }));
    }
    Ok(Asking {
        url: poll.url.clone(),
        tether: poll.tether.clone(),
        pointer: poll.pointer.clone(),
        ended_when: poll.ended_when.clone(),
        every: poll.every,
        client,
    })
}

fn responses(settings: &Settings, http: &KeyClient) -> Result<Responses, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let mut notify = Vec::new();
    for table in &settings.notify {
        let way = match &table.way {
            NotifyWay::Webhook { url, secret } => Way::Webhook {
                // The operator named it: it may be inside the organisation.
                client: http.to_service(None).map_err(|error| failed(&error))?,
                url: url.clone(),
                secret: secret_reference(secret).map_err(|error| failed(&error))?,
            },
            NotifyWay::Command { words, to } => Way::Command {
                words: words.clone(),
                to: to.clone(),
            },
        };
        let name = table.name.clone();
        notify.push(Notify { name, way });
    }
    Ok(Responses {
        responses: settings.responses.clone(),
        notify,
    })
}
