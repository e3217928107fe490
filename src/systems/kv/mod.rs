//! Key-value stores.

pub mod memory;
pub mod redis;
pub mod sqlite;

use crate::{budget::Size, fault::Fault};
use async_trait::async_trait;
use std::time::Duration;

/// Bytes of a key.
pub const MAX_KEY: usize = 512;
/// Bytes of a value.
pub const MAX_VALUE: usize = 1 << 20;
/// Keys that one `list` gives, whatever it is asked for.
pub const MAX_LIST: usize = 1000;
/// The longest that a value may be set for: ten years.
pub const MAX_TTL: Duration = Duration::from_secs(3653 * 86_400);

/// A key-value store. Keys are text of 1 to 512 bytes, values at most 1 MiB; more is a `Reject`. A store that cannot be
/// reached is a `Retry`; what was asked for may have happened all the same. A full store is a `Retry` if something in it
/// will expire, else a `Reject`. Each call bounds its own time.
#[async_trait]
pub trait Kv: Send + Sync {
    /// Bytes that it may hold in memory.
    fn memory(&self) -> usize {
        0
    }

    /// The value of a key, unless it has none or its time is over.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault>;

    /// Sets a value, for ever or for a time of a millisecond to ten years.
    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), Fault>;

    /// Sets a value, for ever, if the key has the value `old` (`None`: has none) at that moment; says whether it did.
    async fn compare_and_swap(&self, key: &str, old: Option<&[u8]>, new: &[u8]) -> Result<bool, Fault>;

    /// Removes a key; says whether it was there.
    async fn delete(&self, key: &str) -> Result<bool, Fault>;

    /// Keys with a prefix in byte order, those after `after` if given; at most `limit` of them, and at most
    /// [`MAX_LIST`]. None: there are no more.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault>;
}

fn check_key(key: &str) -> Result<(), Fault> {
    match key.len() {
        0 => Err(Fault::reject("the key is empty")),
        1..=MAX_KEY => Ok(()),
        size => Err(Fault::reject(format!("the key `{key:.40}…` has {size} bytes, the limit is {MAX_KEY}"))),
    }
}

fn check_value(value: &[u8]) -> Result<(), Fault> {
    match value.len() {
        0..=MAX_VALUE => Ok(()),
        size => Err(Fault::reject(format!("the value has {size} bytes, the limit is {MAX_VALUE}"))),
    }
}

/// What a swap is given.
fn check_swap(key: &str, old: Option<&[u8]>, new: &[u8]) -> Result<(), Fault> {
    check_key(key)?;
    check_value(old.unwrap_or_default())?;
    check_value(new)
}

/// What a value is set with; gives the time in milliseconds.
fn check_put(key: &str, value: &[u8], ttl: Option<Duration>) -> Result<Option<u64>, Fault> {
    check_key(key)?;
    check_value(value)?;
    let Some(ttl) = ttl else { return Ok(None) };
    match u64::try_from(ttl.as_millis()) {
        Ok(ms) if ms > 0 && ttl <= MAX_TTL => Ok(Some(ms)),
        _ => Err(Fault::reject("a value is set for a millisecond to ten years")),
    }
}

/// What a list is asked for; gives how many keys it may have.
fn check_list(prefix: &str, after: Option<&str>, limit: usize) -> Result<usize, Fault> {
    let size = prefix.len().max(after.map_or(0, str::len));
    if size > MAX_KEY {
        return Err(Fault::reject(format!("the prefix or key has {size} bytes, the limit is {MAX_KEY}")));
    }
    Ok(limit.min(MAX_LIST))
}

/// A put that does not fit.
fn full(limit: Size, expiring: bool) -> Fault {
    let why = format!("the key-value store is full, it may hold {limit}");
    if expiring { Fault::retry(why) } else { Fault::reject(why) }
}
