//! `dayfly intent verify`: the broker's own checks, against files, told one by one.

use super::certificate;
use super::show::decoded;
use crate::cli::agent_side::read_text;
use crate::cli::output::{Failure, Output};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Settings};
use crate::identity::{Caller, Confirmation, KeySource};
use crate::intent::{Asked, Behalf, Intent, IntentError, Intents, SignerClass, Step, Vouched};
use crate::jose::{KeyClient, KeySet, Reach};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A file that holds the intent; `-` reads it from standard input.
    #[arg(default_value = "-")]
    intent: PathBuf,
    /// The configuration folder.
    #[arg(long, env = "DAYFLY_CONFIG")]
    config: PathBuf,
    /// The subject token that it would be sent with. Taken at its word: this is about the intent.
    #[arg(long)]
    subject_token_file: Option<PathBuf>,
    /// The certificate that the request would show, instead of a token. PEM, the leaf first.
    #[arg(long, conflicts_with = "subject_token_file")]
    certificate: Option<PathBuf>,
    /// Keys of a signer whose keys the broker fetches: a JWK set.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// The moment to verify it at (RFC 3339); absent: now.
    #[arg(long)]
    at: Option<String>,
}

/// `null`: not reached, or nothing there to check it with.
#[derive(Debug, Serialize)]
struct Checked {
    name: &'static str,
    passed: Option<bool>,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

#[derive(Debug, Serialize)]
struct Report {
    accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    signer: Option<SignerClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mission: Option<String>,
    checks: Vec<Checked>,
}

pub async fn verify(args: VerifyArgs, output: &Output) -> Result<u8, Failure> {
    let now = match &args.at {
        Some(text) => OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| Failure::usage("--at takes a moment like 2026-11-21T12:00:00Z"))?,
        None => SystemClock::new().now(),
    };
    let mut settings = config::load(&args.config)
        .and_then(|document| document.resolve())
        .map_err(|problems| Failure::failed(problems.to_string()))?;
    let text = read_text(&args.intent)?;
    let fetched = with_keys(&mut settings, &args)?;
    let claims = decoded(&text).map_or(Value::Null, |(_, claims)| claims);
    if let Some(issuer) = missing(&fetched, &claims) {
        return Err(Failure {
            code: 6,
            ..Failure::failed(format!(
                "the keys of {issuer} are fetched by the broker: give them with --keys"
            ))
        });
    }
    let token = args.subject_token_file.as_deref().map(read_text);
    let mut sender = Sender::of(&settings, &claims, token.transpose()?, now);
    if let Some(path) = &args.certificate {
        sender.caller = Caller::stated_with_certificate(&certificate(path)?, now);
        sender.is_assumed = false;
    }
    let outcome = sender.verify(&settings, text, now).await?;
    let report = report(&settings, &sender, outcome, now);
    output.show(&report, told)?;
    Ok(if report.accepted { 0 } else { 3 })
}

/// Signers whose keys the broker would fetch; nothing is fetched here.
fn with_keys(settings: &mut Settings, args: &VerifyArgs) -> Result<Vec<String>, Failure> {
    let given = match &args.keys {
        Some(path) => Some(
            KeySet::parse(read_text(path)?.as_bytes())
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?,
        ),
        None => None,
    };
    let mut fetched = Vec::new();
    let issuers = settings.intent_issuers.iter_mut();
    let issuers = issuers.map(|issuer| (&issuer.issuer, &mut issuer.keys));
    let witnesses = settings.witnesses.iter_mut();
    let witnesses = witnesses.map(|witness| (&witness.issuer, &mut witness.keys));
    for (url, keys) in issuers.chain(witnesses) {
        match (&keys, &given) {
            (KeySource::Fixed(_), _) => {}
            (_, Some(given)) => *keys = KeySource::Fixed(given.clone()),
            (_, None) => fetched.push(url.clone()),
        }
    }
    Ok(fetched)
}

/// A signer of this intent, or of evidence in it, whose keys are not here.
fn missing(fetched: &[String], claims: &Value) -> Option<String> {
    let issuer = |claims: &Value| claims.get("iss").and_then(Value::as_str).map(str::to_owned);
    let evidence = claims.pointer("/tctx/evidence").and_then(Value::as_array);
    let evidence = evidence
        .into_iter()
        .flatten()
        .filter_map(|piece| issuer(&decoded(piece.as_str()?)?.1));
    issuer(claims)
        .into_iter()
        .chain(evidence)
        .find(|issuer| fetched.contains(issuer))
}

/// Who would send it, taken at its word.
struct Sender {
    caller: Caller,
    registered: Vec<String>,
    /// No token was given, and the one that the intent names is assumed.
    is_assumed: bool,
    has_token: bool,
}

impl Sender {
    fn of(settings: &Settings, claims: &Value, token: Option<String>, now: OffsetDateTime) -> Self {
        let name = claims
            .get("client_id")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let agent = settings.agents.iter().find(|a| a.id.as_str() == name);
        let registered = agent.map_or_else(Vec::new, |agent| agent.intent_keys.clone());
        let client = settings.clients.iter().find(|c| c.agent.as_str() == name);
        let hash = claims.get("subject_token_hash").and_then(Value::as_str);
        let assumed = hash.and_then(|hash| URL_SAFE_NO_PAD.decode(hash).ok()?.try_into().ok());
        let (sha256, bound) = match &token {
            Some(token) => (sha256(token), bound_key(token)),
            None => (assumed.unwrap_or_default(), None),
        };
        let has_token = token.is_some();
        let is_assumed = !has_token && assumed.is_some();
        let caller = match client {
            Some(client) if !has_token && !is_assumed => {
                Caller::stated_as_client(client.agent.clone(), client.keys.clone(), now)
            }
            _ => Caller::stated_with_token(sha256, now).stated_as_bound(bound),
        };
        Self {
            caller,
            registered,
            is_assumed,
            has_token,
        }
    }

    async fn verify(
        &self,
        settings: &Settings,
        text: String,
        now: OffsetDateTime,
    ) -> Result<Result<Intent, IntentError>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
        let fetcher = KeyClient::new(Reach::default(), &[]).map_err(|error| failed(&error))?;
        // Whose keys are fetched signs nothing of this intent: that was looked at before.
        let is_here = |keys: &KeySource| matches!(keys, KeySource::Fixed(_));
        let issuers = settings.intent_issuers.iter();
        let witnesses = settings.witnesses.iter();
        let intents = Intents::new(
            settings.broker.url.clone(),
            issuers.filter(|i| is_here(&i.keys)).cloned().collect(),
            witnesses.filter(|w| is_here(&w.keys)).cloned().collect(),
            &fetcher,
        )
        .map_err(|error| failed(&error))?;
        let asked = Asked {
            unverified_intent: Some(text),
            ..Asked::default()
        };
        let vouched = |key: &str| match self.registered.iter().any(|one| one == key) {
            true => Vouched::Registered,
            false => Vouched::Not,
        };
        // Whom an agent acts for, the request's tokens say, and they are not here.
        Ok(intents
            .verify(asked, &self.caller, Behalf::Nobody, &vouched, now)
            .await)
    }
}

/// As the broker reads it from a verified token.
fn bound_key(token: &str) -> Option<Confirmation> {
    let (_, claims) = decoded(token)?;
    if let Some(confirmation) = claims.get("cnf") {
        return Confirmation::read(confirmation);
    }
    let audiences = match claims.get("aud")? {
        Value::Array(many) => many.clone(),
        one => vec![one.clone()],
    };
    let mut keys = audiences
        .iter()
        .filter_map(|audience| Some(audience.as_str()?.rsplit_once("#jkt=")?.1.to_owned()));
    keys.next().map(Confirmation::Jkt)
}

fn sha256(text: &str) -> [u8; 32] {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().try_into().unwrap_or_default()
}

fn report(
    settings: &Settings,
    sender: &Sender,
    outcome: Result<Intent, IntentError>,
    now: OffsetDateTime,
) -> Report {
    let failed = outcome.as_ref().err().map(IntentError::step);
    let mut checks: Vec<Checked> = Step::ALL
        .into_iter()
        .map(|step| {
            let passed = match failed {
                None => Some(true),
                Some(at) if step < at => Some(true),
                Some(at) if step == at => Some(false),
                Some(_) => None,
            };
            let detail = match (&outcome, passed) {
                (Err(error), Some(false)) => error.to_string(),
                _ if step == Step::SubjectToken && sender.is_assumed => {
                    "no token was given: the one that it names is assumed".to_owned()
                }
                _ => String::new(),
            };
            Checked {
                name: step.name(),
                passed,
                detail,
            }
        })
        .collect();
    if failed == Some(Step::Signer) && !sender.has_token {
        let hint = "a key that a token is bound to needs --subject-token-file".to_owned();
        if let Some(check) = checks.iter_mut().find(|check| check.passed == Some(false)) {
            check.detail = format!("{}; {hint}", check.detail);
        }
    }
    let Ok(intent) = outcome else {
        return Report {
            accepted: false,
            signer: None,
            agent: None,
            mission: None,
            checks,
        };
    };
    checks.push(agent(settings, &intent, now));
    checks.extend(mission(settings, &intent));
    Report {
        accepted: checks.iter().all(|check| check.passed == Some(true)),
        signer: Some(intent.signer()),
        agent: intent.client_id().map(str::to_owned),
        mission: intent.mission().map(ToString::to_string),
        checks,
    }
}

fn agent(settings: &Settings, intent: &Intent, now: OffsetDateTime) -> Checked {
    let name = intent.client_id().unwrap_or_default();
    let found = settings.agents.iter().find(|a| a.id.as_str() == name);
    let (passed, detail) = match found {
        None => (false, format!("there is no agent `{name}`")),
        Some(agent) if now.to_utc().date() > agent.ends => {
            (false, format!("its last day was {}", agent.ends))
        }
        Some(_) => (true, String::new()),
    };
    Checked {
        name: "agent",
        passed: Some(passed),
        detail,
    }
}

/// Whether the mission that it names admits the agent and this class of signer.
fn mission(settings: &Settings, intent: &Intent) -> Option<Checked> {
    let named = intent.mission()?;
    let agent = intent.client_id().unwrap_or_default();
    let found = settings.missions.iter().find(|m| m.id == *named);
    let (passed, detail) = match found {
        None => (false, format!("there is no mission `{named}`")),
        Some(mission) if !mission.agents.iter().any(|a| a.as_str() == agent) => {
            (false, format!("`{named}` does not list `{agent}`"))
        }
        Some(mission) if !mission.accepts(intent.signer()) => {
            (false, format!("`{named}` wants another class of signer"))
        }
        Some(_) => (true, String::new()),
    };
    Some(Checked {
        name: "admitted",
        passed: Some(passed),
        detail,
    })
}

fn told(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .checks
        .iter()
        .map(|check| {
            let mark = match check.passed {
                Some(true) => "ok  ",
                Some(false) => "FAIL",
                None => "-   ",
            };
            format!("{mark}  {:<13}  {}", check.name, check.detail)
                .trim_end()
                .to_owned()
        })
        .collect();
    lines.push(String::new());
    lines.push(match (report.accepted, &report.agent) {
        (true, Some(agent)) => format!("accepted, as an intent for {agent}"),
        (true, None) => "accepted".to_owned(),
        (false, _) => "refused".to_owned(),
    });
    lines.join("\n")
}
