//! `[target.NAME]` of kind `postgres`: what can be checked without asking the server.

use super::super::{PostgresSettings, SettingProblem};
use std::net::IpAddr;

/// PostgreSQL's names are at most 63 bytes long.
const MAX_NAME: usize = 63;

impl PostgresSettings {
    /// Each server that may be the primary.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.host.split(',')
    }
}

pub(super) fn problems(settings: &PostgresSettings) -> Vec<SettingProblem> {
    let mut problems = Vec::new();
    let mut wrong = |key, why| problems.push(SettingProblem { key, why });
    let is_host = |text: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_');
        !text.is_empty() && text.bytes().all(fits)
    };
    if !settings.hosts().all(is_host) {
        wrong(
            "host",
            "is not a host name or address, or several with commas between",
        );
    }
    if settings.port == 0 {
        wrong("port", "is not a port");
    }
    if !is_name(&settings.database) {
        wrong("database", "is not the name of a database");
    }
    if !is_name(&settings.username) {
        wrong("username", "is not the name of a role");
    }
    if !(1..=100).contains(&settings.connections) {
        wrong(
            "connections",
            "is how many sessions one login may have: 1 to 100",
        );
    }
    let is_identifier = |text: &String| text.parse::<u64>().is_ok();
    if !settings.gone.iter().all(is_identifier) {
        wrong(
            "gone",
            "names servers by their system identifiers: `SELECT system_identifier FROM pg_control_system()`",
        );
    }
    // SECURITY: without TLS the login's password verifier, and the broker's own, cross the network.
    if settings.ca.is_none() && !settings.hosts().all(is_loopback) {
        wrong(
            "ca",
            "is missing: name the certificates that the server's is checked against, `file:/path`; only a server on loopback goes without TLS",
        );
    }
    problems
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
