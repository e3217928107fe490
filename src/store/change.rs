//! What can change while the store runs: its options, and who reads.

use super::{Keep, Options, Refusal, Start, Store, may_wait, schema, trim, writer::Writer};
use std::sync::Arc;

impl Store {
    /// Takes over, without a pause, all that options say but where the store lies.
    pub async fn change(&self, options: Options) -> Result<(), Refusal> {
        for (pool, to) in self.pools.each().into_iter().zip(options.pools.each()) {
            pool.resize(to.limit());
        }
        self.waiting.resize(may_wait(&options));
        self.work(move |writer| writer.change(options)).await
    }

    /// As `consumer`, but what it has not passed of topics that it does not read any more is kept until `consumer` says so for
    /// good.
    pub async fn join(&self, name: &str, topics: &[Arc<str>], start: Start) -> Result<u32, Refusal> {
        self.register(name, topics, start, false).await
    }

    /// A consumer does not come any more in this run; what it has not passed is kept for it.
    pub async fn leave(&self, name: &str) -> Result<(), Refusal> {
        let name = name.to_owned();
        self.work(move |writer| {
            writer.leave(&name);
            Ok(())
        })
        .await
    }

    /// Whether a consumer has ever registered and was not forgotten.
    pub fn knows(&self, consumer: &str) -> bool {
        self.shared.view().index.consumer(consumer).is_some()
    }
}

impl Writer {
    /// Takes over all that options say, but where the store lies.
    pub(super) fn change(&mut self, options: Options) -> Result<(), Refusal> {
        let counts = |options: &Options, topic: &str| matches!(options.keep.get(topic), Some(Keep { bytes: Some(_), .. }));
        let fresh = |topic: &str| counts(&options, topic) && !counts(&self.options, topic);
        for (id, lane) in self.index.lanes.iter_mut().filter(|(_, lane)| fresh(&lane.topic)) {
            lane.bytes = trim::bytes(&self.db, *id).map_err(|error| Refusal::Failed(error.to_string()))?;
        }
        self.seen.set_window(options.window);
        self.space.set(&options, self.disk.ballast.room());
        self.shared.set_ttl(&options);
        self.shared.view().set_most(options.tails);
        let (path, visit, pools) = (self.options.path.clone(), self.options.visit, self.options.pools.clone());
        self.options = Options { path, visit, pools, ..options };
        let used = schema::used(&self.db).ok();
        self.measure(used);
        Ok(())
    }
}
