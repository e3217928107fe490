//! The one thread that writes. It takes everything that waits into one transaction, commits, then answers.

use super::{
    OpenError, Options, Placed, Refusal, Request, Step,
    ballast::{Ballast, Cause},
    begin::{self, Opened},
    dead::Letters,
    eras::Eras,
    figures::Wear,
    given::Given,
    highest::Highest,
    history::History,
    lane::{Index, Shared},
    load::note_closed,
    offload::Errands,
    pause,
    salvage::{self, Salvage},
    schema,
    seen::Seen,
    space::Space,
    step::Open,
    tight::Disk,
    trim,
};
use crate::{budget::Share, clock};
use rusqlite::Connection;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// A step that rides is on disk at the latest after this.
const RIDE: Duration = Duration::from_millis(200);
/// Steps that wait for the offload are looked at this often.
const HELD: Duration = Duration::from_millis(20);
/// Steps taken into one transaction, at most: bounds what one failure takes back.
const GROUP: usize = 4096;

/// The priority of most events.
const ORDINARY: u8 = 4;

type Reply = oneshot::Sender<Result<Vec<Placed>, Refusal>>;
/// A step that somebody waits for.
pub(super) type Waiting = (Step, Share, Reply);

pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) options: Options,
    pub(super) shared: Arc<Shared>,
    /// What is on disk and in the open transaction. After a failure it is read again.
    pub(super) index: Index,
    /// After a failure it could not be read again: nothing in memory is believed.
    pub(super) stale: bool,
    pub(super) seen: Seen,
    pub(super) eras: Eras,
    pub(super) highest: Highest,
    pub(super) base: u64,
    pub(super) disk: Disk,
    pub(super) space: Space,
    pub(super) errands: Errands,
    /// Steps that nobody waits for, folded into one.
    pub(super) riding: Step,
    pub(super) ride_since: Option<Instant>,
    pub(super) trimmer: trim::Trimmer,
    pub(super) letters: Letters,
    pub(super) open: Open,
    pub(super) given: Given,
    pub(super) history: History,
    /// Consumers whose cursors were moved, and how often, until they read from there: what they hand in till then does not count.
    pub(super) sought: BTreeMap<u32, u64>,
    pub(super) wear: Wear,
    pub(super) salvage: Option<Salvage>,
    /// The database is, and no fresh one has taken its place yet; its files were moved.
    pub(super) broken: bool,
    pub(super) moved: bool,
}

/// Opens the file, reads what it holds and starts the thread.
pub(super) fn start(options: Options) -> Result<(Arc<Shared>, mpsc::Sender<Request>), OpenError> {
    let path = options.path.as_deref();
    let mut highest = Highest::open(path)?;
    let ballast = Ballast::beside(path);
    let given = begin::given(path)?;
    ballast.become_wal();
    let opened = match begin::open(&options, &highest, &given) {
        Err(_) if ballast.probe() == Cause::Space && ballast.give_up() => begin::open(&options, &highest, &given),
        opened => opened,
    };
    let Opened { db, store, base, index, seen, eras, died } = opened?;
    let last = index.lanes.values().map(|lane| lane.next).max();
    if let Err(error) = highest.cover(last.unwrap_or(base).max(base))
        && Cause::of(&error) == Cause::Other
    {
        return Err(error.into()); // on a full disk it is tried again before the first number is given out
    }
    clock::set_boot(eras.start());
    clock::set_steady(eras.steady_at_boot());
    let shared = Arc::new(Shared::new(store, died, &options, index.clone(), &eras));
    shared.view().paused = pause::load(&db, &index)?;
    let wear = Wear::load(&db, &shared.figures)?;
    let (send, receive) = mpsc::channel();
    let trimmer = trim::Trimmer::default();
    let space = Space::new(&options, ballast.room());
    let mut writer = Writer {
        db,
        options,
        shared: shared.clone(),
        index,
        stale: false,
        seen,
        eras,
        highest,
        base,
        space,
        errands: Errands::default(),
        disk: Disk::new(ballast),
        riding: Step::default(),
        ride_since: None,
        trimmer,
        letters: Letters::default(),
        open: Open::default(),
        given,
        history: History::default(),
        sought: BTreeMap::new(),
        wear,
        salvage: None,
        broken: false,
        moved: false,
    };
    writer.given.begin(store, &writer.index);
    writer.settle_in();
    if !writer.disk.full && writer.catch_up().is_err() {
        writer.history.doubt();
    }
    writer.begin_salvage();
    thread::Builder::new().name("store-write".into()).spawn(move || writer.run(&receive))?;
    Ok((shared, send))
}

impl Writer {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
        loop {
            let mut wait = self.ride_since.map_or(Duration::from_secs(1), |since| RIDE.saturating_sub(since.elapsed()));
            if !self.space.held.is_empty() {
                wait = wait.min(HELD);
            }
            if self.salvage.is_some() {
                wait = wait.min(salvage::LOOK);
            }
            let mut group = match requests.recv_timeout(wait) {
                Ok(request) => vec![request],
                Err(mpsc::RecvTimeoutError::Timeout) => Vec::new(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.finish(),
            };
            while group.len() < GROUP
                && let Ok(request) = requests.try_recv()
            {
                group.push(request);
            }
            let closed = self.serve(group);
            self.shared.full.store(self.disk.full || self.space.over(ORDINARY), Ordering::Relaxed);
            if let Some(closed) = closed {
                // Only an orderly end is noted; a run whose handles are merely gone has died.
                let start = self.eras.start();
                self.history.close();
                if !(self.options.visit && self.shared.died)
                    && let Err(refusal) = self.alone(|writer| {
                        writer.wear.note(&writer.db, &writer.shared.figures, true)?;
                        note_closed(&writer.db, start)
                    })
                {
                    log::warn!("store: the end of this run could not be written down: {refusal}");
                }
                self.finish();
                drop(self);
                closed.send(()).ok();
                return;
            }
        }
    }

    /// Commits what waits, then does what is not a step. Gives the reply to a close.
    fn serve(&mut self, group: Vec<Request>) -> Option<oneshot::Sender<()>> {
        self.look_at_disk();
        self.broken |= self.shared.is_broken();
        let (mut steps, mut rest) = (Vec::new(), Vec::new());
        for request in group {
            match request {
                Request::Commit { step, share, reply } => steps.push((step, share, reply)),
                Request::Ride(step) => {
                    self.ride_since.get_or_insert_with(Instant::now);
                    self.riding.fold(step);
                }
                Request::Begins(consumer, moved) => self.begins(consumer, moved),
                other => rest.push(other),
            }
        }
        let ride_is_due = self.ride_since.is_some_and(|since| since.elapsed() >= RIDE);
        if self.broken {
            self.transaction(|_| Ok(())).ok();
        }
        if !steps.is_empty() || ride_is_due || !self.space.held.is_empty() {
            self.commit(steps);
        } else if rest.is_empty() && self.ride_since.is_none() {
            self.rest();
        }
        for request in rest {
            match request {
                Request::Consumer { name, topics, start, drops, reply } => {
                    let generation = self.shared.generation();
                    let mut done = self.alone(|w| w.register(&name, &topics, start, drops));
                    if generation != self.shared.generation() {
                        // The database was broken, and a fresh one took its place.
                        done = self.alone(|w| w.register(&name, &topics, start, drops));
                    }
                    reply.send(done).ok();
                }
                Request::Forget { name, reply } => {
                    let done = self.alone(|w| w.forget(&name));
                    reply.send(done).ok();
                }
                Request::Read(read) => {
                    read.run(&self.db);
                }
                Request::Close(reply) => return Some(reply),
                Request::Do(work) => work(self),
                Request::Commit { .. } | Request::Ride(_) | Request::Begins(..) => {}
            }
        }
        self.look_into_gaps();
        self.salvage();
        None
    }

    /// One transaction for all of them: what rides comes first, since it is older.
    pub(super) fn commit(&mut self, steps: Vec<Waiting>) {
        let steps = self.hold(steps);
        if self.disk.full {
            return self.commit_apart(steps);
        }
        let riding = std::mem::take(&mut self.riding);
        self.ride_since = None;
        let mut answers: Vec<Result<Vec<Placed>, Refusal>> = Vec::with_capacity(steps.len());
        let result = self.transaction(|writer| {
            writer.apply(&riding)?;
            for (step, ..) in &steps {
                answers.push(match writer.refusal(step) {
                    Some(refusal) => Err(refusal),
                    None => Ok(writer.apply(step)?),
                });
            }
            Ok(())
        });
        if let Err(refusal) = result {
            self.put_back(riding);
            if self.disk.full {
                return self.commit_apart(steps);
            }
            answers = steps.iter().map(|_| Err(refusal.clone())).collect();
        }
        for ((step, share, reply), answer) in steps.into_iter().zip(answers) {
            if matches!(answer, Err(Refusal::Full)) {
                self.note_refused(&step, "the store was full");
            }
            drop(share);
            reply.send(answer).ok();
        }
    }

    /// A request that is no step, in a transaction of its own.
    pub(super) fn alone<T>(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> Result<T, Refusal> {
        let mut value = None;
        if self.disk.full {
            self.trimmer.waits(); // a delete that finds no room must not stand in its way
        }
        let done = self.transaction(|writer| {
            value = Some(work(writer)?);
            Ok(())
        });
        if let Err(refusal) = done {
            self.read_again().ok(); // such work may have changed what is published
            return Err(refusal);
        }
        value.ok_or(Refusal::Closed)
    }

    /// Begins, works, writes what is open, commits and publishes; or takes everything back.
    pub(super) fn transaction(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<()>) -> Result<(), Refusal> {
        if let Some(refusal) = self.disk.known() {
            return Err(refusal);
        }
        if self.broken && self.options.path.is_some() {
            self.renew().map_err(|error| Refusal::Failed(error.to_string()))?;
        }
        if self.stale {
            self.read_again()?;
        }
        let (now, begun) = (clock::steady_ms(), Instant::now());
        self.eras.note(&clock::stamp());
        let result = self
            .db
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut s| s.execute([]))
            .and_then(|_| work(self))
            .and_then(|()| self.flush(now))
            .and_then(|()| self.end(begun));
        let open = std::mem::take(&mut self.open);
        if let Err(error) = result {
            self.seen.forget();
            self.history.doubt();
            self.letters.doubt();
            return Err(self.take_back(&error));
        }
        self.disk.wrote();
        self.seen.settle(now);
        let noted = self.eras.settle();
        let (lanes, cursors): (Vec<_>, Vec<_>) = (open.lanes.into_iter().collect(), open.cursors.into_iter().collect());
        self.given.note(&self.index, lanes.iter().copied());
        let mut view = self.shared.view();
        if open.dug {
            view.index.holes.clone_from(&self.index.holes);
            view.index.unread.clone_from(&self.index.unread);
        }
        if noted {
            view.eras = Arc::new(self.eras.clone());
        }
        view.publish(&self.index, &lanes, &cursors, open.fresh);
        let used = self.trimmer.note(&mut view, &self.db);
        drop(view);
        if open.moved {
            self.publish_moved(open.spare);
        }
        self.accounted(open.accounted, open.lost);
        open.ended.into_iter().for_each(|note| self.options.trace.ended(note));
        open.left.into_iter().for_each(|(run, stays, badly)| self.options.trace.left(run, stays, badly));
        self.measure(used);
        Ok(())
    }

    /// Commits, and counts what that took: writing and flushing are most of it.
    fn end(&self, begun: Instant) -> rusqlite::Result<()> {
        let flushing = Instant::now();
        self.db.prepare_cached("COMMIT")?.execute([])?;
        if !self.open.fresh.is_empty() || !self.open.cursors.is_empty() {
            self.shared.figures.flush.since(flushing);
            self.shared.figures.commit.since(begun);
        }
        if !self.open.grown.is_empty() {
            self.shared.figures.events.add(self.open.grown.values().map(|(_, events, _)| events).sum());
        }
        Ok(())
    }

    pub(super) fn adopt(&mut self, mut index: Index) {
        self.history.doubt();
        self.letters.doubt();
        for (id, consumer) in &mut index.consumers {
            if let Some(known) = self.index.consumers.get(id) {
                consumer.topics.clone_from(&known.topics);
            }
        }
        self.shared.view().index = index.clone();
        self.index = index;
    }

    /// Nobody waits: look for what retention lets go, and now and then fold the WAL into the database. That the wall clock
    /// was set is written down at once.
    fn rest(&mut self) {
        if self.space.is_over() {
            let used = schema::used(&self.db).ok();
            self.measure(used);
        }
        if self.trimmer.due(&self.index, &self.options, false) || self.eras.learns(&clock::stamp()) {
            self.transaction(|_| Ok(())).ok();
        }
        self.trimmer.checkpoint(&self.db);
    }

    fn finish(&mut self) {
        self.salvage = None;
        if self.ride_since.is_some() {
            self.commit(Vec::new());
        }
        if self.disk.full {
            return schema::keep_wal(&self.db); // its blocks would be gone
        }
        if let Err(error) = self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            log::warn!("store: the last checkpoint failed, the WAL stays: {error}");
        } else {
            self.given.forget_salt();
        }
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
