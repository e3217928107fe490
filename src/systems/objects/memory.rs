//! An object store in memory; it is empty after a restart.

use super::{Objects, check_key, check_list, check_put};
use crate::{
    budget::Size,
    fault::Fault,
    systems::memory::{self, Config, size},
};
use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub struct MemoryObjects {
    limit: Size,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    objects: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

impl MemoryObjects {
    pub fn new(config: Config) -> Self {
        MemoryObjects { limit: config.limit, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Objects for MemoryObjects {
    fn memory(&self) -> usize {
        self.limit.bytes()
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault> {
        check_key(key)?;
        Ok(self.held().objects.get(key).cloned())
    }

    async fn put(&self, key: &str, object: &[u8]) -> Result<(), Fault> {
        check_put(key, object)?;
        let mut held = self.held();
        let before = held.objects.get(key).map_or(0, |o| size(key, o));
        let bytes = held.bytes - before + size(key, object);
        if bytes > self.limit.bytes() {
            return Err(Fault::reject(format!("the object store is full, it may hold {}", self.limit)));
        }
        held.bytes = bytes;
        held.objects.insert(key.to_owned(), object.to_vec());
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), Fault> {
        check_key(key)?;
        let mut held = self.held();
        if let Some(object) = held.objects.remove(key) {
            held.bytes -= size(key, &object);
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault> {
        let limit = check_list(prefix, after, limit)?;
        Ok(memory::keys(&self.held().objects, prefix, after, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_holds_so_much_and_no_more() {
        let store = MemoryObjects::new(Config { limit: Size(1000) });
        store.put("a", &[0; 700]).await.unwrap();
        store.put("a", &[0; 800]).await.unwrap();
        let fault = store.put("b", b"").await.unwrap_err();
        assert!(matches!(fault, Fault::Reject(_)));
        assert_eq!(fault.to_string(), "the object store is full, it may hold 1000B");
        store.delete("a").await.unwrap();
        store.put("b", &[0; 800]).await.unwrap();
        assert_eq!(store.held().bytes, 929);
    }
}
