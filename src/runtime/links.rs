//! Which components work, for the status line and one line in the log when that changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

#[derive(Clone, Default)]
pub(super) struct Links(Arc<Mutex<BTreeMap<String, Down>>>);

struct Down {
    since: Instant,
    attempts: u64,
    reason: String,
}

impl Links {
    /// An attempt failed: the first is logged, and each that fails for another reason.
    pub fn down(&self, name: &str, reason: &str) {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        if let Some(link) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name) {
            let (seconds, attempts) = (link.since.elapsed().as_secs_f32(), link.attempts);
            log::info!("{name}: up again after {seconds:.1} s and {attempts} failed attempts");
        }
    }

    /// What is down, and why.
    pub fn reasons(&self) -> Vec<(String, String)> {
        let links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().map(|(name, down)| (name.clone(), down.reason.clone())).collect()
    }

    /// Names of what is down.
    pub fn all_down(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}
