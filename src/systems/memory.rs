//! What the stores in memory share.

use crate::budget::Size;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::Bound};

/// Keeps all in memory; it is gone after a restart.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bytes that keys and what lies under them may take together, with 128 for each.
    pub limit: Size,
}

impl Default for Config {
    fn default() -> Self {
        Config { limit: Size(64 << 20) }
    }
}

/// What an entry takes besides key and value: its place in the tree, and, where it expires, the key again.
const AROUND: usize = 128;

/// Bytes that an entry counts for.
pub(super) fn size(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + AROUND
}

/// Keys with a prefix, those after `after` if given, at most `limit` of them.
pub(super) fn keys<V>(all: &BTreeMap<String, V>, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let keys = all.range::<str, _>((from, Bound::Unbounded)).map(|(key, _)| key);
    keys.take_while(|key| key.starts_with(prefix)).take(limit).cloned().collect()
}
