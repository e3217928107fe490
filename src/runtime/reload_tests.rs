//! What becomes of a gateway when another configuration cannot be taken over.

use super::{
    Origin, Plan, Running, Sum, Versions,
    links::Links,
    order::{Asked, Changed, Denied, Order},
    parts::Parts,
    reload::{Live, Next},
    status::{Shown, View},
};
use crate::{
    config::{Before, Catalogue, Late, Problem, load_after},
    event::{Batch, Draft, Event},
    fault::Fault,
    kind::{Intake, Kind, Params, ParamsError, Process, Sink, Source},
    store::{Append, Options, Step, Store},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// How often each part began.
static BEGUN: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

/// Sources that are to fall, each once.
static FALLS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

const MOMENT: Duration = Duration::from_millis(5);

fn begun(name: &str) -> u32 {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or(0)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    #[allow(dead_code)]
    n: u32,
}

struct Quiet(String);

#[async_trait]
impl Source for Quiet {
    async fn run(&mut self, _: &Intake) -> Result<(), Fault> {
        *BEGUN.lock().unwrap().entry(self.0.clone()).or_default() += 1;
        while !FALLS.lock().unwrap().remove(&self.0) {
            tokio::time::sleep(MOMENT).await;
        }
        Err(Fault::Fatal(anyhow::anyhow!("it fell")))
    }
}

#[async_trait]
impl Sink for Quiet {
    async fn deliver(&mut self, _: &[Event]) -> Result<(), Fault> {
        Ok(())
    }

    async fn idle(&mut self) -> Fault {
        *BEGUN.lock().unwrap().entry(self.0.clone()).or_default() += 1;
        std::future::pending().await
    }
}

fn quiet(params: &Params) -> Result<Quiet, ParamsError> {
    params.decode::<Config>().map(|_| Quiet(params.name.clone()))
}

const SOURCE: Kind<dyn Source> = Kind {
    name: "quiet",
    about: "x",
    example: "{}",
    schema: Config::json_schema,
    build: |params| Ok(Box::new(quiet(&params)?)),
};
const SINK: Kind<dyn Sink> = Kind {
    name: "quiet",
    about: "x",
    example: "{}",
    schema: Config::json_schema,
    build: |params| Ok(Box::new(quiet(&params)?)),
};

/// `torn` is found out about when its sinks are opened: a field that does not parse, behind the checks of the configuration.
fn build(text: &str, before: Option<&Before>) -> Result<(Plan, Vec<Problem>), Vec<Problem>> {
    let catalogue: Catalogue<'_, dyn Source, dyn Process, dyn Sink> =
        Catalogue { sources: &[SOURCE], processes: &[], sinks: &[SINK], systems: &[] };
    let (mut plan, warnings) = load_after(Path::new("f"), text, &catalogue, before)?;
    for source in plan.sources.iter_mut().filter(|source| source.name == "broken") {
        source.common.id = Some("a..b".into());
    }
    for sink in plan.sinks.iter_mut().filter(|sink| sink.name == "torn") {
        let late = serde_json::from_str::<Late>(r#"{ "after": "1s", "mark": "a" }"#).unwrap();
        sink.common.late = Some(Late { mark: Some("a..b".into()), ..late });
    }
    Ok((plan, warnings))
}

/// A gateway whose file says `right`, and its links.
async fn live(dir: &Path, right: &str) -> (Live<'static>, Links) {
    let (file, path) = (dir.join("c.jsonc"), dir.join("t.db"));
    fs::write(&file, right).unwrap();
    let (mut plan, _) = build(right, None).unwrap();
    let sum = Sum::of(&plan).unwrap();
    sum.fill_in(&mut plan);
    let store = Store::open(Options { path: Some(path.clone()), ..Options::default() }).unwrap();
    let (links, (fatal, mut failures), (orders, ordered)) = (Links::default(), mpsc::channel(1), mpsc::channel(1));
    let settings = plan.settings.clone();
    let before = Before { systems: plan.systems.clone(), buses: plan.buses.clone() };
    let mut parts = Parts::new(store.clone(), links.clone(), fatal, "g", None);
    assert!(parts.swap(plan, &sum, None, &mut failures).await.is_ok());
    let (shown, config) = (Mutex::new(Shown::default()), Mutex::default());
    let gateway = "g".into();
    let view = View { gateway, store, links: links.clone(), parts: shown, config, orders, since: Instant::now() };
    let origin = Box::leak(Box::new(Origin { file: Box::leak(file.into_boxed_path()), build: &build }));
    let versions = Some(Versions::beside(&path));
    let view = Running::of(view);
    (Live::new(origin, parts, view, (failures, ordered), right.into(), (settings, before), versions), links)
}

/// Sources and sinks `NAME` with more in front, and whether SIGHUP is a trial.
fn text(dir: &Path, confirm: &str, sources: &str, sinks: &str) -> String {
    format!(
        r#"{{ "gateway": {{ "id": "g"{confirm} }}, "store": {{ "path": "{}" }},
  "sources": {{ {sources} }}, "sinks": {{ {sinks} }} }}"#,
        dir.join("t.db").display()
    )
}

const TRIED: &str = r#", "confirm": "1h""#;

async fn until(what: impl Fn() -> bool) {
    let all = async {
        while !what() {
            tokio::time::sleep(MOMENT).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
}

async fn obey(live: &mut Live<'_>, order: Order) -> Result<Changed, Denied> {
    let (reply, mut answer) = oneshot::channel();
    live.obey(Asked { order, reply }).await.unwrap();
    answer.try_recv().unwrap()
}

async fn hangup(live: &mut Live<'_>, text: &str) {
    fs::write(live.origin.file, text).unwrap();
    live.hangup().await.unwrap();
}

async fn end(mut live: Live<'_>) {
    live.parts.stop_all().await;
    live.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_over_leaves_what_runs_or_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let text = |source: &str, sink: &str, n: u32| {
        let steady = if n > 1 { r#"["here", "there"]"# } else { r#"["here"]"# };
        text(
            dir.path(),
            "",
            &format!(r#""here": {{ "type": "quiet" }}, "there": {{ "type": "quiet" }}{source}"#),
            &format!(
                r#""steady": {{ "type": "quiet", "from": ["here"] }}, "more": {{ "type": "quiet", "from": {steady} }},
    "changes": {{ "type": "quiet", "from": ["here"], "n": {n} }}{sink}"#
            ),
        )
    };
    let right = text("", "", 1);
    let (mut live, _) = live(dir.path(), &right).await;
    let (store, file) = (live.store.clone(), live.origin.file);
    let mut batch = Batch::default();
    batch.push(&Draft { body: b"{}", ..Draft::default() }).unwrap();
    let appends = vec![Append { topic: "there".into(), priority: 4, batch }];
    store.commit(Step { appends, ..Step::default() }).await.unwrap();
    until(|| begun("steady") > 0 && begun("changes") > 0 && begun("here") > 0).await;
    for (source, sink, again) in [
        // Before anything was touched.
        (r#", "broken": { "type": "quiet" }"#, "", 1),
        // When `changes` was stopped already, and its successor, maybe, started.
        ("", r#", "torn": { "type": "quiet", "from": ["here"] }"#, 2),
    ] {
        let answer = obey(&mut live, Order::Apply { text: text(source, sink, 2), within: None }).await;
        assert!(
            matches!(&answer, Err(Denied::Failed(why)) if why.contains("a..b") || why.contains("`mark`")),
            "{answer:?}"
        );
        assert_eq!(fs::read_to_string(file).unwrap(), right);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((begun("here"), begun("steady")), (1, 1), "{source}{sink}");
        assert!(begun("changes") >= again, "{} {sink}", begun("changes"));
        assert!(!store.knows("sinks.torn"), "a sink that never was has no queue");
        let rows = store.ledger();
        assert!(!rows.iter().any(|row| row.topic == "there" && row.consumer == "sinks.more"), "{rows:?}");
        let versions = Versions::beside(&dir.path().join("t.db"));
        assert_eq!(versions.running().map(|version| version.number), Some(1));
        assert!(versions.all().last().is_some_and(|version| !version.why.is_empty()));
    }
    end(live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_goes_back_to_what_ran_also_where_the_disk_did_not_take_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = |confirm: &str, n: u32| {
        let sink = format!(r#""d": {{ "type": "quiet", "from": ["d"], "n": {n} }}"#);
        text(dir.path(), confirm, r#""d": { "type": "quiet" }"#, &sink)
    };
    let (mut live, _) = live(dir.path(), &text("", 1)).await;
    let list = dir.path().join("t.db-config/list.json");
    let full = |full: bool| {
        let other = list.with_extension("other");
        let (from, to) = if full { (&list, &other) } else { (&other, &list) };
        fs::remove_dir(to).ok();
        fs::rename(from, to).unwrap();
        if full {
            fs::create_dir(&list).unwrap();
        }
    };
    let known = || {
        let versions = Versions::beside(&dir.path().join("t.db"));
        let confirmed = versions.confirmed().map(|version| versions.text(version.number).unwrap());
        (confirmed.unwrap(), versions.on_trial().map(|version| versions.text(version.number).unwrap()))
    };
    full(true);
    hangup(&mut live, &text("", 2)).await;
    assert_eq!(live.text, text("", 2), "it runs, and is not kept");
    let denied = obey(&mut live, Order::Apply { text: text("", 3), within: Some(Duration::from_secs(3600)) }).await;
    assert!(matches!(&denied, Err(Denied::Failed(why)) if why.contains("cannot be tried")), "{denied:?}");
    full(false);
    let done = obey(&mut live, Order::Apply { text: text("", 3), within: Some(Duration::from_secs(3600)) }).await;
    assert!(done.unwrap().tried);
    assert_eq!(known(), (text("", 2), Some(text("", 3))), "what a start finds");
    // Another on trial that cannot be written down leaves this one there.
    full(true);
    hangup(&mut live, &text(TRIED, 4)).await;
    full(false);
    assert_eq!(live.text, text("", 3));
    assert_eq!(known(), (text("", 2), Some(text("", 3))));
    obey(&mut live, Order::Rollback(None)).await.unwrap();
    assert_eq!((known(), &live.text), ((text("", 2), None), &text("", 2)));
    end(live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_on_trial_broke_was_not_down_before_another_on_trial() {
    let dir = tempfile::tempdir().unwrap();
    let text = |n: u32| {
        let sinks = format!(
            r#""e": {{ "type": "quiet", "from": ["e"], "n": {n} }}, "f": {{ "type": "quiet", "from": ["e"] }}"#
        );
        text(dir.path(), TRIED, r#""e": { "type": "quiet" }"#, &sinks)
    };
    let (mut live, links) = live(dir.path(), &text(1)).await;
    hangup(&mut live, &text(2)).await;
    links.down("sinks.f", "the first broke it");
    hangup(&mut live, &text(3)).await;
    assert!(live.trial.is_some());
    live.over().await.unwrap();
    assert_eq!(live.text, text(1));
    end(live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fell_on_trial_runs_again_when_the_one_before_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let text = |n: u32| {
        let sink = format!(r#""k": {{ "type": "quiet", "from": ["g"], "n": {n} }}"#);
        text(dir.path(), TRIED, r#""g": { "type": "quiet" }, "h": { "type": "quiet" }"#, &sink)
    };
    let (mut live, _) = live(dir.path(), &text(1)).await;
    hangup(&mut live, &text(2)).await;
    until(|| begun("h") == 1).await;
    FALLS.lock().unwrap().insert("h".into());
    let next = live.next().await.unwrap();
    let Next::Failed(failure) = next else { panic!("it did not fall") };
    assert_eq!(failure, "sources.h: it fell");
    live.failed(failure).await.unwrap();
    assert_eq!(live.text, text(1));
    until(|| begun("h") == 2).await;
    assert_eq!(begun("g"), 1, "the others run on");
    end(live).await;
}
