//! Takes connections in, as many as there are seats.

use super::{
    pace::{HEAD, Paced, Turn},
    request::Desk,
};
use crate::{
    budget,
    fault::Fault,
    sources::{
        seats::{Seat, Seats},
        trouble::Trouble,
    },
    systems::tls::{self, ServerTls},
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
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
const NO_SEAT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 115\r\n\r\n\
{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"there are too many connections already\"}";

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
    let failing = Trouble::default();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    failing.begins(|| format!("sources.{}: cannot accept connections: {error}", desk.name()));
                    sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        failing.ends(|_| format!("sources.{}: connections are accepted again", desk.name()));
        let Some(seat) = seats.take_with(peer.ip(), || desk.seat(seat(tls.is_some()))).await else {
            if tls.is_none() {
                stream.try_write(NO_SEAT).ok();
            }
            continue;
        };
        stream.set_nodelay(true).ok();
        let acceptor = tls.as_mut().map(|tls| tls.fresh(desk.name()));
        connections.spawn(greet((stream, peer), acceptor, seat, desk.clone()));
    }
}

/// Serves a connection until its end, or until others need its place.
async fn greet(
    (stream, peer): (TcpStream, SocketAddr),
    acceptor: Option<TlsAcceptor>,
    (seat, _memory): (Seat, budget::Share),
    desk: Arc<Desk>,
) {
    let served = async {
        match acceptor {
            None => converse(stream, &desk, &seat).await,
            Some(acceptor) => match tls::accept(&acceptor, stream, HEAD).await {
                Ok(stream) => converse(stream, &desk, &seat).await,
                Err(why) => why.iter().for_each(|why| desk.refuse(peer, why)),
            },
        }
    };
    tokio::select! {
        () = served => {}
        () = seat.out() => {}
    }
}

/// Answers request after request. How a connection ends is the client's affair.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, desk: &Desk, seat: &Seat) {
    let turn = Turn::default();
    let stream = TokioIo::new(Paced::new(stream, turn.clone(), seat));
    let service = service_fn(move |request| {
        let turn = turn.clone();
        turn.change();
        seat.waits(Duration::ZERO);
        async move {
            let answer = desk.answer(request, seat).await;
            if answer.status().is_success() {
                seat.proves();
            }
            seat.holds(0);
            seat.waits(Duration::ZERO);
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
