//! What is wrong with a configuration: every problem at once, each with its place, a stable code
//! and what to write instead.

use super::shape::Shapes;
use super::source::{Place, Sources, Spot};
use serde::{Serialize, Serializer};
use std::cell::RefCell;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The broker does not start with it.
    Error,
    /// It starts, and somebody should look.
    Warning,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident => $text:literal, $severity:ident;)*) => {
        /// What kind of problem. The text is stable: scripts may rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    /// A file or folder cannot be read.
    Unreadable => "unreadable", Error;
    /// Not TOML.
    Syntax => "syntax", Error;
    UnknownTable => "unknown_table", Error;
    UnknownKey => "unknown_key", Error;
    MissingKey => "missing_key", Error;
    WrongType => "wrong_type", Error;
    BadName => "bad_name", Error;
    BadValue => "bad_value", Error;
    /// The same name twice, or one key twice.
    Duplicate => "duplicate", Error;
    /// Not `env:`, `file:` or `cmd:`.
    BadReference => "bad_reference", Error;
    /// A key set that is missing, too large or not acceptable.
    BadKeys => "bad_keys", Error;
    UnknownAgent => "unknown_agent", Error;
    UnknownTarget => "unknown_target", Error;
    UnknownMission => "unknown_mission", Error;
    /// No such group of people.
    UnknownPeople => "unknown_people", Error;
    UnknownIssuer => "unknown_issuer", Error;
    UnknownSet => "unknown_set", Error;
    /// Plain http to something that is not loopback.
    InsecureUrl => "insecure_url", Error;
    /// An issuer that serves everybody needs a tenant claim.
    NoTenant => "no_tenant", Error;
    /// A permission that the target's vocabulary cannot decide.
    Undecidable => "undecidable", Error;
    /// A grant that its target's ceiling does not cover.
    WiderThanTarget => "wider_than_target", Error;
    /// A grant of a mission that an agent's ceiling does not cover: the agent gets less.
    WiderThanAgent => "wider_than_agent", Warning;
    /// `signer = "platform"` where it is not safe.
    PlatformSigner => "platform_signer", Error;
    /// A token that would be an operator's and a workload's at once.
    OperatorsAreWorkloads => "operators_are_workloads", Error;
    /// An issuer of people that is used for workloads, or the other way round.
    PeopleAreNoWorkloads => "people_are_no_workloads", Error;
    /// Two agents that the same proof fits.
    SameIdentity => "same_identity", Error;
    /// A Cedar policy or condition that does not compile.
    BadPolicy => "bad_policy", Error;
    /// A `[[case]]` that came out otherwise.
    CaseFailed => "case_failed", Error;
    /// No table of a kind that the broker cannot do without.
    Incomplete => "incomplete", Error;
    /// Past its last day: it gets nothing.
    Ended => "ended", Warning;
    /// An agent that no mission admits: it gets nothing.
    NoMission => "no_mission", Warning;
    /// An identity by a name that can be given up and taken by someone else.
    IdentityByName => "identity_by_name", Error;
    /// `mode = "observe"` for an agent that nothing else bounds.
    ObserveUnbounded => "observe_unbounded", Error;
    /// An observation of more than 14 days.
    ObserveTooLong => "observe_too_long", Error;
    /// A grant that an agent's ceiling leaves nothing of.
    Unreachable => "unreachable", Warning;
    /// Something that nothing can ever fit: a pattern, a label, a claim.
    NeverMatches => "never_matches", Warning;
    /// A fact is needed that no issuer of the agent proves.
    UnprovedFact => "unproved_fact", Warning;
    /// A mission wants an intent of a signer that nobody is for the agent.
    NoSigner => "no_signer", Warning;
    /// A mission has people approve what it gives, and too few of them may.
    NoApprover => "no_approver", Warning;
    /// A set of actions that nothing names.
    UnusedSet => "unused_set", Warning;
    /// What is in a configuration to publish and has no place there.
    Unpublishable => "unpublishable", Error;
    /// A longer lifetime than the target gives.
    TtlCapped => "ttl_capped", Warning;
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One thing that is wrong. `line` and `column` count from 1; without a file it concerns the whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    pub code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    pub message: String,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The other place that it collides with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub see: Option<String>,
    #[serde(skip)]
    pub(in crate::config) spot: Option<Spot>,
}

/// Everything that is wrong, errors first, in the order of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|p| p.severity == severity).count()
    }

    pub(in crate::config) fn sort(&mut self) {
        // What follows from a line that does not parse is noise.
        let torn: Vec<_> = self
            .0
            .iter()
            .filter(|problem| problem.code == Code::Syntax)
            .map(|problem| (problem.file.clone(), problem.line))
            .collect();
        self.0.retain(|problem| match problem.code {
            Code::Syntax => true,
            Code::MissingKey => !torn.iter().any(|(file, _)| *file == problem.file),
            Code::Incomplete => torn.is_empty(),
            _ => !torn.contains(&(problem.file.clone(), problem.line)),
        });
        self.0.sort_by(|a, b| {
            (a.severity, &a.file, a.line, a.column, a.code)
                .cmp(&(b.severity, &b.file, b.line, b.column, b.code))
        });
        self.0.dedup();
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let errors = plural(self.errors(), "error");
        match self.warnings() {
            0 => write!(f, "{errors}"),
            warnings => write!(f, "{errors}, {}", plural(warnings, "warning")),
        }
    }
}

pub(in crate::config) fn plural(count: usize, word: &str) -> String {
    if count == 1 {
        format!("1 {word}")
    } else {
        format!("{count} {word}s")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}[{}]: {}", self.code.as_str(), self.message)?;
        let mut margin = String::from(" ");
        if let Some(file) = &self.file {
            let (line, column) = (self.line.unwrap_or(1), self.column.unwrap_or(1));
            let number = line.to_string();
            margin = " ".repeat(number.len());
            writeln!(f, "{margin}--> {file}:{line}:{column}")?;
            if let Some(spot) = &self.spot {
                let excerpt = spot.excerpt.replace('\t', " ");
                let room = excerpt.chars().count().saturating_sub(column - 1).max(1);
                let before = " ".repeat(column - 1);
                let carets = "^".repeat(spot.width.min(room));
                writeln!(f, "{margin} |")?;
                writeln!(f, "{number} | {excerpt}")?;
                writeln!(f, "{margin} | {before}{carets}")?;
            }
        }
        if let Some(see) = &self.see {
            writeln!(f, "{margin} = see: {see}")?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "{margin} = help: {help}")?;
        }
        Ok(())
    }
}

/// Where problems are put down while everything else is still being read.
#[derive(Debug, Default)]
pub(in crate::config) struct Desk {
    sources: Sources,
    problems: RefCell<Vec<Problem>>,
    /// Lines that may hold a secret: file, line.
    unseen: RefCell<Vec<(String, usize)>>,
    /// What is asked of tables, where that is wanted.
    pub shapes: RefCell<Option<Shapes>>,
}

impl Desk {
    pub fn new(sources: Sources) -> Self {
        Self {
            sources,
            problems: RefCell::default(),
            unseen: RefCell::default(),
            shapes: RefCell::default(),
        }
    }

    /// A desk that also notes what the decoders ask for.
    pub fn recording(sources: Sources, shapes: Shapes) -> Self {
        Self {
            shapes: RefCell::new(Some(shapes)),
            ..Self::new(sources)
        }
    }

    pub fn report(&self, at: Place, code: Code, message: impl Into<String>, help: &str) {
        self.add(Some(at), code, message.into(), help, None);
    }

    /// A problem that lies between two places.
    pub fn collision(&self, at: Place, code: Code, message: String, help: &str, other: Place) {
        self.add(Some(at), code, message, help, Some(other));
    }

    /// A problem of the whole, or of something that is not a file.
    pub fn general(&self, code: Code, message: impl Into<String>, help: &str) {
        self.add(None, code, message.into(), help, None);
    }

    // SECURITY: the line may hold a secret. Its text is not repeated, by no other problem either.
    /// Like `report`, for a line that is not to be shown.
    pub fn report_unseen(&self, at: Place, code: Code, message: impl Into<String>, help: &str) {
        self.add(Some(at), code, message.into(), help, None);
        if let Some(spot) = self.sources.spot(at) {
            self.unseen.borrow_mut().push((spot.file, spot.line));
        }
    }

    fn add(
        &self,
        at: Option<Place>,
        code: Code,
        message: String,
        help: &str,
        other: Option<Place>,
    ) {
        let spot = at.and_then(|place| self.sources.spot(place));
        let see = other
            .and_then(|place| self.sources.spot(place))
            .map(|spot| format!("{}:{}:{}", spot.file, spot.line, spot.column));
        self.problems.borrow_mut().push(Problem {
            severity: code.severity(),
            code,
            file: spot.as_ref().map(|spot| spot.file.clone()),
            line: spot.as_ref().map(|spot| spot.line),
            column: spot.as_ref().map(|spot| spot.column),
            message,
            help: (!help.is_empty()).then(|| help.to_owned()),
            see,
            spot,
        });
    }

    pub fn has_errors(&self) -> bool {
        let problems = self.problems.borrow();
        problems.iter().any(|p| p.severity == Severity::Error)
    }

    pub fn finish(self) -> Problems {
        let unseen = self.unseen.into_inner();
        let mut problems = Problems(self.problems.into_inner());
        for problem in &mut problems.0 {
            let is_unseen = |spot: &Spot| unseen.contains(&(spot.file.clone(), spot.line));
            if problem.spot.as_ref().is_some_and(is_unseen) {
                problem.spot = None;
            }
        }
        problems.sort();
        problems
    }
}
