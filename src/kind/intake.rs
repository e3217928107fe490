//! Sources and sinks, and where sources hand their events over.

use crate::{
    event::{Batch, Draft, Event, Path, Unfit, When, walk::Json},
    fault::Fault,
    store::{Append, Placed, Put, Refusal, Step, Store},
    tally,
};
use async_trait::async_trait;
use std::{
    future::pending,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Where events come from.
#[async_trait]
pub trait Source: Send {
    /// Connects, then hands over events until there are no more (bounded) or the connection is lost. The runtime calls
    /// it again after a `Retry`, with backoff, and drops the future to stop it. Tasks it starts end with the future.
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault>;

    /// What it takes of the memory.
    fn need(&self) -> Need {
        Need { fixed: 1 << 20, ..Need::default() }
    }

    /// Whether clients have consumers of it, each named `SOURCE/CLIENT`, which it registers while it runs.
    fn has_sessions(&self) -> bool {
        false
    }

    /// Whether it ends by itself. When all sources have ended and everything is delivered, the gateway ends too.
    fn bounded(&self) -> bool {
        false
    }
}

/// What a source takes of `gateway.memory`, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Need {
    /// What it may hold at any time. Without a word of its own: a batch of 128 KiB, what it is made of, and an event or two.
    pub fixed: usize,
    /// What it draws at once at most for events: more must be in the pool.
    pub largest: usize,
    /// What all its connections draw together.
    pub connections: usize,
    /// What it may keep for its clients.
    pub kept: usize,
}

/// Where events go.
#[async_trait]
pub trait Sink: Send {
    /// `Ok` means that every event of the batch is safe elsewhere. A sink never retries, splits or counts. The runtime
    /// may drop the future at its stop; the batch is then delivered again.
    async fn deliver(&mut self, batch: &[Event]) -> Result<(), Fault>;

    /// What the other side answered to the last delivery that worked, in a few words; empty where it says nothing.
    fn answer(&self) -> String {
        String::new()
    }

    /// Runs while there is nothing to deliver, for a connection that must be kept alive; dropped when there is. Ends
    /// only with a fault.
    async fn idle(&mut self) -> Fault {
        pending().await
    }

    /// Called once at the stop, after the last delivery: says goodbye upstream. Given a second or so.
    async fn close(&mut self) {}
}

/// What the configuration of a source says about every event of it.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Where in the body the producer's id, the time, the key and the seconds to live stand.
    pub id: Option<Path>,
    pub time: Option<Path>,
    pub key: Option<Path>,
    pub ttl: Option<Path>,
    pub priority: u8,
    /// Bytes that a body may have.
    pub max_event: usize,
}

/// What runs before a commit where nothing is durable: the pipelines and sinks of `run --stateless`.
#[async_trait]
pub trait Before: Send + Sync {
    /// Runs the batch through; the error names the process or sink that failed.
    async fn pass(&self, topic: &Arc<str>, priority: u8, batch: &Batch) -> Result<(), String>;
}

/// Takes a source's events into the store.
#[derive(Clone)]
pub struct Intake {
    topic: Arc<str>,
    fields: Arc<Fields>,
    store: Store,
    before: Option<Arc<dyn Before>>,
    counts: Arc<tally::Intake>,
}

impl Intake {
    /// The intake of one source; its events go to the topic of its name.
    pub fn new(topic: &str, fields: Fields, store: Store, before: Option<Arc<dyn Before>>) -> Self {
        let topic = topic.into();
        let counts = store.figures().intake(&topic);
        Intake { topic, fields: Arc::new(fields), store, before, counts }
    }

    /// Its counts, for who looks on.
    pub fn counts(&self) -> &tally::Intake {
        &self.counts
    }

    /// The source's name, which is its topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Bytes that a body may have.
    pub fn max_event(&self) -> usize {
        self.fields.max_event
    }

    /// Whether bodies may say what the event's id is.
    pub fn brings_ids(&self) -> bool {
        self.fields.id.is_some()
    }

    /// The store, for sources that remember things or read back what they took in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Adds an event to a batch, after checking it. Id, time and key come from the body where the configuration says
    /// where they stand, else from the draft.
    pub fn push(&self, batch: &mut Batch, draft: &Draft<'_>) -> Result<(), Unfit> {
        let added = self.add(batch, draft);
        self.counts.refused.fetch_add(u64::from(added.is_err()), Relaxed);
        added
    }

    fn add(&self, batch: &mut Batch, draft: &Draft<'_>) -> Result<(), Unfit> {
        let Fields { id, time, key, ttl, max_event, .. } = &*self.fields;
        if draft.body.len() > *max_event {
            return Err(Unfit::TooLong { part: "body", size: draft.body.len(), limit: *max_event });
        }
        if [id, time, key, ttl].into_iter().all(Option::is_none) {
            return batch.push(draft);
        }
        if crate::event::json::check(draft.body)? != crate::event::json::Kind::Object {
            return Err(Unfit::NotObject);
        }
        let body = Json::trusted(draft.body);
        let find = |path: &Option<Path>| path.as_ref().and_then(|p| body.find(p)).filter(|v| !v.is_null());
        let text = |value: Json<'_>| {
            value.as_str().map_or_else(|| String::from_utf8_lossy(value.raw()).into_owned(), |s| s.into_owned())
        };
        let (id, key) = (find(id).map(text), find(key).map(text));
        let time = find(time).map(text).and_then(|t| crate::clock::parse_time(&t));
        batch.push_checked(&Draft {
            id: id.as_deref().or(draft.id),
            key: key.as_deref().unwrap_or(draft.key),
            ttl: find(ttl).map(text).and_then(|text| seconds(&text)).or(draft.ttl),
            time: time.map(When::Told).or(draft.time),
            ..*draft
        })
    }

    /// Commits a batch: `Ok` means on disk (or, stateless, through the pipelines and sinks), and the source may
    /// acknowledge. Waits while too many bytes wait for the disk.
    pub async fn append(&self, batch: Batch) -> Result<Placed, Refusal> {
        self.append_with(batch, Vec::new()).await
    }

    /// As `append`, and remembers something in the same commit.
    pub async fn append_with(&self, batch: Batch, state: Vec<Put>) -> Result<Placed, Refusal> {
        let count = u64::from(batch.count);
        let placed = self.placed(batch, state).await;
        let counter = if placed.is_ok() { &self.counts.taken } else { &self.counts.refused };
        counter.fetch_add(count, Relaxed);
        placed
    }

    async fn placed(&self, batch: Batch, state: Vec<Put>) -> Result<Placed, Refusal> {
        let priority = self.fields.priority;
        if let Some(before) = &self.before {
            before.pass(&self.topic, priority, &batch).await.map_err(Refusal::Failed)?;
        }
        let append = Append { topic: self.topic.clone(), priority, batch };
        let placed = self.store.commit(Step { appends: vec![append], state, ..Step::default() }).await?;
        placed.into_iter().next().ok_or(Refusal::Closed)
    }
}

/// A number of seconds as a device sends it; what is none, or negative, says nothing.
fn seconds(text: &str) -> Option<u32> {
    text.parse::<f64>().ok().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u32)
}
