//! Brokers: topics of others, with whoever listens now.

use crate::fault::Fault;
use async_trait::async_trait;

/// A broker. Topics are text of 1 to 512 bytes without wildcards, messages at most 1 MiB; more is a `Reject`. A broker that
/// cannot be reached is a `Retry`.
#[async_trait]
pub trait PubSub: Send + Sync {
    /// Publishes a message; `Ok` means that the broker has it. Bounds its own time.
    async fn publish(&self, topic: &str, message: &[u8]) -> Result<(), Fault>;

    /// Listens to a topic from now on.
    async fn subscribe(&self, topic: &str) -> Result<Box<dyn Subscription>, Fault>;
}

/// Messages of one topic, in order. Dropping it ends it.
#[async_trait]
pub trait Subscription: Send {
    /// The next message; waits for it. A fault is the end of the subscription: connection lost, or messages lost since
    /// this listener was too slow.
    async fn next(&mut self) -> Result<Vec<u8>, Fault>;
}
