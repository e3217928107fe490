//! What is where: lanes, consumers and their cursors, as the writer knows them and as everybody else may see them.

use super::{
    Options,
    dead::read_as,
    eras::Eras,
    figures::Figures,
    holes::{Hole, Range},
    rows::Chunk,
};
use crate::clock::millis_of;
use rusqlite::{Connection, params};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::Notify;

/// Of the fresh batches that stay in memory, a lane has so many bytes at most.
const TAIL_BYTES: usize = 2 << 20;

/// A topic at one priority: a run of sequence numbers without holes.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub topic: Arc<str>,
    pub priority: u8,
    /// Where its numbers began.
    pub start: u64,
    /// The oldest kept.
    pub first: u64,
    /// The next to give out.
    pub next: u64,
    /// Bytes as stored; counted only where retention needs them.
    pub bytes: u64,
    /// Accepted and never stored, as the topic's policy says.
    pub dropped: u64,
}

impl Lane {
    /// A sum of what it is called.
    pub fn name(&self) -> u64 {
        name_of(&self.topic, self.priority)
    }
}

pub(super) fn name_of(topic: &str, priority: u8) -> u64 {
    u64::from(crc32fast::hash(topic.as_bytes())) << 8 | u64::from(priority)
}

/// How far a consumer is in a lane, and what became of what it passed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// The number of the first that it was to see, less as many as it was to see again: may be below 0.
    pub start: i64,
    pub seq: u64,
    pub delivered: u64,
    pub stopped: u64,
    pub dead: u64,
    pub expired: u64,
    pub evicted: u64,
    /// Of the evicted, how many were never stored: they have no sequence numbers.
    pub dropped: u64,
}

/// Events that lie in an object store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    /// The sequence number after the last.
    pub next: u64,
    /// Of their rows.
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub name: String,
    /// Empty until it registers in this run: a consumer that nobody registers is kept, with what it has not passed.
    pub topics: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub lanes: BTreeMap<u16, Lane>,
    pub consumers: BTreeMap<u32, Consumer>,
    pub cursors: BTreeMap<(u32, u16), Cursor>,
    /// By lane and first sequence number.
    pub offloaded: BTreeMap<(u16, u64), Away>,
    /// By lane and first sequence number.
    pub holes: BTreeMap<(u16, u64), Hole>,
    /// By lane.
    pub unread: BTreeMap<u16, Range>,
}

impl Cursor {
    /// Writes it down, in the open transaction.
    pub fn write(&self, db: &Connection, (consumer, lane): (u32, u16)) -> rusqlite::Result<()> {
        db.prepare_cached(
            "INSERT OR REPLACE INTO cursor (id, start, seq, delivered, stopped, dead, expired, evicted, dropped)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            (i64::from(consumer) << 16) | i64::from(lane),
            self.start,
            self.seq as i64,
            self.delivered as i64,
            self.stopped as i64,
            self.dead as i64,
            self.expired as i64,
            self.evicted as i64,
            self.dropped as i64
        ])
        .map(drop)
    }

    /// Whether its counters fit each other, as they always do.
    pub fn adds_up(&self) -> bool {
        let passed =
            (self.seq as i64).checked_sub(self.start).and_then(|passed| passed.checked_add_unsigned(self.dropped));
        let ends = [self.delivered, self.dead, self.expired, self.evicted];
        passed.is_some() && passed == ends.iter().try_fold(0_i64, |sum, n| sum.checked_add_unsigned(*n))
    }
}

impl Index {
    pub fn lane(&self, topic: &str, priority: u8) -> Option<u16> {
        self.lanes.iter().find(|(_, l)| l.priority == priority && *l.topic == *topic).map(|(id, _)| *id)
    }

    /// The number of a consumer.
    pub fn consumer(&self, name: &str) -> Option<u32> {
        self.consumers.iter().find(|(_, c)| c.name == name).map(|(id, _)| *id)
    }

    /// The first sequence number of the offloaded range that holds one.
    pub fn away_at(&self, lane: u16, seq: u64) -> Option<u64> {
        let (&(_, first), away) = self.offloaded.range((lane, 0)..=(lane, seq)).next_back()?;
        (away.next > seq).then_some(first)
    }

    /// How many events of a lane, from a sequence number on, are offloaded.
    pub fn away(&self, lane: u16, from: u64) -> u64 {
        let start = self.away_at(lane, from).unwrap_or(from);
        let ranges = self.offloaded.range((lane, start)..=(lane, u64::MAX));
        ranges.map(|((_, first), away)| away.next - (*first).max(from)).sum()
    }

    /// What became of every event, by topic and consumer.
    pub fn ledger(&self) -> Vec<Ledger> {
        let mut rows: BTreeMap<(String, String), Ledger> = BTreeMap::new();
        for (id, lane) in &self.lanes {
            let mut read = false;
            for ((consumer, _), cursor) in self.cursors.iter().filter(|((_, l), _)| l == id) {
                read = true;
                let name = self.consumers.get(consumer).map(|c| c.name.clone()).unwrap_or_default();
                let row = rows.entry((lane.topic.to_string(), name)).or_default();
                let offloaded = self.away(*id, cursor.seq);
                let (_, skipped) = self.gone(*id, cursor.seq, lane.next);
                row.offloaded += offloaded;
                let accepted = (lane.next + cursor.dropped) as i64 - cursor.start - skipped as i64;
                row.accepted += u64::try_from(accepted).unwrap_or(0);
                row.delivered += cursor.delivered;
                row.stopped += cursor.stopped;
                row.queued += lane.next.saturating_sub(cursor.seq + skipped + offloaded);
                row.dead += cursor.dead;
                row.expired += cursor.expired;
                row.evicted += cursor.evicted;
            }
            if !read {
                let row = rows.entry((lane.topic.to_string(), String::new())).or_default();
                row.accepted += lane.next - lane.start + lane.dropped;
                row.evicted += lane.dropped;
            }
        }
        rows.into_iter().map(|((topic, consumer), row)| Ledger { topic, consumer, ..row }).collect()
    }

    /// Up to where every consumer has passed a lane.
    pub fn passed(&self, lane: u16) -> u64 {
        let next = self.lanes.get(&lane).map_or(0, |l| l.next);
        self.cursors.iter().filter(|((_, l), _)| *l == lane).map(|(_, c)| c.seq).min().unwrap_or(next)
    }
}

/// What became of the events of one topic, as one consumer saw them:
/// `accepted = delivered + queued + dead + expired + evicted + offloaded`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ledger {
    pub topic: String,
    /// Empty where nobody reads the topic.
    pub consumer: String,
    /// Stored since the consumer began.
    pub accepted: u64,
    pub delivered: u64,
    /// Of the delivered, how many ended in the pipeline, as its conditions say.
    pub stopped: u64,
    pub queued: u64,
    pub dead: u64,
    pub expired: u64,
    pub evicted: u64,
    /// In the object store, and not passed.
    pub offloaded: u64,
}

#[derive(Default)]
struct Tail {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

/// Someone who reads a topic.
struct Waiter {
    signal: Weak<Notify>,
    /// It has no cursor that would keep what it has not read: memory keeps it, within its limit.
    tail: bool,
}

#[derive(Default)]
pub(super) struct View {
    pub index: Index,
    /// Lanes and numbers at which a reader found nothing, although there should be something.
    pub gaps: BTreeSet<(u16, u64)>,
    /// Something that was set aside is being read, or waits to be told.
    pub salvaging: bool,
    tails: HashMap<u16, Tail>,
    /// Bytes of all tails, and how many they may be.
    fresh: usize,
    most: usize,
    waiters: HashMap<Arc<str>, Vec<Waiter>>,
    pub commits: u64,
    pub used: u64,
    pub eras: Arc<Eras>,
    /// Offloaded ranges that a reader has come to.
    pub wanted: BTreeSet<(u16, u64)>,
    /// Consumers that are held back.
    pub paused: BTreeSet<u32>,
    /// By consumer and lane, up to where events were handed out.
    pub handed: BTreeMap<(u32, u16), u64>,
    /// How often the cursors of a consumer were moved by an operator.
    pub sought: BTreeMap<u32, u64>,
}

/// What is committed, for everybody.
pub(super) struct Shared {
    pub store: u64,
    /// Whether the run before this one did not close the store, although the machine went on.
    pub died: bool,
    /// By topic, how old its events may get, in milliseconds.
    ttl: Mutex<BTreeMap<String, i64>>,
    /// How often that was changed.
    ttl_changes: AtomicU64,
    view: Mutex<View>,
    pub figures: Figures,
    /// There may be something to offload or to bring back.
    pub offload: Notify,
    /// Intake of ordinary priority meets a mark, or a full disk.
    pub full: AtomicBool,
    /// Who reads for an operator is to end.
    pub closing: AtomicBool,
    generation: AtomicU64,
    /// One more than that of the last database that a read found broken.
    broken: AtomicU64,
}

fn ttl_of(options: &Options) -> BTreeMap<String, i64> {
    options.ttl.iter().map(|(topic, ttl)| (topic.clone(), millis_of(ttl.as_millis()))).collect()
}

impl Shared {
    pub fn new(store: u64, died: bool, options: &Options, index: Index, eras: &Eras) -> Self {
        let (ttl, ttl_changes) = (Mutex::new(ttl_of(options)), AtomicU64::new(0));
        let view = Mutex::new(View { index, eras: Arc::new(eras.clone()), most: options.tails, ..View::default() });
        let (generation, broken) = (AtomicU64::new(0), AtomicU64::new(0));
        let (figures, offload) = (Figures::new(options), Notify::new());
        let (full, closing) = (AtomicBool::new(false), AtomicBool::new(false));
        Shared { store, died, ttl, ttl_changes, view, figures, offload, full, closing, generation, broken }
    }

    /// Which database it is in this run: a broken one is followed by another.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A fresh database serves.
    pub fn renewed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// A read found a database broken.
    pub fn broke(&self, generation: u64, why: &str) {
        if self.broken.swap(generation + 1, Ordering::AcqRel) != generation + 1 {
            log::error!("store: the database is broken: {why}");
        }
    }

    /// Whether a read found the present one broken.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire) == self.generation() + 1
    }

    /// How old events of a topic may get, in milliseconds.
    pub fn ttl(&self, topic: &str) -> i64 {
        self.ttl.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied().unwrap_or(i64::MAX)
    }

    pub fn set_ttl(&self, options: &Options) {
        *self.ttl.lock().unwrap_or_else(PoisonError::into_inner) = ttl_of(options);
        self.ttl_changes.fetch_add(1, Ordering::Release);
    }

    /// Rises whenever `ttl` may give something else.
    pub fn ttl_changes(&self) -> u64 {
        self.ttl_changes.load(Ordering::Acquire)
    }

    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn progress(&self) -> (u64, u64) {
        let view = self.view();
        (view.commits, view.used)
    }

    pub fn registered(&self) -> Vec<String> {
        self.view().index.consumers.values().filter(|c| !c.topics.is_empty()).map(|c| c.name.clone()).collect()
    }

    /// A signal that is given whenever one of the topics grows.
    pub fn signal(&self, topics: &[Arc<str>], tail: bool) -> Arc<Notify> {
        let signal = Arc::new(Notify::new());
        let mut view = self.view();
        for topic in topics {
            let waiters = view.waiters.entry(topic.clone()).or_default();
            waiters.retain(|w| w.signal.strong_count() > 0);
            waiters.push(Waiter { signal: Arc::downgrade(&signal), tail });
        }
        signal
    }

    /// Events that were accepted into a topic.
    pub fn taken(&self, topic: &str) -> u64 {
        let view = self.view();
        let lanes = view.index.lanes.iter().filter(|(_, lane)| *lane.topic == *topic);
        lanes.map(|(_, lane)| lane.next - lane.start + lane.dropped).sum()
    }

    pub fn ledger(&self) -> Vec<Ledger> {
        self.view().index.ledger()
    }
}

impl View {
    /// Fresh batches may take so many bytes from now on.
    pub fn set_most(&mut self, bytes: usize) {
        self.most = bytes;
    }

    /// Takes over what a commit changed and keeps its batches at hand.
    pub fn publish(&mut self, index: &Index, lanes: &[u16], cursors: &[(u32, u16)], fresh: Vec<(u16, Chunk)>) {
        for id in lanes {
            if let Some(lane) = index.lanes.get(id) {
                self.index.lanes.insert(*id, lane.clone());
            }
        }
        for id in cursors {
            if let Some(cursor) = index.cursors.get(id) {
                self.index.cursors.insert(*id, *cursor);
            }
        }
        for (lane, chunk) in fresh {
            self.fresh += chunk.size();
            self.fresh -= self.tails.entry(lane).or_default().push(chunk);
            self.wake(lane);
        }
        // The longest has the readers that lag the most, who read the disk anyway. Each keeps its last: it may not be on disk.
        while self.fresh > self.most
            && let Some(tail) =
                self.tails.values_mut().filter(|tail| tail.chunks.len() > 1).max_by_key(|tail| tail.bytes)
        {
            self.fresh -= tail.pop();
        }
        for id in lanes {
            if let (Some(lane), Some(tail)) = (self.index.lanes.get(id), self.tails.get_mut(id)) {
                let mut readers = self.waiters.get(read_as(&lane.topic)).into_iter().flatten();
                if readers.any(|w| w.tail && w.signal.strong_count() > 0) {
                    continue;
                }
                self.fresh -= tail.drop_below(lane.first);
            }
        }
        self.commits += 1;
    }

    /// Tells who reads a lane's topic that there is something.
    pub fn wake(&self, lane: u16) {
        let Some(lane) = self.index.lanes.get(&lane) else { return };
        for waiter in self.waiters.get(read_as(&lane.topic)).into_iter().flatten().filter_map(|w| w.signal.upgrade()) {
            waiter.notify_one();
        }
    }

    /// Batches in memory from `seq` on, at most `bytes` of them and one more; `None` if `seq` must be read from disk.
    pub fn fresh(&self, lane: u16, seq: u64, bytes: usize) -> Option<Vec<Chunk>> {
        let tail = self.tails.get(&lane)?;
        let at = tail.chunks.partition_point(|c| c.end() <= seq);
        let mut sum = 0;
        let found: Vec<Chunk> = tail
            .chunks
            .range(at..)
            .take_while(|c| {
                let take = sum < bytes;
                sum += c.size();
                take
            })
            .cloned()
            .collect();
        found.first().is_some_and(|c| c.first <= seq).then_some(found)
    }
}

impl Tail {
    /// This and the next give the bytes that went.
    fn push(&mut self, chunk: Chunk) -> usize {
        self.bytes += chunk.size();
        self.chunks.push_back(chunk);
        let mut gone = 0;
        while self.bytes > TAIL_BYTES && self.chunks.len() > 1 {
            gone += self.pop();
        }
        gone
    }

    fn drop_below(&mut self, seq: u64) -> usize {
        let mut gone = 0;
        while self.chunks.front().is_some_and(|c| c.end() <= seq) {
            gone += self.pop();
        }
        gone
    }

    fn pop(&mut self) -> usize {
        let size = self.chunks.pop_front().map_or(0, |chunk| chunk.size());
        self.bytes -= size;
        size
    }
}
