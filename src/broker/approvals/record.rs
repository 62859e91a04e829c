//! What is remembered of one request that people approve: a record behind a MAC, on the shard of the
//! installation, where the fence log is. Its id is made of what is asked, so it is asked once.

use crate::identity::Facts;
use crate::ids::{self, ShardId};
use crate::intent::{Approval, Intent};
use crate::policy::{ApprovalTerms, ToApprove, Unapproved};
use crate::secret::Sealer;
use crate::store::{CommitId, Guard, Index, Key, StoreError, Write};
use crate::wire::{ApprovalState, Verdict, Vote};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;
use time::OffsetDateTime;

const MAC_PURPOSE: &str = "approval";
/// Secret scanners and people tell it from other ids.
const PREFIX: &str = "apr_";
/// 160 bits, in hexadecimal.
const ID_LENGTH: usize = 40;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: String,
    pub what: ToApprove,
    /// For people to read. It is part of what they approve, and decides nothing.
    pub goal: String,
    pub owner: String,
    pub facts: Facts,
    pub issuer_url: String,
    /// Everybody whom the request is from: none of them approves it.
    pub requesters: Vec<String>,
    /// Seconds that one credential may live.
    pub max_ttl: u64,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub asked_at: OffsetDateTime,
    pub votes: Vec<Vote>,
    /// The subjects of those who said it, in the same order: one person may come under two names.
    pub voters: Vec<Option<String>>,
    /// The last yes that was needed.
    #[serde(default, with = "time::serde::timestamp::milliseconds::option")]
    pub approved_at: Option<OffsetDateTime>,
    pub state: ApprovalState,
    /// It waits, is good, or stays denied until then.
    #[serde(with = "time::serde::timestamp::milliseconds")]
    pub until: OffsetDateTime,
}

/// A record with what guards its change.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub record: Record,
    pub version: CommitId,
}

impl Found {
    pub fn guard(&self) -> Guard {
        Guard::Unchanged(key(&self.record.id), self.version)
    }
}

impl Record {
    pub fn new(
        id: String,
        unapproved: &Unapproved,
        intent: &Intent,
        (owner, issuer_url): (&str, &str),
        (requesters, now): (Vec<String>, OffsetDateTime),
    ) -> Self {
        Self {
            id,
            what: unapproved.what.clone(),
            goal: intent.goal().to_owned(),
            owner: owner.to_owned(),
            facts: intent.facts().clone(),
            issuer_url: issuer_url.to_owned(),
            requesters,
            max_ttl: unapproved.ttl.as_secs(),
            asked_at: now,
            votes: Vec::new(),
            voters: Vec::new(),
            approved_at: None,
            state: ApprovalState::Pending,
            until: later(now, unapproved.terms.within),
        }
    }

    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        now >= self.until
    }

    /// Who has said yes.
    fn approvers(&self) -> Vec<String> {
        let yes = self
            .votes
            .iter()
            .filter(|vote| vote.verdict == Verdict::Approve);
        yes.map(|vote| vote.by.clone()).collect()
    }

    /// One more vote, and what it makes of it. SECURITY: whoever comes again, under either name, counts once.
    pub fn take(&mut self, (vote, subject): (Vote, Option<String>), terms: &ApprovalTerms) {
        let at = vote.at;
        let verdict = vote.verdict;
        let same = |known: &Vote, known_subject: &Option<String>| {
            let one = [Some(&known.by), known_subject.as_ref()];
            let other = [Some(&vote.by), subject.as_ref()];
            let mut pairs = one.into_iter().flatten();
            pairs.any(|name| other.into_iter().flatten().any(|two| is_same(name, two)))
        };
        let known = std::mem::take(&mut self.votes).into_iter();
        let known = known.zip(std::mem::take(&mut self.voters));
        (self.votes, self.voters) = known.filter(|(one, by)| !same(one, by)).unzip();
        self.votes.push(vote);
        self.voters.push(subject);
        match verdict {
            Verdict::Deny => self.state = ApprovalState::Denied,
            Verdict::Approve if self.state == ApprovalState::Pending => {
                if terms.suffice(&self.approvers()) {
                    self.state = ApprovalState::Approved;
                    self.approved_at = Some(at);
                    self.until = later(at, terms.lasts);
                }
            }
            Verdict::Approve => {}
        }
    }

    /// For policy, which compares it with what is asked; without the yes of whoever is among these now.
    pub fn approval(&self, requesters: &[String]) -> Option<Approval> {
        let by = self.votes.iter().zip(&self.voters);
        let by = by.filter(|(vote, subject)| {
            let own = |name: &String| requesters.iter().any(|known| is_same(known, name));
            vote.verdict == Verdict::Approve && !own(&vote.by) && !subject.as_ref().is_some_and(own)
        });
        Some(Approval {
            id: key_of(&self.id).to_owned(),
            of: self.what.hash()?,
            by: by.map(|(vote, _)| vote.by.clone()).collect(),
            since: self.approved_at?,
            until: self.until,
            max_ttl: self.max_ttl,
        })
    }

    pub fn put(&self, sealer: &Sealer) -> Result<Write, StoreError> {
        let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
        let body = serde_json::to_vec(self).map_err(|error| corrupt(&error))?;
        let value = sealer.with_mac(MAC_PURPOSE, &body);
        Ok(Write::Put {
            key: key(&self.id),
            value: value.map_err(|error| corrupt(&error))?,
            expires_at: Some(self.until),
        })
    }
}

/// SECURITY: one that no broker of ours wrote, or that is another's, is none.
pub(super) fn read(sealer: &Sealer, id: &str, value: &[u8]) -> Option<Record> {
    let (body, _) = sealer.without_mac(MAC_PURPOSE, value)?;
    let record: Record = serde_json::from_slice(body).ok()?;
    (key_of(&record.id) == key_of(id)).then_some(record)
}

/// Made of all that people are shown of the authority, and of what it is said to be for.
pub(super) fn asked(what: &ToApprove, goal: &str) -> Result<String, StoreError> {
    // Another blank is no other purpose.
    let goal = goal.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = serde_json::to_vec(&(what, goal));
    let text = text.map_err(|error| StoreError::Corrupt(error.to_string()))?;
    let hash = digest(&SHA256, &text);
    let hex = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    let hex: String = hex.collect();
    let digits = hex.get(..ID_LENGTH).unwrap_or(&hex);
    Ok(format!("{PREFIX}{digits}"))
}

/// Whoever looks at what was asked says yes to that, and not to the same asked anew, for longer.
pub(super) fn draw(asked: &str) -> String {
    let drawn = ids::random::<4>();
    let drawn: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{asked}-{drawn}")
}

/// What was asked, of an id: what records, holds and leases go by.
pub(super) fn key_of(id: &str) -> &str {
    id.split_once('-').map_or(id, |(asked, _)| asked)
}

/// Whether it could be one: nothing else becomes a part of a key.
pub(super) fn is_id(text: &str) -> bool {
    let parts = text.split_once('-');
    parts.is_some_and(|(asked, drawn)| is_asked(asked) && is_hex(drawn, 8))
}

/// The same of what was asked alone.
pub(super) fn is_asked(text: &str) -> bool {
    let digits = text.strip_prefix(PREFIX);
    digits.is_some_and(|digits| is_hex(digits, ID_LENGTH))
}

fn is_hex(digits: &str, length: usize) -> bool {
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.len() == length && digits.bytes().all(is_digit)
}

/// Names are compared as owners' are: without case.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Its name in the indexes.
pub(super) fn member(id: &str) -> Vec<u8> {
    key_of(id).as_bytes().to_vec()
}

pub(super) fn key(id: &str) -> Key {
    Key {
        shard: ShardId::INSTALLATION,
        name: format!("approval/{}", key_of(id)).into_bytes(),
    }
}

/// Of all that are remembered, by when they are over.
pub(super) fn all() -> Index {
    index(Cow::Borrowed("approvals"))
}

/// Of those of one agent that wait, and, where people run it or are served, of one of them.
pub(super) fn waiting(what: &ToApprove) -> Index {
    let root = what.chain.first().map_or("", String::as_str);
    index(Cow::Owned(format!("approvals/{}/{root}", what.agent)))
}

fn index(name: Cow<'static, str>) -> Index {
    Index {
        shard: ShardId::INSTALLATION,
        name,
    }
}

pub(super) fn rank(moment: OffsetDateTime) -> i64 {
    let milliseconds = moment.unix_timestamp_nanos() / 1_000_000;
    i64::try_from(milliseconds).unwrap_or(i64::MAX)
}

fn later(moment: OffsetDateTime, by: Duration) -> OffsetDateTime {
    moment
        .checked_add(by.try_into().unwrap_or(time::Duration::DAY))
        .unwrap_or(moment)
}
