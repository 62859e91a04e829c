//! Every reason to refuse is shown by a test over the wire, or stands here with why it is not;
//! and `docs/errors.md` has it.

use dayfly::broker::Reason;
use std::path::Path;

enum Shown {
    /// In these files of this folder, by its name in the code or as it is on the wire.
    In(&'static str),
    /// Not over the wire: why, and where it is shown instead.
    Not(&'static str),
}

fn shown(reason: Reason) -> Shown {
    use Shown::{In, Not};
    match reason {
        Reason::MalformedRequest
        | Reason::UnsupportedMediaType
        | Reason::MethodNotAllowed
        | Reason::UnsupportedGrantType
        | Reason::RequestTooLarge
        | Reason::InvalidTarget
        | Reason::UnknownTarget => In("exchange/forms.rs"),
        Reason::NoProof | Reason::AmbiguousMission | Reason::SignerNotAccepted => In("exchange.rs"),
        Reason::InvalidClient => In("exchange/assertions.rs"),
        Reason::InvalidAssertion => In("exchange/grants.rs"),
        Reason::UnsupportedResponseType => In("discovery.rs"),
        Reason::HistoryNotKept => In("status_lists.rs"),
        Reason::InvalidToken => In("exchange/subject_tokens.rs"),
        Reason::TokenSpent | Reason::IntentSpent => In("exchange/replays.rs"),
        Reason::UnknownAgent
        | Reason::ExceedsMission
        | Reason::RequirementUnmet
        | Reason::TetherMissing => In("exchange/faces.rs"),
        Reason::InvalidIntent => In("exchange/intents.rs"),
        Reason::OtherKeyPinned => In("pinned.rs"),
        Reason::InvalidDpopProof | Reason::UseDpopNonce => In("dpop/proofs.rs"),
        Reason::DpopProofSpent | Reason::CredentialNotBindable => In("dpop.rs"),
        Reason::InvalidScope | Reason::InvalidAuthorizationDetails | Reason::ExceedsIntent => {
            In("exchange/details.rs")
        }
        Reason::MissionEnded
        | Reason::ExceedsAgentCeiling
        | Reason::Undecidable
        | Reason::LifetimeOutOfRange
        | Reason::ConditionUnmet
        | Reason::TooManyLeases
        | Reason::TooManyRequests
        | Reason::IssuerUnavailable => In("exchange/limits.rs"),
        Reason::SubjectNotAccepted | Reason::ExceedsPeopleCeiling => In("delegation/people.rs"),
        Reason::ActorNotAccepted | Reason::ParentNotAlive | Reason::ChainTooDeep => {
            In("delegation/agents.rs")
        }
        Reason::ExceedsParent | Reason::ParentKeyNotProved => In("delegation/agents.rs"),
        Reason::Restricted => In("restrictions.rs"),
        Reason::ApprovalRequired | Reason::ApprovalDenied => In("approvals.rs"),
        Reason::Held => In("contexts.rs"),
        Reason::NotAuthenticated | Reason::NotPermitted => In("every_route.rs"),
        Reason::NotFound => In("discovery.rs"),
        Reason::LeaseReadable => In("revocations/given_up.rs"),
        Reason::StaleConfiguration => In("publish.rs"),
        Reason::AgentRefused | Reason::RegisteredMeanwhile => In("registered.rs"),
        Reason::ConfigurationRefused | Reason::PublishedMeanwhile => In("publish/refused.rs"),
        Reason::StoreUnavailable => In("store_faults.rs"),
        Reason::AgentNotInStanding => {
            Not("it wears the face of unknown_agent, which faces.rs compares")
        }
        Reason::UnknownMission => {
            Not("it wears the face of unknown_agent, which faces.rs compares")
        }
        Reason::RequestTimeout => Not("ten seconds of waiting: shown in src/http/form/tests.rs"),
        Reason::ExceedsTargetCeiling => {
            Not("a mission wider than its target is no configuration: shown in src/policy/tests")
        }
        Reason::ForbiddenByPolicy => Not("needs a folder of policies: shown in src/policy/tests"),
        Reason::RevokedMeanwhile => In("meanwhile.rs"),
        Reason::TargetRefused | Reason::TargetInexpressible | Reason::TargetUnavailable => {
            Not("needs a downstream: shown in src/connectors")
        }
        Reason::StaleView => Not("as store_unavailable on the wire: shown in src/fences/tests"),
        Reason::ClockSkewed => In("clocks.rs"),
        Reason::ConfigurationSuperseded => In("configurations.rs"),
        Reason::Overloaded => Not("needs 512 slow requests at once: shown in src/http/tests.rs"),
        Reason::Internal => {
            Not("there is no known way to it; a panic is shown in src/http/tests.rs")
        }
    }
}

#[test]
fn every_reason_is_shown_by_a_test_or_stands_here_with_why_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut missing = Vec::new();
    for reason in Reason::ALL {
        match shown(*reason) {
            Shown::In(file) => {
                let text = std::fs::read_to_string(folder.join(file)).unwrap();
                let (status, error) = words(*reason);
                // Operators' doors tell by status and error alone.
                let named = text.contains(&format!("Reason::{reason:?}"))
                    || text.contains(&format!("\"{}\"", reason.code()))
                    || (text.contains(&status) && text.contains(&error));
                if !named {
                    missing.push(format!("{reason} is not in {file}"));
                }
            }
            Shown::Not(why) => assert!(why.len() > 20, "{reason}: {why}"),
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

fn words(reason: Reason) -> (String, String) {
    let face = dayfly::http::error::face(reason);
    let status = face.status.as_u16().to_string();
    (status, format!("\"{}\"", face.error))
}

#[test]
fn the_page_of_errors_has_every_reason_as_the_wire_has_it() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let page = std::fs::read_to_string(page).unwrap();
    for reason in Reason::ALL {
        let (status, error) = words(*reason);
        let error = error.trim_matches('"');
        let row = format!("| `{}` | {status} | `{error}` |", reason.code());
        assert!(page.contains(&row), "no row: {row}");
        assert!(page.contains(reason.meaning()), "{}", reason.meaning());
    }
}
