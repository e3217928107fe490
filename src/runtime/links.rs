//! Which components work, for the status line and one line in the log when that changes.

use crate::tally;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

#[derive(Clone, Default)]
pub(super) struct Links(Arc<Shared>);

#[derive(Default)]
struct Shared {
    down: Mutex<BTreeMap<String, Down>>,
    /// Who does not send, though it could, and why.
    held: Mutex<BTreeMap<String, String>>,
    /// Whose turn it is to try what may kill the gateway.
    turns: Arc<tokio::sync::Mutex<()>>,
    /// How often something that was down came up.
    returns: watch::Sender<u64>,
    /// What came up again: how often, and after how long in all.
    times: Mutex<BTreeMap<String, (u64, Duration)>>,
    outlets: Mutex<BTreeMap<String, Arc<tally::Outlet>>>,
}

struct Down {
    since: Instant,
    attempts: u64,
    reason: String,
}

impl Links {
    /// An attempt failed: the first is logged, and each that fails for another reason.
    pub fn down(&self, name: &str, reason: &str) {
        let mut links = lock(&self.0.down);
        let new = || Down { since: Instant::now(), attempts: 0, reason: String::new() };
        let link = links.entry(name.to_owned()).or_insert_with(new);
        link.attempts += 1;
        if link.reason != reason {
            link.reason = reason.to_owned();
            log::warn!("{name}: down, trying again: {reason}");
        }
    }

    /// An attempt worked.
    pub fn up(&self, name: &str) {
        if let Some(link) = lock(&self.0.down).remove(name) {
            let (seconds, attempts) = (link.since.elapsed().as_secs_f32(), link.attempts);
            let mut all = lock(&self.0.times);
            let (times, offline) = all.entry(name.to_owned()).or_default();
            (*times, *offline) = (*times + 1, *offline + link.since.elapsed());
            drop(all);
            log::info!("{name}: up again after {seconds:.1} s and {attempts} failed attempts");
            self.0.returns.send_modify(|returns| *returns += 1);
        }
    }

    /// How often each came up again, and for how long it was down in all, now included.
    pub fn times(&self) -> BTreeMap<String, (u64, Duration)> {
        let mut times = lock(&self.0.times).clone();
        for (name, down) in lock(&self.0.down).iter() {
            times.entry(name.clone()).or_default().1 += down.since.elapsed();
        }
        times
    }

    /// The counts of a sink.
    pub fn outlet(&self, name: &str) -> Arc<tally::Outlet> {
        lock(&self.0.outlets).entry(name.to_owned()).or_default().clone()
    }

    /// Those of all sinks.
    pub fn outlets(&self) -> Vec<(String, Arc<tally::Outlet>)> {
        lock(&self.0.outlets).iter().map(|(name, counts)| (name.clone(), counts.clone())).collect()
    }

    /// Whether a consumer, or one of its processes, is down.
    pub fn fails(&self, consumer: &str) -> bool {
        let links = lock(&self.0.down);
        links
            .keys()
            .any(|name| name.strip_prefix(consumer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }

    /// Held by who tries events that may kill the gateway: one at a time, so that the right one is blamed.
    pub fn turns(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.0.turns.clone()
    }

    /// Tells whenever something that was down comes up.
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.0.returns.subscribe()
    }

    /// A sink does not send for a reason of its own; or, with `None`, does.
    pub fn held(&self, name: &str, why: Option<&str>) {
        let mut held = lock(&self.0.held);
        match why {
            Some(why) if held.get(name).is_some_and(|known| known == why) => {}
            Some(why) => {
                log::info!("{name}: waits: {why}");
                held.insert(name.to_owned(), why.to_owned());
            }
            None => {
                if held.remove(name).is_some() {
                    log::info!("{name}: sends again");
                }
            }
        }
    }

    /// Who waits for a reason of its own, and why.
    pub fn all_held(&self) -> Vec<(String, String)> {
        lock(&self.0.held).iter().map(|(name, why)| (name.clone(), why.clone())).collect()
    }

    /// What is down, why, and for how many seconds.
    pub fn reasons(&self) -> Vec<(String, String, u64)> {
        let links = lock(&self.0.down);
        links.iter().map(|(name, down)| (name.clone(), down.reason.clone(), down.since.elapsed().as_secs())).collect()
    }

    /// Names of what is down.
    pub fn all_down(&self) -> Vec<String> {
        lock(&self.0.down).keys().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
