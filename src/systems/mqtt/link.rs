//! One connection to a broker: bytes out and in, keep-alive, and noticing that the other side is gone.

use super::{
    Broker, Message, Version,
    wire::{self, Limits, PINGREQ, Packet, Reader},
};
use crate::{
    budget::Span,
    systems::tls::{self, ClientTls},
};
use anyhow::{Context as _, anyhow, bail};
use bytes::BytesMut;
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

/// Bytes that are read before the packets among them are looked at; with a packet's size what a connection holds.
const READ: usize = 64 << 10;

/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;

/// How a broker is connected to.
#[derive(Clone)]
pub struct Dial {
    pub broker: Broker,
    pub tls: ClientTls,
    pub version: Version,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Whether the broker forgets the session before and, in 3.1.1, after the connection.
    pub clean: bool,
    pub keepalive: Duration,
    /// For name, address, TLS and CONNACK together.
    pub connect: Duration,
    /// Messages above quality of service 0 that the broker may have in flight to us. MQTT 5 only.
    pub receive: u16,
    /// Bytes of the largest packet that is taken.
    pub max_packet: usize,
    pub will: Option<Message>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection. Everything it awaits may be dropped at any time: what is half written stays in `out`.
pub struct Link {
    /// What waits to be written; append to it, and call [`Link::turn`].
    pub out: Vec<u8>,
    sent: usize,
    unflushed: bool,
    input: BytesMut,
    reader: Reader,
    stream: Box<dyn Stream>,
    /// Why nothing more can be read or written.
    broken: Option<String>,
    pub limits: Limits,
    /// Whether the broker remembers the session of an earlier connection.
    pub session: bool,
    keepalive: Duration,
    wrote: Instant,
    heard: Instant,
    /// When a ping was sent that nothing has come after.
    pinged: Option<Instant>,
    pings: u64,
    pongs: u64,
}

impl Dial {
    /// What is wrong with it that can be seen without connecting: the field, and why. For constructors.
    pub fn check(&self) -> Result<(), (String, String)> {
        let wrong = |field: &str, why: &str| Err((field.to_owned(), why.to_owned()));
        if let Err((field, why)) = self.tls.check() {
            return wrong(&format!("tls.{field}"), &why);
        }
        if !self.broker.tls && self.tls != ClientTls::default() {
            return wrong("tls", "needs an `mqtts://` url");
        }
        let texts = [("client_id", Some(&self.client_id)), ("username", self.username.as_ref())];
        for (field, text) in texts.into_iter().filter_map(|(field, text)| Some((field, text?))) {
            if text.is_empty() || text.len() > usize::from(u16::MAX) || !text.chars().all(super::allowed) {
                return wrong(field, "is empty, too long, or has a control character");
            }
        }
        if self.password.as_ref().is_some_and(|p| p.len() > usize::from(u16::MAX)) {
            return wrong("password", "is longer than 65,535 bytes");
        }
        if self.password.is_some() && self.username.is_none() && self.version == Version::V3 {
            return wrong("password", "needs a `username` in MQTT 3.1.1");
        }
        // 3.1.2.10: whole seconds in two bytes.
        if !(1..=65_535).contains(&self.keepalive.as_secs()) {
            return wrong("keepalive", "does not lie between 1s and 18h");
        }
        Ok(())
    }
}

impl Link {
    /// Connects and says hello. The error begins with the broker's url.
    pub async fn connect(dial: &Dial) -> anyhow::Result<Link> {
        match timeout(dial.connect, Link::hello(dial)).await {
            Ok(link) => link,
            Err(_) => Err(anyhow!("no answer within {}", Span(dial.connect))),
        }
        .with_context(|| format!("`{}`", dial.broker))
    }

    async fn hello(dial: &Dial) -> anyhow::Result<Link> {
        let stream = open(dial).await?;
        let mut link = Link::over(stream, dial);
        wire::put_connect(dial, &mut link.out);
        loop {
            link.turn(Instant::now() + dial.connect).await?;
            match link.packet()? {
                None => {}
                Some(Packet::ConnAck { code: 0, session, limits }) => {
                    (link.session, link.limits) = (session, limits);
                    if let Some(seconds) = limits.keepalive {
                        link.keepalive = Duration::from_secs(seconds.into());
                    }
                    return Ok(link);
                }
                Some(Packet::ConnAck { code, .. }) => bail!("the broker refused us: {}", wire::reason(code)),
                Some(_) => bail!("the broker's first packet is no CONNACK"),
            }
        }
    }

    fn over(stream: Box<dyn Stream>, dial: &Dial) -> Link {
        let now = Instant::now();
        Link {
            out: Vec::new(),
            sent: 0,
            unflushed: false,
            input: BytesMut::new(),
            reader: Reader::new(dial.version, dial.max_packet),
            stream,
            broken: None,
            limits: Limits::default(),
            session: false,
            keepalive: dial.keepalive,
            wrote: now,
            heard: now,
            pinged: None,
            pings: 0,
            pongs: 0,
        }
    }

    pub fn version(&self) -> Version {
        self.reader.version
    }

    /// The next packet that has arrived. A DISCONNECT is a packet, after which `turn` fails.
    pub fn packet(&mut self) -> anyhow::Result<Option<Packet>> {
        let packet = self.reader.next(&mut self.input).map_err(|what| anyhow!("the broker sent {what}"))?;
        if let Some(Packet::Disconnect(code)) = packet {
            self.broken = Some(format!("the broker disconnected: {}", wire::reason(code)));
        }
        self.pongs += u64::from(matches!(packet, Some(Packet::Pong)));
        Ok(packet)
    }

    /// Writes and reads what can be written and read; waits until there was some of it, or `until`. Keeps the connection
    /// alive meanwhile. Call [`Link::packet`] until there is no packet before the next turn. Fails once the broker is gone,
    /// or silent for one and a half keep-alives.
    pub async fn turn(&mut self, until: Instant) -> anyhow::Result<()> {
        if let Some(why) = self.broken.take() {
            self.broken = Some(why.clone());
            bail!(why);
        }
        let now = Instant::now();
        let quiet = self.wrote.min(self.heard) + self.keepalive;
        if self.pinged.is_none() && quiet <= now {
            self.ping();
        }
        let next = match self.pinged {
            Some(at) if at + self.keepalive / 2 <= now => {
                bail!("the broker has been silent for {}", Span(self.heard.elapsed()))
            }
            Some(at) => at + self.keepalive / 2,
            None => quiet,
        };
        // Time passing is no error here: the next turn looks at the clock again.
        timeout_at(until.min(next), poll_fn(|cx| self.poll_move(cx))).await.unwrap_or(Ok(()))
    }

    /// Asks the broker for a sign of life; its answer also says that it has read everything before. Gives what
    /// [`Link::answered`] is asked with.
    pub fn ping(&mut self) -> u64 {
        self.out.extend_from_slice(&PINGREQ);
        self.pinged = Some(Instant::now());
        self.pings += 1;
        self.pings
    }

    /// Whether that ping was answered.
    pub fn answered(&self, ping: u64) -> bool {
        self.pongs >= ping
    }

    /// Whether everything was given to the network.
    pub fn flushed(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        let wrote = self.poll_out(cx);
        let read = self.poll_in(cx);
        // What was read comes first: it may say why writing failed.
        match (wrote, read) {
            (_, Ok(true)) | (Ok(true), _) => Poll::Ready(Ok(())),
            (Err(e), _) | (_, Err(e)) => Poll::Ready(Err(e)),
            (Ok(false), Ok(false)) => Poll::Pending,
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> anyhow::Result<bool> {
        let before = self.sent;
        let mut stream = Pin::new(&mut self.stream);
        while self.sent < self.out.len() {
            match stream.as_mut().poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(Ok(0)) => bail!("the broker takes no more bytes"),
                Poll::Ready(Ok(n)) => self.sent += n,
                Poll::Ready(Err(e)) => bail!("sending to the broker failed: {e}"),
                Poll::Pending => break,
            }
        }
        let moved = self.sent > before;
        if moved {
            self.unflushed = true;
            self.wrote = Instant::now();
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        if self.unflushed {
            match stream.as_mut().poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(e)) => bail!("sending to the broker failed: {e}"),
                Poll::Pending => {}
            }
        }
        Ok(moved)
    }

    fn poll_in(&mut self, cx: &mut Context<'_>) -> anyhow::Result<bool> {
        let mut left = READ;
        while left > 0 {
            self.input.reserve(READ.min(self.reader.limit));
            let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
            match read {
                Poll::Ready(Ok(n)) if n > 0 => left = left.saturating_sub(n),
                Poll::Ready(ended) => {
                    let why = match ended {
                        Ok(_) => "the broker closed the connection".to_owned(),
                        Err(e) => format!("reading from the broker failed: {e}"),
                    };
                    if left == READ {
                        bail!(why);
                    }
                    self.broken = Some(why);
                    break;
                }
                Poll::Pending => break,
            }
        }
        if left < READ {
            self.heard = Instant::now();
            self.pinged = None;
        }
        Ok(left < READ)
    }
}

async fn open(dial: &Dial) -> anyhow::Result<Box<dyn Stream>> {
    let Broker { tls, host, port } = &dial.broker;
    let addresses: Vec<_> = lookup_host((host.as_str(), *port)).await?.take(ADDRESSES).collect();
    let mut last = anyhow!("the name has no address");
    for address in &addresses {
        // A share for each, lest one that swallows packets (a dead IPv6 route) takes the time of the others.
        let share = dial.connect / addresses.len() as u32;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                if !tls {
                    return Ok(Box::new(stream));
                }
                let connector = TlsConnector::from(tls::client_config(&dial.tls)?);
                let name = dial.tls.server_name(host)?;
                return Ok(Box::new(
                    connector.connect(name, stream).await.map_err(|e| anyhow!("tls: {}", tls::failure(&e)))?,
                ));
            }
            Ok(Err(e)) => last = anyhow!(e),
            Err(_) => last = anyhow!("{address} did not answer within {}", Span(share)),
        }
    }
    Err(last)
}
