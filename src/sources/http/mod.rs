//! The `http` source: events are posted, and answered 202 once they are on disk.
//!
//! `POST /v1/events` and `POST /v1/events/{key}` take one JSON object, a list of objects, or objects one after another
//! (NDJSON), also gzipped. The answer lists the ids. Whatever is refused is refused whole, as `application/problem+json`
//! (RFC 9457), except for events whose id was used before with another body: those are listed in the answer.

mod answer;
mod body;
mod listener;
mod pace;
mod parse;
mod request;
#[cfg(test)]
mod tests;

use crate::{
    budget::Size,
    event::Batch,
    fault::Fault,
    kind::{Intake, Kind, Need, ParamsError, Source},
    sources::seats::{self, Seats},
    systems::tls::ServerTls,
};
use async_trait::async_trait;
use bytes::Bytes;
use request::Desk;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::net::TcpListener;

pub const KIND: Kind<dyn Source> = Kind {
    name: "http",
    about: "takes events that are posted to /v1/events, as JSON, NDJSON, also gzipped",
    example: r#"{
  "type": "http",
  "listen": "127.0.0.1:8080",
  "max_body": "1MiB"
}"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(Http::new(params.decode()?)?)),
};

/// The events of a request's body, for tests/fuzz; `packed` is a body that says it is gzip.
#[doc(hidden)]
pub fn taken(body: &[u8], packed: bool, id: Option<&str>, intake: &Intake) -> Option<Batch> {
    let room = body::Room::new(1 << 20, &intake.store().pools().events);
    let mut share = body::Share::of(&room);
    let plain = match packed {
        // It waits for memory only, of which there is enough.
        true => match pin!(body::gunzip(body, 1 << 20, &mut share)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(plain) => plain.ok()?,
            Poll::Pending => return None,
        },
        false => Bytes::copy_from_slice(body),
    };
    parse::events(&plain, &parse::About { key: "", id, meta: b"" }, intake).ok()
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Address and port to listen on. Other machines reach it at `0.0.0.0:PORT` or `[::]:PORT`, which needs `tokens`,
    /// `tls.client_ca` or `open`.
    listen: String,
    /// Who posts must bring one of these, as `Authorization: Bearer TOKEN`. At least 16 characters each; refer to them
    /// with `${file:…}` or `${cred:…}`.
    tokens: Vec<String>,
    /// Serves HTTPS.
    tls: Option<ServerTls>,
    /// Lets anybody on the network post, without a token or a client certificate.
    open: bool,
    /// Bytes that a request's body may have, also once it is decompressed.
    max_body: Size,
    /// Bytes of bodies in memory at once, received or waiting for the disk. A request on top of that is answered 429.
    waiting: Size,
    /// Connections at once. For one on top of that the slowest of those that make the gateway wait is closed; while all are
    /// being served it is answered 503.
    connections: usize,
    /// Connections at once from one address, or one IPv6 /64 network; loopback is exempt.
    per_peer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: "127.0.0.1:8080".into(),
            tokens: Vec::new(),
            tls: None,
            open: false,
            max_body: Size(1 << 20),
            waiting: Size(8 << 20),
            connections: 256,
            per_peer: 16,
        }
    }
}

/// A shorter token could be guessed: 16 characters of base64 are 96 bits.
const MIN_TOKEN: usize = 16;
/// More connections than this are a mistake: the usual limit of open files is 1024.
const MAX_CONNECTIONS: usize = 10_000;

struct Http {
    config: Config,
    listen: SocketAddr,
}

impl Http {
    fn new(config: Config) -> Result<Http, ParamsError> {
        let listen: SocketAddr = config.listen.parse().map_err(|_| {
            let what = "is no address and port; write it like \"127.0.0.1:8080\" or \"[::]:8080\"";
            ParamsError::at("listen", format!("`{}` {what}", config.listen))
        })?;
        let known = !config.tokens.is_empty() || config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !listen.ip().to_canonical().is_loopback() && !known && !config.open {
            let what =
                "lets every machine of the network post: set `tokens` or `tls.client_ca`, or say `\"open\": true`";
            return Err(ParamsError::at("listen", format!("`{listen}` {what}")));
        }
        let short = |token: &String| token.len() < MIN_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic());
        if let Some(at) = config.tokens.iter().position(short) {
            let what = format!("expected at least {MIN_TOKEN} visible ASCII characters");
            return Err(ParamsError::at(format!("tokens[{at}]"), what));
        }
        if config.max_body.0 == 0 || config.max_body > Size(16 << 20) {
            return Err(ParamsError::at("max_body", "expected 1B to 16MiB"));
        }
        if config.waiting < config.max_body {
            return Err(ParamsError::at("waiting", "expected at least `max_body`"));
        }
        for (field, n) in [("connections", config.connections), ("per_peer", config.per_peer)] {
            if n == 0 || n > MAX_CONNECTIONS {
                return Err(ParamsError::at(field, format!("expected 1 to {MAX_CONNECTIONS}")));
            }
        }
        Ok(Http { config, listen })
    }

    async fn serve(&self, listener: TcpListener, intake: &Intake) -> Result<(), Fault> {
        let Config { tokens, max_body, waiting, connections, per_peer, tls, .. } = &self.config;
        let desk = Desk::new(intake.clone(), tokens, max_body.bytes(), waiting.bytes());
        let seats = Seats::new(intake.topic(), *connections, *per_peer);
        listener::serve(listener, tls.as_ref(), seats, Arc::new(desk)).await
    }
}

#[async_trait]
impl Source for Http {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        let listener = seats::listen(self.listen);
        let listener = listener.map_err(|e| Fault::retry(format!("cannot listen on {}: {e}", self.listen)))?;
        log::info!("sources.{}: listening on {}", intake.topic(), self.listen);
        self.serve(listener, intake).await
    }

    fn need(&self) -> Need {
        let Config { max_body, waiting, connections, tls, .. } = &self.config;
        // A body as it came, what it is unpacked to, and the batch; or as much as somebody wants to wait.
        let largest = 4 * max_body.bytes() + (64 << 10);
        let wanted = if *waiting > Config::default().waiting { waiting.bytes() } else { 0 };
        let connections = connections * listener::seat(tls.is_some());
        Need { largest: largest.max(wanted), connections, ..Need::default() }
    }
}
