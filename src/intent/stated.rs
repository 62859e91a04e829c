//! An intent that nobody signed, for `explain`, `simulate` and the policy tests of `check`.

use super::{Approval, Asked, Behalf, Intent, Proved, SignerClass};
use crate::authority::AuthorizationDetail;
use crate::identity::Facts;
use crate::ids::MissionId;
use serde_json::Map;
use time::{Duration, OffsetDateTime};

/// What a signed intent and the parameters beside it said, taken at its word.
#[derive(Debug, Clone)]
pub(crate) struct Stated {
    pub signer: SignerClass,
    pub mission: Option<MissionId>,
    /// Signed.
    pub authorization_details: Vec<AuthorizationDetail>,
    /// Beside it.
    pub asked: Asked,
    pub task: Option<String>,
    pub instance: Option<String>,
    pub goal_ends: Option<OffsetDateTime>,
    /// Verified, by whomever.
    pub facts: Facts,
    pub behalf: Behalf,
    pub approval: Option<Approval>,
}

impl Intent {
    /// What policy would see if a signer of this class had signed exactly this.
    pub(crate) fn stated(
        signer: SignerClass,
        mission: Option<MissionId>,
        authorization_details: Vec<AuthorizationDetail>,
        facts: Facts,
        now: OffsetDateTime,
    ) -> Self {
        let (signed, asked) = if signer == SignerClass::Platform {
            // A platform signs no details: they are only asked.
            let asked = Asked {
                authorization_details,
                mission: mission.clone(),
                ..Asked::default()
            };
            (Vec::new(), asked)
        } else {
            (authorization_details, Asked::default())
        };
        let stated = Stated {
            signer,
            mission,
            authorization_details: signed,
            asked,
            task: None,
            instance: None,
            goal_ends: None,
            facts,
            behalf: Behalf::Nobody,
            approval: None,
        };
        Self::restated(stated, now)
    }

    /// What policy would see if all of this had been verified.
    // SECURITY: nothing was verified. It carries no replay mark and no signing key, and the
    // corridor never calls it: what it leads to is an explanation, never a credential.
    pub(crate) fn restated(stated: Stated, now: OffsetDateTime) -> Self {
        Self {
            pins: false,
            signer: stated.signer,
            mission: stated.mission,
            authorization_details: stated.authorization_details,
            asked: stated.asked,
            behalf: stated.behalf,
            client_id: None,
            goal: "stated, not signed".to_owned(),
            goal_ends: stated.goal_ends,
            task: stated.task,
            instance: stated.instance,
            declared: Map::new(),
            proved: Proved {
                facts: stated.facts,
                ..Proved::default()
            },
            dimensions: Vec::new(),
            signing_key: None,
            confirmed_key: None,
            sha256: [0; 32],
            expires_at: now.saturating_add(Duration::minutes(5)),
            replay: None,
            approval: stated.approval,
        }
    }
}
