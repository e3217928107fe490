use super::*;
use crate::event::Draft;

fn open(path: &std::path::Path) -> Store {
    Store::open(Options { path: Some(path.to_owned()), ..Options::default() }).unwrap()
}

fn batch(bodies: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for body in bodies {
        batch.push(&Draft { body: body.as_bytes(), ..Draft::default() }).unwrap();
    }
    batch
}

fn append(topic: &str, batch: Batch) -> Step {
    Step { appends: vec![Append { topic: topic.into(), priority: 4, batch }], ..Step::default() }
}

async fn read(reader: &mut Reader, max: usize) -> Vec<String> {
    let lot = reader.poll(max, 1 << 20).await.unwrap();
    lot.into_iter().flat_map(|l| l.events).map(|e| String::from_utf8(e.body.to_bytes().to_vec()).unwrap()).collect()
}

fn topics(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|n| Arc::from(*n)).collect()
}

#[tokio::test]
async fn what_was_committed_is_read_in_order_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = open(&path);
    let hook = topics(&["hook"]);
    let consumer = store.consumer("cloud", &hook, Start::Oldest).await.unwrap();
    let placed = store.commit(append("hook", batch(&[r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#]))).await.unwrap();
    let first = placed[0].first;
    let mut reader = store.reader(consumer, &hook);
    assert_eq!(read(&mut reader, 2).await, [r#"{"n":1}"#, r#"{"n":2}"#]);
    assert_eq!(read(&mut reader, 2).await, [r#"{"n":3}"#]);
    assert!(reader.at_rest());
    let lane = placed[0].lane;
    store
        .ride(Step { moves: vec![Move { consumer, lane, to: first + 1, ..Move::default() }], ..Step::default() })
        .unwrap();
    store.close().await;

    let store = open(&path);
    let consumer = store.consumer("cloud", &hook, Start::Oldest).await.unwrap();
    let mut reader = store.reader(consumer, &hook);
    assert_eq!(read(&mut reader, 9).await, [r#"{"n":2}"#, r#"{"n":3}"#]);
    let placed = store.commit(append("hook", batch(&[r#"{"n":4}"#]))).await.unwrap();
    assert_eq!(placed[0].first, first + 3);
    assert_eq!(read(&mut reader, 9).await, [r#"{"n":4}"#]);
    let ledger = &store.ledger()[0];
    assert_eq!((ledger.accepted, ledger.delivered, ledger.queued), (4, 1, 3));
}

fn with_ids(ids: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::default();
    for (id, body) in ids {
        batch.push(&Draft { id: Some(id), body: body.as_bytes(), ..Draft::default() }).unwrap();
    }
    batch
}

fn moved(consumer: u32, lane: u16, to: u64) -> Step {
    Step { moves: vec![Move { consumer, lane, to, ..Move::default() }], ..Step::default() }
}

async fn all(store: &Store, name: &str, topic: &str) -> Vec<String> {
    let topic = topics(&[topic]);
    let consumer = store.consumer(name, &topic, Start::Oldest).await.unwrap();
    let mut reader = store.reader(consumer, &topic);
    let mut bodies = Vec::new();
    while !reader.at_rest() {
        bodies.extend(read(&mut reader, 100).await);
    }
    bodies
}

#[tokio::test]
async fn a_repeated_id_is_stored_once_and_another_body_under_it_is_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = open(&path);
    store.consumer("c", &topics(&["hook"]), Start::Oldest).await.unwrap();
    let first = store.commit(append("hook", with_ids(&[("a", r#"{"n":1}"#), ("b", r#"{"n":2}"#)]))).await.unwrap();
    assert_eq!((first[0].count, first[0].repeats.len()), (2, 0));
    // Within one commit, in the next, and (below) after a restart.
    let mixed = with_ids(&[("a", r#"{"n":1}"#), ("c", r#"{"n":3}"#), ("c", r#"{"n":3}"#), ("b", r#"{"other":2}"#)]);
    let again = &store.commit(append("hook", mixed)).await.unwrap()[0];
    assert_eq!((again.count, &again.repeats[..], &again.conflicts[..]), (1, &[0, 2][..], &[3][..]));
    // The same id at another source is another event.
    assert_eq!(store.commit(append("door", with_ids(&[("a", r#"{"n":1}"#)]))).await.unwrap()[0].count, 1);
    store.close().await;

    let store = open(&path);
    let late = &store.commit(append("hook", with_ids(&[("b", r#"{"n":2}"#)]))).await.unwrap()[0];
    assert_eq!((late.count, &late.repeats[..]), (0, &[0][..]));
    assert_eq!(all(&store, "c", "hook").await, [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#]);
    let dead = store.letters(&Which::default(), 9).await.unwrap();
    assert_eq!((dead.len(), dead[0].dead.event.as_str()), (1, "b"));
    assert!(String::from_utf8_lossy(&dead[0].dead.body).contains(r#""body":{"other":2}"#));
}

#[tokio::test]
async fn the_window_forgets_by_count_and_by_time() {
    for (window, late) in
        [(Window { ms: 3_600_000, ids: 2 }, Duration::ZERO), (Window { ms: 500, ids: 100 }, Duration::from_millis(600))]
    {
        let store = Store::open(Options { window, ..Options::default() }).unwrap();
        for id in ["a", "b", "c", "d"] {
            store.commit(append("hook", with_ids(&[(id, "{}")]))).await.unwrap();
        }
        tokio::time::sleep(late).await;
        store.commit(append("hook", with_ids(&[("x", "{}")]))).await.unwrap();
        let again = store.commit(append("hook", with_ids(&[("a", "{}")]))).await.unwrap();
        assert_eq!(again[0].count, 1, "forgotten");
        let again = store.commit(append("hook", with_ids(&[("a", "{}")]))).await.unwrap();
        assert_eq!(again[0].count, 0, "remembered");
    }
}

fn rows(path: &std::path::Path) -> i64 {
    let db = rusqlite::Connection::open(path).unwrap();
    db.query_row("SELECT coalesce(sum(count), 0) FROM batch", [], |r| r.get(0)).unwrap()
}

#[tokio::test]
async fn rows_go_when_every_consumer_has_passed_them_and_retention_lets_them() {
    let keep_bytes = Keep { age: None, bytes: Some(1 << 20) };
    let keep_age = Keep { age: Some(Duration::from_millis(1)), bytes: None };
    for (keep, passed_by_both, left) in
        [(None, false, 10), (None, true, 0), (Some(keep_bytes), true, 10), (Some(keep_age), true, 0)]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let keep = keep.map(|keep| [("hook".to_owned(), keep)].into()).unwrap_or_default();
        let store = Store::open(Options { path: Some(path.clone()), keep, ..Options::default() }).unwrap();
        let hook = topics(&["hook"]);
        let fast = store.consumer("fast", &hook, Start::Oldest).await.unwrap();
        let slow = store.consumer("slow", &hook, Start::Oldest).await.unwrap();
        let (mut lane, mut end) = (0, 0);
        for _ in 0..10 {
            let placed = store.commit(append("hook", batch(&["{}"]))).await.unwrap();
            (lane, end) = (placed[0].lane, placed[0].first + 1);
        }
        store.ride(moved(fast, lane, end)).unwrap();
        if passed_by_both {
            store.ride(moved(slow, lane, end)).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        store.commit(moved(fast, lane, end)).await.unwrap();
        let ledger = store.ledger();
        assert_eq!(ledger.iter().map(|l| l.accepted).collect::<Vec<_>>(), [10, 10]);
        assert!(ledger.iter().all(|l| l.accepted == l.delivered + l.queued + l.dead + l.expired + l.evicted));
        store.close().await;
        assert_eq!(rows(&path), left, "passed by both: {passed_by_both}");
        // Numbers go on, although the lane may be empty.
        let store = open(&path);
        assert_eq!(store.commit(append("hook", batch(&["{}"]))).await.unwrap()[0].first, end);
    }
}

#[tokio::test]
async fn a_newer_or_foreign_file_is_refused_untouched_and_a_broken_one_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = open(&path);
    store.consumer("c", &topics(&["hook"]), Start::Oldest).await.unwrap();
    let first = store.commit(append("hook", batch(&["{}"]))).await.unwrap()[0].first;
    store.close().await;
    let set = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let refused = || Store::open(Options { path: Some(path.clone()), ..Options::default() }).err().unwrap();
    set("PRAGMA user_version=99; UPDATE meta SET value = 99 WHERE key = 'schema'");
    assert!(matches!(refused(), OpenError::Newer { found: 99, known: 5 }));
    set("PRAGMA user_version=5; PRAGMA application_id=7; DELETE FROM meta");
    assert!(matches!(refused(), OpenError::Foreign));
    assert_eq!(rows(&path), 1);

    std::fs::write(&path, vec![0x5a; 8192]).unwrap();
    let store = open(&path);
    let next = store.commit(append("hook", batch(&["{}"]))).await.unwrap()[0].first;
    assert!(next > first, "{next} was used before");
    assert!(dir.path().join("t.db-quarantine/1/t.db").exists());
}

#[tokio::test]
async fn a_batch_that_was_damaged_on_disk_is_not_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = open(&path);
    store.consumer("c", &topics(&["hook"]), Start::Oldest).await.unwrap();
    for n in 0..3 {
        store.commit(append("hook", batch(&[&format!(r#"{{"n":{n}}}"#), "{}"]))).await.unwrap();
    }
    store.close().await;
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "UPDATE batch SET body = zeroblob(length(body)) WHERE id = (SELECT id FROM batch LIMIT 1 OFFSET 1)",
    )
    .unwrap();
    drop(db);
    let store = open(&path);
    let hook = topics(&["hook"]);
    let consumer = store.consumer("c", &hook, Start::Oldest).await.unwrap();
    let mut reader = store.reader(consumer, &hook);
    let mut seen = Vec::new();
    while let Some(lot) = reader.poll(100, 1 << 20).await.unwrap() {
        seen.push((lot.to - lot.from, lot.events.len(), lot.broken.is_some()));
    }
    assert_eq!(seen, [(2, 2, false), (2, 0, true), (2, 2, false)]);
}

#[tokio::test]
async fn over_the_mark_intake_is_refused_and_consumers_go_on_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = Some(dir.path().join("t.db"));
    let store = Store::open(Options { path, high: 200_000, low: 120_000, ..Options::default() }).unwrap();
    let hook = topics(&["hook"]);
    let consumer = store.consumer("c", &hook, Start::Oldest).await.unwrap();
    let (mut lane, mut end, mut taken) = (0, 0, 0);
    let refusal = loop {
        let noise: String = (0..2000).map(|_| fastrand::alphanumeric()).collect();
        match store.commit(append("hook", batch(&[&format!(r#"{{"noise":"{noise}"}}"#)]))).await {
            Ok(placed) => (lane, end, taken) = (placed[0].lane, placed[0].first + 1, taken + 1),
            Err(refusal) => break refusal,
        }
        assert!(taken < 1000, "the mark is never reached");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(matches!(refusal, Refusal::Full), "{refusal}");
    assert!(taken > 50);
    assert_eq!(all(&store, "c", "hook").await.len(), taken);
    store.commit(moved(consumer, lane, end)).await.unwrap();
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if store.commit(append("hook", batch(&["{}"]))).await.is_ok() {
            return;
        }
    }
    panic!("intake never opened again");
}

#[tokio::test]
async fn higher_priorities_are_read_first_and_each_keeps_its_order() {
    let store = Store::open(Options::default()).unwrap();
    let hook = topics(&["hook"]);
    let consumer = store.consumer("c", &hook, Start::Oldest).await.unwrap();
    for (priority, n) in [(4, 1), (7, 2), (0, 3), (7, 4), (4, 5)] {
        let batch = batch(&[&format!(r#"{{"n":{n}}}"#)]);
        let appends = vec![Append { topic: "hook".into(), priority, batch }];
        store.commit(Step { appends, ..Step::default() }).await.unwrap();
    }
    let mut reader = store.reader(consumer, &hook);
    let mut order = Vec::new();
    while let Some(lot) = reader.poll(1, 1 << 20).await.unwrap() {
        order.extend(lot.events.iter().map(|e| String::from_utf8_lossy(&e.body.to_bytes())[5..6].to_owned()));
    }
    assert_eq!(order.join(""), "24153");
}

#[tokio::test]
async fn state_and_timers_are_committed_with_the_step_and_a_refused_step_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = open(&path);
    let put = |key: &str, value: Option<&str>| Put {
        owner: "p".into(),
        key: key.into(),
        value: value.map(|v| v.as_bytes().to_vec()),
    };
    let step = Step {
        state: vec![put("a/1", Some("x")), put("a/2", Some("y")), put("b", Some("z"))],
        timers: vec![("p".into(), b"t".to_vec(), Some(70)), ("p".into(), b"s".to_vec(), Some(60))],
        ..append("hook", batch(&["{}"]))
    };
    store.commit(step).await.unwrap();
    store.commit(Step { state: vec![put("a/1", None)], ..Step::default() }).await.unwrap();
    store.close().await;
    assert!(matches!(store.commit(append("hook", batch(&["{}"]))).await, Err(Refusal::Closed)));
    let store = open(&path);
    assert_eq!(store.state("p", b"a/", 9).await.unwrap(), [(b"a/2".to_vec(), b"y".to_vec())]);
    assert_eq!(store.timers("p", 1).await.unwrap(), [(b"s".to_vec(), 60)]);
    let large = append("hook", batch(&[&format!(r#"{{"x":"{}"}}"#, "y".repeat(5 << 20))]));
    assert!(matches!(store.commit(large).await, Err(Refusal::TooLarge { .. })));
    assert_eq!(store.ledger()[0].accepted, 1);
}

#[tokio::test]
async fn a_forgotten_consumer_holds_nothing_back_and_another_topic_set_is_taken_up() {
    let store = Store::open(Options::default()).unwrap();
    let (one, two) = (topics(&["one"]), topics(&["two"]));
    let consumer = store.consumer("c", &one, Start::Oldest).await.unwrap();
    store.commit(append("one", batch(&["{}"]))).await.unwrap();
    store.commit(append("two", batch(&["{}"]))).await.unwrap();
    assert_eq!(store.consumer("c", &two, Start::Newest).await.unwrap(), consumer);
    let queued = |topic: &str| store.ledger().iter().find(|l| l.topic == topic && l.consumer == "c").map(|l| l.queued);
    assert_eq!((queued("one"), queued("two")), (None, Some(0)));
    store.forget("c").await.unwrap();
    assert_eq!(queued("two"), None);
}

#[tokio::test]
async fn a_tail_reads_what_nobody_else_keeps() {
    let store = Store::open(Options::default()).unwrap();
    let hook = topics(&["hook"]);
    let mut early = store.tail(&hook);
    store.commit(append("hook", batch(&[r#"{"n":1}"#]))).await.unwrap();
    let mut reader = store.tail(&hook);
    for n in 2..5 {
        store.commit(append("hook", batch(&[&format!(r#"{{"n":{n}}}"#)]))).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    assert_eq!(read(&mut reader, 9).await, [r#"{"n":2}"#, r#"{"n":3}"#, r#"{"n":4}"#]);
    assert_eq!(read(&mut early, 9).await.len(), 4);
}

#[tokio::test]
async fn after_a_failure_that_cannot_be_looked_into_everything_is_refused_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = open(&path);
    let hook = topics(&["hook"]);
    let consumer = store.consumer("p", &hook, Start::Oldest).await.unwrap();
    let placed = store.commit(append("hook", batch(&["{}", "{}"]))).await.unwrap();
    let (lane, first) = (placed[0].lane, placed[0].first);
    let step = |to: u64| Step {
        moves: vec![Move { consumer, lane, to: first + to, ..Move::default() }],
        state: vec![Put { owner: "p".into(), key: b"n".to_vec(), value: Some(to.to_string().into_bytes()) }],
        ..append("p", batch(&["{}"]))
    };
    store.ride(step(1)).unwrap();
    let other = schema::open(Some(&path)).unwrap();
    let rename = |from: &str, to: &str| other.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}")).unwrap();
    rename("cursor", "hidden");
    for _ in 0..3 {
        assert!(matches!(store.commit(step(2)).await, Err(Refusal::Failed(_))));
    }
    rename("hidden", "cursor");
    store.commit(step(2)).await.unwrap();
    store.close().await;
    drop(other);
    let store = open(&path);
    let counted = |consumer: &str, topic: &str| {
        let row = store.ledger().into_iter().find(|row| row.consumer == consumer && row.topic == topic).unwrap();
        (row.accepted, row.delivered, row.queued)
    };
    assert_eq!((counted("p", "hook"), counted("", "p")), ((2, 2, 0), (2, 0, 0)));
}

#[tokio::test]
async fn a_consumer_without_a_move_is_no_intake() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { path: Some(dir.path().join("t.db")), high: 1, low: 0, ..Options::default() };
    let store = Store::open(options).unwrap();
    let full = async {
        while store.commit(append("hook", batch(&["{}"]))).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    full.await;
    let large = || append("p", batch(&[&format!(r#"{{"x":"{}"}}"#, "y".repeat(5 << 20))]));
    store.commit(Step { inner: true, ..large() }).await.unwrap();
    assert!(matches!(store.commit(large()).await, Err(Refusal::TooLarge { .. })));
}

#[tokio::test]
async fn what_is_too_old_is_counted_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let ttl = [("short".to_owned(), Duration::from_millis(1)), ("long".to_owned(), Duration::from_secs(3600))];
    let options = Options { path: Some(dir.path().join("t.db")), ttl: ttl.into(), ..Options::default() };
    let store = Store::open(options).unwrap();
    let names = topics(&["short", "long", "own"]);
    let consumer = store.consumer("cloud", &names, Start::Oldest).await.unwrap();
    let mut reader = store.reader(consumer, &names);
    store.commit(append("short", batch(&["{}", "{}"]))).await.unwrap();
    store.commit(append("long", batch(&["{}"]))).await.unwrap();
    let mut own = Batch::default();
    for seconds in [Some(0), Some(3600), None] {
        own.push(&Draft { ttl: seconds, body: b"{}", ..Draft::default() }).unwrap();
    }
    store.commit(append("own", own)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut read = Vec::new();
    while let Some(lot) = reader.poll(9, 1 << 20).await.unwrap() {
        read.extend(lot.events.iter().map(|event| (event.topic.to_string(), event.is_expired())));
    }
    // The writer may have passed over them already.
    read.retain(|(topic, expired)| topic != "short" || !expired);
    let want = [("long", false), ("own", true), ("own", false), ("own", false)];
    assert_eq!(read, want.map(|(topic, expired)| (topic.to_owned(), expired)));
    // Nobody has to read them for them to go.
    let row = |topic: &str| store.ledger().into_iter().find(|row| row.topic == topic).unwrap();
    for _ in 0..100 {
        store.commit(append("long", batch(&["{}"]))).await.unwrap();
        if row("short").expired == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((row("short").expired, row("short").queued, row("short").delivered), (2, 0, 0));
    assert_eq!((row("long").expired, row("own").expired), (0, 0));
}
