//! How a run of events is written down: records one after another, ready to be appended to the log as they are.
//!
//! A record starts with a byte of flags. `0` is a stamp: wall, monotonic, boot, synced; it holds for the records after
//! it. Otherwise bit 0 is set, and the bits say which fields follow, in this order: own id (1), made id (2), key (3),
//! time (4), meta (5), sample time (6), time to live (7); then the body. The sample time is one of the monotonic clock, the time to
//! live has seconds. Numbers are LEB128, signed ones zigzag; texts and bodies carry their length.

use super::{Body, Event, Id, Text, When, json, parent};
use crate::clock::{Quality, Stamp};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{ops::Range, sync::Arc};

const OWN_ID: u8 = 1 << 1;
const MADE_ID: u8 = 1 << 2;
const KEY: u8 = 1 << 3;
const TIME: u8 = 1 << 4;
const META: u8 = 1 << 5;
const SAMPLED: u8 = 1 << 6;
const TTL: u8 = 1 << 7;

/// An id longer than this is refused: it stands in every repeat, header and dead letter.
pub const MAX_ID: usize = 256;
/// A key longer than this is refused. MQTT topics, the longest keys, seldom pass 200 bytes.
pub const MAX_KEY: usize = 1024;
/// Meta longer than this is refused: it holds an MQTT packet's properties.
pub const MAX_META: usize = 64 * 1024;

/// An event as a source hands it over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draft<'a> {
    /// The producer's id; with one, a repeat within the dedupe window is accepted but stored once.
    pub id: Option<&'a str>,
    /// What it is about; may be empty.
    pub key: &'a str,
    /// When it happened.
    pub time: Option<When>,
    /// Seconds after its intake from which on nobody wants it any more.
    pub ttl: Option<u32>,
    /// A JSON object, checked by the source that made it, or empty.
    pub meta: &'a [u8],
    /// A JSON object; it is checked here.
    pub body: &'a [u8],
}

impl Draft<'_> {
    fn check_lengths(&self) -> Result<(), Unfit> {
        for (part, size, limit) in [
            ("id", self.id.map_or(0, str::len), MAX_ID),
            ("key", self.key.len(), MAX_KEY),
            ("meta", self.meta.len(), MAX_META),
        ] {
            if size > limit {
                return Err(Unfit::TooLong { part, size, limit });
            }
        }
        Ok(())
    }
}

/// Why a draft was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Not JSON, or nested too deep.
    #[error("the body is not valid JSON: {0}")]
    Json(#[from] json::JsonError),
    /// JSON, but no object.
    #[error("the body is JSON but not an object; an event is one JSON object")]
    NotObject,
    /// A part is over its limit in bytes.
    #[error("the {part} has {size} bytes, over the limit of {limit}")]
    TooLong { part: &'static str, size: usize, limit: usize },
}

/// What the store needs to notice that a producer sent an id again.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// Which record, counted from 0.
    pub index: u32,
    /// Where it stands in the batch.
    pub range: Range<usize>,
    /// The first 8 bytes of the id's SHA-256.
    pub id: u64,
    /// CRC-32 of the body: the same id with another body is no repeat.
    pub body: u32,
}

/// A run of events, written down.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) data: Vec<u8>,
    pub(crate) count: u32,
    pub(crate) marks: Vec<Mark>,
    /// Those whose way is recorded, or may be: index, id (empty, if it has none yet), `traceparent`.
    pub(crate) traced: Vec<(u32, Arc<str>, Option<Arc<str>>)>,
    /// The stamp of the last record; `None` as long as the store is to stamp them at the commit.
    stamp: Option<Stamp>,
}

impl Batch {
    /// With room for so many bytes.
    pub fn with_room(bytes: usize) -> Self {
        Batch { data: Vec::with_capacity(bytes), ..Batch::default() }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes it takes in memory and in the log, before compression.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Bytes that it takes in memory, with what it has room for.
    pub(crate) fn memory(&self) -> usize {
        self.data.capacity() + self.marks.capacity() * size_of::<Mark>()
    }

    /// The events that brought an id of their own: index and id, in order.
    pub fn own_ids(&self) -> impl Iterator<Item = (u32, &str)> {
        self.marks.iter().filter_map(|mark| {
            let record = self.data.get(mark.range.clone())?;
            let length = record.get(1..)?.iter().take_while(|byte| *byte & 0x80 != 0).count() + 1;
            let size = record[1..=length].iter().rev().fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
            let id = record.get(1 + length..1 + length + size)?;
            Some((mark.index, std::str::from_utf8(id).ok()?))
        })
    }

    /// For tests/fuzz.
    #[doc(hidden)]
    pub fn written(&self) -> Bytes {
        Bytes::copy_from_slice(&self.data)
    }

    pub(crate) fn stamped(&self) -> bool {
        self.stamp.is_some()
    }

    /// Adds a source's event after checking it. The batch is unchanged if it is unfit.
    pub fn push(&mut self, draft: &Draft<'_>) -> Result<(), Unfit> {
        draft.check_lengths()?;
        if json::check(draft.body)? != json::Kind::Object {
            return Err(Unfit::NotObject);
        }
        self.add(draft);
        Ok(())
    }

    /// As `push`, for a body that was found to be a JSON object just now.
    pub(crate) fn push_checked(&mut self, draft: &Draft<'_>) -> Result<(), Unfit> {
        draft.check_lengths()?;
        self.add(draft);
        Ok(())
    }

    fn add(&mut self, draft: &Draft<'_>) {
        let start = self.data.len();
        if parent::is_sampled(draft.meta) {
            self.traced.push((self.count, draft.id.unwrap_or_default().into(), parent::of(draft.meta).map(Arc::from)));
        }
        let flags = 1 | flag(draft.id.is_some(), OWN_ID) | about(draft.key, draft.time, draft.meta, draft.ttl);
        self.data.push(flags);
        if let Some(id) = draft.id {
            put_bytes(&mut self.data, id.as_bytes());
        }
        self.put_rest(draft.key, draft.time, draft.meta, draft.ttl, draft.body);
        if let Some(id) = draft.id {
            let digest = Sha256::digest(id.as_bytes());
            let id = digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            let (range, body) = (start..self.data.len(), crc32fast::hash(draft.body));
            self.marks.push(Mark { index: self.count, range, id, body });
        }
        self.count += 1;
    }

    /// The way of the event that is added next is recorded.
    pub(crate) fn will_trace(&mut self, event: &Event) {
        let parent = event.parent().filter(|_| parent::is_sampled(&event.meta)).map(Arc::from);
        self.traced.push((self.count, event.id.text().into(), parent));
    }

    /// Adds an event that was taken in before: it keeps its id and its stamp.
    pub fn push_event(&mut self, event: &Event) {
        if self.stamp != Some(event.stamp) {
            self.stamp = Some(event.stamp);
            put_stamp(&mut self.data, &event.stamp);
        }
        let own = matches!(event.id, Id::Own(_));
        let flags =
            1 | if own { OWN_ID } else { MADE_ID } | about(event.key.as_str(), event.time, &event.meta, event.ttl);
        self.data.push(flags);
        match &event.id {
            Id::Own(text) => put_bytes(&mut self.data, text.as_str().as_bytes()),
            Id::Made { lane, seq, .. } => {
                put(&mut self.data, u64::from(*lane));
                put(&mut self.data, *seq);
            }
        }
        self.put_rest(event.key.as_str(), event.time, &event.meta, event.ttl, &event.body.to_bytes());
        self.count += 1;
    }

    fn put_rest(&mut self, key: &str, time: Option<When>, meta: &[u8], ttl: Option<u32>, body: &[u8]) {
        if !key.is_empty() {
            put_bytes(&mut self.data, key.as_bytes());
        }
        match time {
            Some(When::Told(ms)) => put(&mut self.data, zigzag(ms)),
            Some(When::Sampled(ms)) => put(&mut self.data, ms),
            None => {}
        }
        if !meta.is_empty() {
            put_bytes(&mut self.data, meta);
        }
        if let Some(seconds) = ttl {
            put(&mut self.data, u64::from(seconds));
        }
        put_bytes(&mut self.data, body);
    }

    /// The batch without the records at these indexes of `marks`, which rise.
    pub(crate) fn without(&self, dropped: &[usize]) -> Batch {
        let mut kept = Batch { stamp: self.stamp, count: self.count - dropped.len() as u32, ..Batch::default() };
        let mut from = 0;
        for range in dropped.iter().filter_map(|i| self.marks.get(*i)).map(|m| m.range.clone()) {
            kept.data.extend_from_slice(&self.data[from..range.start]);
            from = range.end;
        }
        kept.data.extend_from_slice(&self.data[from..]);
        kept
    }

    /// The batch with only the records that `keep` wants, by their index.
    pub(crate) fn only(&self, mut keep: impl FnMut(u32) -> bool) -> Batch {
        let mut kept = Batch { stamp: self.stamp, ..Batch::default() };
        let place = Place { store: 0, lane: 0, topic: "".into(), priority: 0 };
        let data = Bytes::copy_from_slice(&self.data);
        let (mut records, mut from) = (Records::new(&data, &place, 0), 0);
        for index in 0..self.count {
            // Stamps hold for what follows: they stay.
            while data.get(from) == Some(&0) {
                records.at = from + 1;
                records.stamp();
                kept.data.extend_from_slice(&data[from..records.at]);
                from = records.at;
            }
            if records.next().is_none() {
                break;
            }
            if keep(index) {
                kept.data.extend_from_slice(&data[from..records.at]);
                kept.count += 1;
            }
            from = records.at;
        }
        kept
    }
}

/// The flags of what stands between id and body.
fn about(key: &str, time: Option<When>, meta: &[u8], ttl: Option<u32>) -> u8 {
    flag(!key.is_empty(), KEY)
        | flag(matches!(time, Some(When::Told(_))), TIME)
        | flag(matches!(time, Some(When::Sampled(_))), SAMPLED)
        | flag(!meta.is_empty(), META)
        | flag(ttl.is_some(), TTL)
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

pub(crate) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

/// Writes a stamp record: it holds for the records after it.
pub(crate) fn put_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    out.push(0);
    put(out, zigzag(stamp.wall_ms));
    put(out, stamp.mono_ms);
    put(out, u64::from(stamp.boot));
    out.push(stamp.quality as u8);
}

/// Where a run of records was stored.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub store: u64,
    pub lane: u16,
    pub topic: Arc<str>,
    pub priority: u8,
}

/// A place between two records of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    at: usize,
    pub seq: u64,
    stamp: Stamp,
}

/// The events of any bytes, for tests/fuzz.
#[doc(hidden)]
pub fn decode(data: &Bytes) -> Vec<Event> {
    let place = Place { store: 1, lane: 1, topic: "t".into(), priority: 0 };
    let mut records = Records::new(data, &place, 0);
    std::iter::from_fn(|| records.next()).collect()
}

/// Reads records back, one event after another.
pub(crate) struct Records<'a> {
    data: &'a Bytes,
    at: usize,
    seq: u64,
    stamp: Stamp,
    place: &'a Place,
}

impl<'a> Records<'a> {
    pub fn new(data: &'a Bytes, place: &'a Place, first_seq: u64) -> Self {
        Self::resume(data, place, Pause { at: 0, seq: first_seq, stamp: Stamp::default() })
    }

    /// Goes on where [`Records::pause`] was called.
    pub fn resume(data: &'a Bytes, place: &'a Place, pause: Pause) -> Self {
        Records { data, at: pause.at, seq: pause.seq, stamp: pause.stamp, place }
    }

    pub fn pause(&self) -> Pause {
        Pause { at: self.at, seq: self.seq, stamp: self.stamp }
    }

    /// The next event; `None` at the end, or where the bytes make no sense (the CRC held, so this is a defect of ours).
    pub fn next(&mut self) -> Option<Event> {
        loop {
            match self.byte()? {
                0 => self.stamp = self.stamp()?,
                flags => return self.event(flags),
            }
        }
    }

    fn stamp(&mut self) -> Option<Stamp> {
        let wall_ms = self.signed()?;
        let (mono_ms, boot) = (self.number()?, self.number()? as u32);
        let quality = match self.byte()? {
            0 => Quality::Unsynced,
            2 => Quality::Restamped,
            3 => Quality::Estimated,
            _ => Quality::Synced,
        };
        Some(Stamp { wall_ms, mono_ms, boot, quality })
    }

    fn event(&mut self, flags: u8) -> Option<Event> {
        let id = if flags & OWN_ID != 0 {
            Id::Own(Text::from_bytes(self.slice()?))
        } else if flags & MADE_ID != 0 {
            Id::Made { store: self.place.store, lane: self.number()? as u16, seq: self.number()? }
        } else {
            Id::Made { store: self.place.store, lane: self.place.lane, seq: self.seq }
        };
        let key = if flags & KEY != 0 { Text::from_bytes(self.slice()?) } else { Text::default() };
        let time = if flags & TIME != 0 {
            Some(When::Told(self.signed()?))
        } else if flags & SAMPLED != 0 {
            Some(When::Sampled(self.number()?))
        } else {
            None
        };
        let meta = if flags & META != 0 { self.slice()? } else { Bytes::new() };
        let ttl = if flags & TTL != 0 { u32::try_from(self.number()?).ok() } else { None };
        let body = Body::trusted(self.slice()?);
        let Place { topic, priority, lane, .. } = self.place;
        let event = Event {
            id,
            topic: topic.clone(),
            lane: *lane,
            seq: self.seq,
            key,
            priority: *priority,
            time,
            stamp: self.stamp,
            ttl,
            expires: i64::MAX,
            meta,
            body,
        };
        self.seq += 1;
        Some(event)
    }

    /// Passes over records without reading them, up to a sequence number.
    pub fn skip_to(&mut self, seq: u64) -> Option<()> {
        while self.seq < seq {
            self.next()?;
        }
        Some(())
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.data.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let n = self.number()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn slice(&mut self) -> Option<Bytes> {
        let len = usize::try_from(self.number()?).ok()?;
        let end = self.at.checked_add(len).filter(|end| *end <= self.data.len())?;
        let slice = self.data.slice(self.at..end);
        self.at = end;
        Some(slice)
    }
}
