//! `tidegate seek`, `forget`, `state` and `log-level`: what an operator moves, drops, looks into and sets.

use super::columns;
use super::operate::{Which, cell};
use crate::admin::client::encode;
use clap::Subcommand;
use serde_json::Value;

#[derive(Subcommand)]
pub(super) enum Change {
    /// Move a pipeline or sink back, to get again what is still stored, or forward, past what it is not to get.
    ///
    /// Of what every reader has passed, only as much is still stored as `keep` of the topic says. What it gets again counts as accepted once
    /// more, what it passes over as evicted. A batch in hand is finished first. What the processes of a pipeline remember stays as
    /// it is: a sum counts again what comes again.
    ///
    /// Example: tidegate seek sinks.cloud --to -1h
    Seek {
        /// `pipelines.NAME` or `sinks.NAME`.
        consumer: String,
        /// `oldest`, `newest`, a sequence number, a time like `2026-05-01T06:00:00Z`, or a span back from now like `-1h`.
        #[arg(long, allow_hyphen_values = true)]
        to: String,
        /// Only in this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only at this priority.
        #[arg(long)]
        priority: Option<u8>,
        #[command(flatten)]
        which: Which,
    },
    /// Forget a pipeline, sink or MQTT session that is not in the configuration any more: what waits for it, and what it remembers.
    ///
    /// Example: tidegate forget sinks.old
    Forget {
        /// `pipelines.NAME` or `sinks.NAME`.
        consumer: String,
        #[command(flatten)]
        which: Which,
    },
    /// Show what processes remember: sums, joins, counts, and when their timers are due.
    ///
    /// Example: tidegate state climate.mean
    State {
        /// `PIPELINE.PROCESS`; without it, those that remember something.
        process: Option<String>,
        /// Only keys that begin with this.
        #[arg(long)]
        prefix: Option<String>,
        /// At most so many; up to 1000.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        which: Which,
    },
    /// Set how much a running gateway logs, until its next start.
    ///
    /// Example: tidegate log-level debug
    LogLevel {
        /// How much.
        #[arg(value_parser = ["off", "error", "warn", "info", "debug", "trace"])]
        level: String,
        #[command(flatten)]
        which: Which,
    },
}

pub(super) fn run(what: &Change) -> anyhow::Result<()> {
    let given = |pairs: Vec<(&'static str, Option<String>)>| -> Vec<(&'static str, String)> {
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    };
    match what {
        Change::Seek { consumer, to, topic, priority, which } => {
            let priority = priority.map(|priority| priority.to_string());
            let query = given(vec![("to", Some(to.clone())), ("topic", topic.clone()), ("priority", priority)]);
            which.show(&which.ask("POST", &format!("/consumers/{}/seek", encode(consumer)), &query)?, sought)
        }
        Change::Forget { consumer, which } => {
            let answer = which.ask("POST", &format!("/consumers/{}/forget", encode(consumer)), &[])?;
            which.show(&answer, |answer| format!("{consumer} is forgotten; it had {} events to go\n", answer["queued"]))
        }
        Change::State { process, prefix, limit, which } => {
            let limit = Some(limit.to_string());
            let query = given(vec![("owner", process.clone()), ("prefix", prefix.clone()), ("limit", limit)]);
            which.show(&which.ask("GET", "/state", &query)?, remembered)
        }
        Change::LogLevel { level, which } => {
            let answer = which.ask("POST", "/log", &[("level", level.clone())])?;
            which.show(&answer, |answer| format!("logs from `{}` on, until the next start\n", cell(&answer["level"])))
        }
    }
}

fn table(head: &[&str], rows: &Value, names: &[&str]) -> String {
    let mut table = vec![head.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    let rows = rows.as_array().into_iter().flatten();
    table.extend(rows.map(|row| names.iter().map(|name| cell(&row[*name])).collect()));
    columns(&table)
}

fn sought(answer: &Value) -> String {
    let lanes = &answer["lanes"];
    if lanes.as_array().is_none_or(Vec::is_empty) {
        return format!("{} has nothing to read yet\n", cell(&answer["consumer"]));
    }
    let head = ["TOPIC", "PRIORITY", "FROM", "TO", "AGAIN", "PASSED OVER"];
    let mut text = table(&head, lanes, &["topic", "priority", "from", "to", "again", "passed"]);
    if lanes.as_array().into_iter().flatten().any(|lane| lane["gone"] == true) {
        text += "what was asked for is not stored any more from its beginning: it goes on with the oldest that is\n";
    }
    text
}

fn remembered(answer: &Value) -> String {
    if answer["owners"].is_array() {
        return table(&["PROCESS", "VALUES"], &answer["owners"], &["owner", "values"]);
    }
    let mut text = table(&["KEY", "VALUE"], &answer["values"], &["key", "value"]);
    if answer["more"] == true {
        text += "and more\n";
    }
    if answer["timers"].as_array().is_some_and(|timers| !timers.is_empty()) {
        text += &format!("\n{}", table(&["TIMER", "DUE"], &answer["timers"], &["key", "due"]));
    }
    text
}
