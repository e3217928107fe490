//! The `http` sink: batches are sent to one URL, and are safe there once it answers 2xx.

mod send;
#[cfg(test)]
mod tests;

use crate::{
    budget::Span,
    event::Event,
    fault::Fault,
    kind::{Kind, ParamsError, Sink},
    systems::tls::ClientTls,
};
use async_trait::async_trait;
use flate2::{Compression, write::GzEncoder};
use schemars::JsonSchema;
use send::{Parcel, Sender};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, sync::Arc, time::Duration};
use tokio::task::{JoinHandle, spawn_blocking};
use ureq::http::{HeaderName, HeaderValue, Uri, header};

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
    retry: Vec<u16>,
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
enum Method {
    #[default]
    #[serde(rename = "POST")]
    Post,
    #[serde(rename = "PUT")]
    Put,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Array,
    Ndjson,
    Single,
}

/// Headers that follow from the request itself.
const OURS: [HeaderName; 7] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::EXPECT,
    header::TRAILER,
    header::UPGRADE,
];

struct Http {
    format: Format,
    envelope: bool,
    gzip: bool,
    sender: Arc<Sender>,
    /// A request under way. If its delivery was dropped, the next one waits for its end: one at a time.
    busy: Option<JoinHandle<(usize, Result<(), Fault>)>>,
    /// Of the last batch that failed in the middle, the keys of what was delivered: not sent again with the rest.
    done: Vec<String>,
}

impl Http {
    fn new(config: Config) -> Result<Http, ParamsError> {
        let url = url(&config.url).map_err(|e| ParamsError::at("url", e))?;
        let tls = config.tls.unwrap_or_default();
        tls.check().map_err(|(field, what)| ParamsError::at(format!("tls.{field}"), what))?;
        let mut headers = Vec::new();
        for (name, value) in &config.headers {
            let (name, value) = own_header(name, value).map_err(|e| ParamsError::at(format!("headers.{name}"), e))?;
            headers.push((name, value));
        }
        if !headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE) {
            let media = if config.format == Format::Ndjson { "application/x-ndjson" } else { "application/json" };
            headers.push((header::CONTENT_TYPE, HeaderValue::from_static(media)));
        }
        if config.gzip {
            headers.push((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
        let (key, _) =
            own_header(&config.idempotency_header, "").map_err(|e| ParamsError::at("idempotency_header", e))?;
        if !(Duration::from_millis(100)..=Duration::from_secs(600)).contains(&config.timeout.0) {
            return Err(ParamsError::at("timeout", "expected 100ms to 10m"));
        }
        if let Some(status) = config.retry.iter().find(|status| !(400..500).contains(*status)) {
            return Err(ParamsError::at("retry", format!("{status} is not a status of 400 to 499")));
        }
        let method = if config.method == Method::Put { ureq::http::Method::PUT } else { ureq::http::Method::POST };
        let sender = Sender::new(method, url, headers, key, config.retry, config.timeout.0, tls);
        let Config { format, envelope, gzip, .. } = config;
        Ok(Http { format, envelope, gzip, sender: Arc::new(sender), busy: None, done: Vec::new() })
    }

    fn parcels(&self, batch: &[Event]) -> Result<Vec<Parcel>, Fault> {
        let each = if self.format == Format::Single { 1 } else { batch.len().max(1) };
        batch.chunks(each).map(|events| Ok(Parcel { key: key(events), body: self.body(events)? })).collect()
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

/// What the server knows a request by: the event's id, or a digest of all.
fn key(events: &[Event]) -> String {
    if let [event] = events
        && let id = event.id.text()
        && !id.is_empty()
        && id.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return id.into_owned();
    }
    let mut digest = Sha256::new();
    for event in events {
        let id = event.id.text();
        digest.update((id.len() as u64).to_le_bytes());
        digest.update(id.as_bytes());
    }
    digest.finalize().iter().take(16).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").ok();
        hex
    })
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
        let sender = self.sender.clone();
        let busy = self.busy.insert(spawn_blocking(move || sender.send(&parcels)));
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
        result
    }
}

impl Drop for Http {
    /// Ends a request under way at once, so that the gateway's stop need not wait for it.
    fn drop(&mut self) {
        self.sender.stop();
    }
}

fn url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|e| format!("not a URL: {e}"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("expected a URL that starts with `https://` or `http://`".into());
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("expected no user and password in the URL; send them in `headers`".into());
    }
    match url.host() {
        None | Some("") => Err("expected a host in the URL".into()),
        Some(_) => Ok(url),
    }
}

fn own_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name: HeaderName = name.parse().map_err(|_| "not the name of a header")?;
    if OURS.contains(&name) {
        return Err("this header follows from the request and cannot be set");
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| "expected visible ASCII characters and spaces")?;
    value.set_sensitive(true);
    Ok((name, value))
}
