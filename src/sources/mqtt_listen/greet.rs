//! From an accepted socket to a session: TLS, CONNECT, who it is, and who had the session before.

use super::{
    Shared,
    access::{Denied, shown},
    decode::{self, Connect},
    encode::{self, Welcome},
    filter,
    hub::{Claim, Takeover},
    inbound::{ALIAS_MAXIMUM, RECEIVE_MAXIMUM},
    link::{Link, READ, Stream, Terms},
    outbound, parked, rows,
    session::Session,
    subscribe,
    wire::{self, Broken, Version, kind, reason},
};
use crate::{
    budget::Share,
    sources::seats::Seat,
    systems::tls::{self, ServerTls},
};
use bytes::{Buf, BytesMut};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::{sleep, timeout},
};

/// TLS and CONNECT must be through by then: who connects and says nothing holds one of few places.
const CONNECT: Duration = Duration::from_secs(10);
/// A wrong password is answered after this long.
const DENIED: Duration = Duration::from_millis(500);
/// The connection before has this long to hand over its session; a slow disk may hold it up.
const HANDOVER: Duration = Duration::from_secs(10);
/// Bytes of a CONNECT; its will is kept as long as the connection.
const MAX_CONNECT: usize = 64 << 10;
/// A longer client id is refused; it stands in every event's `meta`.
const MAX_CLIENT: usize = 256;

/// Serves one client from its first byte, and keeps its session afterwards.
pub async fn serve(shared: Arc<Shared>, tcp: TcpStream, (seat, _memory): (Seat, Share)) {
    tcp.set_nodelay(true).ok();
    let opened = tokio::select! {
        opened = open(&shared, tcp) => opened,
        () = seat.out() => None,
    };
    let Some((mut stream, input, body, _kept)) = opened else { return };
    let refused = match decode::connect(&body) {
        Ok(connect) => match admit(&shared, &connect, &seat).await {
            Ok(link) => {
                let has_will = connect.will.is_some();
                drop(connect);
                let grant = link.grant.clone();
                let (session, claim, end) = link.run(&mut *stream, input, &seat).await;
                drop((stream, seat));
                let will = has_will.then_some(body);
                return parked::after(&shared, session, claim, end, will, &grant).await;
            }
            Err(code) => Some((connect.version, code)),
        },
        Err(Broken(reason::VERSION, _)) => Some((Version::V311, reason::VERSION)),
        Err(_) => None,
    };
    if let Some((version, code)) = refused {
        let mut out = Vec::new();
        encode::refuse(&mut out, version, code);
        let goodbye = async {
            stream.write_all(&out).await?;
            stream.shutdown().await
        };
        seat.waits(Duration::ZERO);
        tokio::select! {
            _ = timeout(CONNECT, goodbye) => {}
            () = seat.out() => {}
        }
    }
}

/// A stream, the body of the CONNECT that came on it, what came after that, and the memory of the body.
async fn open(shared: &Shared, tcp: TcpStream) -> Option<(Box<dyn Stream>, BytesMut, Box<[u8]>, Share)> {
    let mut stream: Box<dyn Stream> = match &shared.config.tls {
        None => Box::new(tcp),
        Some(files) => {
            let peer = tcp.peer_addr().ok()?;
            let tell = |why: String| {
                shared.hub.denied.begins(|| format!("sources.{}: tls with {peer} failed: {why}", shared.owner()));
            };
            secure(files, tcp).await.map_err(|why| why.map(tell)).ok()?
        }
    };
    let mut input = BytesMut::with_capacity(4096);
    // For the first packet, which is kept as long as its will may be needed.
    let mut memory = shared.intake.store().pools().kept.share();
    let body = timeout(CONNECT, first(shared, &mut *stream, &mut input, &mut memory)).await.ok()??;
    memory.shrink(body.len());
    Some((stream, input, body, memory))
}

/// The error says why, unless the client only went away.
async fn secure(files: &ServerTls, tcp: TcpStream) -> Result<Box<dyn Stream>, Option<String>> {
    let config = tls::server_config(files).map_err(|error| Some(format!("{error:#}")))?;
    Ok(Box::new(tls::accept(&config.into(), tcp, CONNECT).await?))
}

/// The body of the first packet, if it is a CONNECT. What follows it stays in `input`.
async fn first(
    shared: &Shared,
    stream: &mut dyn Stream,
    input: &mut BytesMut,
    memory: &mut Share,
) -> Option<Box<[u8]>> {
    loop {
        if input.first().is_some_and(|first| *first != kind::CONNECT << 4) {
            return None;
        }
        let found = wire::frame(input, shared.config.max_packet.bytes().min(MAX_CONNECT)).ok()?;
        if let Some((body, len)) = found.map(|frame| (frame.body.into(), frame.len)) {
            input.advance(len);
            return Some(body);
        }
        let bytes = 2 * input.capacity();
        if bytes > READ && memory.bytes() < bytes && !memory.grow(bytes) {
            shared.hub.crowded.begins(|| format!("sources.{}: there is no memory for a will", shared.owner()));
            return None;
        }
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
}

async fn admit(shared: &Arc<Shared>, connect: &Connect<'_>, seat: &Seat) -> Result<Link, u8> {
    let version = connect.version;
    if connect.props.auth_method.is_some() {
        return Err(reason::AUTH_METHOD);
    }
    if connect.client.len() > MAX_CLIENT || connect.client.is_empty() && version == Version::V311 && !connect.clean {
        return Err(reason::CLIENT_ID);
    }
    let assigned = connect.client.is_empty().then(|| format!("auto-{:016x}", fastrand::u64(..)));
    let client: Arc<str> = assigned.as_deref().unwrap_or(connect.client).into();
    let admitted = tokio::select! {
        admitted = shared.access.admit(&client, connect.user, connect.password) => admitted,
        () = seat.out() => return Err(reason::UNAVAILABLE),
    };
    let grant = match admitted {
        Ok(grant) => grant,
        Err(denied) => {
            shared.hub.denied.begins(|| {
                format!("sources.{}: client `{}` was not let in: {denied:?}", shared.owner(), shown(&client))
            });
            sleep(DENIED).await;
            return Err(if denied == Denied::ClientId { reason::CLIENT_ID } else { reason::BAD_PASSWORD });
        }
    };
    seat.stays();
    if let Some(will) = &connect.will {
        if filter::is_too_much(will.topic) {
            return Err(reason::TOPIC);
        }
        if !grant.may_publish(will.topic) {
            return Err(reason::NOT_AUTHORIZED);
        }
    }
    let limit = shared.config.expiry_limit();
    let expiry = match version {
        Version::V311 if connect.clean => 0,
        Version::V311 => limit,
        Version::V5 => connect.props.session_expiry.unwrap_or(0).min(limit),
    };
    let (session, claim, present) = session(shared, &client, connect.clean, expiry).await?;
    let (terms, keep_alive) = terms(shared, connect);
    let mut link = Link::new(shared.clone(), version, grant, terms, session, claim);
    let welcome = Welcome {
        session_present: present,
        session_expiry: connect.props.session_expiry.filter(|asked| *asked > limit).map(|_| limit),
        keep_alive,
        assigned_id: assigned.as_deref(),
        receive_maximum: RECEIVE_MAXIMUM,
        alias_maximum: ALIAS_MAXIMUM,
        packet_maximum: u32::try_from(shared.config.max_packet.0).unwrap_or(u32::MAX),
    };
    encode::welcome(&mut link.out, version, &welcome);
    link.begin().await;
    Ok(link)
}

/// What holds between client and server, and the keep alive in seconds if it is the server's.
fn terms(shared: &Shared, connect: &Connect<'_>) -> (Terms, Option<u16>) {
    let cap = u16::try_from(shared.config.keep_alive.0.as_secs()).unwrap_or(u16::MAX);
    let over = connect.version == Version::V5 && (connect.keep_alive == 0 || connect.keep_alive > cap);
    let seconds = if over { cap } else { connect.keep_alive };
    let terms = Terms {
        keep_alive: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
        receive_maximum: outbound::window(connect.version, connect.props.receive_maximum),
        packet_maximum: connect.props.packet_maximum.map_or(usize::MAX, |n| n as usize),
        alias_maximum: connect.props.alias_maximum.unwrap_or(0).min(ALIAS_MAXIMUM),
    };
    (terms, over.then_some(cap))
}

/// The session of a client: its old one, from whoever has it, or a new one. Also says whether it is an old one.
async fn session(
    shared: &Arc<Shared>,
    client: &Arc<str>,
    clean: bool,
    expiry: u32,
) -> Result<(Session, Claim, bool), u8> {
    let (claim, before) = shared.hub.claim(client);
    let mut old = None;
    if let Some(before) = before {
        let (reply, answer) = oneshot::channel();
        if before.send(Takeover { clean, reply }).is_ok() {
            old = timeout(HANDOVER, answer).await.map_err(|_| reason::UNAVAILABLE)?.ok();
        }
    }
    if old.is_none() && shared.hub.is_lasting(client) {
        // Its task died of a defect; the store knows what it was.
        let found = rows::restore(shared.intake.store(), &shared.hub, shared.owner(), client).await;
        old = found.map_err(|_| reason::UNAVAILABLE)?.map(|(session, _)| session);
        if clean && let Some(session) = old.take() {
            parked::discard(shared, session).await;
        }
    }
    let present = old.is_some();
    let mut session = old.unwrap_or_else(|| Session::new(client.clone(), expiry));
    session.expiry = expiry;
    session.ends_now = false;
    if session.lasts() {
        if !shared.hub.set_lasting(client, true) {
            shared.hub.crowded.begins(|| format!("sources.{}: there are too many lasting sessions", shared.owner()));
            return Err(reason::QUOTA);
        }
        if let Err(refusal) = subscribe::note(shared, &session).await {
            log::debug!("sources.{}: a session was not stored: {refusal}", shared.owner());
            parked::discard(shared, session).await;
            return Err(reason::UNAVAILABLE);
        }
    }
    Ok((session, claim, present))
}

impl Link {
    /// Takes up where the session was left.
    async fn begin(&mut self) {
        let topics = [self.shared.intake.topic().clone()];
        if !self.session.subs.is_empty() {
            // A session that lasts no longer keeps its consumer until it ends.
            if subscribe::hold(&self.shared, &mut self.session).await.is_err() {
                return;
            }
            let store = self.shared.intake.store();
            self.reader = self.session.consumer.map(|consumer| store.reader(consumer, &topics));
            self.shared.hub.connected(&self.session.client, true);
        }
        self.resume().ok();
    }
}
