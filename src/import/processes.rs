//! Definitions as our processes.

use super::{
    conditions::{self, Condition, quoted},
    definitions::{Annotation, Body, Definition, place},
    externals::{External, Externals, Link},
    reading::told,
    specs::Transformer,
};
use crate::budget::Span;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// One of our processes.
pub(super) struct Step {
    pub notes: Vec<String>,
    pub value: Map<String, Value>,
    /// Whether it reaches outside of the gateway.
    pub outside: bool,
}

/// What a definition becomes.
#[derive(Default)]
pub(super) struct Made {
    pub steps: Vec<Step>,
    /// What is told where nothing was made.
    pub notes: Vec<String>,
    /// What cannot be imported, for the log.
    pub missing: Option<String>,
}

/// What all definitions are made with.
pub(super) struct Around<'a> {
    pub definitions: &'a [Definition],
    pub externals: &'a Externals,
    /// Our names of the external systems and topics that are used, by the index of the external.
    pub names: BTreeMap<usize, String>,
    /// Keys whose dots belong to them: annotators write such fields.
    pub dotted: BTreeSet<&'a str>,
}

impl Step {
    fn new(kind: &str, condition: &Condition, name: &str) -> Step {
        let mut value = Map::new();
        value.insert("type".into(), kind.into());
        value.extend(condition.when.as_deref().map(|when| ("when".to_owned(), when.into())));
        Step { notes: conditions::mended(&condition.notes, name), value, outside: false }
    }

    fn with(mut self, field: &str, value: impl Into<Value>) -> Step {
        self.value.insert(field.into(), value.into());
        self
    }

    fn outside(mut self) -> Step {
        self.outside = true;
        self
    }

    fn noted(mut self, note: impl Into<String>) -> Step {
        self.notes.push(note.into());
        self
    }
}

impl From<Step> for Made {
    fn from(step: Step) -> Made {
        Made { steps: vec![step], ..Made::default() }
    }
}

impl Around<'_> {
    pub fn made(&self, definition: &Definition) -> Made {
        let name = definition.name.as_str();
        match &definition.body {
            Body::Annotator(annotations) => self.annotator(name, annotations),
            Body::Aggregator { condition, field, op, by, forward } => {
                let by: Vec<String> = by.iter().map(|key| self.place(key)).collect();
                let step = Step::new("aggregate", condition, name).with("field", self.place(field)).with("op", *op);
                let step = if by.is_empty() { step } else { step.with("by", by) };
                (if *forward { step } else { step.with("forward", false) }).into()
            }
            Body::Completer { condition, join, timeout } => self.completer(name, condition, join, *timeout),
            Body::Filter { regex, keep } => {
                let field = if *keep { "keep_matching" } else { "drop_matching" };
                let step = Step::new("filter", &Condition::default(), name);
                step.with(field, regex.as_str()).with("lists", false).into()
            }
            Body::Spawner { condition, delay, wait, program, args } => {
                let step = Step::new("spawn", condition, name).with("program", program.as_str());
                let mut step = if args.is_empty() { step } else { step.with("args", args.as_slice()) };
                if !wait {
                    step = step.with("wait", false);
                    // Nothing was known of such a program. But a condition that fails is a failure.
                    if condition.when.is_none() {
                        step = step.with("on_fail", "continue");
                    }
                }
                if *delay > 0 {
                    step = step.with("delay", span(*delay));
                }
                if program.contains('/') && !program.starts_with('/') {
                    step =
                        step.noted(format!("{} is looked for from the directory that Tidegate runs in", told(program)));
                }
                step = step.noted(format!(
                    "{} has the gateway's `PATH` alone in its environment: what else it reads there goes into `env`",
                    told(program)
                ));
                step.with("timeout", "1h").outside().into()
            }
            Body::Tee { condition, merge, transformer, target } => {
                self.tee(name, condition, merge.as_ref(), transformer.as_deref(), target)
            }
            Body::Transformer(transformer) => {
                let step = Step::new("transform", &Condition::default(), name);
                transform(step, transformer, "specs").into()
            }
            Body::Continuation(condition) => {
                let step = Step::new("continue", condition, name);
                // A condition that failed stopped the event like one that does not hold.
                (if condition.when.is_some() { step.with("on_fail", "drop") } else { step }).into()
            }
            Body::Entwine => {
                let what =
                    format!("{} is an entwine, and there is no process for that here: it is left out", told(name));
                let note = format!("{what}; fields that it would add (`internal:entwine:output`) are absent behind it");
                Made { missing: Some(what), notes: vec![note], steps: Vec::new() }
            }
            Body::Broken => Made::default(),
        }
    }

    fn place(&self, key: &str) -> String {
        place(key, self.dotted.contains(key))
    }

    fn annotator(&self, name: &str, annotations: &[Annotation]) -> Made {
        let mut made = Made::default();
        let mut alone: Option<Map<String, Value>> = None; // those before that have no condition
        let annotate = |condition: &Condition, set: Map<String, Value>| {
            Step::new("annotate", condition, name).with("set", set).with("exists", "fail")
        };
        for Annotation { key, value, condition } in annotations {
            let value = match value.as_str() {
                "derived:currentTime" => json!({ "expr": "rfc3339(meta.intake)" }),
                text => text.into(),
            };
            let place = place(key, true);
            match (&mut alone, &condition.when) {
                (Some(set), None) if !set.contains_key(&place) => {
                    set.insert(place, value);
                }
                (_, when) => {
                    made.steps.extend(alone.take().map(|set| annotate(&Condition::default(), set)));
                    let set = Map::from_iter([(place, value)]);
                    match when {
                        Some(_) => made.steps.push(annotate(condition, set)),
                        None => alone = Some(set),
                    }
                }
            }
        }
        made.steps.extend(alone.map(|set| annotate(&Condition::default(), set)));
        if made.steps.is_empty() {
            made.notes.push(format!("{} has no annotations: there is nothing to do", told(name)));
        }
        made
    }

    fn completer(&self, name: &str, condition: &Condition, join: &[String], timeout: i64) -> Made {
        match join {
            [] => {
                let note = format!("{} has no `joinKeys`: every event passes it unchanged", told(name));
                Made { notes: vec![note], ..Made::default() }
            }
            [key] => {
                let value = format!("event.leaf({})", quoted(key));
                let when = match &condition.when {
                    Some(when) => format!("{value} != null && ({when})"),
                    None => format!("{value} != null"),
                };
                let deadline = if timeout > 0 { format!("(meta.intake + {timeout}) * 1000000") } else { "-1".into() };
                let state =
                    format!("{{'value': {value}, 'resolved': {{{}: true}}, 'deadline': {deadline}}}", quoted(key));
                let set = json!({
                    place(&format!("internal:completion:{name}"), true): "complete",
                    place(&format!("internal:completion:state:{name}"), true): { "expr": state },
                });
                let condition = Condition { when: Some(when), notes: condition.notes.clone() };
                let step = Step::new("annotate", &condition, name).with("set", set);
                step.noted(format!(
                    "{} joins on one key alone: every event that has it is complete at once",
                    told(name)
                ))
                .into()
            }
            _ => {
                let join: Vec<String> = join.iter().map(|key| self.place(key)).collect();
                let step = Step::new("complete", condition, name).with("join", join);
                let step = if timeout > 0 { step.with("timeout", span(timeout)) } else { step };
                if condition.when.is_some() {
                    let note = format!("mended in {}: its condition is honoured, it was ignored", told(name));
                    return step.noted(note).into();
                }
                step.into()
            }
        }
    }

    fn tee(
        &self,
        name: &str,
        condition: &Condition,
        merge: Option<&Value>,
        transformer: Option<&str>,
        target: &str,
    ) -> Made {
        let Some(external) = self.externals.find(target, &[]) else { return Made::default() };
        let index = self.externals.0.iter().position(|e| std::ptr::eq(e, external));
        let system = index.and_then(|i| self.names.get(&i)).map_or(target, String::as_str);
        // With what the event showed of the target, where that is another thing here.
        let (to, label) = match &external.link {
            Link::MemoryKv => (json!({ "kv": system }), Some("inMemStore".to_owned())),
            Link::MemoryObjects { instance } => (json!({ "objects": system }), Some(format!("mem:{instance}"))),
            Link::S3 { endpoint, bucket } => {
                (json!({ "objects": system }), Some(format!("s3:endpoint={endpoint},bucketName={bucket}")))
            }
            Link::Topic(_) => (json!({ "topic": system }), None),
            Link::Http(url) => (json!({ "http": { "url": url } }), None),
            Link::Directory(path) => (json!({ "directory": path }), None),
            Link::Dynamo { .. } | Link::Elastic { .. } | Link::Nothing | Link::Wrong => return missing(name, external),
        };
        let mut step = Step::new("tee", condition, name).with("to", to);
        if let Some(label) = label {
            step = step.with("label", label);
        }
        if matches!(external.link, Link::Http(_)) {
            step = step.with("keep_answer", true);
        }
        if matches!(external.link, Link::Topic(_)) {
            // It is sent with the event's step, not outside.
            step = step
                .noted(format!("mended in {}: it publishes to a topic of the gateway; it never loaded", told(name)));
        } else {
            step = step.outside();
        }
        let transformer = self.definitions.iter().find(|d| Some(d.name.as_str()) == transformer);
        if let Some(Definition { body: Body::Transformer(transformer), .. }) = transformer {
            step = transform(step, transformer, "transform");
        }
        (match merge {
            Some(body) => step.with("merge", body.clone()),
            None => step,
        })
        .into()
    }
}

fn transform(mut step: Step, transformer: &Transformer, field: &str) -> Step {
    let specs: Vec<Value> = transformer.specs.iter().filter_map(|spec| spec.value.clone()).collect();
    step.notes.extend(transformer.specs.iter().flat_map(|spec| spec.notes.clone()));
    step.outside |= transformer.specs.iter().any(|spec| spec.outside);
    step.with(field, specs).with("others", if transformer.keep { "keep" } else { "drop" })
}

/// A tee whose target there is not here.
fn missing(name: &str, external: &External) -> Made {
    let (what, instead) = match &external.link {
        Link::Dynamo { table } => (
            format!("the DynamoDB table {}", told(table)),
            "a `redis` or `sqlite` system can take its place: `\"to\": { \"kv\": NAME }`".to_owned(),
        ),
        Link::Elastic { index, node } => (
            format!("the search index {}, which gets a document of its own form", told(index)),
            format!(
                "`\"to\": {{ \"http\": {{ \"url\": {} }} }}` would index the event as it is",
                Value::from(format!("{}/{index}/_doc", node.trim_end_matches('/')))
            ),
        ),
        _ => ("`nil:nil`, which is no store".to_owned(), "give it a target".to_owned()),
    };
    let told = format!("{} tees to {what}, and there is nothing for that here: it is left out", told(name));
    Made { notes: vec![format!("{told}; {instead}")], missing: Some(told), steps: Vec::new() }
}

pub(super) fn span(ms: i64) -> String {
    Span::millis(u64::try_from(ms).unwrap_or(0)).to_string()
}
