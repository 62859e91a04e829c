//! All that a decision reads, put as one question.

use crate::agents::{AdmittedAgent, Agent};
use crate::authority::AuthorizationDetail;
use crate::fences::Dimension;
use crate::identity::{Caller, Confirmation, Facts};
use crate::ids::{IssuerId, MissionId};
use crate::intent::{Approval, Asked, Behalf, Intent, SignerClass};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// All that a decision reads off the two keys it is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub agent: &'a Agent,
    pub issuer: &'a IssuerId,
    pub issuer_url: &'a str,
    pub issuer_key: &'a str,
    pub subject: &'a str,
    pub facts: &'a Facts,
    /// Who proved what a fact is about, where it is not the caller's issuer.
    pub provers: &'a BTreeMap<String, (IssuerId, String)>,
    /// Who vouched for the request beside the caller's issuer.
    pub vouchers: &'a [Dimension],
    /// What the request itself showed possession of.
    pub proved_key: Option<&'a Confirmation>,
    /// The token or the intent names it: then it had to be shown, whatever is issued.
    pub key_demanded: bool,
    /// Of the agent's own proof.
    pub claims: Option<&'a Map<String, Value>>,
    pub signer: SignerClass,
    pub signing_key: Option<&'a str>,
    pub behalf: &'a Behalf,
    pub mission: Option<&'a MissionId>,
    /// Signed.
    pub details: &'a [AuthorizationDetail],
    /// Beside it: may only narrow.
    pub asked: &'a Asked,
    pub task: Option<&'a str>,
    pub instance: Option<&'a str>,
    /// When the purpose itself ends.
    pub goal_ends: Option<OffsetDateTime>,
    /// What people have said yes to.
    pub approval: Option<&'a Approval>,
}

impl<'a> Question<'a> {
    pub fn of(agent: &'a AdmittedAgent, intent: &'a Intent) -> Self {
        let caller = agent.caller();
        Self {
            agent: agent.agent(),
            issuer: caller.issuer(),
            issuer_url: caller.issuer_url(),
            issuer_key: caller.issuer_key(),
            subject: caller.subject(),
            facts: intent.facts(),
            provers: intent.provers(),
            vouchers: intent.dimensions(),
            proved_key: caller.proved_key(),
            key_demanded: key_demanded(caller, intent),
            claims: Some(caller.claims()),
            signer: intent.signer(),
            signing_key: intent.signing_key(),
            behalf: intent.behalf(),
            mission: intent.mission(),
            details: intent.authorization_details(),
            asked: intent.asked(),
            task: intent.task(),
            instance: intent.instance(),
            goal_ends: intent.goal_ends(),
            approval: intent.approval(),
        }
    }
}

/// Whether the token or the intent names the key that the request proves.
pub(super) fn key_demanded(caller: &Caller, intent: &Intent) -> bool {
    let proved = caller.proved_key();
    proved.is_some() && (proved == caller.bound_key() || proved == intent.confirmed_key())
}
