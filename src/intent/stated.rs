//! An intent that nobody signed, for `explain`, `simulate` and the policy tests of `check`.

use super::{Asked, Intent, SignerClass};
use crate::authority::AuthorizationDetail;
use crate::ids::MissionId;
use serde_json::Map;
use time::{Duration, OffsetDateTime};

impl Intent {
    /// What policy would see if a signer of this class had signed exactly this.
    // SECURITY: nothing was verified. It carries no replay mark and no signing key, and the
    // corridor never calls it: what it leads to is an explanation, never a credential.
    pub(crate) fn stated(
        signer: SignerClass,
        mission: Option<MissionId>,
        authorization_details: Vec<AuthorizationDetail>,
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
        Self {
            signer,
            mission,
            authorization_details: signed,
            asked,
            client_id: None,
            goal: "stated, not signed".to_owned(),
            goal_ends: None,
            task: None,
            instance: None,
            declared: Map::new(),
            signing_key: None,
            sha256: [0; 32],
            expires_at: now.saturating_add(Duration::minutes(5)),
            replay: None,
        }
    }
}
