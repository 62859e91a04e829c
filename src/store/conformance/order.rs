//! What is in an order: indexes and logs.

use super::{
    Broken, Checked, append, applied, begin, ensure, entries, index, members, now, rank, same,
    shard, tail,
};
use crate::ids::ShardId;
use crate::store::{Log, Position, Store, StoreError, Tail, Write, link};
use std::time::Duration;

pub(super) async fn an_index_is_ordered_by_rank(store: &dyn Store) -> Checked {
    let shard = shard(7);
    let index = index(shard);
    let large = 1_800_000_000_000_123;
    let transaction = begin(shard)
        .write(rank(&index, b"late", large))
        .write(rank(&index, b"early", -5))
        .write(rank(&index, b"middle", 7));
    applied(store, transaction, "members are ranked").await?;
    let expected = vec![
        (b"early".to_vec(), -5),
        (b"middle".to_vec(), 7),
        (b"late".to_vec(), large),
    ];
    same(
        &members(store, &index).await?,
        &expected,
        "lowest rank first",
    )?;
    for (ranks, limit, expected) in [
        (-5..=7, 10, 2),
        (-4..=7, 10, 1),
        (-5..=large, 1, 1),
        (8..=9, 5, 0),
    ] {
        let found = store
            .range(&index, ranks.clone(), limit)
            .await
            .map_err(|error| Broken::Failed("a range is read", error))?;
        same(
            &found.len(),
            &expected,
            &format!("members ranked {ranks:?}"),
        )?;
    }
    let transaction = begin(shard)
        .write(rank(&index, b"early", 8))
        .write(Write::Unrank {
            index: index.clone(),
            member: b"late".to_vec(),
        })
        .write(Write::Unrank {
            index: index.clone(),
            member: b"nobody".to_vec(),
        });
    applied(store, transaction, "members move and leave").await?;
    let expected = vec![(b"middle".to_vec(), 7), (b"early".to_vec(), 8)];
    same(
        &members(store, &index).await?,
        &expected,
        "a member has one rank",
    )?;
    let transaction = begin(shard).write(rank(&index, b"x", i64::MAX));
    let refused = store.commit(transaction).await;
    ensure(
        matches!(refused, Err(StoreError::Misuse(_))),
        "a rank that could not be kept exactly is refused",
    )
}

pub(super) async fn a_log_is_linked_and_followed(store: &dyn Store) -> Checked {
    let shard = shard(8);
    let log = Log {
        shard,
        name: "conformance log",
    };
    let mut places = vec![Position::ORIGIN];
    for number in 0..10_u8 {
        let transaction = begin(shard).write(append(&log, &[number]));
        places.extend(applied(store, transaction, "an entry is appended").await?);
    }
    let by_hand = (0..10_u8).fold(Position::ORIGIN.link, |link_, number| {
        link(&link_, &[number])
    });
    let last = places.last().copied().unwrap_or(Position::ORIGIN);
    same(&last.link, &by_hand, "the link of ten entries")?;
    for (number, place) in places.iter().enumerate() {
        let (entries, head) = entries(store, &log, *place).await?;
        same(&entries.len(), &(10 - number), "the entries after a place")?;
        same(&head, &last, "the head of the log")?;
    }
    let Tail::Entries {
        entries,
        head,
        store_now,
    } = tail(store, &log, Position::ORIGIN, 3).await?
    else {
        return ensure(false, "a limited tail has entries");
    };
    same(&entries.len(), &3, "a tail keeps to its limit")?;
    same(&head, &last, "a limited tail still names the head")?;
    let skew = (store_now - now()).abs();
    ensure(
        skew < Duration::from_secs(10),
        "a tail says what time it is",
    )
}

pub(super) async fn a_position_elsewhere_is_forked(store: &dyn Store) -> Checked {
    let log = Log {
        shard: shard(8),
        name: "conformance log",
    };
    let (entries, head) = entries(store, &log, Position::ORIGIN).await?;
    let middle = entries.get(4).map_or(Position::ORIGIN, |(place, _)| *place);
    let wrong = |sequence| Position {
        sequence,
        link: link(&head.link, b"another history"),
    };
    for place in [
        wrong(head.sequence),
        wrong(middle.sequence),
        wrong(head.sequence + 1),
        wrong(0),
    ] {
        let found = tail(store, &log, place, 100).await?;
        same(
            &found,
            &Tail::Forked { head },
            "a position of another history",
        )?;
        let found = tail(store, &log, place, 1).await?;
        same(
            &found,
            &Tail::Forked { head },
            "the same with a small limit",
        )?;
    }
    Ok(())
}

pub(super) async fn a_trimmed_log_says_where_it_begins(store: &dyn Store) -> Checked {
    let log = Log {
        shard: shard(8),
        name: "conformance log",
    };
    let (all, head) = entries(store, &log, Position::ORIGIN).await?;
    let place = |number: usize| {
        all.get(number - 1)
            .map_or(Position::ORIGIN, |(place, _)| *place)
    };
    let trim = |through| {
        begin(log.shard).write(Write::Trim {
            log: log.clone(),
            through,
        })
    };
    applied(store, trim(4), "a log is trimmed").await?;
    applied(store, trim(2), "trimming less changes nothing").await?;
    let oldest = place(4);
    for before in [Position::ORIGIN, place(3)] {
        let found = tail(store, &log, before, 100).await?;
        same(
            &found,
            &Tail::Trimmed { oldest },
            "a position that was trimmed",
        )?;
    }
    let (rest, _) = entries(store, &log, oldest).await?;
    same(&rest.len(), &6, "what follows the oldest place is kept")?;
    applied(store, trim(1000), "a log is trimmed to its head").await?;
    let (rest, found) = entries(store, &log, head).await?;
    ensure(
        rest.is_empty() && found == head,
        "the head outlives its entries",
    )?;
    let transaction = begin(log.shard).write(append(&log, b"next"));
    let appended = applied(store, transaction, "an empty log goes on").await?;
    same(
        &appended,
        &vec![head.next(b"next")],
        "an empty log goes on from its head",
    )
}

pub(super) async fn a_waiting_reader_is_woken(store: &dyn Store) -> Checked {
    let log = Log {
        shard: ShardId::INSTALLATION,
        name: "conformance waits",
    };
    let waiting = store.tail(&log, Position::ORIGIN, 10, Duration::from_secs(5));
    let writing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        store
            .commit(begin(log.shard).write(append(&log, b"wake")))
            .await
    };
    let both = async { tokio::join!(waiting, writing) };
    let (read, written) = tokio::time::timeout(Duration::from_secs(4), both)
        .await
        .map_err(|_| Broken::Promise("a waiting reader is woken by an entry".to_owned()))?;
    written.map_err(|error| Broken::Failed("an entry is appended beside a reader", error))?;
    match read.map_err(|error| Broken::Failed("a reader waits", error))? {
        Tail::Entries { entries, head, .. } => {
            same(&entries.len(), &1, "a woken reader has the entry")?;
            same(&head, &Position::ORIGIN.next(b"wake"), "and the new head")?;
            let nothing = store
                .tail(&log, head, 10, Duration::from_millis(50))
                .await
                .map_err(|error| Broken::Failed("a wait that ends in nothing", error))?;
            ensure(
                matches!(nothing, Tail::Entries { entries, head: same, .. } if entries.is_empty() && same == head),
                "a wait that ends in nothing answers the head",
            )
        }
        other => ensure(false, &format!("a woken reader has entries: {other:?}")),
    }
}
