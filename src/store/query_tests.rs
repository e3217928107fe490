//! SQL over what is stored: what it finds, what it may not do, and what ends it.

use super::*;
use crate::event::{Draft, When};
use serde_json::{Value, json};

/// 2026-11-21T10:00:00Z.
const TEN: i64 = 1_795_255_200_000;

fn open(path: &Path) -> Store {
    let keep = Keep { age: Some(Duration::from_secs(3600)), bytes: None };
    let keep = ["hook", "other"].map(|topic| (topic.to_owned(), keep)).into();
    Store::open(Options { path: Some(path.to_owned()), keep, ..Options::default() }).unwrap()
}

/// A batch of events of `topic`, numbered from `from` on, a second between them.
async fn fill(store: &Store, topic: &str, priority: u8, from: i64, count: i64) -> Placed {
    let mut batch = Batch::default();
    for n in from..from + count {
        let (id, body) =
            (format!("{topic}-{n}"), format!(r#"{{"n":{n},"temperature":{}.5,"deep":{{"a":[1,2]}}}}"#, n % 10));
        let time = Some(When::Told(TEN + n * 1000));
        let draft = Draft { id: Some(&id), key: "k", time, meta: br#"{"m":1}"#, body: body.as_bytes(), ttl: None };
        batch.push(&draft).unwrap();
    }
    let step = Step { appends: vec![Append { topic: topic.into(), priority, batch }], ..Step::default() };
    store.commit(step).await.unwrap().remove(0)
}

async fn ask(store: &Store, sql: &str) -> Result<Selected, String> {
    store.query(Query { sql: sql.into(), rows: 100, time: Duration::from_secs(20) }).await
}

async fn rows(store: &Store, sql: &str) -> Value {
    ask(store, sql).await.map_or_else(|error| json!(error), |found| json!(found.rows))
}

#[tokio::test]
async fn events_states_and_dead_letters_are_tables() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("t.db"));
    let hook: Vec<Arc<str>> = vec!["hook".into()];
    let consumer = store.consumer("sinks.cloud", &hook, Start::Oldest).await.unwrap();
    let first = fill(&store, "hook", 4, 0, 100).await;
    fill(&store, "hook", 4, 100, 50).await;
    fill(&store, "hook", 6, 1000, 1).await;
    fill(&store, "other", 4, 0, 10).await;
    let put = Put { owner: "pipelines.p.sum".into(), key: b"a".to_vec(), value: Some(br#"{"sum":7}"#.to_vec()) };
    let letter = Dead {
        consumer: "sinks.cloud".into(),
        topic: "hook".into(),
        seq: 5,
        event: "e".into(),
        reason: "no".into(),
        body: br#"{"id":"e"}"#.to_vec(),
    };
    let moves = vec![Move { consumer, lane: first.lane, to: first.first + 6, dead: 1, ..Move::default() }];
    store.commit(Step { inner: true, moves, dead: vec![letter], state: vec![put], ..Step::default() }).await.unwrap();
    let seq = first.first;
    for (sql, want) in [
        ("SELECT count(*), count(body) FROM events", json!([[161, 161]])),
        ("SELECT avg(body ->> 'temperature') FROM events WHERE topic = 'other'", json!([[5.0]])),
        (
            "SELECT topic, priority, id, key, time, time_ms, meta ->> 'm', body ->> '$.deep.a[1]' FROM events WHERE priority = 6",
            json!([["hook", 6, "hook-1000", "k", "2026-11-21T10:16:40.000Z", TEN + 1_000_000, 1, 2]]),
        ),
        // Times compare in both forms.
        ("SELECT count(*) FROM events WHERE time >= '2026-11-21T10:02:00Z' AND topic = 'hook'", json!([[31]])),
        (
            "SELECT count(*) FROM events WHERE time >= datetime('2026-11-21', '10 hours', '2 minutes') AND topic = 'hook'",
            json!([[31]]),
        ),
        ("SELECT date(max(time)) FROM events", json!([["2026-11-21"]])),
        (
            "SELECT count(*) FROM events WHERE taken > datetime('now', '-1 hour') AND stored > datetime('now', '-1 hour')",
            json!([[161]]),
        ),
        (
            "SELECT body ->> 'n' FROM events WHERE topic = 'hook' AND priority = 4 ORDER BY seq DESC LIMIT 2",
            json!([[149], [148]]),
        ),
        (
            &format!(
                "SELECT group_concat(body ->> 'n') FROM events WHERE topic = 'hook' AND seq BETWEEN {} AND {}",
                seq + 99,
                seq + 101
            ),
            json!([["99,100,101"]]),
        ),
        // Two batches in turn, and one backwards.
        (
            "SELECT sum(a.body ->> 'n' = b.body ->> 'n') FROM events a JOIN events b ON a.time_ms = b.time_ms WHERE a.topic = 'other' AND b.topic = 'hook'",
            json!([[10]]),
        ),
        ("SELECT owner, key, value ->> 'sum' FROM state", json!([["pipelines.p.sum", "a", 7]])),
        (
            "SELECT consumer, topic, seq, reason, body ->> 'id' FROM dead WHERE at > datetime('now', '-1 hour')",
            json!([["sinks.cloud", "hook", 5, "no", "e"]]),
        ),
        (
            "SELECT accepted, delivered, queued, dead FROM ledger WHERE consumer = 'sinks.cloud'",
            json!([[151, 5, 145, 1]]),
        ),
        ("SELECT seq, next - seq FROM consumers WHERE priority = 4", json!([[seq + 6, 144]])),
        ("SELECT NULL, 1.5, x'ff00', 'a'", json!([[null, 1.5, "ff00", "a"]])),
    ] {
        assert_eq!(rows(&store, sql).await, want, "{sql}");
    }
    let found = ask(&store, "SELECT seq FROM events").await.unwrap();
    assert_eq!((found.rows.len(), found.more, found.columns), (100, true, vec!["seq".to_owned()]));
    store.close().await;
}

#[tokio::test]
async fn what_is_ruled_out_is_not_decoded_and_what_is_damaged_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let store = open(&path);
    fill(&store, "hook", 4, 0, 100).await;
    let bad = fill(&store, "hook", 4, 100, 100).await;
    fill(&store, "other", 4, 0, 100).await;
    store.close().await;
    let db = rusqlite::Connection::open(&path).unwrap();
    let id = rows::key(bad.lane, bad.first);
    assert_eq!(db.execute("UPDATE batch SET crc = crc + 1 WHERE id = ?1", [id]).unwrap(), 1);
    drop(db);
    let store = open(&path);
    for (which, damaged) in [
        ("topic = 'other'".to_owned(), 0),
        (format!("seq < {}", bad.first), 0),
        ("stored < '2000'".to_owned(), 0),
        ("priority = 5".to_owned(), 0),
        ("topic = 'hook'".to_owned(), 1),
    ] {
        let found = ask(&store, &format!("SELECT count(id) FROM events WHERE {which}")).await.unwrap();
        assert_eq!(found.damaged, damaged, "{which}");
    }
    assert_eq!(rows(&store, "SELECT count(*), count(id) FROM events WHERE topic = 'hook'").await, json!([[200, 100]]));
    // Lanes by topic, batches by the range of their keys.
    let found = ask(&store, "EXPLAIN QUERY PLAN SELECT id FROM events WHERE topic = 'hook' AND seq > 7").await.unwrap();
    let plan = json!(found.rows).to_string();
    for part in
        ["SEARCH l USING COVERING INDEX", "(topic=?)", "SEARCH b USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]
    {
        assert!(plan.contains(part), "{plan}");
    }
    store.close().await;
}

#[tokio::test]
async fn it_only_reads_and_ends_in_time_whatever_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("t.db"));
    for n in 0..10 {
        fill(&store, "hook", 4, n * 200, 200).await;
    }
    let endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT";
    for (sql, want) in [
        ("DELETE FROM batch".to_owned(), "not authorized"),
        ("INSERT INTO ledger (topic) VALUES (1)".into(), "not authorized"),
        ("CREATE TABLE x (a)".into(), "not authorized"),
        ("CREATE TEMP TABLE x (a)".into(), "not authorized"),
        ("DROP VIEW events".into(), "not authorized"),
        ("ATTACH '/tmp/x.db' AS x".into(), "not authorized"),
        ("PRAGMA query_only = 0".into(), "not authorized"),
        ("SELECT * FROM pragma_database_list".into(), "not authorized"),
        ("SELECT load_extension('x')".into(), "no such function"),
        ("SELECT sum(pgsize) FROM dbstat".into(), "no such table"),
        ("BEGIN".into(), "not authorized"),
        ("VACUUM INTO '/tmp/x.db'".into(), "authorization denied"),
        ("SELECT 1; SELECT 2".into(), "one statement"),
        ("  -- nothing".into(), "no SQL"),
        ("SELEKT 1".into(), "syntax error"),
        ("SELECT absent FROM events".into(), "no such column: absent"),
        ("SELECT event_part()".into(), "wrong number of arguments"),
        ("SELECT event_part(0, 1)".into(), "wrong number of arguments"),
        ("SELECT event_part(0, 'x', 1)".into(), "Invalid"),
        ("SELECT event_numbers(1)".into(), "wrong number of arguments"),
        (format!("{endless} count(*) FROM r"), "not done within 1000 ms"),
        (
            "SELECT count(*) FROM events a, events b, events c WHERE a.id < b.id AND b.id < c.id".into(),
            "not done within 1000 ms",
        ),
        ("SELECT length(randomblob(1000000000))".into(), "too big"),
        ("SELECT replace(hex(zeroblob(400000)), '00', 'xxxxxxx')".into(), "too big"),
        (format!("{endless} randomblob(1000000) AS b FROM r ORDER BY b"), "of memory"),
        (format!("{endless} count(DISTINCT hex(randomblob(500000))) FROM r"), "of memory"),
    ] {
        let time = Duration::from_secs(if want.contains("1000 ms") { 1 } else { 20 });
        let query = Query { sql: sql.clone(), rows: 100, time };
        let error = store.query(query).await.expect_err(&sql);
        assert!(error.contains(want), "{sql}: {error}");
    }
    // SQLite gives nothing where a text would be too long.
    assert_eq!(rows(&store, "SELECT printf('%.*c', 1000000000, 'x')").await, json!([[null]]));
    // The answer has a limit in bytes.
    let found = ask(&store, &format!("{endless} zeroblob(100000) FROM r")).await.unwrap();
    assert!(found.more && found.rows.len() <= 21, "{}", found.rows.len());
    // Who has gone does not keep others waiting, and the store does not wait for who asks.
    let query = Query { sql: format!("{endless} count(*) FROM r"), rows: 1, time: LONGEST_QUERY };
    let patience = Duration::from_millis(100);
    assert!(tokio::time::timeout(patience, store.query(query.clone())).await.is_err());
    assert_eq!(rows(&store, "SELECT count(*) FROM events").await, json!([[2000]]));
    let (asked, ()) = tokio::join!(store.query(query), async {
        tokio::time::sleep(patience).await;
        store.close().await;
    });
    assert_eq!(asked.unwrap_err(), "given up");
}
