//! What chains have around them: the time, what works and what does not, and, in tests, who stands in for what is outside.

use super::{links::Links, pipeline::LOT, time::Time};
use crate::{
    event::{Event, Path},
    fault::Fault,
    store::Store,
    trace::Trace,
};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, sync::Arc};

/// What chains have around them.
#[derive(Clone)]
pub(super) struct Around {
    pub time: Time,
    pub links: Links,
    pub trace: Trace,
    /// Bytes of events that a step works on.
    pub lot: usize,
    /// For tests: what is outside.
    pub stand_in: Option<Arc<StandIn>>,
}

impl Around {
    /// With a store.
    pub fn new(store: &Store, links: &Links, lot: usize) -> Around {
        let (links, trace) = (links.clone(), store.trace().clone());
        Around { links, trace, lot, ..Around::alone(Time::Steady, None) }
    }

    /// Without a store.
    pub fn alone(time: Time, stand_in: Option<Arc<StandIn>>) -> Around {
        Around { time, links: Links::default(), trace: Trace::default(), lot: LOT, stand_in }
    }
}

/// Takes the place of what is outside, for tests.
#[derive(Default)]
pub struct StandIn {
    /// What it sets in an event, by the name of the process.
    pub answers: BTreeMap<String, Map<String, Value>>,
    /// Names of processes that really reach outside.
    pub run: Vec<String>,
}

impl StandIn {
    /// Does what it does for a process; false if it leaves that to the process.
    pub(super) fn answer(&self, process: &str, event: &mut Event) -> Result<bool, Fault> {
        for (name, value) in self.answers.get(process).into_iter().flatten() {
            let place = Path::of([name.as_str()]).map_err(Fault::reject)?;
            event.body.set(&place, value.to_string().as_bytes()).map_err(Fault::reject)?;
        }
        Ok(!self.run.iter().any(|name| name == process))
    }
}
