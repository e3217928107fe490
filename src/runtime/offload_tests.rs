//! The errands over a real store, with an object store that fails as sticks do.

use super::{links::Links, offload::Offload};
use crate::{
    event::{Batch, Draft},
    fault::Fault,
    store::{Append, Move, Options, Policy, Reader, Start, Step, Store},
    systems::objects::Objects,
};
use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// A map that is full, or that cannot be written at all.
#[derive(Default)]
struct Stick {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    full: AtomicBool,
    stuck: AtomicBool,
}

impl Stick {
    fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
}

#[async_trait]
impl Objects for Stick {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.objects.lock().unwrap().get(key).cloned())
    }

    async fn put(&self, key: &str, object: &[u8]) -> Result<(), Fault> {
        if self.full.load(SeqCst) {
            return Err(Fault::retry("full"));
        }
        self.objects.lock().unwrap().insert(key.into(), object.into());
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), Fault> {
        if self.stuck.load(SeqCst) {
            return Err(Fault::retry("stuck"));
        }
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }

    async fn list(&self, _: &str, after: Option<&str>, _: usize) -> Result<Vec<String>, Fault> {
        Ok(self.keys().into_iter().filter(|key| after.is_none_or(|after| key.as_str() > after)).collect())
    }
}

/// A store of a hundred events, a stick, and one consumer that has read nothing.
struct Rig {
    store: Store,
    stick: Arc<Stick>,
    consumer: u32,
    reader: Reader,
}

impl Rig {
    async fn open(path: &Path, stick: Arc<Stick>) -> Rig {
        let options = Options {
            path: Some(path.join("t.db")),
            events: Some((100, 20)),
            tails: 0, // what is offloaded is not in memory either
            when_full: Policy::Offload,
            ..Options::default()
        };
        let store = Store::open(options).unwrap();
        let consumer = store.consumer("c", &["t".into()], Start::Oldest).await.unwrap();
        let reader = store.reader(consumer, &["t".into()]);
        Rig { store, stick, consumer, reader }
    }

    fn run(&self) -> JoinHandle<()> {
        let (store, stick) = (self.store.clone(), self.stick.clone());
        tokio::spawn(Offload::new(store, stick, Links::default(), "", "g").run())
    }

    /// Whether the store takes so many events, ten at a time.
    async fn takes(&self, priority: u8, numbers: std::ops::Range<u64>) -> bool {
        for from in numbers.step_by(10) {
            let mut batch = Batch::default();
            for n in from..from + 10 {
                batch.push(&Draft { body: format!(r#"{{"n":{n}}}"#).as_bytes(), ..Draft::default() }).unwrap();
            }
            let append = Append { topic: "t".into(), priority, batch };
            if self.store.commit(Step { appends: vec![append], ..Step::default() }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Until so many events lie on the stick.
    async fn offloaded(&self, count: u64) {
        let away = || self.store.ledger().iter().map(|row| row.offloaded).sum::<u64>();
        let done = async {
            while away() != count {
                sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(30), done).await.is_ok(), "{} offloaded", away());
    }

    /// Delivers so many events; gives their numbers.
    async fn deliver(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        let end = async {
            while numbers.len() < count {
                let lot = self.reader.next(10, 1 << 20).await.unwrap();
                for event in &lot.events {
                    let text = String::from_utf8(event.body.to_bytes().to_vec()).unwrap();
                    numbers.push(text[5..].trim_end_matches('}').parse().unwrap());
                }
                let consumer = self.consumer;
                let moves =
                    self.reader.positions().map(|(lane, to)| Move { consumer, lane, to, ..Move::default() }).collect();
                self.store.commit(Step { moves, ..Step::default() }).await.unwrap();
            }
        };
        let ended = timeout(Duration::from_secs(30), end).await.is_ok();
        assert!(ended, "only {} of {count}: {numbers:?}", numbers.len());
        numbers
    }
}

#[tokio::test]
async fn a_stick_that_takes_nothing_gives_back_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path(), Arc::default()).await;
    let run = rig.run();
    assert!(rig.takes(4, 0..110).await);
    rig.offloaded(90).await;
    rig.stick.full.store(true, SeqCst);
    let mut next = 110;
    while rig.takes(4, next..next + 10).await {
        next += 10;
        sleep(Duration::from_millis(10)).await;
    }
    // More than the low mark lies behind what is elsewhere.
    assert!(next >= 190, "{next}");
    assert_eq!(rig.deliver(next as usize).await, (0..next).collect::<Vec<u64>>());
    assert!(rig.takes(4, 0..10).await);
    run.abort();
}

#[tokio::test]
async fn an_object_that_is_missing_keeps_back_no_other_lane() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path(), Arc::default()).await;
    let run = rig.run();
    assert!(rig.takes(5, 0..110).await);
    rig.offloaded(90).await;
    let missing = std::mem::take(&mut *rig.stick.objects.lock().unwrap());
    assert!(rig.takes(4, 1000..1090).await);
    rig.offloaded(180).await;
    let expected: Vec<u64> = (0..20).chain(1000..1090).collect();
    assert_eq!(rig.deliver(110).await, expected);
    rig.stick.objects.lock().unwrap().extend(missing);
    assert_eq!(rig.deliver(90).await, (20..110).collect::<Vec<u64>>());
    run.abort();
}

#[tokio::test]
async fn what_cannot_be_deleted_is_in_nobodys_way_and_goes_at_a_later_start() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path(), Arc::default()).await;
    let run = rig.run();
    assert!(rig.takes(4, 0..110).await);
    rig.offloaded(90).await;
    run.abort();
    let (stick, left) = (rig.stick.clone(), format!("g-{:016x}/1-200-210", rig.store.number()));
    stick.objects.lock().unwrap().insert(left.clone(), b"left over".into());
    stick.stuck.store(true, SeqCst);
    rig.store.close().await;
    let mut rig = Rig::open(dir.path(), stick.clone()).await;
    let run = rig.run();
    let all = stick.keys();
    assert_eq!(rig.deliver(60).await, (0..60).collect::<Vec<u64>>());
    assert_eq!(stick.keys(), all);
    run.abort();
    stick.stuck.store(false, SeqCst);
    rig.store.close().await;
    let mut rig = Rig::open(dir.path(), stick.clone()).await;
    let run = rig.run();
    assert_eq!(rig.deliver(50).await, (60..110).collect::<Vec<u64>>());
    let gone = async {
        while !stick.keys().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(Duration::from_secs(30), gone).await.is_ok(), "{:?}", stick.keys());
    assert!(all.contains(&left) && all.len() > 3, "{all:?}");
    run.abort();
}

#[tokio::test]
async fn that_the_object_store_of_before_failed_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path(), Arc::default()).await;
    rig.stick.full.store(true, SeqCst);
    let run = rig.run();
    assert!(rig.takes(4, 0..110).await);
    while rig.takes(4, 0..10).await {
        sleep(Duration::from_millis(10)).await;
    }
    run.abort();
    rig.stick.full.store(false, SeqCst);
    let run = rig.run();
    // Whenever the mark is passed.
    for round in 0..3 {
        let taken = async {
            while !rig.takes(4, 0..110).await {
                sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(30), taken).await.is_ok(), "round {round}");
    }
    run.abort();
}
