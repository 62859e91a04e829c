//! `dayfly intent show`: what stands in an intent, and in the evidence that it carries.

use crate::cli::agent_side::read_text;
use crate::cli::output::{Failure, Output};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A file that holds the intent; `-` reads it from standard input.
    #[arg(default_value = "-")]
    intent: PathBuf,
}

pub fn show(args: &ShowArgs, output: &Output) -> Result<u8, Failure> {
    let text = read_text(&args.intent)?;
    let (header, claims) =
        decoded(&text).ok_or_else(|| Failure::usage("this is no compact JWS with JSON in it"))?;
    let evidence = claims.pointer("/tctx/evidence").and_then(Value::as_array);
    let evidence: Vec<Value> = evidence
        .into_iter()
        .flatten()
        .map(|piece| {
            let decoded = piece.as_str().and_then(decoded);
            decoded.map_or(Value::Null, |(_, claims)| claims)
        })
        .collect();
    let hash = digest(&SHA256, text.as_bytes());
    let hash: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let value = json!({
        "verified": false, "sha256": hash, "header": header, "claims": claims,
        "evidence": evidence,
    });
    output.show(&value, |_| {
        let mut lines = vec![
            "NOT VERIFIED: anybody can write this; see `dayfly intent verify`".to_owned(),
            format!("header    {header:#}"),
            format!("claims    {claims:#}"),
        ];
        lines.extend(evidence.iter().map(|piece| format!("evidence  {piece:#}")));
        lines.push(format!("sha256    {hash}"));
        lines.join("\n")
    })?;
    Ok(0)
}

/// Header and claims of a compact JWS. Unverified.
pub fn decoded(text: &str) -> Option<(Value, Value)> {
    let mut parts = text.split('.');
    let mut part = || {
        let bytes = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    };
    Some((part()?, part()?))
}
