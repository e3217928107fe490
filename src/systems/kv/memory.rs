//! A key-value store in memory; it is empty after a restart.

use super::{Kv, check_key, check_list, check_put, check_swap, full};
use crate::{
    budget::Size,
    clock,
    fault::Fault,
    systems::memory::{self, Config, size},
};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub struct MemoryKv {
    limit: Size,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    all: BTreeMap<String, Entry>,
    /// When which key expires.
    due: BTreeSet<(u64, String)>,
    bytes: usize,
}

struct Entry {
    value: Vec<u8>,
    /// Milliseconds since boot: the wall clock may step.
    due: Option<u64>,
}

impl MemoryKv {
    pub fn new(config: Config) -> Self {
        MemoryKv { limit: config.limit, entries: Mutex::default() }
    }

    /// The entries whose time is not over.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::mono_ms();
        while entries.due.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, key)) = entries.due.pop_first() {
                entries.remove(&key);
            }
        }
        entries
    }
}

impl Entries {
    fn remove(&mut self, key: &str) -> bool {
        let Some(entry) = self.all.remove(key) else { return false };
        self.bytes -= size(key, &entry.value);
        if let Some(due) = entry.due {
            self.due.remove(&(due, key.to_owned()));
        }
        true
    }

    fn set(&mut self, key: &str, value: &[u8], due: Option<u64>, limit: Size) -> Result<(), Fault> {
        let before = self.all.get(key).map_or(0, |entry| size(key, &entry.value));
        if self.bytes - before + size(key, value) > limit.bytes() {
            return Err(full(limit, !self.due.is_empty()));
        }
        self.remove(key);
        self.bytes += size(key, value);
        if let Some(due) = due {
            self.due.insert((due, key.to_owned()));
        }
        self.all.insert(key.to_owned(), Entry { value: value.to_vec(), due });
        Ok(())
    }
}

#[async_trait]
impl Kv for MemoryKv {
    fn memory(&self) -> usize {
        self.limit.bytes()
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault> {
        check_key(key)?;
        Ok(self.entries().all.get(key).map(|entry| entry.value.clone()))
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), Fault> {
        let ttl = check_put(key, value, ttl)?;
        self.entries().set(key, value, ttl.map(|ms| clock::mono_ms() + ms), self.limit)
    }

    async fn compare_and_swap(&self, key: &str, old: Option<&[u8]>, new: &[u8]) -> Result<bool, Fault> {
        check_swap(key, old, new)?;
        let mut entries = self.entries();
        if entries.all.get(key).map(|entry| &entry.value[..]) != old {
            return Ok(false);
        }
        entries.set(key, new, None, self.limit).map(|()| true)
    }

    async fn delete(&self, key: &str) -> Result<bool, Fault> {
        check_key(key)?;
        Ok(self.entries().remove(key))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault> {
        let limit = check_list(prefix, after, limit)?;
        Ok(memory::keys(&self.entries().all, prefix, after, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_waits_only_for_what_expires() {
        let kv = MemoryKv::new(Config { limit: Size(1000) });
        kv.put("a", &[0; 300], None).await.unwrap();
        kv.put("b", &[0; 300], Some(Duration::from_millis(50))).await.unwrap();
        assert!(matches!(kv.put("c", &[0; 300], None).await, Err(Fault::Retry(_))));
        kv.put("a", &[1; 350], None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        kv.put("c", &[0; 300], None).await.unwrap();
        let fault = kv.compare_and_swap("d", None, &[0; 300]).await.unwrap_err();
        assert_eq!(fault.to_string(), "the key-value store is full, it may hold 1000B");
        assert!(matches!(fault, Fault::Reject(_)));
        kv.delete("a").await.unwrap();
        kv.delete("c").await.unwrap();
        let entries = kv.entries();
        assert_eq!((entries.bytes, entries.all.len(), entries.due.len()), (0, 0, 0));
    }
}
