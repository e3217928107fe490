//! Object stores.

use crate::fault::Fault;
use async_trait::async_trait;

/// An object store. Keys are text of 1 to 512 bytes, parts apart by `/`, none of them `.`, `..` or empty; objects are at
/// most 64 MiB; more is a `Reject`. A store that cannot be reached is a `Retry`. Each call bounds its own time.
#[async_trait]
pub trait Objects: Send + Sync {
    /// The object of a key.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault>;

    /// Stores an object whole or not at all, over the one that was there.
    async fn put(&self, key: &str, object: &[u8]) -> Result<(), Fault>;

    /// Removes an object; it is no fault if there is none.
    async fn delete(&self, key: &str) -> Result<(), Fault>;

    /// Keys with a prefix in byte order, those after `after` if given, at most `limit` of them.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault>;
}
