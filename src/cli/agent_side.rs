//! `token` and `exec`: what an agent or a pipeline calls.

use super::login::{PERSON, state_file};
use super::output::{Failure, Output};
use crate::authority::AuthorizationDetail;
use crate::client::endpoint::Endpoint;
use crate::client::exec::{ExecError, Run};
use crate::client::instance;
use crate::client::proof::{Prover, Source};
use crate::client::request::{Wanted, ask_people};
use crate::client::sign_in::SignIn;
use crate::client::{Client, ClientError};
use crate::clock::{Clock, SystemClock};
use crate::config::{duration, secret_reference};
use crate::jose::SigningKey;
use crate::secret::Secret;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Who asks, at which broker, for what.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// The broker's URL, exactly as it calls itself (its issuer identifier).
    #[arg(long, env = "DAYFLY_URL", default_value = "http://127.0.0.1:8420")]
    url: String,
    /// The approved purpose.
    #[arg(long, env = "DAYFLY_MISSION")]
    mission: String,
    /// The target; `exec` takes several.
    #[arg(
        long = "target",
        env = "DAYFLY_TARGET",
        value_delimiter = ',',
        required = true
    )]
    targets: Vec<String>,
    /// Why, in words, signed with the request. Recorded and shown, never decides.
    #[arg(long, env = "DAYFLY_GOAL", value_parser = NonEmptyStringValueParser::new())]
    goal: String,
    /// Joins the requests of one run of work.
    #[arg(long, env = "DAYFLY_TASK")]
    task: Option<String>,
    /// Which of several instances of the agent this is.
    #[arg(long, env = "DAYFLY_INSTANCE")]
    instance: Option<String>,
    /// Signed evidence for a fact: a file with a compact JWS, read anew for each request. At most four.
    #[arg(long, env = "DAYFLY_EVIDENCE_FILES", value_delimiter = ',')]
    evidence: Vec<PathBuf>,
    /// Declared facts (`tctx`), for display: a file with a JSON object.
    #[arg(long)]
    context: Option<PathBuf>,
    /// An action, in the target's own words. Absent: all that the mission grants.
    #[arg(long = "action", requires = "kind")]
    actions: Vec<String>,
    /// A location, in the target's own words.
    #[arg(long = "location", requires = "actions")]
    locations: Vec<String>,
    /// The type of `authorization_details`, with `--action`: `access_token`, `api_key`, `aws_session`,
    /// `postgres_login`.
    #[arg(long = "type", id = "kind", value_name = "TYPE", requires = "actions")]
    kind: Option<String>,
    /// Seconds; less than the mission allows.
    #[arg(long, requires = "actions")]
    ttl: Option<u32>,
    /// The agent's name, as the configuration knows it.
    #[arg(long, env = "DAYFLY_AGENT", required_unless_present = "in_person")]
    agent: Option<String>,
    /// Run this agent in person: the proof is the sign-in of `dayfly login --person`. For missions with
    /// `in_person = true`.
    #[arg(
        long = "as",
        id = "in_person",
        value_name = "AGENT",
        conflicts_with_all = ["key", "platform_signed", "subject_token_file", "identity_url", "identity"]
    )]
    in_person: Option<String>,
    /// A file with the token of the person that the agent acts for, or with the credential that
    /// another agent handed to it; read anew for each request.
    #[arg(
        long,
        env = "DAYFLY_ON_BEHALF_OF_FILE",
        value_name = "FILE",
        conflicts_with_all = ["in_person", "platform_signed"]
    )]
    on_behalf_of: Option<PathBuf>,
    /// The agent's private key: a JWK file.
    #[arg(long, env = "DAYFLY_KEY_FILE")]
    key: Option<PathBuf>,
    /// Where the key of this pod or job is kept, where its platform's tokens cannot name a key
    /// (Kubernetes, GitLab): a folder of this user's alone. Absent: one among temporary files.
    #[arg(long, env = "DAYFLY_KEY_FOLDER", value_name = "DIR")]
    key_folder: Option<PathBuf>,
    /// Sign no intent: the platform's token serves as one. For missions with `signer = "platform"`,
    /// where a platform fixes the token's audience beforehand and the agent has no key of its own.
    #[arg(long, env = "DAYFLY_PLATFORM_SIGNED")]
    platform_signed: bool,
    /// A file with the platform's token, read anew for each request.
    #[arg(long, env = "DAYFLY_SUBJECT_TOKEN_FILE")]
    subject_token_file: Option<PathBuf>,
    /// Where the platform makes tokens on request (`GET`); `{audience}` in it stands for the audience,
    /// which then binds the token to this process's key.
    #[arg(
        long,
        env = "DAYFLY_IDENTITY_URL",
        conflicts_with = "subject_token_file"
    )]
    identity_url: Option<String>,
    /// A header of that request: `NAME: REFERENCE` or `NAME: WORD REFERENCE`, where REFERENCE is `env:NAME`,
    /// `file:PATH`, `cmd:PROGRAM`, or `text:VALUE` for what is no secret.
    #[arg(
        long = "identity-header",
        env = "DAYFLY_IDENTITY_HEADER",
        requires = "identity_url"
    )]
    identity_headers: Vec<String>,
    /// Where the token stands in a JSON answer (RFC 6901), such as `/value`. Absent: the answer is the token.
    #[arg(long, env = "DAYFLY_IDENTITY_POINTER", requires = "identity_url")]
    identity_pointer: Option<String>,
    /// Prove the identity with what this environment holds, instead of a token: `aws` signs a
    /// request with the AWS credentials that are found where the AWS SDKs look for them.
    #[arg(long, env = "DAYFLY_IDENTITY", value_name = "KIND")]
    identity: Option<Ambient>,
    /// With `--identity aws`: the STS endpoint that the request is signed for, one of those that the
    /// broker is configured with. Absent: that of the region.
    #[arg(long, env = "AWS_ENDPOINT_URL_STS", value_name = "URL")]
    sts_endpoint: Option<String>,
    /// How long to wait for people where they have to approve it: `10m`; `0s`: not at all. Absent: for as
    /// long as the mission lets it wait.
    #[arg(long, env = "DAYFLY_APPROVAL_WAIT", value_name = "DURATION")]
    approval_wait: Option<String>,
}

/// What an environment holds instead of a token.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Ambient {
    Aws,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Deliver in environment variables. A running command never reads them again: they die with
    /// the first credential, and the command is told when.
    #[arg(long)]
    env: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The broker's URL.
    #[arg(long, env = "DAYFLY_URL", default_value = "http://127.0.0.1:8420")]
    url: String,
    /// A file that holds the credential or its handle; `-` reads it from standard input.
    #[arg(long, default_value = "-")]
    token_file: PathBuf,
}

/// `dayfly release`: the work is done, the lease ends now.
pub async fn release(args: ReleaseArgs) -> Result<u8, Failure> {
    let token = Secret::new(read_text(&args.token_file)?);
    Client::new(&args.url, None)?.release(&token).await?;
    Ok(0)
}

/// `dayfly token`: the answer of the token endpoint, or the bearer string alone.
pub async fn token(args: TokenArgs, output: &Output) -> Result<u8, Failure> {
    let clock = SystemClock::new();
    let patience = patience(&args.ask)?;
    let (client, prover, wanted) = prepare(args.ask, clock.now())?;
    let [wanted] = wanted.as_slice() else {
        return Err(Failure::usage("`token` takes one --target"));
    };
    let notice = |text: &str| output.notice(text);
    let people = (&clock as &dyn Clock, patience);
    let response = ask_people(&client, &prover, wanted, people, &notice).await;
    let response = response.map_err(|error| advised(prover.is_person(), error))?;
    output.show(&response, |response| match &response.credential {
        Some(credential) => credential.to_string(),
        None => response.access_token.clone(),
    })?;
    Ok(0)
}

/// `dayfly exec -- command`.
pub async fn exec(args: ExecArgs, output: &Output) -> Result<u8, Failure> {
    let clock = Arc::new(SystemClock::new());
    let patience = patience(&args.ask).map_err(|failure| own(120, failure))?;
    let prepared = prepare(args.ask, clock.now());
    let (client, prover, wanted) = prepared.map_err(|failure| own(120, failure))?;
    let person = prover.is_person();
    let run = Run {
        client,
        prover,
        wanted,
        command: args.command,
        environment: args.env,
        clock,
        patience,
    };
    let notice = |text: &str| output.notice(text);
    run.run(&notice).await.map_err(|error: ExecError| {
        let code = error.exit_code();
        match error {
            ExecError::Credential { target, error } => {
                let failure = advised(person, error);
                let message = format!("{target}: {}", failure.message);
                Failure {
                    code,
                    message,
                    ..failure
                }
            }
            error => Failure {
                code,
                ..Failure::failed(error.to_string())
            },
        }
    })
}

/// What a person who runs an agent can do about it.
fn advised(person: bool, error: ClientError) -> Failure {
    let advice = match &error {
        ClientError::Refused { body, .. } if person => match body.dayfly_reason.as_deref() {
            Some("subject_not_accepted") => {
                "this mission is not given to you in person: it says `in_person = true` and names, in \
                 `on_behalf_of`, a group that your sign-in is of"
            }
            Some("actor_not_accepted") => "your sign-in says, in `may_act`, that another may act",
            Some("tether_missing") => {
                "this mission hangs on a sign-in that can be ended, and yours has no `sid`"
            }
            Some("held") => "it was ended or is held; if you signed out, sign in again",
            Some(_) => "",
            None => {
                "the broker does not take this sign-in, or knows no such agent: run `dayfly login \
                 --person` again; its issuer must be one with `people = true`, for this client"
            }
        },
        _ => "",
    };
    let failure = Failure::from(error);
    if advice.is_empty() {
        return failure;
    }
    let message = format!("{}\n{advice}", failure.message);
    Failure { message, ..failure }
}

fn patience(args: &AskArgs) -> Result<Option<Duration>, Failure> {
    let Some(text) = &args.approval_wait else {
        return Ok(None);
    };
    match duration(text) {
        Some(patience) => Ok(Some(patience)),
        None => Err(Failure::usage(
            "--approval-wait takes a whole number and a unit: `30s`, `10m`, `0s`",
        )),
    }
}

fn own(code: u8, failure: Failure) -> Failure {
    Failure { code, ..failure }
}

fn prepare(args: AskArgs, now: OffsetDateTime) -> Result<(Client, Prover, Vec<Wanted>), Failure> {
    let client = Client::new(&args.url, None)?;
    let agent = args.in_person.clone().or_else(|| args.agent.clone());
    // One of the two is required.
    let agent = agent.ok_or_else(|| Failure::usage("--agent or --as"))?;
    let (source, key) = if args.in_person.is_some() {
        let file = state_file(PERSON)?;
        let key = SignIn::current(&file, now)?.key;
        let agent = agent.clone();
        (Source::Person { file, agent }, Some(key))
    } else {
        let source = source(&args, &agent)?;
        let key = match args.key.as_ref().map(read_key).transpose()? {
            None if args.platform_signed => None,
            None => of_instance(&source, args.key_folder.as_deref())?,
            key => key,
        };
        (source, key)
    };
    let prover = Prover::new(source, key)?;
    let context = match &args.context {
        Some(path) => read_object(path)?,
        None => Map::new(),
    };
    let wanted = args
        .targets
        .iter()
        .map(|target| Wanted {
            mission: args.mission.clone(),
            target: target.clone(),
            authorization_details: details(&args, target),
            goal: args.goal.clone(),
            task: args.task.clone(),
            instance: args.instance.clone(),
            agent: agent.clone(),
            context: context.clone(),
            evidence: args.evidence.clone(),
            platform_signed: args.platform_signed,
            on_behalf_of: args.on_behalf_of.clone(),
        })
        .collect();
    Ok((client, prover, wanted))
}

/// The key that every command of this pod or job signs with. A token that is not there yet, or does not say
/// which instance it is of, is no matter here: whoever asks with it hears what is wrong.
fn of_instance(source: &Source, folder: Option<&Path>) -> Result<Option<SigningKey>, Failure> {
    let token = match source {
        Source::File(path) => read_text(path).ok().map(Secret::new),
        Source::Fixed(token) => Some(token.clone()),
        Source::Key { .. } | Source::Endpoint(_) | Source::Aws { .. } | Source::Person { .. } => {
            None
        }
    };
    let instance = token.and_then(|token| instance::of_token(&token));
    Ok(match instance {
        Some(instance) => Some(instance::key(folder, &instance)?),
        None => None,
    })
}

fn details(args: &AskArgs, target: &str) -> Vec<AuthorizationDetail> {
    match &args.kind {
        Some(kind) if !args.actions.is_empty() => vec![AuthorizationDetail {
            kind: kind.clone(),
            identifier: target.to_owned(),
            actions: args.actions.clone(),
            locations: args.locations.clone(),
            max_ttl: args.ttl,
        }],
        _ => Vec::new(),
    }
}

/// The first proof that is there: what was named, then what the platform set.
#[expect(
    clippy::disallowed_methods,
    reason = "platforms hand their tokens over in the environment"
)]
fn source(args: &AskArgs, agent: &str) -> Result<Source, Failure> {
    if let Some(Ambient::Aws) = args.identity {
        return Ok(Source::Aws {
            endpoint: args.sts_endpoint.clone(),
        });
    }
    if let Some(path) = &args.subject_token_file {
        return Ok(Source::File(path.clone()));
    }
    if let Some(url) = &args.identity_url {
        let headers = args.identity_headers.iter().map(|text| header(text));
        let headers = headers.collect::<Result<Vec<_>, _>>()?;
        let pointer = args.identity_pointer.clone();
        return Ok(Source::Endpoint(Endpoint::new(
            url.clone(),
            &headers,
            pointer,
        )?));
    }
    if let (Ok(url), Ok(bearer)) = (
        std::env::var("ACTIONS_ID_TOKEN_REQUEST_URL"),
        std::env::var("ACTIONS_ID_TOKEN_REQUEST_TOKEN"),
    ) {
        let bearer = Secret::new(bearer);
        return Ok(Source::Endpoint(Endpoint::github(&url, &bearer)?));
    }
    if let Ok(token) = std::env::var("DAYFLY_ID_TOKEN") {
        return Ok(Source::Fixed(Secret::new(token)));
    }
    if args.key.is_some() {
        return Ok(Source::Key {
            agent: agent.to_owned(),
        });
    }
    Err(Failure::usage(
        "no proof of identity: give --subject-token-file, --identity-url or --key, set DAYFLY_ID_TOKEN \
         (GitLab `id_tokens`), run where GitHub Actions grants `id-token: write`, or say \
         `--identity aws` where there are AWS credentials; a person says `--as AGENT` after `dayfly login \
         --person`",
    ))
}

/// `Authorization: Bearer env:JOB_TOKEN`, `Metadata-Flavor: text:Google`. The secret itself is never in
/// the arguments, which every process of the machine can read.
fn header(text: &str) -> Result<(String, Secret<String>), Failure> {
    let wrong = || {
        let example = "`Authorization: Bearer env:JOB_TOKEN`, `Metadata-Flavor: text:Google`";
        Failure::usage(format!("--identity-header takes a reference: {example}"))
    };
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let value = value.trim();
    let kinds = ["env:", "file:", "cmd:", "text:"];
    let starts = |at: usize| {
        let rest = value.get(at..).unwrap_or_default();
        kinds.iter().any(|kind| rest.starts_with(kind))
    };
    let (word, reference) = match value.split_once(' ') {
        _ if starts(0) => ("", value),
        Some((word, reference)) if starts(word.len() + 1) => (word, reference),
        _ => return Err(wrong()),
    };
    let secret = match reference.strip_prefix("text:") {
        Some(plain) => Secret::new(plain.to_owned()),
        None => secret_reference(reference)
            .map_err(|error| Failure::usage(format!("--identity-header {name}: {error}")))?,
    };
    let whole = match word {
        "" => secret,
        word => Secret::new(format!("{word} {}", secret.expose())),
    };
    Ok((name.trim().to_owned(), whole))
}

/// A file with one JSON object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>, Failure> {
    let text = read_text(path)?;
    crate::jose::parse_object(text.as_bytes())
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// A file's text without what surrounds it; `-` is standard input.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let read = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    read.map(|text| text.trim().to_owned())
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Reads the agent's private key.
pub fn read_key(path: &PathBuf) -> Result<SigningKey, Failure> {
    let text = std::fs::read_to_string(path)
        .map(Secret::new)
        .map_err(|error| Failure::usage(format!("the key {}: {error}", path.display())))?;
    SigningKey::from_private_jwk(&text)
        .map_err(|error| Failure::usage(format!("the key {}: {error}", path.display())))
}
