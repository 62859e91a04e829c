use super::*;
use crate::clock::{Clock, SystemClock};
use crate::store::embedded::Embedded;

fn stranger(number: usize, now: OffsetDateTime) -> SightingView {
    SightingView {
        id: format!("{number:016x}"),
        issuer: "ci".parse().unwrap(),
        issuer_url: "https://ci.example".to_owned(),
        subject: format!("repo:acme/{number}"),
        claims: Map::new(),
        asked: Vec::new(),
        first_seen: now,
        last_seen: now,
        count: 1,
    }
}

async fn known(store: &dyn Store, number: usize) -> Option<u64> {
    let found = store.get(&[key(&format!("{number:016x}"))]).await.unwrap();
    let record = found.into_iter().next().flatten()?;
    Some(read(&record.value).unwrap().count)
}

#[tokio::test]
async fn as_many_strangers_as_are_remembered_and_no_more() {
    let store = Embedded::in_memory().unwrap();
    let now = SystemClock::new().now();
    let most = usize::try_from(MOST).unwrap();
    let all: Vec<_> = (0..most - 1).collect();
    // Those that are there already, by their places alone.
    for some in all.chunks(256) {
        let mut transaction =
            Transaction::new(ShardId::INSTALLATION, now + Duration::seconds(30)).local();
        for number in some {
            transaction = transaction.write(Write::Rank {
                index: index(),
                member: format!("{number:016x}").into_bytes(),
                rank: rank(now),
            });
        }
        settle(&store, transaction).await.unwrap();
    }
    write(&store, stranger(most, now), now).await.unwrap();
    assert_eq!(known(&store, most).await, Some(1), "the last that has room");
    write(&store, stranger(most + 1, now), now).await.unwrap();
    assert_eq!(known(&store, most + 1).await, None, "nobody is pushed out");
    write(&store, stranger(most, now), now).await.unwrap();
    assert_eq!(
        known(&store, most).await,
        Some(2),
        "who is known is counted on"
    );
    let later = now + KEPT + Duration::SECOND;
    write(&store, stranger(most + 1, later), later)
        .await
        .unwrap();
    assert_eq!(
        known(&store, most + 1).await,
        Some(1),
        "the old ones have gone"
    );
}

#[test]
fn one_stranger_is_written_down_once_a_minute_and_all_of_them_sixty_times() {
    let store = Arc::new(Embedded::in_memory().unwrap());
    let sightings = Sightings::new(store);
    let now = SystemClock::new().now();
    assert!(sightings.is_wanted("a", now));
    assert!(!sightings.is_wanted("a", now + Duration::seconds(59)));
    assert!(sightings.is_wanted("a", now + Duration::seconds(60)));
    let wanted = (0..200).filter(|number| sightings.is_wanted(&number.to_string(), now));
    assert!(wanted.count() <= 60);
}
