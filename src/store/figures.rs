//! What the store did since the start, and what it wrote in its life, for who looks on.

use super::{Options, Store, quarantine, schema};
use crate::tally::{Histogram, Intake};
use rusqlite::Connection;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// What was written is noted this often, in a commit that is made anyway: an entry of a table in ten minutes is nothing, and
/// a crash forgets no more.
const NOTED: Duration = Duration::from_secs(600);
/// From a shorter time nobody should tell how long a disk lasts.
const LONG_ENOUGH: Duration = Duration::from_secs(60);
const KEY: &str = "written";

/// What the store did since the start.
#[derive(Debug)]
pub struct Figures {
    /// Nanoseconds of a commit that changed something, and of the part in which it is written and flushed.
    pub commit: Histogram,
    pub flush: Histogram,
    /// Events that such a commit took in.
    pub events: Histogram,
    /// Bytes of events as they came, and as they were written down.
    pub raw: AtomicU64,
    pub packed: AtomicU64,
    /// Bytes that may be written to the disk in its life, if somebody said so.
    pub endurance: Option<u64>,
    /// The database, if it is a file.
    path: Option<PathBuf>,
    intakes: Mutex<BTreeMap<Arc<str>, Arc<Intake>>>,
    since: Instant,
    /// What the process had written when the store was opened, and what the runs before this one had.
    begun: u64,
    before: AtomicU64,
}

/// Bytes that were written to disks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Written {
    /// By this process since the store was opened, and by all that had the store open.
    pub now: u64,
    pub all: u64,
    /// Seconds until the endurance is used up, at the pace of this run.
    pub left: Option<f64>,
}

impl Store {
    /// What it did since the start.
    pub fn figures(&self) -> &Figures {
        &self.shared.figures
    }

    /// Events that were ever accepted into a topic.
    pub fn taken(&self, topic: &str) -> u64 {
        self.shared.taken(topic)
    }
}

impl Figures {
    pub(super) fn new(options: &Options) -> Figures {
        Figures {
            commit: Histogram::default(),
            flush: Histogram::default(),
            events: Histogram::default(),
            raw: AtomicU64::new(0),
            packed: AtomicU64::new(0),
            endurance: options.endurance,
            path: options.path.clone(),
            intakes: Mutex::default(),
            since: Instant::now(),
            begun: of_process().unwrap_or(0),
            before: AtomicU64::new(0),
        }
    }

    /// The counts of a source, by its topic.
    pub fn intake(&self, topic: &Arc<str>) -> Arc<Intake> {
        self.intakes.lock().unwrap_or_else(PoisonError::into_inner).entry(topic.clone()).or_default().clone()
    }

    /// Those of all sources.
    pub fn intakes(&self) -> Vec<(Arc<str>, Arc<Intake>)> {
        let intakes = self.intakes.lock().unwrap_or_else(PoisonError::into_inner);
        intakes.iter().map(|(topic, intake)| (topic.clone(), intake.clone())).collect()
    }

    /// How many databases were set aside since they were broken, and are kept.
    pub fn quarantines(&self) -> u64 {
        self.path.as_deref().map_or(0, quarantine::count)
    }

    /// What was written; nothing where the kernel does not tell.
    pub fn written(&self) -> Option<Written> {
        let now = of_process()?.saturating_sub(self.begun);
        let all = self.before.load(Relaxed).saturating_add(now);
        let pace = now as f64 / self.since.elapsed().as_secs_f64();
        let known = self.endurance.filter(|_| self.since.elapsed() >= LONG_ENOUGH && now > 0);
        Some(Written { now, all, left: known.map(|endurance| endurance.saturating_sub(all) as f64 / pace) })
    }
}

/// Bytes that the process caused to be written to disks.
fn of_process() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

/// When what was written was noted last.
pub(super) struct Wear(Instant);

impl Wear {
    /// Takes up what the runs before this one wrote.
    pub fn load(db: &Connection, figures: &Figures) -> rusqlite::Result<Wear> {
        let before = schema::meta(db, KEY)?.map_or(0, i64::unsigned_abs);
        figures.before.store(before, Relaxed);
        Ok(Wear(Instant::now()))
    }

    /// In a transaction that is open anyway, if it is time, or the end.
    pub fn note(&mut self, db: &Connection, figures: &Figures, end: bool) -> rusqlite::Result<()> {
        if !end && self.0.elapsed() < NOTED {
            return Ok(());
        }
        self.0 = Instant::now();
        let Some(written) = figures.written() else { return Ok(()) };
        let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)";
        db.prepare_cached(sql)?.execute(rusqlite::params![KEY, written.all as i64]).map(drop)
    }
}
