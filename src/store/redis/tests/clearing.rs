//! Notes that are over are cleared away, a bounded number at a time.

use super::super::notes::{encode, place};
use super::*;
use ::redis::aio::MultiplexedConnection;
use time::OffsetDateTime;

/// Many more than a commit may look at.
const OVER: usize = 8192;

/// Notes that lie in one hash.
fn together(how_many: usize) -> Vec<Key> {
    let first = place(&key(b"kind/0")).key;
    let names = (0_u32..).map(|number| key(format!("kind/{number}").as_bytes()));
    let here = names.filter(|key| place(key).key == first);
    here.take(how_many).collect()
}

struct Hash {
    connection: MultiplexedConnection,
    key: Vec<u8>,
    added: u32,
}

impl Hash {
    async fn length(&mut self) -> usize {
        let mut call = ::redis::cmd("HLEN");
        call.arg(&self.key);
        call.query_async(&mut self.connection).await.unwrap()
    }

    /// As they lie there when their time has come.
    async fn add(&mut self, how_many: usize) {
        let over = encode(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9), b"");
        let mut call = ::redis::cmd("HSET");
        call.arg(&self.key);
        for _ in 0..how_many {
            self.added += 1;
            let field = [[0_u8; 12].as_slice(), &self.added.to_be_bytes()].concat();
            call.arg(field).arg(&over);
        }
        if how_many > 0 {
            let () = call.query_async(&mut self.connection).await.unwrap();
        }
    }
}

#[tokio::test]
async fn one_commit_clears_some_of_what_is_over_and_many_clear_all_of_it() {
    let server = server!(&[]);
    let store = open(&server).await;
    let node = store.inner.nodes.of(shard(3)).unwrap();
    let (_, connection) = node.readers.get(&node.connector).await.unwrap();
    let notes = together(160);
    let mut hash = Hash {
        connection,
        key: place(&notes[0]).key,
        added: 0,
    };
    hash.add(OVER).await;
    let until = SystemClock::new().now() + Duration::from_secs(600);
    let mut written = Vec::new();
    for note in notes {
        let before = hash.length().await;
        if before < 512 {
            break;
        }
        hash.add(15 - before % 16).await;
        let before = hash.length().await;
        let transaction = Transaction::new(shard(3), until).write(Write::Note {
            key: note.clone(),
            value: Vec::new(),
            until,
        });
        assert!(is_applied(&store.commit(transaction).await));
        written.push(note);
        let cleared = before + 1 - hash.length().await;
        assert!(cleared <= 600, "{cleared} at once");
    }
    let left = hash.length().await;
    assert!(left < 512, "{left} are left after {} notes", written.len());
    let found = store.notes(&written).await.unwrap();
    assert!(found.iter().all(Option::is_some), "what stands is kept");
}
