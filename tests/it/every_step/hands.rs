//! What a process that is about to die has in its hands.

use crate::exchange::claims_of;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Where the dying one writes it, in its own folder.
const FILE: &str = "in-its-hands";
const PAGE: usize = 4096;
/// Of an ES256 signature, in base64url.
const SIGNATURE: usize = 86;
/// `dayfly_`, the lease's id, 256 random bits, the checksum.
const API_KEY: usize = 7 + 29 + 43 + 6;

/// Whoever dies in this folder is to tell.
pub fn tell(folder: &Path) {
    std::fs::write(folder.join(FILE), "").unwrap();
}

/// Writes down every access token and API key of ours that lies in this process's memory: it may
/// have been about to hand it out.
pub fn write_down() {
    if !Path::new(FILE).exists() {
        return;
    }
    let found: Vec<_> = in_memory().into_iter().collect();
    std::fs::write(FILE, found.join("\n")).unwrap();
}

/// What the last one that died in this folder had.
pub fn of_the_dead(folder: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The lease of a credential of ours. `None`: it is none.
pub fn lease_of(credential: &str) -> Option<String> {
    if let Some(rest) = credential.strip_prefix("dayfly_") {
        let lease = rest.get(..29)?;
        return (rest.starts_with("dfl") && credential.len() == API_KEY).then(|| lease.to_owned());
    }
    let header = credential.split('.').next()?;
    let is_json = |part: &str| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part);
        bytes.is_ok_and(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).is_ok())
    };
    if !is_json(header) || !is_json(credential.split('.').nth(1)?) {
        return None;
    }
    let claims = claims_of(credential);
    let lease = claims["jti"].as_str()?;
    lease.starts_with("dfl").then(|| lease.to_owned())
}

fn in_memory() -> BTreeSet<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let (empty, mut page) = ([0; PAGE], [0; PAGE]);
    let mut found = BTreeSet::new();
    for line in maps.lines() {
        let mut parts = line.split_whitespace();
        let (range, rights) = (parts.next().unwrap(), parts.next().unwrap());
        // The heap and the stacks; no file.
        if !rights.starts_with("rw") || parts.nth(2) != Some("0") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let mut together = Vec::new();
        for at in (number(from)..number(to)).step_by(PAGE) {
            // Most of it was never touched.
            if memory.read_exact_at(&mut page, at).is_ok() && page != empty {
                together.extend_from_slice(&page);
            } else {
                found.extend(credentials_in(&std::mem::take(&mut together)));
            }
        }
        found.extend(credentials_in(&together));
    }
    found
}

fn credentials_in(bytes: &[u8]) -> Vec<String> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let words = bytes.split(|byte| !is_part(byte));
    let long = words.filter(|word| word.len() >= API_KEY);
    long.flat_map(|word| {
        let word = std::str::from_utf8(word).unwrap();
        let keys = word.match_indices("dayfly_dfl").map(|(at, _)| at);
        let keys = keys.filter_map(|at| word.get(at..at + API_KEY));
        let tokens = word.match_indices("eyJ").filter_map(|(at, _)| {
            let text = &word[at..];
            let (second, _) = text.match_indices('.').nth(1)?;
            text.get(..second + 1 + SIGNATURE)
        });
        let all: Vec<_> = keys.chain(tokens).map(str::to_owned).collect();
        all
    })
    .filter(|credential| lease_of(credential).is_some())
    .collect()
}
