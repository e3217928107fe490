//! The store beside a model of it: whatever is done, and wherever it crashes, both hold the same.
//!
//! A crash is what SIGKILL leaves: the files as they are at that moment. Failing cases are kept in `failing/model.txt` and
//! tried first from then on.

use crate::{kit::folder, size};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, FileFailurePersistence, TestRunner},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tidegate::{
    event::{Batch, Draft},
    store::{Append, Dead, Keep, Move, Options, Put, Reader, Start, Step, Store},
};

/// Topics at priorities: lanes.
const LANES: [(&str, u8); 4] = [("a", 1), ("a", 6), ("b", 4), ("out", 3)];
/// Consumers and what they read; the last is a pipeline, which makes `out`.
const CONSUMERS: [(&str, &[&str]); 3] = [("slow", &["a", "b", "out"]), ("fast", &["b"]), ("pipe", &["a"])];
const PIPE: usize = 2;
const OUT: usize = 3;

/// What is done to a store.
#[derive(Clone, Debug)]
enum Deed {
    /// Appends to a lane, perhaps with ids, some of which came before.
    Append(usize, Events),
    /// A consumer reads some and passes them, perhaps as dead; it waits for the commit, or lets it ride.
    Pass {
        consumer: usize,
        count: usize,
        dead: bool,
        ride: bool,
    },
    /// The pipeline reads some, appends them to `out` and counts them: one step.
    Pipe(usize),
    /// A consumer is forgotten and begins anew, at the end.
    Forget(usize),
    Close,
    Crash,
    /// A crash while an append is under way, which may or may not have happened.
    CrashWithin(usize, Events),
}

#[derive(Clone, Debug)]
enum Events {
    Plain(usize),
    Ids(Vec<u64>),
}

struct Deeds;

impl ReferenceStateMachine for Deeds {
    /// The model lives beside the store: what a crash in a commit did, only the store can tell.
    type State = ();
    type Transition = Deed;

    fn init_state() -> BoxedStrategy<()> {
        Just(()).boxed()
    }

    fn transitions((): &()) -> BoxedStrategy<Deed> {
        let events = || {
            prop_oneof![
                (1..40usize).prop_map(Events::Plain),
                prop::collection::vec(0..60u64, 1..8).prop_map(Events::Ids),
            ]
        };
        prop_oneof![
            6 => (0..OUT, events()).prop_map(|(lane, events)| Deed::Append(lane, events)),
            5 => (0..PIPE, 1..30usize, prop::bool::weighted(0.2), any::<bool>())
                .prop_map(|(consumer, count, dead, ride)| Deed::Pass { consumer, count, dead, ride }),
            4 => (1..30usize).prop_map(Deed::Pipe),
            1 => (0..CONSUMERS.len()).prop_map(Deed::Forget),
            1 => Just(Deed::Close),
            4 => Just(Deed::Crash),
            2 => (0..OUT, events()).prop_map(|(lane, events)| Deed::CrashWithin(lane, events)),
        ]
        .boxed()
    }

    fn apply((): (), _: &Deed) {}
}

/// How far a consumer is in a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cursor {
    start: usize,
    passed: usize,
    dead: usize,
}

/// What should be in the store.
#[derive(Clone, Debug, Default)]
struct Model {
    /// The numbers of all events that a lane ever had.
    lanes: [Vec<u64>; LANES.len()],
    cursors: BTreeMap<(usize, usize), Cursor>,
    ids: BTreeSet<(usize, u64)>,
    dead: usize,
    counted: u64,
}

impl Model {
    fn append(&mut self, lane: usize, numbers: &[u64], ids: bool) {
        for n in numbers {
            if !ids || self.ids.insert((lane, *n)) {
                self.lanes[lane].push(*n);
            }
        }
    }

    fn pass(&mut self, pass: &Pass) {
        let cursor = self.cursors.entry((pass.consumer, pass.lane)).or_default();
        cursor.passed = pass.to;
        cursor.dead += pass.dead;
        self.dead += pass.dead;
    }

    /// accepted, delivered, queued and dead, by topic and consumer; only of lanes that ever had an event.
    fn ledger(&self) -> BTreeMap<(String, String), [u64; 4]> {
        let mut rows: BTreeMap<_, [u64; 4]> = BTreeMap::new();
        for (consumer, (name, topics)) in CONSUMERS.iter().enumerate() {
            let lanes = LANES
                .iter()
                .enumerate()
                .filter(|(lane, (topic, _))| topics.contains(topic) && !self.lanes[*lane].is_empty());
            for (lane, (topic, _)) in lanes {
                let cursor = self.cursors.get(&(consumer, lane)).cloned().unwrap_or_default();
                let (length, row) =
                    (self.lanes[lane].len(), rows.entry((topic.to_string(), name.to_string())).or_default());
                let Cursor { start, passed, dead } = cursor;
                let more = [length - start, passed - start - dead, length - passed, dead];
                row.iter_mut().zip(more).for_each(|(sum, more)| *sum += more as u64);
            }
        }
        rows
    }
}

/// A consumer passed a lane up to an index.
#[derive(Clone, Debug)]
struct Pass {
    consumer: usize,
    lane: usize,
    to: usize,
    dead: usize,
}

/// The store and its model. With `FORGETFUL`, the control, a crash loses the log.
struct Pair<const FORGETFUL: bool> {
    runtime: tokio::runtime::Runtime,
    dir: TempDir,
    store: Store,
    consumers: Vec<u32>,
    readers: Vec<Reader>,
    /// Where the readers stand, by consumer and lane.
    read: BTreeMap<(usize, usize), usize>,
    model: Model,
    /// Passes that ride: on disk with any later commit, or soon.
    riding: Vec<Pass>,
    /// Sequence number of each lane's first event.
    bases: [Option<u64>; LANES.len()],
    next: u64,
}

fn topics(consumer: usize) -> Vec<Arc<str>> {
    CONSUMERS[consumer].1.iter().map(|topic| Arc::from(*topic)).collect()
}

fn memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| folder())
}

fn open(dir: &TempDir) -> Store {
    let keep = [("b".to_owned(), Keep { bytes: Some(2_000), ..Keep::default() })].into();
    Store::open(Options { path: Some(dir.path().join("t.db")), keep, ..Options::default() }).unwrap()
}

fn body(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

fn append(lane: usize, numbers: &[u64], ids: bool) -> Append {
    let mut batch = Batch::default();
    for n in numbers {
        let (id, body) = (n.to_string(), body(*n));
        batch.push(&Draft { id: ids.then_some(&id), body: body.as_bytes(), ..Draft::default() }).unwrap();
    }
    Append { topic: LANES[lane].0.into(), priority: LANES[lane].1, batch }
}

impl<const FORGETFUL: bool> Pair<FORGETFUL> {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = memory();
        let store = open(&dir);
        let (model, read, bases) = (Model::default(), BTreeMap::new(), [None; LANES.len()]);
        let mut pair = Pair {
            runtime,
            dir,
            store,
            consumers: Vec::new(),
            readers: Vec::new(),
            read,
            model,
            riding: Vec::new(),
            bases,
            next: 1_000,
        };
        pair.register();
        pair
    }

    /// Registers everybody again; the readers begin at the cursors.
    fn register(&mut self) {
        let (store, runtime) = (&self.store, &self.runtime);
        let register =
            |at: usize| runtime.block_on(store.consumer(CONSUMERS[at].0, &topics(at), Start::Oldest)).unwrap();
        self.consumers = (0..CONSUMERS.len()).map(register).collect();
        self.readers = (0..CONSUMERS.len()).map(|at| self.store.reader(self.consumers[at], &topics(at))).collect();
        self.read = self.model.cursors.iter().map(|(key, cursor)| (*key, cursor.passed)).collect();
    }

    fn numbers(&mut self, events: &Events) -> (Vec<u64>, bool) {
        match events {
            Events::Ids(ids) => (ids.clone(), true),
            Events::Plain(count) => {
                let from = self.next;
                self.next += *count as u64;
                ((from..self.next).collect(), false)
            }
        }
    }

    fn commit(&mut self, step: Step) {
        self.runtime.block_on(self.store.commit(step)).unwrap();
        let riding = std::mem::take(&mut self.riding);
        riding.iter().for_each(|pass| self.model.pass(pass));
    }

    /// Reads with a consumer's reader, which must give what the model says: of the highest priority, in order.
    fn read(&mut self, consumer: usize, count: usize) -> Option<(usize, u16, u64, Vec<u64>)> {
        let at = |lane: usize| self.read.get(&(consumer, lane)).copied().unwrap_or_default();
        let waiting = (0..LANES.len()).filter(|lane| CONSUMERS[consumer].1.contains(&LANES[*lane].0));
        let waiting = waiting.filter(|lane| at(*lane) < self.model.lanes[*lane].len());
        let lane = waiting.max_by_key(|lane| LANES[*lane].1);
        let lot = self.runtime.block_on(self.readers[consumer].poll(count, 1 << 20)).unwrap();
        let (Some(lane), Some(lot)) = (lane, &lot) else {
            assert!(lane.is_none() && lot.is_none(), "{consumer}: {lane:?} waits, {lot:?} was read");
            return None;
        };
        let from = at(lane);
        let numbers: Vec<u64> = lot
            .events
            .iter()
            .map(|event| {
                assert_eq!((&*event.topic, event.priority), LANES[lane]);
                serde_json::from_slice::<serde_json::Value>(&event.body.to_bytes()).unwrap()["n"].as_u64().unwrap()
            })
            .collect();
        assert!(!numbers.is_empty() && lot.broken.is_none());
        assert_eq!(numbers, self.model.lanes[lane][from..from + numbers.len()], "{:?} for {consumer}", LANES[lane]);
        let base = lot.from - from as u64;
        assert_eq!(*self.bases[lane].get_or_insert(base), base, "numbered anew");
        self.read.insert((consumer, lane), from + numbers.len());
        Some((lane, lot.lane, lot.to, numbers))
    }

    fn pass(&mut self, consumer: usize, count: usize, dead: bool, ride: bool) {
        let Some((lane, id, to, numbers)) = self.read(consumer, count) else { return };
        let letters = if dead { numbers.len().div_ceil(2) } else { 0 };
        let pass = Pass { consumer, lane, to: self.read[&(consumer, lane)], dead: letters };
        let moves =
            vec![Move { consumer: self.consumers[consumer], lane: id, to, dead: letters as u64, ..Move::default() }];
        let letter = Dead {
            consumer: CONSUMERS[consumer].0.into(),
            topic: LANES[lane].0.into(),
            seq: 0,
            event: String::new(),
            reason: "model".into(),
            body: Vec::new(),
        };
        let step = Step { moves, dead: vec![letter; letters], ..Step::default() };
        if ride {
            self.riding.push(pass);
            self.store.ride(step).unwrap();
        } else {
            self.commit(step);
            self.model.pass(&pass);
        }
    }

    fn pipe(&mut self, count: usize) {
        let Some((lane, id, to, numbers)) = self.read(PIPE, count) else { return };
        let counted = self.model.counted + numbers.len() as u64;
        let step = Step {
            inner: true,
            appends: vec![append(OUT, &numbers, false)],
            moves: vec![Move { consumer: self.consumers[PIPE], lane: id, to, ..Move::default() }],
            state: vec![Put {
                owner: "pipe".into(),
                key: b"n".to_vec(),
                value: Some(counted.to_string().into_bytes()),
            }],
            ..Step::default()
        };
        self.commit(step);
        self.model.append(OUT, &numbers, false);
        self.model.pass(&Pass { consumer: PIPE, lane, to: self.read[&(PIPE, lane)], dead: 0 });
        self.model.counted = counted;
    }

    fn forget(&mut self, consumer: usize) {
        // What rides of a consumer that is forgotten may be gone with it.
        self.commit(Step { inner: true, ..Step::default() });
        let (store, name) = (&self.store, CONSUMERS[consumer].0);
        self.runtime.block_on(store.forget(name)).unwrap();
        self.consumers[consumer] =
            self.runtime.block_on(store.consumer(name, &topics(consumer), Start::Newest)).unwrap();
        self.readers[consumer] = store.reader(self.consumers[consumer], &topics(consumer));
        for lane in (0..LANES.len()).filter(|lane| CONSUMERS[consumer].1.contains(&LANES[*lane].0)) {
            let length = self.model.lanes[lane].len();
            self.model.cursors.insert((consumer, lane), Cursor { start: length, passed: length, dead: 0 });
            self.read.insert((consumer, lane), length);
        }
    }

    /// The files as they are go on; `within` is an append under way.
    fn crash(&mut self, within: Option<(usize, &Events)>) {
        let within = within.map(|(lane, events)| (lane, self.numbers(events)));
        let (store, fresh) = (self.store.clone(), memory());
        let begun = within
            .as_ref()
            .map(|(lane, (numbers, ids))| Step { appends: vec![append(*lane, numbers, *ids)], ..Step::default() });
        let pause = Duration::from_micros(self.next * 7919 % 400);
        let from = self.dir.path();
        self.runtime.block_on(async {
            let commit = begun.map(|step| tokio::spawn(async move { store.commit(step).await }));
            tokio::task::yield_now().await;
            std::thread::sleep(pause);
            for name in ["t.db-highest", "t.db", "t.db-wal"].iter().take(if FORGETFUL { 2 } else { 3 }) {
                fs::copy(from.join(name), fresh.path().join(name)).unwrap();
            }
            if let Some(commit) = commit {
                commit.await.unwrap().unwrap();
            }
            self.store.close().await;
        });
        self.reopen(fresh, within);
    }

    /// Opens what is in a folder: of what was under way, some of the passes that rode, in their order, and the append after
    /// all of them, may have happened.
    fn reopen(&mut self, dir: TempDir, within: Option<(usize, (Vec<u64>, bool))>) {
        self.store = open(&dir);
        self.dir = dir;
        let mut candidate = self.model.clone();
        let mut candidates = vec![candidate.clone()];
        for pass in std::mem::take(&mut self.riding) {
            candidate.pass(&pass);
            candidates.push(candidate.clone());
        }
        if let Some((lane, (numbers, ids))) = within {
            candidate.append(lane, &numbers, ids);
            candidates.push(candidate);
        }
        let (before, found) = (self.model.clone(), self.ledger());
        let model = candidates.into_iter().rev().find(|model| model.ledger() == found);
        self.model = model.unwrap_or_else(|| panic!("found {found:#?}\nnot {:#?}", before.ledger()));
        self.register();
    }

    fn ledger(&self) -> BTreeMap<(String, String), [u64; 4]> {
        let rows = self.store.ledger().into_iter().filter(|row| !row.consumer.is_empty());
        rows.map(|row| {
            assert_eq!((row.expired, row.evicted, row.stopped), (0, 0, 0));
            ((row.topic, row.consumer), [row.accepted, row.delivered, row.queued, row.dead])
        })
        .collect()
    }

    /// After every deed: the ledger, the dead letters, the state, and, for who begins at its cursor, every event.
    fn check(&mut self) {
        // What rides may be on disk by now.
        let found = self.ledger();
        let mut sure = self.model.clone();
        while sure.ledger() != found && !self.riding.is_empty() {
            sure.pass(&self.riding.remove(0));
        }
        assert_eq!(sure.ledger(), found);
        self.model = sure;
        let (store, runtime) = (&self.store, &self.runtime);
        if self.riding.is_empty() {
            assert_eq!(
                runtime.block_on(store.letters(&tidegate::store::Which::default(), 10_000)).unwrap().len(),
                self.model.dead
            );
        }
        let state = runtime.block_on(store.state("pipe", b"", 9)).unwrap();
        let state = state.first().map_or(0, |(_, value)| std::str::from_utf8(value).unwrap().parse().unwrap());
        assert_eq!(state, self.model.counted);
        if !self.riding.is_empty() {
            return; // the cursors may move while they are looked at
        }
        let (readers, read) = (std::mem::take(&mut self.readers), self.read.clone());
        self.readers = (0..CONSUMERS.len()).map(|at| self.store.reader(self.consumers[at], &topics(at))).collect();
        self.read = self.model.cursors.iter().map(|(key, cursor)| (*key, cursor.passed)).collect();
        for consumer in 0..CONSUMERS.len() {
            while self.read(consumer, 50).is_some() {}
        }
        (self.readers, self.read) = (readers, read);
    }
}

impl<const FORGETFUL: bool> StateMachineTest for Pair<FORGETFUL> {
    type SystemUnderTest = Self;
    type Reference = Deeds;

    fn init_test((): &()) -> Self {
        Pair::new()
    }

    fn apply(mut pair: Self, (): &(), deed: Deed) -> Self {
        match deed {
            Deed::Append(lane, events) => {
                let (numbers, ids) = pair.numbers(&events);
                pair.commit(Step { appends: vec![append(lane, &numbers, ids)], ..Step::default() });
                pair.model.append(lane, &numbers, ids);
            }
            Deed::Pass { consumer, count, dead, ride } => pair.pass(consumer, count, dead, ride),
            Deed::Pipe(count) => pair.pipe(count),
            Deed::Forget(consumer) => pair.forget(consumer),
            Deed::Close => {
                pair.runtime.block_on(pair.store.close());
                let dir = std::mem::replace(&mut pair.dir, memory());
                pair.reopen(dir, None);
            }
            Deed::Crash => pair.crash(None),
            Deed::CrashWithin(lane, events) => pair.crash(Some((lane, &events))),
        }
        pair.check();
        pair
    }

    fn teardown(pair: Self, (): ()) {
        pair.runtime.block_on(pair.store.close());
    }
}

fn config() -> Config {
    Config {
        cases: size(300, 10_000),
        max_shrink_iters: 3_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/rigs/failing/model.txt"))),
        ..Config::default()
    }
}

prop_state_machine! {
    #![proptest_config(config())]
    #[test]
    fn the_store_is_as_its_model(sequential 1..size(40, 200) => Pair<false>);
}

/// The control.
#[test]
fn a_store_that_forgets_its_log_is_not_as_its_model() {
    let mut runner = TestRunner::deterministic();
    let noticed = (0..20).any(|_| {
        let (state, deeds, _) = Deeds::sequential_strategy(5..20).new_tree(&mut runner).unwrap().current();
        let test = || Pair::<true>::test_sequential(Config::default(), state, deeds, None);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).is_err()
    });
    assert!(noticed);
}
