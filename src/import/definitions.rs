//! The definitions of processes, as read.

use super::{
    conditions::{self, Condition},
    externals::{self, Externals, Link},
    pattern,
    reading::{At, Reader, Words, told},
    specs::{self, Transformer},
};
use crate::{config::suggest::unknown_name, event::Path};
use serde_json::Value;
use std::collections::BTreeSet;

const AGGREGATIONS: Words = Words {
    what: "an aggregation",
    list: &[
        ("AggUnknown", 0),
        ("AggSum", 1),
        ("AggMax", 2),
        ("AggMin", 3),
        ("AggAvg", 4),
        ("AggCount", 5),
        ("AggDiscreteHistogram", 6),
    ],
    prefixes: &["Agg"],
};
const KINDS: &[&str] =
    &["annotator", "aggregator", "completer", "filter", "spawner", "tee", "transformer", "continuation", "entwine"];
/// The longest time that a setting may have: ten years in milliseconds.
pub(super) const LONGEST: i64 = 315_360_000_000;

pub(super) struct Definition {
    pub name: String,
    pub at: usize,
    pub path: String,
    /// The external system that held its state.
    pub store: Option<String>,
    pub body: Body,
}

pub(super) enum Body {
    Annotator(Vec<Annotation>),
    Aggregator {
        condition: Condition,
        field: String,
        op: &'static str,
        by: Vec<String>,
        forward: bool,
    },
    Completer {
        condition: Condition,
        join: Vec<String>,
        timeout: i64,
    },
    Filter {
        regex: String,
        keep: bool,
    },
    Spawner {
        condition: Condition,
        delay: i64,
        wait: bool,
        program: String,
        args: Vec<String>,
    },
    Tee {
        condition: Condition,
        merge: Option<Value>,
        transformer: Option<String>,
        target: String,
    },
    Transformer(Transformer),
    Continuation(Condition),
    Entwine,
    /// What is wrong with it was told.
    Broken,
}

pub(super) struct Annotation {
    pub key: String,
    pub value: String,
    pub condition: Condition,
}

/// Reads one definition; what it refers to is looked up in `externals`.
pub(super) fn definition(reader: &mut Reader<'_, '_>, at: &At<'_>, externals: &Externals) -> Option<Definition> {
    let Some((kind, of)) = reader.one_of(at, KINDS) else { return broken(at) };
    let mut read = Read { reader, of: &of, externals, store: None };
    let body = match kind {
        "annotator" => read.annotator(),
        "aggregator" => read.aggregator(),
        "completer" => read.completer(),
        "filter" => read.filter(),
        "spawner" => read.spawner(),
        "tee" => read.tee(),
        "transformer" => specs::read(read.reader, &of).map(Body::Transformer),
        "continuation" => read.fields(&["name", "condition"]).map(|()| Body::Continuation(read.condition(false))),
        _ => read.entwine(),
    };
    let store = read.store.take();
    let (name, place) = read.reader.named(&of, "name")?;
    // A definition that is wrong still has its name: what refers to it is not wrong, too.
    Some(Definition { name, at: place.node.at, path: of.path.clone(), store, body: body.unwrap_or(Body::Broken) })
}

/// A definition of no kind or of two still has its name.
fn broken(at: &At<'_>) -> Option<Definition> {
    let name = at.node.fields().iter().find_map(|field| field.node.get("name")?.text())?.to_owned();
    Some(Definition { name, at: at.node.at, path: at.path.clone(), store: None, body: Body::Broken })
}

struct Read<'a, 'n, 'r, 't> {
    reader: &'a mut Reader<'r, 't>,
    of: &'a At<'n>,
    externals: &'a Externals,
    store: Option<String>,
}

impl Read<'_, '_, '_, '_> {
    fn fields(&mut self, known: &[&'static str]) -> Option<()> {
        self.reader.message(self.of, known).then_some(())
    }

    fn condition(&mut self, nested: bool) -> Condition {
        conditions::condition(self.reader, self.of, nested)
    }

    fn annotator(&mut self) -> Option<Body> {
        self.fields(&["name", "annotations"])?;
        let mut all = Vec::new();
        for at in self.reader.list(self.of, "annotations") {
            if self.reader.message(&at, &["fieldKey", "value", "condition"]) {
                let condition = conditions::condition(self.reader, &at, true);
                let value = self.reader.text(&at, "value");
                if let Some((key, _)) = self.reader.named(&at, "fieldKey") {
                    all.push(Annotation { key, value, condition });
                }
            }
        }
        Some(Body::Annotator(all))
    }

    /// The name of an external system of these types.
    fn external(&mut self, field: &str, what: &str, sorts: &[&str]) -> Option<String> {
        let (name, at) = self.reader.named(self.of, field)?;
        if self.externals.find(&name, sorts).is_none() {
            self.reader.error(&at, unknown_name(what, &told(&name), &self.externals.names(sorts)));
        }
        Some(name)
    }

    fn aggregator(&mut self) -> Option<Body> {
        self.fields(&["name", "condition", "stateStore", "aggregation", "asyncCheckpoint", "forwardState"])?;
        let condition = self.condition(false);
        self.store = self.external("stateStore", "key-value store", &["ExternalKVStore"]);
        self.reader.flag(self.of, "asyncCheckpoint");
        let forward = self.reader.flag(self.of, "forwardState");
        let part = self.reader.part(self.of, "aggregation", &["key", "aggregationType", "groupByKeys"])?;
        let op = self.reader.known_word(&part, "aggregationType", &AGGREGATIONS);
        let field = self.reader.named(&part, "key");
        let mut by = Vec::new();
        for (key, at) in self.reader.texts(&part, "groupByKeys") {
            self.place(&key, &at);
            by.push(key);
        }
        let (field, at) = field?;
        self.place(&field, &at);
        let op = match op? {
            "AggSum" => "sum",
            "AggMax" => "max",
            "AggMin" => "min",
            "AggAvg" => "avg",
            "AggCount" => "count",
            _ => "histogram",
        };
        Some(Body::Aggregator { condition, field, op, by, forward })
    }

    /// Tells a key that is no place in an event.
    fn place(&mut self, key: &str, at: &At<'_>) {
        if at.node.text().is_none() {
            return; // that was told
        }
        if let Err(e) = place(key, false).parse::<Path>() {
            self.reader.error(at, e.to_string());
        }
    }

    fn completer(&mut self) -> Option<Body> {
        self.fields(&["name", "condition", "stateStore", "completion"])?;
        let condition = self.condition(false);
        self.store = self.external("stateStore", "key-value store", &["ExternalKVStore"]);
        let part = self.reader.part(self.of, "completion", &["joinKeys", "timeoutMs"])?;
        let timeout = self.reader.whole(&part, "timeoutMs", i64::MIN, LONGEST);
        let mut join: Vec<String> = Vec::new();
        for (key, at) in self.reader.texts(&part, "joinKeys") {
            self.place(&key, &at);
            if !join.contains(&key) {
                join.push(key);
            }
        }
        Some(Body::Completer { condition, join, timeout })
    }

    fn filter(&mut self) -> Option<Body> {
        self.fields(&["name", "regex", "keepMatched"])?;
        let keep = self.reader.flag(self.of, "keepMatched");
        let regex = pattern::checked(&self.reader.text(self.of, "regex"));
        match regex {
            Ok(regex) => Some(Body::Filter { regex, keep }),
            Err(e) => {
                let at = self.of.get("regex").unwrap_or(self.of.clone());
                self.reader.error(&at, e);
                None
            }
        }
    }

    fn spawner(&mut self) -> Option<Body> {
        self.fields(&["name", "condition", "delayInMs", "doSync", "job"])?;
        let condition = self.condition(false);
        let delay = self.reader.whole(self.of, "delayInMs", -LONGEST, LONGEST);
        let wait = self.reader.flag(self.of, "doSync");
        let job = self.reader.part(self.of, "job", &["runnable"])?;
        let run = self.reader.part(&job, "runnable", &["pathToExec", "cmdArgs"])?;
        let args = self.reader.texts(&run, "cmdArgs").into_iter().map(|(arg, _)| arg).collect();
        let (program, _) = self.reader.named(&run, "pathToExec")?;
        Some(Body::Spawner { condition, delay, wait, program, args })
    }

    fn tee(&mut self) -> Option<Body> {
        if let Some(at) = self.of.get("externalType") {
            let message = "a tee has no `externalType`: take it out; the type stands in `externalSystems`, with the connection string";
            self.reader.error(&at, message);
        }
        let known = ["name", "condition", "additionalBody", "transformerRef", "outputConnectorRef", "externalType"];
        self.fields(&known)?;
        let condition = self.condition(false);
        let target = self.external("outputConnectorRef", "external system", &[]);
        let external = target.as_deref().and_then(|name| self.externals.find(name, &[]));
        if let Some((Link::Http(text), at)) = external.map(|e| &e.link).zip(self.of.get("outputConnectorRef"))
            && let Err(e) = externals::url(text)
        {
            self.reader
                .error(&at, format!("the `connectionString` of {}: {e}", told(target.as_deref().unwrap_or_default())));
        }
        let transformer = Some(self.reader.text(self.of, "transformerRef")).filter(|name| !name.is_empty());
        let merge = self.of.get("additionalBody").map(|at| {
            if at.node.sort() != "an object" {
                self.reader.error(&at, format!("expected an object, found {}", at.node.sort()));
            }
            at.node.json()
        });
        let merge = merge.filter(|body| body.as_object().is_some_and(|fields| !fields.is_empty()));
        Some(Body::Tee { condition, merge, transformer, target: target? })
    }

    fn entwine(&mut self) -> Option<Body> {
        let texts = ["streamStateStore", "objectStore", "pemPath", "subStreamID", "tickerEndpoint"];
        self.fields(&[
            "name",
            "streamStateStore",
            "objectStore",
            "pemPath",
            "subStreamID",
            "tickerEndpoint",
            "tickerInterval",
            "condition",
        ])?;
        for name in texts {
            self.reader.text(self.of, name);
        }
        self.reader.whole(self.of, "tickerInterval", i32::MIN.into(), i32::MAX.into());
        self.store = self.external("streamStateStore", "key-value store", &["ExternalKVStore"]);
        self.external("objectStore", "object store", &["ExternalObjectStore"]);
        self.condition(false);
        Some(Body::Entwine)
    }
}

/// A key as a path. `whole`: its dots belong to the name.
pub(super) fn place(key: &str, whole: bool) -> String {
    let key = key.replace('\\', "\\\\");
    if whole { key.replace('.', "\\.") } else { key }
}

/// References between definitions, and names that two of them have.
pub(super) fn check(reader: &mut Reader<'_, '_>, definitions: &[Definition], nodes: &[At<'_>]) {
    let mut seen = BTreeSet::new();
    for definition in definitions {
        if !seen.insert(definition.name.as_str()) {
            let message = format!("another process is called {}", told(&definition.name));
            reader.0.error(format!("{}.name", definition.path), definition.at, message);
        }
        let Body::Tee { transformer: Some(name), .. } = &definition.body else { continue };
        let Some(at) = nodes.iter().find_map(|n| n.get("tee").filter(|t| t.path == definition.path)) else { continue };
        let Some(at) = at.get("transformerRef") else { continue };
        match definitions.iter().find(|d| d.name == *name) {
            Some(Definition { body: Body::Transformer(_) | Body::Broken, .. }) => {}
            Some(_) => reader.error(&at, format!("{} is not a transformer", told(name))),
            None => {
                let known = definitions.iter().filter(|d| matches!(d.body, Body::Transformer(_)));
                let known: Vec<&str> = known.map(|d| d.name.as_str()).collect();
                reader.error(&at, unknown_name("transformer", &told(name), &known));
            }
        }
    }
}
