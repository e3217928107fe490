//! A consumer's place is moved, while it reads and while nobody does.

use super::*;
use crate::event::Draft;
use std::path::Path;

const TOPIC: &str = "t";

fn options(dir: &Path) -> Options {
    // What everybody has passed stays, as far as somebody may want it again.
    let keep = Keep { age: Some(Duration::from_secs(3600)), bytes: None };
    Options { path: Some(dir.join("t.db")), keep: BTreeMap::from([(TOPIC.into(), keep)]), ..Options::default() }
}

fn events(numbers: std::ops::Range<u64>, priority: u8) -> Step {
    let mut batch = Batch::default();
    for n in numbers {
        let (id, body) = (format!("id-{n}"), format!(r#"{{"n":{n}}}"#));
        batch.push(&Draft { id: Some(&id), body: body.as_bytes(), ..Draft::default() }).unwrap();
    }
    Step { appends: vec![Append { topic: TOPIC.into(), priority, batch }], ..Step::default() }
}

fn numbers(events: &[crate::event::Event]) -> Vec<u64> {
    let number = |e: &crate::event::Event| {
        serde_json::from_slice::<serde_json::Value>(&e.body.to_bytes()).unwrap()["n"].as_u64().unwrap()
    };
    events.iter().map(number).collect()
}

async fn next(reader: &mut Reader, max: usize) -> (Move, Vec<u64>) {
    let lot = reader.poll(max, 1 << 20).await.unwrap().unwrap();
    (Move { consumer: 1, lane: lot.lane, to: lot.to, ..Move::default() }, numbers(&lot.events))
}

/// Accepted, delivered, queued and evicted; they add up.
fn ledger(store: &Store) -> (u64, u64, u64, u64) {
    let row = store.ledger().into_iter().find(|row| row.consumer == "c").unwrap();
    let Ledger { accepted, delivered, queued, evicted, dead, expired, offloaded, .. } = row;
    assert_eq!(accepted, delivered + queued + evicted + dead + expired + offloaded);
    (accepted, delivered, queued, evicted)
}

async fn begin(dir: &Path) -> (Store, Reader) {
    let store = Store::open(options(dir)).unwrap();
    let topics = [TOPIC.into()];
    let consumer = store.consumer("c", &topics, Start::Oldest).await.unwrap();
    assert_eq!(consumer, 1);
    let reader = store.reader(consumer, &topics);
    (store, reader)
}

#[tokio::test]
async fn what_is_sought_comes_again_what_is_passed_over_does_not_and_the_ledger_adds_up_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut reader) = begin(dir.path()).await;
    store.commit(events(0..10, 4)).await.unwrap();
    let (moved, seen) = next(&mut reader, 6).await;
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    store.ride(Step { moves: vec![moved], ..Step::default() }).unwrap();
    let first = moved.to - 6;
    // A rider of before counts.
    let sought = store.seek("c", None, None, At::Seq(first + 2)).await.unwrap();
    let want =
        Sought { topic: TOPIC.into(), priority: 4, from: first + 6, to: first + 2, again: 4, passed: 0, gone: false };
    assert_eq!(sought, [want]);
    assert_eq!(ledger(&store), (14, 6, 8, 0));
    assert!(matches!(reader.next(9, 1 << 20).await, Err(Refusal::Moved)));
    let (moved, seen) = next(&mut reader, 3).await;
    assert_eq!(seen, [2, 3, 4]);
    store.commit(Step { inner: true, moves: vec![moved], ..Step::default() }).await.unwrap();
    assert_eq!(ledger(&store), (14, 9, 5, 0));
    let passed = store.seek("c", Some(TOPIC), None, At::Newest).await.unwrap().remove(0).passed;
    assert_eq!((passed, ledger(&store)), (5, (14, 9, 0, 5)));
    for (name, topic, priority) in [("x", None, None), ("c", Some("x"), None), ("c", None, Some(5))] {
        assert_eq!(store.seek(name, topic, priority, At::Oldest).await.unwrap(), [], "{name} {topic:?} {priority:?}");
    }
    store.close().await;

    let (store, mut reader) = begin(dir.path()).await;
    assert_eq!(ledger(&store), (14, 9, 0, 5));
    assert!(reader.poll(9, 1 << 20).await.unwrap().is_none());
    // As often as one likes: the beginning of its count lies far below the first number by then.
    for _ in 0..100 {
        store.seek("c", None, None, At::Newest).await.unwrap();
        store.seek("c", None, None, At::Oldest).await.unwrap();
    }
    assert_eq!(ledger(&store), (1014, 9, 10, 995));
    store.close().await;
    let (store, mut reader) = begin(dir.path()).await;
    assert_eq!(ledger(&store), (1014, 9, 10, 995));
    assert_eq!(next(&mut reader, 99).await.1, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_in_hand_does_not_count_once_the_place_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut reader) = begin(dir.path()).await;
    store.commit(events(0..10, 4)).await.unwrap();
    let (moved, _) = next(&mut reader, 4).await;
    store.commit(Step { inner: true, moves: vec![moved], ..Step::default() }).await.unwrap();
    let (in_hand, _) = next(&mut reader, 4).await;
    store.seek("c", None, None, At::Oldest).await.unwrap();
    let made = || Append { topic: "made".into(), priority: 4, batch: events(99..100, 4).appends.remove(0).batch };
    let whole = Step { inner: true, moves: vec![in_hand], appends: vec![made()], ..Step::default() };
    assert!(matches!(store.commit(whole).await, Err(Refusal::Moved)), "whole or not at all");
    assert!(store.ledger().iter().all(|row| row.topic != "made"));
    // A rider is left out, whether it is on the way to the disk before the reader begins anew or after that.
    store.ride(Step { moves: vec![in_hand], ..Step::default() }).unwrap();
    store.commit(events(10..11, 4)).await.unwrap();
    assert_eq!(ledger(&store), (15, 4, 11, 0));
    store.ride(Step { moves: vec![in_hand], ..Step::default() }).unwrap();
    assert!(matches!(reader.poll(9, 1 << 20).await, Err(Refusal::Moved)));
    let (moved, seen) = next(&mut reader, 3).await;
    assert_eq!(seen, [0, 1, 2]);
    store.ride(Step { moves: vec![moved], ..Step::default() }).unwrap();
    store.commit(events(11..12, 4)).await.unwrap();
    assert_eq!(ledger(&store), (16, 7, 9, 0));
    // A place that is restored, as after a failed delivery, is not one of before.
    let begun: Vec<(u16, u64)> = reader.positions().collect();
    store.seek("c", None, None, At::Oldest).await.unwrap();
    reader.restore(&begun);
    assert!(matches!(reader.poll(9, 1 << 20).await, Err(Refusal::Moved)));
    reader.restore(&begun);
    assert_eq!(next(&mut reader, 1).await.1, [0]);
}

#[tokio::test]
async fn a_time_leads_to_what_was_taken_in_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _reader) = begin(dir.path()).await;
    let mut times = Vec::new();
    for n in 0..8 {
        times.push(crate::clock::wall_ms());
        store.commit(events(n * 2..n * 2 + 2, 4)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(12)).await;
    }
    for (n, time) in times.iter().enumerate() {
        let peek = store.peek(TOPIC, None, At::Time(*time), 1, 1 << 20).await.unwrap();
        assert_eq!(numbers(&peek), [n as u64 * 2], "{times:?}");
    }
    assert_eq!(numbers(&store.peek(TOPIC, None, At::Time(0), 3, 1 << 20).await.unwrap()), [0, 1, 2]);
    assert!(store.peek(TOPIC, None, At::Time(crate::clock::wall_ms()), 3, 1 << 20).await.unwrap().is_empty());
    for (text, want) in [
        ("oldest", Some(At::Oldest)),
        ("newest", Some(At::Newest)),
        ("17", Some(At::Seq(17))),
        ("seq:17", Some(At::Seq(17))),
        ("1970-01-01T00:00:01Z", Some(At::Time(1000))),
        ("time:1970-01-01T00:00:01Z", Some(At::Time(1000))),
        ("", None),
        ("-", None),
        ("-1", None),
        ("yesterday", None),
        ("-9999999999999999999h", None),
    ] {
        assert_eq!(text.parse::<At>().ok(), want, "{text}");
    }
    let Ok(At::Time(time)) = "-1h".parse() else { panic!() };
    assert!((crate::clock::wall_ms() - 3_600_000).abs_diff(time) < 60_000);
}

#[tokio::test]
async fn stored_events_are_looked_at_by_place_and_by_id_and_their_sizes_are_about_right() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut reader) = begin(dir.path()).await;
    for (from, priority) in [(0, 4), (2, 6), (4, 4)] {
        store.commit(events(from..from + 2, priority)).await.unwrap();
    }
    let peek =
        async |priority, from, limit, bytes| numbers(&store.peek(TOPIC, priority, from, limit, bytes).await.unwrap());
    assert_eq!(peek(None, At::Oldest, 9, 1 << 20).await, [2, 3, 0, 1, 4, 5]);
    assert_eq!(peek(None, At::Oldest, 4, 1 << 20).await, [2, 3, 0, 1]);
    assert_eq!(peek(None, At::Oldest, 9, 1).await, [2], "one more than so many bytes");
    assert_eq!(peek(Some(4), At::Oldest, 9, 1 << 20).await, [0, 1, 4, 5]);
    let at = store.peek(TOPIC, Some(4), At::Oldest, 9, 1 << 20).await.unwrap()[2].seq;
    assert_eq!(peek(Some(4), At::Seq(at), 9, 1 << 20).await, [4, 5]);
    assert_eq!(peek(Some(4), At::Seq(u64::MAX), 9, 1 << 20).await, [0; 0]);
    let found = store.find("id-3", None, Duration::from_secs(60)).await.unwrap();
    assert_eq!((numbers(&found.events), found.cut), (vec![3], false));
    assert_eq!(store.find("id-3", Some("x"), Duration::from_secs(60)).await.unwrap().events.len(), 0);

    // Many rows of many sizes: the sum is a sample's.
    for n in 0..200_u64 {
        let (mut batch, text) = (Batch::default(), "x".repeat(fastrand::usize(50..100)));
        batch.push(&Draft { body: format!(r#"{{"n":{n},"x":"{text}"}}"#).as_bytes(), ..Draft::default() }).unwrap();
        store
            .commit(Step { appends: vec![Append { topic: TOPIC.into(), priority: 4, batch }], ..Step::default() })
            .await
            .unwrap();
    }
    let stock = store.stock().await.unwrap();
    let (low, high) = (&stock[0], &stock[1]);
    assert_eq!((low.events, high.events, low.priority, high.priority), (204, 2, 4, 6));
    assert!((10_000..40_000).contains(&low.bytes), "{stock:?}");
    assert!(low.oldest_seconds.unwrap() < 600.0);
    let (moved, _) = next(&mut reader, 2).await;
    store.commit(Step { inner: true, moves: vec![moved], ..Step::default() }).await.unwrap();
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog[0].queued, backlog[1].queued, backlog[1].oldest_seconds), (204, 0, None), "{backlog:?}");
    assert!(backlog[0].bytes.abs_diff(low.bytes) < 100, "{backlog:?}");
}
