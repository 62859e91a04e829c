//! `dayfly init github OWNER/REPO --aws-role ARN`: the first mission, the workflow that uses it, and
//! the trust policy that the role needs. Nothing that exists is overwritten.

use super::output::{Failure, Output};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum InitCommand {
    /// A repository on GitHub that works on AWS.
    ///
    /// Writes mission.toml (the configuration), workflow/deploy.yml and aws-trust-policy.json. Nothing
    /// that exists is overwritten.
    #[command(after_help = "Example:
  dayfly init github acme/checkout --repository-id 1234 --owner-id 99 \\
    --aws-role arn:aws:iam::111122223333:role/dayfly-deploy \\
    --owner payments@acme.example --ends 2027-12-31 --url https://dayfly.acme.example
  dayfly check dayfly-config")]
    Github(GithubArgs),
}

#[derive(Debug, Args)]
pub struct GithubArgs {
    /// `OWNER/REPO`.
    repository: String,
    /// The repository's number (`gh api repos/OWNER/REPO --jq .id`): names can be reused, numbers not.
    #[arg(long)]
    repository_id: u64,
    /// The owner's number (`gh api repos/OWNER/REPO --jq .owner.id`).
    #[arg(long)]
    owner_id: u64,
    /// The role's ARN.
    #[arg(long)]
    aws_role: String,
    /// Who answers for it: a person or a team.
    #[arg(long)]
    owner: String,
    /// Last day, `YYYY-MM-DD`.
    #[arg(long)]
    ends: String,
    /// The broker's URL, as the pipeline and AWS reach it.
    #[arg(long)]
    url: String,
    /// What the workflow does on AWS.
    #[arg(long = "action", default_value = "sts:GetCallerIdentity")]
    actions: Vec<String>,
    /// What it does it on.
    #[arg(long = "location", default_value = "*")]
    locations: Vec<String>,
    /// The workflow's file name.
    #[arg(long, default_value = "deploy.yml")]
    workflow: String,
    /// The only ref that may ask.
    #[arg(long, default_value = "refs/heads/main")]
    git_ref: String,
    /// Where to write; made if it is not there.
    #[arg(long, default_value = "dayfly-config")]
    directory: PathBuf,
}

pub fn init(command: &InitCommand, output: &Output) -> Result<u8, Failure> {
    let InitCommand::Github(args) = command;
    let names = Names::of(args)?;
    let workflow_path = format!("workflow/{}", args.workflow);
    let files = [
        ("mission.toml", mission(args, &names)),
        (workflow_path.as_str(), workflow(args, &names)),
        ("aws-trust-policy.json", trust_policy(args, &names)),
    ];
    let folder = args.directory.display();
    for (name, _) in &files {
        if args.directory.join(name).exists() {
            return Err(Failure::failed(format!(
                "{folder}/{name} exists: nothing was written; choose another --directory"
            )));
        }
    }
    for (name, text) in &files {
        write_new(&args.directory.join(name), text)?;
        output.line(&format!("wrote {folder}/{name}"))?;
    }
    output.line(&format!(
        "\nNext:\n  1. read mission.toml and narrow `allow` to what the workflow really does\n  \
         2. dayfly check {folder}\n  \
         3. in AWS, add {}/federation/{} as an OpenID Connect provider and give the role aws-trust-policy.json\n  \
         4. copy {workflow_path} to .github/workflows/ in {}",
        args.url, names.target, args.repository
    ))?;
    Ok(0)
}

/// Names made from what was given.
struct Names {
    repository: String,
    agent: String,
    mission: String,
    target: String,
    account: String,
}

impl Names {
    fn of(args: &GithubArgs) -> Result<Self, Failure> {
        let repository = args
            .repository
            .split_once('/')
            .filter(|(owner, name)| !owner.is_empty() && !name.is_empty() && !name.contains('/'))
            .map(|(_, name)| plain_name(name))
            .ok_or_else(|| Failure::usage("give the repository as OWNER/REPO"))?;
        // arn:PARTITION:iam::ACCOUNT:role/NAME
        let fields: Vec<&str> = args.aws_role.splitn(6, ':').collect();
        let account = match fields.as_slice() {
            ["arn", _, "iam", "", account, resource]
                if resource.starts_with("role/") && account.len() == 12 =>
            {
                (*account).to_owned()
            }
            _ => {
                return Err(Failure::usage(
                    "--aws-role is not arn:aws:iam::ACCOUNT:role/NAME",
                ));
            }
        };
        url::Url::parse(&args.url)
            .map_err(|error| Failure::usage(format!("--url `{}`: {error}", args.url)))?;
        Ok(Self {
            agent: format!("{repository}-pipeline"),
            mission: format!("deploy-{repository}"),
            target: format!("aws-{account}"),
            repository,
            account,
        })
    }
}

fn plain_name(text: &str) -> String {
    text.to_ascii_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
                c
            } else {
                '-'
            }
        })
        .collect::<String>()
        .trim_start_matches(['-', '_'])
        .chars()
        .take(40)
        .collect()
}

fn mission(args: &GithubArgs, names: &Names) -> String {
    let Names {
        agent,
        mission,
        target,
        account,
        repository,
    } = names;
    // TOML's basic strings and arrays of them are JSON's.
    let text = |value: &str| json!(value).to_string();
    let list = |values: &[String]| json!(values).to_string();
    format!(
        r#"# The whole first mission. `dayfly check` validates this folder; keep it in git, with owners who review it.

[broker]
url     = {url}
listen  = "127.0.0.1:8420"
store   = {{ embedded = "dayfly.redb" }}
keys    = {{ sealing = ["file:sealing.key"] }}   # head -c 32 /dev/urandom | base64 > sealing.key; chmod 600 sealing.key
audit   = {{ path = "audit.jsonl" }}

[issuer.github]
preset  = "github"
tenant  = {{ repository_owner_id = ["{owner_id}"] }}   # anyone on GitHub has a valid token: only this owner's count

[agent.{agent}]
owner    = {owner}
purpose  = "The pipeline of {repo_path}"
ends     = {ends}
identity = {{ github = {repo_text}, repository_id = {repository_id}, workflow = {workflow}, ref = {git_ref} }}
limits   = {{ active = 20 }}

[mission.{mission}]
agents   = ["{agent}"]
owner    = {owner}
purpose  = "What the pipeline of {repository} does on AWS"
ttl      = "15m"
tether   = ["pipeline"]
allow    = [{{ target = "{target}", actions = {actions}, locations = {locations} }}]

[target.{target}]
kind     = "aws"
role     = {role}
ceiling  = {{ actions = {actions}, locations = {locations} }}
labels   = {{ account = "{account}" }}

# What `dayfly check` must find true. Add one for each thing the pipeline must never get.
[[case]]
name     = "a run of the workflow gets what it needs"
agent    = "{agent}"
asked    = [{{ target = "{target}", actions = {actions}, locations = {locations} }}]
facts    = {{ "pipeline.repository_id" = "{repository_id}", "pipeline.run_id" = "1", "pipeline.run_attempt" = "1" }}
expect   = {{ granted = "{mission}" }}

[[case]]
name     = "the run proves nothing about its pipeline: nothing to hang the lease on"
agent    = "{agent}"
asked    = [{{ target = "{target}", actions = {actions}, locations = {locations} }}]
expect   = {{ refused = "tether_missing" }}
"#,
        url = text(&args.url),
        owner_id = args.owner_id,
        owner = text(&args.owner),
        ends = args.ends,
        repo_path = args.repository,
        repo_text = text(&args.repository),
        repository_id = args.repository_id,
        workflow = text(&args.workflow),
        git_ref = text(&args.git_ref),
        actions = list(&args.actions),
        locations = list(&args.locations),
        role = text(&args.aws_role),
    )
}

fn workflow(args: &GithubArgs, names: &Names) -> String {
    let branch = args
        .git_ref
        .strip_prefix("refs/heads/")
        .unwrap_or(&args.git_ref);
    format!(
        r#"name: deploy
on:
  push:
    branches: [{branch}]

permissions:
  contents: read
  id-token: write   # the job may ask GitHub who it is; nothing else is stored anywhere

jobs:
  deploy:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      # The credential is renewed under the command and dies with the job.
      - run: dayfly exec --goal "Deploy ${{{{ github.sha }}}}" -- aws sts get-caller-identity
        env:
          DAYFLY_URL: {url}
          DAYFLY_AGENT: {agent}
          DAYFLY_MISSION: {mission}
          DAYFLY_TARGET: {target}
"#,
        url = args.url,
        agent = names.agent,
        mission = names.mission,
        target = names.target,
    )
}

/// Only this broker's federation issuer, only for this agent and mission, only with a session policy
/// of the broker's making: the role's own policies are the outer bound.
fn trust_policy(args: &GithubArgs, names: &Names) -> String {
    let issuer = format!(
        "{}/federation/{}",
        args.url.trim_end_matches('/'),
        names.target
    );
    let bare = issuer
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .to_owned();
    let partition = args.aws_role.split(':').nth(1).unwrap_or("aws");
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {
                "Federated": format!("arn:{partition}:iam::{}:oidc-provider/{bare}", names.account)
            },
            "Action": ["sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:SetSourceIdentity"],
            "Condition": { "StringEquals": {
                format!("{bare}:aud"): "sts.amazonaws.com",
                // Another mission of the same target is not this role's.
                format!("{bare}:sub"): format!("agent:{}:mission:{}", names.agent, names.mission),
            } }
        }]
    });
    format!("{policy:#}\n")
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let problem = |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(problem)?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(problem)?;
    file.write_all(text.as_bytes()).map_err(problem)
}
