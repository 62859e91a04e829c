//! Durations, URLs and other short texts with a rule.

use std::time::Duration;

/// `500ms`, `30s`, `15m`, `1h`, `90d`: one whole number and one unit.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// In the largest unit that divides it.
pub(in crate::config) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_millis() != 0 {
        return format!("{}ms", duration.as_millis());
    }
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds != 0 && seconds.is_multiple_of(length) {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

/// The known word that this one was probably meant to be.
pub(in crate::config) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters have to be changed, added or taken away.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        let mut next = vec![left];
        for (above, wanted) in row.iter().skip(1).zip(&other) {
            left = (left + 1)
                .min(above + 1)
                .min(diagonal + usize::from(letter != *wanted));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// Why this cannot be the address of an issuer or of the broker; `None`: it can.
pub(in crate::config) fn url_problem(text: &str) -> Option<UrlProblem> {
    let Ok(url) = url::Url::parse(text) else {
        return Some(UrlProblem::NotAUrl);
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Some(UrlProblem::HasQuery);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some(UrlProblem::HasUser);
    }
    match url.scheme() {
        "https" => None,
        "http" if is_loopback(&url) => None,
        "http" => Some(UrlProblem::Insecure),
        _ => Some(UrlProblem::NotAUrl),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum UrlProblem {
    NotAUrl,
    HasQuery,
    HasUser,
    Insecure,
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
