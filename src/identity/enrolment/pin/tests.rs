use super::*;
use crate::clock::{Clock as _, SystemClock};
use crate::fences::Fences;
use crate::identity::tests::{BROKER, NOW};
use crate::identity::tokens;
use crate::secret::{Sealer, Secret};
use crate::store::embedded::Embedded;
use crate::store::{Record, Store as _};
use serde_json::json;
use std::sync::Arc;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

struct Desk {
    store: Arc<Embedded>,
    enrolment: Enrolment,
    now: OffsetDateTime,
}

fn agent() -> AgentId {
    "pod".parse().unwrap()
}

impl Desk {
    fn new() -> Self {
        let clock = Arc::new(SystemClock::new());
        let store = Arc::new(Embedded::in_memory().unwrap());
        let sealer = Sealer::new(&[Secret::new(vec![7; 32])]).unwrap();
        let bound = Duration::from_secs(60);
        let fences = Fences::start(store.clone(), sealer.clone(), clock.clone(), bound);
        Self {
            enrolment: Enrolment::new(store.clone(), sealer, fences),
            store,
            // Records keep seconds.
            now: clock.now().replace_nanosecond(0).unwrap(),
        }
    }

    /// Whoever shows this pod's token, which lives for an hour, after this time.
    fn caller(&self, pod: &str, after: Duration) -> Caller {
        let mut claims = tokens::kubernetes(NOW, "https://k8s.example", BROKER);
        claims["kubernetes.io"]["pod"]["uid"] = json!(pod);
        let claims = claims.as_object().unwrap();
        let pin = PinSettings {
            claim: "kubernetes.io.pod.uid".to_owned(),
            kept: MONTH,
        };
        let now = self.now + after;
        let mut caller = Caller::stated_with_token([0; 32], now);
        caller.issuer_url = "https://k8s.example".to_owned();
        caller.instance = Instance::of(claims, &pin);
        caller.expires_at = now + Duration::from_secs(3600);
        caller
    }

    async fn pin(&self, pod: &str, key: &str, after: Duration) -> Result<(), EnrolError> {
        let (caller, now) = (self.caller(pod, after), self.now + after);
        self.enrolment.pin(&agent(), &caller, key, now).await
    }

    fn place(&self, agent: &AgentId, pod: &str) -> Key {
        let caller = self.caller(pod, Duration::ZERO);
        place(agent, &caller, caller.instance().unwrap())
    }

    async fn stored(&self, pod: &str) -> Option<Record> {
        let place = self.place(&agent(), pod);
        self.store.get(&[place]).await.unwrap().remove(0)
    }

    async fn pinned(&self, pod: &str) -> Pinned {
        let stored = self.stored(pod).await.unwrap();
        let (_, pinned): (Vec<u8>, Pinned) =
            read(&self.enrolment.sealer, PINNED, &stored.value).unwrap();
        pinned
    }

    async fn put(&self, key: Key, value: Vec<u8>) {
        let transaction = Transaction::new(key.shard, self.now + DEADLINE).write(Write::Put {
            key,
            value,
            expires_at: None,
        });
        let outcome = self.store.commit(transaction).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied { .. }));
    }
}

#[tokio::test]
async fn a_pin_lasts_a_month_after_it_was_last_seen_and_is_seldom_written() {
    let desk = Desk::new();
    desk.pin("one", "first", Duration::ZERO).await.unwrap();
    let written = desk.stored("one").await.unwrap().version;
    assert_eq!(desk.pinned("one").await.until, desk.now + MONTH);
    desk.pin("one", "first", 7 * DAY).await.unwrap();
    assert_eq!(desk.stored("one").await.unwrap().version, written);
    desk.pin("one", "first", 8 * DAY).await.unwrap();
    let pinned = desk.pinned("one").await;
    assert_eq!(pinned.until, desk.now + 8 * DAY + MONTH);
    assert_eq!(pinned.since, desk.now);
    // Another key neither takes it over nor keeps it alive.
    for after in [Duration::ZERO, 20 * DAY, 8 * DAY + MONTH] {
        match desk.pin("one", "second", after).await {
            Err(EnrolError::OtherKey {
                agent: whose,
                instance,
                first,
                second,
            }) => {
                assert_eq!(whose, agent());
                assert_eq!(instance, "kubernetes.io.pod.uid one");
                assert_eq!((first.as_str(), second.as_str()), ("first", "second"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(desk.pinned("one").await, pinned);
}

#[tokio::test]
async fn a_pin_outlives_the_token_that_it_was_made_with() {
    let desk = Desk::new();
    let mut caller = desk.caller("one", Duration::ZERO);
    caller.instance.as_mut().unwrap().kept = Duration::from_secs(3600);
    caller.expires_at = desk.now + DAY;
    let agent = agent();
    let pinned = desk.enrolment.pin(&agent, &caller, "first", desk.now);
    pinned.await.unwrap();
    let until = desk.pinned("one").await.until;
    assert_eq!(until, desk.now + DAY + LEEWAY + MARGIN);
}

#[tokio::test]
async fn what_somebody_put_into_the_store_is_believed_by_nobody() {
    let desk = Desk::new();
    desk.pin("one", "first", Duration::ZERO).await.unwrap();
    let good = desk.stored("one").await.unwrap().value;
    // A record of another pod or agent, put where the next one's would be.
    desk.put(desk.place(&agent(), "two"), good.clone()).await;
    let moved = desk.pin("two", "first", Duration::ZERO).await;
    assert!(matches!(moved, Err(EnrolError::Forged(_))), "{moved:?}");
    let other: AgentId = "neighbour".parse().unwrap();
    desk.put(desk.place(&other, "one"), good.clone()).await;
    let caller = desk.caller("one", Duration::ZERO);
    let moved = desk.enrolment.pin(&other, &caller, "first", desk.now).await;
    assert!(matches!(moved, Err(EnrolError::Forged(_))), "{moved:?}");
    for place in 0..good.len() {
        let mut spoiled = good.clone();
        spoiled[place] ^= 1;
        desk.put(desk.place(&agent(), "one"), spoiled).await;
        let found = desk.pin("one", "first", Duration::ZERO).await;
        assert!(matches!(found, Err(EnrolError::Forged(_))), "byte {place}");
    }
    desk.put(desk.place(&agent(), "one"), good).await;
    desk.pin("one", "first", Duration::ZERO).await.unwrap();
}

#[test]
fn two_instances_never_have_one_place() {
    let desk_of = |issuer: &str, claim: &str, value: &str| {
        let mut caller = Caller::stated_with_token([0; 32], OffsetDateTime::UNIX_EPOCH);
        caller.issuer_url = issuer.to_owned();
        let instance = Instance {
            claim: claim.to_owned(),
            value: value.to_owned(),
            kept: DAY,
        };
        place(&agent(), &caller, &instance)
    };
    let one = desk_of("a", "b", "c");
    assert_eq!(one, desk_of("a", "b", "c"));
    for other in [
        desk_of("ab", "", "c"),
        desk_of("a", "bc", ""),
        desk_of("a", "b", "d"),
        desk_of("d", "b", "c"),
        desk_of("a", "d", "c"),
    ] {
        assert_ne!(one, other);
    }
}
