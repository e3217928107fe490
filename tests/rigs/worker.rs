//! The process that is cut, killed and failed: it works with a store and says on its standard output what it was promised.
//!
//! Three topics: `a` brings ids and sends again what was not acknowledged, `b` has none, `out` is made of `a` by a consumer
//! with a state, in steps. A consumer `sink` reads all three. Each topic has one writer, so that its events are numbered
//! as they are stored.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tidegate::{
    event::{Batch, Draft},
    store::{Append, Ledger, Move, Options, Placed, Put, Refusal, Start, Step, Store},
};

pub const TOPICS: [&str; 3] = ["a", "b", "out"];
/// Different priorities: a lane each.
const PRIORITIES: [u8; 3] = [4, 7, 2];
/// A commit that is refused more often is given up.
const TRIES: u32 = 200;
/// A store that found the disk full looks again after a second.
const FULL: u32 = 800;
/// All that can be read of a store is read within this.
const PATIENCE: Duration = Duration::from_secs(8);
const VARIABLE: &str = "TIDEGATE_RIG_WORKER";

/// What a worker does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    pub path: PathBuf,
    pub seed: u64,
    /// The first event of `a` that was never acknowledged.
    pub next: u64,
    /// How often it opens the store, works and closes it.
    pub cycles: u32,
    /// Commits of each producer in a cycle, and the most events in one.
    pub commits: u32,
    pub events: u64,
    /// The most bytes in an event's body.
    pub size: u64,
    /// One producer and no reader: what is synced and what is acknowledged happens in one order.
    pub single: bool,
    /// Ends without closing the store.
    pub abrupt: bool,
    /// Says that events are acknowledged before they are: for controls, which must notice.
    pub hasty: bool,
    /// Leaves all events queued.
    pub behind: bool,
}

impl Orders {
    pub fn new(path: PathBuf, seed: u64) -> Orders {
        Orders {
            path,
            seed,
            next: 0,
            cycles: 1,
            commits: 10,
            events: 40,
            size: 200,
            single: false,
            abrupt: false,
            hasty: false,
            behind: false,
        }
    }

    /// Starts the worker, through another program if one is given. Its lines are read from `stdout`.
    pub fn start(&self, through: &[&str]) -> Child {
        let own = std::env::current_exe().unwrap();
        let mut command = match through {
            [] => Command::new(own),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(own);
                command
            }
        };
        command
            .args(["--exact", "worker::process", "--ignored", "--nocapture", "--quiet", "--test-threads=1"])
            .env(VARIABLE, serde_json::to_string(self).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// The body of an event: its number says all of it.
pub fn body(topic: &str, n: u64, size: u64) -> String {
    let mut random = fastrand::Rng::with_seed(n ^ topic.len() as u64);
    let length = n.wrapping_mul(7919) % size.max(1);
    let filler: String = std::iter::repeat_with(|| random.alphanumeric()).take(length as usize).collect();
    format!(r#"{{"n":{n},"topic":"{topic}","size":{size},"x":"{filler}"}}"#)
}

/// The number of an event whose body is what it should be.
fn number(topic: &str, body_of: &[u8], of_size: u64) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(body_of).ok()?;
    let (n, size) = (value["n"].as_u64()?, value["size"].as_u64()?);
    // What `out` has was made of `a`.
    let of = if topic == "out" { "a" } else { topic };
    (value["topic"] == of && size == of_size && body(of, n, size).as_bytes() == body_of).then_some(n)
}

/// A line for who watches; whole, also when the next instruction is the last.
fn tell(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).ok();
    out.flush().ok();
}

macro_rules! say {
    ($($part:tt)*) => { tell(format_args!($($part)*)) };
}

fn topics() -> Vec<Arc<str>> {
    TOPICS.map(Arc::from).to_vec()
}

struct Work {
    store: Store,
    sink: u32,
    pipe: u32,
    watch: u32,
    orders: Orders,
}

#[test]
#[ignore = "a process that the rigs start"]
fn process() {
    let Ok(orders) = std::env::var(VARIABLE) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work(orders));
}

async fn work(mut orders: Orders) {
    for cycle in 0..orders.cycles {
        let work = match Work::begin(&orders).await {
            Ok(work) => Arc::new(work),
            Err(why) => {
                say!("unopened {why}");
                std::process::exit(3);
            }
        };
        let stored = work.report().await;
        say!("ready");
        let mut readers = Vec::new();
        if !orders.single {
            readers.push(tokio::spawn(work.clone().pipe()));
        }
        if !orders.single && !orders.behind {
            readers.push(tokio::spawn(work.clone().sink()));
        }
        orders.next = match orders.single {
            true => work.produce("a", orders.next).await,
            false => tokio::join!(work.produce("a", orders.next), work.produce("b", stored["b"])).0,
        };
        if readers.len() == 2 {
            work.settle().await;
        }
        readers.iter().for_each(tokio::task::JoinHandle::abort);
        if orders.abrupt && cycle + 1 == orders.cycles {
            break;
        }
        work.store.close().await;
        say!("closed");
    }
    say!("done");
    std::process::exit(0);
}

impl Work {
    async fn begin(orders: &Orders) -> Result<Work, String> {
        let options = Options { path: Some(orders.path.clone()), ..Options::default() };
        let store = Store::open(options).map_err(|e| e.to_string())?;
        let sink = store.consumer("sink", &topics(), Start::Oldest).await.map_err(|e| e.to_string())?;
        let pipe = store.consumer("pipe", &[TOPICS[0].into()], Start::Oldest).await.map_err(|e| e.to_string())?;
        let watch = store.consumer("watch", &["gateway".into()], Start::Oldest).await.map_err(|e| e.to_string())?;
        let work = Work { store: store.clone(), sink, pipe, watch, orders: orders.clone() };
        while store.salvaging() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(work)
    }

    /// Says what the store tells of itself.
    async fn listen(&self) {
        let mut reader = self.store.reader(self.watch, &["gateway".into()]);
        while let Ok(Some(lot)) = reader.poll(100, 1 << 20).await {
            for event in lot.events {
                say!("told {}", String::from_utf8_lossy(&event.body.to_bytes()));
            }
        }
    }

    fn random(&self, salt: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.orders.seed ^ salt << 40)
    }

    /// Says what the store holds; gives how many events each topic ever had.
    async fn report(&self) -> BTreeMap<String, u64> {
        let mut stored: BTreeMap<String, u64> = TOPICS.map(|topic| (topic.to_owned(), 0)).into();
        let mut runs: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
        let flush = |topic: &str, (from, to, seq): (u64, u64, u64)| say!("found {topic} {from} {to} {seq}");
        let mut reader = self.store.reader(self.sink, &topics());
        let begun = Instant::now();
        while !reader.at_rest() || self.store.salvaging() {
            // What cannot be read comes back a moment later, or is lost.
            let Ok(Some(lot)) = reader.poll(1000, 1 << 20).await else {
                if begun.elapsed() > PATIENCE {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            if lot.broken.is_some() {
                let lag = reader.lags().into_iter().find(|lag| lag.lane == lot.lane).unwrap();
                let at = PRIORITIES.iter().position(|priority| *priority == lag.priority).unwrap();
                say!("broken {} {} {}", TOPICS[at], lot.from, lot.to);
            }
            for event in lot.events {
                let Some(n) = number(&event.topic, &event.body.to_bytes(), self.orders.size) else {
                    say!("wrong {} {} {}", event.topic, event.seq, String::from_utf8_lossy(&event.body.to_bytes()));
                    continue;
                };
                let run = runs.entry(event.topic.to_string()).or_insert((n, n, event.seq));
                if n != run.1 || event.seq != run.2 + (run.1 - run.0) {
                    flush(&event.topic, *run);
                    *run = (n, n, event.seq);
                }
                run.1 += 1;
            }
        }
        runs.into_iter().for_each(|(topic, run)| flush(&topic, run));
        self.listen().await;
        for row in self.store.ledger() {
            let Ledger { consumer, topic, accepted, delivered, queued, .. } = &row;
            say!("ledger {consumer} {topic} {accepted} {delivered} {queued} {}", row.dead + row.expired + row.evicted);
            stored.insert(topic.clone(), *accepted);
        }
        let state = self.store.state("pipe", b"", 9).await.unwrap_or_default();
        let state = state.first().map_or("0".into(), |(_, value)| String::from_utf8_lossy(value).into_owned());
        say!("state {state}");
        stored
    }

    /// Sends events of a topic, a commit after the other, each until it is acknowledged; gives the next.
    async fn produce(&self, topic: &str, mut next: u64) -> u64 {
        let mut random = self.random(topic.len() as u64 + u64::from(topic.as_bytes()[0]));
        for _ in 0..self.orders.commits {
            let to = next + random.u64(1..=self.orders.events);
            say!("sent {topic} {to}");
            let mut tries = 0;
            let placed = loop {
                if self.orders.hasty {
                    say!("acked {topic} {to}");
                }
                match self.store.commit(step(topic, next..to, self.orders.size)).await {
                    Ok(placed) => break placed,
                    Err(refusal) => {
                        say!("refused {topic} {refusal}");
                        tries += 1;
                        if tries > if matches!(refusal, Refusal::Full) { FULL } else { TRIES } {
                            say!("gave up");
                            std::process::exit(4);
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            };
            // Where the event of number 0 would lie: the same for ever. A commit of repeats alone does not tell.
            match placed[0] {
                Placed { count: 0, .. } => say!("acked {topic} {to}"),
                Placed { first, count, .. } => {
                    say!("acked {topic} {to} {} {first}", (first + u64::from(count)) as i64 - to as i64);
                }
            }
            next = to;
            if random.u8(0..4) == 0 {
                tokio::time::sleep(Duration::from_millis(random.u64(0..4))).await;
            }
        }
        next
    }

    /// A pipeline: what it makes, what it remembers and how far it is are one step.
    async fn pipe(self: Arc<Self>) {
        let mut reader = self.store.reader(self.pipe, &[TOPICS[0].into()]);
        let mut random = self.random(77);
        loop {
            let Ok(lot) = reader.next(random.usize(1..100), 1 << 20).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let mut batch = Batch::default();
            for event in &lot.events {
                batch.push_event(event);
            }
            let last =
                lot.events.last().and_then(|e| number("a", &e.body.to_bytes(), self.orders.size)).unwrap_or_default();
            let value = (last + 1).to_string().into_bytes();
            let step = Step {
                inner: true,
                appends: vec![Append { topic: TOPICS[2].into(), priority: PRIORITIES[2], batch }],
                moves: vec![Move { consumer: self.pipe, lane: lot.lane, to: lot.to, ..Move::default() }],
                state: vec![Put { owner: "pipe".into(), key: b"count".to_vec(), value: Some(value) }],
                ..Step::default()
            };
            if self.store.commit(step).await.is_err() {
                reader.rewind(lot.lane, lot.from);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// A sink: it acknowledges what it read, with a commit that it waits for, or with one that rides, or later.
    async fn sink(self: Arc<Self>) {
        let mut reader = self.store.reader(self.sink, &topics());
        let mut random = self.random(99);
        loop {
            let Ok(lot) = reader.next(random.usize(1..200), 1 << 20).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let Some(last) = lot.events.last() else { continue };
            let topic = last.topic.clone();
            let Some(passed) = number(&topic, &last.body.to_bytes(), self.orders.size).map(|n| n + 1) else {
                say!("wrong {topic} {} read again", last.seq);
                continue;
            };
            let moves = vec![Move { consumer: self.sink, lane: lot.lane, to: lot.to, ..Move::default() }];
            let step = Step { moves, ..Step::default() };
            match random.u8(0..3) {
                0 => {}
                1 => {
                    say!("passing {topic} {passed}");
                    self.store.ride(step).ok();
                }
                _ => {
                    say!("passing {topic} {passed}");
                    if self.store.commit(step).await.is_ok() {
                        say!("passed {topic} {passed}");
                    }
                }
            }
        }
    }

    /// Waits a while for those who read, so that not too much piles up over many cuts.
    async fn settle(&self) {
        for _ in 0..100 {
            let queued: u64 =
                self.store.ledger().iter().filter(|row| row.consumer == "sink").map(|row| row.queued).sum();
            if queued < 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn step(topic: &str, numbers: std::ops::Range<u64>, size: u64) -> Step {
    let mut batch = Batch::default();
    for n in numbers {
        let (id, body) = (format!("{topic}-{n}"), body(topic, n, size));
        batch.push(&Draft { id: (topic == "a").then_some(&id), body: body.as_bytes(), ..Draft::default() }).unwrap();
    }
    let at = TOPICS.iter().position(|known| *known == topic).unwrap();
    Step { appends: vec![Append { topic: topic.into(), priority: PRIORITIES[at], batch }], ..Step::default() }
}
