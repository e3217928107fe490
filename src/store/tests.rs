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

/// A look at throughput: `cargo test --release store -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore]
async fn throughput() {
    for per in [1usize, 16, 128, 512] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let store = open(&dir.path().join("t.db"));
        let body = format!(r#"{{"device":"d{}","temp":21.5,"pad":"{}"}}"#, 1, "x".repeat(150));
        let start = std::time::Instant::now();
        let mut n = 0;
        while start.elapsed().as_secs_f64() < 1.0 {
            let mut all = Batch::default();
            for _ in 0..per {
                all.push(&Draft { body: body.as_bytes(), ..Draft::default() }).unwrap();
            }
            store.commit(append("hook", all)).await.unwrap();
            n += per;
        }
        println!("{per:4} a commit: {:.0} events/s", n as f64 / start.elapsed().as_secs_f64());
    }
}
