//! The pipelines, and the whole configuration around them.

use super::{
    definitions::{Body, Definition, LONGEST},
    externals::{External, Externals, Link},
    processes::{Around, Made, Step, span},
    reading::{At, Reader, told},
    writing::{Line, Out},
};
use crate::config::suggest::unknown_name;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The longest wait between two attempts that is written: a day.
const LONGEST_WAIT: i64 = 86_400_000;
/// The longest wait if none is given, as our processes have it.
const DEFAULT_WAIT: i64 = 30_000;

pub(super) struct Pipeline {
    pub name: String,
    uses: Vec<Use>,
    checkpoint: Option<String>,
    /// Whether traces or metrics are wanted.
    watched: bool,
}

struct Use {
    name: String,
    retries: i64,
    backoff: i64,
    at: usize,
    path: String,
}

/// Reads the pipelines; every process that they name is one of `definitions`.
pub(super) fn read(
    reader: &mut Reader<'_, '_>,
    root: &At<'_>,
    definitions: &[Definition],
    externals: &Externals,
) -> Vec<Pipeline> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for at in reader.list(root, "pipelines") {
        if !reader.message(&at, &["name", "processes", "checkpoint", "enableTracing", "enableMetrics"]) {
            continue;
        }
        let mut watched = reader.flag(&at, "enableTracing") | reader.flag(&at, "enableMetrics");
        let checkpoint = at.get("checkpoint").and_then(|at| checkpoint(reader, &at, externals));
        let mut uses = Vec::new();
        for at in reader.list(&at, "processes") {
            let (found, watches) = process(reader, &at, definitions);
            watched |= watches;
            uses.extend(found);
        }
        let Some((name, place)) = reader.named(&at, "name") else { continue };
        if !seen.insert(name.clone()) {
            reader.error(&place, format!("another pipeline is called {}", told(&name)));
        }
        all.push(Pipeline { name, uses, checkpoint, watched });
    }
    all
}

fn checkpoint(reader: &mut Reader<'_, '_>, at: &At<'_>, externals: &Externals) -> Option<String> {
    if let Some(old) = at.get("outputConnector") {
        let target = old.node.text().unwrap_or("/var/lib/checkpoints").to_owned();
        let sort = at.get("externalType").and_then(|t| t.node.text().map(str::to_owned));
        let sort = sort.unwrap_or_else(|| "ExternalLocalFile".into());
        let message = format!(
            "an old form of a checkpoint; write `{{\"outputConnectorRef\": \"checkpoints\"}}` and, in `externalSystems`, `{{\"externalType\": \"{sort}\", \"name\": \"checkpoints\", \"connectionString\": \"{target}\"}}`"
        );
        reader.error(at, message);
        return None;
    }
    reader.message(at, &["outputConnectorRef"]).then_some(())?;
    let (name, at) = reader.named(at, "outputConnectorRef")?;
    let sorts = ["ExternalKVStore", "ExternalLocalFile"];
    if externals.find(&name, &sorts).is_none() {
        reader.error(&at, unknown_name("key-value store or directory", &told(&name), &externals.names(&sorts)));
    }
    Some(name)
}

fn process(reader: &mut Reader<'_, '_>, at: &At<'_>, definitions: &[Definition]) -> (Option<Use>, bool) {
    if !reader.message(at, &["name", "retryStrategy", "instrumentation"]) {
        return (None, false);
    }
    let (mut retries, mut backoff, mut watched) = (0, 0, false);
    if let Some(at) = at.get("retryStrategy").filter(|at| reader.message(at, &["numRetries", "initialBackOffMs"])) {
        retries = reader.whole(&at, "numRetries", 0, i32::MAX.into());
        backoff = reader.whole(&at, "initialBackOffMs", 0, LONGEST);
    }
    let known = ["enableTracing", "latency", "counter"];
    if let Some(at) = at.get("instrumentation").filter(|at| reader.message(at, &known)) {
        watched = known.iter().fold(false, |any, name| reader.flag(&at, name) | any);
    }
    let Some((name, place)) = reader.named(at, "name") else { return (None, watched) };
    if !definitions.iter().any(|d| d.name == name) {
        let known: Vec<&str> = definitions.iter().map(|d| d.name.as_str()).collect();
        reader.error(&place, unknown_name("process", &told(&name), &known));
    }
    (Some(Use { name, retries, backoff, at: place.node.at, path: place.path }), watched)
}

/// Names of ours: letters, digits, `_`, `.` and `-`, at most 64, none twice.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn take(&mut self, wanted: &str, otherwise: &str) -> String {
        let fits = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
        let mut stem: String = wanted.chars().map(fits).take(56).collect();
        if stem.chars().all(|c| c == '-') {
            stem = otherwise.to_owned();
        }
        let more = (2..).map(|n| format!("{stem}-{n}"));
        let name = std::iter::once(stem.clone()).chain(more).find(|name| !self.0.contains(name)).unwrap_or_default();
        self.0.insert(name.clone());
        name
    }
}

/// All that was read.
pub(super) struct Whole<'a> {
    pub partition: &'a str,
    pub pipelines: &'a [Pipeline],
    pub definitions: &'a [Definition],
    pub externals: &'a Externals,
}

impl Whole<'_> {
    /// The configuration; what cannot be imported is told as a warning.
    pub fn lines(&self, reader: &mut Reader<'_, '_>) -> Vec<Line> {
        let mut names = Names::default();
        let pipelines: Vec<(&Pipeline, String)> =
            self.pipelines.iter().map(|p| (p, names.take(&p.name, "pipeline"))).collect();
        let source = names.take("events", "events");
        let (systems, topics, used) = self.systems(&mut names);
        let annotators = self.definitions.iter().filter_map(|d| match &d.body {
            Body::Annotator(all) => Some(all),
            _ => None,
        });
        let dotted = annotators.flatten().map(|a| a.key.as_str()).filter(|key| key.contains('.')).collect();
        let around = Around { definitions: self.definitions, externals: self.externals, names: used, dotted };
        let http = json!({ "type": "http", "listen": "127.0.0.1:8080" });
        let events = Line::plain(&source, http)
            .noted("binge took events at the port and path of its command line (`-daemonPort`, `-daemonPath`).")
            .noted("Here they are posted to `/v1/events`: an object, a list, or one document after another.");
        let mut root = vec![Line::new("sources", Out::Object(vec![events]))];
        root.extend(systems);
        root.extend(topics);
        let all = pipelines.iter().map(|(pipeline, name)| self.pipeline(reader, &around, pipeline, name, &source));
        root.push(Line::new("pipelines", Out::Object(all.collect())));
        let idle = |d: &&Definition| {
            let teed =
                |own: &Definition| matches!(&own.body, Body::Tee { transformer: Some(name), .. } if *name == d.name);
            !self.pipelines.iter().flat_map(|p| &p.uses).any(|u| u.name == d.name) && !self.definitions.iter().any(teed)
        };
        let idle: Vec<String> = self.definitions.iter().filter(idle).map(|d| told(&d.name)).collect();
        if !idle.is_empty() {
            root.push(Line::note(format!("left out, since no pipeline has it: {}", idle.join(", "))));
        }
        let first = pipelines.first().map_or("PIPELINE", |(_, name)| name);
        root.push(Line::note(
            "binge gave the result back to who had posted the event. To have it delivered, add a sink:",
        ));
        root.push(Line::note(format!(
            "\"sinks\": {{ \"results\": {{ \"type\": \"http\", \"url\": \"https://…\", \"from\": [\"{first}\"] }} }}"
        )));
        root
    }

    /// The sections `systems` and `topics`, and the names in them of the externals.
    fn systems(&self, names: &mut Names) -> (Option<Line>, Option<Line>, BTreeMap<usize, String>) {
        let tees = self.definitions.iter().filter_map(|d| match &d.body {
            Body::Tee { target, .. } => self.externals.find(target, &[]),
            _ => None,
        });
        let teed: Vec<&External> = tees.collect();
        let (mut systems, mut topics, mut used) = (Vec::new(), Vec::new(), BTreeMap::new());
        let (mut own, mut notes) = (Names::default(), Vec::new());
        let mut instances: BTreeMap<&str, String> = BTreeMap::new();
        let stores = |name: &str| self.definitions.iter().any(|d| d.store.as_deref() == Some(name));
        for (i, external) in self.externals.0.iter().enumerate() {
            let is_teed = teed.iter().any(|e| std::ptr::eq(*e, external));
            let what = told(&external.name);
            let value = match &external.link {
                Link::MemoryKv | Link::Dynamo { .. } if !is_teed && stores(&external.name) => {
                    notes.push(format!(
                        "{what} held the state of processes: that is in the store here, and commits with the event"
                    ));
                    continue;
                }
                _ if !is_teed => continue,
                Link::Topic(topic) => {
                    let name = names.take(topic, "topic");
                    let line = Line::plain(&name, Map::new());
                    let line = line
                        .noted(format!("{what}: a process or sink reads it by having {} in its `from`", told(&name)));
                    topics.push(line);
                    used.insert(i, name);
                    continue;
                }
                Link::MemoryKv => json!({ "type": "memory_kv" }),
                Link::MemoryObjects { instance } => match instances.get(instance.as_str()) {
                    Some(name) => {
                        used.insert(i, name.clone());
                        continue;
                    }
                    None => json!({ "type": "memory_objects" }),
                },
                Link::S3 { endpoint, bucket } => {
                    let name = own.take(&external.name, "system");
                    systems.push(s3(&name, endpoint, bucket));
                    used.insert(i, name);
                    continue;
                }
                _ => continue,
            };
            let name = own.take(&external.name, "system");
            if let Link::MemoryObjects { instance } = &external.link {
                instances.insert(instance, name.clone());
            }
            systems.push(Line::plain(&name, value));
            used.insert(i, name);
        }
        let section = |name: &str, lines: Vec<Line>| (!lines.is_empty()).then(|| Line::new(name, Out::Object(lines)));
        let mut systems = section("systems", systems);
        if !notes.is_empty() {
            systems.get_or_insert_default().notes.splice(0..0, notes);
        }
        (systems, section("topics", topics), used)
    }

    fn pipeline(
        &self,
        reader: &mut Reader<'_, '_>,
        around: &Around<'_>,
        pipeline: &Pipeline,
        name: &str,
        source: &str,
    ) -> Line {
        let label = (name != pipeline.name).then(|| pipeline.name.clone());
        let mut chain = Chain { label, names: Names::default(), lines: Vec::new(), outside: false, checkpoint: None };
        chain.begin(self.partition, &pipeline.name);
        for used in &pipeline.uses {
            let Some(definition) = self.definitions.iter().find(|d| d.name == used.name) else { continue };
            let Made { steps, notes, missing } = around.made(definition);
            if let Some(missing) = missing {
                reader.0.warning(used.path.clone(), used.at, missing);
            }
            chain.lines.extend(notes.into_iter().map(Line::note));
            chain.add(used, steps, pipeline.checkpoint.is_some());
        }
        let mut line = vec![Line::plain("from", json!([source]))];
        if chain.outside {
            line.push(Line::plain("retry", json!({ "count": 0 })).noted(
                "As in binge, what fails outside is given up after the attempts it is allowed; it becomes a dead letter. Without `retry`, what cannot be reached is tried until it works.",
            ));
        }
        line.push(Line::new("processes", Out::List(chain.lines)));
        let mut line = Line::new(name, Out::Object(line));
        if name != pipeline.name {
            line = line.noted(format!("it was called {}", told(&pipeline.name)));
        }
        if pipeline.checkpoint.is_some() {
            line = line.noted("Every event is on disk before it is acknowledged, and state commits with it. A `checkpoint` stands where more is needed: between two processes that reach outside, so that a crash repeats only one. Each costs a second write of the event.");
        }
        if pipeline.watched {
            line = line.noted("Counters and latency of every process are always on; there are no traces.");
        }
        line
    }
}

/// A bucket; Agglo had its credentials from the environment.
fn s3(name: &str, endpoint: &str, bucket: &str) -> Line {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let variable = |what: &str| format!("S3ObjectStore{what}_{}", bucket.chars().map(word).collect::<String>());
    let reference = |name: &str, variable: &str| Line::new(name, Out::Reference(format!("${{{variable}:-unset}}")));
    let fields = vec![
        Line::plain("type", "s3"),
        Line::plain("endpoint", format!("http://{endpoint}")),
        Line::plain("bucket", bucket),
        reference("access_key", &variable("AccessKeyID")),
        reference("secret_key", &variable("SecretAccessKey")),
    ];
    Line::new(name, Out::Object(fields)).noted(format!(
        "`https://` if `{}` was true. The credentials come from the environment: set both variables.",
        variable("UseSSL")
    ))
}

/// The processes of a pipeline as they come together.
struct Chain {
    /// What the pipeline was called, if it has another name here.
    label: Option<String>,
    names: Names,
    lines: Vec<Line>,
    /// Whether any reaches outside.
    outside: bool,
    /// Behind which line a checkpoint belongs if another process reaches outside, and what it is called then.
    checkpoint: Option<(usize, String)>,
}

impl Chain {
    /// What Agglo does to every event before its first process.
    fn begin(&mut self, partition: &str, pipeline: &str) {
        let set = json!({ "internal:partitionID": partition, "internal:name": pipeline });
        let process = json!({ "type": "annotate", "name": self.names.take("internalAnnotator", "") , "set": set, "exists": "keep" });
        self.lines.push(
            Line::plain("", process)
                .noted("mended: an event of another instance is accepted, and keeps where it comes from"),
        );
        let set = json!({ "internal:messageID": { "expr": "meta.id" } });
        let process = json!({ "type": "annotate", "name": self.names.take("internalMessageID", ""), "set": set });
        self.lines.push(Line::plain("", process).noted("mended: the event's id, no new one"));
    }

    fn add(&mut self, used: &Use, steps: Vec<Step>, checkpoint: bool) {
        for Step { notes, value, outside } in steps {
            let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            let name = self.names.take(&used.name, &kind);
            let mut process = Map::new();
            process.insert("type".into(), kind.as_str().into());
            process.insert("name".into(), name.as_str().into());
            // What the event shows of its name, or of the pipeline's.
            let label = match kind.as_str() {
                "spawn" | "complete" if name != used.name => Some(&used.name),
                "aggregate" => self.label.as_ref(),
                _ => None,
            };
            process.extend(label.map(|label| ("label".to_owned(), label.as_str().into())));
            process.extend(value.into_iter().filter(|(field, _)| field != "type"));
            if outside && used.retries > 0 {
                process.insert("retry".into(), retry(used.retries, used.backoff));
            }
            if let Some((behind, name)) = self.checkpoint.take_if(|_| outside) {
                let point = json!({ "type": "checkpoint", "name": self.names.take(&name, "checkpoint") });
                self.lines.insert(behind, Line::plain("", point));
            }
            let line = Line { notes, ..Line::plain("", process) };
            self.lines.push(line);
            self.outside |= outside;
            if outside && checkpoint {
                self.checkpoint = Some((self.lines.len(), format!("after-{name}")));
            }
        }
    }
}

fn retry(count: i64, backoff: i64) -> Value {
    let mut retry = json!({ "count": count, "initial": span(backoff.max(1)), "factor": 2 });
    let doubled = u32::try_from(count - 1).ok().and_then(|n| backoff.max(1).checked_shl(n.min(40)));
    let longest = doubled.unwrap_or(LONGEST_WAIT).clamp(0, LONGEST_WAIT).max(backoff);
    if longest > DEFAULT_WAIT {
        retry["max"] = span(longest).into();
    }
    retry
}
