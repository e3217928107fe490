//! Which events' ways are recorded, and where else they are told.

use crate::{
    systems::{
        http::{Client, Method, Settings},
        tls::ClientTls,
    },
    trace::Trace,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// A collector that takes longer is not there.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which events' ways are recorded in detail, in memory: besides these, all while no more than 20 a second come in, all that end
/// badly, and all whose sender says in `traceparent` that it records its part.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct TraceSettings {
    /// One of so many, told by the id: 1 for all, 0 for none.
    pub sample: u32,
    /// A collector that is sent what is recorded. It is for looking on: what it does not take in time is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpSettings>,
}

impl TraceSettings {
    /// Where they are recorded, within so many bytes.
    pub fn recorder(&self, bytes: usize) -> Trace {
        Trace::new(self.sample, bytes, self.otlp.is_some())
    }
}

impl Default for TraceSettings {
    fn default() -> Self {
        TraceSettings { sample: 1000, otlp: None }
    }
}

/// An OpenTelemetry collector, by OTLP over HTTP, in JSON.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct OtlpSettings {
    /// Where spans go, the path included: `http://collector:4318/v1/traces`.
    pub url: String,
    /// Headers of every request. Refer to secrets with `${file:…}` or `${cred:…}`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl OtlpSettings {
    /// Who sends it. The error has the field that is wrong, and why.
    pub fn client(&self) -> Result<Client, (String, String)> {
        Client::new(Settings {
            url: self.url.clone(),
            method: Method::Post,
            headers: self.headers.clone(),
            media: "application/json",
            gzip: false,
            key: "Idempotency-Key".into(),
            retry: Vec::new(),
            timeout: TIMEOUT,
            tls: ClientTls::default(),
        })
    }
}
