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
