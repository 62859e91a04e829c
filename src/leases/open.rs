//! Reserve, mint, activate. The order is the promise: the lease is written before any downstream
//! call, the handle before any answer.

use super::close::Closing;
use super::record::{Lease, Record};
use super::state::{Event, State, Why};
use super::{DEADLINE, KEPT, LeaseError, Leases, MINT_WITHIN, keys, notes, status};
use crate::connectors::{ConnectorError, Handle, MintContext, Minted, Promises};
use crate::fences::{Dimension, DimensionKind, LONGEST_LIFETIME, View};
use crate::identity::Facts;
use crate::ids::{AgentId, LeaseId, ShardId};
use crate::policy::Grant;
use crate::replay::ReplayMark;
use crate::steps::{self, Step};
use crate::store::{Guard, Outcome, Transaction, Write, settle};
use serde_bytes::ByteArray;
use std::time::Duration;
use time::OffsetDateTime;

/// Attempts to write over a record that someone else is writing, too.
const TRIES: usize = 8;

/// A lease that is thought of and not written: its id goes into credentials that we sign ourselves.
#[derive(Debug, Clone)]
pub struct Draft {
    id: LeaseId,
    created: OffsetDateTime,
    mint_by: OffsetDateTime,
    expires_at: OffsetDateTime,
    promises: Promises,
    pub(in crate::leases) status: Option<u32>,
    asked_by: Facts,
    beforehand: Option<Handle>,
}

/// A lease that is written and has no credential yet. Minting downstream takes one.
#[derive(Debug)]
pub struct Reserved {
    lease: Lease,
    beforehand: Option<Handle>,
}

/// A live lease and its credential, on their way to the one who asked.
#[derive(Debug)]
pub struct Issued {
    pub lease: Lease,
    pub minted: Minted,
}

impl Draft {
    pub fn id(&self) -> &LeaseId {
        &self.id
    }

    pub fn expires_at(&self) -> OffsetDateTime {
        self.expires_at
    }

    /// What its platform is asked by whether what it hangs on is over: [`Leases::watched`].
    #[must_use]
    pub fn asked_by(mut self, facts: Facts) -> Self {
        self.asked_by = facts;
        self
    }

    /// What ending will need and is known already: [`Connector::beforehand`](crate::connectors::Connector::beforehand).
    #[must_use]
    pub fn knowing(mut self, beforehand: Option<Handle>) -> Self {
        self.beforehand = beforehand;
        self
    }

    /// For connectors that mint without a downstream call.
    pub fn context(&self, now: OffsetDateTime) -> MintContext<'_> {
        MintContext {
            lease: &self.id,
            expires_at: self.expires_at,
            mint_by: self.mint_by,
            now,
            status: self.status,
            beforehand: self.beforehand.as_ref(),
        }
    }
}

impl Reserved {
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    pub fn context(&self, now: OffsetDateTime) -> MintContext<'_> {
        MintContext {
            lease: &self.lease.record().id,
            expires_at: self.lease.expires_at,
            mint_by: self.lease.mint_by,
            now,
            status: self.lease.status,
            beforehand: self.beforehand.as_ref(),
        }
    }
}

impl Leases {
    /// Draws the id and fixes the times. Writes nothing.
    pub fn draft(&self, grant: &Grant, promises: &Promises, now: OffsetDateTime) -> Draft {
        let now = whole_milliseconds(now);
        let ttl = grant.ttl().min(promises.max_ttl).min(LONGEST_LIFETIME);
        Draft {
            id: LeaseId::draw(keys::shard(grant.agent())),
            created: now,
            mint_by: now + MINT_WITHIN,
            expires_at: whole_milliseconds(now + ttl),
            promises: *promises,
            status: promises.status_list.then(status::draw),
            asked_by: Facts::new(),
            beforehand: None,
        }
    }

    /// One commit: the lease, its replay marks, the agent's quota, the audit entry. After it, and
    /// only after it, a downstream may be asked.
    pub async fn reserve(
        &self,
        draft: Draft,
        grant: &Grant,
        now: OffsetDateTime,
    ) -> Result<Reserved, LeaseError> {
        let mut record = new_record(&draft, grant);
        let beforehand = draft.beforehand;
        record.handle = beforehand
            .as_ref()
            .map(|known| self.sealer.seal(&before(&record.id), known.expose()))
            .transpose()?;
        let lease = self.open_lease(record, grant, now).await?;
        Ok(Reserved { lease, beforehand })
    }

    /// Spends proofs of an agent that came for something else than a lease. The marks are those of
    /// [`Self::reserve`]: a proof that was spent here cannot be spent there, nor the other way round.
    pub async fn spend(
        &self,
        agent: &AgentId,
        marks: &[ReplayMark],
        now: OffsetDateTime,
    ) -> Result<(), LeaseError> {
        if marks.is_empty() {
            return Ok(());
        }
        let shard = keys::shard(agent);
        let transaction = spend_all(Transaction::new(shard, now + DEADLINE), shard, marks);
        match settle(self.store.as_ref(), transaction).await? {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(()),
            Outcome::Conflict { guard } => {
                let kind = marks.get(guard).map(|mark| mark.kind.clone());
                Err(LeaseError::Replayed(kind.unwrap_or_default()))
            }
            Outcome::TooLate => Err(LeaseError::TooLate),
        }
    }

    /// Reserve and activate in one commit, for a credential that was minted here and that nobody
    /// has seen yet.
    pub async fn issue(
        &self,
        draft: Draft,
        grant: &Grant,
        minted: Minted,
        now: OffsetDateTime,
    ) -> Result<Issued, LeaseError> {
        if !draft.promises.local {
            return Err(LeaseError::NotLocal(grant.target().to_string()));
        }
        let mut record = new_record(&draft, grant);
        self.take_minted(&mut record, &minted, now)?;
        record.state = State::Active;
        let lease = self.open_lease(record, grant, now).await?;
        Ok(Issued { lease, minted })
    }

    async fn open_lease(
        &self,
        record: Record,
        grant: &Grant,
        now: OffsetDateTime,
    ) -> Result<Lease, LeaseError> {
        let shard = record.id.shard();
        let quota = keys::quota(&record.agent);
        let mut transaction = Transaction::new(shard, now + DEADLINE)
            .guard(Guard::Absent(keys::lease(&record.id)))
            // If the shard was already matched against fences that this decision has not seen,
            // nobody would match this lease against them: decide again.
            .guard(Guard::NotPast {
                marker: keys::swept(shard),
                position: record.decided_at.0,
            })
            .guard(Guard::Below {
                tally: quota,
                above_slot: keys::rank(now),
                than: grant.max_active(),
            });
        transaction = spend_all(transaction, shard, grant.replay());
        transaction = status::take(transaction, &record);
        // Behind all others, whose places tell what they are.
        let of_instance = grant.max_of_instance();
        let of_instance = of_instance.map(|than| (transaction.guards.len(), than));
        if let Some((_, than)) = of_instance {
            transaction = transaction.guard(Guard::Below {
                tally: keys::quota_of_instance(&record.agent, record.instance.as_deref()),
                above_slot: keys::rank(now),
                than,
            });
        }
        let (transaction, shares) = self.put(transaction, (None, &record), now)?;
        let transaction =
            put_names(transaction, &record).write(notes::issued(&record, grant, now).append(shard));
        let version = transaction.id;
        steps::at(Step::Reserving);
        let outcome = settle(self.store.as_ref(), transaction).await?;
        steps::at(Step::Reserved);
        match outcome {
            Outcome::Applied { .. } => Ok(Lease::new(record, version, shares)),
            Outcome::Conflict { guard: 1 } => Err(LeaseError::DecideAgain),
            Outcome::Conflict { guard: 2 } => Err(LeaseError::TooMany(grant.max_active())),
            Outcome::Conflict { guard } => {
                if let Some((_, most)) = of_instance.filter(|(at, _)| *at == guard) {
                    return Err(LeaseError::TooManyOfInstance(most));
                }
                // The marks' guards come after the three above, in their order, and then the index.
                let at = guard.saturating_sub(3);
                if at == grant.replay().len() {
                    return Err(LeaseError::IndexTaken);
                }
                let spent = grant.replay().get(at);
                let kind = spent.map(|mark| mark.kind.clone());
                Err(LeaseError::Replayed(kind.unwrap_or_default()))
            }
            Outcome::TooLate => Err(LeaseError::TooLate),
            Outcome::Unreplicated { .. } => {
                // Written, and nothing is made for it: closed here if that goes, by the sweeper if not.
                let lease = Lease::new(record, version, shares);
                let nothing = ConnectorError::Unavailable("not replicated in time".to_owned());
                if let Err(error) = self.abandon(&lease, &nothing, now).await {
                    tracing::warn!(lease = %lease.id, %error, "an unreplicated reservation stays for the sweeper");
                }
                Err(LeaseError::Unreplicated)
            }
        }
    }

    /// Records the credential, whatever became of the lease meanwhile, and only then says whether
    /// it may be handed out. [`LeaseError::Fenced`]: end it at once.
    pub async fn activate(
        &self,
        reserved: Reserved,
        minted: Minted,
        view: &View,
        now: OffsetDateTime,
    ) -> Result<Issued, LeaseError> {
        let mut current = Some(reserved.lease.clone());
        for _ in 0..TRIES {
            let from = current.as_ref().unwrap_or(&reserved.lease);
            let mut record = from.record().clone();
            self.take_minted(&mut record, &minted, now)?;
            let hashes: Vec<_> = record.dimensions.iter().map(Dimension::hash).collect();
            let dead = view
                .ended_by(&hashes, from.position())
                .or_else(|| record.cut_by(view));
            let event = if dead.is_none() && record.state == State::Reserved {
                Event::Activate
            } else {
                Event::ActivateDead
            };
            record.state = record
                .state
                .after(event)
                .ok_or(LeaseError::Closed(record.id))?;
            if record.state != State::Active {
                record.reopen(
                    dead.as_ref().map_or(Why::NeverHandedOut, |ended| {
                        super::close::why_of(ended, &reserved.lease.id)
                    }),
                    "its credential arrived after it was ended",
                    now,
                );
            }
            let guard = current.as_ref().map_or_else(
                || Guard::Absent(keys::lease(&reserved.lease.id)),
                |lease| Guard::Unchanged(keys::lease(&lease.id), lease.version()),
            );
            let transaction = Transaction::new(record.id.shard(), now + DEADLINE)
                .revoking()
                .guard(guard);
            let written = self.put(transaction, (current.as_ref(), &record), now)?;
            let (mut transaction, shares) = (put_names(written.0, &record), written.1);
            if let Some(entry) = notes::step(from.state, &record, now) {
                transaction = transaction.write(entry.append(record.id.shard()));
            }
            let version = transaction.id;
            steps::at(Step::Activating);
            let outcome = settle(self.store.as_ref(), transaction).await?;
            steps::at(Step::Activated);
            match outcome {
                Outcome::Applied { .. } => {
                    let lease = Lease::new(record, version, shares);
                    return if lease.state == State::Active {
                        Ok(Issued { lease, minted })
                    } else {
                        Err(LeaseError::Fenced(Box::new(lease)))
                    };
                }
                Outcome::Unreplicated { .. } => {
                    self.withhold(&Lease::new(record, version, shares), now)
                        .await;
                    return Err(LeaseError::Unreplicated);
                }
                Outcome::TooLate => return Err(LeaseError::TooLate),
                Outcome::Conflict { .. } => {
                    current = self.get(&reserved.lease.id).await?;
                }
            }
        }
        Err(LeaseError::Contended(reserved.lease.id))
    }

    /// The mint failed: closed if nothing can have been made, kept open if something may have.
    pub async fn fail(
        &self,
        reserved: Reserved,
        error: &ConnectorError,
        now: OffsetDateTime,
    ) -> Result<State, LeaseError> {
        self.abandon(&reserved.lease, error, now).await
    }

    async fn abandon(
        &self,
        lease: &Lease,
        error: &ConnectorError,
        now: OffsetDateTime,
    ) -> Result<State, LeaseError> {
        let nothing_made = match error {
            ConnectorError::Refused(_)
            | ConnectorError::Unavailable(_)
            | ConnectorError::Replaced(_)
            | ConnectorError::Inexpressible(_) => true,
            ConnectorError::Unknown(_) => false,
        };
        let (event, why) = match (lease.state, nothing_made) {
            (State::Active, _) => (Event::EndHere(Why::NeverHandedOut), Why::NeverHandedOut),
            (_, true) => (Event::Refused, Why::MintRefused),
            (_, false) if lease.named_by_lease => (Event::LostNamed, Why::NeverHandedOut),
            (_, false) => (Event::LostUnnamed, Why::NeverHandedOut),
        };
        let reason = error.to_string();
        let changed = self
            .step(lease, now, |record| {
                record.advance(event, Some(Closing::new(why, "dayfly", &reason, now)), now)
            })
            .await?;
        // Someone was faster: the sweeper or a fence. What they wrote stands.
        Ok(changed.map_or(lease.state, |lease| lease.state))
    }

    fn take_minted(
        &self,
        record: &mut Record,
        minted: &Minted,
        now: OffsetDateTime,
    ) -> Result<(), LeaseError> {
        record.handle = minted
            .handle
            .as_ref()
            .map(|handle| self.sealer.seal(record.id.as_bytes(), handle.expose()))
            .transpose()?;
        record.expires_at = record.expires_at.min(whole_milliseconds(minted.expires_at));
        record.lives_until = whole_milliseconds(minted.expires_at) + Duration::from_millis(1);
        record.activated_at = Some(whole_milliseconds(now));
        record.names.clone_from(&minted.names);
        record.token_sha256 = minted.token_sha256;
        record.signing_key.clone_from(&minted.signing_key);
        if let Some(key) = &minted.signing_key {
            let dimension = Dimension::new(DimensionKind::SigningKey, key.clone());
            if !record.dimensions.contains(&dimension) {
                record.dimensions.push(dimension);
            }
        }
        Ok(())
    }
}

fn new_record(draft: &Draft, grant: &Grant) -> Record {
    let position = grant.position();
    let own = Dimension::new(DimensionKind::Lease, draft.id.to_string());
    let mut dimensions = vec![own, Dimension::all()];
    for dimension in grant.dimensions() {
        if !dimensions.contains(dimension) {
            dimensions.push(dimension.clone());
        }
    }
    let promises = &draft.promises;
    // What was asked for, or the longest that the target ever grants: a lost answer may hide either.
    let longest = draft.mint_by + promises.max_ttl.max(grant.ttl());
    Record {
        id: draft.id,
        state: State::Reserved,
        agent: grant.agent().clone(),
        of_instance: grant.max_of_instance().is_some(),
        instance: grant.instance().map(str::to_owned),
        owner: grant.owner().to_owned(),
        mission: grant.mission().clone(),
        target: grant.target().clone(),
        detail_type: grant.detail_type().to_owned(),
        authority: grant.authority().clone(),
        audience: grant.audience().to_owned(),
        issuer_url: grant.issuer_url().to_owned(),
        subject: grant.subject().to_owned(),
        task: grant.task().map(str::to_owned),
        goal: grant.goal().to_owned(),
        signer: grant.signer(),
        bound_key: grant.bound_key().cloned(),
        chain: grant.chain().to_vec(),
        parent: grant.parent(),
        handed_on: false,
        labels: grant.labels().clone(),
        config_hash: grant.config_hash().to_owned(),
        decided_by: grant.decided_by().to_vec(),
        dimensions,
        decided_at: (position.sequence, ByteArray::new(position.link.0)),
        created: draft.created,
        mint_by: draft.mint_by,
        expires_at: draft.expires_at,
        lives_until: whole_milliseconds(longest.max(draft.expires_at)),
        activated_at: None,
        class: promises.class,
        dead_within: promises.dead_within.map(|within| within.as_secs()),
        named_by_lease: promises.named_by_lease,
        expires_by_itself: promises.expires_by_itself,
        handle: None,
        names: Vec::new(),
        token_sha256: None,
        signing_key: None,
        closing: None,
        attempts: 0,
        claimed_until: None,
        uncollected: false,
        status: draft.status,
        asked_by: draft.asked_by.clone(),
    }
}

/// What is known before a mint is sealed under another name than what it answers.
///
/// SECURITY: a version that does not tell the two apart cannot read it. It would take "there is nothing of that
/// name" for an answer while the mint is on its way.
pub(super) fn before(id: &LeaseId) -> Vec<u8> {
    [id.as_bytes().as_slice(), b"beforehand"].concat()
}

/// Each mark must be absent, and is there afterwards.
fn spend_all(transaction: Transaction, shard: ShardId, marks: &[ReplayMark]) -> Transaction {
    marks.iter().fold(transaction, |transaction, mark| {
        let key = keys::replay(shard, mark);
        transaction
            .guard(Guard::Unnoted(key.clone()))
            .write(Write::Note {
                key,
                value: Vec::new(),
                until: mark.keep_until,
            })
    })
}

/// Records keep milliseconds; what is compared later must not have been rounded in between.
pub(super) fn whole_milliseconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000)
        .unwrap_or(at)
}

/// What leads from a lease's public names to it, for `find`.
pub(super) fn put_names(transaction: Transaction, record: &Record) -> Transaction {
    let shard = record.id.shard();
    let keys = record
        .names
        .iter()
        .map(|name| keys::name(shard, &keys::sha256(name.as_bytes())))
        .chain(
            record
                .token_sha256
                .iter()
                .map(|hash| keys::name(shard, hash)),
        );
    keys.fold(transaction, |transaction, key| {
        transaction.write(Write::Note {
            key,
            value: record.id.as_bytes().to_vec(),
            until: record.lives_until + KEPT,
        })
    })
}
