//! Live events ahead of a backlog.
//!
//! While one of a sink's lanes has a backlog, a second reader stands where that lane ended when it was seen, and in the others
//! where they are, and gets a share of what is sent. What it sent are ranges that the sink remembers, in steps of their own; its cursor stays with the backlog, and
//! passes over a range when it gets there, in the step that forgets the range. So a crash repeats what was sent in the
//! last 200 ms, as it does without, and loses nothing.

use crate::store::{AHEAD as KEY, Lag, Move, Put, Reader, Refusal, Step, Store};
use std::collections::BTreeMap;

/// Ranges of one lane at most. Each begins after a gap twice as long as the one before, so they do for any backlog.
const MOST: usize = 16;

pub(super) struct Ahead {
    /// `sinks.NAME`.
    pub owner: String,
    pub consumer: u32,
    /// How much of what is sent is for live events; without it nothing new is sent ahead.
    pub share: Option<f64>,
    /// Lanes of this priority and above stay in their order: they go before all others anyway.
    pub urgent: u8,
    /// With more than so many events before it, a lane has a backlog.
    pub behind: u64,
    /// Of the live events; it stands only in lanes with ranges, behind the last of them.
    pub reader: Reader,
    lanes: BTreeMap<u16, Vec<Range>>,
    /// Events that are owed to the live ones.
    owed: f64,
}

/// Whether a sink, which has not passed an event, has sent it ahead of its backlog.
pub async fn sent_ahead(store: &Store, sink: &str, lane: u16, seq: u64) -> Result<bool, Refusal> {
    let known = store.state(sink, &[KEY, &lane.to_be_bytes()].concat(), 1).await?;
    let ranges = known.iter().flat_map(|(_, value)| Range::read(value));
    Ok(ranges.into_iter().any(|range| (range.from..range.to).contains(&seq)))
}

/// Events that were sent ahead, and what became of those that were not delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Range {
    from: u64,
    to: u64,
    dead: u64,
    stopped: u64,
    expired: u64,
}

impl Ahead {
    /// Takes up what was remembered of the lanes that the sink reads: it may have read others before.
    pub async fn load(
        store: &Store,
        owner: &str,
        (consumer, backlog): (u32, &mut Reader),
        share: Option<f64>,
        urgent: u8,
        behind: u64,
    ) -> Result<Ahead, Refusal> {
        let mut ahead = Ahead {
            owner: owner.to_owned(),
            consumer,
            share,
            urgent,
            behind,
            reader: store.reader_nowhere(),
            lanes: BTreeMap::new(),
            owed: 0.0,
        };
        let lags = backlog.lags();
        for (key, value) in store.state(owner, KEY, usize::MAX).await? {
            let Some(Ok(lane)) = key.get(KEY.len()..).map(<[u8; 2]>::try_from) else { continue };
            let (lane, ranges) = (u16::from_be_bytes(lane), Range::read(&value));
            if let Some(last) = ranges.last()
                && lags.iter().any(|lag| lag.lane == lane)
            {
                ahead.reader.place(lane, last.to);
                ahead.lanes.insert(lane, ranges);
            }
        }
        Ok(ahead)
    }

    /// Looks how far the backlog is: takes its reader over ranges that it has reached, and begins one where it is far
    /// behind. Gives what is to be committed.
    pub fn look(&mut self, backlog: &mut Reader) -> Step {
        let mut step = Step::default();
        if self.share.is_none() && self.lanes.is_empty() {
            return step;
        }
        let lags = backlog.lags();
        let drains = lags.iter().any(|lag| self.drains(lag));
        for lag in lags {
            let (next, passed) = self.pass(&lag);
            if let Some(passed) = passed {
                backlog.rewind(lag.lane, next);
                step.moves.push(passed);
                step.state.push(self.put(lag.lane));
            }
            if drains && self.share.is_some() && lag.priority < self.urgent {
                self.begin(&Lag { next, ..lag });
            }
            let ranges = self.lanes.get(&lag.lane);
            backlog.stop_at(lag.lane, ranges.and_then(|ranges| ranges.first()).map_or(u64::MAX, |first| first.from));
            if ranges.is_none() {
                self.reader.leave(lag.lane);
            }
        }
        step
    }

    /// Whether a lane has a backlog.
    fn drains(&self, lag: &Lag) -> bool {
        let before = self.lanes.get(&lag.lane).and_then(|ranges| ranges.first()).map_or(0, |first| first.from);
        lag.priority < self.urgent && (lag.end.saturating_sub(lag.next) > self.behind || before > lag.next)
    }

    /// Where the lane's backlog goes on behind the ranges that it has reached, which are forgotten, and the move over them.
    fn pass(&mut self, lag: &Lag) -> (u64, Option<Move>) {
        let (mut next, mut moved) = (lag.next, None);
        let Some(ranges) = self.lanes.get_mut(&lag.lane) else { return (next, moved) };
        while let Some(range) = ranges.first().copied().filter(|range| range.from <= next) {
            ranges.remove(0);
            if range.to > range.from {
                next = next.max(range.to);
                let new = Move { consumer: self.consumer, lane: lag.lane, ..Move::default() };
                let moved: &mut Move = moved.get_or_insert(new);
                moved.to = next;
                moved.dead += range.dead;
                moved.stopped += range.stopped;
                moved.expired += range.expired;
            }
        }
        if ranges.is_empty() {
            self.lanes.remove(&lag.lane);
        }
        (next, moved)
    }

    /// Begins a range: at the end of a lane that is far behind it; in another, where it is, so that what comes there does not
    /// wait for the backlog of others.
    fn begin(&mut self, lag: &Lag) {
        let ranges = self.lanes.entry(lag.lane).or_default();
        let next = ranges.last().map_or(lag.next, |last| last.to);
        let far = ranges.len() < MOST && lag.end.saturating_sub(next) > self.behind << ranges.len();
        if far || ranges.is_empty() {
            let from = if far { lag.end } else { next };
            ranges.push(Range { from, to: from, ..Range::default() });
            self.reader.place(lag.lane, from);
        }
    }

    /// Whether it is the turn of live events.
    pub fn goes_first(&self, backlog: &Reader) -> bool {
        self.share.is_some()
            && !backlog.is_paused()
            && self.reader.waiting().is_some()
            && backlog.waiting().is_none_or(|priority| priority < self.urgent && self.owed >= 0.0)
    }

    /// Live events were delivered; gives what to remember.
    pub fn sent(&mut self, moves: &BTreeMap<u16, Move>, events: usize) -> Vec<Put> {
        self.owe(-(1.0 - self.share.unwrap_or(1.0)) * events as f64);
        for moved in moves.values() {
            if let Some(range) = self.lanes.get_mut(&moved.lane).and_then(|ranges| ranges.last_mut()) {
                range.to = range.to.max(moved.to);
                range.dead += moved.dead;
                range.stopped += moved.stopped;
                range.expired += moved.expired;
            }
        }
        moves.keys().map(|lane| self.put(*lane)).collect()
    }

    /// Others were delivered.
    pub fn stood_back(&mut self, events: usize) {
        if !self.lanes.is_empty() {
            self.owe(self.share.unwrap_or(0.0) * events as f64);
        }
    }

    /// What nobody took in its turn is not saved up for long.
    fn owe(&mut self, events: f64) {
        let most = self.behind as f64;
        self.owed = (self.owed + events).clamp(-most, most);
    }

    fn put(&self, lane: u16) -> Put {
        let key = [KEY, &lane.to_be_bytes()].concat();
        let ranges = self.lanes.get(&lane).filter(|ranges| ranges.iter().any(|range| range.from < range.to));
        Put { owner: self.owner.clone(), key, value: ranges.map(|ranges| Range::write(ranges)) }
    }
}

impl Range {
    fn write(ranges: &[Range]) -> Vec<u8> {
        let numbers = ranges.iter().flat_map(|range| [range.from, range.to, range.dead, range.stopped, range.expired]);
        numbers.flat_map(u64::to_be_bytes).collect()
    }

    fn read(bytes: &[u8]) -> Vec<Range> {
        let numbers: Vec<u64> =
            bytes.chunks_exact(8).filter_map(|b| Some(u64::from_be_bytes(b.try_into().ok()?))).collect();
        let ranges = numbers.chunks_exact(5).filter_map(|chunk| match chunk {
            &[from, to, dead, stopped, expired] => Some(Range { from, to, dead, stopped, expired }),
            _ => None,
        });
        ranges.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Batch, Draft},
        store::{Append, Options, Start},
    };
    use std::sync::Arc;

    #[tokio::test]
    async fn what_became_of_events_that_went_ahead_is_counted_when_the_cursor_passes_them() {
        let store = Store::open(Options::default()).unwrap();
        let mut ahead =
            Ahead::load(&store, "sinks.x", (1, &mut store.reader_nowhere()), Some(0.3), 6, 50).await.unwrap();
        ahead.lanes.insert(1, vec![Range { from: 5, to: 5, ..Range::default() }]);
        let moved = Move { lane: 1, to: 9, dead: 1, stopped: 1, expired: 2, ..Move::default() };
        let put = ahead.sent(&BTreeMap::from([(1, moved)]), 4).remove(0);
        let want = Range { from: 5, to: 9, dead: 1, stopped: 1, expired: 2 };
        assert_eq!(Range::read(&put.value.unwrap()), [want], "over a restart, too");
        let (next, passed) = ahead.pass(&Lag { lane: 1, priority: 4, next: 5, end: 9 });
        let passed = passed.unwrap();
        assert_eq!((next, passed.to, passed.dead, passed.stopped, passed.expired), (9, 9, 1, 1, 2));
    }

    #[tokio::test]
    async fn what_a_sink_does_not_read_any_more_it_does_not_go_on_with() {
        let store = Store::open(Options::default()).unwrap();
        let (one, two): (Arc<str>, Arc<str>) = (Arc::from("one"), Arc::from("two"));
        let both = [one.clone(), two.clone()];
        let consumer = store.consumer("sinks.x", &both, Start::Oldest).await.unwrap();
        let mut batch = Batch::default();
        batch.push(&Draft { body: b"{}", ..Draft::default() }).unwrap();
        let append = |topic: &Arc<str>| Append { topic: topic.clone(), priority: 4, batch: batch.clone() };
        let value = Some(Range::write(&[Range { from: 1, to: 2, ..Range::default() }]));
        let put =
            |lane: u16| Put { owner: "sinks.x".into(), key: [KEY, &lane.to_be_bytes()].concat(), value: value.clone() };
        let step = Step { appends: both.iter().map(append).collect(), state: vec![put(1), put(2)], ..Step::default() };
        store.commit(step).await.unwrap();
        for (topics, lanes) in [(&both[..], 2), (&both[..1], 1)] {
            store.join("sinks.x", topics, Start::Oldest).await.unwrap();
            let mut reader = store.reader(consumer, topics);
            let ahead = Ahead::load(&store, "sinks.x", (consumer, &mut reader), None, 6, 50).await.unwrap();
            assert_eq!((ahead.lanes.len(), ahead.reader.positions().count()), (lanes, lanes));
        }
    }
}
