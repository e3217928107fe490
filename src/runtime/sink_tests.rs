//! A sink over a real store, with an upstream in memory.

use super::{links::Links, sink::Outlet};
use crate::{
    config::{SinkCommon, SinkPlan},
    event::{Batch, Draft, Event},
    fault::Fault,
    kind::Sink,
    store::{Append, Options, Step, Store},
};
use async_trait::async_trait;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// What an upstream does with a delivery, and how long it takes.
type Answer = Arc<dyn Fn(&[u64]) -> (Duration, Result<(), Fault>) + Send + Sync>;

struct Upstream {
    answer: Answer,
    came: Arc<Mutex<Vec<Vec<Came>>>>,
}

#[derive(Clone, Debug)]
struct Came {
    n: u64,
    body: String,
}

#[async_trait]
impl Sink for Upstream {
    async fn deliver(&mut self, batch: &[Event]) -> Result<(), Fault> {
        let body = |event: &Event| String::from_utf8(event.body.to_bytes().to_vec()).unwrap();
        let number = |event: &Event| {
            let raw = event.body.get(&"n".parse().unwrap()).unwrap().raw().to_vec();
            String::from_utf8(raw).unwrap().parse().unwrap()
        };
        let came: Vec<_> = batch.iter().map(|event| Came { n: number(event), body: body(event) }).collect();
        let (time, answer) = (self.answer)(&came.iter().map(|came| came.n).collect::<Vec<_>>());
        if !time.is_zero() {
            sleep(time).await;
        }
        if answer.is_ok() {
            self.came.lock().unwrap().push(came);
        }
        answer
    }
}

/// A store with a sink called `x` that reads the topic `in`.
struct Bench {
    dir: tempfile::TempDir,
    settings: String,
    answer: Answer,
    came: Arc<Mutex<Vec<Vec<Came>>>>,
    store: Store,
    links: Links,
    task: Option<(JoinHandle<()>, watch::Sender<bool>)>,
}

impl Bench {
    /// Not yet running, but known to the store: it does not keep what nobody reads.
    async fn new(
        settings: &str,
        answer: impl Fn(&[u64]) -> (Duration, Result<(), Fault>) + Send + Sync + 'static,
    ) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.consumer("sinks.x", &[Arc::from("in")], crate::store::Start::Oldest).await.unwrap();
        let (settings, answer) = (settings.to_owned(), Arc::new(answer));
        Bench { dir, settings, answer, came: Arc::default(), store, links: Links::default(), task: None }
    }

    async fn run(&mut self) {
        let common: SinkCommon = serde_json::from_str(&self.settings).unwrap();
        let sink = Box::new(Upstream { answer: self.answer.clone(), came: self.came.clone() });
        let (from, mark) = (vec!["in".into()], Default::default());
        let plan = SinkPlan { name: "x".into(), kind: "test", from, common, mark, sink: sink as _ };
        let (fatal, _) = mpsc::channel(1);
        let topics = [Arc::from("in")];
        let consumer = self.store.consumer("sinks.x", &topics, crate::store::Start::Oldest).await.unwrap();
        let outlet = Outlet::open(plan, consumer, "barn", &self.store, &self.links, &fatal).await.unwrap();
        let (stop, stopping) = watch::channel(false);
        self.task = Some((tokio::spawn(outlet.run(stopping)), stop));
    }

    /// As in a crash; but what rides is on disk.
    async fn crash(&mut self) {
        let (task, _stop) = self.task.take().unwrap();
        task.abort();
        task.await.ok();
        self.store.close().await;
        self.store = open(&self.dir);
    }

    async fn push(&self, priority: u8, numbers: impl Iterator<Item = u64>) {
        let mut batch = Batch::default();
        for n in numbers {
            batch.push(&Draft { body: format!(r#"{{"n":{n}}}"#).as_bytes(), ..Draft::default() }).unwrap();
        }
        let append = Append { topic: "in".into(), priority, batch };
        self.store.commit(Step { appends: vec![append], ..Step::default() }).await.unwrap();
    }

    /// Numbers in the order in which they came.
    fn came(&self) -> Vec<u64> {
        self.came.lock().unwrap().iter().flatten().map(|came| came.n).collect()
    }

    async fn wait_for(&self, count: usize) {
        let enough = async {
            while self.came().iter().collect::<BTreeSet<_>>().len() < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let done = timeout(LONG, enough).await;
        assert!(done.is_ok(), "{} of {count} events", self.came().len());
    }

    /// The ledger's row, once the cursor is on disk: delivered, queued, dead, stopped.
    async fn row(&self) -> [u64; 4] {
        self.store.commit(Step::default()).await.unwrap();
        let row = self.store.ledger().into_iter().find(|row| row.consumer == "sinks.x").unwrap();
        assert_eq!(row.accepted, row.delivered + row.queued + row.dead);
        [row.delivered, row.queued, row.dead, row.stopped]
    }
}

/// By whatever clock.
const LONG: Duration = Duration::from_secs(1_000);

fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(Options { path: Some(dir.path().join("t.db")), ..Options::default() }).unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn fine(_: &[u64]) -> (Duration, Result<(), Fault>) {
    (Duration::ZERO, Ok(()))
}

/// The events from `first` on, and those before, each in the order in which they came first.
fn apart(came: &[u64], first: u64) -> (Vec<u64>, Vec<u64>) {
    let mut seen = BTreeSet::new();
    came.iter().filter(|n| seen.insert(**n)).partition(|n| **n < first)
}

const LIVE: &str = r#"{ "batch": { "max": 50 }, "drain": { "live": 0.3 } }"#;

#[tokio::test]
async fn live_events_get_their_share_of_a_drain() {
    for (live, each, want) in [(0.3, 100, 300), (0.3, 10, 60), (0.8, 100, 400)] {
        let mut bench =
            Bench::new(&LIVE.replace("0.3", &live.to_string()), |events| (ms(2 + events.len() as u64 / 25), Ok(())))
                .await;
        bench.push(4, 0..3_000).await;
        bench.run().await;
        let mut sent = 10_000;
        while bench.came().len() < 1_000 {
            bench.push(4, sent..sent + each).await;
            sent += each;
            let before = bench.came().len();
            while bench.came().len() < before + 50 {
                sleep(ms(1)).await;
            }
        }
        bench.wait_for(3_000 + (sent - 10_000) as usize).await;
        let came = bench.came();
        let fresh = came[..1_000].iter().filter(|n| **n >= 10_000).count();
        assert!(fresh >= want * 3 / 4, "{live} {each}: {fresh} of the first 1000 are live, not {want}");
        assert!(fresh <= 1_000 - (want.min(300) / 2), "the backlog shrinks too");
        let (old, new) = apart(&came, 10_000);
        // What live events there are too many of is a backlog in its turn.
        assert!(old.is_sorted() && (new.is_sorted() || each > 10));
        assert_eq!(came.len() as u64, 3_000 + sent - 10_000, "none came twice");
        assert_eq!(bench.row().await, [came.len() as u64, 0, 0, 0]);
        assert!(bench.store.state("sinks.x", b"", 9).await.unwrap().is_empty(), "what was sent ahead is forgotten");
    }
}

#[tokio::test]
async fn a_crash_in_a_drain_loses_nothing_and_repeats_little() {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let refused = |n: &u64| n.is_multiple_of(97);
        let mut bench = Bench::new(LIVE, move |events| match events {
            [n] if refused(n) => (ms(0), Err(Fault::reject("no"))),
            _ if events.iter().any(refused) => (ms(0), Err(Fault::reject("one of them"))),
            _ => (ms(1), Ok(())),
        })
        .await;
        bench.push(4, 1..1_500).await;
        bench.push(2, 1_500..2_000).await;
        let (mut sent, mut crashes) = (10_000, 0);
        for _ in 0..12 {
            bench.run().await;
            for _ in 0..random.u64(1..8) {
                let count = random.u64(1..60);
                bench.push(if random.bool() { 4 } else { 2 }, sent..sent + count).await;
                sent += count;
                sleep(ms(random.u64(0..15))).await;
            }
            if random.bool() {
                // Left alone: what came meanwhile is a backlog of its own.
                bench.crash().await;
                crashes += 1;
                bench.push(4, sent..sent + 300).await;
                sent += 300;
            } else {
                bench.crash().await;
                crashes += 1;
            }
        }
        bench.settings = if seed == 3 { "{}".into() } else { LIVE.into() }; // also when it is turned off meanwhile
        bench.run().await;
        let all: Vec<u64> = (1..2_000).chain(10_000..sent).collect();
        let dead = all.iter().filter(|n| refused(n)).count();
        bench.wait_for(all.len() - dead).await;
        while bench.row().await[1] > 0 {
            sleep(ms(5)).await;
        }
        let came = bench.came();
        let distinct: BTreeSet<u64> = came.iter().copied().collect();
        assert!(all.iter().filter(|n| !refused(n)).all(|n| distinct.contains(n)));
        assert!(came.len() < all.len() + crashes * 110, "{} came {} times", all.len(), came.len());
        let (old, _) = apart(&came, 1_500);
        assert!(old.is_sorted());
        let [delivered, queued, counted, _] = bench.row().await;
        assert_eq!((delivered, queued, counted), ((all.len() - dead) as u64, 0, dead as u64));
        assert!(bench.store.state("sinks.x", b"", 9).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_lane_that_keeps_up_does_not_wait_for_the_backlog_of_others() {
    let mut bench = Bench::new(LIVE, |_| (ms(5), Ok(()))).await;
    bench.push(4, 0..3_000).await;
    bench.run().await;
    for n in 10_000..10_020 {
        bench.push(2, n..n + 1).await;
        let before = bench.came().len();
        bench.wait_for_one(n).await;
        assert!(bench.came().iter().position(|came| *came == n).unwrap() <= before + 150, "{n}");
    }
    assert!(!bench.came().contains(&2_999), "the backlog is still there");
    bench.wait_for(3_020).await;
    assert_eq!(bench.row().await, [3_020, 0, 0, 0]);
    let came = bench.came();
    let (old, new) = apart(&came, 10_000);
    assert!(old.is_sorted() && new.is_sorted() && came.len() == 3_020);
    assert!(bench.store.state("sinks.x", b"", 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn after_another_outage_the_newest_come_ahead_again() {
    let mut bench = Bench::new(LIVE, |_| (ms(5), Ok(()))).await;
    bench.push(4, 0..3_000).await;
    for round in 1..4 {
        bench.run().await;
        sleep(ms(30)).await;
        let first = round * 10_000;
        bench.push(4, first..first + 10).await;
        while !bench.came().contains(&(first + 9)) {
            sleep(ms(1)).await;
        }
        let came = bench.came();
        assert!(!came.contains(&2_999) && !came.contains(&(first - 1)), "{round}: ahead of all that waits");
        bench.crash().await;
        bench.push(4, first + 1_000..first + 2_000).await; // while nothing is sent
    }
    bench.run().await;
    bench.wait_for(3_000 + 3 * 1_010).await;
    assert_eq!(bench.row().await[0], 6_030);
}

#[tokio::test(start_paused = true)]
async fn an_alarm_passes_a_backlog_of_a_slow_upstream() {
    // Two seconds for a full batch: the deliveries get smaller. A governor has nothing left: it does not wait for that.
    for (settings, each) in
        [(r#"{}"#, 2), (r#"{ "drain": { "events": 2 } }"#, 0), (r#"{ "batch": { "wait": "10s" } }"#, 1)]
    {
        let mut bench = Bench::new(settings, move |events| (ms(events.len() as u64 * each), Ok(()))).await;
        bench.push(4, 0..20_000).await;
        bench.run().await;
        for alarm in 100_000..100_010 {
            sleep(ms(5_000)).await;
            bench.push(7, alarm..alarm + 1).await;
            // Time stands still only while nobody waits for the disk: so what came before the alarm is counted.
            let before = bench.came().len();
            bench.wait_for_one(alarm).await;
            let between = bench.came().iter().position(|n| *n == alarm).unwrap().saturating_sub(before) as u64;
            let most = 500u64.checked_div(each).unwrap_or(2);
            assert!(between <= most, "{settings}: {between} events before the alarm");
        }
    }
}

impl Bench {
    async fn wait_until_held(&self) {
        while self.links.all_held().is_empty() {
            sleep(ms(10)).await;
        }
    }

    async fn wait_for_one(&self, n: u64) {
        while !self.came().contains(&n) {
            sleep(ms(10)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_sent_than_the_budget() {
    // `{"n":10000}` is 11 bytes: 9 fit into 100.
    let settings = r#"{ "budget": { "bytes": 100, "every": "1h" } }"#;
    let mut bench = Bench::new(settings, fine).await;
    bench.push(4, 10_000..10_030).await;
    bench.run().await;
    bench.wait_until_held().await;
    bench.crash().await;
    bench.run().await;
    sleep(ms(20_000)).await;
    bench.wait_until_held().await;
    assert_eq!(bench.came().len(), 9, "also after a restart");
    assert!(bench.links.all_held()[0].1.starts_with("its budget is used up until about"));
    bench.push(7, 20_000..20_100).await;
    bench.wait_for(109).await;
    assert_eq!(bench.row().await, [109, 21, 0, 0], "alarms go all the same");
    // A single one that is larger than all of it goes alone, once nothing of it is used.
    let mut bench = Bench::new(&settings.replace("100", "5"), fine).await;
    bench.push(4, 10_000..10_002).await;
    bench.run().await;
    bench.wait_until_held().await;
    assert_eq!(bench.came(), [10_000]);
}

#[tokio::test(start_paused = true)]
async fn outside_of_its_windows_only_alarms_go() {
    // A minute before now: the window is shut for the next 23 hours.
    let begin = jiff::Timestamp::from_millisecond(crate::clock::wall_ms() - 3 * 3_600_000).unwrap();
    let begin = jiff::tz::TimeZone::UTC.to_datetime(begin);
    let cron = format!("{} {} * * *", begin.minute(), begin.hour());
    for (length, open) in [("1h", false), ("4h", true)] {
        let settings = format!(r#"{{ "windows": [{{ "cron": "{cron}", "for": "{length}" }}] }}"#);
        let mut bench = Bench::new(&settings, fine).await;
        bench.push(4, 0..10).await;
        bench.run().await;
        bench.push(6, 100..105).await;
        bench.wait_for(if open { 15 } else { 5 }).await;
        sleep(ms(30_000)).await;
        let mut came = bench.came();
        came.sort_unstable();
        assert_eq!(came, if open { (0..10).chain(100..105).collect::<Vec<_>>() } else { (100..105).collect() });
        assert_eq!(
            bench.links.all_held().iter().any(|(_, why)| why.starts_with("outside of its windows until")),
            !open
        );
    }
}

#[tokio::test]
async fn late_events_are_marked_or_go_elsewhere() {
    let mut bench = Bench::new(r#"{ "late": { "after": "300ms", "mark": "waited.long" } }"#, fine).await;
    bench.push(4, 0..3).await;
    sleep(ms(320)).await;
    bench.push(4, 3..5).await;
    bench.run().await;
    bench.wait_for(5).await;
    let bodies: Vec<String> = bench.came.lock().unwrap().iter().flatten().map(|came| came.body.clone()).collect();
    assert_eq!(bodies[2..4], [r#"{"n":2,"waited":{"long":true}}"#, r#"{"n":3}"#]);

    let mut bench = Bench::new(r#"{ "late": { "after": "300ms", "to": "archive" } }"#, fine).await;
    let topics = [Arc::from(crate::config::late_topic("x"))];
    let other = bench.store.consumer("sinks.archive", &topics, crate::store::Start::Oldest).await.unwrap();
    bench.push(4, 0..3).await;
    bench.push(7, 3..5).await;
    sleep(ms(320)).await;
    bench.push(4, 5..7).await;
    bench.run().await;
    bench.wait_for(2).await;
    assert_eq!(bench.came(), [5, 6]);
    assert_eq!(bench.row().await, [7, 0, 0, 5]);
    let mut reader = bench.store.reader(other, &topics);
    let (first, then) = (reader.next(10, 1 << 20).await.unwrap(), reader.next(10, 1 << 20).await.unwrap());
    let events: Vec<(u8, String)> = (first.events.iter().chain(&then.events))
        .map(|e| (e.priority, String::from_utf8(e.body.to_bytes().to_vec()).unwrap()))
        .collect();
    let want = [(7, 3), (7, 4), (4, 0), (4, 1), (4, 2)].map(|(priority, n)| (priority, format!(r#"{{"n":{n}}}"#)));
    assert_eq!(events, want);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_a_link_returns_unless_it_was_asked_for() {
    for (fault, at_once) in [(true, true), (false, false)] {
        let begun = Instant::now();
        let mut bench = Bench::new(r#"{ "retry": { "initial": "10m", "max": "10m" } }"#, move |_| {
            let up = begun.elapsed() > ms(60_000);
            let away = anyhow::anyhow!("away");
            let wait = Duration::from_secs(600);
            (
                ms(0),
                if up {
                    Ok(())
                } else if fault {
                    Err(Fault::Retry(away))
                } else {
                    Err(Fault::RetryAfter(wait, away))
                },
            )
        })
        .await;
        bench.push(4, 0..1).await;
        bench.run().await;
        sleep(ms(61_000)).await;
        bench.links.down("sources.other", "away");
        bench.links.up("sources.other");
        bench.wait_for(1).await;
        let after = begun.elapsed();
        let want = if at_once { ms(60_000)..=ms(70_000) } else { ms(600_000)..=ms(800_000) };
        assert!(want.contains(&after), "{at_once}: {after:?}");
    }
}
