//! What a person or a program reads: answers on standard output, everything else on standard error.

use super::Format;
use crate::client::ClientError;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, UtcOffset};

/// Prints in the format that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
}

/// Why a command did not do what it was asked, and the exit code of that class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: u8,
    pub message: String,
    /// The stable reason, where the broker gave one.
    pub reason: Option<String>,
}

impl Failure {
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
            reason: None,
        }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            message: message.into(),
            reason: None,
        }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            code: 5,
            message: message.into(),
            reason: None,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (code, reason) = match &error {
            ClientError::Unreachable { .. } => (6, None),
            ClientError::Refused { status, body, .. } => {
                let code = match status {
                    401 | 403 => 4,
                    404 => 5,
                    429 | 500.. => 6,
                    _ => 3,
                };
                let reason = body
                    .dayfly_reason
                    .clone()
                    .unwrap_or_else(|| body.error.clone());
                (code, Some(reason))
            }
            ClientError::NotSignedIn(_) => (4, None),
            ClientError::Foreign { .. } | ClientError::Local(_) => (1, None),
        };
        Self {
            code,
            message: error.to_string(),
            reason,
        }
    }
}

impl Output {
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// JSON for programs; for people, what `table` makes of it.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = if self.is_json() {
            serde_json::to_string_pretty(value)
                .map_err(|error| Failure::failed(error.to_string()))?
        } else {
            table(value)
        };
        self.line(&text)
    }

    /// A line on standard output. A closed pipe ends the command, as it ends `cat`.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", text.trim_end())
            .and_then(|()| out.flush())
            .map_err(|error| Failure::failed(format!("standard output: {error}")))
    }

    /// A line on standard error.
    pub fn notice(&self, text: &str) {
        // Nobody is left to tell if standard error is closed.
        drop(writeln!(std::io::stderr(), "dayfly: {text}"));
    }

    pub fn fail(&self, failure: &Failure) -> ExitCode {
        if self.is_json() {
            let body = serde_json::json!({
                "error": failure.message, "reason": failure.reason, "exit_code": failure.code,
            });
            drop(writeln!(std::io::stderr(), "{body}"));
        } else {
            self.notice(&failure.message);
        }
        ExitCode::from(failure.code)
    }
}

/// Columns aligned by their widest cell; the last one is not padded.
pub fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(
        rows.iter()
            .map(|row| line(row.iter().map(String::as_str).collect())),
    );
    lines.join("\n")
}

/// RFC 3339 in UTC, to the second: what a person compares with a log. And how far away that is.
pub fn moment(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let second = at.replace_nanosecond(0).unwrap_or(at);
    let text = second
        .to_offset(UtcOffset::UTC)
        .format(&Rfc3339)
        .unwrap_or_else(|_| at.to_string());
    let away = at - now;
    if away.is_negative() {
        format!("{text} ({} ago)", span(away.abs()))
    } else {
        format!("{text} (in {})", span(away))
    }
}

/// In the largest unit of which there are two.
fn span(length: Duration) -> String {
    if length < Duration::minutes(2) {
        format!("{} s", length.whole_seconds())
    } else if length < Duration::hours(2) {
        format!("{} min", length.whole_minutes())
    } else if length < Duration::days(2) {
        format!("{} h", length.whole_hours())
    } else {
        format!("{} days", length.whole_days())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_says_how_far_away_it_is() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let at = |seconds| moment(now + Duration::seconds(seconds), now);
        assert_eq!(at(590), "1970-01-01T00:09:50Z (in 9 min)");
        assert_eq!(at(0), "1970-01-01T00:00:00Z (in 0 s)");
        assert_eq!(at(-30), "1969-12-31T23:59:30Z (30 s ago)");
        assert_eq!(at(7200), "1970-01-01T02:00:00Z (in 2 h)");
        assert_eq!(at(864_000), "1970-01-11T00:00:00Z (in 10 days)");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), "2".to_owned()],
        ];
        assert_eq!(columns(&["NAME", "N"], &rows), "NAME  N\na     1\nlong  2");
    }
}
