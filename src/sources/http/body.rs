//! A request's body, read within limits of size, time and memory.

use super::answer::Problem;
use crate::sources::seats::Seat;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::{
    StatusCode,
    body::{Body, Incoming},
};
use std::{
    io::Read,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// A body has arrived this long after its head.
const WHOLE: Duration = Duration::from_secs(30);
/// Until then it must keep this pace, in bytes per second, after a start of `START`: a GPRS link manages 20 times that.
const PACE: u64 = 100;
const START: Duration = Duration::from_secs(5);
/// Sensor data compresses 5 to 50 times; what grows more than this is a bomb.
const RATIO: usize = 200;
/// Decompressed piece by piece, so that a bomb is noticed early.
const PIECE: usize = 16 << 10;

/// Memory that all bodies share.
pub(super) struct Room {
    limit: usize,
    taken: AtomicUsize,
}

impl Room {
    pub fn new(limit: usize) -> Self {
        Room { limit, taken: AtomicUsize::new(0) }
    }
}

/// One request's part of it, given back when dropped.
pub(super) struct Share<'a> {
    room: &'a Room,
    bytes: usize,
}

impl<'a> Share<'a> {
    pub fn of(room: &'a Room) -> Self {
        Share { room, bytes: 0 }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.room.taken.load(Relaxed) + bytes <= self.room.limit
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes += bytes;
        if self.room.taken.fetch_add(bytes, Relaxed) + bytes > self.room.limit {
            let detail = "too many requests wait for the disk; nothing was stored";
            return Err(Problem::after(StatusCode::TOO_MANY_REQUESTS, 1, detail));
        }
        Ok(())
    }
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
    let start = Instant::now();
    let (mut first, mut rest) = (Bytes::new(), Vec::new());
    loop {
        let got = first.len() + rest.len();
        let pace = START + Duration::from_secs(got as u64 / PACE);
        let frame = match timeout_at(start + pace.min(WHOLE), body.frame()).await {
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
        share.grow(data.len())?;
        seat.holds(share.bytes);
        if got + data.len() > max {
            return Err(too_large());
        }
        if got == 0 {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.into() })
}

/// Decompresses a body.
pub(super) fn gunzip(packed: &[u8], max: usize, share: &mut Share<'_>) -> Result<Bytes, Problem> {
    let mut reader = MultiGzDecoder::new(packed);
    let (mut out, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let n = match reader.read(&mut piece) {
            Ok(0) => return Ok(out.into()),
            Ok(n) => n,
            Err(error) => return Err(Problem::bad_request(format!("the body is not gzip as it should be: {error}"))),
        };
        share.grow(n)?;
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
