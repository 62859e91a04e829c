//! What `revoke` and `lift` are about: exactly one of the things that leases have in common.

use super::output::Failure;
use crate::ids::{AgentId, LeaseId, MissionId, TargetId};
use crate::wire::Selector;
use clap::Args;
use std::collections::BTreeMap;

/// Exactly one selector. What others named, and the hashes of keys, may begin with a hyphen.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SelectorArgs {
    /// One lease.
    #[arg(long)]
    lease: Option<LeaseId>,
    /// Everything of one agent.
    #[arg(long)]
    agent: Option<AgentId>,
    /// Everything given for one mission.
    #[arg(long)]
    mission: Option<MissionId>,
    /// Everything on one target.
    #[arg(long)]
    target: Option<TargetId>,
    /// Everything of agents that this owner answers for.
    #[arg(long)]
    owner: Option<String>,
    /// Everything that one issuer vouched for: its URL.
    #[arg(long)]
    issuer: Option<String>,
    /// Everything of one identity.
    #[arg(long, num_args = 2, value_names = ["ISSUER", "SUBJECT"], allow_hyphen_values = true)]
    subject: Option<Vec<String>>,
    /// One run of work, as the requests named it (`--task`).
    #[arg(long, allow_hyphen_values = true)]
    task: Option<String>,
    /// One of several of an agent's processes, as its requests named it (`--instance`).
    #[arg(long, num_args = 2, value_names = ["AGENT", "INSTANCE"], allow_hyphen_values = true)]
    instance: Option<Vec<String>>,
    /// A whole delegation, from its root on: any lease of it.
    #[arg(long)]
    delegation: Option<LeaseId>,
    /// Everything that hangs on one context, such as a pipeline run: the issuer's URL, the kind, the id.
    #[arg(long, num_args = 3, value_names = ["ISSUER", "KIND", "ID"], allow_hyphen_values = true)]
    context: Option<Vec<String>>,
    /// Everything with this label, `NAME=VALUE`.
    #[arg(long)]
    label: Option<String>,
    /// Everything that one signing key signed: its `kid`.
    #[arg(long, allow_hyphen_values = true)]
    signing_key: Option<String>,
    /// Everything that a key vouched for, by its thumbprint (RFC 7638): an issuer's, an enrolled
    /// machine's, an intent issuer's, an authority's.
    #[arg(long, allow_hyphen_values = true)]
    issuer_key: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

impl SelectorArgs {
    pub fn selector(self) -> Result<Selector, Failure> {
        let one = |list: Option<Vec<String>>| list.map(Vec::into_iter);
        let found = None
            .or(self.lease.map(Selector::Lease))
            .or(self.agent.map(Selector::Agent))
            .or(self.mission.map(Selector::Mission))
            .or(self.target.map(Selector::Target))
            .or(self.owner.map(Selector::Owner))
            .or(self.issuer.map(Selector::Issuer))
            .or(self.task.map(Selector::Task))
            .or(self.delegation.map(Selector::Delegation))
            .or(self.signing_key.map(Selector::SigningKey))
            .or(self.issuer_key.map(Selector::IssuerKey))
            .or(self.all.then_some(Selector::All));
        if let Some(selector) = found {
            return Ok(selector);
        }
        if let Some(label) = self.label {
            let (name, value) = label
                .split_once('=')
                .ok_or_else(|| Failure::usage("--label takes NAME=VALUE"))?;
            return Ok(Selector::Label {
                name: name.to_owned(),
                value: value.to_owned(),
            });
        }
        if let Some(mut words) = one(self.subject)
            && let (Some(issuer), Some(subject)) = (words.next(), words.next())
        {
            return Ok(Selector::Subject { issuer, subject });
        }
        if let Some(mut words) = one(self.instance)
            && let (Some(agent), Some(instance)) = (words.next(), words.next())
        {
            let agent = agent
                .parse()
                .map_err(|error| Failure::usage(format!("--instance: {error}")))?;
            return Ok(Selector::Instance { agent, instance });
        }
        if let Some(mut words) = one(self.context)
            && let (Some(issuer), Some(kind), Some(id)) = (words.next(), words.next(), words.next())
        {
            return Ok(Selector::Context { issuer, kind, id });
        }
        Err(Failure::usage(
            "name what to revoke: see `dayfly revoke --help`",
        ))
    }
}

/// `NAME=VALUE`.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "write NAME=VALUE".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Whether all of these stand among the labels.
pub fn has(labels: &BTreeMap<String, String>, wanted: &[(String, String)]) -> bool {
    let mut all = wanted.iter();
    all.all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Revoke {
        #[command(flatten)]
        what: SelectorArgs,
        #[arg(long)]
        reason: String,
    }

    fn read(words: &[&str]) -> Selector {
        let line = ["revoke"]
            .iter()
            .chain(words)
            .chain(&["--reason", "stolen"]);
        let revoke = Revoke::try_parse_from(line).unwrap();
        assert_eq!(revoke.reason, "stolen");
        revoke.what.selector().unwrap()
    }

    #[test]
    fn what_others_named_may_begin_with_a_hyphen() {
        // One thumbprint in 64 does.
        let key = "-zXkJkb0zKXl2bCfUGi5TFrvM6sNnYBqGHBT3Lw_3kQ";
        assert_eq!(
            read(&["--issuer-key", key]),
            Selector::IssuerKey(key.to_owned())
        );
        assert_eq!(
            read(&["--signing-key", "-k"]),
            Selector::SigningKey("-k".to_owned())
        );
        assert_eq!(read(&["--task", "-7"]), Selector::Task("-7".to_owned()));
        let subject = Selector::Subject {
            issuer: "https://id.example".to_owned(),
            subject: "--x".to_owned(),
        };
        assert_eq!(read(&["--subject", "https://id.example", "--x"]), subject);
        let instance = Selector::Instance {
            agent: "worker".parse().unwrap(),
            instance: "-0".to_owned(),
        };
        assert_eq!(read(&["--instance", "worker", "-0"]), instance);
        let context = Selector::Context {
            issuer: "https://ci.example".to_owned(),
            kind: "run".to_owned(),
            id: "-1".to_owned(),
        };
        assert_eq!(
            read(&["--context", "https://ci.example", "run", "-1"]),
            context
        );
    }
}
