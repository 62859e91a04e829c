use super::*;
use crate::ids::tests::is_spread;
use crate::jose::Reach;
use crate::secret::Secret;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};

const ISSUER: &str = "https://ci.example";

/// Seconds, of both clocks.
#[derive(Debug, Default)]
struct Seconds(AtomicU64);

impl Seconds {
    fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for Seconds {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + self.since_boot()
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(1_000_000 + self.0.load(Ordering::SeqCst))
    }
}

fn asking(url: &str) -> Asking {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Asking {
        url: Template::parse(url).unwrap(),
        tether: "pipeline".to_owned(),
        pointer: "/status".to_owned(),
        ended_when: vec!["completed".to_owned()],
        every: Duration::from_secs(10),
        client: KeyClient::new(Reach::default(), &[]).unwrap(),
    }
}

const URL: &str = "https://api.example/runs/{pipeline.run_id}";

fn source(url: &str) -> SourceSettings {
    SourceSettings {
        name: "ci".to_owned(),
        kind: SourceKind::Github,
        secret: Secret::new("secret".to_owned()),
        issuer_url: ISSUER.to_owned(),
        may_end: vec!["1234".to_owned()],
        asking: Some(asking(url)),
    }
}

fn facts(run: u64) -> Facts {
    let facts = json!({ "pipeline.run_id": run, "pipeline.repository_id": "1234" });
    facts.as_object().unwrap().clone().into_iter().collect()
}

struct World {
    clock: Arc<Seconds>,
    watched: Watched,
    sources: Vec<SourceSettings>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(Seconds::default());
        let watched = Watched::new(clock.clone());
        watched.ours(Duration::MAX);
        let sources = vec![source(URL)];
        Self {
            clock,
            watched,
            sources,
        }
    }

    fn hangs(run: u64) -> [Dimension; 1] {
        [Dimension::context(
            ISSUER,
            "pipeline",
            &format!("1234:{run}"),
        )]
    }

    fn issue(&self, run: u64, seconds: i64) {
        let until = self.clock.now() + time::Duration::seconds(seconds);
        self.watched
            .found(&self.sources, &facts(run), (&Self::hangs(run), until, true));
    }

    fn due(&self) -> Vec<(Place, String)> {
        self.watched.due(&self.sources)
    }

    fn say(&self, place: &Place, said: Result<Said, Unanswered>) {
        let asking = self.sources[0].asking.as_ref().unwrap();
        self.watched.answered(place, asking, &said);
    }

    fn known(&self) -> usize {
        self.watched.state().all.len()
    }
}

fn silence(wait: u64) -> Result<Said, Unanswered> {
    Err(Unanswered {
        why: "a test says so".to_owned(),
        wait: Duration::from_secs(wait),
    })
}

#[test]
fn a_context_is_asked_about_again_and_again_until_its_leases_have_expired() {
    let world = World::new();
    world.issue(7, 100);
    world.issue(7, 50);
    assert!(world.due().is_empty(), "not at once");
    world.clock.pass(13);
    let due = world.due();
    let place = ("ci".to_owned(), "pipeline".to_owned(), "1234:7".to_owned());
    assert_eq!(
        due,
        [(place.clone(), "https://api.example/runs/7".to_owned())]
    );
    assert!(world.due().is_empty(), "one question at a time");
    for said in [Said::GoesOn, Said::Nothing] {
        world.say(&place, Ok(said));
        assert!(world.due().is_empty(), "not at once");
        world.clock.pass(13);
        assert_eq!(world.due().len(), 1);
    }
    world.say(&place, Ok(Said::GoesOn));
    world.clock.pass(100);
    assert!(world.due().is_empty());
    assert_eq!(world.known(), 0, "nothing lives that it would end");
    world.issue(7, 100);
    world.clock.pass(13);
    world.say(&world.due()[0].0.clone(), Ok(Said::Over));
    assert_eq!(world.known(), 0, "it is over");
}

#[test]
fn only_what_a_lease_hangs_on_and_its_source_may_end_is_asked_about() {
    let mut world = World::new();
    let until = world.clock.now() + time::Duration::HOUR;
    let issued = |world: &World, facts: &Facts, dimensions: &[Dimension]| {
        world
            .watched
            .found(&world.sources, facts, (dimensions, until, true));
        world.known()
    };
    let of = |issuer: &str| [Dimension::context(issuer, "pipeline", "1234:7")];
    assert_eq!(issued(&world, &facts(7), &[]), 0, "it hangs on nothing");
    assert_eq!(
        issued(&world, &facts(7), &of("https://other.example")),
        0,
        "another prover's"
    );
    let mut missing = facts(7);
    missing.remove("pipeline.run_id");
    assert_eq!(issued(&world, &missing, &of(ISSUER)), 0, "no run");
    world.sources[0].may_end = vec!["4321".to_owned()];
    assert_eq!(
        issued(&world, &facts(7), &of(ISSUER)),
        0,
        "no business of its"
    );
    world.sources[0] = source("https://api.example/{pipeline.branch}/{pipeline.run_id}");
    assert_eq!(
        issued(&world, &facts(7), &of(ISSUER)),
        0,
        "no branch is proved"
    );
    world.sources[0] = source(URL);
    assert_eq!(issued(&world, &facts(7), &of(ISSUER)), 1);
}

#[test]
fn a_source_that_gives_no_answer_is_asked_one_question_and_ever_more_seldom() {
    let world = World::new();
    for run in 0..5 {
        world.issue(run, 100_000);
    }
    world.clock.pass(13);
    let due = world.due();
    assert_eq!(due.len(), 5, "while it answers, about all of them");
    for (place, _) in &due {
        world.say(place, silence(0));
    }
    // Five at once are one silence: 10 s doubled, a fifth more or less.
    world.clock.pass(15);
    assert!(world.due().is_empty());
    world.clock.pass(10);
    let probe = world.due();
    assert_eq!(probe.len(), 1, "one question finds out");
    world.say(&probe[0].0, silence(0));
    world.clock.pass(31);
    assert!(world.due().is_empty(), "doubled again");
    world.clock.pass(18);
    let probe = world.due();
    assert_eq!(probe.len(), 1, "one question finds out");
    assert!(world.due().is_empty());
    world.say(&probe[0].0, silence(900));
    world.clock.pass(899);
    assert!(world.due().is_empty(), "as long as it says");
    world.clock.pass(2);
    let probe = world.due();
    assert_eq!(probe.len(), 1);
    world.say(&probe[0].0, Ok(Said::GoesOn));
    assert_eq!(world.due().len(), 4, "the others are overdue");
}

#[test]
fn what_is_asked_at_once_and_remembered_is_bounded() {
    let world = World::new();
    for run in 0..MOST as u64 + 5 {
        world.issue(run, 100);
    }
    assert_eq!(world.known(), MOST);
    world.clock.pass(13);
    assert_eq!(world.due().len(), MOST_ASKED);
    assert!(world.due().is_empty());
}

#[test]
fn what_was_too_much_is_looked_for_again_once_there_is_room() {
    let world = World::new();
    for run in 0..MOST as u64 {
        world.issue(run, 100_000);
    }
    assert!(!world.watched.has_room_again(), "it was never too much");
    world.issue(MOST as u64, 100_000);
    world.clock.pass(13);
    while world.known() > MOST - MOST / 10 {
        assert!(!world.watched.has_room_again());
        for (place, _) in world.due() {
            world.say(&place, Ok(Said::Over));
        }
    }
    assert!(world.watched.has_room_again());
    assert!(!world.watched.has_room_again(), "once");
}

#[test]
fn whose_claim_has_lapsed_asks_nothing_and_who_gave_it_up_remembers_nothing() {
    let world = World::new();
    world.issue(7, 100_000);
    let boot = world.clock.since_boot();
    world.watched.ours(boot + Duration::from_secs(13));
    world.clock.pass(13);
    assert!(world.due().is_empty());
    world.watched.ours(boot + Duration::from_secs(14));
    let due = world.due();
    assert_eq!(due.len(), 1);
    world.watched.leave();
    assert_eq!(world.known(), 0);
    world.say(&due[0].0, Ok(Said::GoesOn));
    world.watched.ours(Duration::MAX);
    assert_eq!(world.known(), 0, "an answer brings nothing back");
    world.issue(8, 100_000);
    world.clock.pass(13);
    assert_eq!(world.due().len(), 1);
}

#[test]
fn what_was_issued_before_anybody_looked_is_asked_about_within_its_time() {
    let world = World::new();
    let until = world.clock.now() + time::Duration::HOUR;
    for run in 0..10 {
        let told = (&World::hangs(run)[..], until, false);
        world.watched.found(&world.sources, &facts(run), told);
    }
    world.clock.pass(10);
    assert_eq!(world.due().len(), 10, "as every one of ten seconds is");
}

#[test]
fn what_is_kept_with_a_lease_is_all_that_it_is_asked_about_by() {
    let mut world = World::new();
    let until = world.clock.now() + time::Duration::HOUR;
    let mut proved = facts(7);
    for (name, value) in [
        ("pipeline.run_attempt", json!(2)),
        ("pipeline.job_id", json!("33")),
        ("pipeline.repository", json!("acme/checkout")),
        ("pipeline.actor", json!("octavia")),
        ("workload.pod", json!("a-pod")),
    ] {
        proved.insert(name.to_owned(), value);
    }
    let job = |mut source: SourceSettings| {
        let asking = source.asking.as_mut().unwrap();
        asking.tether = "pipeline.job_id".to_owned();
        source
    };
    for (source, kind, id) in [
        (source(URL), "pipeline", "1234:7/2"),
        (
            source("https://api.example/{+pipeline.repository}/{pipeline.run_id}"),
            "pipeline",
            "1234:7/2",
        ),
        (
            job(source("https://api.example/{pipeline.job_id}")),
            "pipeline.job_id",
            "1234:33",
        ),
    ] {
        world.watched.leave();
        world.sources = vec![source];
        let hangs = [Dimension::context(ISSUER, kind, id)];
        let kept = asked_by(&world.sources, &proved, &hangs);
        for name in ["pipeline.actor", "workload.pod"] {
            assert!(!kept.contains_key(name), "{name}: {kept:?}");
        }
        let url = |facts: &Facts| {
            let asking = world.sources[0].asking.as_ref().unwrap();
            asking.url.expand(facts)
        };
        assert_eq!(url(&kept), url(&proved));
        world
            .watched
            .found(&world.sources, &kept, (&hangs, until, true));
        let known = world.watched.state();
        let known: Vec<_> = known.all.keys().cloned().collect();
        assert_eq!(known, [("ci".to_owned(), kind.to_owned(), id.to_owned())]);
        let other = [Dimension::context(ISSUER, kind, "1234:8")];
        assert!(asked_by(&world.sources, &proved, &other).is_empty());
    }
}

#[test]
fn after_a_reload_it_is_asked_as_the_new_configuration_says() {
    let mut world = World::new();
    world.issue(7, 1000);
    world.sources[0] = source("https://new.example/{pipeline.run_id}");
    world.clock.pass(13);
    let due = world.due();
    assert_eq!(
        due[0].1, "https://new.example/7",
        "never the old host with the new token"
    );
    world.say(&due[0].0, Ok(Said::GoesOn));
    world.sources[0] = source("https://new.example/{pipeline.repository}/{pipeline.run_id}");
    world.clock.pass(13);
    assert!(world.due().is_empty(), "by facts that were not kept");
    world.due();
    assert_eq!(world.known(), 0);
    world.issue(8, 1000);
    world.sources[0] = source(URL);
    world.issue(8, 1000);
    world.sources[0].asking = None;
    assert!(world.due().is_empty());
    assert_eq!(world.known(), 0, "it is asked no more");
}

#[test]
fn questions_are_spread_by_a_fifth() {
    let seconds = Duration::from_secs;
    is_spread(seconds(80), seconds(120), || around(seconds(100)));
}

#[test]
fn who_refuses_says_when_to_come_again_and_no_longer_than_an_hour() {
    let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000);
    for (status, after, at, wait) in [
        (403, Some(7), Some(2_000), 7),
        (403, None, Some(1_090), 90),
        (429, None, Some(900), 60),
        (403, None, None, 60),
        (401, None, None, 0),
        (502, Some(5), None, 5),
        (429, Some(1_000_000), None, 3_600),
    ] {
        let refused = Refused { status, after, at };
        let unanswered = Unanswered::refused(refused, now);
        assert_eq!(unanswered.wait, Duration::from_secs(wait), "{refused:?}");
    }
}
