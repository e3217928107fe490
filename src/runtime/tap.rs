//! Copies of events as they pass, for who looks on. The flow never waits for them: what finds no room is left out, and counted.

use super::status::Running;
use crate::{
    event::Event,
    expr::Expr,
    store::{Lot, Reader},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::mpsc;

/// Lines that wait for who looks on, and bytes of them but for the first: a screen or two.
const LINES: usize = 512;
const BYTES: usize = 256 << 10;
/// Events of a topic that are read at once.
const AT_ONCE: usize = 256;
/// Who is more events behind in a topic goes on at its end: he reads the disk otherwise.
const BEHIND: u64 = 10_000;

/// Behind a process: who listens there. Without anybody, that is one look at a flag.
#[derive(Default)]
pub(super) struct Tap {
    on: AtomicBool,
    ears: Mutex<Vec<Ear>>,
}

/// One who listens.
struct Ear {
    when: Option<Expr>,
    lines: mpsc::Sender<Vec<u8>>,
    room: Arc<Room>,
}

#[derive(Default)]
struct Room {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Tap {
    /// Events come out of the process.
    pub fn pass(&self, events: &[Event]) {
        if self.on.load(Relaxed) {
            self.tell(events);
        }
    }

    #[cold]
    fn tell(&self, events: &[Event]) {
        let mut ears = self.ears();
        ears.retain(|ear| !ear.lines.is_closed());
        events.iter().for_each(|event| ears.iter().for_each(|ear| ear.hear(event)));
        self.on.store(!ears.is_empty(), Relaxed);
    }

    fn listen(&self, when: Option<Expr>) -> From {
        let ((lines, heard), room) = (mpsc::channel(LINES), Arc::new(Room::default()));
        let mut ears = self.ears();
        ears.push(Ear { when, lines, room: room.clone() });
        self.on.store(true, Relaxed);
        From::Process(heard, room)
    }

    fn ears(&self) -> MutexGuard<'_, Vec<Ear>> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ear {
    fn hear(&self, event: &Event) {
        if !wanted(self.when.as_ref(), event) {
            return;
        }
        let held = self.room.bytes.load(Relaxed);
        match self.lines.try_reserve() {
            Ok(place) if held == 0 || held + event.body.size() + event.meta.len() < BYTES => {
                let line = line(event);
                self.room.bytes.fetch_add(line.len(), Relaxed);
                place.send(line);
            }
            _ => drop(self.room.dropped.fetch_add(1, Relaxed)),
        }
    }
}

/// A condition that cannot be told does not hold.
fn wanted(when: Option<&Expr>, event: &Event) -> bool {
    when.is_none_or(|when| when.test(event).unwrap_or(false))
}

fn line(event: &Event) -> Vec<u8> {
    let mut line = Vec::new();
    event.write_envelope(&mut line);
    // A body stays as it came: with line ends between its parts, it may be.
    line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    line.push(b'\n');
    line
}

/// What passes somewhere, from the moment on at which it was asked for.
pub struct Passing(From);

enum From {
    Process(mpsc::Receiver<Vec<u8>>, Arc<Room>),
    Topic(Box<Topic>),
}

struct Topic {
    reader: Reader,
    when: Option<Expr>,
    ready: VecDeque<Vec<u8>>,
    /// Where it was in each lane.
    at: BTreeMap<u16, u64>,
    dropped: u64,
}

impl Passing {
    /// The next event with its envelope, as a line; waits for it. Nothing at the end of the gateway, or of the process.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        match &mut self.0 {
            From::Process(lines, room) => {
                let line = lines.recv().await?;
                room.bytes.fetch_sub(line.len(), Relaxed);
                Some(line)
            }
            From::Topic(topic) => topic.next().await,
        }
    }

    /// Events that passed and found no room.
    pub fn dropped(&self) -> u64 {
        match &self.0 {
            From::Process(_, room) => room.dropped.load(Relaxed),
            From::Topic(topic) => topic.dropped,
        }
    }
}

impl Topic {
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            for lag in self.reader.lags() {
                self.at.entry(lag.lane).or_insert(lag.next);
                if lag.end.saturating_sub(lag.next) > BEHIND {
                    self.reader.rewind(lag.lane, lag.end);
                }
            }
            let lot = self.reader.next(AT_ONCE, BYTES).await.ok()?;
            self.take(&lot);
        }
    }

    fn take(&mut self, lot: &Lot) {
        let before = self.at.insert(lot.lane, lot.to).unwrap_or(lot.from);
        self.dropped += lot.from.saturating_sub(before);
        let wanted = lot.events.iter().filter(|event| wanted(self.when.as_ref(), event));
        self.ready.extend(wanted.map(line));
    }
}

impl Running {
    /// What passes a process, `PIPELINE.PROCESS`, or comes into a topic, from now on. The error says what there is.
    pub fn tap(&self, target: &str, when: Option<Expr>) -> Result<Passing, String> {
        let (processes, mut topics) = (self.taps(), self.topics());
        let name = target.strip_prefix("pipelines.").unwrap_or(target);
        if let Some((_, meter)) = processes.iter().find(|(known, _)| known == name) {
            return Ok(Passing(meter.tap.listen(when)));
        }
        if topics.contains(target) {
            let reader = self.store().tail(&[target.into()]);
            let topic = Topic { reader, when, ready: VecDeque::new(), at: BTreeMap::new(), dropped: 0 };
            return Ok(Passing(From::Topic(Box::new(topic))));
        }
        topics.extend(processes.into_iter().map(|(name, _)| name));
        Err(format!("there is no topic or process `{target:.80}`; there are: {}", Vec::from_iter(topics).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Body;
    use std::time::Duration;

    fn events(range: std::ops::Range<u64>) -> Vec<Event> {
        let body = |n| Body::parse(format!("{{\n\"n\": {n}}}").into_bytes().into()).unwrap();
        range.map(|n| Event::made(n.to_string(), "t".into(), 0, body(n))).collect()
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_nobody_waits() {
        let tap = Tap::default();
        tap.pass(&events(0..10));
        let even = Expr::parse("event.n % 2 == 0").unwrap();
        let (mut all, mut some) = (Passing(tap.listen(None)), Passing(tap.listen(Some(even))));
        tap.pass(&events(0..3000));
        assert_eq!((all.dropped(), some.dropped()), (3000 - LINES as u64, 1500 - LINES as u64));
        let line = String::from_utf8(some.next().await.unwrap()).unwrap();
        assert!(line.ends_with("\"body\":{ \"n\": 0}}\n"), "{line}");
        assert!(String::from_utf8(some.next().await.unwrap()).unwrap().contains("\"n\": 2}"));
        for _ in 0..LINES {
            all.next().await.unwrap();
        }
        // A large one is taken where nothing waits, and leaves no room for others.
        let large = Body::parse(format!("{{\"a\":\"{}\"}}", "x".repeat(BYTES)).into_bytes().into()).unwrap();
        tap.pass(&[Event::made("large".into(), "t".into(), 0, large)]);
        let before = all.dropped();
        tap.pass(&events(0..1));
        assert_eq!((all.dropped() - before, all.next().await.unwrap().len() > BYTES), (1, true));
        // Who has gone costs nothing any more.
        drop((all, some));
        tap.pass(&events(0..1));
        assert!(!tap.on.load(Relaxed) && tap.ears().is_empty());
    }

    #[tokio::test]
    async fn who_is_far_behind_in_a_topic_goes_on_at_its_end() {
        use crate::store::{Append, Options, Step, Store};
        let store = Store::open(Options::default()).unwrap();
        let append = async |range: std::ops::Range<u64>| {
            let mut batch = crate::event::Batch::default();
            events(range).iter().for_each(|event| batch.push_event(event));
            let appends = vec![Append { topic: "t".into(), priority: 4, batch }];
            store.commit(Step { appends, ..Step::default() }).await.unwrap();
        };
        append(0..5).await;
        let (reader, ready) = (store.tail(&["t".into()]), VecDeque::new());
        let topic = Topic { reader, when: None, ready, at: BTreeMap::new(), dropped: 0 };
        let mut passing = Passing(From::Topic(Box::new(topic)));
        assert!(tokio::time::timeout(Duration::from_millis(1), passing.next()).await.is_err());
        append(5..6).await;
        assert!(String::from_utf8(passing.next().await.unwrap()).unwrap().contains("\"n\": 5}"));
        append(6..6 + BEHIND + 1).await;
        assert!(tokio::time::timeout(Duration::from_millis(1), passing.next()).await.is_err());
        append(9..10).await;
        assert!(String::from_utf8(passing.next().await.unwrap()).unwrap().contains("\"n\": 9}"));
        assert_eq!(passing.dropped(), BEHIND + 1);
    }
}
