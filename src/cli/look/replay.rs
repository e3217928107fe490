//! `tidegate replay`: stored events through the pipelines of two configurations, and what came out differently.

use super::stored::{self, Line, Range, Walk};
use crate::cli::{
    columns,
    operate::{Which, cell},
};
use crate::{
    admin::client::Client,
    clock,
    event::Event,
    runtime::{Flow, Plan, StandIn},
};
use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
};

/// Events of a topic that are asked for at once: pages of all topics are held in memory.
const AT_ONCE: usize = 100;
/// Differences of a pipeline that are shown, and fields of one.
const SHOWN: usize = 3;
const FIELDS: usize = 8;
/// Timers whose events fail, between two events.
const FAILING: usize = 1000;

#[derive(Args)]
pub(in crate::cli) struct Replay {
    /// The candidate.
    pub candidate: PathBuf,
    /// Only events of these topics; without it those of all sources that a pipeline reads.
    #[arg(long)]
    topic: Vec<String>,
    #[command(flatten)]
    range: Range,
    /// At most so many events.
    #[arg(long, default_value_t = 100_000)]
    limit: usize,
    #[command(flatten)]
    pub which: Which,
}

/// What reached a topic: the event's id and its body.
type Out = (String, String, Vec<u8>);

/// One configuration.
struct Side {
    flow: Flow,
    out: Vec<Out>,
    failed: Vec<String>,
}

/// How the outputs of a pipeline compare.
#[derive(Default)]
struct Tally {
    same: u64,
    changed: u64,
    before: u64,
    after: u64,
    /// The first differences, each with the event that led to it.
    shown: Vec<Value>,
}

#[derive(Default)]
struct Comparison {
    events: u64,
    first: Option<i64>,
    last: i64,
    /// There are more than the limit.
    more: bool,
    topics: BTreeMap<String, Tally>,
    failed: (u64, u64),
    reasons: Vec<Value>,
}

/// Runs it. The plans are of the present configuration and of the candidate.
pub(super) fn run(replay: &Replay, before: Plan, after: Plan) -> anyhow::Result<()> {
    let mut client = replay.which.gateway.client()?;
    let mut sources = Sources::of(replay, &mut client, [&before, &after])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all = Comparison::default();
    // Time begins with the first event.
    let (mut sides, mut plans): (Option<[Side; 2]>, _) = (None, Some([before, after]));
    while (all.events as usize) < replay.limit
        && let Some(line) = sources.next(&mut client)?
    {
        let event = Event::of_envelope(&line.text).context("a stored event cannot be read")?;
        if let Some(plans) = plans.take() {
            sides = Some(plans.map(|plan| Side::of(plan, line.intake)));
        }
        let Some(sides) = &mut sides else { break };
        for side in sides.iter_mut() {
            runtime.block_on(side.event(&event, line.intake));
        }
        all.note(&event.id.text(), sides);
        (all.events, all.last) = (all.events + 1, line.intake);
        all.first.get_or_insert(line.intake);
    }
    all.more = all.events as usize >= replay.limit && sources.next(&mut client)?.is_some();
    if let Some(sides) = &mut sides {
        for side in sides.iter_mut() {
            runtime.block_on(side.finish());
        }
        all.note("the end", sides);
    }
    replay.which.show(&all.as_json(), |_| all.as_text())?;
    ensure!(all.is_same(), "the outputs differ");
    Ok(())
}

/// The ranges of all topics, the earliest event first.
struct Sources(Vec<(Walk, VecDeque<Line>)>);

impl Sources {
    fn of(replay: &Replay, client: &mut Client, plans: [&Plan; 2]) -> anyhow::Result<Sources> {
        let mut lanes = stored::lanes(client, &replay.topic)?;
        if replay.topic.is_empty() {
            let mut topics = BTreeSet::new();
            for plan in plans {
                let read = plan.pipelines.iter().flat_map(|pipeline| &pipeline.settings.from);
                let written =
                    |topic: &&String| plan.pipelines.iter().any(|p| p.name == **topic || p.writes.contains(topic));
                topics.extend(read.filter(|topic| !written(topic)).cloned());
            }
            lanes.retain(|lane| topics.contains(&lane.topic));
        }
        Ok(Sources(lanes.into_iter().map(|lane| (Walk::of(lane, &replay.range, AT_ONCE), VecDeque::new())).collect()))
    }

    fn next(&mut self, client: &mut Client) -> anyhow::Result<Option<Line>> {
        for (walk, ready) in self.0.iter_mut().filter(|(_, ready)| ready.is_empty()) {
            ready.extend(walk.more(client)?);
        }
        self.0.retain(|(_, ready)| !ready.is_empty());
        let earliest = self.0.iter_mut().min_by_key(|(_, ready)| ready.front().map(|line| line.intake));
        Ok(earliest.and_then(|(_, ready)| ready.pop_front()))
    }
}

impl Side {
    fn of(plan: Plan, begin: i64) -> Side {
        Side { flow: Flow::still(begin, plan.pipelines, StandIn::default()), out: Vec::new(), failed: Vec::new() }
    }

    /// The time comes to that of the event, with the timers before it; then the event.
    async fn event(&mut self, event: &Event, intake: i64) {
        let Side { flow, out, failed } = self;
        for _ in 0..FAILING {
            match flow.advance_to(intake, |event| out.push(reached(event))).await {
                Ok(()) => break,
                Err(why) => failed.push(why),
            }
        }
        let mut itself = true;
        let reached = |event: &Event| {
            if !std::mem::take(&mut itself) {
                out.push(reached(event));
            }
        };
        flow.run_all(event.clone(), reached, |why| failed.push(why)).await;
    }

    async fn finish(&mut self) {
        let Side { flow, out, failed } = self;
        failed.extend(flow.finish(|event| out.push(reached(event))).await.err());
    }
}

fn reached(event: &Event) -> Out {
    (event.topic.to_string(), event.id.text().into_owned(), event.body.to_bytes().to_vec())
}

impl Comparison {
    /// Compares what came of one event, or of the timers before it: by id, then by body.
    fn note(&mut self, cause: &str, [before, after]: &mut [Side; 2]) {
        let (mut befores, mut afters) = (std::mem::take(&mut before.out), std::mem::take(&mut after.out));
        befores.retain(|(topic, id, body)| {
            let Some(at) = afters.iter().position(|(t, i, _)| t == topic && i == id) else { return true };
            let (_, _, now) = afters.swap_remove(at);
            self.pair(cause, topic, body, &now);
            false
        });
        for (topic, _, body) in befores {
            if let Some(at) = afters.iter().position(|(t, _, b)| *t == topic && *b == body) {
                afters.swap_remove(at);
                self.topics.entry(topic).or_default().same += 1;
                continue;
            }
            let tally = self.topics.entry(topic).or_default();
            tally.before += 1;
            tally.show(|| json!({ "event": cause, "before": document(&body) }));
        }
        for (topic, _, body) in afters {
            let tally = self.topics.entry(topic).or_default();
            tally.after += 1;
            tally.show(|| json!({ "event": cause, "after": document(&body) }));
        }
        let (befores, afters) = (std::mem::take(&mut before.failed), std::mem::take(&mut after.failed));
        self.failed = (self.failed.0 + befores.len() as u64, self.failed.1 + afters.len() as u64);
        if befores != afters && self.reasons.len() < SHOWN {
            self.reasons.push(json!({ "event": cause, "before": befores, "after": afters }));
        }
    }

    fn pair(&mut self, cause: &str, topic: &str, before: &[u8], after: &[u8]) {
        let tally = self.topics.entry(topic.to_owned()).or_default();
        let (old, new) = (document(before), document(after));
        if before == after || old == new {
            tally.same += 1;
            return;
        }
        tally.changed += 1;
        tally.show(|| {
            let mut fields = Vec::new();
            diff("", &old, &new, &mut fields);
            fields.truncate(FIELDS);
            json!({ "event": cause, "fields": fields })
        });
    }

    fn is_same(&self) -> bool {
        self.reasons.is_empty() && self.topics.values().all(|t| t.changed + t.before + t.after == 0)
    }

    fn as_json(&self) -> Value {
        let row = |(topic, t): (&String, &Tally)| {
            json!({ "pipeline": topic, "same": t.same, "changed": t.changed, "only_before": t.before,
                "only_after": t.after, "first": t.shown })
        };
        json!({
            "events": self.events, "more": self.more, "from": self.first.map(clock::rfc3339), "to": self.first.map(|_| clock::rfc3339(self.last)),
            "same": self.is_same(), "pipelines": self.topics.iter().map(row).collect::<Vec<_>>(),
            "failed": { "before": self.failed.0, "after": self.failed.1, "first": self.reasons },
        })
    }

    fn as_text(&self) -> String {
        let Some(first) = self.first else { return "no events in this range\n".into() };
        let mut text = format!(
            "{} events, taken in from {} to {}{}\n\n",
            self.events,
            clock::rfc3339(first),
            clock::rfc3339(self.last),
            if self.more { "; there are more (`--limit`)" } else { "" }
        );
        let head = ["PIPELINE", "SAME", "CHANGED", "ONLY BEFORE", "ONLY AFTER"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (topic, t) in &self.topics {
            let numbers = [t.same, t.changed, t.before, t.after].map(|n| n.to_string());
            rows.push([topic.clone()].into_iter().chain(numbers).collect());
        }
        text += &columns(&rows);
        text += &format!("\nfailed: {} before, {} after\n", self.failed.0, self.failed.1);
        for (topic, tally) in &self.topics {
            for shown in &tally.shown {
                text += &format!("\n{topic}: of {}:\n", cell(&shown["event"]));
                for field in shown["fields"].as_array().into_iter().flatten() {
                    text += &format!(
                        "  {}: {} -> {}\n",
                        cell(&field["field"]),
                        side(&field["before"]),
                        side(&field["after"])
                    );
                }
                for name in ["before", "after"].into_iter().filter(|name| shown.get(name).is_some()) {
                    text += &format!("  only {name}: {}\n", cell(&shown[name]));
                }
            }
        }
        for reason in &self.reasons {
            let all = |side: &str| cell(&reason[side]);
            text +=
                &format!("\n{}: failed before: {}, after: {}\n", cell(&reason["event"]), all("before"), all("after"));
        }
        text
    }
}

impl Tally {
    fn show(&mut self, difference: impl FnOnce() -> Value) {
        if self.shown.len() < SHOWN {
            self.shown.push(difference());
        }
    }
}

fn document(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

fn side(value: &Value) -> String {
    if value.is_null() { "-".into() } else { cell(value) }
}

/// The fields in which two values differ, each with its path.
fn diff(path: &str, before: &Value, after: &Value, found: &mut Vec<Value>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let value = |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or_default();
                diff(&path, &value(old), &value(new), found);
            }
        }
        _ if before != after => found.push(json!({ "field": path, "before": before, "after": after })),
        _ => {}
    }
}
