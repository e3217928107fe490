//! What no schema can say: names that refer to each other.

use super::interpolate;
use super::report::{Report, field, shown};
use super::suggest::unknown_name;
use super::tree::{Content, Node};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Checks the names of the whole tree: defined once, defined at all, no pipeline that feeds itself.
pub(super) fn check(root: &Node, report: &mut Report<'_>) {
    let names = Names::of(root);
    taken_twice(root, report);
    references(root, &names, report);
    copies(root, &names, report);
    late(root, &names, report);
    cycles(root, report);
    unused(root, report);
    keys(root, "", report);
}

/// Private keys that everybody on the machine can read: the `key` beside a `cert`, wherever it stands. They work, so that this is
/// a warning.
fn keys(node: &Node, path: &str, report: &mut Report<'_>) {
    if let (Some(_), Some(key)) = (node.get("cert").and_then(Node::text), node.get("key")) {
        let file = Path::new(key.text().unwrap_or_default());
        if let Some(open) = std::fs::metadata(file).ok().and_then(|meta| interpolate::open(file, &meta)) {
            report.warning(field(path, "key"), key.at, interpolate::redact(&open, &key.filled()));
        }
    }
    for below in node.fields() {
        keys(&below.node, &field(path, &below.name), report);
    }
    for (i, item) in node.items().iter().enumerate() {
        keys(item, &format!("{path}[{i}]"), report);
    }
}

fn section<'n>(root: &'n Node, name: &str) -> &'n [super::tree::Field] {
    root.get(name).map_or(&[], Node::fields)
}

fn texts<'n>(node: &'n Node, list: &str) -> impl Iterator<Item = &'n str> {
    node.get(list).map_or(&[][..], Node::items).iter().filter_map(Node::text)
}

fn processes(pipeline: &Node) -> impl Iterator<Item = &Node> {
    pipeline.get("processes").map_or(&[][..], Node::items).iter()
}

/// The topic of the gateway that a process gives copies to; beside `publish`, `topic` is a broker's.
pub(super) fn copied_topic(process: &Node) -> Option<&Node> {
    process.get("to").filter(|to| to.get("publish").is_none())?.get("topic")
}

/// The sink that a process gives copies to.
pub(super) fn copied_sink(process: &Node) -> Option<&Node> {
    process.get("to")?.get("sink")
}

/// The topics that a pipeline writes besides its own: those of `on_fail` and of its processes' `to`.
fn writes(pipeline: &Node) -> impl Iterator<Item = &Node> {
    let all = std::iter::once(pipeline).chain(processes(pipeline));
    let failed = all.filter_map(|node| node.get("on_fail")?.get("topic"));
    failed.chain(processes(pipeline).filter_map(copied_topic))
}

/// What can be referred to; `None` where the section itself is broken, so that nothing follows from it.
struct Names<'n> {
    topics: Option<Vec<&'n str>>,
    sinks: Option<Vec<&'n str>>,
    /// Topics that processes write whose name came from outside: they exist, but are not told.
    untold: Vec<&'n str>,
}

impl<'n> Names<'n> {
    fn of(root: &'n Node) -> Self {
        let keys = |name: &str| match root.get(name).map(|n| &n.content) {
            None | Some(Content::Object(_)) => Some(section(root, name).iter().map(|f| f.name.as_str())),
            Some(_) => None,
        };
        let written = section(root, "pipelines").iter().flat_map(|p| writes(&p.node));
        let (open, untold): (Vec<&Node>, Vec<&Node>) = written.partition(|n| n.filled().is_empty());
        let open = open.into_iter().filter_map(Node::text);
        let topics = || Some(keys("sources")?.chain(keys("pipelines")?).chain(keys("topics")?).chain(open).collect());
        let untold = untold.into_iter().filter_map(Node::text).chain([OWN]).collect();
        Names { topics: topics(), sinks: keys("sinks").map(Iterator::collect), untold }
    }
}

/// The topic of what the gateway says of itself.
const OWN: &str = "gateway";

fn taken_twice(root: &Node, report: &mut Report<'_>) {
    for of in ["sources", "pipelines"] {
        if let Some(field_of) = section(root, of).iter().find(|f| f.name == OWN) {
            let message = "the topic `gateway` is the gateway's own: take another name";
            report.error(field(of, OWN), field_of.at, message);
        }
    }
    let sources: HashSet<&str> = section(root, "sources").iter().map(|f| f.name.as_str()).collect();
    for pipeline in section(root, "pipelines").iter().filter(|p| sources.contains(p.name.as_str())) {
        let message = "a source has this name too; both name the topic that they write";
        report.error(field("pipelines", &pipeline.name), pipeline.at, message);
    }
}

fn references(root: &Node, names: &Names<'_>, report: &mut Report<'_>) {
    let lists = [
        ("pipelines", "from", "source or pipeline", &names.topics, &names.untold[..]),
        ("pipelines", "to", "sink", &names.sinks, &[]),
        ("sinks", "from", "source or pipeline", &names.topics, &names.untold),
    ];
    for (of, list, what, known, untold) in lists {
        let Some(known) = known else { continue };
        let defined: HashSet<&str> = known.iter().chain(untold).copied().collect();
        for consumer in section(root, of) {
            let mut seen = HashSet::new();
            for (i, item) in consumer.node.get(list).map_or(&[][..], Node::items).iter().enumerate() {
                let Some(name) = item.text().filter(|_| !report.full()) else { continue };
                let path = format!("{}.{list}[{i}]", field(of, &consumer.name));
                if !defined.contains(name) {
                    report.error(path, item.at, unknown_name(what, &item.shown(), known));
                } else if !seen.insert(name) {
                    report.error(path, item.at, format!("{} stands here twice", item.shown()));
                }
            }
        }
    }
}

/// The sinks that processes name.
fn copies(root: &Node, names: &Names<'_>, report: &mut Report<'_>) {
    let Some(known) = &names.sinks else { return };
    for pipeline in section(root, "pipelines") {
        for (i, node) in processes(&pipeline.node).enumerate() {
            let Some(sink) = copied_sink(node) else { continue };
            if sink.text().is_some_and(|name| !known.contains(&name)) {
                let path = format!("{}.processes[{i}].to.sink", field("pipelines", &pipeline.name));
                report.error(path, sink.at, unknown_name("sink", &sink.shown(), known));
            }
        }
    }
}

/// The sink that late events of a sink go to.
fn late_to(sink: &Node) -> Option<&Node> {
    sink.get("late")?.get("to")
}

/// The sinks that late events go to: they pass nothing on, so that no event goes in circles.
fn late(root: &Node, names: &Names<'_>, report: &mut Report<'_>) {
    let Some(known) = &names.sinks else { return };
    for sink in section(root, "sinks") {
        let Some((to, name)) = late_to(&sink.node).and_then(|to| Some((to, to.text()?))) else { continue };
        let path = format!("{}.late.to", field("sinks", &sink.name));
        let other = section(root, "sinks").iter().find(|other| other.name == name);
        if name == sink.name {
            report.error(path, to.at, "is the sink itself");
        } else if !known.contains(&name) {
            report.error(path, to.at, unknown_name("sink", &to.shown(), known));
        } else if other.is_some_and(|other| late_to(&other.node).is_some()) {
            report.error(path, to.at, format!("the sink {} passes late events on itself", to.shown()));
        }
    }
}

/// A pipeline that reads, over whatever detour, what it writes would never come to an end.
fn cycles(root: &Node, report: &mut Report<'_>) {
    let pipelines = section(root, "pipelines");
    let mut writers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, p) in pipelines.iter().enumerate() {
        for topic in std::iter::once(p.name.as_str()).chain(writes(&p.node).filter_map(Node::text)) {
            writers.entry(topic).or_default().push(i);
        }
    }
    // Whose output each pipeline reads, and the other way round.
    let mut reads: Vec<Vec<usize>> = Vec::new();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); pipelines.len()];
    for (i, p) in pipelines.iter().enumerate() {
        let from: HashSet<usize> = texts(&p.node, "from").filter_map(|t| writers.get(t)).flatten().copied().collect();
        from.iter().for_each(|f| readers[*f].push(i));
        reads.push(from.into_iter().collect());
    }
    // Takes away, again and again, what reads no pipeline that is left; what remains leads into a circle.
    let mut open: Vec<usize> = reads.iter().map(Vec::len).collect();
    let mut done: Vec<usize> = (0..open.len()).filter(|i| open[*i] == 0).collect();
    let mut left: HashSet<usize> = (0..open.len()).collect();
    while let Some(i) = done.pop() {
        left.remove(&i);
        for reader in &readers[i] {
            open[*reader] -= 1;
            if open[*reader] == 0 {
                done.push(*reader);
            }
        }
    }
    for start in 0..pipelines.len() {
        let mut walk = Vec::new();
        let mut next = left.contains(&start).then_some(start);
        while let Some(at) = next {
            left.remove(&at);
            walk.push(at);
            if let Some(begin) = reads[at].iter().find_map(|r| walk.iter().position(|w| w == r)) {
                circle(pipelines, &walk[begin..], report);
            }
            next = reads[at].iter().copied().filter(|r| left.contains(r)).min();
        }
    }
}

fn circle(pipelines: &[super::tree::Field], walk: &[usize], report: &mut Report<'_>) {
    // Told in the direction of flow, from the pipeline that stands first in the file.
    let first = (0..walk.len()).min_by_key(|i| walk[*i]).unwrap_or(0);
    let flow = (0..=walk.len()).map(|i| walk[(first + walk.len() - i % walk.len()) % walk.len()]);
    let names: Vec<&str> = flow.take(9).map(|i| pipelines[i].name.as_str()).collect();
    let pipeline = &pipelines[walk[first]];
    let at = pipeline.node.get("from").map_or(pipeline.at, |n| n.at);
    report.error(field("pipelines", &pipeline.name), at, format!("reads its own output: {}", names.join(" → ")));
}

fn unused(root: &Node, report: &mut Report<'_>) {
    let (pipelines, sinks) = (section(root, "pipelines"), section(root, "sinks"));
    let read: HashSet<&str> = pipelines.iter().chain(sinks).flat_map(|f| texts(&f.node, "from")).collect();
    let copied = pipelines.iter().flat_map(|f| processes(&f.node)).filter_map(copied_sink).filter_map(Node::text);
    let late = sinks.iter().filter_map(|f| late_to(&f.node)?.text());
    let written: HashSet<&str> =
        pipelines.iter().flat_map(|f| texts(&f.node, "to")).chain(copied).chain(late).collect();
    for source in section(root, "sources").iter().filter(|s| !read.contains(s.name.as_str())) {
        let message = "no pipeline or sink has this source in its `from`; its events go nowhere";
        report.warning(field("sources", &source.name), source.at, message);
    }
    for pipeline in pipelines.iter().filter(|p| !read.contains(p.name.as_str())) {
        let elsewhere = processes(&pipeline.node).any(|p| p.get("to").is_some());
        if texts(&pipeline.node, "to").next().is_none() && !elsewhere {
            let message = "it has no `to`, and nothing has this pipeline in its `from`; its output goes nowhere";
            report.warning(field("pipelines", &pipeline.name), pipeline.at, message);
        }
    }
    for pipeline in pipelines {
        let named = writes(&pipeline.node).filter(|topic| topic.filled().is_empty());
        for (topic, name) in named.filter_map(|topic| Some((topic, topic.text()?))) {
            let known = |of: &str| section(root, of).iter().any(|f| f.name == name);
            if !read.contains(name) && !["sources", "pipelines", "topics"].into_iter().any(known) {
                let message = format!(
                    "events go to the topic `{}`, and nothing has it in its `from`; put it into `topics` if they are to wait there",
                    shown(name)
                );
                report.warning(field("pipelines", &pipeline.name), topic.at, message);
            }
        }
    }
    for sink in sinks.iter().filter(|s| !written.contains(s.name.as_str())) {
        if texts(&sink.node, "from").next().is_none() {
            let message = "it has no `from`, and no pipeline has this sink in its `to`; nothing is delivered";
            report.warning(field("sinks", &sink.name), sink.at, message);
        }
    }
}
