//! `dayfly revoke`: one write, and with `--wait` the word of every downstream.

use super::OperatorArgs;
use super::operator_side::{client, post_revocation, told};
use super::output::{Failure, Output};
use super::selector::SelectorArgs;
use crate::client::{Client, ClientError};
use crate::wire::{RevocationReceipt, RevocationRequest, RevocationState};
use clap::Args;
use reqwest::Method;
use std::time::Duration;

/// While `--wait` waits.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    selector: SelectorArgs,
    /// Why: it is in the audit and in every refusal's explanation.
    #[arg(long, default_value = "revoked by an operator")]
    reason: String,
    /// Only say what would die.
    #[arg(long)]
    dry_run: bool,
    /// End what is there and go on minting.
    #[arg(long)]
    kill_only: bool,
    /// An agent or a mission, for good: only an admin takes it back.
    #[arg(long, conflicts_with = "kill_only")]
    retire: bool,
    /// Until every downstream confirmed, and at most so many seconds; then exit code 6, and what is
    /// revoked stays revoked.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300", conflicts_with = "dry_run")]
    wait: Option<u32>,
    #[command(flatten)]
    operator: OperatorArgs,
}

pub async fn revoke(args: RevokeArgs, output: &Output) -> Result<u8, Failure> {
    let request = RevocationRequest {
        selector: args.selector.selector()?,
        reason: args.reason,
        kill_only: args.kill_only,
        retire: args.retire,
    };
    let path = if args.dry_run {
        "/revocations?dry_run=true"
    } else {
        "/revocations"
    };
    let Some(seconds) = args.wait else {
        return post_revocation(&args.operator, path, &request, output).await;
    };
    let client = client(&args.operator)?;
    let receipt = client.admin(Method::POST, path, Some(&request)).await?;
    let (receipt, known) = confirmed(&client, receipt, Duration::from_secs(seconds.into())).await?;
    output.show(&receipt, told)?;
    if is_done(&receipt) {
        return Ok(0);
    }
    let why = match known {
        Known::Still => "it is in force, and not everything is confirmed dead yet",
        Known::Lost => {
            "it was revoked, and its receipt is not known any more: the store may have lost it in a failover. What became \
             of it cannot be asked; look at what lives with `dayfly lease list --alive`, or revoke once more"
        }
    };
    Err(Failure {
        code: 6,
        ..Failure::failed(why)
    })
}

/// Whether the broker knows of the receipt.
#[derive(Debug, Clone, Copy)]
enum Known {
    Still,
    Lost,
}

fn is_done(receipt: &RevocationReceipt) -> bool {
    use RevocationState::{Confirmed, ConfirmedExceptExpiry};
    matches!(receipt.state, Confirmed | ConfirmedExceptExpiry)
}

/// The receipt once there is nothing more to wait for, or as it is when there was no more time.
async fn confirmed(
    client: &Client,
    mut receipt: RevocationReceipt,
    patience: Duration,
) -> Result<(RevocationReceipt, Known), Failure> {
    let until = tokio::time::Instant::now() + patience;
    while !is_done(&receipt) && tokio::time::Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(id) = receipt.id else { break };
        let path = format!("/revocations/{id}");
        match client.admin(Method::GET, &path, None::<&()>).await {
            Ok(now) => receipt = now,
            // It was revoked; that it cannot be looked at now does not take that back.
            Err(error) if error.is_passing() => {}
            // Nor does that it is not known any more.
            Err(ClientError::Refused { status: 404, .. }) => return Ok((receipt, Known::Lost)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((receipt, Known::Still))
}
