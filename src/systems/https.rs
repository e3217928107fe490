//! HTTP as a client, which blocks: ureq, with TLS by the gateway's own configuration. Certificates are read at each
//! connection.

use crate::systems::tls::{self, ClientTls};
use rustls::{ClientConnection, StreamOwned};
use std::{
    fmt,
    io::{Read, Write},
    time::Duration,
};
use ureq::{
    Agent, Error,
    unversioned::{
        resolver::DefaultResolver,
        transport::{
            Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, TcpConnector, Transport,
            TransportAdapter,
        },
    },
};

/// A server that does not take a connection within this is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection idle for longer than this is made anew: servers mostly keep theirs for a minute.
const IDLE: Duration = Duration::from_secs(30);
const BUFFER: usize = 16 << 10;
/// Bytes of an answer that are quoted.
const QUOTE: usize = 200;

/// Who makes requests: each takes `timeout` at most, and no more than `idle` connections are kept for the next ones.
/// Every status is an answer, not an error; nothing is redirected.
pub fn agent(timeout: Duration, tls: ClientTls, idle: usize) -> Agent {
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

/// The beginning of foreign text, safe for a log and a terminal.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTE)]);
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// Wraps connections to `https` URLs.
#[derive(Debug)]
struct Tls(ClientTls);

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, TlsTransport>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let failed = |error: anyhow::Error| Error::Other(format!("{error:#}").into());
        let config = tls::client_config(&self.0).map_err(failed)?;
        let name = self.0.server_name(details.uri.host().unwrap_or_default()).map_err(failed)?;
        let mut conn = ClientConnection::new(config, name).map_err(|e| failed(e.into()))?;
        let mut sock = TransportAdapter::new(Box::new(transport) as Box<dyn Transport>, details.current_time.clone());
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned { conn, sock } })))
    }
}

struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_harm_a_terminal() {
        for (bytes, want) in [
            (&b"a\r\nb\x1b[2J\0"[..], "a\\r\\nb\\u{1b}[2J\\u{0}"),
            (b"\xff\xc2\x9b31m", "\u{fffd}\\u{9b}31m"),
            ("ä".as_bytes(), "ä"),
        ] {
            assert_eq!(printable(bytes), want);
        }
        assert_eq!(printable(&[b'x'; 300]).len(), QUOTE);
    }
}
