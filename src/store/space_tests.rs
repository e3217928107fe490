use super::*;
use crate::event::Draft;
use std::collections::HashMap;

fn batch(from: u64, count: u64) -> Batch {
    let mut batch = Batch::default();
    for n in from..from + count {
        batch.push(&Draft { body: format!(r#"{{"n":{n}}}"#).as_bytes(), ..Draft::default() }).unwrap();
    }
    batch
}

fn append(priority: u8, from: u64, count: u64) -> Step {
    Step { appends: vec![Append { topic: "hook".into(), priority, batch: batch(from, count) }], ..Step::default() }
}

fn hook() -> [Arc<str>; 1] {
    ["hook".into()]
}

async fn open(path: &std::path::Path, policy: Policy) -> (Store, u32) {
    let options = Options {
        path: Some(path.to_owned()),
        events: Some((100, 20)),
        policies: [("hook".to_owned(), policy)].into(),
        ..Options::default()
    };
    let store = Store::open(options).unwrap();
    let consumer = store.consumer("c", &hook(), Start::Oldest).await.unwrap();
    (store, consumer)
}

/// The next events of a reader, without waiting for any.
async fn read(reader: &mut Reader) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(lot) = reader.poll(1000, 1 << 20).await.unwrap() {
        let text = |e: &crate::event::Event| String::from_utf8(e.body.to_bytes().to_vec()).unwrap();
        numbers.extend(lot.events.iter().map(|e| text(e)[5..].trim_end_matches('}').parse::<u64>().unwrap()));
    }
    numbers
}

fn sums(store: &Store) -> [u64; 6] {
    let row = store.ledger().into_iter().find(|row| row.consumer == "c").unwrap();
    assert_eq!(
        row.accepted,
        row.delivered + row.queued + row.dead + row.expired + row.evicted + row.offloaded,
        "{row:?}"
    );
    [row.accepted, row.delivered, row.queued, row.dead, row.evicted, row.offloaded]
}

async fn deliver(store: &Store, consumer: u32, reader: &Reader) {
    let moves = reader.positions().map(|(lane, to)| Move { consumer, lane, to, ..Move::default() }).collect();
    store.commit(Step { moves, ..Step::default() }).await.unwrap();
}

#[tokio::test]
async fn each_class_has_its_mark_and_each_mark_its_hysteresis() {
    let dir = tempfile::tempdir().unwrap();
    let (store, consumer) = open(&dir.path().join("t.db"), Policy::Reject).await;
    let mut taken = [0; 3];
    for (at, priority) in [0, 4, 7].into_iter().enumerate() {
        while store.commit(append(priority, 0, 1)).await.is_ok() {
            taken[at] += 1;
        }
    }
    // The mark is passed by the event after it; a sixteenth more is the reserve of the highest.
    assert_eq!(taken, [101, 0, 6]);
    let mut reader = store.reader(consumer, &hook());
    let mut passed = Vec::new();
    for (left, open) in
        [(101, [false, false, false]), (99, [false, false, true]), (21, [false, false, true]), (20, [true; 3])]
    {
        while sums(&store)[2] > left {
            reader.poll(1, 1).await.unwrap();
            deliver(&store, consumer, &reader).await;
        }
        let mut is = [false; 3];
        for (at, priority) in [0, 4, 7].into_iter().enumerate() {
            is[at] = store.commit(append(priority, 0, 0)).await.is_ok();
        }
        passed.push(is == open);
        assert_eq!(is, open, "{left} left");
    }
    assert_eq!(passed.len(), 4);
}

#[tokio::test]
async fn the_oldest_of_a_class_that_is_not_over_are_spared() {
    let dir = tempfile::tempdir().unwrap();
    let (store, consumer) = open(&dir.path().join("t.db"), Policy::DropOldest).await;
    let other: [Arc<str>; 1] = ["other".into()];
    store.consumer("d", &other, Start::Oldest).await.unwrap();
    store.commit(append(7, 0, 10)).await.unwrap();
    // What fills the store belongs to somebody else: its own readings are too few to make room.
    let appends = vec![Append { topic: other[0].clone(), priority: 4, batch: batch(0, 85) }];
    store.commit(Step { appends, ..Step::default() }).await.unwrap();
    for n in 100..200 {
        store.commit(append(4, n, 1)).await.unwrap();
    }
    let alarms: Vec<u64> = read(&mut store.reader(consumer, &hook())).await.into_iter().filter(|n| *n < 100).collect();
    assert_eq!(alarms, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_dropped_is_counted_also_after_a_restart() {
    for (policy, kept, evicted) in [
        (Policy::DropNewest, (0..110).collect::<Vec<u64>>(), 90),
        (Policy::Sample(10), (0..110).chain((110..200).step_by(10)).collect(), 81),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let (store, consumer) = open(&path, policy).await;
        for from in (0..200).step_by(10) {
            let placed = store.commit(append(4, from, 10)).await.unwrap();
            assert_eq!(placed[0].count as usize + placed[0].passed.len(), 10);
        }
        let mut reader = store.reader(consumer, &hook());
        assert_eq!(read(&mut reader).await, kept, "{policy:?}");
        assert_eq!(sums(&store), [200, 0, kept.len() as u64, 0, evicted, 0], "{policy:?}");
        let before = store.ledger();
        store.close().await;
        let (store, consumer) = open(&path, policy).await;
        assert_eq!(store.ledger(), before, "{policy:?}");
        let mut reader = store.reader(consumer, &hook());
        read(&mut reader).await;
        deliver(&store, consumer, &reader).await;
        assert_eq!(sums(&store), [200, kept.len() as u64, 0, 0, evicted, 0], "{policy:?}");
        // Who begins later has not seen what was dropped before.
        store.consumer("late", &hook(), Start::Newest).await.unwrap();
        assert!(store.ledger().iter().any(|row| row.consumer == "late" && row.accepted == 0 && row.evicted == 0));
    }
}

#[tokio::test]
async fn the_oldest_of_the_lowest_priority_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let (store, consumer) = open(&path, Policy::DropOldest).await;
    store.commit(append(5, 1000, 10)).await.unwrap();
    for from in (0..300).step_by(10) {
        store.commit(append(4, from, 10)).await.unwrap();
    }
    let ledger = sums(&store);
    assert!(ledger[2] <= 120 && ledger[4] >= 190, "{ledger:?}");
    let before = store.ledger();
    store.close().await;
    let (store, _) = open(&path, Policy::DropOldest).await;
    assert_eq!(store.ledger(), before);
    let mut reader = store.reader(consumer, &hook());
    let numbers = read(&mut reader).await;
    assert_eq!(numbers[..10], (1000..1010).collect::<Vec<u64>>(), "a higher priority stays");
    assert_eq!(numbers[numbers.len() - 1], 299, "the newest stay");
    assert!(numbers[10..].windows(2).all(|pair| pair[0] + 1 == pair[1]));
    deliver(&store, consumer, &reader).await;
    assert_eq!(sums(&store)[1], numbers.len() as u64);
}

#[tokio::test]
async fn free_space_of_the_file_system_is_a_mark() {
    let dir = tempfile::tempdir().unwrap();
    for (free, taken) in [(Some(u64::MAX / 4), false), (Some(1), true), (None, true)] {
        let store = Store::open(Options { path: Some(dir.path().join("t.db")), free, ..Options::default() }).unwrap();
        store.commit(append(7, 0, 1)).await.unwrap();
        assert_eq!(store.commit(append(7, 0, 1)).await.is_ok(), taken, "{free:?}");
        store.close().await;
    }
}

/// An object store that is a map.
type Objects = HashMap<String, Vec<u8>>;

/// Does errands until there is none; ends after `steps` of them as a crash would, and says so. A step is what a crash can
/// stand before or after: the object is put, the store is told; the store is told, the object is deleted.
async fn errands(store: &Store, objects: &mut Objects, steps: &mut u32) -> bool {
    let step = |steps: &mut u32| {
        *steps = steps.wrapping_sub(1);
        *steps == u32::MAX
    };
    while let Some(errand) = store.errand_now().await.unwrap() {
        if step(steps) {
            return true;
        }
        match errand {
            Errand::Out(parcel) => {
                let key = parcel.name();
                objects.insert(key.clone(), parcel.object.clone());
                if step(steps) {
                    return true;
                }
                if !store.went(parcel, key.clone()).await.unwrap() {
                    objects.remove(&key);
                }
            }
            Errand::Back(manifest) => {
                let (key, object) = (manifest.key.clone(), objects[&manifest.key].clone());
                store.came(manifest, object).await.unwrap();
                if step(steps) {
                    return true;
                }
                objects.remove(&key);
            }
            Errand::Forget(key) => drop(objects.remove(&key)),
        }
    }
    false
}

/// As the runtime does at the start.
async fn clean(store: &Store, objects: &mut Objects) {
    for key in objects.keys().cloned().collect::<Vec<_>>() {
        if !store.needs(key.clone()).await.unwrap() {
            objects.remove(&key);
        }
    }
}

#[tokio::test]
async fn offloaded_events_come_back_in_order_whatever_step_a_crash_stands_at() {
    let mut crashes = 0;
    for crash in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let (mut store, mut consumer) = open(&path, Policy::Offload).await;
        let (mut objects, mut steps, mut numbers, mut most) = (Objects::new(), crash, Vec::new(), 0);
        for from in (0..300).step_by(10) {
            store.commit(append(4, from, 10)).await.unwrap();
            if errands(&store, &mut objects, &mut steps).await {
                crashes += 1;
                drop(store);
                (store, consumer) = again(&path).await;
                clean(&store, &mut objects).await;
                errands(&store, &mut objects, &mut 1000).await;
            }
            most = most.max(objects.len());
        }
        assert!(most > 2, "{most} objects");
        let ledger = sums(&store);
        assert_eq!(ledger[0], 300);
        let mut reader = store.reader(consumer, &hook());
        for _ in 0..200 {
            let more = read(&mut reader).await;
            numbers.extend(more);
            deliver(&store, consumer, &reader).await;
            if errands(&store, &mut objects, &mut steps).await {
                crashes += 1;
                drop(reader);
                drop(store);
                (store, consumer) = again(&path).await;
                clean(&store, &mut objects).await;
                reader = store.reader(consumer, &hook());
            }
            if numbers.len() >= 300 {
                break;
            }
        }
        assert_eq!(numbers, (0..300).collect::<Vec<u64>>(), "crash at {crash}");
        assert_eq!(sums(&store), [300, 300, 0, 0, 0, 0]);
        errands(&store, &mut objects, &mut 1000).await;
        assert_eq!(objects.len(), 0, "crash at {crash}");
        store.close().await;
    }
    assert!(crashes > 20, "only {crashes}");
}

/// Opens it again after its threads have ended.
async fn again(path: &std::path::Path) -> (Store, u32) {
    tokio::time::sleep(Duration::from_millis(30)).await;
    open(path, Policy::Offload).await
}

#[tokio::test]
async fn a_damaged_object_is_counted_and_what_nobody_needs_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let (store, _) = open(&path, Policy::Offload).await;
    let mut objects = Objects::new();
    for from in (0..110).step_by(10) {
        store.commit(append(4, from, 10)).await.unwrap();
    }
    errands(&store, &mut objects, &mut 1000).await;
    assert!(objects.len() > 1 && sums(&store)[5] == 90, "{:?}", sums(&store));
    for object in objects.values_mut() {
        object.truncate(object.len() - 1);
    }
    drop(store); // and with it what is fresh in memory
    let (store, consumer) = again(&path).await;
    let mut reader = store.reader(consumer, &hook());
    let (mut whole, mut broken) = (0, 0);
    for _ in 0..100 {
        while let Some(lot) = reader.poll(1000, 1 << 20).await.unwrap() {
            whole += lot.events.len() as u64;
            broken += if lot.broken.is_some() { lot.to - lot.from } else { 0 };
        }
        deliver(&store, consumer, &reader).await;
        errands(&store, &mut objects, &mut 1000).await;
    }
    assert!(broken > 0 && whole + broken == 110, "{whole} {broken}");
    // Without its consumer nobody needs it.
    for from in (0..110).step_by(10) {
        store.commit(append(4, from, 10)).await.unwrap();
    }
    errands(&store, &mut objects, &mut 1000).await;
    assert!(!objects.is_empty());
    store.forget("c").await.unwrap();
    store.commit(append(4, 0, 1)).await.unwrap();
    errands(&store, &mut objects, &mut 1000).await;
    assert_eq!(objects.len(), 0);
}
