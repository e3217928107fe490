//! Metrics as Prometheus reads them (text format 0.0.4).

use crate::{
    clock::Quality,
    runtime::{Counts, Running},
    store::{Ledger, Store, Which},
};
use std::fmt::Write;

/// Of the ledger: name, help, whether it only rises, and the number.
type Column = (&'static str, &'static str, bool, fn(&Ledger) -> u64);
const LEDGER: &[Column] = &[
    ("events_accepted_total", "Events of a topic that a consumer is to see.", true, |row| row.accepted),
    ("events_delivered_total", "Events that a consumer is done with.", true, |row| row.delivered),
    ("events_stopped_total", "Of the delivered, those that ended in the pipeline.", true, |row| row.stopped),
    ("events_dead_total", "Events that went to the dead letters.", true, |row| row.dead),
    ("events_expired_total", "Events that were too old.", true, |row| row.expired),
    ("events_evicted_total", "Events that were dropped since the store was full.", true, |row| row.evicted),
    ("events_queued", "Events that a consumer has not passed.", false, |row| row.queued),
    ("events_offloaded", "Events that lie in the object store.", false, |row| row.offloaded),
];

/// Of a process, since the gateway's start.
type Count = (&'static str, &'static str, fn(&Counts) -> u64);
const PROCESSES: &[Count] = &[
    ("process_in_total", "Events that came to a process.", |process| process.taken),
    ("process_out_total", "Events that it emitted.", |process| process.emitted),
    ("process_skipped_total", "Events that passed it by.", |process| process.skipped),
    ("process_failed_total", "Events that it failed.", |process| process.failed),
    ("process_retried_total", "Attempts that were made again.", |process| process.retried),
];

/// All of them.
pub(super) async fn text(store: &Store, running: Option<&Running>) -> String {
    let mut out = String::new();
    let ledger = store.ledger();
    for (name, help, rises, number) in LEDGER {
        head(&mut out, name, help, *rises);
        for row in &ledger {
            sample(&mut out, name, &[("topic", &row.topic), ("consumer", &row.consumer)], number(row));
        }
    }
    let (commits, bytes) = store.progress();
    one(&mut out, "store_commits_total", "Commits since the start.", true, commits);
    one(&mut out, "store_bytes", "Bytes of rows in use.", false, bytes);
    one(
        &mut out,
        "store_full",
        "Whether events of ordinary priority are refused or dropped.",
        false,
        store.is_full().into(),
    );
    if let Ok(letters) = store.count_letters(&Which::default()).await {
        one(&mut out, "dead_letters", "Dead letters that are kept.", false, letters);
    }
    let synced = crate::clock::stamp().quality == Quality::Synced;
    one(&mut out, "clock_synced", "Whether the wall clock was set.", false, synced.into());
    let Some(running) = running else { return out };
    one(&mut out, "up_seconds", "Seconds since the start.", false, running.seconds());
    head(&mut out, "down_seconds", "For how long a component does not work.", false);
    for (name, _, seconds) in running.down() {
        sample(&mut out, "down_seconds", &[("component", &name)], seconds);
    }
    let processes = running.processes();
    for (name, help, number) in PROCESSES {
        head(&mut out, name, help, true);
        for (pipeline, process) in &processes {
            sample(&mut out, name, &[("pipeline", pipeline), ("process", &process.name)], number(process));
        }
    }
    out
}

fn one(out: &mut String, name: &str, help: &str, rises: bool, number: u64) {
    head(out, name, help, rises);
    sample(out, name, &[], number);
}

fn head(out: &mut String, name: &str, help: &str, rises: bool) {
    let sort = if rises { "counter" } else { "gauge" };
    writeln!(out, "# HELP tidegate_{name} {help}\n# TYPE tidegate_{name} {sort}").ok();
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], number: u64) {
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| {
            format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
        })
        .collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    writeln!(out, "tidegate_{name}{labels} {number}").ok();
}
