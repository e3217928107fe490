//! The checked configuration with its components built: what the runtime starts.

use super::checks::{copied_sink, copied_topic};
use super::interpolate::redact;
use super::outgoing;
use super::report::{Report, field};
use super::schema::common_fields;
use super::settings::{Attempts, OnFail, PipelineSettings, ProcessCommon, Settings, SinkCommon, SourceCommon};
use super::tree::{Content, Field, Node};
use crate::expr::Expr;
use crate::kind::{Kind, Params, ParamsError, Scope, decode, side_topic};
use crate::systems::{System, Systems};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// All kinds that a configuration may name. `S`, `P` and `K` are the traits of sources, processes and sinks.
pub struct Catalogue<'a, S: ?Sized, P: ?Sized, K: ?Sized> {
    pub sources: &'a [Kind<S>],
    pub processes: &'a [Kind<P>],
    pub sinks: &'a [Kind<K>],
    pub systems: &'a [Kind<System>],
}

/// A whole gateway, built but not started. Every list is in the order of the file.
pub struct Plan<S: ?Sized, P: ?Sized, K: ?Sized> {
    pub settings: Settings,
    pub sources: Vec<SourcePlan<S>>,
    pub pipelines: Vec<PipelinePlan<P>>,
    pub sinks: Vec<SinkPlan<K>>,
    /// Those that the others were given.
    pub systems: Systems,
}

/// A source; its topic has its name.
pub struct SourcePlan<S: ?Sized> {
    pub name: String,
    pub kind: &'static str,
    pub common: SourceCommon,
    pub source: Box<S>,
}

/// A pipeline; its output topic has its name.
pub struct PipelinePlan<P: ?Sized> {
    pub name: String,
    /// As in the file; `on_fail` and `retry` are those of the processes already.
    pub settings: PipelineSettings,
    pub processes: Vec<ProcessPlan<P>>,
    /// Topics that it writes besides its own: those of `on_fail` and of processes with `"to": { "topic": … }`.
    pub writes: Vec<String>,
    /// Sinks that a process gives copies to, with the topic between them.
    copies: Vec<(String, String)>,
}

/// One process of a pipeline.
pub struct ProcessPlan<P: ?Sized> {
    pub name: String,
    pub kind: &'static str,
    pub when: Option<Expr>,
    pub retry: Attempts,
    pub on_fail: OnFail,
    pub process: Box<P>,
}

/// A sink.
pub struct SinkPlan<K: ?Sized> {
    pub name: String,
    pub kind: &'static str,
    /// All topics it reads: its own `from`, then the pipelines that have it in their `to`, then the copies that processes
    /// make for it, then what is late for other sinks; none twice.
    pub from: Vec<String>,
    pub common: SinkCommon,
    pub sink: Box<K>,
}

/// Without values: they may be secret.
impl<S: ?Sized, P: ?Sized, K: ?Sized> std::fmt::Debug for Plan<S, P, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("sources", &self.sources.iter().map(|s| &s.name).collect::<Vec<_>>())
            .field("pipelines", &self.pipelines.iter().map(|p| &p.name).collect::<Vec<_>>())
            .field("sinks", &self.sinks.iter().map(|s| &s.name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Decodes and builds what is not yet known to be wrong. What cannot be built is reported and left out of the plan.
pub(super) fn build<S: ?Sized, P: ?Sized, K: ?Sized>(
    root: &Node,
    catalogue: &Catalogue<'_, S, P, K>,
    report: &mut Report<'_>,
) -> Plan<S, P, K> {
    let settings = settings(root, report);
    let data = Path::new(&settings.store.path).parent().filter(|p| !p.as_os_str().is_empty());
    let data = data.unwrap_or(Path::new(".")).to_owned();
    let scope = Scope { gateway: settings.gateway.id.clone(), data, ..Scope::default() };
    let mut build = Build { scope, report };
    for entry in fields(root, "systems") {
        let system = build.system(entry, catalogue.systems);
        build.scope.systems.insert(&entry.name, system);
    }
    let systems = build.scope.systems.clone();
    if let Some(Err(e)) = settings.store.disk.offload.as_ref().map(|offload| systems.objects(&offload.to)) {
        refuse(build.report, "", root, ParamsError::at("store.disk.offload.to", e));
    }
    let mut plan = Plan { settings, sources: Vec::new(), pipelines: Vec::new(), sinks: Vec::new(), systems };
    for entry in fields(root, "sources") {
        plan.sources.extend(build.source(entry, catalogue.sources));
    }
    for entry in fields(root, "pipelines") {
        plan.pipelines.extend(build.pipeline(entry, catalogue.processes));
    }
    for entry in fields(root, "sinks") {
        plan.sinks.extend(build.sink(entry, catalogue.sinks));
    }
    build.unused(fields(root, "systems"), &plan.systems);
    let late = |sink: &SinkPlan<K>| Some((sink.common.late.as_ref()?.to.clone()?, late_topic(&sink.name)));
    let late: Vec<(String, String)> = plan.sinks.iter().filter_map(late).collect();
    for sink in &mut plan.sinks {
        for pipeline in plan.pipelines.iter().filter(|p| p.settings.to.contains(&sink.name)) {
            if !sink.from.contains(&pipeline.name) {
                sink.from.push(pipeline.name.clone());
            }
        }
        let copies = plan.pipelines.iter().flat_map(|p| &p.copies).chain(&late).filter(|(to, _)| *to == sink.name);
        sink.from.extend(copies.map(|(_, topic)| topic.clone()));
    }
    plan
}

/// The topic between a sink and the one that its late events go to.
pub fn late_topic(sink: &str) -> String {
    side_topic(&format!("sinks.{sink}"), "late")
}

fn fields<'n>(root: &'n Node, section: &str) -> &'n [Field] {
    root.get(section).map_or(&[], Node::fields)
}

/// The gateway's own settings.
pub(super) fn settings(root: &Node, report: &mut Report<'_>) -> Settings {
    let of = |names: &[&str]| {
        let taken = root.fields().iter().filter(|f| names.contains(&f.name.as_str()));
        Value::Object(taken.map(|f| (f.name.clone(), f.node.json())).collect())
    };
    let names = ["admin", "gateway", "store", "topics"];
    let mut settings = Settings::default();
    if names.iter().all(|name| report.clean(name)) {
        match decode::<Settings>(&of(&names)) {
            Ok(decoded) => settings = decoded,
            Err(e) => refuse(report, "", root, e),
        }
    }
    for (at, message) in super::space::wrong(&settings).into_iter().chain(super::admin::wrong(&settings)) {
        refuse(report, "", root, ParamsError::at(at, message));
    }
    if settings.gateway.id.is_empty() {
        settings.gateway.id = host_name();
    }
    settings
}

/// The name of the machine, as far as it can stand in a topic.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "_.-".contains(*c)).take(64).collect();
    if name.is_empty() { "tidegate".into() } else { name }
}

/// Reports what a decoder or constructor says about the value at `path`.
fn refuse(report: &mut Report<'_>, path: &str, node: &Node, e: ParamsError) {
    let at = node.locate(&e.path);
    let path = match (path, e.path.as_str()) {
        (_, "") => path.to_owned(),
        ("", below) => below.to_owned(),
        (_, below) if below.starts_with('[') => format!("{path}{below}"),
        (_, below) => format!("{path}.{below}"),
    };
    report.error(path, at, redact(&e.message, &node.filled()));
}

struct Build<'r, 't> {
    scope: Scope,
    report: &'r mut Report<'t>,
}

impl Build<'_, '_> {
    fn system(&mut self, entry: &Field, kinds: &[Kind<System>]) -> Option<System> {
        let path = self.clean("systems", entry)?;
        let (own, _) = split(&entry.node, &["type".into()]);
        self.component(&path, entry.name.clone(), &entry.node, own, kinds, self.scope.clone())
            .map(|(_, system)| *system)
    }

    fn unused(&mut self, entries: &[Field], systems: &Systems) {
        for name in systems.unused() {
            let at = entries.iter().find(|e| e.name == name).map_or(0, |e| e.at);
            self.report.warning(field("systems", name), at, "nothing uses this system");
        }
    }

    fn source<S: ?Sized>(&mut self, entry: &Field, kinds: &[Kind<S>]) -> Option<SourcePlan<S>> {
        let path = self.clean("sources", entry)?;
        let (own, common) = split(&entry.node, &common_fields("source"));
        let common = self.decode(&path, &entry.node, &common);
        let (kind, source) = self.component(&path, entry.name.clone(), &entry.node, own, kinds, self.scope.clone())?;
        Some(SourcePlan { name: entry.name.clone(), kind, common: common?, source })
    }

    fn sink<K: ?Sized>(&mut self, entry: &Field, kinds: &[Kind<K>]) -> Option<SinkPlan<K>> {
        let path = self.clean("sinks", entry)?;
        let (own, common) = split(&entry.node, &common_fields("sink"));
        let common = self.decode::<SinkCommon>(&path, &entry.node, &common);
        if let Some(retry) = common.as_ref().map(|c| &c.retry).filter(|r| r.initial > r.max) {
            let message = format!("expected at most `max`, which is {}", retry.max);
            refuse(self.report, &path, &entry.node, ParamsError::at("retry.initial", message));
        }
        if let Some(wrong) = common.as_ref().and_then(|common| outgoing::check(common).err()) {
            refuse(self.report, &path, &entry.node, wrong);
        }
        let (kind, sink) = self.component(&path, entry.name.clone(), &entry.node, own, kinds, self.scope.clone())?;
        let common = common?;
        Some(SinkPlan { name: entry.name.clone(), kind, from: common.from.clone(), common, sink })
    }

    fn pipeline<P: ?Sized>(&mut self, entry: &Field, kinds: &[Kind<P>]) -> Option<PipelinePlan<P>> {
        let path = field("pipelines", &entry.name);
        let nodes = entry.node.get("processes").map_or(&[][..], Node::items);
        let names = process_names(nodes);
        let mut parts = Vec::new();
        for (i, (node, name)) in nodes.iter().zip(&names).enumerate() {
            let path = format!("{path}.processes[{i}]");
            if names[..i].contains(name) {
                let at = ParamsError::at("name", format!("another process of the pipeline is called `{name}`"));
                refuse(self.report, &path, node, at);
            } else if self.report.clean(&path) {
                parts.extend(self.process(&path, &entry.name, name, node, kinds));
            }
        }
        let path = self.clean("pipelines", entry)?;
        let (settings, _) = split(&entry.node, &["processes".into()]);
        let settings: PipelineSettings = self.decode(&path, &entry.node, &settings)?;
        let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
        let (mut processes, mut writes, mut copies) = (Vec::new(), Vec::new(), Vec::new());
        for (common, kind, name, node, process) in parts {
            let on_fail = common.on_fail.unwrap_or_else(|| settings.on_fail.clone());
            if let OnFail::Topic(topic) = &on_fail {
                writes.push(topic.clone());
            }
            writes.extend(text(copied_topic(node)));
            copies.extend(text(copied_sink(node)).map(|sink| (sink, side_topic(&entry.name, &name))));
            let retry = common.retry.unwrap_or_else(|| settings.retry.clone());
            processes.push(ProcessPlan { name, kind, when: common.when, retry, on_fail, process });
        }
        Some(PipelinePlan { name: entry.name.clone(), settings, processes, writes, copies })
    }

    fn process<'n, P: ?Sized>(
        &mut self,
        path: &str,
        pipeline: &str,
        name: &str,
        node: &'n Node,
        kinds: &[Kind<P>],
    ) -> Option<(ProcessCommon, &'static str, String, &'n Node, Box<P>)> {
        let (own, common) = split(node, &common_fields("process"));
        let common: ProcessCommon = self.decode(path, node, &common)?;
        let around = Scope { pipeline: pipeline.to_owned(), ..self.scope.clone() };
        let (kind, process) = self.component(path, name.to_owned(), node, own, kinds, around)?;
        Some((common, kind, name.to_owned(), node, process))
    }

    /// The path of a part, if nothing is wrong with it.
    fn clean(&self, section: &str, entry: &Field) -> Option<String> {
        let path = field(section, &entry.name);
        self.report.clean(&path).then_some(path)
    }

    fn decode<T: DeserializeOwned>(&mut self, path: &str, node: &Node, value: &Value) -> Option<T> {
        decode(value).map_err(|e| refuse(self.report, path, node, e)).ok()
    }

    fn component<T: ?Sized>(
        &mut self,
        path: &str,
        name: String,
        node: &Node,
        own: Value,
        kinds: &[Kind<T>],
        scope: Scope,
    ) -> Option<(&'static str, Box<T>)> {
        let chosen = node.get("type").and_then(Node::text)?;
        let kind = kinds.iter().find(|k| k.name == chosen)?;
        match (kind.build)(Params::new(name, scope, own)) {
            Ok(built) => Some((kind.name, built)),
            Err(e) => {
                refuse(self.report, path, node, e);
                None
            }
        }
    }
}

/// The names of a pipeline's processes: their own, or the kind, with a number from the second of the kind on.
fn process_names(nodes: &[Node]) -> Vec<String> {
    let text = |node: &Node, field| node.get(field).and_then(Node::text).map(str::to_owned);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let name = |node: &Node| {
        let kind = text(node, "type").unwrap_or_default();
        let count = seen.entry(kind.clone()).or_default();
        *count += 1;
        text(node, "name").unwrap_or(if *count == 1 { kind } else { format!("{kind}#{count}") })
    };
    nodes.iter().map(name).collect()
}

/// The fields of a component apart: its own, and those that are listed, without `type`.
fn split(node: &Node, listed: &[String]) -> (Value, Value) {
    let Content::Object(fields) = &node.content else { return (Value::Null, Value::Null) };
    let (listed, own): (Vec<&Field>, Vec<&Field>) = fields.iter().partition(|f| listed.contains(&f.name));
    let object = |fields: Vec<&Field>| {
        let fields = fields.into_iter().filter(|f| f.name != "type");
        Value::Object(fields.map(|f| (f.name.clone(), f.node.json())).collect())
    };
    (object(own), object(listed))
}
