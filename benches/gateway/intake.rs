//! Durable intake: producers that each commit one event and wait for the answer, beside a plain file with the same
//! group commit. A consumer reads along, acknowledges and lets rows go.

use crate::{sensor, usage};
use std::{
    fs::File,
    io::{Seek, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};
use tidegate::{
    event::{Batch, Draft},
    store::{Append, Move, Options, Start, Step, Store},
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinSet};

/// The first argument of the child that runs under strace.
pub const TRACED: &str = "traced-intake";

/// Where events are made durable.
#[derive(Clone)]
enum Log {
    Store(Store, Arc<str>),
    Raw(mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>),
}

impl Log {
    async fn take(&self, body: Vec<u8>) {
        match self {
            Log::Store(store, topic) => {
                let mut batch = Batch::default();
                batch.push(&Draft { body: &body, ..Draft::default() }).unwrap();
                let append = Append { topic: topic.clone(), priority: 4, batch };
                store.commit(Step { appends: vec![append], ..Step::default() }).await.unwrap();
            }
            Log::Raw(writer) => {
                let (reply, answer) = oneshot::channel();
                writer.send((body, reply)).unwrap();
                answer.await.unwrap();
            }
        }
    }
}

/// Bytes of a file that is written over and over, as the store's WAL is.
const RING: u64 = 8 << 20;

/// The least that is durable: one thread, all that waits in one write and one flush, then the answers. A file that grows
/// costs the file system a journal entry a flush; one that is written over does not, which is the harder reference.
fn raw(path: &Path, recycled: bool) -> Log {
    let mut file = File::create(path).unwrap();
    if recycled {
        file.write_all(&vec![1; RING as usize]).unwrap();
        file.sync_all().unwrap();
        file.rewind().unwrap();
    }
    let (send, receive) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
    thread::spawn(move || {
        while let Ok(first) = receive.recv() {
            let group: Vec<_> = std::iter::once(first).chain(receive.try_iter().take(4096)).collect();
            let mut block = Vec::new();
            for (body, _) in &group {
                block.extend_from_slice(&(body.len() as u32).to_le_bytes());
                block.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
                block.extend_from_slice(body);
            }
            if recycled && file.stream_position().unwrap() + block.len() as u64 > RING {
                file.rewind().unwrap();
            }
            file.write_all(&block).unwrap();
            file.sync_data().unwrap();
            group.into_iter().for_each(|(_, reply)| {
                reply.send(()).ok();
            });
        }
    });
    Log::Raw(send)
}

/// A store with a consumer that keeps up.
async fn store(path: PathBuf) -> Store {
    let store = Store::open(Options { path: Some(path), ..Options::default() }).unwrap();
    let topics = [Arc::from("bench")];
    let consumer = store.consumer("bench", &topics, Start::Oldest).await.unwrap();
    let mut reader = store.reader(consumer, &topics);
    let acknowledged = store.clone();
    tokio::spawn(async move {
        while let Ok(lot) = reader.next(2048, 512 << 10).await {
            let moved = Move { consumer, lane: lot.lane, to: lot.to, ..Move::default() };
            if acknowledged.ride(Step { moves: vec![moved], ..Step::default() }).is_err() {
                return;
            }
        }
    });
    store
}

/// What one slice of time gave.
#[derive(Clone, Copy)]
struct Slice {
    per_second: f64,
    bytes: f64,
    events: f64,
    commits: f64,
}

async fn slice(log: &Log, producers: usize, span: Duration) -> Slice {
    let (stop, events) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for device in 0..producers {
        let (log, stop, events) = (log.clone(), stop.clone(), events.clone());
        tasks.spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                log.take(sensor::body(device, n, 0)).await;
                events.fetch_add(1, Ordering::Relaxed);
                n += 1;
            }
        });
    }
    tokio::time::sleep(span / 5).await; // until the groups have their size
    let commits = |log: &Log| if let Log::Store(store, _) = log { store.progress().0 } else { 0 };
    let before = (events.load(Ordering::Relaxed), usage::written(), commits(log), Instant::now());
    tokio::time::sleep(span).await;
    let seconds = before.3.elapsed().as_secs_f64();
    let (bytes, commits) = (usage::written() - before.1, commits(log) - before.2);
    let events = (events.load(Ordering::Relaxed) - before.0) as f64;
    stop.store(true, Ordering::Relaxed);
    while tasks.join_next().await.is_some() {}
    tokio::time::sleep(Duration::from_millis(300)).await; // what rides is on disk after 200 ms
    Slice { per_second: events / seconds, bytes: bytes as f64 / events, events, commits: commits as f64 }
}

fn median(slices: &[Slice], of: impl Fn(&Slice) -> f64) -> f64 {
    let mut values: Vec<f64> = slices.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A place on the disk of the build, not in memory as `/tmp` may be.
fn place() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub fn table(quick: bool) {
    let (rounds, span) = if quick { (1, Duration::from_millis(700)) } else { (5, Duration::from_secs(2)) };
    let dir = place();
    println!(
        "durable intake, events of {} bytes, one a commit call; beside a plain file with the same group commit, growing or written over",
        sensor::SIZE
    );
    println!(
        "producers | events/s    growing  ratio  recycled  ratio | events/commit flushes/commit | bytes/event growing  ratio"
    );
    Runtime::new().unwrap().block_on(async {
        let stored = store(dir.path().join("bench.db")).await;
        let (stored_log, plain) = (Log::Store(stored.clone(), "bench".into()), raw(&dir.path().join("plain"), false));
        let ring = raw(&dir.path().join("ring"), true);
        slice(&stored_log, 256, span).await; // the WAL reaches its size
        for producers in [1, 16, 128, 512, 1024] {
            let (mut ours, mut theirs, mut rings) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                ours.push(slice(&stored_log, producers, span).await);
                theirs.push(slice(&plain, producers, span).await);
                rings.push(slice(&ring, producers, span).await);
            }
            let (rate, plain_rate) = (median(&ours, |s| s.per_second), median(&theirs, |s| s.per_second));
            let (bytes, plain_bytes) = (median(&ours, |s| s.bytes), median(&theirs, |s| s.bytes));
            let ring_rate = median(&rings, |s| s.per_second);
            let group = median(&ours, |s| s.events / s.commits);
            println!(
                "{producers:9} | {rate:8.0} {plain_rate:10.0} {:6.2} {ring_rate:9.0} {:6.2} | {group:13.1} {:>14} | {bytes:11.0} {plain_bytes:7.0} {:6.2}",
                rate / plain_rate,
                rate / ring_rate,
                flushes(producers, span),
                bytes / plain_bytes
            );
        }
        stored.close().await;
    });
}

/// Runs intake for a while and prints the number of commits; for a parent that counts the flushes.
pub fn traced(producers: usize, millis: u64) {
    let dir = place();
    Runtime::new().unwrap().block_on(async {
        let store = store(dir.path().join("bench.db")).await;
        let log = Log::Store(store.clone(), "bench".into());
        if millis > 0 {
            slice(&log, producers, Duration::from_millis(millis)).await;
        }
        println!("{}", store.progress().0);
        store.close().await;
    });
}

/// Flushes per commit as strace counts them, those of opening and closing taken off.
fn flushes(producers: usize, span: Duration) -> String {
    let count = |millis: u128| -> Option<(f64, f64)> {
        let me = std::env::current_exe().ok()?;
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,sync", "--"]).arg(me);
        let output = strace.args([TRACED, &producers.to_string(), &millis.to_string()]).output().ok()?;
        let commits = String::from_utf8_lossy(&output.stdout).trim().parse().ok()?;
        let calls = String::from_utf8_lossy(&output.stderr).lines().filter(|l| l.contains("sync(")).count();
        Some((calls as f64, commits))
    };
    let (Some((idle, begun)), Some((calls, commits))) = (count(0), count(2 * span.as_millis())) else {
        return "no strace".into();
    };
    format!("{:.2}", (calls - idle) / (commits - begun))
}
