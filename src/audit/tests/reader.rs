//! A reader over a failover that lost what it had read: other entries have those numbers then.

use super::loss::append;
use super::{Place, now, seal, shard};
use crate::audit::{Cursor, Entry, Event, log};
use crate::ids::ShardId;
use crate::store::embedded::Embedded;
use crate::store::{Position, Store, Tail, Transaction, Write};
use std::time::Duration;
use time::OffsetDateTime;

const NUMBER: usize = 3;

fn bytes(agent: &str, at: OffsetDateTime) -> Vec<u8> {
    let entry = Entry::new(Event::Refused, at).agent(agent);
    let Write::Append { value, .. } = entry.append(shard(NUMBER)) else {
        panic!("an entry is appended");
    };
    value
}

/// More than one page of what nobody asks for any more, and then what is given.
async fn store_of(old: &[Vec<u8>], young: &[&Vec<u8>]) -> Embedded {
    let store = Embedded::in_memory().unwrap();
    for value in old.iter().chain(young.iter().copied()) {
        append(&store, shard(NUMBER).number(), value.clone()).await;
    }
    store
}

async fn agents(store: &dyn Store, cursor: &mut Cursor) -> Vec<String> {
    let mut agents = Vec::new();
    loop {
        let read = cursor.read_on(store).await.unwrap();
        assert_eq!(read.missed, 0);
        agents.extend(read.entries.into_iter().filter_map(|entry| entry.agent));
        *cursor = read.cursor;
        if !read.more {
            return agents;
        }
    }
}

async fn keep(store: &dyn Store, cursor: &Cursor, at: OffsetDateTime) {
    let deadline = now() + Duration::from_secs(10);
    let write = cursor.clone().write(at).unwrap();
    let stored = Transaction::new(ShardId::INSTALLATION, deadline).write(write);
    store.commit(stored).await.unwrap();
}

async fn is_trimmed_once_it_is_sealed(place: &Place) -> bool {
    assert_eq!(seal(&place.store, &place.path("audit.jsonl")).await, None);
    let log = log(shard(NUMBER));
    let tail = place.store.tail(&log, Position::ORIGIN, 1, Duration::ZERO);
    matches!(tail.await.unwrap(), Tail::Trimmed { .. })
}

#[tokio::test]
async fn what_was_not_read_is_not_trimmed_unless_its_reader_was_silent_for_an_hour() {
    let hour = Duration::from_secs(3600);
    for (silent, is_waited_for) in [
        (Duration::ZERO, true),
        (hour - Duration::from_secs(60), true),
        (hour + Duration::from_secs(1), false),
    ] {
        let place = Place::new();
        let store = place.store.as_ref();
        let mut cursor = Cursor::load(store).await.unwrap();
        keep(store, &cursor, now() - silent).await;
        let mut transaction = Transaction::new(shard(NUMBER), now() + Duration::from_secs(10));
        for number in 0..600 {
            let entry = Entry::new(Event::Issued, now()).agent(format!("agent-{number}"));
            transaction = transaction.write(entry.append(shard(NUMBER)));
        }
        store.commit(transaction).await.unwrap();
        let is_trimmed = is_trimmed_once_it_is_sealed(&place).await;
        assert_eq!(is_trimmed, !is_waited_for, "{silent:?}");
        if is_waited_for {
            assert_eq!(agents(store, &mut cursor).await.len(), 600);
            keep(store, &cursor, now()).await;
            assert!(is_trimmed_once_it_is_sealed(&place).await, "it was read");
        }
    }
}

#[tokio::test]
async fn what_comes_in_place_of_what_a_failover_lost_is_read_all_the_same() {
    let old: Vec<_> = (0..450)
        .map(|number| bytes(&format!("old-{number}"), now() - Duration::from_secs(600)))
        .collect();
    let of = |agent: &str| bytes(agent, now());
    let [kept, lost, also_lost] = ["kept", "lost", "also-lost"].map(of);
    let [other, another, third] = ["other", "another", "third"].map(of);
    let before = store_of(&old, &[&kept, &lost, &also_lost]).await;
    let mut cursor = Cursor::load(&before).await.unwrap();
    assert!(agents(&before, &mut cursor).await.is_empty(), "at the end");
    keep(&before, &cursor, now()).await;
    let cursor = Cursor::load(&before).await.unwrap();
    for (in_place, told) in [
        // As many, more, and fewer than were lost. What may have been read is read once more.
        (vec![&other, &another], vec!["kept", "other", "another"]),
        (
            vec![&other, &another, &third],
            vec!["kept", "other", "another", "third"],
        ),
        (vec![&other], vec!["kept", "other"]),
        (vec![], vec!["kept"]),
    ] {
        let young: Vec<_> = std::iter::once(&kept).chain(in_place).collect();
        let after = store_of(&old, &young).await;
        let mut cursor = cursor.clone();
        assert_eq!(agents(&after, &mut cursor).await, told);
        // And it goes on behind that.
        append(&after, shard(NUMBER).number(), of("next")).await;
        assert_eq!(agents(&after, &mut cursor).await, ["next"]);
    }
}
