//! What the security model says about the age of answers is what the code has.

use super::root;
use crate::support::broker::TestBroker;
use dayfly::broker::events::OWNERS_KEPT;
use dayfly::broker::introspect::KNOWN;
use dayfly::cli::compose::KEYS_EVERY;
use dayfly::config::FENCE_VIEW_MAX_AGE;
use dayfly::identity::VERIFIED_KEPT;
use dayfly::identity::review::{ANSWER_KEPT, TOKEN_KEPT};
use dayfly::jose::RemoteKeysSettings;
use std::collections::BTreeMap;
use std::time::Duration;

/// The table: what is remembered, and for how long at most.
fn documented() -> BTreeMap<String, Duration> {
    let page = std::fs::read_to_string(root().join("docs/security-model.md")).unwrap();
    let (_, section) = page.split_once("## How old an answer may be").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (cells[1].to_owned(), duration(cells[2].trim_matches('`')))
        })
        .collect()
}

fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().unwrap();
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => panic!("{text} is no duration"),
    };
    Duration::from_secs(number * seconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cache_stands_in_the_table_with_the_lifetime_that_it_has() {
    let broker = TestBroker::start().await;
    let keys = RemoteKeysSettings::default();
    let has = [
        ("the view of everything revoked", FENCE_VIEW_MAX_AGE),
        ("a verified workload token", VERIFIED_KEPT),
        (
            "an issuer's keys, a trust domain's bundle",
            keys.refresh_after,
        ),
        (
            "the same, while whoever publishes them is away",
            keys.max_age,
        ),
        (
            "that an unknown `kid` is unknown, or that a publisher is away",
            keys.retry_after,
        ),
        ("a cluster's answer to TokenReview", ANSWER_KEPT),
        ("the broker's own token for TokenReview", TOKEN_KEPT),
        ("the broker's own signing keys", KEYS_EVERY),
        ("the lease of a credential that was introspected", KNOWN),
        (
            "whose a lease is that a fence names, for events",
            OWNERS_KEPT,
        ),
        (
            "published keys and metadata, at clients",
            told(&broker).await,
        ),
    ];
    let has: BTreeMap<String, Duration> = has
        .into_iter()
        .map(|(what, kept)| (what.to_owned(), kept))
        .collect();
    assert_eq!(documented(), has);
}

/// What the door tells clients.
async fn told(broker: &TestBroker) -> Duration {
    let address = format!("{}/jwks", broker.url);
    let answer = broker.http.get(address).send().await.unwrap();
    let header = answer.headers()["cache-control"].to_str().unwrap();
    let seconds = header.strip_prefix("public, max-age=").unwrap();
    Duration::from_secs(seconds.parse().unwrap())
}

/// A cache that a file holds must be in the table, and so in the list above.
#[test]
fn no_other_file_holds_a_cache() {
    let mut holders = Vec::new();
    for (path, bytes) in super::files() {
        let path = path.to_str().unwrap();
        let is_test = path.contains("tests");
        if path.starts_with("src/")
            && !is_test
            && String::from_utf8_lossy(&bytes).contains("moka::")
        {
            holders.push(path.to_owned());
        }
    }
    let known = [
        "src/broker/events/hub.rs",
        "src/broker/introspect.rs",
        "src/identity/cache.rs",
        "src/identity/review.rs",
    ];
    assert_eq!(holders, known);
}
