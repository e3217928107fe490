//! Processes, and what they are given.

use super::memory::{Memory, Timer};
use crate::{event::Event, fault::Fault};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// One step of a pipeline's chain. `when`, `retry` and `on_fail` are the runtime's.
///
/// It takes `&self`: what it must remember goes through [`Cx`], so that an event can run again after a crash, and what a
/// rejected event changed can be taken back.
pub trait Process: Send + Sync {
    /// Does its work with an event. What goes on is emitted; an event for which nothing is emitted ends here. Without a
    /// part outside, a fault is a rejection, or a `RetryAfter` that says when this event can go on.
    fn process(&self, event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.emit(event);
        Ok(())
    }

    /// A timer that it set has come. It is gone from the state; what is emitted goes on like events.
    fn timer(&self, _timer: Timer, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// All sources were bounded and have ended, and every event has passed: emits what it still holds.
    fn finish(&self, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Whether it remembers anything. If such a process stands before one that reaches outside, events go one by one.
    fn keeps_state(&self) -> bool {
        false
    }

    /// Whether it may answer `RetryAfter`, and so hold up what comes.
    fn delays(&self) -> bool {
        false
    }

    /// Bytes that it may hold beside the events it is given and what the pipeline's `state` counts.
    fn memory(&self) -> usize {
        0
    }

    /// What it does outside of the gateway, before `process`.
    fn outside(&self) -> Option<&dyn Outside> {
        None
    }

    /// Whether an event for which `when` does not hold ends here, instead of going on unchanged.
    fn stops(&self) -> bool {
        false
    }
}

/// The part of a process that reaches outside of the gateway: it may take time, runs for several events at once, and
/// is repeated for an event that was in flight at a crash.
#[async_trait]
pub trait Outside: Send + Sync {
    /// One attempt; it bounds its own time. The event is as it was if it fails. The runtime may drop the future.
    async fn reach(&self, event: &mut Event) -> Result<(), Fault>;
}

/// What a process may do besides looking at its event.
pub struct Cx<'a> {
    /// Now, in milliseconds since 1970: processes read no clock.
    pub now: i64,
    pub(crate) out: &'a mut Vec<Event>,
    pub(crate) sent: &'a mut Vec<(Arc<str>, Event)>,
    pub(crate) memory: &'a mut Memory,
    /// Which process of the memory this is.
    pub(crate) at: usize,
}

impl Cx<'_> {
    /// Gives an event to the next process, or, after the last one, to the pipeline's topic. Not emitting stops it here.
    pub fn emit(&mut self, event: Event) {
        self.out.push(event);
    }

    /// Puts an event into another topic.
    pub fn send(&mut self, topic: &Arc<str>, event: Event) {
        self.sent.push((topic.clone(), event));
    }

    /// What this process remembers under a key.
    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.memory.get(self.at, key)
    }

    /// Remembers a value. It is a rejection if the pipeline's state would take more than it may.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) -> Result<(), Fault> {
        self.memory.try_put(self.at, key, Some(value.into()))
    }

    /// Forgets a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.memory.try_put(self.at, key, None).ok(); // to delete never takes more
    }

    /// All that this process remembers, in order of the keys.
    pub fn list(&self) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.memory.list(self.at)
    }

    /// What all processes of this one's kind in the pipeline remember, each with the name of the process, in the order of
    /// the pipeline.
    pub fn siblings(&self) -> impl Iterator<Item = (&str, &[u8], &Bytes)> {
        self.memory.siblings(self.at)
    }

    /// Wants to be called at a time, in milliseconds since 1970; one timer a key.
    pub fn set_timer(&mut self, key: &[u8], due: i64) {
        self.memory.set_timer(self.at, key, Some(due));
    }

    /// When the timer of a key is due.
    pub fn timer(&self, key: &[u8]) -> Option<i64> {
        self.memory.timer(self.at, key)
    }

    /// Does not want to be called any more.
    pub fn cancel_timer(&mut self, key: &[u8]) {
        if self.timer(key).is_some() {
            self.memory.set_timer(self.at, key, None);
        }
    }
}
