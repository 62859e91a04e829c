//! `agent`: who is registered, how it stands, and the key pair that a new one begins with.

use super::OperatorArgs;
use super::enrol::{self, EnrolArgs, InviteArgs, KeysArgs};
use super::keygen::{self, KeygenArgs};
use super::operator_side::{get, pairs, post_revocation};
use super::output::{Failure, Output, columns};
use super::register::{self, RegisterArgs, RemoveArgs};
use super::review::{cards, seen};
use super::selector::{has, label};
use super::sightings::{self, AdoptArgs};
use crate::ids::{AgentId, MissionId};
use crate::wire::{AgentView, LiftRequest, Page, RevocationRequest, Selector};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Make the key pair of an agent that has no platform to vouch for it.
    Keygen(KeygenArgs),
    /// Let one machine enrol a key of its own: prints a join token, good once and for minutes.
    ///
    /// For machines that no platform vouches for. Not with the break-glass token.
    #[command(
        after_help = "Example:\n  (umask 077; dayfly agent invite backup --note db-7 > join.token)"
    )]
    Invite(InviteArgs),
    /// On the machine: make a key that never leaves it, and spend the join token for it.
    ///
    /// From then on the key proves who it is: `dayfly token --key NAME.key.json`. A key that is there
    /// already is enrolled as it is.
    #[command(
        alias = "enroll",
        after_help = "Example:\n  dayfly agent enrol backup --url https://dayfly.acme.example --join-token-file join.token"
    )]
    Enrol(EnrolArgs),
    /// The keys that an agent's machines enrolled.
    ///
    /// One ends by `dayfly revoke --issuer-key KEY`, with everything that it was given.
    #[command(after_help = "Example:\n  dayfly agent keys backup")]
    Keys(KeysArgs),
    /// All agents: state, live leases, owner, last day.
    #[command(after_help = "Example:\n  dayfly agent list")]
    List {
        /// Only those with this label; several: with all of them.
        #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// One agent: what it is for, who answers for it, what it may ask for.
    #[command(after_help = "Example:\n  dayfly agent show checkout-deployer")]
    Show {
        /// The agent's name.
        id: AgentId,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Register an agent without a file, or change one: into missions that say `allow_registered`.
    ///
    /// The broker reads the table as a file's. Key sets that it names are sent along. A change ends what was
    /// given to it before, unless it takes nothing away. Not with the break-glass token.
    #[command(
        after_help = "Example:\n  dayfly agent register night-worker.agent --reason 'CHG-17: tidies up at night'"
    )]
    Register(RegisterArgs),
    /// Remove an agent that was registered: it is nobody, and what it holds is dead.
    ///
    /// One write. An agent of a file is removed there.
    #[command(after_help = "Example:\n  dayfly agent remove night-worker --reason 'CHG-18: done'")]
    Remove(RemoveArgs),
    /// Whoever is registered, as the tables that a file would have.
    #[command(after_help = "Example:\n  dayfly agent export > registered.agents")]
    Export {
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Who knocks with a valid proof of its platform and is no agent.
    ///
    /// A thousand at most, for 30 days after the last time. They are refused as anybody whom nobody knows.
    #[command(after_help = "Example:\n  dayfly agent sightings")]
    Sightings {
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Write the agent that one of them would be, for a pull request.
    ///
    /// Who it is stands in it as its platform proved it. Who answers for it, what it is for and which mission
    /// admits it, a person has to say. What it asked for is told as a comment: nobody vouched for that.
    #[command(
        after_help = "Example:\n  dayfly agent adopt 4be1ac7b1d1f1c9e --name books-closer --owner finance@acme.example --purpose 'Closes the books' --out books.toml"
    )]
    Adopt(AdoptArgs),
    /// Kill everything it holds and refuse it until resumed.
    ///
    /// One write, whatever the number of its leases. The same as `revoke --agent`.
    #[command(
        after_help = "Example:\n  dayfly agent suspend checkout-deployer --reason 'INC-4711: injected'"
    )]
    Suspend {
        /// The agent's name.
        id: AgentId,
        /// Why: it is in the audit and in every refusal's explanation.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Kill everything it holds and refuse it for good: only an admin resumes it.
    ///
    /// One write. The same as `revoke --retire --agent`. What is past its last day is retired by itself.
    #[command(
        after_help = "Example:\n  dayfly agent retire checkout-deployer --reason 'replaced by release-bot'"
    )]
    Retire {
        /// The agent's name.
        id: AgentId,
        /// Why: it is in the audit and in every refusal's explanation.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Let it ask again. What was killed stays dead.
    ///
    /// Whether it was suspended by an operator, by its owner's leaving or by the clock, which counts from
    /// here again. What is retired only an admin resumes.
    #[command(
        after_help = "Example:\n  dayfly agent resume checkout-deployer --reason 'INC-4711 is closed'"
    )]
    Resume {
        /// The agent's name.
        id: AgentId,
        /// Why: it is in the audit.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

pub async fn agent(command: AgentCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        AgentCommand::Keygen(args) => return keygen::keygen(&args, output),
        AgentCommand::Invite(args) => return enrol::invite(args, output).await,
        AgentCommand::Enrol(args) => return enrol::enrol(args, output).await,
        AgentCommand::Keys(args) => return enrol::keys(args, output).await,
        AgentCommand::Register(args) => return register::register(args, output).await,
        AgentCommand::Remove(args) => return register::remove(args, output).await,
        AgentCommand::Export { operator } => return register::export(&operator, output).await,
        AgentCommand::Sightings { operator } => return sightings::list(&operator, output).await,
        AgentCommand::Adopt(args) => return sightings::adopt(args, output).await,
        AgentCommand::List { label, operator } => {
            let mut page: Page<AgentView> = get(&operator, "/agents").await?;
            page.items.retain(|agent| has(&agent.labels, &label));
            output.show(&page, |page| {
                let rows: Vec<_> = page.items.iter().map(agent_row).collect();
                columns(&["AGENT", "STATE", "LIVE", "OWNER", "ENDS"], &rows)
            })?;
        }
        AgentCommand::Show { id, operator } => {
            let agent: AgentView = get(&operator, &format!("/agents/{id}")).await?;
            output.show(&agent, described)?;
        }
        AgentCommand::Suspend {
            id,
            reason,
            operator,
        } => {
            let request = RevocationRequest {
                selector: Selector::Agent(id),
                reason,
                kill_only: false,
                retire: false,
            };
            return post_revocation(&operator, "/revocations", &request, output).await;
        }
        AgentCommand::Retire {
            id,
            reason,
            operator,
        } => {
            let request = RevocationRequest {
                selector: Selector::Agent(id),
                reason,
                kill_only: false,
                retire: true,
            };
            return post_revocation(&operator, "/revocations", &request, output).await;
        }
        AgentCommand::Resume {
            id,
            reason,
            operator,
        } => {
            let request = LiftRequest {
                selector: Selector::Agent(id),
                reason,
            };
            return post_revocation(&operator, "/lifts", &request, output).await;
        }
    }
    Ok(0)
}

pub(super) fn described(agent: &AgentView) -> String {
    let missions: Vec<_> = agent.missions.iter().map(MissionId::as_str).collect();
    let why = cards::why(agent.why.as_deref(), agent.by.as_deref());
    let mut lines = vec![
        ("agent", agent.id.to_string()),
        ("state", format!("{}{why}", agent.state)),
        ("owner", agent.owner.clone()),
        ("purpose", agent.purpose.clone()),
        ("ends", agent.ends.clone()),
        ("missions", missions.join(", ")),
        ("labels", cards::labels(&agent.labels)),
        ("live leases", agent.live_leases.to_string()),
    ];
    if let Some(registered) = &agent.registered {
        lines.push(("registered", format!("by change {}", registered.since)));
    }
    lines.extend(seen(&agent.attention));
    let mut text = pairs(&lines);
    text.push_str(&cards::reach(&agent.reach));
    text
}

fn agent_row(agent: &AgentView) -> Vec<String> {
    vec![
        agent.id.to_string(),
        agent.state.clone(),
        agent.live_leases.to_string(),
        agent.owner.clone(),
        agent.ends.clone(),
    ]
}
