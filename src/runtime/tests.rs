//! The runtime over a real store, with processes made for the purpose.

use super::{
    Plan, Sum,
    around::Around,
    chain::Chain,
    links::Links,
    parts::{self, Parts, in_order},
    pipeline::due,
    time::Time,
};
use crate::{
    config::{Catalogue, PipelinePlan},
    event::{Batch, Draft, Event},
    fault::Fault,
    kind::{Cx, Kind, Outside, Process, Timer},
    store::{Append, Options, Put, Start, Step, Store},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    path::Path,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Counts events and sets `n`; rejects an event with `bad: true` after it counted it.
struct Count;

impl Process for Count {
    fn keeps_state(&self) -> bool {
        true
    }

    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let before = cx.get(b"n").map_or(0, |n| String::from_utf8_lossy(n).parse::<u64>().unwrap());
        cx.put(b"n", (before + 1).to_string())?;
        if event.body.get(&"tick".parse().unwrap()).is_some() {
            cx.set_timer(b"t", cx.now + 50);
        }
        if event.body.get(&"bad".parse().unwrap()).is_some() {
            return Err(Fault::reject("it is bad"));
        }
        event.body.set(&"n".parse().unwrap(), (before + 1).to_string().as_bytes()).unwrap();
        cx.emit(event);
        Ok(())
    }

    fn timer(&self, timer: Timer, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let n = cx.get(b"n").cloned().unwrap_or_default();
        let body = format!(r#"{{"timer":{}}}"#, String::from_utf8_lossy(&n));
        let body = crate::event::Body::parse(body.into_bytes().into()).unwrap();
        cx.emit(Event::made(format!("timer-{}", timer.due), "t".into(), cx.now, body));
        Ok(())
    }

    fn finish(&self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let body = crate::event::Body::parse(r#"{"end":true}"#.as_bytes().into()).unwrap();
        cx.emit(Event::made("end".into(), "t".into(), cx.now, body));
        Ok(())
    }
}

/// Waits a random time; fails the first attempts of some events; notes what it saw.
struct Slow {
    name: String,
}

static SEEN: LazyLock<Mutex<Vec<(String, String)>>> = LazyLock::new(Mutex::default);
static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

impl Process for Slow {
    fn outside(&self) -> Option<&dyn Outside> {
        Some(self)
    }
}

#[async_trait]
impl Outside for Slow {
    async fn reach(&self, event: &mut Event) -> Result<(), Fault> {
        let field = |name: &str| event.body.get(&name.parse().unwrap()).map(|v| v.raw().to_vec());
        let seen = {
            let mut seen = SEEN.lock().unwrap();
            let id = event.id.text().into_owned();
            seen.push((self.name.clone(), id.clone()));
            seen.iter().filter(|s| **s == (self.name.clone(), id.clone())).count()
        };
        MOST.fetch_max(AT_ONCE.fetch_add(1, SeqCst) + 1, SeqCst);
        sleep(Duration::from_millis(fastrand::u64(0..8))).await;
        AT_ONCE.fetch_sub(1, SeqCst);
        let fail = field(&format!("fail_{}", self.name.rsplit('.').next().unwrap()));
        match fail.map(|n| String::from_utf8(n).unwrap().parse::<usize>().unwrap()) {
            Some(times) if seen <= times => Err(Fault::retry("not yet")),
            _ if field("never").is_some() => Err(Fault::reject("never")),
            _ => Ok(()),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

const KINDS: &[Kind<dyn Process>] = &[
    Kind { name: "count", about: "", example: "", schema: Nothing::json_schema, build: |_| Ok(Box::new(Count)) },
    Kind {
        name: "slow",
        about: "",
        example: "",
        schema: Nothing::json_schema,
        build: |params| Ok(Box::new(Slow { name: format!("{}.{}", params.scope.pipeline, params.name) })),
    },
    Kind { name: "hold", about: "", example: "", schema: Nothing::json_schema, build: |_| Ok(Box::new(Hold)) },
    Kind { name: "checkpoint", about: "", example: "", schema: Nothing::json_schema, build: |_| Ok(Box::new(Pass)) },
];

/// Lets an event pass every 20 ms.
struct Hold;

impl Process for Hold {
    fn keeps_state(&self) -> bool {
        true
    }

    fn delays(&self) -> bool {
        true
    }

    fn process(&self, event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let next = cx.get(b"next").map_or(0, |n| String::from_utf8_lossy(n).parse::<i64>().unwrap());
        if cx.now < next {
            let wait = Duration::from_millis((next - cx.now) as u64);
            return Err(Fault::RetryAfter(wait, anyhow::anyhow!("too early")));
        }
        cx.put(b"next", (cx.now + 20).to_string())?;
        cx.emit(event);
        Ok(())
    }
}

struct Pass;
impl Process for Pass {}

trait None_ {}

fn plan(name: &str, pipeline: &str) -> PipelinePlan<dyn Process> {
    plans(&format!(r#""{name}": {{ "from": ["in"], {pipeline} }}"#)).remove(0)
}

fn plans(pipelines: &str) -> Vec<PipelinePlan<dyn Process>> {
    let text = format!(r#"{{ "topics": {{ "in": {{}} }}, "pipelines": {{ {pipelines} }} }}"#);
    let catalogue: Catalogue<'_, dyn None_, dyn Process, dyn None_> =
        Catalogue { sources: &[], processes: KINDS, sinks: &[], systems: &[] };
    let (plan, _) = crate::config::load(Path::new("f"), &text, &catalogue).map_err(|e| e[0].to_string()).unwrap();
    plan.pipelines
}

/// A pipeline over a store on disk.
struct Bench {
    dir: tempfile::TempDir,
    name: &'static str,
    pipeline: String,
    store: Store,
    stop: watch::Sender<bool>,
    finish: Vec<mpsc::Sender<oneshot::Sender<()>>>,
    tasks: JoinSet<()>,
}

impl Bench {
    async fn start(name: &'static str, pipeline: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        Bench::open(dir, name, pipeline.to_owned(), Options::default()).await
    }

    async fn open(dir: tempfile::TempDir, name: &'static str, pipeline: String, options: Options) -> Bench {
        let store = Store::open(Options { path: Some(dir.path().join("s.db")), ..options }).unwrap();
        // What nobody reads goes at once.
        store.consumer("test", &[Arc::from(name)], Start::Oldest).await.unwrap();
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let around = Around::alone(Time::Steady, None);
        let chains = in_order(Chain::parts(plan(name, &pipeline), &around), |chain| chain);
        let mut consumers = Vec::new();
        for chain in &chains {
            let topics: Vec<Arc<str>> = chain.from.iter().map(|topic| topic.as_str().into()).collect();
            consumers.push(store.consumer(&chain.name, &topics, Start::Oldest).await.unwrap());
        }
        let mut finish = Vec::new();
        for (chain, consumer) in chains.into_iter().zip(consumers) {
            let (_, finisher, pipeline) = parts::load(chain, consumer, &store).await.unwrap();
            tasks.spawn(pipeline.run(stopping.clone()));
            finish.push(finisher);
        }
        Bench { dir, name, pipeline, store, stop, finish, tasks }
    }

    async fn push(&self, bodies: impl IntoIterator<Item = String>) {
        let mut batch = Batch::default();
        for (i, body) in bodies.into_iter().enumerate() {
            let key = format!("k{}", i % 3);
            batch.push(&Draft { body: body.as_bytes(), key: &key, ..Draft::default() }).unwrap();
        }
        let append = Append { topic: "in".into(), priority: 4, batch };
        self.store.commit(Step { appends: vec![append], ..Step::default() }).await.unwrap();
    }

    /// Until `count` events lie in the pipeline's topic: their bodies, in order.
    async fn out(&self, count: usize) -> Vec<String> {
        let topics = [Arc::from(self.name)];
        let consumer = self.store.consumer("test", &topics, Start::Oldest).await.unwrap();
        let mut reader = self.store.reader(consumer, &topics);
        let mut out = Vec::new();
        while out.len() < count {
            let lot = timeout(Duration::from_secs(20), reader.next(10_000, 1 << 20)).await;
            let lot = lot.unwrap_or_else(|_| panic!("{count} events, not {}: {out:?}", out.len())).unwrap();
            out.extend(lot.events.iter().map(|e| String::from_utf8(e.body.to_bytes().to_vec()).unwrap()));
        }
        out
    }

    /// Ends as in a crash: what is not on disk is gone.
    async fn again(self) -> Bench {
        self.again_with(Options::default()).await
    }

    async fn again_with(mut self, options: Options) -> Bench {
        self.tasks.shutdown().await;
        self.store.close().await;
        Bench::open(self.dir, self.name, self.pipeline, options).await
    }

    async fn end(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.store.close().await;
    }
}

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|i| format!(r#"{{"i":{i}}}"#))
}

fn seen(name: &str) -> Vec<String> {
    SEEN.lock().unwrap().iter().filter(|(by, _)| by == name).map(|(_, id)| id.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_keep_the_order_and_a_failure_stands_alone() {
    let bench = Bench::start("order", r#""workers": 8, "processes": [{"type": "slow"}, {"type": "count"}]"#).await;
    MOST.store(0, SeqCst);
    let body = |i: usize| match i {
        20 => r#"{"i":20,"fail_slow":3}"#.to_owned(),
        50 => r#"{"i":50,"never":1}"#.to_owned(),
        60 => r#"{"i":60,"bad":1}"#.to_owned(),
        _ => format!(r#"{{"i":{i}}}"#),
    };
    bench.push((0..200).map(body)).await;
    let out = bench.out(198).await;
    let want = (0..200).filter(|i| ![50, 60].contains(i)).enumerate();
    let want: Vec<String> =
        want.map(|(n, i)| format!(r#"{},"n":{}}}"#, body(i).trim_end_matches('}'), n + 1)).collect();
    let wrong = out.iter().zip(&want).find(|(out, want)| out != want);
    assert_eq!((wrong, out.len()), (None, want.len()));
    assert!(MOST.load(SeqCst) > 1);
    let dead = bench.store.letters(&crate::store::Which::default(), 10).await.unwrap();
    let mut reasons: Vec<_> = dead.iter().map(|d| d.dead.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["count: it is bad", "slow: never"]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_key_are_never_outside_at_once() {
    let bench = Bench::start("keys", r#""workers": 8, "per_key": true, "processes": [{"type": "slow"}]"#).await;
    bench.push(numbered(60)).await;
    assert_eq!(bench.out(60).await, numbered(60).collect::<Vec<_>>());
    // Of each key, here every third event, the order outside is that of the events.
    let seen: Vec<u64> = seen("keys.slow").iter().map(|id| id.rsplit('-').next().unwrap().parse().unwrap()).collect();
    for key in 0..3 {
        let of_key: Vec<u64> = seen.iter().copied().filter(|seq| seq % 3 == key).collect();
        assert!(of_key.is_sorted() && of_key.len() == 20, "{of_key:?}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_survives_a_crash_and_counts_nothing_twice() {
    for pipeline in [
        r#""processes": [{"type": "count"}]"#,
        r#""processes": [{"type": "count"}, {"type": "slow"}]"#,
        r#""workers": 4, "processes": [{"type": "slow"}, {"type": "count"}]"#,
        r#""processes": [{"type": "slow"}, {"type": "checkpoint"}, {"type": "count"}]"#,
    ] {
        let mut bench = Bench::start("crash", pipeline).await;
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..5 {
            bench.push((0..40).map(|i| format!(r#"{{"i":{}}}"#, round * 40 + i))).await;
            sleep(Duration::from_millis(random.u64(0..40))).await;
            bench = bench.again().await;
        }
        let out: Vec<String> = bench.out(200).await;
        let wrong = out.iter().enumerate().find(|(i, body)| **body != format!(r#"{{"i":{i},"n":{}}}"#, i + 1));
        assert_eq!((wrong, out.len()), (None, 200), "{pipeline}");
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_before_a_checkpoint_is_not_repeated() {
    let pipeline =
        r#""processes": [{"type": "slow", "name": "a"}, {"type": "checkpoint"}, {"type": "slow", "name": "b"}]"#;
    let mut bench = Bench::start("point", pipeline).await;
    bench.push([r#"{"fail_b":1000000}"#.to_owned()]).await;
    for _ in 0..3 {
        sleep(Duration::from_millis(150)).await;
        bench = bench.again().await;
    }
    sleep(Duration::from_millis(50)).await;
    assert!(seen("point.a").len() == 1 && seen("point.b").len() > 3);
    let row = bench.store.ledger().into_iter().find(|row| row.consumer == "pipelines.point/checkpoint").unwrap();
    assert_eq!((row.topic.as_str(), row.queued), ("point/checkpoint", 1));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_once_also_after_a_crash() {
    let bench = Bench::start("timer", r#""processes": [{"type": "count"}]"#).await;
    bench.push((0..3).map(|_| r#"{"tick":1}"#.to_owned())).await;
    bench.out(3).await;
    let bench = bench.again().await;
    sleep(Duration::from_millis(60)).await;
    let bench = bench.again().await;
    let out = bench.out(4).await;
    assert_eq!(out[3], r#"{"timer":3}"#);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.out(4).await.len(), 4);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_each_process_emits_what_it_holds() {
    let bench = Bench::start("end", r#""processes": [{"type": "count"}, {"type": "count"}]"#).await;
    let (done, finished) = oneshot::channel();
    bench.finish[0].send(done).await.unwrap();
    finished.await.unwrap();
    assert_eq!(bench.out(2).await, [r#"{"end":true,"n":1}"#, r#"{"end":true}"#]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_also_when_the_store_is_full() {
    let mut bench = Bench::start("full", r#""processes": [{"type": "count"}]"#).await;
    bench.push([r#"{"tick":1}"#.to_owned()]).await;
    bench.out(1).await;
    bench.tasks.shutdown().await;
    bench.push(numbered(3)).await;
    sleep(Duration::from_millis(60)).await;
    let bench = bench.again_with(Options { high: 1, low: 0, ..Options::default() }).await;
    assert_eq!(bench.out(5).await[1..3], [r#"{"timer":1}"#, r#"{"i":0,"n":2}"#]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pipeline_is_known_before_the_first_one_writes() {
    let store = Store::open(Options::default()).unwrap();
    let consumer = store.consumer("test", &[Arc::from("b")], Start::Oldest).await.unwrap();
    store.consumer("pipelines.a", &[Arc::from("in")], Start::Oldest).await.unwrap();
    let mut batch = Batch::default();
    for body in numbered(50) {
        batch.push(&Draft { body: body.as_bytes(), ..Draft::default() }).unwrap();
    }
    // While `x` takes up what it remembers, `a` is at work; `y` makes the store look what may go.
    let remembered =
        |n: u32| Put { owner: "pipelines.x.count".into(), key: n.to_be_bytes().into(), value: Some(vec![0]) };
    let append = Append { topic: "in".into(), priority: 4, batch };
    let step = Step { appends: vec![append], state: (0..100_000).map(remembered).collect(), ..Step::default() };
    store.commit(step).await.unwrap();
    let pipelines = plans(
        r#""a": { "from": ["in"], "processes": [] }, "x": { "from": ["in"], "processes": [{ "type": "count" }] },
           "y": { "from": ["in"], "processes": [] },
           "b": { "from": ["a"], "processes": [] }"#,
    );
    let (settings, sources, sinks, systems, buses) = Default::default();
    let plan = Plan { settings, sources, pipelines, sinks, systems, buses };
    let mut parts = Parts::new(store.clone(), Links::default(), mpsc::channel(1).0, "", None);
    let sum = Sum::of(&plan).unwrap();
    assert!(parts.swap(plan, &sum, None, &mut mpsc::channel(1).1).await.is_ok());
    let mut reader = store.reader(consumer, &[Arc::from("b")]);
    let lot = timeout(Duration::from_secs(5), reader.next(100, 1 << 20)).await.expect("50 events").unwrap();
    assert_eq!(lot.events.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_makes_timers_early_or_late_and_no_more() {
    let now = Arc::new(AtomicI64::new(1_000_000));
    let around = Around::alone(Time::Still(now.clone()), None);
    let chain = Chain::parts(plan("clock", r#""processes": [{"type": "count"}]"#), &around).remove(0);
    let mut memory = chain.memory();
    let soon = Duration::from_millis(1500);
    assert!(timeout(soon / 10, due(&chain, &memory)).await.is_err());
    memory.load(0, Vec::new(), vec![(b"t".to_vec(), 4_600_000), (b"never".to_vec(), i64::MAX)]);
    assert!(timeout(soon / 10, due(&chain, &memory)).await.is_err());
    for (clock, comes) in [(4_600_000, true), (i64::MIN, false), (i64::MAX - 1, true)] {
        let set = async {
            sleep(soon / 10).await;
            now.store(clock, SeqCst);
        };
        let (fired, ()) = tokio::join!(timeout(soon, due(&chain, &memory)), set);
        assert_eq!(fired.is_ok(), comes, "{clock}");
        now.store(0, SeqCst);
    }
    assert_eq!(memory.take_due(i64::MAX - 1).map(|(_, timer)| timer.due), Some(4_600_000));
    assert_eq!(memory.take_due(i64::MAX - 1), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_held_up_is_not_outside_again() {
    for (name, pipeline) in [
        ("held", r#""processes": [{"type": "slow"}, {"type": "hold"}]"#),
        ("window", r#""workers": 4, "processes": [{"type": "slow"}, {"type": "hold"}]"#),
    ] {
        let bench = Bench::start(name, pipeline).await;
        bench.push(numbered(20)).await;
        assert_eq!(bench.out(20).await, numbered(20).collect::<Vec<_>>());
        assert_eq!(seen(&format!("{name}.slow")).len(), 20, "{name}");
        bench.end().await;
    }
}
