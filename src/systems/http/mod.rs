//! HTTP as a client: requests with a body to one URL.

mod answer;
mod connect;
#[cfg(test)]
pub mod testing;

use crate::{event::Event, fault::Fault, systems::tls::ClientTls};
use connect::Tls;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _, time::Duration};
use ureq::{
    Agent, http,
    http::{HeaderName, HeaderValue, Request, Uri, header},
    unversioned::{
        resolver::DefaultResolver,
        transport::{Connector, TcpConnector},
    },
};

/// A server that does not take a connection within this is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection idle for longer than this is made anew: servers mostly keep theirs for a minute.
const IDLE: Duration = Duration::from_secs(30);
/// Connections that are kept for the next requests.
const IDLE_CONNECTIONS: usize = 4;
const BUFFER: usize = 16 << 10;

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

/// How a body is sent.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Method {
    #[default]
    #[serde(rename = "POST")]
    Post,
    #[serde(rename = "PUT")]
    Put,
}

/// What every request to the URL has.
pub struct Settings {
    pub url: String,
    pub method: Method,
    /// As they stand in the configuration; their values are never told.
    pub headers: BTreeMap<String, String>,
    /// The `Content-Type`, unless `headers` has one.
    pub media: &'static str,
    pub gzip: bool,
    /// The header that carries what the server knows a request by.
    pub key: String,
    /// Statuses below 500 that are tried again, besides 408, 425 and 429.
    pub retry: Vec<u16>,
    /// For a request in all, 100 ms to 10 minutes.
    pub timeout: Duration,
    pub tls: ClientTls,
}

/// Sends to one URL. It holds secrets, so it is not `Debug`.
pub struct Client {
    agent: Agent,
    method: http::Method,
    url: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What may be secret in a request: the values of its own headers and of the URL's query.
    secrets: Vec<String>,
    key: HeaderName,
    retry: Vec<u16>,
}

impl Client {
    /// Connects to nothing yet. The error has the field that is wrong, and why.
    pub fn new(settings: Settings) -> Result<Client, (String, String)> {
        let Settings { method, gzip, retry, timeout, tls, .. } = settings;
        let url = url(&settings.url).map_err(|e| ("url".into(), e))?;
        tls.check().map_err(|(field, what)| (format!("tls.{field}"), what))?;
        let mut headers = Vec::new();
        for (name, value) in &settings.headers {
            headers.push(own_header(name, value).map_err(|e| (format!("headers.{name}"), e.into()))?);
        }
        let query =
            url.query().unwrap_or_default().split('&').filter_map(|pair| Some(pair.split_once('=')?.1.to_owned()));
        let secrets = settings.headers.into_values().chain(query).collect();
        if !headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE) {
            headers.push((header::CONTENT_TYPE, HeaderValue::from_static(settings.media)));
        }
        if gzip {
            headers.push((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
        let (key, _) = own_header(&settings.key, "").map_err(|e| ("idempotency_header".into(), e.into()))?;
        if !(Duration::from_millis(100)..=Duration::from_secs(600)).contains(&timeout) {
            return Err(("timeout".into(), "expected 100ms to 10m".into()));
        }
        let method = if method == Method::Put { http::Method::PUT } else { http::Method::POST };
        Ok(Client { agent: agent(timeout, tls, IDLE_CONNECTIONS), method, url, headers, secrets, key, retry })
    }

    /// One request; `key` is what the server knows it by. Gives the first 64 KiB of a 2xx answer. Blocks, at most for the
    /// timeout.
    pub fn send(&self, key: &str, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut request = Request::builder().method(&self.method).uri(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.header(&self.key, key).body(body);
        let retry = |status: http::StatusCode| {
            matches!(status.as_u16(), 408 | 425 | 429) || self.retry.contains(&status.as_u16())
        };
        match request.map_err(ureq::Error::Http).and_then(|request| self.agent.run(request)) {
            Ok(answer) => answer::judge(self.host(), answer, &self.secrets, retry),
            Err(ureq::Error::Io(error)) => Err(self.fault(&error)),
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Interrupts a request under way; none can be sent any more.
    pub fn stop(&self) {
        self.agent.clone().shutdown();
    }

    /// The URL without its query, which may hold a secret.
    pub fn place(&self) -> String {
        format!("{}://{}{}", self.url.scheme_str().unwrap_or_default(), self.host(), self.url.path())
    }

    fn fault(&self, error: &dyn std::error::Error) -> Fault {
        Fault::retry(format!("`{}`: {error}", self.host()))
    }

    /// All of the URL that is never a secret.
    fn host(&self) -> &str {
        self.url.authority().map_or("", |authority| authority.as_str())
    }
}

/// What a server knows a request by: the event's id, or a digest of all.
pub fn key(events: &[Event]) -> String {
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

/// Undoes percent-encoding; `None` where it is none, or not of UTF-8.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push(if byte == b'%' { (digit()? << 4 | digit()?) as u8 } else { byte });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

/// Who makes requests: each takes `timeout` at most, and no more than `idle` connections are kept for the next ones. Every
/// status is an answer, not an error; nothing is redirected.
pub(super) fn agent(timeout: Duration, tls: ClientTls, idle: usize) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(timeout))
        .timeout_connect(Some(CONNECT.min(timeout)))
        .max_idle_connections(idle)
        .max_idle_connections_per_host(idle)
        .max_idle_age(IDLE)
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        .build();
    let connector = ().chain(TcpConnector::default()).chain(Tls(tls));
    Agent::with_parts(config, connector, DefaultResolver::default())
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
