use super::*;
use crate::event::Draft;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

fn open(path: &Path) -> Store {
    Store::open(Options { path: Some(path.to_owned()), ..Options::default() }).unwrap()
}

fn topics(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|n| Arc::from(*n)).collect()
}

fn append(topic: &str, numbers: std::ops::Range<u64>) -> Step {
    let mut batch = Batch::default();
    for n in numbers {
        let filler = "x".repeat(500 + (n * 7919 % 500) as usize);
        batch.push(&Draft { body: format!(r#"{{"n":{n},"x":"{filler}"}}"#).as_bytes(), ..Draft::default() }).unwrap();
    }
    Step { appends: vec![Append { topic: topic.into(), priority: 4, batch }], ..Step::default() }
}

/// Numbers and ids of all that a consumer gets of a topic, as long as something is put back or comes.
async fn all(store: &Store, topic: &str) -> Vec<(u64, String)> {
    let topic = topics(&[topic]);
    let consumer = store.consumer("c", &topics(&["hook", "gateway"]), Start::Oldest).await.unwrap();
    let (mut reader, mut found, begun) = (store.reader(consumer, &topic), Vec::new(), Instant::now());
    while store.salvaging() || !reader.at_rest() {
        if let Ok(Some(lot)) = reader.poll(100, 1 << 20).await {
            for event in lot.events {
                let body: serde_json::Value = serde_json::from_slice(&event.body.to_bytes()).unwrap();
                found.push((body["n"].as_u64().unwrap_or(u64::MAX), event.id.text().into_owned()));
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?} {:?}", store.ledger(), found.len());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    found
}

async fn told(store: &Store) -> Vec<serde_json::Value> {
    let consumer = store.consumer("c", &topics(&["hook", "gateway"]), Start::Oldest).await.unwrap();
    let mut reader = store.reader(consumer, &topics(&["gateway"]));
    let mut bodies = Vec::new();
    while let Ok(Some(lot)) = reader.poll(100, 1 << 20).await {
        bodies.extend(lot.events.iter().map(|event| serde_json::from_slice(&event.body.to_bytes()).unwrap()));
    }
    bodies
}

/// 1,000 events, of which the first 100 were passed; then the process ended as by a kill: `folded` or with all in the WAL.
async fn image(folder: &Path, folded: bool) -> Vec<(u64, String)> {
    let path = folder.join("from.db");
    let store = open(&path);
    let consumer = store.consumer("c", &topics(&["hook", "gateway"]), Start::Oldest).await.unwrap();
    let mut at = (0, 0);
    for n in 0..100 {
        let placed = store.commit(append("hook", n * 10..n * 10 + 10)).await.unwrap();
        if n == 9 {
            at = (placed[0].lane, placed[0].first + 10);
        }
    }
    let moves = vec![Move { consumer, lane: at.0, to: at.1, ..Move::default() }];
    let state = vec![Put { owner: "pipelines.p".into(), key: b"k".to_vec(), value: Some(b"v".to_vec()) }];
    store.commit(Step { moves, state, ..Step::default() }).await.unwrap();
    let found = all(&store, "hook").await;
    if folded {
        store.close().await;
    }
    for suffix in ["", "-wal", "-highest", "-given"] {
        fs::copy(beside(&path, suffix), beside(&folder.join("t.db"), suffix)).ok();
    }
    assert_eq!((found.len(), found[0].0), (900, 100));
    found
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    All,
    Some,
    None,
}

#[tokio::test]
async fn whatever_the_image_is_what_can_be_read_comes_back_once_and_the_rest_is_counted() {
    type Harm = fn(&Path);
    let page: Harm = |db| {
        let mut bytes = fs::read(db).unwrap();
        let page = bytes.len() / 2048 * 3 / 4;
        bytes[page * 2048..][..2048].fill(0);
        fs::write(db, bytes).unwrap();
    };
    let garbage: Harm = |db| fs::write(db, vec![0x5a; 100_000]).unwrap();
    let empty: Harm = |db| fs::write(db, []).unwrap();
    let gone: Harm = |db| fs::remove_file(db).unwrap();
    let no_wal: Harm = |db| fs::remove_file(beside(db, "-wal")).unwrap();
    let short_wal: Harm = |db| {
        let wal = beside(db, "-wal");
        let length = fs::metadata(&wal).unwrap().len();
        fs::File::options().write(true).open(wal).unwrap().set_len(length / 2).unwrap();
    };
    let strange_wal: Harm = |db| {
        let mut bytes = fs::read(beside(db, "-wal")).unwrap();
        bytes[16] ^= 0x55;
        fs::write(beside(db, "-wal"), bytes).unwrap();
    };
    fn flip(db: &Path, at: usize) {
        let mut bytes = fs::read(db).unwrap();
        bytes[at] ^= 0x10;
        fs::write(db, bytes).unwrap();
    }
    let version: Harm = |db| flip(db, 63);
    let application: Harm = |db| flip(db, 70);
    for (name, folded, harm, what, left) in [
        ("another version", true, version, "storage_quarantined", Left::All),
        ("another application", true, application, "storage_quarantined", Left::All),
        ("a page", true, page, "storage_quarantined", Left::Some),
        ("garbage", true, garbage, "", Left::None),
        // All of it is in the WAL: nothing is broken.
        ("garbage with a WAL", false, garbage, "nothing", Left::All),
        ("empty", true, empty, "storage_gap", Left::None),
        ("empty with a WAL", false, empty, "storage_quarantined", Left::All),
        ("gone", true, gone, "storage_gap", Left::None),
        ("no WAL", false, no_wal, "", Left::None),
        ("half a WAL", false, short_wal, "storage_gap", Left::Some),
        ("another WAL", false, strange_wal, "storage_quarantined", Left::None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let before = image(dir.path(), folded).await;
        let path = dir.path().join("t.db");
        harm(&path);
        let begun = Instant::now();
        let store = open(&path);
        assert!(begun.elapsed() < Duration::from_secs(3), "{name}");
        let found = all(&store, "hook").await;
        assert!(found.is_sorted_by(|a, b| a.0 < b.0), "{name}");
        assert!(found.iter().all(|event| before.contains(event)), "{name}: {:?}", found.first());
        let lost = 900 - found.len() as u64;
        let told = told(&store).await;
        assert_eq!(found.len() == 900, left == Left::All, "{name}: {lost} lost {told:?}");
        assert_eq!(found.is_empty(), left == Left::None, "{name}: {lost} lost {told:?}");
        assert_eq!(told.len(), usize::from(what != "nothing"), "{name}");
        for told in &told {
            assert!(told["what"] == what || what.is_empty(), "{name}: {told}");
            assert_eq!((&told["lost"], &told["lost_at_most"]), (&lost.into(), &lost.into()), "{name}: {told}");
        }
        for row in store.ledger() {
            let ends = row.delivered + row.queued + row.dead + row.expired + row.evicted + row.offloaded;
            assert_eq!(row.accepted, ends, "{name}: {row:?}");
        }
        // New numbers are above all that were given out.
        let placed = store.commit(append("hook", 1000..1001)).await.unwrap();
        let seq = |id: &str| id.rsplit('-').next().and_then(|n| u64::from_str_radix(n, 16).ok()).unwrap_or(0);
        assert!(placed[0].first > seq(&before[899].1) || placed[0].first > 1000, "{name}");
        store.close().await;
        // And that was it: the next start finds nothing to do, and all of this.
        let store = open(&path);
        assert!(!store.salvaging(), "{name}");
        assert_eq!(all(&store, "hook").await.len(), found.len() + 1, "{name}");
        assert_eq!(self::told(&store).await.len(), told.len(), "{name}");
        store.close().await;
    }
}
