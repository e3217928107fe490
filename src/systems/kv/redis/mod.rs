//! A key-value store on a Redis server; a cargo feature.

#[cfg(feature = "redis")]
mod client;

use super::Kv;
use crate::budget::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Keeps values on a Redis server.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server: `redis://host:6379`, `redis://user:password@host:6379/2` for a user and the database 2, or
    /// `unix:///run/redis.sock`. There is no TLS.
    pub url: String,
    /// Text before every key, so that several may share a server. Listing keys reads all keys of the database.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub prefix: String,
    /// How long a call may take, connecting included, `10ms` to `10m`.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
}

fn default_timeout() -> Span {
    Span::millis(5_000)
}

/// For a constructor; an error names the field, and why.
#[cfg(feature = "redis")]
pub fn new(config: Config) -> Result<Arc<dyn Kv>, (String, String)> {
    Ok(Arc::new(client::RedisKv::new(config)?))
}

#[cfg(not(feature = "redis"))]
pub fn new(_: Config) -> Result<Arc<dyn Kv>, (String, String)> {
    Err(("type".into(), "this binary was built without the feature `redis`".into()))
}
