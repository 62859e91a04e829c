//! `operator init`: the break-glass token, made by whoever holds the store and the sealing key. It
//! works while the identity provider is down: it may revoke and hold, never lift, rotate or register.

use super::compose;
use super::output::{Failure, Output};
use super::stores::open_store;
use crate::audit::{Entry, Event};
use crate::broker::operators::BreakGlass;
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::ids::{self, ShardId};
use crate::jose::Keyring;
use crate::store::{Guard, Outcome, Transaction, Write, settle};
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;
use time::Duration;

#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Make a break-glass token and print it, once. Put it where a person reaches it in an emergency.
    ///
    /// The token reads, revokes and holds; it never lifts, rotates or registers. With the embedded
    /// store the broker must not be running: the store is one process's.
    #[command(
        after_help = "Example:\n  (umask 077; dayfly operator init --config /etc/dayfly --name safe-in-room-7 > operator.token)"
    )]
    Init {
        /// The broker's configuration folder.
        #[arg(long, env = "DAYFLY_CONFIG")]
        config: PathBuf,
        /// Who keeps it: it is in the log at every use.
        #[arg(long)]
        name: String,
    },
}

pub async fn operator(command: OperatorCommand, output: &Output) -> Result<u8, Failure> {
    let OperatorCommand::Init { config, name } = command;
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let settings = config::load(&config)
        .and_then(|document| document.resolve())
        .map_err(|problems| Failure::failed(problems.to_string()))?;
    let now = SystemClock::new().now();
    let store = open_store(&settings.broker.store).await?;
    // Opening the keys proves that the sealing key is this store's.
    Keyring::open(store.clone(), compose::sealer(&settings)?, now)
        .await
        .map_err(|error| failed(&error))?;

    let random: String = ids::random::<32>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let token = format!("{}{random}", BreakGlass::PREFIX);
    let record = BreakGlass {
        name: name.clone(),
        made_at: now,
    };
    let key = BreakGlass::key(&token);
    let value = serde_json::to_vec(&record).map_err(|error| failed(&error))?;
    let entry = Entry::new(Event::OperatorAction, now)
        .operator(&name)
        .with("action", "break_glass_token_made");
    let transaction = Transaction::new(ShardId::INSTALLATION, now + Duration::seconds(30))
        .guard(Guard::Absent(key.clone()))
        .write(Write::Put {
            key,
            value,
            expires_at: None,
        })
        .write(entry.append(ShardId::INSTALLATION));
    match settle(store.as_ref(), transaction)
        .await
        .map_err(|error| failed(&error))?
    {
        Outcome::Applied { .. } => {}
        refused => {
            return Err(Failure::failed(format!(
                "the store did not take it: {refused:?}"
            )));
        }
    }
    output.show(&json!({ "token": token, "name": name }), |_| token.clone())?;
    output.notice("the token is shown once; it reads, revokes and holds, and every use is logged");
    Ok(0)
}
