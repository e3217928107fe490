//! How much the store may hold: marks with hysteresis for each class of priorities, and what happens to events over them.

use super::{
    Append, Options, Refusal, Step,
    ballast::Room,
    dead::RETRIED,
    lane::Index,
    rows::{key, seq_of},
    schema,
    writer::{Waiting, Writer},
};
use crate::event::Batch;
use rusqlite::params;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long intake may wait for the offload before it is refused. HTTP clients seldom wait for more than 10 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// Free space of the file system is looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// Rows that one commit evicts at most.
const EVICTED: i64 = 256;
const SOFT: usize = 0;
const HIGH: usize = 1;
const CRITICAL: usize = 2;

/// What happens to events of a topic while the mark of their class is passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Sources are refused.
    #[default]
    Reject,
    /// The topic's oldest events go, those of the lowest priority first.
    DropOldest,
    /// New events are acknowledged and dropped.
    DropNewest,
    /// As `DropNewest`, but one of so many is kept.
    Sample(u32),
    /// The topic's newest events go to an object store, and come back in order.
    Offload,
}

/// What becomes of new events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Store,
    Refuse,
    /// Until the offload has made room.
    Wait,
    Drop,
    Sample(u32),
}

/// The marks, and which are passed. The classes: priorities 0 and 1 are held to `soft`, 2 to 5 to `high`, 6 and 7 to
/// `critical`.
pub(super) struct Space {
    soft: u64,
    high: u64,
    low: u64,
    critical: u64,
    events: Option<(u64, u64)>,
    free: u64,
    over: [bool; 3],
    /// What was measured last: bytes in use, events that not everybody has passed, bytes free around us.
    used: u64,
    stored: u64,
    room: u64,
    looked: Option<Instant>,
    /// The object store did not take what it was given last; when it is tried again.
    pub failing: Option<Instant>,
    /// Events seen since sampling began, by lane.
    turns: HashMap<u16, u64>,
    /// Intake that waits for the offload, and since when.
    pub held: Vec<(Instant, Waiting)>,
}

impl Space {
    pub fn new(options: &Options, room: Option<Room>) -> Self {
        let mut space = Space {
            soft: 0,
            high: 0,
            low: 0,
            critical: 0,
            events: None,
            free: 0,
            over: [false; 3],
            used: 0,
            stored: 0,
            room: u64::MAX,
            looked: None,
            failing: None,
            turns: HashMap::new(),
            held: Vec::new(),
        };
        space.set(options, room);
        space
    }

    /// Other marks: which are passed is seen at the next look.
    pub fn set(&mut self, options: &Options, room: Option<Room>) {
        let high = options.high;
        self.soft = options.soft.unwrap_or(high);
        self.high = high;
        self.low = options.low;
        self.critical = options.critical.unwrap_or(high.saturating_add(high / 16));
        self.events = options.events;
        self.free = options.free.unwrap_or(room.map_or(0, |room| (64 << 20).min(room.total / 16)));
    }

    /// Whether the mark of a priority's class is passed.
    pub fn over(&self, priority: u8) -> bool {
        self.over[match priority {
            0 | 1 => SOFT,
            2..=5 => HIGH,
            _ => CRITICAL,
        }]
    }

    /// Whether any mark is.
    pub fn is_over(&self) -> bool {
        self.over.contains(&true)
    }

    pub fn below_high(&self) -> bool {
        self.used < self.high && self.events.is_none_or(|(high, _)| self.stored < high)
    }

    /// Bytes and events above the low mark.
    pub fn excess(&self) -> (u64, u64) {
        let events = self.events.map_or(0, |(_, low)| self.stored.saturating_sub(low));
        (self.used.saturating_sub(self.low), events)
    }

    /// Bytes and events that go to, or come from, an object store at once: half of what lies between the marks, so that one
    /// that comes back does not send another one away.
    pub fn parcel(&self) -> (u64, u64) {
        let events = self.events.map_or(u64::MAX, |(high, low)| (high - low.min(high)) / 2);
        ((self.high.saturating_sub(self.low) / 2).clamp(1, 1 << 20), events.max(1))
    }

    /// Which marks are passed now; gives whether that changed. A passed one stays so down to `low`; `critical` down to `high`.
    /// Free space counts as full below `free`, as critical below half of it, and as enough again a quarter above.
    fn look(&mut self) -> bool {
        let (used, room, before) = (self.used, self.room, self.over);
        let (high, low) = self.events.unwrap_or((u64::MAX, u64::MAX));
        let critical = high.saturating_add(high / 16);
        let ended = used <= self.low && self.stored <= low && room >= self.free.saturating_add(self.free / 4);
        let calm = used <= self.high && self.stored <= high && room >= self.free;
        let passed = |mark: u64, events: u64, free: u64| used > mark || self.stored > events || room < free;
        for (at, begun, ended) in [
            (SOFT, passed(self.soft, high, self.free), ended),
            (HIGH, passed(self.high, high, self.free), ended),
            (CRITICAL, passed(self.critical, critical, self.free / 2), calm),
        ] {
            self.over[at] = if before[at] { !ended || begun } else { begun };
        }
        before != self.over
    }
}

impl Index {
    /// Events in the store that somebody has not passed.
    pub fn stored(&self) -> u64 {
        let lanes = self.lanes.iter().map(|(id, lane)| {
            let from = self.passed(*id).max(lane.first);
            let (lost, skipped) = self.gone(*id, from, lane.next);
            lane.next.saturating_sub(from).saturating_sub(self.away(*id, from)).saturating_sub(lost + skipped)
        });
        lanes.sum()
    }
}

impl Writer {
    /// After a commit, and now and then: which marks are passed. `used` is given when it was measured.
    pub(super) fn measure(&mut self, used: Option<u64>) {
        if used.is_none() && self.space.events.is_none() {
            return;
        }
        self.space.used = used.unwrap_or(self.space.used);
        if self.space.events.is_some() {
            self.space.stored = self.index.stored();
        }
        if self.space.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.space.looked = Some(Instant::now());
            // What is free inside of the file, which does not shrink, is taken from nobody.
            let inside = schema::unused(&self.db).unwrap_or(0);
            self.space.room = self.disk.ballast.room().map_or(u64::MAX, |room| room.free.saturating_add(inside));
        }
        let before = self.space.over;
        if self.space.look() {
            self.tell(before);
        }
        if self.space.is_over() {
            self.shared.offload.notify_one();
        } else {
            self.space.failing = None;
        }
    }

    fn tell(&self, before: [bool; 3]) {
        let space = &self.space;
        let mut state = format!("{} bytes in use", space.used);
        if space.events.is_some() {
            state += &format!(", {} events", space.stored);
        }
        if space.room < space.free.saturating_mul(2) {
            state += &format!(", {} bytes free around it", space.room);
        }
        match (space.over, before) {
            ([.., true], [.., false]) => log::warn!("store: {state}: over the critical mark"),
            ([_, true, _], [_, false, _]) => log::warn!("store: {state}: over the high mark"),
            ([true, ..], [false, ..]) => log::warn!("store: {state}: over the soft mark"),
            ([false, false, false], _) => log::info!("store: down to {state}: all is taken again"),
            ([.., false], [.., true]) => log::info!("store: down to {state}: below the critical mark"),
            _ => {}
        }
    }

    /// What a consumer gets again was stored before, and nobody brings it from outside: it is not dropped to make room.
    pub(super) fn policy(&self, topic: &str) -> Policy {
        if topic.contains(RETRIED) {
            return Policy::Reject;
        }
        self.options.policies.get(topic).copied().unwrap_or(self.options.when_full)
    }

    fn fate(&self, append: &Append) -> Fate {
        if !self.space.over(append.priority) {
            return Fate::Store;
        }
        match self.policy(&append.topic) {
            Policy::Reject => Fate::Refuse,
            Policy::DropNewest => Fate::Drop,
            Policy::Sample(n) => Fate::Sample(n.max(1)),
            // What else fills the store may leave nothing of this topic to drop.
            Policy::DropOldest if self.holds(&append.topic) => Fate::Store,
            Policy::DropOldest => Fate::Refuse,
            Policy::Offload if self.space.failing.is_some() => Fate::Refuse,
            Policy::Offload if self.space.over[CRITICAL] => Fate::Wait,
            Policy::Offload => Fate::Store,
        }
    }

    fn holds(&self, topic: &str) -> bool {
        self.index.lanes.values().any(|lane| *lane.topic == *topic && lane.next > lane.first)
    }

    /// Why a step is refused, if it is: it is from outside and there is no room, or of a consumer that is elsewhere by now.
    pub(super) fn refusal(&self, step: &Step) -> Option<Refusal> {
        if step.is_intake() && step.appends.iter().any(|append| self.fate(append) == Fate::Refuse) {
            return Some(Refusal::Full);
        }
        step.moves.iter().any(|m| self.sought.contains_key(&m.consumer)).then_some(Refusal::Moved)
    }

    /// Puts steps aside that wait for the offload; gives the others, and those whose wait is over.
    pub(super) fn hold(&mut self, steps: Vec<Waiting>) -> Vec<Waiting> {
        let waits = |writer: &Self, step: &Step| {
            !writer.disk.full && step.is_intake() && step.appends.iter().any(|a| writer.fate(a) == Fate::Wait)
        };
        if self.space.held.is_empty() && !steps.iter().any(|(step, ..)| waits(self, step)) {
            return steps;
        }
        let now = Instant::now();
        let size = |step: &Step| step.appends.iter().map(|a| a.batch.bytes()).sum::<usize>();
        let (mut go, mut bytes) = (Vec::new(), 0);
        let all = std::mem::take(&mut self.space.held).into_iter().chain(steps.into_iter().map(|step| (now, step)));
        for (since, (step, share, reply)) in all {
            if !waits(self, &step) {
                go.push((step, share, reply));
            } else if since.elapsed() < PATIENCE && bytes + size(&step) <= self.options.waiting / 2 {
                bytes += size(&step);
                self.space.held.push((since, (step, share, reply)));
            } else {
                self.note_refused(&step, "the store was full: the offload did not make room in time");
                drop(share);
                reply.send(Err(Refusal::Full)).ok();
            }
        }
        go
    }

    /// What is kept of a batch by its topic's policy, and which of its events are not. Those are counted.
    pub(super) fn thin(&mut self, lane: u16, append: &Append, batch: &Batch) -> Option<(Batch, Vec<u32>)> {
        let every = match self.fate(append) {
            Fate::Drop => None,
            Fate::Sample(n) => Some(u64::from(n)),
            _ => return None,
        };
        let turn = self.space.turns.entry(lane).or_default();
        let mut dropped = Vec::new();
        let kept = batch.only(|index| {
            let keep = every.is_some_and(|n| turn.is_multiple_of(n));
            *turn += 1;
            if !keep {
                dropped.push(index);
            }
            keep
        });
        let count = dropped.len() as u64;
        if let Some(lane) = self.index.lanes.get_mut(&lane) {
            lane.dropped += count;
        }
        for (id, cursor) in self.index.cursors.iter_mut().filter(|((_, l), _)| *l == lane) {
            cursor.dropped += count;
            cursor.evicted += count;
            self.open.cursors.insert(*id);
        }
        self.note_thinned(lane, append.priority, every.is_some(), count);
        self.open.lanes.insert(lane);
        self.open.thinned.insert(lane);
        Some((kept, dropped))
    }

    /// Deletes, in the open transaction, the oldest events of topics that grew over the mark, at least twice as much as came.
    pub(super) fn evict(&mut self) -> rusqlite::Result<()> {
        if !self.space.is_over() {
            return Ok(());
        }
        let mut grown: BTreeMap<Arc<str>, (u64, u64)> = BTreeMap::new();
        for (id, (bytes, count, _)) in &self.open.grown {
            let Some(lane) = self.index.lanes.get(id) else { continue };
            if self.space.over(lane.priority) && self.policy(&lane.topic) == Policy::DropOldest {
                let (b, c) = grown.entry(lane.topic.clone()).or_default();
                (*b, *c) = (*b + bytes, *c + count);
            }
        }
        for (topic, (bytes, count)) in grown {
            let (mut bytes, mut count) = (2 * bytes, 2 * count);
            let mut lanes: Vec<(u8, u16)> = self
                .index
                .lanes
                .iter()
                .filter(|(_, l)| l.topic == topic && self.space.over(l.priority))
                .map(|(id, l)| (l.priority, *id))
                .collect();
            lanes.sort_unstable();
            for (_, id) in lanes {
                if bytes > 0 || count > 0 {
                    (bytes, count) = self.evict_from(id, bytes, count)?;
                }
            }
        }
        Ok(())
    }

    /// Gives how much is still to go from elsewhere.
    fn evict_from(&mut self, id: u16, mut bytes: u64, mut count: u64) -> rusqlite::Result<(u64, u64)> {
        let Some(lane) = self.index.lanes.get(&id) else { return Ok((bytes, count)) };
        // Not what came just now, nor beyond what lies elsewhere.
        let mut limit = self.open.grown.get(&id).map_or(lane.next, |(.., first)| *first);
        if let Some(((l, first), _)) = self.index.offloaded.range((id, lane.first)..).next()
            && *l == id
        {
            limit = limit.min(*first);
        }
        if limit <= lane.first {
            return Ok((bytes, count));
        }
        let (mut end, mut gone) = (None, 0);
        {
            let mut query = self.db.prepare_cached(
                "SELECT id, count, length(body) FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
            )?;
            let mut rows = query.query(params![key(id, lane.first), key(id, limit - 1), EVICTED])?;
            while let Some(row) = rows.next()?.filter(|_| bytes > 0 || count > 0) {
                let (at, n, len): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                end = Some(seq_of(at) + n.unsigned_abs());
                gone += len.unsigned_abs();
                (bytes, count) = (bytes.saturating_sub(len.unsigned_abs()), count.saturating_sub(n.unsigned_abs()));
            }
        }
        let Some(end) = end else { return Ok((bytes, count)) };
        self.db
            .prepare_cached("DELETE FROM batch WHERE id BETWEEN ?1 AND ?2")?
            .execute(params![key(id, 0), key(id, end - 1)])?;
        self.note_evicted(id, end);
        if let Some(lane) = self.index.lanes.get_mut(&id) {
            lane.first = end;
            lane.bytes = lane.bytes.saturating_sub(gone);
            self.db.prepare_cached("UPDATE lane SET first = ?2, next = ?3 WHERE id = ?1")?.execute(params![
                id,
                end as i64,
                lane.next as i64
            ])?;
        }
        for (at, cursor) in self.index.cursors.iter_mut().filter(|((_, l), c)| *l == id && c.seq < end) {
            cursor.evicted += end - cursor.seq;
            cursor.seq = end;
            self.open.cursors.insert(*at);
        }
        self.open.lanes.insert(id);
        Ok((bytes, count))
    }
}
