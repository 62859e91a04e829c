//! The sealed chain: what a line of the export looks like and what it must follow.
//!
//! A line is `{"hash":"H",REST}` with H = SHA-256 of REST's bytes up to the end of the line, so no
//! byte of it can change unseen. REST names the hash of the line of the same shard before it. A
//! checkpoint closes a run of lines: it names the checkpoint before, the run in its order and the
//! vector of all shards' heads, and carries a signature over its own hash in front.

use super::{Event, hex, ocsf};
use crate::store::{Link, LogEntry, Position};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) type Hash = [u8; 32];

/// Where the head of the fence log stands among those of the shards. Its entries are told by the audit; that
/// none of them was taken away is sealed here.
pub(super) const FENCES: u8 = u8::MAX - 1;

/// Signs the claims of a checkpoint; answers a compact JWS whose payload they are.
pub type Sign = dyn Fn(&[u8]) -> Result<String, String> + Send + Sync;

/// The last line of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Where the entry lies in the store.
    pub position: Position,
    /// The hash of its line.
    pub hash: Hash,
}

impl Head {
    const NEW: Self = Self {
        position: Position::ORIGIN,
        hash: [0; 32],
    };
}

/// How far everything is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Chain {
    /// The number of the last checkpoint; the first one is 1.
    pub checkpoint: u64,
    pub checkpoint_hash: Hash,
    pub heads: BTreeMap<u8, Head>,
}

impl Chain {
    pub(super) fn head(&self, shard: u8) -> Head {
        self.heads.get(&shard).copied().unwrap_or(Head::NEW)
    }

    /// One hash for all heads.
    pub(super) fn vector(&self) -> Hash {
        let mut context = Context::new(&SHA256);
        for (shard, head) in &self.heads {
            context.update(&[*shard]);
            context.update(&head.position.sequence.to_be_bytes());
            context.update(&head.position.link.0);
            context.update(&head.hash);
        }
        finish(context)
    }

    pub(super) fn written(&self) -> Vec<WrittenHead> {
        let heads = self.heads.iter();
        heads
            .map(|(shard, head)| WrittenHead {
                shard: *shard,
                sequence: head.position.sequence,
                link: hex(&head.position.link.0),
                hash: hex(&head.hash),
            })
            .collect()
    }

    pub(super) fn read(
        checkpoint: u64,
        checkpoint_hash: &str,
        heads: &[WrittenHead],
    ) -> Option<Self> {
        let mut chain = Self {
            checkpoint,
            checkpoint_hash: unhex(checkpoint_hash)?,
            heads: BTreeMap::new(),
        };
        for head in heads {
            let position = Position {
                sequence: head.sequence,
                link: Link(unhex(&head.link)?),
            };
            let hash = unhex(&head.hash)?;
            chain.heads.insert(head.shard, Head { position, hash });
        }
        Some(chain)
    }
}

/// A head as it is written, in an opening checkpoint and in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenHead {
    pub shard: u8,
    pub sequence: u64,
    pub link: String,
    pub hash: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryLine {
    pub kind: String,
    pub shard: u8,
    pub sequence: u64,
    pub link: String,
    pub prev: String,
    pub class_uid: u32,
    pub category_uid: u32,
    pub activity_id: u32,
    pub type_uid: u32,
    pub status_id: u32,
    pub severity_id: u32,
    /// The entry's own bytes.
    pub entry: Box<RawValue>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BreakLine {
    pub kind: String,
    pub event: Event,
    pub shard: u8,
    pub prev: String,
    pub at: String,
    /// The last entry that was sealed.
    pub sealed: u64,
    /// The head that the store has now.
    pub found: u64,
    /// Reading goes on after this place of the store's log.
    pub resumes: u64,
    pub link: String,
    pub type_uid: u32,
    pub severity_id: u32,
}

/// How far another log had come.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeadLine {
    pub kind: String,
    /// `fences`.
    pub log: String,
    pub sequence: u64,
    pub link: String,
    pub prev: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointLine {
    pub kind: String,
    pub checkpoint: u64,
    pub at: String,
    pub prev: String,
    /// Over the hashes of the lines since the checkpoint before, in their order.
    pub run: String,
    pub vector: String,
    /// Where a file begins, or a replica goes on where another one stopped: all heads in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<Vec<WrittenHead>>,
}

/// What the signature of a checkpoint covers.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Claims {
    pub checkpoint: u64,
    pub sha256: String,
}

/// Lines on their way to the sink, and the chain as it is behind them.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub chain: Chain,
    pub bytes: Vec<u8>,
    hashes: Vec<Hash>,
}

impl Run {
    pub(super) fn after(chain: Chain) -> Self {
        Self {
            chain,
            bytes: Vec::new(),
            hashes: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub(super) fn entry(&mut self, shard: u8, entry: &LogEntry) -> Result<(), serde_json::Error> {
        let (event, raw) = readable(&entry.value)?;
        let class = event.map_or(ocsf::UNKNOWN, ocsf::class);
        let line = EntryLine {
            kind: "entry".to_owned(),
            shard,
            sequence: entry.position.sequence,
            link: hex(&entry.position.link.0),
            prev: hex(&self.chain.head(shard).hash),
            class_uid: class.class_uid,
            category_uid: class.category_uid(),
            activity_id: class.activity_id,
            type_uid: class.type_uid(),
            status_id: class.status_id,
            severity_id: class.severity_id,
            entry: raw,
        };
        let hash = self.push(&line)?;
        let position = entry.position;
        self.chain.heads.insert(shard, Head { position, hash });
        Ok(())
    }

    /// The store lost what was sealed: says so, and goes on from what it has.
    pub(super) fn segment_break(
        &mut self,
        shard: u8,
        found: Position,
        resumes: Position,
        now: OffsetDateTime,
    ) -> Result<(), serde_json::Error> {
        let class = ocsf::class(Event::StoreSegmentBreak);
        let head = self.chain.head(shard);
        let line = BreakLine {
            kind: "break".to_owned(),
            event: Event::StoreSegmentBreak,
            shard,
            prev: hex(&head.hash),
            at: written(now),
            sealed: head.position.sequence,
            found: found.sequence,
            resumes: resumes.sequence,
            link: hex(&resumes.link.0),
            type_uid: class.type_uid(),
            severity_id: class.severity_id,
        };
        let hash = self.push(&line)?;
        let position = resumes;
        self.chain.heads.insert(shard, Head { position, hash });
        Ok(())
    }

    /// How far the fence log has come, where it has moved.
    pub(super) fn fences(&mut self, position: Position) -> Result<(), serde_json::Error> {
        let known = self.chain.head(FENCES);
        if known.position == position {
            return Ok(());
        }
        let line = HeadLine {
            kind: "head".to_owned(),
            log: crate::audit::FENCE_LOG.to_owned(),
            sequence: position.sequence,
            link: hex(&position.link.0),
            prev: hex(&known.hash),
        };
        let hash = self.push(&line)?;
        self.chain.heads.insert(FENCES, Head { position, hash });
        Ok(())
    }

    pub(super) fn checkpoint(
        &mut self,
        opening: bool,
        now: OffsetDateTime,
        sign: &Sign,
    ) -> Result<(), String> {
        let number = self.chain.checkpoint.saturating_add(1);
        let line = CheckpointLine {
            kind: "checkpoint".to_owned(),
            checkpoint: number,
            at: written(now),
            prev: hex(&self.chain.checkpoint_hash),
            run: hex(&run(&self.hashes)),
            vector: hex(&self.chain.vector()),
            opening: opening.then(|| self.chain.written()),
        };
        let (hash, rest) = rest(&line).map_err(|error| error.to_string())?;
        let claims = Claims {
            checkpoint: number,
            sha256: hex(&hash),
        };
        let claims = serde_json::to_vec(&claims).map_err(|error| error.to_string())?;
        let jws = sign(&claims)?;
        self.bytes.extend_from_slice(b"{\"jws\":\"");
        self.bytes.extend_from_slice(jws.as_bytes());
        self.bytes.extend_from_slice(b"\",\"hash\":\"");
        self.close(hash, &rest);
        self.hashes.clear();
        self.chain.checkpoint = number;
        self.chain.checkpoint_hash = hash;
        Ok(())
    }

    fn push(&mut self, line: &impl Serialize) -> Result<Hash, serde_json::Error> {
        let (hash, rest) = rest(line)?;
        self.bytes.extend_from_slice(b"{\"hash\":\"");
        self.close(hash, &rest);
        self.hashes.push(hash);
        Ok(hash)
    }

    fn close(&mut self, hash: Hash, rest: &[u8]) {
        self.bytes.extend_from_slice(hex(&hash).as_bytes());
        self.bytes.extend_from_slice(b"\",");
        self.bytes.extend_from_slice(rest);
        self.bytes.push(b'\n');
    }
}

/// A line without its opening brace, and the hash of that.
fn rest(line: &impl Serialize) -> Result<(Hash, Vec<u8>), serde_json::Error> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.drain(..1);
    Ok((sha256(&bytes), bytes))
}

/// An entry as one line of JSON: its own bytes, or, should it not be that, all of them encoded.
fn readable(bytes: &[u8]) -> Result<(Option<Event>, Box<RawValue>), serde_json::Error> {
    #[derive(Deserialize)]
    struct Named {
        event: Option<Event>,
    }
    let text = std::str::from_utf8(bytes).ok();
    let text = text.filter(|text| !text.contains(['\n', '\r']));
    if let Some(text) = text
        && let Ok(raw) = RawValue::from_string(text.to_owned())
    {
        let named = serde_json::from_str::<Named>(text).ok();
        return Ok((named.and_then(|named| named.event), raw));
    }
    let encoded = STANDARD.encode(bytes);
    let raw = RawValue::from_string(format!(r#"{{"unreadable_base64":"{encoded}"}}"#))?;
    Ok((None, raw))
}

/// A line taken apart: its signature, its hash, and the bytes that the hash must be of.
pub(super) struct Parts<'a> {
    pub jws: Option<&'a str>,
    pub hash: Hash,
    pub rest: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None`: not a line that was ever written, or its hash is not that of its bytes.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        let (jws, line) = match line.strip_prefix(b"{\"jws\":\"") {
            Some(signed) => {
                let end = signed.iter().position(|byte| *byte == b'"')?;
                let (jws, line) = signed.split_at_checked(end)?;
                let line = line.strip_prefix(b"\",\"hash\":\"")?;
                (Some(std::str::from_utf8(jws).ok()?), line)
            }
            None => (None, line.strip_prefix(b"{\"hash\":\"")?),
        };
        let (written, line) = line.split_first_chunk::<64>()?;
        let hash: Hash = unhex(std::str::from_utf8(written).ok()?)?;
        let rest = line.strip_prefix(b"\",")?;
        (sha256(rest) == hash).then_some(Self { jws, hash, rest })
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&[b"{", self.rest].concat()).ok()
    }

    pub(super) fn is(&self, kind: &str) -> bool {
        self.rest
            .starts_with(format!("\"kind\":\"{kind}\",").as_bytes())
    }

    /// Whether the signature speaks of exactly this line. Whether it is one, the caller asks.
    pub(super) fn is_claimed(&self, checkpoint: u64) -> bool {
        let payload = self.jws.and_then(|jws| jws.split('.').nth(1));
        let claims = payload
            .and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok())
            .and_then(|bytes| serde_json::from_slice::<Claims>(&bytes).ok());
        claims.is_some_and(|claims| {
            claims.checkpoint == checkpoint && claims.sha256 == hex(&self.hash)
        })
    }
}

pub(super) fn run(hashes: &[Hash]) -> Hash {
    let mut context = Context::new(&SHA256);
    hashes.iter().for_each(|hash| context.update(hash));
    finish(context)
}

pub(super) fn sha256(bytes: &[u8]) -> Hash {
    as_hash(digest(&SHA256, bytes).as_ref())
}

fn finish(context: Context) -> Hash {
    as_hash(context.finish().as_ref())
}

fn as_hash(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    hash
}

/// One spelling only: lower case.
pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    // SECURITY: digits alone, since `from_str_radix` reads `+a` as well.
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != N * 2 || !text.bytes().all(digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn written(now: OffsetDateTime) -> String {
    now.format(&Rfc3339).unwrap_or_default()
}
