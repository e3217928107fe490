//! Brokers: topics of others, with whoever listens now.

pub mod memory;
pub mod mqtt;

use crate::{fault::Fault, systems::mqtt::check_topic};
use async_trait::async_trait;

/// Bytes of a topic.
pub const MAX_TOPIC: usize = 512;
/// Bytes of a message.
pub const MAX_MESSAGE: usize = 1 << 20;

/// A broker. Topics are text of 1 to 512 bytes without wildcards (`+`, `#`) and control characters, messages at most 1 MiB;
/// more is a `Reject`. A broker that cannot be reached is a `Retry`; a message may have arrived all the same.
#[async_trait]
pub trait PubSub: Send + Sync {
    /// Bytes that it may hold in memory.
    fn memory(&self) -> usize {
        0
    }

    /// Publishes a message; `Ok` means that the broker has it. Bounds its own time.
    async fn publish(&self, topic: &str, message: &[u8]) -> Result<(), Fault>;

    /// Listens to a topic from now on. Bounds its own time.
    async fn subscribe(&self, topic: &str) -> Result<Box<dyn Subscription>, Fault>;
}

/// Messages of one topic, in order. Dropping it ends it.
#[async_trait]
pub trait Subscription: Send {
    /// The next message; waits for it. Dropping the future loses nothing. A fault is the end of the subscription:
    /// connection lost, or messages lost since this listener was too slow.
    async fn next(&mut self) -> Result<Vec<u8>, Fault>;
}

/// Whether it can be a topic; the error continues a sentence that begins with it. For constructors.
pub fn check(topic: &str) -> Result<(), String> {
    if topic.len() > MAX_TOPIC {
        return Err(format!("has {} bytes, the limit is {MAX_TOPIC}", topic.len()));
    }
    check_topic(topic).map_err(str::to_owned)
}

fn check_subscribe(topic: &str) -> Result<(), Fault> {
    check(topic).map_err(|why| Fault::reject(format!("the topic {topic:.100?} {why}")))
}

fn check_publish(topic: &str, message: &[u8]) -> Result<(), Fault> {
    check_subscribe(topic)?;
    match message.len() {
        0..=MAX_MESSAGE => Ok(()),
        size => Err(Fault::reject(format!("the message has {size} bytes, the limit is {MAX_MESSAGE}"))),
    }
}
