//! What has come from a port and is not on disk yet. The port goes on whatever the store does, so there is a limit.

use super::{Broken, Came, framing::Counts};
use crate::{
    event::{Batch, Draft, When, json::write_string},
    fault::Fault,
    kind::Intake,
    store::{Dead, Refusal, Step},
    systems::serial::Line,
};
use std::{
    collections::VecDeque,
    mem::{size_of, take},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Bytes that wait at most: 20 seconds of a port at 115,200 baud.
const KEEP: usize = 256 << 10;
/// Bytes that go into one commit.
const BATCH: usize = 128 << 10;
/// Bytes of a broken frame that are kept with the reason.
const KEPT: usize = 4 << 10;
/// A store that refuses is asked again after so long.
const REFUSED: Duration = Duration::from_millis(250);

pub(super) struct Waiting {
    /// The port, as meta has it.
    path: String,
    /// Broken frames go to the dead letters.
    dead: bool,
    inner: Mutex<Inner>,
    came: Notify,
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
    /// What was lost and no event tells of yet.
    missed: Missed,
    /// Dropped since the store began to refuse.
    dropped: u64,
    /// Nothing more comes.
    ended: bool,
}

/// A body, or with a reason the bytes of a broken frame.
struct Item {
    /// Milliseconds of the monotonic clock.
    time: u64,
    bytes: Vec<u8>,
    broken: Option<Broken>,
    missed: Option<Box<Missed>>,
}

/// What came and is no event.
#[derive(Clone, Copy, Default, PartialEq)]
struct Missed {
    broken: Counts,
    dropped: u64,
}

impl Item {
    fn size(&self) -> usize {
        size_of::<Item>() + self.bytes.capacity() + self.missed.as_ref().map_or(0, |_| size_of::<Missed>())
    }
}

impl Missed {
    fn and(&mut self, other: &Missed) {
        self.broken = self.broken.and(&other.broken);
        self.dropped += other.dropped;
    }

    /// Writes the meta of an event.
    fn write(missed: Option<&Missed>, path: &str, meta: &mut Vec<u8>) {
        meta.clear();
        meta.extend_from_slice(b"{\"path\":");
        write_string(path, meta);
        if let Some(missed) = missed {
            let dropped = Some(("dropped", missed.dropped)).filter(|(_, count)| *count > 0);
            let each = missed.broken.each().chain(dropped).map(|(name, count)| format!("\"{name}\":{count}"));
            let each: Vec<String> = each.collect();
            meta.extend_from_slice(format!(",\"missed\":{{{}}}", each.join(",")).as_bytes());
        }
        meta.push(b'}');
    }
}

impl Inner {
    fn put(&mut self, item: Item) {
        self.bytes += item.size();
        self.items.push_back(item);
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= item.size();
        Some(item)
    }

    /// Drops the oldest, down to the limit.
    fn bound(&mut self) {
        while self.bytes > KEEP {
            let Some(item) = self.pop() else { return };
            if item.broken.is_none() {
                self.missed.dropped += 1;
                self.dropped += 1;
            }
            self.missed.and(item.missed.as_deref().unwrap_or(&Missed::default()));
        }
    }
}

impl Waiting {
    pub fn new(line: &Line, dead: bool) -> Waiting {
        let path = line.path.to_string_lossy().into_owned();
        Waiting { path, dead, inner: Mutex::default(), came: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A port was opened.
    pub fn begin(&self) {
        self.inner().ended = false;
    }

    /// The port is closed; what waits is still committed, if the store takes it.
    pub fn end(&self) {
        self.inner().ended = true;
        self.came.notify_one();
    }

    /// Whether what one read can bring fits without dropping anything.
    pub fn has_room(&self) -> bool {
        self.inner().bytes < KEEP / 2
    }

    pub fn add(&self, time: u64, came: Came<'_>) {
        let mut inner = self.inner();
        match came {
            Ok(body) => {
                let missed = take(&mut inner.missed);
                let missed = (missed != Missed::default()).then(|| Box::new(missed));
                inner.put(Item { time, bytes: body.to_vec(), broken: None, missed });
            }
            Err((why, bytes)) => {
                inner.missed.broken.add(why);
                if self.dead && why != Broken::Noise {
                    let bytes = bytes[..bytes.len().min(KEPT)].to_vec();
                    inner.put(Item { time, bytes, broken: Some(why), missed: None });
                }
            }
        }
        inner.bound();
        drop(inner);
        self.came.notify_one();
    }

    /// Commits what comes, until the port has ended and nothing waits, or the store refuses then.
    pub async fn commit(&self, intake: &Intake, linger: Duration) -> Result<(), Fault> {
        let mut refused = false;
        loop {
            let (empty, ended) = {
                let inner = self.inner();
                (inner.items.is_empty(), inner.ended)
            };
            match (empty, ended) {
                (true, true) => return Ok(()),
                (true, false) => {
                    self.came.notified().await;
                    continue;
                }
                (false, true) => {}
                (false, false) => tokio::time::sleep(linger).await,
            }
            let mut lot = self.take();
            let Err(refusal) = self.append(intake, &mut lot).await else {
                if take(&mut refused) {
                    let dropped = take(&mut self.inner().dropped);
                    log::info!("sources.{}: the store takes again; {dropped} frames were dropped", intake.topic());
                }
                continue;
            };
            self.give_back(lot);
            if let Refusal::TooLarge { .. } | Refusal::Closed = refusal {
                return Err(super::super::refused(refusal));
            }
            if !std::mem::replace(&mut refused, true) {
                let topic = intake.topic();
                log::warn!("sources.{topic}: {refusal}; the newest {} KiB from the port are kept", KEEP >> 10);
            }
            if self.inner().ended {
                return Ok(()); // what waits is committed when the port is there again
            }
            tokio::time::sleep(REFUSED).await;
        }
    }

    /// The oldest, as many as one commit takes.
    fn take(&self) -> Vec<Item> {
        let (mut lot, mut bytes, mut inner) = (Vec::new(), 0, self.inner());
        while bytes < BATCH {
            let Some(item) = inner.pop() else { break };
            bytes += item.size();
            lot.push(item);
        }
        lot
    }

    fn give_back(&self, lot: Vec<Item>) {
        let mut inner = self.inner();
        for item in lot.into_iter().rev() {
            inner.bytes += item.size();
            inner.items.push_front(item);
        }
        inner.bound();
    }

    /// Commits a lot; what remains of it in the end is not on disk.
    async fn append(&self, intake: &Intake, lot: &mut Vec<Item>) -> Result<(), Refusal> {
        let (mut batch, mut dead, mut meta, mut unfit) = (Batch::default(), Vec::new(), Vec::new(), 0);
        let letter = |reason: String, bytes: &[u8]| Dead {
            consumer: intake.topic().to_string(),
            topic: intake.topic().to_string(),
            seq: 0,
            event: String::new(),
            reason,
            body: bytes[..bytes.len().min(KEPT)].to_vec(),
        };
        for item in lot.iter() {
            if let Some(why) = item.broken {
                dead.push(letter(format!("a broken frame from `{}`: {}", self.path, why.name()), &item.bytes));
                continue;
            }
            Missed::write(item.missed.as_deref(), &self.path, &mut meta);
            let draft =
                Draft { time: Some(When::Sampled(item.time)), meta: &meta, body: &item.bytes, ..Draft::default() };
            if let Err(why) = intake.push(&mut batch, &draft) {
                unfit += 1;
                dead.push(letter(format!("a frame from `{}`: {why}", self.path), &item.bytes));
            }
        }
        if !dead.is_empty() {
            intake.store().commit(Step { dead, ..Step::default() }).await?;
        }
        if !batch.is_empty() {
            intake.append(batch).await?;
        }
        if unfit > 0 {
            log::warn!("sources.{}: {unfit} frames were no event and are dead letters", intake.topic());
        }
        lot.clear();
        Ok(())
    }
}
