//! The operators' face: health, status, metrics, and what can be done to a running gateway, over HTTP on a listener of its
//! own. By default that is a Unix socket beside the store, which only the gateway's user can open.
//!
//! What needs no token says the table of [`routes`]; everything else, on an address that other machines reach the metrics too,
//! needs the one that lies beside the store, in `STORE-token`. Such an address is served over TLS only.

mod api;
mod ask;
mod change;
pub mod client;
pub mod config;
mod import;
mod look;
mod metrics;
mod openapi;
mod routes;
mod tap;
mod token;
mod trace;

pub use api::{Call, Desk, Reply};
use token::Brake;
pub use token::token;

use crate::{
    budget::Share,
    clock,
    config::{AdminTls, Listen, Settings},
    runtime::Running,
    store::beside,
    systems::tls::{self, ServerTls},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Connections at once: an operator, a scraper, a script or two.
const CONNECTIONS: usize = 16;
/// A request's head has arrived after this long.
const HEAD: Duration = Duration::from_secs(10);
/// Its body has arrived after this long, from who has the token.
const BODY: Duration = Duration::from_secs(30);
/// No connection lives longer, so that who holds one does not keep others out for ever.
const LONGEST: Duration = Duration::from_secs(120);
/// Bytes of a request's line and headers.
const MAX_HEAD: usize = 16 << 10;
/// Bytes of a request's body: a piece of what is imported; a configuration, as its file.
const MAX_BODY: usize = 1 << 20;
const MAX_CONFIG: usize = 4 << 20;
/// Wait after a failed accept, or before the listener is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket beside a store.
pub fn socket(settings: &Settings) -> PathBuf {
    beside(settings.store.path.as_ref(), "-admin")
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, Option<AdminTls>),
}

impl Listener {
    async fn open(settings: &Settings) -> io::Result<Option<Listener>> {
        Ok(Some(match &settings.admin.listen {
            Listen::Off => return Ok(None),
            Listen::Unix => Listener::Unix(bind(&socket(settings))?),
            Listen::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await?, settings.admin.tls.clone()),
        }))
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
            Listener::Tcp(listener, _) => Box::new(listener.accept().await?.0),
        })
    }

    /// The certificate, read anew for each connection.
    fn acceptor(&self) -> anyhow::Result<Option<TlsAcceptor>> {
        let Listener::Tcp(_, Some(AdminTls { cert, key })) = self else { return Ok(None) };
        let files = ServerTls { cert: cert.clone(), key: key.clone(), client_ca: None };
        Ok(Some(tls::server_config(&files)?.into()))
    }
}

/// A socket that nobody else may open. One that an earlier run left is in the way: the store's lock says that it is over.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|is| is.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves for ever, or ends at once where nothing is to be served: a gateway without a store leaves no files.
pub async fn serve(settings: Settings, running: Running, stateless: bool) {
    if stateless {
        return;
    }
    let mut told = false;
    let listener = loop {
        match Listener::open(&settings).await {
            Ok(Some(listener)) => break listener,
            Ok(None) => return,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!("admin: cannot listen on {}: {error}; trying again", place(&settings));
                }
                sleep(PAUSE).await;
            }
        }
    };
    let token =
        token::make(&settings).map_err(|error| log::warn!("admin: there is no token, so no API: {error:#}")).ok();
    let far = settings.admin.is_far();
    let desk = Arc::new(Counter { desk: Desk::of(running), token, far, brake: Brake::default() });
    let (seats, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS)), JoinSet::new());
    log::info!("admin: listening on {}", place(&settings));
    loop {
        while connections.try_join_next().is_some() {}
        // Who comes when all seats are taken waits for one.
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let desk = desk.clone();
        let work = |stream: Box<dyn Stream>, acceptor: Option<TlsAcceptor>| async move {
            let taps = Arc::new(AtomicBool::new(false));
            let mut conversation = Box::pin(greet(stream, acceptor, desk, taps.clone()));
            if timeout(LONGEST, &mut conversation).await.is_err() && taps.load(Relaxed) {
                timeout(tap::LONGEST, conversation).await.ok();
            }
            drop(seat);
        };
        match (listener.accept().await, listener.acceptor()) {
            (Ok(stream), Ok(acceptor)) => drop(connections.spawn(work(stream, acceptor))),
            (Ok(_), Err(error)) => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!("admin: nobody is let in: {error:#}");
                }
            }
            (Err(_), _) => sleep(PAUSE).await,
        }
    }
}

fn place(settings: &Settings) -> String {
    match &settings.admin.listen {
        Listen::Tcp(address) => address.to_string(),
        _ => format!("`{}`", socket(settings).display()),
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Where requests come in.
struct Counter {
    desk: Desk,
    token: Option<String>,
    /// Other machines reach it.
    far: bool,
    brake: Brake,
}

/// Until the other side has enough. Sets `taps` when an answer takes longer than others may.
async fn greet(stream: Box<dyn Stream>, acceptor: Option<TlsAcceptor>, counter: Arc<Counter>, taps: Arc<AtomicBool>) {
    let Some(acceptor) = acceptor else { return converse(stream, counter, taps).await };
    if let Ok(Ok(stream)) = timeout(HEAD, acceptor.accept(stream)).await {
        converse(Box::new(stream), counter, taps).await;
    }
}

async fn converse(stream: Box<dyn Stream>, counter: Arc<Counter>, taps: Arc<AtomicBool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (counter, taps) = (counter.clone(), taps.clone());
        async move { Ok::<_, Infallible>(counter.respond(request, &taps).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_header_size(MAX_HEAD);
    http.serve_connection(TokioIo::new(stream), service).await.ok();
}

impl Counter {
    async fn respond(&self, request: Request<Incoming>, taps: &AtomicBool) -> Response<Answered> {
        let uri = request.uri();
        let call = Call::new(request.method().as_str(), uri.path(), uri.query().unwrap_or_default());
        let brought = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let known = call.is_open(self.far) || token::fits(self.token.as_deref(), brought);
        if !known && brought.is_some() {
            sleep(self.brake.wrong(clock::mono_ms())).await;
        }
        let reply = match known {
            true if call.is_tap() => match self.desk.tap(&call) {
                Ok(lines) => {
                    taps.store(true, Relaxed);
                    return response(200, "application/x-ndjson", lines.boxed_unsync());
                }
                Err(refused) => refused,
            },
            true if request.method() == Method::GET => self.desk.answer(&call).await,
            true => {
                match body_of(request, &self.desk, if call.brings_config() { MAX_CONFIG } else { MAX_BODY }).await {
                    Ok((body, _share)) => self.desk.answer(&call.with_body(body)).await,
                    Err(refused) => refused,
                }
            }
            false => Reply::problem(401, "expected `Authorization: Bearer` with the token of `STORE-token`"),
        };
        response(reply.status, reply.media, Full::new(reply.body.into()).boxed_unsync())
    }
}

/// What a request brings, drawn from what sources share: so it takes no more memory than there is.
async fn body_of(request: Request<Incoming>, desk: &Desk, most: usize) -> Result<(Vec<u8>, Option<Share>), Reply> {
    let size = request.body().size_hint().exact().ok_or_else(|| Reply::problem(411, "expected `Content-Length`"))?;
    let size = usize::try_from(size).ok().filter(|size| *size <= most);
    let size = size.ok_or_else(|| Reply::problem(413, &format!("this has {} KiB at most", most >> 10)))?;
    let share = desk.running().map(|running| running.store().pools().events.draw(size));
    if matches!(share, Some(None)) {
        return Err(Reply::problem(503, "there is no memory for this now (`gateway.memory`)"));
    }
    let bytes = timeout(BODY, request.into_body().collect()).await;
    let bytes =
        bytes.map_err(|_| Reply::problem(408, &format!("the body did not come within {} s", BODY.as_secs())))?;
    let bytes = bytes.map_err(|error| Reply::problem(400, &error.to_string()))?;
    Ok((bytes.to_bytes().to_vec(), share.flatten()))
}

/// The body of an answer: whole, or as it comes.
type Answered = UnsyncBoxBody<Bytes, Infallible>;

fn response(status: u16, media: &'static str, body: Answered) -> Response<Answered> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
