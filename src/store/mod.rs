//! One SQLite file in WAL mode, and the one thread that writes it.
//!
//! Everything that changes is a [`Step`], committed whole or not at all: what a source took in, what a consumer did with
//! a batch, what a component wants to remember. The writer takes all steps that wait into one transaction, so one flush
//! serves them all, and answers after it. Readers see what is committed, from memory while it is fresh.

mod ballast;
mod begin;
mod carry;
mod change;
mod consumers;
mod dead;
#[cfg(test)]
mod dead_tests;
mod eras;
mod figures;
mod find;
mod given;
mod highest;
mod history;
#[cfg(test)]
mod history_tests;
mod holes;
mod lane;
mod load;
mod losses;
mod offload;
mod opening;
mod pause;
mod peek;
mod quarantine;
mod query;
#[cfg(test)]
mod query_tests;
mod reader;
mod rows;
mod salvage;
#[cfg(test)]
mod salvage_tests;
mod schema;
mod seek;
#[cfg(test)]
mod seek_tests;
mod seen;
mod space;
#[cfg(test)]
mod space_tests;
mod spent;
mod step;
#[cfg(test)]
mod tests;
mod tight;
mod traced;
mod trim;
mod walk;
mod writer;

pub use consumers::AHEAD;
pub use dead::{Letter, Retried, Which};
pub use figures::{Figures, Written};
pub use find::{Reading, Sighting, Whereabouts};
pub use lane::Ledger;
pub use offload::{Errand, Manifest, Parcel};
pub use opening::OpenError;
pub use peek::{Backlog, Found, Stock};
pub use query::{LONGEST as LONGEST_QUERY, MOST_ROWS, Query, Selected};
pub use reader::{Lag, Lot, Reader};
pub use seek::{At, Sought};
pub use seen::{ID, Window};
pub use space::Policy;
pub use spent::{Lost, Spent};
pub use step::Placed;

use crate::{
    budget::{Pool, Pools, Share},
    event::Batch,
    trace::Trace,
};
use lane::Shared;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; `None` keeps everything in memory and loses it at the end.
    pub path: Option<PathBuf>,
    /// Above `high` bytes of rows, a topic's policy holds until they are at most `low`.
    pub high: u64,
    pub low: u64,
    /// The same for priorities 0 and 1; `high` without it.
    pub soft: Option<u64>,
    /// The same for priorities 6 and 7, until there are at most `high`; a sixteenth above it without it.
    pub critical: Option<u64>,
    /// A high and a low mark of events that somebody has not passed.
    pub events: Option<(u64, u64)>,
    /// Bytes of the file system that are left to others; a sixteenth of it, at most 64 MiB, without it.
    pub free: Option<u64>,
    /// What happens to events over the mark, and by topic.
    pub when_full: Policy,
    pub policies: BTreeMap<String, Policy>,
    /// Bytes of steps that may wait for the writer; who comes later waits.
    pub waiting: usize,
    /// Bytes of fresh events that stay in memory, so that who keeps up never reads the disk.
    pub tails: usize,
    /// What sources draw from.
    pub pools: Pools,
    /// How long, and how many, producers' ids are remembered.
    pub window: Window,
    /// By topic, what is kept after every consumer has passed it.
    pub keep: BTreeMap<String, Keep>,
    /// By topic, how old its events may get that a consumer has not passed.
    pub ttl: BTreeMap<String, Duration>,
    /// Where it is recorded what happens to single events.
    pub trace: Trace,
    /// Somebody looks in while no gateway runs: that one died before is not forgotten over it.
    pub visit: bool,
    /// Bytes that may be written to the disk in its life.
    pub endurance: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            path: None,
            high: 1 << 30,
            low: 800 << 20,
            soft: None,
            critical: None,
            events: None,
            free: None,
            when_full: Policy::Reject,
            policies: BTreeMap::new(),
            waiting: 4 << 20,
            tails: 8 << 20,
            pools: Pools::default(),
            window: Window { ms: 3_600_000, ids: 65_536 },
            keep: BTreeMap::new(),
            ttl: BTreeMap::new(),
            trace: Trace::default(),
            visit: false,
            endurance: None,
        }
    }
}

/// Retention of events that every consumer has passed: both limits hold; without any, they go at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    pub age: Option<Duration>,
    /// Of bytes as written (compressed).
    pub bytes: Option<u64>,
}

/// A file beside the database, named after it.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Why a step was not committed. Nothing of it is visible; it may be tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The disk mark is passed or the disk is full; consumers may still commit.
    #[error("the store is full")]
    Full,
    /// One step is larger than all that may wait.
    #[error("{size} bytes at once are more than the {limit} that may wait for the disk")]
    TooLarge { size: usize, limit: usize },
    /// The disk failed; whether the step is on it is unknown, but nobody was told that it is.
    #[error("the disk failed: {0}")]
    Failed(String),
    /// An operator moved the cursors of the consumer: what it has in hand does not count.
    #[error("the consumer's place was changed")]
    Moved,
    /// The gateway is stopping.
    #[error("the store is closed")]
    Closed,
}

/// What one writer of the store did, committed whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Of a consumer, also where no cursor goes forward: a timer of a pipeline. What it appends was taken in before, so it
    /// is taken also when the store is full, and whatever its size.
    pub inner: bool,
    /// Events for topics, at a priority.
    pub appends: Vec<Append>,
    /// Cursors that go forward.
    pub moves: Vec<Move>,
    /// Events that are set aside with a reason.
    pub dead: Vec<Dead>,
    /// Events that count as dead and leave no letter.
    pub dropped: Vec<Dropped>,
    /// What components remember; `None` deletes.
    pub state: Vec<Put>,
    /// Times, in milliseconds since 1970, at which a component wants to be called; `None` deletes.
    pub timers: Vec<(String, Vec<u8>, Option<i64>)>,
}

impl Step {
    /// Whether it brings events from outside.
    fn is_intake(&self) -> bool {
        !self.appends.is_empty() && self.moves.is_empty() && !self.inner
    }

    /// Whether no consumer made it.
    fn is_outside(&self) -> bool {
        self.moves.is_empty() && !self.inner
    }

    /// Adds a later step to this one; moves of the same cursor become one.
    fn fold(&mut self, later: Step) {
        for m in later.moves {
            match self.moves.iter_mut().find(|known| (known.consumer, known.lane) == (m.consumer, m.lane)) {
                Some(known) => {
                    known.to = known.to.max(m.to);
                    known.dead += m.dead;
                    known.evicted += m.evicted;
                    known.expired += m.expired;
                    known.stopped += m.stopped;
                }
                None => self.moves.push(m),
            }
        }
        self.appends.extend(later.appends);
        self.dead.extend(later.dead);
        self.dropped.extend(later.dropped);
        self.state.extend(later.state);
        self.timers.extend(later.timers);
    }
}

/// Events for a topic.
#[derive(Clone, Debug)]
pub struct Append {
    pub topic: Arc<str>,
    pub priority: u8,
    pub batch: Batch,
}

/// A consumer is done with the events of a lane from its cursor up to, not including, `to`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Move {
    pub consumer: u32,
    pub lane: u16,
    pub to: u64,
    /// Of these, how many went to the dead letters, were passed over by retention or a limit, or expired; the rest was
    /// delivered.
    pub dead: u64,
    pub evicted: u64,
    pub expired: u64,
    /// Of the delivered, how many ended in the pipeline.
    pub stopped: u64,
}

/// An event that nobody could do anything with.
#[derive(Clone, Debug)]
pub struct Dead {
    pub consumer: String,
    pub topic: String,
    pub seq: u64,
    pub event: String,
    pub reason: String,
    /// The event with its envelope, JSON; or the bytes of a broken batch.
    pub body: Vec<u8>,
}

/// An event that a consumer gave up, and that nobody wants to see again.
#[derive(Clone, Debug)]
pub struct Dropped {
    pub consumer: String,
    pub topic: String,
    pub event: String,
    pub reason: String,
}

/// A remembered value.
#[derive(Clone, Debug)]
pub struct Put {
    pub owner: String,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// Where a new consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Oldest,
    Newest,
}

enum Request {
    Commit {
        step: Step,
        share: Share,
        reply: oneshot::Sender<Result<Vec<Placed>, Refusal>>,
    },
    /// Need not be on disk before anybody is told: rides with the next commit, or an idle one.
    Ride(Step),
    Consumer {
        name: String,
        topics: Vec<Arc<str>>,
        start: Start,
        /// Whether what it has not passed of other topics is dropped.
        drops: bool,
        reply: oneshot::Sender<Result<u32, Refusal>>,
    },
    Forget {
        name: String,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    Read(rows::Read),
    /// A consumer reads from its cursors, which were moved so often by then: no step of before comes any more.
    Begins(u32, u64),
    /// Work on what is offloaded, and on dead letters.
    Do(Box<dyn FnOnce(&mut writer::Writer) + Send>),
    Close(oneshot::Sender<()>),
}

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    reads: mpsc::Sender<rows::Read>,
    /// Bytes of steps that wait for the writer.
    waiting: Pool,
    pools: Pools,
    trace: Trace,
    /// Of the file, if there is one.
    path: Option<PathBuf>,
    /// One question of an operator at a time.
    queries: Arc<Semaphore>,
}

impl Store {
    /// Opens the store, in a folder that is made if need be, and starts its writer. A file that cannot be read is moved aside and a fresh one begun, with a
    /// line in the log; a newer, a foreign or a locked one is refused untouched.
    pub fn open(options: Options) -> Result<Store, OpenError> {
        let path = options.path.clone();
        Self::open_now(options).map_err(|error| match error {
            OpenError::Newer { .. } | OpenError::Foreign | OpenError::Locked | OpenError::Later(_) => error,
            error => error.seen(ballast::Ballast::beside(path.as_deref()).probe()),
        })
    }

    fn open_now(options: Options) -> Result<Store, OpenError> {
        let waiting = Pool::new(change::may_wait(&options));
        let path = options.path.clone();
        if let Some(path) = &path {
            std::fs::create_dir_all(writer::folder_of(path))?;
        }
        let (pools, trace) = (options.pools.clone(), options.trace.clone());
        let (writer, requests) = writer::start(options)?;
        let reads = match &path {
            Some(path) => rows::start(path, writer.clone())?,
            None => rows::through(requests.clone()),
        };
        let queries = Arc::new(Semaphore::new(1));
        Ok(Store { shared: writer, requests, reads, waiting, pools, trace, path, queries })
    }

    /// What sources draw from before they buffer what comes in.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Where it is recorded what happens to single events.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    async fn committed(&self, step: Step) -> Result<Vec<Placed>, Refusal> {
        let size = 256 + step.appends.iter().map(|a| a.batch.bytes()).sum::<usize>();
        // A consumer cannot split its step: it takes all the room there is.
        let limit = self.waiting.limit();
        if size > limit && step.is_intake() {
            return Err(Refusal::TooLarge { size, limit });
        }
        let mut share = self.waiting.share();
        // It is false only if the limit was lowered meanwhile.
        while !share.wait(size.min(self.waiting.limit())).await {}
        let (reply, answer) = oneshot::channel();
        self.send(Request::Commit { step, share, reply })?;
        answer.await.map_err(|_| Refusal::Closed)?
    }

    /// Hands over a step that rides with the next commit, at the latest after 200 ms. For acknowledgements: if they are
    /// lost, events are delivered again. Its appends and state are committed too, but nobody is told.
    pub fn ride(&self, step: Step) -> Result<(), Refusal> {
        self.send(Request::Ride(step))
    }

    /// Registers a consumer of topics, or finds it again; its cursors hold what it has not passed.
    pub async fn consumer(&self, name: &str, topics: &[Arc<str>], start: Start) -> Result<u32, Refusal> {
        self.register(name, topics, start, true).await
    }

    async fn register(&self, name: &str, topics: &[Arc<str>], start: Start, drops: bool) -> Result<u32, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Consumer { name: name.to_owned(), topics: topics.to_vec(), start, drops, reply })?;
        answer.await.map_err(|_| Refusal::Closed)?
    }

    /// Drops a consumer and its cursors: what only it had not passed is free to go.
    pub async fn forget(&self, name: &str) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Forget { name: name.to_owned(), reply })?;
        answer.await.map_err(|_| Refusal::Closed)?
    }

    /// A reader at the consumer's cursors.
    pub fn reader(&self, consumer: u32, topics: &[Arc<str>]) -> Reader {
        Reader::at_cursors(self.shared.clone(), self.reads.clone(), self.requests.clone(), consumer, topics)
    }

    /// A reader that stands in no lane until it is placed there.
    pub fn reader_nowhere(&self) -> Reader {
        Reader::nowhere(self.shared.clone(), self.reads.clone())
    }

    /// A reader that begins after what is stored now and holds nothing back.
    pub fn tail(&self, topics: &[Arc<str>]) -> Reader {
        Reader::at_end(self.shared.clone(), self.reads.clone(), topics)
    }

    /// What became of every event, by topic and consumer.
    pub fn ledger(&self) -> Vec<Ledger> {
        self.shared.ledger()
    }

    /// Number of commits since the start, and bytes of rows in use.
    pub fn progress(&self) -> (u64, u64) {
        self.shared.progress()
    }

    /// Whether the writer answers within a time. That the disk fails, and it says so, is an answer.
    pub async fn answers(&self, within: Duration) -> Result<(), String> {
        match timeout(within, self.commit(Step::default())).await {
            Err(_) => Err("the store does not answer".into()),
            Ok(Err(refusal @ Refusal::Closed)) => Err(refusal.to_string()),
            Ok(_) => Ok(()),
        }
    }

    /// Whether events of ordinary priority are refused, or what else the policy of their topic says.
    pub fn is_full(&self) -> bool {
        self.shared.full.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether the run before this one ended without closing the store, although the machine went on.
    pub fn died(&self) -> bool {
        self.shared.died
    }

    /// Whether something of a database that was set aside is still to be put back, or to be told.
    pub fn salvaging(&self) -> bool {
        self.shared.view().salvaging
    }

    /// Commits what rides, checkpoints and closes the file. Later calls answer `Closed`.
    pub async fn close(&self) {
        self.shared.closing.store(true, std::sync::atomic::Ordering::Relaxed);
        self.reads.send(rows::Read::END).ok();
        let (reply, answer) = oneshot::channel();
        if self.send(Request::Close(reply)).is_ok() {
            answer.await.ok();
        }
    }

    /// Has the writer do something between two commits.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut writer::Writer) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let work = move |writer: &mut writer::Writer| {
            reply.send(work(writer)).ok();
        };
        self.send(Request::Do(Box::new(work)))?;
        answer.await.map_err(|_| Refusal::Closed)?
    }

    fn send(&self, request: Request) -> Result<(), Refusal> {
        self.requests.send(request).map_err(|_| Refusal::Closed)
    }
}
