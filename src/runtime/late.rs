//! What happens to events that have waited long: they are marked, or go to another sink.

use super::sink::Gathered;
use crate::{
    clock::Stamp,
    config::{Late, late_topic},
    event::{Batch, Event, Path},
    store::Append,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(super) struct Lateness {
    after: Duration,
    /// The field that is set.
    mark: Option<Path>,
    /// The topic that the other sink reads.
    topic: Arc<str>,
}

impl Lateness {
    pub fn new(sink: &str, late: &Late) -> anyhow::Result<Self> {
        let mark = late.mark.as_deref().map(str::parse).transpose();
        let mark = mark.map_err(|e| anyhow::anyhow!("sinks.{sink}.late.mark: {e}"))?;
        Ok(Lateness { after: late.after.0, mark, topic: late_topic(sink).into() })
    }

    /// Marks late events, or takes them out: then they count as delivered that ended here, and are for the other's topic.
    /// `age` says how long ago the gateway took an event in.
    pub fn treat(&self, gathered: &mut Gathered, age: impl Fn(&Stamp) -> Duration) -> Vec<Append> {
        let late = |event: &Event| age(&event.stamp) > self.after;
        let Some(mark) = &self.mark else { return self.take(gathered, late) };
        for event in gathered.events.iter_mut().filter(|event| late(event)) {
            event.body.set(mark, b"true").ok(); // below what is no object there is no place for it
        }
        Vec::new()
    }

    fn take(&self, gathered: &mut Gathered, late: impl Fn(&Event) -> bool) -> Vec<Append> {
        let mut batches: BTreeMap<u8, Batch> = BTreeMap::new();
        let Gathered { events, moves, bytes, .. } = gathered;
        events.retain(|event| {
            let late = late(event);
            if late {
                batches.entry(event.priority).or_default().push_event(event);
                *bytes -= event.body.size() + event.meta.len();
                if let Some(moved) = moves.get_mut(&event.lane) {
                    moved.stopped += 1;
                }
            }
            !late
        });
        let append = |(priority, batch)| Append { topic: self.topic.clone(), priority, batch };
        batches.into_iter().map(append).collect()
    }
}
