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
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::unix::{fs::MetadataExt, net::UnixStream},
    time::Duration,
};

/// Retrying ten thousand dead letters on a slow card takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer.
const LARGEST: u64 = 64 << 20;

/// Asks the gateway of a configuration and gives its answer as JSON. An answer that is no success is an error that says why.
pub fn ask(settings: &Settings, method: &str, target: &str) -> anyhow::Result<serde_json::Value> {
    let reply = match running(settings, method, target)? {
        Some(reply) => reply,
        None => stored(settings, method, target)?,
    };
    value_of(&reply)
}

/// As `ask`, with a text, but only of a gateway that runs.
pub fn ask_running(
    settings: &Settings,
    method: &str,
    target: &str,
    text: &str,
) -> anyhow::Result<Option<serde_json::Value>> {
    tell(settings, method, target, text)?.map(|reply| value_of(&reply)).transpose()
}

fn value_of(reply: &Reply) -> anyhow::Result<serde_json::Value> {
    let value: serde_json::Value = serde_json::from_slice(&reply.body).context("the answer is not JSON")?;
    if reply.status >= 300 {
        bail!("{}", value["detail"].as_str().unwrap_or("the gateway refused"));
    }
    Ok(value)
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// The answer of a gateway that runs, whatever it is; nothing if none does.
pub fn running(settings: &Settings, method: &str, target: &str) -> anyhow::Result<Option<Reply>> {
    tell(settings, method, target, "")
}

/// As that, with a text.
fn tell(settings: &Settings, method: &str, target: &str, text: &str) -> anyhow::Result<Option<Reply>> {
    let connected = match &settings.admin.listen {
        Listen::Off => return Ok(None),
        Listen::Unix => UnixStream::connect(socket(settings)).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }),
        Listen::Tcp(address) => TcpStream::connect_timeout(&near(*address), PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            match &settings.admin.tls {
                Some(tls) => covered(stream, address, tls).map_err(std::io::Error::other),
                None => Ok(Box::new(stream) as Box<dyn Stream>),
            }
        }),
    };
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).context("the gateway's admin listener"),
    };
    let token = token(settings)?;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: tidegate\r\nauthorization: Bearer {token}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer).context("the gateway's admin listener")?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("no answer of the gateway")?;
    let status = answer.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    let status = status.context("the answer is not HTTP")?;
    Ok(Some(Reply { status, media: "application/json", body: answer.split_off(end + 4) }))
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

/// The answer of a store whose gateway does not run.
fn stored(settings: &Settings, method: &str, target: &str) -> anyhow::Result<Reply> {
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
    let store = store.map_err(|error| match error {
        OpenError::Locked => anyhow::anyhow!("the gateway runs, but does not listen for operators (`admin.listen`)"),
        error => anyhow::anyhow!("store `{path}`: {error}"),
    })?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let reply = Desk::of_store(store.clone()).answer(&Call::new(method, path, query)).await;
        store.close().await;
        reply
    }))
}
