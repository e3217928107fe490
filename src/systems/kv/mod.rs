//! Key-value stores.

use crate::fault::Fault;
use async_trait::async_trait;
use std::time::Duration;

/// A key-value store. Keys are text of 1 to 512 bytes, values at most 1 MiB; more is a `Reject`. A store that cannot be
/// reached is a `Retry`. Each call bounds its own time.
#[async_trait]
pub trait Kv: Send + Sync {
    /// The value of a key, unless it has none or its time is over.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault>;

    /// Sets a value, for ever or for a time of at least a millisecond.
    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), Fault>;

    /// Sets a value, for ever, if the key has the value `old` (`None`: has none) at that moment; says whether it did.
    async fn compare_and_swap(&self, key: &str, old: Option<&[u8]>, new: &[u8]) -> Result<bool, Fault>;

    /// Removes a key; says whether it was there.
    async fn delete(&self, key: &str) -> Result<bool, Fault>;

    /// Keys with a prefix in byte order, those after `after` if given, at most `limit` of them.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault>;
}
