//! A pipeline's processes, one after another, over one event.

use crate::{
    config::{OnFail, Then},
    event::Event,
    fault::Fault,
    kind::{Cx, Memory, Process},
};
use std::sync::Arc;

/// The processes of one pipeline. Synchronous: it is given the time and touches nothing outside.
pub(super) struct Chain {
    /// The pipeline's name, which is the topic of its output.
    pub topic: Arc<str>,
    pub processes: Vec<(String, Box<dyn Process>)>,
    pub retries: u32,
    pub then: Then,
}

/// What an event turned into.
#[derive(Default)]
pub(super) struct Effect {
    /// Events for the pipeline's own topic.
    pub out: Vec<Event>,
    /// Events for other topics.
    pub sent: Vec<(Arc<str>, Event)>,
}

/// Which process gave up an event, and why.
pub(super) struct Failure {
    pub process: String,
    pub fault: Fault,
}

impl Chain {
    pub fn new(name: &str, processes: Vec<(String, Box<dyn Process>)>, on_fail: &OnFail) -> Self {
        Chain { topic: name.into(), processes, retries: on_fail.retry, then: on_fail.then.clone() }
    }

    /// Runs one event through and adds what comes of it to `effect`; a failure adds nothing.
    pub fn run(&self, event: Event, now: i64, effect: &mut Effect) -> Result<(), Failure> {
        let before = effect.sent.len();
        let mut memory = Memory::default();
        let mut stage = vec![event];
        for (at, (label, process)) in self.processes.iter().enumerate() {
            let mut next = Vec::with_capacity(stage.len());
            for event in stage {
                let mut cx = Cx { now, out: &mut next, sent: &mut effect.sent, memory: &mut memory, at };
                if let Err(fault) = process.process(event, &mut cx) {
                    effect.sent.truncate(before);
                    return Err(Failure { process: label.clone(), fault });
                }
            }
            stage = next;
        }
        effect.out.append(&mut stage);
        Ok(())
    }
}
