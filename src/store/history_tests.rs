use super::{
    Append, Dead, Dropped, Ledger, Lost, Move, Options, Policy, Spent, Start, Step, Store,
    history::{History, MINUTE},
    schema,
};
use crate::{
    clock::{self, Quality, Stamp},
    event::{Batch, Draft},
};
use rusqlite::Connection;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

fn events(topic: &str, count: usize) -> Step {
    let mut batch = Batch::default();
    for n in 0..count {
        batch.push(&Draft { body: format!(r#"{{"n":{n}}}"#).as_bytes(), ..Draft::default() }).unwrap();
    }
    Step { appends: vec![Append { topic: topic.into(), priority: 4, batch }], ..Step::default() }
}

async fn consumer(store: &Store) -> u32 {
    store.consumer("sinks.a", &[Arc::from("t")], Start::Oldest).await.unwrap()
}

/// What a span has of `sinks.a`.
async fn span(store: &Store, since: i64, until: i64) -> Spent {
    let (spent, _) = store.spent(since, until).await.unwrap();
    spent.into_iter().find(|row| row.consumer == "sinks.a").unwrap_or_default()
}

/// A letter of a `what` is lost; the same of a step that drops.
fn failing(consumer: u32, lane: u16, to: u64, dead: usize, dropped: usize) -> Step {
    let (name, topic) = ("sinks.a".to_owned(), "t".to_owned());
    let letter = Dead {
        consumer: name.clone(),
        topic: topic.clone(),
        seq: 0,
        event: "e".into(),
        reason: "refused: 422".into(),
        body: b"{}".to_vec(),
    };
    let drop = Dropped { consumer: name, topic, event: "e".into(), reason: "`on_fail` is `drop`: p: no".into() };
    let moved = Move { consumer, lane, to, dead: (dead + dropped) as u64, ..Move::default() };
    Step { inner: true, moves: vec![moved], dead: vec![letter; dead], dropped: vec![drop; dropped], ..Step::default() }
}

fn sql(path: &Path, statements: &str) {
    Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

#[tokio::test]
async fn spans_add_up_to_the_totals_over_restarts_and_over_a_run_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let options = Options { path: Some(path.clone()), ..Options::default() };
    let mut ends = vec![clock::wall_ms()];
    for killed in [false, true, false, true] {
        let store = Store::open(options.clone()).unwrap();
        let consumer = consumer(&store).await;
        let placed = store.commit(events("t", 10)).await.unwrap()[0].clone();
        store.commit(failing(consumer, placed.lane, placed.first + 5, 2, 1)).await.unwrap();
        store.close().await;
        drop(store);
        if killed {
            // What it counted since its first row is on disk, what was written at its end is not.
            sql(&path, "DELETE FROM history WHERE id = (SELECT max(id) FROM history)");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        ends.push(clock::wall_ms());
    }
    let store = Store::open(options.clone()).unwrap();
    consumer(&store).await;
    ends.push(i64::MAX);
    let total = &store.ledger()[0];
    let mut sum = Spent::default();
    for (nth, ends) in ends.windows(2).enumerate() {
        let spent = span(&store, ends[0], ends[1]).await;
        let rest = spent.delivered + spent.dead + spent.expired + spent.evicted;
        assert_eq!(spent.accepted as i64, rest as i64 + spent.queued + spent.offloaded, "{spent:?}");
        // The second and the fourth run were not there to say what they did last: it counts later.
        assert!(nth % 2 == 1 || spent.accepted >= 10 || nth == 4, "{nth}: {spent:?}");
        sum.accepted += spent.accepted;
        sum.delivered += spent.delivered;
        sum.dead += spent.dead;
        sum.queued += spent.queued;
    }
    assert_eq!((sum.accepted, sum.delivered, sum.dead), (total.accepted, total.delivered, total.dead));
    assert_eq!((total.accepted, total.dead, sum.queued), (40, 12, total.queued as i64));
    let whole = span(&store, 0, i64::MAX).await;
    assert_eq!((whole.accepted, whole.dead), (40, 12));
    assert_eq!(span(&store, clock::wall_ms() + 60_000, i64::MAX).await, Spent::default());
}

#[tokio::test]
async fn each_loss_has_its_number_and_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        path: Some(dir.path().join("t.db")),
        events: Some((20, 10)),
        policies: BTreeMap::from([("old".to_owned(), Policy::DropOldest), ("new".to_owned(), Policy::DropNewest)]),
        ttl: BTreeMap::from([("short".to_owned(), Duration::from_millis(1))]),
        ..Options::default()
    };
    let store = Store::open(options).unwrap();
    let a = consumer(&store).await;
    let topics: Vec<Arc<str>> = ["old", "new", "short"].map(Arc::from).to_vec();
    store.consumer("sinks.b", &topics, Start::Oldest).await.unwrap();
    let begun = clock::wall_ms() - 1;
    let placed = store.commit(events("t", 9)).await.unwrap()[0].clone();
    store.commit(failing(a, placed.lane, placed.first + 9, 3, 2)).await.unwrap();
    store.commit(events("short", 4)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(250)).await;
    store.commit(events("old", 30)).await.unwrap();
    store.commit(events("new", 7)).await.unwrap();
    assert!(store.commit(events("t", 5)).await.is_err());
    // What was refused is written with what is.
    store.commit(events("new", 1)).await.unwrap();
    store.commit(events("old", 6)).await.unwrap();
    let (spent, lost) = store.spent(begun, i64::MAX).await.unwrap();
    let count = |topic: &str, what: &str, reason: &str| -> u64 {
        let rows = lost.iter().filter(|lost| lost.topic == topic && lost.what == what && lost.reason.contains(reason));
        rows.map(|lost| lost.count).sum()
    };
    for (topic, what, reason, want) in [
        ("t", "dead", "refused: 422", 3),
        ("t", "dead", "`on_fail` is `drop`", 2),
        ("short", "expired", "the `ttl` of its topic, 1ms", 4),
        ("new", "evicted", "store over `high`, drop_newest", 8),
        ("t", "refused", "the store was full", 5),
    ] {
        assert_eq!(count(topic, what, reason), want, "{topic} {what} {reason}: {lost:#?}");
    }
    for row in spent {
        for (what, want) in [("dead", row.dead), ("expired", row.expired), ("evicted", row.evicted)] {
            assert_eq!(count(&row.topic, what, ""), want, "{what} of {row:?}: {lost:#?}");
        }
    }
    assert!(count("old", "evicted", "store over `high`, drop_oldest") > 0, "{lost:#?}");
    assert!(store.spent(begun + 3_600_000, i64::MAX).await.unwrap().1.is_empty());
}

#[tokio::test]
async fn a_clock_that_said_1970_is_mended_in_what_was_written_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let options = Options { path: Some(path.clone()), ..Options::default() };
    let store = Store::open(options.clone()).unwrap();
    let a = consumer(&store).await;
    let placed = store.commit(events("t", 5)).await.unwrap()[0].clone();
    store.commit(failing(a, placed.lane, placed.first + 5, 1, 0)).await.unwrap();
    store.close().await;
    drop(store);
    // It was written before the clock was set, and since then it is known when the machine was booted.
    let boot = clock::wall_ms() - clock::mono_ms() as i64;
    sql(&path, "UPDATE history SET wall = mono, quality = 0; UPDATE loss SET wall = mono, quality = 0");
    sql(&path, &format!("UPDATE boot SET wall = {boot}"));
    let store = Store::open(options).unwrap();
    consumer(&store).await;
    let since = clock::wall_ms() - 60_000;
    assert_eq!(span(&store, since, i64::MAX).await.accepted, 5);
    let (_, lost) = store.spent(since, i64::MAX).await.unwrap();
    assert!(matches!(&lost[..], [Lost { count: 1, from, .. }] if *from > since), "{lost:?}");
    assert_eq!(span(&store, 0, since).await, Spent::default());
}

#[test]
fn rows_become_coarser_with_age_and_no_difference_changes() {
    let db = schema::open(None).unwrap();
    let mut history = History::default();
    let (begun, minutes) = (100 * 24 * 60 * MINUTE, 3 * 24 * 60);
    let mut ledger = Ledger { topic: "t".into(), consumer: "c".into(), ..Ledger::default() };
    for minute in 0..minutes {
        let at = begun + minute * MINUTE;
        ledger.accepted += 1;
        ledger.delivered += 1;
        let stamp = Stamp { wall_ms: at, quality: Quality::Synced, ..Stamp::default() };
        history.write(&db, &[ledger.clone()], at, &stamp).unwrap();
    }
    let rows = |since: i64| -> Vec<(i64, i64)> {
        let mut query = db.prepare("SELECT at, accepted FROM history WHERE at >= ?1 ORDER BY id").unwrap();
        query.query_map([since], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    let now = begun + minutes * MINUTE;
    history.thin(&db, now).unwrap();
    let (hours, day) = (rows(0).len() - rows(now - 24 * 60 * MINUTE).len(), rows(now - 24 * 60 * MINUTE));
    assert_eq!((hours, day.len()), (2 * 24, 24 * 60), "minutes of the last day, hours of the two before");
    assert!(rows(0).iter().all(|(at, accepted)| (at - begun) / MINUTE + 1 == *accepted));
    // After 90 days the last row from before stays, as what came later is the difference to it.
    let later = now + 91 * 24 * 60 * MINUTE;
    history.thin(&db, later).unwrap();
    assert_eq!(rows(0), [*day.last().unwrap()]);
    // However many there are, they stay within their number.
    for n in 0..20_000 {
        ledger.accepted += 1;
        let stamp = Stamp { wall_ms: later + n, quality: Quality::Synced, ..Stamp::default() };
        let row = Ledger { topic: format!("t{}", n % 3_000), ..ledger.clone() };
        history.write(&db, &[row], later + n * MINUTE, &stamp).unwrap();
    }
    history.thin(&db, later + 20_000 * MINUTE).unwrap();
    assert!(rows(0).len() <= 8192, "{}", rows(0).len());
    assert!(rows(0).len() > 3_000, "the last of each stays");
}
