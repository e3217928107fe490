//! A broker inside the gateway.

use super::{PubSub, Subscription, check_publish, check_subscribe};
use crate::fault::Fault;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::Notify;

/// Carries messages between the parts of this gateway; nothing is kept for who does not listen.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// What waits for one listener. More would only hide that it is too slow.
const MESSAGES: usize = 1024;
/// Four of the largest.
const BYTES: usize = 4 << 20;

#[derive(Default)]
pub struct MemoryBroker {
    topics: Mutex<HashMap<String, Vec<Weak<Listener>>>>,
}

#[derive(Default)]
struct Listener {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    /// Shared by all listeners of a topic.
    messages: VecDeque<Arc<[u8]>>,
    bytes: usize,
    /// Whether one did not fit; none after it is taken.
    lost: bool,
}

impl MemoryBroker {
    pub fn new(Config {}: Config) -> Self {
        MemoryBroker::default()
    }
}

impl Listener {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, message: &Arc<[u8]>) {
        let mut queue = self.queue();
        if queue.messages.len() >= MESSAGES || queue.bytes + message.len() > BYTES {
            queue.lost = true;
        }
        if !queue.lost {
            queue.bytes += message.len();
            queue.messages.push_back(message.clone());
        }
        self.arrived.notify_one();
    }
}

#[async_trait]
impl PubSub for MemoryBroker {
    fn memory(&self) -> usize {
        BYTES
    }

    async fn publish(&self, topic: &str, message: &[u8]) -> Result<(), Fault> {
        check_publish(topic, message)?;
        // Locked throughout, so that all listeners get the same order.
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(listeners) = topics.get_mut(topic) else { return Ok(()) };
        let message = Arc::from(message);
        listeners.retain(|listener| listener.upgrade().inspect(|listener| listener.take(&message)).is_some());
        if listeners.is_empty() {
            topics.remove(topic);
        }
        Ok(())
    }

    async fn subscribe(&self, topic: &str) -> Result<Box<dyn Subscription>, Fault> {
        check_subscribe(topic)?;
        let listener = Arc::new(Listener::default());
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = topics.entry(topic.to_owned()).or_default();
        // Here too, for a topic that nobody publishes to.
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(&listener));
        Ok(Box::new(Subscribed(listener)))
    }
}

struct Subscribed(Arc<Listener>);

#[async_trait]
impl Subscription for Subscribed {
    async fn next(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            let arrived = self.0.arrived.notified();
            {
                let mut queue = self.0.queue();
                if let Some(message) = queue.messages.pop_front() {
                    queue.bytes -= message.len();
                    return Ok(message.to_vec());
                }
                if queue.lost {
                    return Err(Fault::retry("this listener is too slow, messages were lost"));
                }
            }
            arrived.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_too_slow_hears_of_it_and_others_do_not() {
        for (size, fit) in [(1, MESSAGES), (BYTES / 4, 4)] {
            let broker = MemoryBroker::default();
            let mut slow = broker.subscribe("a").await.unwrap();
            let mut fast = broker.subscribe("a").await.unwrap();
            for n in 0..fit + 10 {
                broker.publish("a", &vec![n as u8; size]).await.unwrap();
                assert_eq!(fast.next().await.unwrap()[0], n as u8);
            }
            for n in 0..fit {
                assert_eq!(slow.next().await.unwrap()[0], n as u8);
            }
            assert!(matches!(slow.next().await, Err(Fault::Retry(_))));
            broker.publish("a", b"x").await.unwrap();
            assert!(slow.next().await.is_err(), "it has ended");
            drop((slow, fast));
            broker.publish("a", b"x").await.unwrap();
            assert!(broker.topics.lock().unwrap().is_empty());
        }
    }
}
