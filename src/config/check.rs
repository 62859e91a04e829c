//! `dayfly check`: every problem of a configuration, and its policy tests run through the decision
//! that the broker itself makes. Offline; no secret is read.

use super::document::Document;
use super::problem::{Code, Desk, Problems, plural};
use super::settings::{Case, Expectation, Settings};
use crate::agents::registered::Definition;
use crate::agents::{AgentError, Registry};
use crate::fences::View;
use crate::ids::AgentId;
use crate::policy::Policy;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// What `dayfly check` found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// No error, and every case came out as expected. Warnings do not count.
    pub ok: bool,
    pub errors: usize,
    pub warnings: usize,
    pub problems: Problems,
    pub cases: Vec<CaseResult>,
    /// Of the configuration, where it can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    pub name: String,
    /// `FILE:LINE`.
    pub at: String,
    pub passed: bool,
    pub expected: String,
    pub got: String,
}

/// Checks a folder.
pub fn check(dir: &Path, now: OffsetDateTime) -> CheckReport {
    report(&Document::read(dir), now)
}

/// Checks a folder, and whether these registered agents stand beside it. Where it cannot be used itself, they are not
/// looked at.
pub fn check_with(
    dir: &Path,
    registered: &[(AgentId, Definition)],
    now: OffsetDateTime,
) -> CheckReport {
    let document = Document::read(dir);
    let mut report = report(&document, now);
    if registered.is_empty() || !report.ok {
        return report;
    }
    let Ok(settings) = document.resolve_at(Some(now)) else {
        return report;
    };
    match settings.joined(registered) {
        Ok(joined) => {
            let problems = joined.problems.into_values().flatten();
            report.problems.0.extend(problems);
        }
        Err(why) => {
            let desk = Desk::new(document.sources);
            let help = "write `allow_registered = true` in a mission, or remove them";
            desk.general(Code::UnknownMission, why, help);
            report.problems.0.extend(desk.finish().0);
        }
    }
    report.ok = !report.problems.has_errors();
    report.errors = report.problems.errors();
    report.warnings = report.problems.warnings();
    report
}

/// Checks files that are already in memory.
pub fn check_files(
    files: Vec<(String, String)>,
    base: PathBuf,
    now: OffsetDateTime,
) -> CheckReport {
    report(&Document::gather(files, base, &[]), now)
}

pub(in crate::config) fn report(document: &Document, now: OffsetDateTime) -> CheckReport {
    let (mut problems, cases, hash) = match document.resolve_at(Some(now)) {
        Err(problems) => (problems, Vec::new(), None),
        Ok(settings) => {
            let desk = Desk::new(document.sources.clone());
            let cases = run(&settings, &desk, now);
            let mut problems = settings.warnings;
            problems.0.extend(desk.finish().0);
            (problems, cases, Some(settings.hash))
        }
    };
    problems.sort();
    CheckReport {
        ok: !problems.has_errors(),
        errors: problems.errors(),
        warnings: problems.warnings(),
        problems,
        cases,
        hash,
    }
}

fn run(settings: &Settings, desk: &Desk, now: OffsetDateTime) -> Vec<CaseResult> {
    // Both were built from the same values before, when problems were looked for.
    let (Ok(policy), Ok(registry)) = (settings.policy(), Registry::new(settings.agents.clone()))
    else {
        let help = "report this as a bug";
        desk.general(Code::Incomplete, "the policy tests cannot be run", help);
        return Vec::new();
    };
    settings
        .cases
        .iter()
        .map(|case| {
            let result = run_case(case, &policy, &registry, now);
            if !result.passed {
                let CaseResult {
                    name,
                    expected,
                    got,
                    ..
                } = &result;
                let message = format!("`{name}`: expected {expected}, got {got}");
                desk.report(case.place, Code::CaseFailed, message, "");
            }
            result
        })
        .collect()
}

fn run_case(case: &Case, policy: &Policy, registry: &Registry, now: OffsetDateTime) -> CaseResult {
    let now = case.now.unwrap_or(now);
    let view = View::origin();
    let (got, is_expected) = match case.request.clone().admitted(registry, &view, now) {
        Err(error) => {
            let code = match error {
                AgentError::NotKnownAt { .. } => UNKNOWN,
                _ => NOT_IN_STANDING,
            };
            (
                format!("refused: {code} ({error})"),
                case.expect == Expectation::Refused(code.to_owned()),
            )
        }
        Ok((agent, intent)) => match policy.decide(&agent, &intent, &view, now) {
            Ok(grant) => {
                let is_expected = match &case.expect {
                    Expectation::Granted(None) => true,
                    Expectation::Granted(Some(mission)) => mission == grant.mission(),
                    Expectation::Refused(_) => false,
                };
                (format!("granted by `{}`", grant.mission()), is_expected)
            }
            Err(denied) => {
                let reason = denied.reason.code();
                let is_expected = case.expect == Expectation::Refused(reason.to_owned());
                let detail = denied.detail;
                (format!("refused: {reason} ({detail})"), is_expected)
            }
        },
    };
    CaseResult {
        name: case.name.clone(),
        at: case.at.clone(),
        passed: is_expected,
        expected: case.expect.to_string(),
        got,
    }
}

/// The agent has ended; everything else that takes an agent out of standing is in the fence log.
pub(in crate::config) const NOT_IN_STANDING: &str = "agent_not_in_standing";
/// The issuer that the case names proves another, or none.
pub(in crate::config) const UNKNOWN: &str = "unknown_agent";

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted(None) => f.write_str("granted"),
            Self::Granted(Some(mission)) => write!(f, "granted by `{mission}`"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            let mark = if case.passed { "ok  " } else { "FAIL" };
            writeln!(f, "{mark} {} ({}): {}", case.name, case.at, case.got)?;
        }
        if !self.cases.is_empty() {
            writeln!(f)?;
        }
        for problem in &self.problems.0 {
            writeln!(f, "{problem}")?;
        }
        let passed = self.cases.iter().filter(|case| case.passed).count();
        let cases = self.cases.len();
        let verdict = if self.ok { "ok" } else { "not ok" };
        write!(
            f,
            "{verdict}: {}, {}, {passed} of {} passed",
            plural(self.errors, "error"),
            plural(self.warnings, "warning"),
            plural(cases, "case"),
        )
    }
}
