//! One connection after its CONNECT: a loop turns all that can happen into one step after another.

use super::{
    Shared,
    access::Grant,
    encode,
    hub::{Claim, Takeover},
    inbound::{Gather, Last},
    memory::Holding,
    pace::Pace,
    session::{Session, Sub},
    wire::{self, Broken, Frame, Version, kind, protocol, reason},
};
use crate::{
    sources::seats::Seat,
    store::{Lot, Reader, Refusal},
};
use bytes::{Buf, BytesMut};
use std::{
    collections::{HashMap, VecDeque},
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};

/// TCP or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Bytes of packets that may wait for the disk; more are not read.
const UNCOMMITTED: usize = 256 << 10;
/// Bytes that may wait for the client: beyond, nothing more is put out for it, or, beyond `STOP` times as many, read from it.
pub const OUT_FULL: usize = 64 << 10;
/// So many where memory is short.
pub const OUT_LEAST: usize = 8 << 10;
const STOP: usize = 4;
/// Read at a time, at most. Large enough for what a fast client sends while one batch is committed.
pub const READ: usize = 16 << 10;
/// Room that an idle connection keeps.
pub const IDLE: usize = 4 << 10;
/// What was delivered is noted this often.
const LOOK: Duration = Duration::from_millis(250);
/// A client gets this long to take what was put out for it at the end.
const GOODBYE: Duration = Duration::from_secs(2);
/// And this long to close its side.
const LINGER: Duration = Duration::from_millis(500);

/// Why a connection ends.
#[derive(Debug)]
pub enum End {
    /// The client went away without a word.
    Gone,
    /// It said goodbye; whether its will is wanted.
    Goodbye { will: bool },
    /// It broke the rules, or cannot be served.
    Broken(Broken),
    /// Another connection has its client id.
    Takeover(Takeover),
}

impl std::fmt::Debug for Takeover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Takeover").field("clean", &self.clean).finish_non_exhaustive()
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        End::Broken(broken)
    }
}

pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub type Pull = Task<(Reader, Result<Lot, Refusal>)>;

/// What a client of MQTT 5 asked for; what one of 3.1.1 gets.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub keep_alive: Option<Duration>,
    pub receive_maximum: usize,
    pub packet_maximum: usize,
    pub alias_maximum: u16,
}

pub struct Link {
    pub shared: Arc<Shared>,
    pub version: Version,
    pub grant: Grant,
    pub terms: Terms,
    pub session: Session,
    pub claim: Claim,
    /// What the client has to read, and how much of it was written.
    pub out: Vec<u8>,
    written: usize,
    /// TLS may hold back the rest of a record.
    unflushed: bool,
    pub gather: Gather,
    flying: Option<Task<(Gather, Result<(), Refusal>)>>,
    pub flying_bytes: usize,
    pub flying_memory: usize,
    holding: Holding,
    pub pull: Option<Pull>,
    pub reader: Option<Reader>,
    /// The session lags too far behind: read on, and drop what does not fit.
    pub hurry: bool,
    /// Subscriptions that still get retained messages, and the topic of the last they got.
    pub shelf: VecDeque<(Sub, Option<Arc<str>>)>,
    pub aliases_in: HashMap<u16, Box<str>>,
    pub aliases_out: HashMap<String, u16>,
    pub last: Last,
    /// Whether the client may publish to the last topic.
    pub allowed: bool,
    /// Messages published since the rate was last looked at, and what the client may still send.
    pub published: u32,
    tokens: f64,
    refilled: Instant,
    throttled: Option<Instant>,
    pace: Pace,
    seen: Instant,
    looked: Instant,
}

impl Link {
    pub fn new(
        shared: Arc<Shared>,
        version: Version,
        grant: Grant,
        terms: Terms,
        session: Session,
        claim: Claim,
    ) -> Self {
        let now = Instant::now();
        let holding = Holding::new(&shared.hub.events);
        let pace = Pace::new(!session.subs.is_empty());
        Link {
            tokens: f64::from(shared.config.rate.unwrap_or(0)),
            shared,
            version,
            grant,
            terms,
            session,
            claim,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            gather: Gather::default(),
            flying: None,
            flying_bytes: 0,
            flying_memory: 0,
            holding,
            pull: None,
            reader: None,
            hurry: false,
            shelf: VecDeque::new(),
            aliases_in: HashMap::new(),
            aliases_out: HashMap::new(),
            last: Last::default(),
            allowed: false,
            published: 0,
            refilled: now,
            throttled: None,
            pace,
            seen: now,
            looked: now,
        }
    }

    /// Bytes that wait for the client.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// Serves until the end; `input` is what came after the CONNECT.
    pub async fn run(mut self, stream: &mut dyn Stream, mut input: BytesMut, seat: &Seat) -> (Session, Claim, End) {
        let mut end = match self.digest(&mut input).await {
            Ok(()) => self.turn(stream, &mut input, seat).await,
            Err(end) => end,
        };
        // What came in is stored, even if nobody is there to hear of it.
        if let Err(worse) = self.settle().await
            && !matches!(end, End::Takeover(_) | End::Gone)
        {
            end = worse;
        }
        match &end {
            End::Broken(Broken(code, _)) => encode::disconnect(&mut self.out, self.version, *code),
            End::Takeover(_) => encode::disconnect(&mut self.out, self.version, reason::TAKEN_OVER),
            End::Gone | End::Goodbye { .. } => {}
        }
        if !matches!(end, End::Gone) {
            let rest = self.out.get(self.written..).unwrap_or_default();
            let goodbye = async {
                stream.write_all(rest).await?;
                stream.shutdown().await
            };
            timeout(GOODBYE, goodbye).await.ok();
            if matches!(end, End::Broken(_)) {
                timeout(LINGER, linger(stream)).await.ok();
            }
        }
        (self.session, self.claim, end)
    }

    async fn turn(&mut self, stream: &mut dyn Stream, input: &mut BytesMut, seat: &Seat) -> End {
        let (mut rd, mut wr) = tokio::io::split(stream);
        let sleep = sleep_until(self.deadline());
        tokio::pin!(sleep);
        loop {
            self.launch();
            self.listen();
            let more = self.uncommitted() == 0 || self.uncommitted() < UNCOMMITTED && self.shared.hub.may_gather();
            let reads = self.waiting() < STOP * self.shared.out_full()
                && more
                && self.throttled.is_none()
                && self.holding.wait.is_none();
            if reads && input.capacity() - input.len() < IDLE {
                input.reserve(READ);
            }
            self.pace.note(if reads { input.len() } else { 0 }, self.waiting());
            self.pace.judge(seat, self.seen.elapsed(), self.silence());
            let deadline = self.deadline();
            if sleep.is_elapsed() || deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
            }
            let result = tokio::select! {
                biased;
                call = &mut self.claim.call => match call {
                    Ok(takeover) => Err(End::Takeover(takeover)),
                    Err(_) => Err(End::Gone),
                },
                (gather, result) = maybe(&mut self.flying) => {
                    self.flying = None;
                    let landed = self.landed(gather, result);
                    self.holding.shrink(self.gather.memory());
                    landed
                }
                n = put(&mut wr, &self.out[self.written..]), if self.written < self.out.len() || self.unflushed => match n {
                    Ok(n) => {
                        self.put_out(n);
                        self.pump()
                    }
                    Err(_) => Err(End::Gone),
                },
                n = rd.read_buf(input), if reads => match n {
                    Ok(0) | Err(_) => Err(End::Gone),
                    Ok(_) => {
                        self.seen = Instant::now();
                        self.digest(input).await
                    }
                },
                share = maybe(&mut self.holding.wait) => match self.holding.take(share) {
                    true => self.digest(input).await,
                    false => Err(Broken(reason::TOO_LARGE, "the packet is over the memory for all packets").into()),
                },
                (reader, lot) = maybe(&mut self.pull) => {
                    self.pull = None;
                    self.reader = Some(reader);
                    self.deliver(lot)
                }
                () = seat.out() => Err(End::Gone),
                () = &mut sleep => self.look(),
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    fn put_out(&mut self, n: usize) {
        self.pace.reads(n > 0);
        self.written += n;
        self.unflushed = n > 0 && self.shared.config.tls.is_some();
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if self.out.capacity() > self.shared.out_full() {
                self.out.shrink_to(IDLE);
            }
        }
    }

    /// When to look at the time again.
    fn deadline(&self) -> Instant {
        let silence = self.terms.keep_alive.unwrap_or(Duration::from_secs(3600));
        let look = if self.session.subs.is_empty() { Duration::from_secs(3600) } else { LOOK };
        let alive = self.seen + silence + silence / 2;
        let slow = self.pace.due(self.longest()).unwrap_or(alive).min(self.holding.due().unwrap_or(alive));
        alive.min(self.looked + look).min(self.throttled.unwrap_or(alive)).min(slow)
    }

    /// How long the client may be silent, in any case.
    fn silence(&self) -> Duration {
        let most = self.shared.config.keep_alive.0;
        self.terms.keep_alive.unwrap_or(most).min(most) * 3 / 2
    }

    fn longest(&self) -> usize {
        self.shared.config.max_packet.bytes()
    }

    fn look(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.throttled.is_some_and(|until| until <= now) {
            self.throttled = None;
        }
        if let Some(silence) = self.terms.keep_alive
            && now >= self.seen + silence + silence / 2
        {
            // What is throttled, or waits for memory or the disk, was sent in time.
            if self.throttled.is_none() && self.holding.wait.is_none() && self.uncommitted() < UNCOMMITTED {
                return Err(Broken(reason::KEEP_ALIVE, "the client was silent for too long").into());
            }
            self.seen = now;
        }
        if self.holding.is_slow(now) {
            return Err(Broken(reason::QUOTA, "a packet comes too slowly while others wait for memory").into());
        }
        if self.pace.due(self.longest()).is_some_and(|due| due <= now) {
            return Err(Broken(reason::KEEP_ALIVE, "the client is too slow").into());
        }
        if now >= self.looked + LOOK {
            self.looked = now;
            self.catch_up();
        }
        Ok(())
    }

    /// Works through all whole packets that were read.
    async fn digest(&mut self, input: &mut BytesMut) -> Result<(), End> {
        let mut buffer = std::mem::take(input);
        let mut at = 0;
        let result = loop {
            match wire::frame(&buffer[at..], self.shared.config.max_packet.bytes()) {
                Ok(Some(frame)) => {
                    if !self.holding.packet(self.gather.memory() + self.flying_memory, frame.len) {
                        break Ok(());
                    }
                    at += frame.len;
                    if let Err(end) = self.packet(&frame).await {
                        break Err(end);
                    }
                }
                Ok(None) => break Ok(()),
                Err(broken) => break Err(broken.into()),
            }
        };
        buffer.advance(at);
        if buffer.capacity() > 2 * READ && buffer.len() <= IDLE {
            let mut rest = BytesMut::with_capacity(2 * IDLE);
            rest.extend_from_slice(&buffer);
            buffer = rest;
        }
        if let Some(whole) = wire::whole(&buffer).filter(|whole| result.is_ok() && *whole > buffer.len())
            && self.holding.begun(self.gather.memory() + self.flying_memory, whole)
            && whole > READ
        {
            buffer.reserve(whole - buffer.len() + IDLE); // at once, not by doubling
        }
        *input = buffer;
        self.throttle();
        result
    }

    async fn packet(&mut self, frame: &Frame<'_>) -> Result<(), End> {
        self.pace.whole();
        match frame.first >> 4 {
            kind::PUBLISH => self.publish(frame),
            kind::PUBREL => self.released(frame),
            kind::PUBACK | kind::PUBREC | kind::PUBCOMP => self.answered(frame),
            kind::SUBSCRIBE => self.subscribe(frame.body).await,
            kind::UNSUBSCRIBE => self.unsubscribe(frame.body).await,
            kind::PINGREQ if frame.body.is_empty() => {
                encode::pong(&mut self.out);
                Ok(())
            }
            kind::DISCONNECT => Err(self.goodbye(frame.body)?),
            kind::CONNECT => Ok(protocol("a second CONNECT")?),
            _ => Ok(protocol("a packet that only servers send, or none at all")?),
        }
    }

    fn goodbye(&mut self, body: &[u8]) -> Result<End, End> {
        let (code, expiry) = super::decode::disconnect(body, self.version)?;
        if let Some(expiry) = expiry {
            if expiry > 0 && !self.session.lasts() {
                return Err(Broken(reason::PROTOCOL, "a session cannot begin to last at its end").into());
            }
            if expiry == 0 {
                self.session.ends_now = true;
            } else {
                self.session.expiry = expiry.min(self.shared.config.expiry_limit());
            }
        }
        Ok(End::Goodbye { will: code == reason::WITH_WILL })
    }

    /// Sends what was gathered to the store, unless something is on its way: one batch at a time keeps the order.
    fn launch(&mut self) {
        if self.flying.is_none() && !self.gather.is_empty() {
            let gather = std::mem::take(&mut self.gather);
            (self.flying_bytes, self.flying_memory) = (gather.bytes, gather.memory());
            self.shared.hub.flies(gather.bytes);
            self.flying = Some(Box::pin(gather.commit(self.shared.clone())));
        }
    }

    /// Waits until everything that was gathered is committed and answered.
    pub async fn settle(&mut self) -> Result<(), End> {
        loop {
            if let Some(flying) = self.flying.take() {
                let (gather, result) = flying.await;
                self.landed(gather, result)?;
            }
            if self.gather.is_empty() {
                return Ok(());
            }
            self.launch();
        }
    }

    /// Takes what was published off the allowance; without any left, the client has to wait.
    fn throttle(&mut self) {
        let published = f64::from(std::mem::take(&mut self.published));
        let Some(rate) = self.shared.config.rate.map(f64::from) else { return };
        let now = Instant::now();
        self.tokens = (self.tokens + rate * (now - self.refilled).as_secs_f64()).min(rate) - published;
        self.refilled = now;
        if self.tokens < 0.0 {
            self.throttled = Some(now + Duration::from_secs_f64((-self.tokens / rate).min(60.0)));
        }
    }
}

/// Writes some of what is there; if nothing is, flushes.
async fn put(wr: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<usize> {
    if bytes.is_empty() {
        return wr.flush().await.map(|()| 0);
    }
    match wr.write(bytes).await {
        Ok(0) => Err(std::io::ErrorKind::WriteZero.into()),
        done => done,
    }
}

/// Reads what is still under way, so that closing does not take back the goodbye (a reset drops what was sent).
async fn linger(stream: &mut dyn Stream) {
    let mut sink = [0; 1024];
    for _ in 0..1024 {
        if !matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {
            break;
        }
    }
}

async fn maybe<T>(task: &mut Option<Task<T>>) -> T {
    match task {
        Some(task) => task.await,
        None => pending().await,
    }
}
