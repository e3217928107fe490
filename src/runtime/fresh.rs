//! What of a configuration does not run yet.

use super::{
    Plan, Sum,
    around::Around,
    chain::{CHECKPOINT, Chain},
    fields, names,
    offload::Offload,
    parts::{OFFLOAD, Parts},
};
use crate::{
    budget::Size,
    config::{SinkPlan, SourcePlan, Start},
    kind::{Fields, Sink, Source, side_topic},
    systems::Mark,
};
use std::sync::Arc;

/// What tells whether a part is as it was: its own configuration, and what else it is given.
pub(super) type Make = (Mark, String);

/// A consumer as it registers.
#[derive(Clone)]
pub(super) struct Seat {
    pub name: String,
    pub topics: Vec<Arc<str>>,
    pub start: Start,
}

/// The names of all consumers of a configuration.
pub(super) fn consumers(plan: &Plan) -> Vec<String> {
    let parts = plan.pipelines.iter().flat_map(|pipeline| {
        let points = pipeline.processes.iter().filter(|process| process.kind == CHECKPOINT);
        let behind = points.map(|point| format!("pipelines.{}", side_topic(&pipeline.name, &point.name)));
        std::iter::once(format!("pipelines.{}", pipeline.name)).chain(behind)
    });
    parts.chain(plan.sinks.iter().map(|sink| format!("sinks.{}", sink.name))).collect()
}

/// What of a configuration does not run yet.
#[derive(Default)]
pub(super) struct Fresh {
    pub sources: Vec<(Make, SourcePlan<dyn Source>, Fields)>,
    pub pipelines: Vec<(String, Make, Vec<Chain>)>,
    pub sinks: Vec<(Make, SinkPlan<dyn Sink>)>,
    pub offload: Option<(Make, Offload)>,
}

impl Fresh {
    /// Everything in a configuration that is not as it runs, and the names of what is.
    pub fn of(plan: Plan, sum: &Sum, parts: &Parts) -> anyhow::Result<(Fresh, Vec<String>)> {
        let (mut fresh, mut kept) = (Fresh::default(), Vec::new());
        let mut runs = |name: &str, make: &Make| {
            let runs = parts.runs(name, make);
            kept.extend(runs.then(|| name.to_owned()));
            runs
        };
        if let Some(to) = plan.settings.store.disk.offload.as_ref().filter(|_| !parts.stateless()) {
            let (mark, objects) = (plan.systems.mark(&to.to), plan.systems.objects(&to.to));
            let make = (mark, format!("{} {}", to.to, to.prefix));
            let objects = objects.map_err(|e| anyhow::anyhow!("{OFFLOAD}.to: {e}"))?;
            if !runs(OFFLOAD, &make) {
                let (store, links) = (parts.store.clone(), parts.links.clone());
                fresh.offload = Some((make, Offload::new(store, objects, links, &to.prefix, &parts.gateway)));
            }
        }
        for source in plan.sources {
            let make = (source.mark, String::new());
            if !runs(&format!("sources.{}", source.name), &make) {
                let fields = fields(&source)?;
                fresh.sources.push((make, source, fields));
            }
        }
        let around = Around::new(&parts.store, &parts.links, sum.lot);
        for pipeline in plan.pipelines {
            let name = format!("pipelines.{}", pipeline.name);
            let make = (pipeline.mark, format!("{} {:?}", sum.lot, pipeline.settings.state));
            if !runs(&name, &make) {
                fresh.pipelines.push((name, make, Chain::parts(pipeline, &around)));
            }
        }
        for sink in plan.sinks {
            let make = (sink.mark, format!("{:?}", sink.common.batch.bytes.map(Size::bytes)));
            if !runs(&format!("sinks.{}", sink.name), &make) {
                fresh.sinks.push((make, sink));
            }
        }
        Ok((fresh, kept))
    }

    pub fn names(&self) -> Vec<String> {
        let sources = self.sources.iter().map(|(_, source, _)| format!("sources.{}", source.name));
        let sinks = self.sinks.iter().map(|(_, sink)| format!("sinks.{}", sink.name));
        let pipelines = self.pipelines.iter().map(|(name, ..)| name.clone());
        sources.chain(pipelines).chain(sinks).chain(self.offload.iter().map(|_| OFFLOAD.to_owned())).collect()
    }

    pub fn seats(&self) -> Vec<Seat> {
        let chains = self.pipelines.iter().flat_map(|(.., chains)| chains);
        chains.map(Seat::of_chain).chain(self.sinks.iter().map(|(_, sink)| Seat::of_sink(sink))).collect()
    }
}

impl Seat {
    pub fn of_chain(chain: &Chain) -> Seat {
        Seat { name: chain.name.clone(), topics: names(&chain.from), start: chain.start }
    }

    pub fn of_sink(sink: &SinkPlan<dyn Sink>) -> Seat {
        Seat { name: format!("sinks.{}", sink.name), topics: names(&sink.from), start: sink.common.start }
    }
}
