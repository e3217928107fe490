//! The network: whether listeners can listen, and whether upstreams are there. Nothing is sent to them but a TLS handshake.

use super::{
    Finding, PATIENCE, certificates,
    touches::{Touches, Upstream, socket},
};
use crate::systems::tls::client_config;
use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    time::Instant,
};
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::TlsConnector;

/// Upstreams that are looked at.
const MOST: usize = 64;

/// Whether each listener's port is free, or, while the gateway runs, taken.
pub(super) fn ports(touches: &Touches, running: bool) -> Vec<Finding> {
    let addressed = touches.listeners.iter().filter_map(|(place, listen)| Some((place, socket(listen)?)));
    addressed.map(|(place, at)| port(place, at, running)).collect()
}

fn port(place: &str, at: SocketAddr, running: bool) -> Finding {
    match (TcpListener::bind(at), running) {
        (Ok(_), false) => Finding::right(place, format!("{at} is free to listen on")),
        (Ok(_), true) => {
            let advice = "its configuration may be another than this file's; see `tidegate status` and `tidegate logs`";
            Finding::wrong(place, format!("the gateway runs, and does not listen on {at}"), advice)
        }
        (Err(error), true) if error.kind() == ErrorKind::AddrInUse => {
            Finding::right(place, format!("{at} is taken, as the gateway runs"))
        }
        (Err(error), _) => {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => "somebody else listens there: `ss -ltnp` shows who",
                ErrorKind::PermissionDenied => "ports below 1024 are root's: choose another, or redirect it",
                ErrorKind::AddrNotAvailable => "this machine has no such address now: `ip address` lists them",
                _ => "choose another address",
            };
            Finding::wrong(place, format!("cannot listen on {at}: {error}"), advice)
        }
    }
}

/// Whether each upstream has an address, takes a connection and, where it is to, speaks TLS; all at once.
pub(super) async fn upstreams(touches: &Touches) -> Vec<Finding> {
    let mut asked = JoinSet::new();
    for (n, (place, upstream)) in touches.upstreams.iter().take(MOST).cloned().enumerate() {
        asked.spawn(async move { (n, reach(&place, &upstream).await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(n, _)| *n);
    answers.into_iter().flat_map(|(_, findings)| findings).collect()
}

async fn reach(place: &str, upstream: &Upstream) -> Vec<Finding> {
    let Upstream { host, port, tls } = upstream;
    let found = match timeout(PATIENCE, lookup_host((host.as_str(), *port))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        failed => {
            let why = why(failed);
            let advice = "see whether a name server answers: /etc/resolv.conf, `getent hosts`";
            return vec![Finding::wrong(place, format!("`{host}` has no address: {why}"), advice)];
        }
    };
    let began = Instant::now();
    let stream = match timeout(PATIENCE, connect(&found)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            let why = why(failed);
            let advice = "events wait for it in the store; is the network up, a firewall between, the server started?";
            return vec![Finding::wrong(place, format!("no connection to {host}:{port}: {why}"), advice)];
        }
    };
    let took = began.elapsed();
    let Some(tls) = tls else {
        return vec![Finding::right(place, format!("{host}:{port} takes connections, {} ms away", took.as_millis()))];
    };
    // What is wrong with the files is told where they are looked at.
    let Ok(config) = client_config(tls) else { return Vec::new() };
    let name = match tls.server_name(host) {
        Ok(name) => name,
        Err(error) => return vec![Finding::wrong(place, error, "set `tls.server_name`")],
    };
    match timeout(PATIENCE, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            let version = session.protocol_version().map_or("", |version| version.as_str().unwrap_or(""));
            let says = format!("{host}:{port} speaks {version}, {} ms away", took.as_millis());
            let first = session.peer_certificates().and_then(|certs| certs.first());
            let cert = first.map(|cert| certificates::good(place, &format!("the certificate of {host}"), cert));
            [Finding::right(place, says)].into_iter().chain(cert).collect()
        }
        failed => {
            let why = why(failed);
            let advice = "`tls.ca` says whom to trust; is this machine's clock right?";
            vec![Finding::wrong(place, format!("no TLS with {host}:{port}: {why}"), advice)]
        }
    }
}

/// Why something did not work, or was too late.
fn why<T>(failed: Result<io::Result<T>, Elapsed>) -> String {
    match failed {
        Ok(Err(error)) => error.to_string(),
        _ => format!("no answer within {} s", PATIENCE.as_secs()),
    }
}

/// To the first address that answers.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match timeout(PATIENCE / 2, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
