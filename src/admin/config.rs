//! The configuration of a gateway, over the API: its versions, and another one.

use super::{Call, Reply};
use crate::runtime::{Changed, Denied, Order, Running, State, Version, Versions};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Somebody who has not confirmed within a day will not.
const LONGEST: u64 = 86_400;

/// Whether a call brings a configuration as its body.
pub(super) fn brings_text(method: &str, path: &str) -> bool {
    (method, path) == ("POST", "/api/v1/config")
}

/// Whether a call is about the configuration: it may take as long as sinks take to stop.
pub(super) fn is_about(path: &str) -> bool {
    path.strip_prefix("/config").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// All versions, the newest first, with what runs.
pub fn history(versions: &Versions) -> Value {
    let running = versions.running().map(|version| version.number);
    let all: Vec<Value> = versions.all().iter().rev().map(|version| shown(version, running)).collect();
    json!({ "running": running, "versions": all })
}

/// One version with its text.
pub fn version(versions: &Versions, number: u32) -> Result<Value, String> {
    let running = versions.running().map(|version| version.number);
    let known = versions.get(number).ok_or_else(|| format!("there is no version {number} of the configuration"))?;
    let mut all = shown(known, running);
    all["text"] = versions.text(number).map_err(|error| format!("version {number}: {error}"))?.into();
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
    let trial = known.trial.map(|(until, must)| {
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        json!({ "seconds_left": left, "to_be_confirmed": must })
    });
    json!({ "file": known.file, "version": known.version, "trial": trial, "differs": known.difference() })
}

pub(super) async fn answer(running: &Running, method: &str, path: &str, call: &Call) -> Result<Value, Reply> {
    let rest = path.strip_prefix("/config").unwrap_or_default();
    let order = match (method, rest) {
        ("GET", "") => {
            let mut all = state(running);
            let history = history(&versions(running)?);
            all["versions"] = history["versions"].clone();
            return Ok(all);
        }
        ("GET", number) if number.len() > 1 => {
            let number = number[1..].parse().map_err(|_| Reply::problem(400, "expected the number of a version"))?;
            return version(&versions(running)?, number).map_err(|why| Reply::problem(404, &why));
        }
        ("POST", "") => {
            let within = call.number("confirm")?.map(|seconds: u64| Duration::from_secs(seconds.clamp(1, LONGEST)));
            Order::Apply { text: call.body().to_owned(), within }
        }
        ("POST", "/confirm") => Order::Confirm,
        ("POST", "/rollback") => Order::Rollback(call.number("to")?),
        _ => return Err(Reply::problem(405, "this method does nothing here")),
    };
    running.order(order).await.map(|changed| done(&changed)).map_err(refused)
}

fn versions(running: &Running) -> Result<Versions, Reply> {
    let store = running.origins().store;
    store.map(|store| Versions::beside(&store)).ok_or_else(|| Reply::problem(404, "no versions are kept"))
}

fn done(changed: &Changed) -> Value {
    json!({ "version": changed.version, "started": changed.started, "stopped": changed.stopped, "kept": changed.kept,
        "restarts": changed.restarts, "warnings": changed.warnings })
}

fn refused(denied: Denied) -> Reply {
    match denied {
        Denied::Wrong(problems) => Reply::problem(422, &problems.join("\n")),
        Denied::Conflict(why) => Reply::problem(409, &why),
        Denied::Failed(why) => Reply::problem(503, &why),
    }
}
