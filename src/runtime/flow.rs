//! Events straight through: pipelines and sinks without a store, for `run --stateless` and `process`.

use super::chain::{Chain, Effect};
use crate::{
    clock,
    config::Then,
    event::{
        Batch, Event,
        batch::{Place, Records},
    },
    fault::Fault,
    kind::{Before, Sink},
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Mutex, watch},
    time,
};

/// A pipeline with what it reads.
pub(super) struct Stage {
    pub from: Vec<String>,
    pub chain: Chain,
}

/// A sink with what it reads; one delivery at a time.
pub(super) struct Drain {
    pub name: String,
    pub from: Vec<String>,
    pub sink: Mutex<Box<dyn Sink>>,
}

/// All pipelines and sinks of a configuration.
pub struct Flow {
    pub(super) stages: Vec<Stage>,
    pub(super) drains: Vec<Drain>,
    pub(super) store: u64,
    pub(super) seq: AtomicU64,
}

impl Flow {
    /// Runs an event through every pipeline that reads its topic, and on through those that read theirs. What reaches
    /// a topic is given to `reached`. The error names the pipeline and the process.
    pub fn run(&self, event: Event, now: i64, mut reached: impl FnMut(&Event)) -> Result<(), String> {
        let mut waiting = VecDeque::from([event]);
        while let Some(event) = waiting.pop_front() {
            reached(&event);
            for stage in self.stages.iter().filter(|s| s.from.iter().any(|t| **t == *event.topic)) {
                let mut effect = Effect::default();
                if let Err(failure) = stage.chain.run(event.clone(), now, &mut effect) {
                    let reason = format!("pipelines.{}: {}: {}", stage.chain.topic, failure.process, failure.fault);
                    match &stage.chain.then {
                        Then::Dead => return Err(reason),
                        Then::Drop => {}
                        Then::Topic(topic) => effect.sent.push((topic.as_str().into(), event.clone())),
                    }
                }
                let own = effect.out.into_iter().map(|e| (stage.chain.topic.clone(), e));
                waiting.extend(own.chain(effect.sent).map(|(topic, event)| Event { topic, ..event }));
            }
        }
        Ok(())
    }

    /// The events of a batch that no store has numbered.
    pub fn events(&self, topic: &Arc<str>, priority: u8, batch: &Batch) -> Vec<Event> {
        let data = Bytes::copy_from_slice(&batch.data);
        let place = Place { store: self.store, lane: 0, topic: topic.clone(), priority };
        let first = self.seq.fetch_add(u64::from(batch.count), Ordering::Relaxed);
        let mut records = Records::new(&data, &place, first);
        let stamp = clock::stamp();
        std::iter::from_fn(|| records.next()).map(|event| Event { stamp, ..event }).collect()
    }
}

/// A sink whose connection needs care gets a moment now and then, as long as nobody delivers.
const CARE: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(50);

impl Flow {
    /// Keeps connections alive until the stop, then says goodbye.
    pub(super) async fn keep_alive(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while time::timeout(CARE, stop.wait_for(|stop| *stop)).await.is_err() {
            for drain in &self.drains {
                if let Ok(mut sink) = drain.sink.try_lock() {
                    time::timeout(MOMENT, sink.idle()).await.ok();
                }
            }
        }
        for drain in &self.drains {
            drain.sink.lock().await.close().await;
        }
    }
}

#[async_trait]
impl Before for Flow {
    async fn pass(&self, topic: &Arc<str>, priority: u8, batch: &Batch) -> Result<(), String> {
        let now = clock::wall_ms();
        let mut by_topic: HashMap<Arc<str>, Vec<Event>> = HashMap::new();
        for event in self.events(topic, priority, batch) {
            self.run(event, now, |e| by_topic.entry(e.topic.clone()).or_default().push(e.clone()))?;
        }
        let mut by_sink: BTreeMap<usize, Vec<Event>> = BTreeMap::new();
        for (at, drain) in self.drains.iter().enumerate() {
            for topic in &drain.from {
                by_sink.entry(at).or_default().extend(by_topic.get(topic.as_str()).into_iter().flatten().cloned());
            }
        }
        for (at, events) in by_sink.into_iter().filter(|(_, events)| !events.is_empty()) {
            let drain = &self.drains[at];
            let mut sink = drain.sink.lock().await;
            let delivered = match sink.deliver(&events).await {
                // A connection that went stale while nobody delivered is made anew once.
                Err(Fault::Retry(_)) => sink.deliver(&events).await,
                done => done,
            };
            delivered.map_err(|fault| format!("{}: {fault}", drain.name))?;
        }
        Ok(())
    }
}
