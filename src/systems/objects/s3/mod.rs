//! An object store on a server that speaks S3; a cargo feature.

#[cfg(feature = "s3")]
mod client;

use super::Objects;
use crate::budget::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{path::PathBuf, sync::Arc};

/// Keeps objects in a bucket of S3, or of a server that speaks its protocol.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server: `https://s3.eu-central-1.amazonaws.com`, `http://minio.local:9000`.
    pub endpoint: String,
    /// The bucket; it must exist.
    pub bucket: String,
    /// The region that requests are signed for.
    #[serde(default = "default_region")]
    pub region: String,
    /// Text before every key, as `barn-7/`, so that several may share a bucket.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub prefix: String,
    /// Who signs.
    pub access_key: String,
    /// With what. Refer to it with `${file:…}` or `${cred:…}`.
    pub secret_key: String,
    /// Whether the bucket stands in the path of the URL, or, with `false`, before the host's name.
    #[serde(default = "default_path_style")]
    pub path_style: bool,
    /// How long a request may take in all, `100ms` to `10m`.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// PEM file of the authorities that may vouch for the server. Default: those that browsers trust.
    #[schemars(with = "Option<String>")]
    pub ca: Option<PathBuf>,
}

fn default_region() -> String {
    "us-east-1".into()
}
fn default_path_style() -> bool {
    true
}
fn default_timeout() -> Span {
    Span::millis(30_000)
}

/// For a constructor; an error names the field, and why.
#[cfg(feature = "s3")]
pub fn new(config: Config) -> Result<Arc<dyn Objects>, (String, String)> {
    Ok(Arc::new(client::S3::new(config)?))
}

#[cfg(not(feature = "s3"))]
pub fn new(_: Config) -> Result<Arc<dyn Objects>, (String, String)> {
    Err(("type".into(), "this binary was built without the feature `s3`".into()))
}
