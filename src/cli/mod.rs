//! The command line. Each command is a file; this one parses, runs and turns failures into exit
//! codes by class.

mod access;
mod agent;
mod agent_side;
mod approval;
mod audit;
mod bench;
mod bundle;
mod check;
mod completion;
pub mod compose;
mod config;
mod demo;
mod enrol;
mod diff;
mod explain;
mod init;
mod intent;
mod keygen;
mod live;
mod login;
mod mission;
mod narrowed;
mod operator;
mod operator_side;
mod output;
mod recorded;
mod recover;
mod register;
mod restrict;
mod review;
mod revoke;
mod selector;
mod serve;
mod sightings;
mod simulate;
mod stores;

pub use output::{Failure, Output};

use crate::broker::operators::BreakGlass;
use crate::client::deliver::write_atomically;
use crate::clock::Clock;
use crate::ids;
use crate::secret::Secret;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A credential broker: narrow, minutes-long, recorded, killable credentials for agents and pipelines.
#[derive(Debug, Parser)]
#[command(
    name = "dayfly",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 not authenticated or not permitted, \
                  5 not found, 6 unavailable (try again). `exec` passes its command's code on and keeps \
                  120-125 for its own failures."
)]
pub struct Cli {
    /// How answers are printed.
    #[arg(short = 'o', long, global = true, value_enum, default_value_t = Format::Table, env = "DAYFLY_FORMAT")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: the same JSON as the admin API's.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker.
    ///
    /// SIGHUP swaps the whole configuration, or keeps the old one and logs why. SIGTERM finishes the
    /// requests under way and ends.
    #[command(after_help = "Example:\n  dayfly serve --config /etc/dayfly")]
    Serve(serve::ServeArgs),
    /// See the whole story on this machine: no configuration, no network.
    ///
    /// A broker, a CI platform, an agent and an API on loopback, with real requests and signatures. Then
    /// it prints what to try and keeps serving until Ctrl-C.
    #[command(after_help = "Example:\n  dayfly demo --once")]
    Demo(demo::DemoArgs),
    /// Validate a configuration folder and run its policy tests, offline.
    ///
    /// Reports every problem with file, line and column. Reads no secret but with --live.
    #[command(after_help = "Example:\n  dayfly check config/example")]
    Check(check::CheckArgs),
    /// Print the JSON Schema of the configuration's files, or the Cedar schema of its policies.
    ///
    /// Made from what the program itself decodes. In an editor that knows TOML and schemas, put
    /// `#:schema ./dayfly.schema.json` on the first line of a file.
    #[command(
        after_help = "Example:\n  dayfly schema > dayfly.schema.json\n  dayfly schema --cedar config/example > dayfly.cedarschema"
    )]
    Schema(check::SchemaArgs),
    /// Why was this refused, or would it be?
    ///
    /// Tells every condition with its outcome: the first that failed is the reason. Exit code 0 if it
    /// would be granted, 3 if refused.
    #[command(
        after_help = "Example:\n  dayfly explain --refusal 019e7f0a-5c1e-7d52-9a53-3f5f0f8f4a11\n  dayfly explain --config config/example request.json"
    )]
    Explain(explain::ExplainArgs),
    /// Who can reach what: by target, by agent, or by label.
    ///
    /// From the configuration alone: every mission of every agent, cut down by the agent's own ceiling.
    #[command(after_help = "Example:\n  dayfly access --config config/example --target aws-prod")]
    Access(access::AccessArgs),
    /// Which authority does a change widen or narrow, and whose approval does it need?
    ///
    /// Compares two states of a configuration as decisions do, in the form of a diff: `+` wider, `-`
    /// narrower, `!` different. What cannot be told apart counts as wider.
    #[command(
        after_help = "Example:\n  dayfly diff main..HEAD --config authority\n  dayfly diff old-folder new-folder"
    )]
    Diff(diff::DiffArgs),
    /// What would a changed configuration have decided about everything that was asked?
    ///
    /// Makes each decision of an exported audit again, as of its time, and tells those that come out
    /// otherwise, in the form of a diff: `-` refused now, `+` granted now, `!` for another reason or by
    /// another mission.
    #[command(
        after_help = "Example:\n  dayfly simulate --audit /var/lib/dayfly/audit.jsonl --config ."
    )]
    Simulate(simulate::SimulateArgs),
    /// Missions: list, suggest.
    #[command(subcommand)]
    Mission(mission::MissionCommand),
    /// Ask for a credential and print it.
    ///
    /// The proof is the first that is there: --subject-token-file, --identity-url, GitHub Actions' token, the variable
    /// DAYFLY_ID_TOKEN (GitLab), the key alone. Without --key a key is made for this one request and
    /// bound to the platform's token; where such a token cannot name a key (Kubernetes, GitLab), for this
    /// pod or job, and kept in --key-folder. A person runs an
    /// agent with --as, after `dayfly login --person`.
    #[command(
        after_help = "Example:\n  dayfly token --agent reporter --key reporter.key.json --mission weekly-report \\\n    --target orders --goal 'The report of week 47'"
    )]
    Token(agent_side::TokenArgs),
    /// Run a command with credentials that stay fresh under it and are released when it ends.
    ///
    /// AWS credentials come through the container-credentials endpoint, which AWS SDKs ask again.
    /// Others are in the file that `DAYFLY_TOKEN_<TARGET>_FILE` names, replaced at two thirds of their life.
    /// Signals are passed on; the exit code is the command's. Its own failures: 120 not set up,
    /// 121 refused, 122 a local fault, 123 the broker is not reachable, 124 not delivered,
    /// 125 the command cannot be started.
    #[command(
        after_help = "Example:\n  dayfly exec --agent checkout-deployer --mission deploy-checkout --target aws-prod \\\n    --goal 'Ship 1.4.2' -- terraform apply"
    )]
    Exec(agent_side::ExecArgs),
    /// Intents: sign, show, verify.
    #[command(subcommand)]
    Intent(intent::IntentCommand),
    /// The work is done: end the lease of a credential now.
    ///
    /// Whoever holds the credential may end it. `exec` does it by itself.
    #[command(after_help = "Example:\n  dayfly release --token-file credential.txt")]
    Release(agent_side::ReleaseArgs),
    /// Write a first mission, the workflow that uses it and the trust policy it needs.
    #[command(subcommand)]
    Init(init::InitCommand),
    /// Sign in as an operator, or as a person who runs agents.
    ///
    /// At the organisation's identity provider, in a browser (OpenID Connect, PKCE). The token is kept
    /// below XDG_STATE_HOME, readable by its owner alone.
    #[command(
        after_help = "Example:\n  dayfly login --issuer https://login.acme.example --client-id dayfly-cli\n  dayfly login --person --issuer https://login.acme.example --client-id dayfly-people"
    )]
    Login(login::LoginArgs),
    /// Forget a sign-in on this machine.
    ///
    /// What was issued with it is not ended by that: `exec` releases what it got, and `dayfly release`
    /// what `dayfly token` got.
    #[command(after_help = "Example:\n  dayfly logout --person")]
    Logout(login::LogoutArgs),
    /// Whose is this? From a credential, a lease id, a session name, an AWS key id.
    ///
    /// Answers with the lease: agent, owner, mission, alive or not.
    #[command(
        after_help = "Example:\n  dayfly find ASIAIOSFODNN7EXAMPLE\n  dayfly find - < credential.txt"
    )]
    Find(operator_side::FindArgs),
    /// Review what is due: keep, narrow or retire each agent and each mission.
    ///
    /// Shows who answers for it, what it can reach and what of that it ever asked for, and asks. A review moves
    /// the next one and lifts the hold of one that was overdue. Nothing is asked with --list, --decide or `-o json`.
    #[command(
        after_help = "Example:\n  dayfly review\n  dayfly review --decide mission/deploy-checkout=keep --decide agent/old-bot=retire --note 'Q4 review'"
    )]
    Review(review::ReviewArgs),
    /// What agents ask people for: list, show, approve, deny.
    #[command(subcommand)]
    Approval(approval::ApprovalCommand),
    /// Leases: list, show, give-up, narrowed.
    #[command(subcommand)]
    Lease(operator_side::LeaseCommand),
    /// End leases, by anything they have in common.
    ///
    /// One write, in force at every broker within a second; downstreams are ended after it. Every
    /// selector but --lease also holds new requests back until `lift`, unless --kill-only is given.
    /// Try --dry-run first: it shows what would die.
    #[command(
        after_help = "Example:\n  dayfly revoke --agent checkout-deployer --dry-run\n  dayfly revoke --agent checkout-deployer --reason 'INC-4711: injected'\n  dayfly revoke --mission deploy-checkout --reason 'INC-4711' --wait"
    )]
    Revoke(revoke::RevokeArgs),
    /// End a hold; what it killed stays dead.
    ///
    /// Not with the break-glass token.
    #[command(
        after_help = "Example:\n  dayfly lift --agent checkout-deployer --reason 'INC-4711 is closed'"
    )]
    Lift(operator_side::LiftArgs),
    /// Take something away on a target, for a while: shrink instead of kill.
    ///
    /// One write, in force at every broker within a second. Requests for any of it are refused; whoever
    /// asks for all that a mission allows gets the rest. Leases that could do any of it are listed, or
    /// ended with --end-leases. It lifts by itself at its end, or with --lift.
    #[command(
        after_help = "Example:\n  dayfly restrict --target aws-prod --deny 'ecs:Delete*' --for 2h --end-leases --reason INC-4711\n  dayfly restrict --list"
    )]
    Restrict(restrict::RestrictArgs),
    /// Agents: keygen, invite, enrol, keys, list, show, suspend, resume.
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// The record: tail, verify.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// The configuration of all replicas: publish, show.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Signing keys: rotate.
    #[command(subcommand)]
    Key(operator_side::KeyCommand),
    /// The break-glass token: init.
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Go on after a part of the store came back without its data.
    #[command(after_help = "Example:\n  dayfly recover --config /etc/dayfly --i-understand")]
    Recover(recover::RecoverArgs),
    /// Measure: revoke, decide.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print a shell's completion script.
    #[command(after_help = "Example:\n  dayfly completion bash > /etc/bash_completion.d/dayfly")]
    Completion(completion::CompletionArgs),
}

/// Where the broker is and who the operator is.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// The broker's URL.
    #[arg(long, env = "DAYFLY_URL", default_value = "http://127.0.0.1:8420")]
    url: String,
    /// A file that holds the operator's token; default: what `dayfly login` stored.
    #[arg(long, env = "DAYFLY_OPERATOR_TOKEN_FILE")]
    operator_token_file: Option<PathBuf>,
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    // `ring` is the one provider of cryptography; reqwest and rustls are built without a default.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return ExitCode::FAILURE;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = usage_code(&error);
            // Help and version go to standard output, mistakes to standard error.
            return if error.print().is_ok() {
                ExitCode::from(code)
            } else {
                ExitCode::FAILURE
            };
        }
    };
    let output = Output::new(cli.output);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&Failure::failed(error.to_string())),
    };
    let ended = runtime.block_on(run(cli.command, &output));
    // What still reads a secret, or looks a name up, may never end.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => output.fail(&failure),
    }
}

/// `dayfly serve --config FOLDER` by a clock of the caller's own, in the caller's process. `store`: what
/// stands in for the store that the settings name.
pub async fn serve_by(
    clock: Arc<dyn Clock>,
    store: &serve::OfStore,
    config: PathBuf,
) -> Result<u8, Failure> {
    let args = serve::ServeArgs::of(config);
    serve::serve_by((clock, store), args, &Output::new(Format::Table)).await
}

/// 2, and 120 for `exec`, whose other codes are its command's; 0 for help and version.
fn usage_code(error: &clap::Error) -> u8 {
    let is_exec = std::env::args_os().any(|word| word == "exec");
    match error.exit_code() {
        0 => 0,
        _ if is_exec => 120,
        _ => 2,
    }
}

async fn run(command: Command, output: &Output) -> Result<u8, Failure> {
    match command {
        Command::Token(args) => agent_side::token(args, output).await,
        Command::Exec(args) => agent_side::exec(args, output).await,
        Command::Intent(command) => intent::intent(command, output).await,
        Command::Release(args) => agent_side::release(args).await,
        Command::Serve(args) => serve::serve(args, output).await,
        Command::Demo(args) => demo::demo(args, output).await,
        Command::Init(command) => init::init(&command, output),
        Command::Login(args) => login::login(args, output).await,
        Command::Logout(args) => login::logout(&args, output),
        Command::Review(args) => review::review(args, output).await,
        Command::Approval(command) => approval::approval(command, output).await,
        Command::Find(args) => operator_side::find(args, output).await,
        Command::Lease(command) => operator_side::lease(command, output).await,
        Command::Revoke(args) => revoke::revoke(args, output).await,
        Command::Restrict(args) => restrict::restrict(args, output).await,
        Command::Lift(args) => operator_side::lift(args, output).await,
        Command::Agent(command) => agent::agent(command, output).await,
        Command::Check(args) => check::check(&args, output).await,
        Command::Access(args) => access::access(&args, output),
        Command::Diff(args) => diff::diff(&args, output),
        Command::Simulate(args) => simulate::simulate(&args, output),
        Command::Mission(command) => mission::mission(command, output).await,
        Command::Schema(args) => check::schema(&args, output),
        Command::Explain(args) => explain::explain(args, output).await,
        Command::Audit(command) => audit::audit(command, output).await,
        Command::Operator(command) => operator::operator(command, output).await,
        Command::Config(command) => config::config(command, output).await,
        Command::Key(command) => operator_side::key(command, output).await,
        Command::Recover(args) => recover::recover(args, output).await,
        Command::Bench(command) => bench::bench(command, output).await,
        Command::Completion(args) => completion::completion(&args, output),
    }
}

/// An operator's token that a development broker makes for itself.
pub struct OperatorToken {
    pub path: PathBuf,
    pub secret: Secret<String>,
    pub sha256: [u8; 32],
}

/// Makes the token in this folder, or reads the one that is there.
fn operator_token(folder: &Path) -> Result<OperatorToken, Failure> {
    let path = folder.join("operator.token");
    let secret = if path.exists() {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        Secret::new(text.trim().to_owned())
    } else {
        let random: String = ids::random::<24>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let secret = Secret::new(format!("{}{random}", BreakGlass::PREFIX));
        write_atomically(&path, &secret)?;
        secret
    };
    let hash = ring::digest::digest(&ring::digest::SHA256, secret.expose().as_bytes());
    let mut sha256 = [0; 32];
    sha256
        .iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    Ok(OperatorToken {
        path,
        secret,
        sha256,
    })
}
