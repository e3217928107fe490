//! Asks a running gateway, for the command line; or, where none runs, its store.

use super::{Call, Desk, Reply, socket, token};
use crate::{
    config::{AdminTls, Listen, Settings},
    runtime,
    store::{OpenError, Store},
    systems::pin,
};
use anyhow::{Context, bail, ensure};
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::unix::{fs::MetadataExt, net::UnixStream},
    time::Duration,
};

/// A question in SQL may take a minute, and wait for another.
const PATIENCE: Duration = Duration::from_secs(125);
/// Bytes of a line in the head of an answer.
const LONGEST_LINE: u64 = 16 << 10;
/// Bytes of an answer.
const LARGEST: u64 = 64 << 20;

/// Who is asked: the gateway of a configuration or, if that does not run, its store.
pub struct Client {
    settings: Settings,
    stored: Option<Stored>,
}

/// A store whose gateway does not run.
struct Stored {
    store: Store,
    desk: Desk,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub fn of(settings: Settings) -> Client {
        Client { settings, stored: None }
    }

    /// Asks, and gives the answer as JSON; one that is no success is an error that says why. `path` is that under `/api/v1`.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        query: &[(&str, String)],
        body: &[u8],
    ) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.fetch(method, path, query, body)?).context("the answer is not JSON")
    }

    /// As `ask`, and gives the answer as it is.
    pub fn fetch(
        &mut self,
        method: &str,
        path: &str,
        query: &[(&str, String)],
        body: &[u8],
    ) -> anyhow::Result<Vec<u8>> {
        let target = target(path, query);
        let reply = match &self.stored {
            Some(stored) => stored.answer(method, &target, body),
            None => match send(&self.settings, method, &target, body)? {
                Some(reply) => reply,
                None => match Stored::open(&self.settings) {
                    Ok(stored) => self.stored.insert(stored).answer(method, &target, body),
                    // It may have been about to listen.
                    Err(error) => send(&self.settings, method, &target, body)?.ok_or(error)?,
                },
            },
        };
        fine(reply.status, reply.body)
    }

    /// Asks a gateway that runs for an answer that goes on for a time, and gives its lines as they come.
    pub fn lines(&self, path: &str, query: &[(&str, String)], span: Duration) -> anyhow::Result<impl BufRead> {
        let patience = PATIENCE.saturating_add(span);
        let stream =
            connect(&self.settings, patience)?.context("no gateway runs with this configuration: nothing passes")?;
        // With this version the answer is not cut in pieces, and ends with the connection.
        let (status, mut body) = head(stream, &self.settings, "GET", &target(path, query), "1.0", &[])?;
        if status >= 300 {
            let mut problem = Vec::new();
            body.read_to_end(&mut problem)?;
            fine(status, problem)?;
        }
        Ok(body)
    }
}

/// What was answered; what is no success is an error that says why.
fn fine(status: u16, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if status >= 300 {
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        bail!("{}", problem["detail"].as_str().unwrap_or("the gateway refused"));
    }
    Ok(body)
}

/// Asks a gateway that runs, and gives the answer as JSON; nothing if none does.
pub fn ask_running(
    settings: &Settings,
    method: &str,
    target: &str,
    text: &str,
) -> anyhow::Result<Option<serde_json::Value>> {
    let Some(reply) = send(settings, method, target, text.as_bytes())? else { return Ok(None) };
    serde_json::from_slice(&fine(reply.status, reply.body)?).context("the answer is not JSON")
}

/// A path of the API, and a query.
fn target(path: &str, query: &[(&str, String)]) -> String {
    let pairs: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let mark = if pairs.is_empty() { "" } else { "?" };
    format!("/api/v1{path}{mark}{}", pairs.join("&"))
}

/// For the query of a URL.
pub fn encode(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// A connection to a gateway that is waited for so long; nothing if none runs.
fn connect(settings: &Settings, patience: Duration) -> anyhow::Result<Option<Box<dyn Stream>>> {
    let connected = match &settings.admin.listen {
        Listen::Off => return Ok(None),
        Listen::Unix => UnixStream::connect(socket(settings)).and_then(|stream| {
            stream.set_read_timeout(Some(patience))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }),
        Listen::Tcp(address) => TcpStream::connect_timeout(&near(*address), PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(patience))?;
            match &settings.admin.tls {
                Some(tls) => covered(stream, address, tls).map_err(std::io::Error::other),
                None => Ok(Box::new(stream) as Box<dyn Stream>),
            }
        }),
    };
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error).context("the gateway's admin listener"),
    }
}

/// Where an address is reached from this machine: that of all interfaces is none itself.
fn near(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The same over TLS, with the gateway's own certificate and no other.
fn covered(stream: TcpStream, address: &SocketAddr, tls: &AdminTls) -> anyhow::Result<Box<dyn Stream>> {
    let config = pin::client_config(&tls.cert)?;
    let session = rustls::ClientConnection::new(config, address.ip().into())?;
    Ok(Box::new(rustls::StreamOwned::new(session, stream)))
}

/// Sends a request and reads the head of the answer: its status; what comes then is its body.
fn head(
    mut stream: Box<dyn Stream>,
    settings: &Settings,
    method: &str,
    target: &str,
    version: &str,
    body: &[u8],
) -> anyhow::Result<(u16, BufReader<Box<dyn Stream>>)> {
    let (token, length) = (token(settings)?, body.len());
    let head = format!(
        "{method} {target} HTTP/{version}\r\nhost: tidegate\r\nauthorization: Bearer {token}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n",
    );
    let place = "the gateway's admin listener";
    stream.write_all(&[head.as_bytes(), body].concat()).context(place)?;
    let (mut answer, mut status) = (BufReader::new(stream), None);
    loop {
        let mut line = String::new();
        let read = answer.by_ref().take(LONGEST_LINE).read_line(&mut line).context(place)?;
        ensure!(read > 0, "no answer of the gateway");
        match line.trim_end() {
            "" => break,
            line if status.is_none() => status = line.get(9..12).and_then(|code| code.parse().ok()),
            _ => {}
        }
    }
    Ok((status.context("the answer is not HTTP")?, answer))
}

/// The answer of a gateway that runs, whatever it is; nothing if none does.
pub fn running(settings: &Settings, method: &str, target: &str) -> anyhow::Result<Option<Reply>> {
    send(settings, method, target, &[])
}

fn send(settings: &Settings, method: &str, target: &str, body: &[u8]) -> anyhow::Result<Option<Reply>> {
    let Some(stream) = connect(settings, PATIENCE)? else { return Ok(None) };
    let (status, answer) = head(stream, settings, method, target, "1.1", body)?;
    let mut body = Vec::new();
    answer.take(LARGEST).read_to_end(&mut body).context("the gateway's admin listener")?;
    Ok(Some(Reply { status, media: "application/json", body }))
}

impl Stored {
    fn open(settings: &Settings) -> anyhow::Result<Stored> {
        let store = open(settings)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Stored { desk: Desk::of_store(store.clone()), store, runtime })
    }

    fn answer(&self, method: &str, target: &str, body: &[u8]) -> Reply {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let call = Call::new(method, path, query).with_body(body.to_vec());
        self.runtime.block_on(self.desk.answer(&call))
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.runtime.block_on(self.store.close());
    }
}

fn open(settings: &Settings) -> anyhow::Result<Store> {
    let path = &settings.store.path;
    let Ok(is) = std::fs::metadata(path) else {
        bail!(
            "no gateway runs with this configuration, and there is no store at `{path}` (seen from the working directory; \
             the service's is /var/lib/tidegate)"
        );
    };
    // What another user wrote there, the gateway could not open any more.
    let me = rustix::process::geteuid().as_raw();
    ensure!(
        me == is.uid(),
        "no gateway runs, and its store belongs to the user of number {}: run this as that user, for example with `sudo -u`",
        is.uid()
    );
    let store = Store::open(crate::store::Options { visit: true, ..runtime::options(settings, false) });
    store.map_err(|error| match error {
        OpenError::Locked => anyhow::anyhow!("the gateway runs, but does not listen for operators (`admin.listen`)"),
        error => anyhow::anyhow!("store `{path}`: {error}"),
    })
}
