//! `tidegate test`: the tests that stand beside pipelines in a configuration.

use crate::{
    clock,
    config::{Case, CaseStep},
    event::{Batch, Draft, Event},
    runtime::{Flow, Plan, StandIn},
};
use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// 2000-01-01, in milliseconds since 1970.
const START: i64 = 946_684_800_000;

/// What became of one test.
struct Outcome {
    pipeline: String,
    name: String,
    /// The step, from 1, and what is wrong with it.
    wrong: Option<(usize, String)>,
}

/// Runs the tests of every pipeline, or of one. `load` builds the configuration anew for each, so that none sees what
/// another left. Prints what became of them, and fails if one did.
pub(super) fn run(
    plan: &Plan,
    load: &dyn Fn() -> anyhow::Result<Plan>,
    pipeline: Option<&str>,
    format: &str,
) -> anyhow::Result<()> {
    let names: Vec<&str> = plan.pipelines.iter().map(|p| p.name.as_str()).collect();
    if let Some(name) = pipeline.filter(|name| !names.contains(name)) {
        bail!("there is no pipeline `{name}`; there are: {}", names.join(", "));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut outcomes = Vec::new();
    for (at, chosen) in plan.pipelines.iter().enumerate().filter(|(_, p)| pipeline.is_none_or(|name| name == p.name)) {
        for case in &chosen.settings.tests {
            let fresh = load()?.pipelines.into_iter().nth(at).context("the configuration changed")?;
            let wrong = runtime.block_on(run_case(fresh, case));
            outcomes.push(Outcome { pipeline: chosen.name.clone(), name: case.name.clone(), wrong });
        }
    }
    let failed = outcomes.iter().filter(|outcome| outcome.wrong.is_some()).count();
    super::print(&if format == "json" { as_json(&outcomes) } else { as_text(&outcomes, failed) })?;
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {} tests failed", outcomes.len()),
    }
}

fn as_text(outcomes: &[Outcome], failed: usize) -> String {
    let mut text = String::new();
    for Outcome { pipeline, name, wrong } in outcomes {
        match wrong {
            None => text += &format!("ok      {pipeline}: {name}\n"),
            Some((step, wrong)) => text += &format!("FAILED  {pipeline}: {name}: step {step}: {wrong}\n"),
        }
    }
    match outcomes.len() {
        0 => "no tests: a pipeline has none in `tests`\n".into(),
        count => text + &format!("{} of {count} tests passed\n", count - failed),
    }
}

fn as_json(outcomes: &[Outcome]) -> String {
    let row = |o: &Outcome| {
        let (step, wrong) = o.wrong.as_ref().map_or((Value::Null, Value::Null), |(s, w)| (json!(s), json!(w)));
        json!({ "pipeline": o.pipeline, "test": o.name, "ok": o.wrong.is_none(), "step": step, "wrong": wrong })
    };
    format!("{:#}\n", Value::Array(outcomes.iter().map(row).collect()))
}

/// Runs the steps of a test; gives the first that is wrong.
async fn run_case(pipeline: crate::runtime::Pipeline, case: &Case) -> Option<(usize, String)> {
    let at = match case.at.as_deref().map(|at| (at, clock::parse_time(at))) {
        None => START,
        Some((_, Some(at))) => at,
        Some((text, None)) => return Some((1, format!("`at` is no time: `{text}`"))),
    };
    let processes: Vec<&str> = pipeline.processes.iter().map(|p| p.name.as_str()).collect();
    if let Some(unknown) = case.answers.keys().chain(&case.run).find(|name| !processes.contains(&name.as_str())) {
        return Some((1, format!("there is no process `{unknown}`; there are: {}", processes.join(", "))));
    }
    let (name, from) = (pipeline.name.clone(), pipeline.settings.from.first().cloned().unwrap_or_default());
    let stand_in = StandIn { answers: case.answers.clone(), run: case.run.clone() };
    let flow = Flow::still(at, vec![pipeline], stand_in);
    for (i, step) in case.steps.iter().enumerate() {
        if let Err(wrong) = run_step(&flow, &name, &from, step).await {
            return Some((i + 1, wrong));
        }
    }
    None
}

/// What reached topics, by topic.
type Reached = BTreeMap<String, Vec<Map<String, Value>>>;

async fn run_step(flow: &Flow, pipeline: &str, from: &str, step: &CaseStep) -> Result<(), String> {
    let mut reached = Reached::new();
    let topic: Arc<str> = step.topic.as_deref().unwrap_or(from).into();
    let mut failed = None;
    {
        let mut note = |event: &Event| {
            let body = serde_json::from_slice(&event.body.to_bytes()).unwrap_or_default();
            reached.entry(event.topic.to_string()).or_default().push(body);
        };
        if let Some(wait) = &step.wait {
            failed = flow.advance(wait.0, &mut note).await.err();
        }
        for body in &step.events {
            for event in event(flow, &topic, step, body)? {
                let mut first = true;
                // The event itself is the first to reach a topic: its own.
                let run = flow
                    .run(event, |e| {
                        if !std::mem::take(&mut first) {
                            note(e)
                        }
                    })
                    .await;
                failed = run.err().or(failed);
            }
        }
        if step.end {
            failed = flow.finish(&mut note).await.err().or(failed);
        }
    }
    match (failed, &step.fails) {
        (Some(reason), Some(expected)) if reason.contains(expected) => {}
        (None, None) => {}
        (Some(reason), Some(expected)) => return Err(format!("failed with `{reason}`, expected `{expected}`")),
        (Some(reason), None) => return Err(format!("failed: {reason}")),
        (None, Some(expected)) => return Err(format!("nothing failed, expected `{expected}`")),
    }
    let out = reached.remove(pipeline).unwrap_or_default();
    for (expected, more) in [(&step.out, false), (&step.has, true)] {
        if let Some(expected) = expected {
            compare("put out", expected, &out, more)?;
        }
    }
    for (topic, expected) in &step.sent {
        compare(&format!("sent to `{topic}`"), expected, reached.get(topic).map_or(&[], Vec::as_slice), false)?;
    }
    Ok(())
}

fn event(flow: &Flow, topic: &Arc<str>, step: &CaseStep, body: &Map<String, Value>) -> Result<Vec<Event>, String> {
    let mut batch = Batch::default();
    let text = |map: &Map<String, Value>| serde_json::to_vec(map).unwrap_or_default();
    let meta = if step.meta.is_empty() { Vec::new() } else { text(&step.meta) };
    let draft = Draft { id: step.id.as_deref(), key: &step.key, meta: &meta, body: &text(body), ..Draft::default() };
    batch.push(&draft).map_err(|e| e.to_string())?;
    Ok(flow.events(topic, 4, &batch))
}

/// Whether the events are as expected; with `more` they may have more fields.
fn compare(
    what: &str,
    expected: &[Map<String, Value>],
    found: &[Map<String, Value>],
    more: bool,
) -> Result<(), String> {
    let show = |map: &Map<String, Value>| serde_json::to_string(map).unwrap_or_default();
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        if !objects(expected, found, more) {
            let than = if more { "with" } else { "as" };
            let (found, expected) = (show(found), show(expected));
            return Err(format!("event {} {what}: expected {than} {expected}, found {found}", i + 1));
        }
    }
    match (expected.len(), found.len()) {
        (expected, found) if expected == found => Ok(()),
        (want, count) => {
            let rest =
                found.get(want).map_or(String::new(), |extra| format!(", the first too many is {}", show(extra)));
            Err(format!("expected {want} events {what}, found {count}{rest}"))
        }
    }
}

fn objects(expected: &Map<String, Value>, found: &Map<String, Value>, more: bool) -> bool {
    (more || expected.len() == found.len())
        && expected.iter().all(|(name, value)| found.get(name).is_some_and(|found| alike(value, found, more)))
}

/// Numbers are alike if they are equal: 1 and 1.0.
fn alike(expected: &Value, found: &Value, more: bool) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => objects(expected, found, more),
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(e, f)| alike(e, f, more))
        }
        (Value::Number(expected), Value::Number(found)) => expected == found || expected.as_f64() == found.as_f64(),
        _ => expected == found,
    }
}
