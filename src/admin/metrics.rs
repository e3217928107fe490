//! Metrics as Prometheus reads them (text format 0.0.4). Names follow its conventions: seconds and bytes, `_total` for what only
//! rises. A label has names of the configuration for values, and nothing that a device or client chose.

use crate::{
    budget::resident,
    clock::Quality,
    runtime::{Counts, Running, session_of},
    store::{Ledger, Refusal, Store, Which},
    tally::{Histogram, Intake, Outlet},
};
use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Of the ledger: name, help, whether it only rises, and the number.
type Column = (&'static str, &'static str, Sort, fn(&Ledger) -> u64);
/// Behind the name of a source that is a broker.
const SESSIONS: &str = "/*";

const LEDGER: &[Column] = &[
    ("events_accepted_total", "Events of a topic that a consumer is to see.", Counter, |row| row.accepted),
    ("events_delivered_total", "Events that a consumer is done with.", Counter, |row| row.delivered),
    ("events_stopped_total", "Of the delivered, those that ended in the pipeline.", Counter, |row| row.stopped),
    ("events_dead_total", "Events that went to the dead letters.", Counter, |row| row.dead),
    ("events_expired_total", "Events that were too old.", Counter, |row| row.expired),
    (
        "events_evicted_total",
        "Events that were dropped since the store was full, or that an operator passed over.",
        Counter,
        |row| row.evicted,
    ),
    ("events_queued", "Events that a consumer has not passed.", Gauge, |row| row.queued),
    ("events_offloaded", "Events that lie in the object store.", Gauge, |row| row.offloaded),
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

/// Of a source, since the gateway's start.
type Taken = (&'static str, &'static str, fn(&Intake) -> u64);
const SOURCES: &[Taken] = &[
    ("source_events_total", "Events of a source that are on disk.", |source| source.taken.load(Relaxed)),
    ("source_refused_total", "Events that were refused, each time they came.", |source| source.refused.load(Relaxed)),
    ("source_lost_total", "Edges and readings that were lost before they could be stored.", |source| {
        source.lost.load(Relaxed)
    }),
];

/// Of a sink, since the gateway's start: what is told in a histogram, in which unit, and its buckets.
type Spread = (&'static str, &'static str, Unit, fn(&Outlet) -> &Histogram);
const SINKS: &[Spread] = &[
    ("sink_delivery_seconds", "How long a delivery that worked took.", Unit::Nanoseconds, |sink| &sink.time),
    ("sink_delivery_events", "Events of a delivery that worked.", Unit::One, |sink| &sink.events),
];

use Sort::{Counter, Gauge};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Copy)]
enum Unit {
    /// Shown in seconds, from 65 µs on.
    Nanoseconds,
    One,
}

impl Unit {
    /// The bounds of buckets that are shown, as powers of two, and what one is.
    fn shown(self) -> (&'static [u32], f64) {
        match self {
            Unit::Nanoseconds => (&[16, 18, 20, 22, 24, 26, 28, 30, 32, 34], 1e-9),
            Unit::One => (&[0, 2, 4, 6, 8, 10, 12], 1.0),
        }
    }
}

/// All of them.
pub(super) async fn text(store: &Store, running: Option<&Running>) -> String {
    let mut out = Text::default();
    ledger(&mut out, store);
    out.one(
        "store_full",
        "Whether events of ordinary priority are refused or dropped.",
        Gauge,
        u8::from(store.is_full()),
    );
    if let Ok(letters) = store.count_letters(&Which::default()).await {
        out.one("dead_letters", "Dead letters that are kept.", Gauge, letters);
    }
    // What cannot be read now is left out.
    backlog(&mut out, store).await.ok();
    disk(&mut out, store);
    memory(&mut out, store);
    sources(&mut out, store);
    let synced = crate::clock::stamp().quality == Quality::Synced;
    out.one("clock_synced", "Whether the wall clock was set.", Gauge, u8::from(synced));
    out.head("build_info", "The version that runs.", Gauge);
    out.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    if let Some(running) = running {
        gateway(&mut out, running);
    }
    out.0
}

/// The consumer as a label says it: the sessions of a broker's clients are one.
fn consumer(name: &str) -> String {
    session_of(name).map_or_else(|| name.to_owned(), |(source, _)| format!("{source}{SESSIONS}"))
}

fn ledger(out: &mut Text, store: &Store) {
    let mut rows: BTreeMap<(String, String), Vec<Ledger>> = BTreeMap::new();
    for row in store.ledger() {
        rows.entry((row.topic.clone(), consumer(&row.consumer))).or_default().push(row);
    }
    for (name, help, sort, number) in LEDGER {
        out.head(name, help, *sort);
        // A session that ends takes its numbers along: their sums would fall.
        let falls = |consumer: &str| *sort == Counter && consumer.ends_with(SESSIONS);
        for ((topic, consumer), rows) in rows.iter().filter(|((_, consumer), _)| !falls(consumer)) {
            out.sample(name, &[("topic", topic), ("consumer", consumer)], rows.iter().map(number).sum::<u64>());
        }
    }
}

/// What waits, by consumer, topic and priority.
async fn backlog(out: &mut Text, store: &Store) -> Result<(), Refusal> {
    let mut lanes: BTreeMap<(String, String, u8), (u64, u64, f64)> = BTreeMap::new();
    for lane in store.backlog().await? {
        let (events, bytes, age) = lanes.entry((consumer(&lane.consumer), lane.topic, lane.priority)).or_default();
        (*events, *bytes) = (*events + lane.queued, *bytes + lane.bytes);
        *age = age.max(lane.oldest_seconds.unwrap_or(0.0));
    }
    type Part = (&'static str, &'static str, fn(&(u64, u64, f64)) -> f64);
    let parts: [Part; 3] = [
        ("queue_events", "Events that wait for a consumer, by priority.", |lane| lane.0 as f64),
        ("queue_bytes", "Bytes of them as stored, about.", |lane| lane.1 as f64),
        ("queue_age_seconds", "Seconds since the oldest of them was taken in.", |lane| lane.2),
    ];
    for (name, help, number) in parts {
        out.head(name, help, Gauge);
        for ((consumer, topic, priority), lane) in &lanes {
            let labels = [("consumer", consumer.as_str()), ("topic", topic), ("priority", &priority.to_string())];
            out.sample(name, &labels, number(lane));
        }
    }
    Ok(())
}

/// How the store writes.
fn disk(out: &mut Text, store: &Store) {
    let ((commits, bytes), figures) = (store.progress(), store.figures());
    out.one("store_commits_total", "Commits since the start.", Counter, commits);
    out.one("store_bytes", "Bytes of rows in use.", Gauge, bytes);
    for (name, help, unit, histogram) in [
        ("store_commit_seconds", "How long a commit took, flush included.", Unit::Nanoseconds, &figures.commit),
        (
            "store_flush_seconds",
            "How long it took to write a commit and to flush it.",
            Unit::Nanoseconds,
            &figures.flush,
        ),
        ("store_commit_events", "Events that one commit took in.", Unit::One, &figures.events),
    ] {
        out.head(name, help, Sort::Histogram);
        out.histogram(name, &[], unit, histogram);
    }
    let (raw, packed) = (figures.raw.load(Relaxed), figures.packed.load(Relaxed));
    out.one("store_taken_bytes_total", "Bytes of events that were taken in, as they came.", Counter, raw);
    out.one("store_packed_bytes_total", "Bytes of them as they are stored.", Counter, packed);
    out.one("store_quarantines", "Broken databases that were set aside and are kept.", Gauge, figures.quarantines());
    let Some(written) = figures.written() else { return };
    out.one("disk_written_bytes_total", "Bytes that the gateway wrote to disks since its start.", Counter, written.now);
    out.one("disk_life_written_bytes_total", "The same in the life of the store.", Counter, written.all);
    if raw > 0 {
        let help = "Bytes written to disks for each byte of events that was taken in.";
        out.one("disk_write_amplification_ratio", help, Gauge, written.now as f64 / raw as f64);
    }
    if let Some(endurance) = figures.endurance {
        out.one("disk_endurance_bytes", "Bytes that may be written in the life of the disk.", Gauge, endurance);
    }
    if let Some(left) = written.left {
        out.one("disk_endurance_left_seconds", "Until all of them are, at the pace of this run.", Gauge, left);
    }
}

/// The budget, and what the process takes.
fn memory(out: &mut Text, store: &Store) {
    let pools = store.pools();
    let pools = [("events", &pools.events), ("connections", &pools.connections), ("kept", &pools.kept)];
    out.head("memory_limit_bytes", "Memory that sources may draw, by what for.", Gauge);
    pools.iter().for_each(|(name, pool)| out.sample("memory_limit_bytes", &[("pool", name)], pool.limit()));
    out.head("memory_drawn_bytes", "Memory that they have drawn.", Gauge);
    pools.iter().for_each(|(name, pool)| out.sample("memory_drawn_bytes", &[("pool", name)], pool.used()));
    out.one("resident_memory_bytes", "Memory that the process takes.", Gauge, resident());
}

fn sources(out: &mut Text, store: &Store) {
    let sources = store.figures().intakes();
    for (name, help, number) in SOURCES {
        out.head(name, help, Counter);
        for (source, intake) in &sources {
            out.sample(name, &[("source", source)], number(intake));
        }
    }
}

/// Of a gateway that runs.
fn gateway(out: &mut Text, running: &Running) {
    out.head("gateway_info", "Who this gateway is.", Gauge);
    out.sample("gateway_info", &[("gateway", running.gateway())], 1);
    out.one("up_seconds", "Seconds since the start.", Gauge, running.seconds());
    let (down, times) = (running.down(), running.times());
    let edges = running.edges();
    out.head("component_up", "Whether a source or sink works.", Gauge);
    for name in &edges {
        let up = !down.iter().any(|(down, ..)| down == name);
        out.sample("component_up", &[("component", name)], u8::from(up));
    }
    out.head("component_down_seconds", "For how long a component does not work.", Gauge);
    for (name, _, seconds) in &down {
        out.sample("component_down_seconds", &[("component", name)], *seconds);
    }
    let names = edges.iter().chain(times.keys().filter(|name| !edges.contains(name)));
    let times: Vec<_> = names.map(|name| (name, times.get(name).copied().unwrap_or_default())).collect();
    out.head("component_offline_seconds_total", "For how long it did not work, in all.", Counter);
    for (name, (_, offline)) in &times {
        out.sample("component_offline_seconds_total", &[("component", name)], offline.as_secs_f64());
    }
    out.head("component_reconnects_total", "How often it worked again after it had not.", Counter);
    for (name, (reconnects, _)) in &times {
        out.sample("component_reconnects_total", &[("component", name)], *reconnects);
    }
    let sinks: Vec<(String, Arc<Outlet>)> = running.outlets();
    for (name, help, unit, histogram) in SINKS {
        out.head(name, help, Sort::Histogram);
        for (sink, counts) in &sinks {
            out.histogram(name, &[("sink", sink)], *unit, histogram(counts));
        }
    }
    out.head("sink_in_flight", "Events that are being delivered.", Gauge);
    for (sink, counts) in &sinks {
        out.sample("sink_in_flight", &[("sink", sink)], counts.in_flight.load(Relaxed));
    }
    let processes = running.processes();
    for (name, help, number) in PROCESSES {
        out.head(name, help, Counter);
        for (pipeline, process) in &processes {
            out.sample(name, &[("pipeline", pipeline), ("process", &process.name)], number(process));
        }
    }
}

/// What is answered, as it grows.
#[derive(Default)]
struct Text(String);

impl Text {
    fn one(&mut self, name: &str, help: &str, sort: Sort, number: impl Display) {
        self.head(name, help, sort);
        self.sample(name, &[], number);
    }

    fn head(&mut self, name: &str, help: &str, sort: Sort) {
        let sort = match sort {
            Counter => "counter",
            Gauge => "gauge",
            Sort::Histogram => "histogram",
        };
        writeln!(self.0, "# HELP tidegate_{name} {help}\n# TYPE tidegate_{name} {sort}").ok();
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], number: impl Display) {
        write!(self.0, "tidegate_{name}").ok();
        for (at, (name, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(self.0, "{}{name}=\"{value}\"", if at == 0 { '{' } else { ',' }).ok();
        }
        writeln!(self.0, "{} {number}", if labels.is_empty() { "" } else { "}" }).ok();
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], unit: Unit, histogram: &Histogram) {
        let ((counts, sum), (bounds, one)) = (histogram.read(), unit.shown());
        let mut bucket = |bound: &str, count: u64| {
            self.sample(&format!("{name}_bucket"), &[labels, &[("le", bound)]].concat(), count);
        };
        for power in bounds {
            let below = counts.iter().take(*power as usize + 1).sum();
            bucket(&format!("{}", (1_u64 << power) as f64 * one), below);
        }
        let all: u64 = counts.iter().sum();
        bucket("+Inf", all);
        self.sample(&format!("{name}_sum"), labels, sum as f64 * one);
        self.sample(&format!("{name}_count"), labels, all);
    }
}
