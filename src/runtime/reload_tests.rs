//! What becomes of a gateway when another configuration cannot be taken over.

use super::{
    Origin, Plan, Running, Sum, Versions,
    links::Links,
    order::{Asked, Denied, Order},
    parts::Parts,
    reload::Live,
    status::{Shown, View},
};
use crate::{
    config::{Before, Catalogue, Late, Problem, load_after},
    event::Event,
    fault::Fault,
    kind::{Intake, Kind, Params, ParamsError, Process, Sink, Source},
    store::{Options, Store},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

/// How often each part began.
static BEGUN: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

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
        std::future::pending().await
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

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_over_leaves_what_runs_or_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (dir.path().join("c.jsonc"), dir.path().join("t.db"));
    let text = |source: &str, sink: &str, n: u32| {
        format!(
            r#"{{ "gateway": {{ "id": "g" }}, "store": {{ "path": "{}" }},
  "sources": {{ "here": {{ "type": "quiet" }}{source} }},
  "sinks": {{ "steady": {{ "type": "quiet", "from": ["here"] }},
    "changes": {{ "type": "quiet", "from": ["here"], "n": {n} }}{sink} }} }}"#,
            path.display()
        )
    };
    let right = text("", "", 1);
    fs::write(&file, &right).unwrap();
    let (mut plan, _) = build(&right, None).unwrap();
    let sum = Sum::of(&plan).unwrap();
    sum.fill_in(&mut plan);
    let store = Store::open(Options { path: Some(path.clone()), ..Options::default() }).unwrap();
    let (links, (fatal, failures), (orders, ordered)) = (Links::default(), mpsc::channel(1), mpsc::channel(1));
    let settings = plan.settings.clone();
    let before = Before { systems: plan.systems.clone(), buses: plan.buses.clone() };
    let mut parts = Parts::new(store.clone(), links.clone(), fatal, "g", None);
    assert!(parts.swap(plan, &sum, None).await.is_ok());
    let (shown, config) = (Mutex::new(Shown::default()), Mutex::default());
    let gateway = "g".into();
    let view = View { gateway, store: store.clone(), links, parts: shown, config, orders, since: Instant::now() };
    let origin = Origin { file: &file, build: &build };
    let versions = Some(Versions::beside(&path));
    let view = Running::of(view);
    let mut live = Live::new(&origin, parts, view, (failures, ordered), right.clone(), (settings, before), versions);
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while begun("steady") == 0 || begun("changes") == 0 || begun("here") == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    for (source, sink, again) in [
        // Before anything was touched.
        (r#", "broken": { "type": "quiet" }"#, "", 1),
        // When `changes` was stopped already, and its successor, maybe, started.
        ("", r#", "torn": { "type": "quiet", "from": ["here"] }"#, 2),
    ] {
        let (reply, mut answer) = oneshot::channel();
        let order = Order::Apply { text: text(source, sink, 2), within: None };
        live.obey(Asked { order, reply }).await.unwrap();
        let answer = answer.try_recv().unwrap();
        assert!(
            matches!(&answer, Err(Denied::Failed(why)) if why.contains("a..b") || why.contains("`mark`")),
            "{answer:?}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), right);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!((begun("here"), begun("steady")), (1, 1), "{source}{sink}");
        assert!(begun("changes") >= again, "{} {sink}", begun("changes"));
        assert!(!store.knows("sinks.torn"), "a sink that never was has no queue");
        let versions = Versions::beside(&path);
        assert_eq!(versions.running().map(|version| version.number), Some(1));
        assert!(versions.all().last().is_some_and(|version| !version.why.is_empty()));
    }
    live.parts.stop_all().await;
    store.close().await;
}
