//! What can change while the store runs: its options, and who reads.

use super::{Keep, Options, Refusal, Start, Store, schema, trim, writer::Writer};
use std::sync::Arc;

/// Bytes of steps that may wait for the writer.
pub(super) fn may_wait(options: &Options) -> usize {
    options.waiting.clamp(64 << 10, u32::MAX as usize)
}

impl Store {
    /// Takes over, without a pause, all that options say but where the store lies, and what is recorded.
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

    /// Forgets a consumer that is not to come again, with all that it and its processes remember.
    pub async fn forget_whole(&self, name: &str) -> Result<(), Refusal> {
        self.forget(name).await?;
        let own =
            |owner: &str, of: &str| owner == of || owner.strip_prefix(of).is_some_and(|rest| rest.starts_with('.'));
        let registered = self.registered();
        let mut owners: Vec<String> = self.owners(name).await?.into_iter().map(|(owner, _)| owner).collect();
        owners.retain(|owner| own(owner, name) && !registered.iter().any(|other| own(owner, other)));
        self.forget_state(owners).await
    }

    /// Names of the consumers that registered in this run.
    pub fn registered(&self) -> Vec<String> {
        self.shared.registered()
    }

    /// Whether a consumer has ever registered and was not forgotten.
    pub fn knows(&self, consumer: &str) -> bool {
        self.shared.view().index.consumer(consumer).is_some()
    }
}

impl Writer {
    /// Takes over all that options say, but where the store lies.
    pub(super) fn change(&mut self, options: Options) -> Result<(), Refusal> {
        let counts =
            |options: &Options, topic: &str| matches!(options.keep.get(topic), Some(Keep { bytes: Some(_), .. }));
        let fresh = |topic: &str| counts(&options, topic) && !counts(&self.options, topic);
        for (id, lane) in self.index.lanes.iter_mut().filter(|(_, lane)| fresh(&lane.topic)) {
            lane.bytes = trim::bytes(&self.db, *id).map_err(|error| Refusal::Failed(error.to_string()))?;
        }
        self.seen.set_window(options.window);
        self.space.set(&options, self.disk.ballast.room());
        self.shared.set_ttl(&options);
        self.shared.view().set_most(options.tails);
        let Options { path, visit, pools, trace, .. } = self.options.clone();
        self.options = Options { path, visit, pools, trace, ..options };
        let used = schema::used(&self.db).ok();
        self.measure(used);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Batch, Draft},
        store::{AHEAD, Append, Policy, Put, Refusal, Step},
    };
    use std::time::Duration;

    async fn push(store: &Store, topic: &str, bytes: usize) -> Result<(), Refusal> {
        let mut batch = Batch::default();
        // So that it does not pack.
        let noise: String = (0..bytes).map(|_| fastrand::alphanumeric()).collect();
        batch.push(&Draft { body: format!(r#"{{"x":"{noise}"}}"#).as_bytes(), ..Draft::default() }).unwrap();
        let appends = vec![Append { topic: topic.into(), priority: 4, batch }];
        store.commit(Step { appends, ..Step::default() }).await.map(drop)
    }

    #[tokio::test]
    async fn marks_ages_and_pools_change_under_who_reads() {
        let dir = tempfile::tempdir().unwrap();
        let first = Options { path: Some(dir.path().join("s.db")), high: 64 << 20, ..Options::default() };
        let store = Store::open(first.clone()).unwrap();
        let topics = [Arc::from("t")];
        let consumer = store.consumer("sinks.x", &topics, Start::Oldest).await.unwrap();
        let mut reader = store.reader(consumer, &topics);
        for _ in 0..8 {
            push(&store, "t", 100_000).await.unwrap();
        }
        // It takes them all into memory: any commit after 100 ms may remove what is too old.
        let lot = reader.next(1, 1 << 20).await.unwrap();
        assert!(!lot.events[0].is_expired());
        // A mark below what there is.
        let less = Options { high: 400_000, low: 300_000, when_full: Policy::Reject, ..first.clone() };
        store.change(less.clone()).await.unwrap();
        assert!(matches!(push(&store, "t", 10).await, Err(Refusal::Full)));
        // An age that all have by now.
        let less = Options { ttl: [("t".to_owned(), Duration::ZERO)].into(), waiting: 1 << 20, ..less };
        store.change(less).await.unwrap();
        let lot = reader.next(1, 1).await.unwrap();
        assert!(lot.events[0].is_expired(), "who reads already is told, too");
        assert_eq!(store.waiting.limit(), 1 << 20);
        store.change(first).await.unwrap();
        push(&store, "t", 10).await.unwrap();
        assert!(!reader.next(1, 1).await.unwrap().events[0].is_expired());
    }

    #[tokio::test]
    async fn who_leaves_keeps_its_place_and_who_joins_gives_none_up() {
        let store = Store::open(Options::default()).unwrap();
        let (one, two): (Arc<str>, Arc<str>) = (Arc::from("one"), Arc::from("two"));
        store.consumer("sinks.x", &[one.clone(), two.clone()], Start::Oldest).await.unwrap();
        for topic in ["one", "two"] {
            push(&store, topic, 10).await.unwrap();
        }
        let queued = || store.ledger().iter().map(|row| row.queued).sum::<u64>();
        store.join("sinks.x", std::slice::from_ref(&one), Start::Oldest).await.unwrap();
        assert_eq!(queued(), 2, "the change may be taken back");
        store.leave("sinks.x").await.unwrap();
        assert_eq!((store.registered().len(), queued(), store.knows("sinks.x")), (0, 2, true));
        store.consumer("sinks.x", &[one], Start::Oldest).await.unwrap();
        assert_eq!(queued(), 1);
    }

    #[tokio::test]
    async fn what_a_consumer_remembers_of_a_lane_goes_with_its_cursor_there_and_all_when_it_is_forgotten() {
        let store = Store::open(Options::default()).unwrap();
        let (one, two): (Arc<str>, Arc<str>) = (Arc::from("one"), Arc::from("two"));
        store.consumer("sinks.x", &[one.clone(), two.clone()], Start::Oldest).await.unwrap();
        store.consumer("pipelines.x.y", std::slice::from_ref(&one), Start::Oldest).await.unwrap();
        push(&store, "one", 10).await.unwrap();
        push(&store, "two", 10).await.unwrap();
        let put = |owner: &str, key: &[u8]| Put { owner: owner.into(), key: key.into(), value: Some(vec![1]) };
        let ahead = |lane: u16| [AHEAD, &lane.to_be_bytes()].concat();
        let mut state = vec![put("sinks.x", &ahead(1)), put("sinks.x", &ahead(2)), put("sinks.x", b"budget")];
        state.extend(["pipelines.x", "pipelines.x.sum", "pipelines.x.y", "pipelines.xx"].map(|owner| put(owner, b"k")));
        store.commit(Step { state, ..Step::default() }).await.unwrap();
        let owners = async || store.owners("").await.unwrap();
        store.consumer("sinks.x", &[one], Start::Oldest).await.unwrap();
        assert!(owners().await.contains(&("sinks.x".into(), 2)), "{:?}", owners().await);
        store.forget_whole("sinks.x").await.unwrap();
        store.forget_whole("pipelines.x").await.unwrap();
        let left: Vec<String> = owners().await.into_iter().map(|(owner, _)| owner).collect();
        assert_eq!(left, ["pipelines.x.y", "pipelines.xx"]);
    }
}
