//! The configuration of a gateway, over the API: its versions, and another one.

use super::{Call, Reply, routes::Answer};
use crate::config::redacted;
use crate::runtime::{Changed, Denied, Order, Running, State, Version, Versions};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// Somebody who has not confirmed within a day will not.
const LONGEST: u64 = 86_400;

/// Where it is asked for, and where one is handed over.
pub(super) const PATH: &str = "/api/v1/config";

/// All versions, the newest first, with what runs.
pub fn history(versions: &Versions) -> Value {
    let running = versions.running().map(|version| version.number);
    let all: Vec<Value> = versions.all().iter().rev().map(|version| shown(version, running)).collect();
    json!({ "running": running, "versions": all })
}

/// One version with its text, in which secrets are not shown: to go back to it takes its number only.
pub fn version(versions: &Versions, number: u32) -> Result<Value, String> {
    let running = versions.running().map(|version| version.number);
    let known = versions.get(number).ok_or_else(|| format!("there is no version {number} of the configuration"))?;
    let mut all = shown(known, running);
    let text = versions.text(number).map_err(|error| format!("version {number}: {error}"))?;
    all["text"] = redacted(Path::new(""), &text).into();
    Ok(all)
}

fn shown(version: &Version, running: Option<u32>) -> Value {
    let state = match version.state {
        State::OnTrial => "on trial",
        State::Confirmed if running == Some(version.number) => "running",
        State::Confirmed => "confirmed",
        State::RolledBack => "rolled back",
    };
    json!({ "number": version.number, "at": version.at, "clock": version.clock, "by": version.by, "state": state,
        "why": version.why, "sha256": version.sha256 })
}

/// What `status` says about it.
pub(super) fn state(running: &Running) -> Value {
    let known = running.origins();
    let trial = known.trial().map(|(left, must)| json!({ "seconds_left": left, "to_be_confirmed": must }));
    json!({ "file": known.file, "version": known.version, "trial": trial, "differs": known.difference() })
}

/// The versions, and what runs.
pub(super) fn all(running: Option<&Running>) -> Answer {
    let running = running.ok_or_else(none_runs)?;
    let mut all = state(running);
    all["versions"] = history(&versions(running)?)["versions"].clone();
    Ok(Reply::json(&all))
}

/// One version.
pub(super) fn one(running: Option<&Running>, call: &Call) -> Answer {
    let running = running.ok_or_else(none_runs)?;
    let number = call.number("number")?.unwrap_or_default();
    version(&versions(running)?, number).map(|all| Reply::json(&all)).map_err(|why| Reply::problem(404, &why))
}

pub(super) async fn apply(running: Option<&Running>, call: &Call) -> Answer {
    let within = call.number("confirm")?.map(|seconds: u64| Duration::from_secs(seconds.clamp(1, LONGEST)));
    order(running, Order::Apply { text: call.body()?.to_owned(), within }).await
}

pub(super) async fn confirm(running: Option<&Running>) -> Answer {
    order(running, Order::Confirm).await
}

pub(super) async fn rollback(running: Option<&Running>, call: &Call) -> Answer {
    order(running, Order::Rollback(call.number("to")?)).await
}

async fn order(running: Option<&Running>, order: Order) -> Answer {
    let changed = running.ok_or_else(none_runs)?.order(order).await;
    changed.map(|changed| Reply::json(&done(&changed))).map_err(refused)
}

fn none_runs() -> Reply {
    Reply::problem(409, "no gateway runs")
}

fn versions(running: &Running) -> Result<Versions, Reply> {
    let store = running.origins().store;
    store.map(|store| Versions::beside(&store)).ok_or_else(|| Reply::problem(404, "no versions are kept"))
}

fn done(changed: &Changed) -> Value {
    json!({ "version": changed.version, "started": changed.started, "stopped": changed.stopped, "kept": changed.kept,
        "restarts": changed.restarts, "on_trial": changed.tried, "warnings": changed.warnings })
}

fn refused(denied: Denied) -> Reply {
    match denied {
        Denied::Wrong(problems) => Reply::problem(422, &problems.join("\n")),
        Denied::Conflict(why) => Reply::problem(409, &why),
        Denied::Failed(why) => Reply::problem(503, &why),
    }
}
