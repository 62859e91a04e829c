//! SIGKILL of a broker at every step of an exchange, a revocation, a sweep and a sealing, for a
//! credential that is made here and for each downstream. Afterwards nothing works that is not on
//! record, what was acknowledged dead is dead, and the audit verifies; and when all is ended in the
//! end, nothing works at all, not even what the dead one had in its hands and told nobody.
//!
//! The steps come from [`dayfly::steps`]: one that is not in [`cases`] does not compile here, and
//! one that is never reached fails. `tests/architecture.rs` says that every write has one.

mod dead;
mod hands;
mod over;
mod run;
mod scenes;

use crate::support::process::{MORTAL_AHEAD, MORTAL_FOLDER};
use crate::support::time::InItsTime;
use dayfly::clock::{Clock, SystemClock};
use dayfly::steps::{self, Step};
use dayfly::store::Store;
use futures_util::StreamExt as _;
use over::Teller;
use run::{Kind, Over, Run, Site};
use rustix::process::{Signal, getpid, kill_process};
use scenes::Scene;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Brokers that live at the same time.
const ABREAST: usize = 4;

/// The machine's clocks, the first one set forward.
#[derive(Debug)]
struct Ahead(Duration, SystemClock);

impl Clock for Ahead {
    fn now(&self) -> OffsetDateTime {
        self.1.now() + self.0
    }

    fn since_boot(&self) -> Duration {
        self.1.since_boot()
    }
}

fn told(name: &str) -> Option<OsString> {
    std::env::vars_os().find_map(|(known, value)| (known == name).then_some(value))
}

/// Proves nothing by itself: the others start it in a process of its own.
#[test]
fn a_broker_for_the_others() {
    let Some(folder) = told(MORTAL_FOLDER) else {
        return;
    };
    let ahead = told(MORTAL_AHEAD).unwrap();
    let ahead = Duration::from_secs(ahead.to_str().unwrap().parse().unwrap());
    drop(rustls::crypto::ring::default_provider().install_default());
    assert!(steps::watch(die_if_told));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let clock = Arc::new(Ahead(ahead, SystemClock::new()));
    let time = clock.clone();
    let in_time = move |store| Arc::new(InItsTime::of(store, time.clone())) as Arc<dyn Store>;
    let folder = PathBuf::from(folder);
    let served = runtime.block_on(dayfly::cli::serve_by(clock, &in_time, folder));
    if let Err(failure) = served {
        eprintln!("{}", failure.message);
        std::process::exit(1);
    }
}

fn die_if_told(step: Step) {
    // It works in its own folder.
    if std::fs::read(Path::new("die-at")).is_ok_and(|named| named == step.name().as_bytes()) {
        hands::write_down();
        kill_process(getpid(), Signal::KILL).unwrap();
        loop {
            std::thread::park();
        }
    }
}

/// How each step is reached, and with which credentials: `docs/decisions/0026` says why not with each.
fn cases(step: Step) -> Vec<(Kind, Scene)> {
    use Kind::{ApiKey, Aws, Federated, Local, Postgres};
    let each = |kinds: &[Kind], scene: Scene| kinds.iter().map(|kind| (*kind, scene)).collect();
    let all = [Local, ApiKey, Aws, Postgres];
    let downstream = [Aws, Federated, Postgres];
    match step {
        Step::Decided => each(&[Local], Scene::Exchange),
        Step::Reserving => each(&all, Scene::Exchange),
        Step::Reserved => each(&[Local, ApiKey, Aws, Federated, Postgres], Scene::Exchange),
        Step::Answering => each(&all, Scene::Exchange),
        Step::ParentMarking | Step::ParentMarked => each(&[Local], Scene::HandOn),
        Step::Minting | Step::Minted | Step::Activating => each(&downstream, Scene::Exchange),
        Step::Activated => vec![
            (Aws, Scene::Exchange),
            (Federated, Scene::Exchange),
            (Postgres, Scene::Exchange),
            (Aws, Scene::FencedMeanwhile),
            (Postgres, Scene::FencedMeanwhile),
        ],
        Step::MintFailed | Step::Abandoned => vec![
            (Aws, Scene::LostAnswer),
            (Aws, Scene::RefusedMint),
            (Postgres, Scene::LostAnswer),
            (Postgres, Scene::RefusedMint),
        ],
        Step::RoleMaking | Step::RoleMade => each(&[Postgres], Scene::Exchange),
        Step::Raising => vec![
            (Local, Scene::Revoke),
            (Postgres, Scene::Revoke),
            (Local, Scene::Release),
            (Local, Scene::Remove),
        ],
        Step::Raised => vec![
            (Postgres, Scene::Revoke),
            (Aws, Scene::Revoke),
            (Local, Scene::Revoke),
            (ApiKey, Scene::Revoke),
            (Local, Scene::Release),
            (ApiKey, Scene::Release),
            (Local, Scene::Remove),
        ],
        Step::InForce => vec![
            (Aws, Scene::Revoke),
            (Postgres, Scene::Revoke),
            (Postgres, Scene::Release),
            (Local, Scene::Remove),
        ],
        Step::ReceiptWriting | Step::ReceiptWritten => each(&[Local, Postgres], Scene::Revoke),
        Step::ShardClaiming | Step::ShardClaimed | Step::ShardMatched | Step::ShardDone => {
            each(&[Local, Aws, Postgres], Scene::Revoke)
        }
        Step::BatchMarking | Step::BatchMarked => each(&[Local, Aws, Postgres], Scene::Revoke),
        Step::Marking | Step::Marked => each(&all, Scene::Release),
        Step::EndClaiming
        | Step::EndClaimed
        | Step::EndRecorded
        | Step::Ending
        | Step::Ended
        | Step::EndRecording => each(&[Aws, Postgres], Scene::Revoke),
        Step::LoginTaken | Step::PrivilegesTaken | Step::SessionsEnded | Step::RoleDropped => {
            each(&[Postgres], Scene::Revoke)
        }
        Step::GivingUp | Step::GivenUp => each(&[Aws, Postgres], Scene::GiveUp),
        Step::Expiring | Step::Expired => each(&all, Scene::Expire),
        Step::Lapsing | Step::Lapsed => each(&[Aws], Scene::Lapse),
        Step::Forgetting => each(&[Local, Aws, Postgres], Scene::Forget),
        Step::Forgotten => each(&[Local], Scene::Forget),
        Step::SealClaiming | Step::SealClaimed => each(&[Local], Scene::Start),
        Step::Exporting | Step::Exported | Step::Sealed => each(&[Local], Scene::Seal),
        Step::Trimming | Step::Trimmed => each(&[Local], Scene::ManyEntries),
        Step::TurningOver | Step::TurnedOver => each(&[Local], Scene::LargeEntries),
    }
}

/// Where what is written at a step, or just before, is looked for again by whoever comes after, with the kind
/// that has most to lose there; what is done at PostgreSQL alone is the same over both.
fn is_on_redis_too(step: Step, kind: Kind) -> bool {
    match kind {
        Kind::Local => matches!(
            step,
            Step::Reserving
                | Step::Reserved
                | Step::Raised
                | Step::BatchMarking
                | Step::BatchMarked
                | Step::Marked
                | Step::Exported
        ),
        Kind::ApiKey => matches!(step, Step::Answering | Step::Raised),
        Kind::Federated => false,
        Kind::Aws => matches!(
            step,
            Step::Reserved
                | Step::Answering
                | Step::Minting
                | Step::Minted
                | Step::Activating
                | Step::Activated
                | Step::MintFailed
                | Step::Abandoned
                | Step::InForce
                | Step::Ending
                | Step::Ended
                | Step::EndRecording
                | Step::GivingUp
                | Step::GivenUp
                | Step::Lapsing
                | Step::Lapsed
        ),
        Kind::Postgres => !matches!(
            step,
            Step::RoleMaking
                | Step::RoleMade
                | Step::LoginTaken
                | Step::PrivilegesTaken
                | Step::SessionsEnded
                | Step::RoleDropped
                | Step::Reserving
                | Step::Raising
                | Step::Forgetting
        ),
    }
}

/// Where whoever says that something is over passes, and what of it ends.
fn cases_of_ends(step: Step) -> Vec<(Kind, Scene)> {
    use Kind::{Local, Postgres};
    let by = |kinds: &[Kind], tellers: &[Teller]| {
        let pairs = kinds.iter().flat_map(|kind| {
            let scenes = tellers.iter().map(|teller| Scene::Over(*teller));
            scenes.map(|scene| (*kind, scene))
        });
        pairs.collect()
    };
    let each = [Teller::Run, Teller::Leaver, Teller::Rule];
    match step {
        Step::Raising | Step::Raised | Step::InForce => {
            let all = [Teller::Run, Teller::Job, Teller::Leaver, Teller::Rule];
            by(&[Local, Postgres], &all)
        }
        Step::ReceiptWriting | Step::ReceiptWritten => by(&[Local, Postgres], &each),
        Step::ShardClaiming
        | Step::ShardClaimed
        | Step::BatchMarking
        | Step::BatchMarked
        | Step::ShardMatched
        | Step::ShardDone
        | Step::EndClaiming
        | Step::EndClaimed
        | Step::Ending
        | Step::Ended
        | Step::EndRecording
        | Step::EndRecorded => by(&[Postgres], &each),
        Step::LoginTaken | Step::PrivilegesTaken | Step::SessionsEnded | Step::RoleDropped => {
            by(&[Postgres], &[Teller::Job])
        }
        // Nobody who says that something is over passes there.
        Step::Decided
        | Step::ParentMarking
        | Step::ParentMarked
        | Step::Reserving
        | Step::Reserved
        | Step::Minting
        | Step::Minted
        | Step::MintFailed
        | Step::Abandoned
        | Step::Activating
        | Step::Activated
        | Step::Answering
        | Step::Marking
        | Step::Marked
        | Step::GivingUp
        | Step::GivenUp
        | Step::Expiring
        | Step::Expired
        | Step::Lapsing
        | Step::Lapsed
        | Step::Forgetting
        | Step::Forgotten
        | Step::RoleMaking
        | Step::RoleMade
        | Step::SealClaiming
        | Step::SealClaimed
        | Step::Exporting
        | Step::Exported
        | Step::Sealed
        | Step::Trimming
        | Step::Trimmed
        | Step::TurningOver
        | Step::TurnedOver => Vec::new(),
    }
}

/// Of those, where it is half done in the store that two share.
fn cases_of_two(step: Step) -> Vec<(Kind, Scene)> {
    use Kind::{Local, Postgres};
    let one = |kind, teller| vec![(kind, Scene::Over(teller))];
    match step {
        Step::Raising => one(Local, Teller::Run),
        Step::Raised => vec![
            (Postgres, Scene::Over(Teller::Run)),
            (Local, Scene::Over(Teller::Leaver)),
            (Local, Scene::Over(Teller::Rule)),
        ],
        Step::InForce => one(Postgres, Teller::Rule),
        Step::ReceiptWritten => one(Postgres, Teller::Leaver),
        Step::ShardClaimed => one(Postgres, Teller::Job),
        Step::BatchMarked => one(Postgres, Teller::Leaver),
        Step::ShardMatched | Step::EndClaimed => one(Postgres, Teller::Run),
        Step::Ended => one(Postgres, Teller::Rule),
        _ => Vec::new(),
    }
}

/// One part of them, while something is looked into: `DAYFLY_TEST_STEP=sweep-`.
fn wanted() -> impl Iterator<Item = Step> {
    let part = told("DAYFLY_TEST_STEP").map(|part| part.to_string_lossy().into_owned());
    let part = part.unwrap_or_default();
    let all = Step::ALL.iter().copied();
    all.filter(move |step| step.name().contains(&part))
}

type Case = (Step, Kind, Over, Scene);

async fn all_hold(site: Arc<Site>, cases: impl Iterator<Item = Case>, abreast: usize) {
    let runs = cases
        .enumerate()
        .map(|(number, (step, kind, over, scene))| {
            let run = Run::new(site.clone(), number, step, (kind, over));
            async move {
                // On its own, so that one that fails does not take the others along.
                let ended = tokio::spawn(scenes::play(run, scene)).await;
                ended.err().map(|error| {
                    let said = error.into_panic();
                    let said = said.downcast_ref::<String>().cloned().unwrap_or_default();
                    format!("{} {kind:?} {over:?} {scene:?}: {said}", step.name())
                })
            }
        });
    let failed: Vec<_> = futures_util::stream::iter(runs)
        .buffer_unordered(abreast)
        .filter_map(async |failed| failed)
        .collect()
        .await;
    assert!(
        failed.is_empty(),
        "{} failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_orphaned_and_no_revocation_lost_at_whatever_step_a_broker_dies() {
    let Some(site) = Site::start().await else {
        return;
    };
    let cases = wanted().flat_map(|step| {
        cases(step).into_iter().flat_map(move |(kind, scene)| {
            let redis = is_on_redis_too(step, kind).then_some(Over::Redis);
            let over = [Some(Over::File), redis].into_iter().flatten();
            over.map(move |over| (step, kind, over, scene))
        })
    });
    all_hold(site, cases, ABREAST).await;
}

/// A message of a pipeline's platform, one about somebody who has left, and a rule that reads the audit.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_be_over_is_ended_once_at_whatever_step_a_broker_dies() {
    let Some(site) = Site::without_aws().await else {
        return;
    };
    let cases = wanted().flat_map(|step| {
        let cases = cases_of_ends(step).into_iter();
        cases.map(move |(kind, scene)| (step, kind, Over::File, scene))
    });
    all_hold(site, cases, ABREAST).await;
}

/// Nobody starts the dead one again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_that_died_had_begun_to_end_another_one_ends() {
    let Some(site) = Site::without_aws().await else {
        return;
    };
    let cases = wanted().flat_map(|step| {
        let cases = cases_of_two(step).into_iter();
        cases.map(move |(kind, scene)| (step, kind, Over::Two, scene))
    });
    all_hold(site, cases, ABREAST).await;
}
