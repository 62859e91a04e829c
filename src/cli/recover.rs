//! `dayfly recover`: a shard of the store came back without its data. Everything it held is dead for
//! good; this gives it a new birth, so that minting can go on.

use super::output::{Failure, Output};
use super::stores::redis_settings;
use crate::config::{self, StoreSettings};
use crate::store::redis::Redis;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The broker's configuration folder.
    #[arg(long, env = "DAYFLY_CONFIG")]
    config: PathBuf,
    /// Stop every broker first. Leases of the lost shards are gone: what they minted downstream lives
    /// until it expires, as far as their kind allows.
    #[arg(long)]
    i_understand: bool,
}

pub async fn recover(args: RecoverArgs, output: &Output) -> Result<u8, Failure> {
    let settings = config::load(&args.config)
        .and_then(|document| document.resolve())
        .map_err(|problems| Failure::failed(problems.to_string()))?;
    if let StoreSettings::Embedded { .. } = settings.broker.store {
        return Err(Failure::usage(
            "the embedded store is one file: it is there as a whole or not at all, restore it from its backup",
        ));
    }
    if !args.i_understand {
        return Err(Failure::usage(
            "this declares the leases of every lost shard dead for good: stop every broker, then add --i-understand",
        ));
    }
    let store = redis_settings(&settings.broker.store)?;
    let lost = Redis::recover(&store).await.map_err(|error| Failure {
        code: 6,
        ..Failure::failed(error.to_string())
    })?;
    let shards: Vec<u8> = lost.iter().map(|shard| shard.number()).collect();
    output.show(&json!({ "recovered": shards }), |_| {
        if shards.is_empty() {
            "no shard had lost its data: nothing was changed".to_owned()
        } else {
            format!(
                "{} shards begin anew; start the brokers again",
                shards.len()
            )
        }
    })?;
    Ok(0)
}
