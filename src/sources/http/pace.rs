//! How fast a connection must go: hyper has no limit for idle connections apart from the one for heads, and none for
//! answers that nobody reads.

use crate::sources::seats::Seat;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// A request's head has arrived this long after its first byte, or after the connection was made. A TLS handshake has
/// as long. 16 KiB take 8 s on a GPRS link.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// A connection may be idle this long between requests; also, an answer is taken within it. Devices that report once a
/// minute keep theirs.
pub(super) const IDLE: Duration = Duration::from_secs(65);
/// After an answer that closes the connection, what still comes in is thrown away for this long: closing at once would
/// reset the connection, and the client might never see why.
const LINGER: Duration = Duration::from_secs(2);

/// Counts the changes between serving and not: odd while a request is being served.
#[derive(Clone, Default)]
pub(super) struct Turn(Arc<AtomicU32>);

impl Turn {
    pub fn change(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// A stream that fails when its peer is too slow.
pub(super) struct Paced<'a, S> {
    inner: S,
    turn: Turn,
    seat: &'a Seat,
    seen: u32,
    since: Instant,
    in_head: bool,
    closing: Option<Instant>,
    /// Rings at the deadline or before it; what is due is looked up then.
    alarm: Pin<Box<Sleep>>,
}

impl<'a, S> Paced<'a, S> {
    pub fn new(inner: S, turn: Turn, seat: &'a Seat) -> Self {
        let since = Instant::now();
        Paced { inner, turn, seat, seen: 0, since, in_head: true, closing: None, alarm: Box::pin(sleep(HEAD)) }
    }

    /// Called when the peer makes us wait.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.look();
        if self.serving() {
            return Poll::Pending;
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let (now, due) = (Instant::now(), self.since + if self.in_head { HEAD } else { IDLE });
            if now >= due {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.alarm.as_mut().reset(due.min(now + HEAD));
        }
    }

    /// Called when the peer does not read what it is answered.
    fn unread<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let slow = self.wait(cx);
        if !self.serving() {
            self.seat.waits(self.since.elapsed());
        }
        slow.map(Err)
    }

    fn look(&mut self) {
        let turn = self.turn.0.load(Relaxed);
        if turn != self.seen {
            (self.seen, self.since, self.in_head) = (turn, Instant::now(), false);
        }
    }

    fn serving(&self) -> bool {
        self.seen % 2 == 1
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<'_, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buf) else {
            return this.wait(cx).map(Err);
        };
        this.look();
        if !this.in_head && !this.serving() {
            (this.in_head, this.since) = (true, Instant::now());
            this.seat.waits(Duration::ZERO);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<'_, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_write(cx, buf) {
            Poll::Pending => this.unread(cx),
            done => done,
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_write_vectored(cx, bufs) {
            Poll::Pending => this.unread(cx),
            done => done,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes an answer and, if it waits for the next request already, does not read again by itself: so this is
    /// where the time of being idle begins.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        match this.wait(cx) {
            Poll::Ready(slow) => Poll::Ready(Err(slow)),
            Poll::Pending => flushed,
        }
    }

    /// Says that nothing more is written, then reads until the peer has said so too, or for a while.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            let due = Instant::now() + LINGER;
            this.closing = Some(due);
            this.alarm.as_mut().reset(due);
        }
        if this.alarm.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        let mut rest = [0; 4096];
        for _ in 0..16 {
            let mut rest = ReadBuf::new(&mut rest);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
