//! A request's body, read within limits of size, time and memory.

use super::answer::Problem;
use crate::{
    budget::{self, Pool},
    sources::seats::Seat,
};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::{
    StatusCode,
    body::{Body, Frame, Incoming},
};
use std::{
    io::Read,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};

/// A body has arrived this long after its head.
const WHOLE: Duration = Duration::from_secs(30);
/// Until then it must keep this pace, in bytes per second, after a start of `START`: a GPRS link manages 20 times that.
const PACE: u64 = 100;
const START: Duration = Duration::from_secs(5);
/// Sensor data compresses 5 to 50 times; what grows more than this is a bomb.
const RATIO: usize = 200;
/// Decompressed piece by piece, so that a bomb is noticed early.
const PIECE: usize = 16 << 10;

/// A request waits so long for memory, in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of a body, so much is read before the memory for all of it is drawn: who sends nothing has none.
const FIRST: usize = 8 << 10;
/// Who has it keeps this pace, in bytes per second, if others wait for memory.
const FAIR: u64 = 16 << 10;
/// Whether they do is looked at so often.
const LOOK: Duration = Duration::from_secs(1);

/// Memory that all bodies share, and that all sources do.
pub(super) struct Room {
    limit: usize,
    taken: AtomicUsize,
    pool: Pool,
}

impl Room {
    pub fn new(limit: usize, pool: &Pool) -> Self {
        Room { limit, taken: AtomicUsize::new(0), pool: pool.apart() }
    }
}

/// One request's part of it, given back when dropped.
pub(super) struct Share<'a> {
    room: &'a Room,
    bytes: usize,
    /// Twice as much: what is made of a body is as large once more.
    drawn: budget::Share,
    patience: Duration,
}

impl<'a> Share<'a> {
    pub fn of(room: &'a Room) -> Self {
        Share { room, bytes: 0, drawn: room.pool.share(), patience: PATIENCE }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.room.taken.load(Relaxed) + bytes <= self.room.limit
    }

    /// Waits for the memory of so many bytes more, of `all` that are said to come.
    async fn grow(&mut self, bytes: usize, all: usize) -> Result<(), Problem> {
        self.bytes += bytes;
        if self.room.taken.fetch_add(bytes, Relaxed) + bytes > self.room.limit {
            return Err(crowded());
        }
        let drawn = self.drawn.bytes();
        if drawn > 0 && 2 * self.bytes <= drawn {
            return Ok(());
        }
        // All of it at once: if each had a part, none could go on.
        let want = if self.bytes <= FIRST { all.min(FIRST) } else { all.max(self.bytes) };
        self.draw((2 * want).saturating_sub(drawn)).await
    }

    /// Whether others wait for what this has drawn.
    fn is_wanted(&self) -> bool {
        self.bytes > FIRST && self.room.pool.is_wanted()
    }

    async fn draw(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes == 0 || self.drawn.grow(bytes) {
            return Ok(());
        }
        let begun = Instant::now();
        let drawn = timeout(self.patience, self.drawn.wait(bytes)).await;
        self.patience = self.patience.saturating_sub(begun.elapsed());
        if drawn == Ok(true) { Ok(()) } else { Err(crowded()) }
    }

    /// Memory for what events take besides their bytes.
    pub async fn extra(&mut self, bytes: usize) -> Result<(), Problem> {
        if self.drawn.bytes() + bytes > self.room.pool.limit() {
            let detail = "so many events at once take more than the memory for all requests; nothing was stored";
            return Err(Problem::too_large(detail));
        }
        self.draw(bytes).await
    }

    /// The body is gone, and so much is left of it.
    pub fn settle(&mut self, bytes: usize) {
        self.drawn.shrink(bytes);
    }
}

fn crowded() -> Problem {
    let detail = "too many requests wait for the disk; nothing was stored";
    // Most of the body is not read, and will not be.
    Problem::after(StatusCode::TOO_MANY_REQUESTS, 1, detail).closing()
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Relaxed);
    }
}

/// Reads the body to its end. Where there is no memory for it, a slower one has to give its own back.
pub(super) async fn read(mut body: Incoming, max: usize, share: &mut Share<'_>, seat: &Seat) -> Result<Bytes, Problem> {
    let too_large = || Problem::too_large(format!("the body is over the limit of {max} bytes; nothing was stored"));
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let size = body.size_hint().lower() as usize;
    let all = body.size_hint().upper().map_or(max, |bytes| usize::try_from(bytes).unwrap_or(max));
    share.grow(0, all).await?;
    let start = Instant::now();
    let (mut first, mut rest) = (Bytes::new(), Vec::new());
    loop {
        let got = first.len() + rest.len();
        let pace = START + Duration::from_secs(got as u64 / PACE);
        let frame = match frame(&mut body, share, start, pace.min(WHOLE), got as u64).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(Problem::bad_request(format!("the body does not end well: {error}"))),
            Err(_) => {
                let detail = "the body comes too slowly; nothing was stored";
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail).closing());
            }
        };
        let Ok(data) = frame.into_data() else { continue }; // trailers say nothing here
        while !share.fits(data.len()) && seat.make_room().await {}
        share.grow(data.len(), all).await?;
        seat.holds(share.bytes);
        if got + data.len() > max {
            return Err(too_large());
        }
        if got == 0 {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve_exact(size); // what is not written to takes no memory
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    share.settle(2 * (first.len() + rest.len()));
    Ok(if rest.is_empty() { first } else { rest.into() })
}

/// The next piece, within `limit` after the start; sooner if others wait for memory.
async fn frame(
    body: &mut Incoming,
    share: &Share<'_>,
    start: Instant,
    limit: Duration,
    got: u64,
) -> Result<Option<Result<Frame<Bytes>, hyper::Error>>, Elapsed> {
    let fair = START + Duration::from_secs(got / FAIR);
    loop {
        let look = Instant::now() + LOOK;
        match timeout_at(look.min(start + limit), body.frame()).await {
            Err(_) if start.elapsed() < limit && !(share.is_wanted() && start.elapsed() > fair) => {}
            ended => return ended,
        }
    }
}

/// Decompresses a body.
pub(super) async fn gunzip(packed: &[u8], max: usize, share: &mut Share<'_>) -> Result<Bytes, Problem> {
    let mut reader = MultiGzDecoder::new(packed);
    let (mut out, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let n = match reader.read(&mut piece) {
            Ok(0) => return Ok(out.into()),
            Ok(n) => n,
            Err(error) => return Err(Problem::bad_request(format!("the body is not gzip as it should be: {error}"))),
        };
        share.grow(n, packed.len() + max.min(RATIO * packed.len())).await?;
        let size = out.len() + n;
        if size > max {
            return Err(Problem::too_large(format!(
                "the decompressed body is over the limit of {max} bytes; nothing was stored"
            )));
        }
        if size > PIECE + RATIO * packed.len() {
            let detail = format!("the body grows more than {RATIO} times when decompressed; nothing was stored");
            return Err(Problem::too_large(detail));
        }
        out.extend_from_slice(&piece[..n]);
    }
}
