//! Dead letters: retried at the consumer that they failed at, dropped, and bounded.

use super::*;
use crate::event::{Draft, Event};

fn open(path: &std::path::Path, high: u64) -> Store {
    Store::open(Options { path: Some(path.to_owned()), high, low: high / 2, ..Options::default() }).unwrap()
}

/// One event for `hook`, with an id, a key, a time and meta.
fn step(id: &str, body: &str) -> Step {
    let mut batch = Batch::default();
    let time = Some(crate::event::When::Told(1_795_255_200_250));
    let draft = Draft { id: Some(id), key: "k\"1", time, meta: br#"{"m":[1, "x"]}"#, body: body.as_bytes(), ttl: None };
    batch.push(&draft).unwrap();
    Step { appends: vec![Append { topic: "hook".into(), priority: 6, batch }], ..Step::default() }
}

fn letter(consumer: &str, event: &Event) -> Dead {
    let mut body = Vec::new();
    event.write_envelope(&mut body);
    let event_id = event.id.text().into_owned();
    let (topic, reason) = (event.topic.to_string(), "refused".to_owned());
    Dead { consumer: consumer.into(), topic, seq: event.seq, event: event_id, reason, body }
}

async fn read(reader: &mut Reader) -> Vec<(Event, u16)> {
    let mut found = Vec::new();
    while let Some(lot) = reader.poll(100, 1 << 20).await.unwrap() {
        found.extend(lot.events.into_iter().map(|event| (event, lot.lane)));
    }
    found
}

/// The consumer fails at everything it has not passed.
async fn fail(store: &Store, name: &str, consumer: u32, reader: &mut Reader) -> Vec<Event> {
    let mut step = Step { inner: true, ..Step::default() };
    let found = read(reader).await;
    for (event, lane) in &found {
        step.dead.push(letter(name, event));
        step.moves.push(Move { consumer, lane: *lane, to: event.seq + 1, dead: 1, ..Move::default() });
    }
    store.commit(step).await.unwrap();
    found.into_iter().map(|(event, _)| event).collect()
}

fn which(consumer: &str) -> Which {
    Which { consumer: Some(consumer.into()), ..Which::default() }
}

/// Everything a receiver sees.
fn seen(event: &Event) -> String {
    let mut text = Vec::new();
    event.write_envelope(&mut text);
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_letter_goes_back_to_the_consumer_it_failed_at_also_over_a_restart_and_as_the_same_event() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let hook: Vec<Arc<str>> = vec!["hook".into()];
    let store = open(&path, 1 << 30);
    let (one, two) = ("sinks.one", "sinks.two");
    let (a, b) = (
        store.consumer(one, &hook, Start::Newest).await.unwrap(),
        store.consumer(two, &hook, Start::Newest).await.unwrap(),
    );
    for n in 0..3 {
        store.commit(step(&format!("id-{n}"), &format!(r#"{{"n":{n},"x": 1.50}}"#))).await.unwrap();
    }
    let (mut first, mut second) = (store.reader(a, &hook), store.reader(b, &hook));
    let failed = fail(&store, one, a, &mut first).await;
    assert_eq!((failed.len(), read(&mut second).await.len()), (3, 3));
    store
        .commit(Step { dead: vec![Dead { body: b"no event".to_vec(), ..letter(one, &failed[0]) }], ..Step::default() })
        .await
        .unwrap();
    store.commit(Step { dead: vec![letter("sinks.gone", &failed[0])], ..Step::default() }).await.unwrap();
    let letters = store.letters(&which(one), 2).await.unwrap();
    assert_eq!((letters.len(), letters[0].id > letters[1].id, letters[1].dead.reason.as_str()), (2, true, "refused"));
    assert_eq!(store.count_letters(&which(one)).await.unwrap(), 4);

    // One while the consumer runs.
    let oldest = store.letters(&which(one), 9).await.unwrap().last().unwrap().id;
    let one_letter = Which { id: Some(oldest), ..Which::default() };
    assert_eq!(store.retry(&one_letter).await.unwrap(), Retried { retried: 1, left: 0 });
    assert_eq!(store.retry(&one_letter).await.unwrap(), Retried::default());
    let again = fail(&store, one, a, &mut first).await;
    assert_eq!(again.iter().map(seen).collect::<Vec<_>>(), [seen(&failed[0])]);
    assert_eq!((&*again[0].topic, again[0].priority), ("hook", 6));
    assert_eq!(read(&mut second).await.len(), 0, "nobody else sees it");
    assert_eq!(fail(&store, two, b, &mut store.reader(b, &hook)).await.len(), 3);
    store.close().await;

    // All of them while no consumer is there; they come back later, and begin at the newest.
    let store = open(&path, 1 << 30);
    assert_eq!(store.retry(&Which::default()).await.unwrap(), Retried { retried: 6, left: 2 });
    store.close().await;
    let store = open(&path, 1 << 30);
    for name in [one, two] {
        let consumer = store.consumer(name, &hook, Start::Newest).await.unwrap();
        let again = read(&mut store.reader(consumer, &hook)).await;
        let mut ids: Vec<_> = again.iter().map(|(event, _)| event.id.text().into_owned()).collect();
        ids.sort();
        assert_eq!(ids, ["id-0", "id-1", "id-2"], "{name}");
    }
    for row in store.ledger() {
        let sum = row.delivered + row.queued + row.dead + row.expired + row.evicted + row.offloaded;
        assert_eq!(row.accepted, sum, "{row:?}");
    }
    assert_eq!(store.purge(&which("sinks.gone")).await.unwrap(), 1);
    assert_eq!(store.count_letters(&Which::default()).await.unwrap(), 1);
}

#[tokio::test]
async fn letters_are_bounded_in_number_and_no_id_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("t.db"), 64 << 20);
    let bury = async |consumer: &str, count: u64| {
        let letter = |seq| {
            let (consumer, topic, body) = (consumer.into(), "t".into(), b"x".to_vec());
            Dead { consumer, topic, seq, event: seq.to_string(), reason: "x".into(), body }
        };
        store.commit(Step { inner: true, dead: (0..count).map(letter).collect(), ..Step::default() }).await.unwrap();
    };
    let count = async |consumer: &str| store.count_letters(&which(consumer)).await.unwrap();
    let newest = async || store.letters(&Which::default(), 1).await.unwrap()[0].id;
    bury("kept", 3000).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        bury("again", 3500).await;
        ids.push(newest().await);
        assert_eq!(store.purge(&which("again")).await.unwrap(), 3500);
    }
    assert_eq!((ids, count("kept").await), (vec![6500, 10_000, 13_500], 3000));
    bury("more", 8000).await;
    assert_eq!((count("kept").await, count("more").await), (2000, 8000), "the oldest of too many");
}

#[tokio::test]
async fn letters_go_back_also_while_the_store_drops_what_comes() {
    for policy in [Policy::DropNewest, Policy::Sample(10), Policy::DropOldest] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let options = Options { path: Some(path), events: Some((1000, 500)), when_full: policy, ..Options::default() };
        let store = Store::open(options).unwrap();
        let hook: Vec<Arc<str>> = vec!["hook".into()];
        let consumer = store.consumer("sinks.one", &hook, Start::Oldest).await.unwrap();
        let mut reader = store.reader(consumer, &hook);
        for n in 0..600 {
            store.commit(step(&format!("id-{n}"), "{}")).await.unwrap();
        }
        fail(&store, "sinks.one", consumer, &mut reader).await;
        let mut batch = Batch::default();
        (0..1100).for_each(|_| batch.push(&Draft { body: b"{}", ..Draft::default() }).unwrap());
        store
            .commit(Step { appends: vec![Append { topic: "hook".into(), priority: 4, batch }], ..Step::default() })
            .await
            .unwrap();
        while !store.is_full() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(store.retry(&which("sinks.one")).await.unwrap().retried, 600);
        let mut back = std::collections::BTreeSet::new();
        while let Some(lot) = reader.poll(1000, 1 << 20).await.unwrap() {
            back.extend(lot.events.iter().map(|event| event.id.text().into_owned()).filter(|id| id.starts_with("id-")));
        }
        assert_eq!(back.len(), 600, "{policy:?}");
    }
}

#[tokio::test]
async fn a_letter_comes_back_also_to_a_consumer_that_does_not_read_its_topic_any_more() {
    let store = Store::open(Options::default()).unwrap();
    let (hook, other): (Vec<Arc<str>>, Vec<Arc<str>>) = (vec!["hook".into()], vec!["other".into()]);
    let consumer = store.consumer("sinks.one", &hook, Start::Newest).await.unwrap();
    for id in ["a", "b"] {
        store.commit(step(id, r#"{"n":1}"#)).await.unwrap();
    }
    fail(&store, "sinks.one", consumer, &mut store.reader(consumer, &hook)).await;
    let one = |id| Which { event: Some(String::from(id)), ..Which::default() };
    // One that was given back before the change, one that is given back to who runs already.
    assert_eq!(store.retry(&one("a")).await.unwrap(), Retried { retried: 1, left: 0 });
    store.consumer("sinks.one", &other, Start::Newest).await.unwrap();
    let mut reader = store.reader(consumer, &other);
    let came = reader.poll(9, 1 << 20).await.unwrap().unwrap().events;
    assert_eq!((came[0].id.text().as_ref(), &*came[0].topic), ("a", "hook"));
    let next = tokio::spawn(async move { reader.next(9, 1 << 20).await.unwrap().events[0].id.text().into_owned() });
    tokio::task::yield_now().await;
    assert_eq!(store.retry(&one("b")).await.unwrap(), Retried { retried: 1, left: 0 });
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), next).await.unwrap().unwrap(), "b", "it is woken");
}

#[tokio::test]
async fn letters_are_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("t.db"), 800_000);
    for n in 0..150 {
        let letter = Dead {
            consumer: "c".into(),
            topic: "t".into(),
            seq: n,
            event: n.to_string(),
            reason: "x".into(),
            body: vec![b'x'; 1000],
        };
        store.commit(Step { inner: true, dead: vec![letter], ..Step::default() }).await.unwrap();
    }
    let left = store.letters(&Which::default(), 1000).await.unwrap();
    assert_eq!(
        (left.len(), left[0].dead.seq, left[99].dead.seq),
        (100, 149, 50),
        "an eighth of the high mark, the newest"
    );
}
