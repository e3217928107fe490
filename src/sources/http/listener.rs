//! Takes connections in, as many as there are seats.

use super::{
    pace::{HEAD, Paced, Turn},
    request::Desk,
};
use crate::{
    budget,
    fault::Fault,
    systems::tls::{self, ServerTls},
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Bytes of a request's line and headers.
const MAX_HEAD: usize = 16 << 10;
/// Bytes read ahead per connection; a request's head must fit.
const MAX_BUFFER: usize = MAX_HEAD + (4 << 10);
/// Bytes of a connection besides the bodies: what is read ahead, an answer, its task.
const SEAT: usize = MAX_BUFFER + (8 << 10);
/// And of one over TLS.
const TLS: usize = 40 << 10;
/// Certificates are read again at the first connection after this long, so that renewed ones are used.
const CERTIFICATES: Duration = Duration::from_secs(60);
/// Wait after a failed accept: mostly, there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// Refused connections are told of no oftener: whoever causes them does not fill the log.
const QUIET: Duration = Duration::from_secs(60);
const NO_SEAT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 115\r\n\r\n\
{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"there are too many connections already\"}";

/// Counts connections, all and by peer.
#[derive(Clone)]
pub(super) struct Seats {
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    all: usize,
    per_peer: usize,
}

impl Seats {
    pub fn new(all: usize, per_peer: usize) -> Self {
        Seats { taken: Arc::default(), all, per_peer }
    }

    fn take(&self, peer: IpAddr) -> Option<Seat> {
        let peer = network(peer);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.get(&peer).copied().unwrap_or(0);
        if taken.values().sum::<usize>() >= self.all || (here >= self.per_peer && !peer.is_loopback()) {
            return None;
        }
        taken.insert(peer, here + 1);
        Some(Seat { seats: self.clone(), peer })
    }
}

/// One host, as far as one can tell: an IPv6 host has a whole /64 to choose addresses from.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}

/// A connection's place, given back when dropped.
struct Seat {
    seats: Seats,
    peer: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.peer) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.remove(&self.peer)),
        }
    }
}

/// Bytes of memory that a connection takes.
pub(super) fn seat(tls: bool) -> usize {
    if tls { SEAT + TLS } else { SEAT }
}

/// Serves until it is dropped; then all connections end.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<&ServerTls>,
    seats: Seats,
    desk: Arc<Desk>,
) -> Result<(), Fault> {
    let mut tls = tls.map(Certificates::read).transpose().map_err(|e| Fault::Retry(e.context("tls")))?;
    let mut connections = JoinSet::new();
    let (mut refused, mut failing, mut told) = (0u64, false, None::<Instant>);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        log::warn!("sources.{}: cannot accept connections: {error}", desk.name());
                    }
                    sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        failing = false;
        let taken = seats.take(peer.ip()).zip(desk.seat(seat(tls.is_some())));
        let Some(taken) = taken else {
            refused += 1;
            if told.is_none_or(|told| told.elapsed() >= QUIET) {
                log::warn!("sources.{}: too many connections, refused {refused} (last from {peer})", desk.name());
                (refused, told) = (0, Some(Instant::now()));
            }
            if tls.is_none() {
                stream.try_write(NO_SEAT).ok();
            }
            continue;
        };
        stream.set_nodelay(true).ok();
        let acceptor = tls.as_mut().map(|tls| tls.fresh(desk.name()));
        connections.spawn(greet(stream, acceptor, taken, desk.clone()));
    }
}

async fn greet(stream: TcpStream, acceptor: Option<TlsAcceptor>, _seat: (Seat, budget::Share), desk: Arc<Desk>) {
    match acceptor {
        None => converse(stream, desk).await,
        Some(acceptor) => {
            if let Ok(Ok(stream)) = timeout(HEAD, acceptor.accept(stream)).await {
                converse(stream, desk).await;
            }
        }
    }
}

/// Answers request after request. How a connection ends is the client's affair.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, desk: Arc<Desk>) {
    let turn = Turn::default();
    let stream = TokioIo::new(Paced::new(stream, turn.clone()));
    let service = service_fn(move |request| {
        let (desk, turn) = (desk.clone(), turn.clone());
        turn.change();
        async move {
            let answer = desk.answer(request).await;
            turn.change();
            Ok::<_, Infallible>(answer)
        }
    });
    // hyper's own limit for heads would also cut idle connections, and needs a timer: `Paced` stands in for it.
    let mut http = http1::Builder::new();
    http.header_read_timeout(None).max_header_size(MAX_HEAD).max_buf_size(MAX_BUFFER);
    http.serve_connection(stream, service).await.ok();
}

struct Certificates<'a> {
    files: &'a ServerTls,
    acceptor: TlsAcceptor,
    read: Instant,
}

impl<'a> Certificates<'a> {
    fn read(files: &'a ServerTls) -> anyhow::Result<Self> {
        Ok(Certificates { files, acceptor: tls::server_config(files)?.into(), read: Instant::now() })
    }

    fn fresh(&mut self, name: &str) -> TlsAcceptor {
        if self.read.elapsed() >= CERTIFICATES {
            self.read = Instant::now();
            match tls::server_config(self.files) {
                Ok(config) => self.acceptor = config.into(),
                Err(error) => log::warn!("sources.{name}: keeping the old certificate: {error:#}"),
            }
        }
        self.acceptor.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_host_and_given_back() {
        for (peers, want) in [
            (["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2"], [true, true, false, true]),
            (["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"], [true, true, false, false]),
            (["fd00::1", "fd00::2", "fd00::3", "fd00:0:0:1::1"], [true, true, false, true]),
            (["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"], [true, true, true, false]),
            (["::1", "::1", "::1", "10.0.0.1"], [true, true, true, false]),
        ] {
            let seats = Seats::new(3, 2);
            for _ in 0..2 {
                let taken = peers.map(|peer| seats.take(peer.parse().unwrap()));
                assert_eq!(taken.each_ref().map(Option::is_some), want, "{peers:?}");
            }
            assert!(seats.taken.lock().unwrap().is_empty());
        }
    }
}
