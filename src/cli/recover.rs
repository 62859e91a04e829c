//! `dayfly recover`: shards that came back empty begin anew, and what the store lost and the exported
//! audit still has is made good: what stood stands again, what may be alive is ended.

mod keys;
mod registered;

use super::compose::sealer;
use super::output::{Failure, Output};
use super::stores::{open_store, redis_settings};
use crate::audit::{self, Entry, Event, Lost};
use crate::broker::named::{Record, Slot};
use crate::broker::publish::{Files, SLOT, Stored};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Settings, StoreSettings};
use crate::connectors::{Promises, RevocationClass};
use crate::fences::{self, By, Configured, FenceError, FenceKind, Fences, Named, NewFence};
use crate::ids::ShardId;
use crate::leases::{Leases, Remembered};
use crate::secret::Sealer;
use crate::store::redis::Redis;
use crate::store::{Outcome, Store, Transaction, settle};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The broker's configuration folder.
    #[arg(long, env = "DAYFLY_CONFIG")]
    config: PathBuf,
    /// The exports of all replicas: a folder. Otherwise this replica's, by its configuration.
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// Go on where checkpoints are in no export here: what they tell is lost.
    #[arg(long)]
    incomplete: bool,
    /// Stop every broker first. What the store and the exported audit both do not have is gone for good.
    #[arg(long)]
    i_understand: bool,
    /// Give up a published configuration that neither the store nor the folder has: the folder is in force
    /// then, until another one is published. It is in the audit.
    #[arg(long)]
    without_published: bool,
    /// Give up what the store has and no broker of this installation wrote: how far the audit is sealed, and the
    /// snapshot of the fences. The exported audit tells both; all of it is wanted then. It is in the audit.
    #[arg(long)]
    without_unreadable: bool,
    /// Give up the registered agents, where neither the store nor the exported audit tells them all: nobody is
    /// registered then, and whatever anybody holds is dead, since nobody knows what is theirs. It is in the audit.
    #[arg(long)]
    without_registered: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Recovered {
    /// Shards that begin anew.
    recovered: Vec<u8>,
    /// The checkpoint of the export that sealing goes on behind; absent where the store was not behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<u64>,
    /// Entries that the export has and the store had not.
    lost_entries: usize,
    /// Holds, restrictions and ends that were raised again.
    fences: usize,
    /// The fence log did not follow from its snapshot and begins anew: what was decided behind its end is dead.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fence_log_anew: bool,
    /// How far the audit was sealed could not be read in the store.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    without_unreadable: bool,
    /// The number of the publication that is in force; absent where it is the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<u64>,
    /// Nothing but the record of the published configuration was lost.
    #[serde(skip)]
    configuration: bool,
    /// The number of the registered agents; absent where nobody ever was.
    #[serde(skip_serializing_if = "Option::is_none")]
    registered: Option<u64>,
    /// Signing keys that were removed as compromised and that the store had again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys_removed: Vec<String>,
    /// Leases that brokers end downstream once they run.
    leases_to_end: usize,
    /// Leases whose credentials nobody can end: they live until they expire.
    leases_until_expiry: usize,
    /// Leases that the audit tells too little of, or whose target is not configured: end them by hand.
    leases_by_hand: Vec<String>,
}

pub async fn recover(args: RecoverArgs, output: &Output) -> Result<u8, Failure> {
    let settings = config::load(&args.config)
        .and_then(|document| document.resolve())
        .map_err(|problems| Failure::failed(problems.to_string()))?;
    if !args.i_understand {
        return Err(Failure::usage(
            "what neither the store nor the exported audit has is lost for good: stop every broker, then add --i-understand",
        ));
    }
    let mut done = Recovered {
        recovered: born_anew(&settings).await?,
        ..Recovered::default()
    };
    let store = open_store(&settings.broker.store).await?;
    if let Some(folder) = &args.export
        && !has_export(folder)
    {
        return Err(Failure::usage(format!(
            "{} holds no export: files whose names end in .jsonl",
            folder.display()
        )));
    }
    let sealer = sealer(&settings)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let unattended = audit::unattended(store.as_ref(), &sealer, clock.now());
    unattended.await.map_err(failed)?;
    let age = Duration::from_secs(3600);
    let fences = Fences::idle(store.clone(), sealer.clone(), clock.clone(), age);
    let anew = match fences.follow(Duration::ZERO).await {
        Ok(()) => false,
        Err(FenceError::LostForGood(_)) => true,
        Err(FenceError::ForgedSnapshot) if args.without_unreadable => true,
        Err(error) => return Err(failed(error)),
    };
    let path = settings.broker.audit_path.clone();
    let path = args.export.as_deref().unwrap_or(&path);
    let search = audit::Search {
        path,
        incomplete: args.incomplete,
        without_unreadable: args.without_unreadable,
        fences_lost: anew,
    };
    let lost = audit::lost(store.as_ref(), &sealer, search).await;
    let lost = lost.map_err(failed)?;
    let made = Made {
        args: &args,
        export: path,
        store: &store,
        sealer: &sealer,
        fences: &fences,
        clock: &clock,
    };
    match lost {
        Some(lost) => make_good(&made, settings, (&lost, anew), &mut done).await?,
        None => {
            made.only_configuration(settings, &mut done).await?;
            done.registered = made.registered(&[], clock.now()).await?;
        }
    }
    output.show(&done, told)?;
    Ok(0)
}

fn has_export(path: &Path) -> bool {
    let is_one = |file: PathBuf| file.extension().is_some_and(|found| found == "jsonl");
    let files = std::fs::read_dir(path).into_iter().flatten();
    path.is_file() || files.flatten().any(|entry| is_one(entry.path()))
}

/// What a configuration is put back with.
struct Made<'a> {
    args: &'a RecoverArgs,
    export: &'a Path,
    store: &'a Arc<dyn Store>,
    sealer: &'a Sealer,
    fences: &'a Fences,
    clock: &'a Arc<dyn Clock>,
}

impl Made<'_> {
    /// What was in force is in force again, and read: what was published from the store, or from a folder with
    /// the very same files.
    ///
    /// SECURITY: or a store that was put back would bring an older configuration back, and a wider one.
    async fn configuration(
        &self,
        folder: Settings,
        told: &[Entry],
        now: OffsetDateTime,
    ) -> Result<Settings, Failure> {
        let said = Configured::in_audit(told);
        if let Some(said) =
            said.filter(|said| self.fences.last().configured().as_ref() < Some(said))
        {
            self.say(said, "the store lost it", now).await?;
        }
        let Some(last) = self.fences.last().configured() else {
            return Ok(folder);
        };
        let Some(wanted) = last.record() else {
            return Ok(folder);
        };
        let store = self.store.as_ref();
        let why = match Stored::load(store, self.sealer, &wanted).await {
            Ok(stored) => {
                let settings = config::published(&folder.node, &stored.files).resolve();
                return settings.map_err(failed);
            }
            Err(why) => why,
        };
        let there = match self.of_folder(&folder, &wanted) {
            Ok((settings, files)) => {
                self.put(&settings, files, &wanted, now).await?;
                return Ok(settings);
            }
            Err(why) => why,
        };
        if !self.args.without_published {
            return Err(Failure::failed(format!(
                "the published configuration cannot be had: {why}; the folder has another one ({there}); give `--config` one with the very files of hash {} and `[broker]`, or add --without-published to give it up",
                wanted.sha256
            )));
        }
        let number = last.decides.number.checked_add(1);
        let said = Configured {
            decides: Named {
                number: number.ok_or_else(|| Failure::failed("there is no number after this"))?,
                sha256: folder.decides.clone(),
            },
            published: None,
        };
        self.say(said, "--without-published", now).await?;
        Ok(folder)
    }

    /// The logs are whole, and the record that the last word on them names may be gone all the same.
    async fn only_configuration(
        &self,
        settings: Settings,
        done: &mut Recovered,
    ) -> Result<(), Failure> {
        let wanted = self
            .fences
            .last()
            .configured()
            .and_then(|last| last.record());
        if let Some(wanted) = wanted
            && let Err(_) = Stored::load(self.store.as_ref(), self.sealer, &wanted).await
        {
            self.configuration(settings, &[], self.clock.now()).await?;
            done.published = self.published();
            done.configuration = true;
            self.told(Entry::new(Event::OperatorAction, self.clock.now()).reason("recovered"))
                .await?;
        }
        Ok(())
    }

    fn published(&self) -> Option<u64> {
        let in_force = self.fences.last().configured();
        Some(in_force?.record()?.number)
    }

    /// In the audit.
    async fn told(&self, entry: Entry) -> Result<(), Failure> {
        let shard = ShardId::INSTALLATION;
        let transaction = Transaction::new(shard, self.clock.now() + Duration::from_secs(60))
            .revoking()
            .write(entry.append(shard));
        match settle(self.store.as_ref(), transaction)
            .await
            .map_err(failed)?
        {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(()),
            refused => Err(Failure::failed(format!("the store refused: {refused:?}"))),
        }
    }

    async fn say(&self, said: Configured, why: &str, now: OffsetDateTime) -> Result<(), Failure> {
        let by = "dayfly recover";
        let entry = said.told(now).reason(why).with("by", by);
        let fence = NewFence::new(FenceKind::Configure, said.dimension(), by, why)
            .by(By::Rule("recovery".to_owned()));
        let writes = vec![entry.append(ShardId::INSTALLATION)];
        let raised = self.fences.raise_with(fence, Vec::new(), writes, now);
        raised.await.map(drop).map_err(failed)
    }

    /// The published configuration as a folder has it, or why that is another one.
    fn of_folder(&self, folder: &Settings, wanted: &Named) -> Result<(Settings, Files), String> {
        let files = config::publishable(&self.args.config);
        let files = files.map_err(|problems| problems.to_string())?.sorted();
        let read = config::published(&folder.node, &files).resolve();
        let read = read.map_err(|problems| problems.to_string())?;
        if read.hash != wanted.sha256 {
            return Err(read.hash);
        }
        Ok((read, files))
    }

    async fn put(
        &self,
        settings: &Settings,
        files: Files,
        wanted: &Named,
        now: OffsetDateTime,
    ) -> Result<(), Failure> {
        let stored = Stored {
            revision: wanted.number,
            hash: wanted.sha256.clone(),
            url: settings.broker.url.clone(),
            by: "dayfly recover".to_owned(),
            at: now,
            files,
        };
        let record = stored.record().map_err(|refusal| failed(refusal.detail))?;
        self.put_record(SLOT, &record, now).await
    }

    async fn put_record(
        &self,
        slot: Slot,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<(), Failure> {
        let store = self.store.as_ref();
        let found = slot.find(store, self.sealer).await.map_err(failed)?;
        let put = slot.put(self.sealer, record).map_err(failed)?;
        let transaction = Transaction::new(ShardId::INSTALLATION, now + Duration::from_secs(60))
            .revoking()
            .guard(found.guard())
            .write(put);
        match settle(store, transaction).await.map_err(failed)? {
            Outcome::Applied { .. } | Outcome::Unreplicated { .. } => Ok(()),
            refused => Err(Failure::failed(format!("the store refused: {refused:?}"))),
        }
    }
}

async fn born_anew(settings: &Settings) -> Result<Vec<u8>, Failure> {
    if let StoreSettings::Embedded { .. } = settings.broker.store {
        return Ok(Vec::new());
    }
    let store = redis_settings(&settings.broker.store)?;
    let lost = Redis::recover(&store).await.map_err(|error| Failure {
        code: 6,
        ..failed(error)
    })?;
    Ok(lost.iter().map(|shard| shard.number()).collect())
}

async fn make_good(
    made: &Made<'_>,
    settings: Settings,
    (lost, anew): (&Lost, bool),
    done: &mut Recovered,
) -> Result<(), Failure> {
    let (store, fences, clock) = (made.store, made.fences, made.clock);
    let now = clock.now();
    done.checkpoint = Some(lost.checkpoint());
    done.lost_entries = lost.entries.len();
    done.without_unreadable = lost.without_state;
    done.fence_log_anew = anew;
    // INVARIANT: fences first. Whatever goes wrong behind them, nothing that was ended lives.
    if anew {
        let begun = fences.begin_anew(made.args.without_unreadable, now);
        begun.await.map_err(failed)?;
        fences.follow(Duration::ZERO).await.map_err(failed)?;
    }
    // Everything here is judged by what time it is.
    fences.in_time().map_err(failed)?;
    for fence in fences::again(&lost.fences, now) {
        if fences.last().has(&fence) {
            continue;
        }
        fences.raise(fence, clock.now()).await.map_err(failed)?;
        done.fences += 1;
    }
    done.keys_removed = made
        .without_compromised(&settings, lost, clock.now())
        .await?;
    let in_force = made.configuration(settings, &lost.fences, clock.now());
    let settings = in_force.await?;
    done.published = made.published();
    done.registered = made.registered(&lost.fences, clock.now()).await?;
    let leases = Leases::new(store.clone(), made.sealer.clone(), clock.clone());
    for remembered in Remembered::of(&lost.entries).into_values() {
        let Some(promises) = promises(&settings, &remembered.target) else {
            done.leases_by_hand.push(remembered.id.to_string());
            continue;
        };
        let is_past = promises.expires_by_itself && remembered.expires_at < now;
        // The broker's word is enough, and it has none for them any more.
        if promises.class == RevocationClass::Broker || is_past {
            continue;
        }
        let until_expiry = promises.class == RevocationClass::Expiry;
        if !until_expiry && !promises.named_by_lease {
            done.leases_by_hand.push(remembered.id.to_string());
            continue;
        }
        // INVARIANT: also what nobody can end: whatever may be alive is on record.
        let rebuilt = leases.rebuild(&remembered, &promises, clock.now()).await;
        match rebuilt.map_err(failed)? {
            None => done.leases_by_hand.push(remembered.id.to_string()),
            Some(rebuilt) if until_expiry => done.leases_until_expiry += usize::from(rebuilt),
            Some(rebuilt) => done.leases_to_end += usize::from(rebuilt),
        }
    }
    let missing = lost.missing.iter();
    let missing: Vec<_> = missing
        .map(|gap| format!("{}-{}", gap.start(), gap.end()))
        .collect();
    let said = Entry::new(Event::OperatorAction, now)
        .reason("recovered")
        .with("checkpoint", lost.checkpoint())
        .with("lost_entries", lost.entries.len())
        .with("unreadable", lost.unreadable)
        .with("missing_checkpoints", missing)
        .with("keys_removed", done.keys_removed.clone())
        .with("fence_log_anew", anew)
        .with("without_unreadable", lost.without_state);
    made.told(said).await?;
    // INVARIANT: last. Until then the store is behind, no broker starts on it, and all of this is done again.
    audit::resume(store.as_ref(), made.sealer, lost, now)
        .await
        .map_err(failed)
}

fn promises(settings: &Settings, target: &str) -> Option<Promises> {
    let mut known = settings.targets.iter();
    let (_, connector) = known.find(|(known, _)| known.id.as_str() == target)?;
    Some(connector.promises(settings.broker.fence_view_max_age))
}

fn told(done: &Recovered) -> String {
    let mut lines = Vec::new();
    if !done.recovered.is_empty() {
        lines.push(format!("{} shards begin anew", done.recovered.len()));
    }
    if let Some(checkpoint) = done.checkpoint {
        lines.push(format!(
            "{} entries that the store lost were found in the export, which goes on behind checkpoint {checkpoint}",
            done.lost_entries
        ));
        lines.push(format!(
            "{} holds, restrictions and ends were raised again; {} leases will be ended, {} live until they expire",
            done.fences, done.leases_to_end, done.leases_until_expiry
        ));
    }
    if done.fence_log_anew {
        lines.push("the fence log begins anew: what was decided behind its end is dead".to_owned());
    }
    if done.without_unreadable {
        lines.push("how far the audit was sealed is known from the exports alone".to_owned());
    }
    if done.configuration && done.published.is_none() {
        lines.push("the published configuration is given up".to_owned());
    }
    if let Some(number) = done.published {
        lines.push(format!(
            "configuration {number} is in force, as it was published"
        ));
    }
    if let Some(number) = done.registered {
        lines.push(format!("who is registered is as change {number} left it"));
    }
    for kid in &done.keys_removed {
        lines.push(format!("removed again, since it was compromised: {kid}"));
    }
    for lease in &done.leases_by_hand {
        lines.push(format!("end by hand: {lease}"));
    }
    if lines.is_empty() {
        return "nothing was lost: nothing was changed".to_owned();
    }
    lines.push("start the brokers again".to_owned());
    lines.join("\n")
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}
