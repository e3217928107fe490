//! Reads topics in order: from memory while it keeps up, from disk when it lags.

use super::{
    Refusal, Request,
    dead::{origin, reads, with_retries},
    eras::Eras,
    lane::{Shared, View},
    rows::{self, Chunk, Read},
};
use crate::{
    clock,
    event::{
        Event,
        batch::{Pause, Place, Records},
    },
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, mpsc},
    time::Duration,
};
use tokio::{sync::Notify, time::sleep};

/// What is missing in the database is looked for again after a moment.
const MOMENT: Duration = Duration::from_millis(5);

/// Events that follow one another in one lane.
#[derive(Debug)]
pub struct Lot {
    pub lane: u16,
    /// Sequence number of the first, and the one after the last.
    pub from: u64,
    pub to: u64,
    pub events: Vec<Event>,
    /// The stored bytes of a batch whose CRC does not fit; then there are no events.
    pub broken: Option<Vec<u8>>,
}

/// Where a reader is in a lane, and where the lane ends.
#[derive(Clone, Copy, Debug)]
pub struct Lag {
    pub lane: u16,
    pub priority: u8,
    pub next: u64,
    pub end: u64,
}

struct Position {
    place: Place,
    /// How old its events may get, in milliseconds.
    ttl: i64,
    next: u64,
    /// Events from here on are not read.
    stop: u64,
    ahead: VecDeque<Chunk>,
    /// Where the first of `ahead` was left, if it was begun.
    pause: Option<Pause>,
}

/// A position in each lane of some topics.
pub struct Reader {
    shared: Arc<Shared>,
    reads: mpsc::Sender<Read>,
    topics: Vec<Arc<str>>,
    /// `None` for one that began at the end and holds nothing back.
    consumer: Option<u32>,
    /// Where the writer is told that it begins at the cursors, and how often these had been moved then.
    begins: Option<mpsc::Sender<Request>>,
    moved: u64,
    lanes: BTreeMap<u16, Position>,
    /// Lanes of a lower priority are not read.
    floor: u8,
    /// Which state of the topics' `ttl` the lanes know.
    ttl_changes: u64,
    signal: Arc<Notify>,
}

impl Reader {
    pub(super) fn at_cursors(
        shared: Arc<Shared>,
        reads: mpsc::Sender<Read>,
        writer: mpsc::Sender<Request>,
        consumer: u32,
        topics: &[Arc<str>],
    ) -> Self {
        let mut reader = Self { begins: Some(writer), ..Self::new(shared, reads, Some(consumer), topics) };
        reader.begin();
        reader
    }

    pub(super) fn at_end(shared: Arc<Shared>, reads: mpsc::Sender<Read>, topics: &[Arc<str>]) -> Self {
        let mut reader = Self::new(shared, reads, None, topics);
        reader.find_lanes(true);
        reader
    }

    pub(super) fn nowhere(shared: Arc<Shared>, reads: mpsc::Sender<Read>) -> Self {
        Self::new(shared, reads, None, &[])
    }

    fn new(shared: Arc<Shared>, reads: mpsc::Sender<Read>, consumer: Option<u32>, topics: &[Arc<str>]) -> Self {
        let name = consumer.and_then(|c| Some(shared.view().index.consumers.get(&c)?.name.clone()));
        let topics = name.map_or_else(|| topics.to_vec(), |name| with_retries(&name, topics));
        let signal = shared.signal(&topics, consumer.is_none());
        let (lanes, ttl_changes) = (BTreeMap::new(), shared.ttl_changes());
        Reader { shared, reads, topics, consumer, begins: None, moved: 0, lanes, floor: 0, ttl_changes, signal }
    }

    /// Begins at the cursors, wherever it stood.
    fn begin(&mut self) {
        self.lanes.clear();
        self.moved = self.times_moved();
        if let (Some(writer), Some(consumer)) = (&self.begins, self.consumer) {
            writer.send(Request::Begins(consumer, self.moved)).ok();
        }
    }

    fn times_moved(&self) -> u64 {
        self.consumer.and_then(|consumer| self.shared.view().sought.get(&consumer).copied()).unwrap_or(0)
    }

    /// Whether the cursors were moved by an operator since it began: what was read is not to be worked on any more.
    pub fn is_moved(&self) -> bool {
        self.times_moved() != self.moved
    }

    /// From now on lanes of a lower priority are not read.
    pub fn only_from(&mut self, priority: u8) {
        self.floor = priority;
    }

    /// Stands in a lane, wherever it stood before.
    pub fn place(&mut self, lane: u16, next: u64) {
        if self.position(lane) == Some(next) {
            return;
        }
        let found = self.shared.view().index.lanes.get(&lane).map(|l| (l.topic.clone(), l.priority));
        if let Some((topic, priority)) = found {
            let topic = origin(&topic);
            let ttl = self.shared.ttl(&topic);
            let place = Place { store: self.shared.store, lane, topic, priority };
            self.lanes.insert(lane, Position::new(place, ttl, next));
        }
    }

    /// Stands in a lane no more.
    pub fn leave(&mut self, lane: u16) {
        self.lanes.remove(&lane);
    }

    /// Reads a lane up to, not including, `stop`.
    pub fn stop_at(&mut self, lane: u16, stop: u64) {
        if let Some(position) = self.lanes.get_mut(&lane) {
            position.stop = stop;
        }
    }

    /// Where it is in each lane.
    pub fn lags(&mut self) -> Vec<Lag> {
        self.find_lanes(false);
        let view = self.shared.view();
        let lag = |(lane, p): (&u16, &Position)| {
            let end = view.index.lanes.get(lane).map_or(p.next, |l| l.next);
            Lag { lane: *lane, priority: p.place.priority, next: p.next, end }
        };
        self.lanes.iter().map(lag).collect()
    }

    /// The priority of what would be read next, of the lanes that are known.
    pub fn waiting(&self) -> Option<u8> {
        self.waiting_lane().and_then(|lane| self.lanes.get(&lane)).map(|position| position.place.priority)
    }

    /// The next events, at most `max` of them and about `bytes`; waits until there is one. Higher priorities first.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self, max: usize, bytes: usize) -> Result<Lot, Refusal> {
        loop {
            if let Some(lot) = self.poll(max, bytes).await? {
                return Ok(lot);
            }
            let signal = self.signal.clone();
            signal.notified().await;
        }
    }

    /// The next events if there are any. Once the cursors were moved it says so, with [`Refusal::Moved`], and goes on there.
    pub async fn poll(&mut self, max: usize, bytes: usize) -> Result<Option<Lot>, Refusal> {
        if self.is_moved() {
            self.begin();
            return Err(Refusal::Moved);
        }
        self.find_lanes(false);
        let Some(lane) = self.waiting_lane() else { return Ok(None) };
        let Some(position) = self.lanes.get(&lane) else { return Ok(None) };
        if position.ahead.is_empty() {
            let seq = position.next;
            let fresh = self.shared.view().fresh(lane, seq, bytes);
            let mut chunks = match fresh {
                Some(chunks) => chunks,
                None => rows::batches(&self.reads, lane, seq).await?,
            };
            // What is not read yet out of a quarantine is waited for.
            let (barrier, known) = {
                let view = self.shared.view();
                (view.index.barrier(lane, seq), view.index.lanes.get(&lane).map(|l| (l.first, l.next)))
            };
            chunks.retain(|chunk| chunk.first < barrier);
            let oldest = known.map_or(seq, |(first, _)| first);
            let first = chunks.first().map_or(oldest, |c| c.first).max(seq);
            // Retention, or a limit, passed over what was between; or it went to the object store, or came from there, while
            // we read. Else it is lost: the writer looks into it and says so.
            if first > seq.max(oldest) && self.consumer.is_some() {
                self.shared.view().gaps.insert((lane, seq.max(oldest)));
                sleep(MOMENT).await;
                self.signal.notify_one();
                return Ok(None);
            }
            let end = known.map_or(first, |(_, next)| next).min(barrier);
            trust(&mut chunks, end);
            let Some(position) = self.lanes.get_mut(&lane) else { return Ok(None) };
            position.next = first;
            let mut end = first;
            let follows = |chunk: &Chunk| chunk.first <= std::mem::replace(&mut end, chunk.end());
            position.ahead = chunks.into_iter().take_while(follows).collect();
        }
        let eras = self.shared.view().eras.clone();
        let lot = self.lanes.get_mut(&lane).and_then(|position| position.take(lane, max, bytes, &eras));
        if let (Some(lot), Some(consumer)) = (&lot, self.consumer) {
            self.shared.view().handed.insert((consumer, lane), lot.to);
        }
        Ok(lot)
    }

    /// Whether nothing is left to read.
    pub fn at_rest(&mut self) -> bool {
        self.find_lanes(false);
        let view = self.shared.view();
        !self.lanes.iter().any(|(id, p)| view.index.lanes.get(id).is_some_and(|l| l.next > p.next))
    }

    /// Goes back in a lane, to do a batch again.
    pub fn rewind(&mut self, lane: u16, seq: u64) {
        if let Some(position) = self.lanes.get_mut(&lane) {
            position.next = seq;
            position.ahead.clear();
            position.pause = None;
        }
    }

    /// Goes back to positions that [`Reader::positions`] gave; lanes that appeared since begin anew.
    pub fn restore(&mut self, positions: &[(u16, u64)]) {
        self.lanes.retain(|lane, _| positions.iter().any(|(known, _)| known == lane));
        for (lane, seq) in positions {
            if self.position(*lane) != Some(*seq) {
                self.rewind(*lane, *seq);
            }
        }
    }

    /// Where the reader stands in a lane: events before this were handed out.
    pub fn position(&self, lane: u16) -> Option<u64> {
        self.lanes.get(&lane).map(|p| p.next)
    }

    /// Lanes and positions, for a consumer that commits its cursors on its own.
    pub fn positions(&self) -> impl Iterator<Item = (u16, u64)> {
        self.lanes.iter().map(|(lane, p)| (*lane, p.next))
    }

    /// Whether an operator holds its consumer back.
    pub fn is_paused(&self) -> bool {
        self.held_by(&self.shared.view())
    }

    fn held_by(&self, view: &View) -> bool {
        self.consumer.is_some_and(|consumer| view.paused.contains(&consumer))
    }

    /// The lane to read next: something is there, and no lane of higher priority has anything. What lies in the object
    /// store is asked for, and not waited for here.
    fn waiting_lane(&self) -> Option<u16> {
        let mut view = self.shared.view();
        if self.held_by(&view) {
            return None;
        }
        let mut wanted = Vec::new();
        let lane = self
            .lanes
            .iter()
            .filter(|(_, p)| p.place.priority >= self.floor)
            .filter(|(id, p)| view.index.lanes.get(id).is_some_and(|l| l.next.min(p.stop) > p.next))
            .filter(|(id, p)| !p.ahead.is_empty() || view.index.barrier(**id, p.next) > p.next)
            .filter(|(id, p)| {
                let away = self.consumer.and_then(|_| view.index.away_at(**id, p.next)).filter(|_| p.ahead.is_empty());
                wanted.extend(away.map(|first| (**id, first)));
                away.is_none()
            })
            .max_by_key(|(id, p)| (p.place.priority, std::cmp::Reverse(**id)))
            .map(|(id, _)| *id);
        for at in wanted {
            if view.wanted.insert(at) {
                self.shared.offload.notify_one();
            }
        }
        lane
    }

    /// Takes up lanes that appeared: at the consumer's cursor, or at their beginning, or (at the start of a tail) end.
    fn find_lanes(&mut self, at_end: bool) {
        let changes = self.shared.ttl_changes();
        if std::mem::replace(&mut self.ttl_changes, changes) != changes {
            for position in self.lanes.values_mut() {
                position.ttl = self.shared.ttl(&position.place.topic);
            }
        }
        let view = self.shared.view();
        for (id, lane) in &view.index.lanes {
            if self.lanes.contains_key(id) || !reads(&self.topics, &lane.topic) {
                continue;
            }
            let cursor = self.consumer.and_then(|c| view.index.cursors.get(&(c, *id))).map(|c| c.seq);
            let next = cursor.unwrap_or(match self.consumer {
                None if at_end => lane.next,
                None => lane.start, // it appeared since; its first events may be in memory only
                Some(_) => lane.first,
            });
            let topic = origin(&lane.topic);
            let ttl = self.shared.ttl(&topic);
            let place = Place { store: self.shared.store, lane: *id, topic, priority: lane.priority };
            self.lanes.insert(*id, Position::new(place, ttl, next));
        }
        // What is gone is passed over.
        if !view.index.holes.is_empty() {
            for (lane, position) in self.lanes.iter_mut().filter(|(_, position)| position.ahead.is_empty()) {
                position.next = view.index.land(*lane, position.next);
            }
        }
    }
}

/// The count of a batch whose CRC does not fit is not believed: it ends where the next one begins, at the latest.
fn trust(chunks: &mut [Chunk], end: u64) {
    let mut next = end;
    for chunk in chunks.iter_mut().rev() {
        if chunk.data.is_err() {
            chunk.count = chunk.count.clamp(1, next.saturating_sub(chunk.first).max(1));
        }
        next = chunk.first;
    }
}

impl Position {
    fn new(place: Place, ttl: i64, next: u64) -> Self {
        Position { place, ttl, next, stop: u64::MAX, ahead: VecDeque::new(), pause: None }
    }

    fn take(&mut self, lane: u16, max: usize, bytes: usize, eras: &Eras) -> Option<Lot> {
        let mut lot = Lot { lane, from: self.next, to: self.next, events: Vec::new(), broken: None };
        let mut size = 0;
        let now = (clock::mono_ms(), clock::steady_ms());
        while let Some(chunk) = self.ahead.front().filter(|_| lot.to < self.stop) {
            let data = match &chunk.data {
                Ok(data) => data,
                Err(_) if !lot.events.is_empty() => break,
                Err(stored) => {
                    lot.to = chunk.end();
                    lot.broken = Some(stored.clone());
                    self.ahead.pop_front();
                    break;
                }
            };
            let mut records = match self.pause.take() {
                Some(pause) => Records::resume(data, &self.place, pause),
                None => Records::new(data, &self.place, chunk.first),
            };
            if records.skip_to(lot.to).is_none() {
                lot.to = chunk.end();
            }
            while lot.to < chunk.end().min(self.stop) && lot.events.len() < max && size < bytes {
                let Some(mut event) = records.next() else {
                    lot.to = chunk.end(); // cannot happen while the CRC holds; never loop on it
                    break;
                };
                event.expires = expiry(&event, self.ttl, eras, now);
                eras.mend(&mut event.stamp);
                size += event.body.size() + event.meta.len();
                lot.to = records.seq();
                lot.events.push(event);
            }
            if lot.to < chunk.end() {
                self.pause = Some(records.pause());
                break;
            }
            self.ahead.pop_front();
        }
        self.next = lot.to;
        (lot.to > lot.from).then_some(lot)
    }
}

/// When an event is too old for everybody, by the steady clock. `now`: the monotonic and the steady clock.
fn expiry(event: &Event, ttl: i64, eras: &Eras, (mono, steady): (u64, i64)) -> i64 {
    let ttl = event.ttl.map_or(ttl, |seconds| ttl.min(i64::from(seconds) * 1000));
    if ttl == i64::MAX {
        return i64::MAX;
    }
    steady.saturating_sub(eras.age(&event.stamp, mono)).saturating_add(ttl)
}
