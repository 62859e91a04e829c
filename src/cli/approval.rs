//! `dayfly approval`: what agents ask people for, and what people say.

use super::OperatorArgs;
use super::operator_side::{client, get, pairs};
use super::output::{Failure, Output, columns, moment};
use crate::clock::{Clock, SystemClock};
use crate::wire::{ApprovalState, ApprovalView, Page, Verdict, VoteRequest};
use clap::Subcommand;
use reqwest::Method;

#[derive(Debug, Subcommand)]
pub enum ApprovalCommand {
    /// What waits for people, and what they approved that is still good.
    #[command(after_help = "Example:\n  dayfly approval list")]
    List {
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Exactly what would be issued, to whom, and what for.
    #[command(
        after_help = "Example:\n  dayfly approval show apr_0f0ad1d3b9c2e4a8f5d6c7b8a9e0f1d2c3b4a596"
    )]
    Show {
        /// The approval's id.
        id: String,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Say yes to what `show` shows.
    ///
    /// It is good for that and nothing else, and for as long as the mission says. Not for what you ask for
    /// yourself or an agent that you own, and not with the break-glass token.
    #[command(
        after_help = "Example:\n  dayfly approval approve apr_0f0ad1d3b9c2e4a8f5d6c7b8a9e0f1d2c3b4a596 --reason 'CHG-17'"
    )]
    Approve {
        /// The approval's id.
        id: String,
        /// Why: it is in the audit.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Say no, or take a yes back: what was issued on it is ended.
    #[command(
        after_help = "Example:\n  dayfly approval deny apr_0f0ad1d3b9c2e4a8f5d6c7b8a9e0f1d2c3b4a596 --reason 'not tonight'"
    )]
    Deny {
        /// The approval's id.
        id: String,
        /// Why: it is in the audit.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

pub async fn approval(command: ApprovalCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        ApprovalCommand::List { operator } => {
            let page: Page<ApprovalView> = get(&operator, "/approvals").await?;
            output.show(&page, |page| listed(&page.items))?;
        }
        ApprovalCommand::Show { id, operator } => {
            let path = format!("/approvals/{}", is_id(&id)?);
            let view: ApprovalView = get(&operator, &path).await?;
            output.show(&view, told)?;
        }
        ApprovalCommand::Approve {
            id,
            reason,
            operator,
        } => say((&id, "approve"), reason, &operator, output).await?,
        ApprovalCommand::Deny {
            id,
            reason,
            operator,
        } => say((&id, "deny"), reason, &operator, output).await?,
    }
    Ok(0)
}

async fn say(
    (id, word): (&str, &str),
    reason: Option<String>,
    operator: &OperatorArgs,
    output: &Output,
) -> Result<(), Failure> {
    let path = format!("/approvals/{}/{word}", is_id(id)?);
    let request = VoteRequest { reason };
    let view: ApprovalView = client(operator)?
        .admin(Method::POST, &path, Some(&request))
        .await?;
    output.show(&view, told)
}

/// It becomes a part of a path.
fn is_id(id: &str) -> Result<&str, Failure> {
    let is = !id.is_empty()
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    is.then_some(id)
        .ok_or_else(|| Failure::usage(format!("{id} is no approval's id")))
}

fn state(view: &ApprovalView) -> String {
    let yes = view
        .votes
        .iter()
        .filter(|vote| vote.verdict == Verdict::Approve);
    match view.state {
        ApprovalState::Pending => format!("waits: {} of {} said yes", yes.count(), view.needed),
        ApprovalState::Approved => "approved".to_owned(),
        ApprovalState::Denied => "denied".to_owned(),
    }
}

/// On one line, whatever is in it: whoever wrote it must not draw lines of this page.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| !c.is_control() && (c.is_alphanumeric() || c.is_ascii() || c == ' ');
    let shown = |c: char| {
        if is_plain(c) {
            c.to_string()
        } else {
            c.escape_unicode().to_string()
        }
    };
    text.chars().map(shown).collect()
}

fn authority(view: &ApprovalView) -> String {
    let details = view.authorization_details.iter();
    let told = details.map(|detail| match detail.locations.as_slice() {
        [] => detail.actions.join(", "),
        locations => format!("{} on {}", detail.actions.join(", "), locations.join(", ")),
    });
    told.collect::<Vec<_>>().join("; ")
}

fn listed(all: &[ApprovalView]) -> String {
    let now = SystemClock::new().now();
    let row = |view: &ApprovalView| {
        vec![
            view.id.clone(),
            state(view),
            view.agent.to_string(),
            view.mission.to_string(),
            format!("{}: {}", view.target, authority(view)),
            moment(view.until, now),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let head = ["APPROVAL", "STATE", "AGENT", "MISSION", "WHAT", "UNTIL"];
    columns(&head, &rows)
}

fn told(view: &ApprovalView) -> String {
    let now = SystemClock::new().now();
    let or_none =
        |text: Option<&String>| text.map_or_else(|| "none".to_owned(), |text| quoted(text));
    let or_nothing = |all: &[String]| match all {
        [] => "nothing".to_owned(),
        all => all.join(", "),
    };
    let delivery = match (view.bound, view.in_person) {
        (true, _) => "bound to a key",
        (false, true) => "to a person who runs the agent",
        (false, false) => "bearer",
    };
    let seconds = view
        .authorization_details
        .first()
        .and_then(|detail| detail.max_ttl);
    let lives = seconds.map_or_else(String::new, |seconds| format!("{seconds} s each at most"));
    let facts = view
        .facts
        .iter()
        .map(|(name, value)| format!("{name} = {value}"));
    let approvers = match view.approvers.is_empty() {
        true => "whoever may review".to_owned(),
        false => view.approvers.join(", "),
    };
    let mut lines = vec![
        ("approval", view.id.clone()),
        ("state", state(view)),
        ("agent", format!("{}, owned by {}", view.agent, view.owner)),
        ("mission", view.mission.to_string()),
        ("target", view.target.to_string()),
        ("allows", authority(view)),
        ("lives", lives),
        ("for", view.audience.clone()),
        ("says it is for", quoted(&view.goal)),
        ("task", or_none(view.task.as_ref())),
        ("instance", or_none(view.instance.as_ref())),
        (
            "proved by",
            format!("{} as {}", view.issuer, quoted(&view.subject)),
        ),
        ("verified then", facts.collect::<Vec<_>>().join(", ")),
        ("hangs on", or_nothing(&view.hangs_on)),
        ("delivery", delivery.to_owned()),
        ("approvers", approvers),
        ("asked", moment(view.asked_at, now)),
        ("until", moment(view.until, now)),
    ];
    if !view.on_behalf_of.is_empty() {
        lines.insert(3, ("on behalf of", view.on_behalf_of.join(", ")));
    }
    if !view.denied_before.is_empty() {
        lines.push(("denied before", view.denied_before.join(", ")));
    }
    let mut text = pairs(&lines);
    for vote in &view.votes {
        let said = match vote.verdict {
            Verdict::Approve => "yes",
            Verdict::Deny => "no",
        };
        let why = vote.reason.as_deref().map(quoted).unwrap_or_default();
        text.push_str(&format!(
            "\n  {said}  {}  {}  {why}",
            vote.by,
            moment(vote.at, now)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_agent_says_stays_on_its_line() {
        let drawn = "Close 2026\nstate  approved\u{202e}\u{200b}\t\u{e0041}";
        let shown = quoted(drawn);
        assert!(
            shown.starts_with("Close 2026\\u{a}state  approved"),
            "{shown}"
        );
        assert!(!shown.chars().any(char::is_control), "{shown}");
        assert!(shown.is_ascii(), "{shown}");
        assert_eq!(
            quoted("Prüfung der Bücher, 1.42"),
            "Prüfung der Bücher, 1.42"
        );
    }
}
