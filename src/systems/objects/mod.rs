//! Object stores.

pub mod directory;
pub mod memory;
pub mod s3;

use crate::{fault::Fault, systems::mqtt};
use async_trait::async_trait;

/// Bytes of a key.
pub const MAX_KEY: usize = 512;
/// Parts of a key.
pub const MAX_PARTS: usize = 32;
/// Bytes of a part: what a file's name may have.
pub const MAX_PART: usize = 255;
/// Bytes of an object.
pub const MAX_OBJECT: usize = 64 << 20;
/// Keys that one `list` gives, whatever it is asked for.
pub const MAX_LIST: usize = 1000;

/// The beginning of first parts that no key has: a directory keeps there what is not whole yet.
const RESERVED: &str = ".tidegate";

/// An object store. Keys are text of 1 to 512 bytes without control characters: at most 32 parts apart by `/`, of 1 to
/// 255 bytes each, none of them `.` or `..`, and the first does not begin with `.tidegate`. Objects are at most 64 MiB. More is
/// a `Reject`. A store that cannot be reached is a `Retry`; what was asked for may have happened all the same. Each call
/// bounds its own time.
///
/// A store may refuse a key below another, as `a/b` beside `a`: in a directory, `a` cannot be both.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Bytes that it may hold in memory.
    fn memory(&self) -> usize {
        0
    }

    /// The object of a key.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault>;

    /// Stores an object whole or not at all, over the one that was there.
    async fn put(&self, key: &str, object: &[u8]) -> Result<(), Fault>;

    /// Removes an object; it is no fault if there is none.
    async fn delete(&self, key: &str) -> Result<(), Fault>;

    /// Keys with a prefix in byte order, those after `after` if given; at most `limit` of them, and at most
    /// [`MAX_LIST`]. None: there are no more.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault>;
}

fn check_key(key: &str) -> Result<(), Fault> {
    let wrong = |why: &str| Err(Fault::reject(format!("the key {key:.100?} {why}")));
    if key.len() > MAX_KEY {
        return wrong(&format!("has {} bytes, the limit is {MAX_KEY}", key.len()));
    }
    if !key.chars().all(mqtt::allowed) {
        return wrong("has a control character");
    }
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return wrong("has a part that is empty, `.` or `..`");
    }
    if key.split('/').any(|part| part.len() > MAX_PART) {
        return wrong(&format!("has a part of more than {MAX_PART} bytes"));
    }
    if key.split('/').count() > MAX_PARTS {
        return wrong(&format!("has more than {MAX_PARTS} parts"));
    }
    if key.starts_with(RESERVED) {
        return wrong(&format!("begins with `{RESERVED}`"));
    }
    Ok(())
}

fn check_put(key: &str, object: &[u8]) -> Result<(), Fault> {
    check_key(key)?;
    match object.len() {
        0..=MAX_OBJECT => Ok(()),
        size => Err(Fault::reject(format!("the object has {size} bytes, the limit is {MAX_OBJECT}"))),
    }
}

/// What a list is asked for; gives how many keys it may have.
fn check_list(prefix: &str, after: Option<&str>, limit: usize) -> Result<usize, Fault> {
    let size = prefix.len().max(after.map_or(0, str::len));
    if size > MAX_KEY {
        return Err(Fault::reject(format!("the prefix or key has {size} bytes, the limit is {MAX_KEY}")));
    }
    if !prefix.chars().chain(after.unwrap_or_default().chars()).all(mqtt::allowed) {
        return Err(Fault::reject("the prefix or key has a control character"));
    }
    Ok(limit.min(MAX_LIST))
}
