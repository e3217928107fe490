//! The `http` sink: batches are sent to one URL, and are safe there once it answers 2xx.

#[cfg(test)]
mod tests;

use crate::{
    budget::Span,
    event::Event,
    fault::Fault,
    kind::{Kind, ParamsError, Sink},
    systems::{
        http::{Client, Method, Settings, key},
        tls::ClientTls,
    },
};
use async_trait::async_trait;
use flate2::{Compression, write::GzEncoder};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::BTreeMap, io::Write as _, sync::Arc, time::Duration};
use tokio::task::{JoinHandle, spawn_blocking};

pub const KIND: Kind<dyn Sink> = Kind {
    name: "http",
    about: "posts batches to a URL, as a JSON array, NDJSON or one event a request, also gzipped",
    example: r#"{
  "type": "http",
  "url": "https://example.org/ingest",
  "headers": { "Authorization": "Bearer ${file:/etc/tidegate/token}" },
  "format": "ndjson",
  "gzip": true
}"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(Http::new(params.decode()?)?)),
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Where the events go: `https://…` or `http://…`, without user and password.
    url: String,
    /// `POST` or `PUT`.
    #[serde(default)]
    method: Method,
    /// Headers of every request. Refer to secrets with `${file:…}` or `${cred:…}`.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// How a batch is written: `array` (a JSON array), `ndjson` (a line each) or `single` (a request each).
    #[serde(default)]
    format: Format,
    /// Sends every event with its envelope (`id`, `topic`, `key`, `time`, `meta`, `body` …) instead of the body alone.
    #[serde(default)]
    envelope: bool,
    /// Compresses the body; the server has to understand `Content-Encoding: gzip`.
    #[serde(default)]
    gzip: bool,
    /// How long a request may take in all, `100ms` to `10m`.
    #[serde(default = "thirty_seconds")]
    timeout: Span,
    /// How the server is trusted, and a client certificate.
    #[serde(default)]
    tls: Option<ClientTls>,
    /// The header that carries the event's id, or, for several events, a digest of their ids. The same batch has the
    /// same one when it is sent again.
    #[serde(default = "idempotency_key")]
    idempotency_header: String,
    /// Statuses that are tried again, besides 408, 425, 429 and 5xx. Any other 4xx sends the event to the dead letters;
    /// those that are about credentials are the fault of no event.
    #[serde(default = "about_credentials")]
    retry_status: Vec<u16>,
}

fn thirty_seconds() -> Span {
    Span(Duration::from_secs(30))
}

fn idempotency_key() -> String {
    "Idempotency-Key".into()
}

fn about_credentials() -> Vec<u16> {
    vec![401, 403, 407]
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Array,
    Ndjson,
    Single,
}

/// A request's body and what the server knows it by.
struct Parcel {
    key: String,
    /// The `traceparent` of its events, if they are all of one trace.
    parent: Option<String>,
    body: Vec<u8>,
}

struct Http {
    format: Format,
    envelope: bool,
    gzip: bool,
    client: Arc<Client>,
    /// A request under way. If its delivery was dropped, the next one waits for its end: one at a time.
    busy: Option<JoinHandle<(usize, Result<u16, Fault>)>>,
    /// Of the last batch that failed in the middle, the keys of what was delivered: not sent again with the rest.
    done: Vec<String>,
    /// The last answer.
    status: u16,
}

impl Http {
    fn new(config: Config) -> Result<Http, ParamsError> {
        if let Some(status) = config.retry_status.iter().find(|status| !(400..500).contains(*status)) {
            return Err(ParamsError::at("retry_status", format!("{status} is not a status of 400 to 499")));
        }
        let Config { format, envelope, gzip, .. } = config;
        let settings = Settings {
            url: config.url,
            method: config.method,
            headers: config.headers,
            media: if format == Format::Ndjson { "application/x-ndjson" } else { "application/json" },
            gzip,
            key: config.idempotency_header,
            // Where it moved is for a person to say; the events wait.
            retry: config.retry_status.into_iter().chain(300..400).collect(),
            timeout: config.timeout.0,
            tls: config.tls.unwrap_or_default(),
        };
        let client = Client::new(settings).map_err(|(field, what)| ParamsError::at(field, what))?;
        Ok(Http { format, envelope, gzip, client: Arc::new(client), busy: None, done: Vec::new(), status: 0 })
    }

    fn parcels(&self, batch: &[Event]) -> Result<Vec<Parcel>, Fault> {
        let each = if self.format == Format::Single { 1 } else { batch.len().max(1) };
        let parcel = |events| Ok(Parcel { key: key(events), parent: parent(events), body: self.body(events)? });
        batch.chunks(each).map(parcel).collect()
    }

    fn body(&self, events: &[Event]) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::with_capacity(events.iter().map(|event| event.body.size() + 8).sum());
        if self.format == Format::Array {
            out.push(b'[');
        }
        for (index, event) in events.iter().enumerate() {
            if self.format == Format::Array && index > 0 {
                out.push(b',');
            }
            let start = out.len();
            if self.envelope {
                event.write_envelope(&mut out);
            } else {
                event.body.write(&mut out);
            }
            if self.format == Format::Ndjson {
                // A body stays as it came, line ends and all; in JSON they stand only where a space may stand.
                out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
                out.push(b'\n');
            }
        }
        if self.format == Format::Array {
            out.push(b']');
        }
        if !self.gzip {
            return Ok(out);
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&out).and_then(|()| packed.finish()).map_err(|e| Fault::retry(format!("gzip: {e}")))
    }
}

/// That of the first, if the others are of the same trace.
fn parent(events: &[Event]) -> Option<String> {
    let first = events.first()?.parent()?;
    let trace = |text: &str| text.get(3..35).map(str::to_owned);
    events.iter().all(|event| event.parent().and_then(trace) == trace(first)).then(|| first.to_owned())
}

/// Sends one after another until one fails; says how many arrived, and the last answer.
fn send(client: &Client, parcels: &[Parcel]) -> (usize, Result<u16, Fault>) {
    let mut last = 0;
    for (sent, Parcel { key, parent, body }) in parcels.iter().enumerate() {
        match client.send(key, parent.as_deref(), body) {
            Ok((status, _)) => last = status,
            Err(fault) => return (sent, Err(fault)),
        }
    }
    (parcels.len(), Ok(last))
}

#[async_trait]
impl Sink for Http {
    async fn deliver(&mut self, batch: &[Event]) -> Result<(), Fault> {
        if let Some(busy) = &mut self.busy {
            busy.await.ok();
            self.busy = None;
        }
        let mut parcels = self.parcels(batch)?;
        let before: Vec<String> = parcels.iter().map(|p| &p.key).filter(|k| self.done.contains(k)).cloned().collect();
        parcels.retain(|parcel| !before.contains(&parcel.key));
        let keys: Vec<String> = parcels.iter().map(|parcel| parcel.key.clone()).collect();
        let client = self.client.clone();
        let busy = self.busy.insert(spawn_blocking(move || send(&client, &parcels)));
        let (sent, result) = match busy.await {
            Ok(done) => done,
            Err(error) => (0, Err(Fault::retry(format!("the request broke off: {error}")))),
        };
        self.busy = None;
        if result.is_err() {
            self.done = before;
            self.done.extend(keys.into_iter().take(sent));
        } else if before.is_empty() {
            self.done.clear();
        }
        self.status = result?;
        Ok(())
    }

    fn answer(&self) -> String {
        format!("HTTP {}", self.status)
    }
}

impl Drop for Http {
    /// Ends a request under way at once, so that the gateway's stop need not wait for it.
    fn drop(&mut self) {
        self.client.stop();
    }
}
