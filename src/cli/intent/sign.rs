//! `dayfly intent sign`: claims from a file and from flags, signed with a key that is never shown.

use super::certificate;
use crate::authority::AuthorizationDetail;
use crate::cli::agent_side::{read_key, read_object, read_text};
use crate::cli::output::{Failure, Output};
use crate::clock::{Clock, SystemClock};
use crate::intent;
use crate::jose::SigningKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub struct SignArgs {
    /// The private key that signs: a JWK file. Of the agent, or of the issuer.
    #[arg(long, env = "DAYFLY_KEY_FILE")]
    key: PathBuf,
    /// The broker's URL, exactly as it calls itself (its issuer identifier).
    #[arg(long, env = "DAYFLY_URL", default_value = "http://127.0.0.1:8420")]
    url: String,
    /// The agent that it is for.
    #[arg(long, env = "DAYFLY_AGENT")]
    agent: Option<String>,
    /// Who signs, where it is not the agent: the URL of an intent issuer.
    #[arg(long)]
    issuer: Option<String>,
    /// Claims to begin with: a JSON object; `-` reads standard input. Flags replace its members.
    #[arg(long)]
    claims: Option<PathBuf>,
    /// The approved purpose.
    #[arg(long, env = "DAYFLY_MISSION")]
    mission: Option<String>,
    /// Why, in words.
    #[arg(long, env = "DAYFLY_GOAL")]
    goal: Option<String>,
    /// Joins the requests of one run of work.
    #[arg(long, env = "DAYFLY_TASK")]
    task: Option<String>,
    /// Which of several instances of the agent this is.
    #[arg(long, env = "DAYFLY_INSTANCE")]
    instance: Option<String>,
    /// The type of `authorization_details`: `access_token`, `api_key`, `aws_session`.
    #[arg(long = "type", id = "kind", value_name = "TYPE", requires = "actions")]
    kind: Option<String>,
    /// The target of the actions.
    #[arg(long, env = "DAYFLY_TARGET")]
    target: Option<String>,
    /// An action, in the target's own words.
    #[arg(long = "action", requires = "kind", requires = "target")]
    actions: Vec<String>,
    /// A location, in the target's own words.
    #[arg(long = "location", requires = "actions")]
    locations: Vec<String>,
    /// Seconds; less than the mission allows.
    #[arg(long, requires = "actions")]
    ttl: Option<u32>,
    /// Declared facts (`tctx`): a file with a JSON object.
    #[arg(long)]
    context: Option<PathBuf>,
    /// Signed evidence for a fact: a file with a compact JWS. At most four.
    #[arg(long)]
    evidence: Vec<PathBuf>,
    /// The subject token that it goes with: only its hash is put in.
    #[arg(long, env = "DAYFLY_SUBJECT_TOKEN_FILE")]
    subject_token_file: Option<PathBuf>,
    /// The certificate that the request will show: it goes with that one only. PEM, the leaf first.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// For how many seconds it may be used, 300 at most.
    #[arg(long, default_value_t = 120)]
    valid: u32,
}

pub fn sign(args: &SignArgs, output: &Output) -> Result<u8, Failure> {
    let key = read_key(&args.key)?;
    let now = SystemClock::new().now();
    let claims = claims(args, &key, now)?;
    // What the broker would refuse in any case is not signed.
    intent::well_formed(&claims, &args.url, now)
        .map_err(|error| Failure::usage(error.to_string()))?;
    // An issuer's key is known to the broker; an agent's is vouched for by its thumbprint alone.
    let embed = args.issuer.is_none();
    let signed = key
        .sign(intent::TYP, Some(key.thumbprint()), &claims, embed)
        .map_err(|error| Failure::failed(format!("the intent cannot be signed: {error}")))?;
    let value = json!({ "intent": signed, "claims": claims });
    output.show(&value, |_| signed.clone())?;
    Ok(0)
}

fn claims(
    args: &SignArgs,
    key: &SigningKey,
    now: OffsetDateTime,
) -> Result<Map<String, Value>, Failure> {
    let mut claims = match &args.claims {
        Some(path) => read_object(path)?,
        None => Map::new(),
    };
    let named = |claims: &Map<String, Value>| {
        let known = claims.get("client_id").and_then(Value::as_str);
        args.agent.clone().or_else(|| known.map(str::to_owned))
    };
    let agent = named(&claims).ok_or_else(|| Failure::usage("name the --agent it is for"))?;
    let issuer = args.issuer.clone().unwrap_or_else(|| agent.clone());
    let issued = now.unix_timestamp();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value);
        }
    };
    set("iss", Some(json!(issuer)));
    set("sub", Some(json!(agent)));
    set("client_id", Some(json!(agent)));
    set("aud", Some(json!(args.url)));
    set("iat", Some(json!(issued)));
    set("exp", Some(json!(issued + i64::from(args.valid))));
    set(
        "mission",
        args.mission.as_ref().map(|id| json!({ "id": id })),
    );
    set("txn", args.task.as_ref().map(|task| json!(task)));
    set("instance", args.instance.as_ref().map(|one| json!(one)));
    set(
        "authorization_details",
        detail(args).map(|one| json!([one])),
    );
    set("subject_token_hash", token_hash(args)?);
    match &args.certificate {
        Some(path) => set("cnf", Some(json!(certificate(path)?.confirmation()))),
        None if args.issuer.is_none() => set("cnf", Some(json!({ "jkt": key.thumbprint() }))),
        None => {}
    }
    claims
        .entry("jti")
        .or_insert_with(|| json!(crate::ids::draw_uuid()));
    if let Some(goal) = &args.goal {
        let prose = claims.entry("intent").or_insert_with(|| json!({}));
        if let Value::Object(prose) = prose {
            prose.insert("goal".to_owned(), json!(goal));
        }
    }
    context(args, &mut claims)?;
    Ok(claims)
}

fn detail(args: &SignArgs) -> Option<AuthorizationDetail> {
    Some(AuthorizationDetail {
        kind: args.kind.clone()?,
        identifier: args.target.clone()?,
        actions: args.actions.clone(),
        locations: args.locations.clone(),
        max_ttl: args.ttl,
    })
}

fn token_hash(args: &SignArgs) -> Result<Option<Value>, Failure> {
    let Some(path) = &args.subject_token_file else {
        return Ok(None);
    };
    let token = read_text(path)?;
    let hash = digest(&SHA256, token.as_bytes());
    Ok(Some(json!(URL_SAFE_NO_PAD.encode(hash.as_ref()))))
}

fn context(args: &SignArgs, claims: &mut Map<String, Value>) -> Result<(), Failure> {
    if let Some(path) = &args.context {
        claims.insert("tctx".to_owned(), Value::Object(read_object(path)?));
    }
    if args.evidence.is_empty() {
        return Ok(());
    }
    let pieces = args.evidence.iter().map(|path| read_text(path));
    let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
    let context = claims.entry("tctx").or_insert_with(|| json!({}));
    if let Value::Object(context) = context {
        context.insert("evidence".to_owned(), json!(pieces));
    }
    Ok(())
}
