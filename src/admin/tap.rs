//! An answer that goes on: events as they pass, a line each.

use super::{Call, Desk, Reply};
use crate::{budget::Span, expr::Expr, runtime::Passing};
use bytes::Bytes;
use hyper::body::{Body, Frame};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};

/// Where it is asked for.
pub(super) const PATH: &str = "/api/v1/tap";
/// It ends at the latest after this.
pub(super) const LONGEST: Duration = Duration::from_secs(600);
/// At once: each takes memory and, of a process, a little of its time.
pub(super) const AT_ONCE: usize = 4;

/// Lines until time or number is over. A count says how many there were, and how many found no room: when that has doubled, and
/// at the end.
pub(super) struct Lines(Option<Step>);

type Step = Pin<Box<dyn Future<Output = (Bytes, Option<Tail>)> + Send>>;

struct Tail {
    passing: Passing,
    until: Pin<Box<Sleep>>,
    told: u64,
    most: u64,
    /// How many had found no room at the last count.
    counted: u64,
    _seat: OwnedSemaphorePermit,
}

impl Tail {
    async fn step(mut self) -> (Bytes, Option<Tail>) {
        let line = match self.told < self.most {
            true => tokio::select! {
                biased;
                () = &mut self.until => None,
                line = self.passing.next() => line,
            },
            false => None,
        };
        match line {
            Some(line) => {
                self.told += 1;
                let dropped = self.passing.dropped();
                if dropped > 2 * self.counted {
                    self.counted = dropped;
                    return ([line, self.count()].concat().into(), Some(self));
                }
                (line.into(), Some(self))
            }
            None => (self.count().into(), None),
        }
    }

    fn count(&self) -> Vec<u8> {
        format!("{{\"tapped\":{},\"dropped\":{}}}\n", self.told, self.passing.dropped()).into()
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(step) = &mut self.0 else { return Poll::Ready(None) };
        step.as_mut().poll(cx).map(|(line, tail)| {
            self.0 = tail.map(|tail| Box::pin(tail.step()) as Step);
            Some(Ok(Frame::data(line)))
        })
    }
}

impl Desk {
    pub(super) fn tap(&self, call: &Call) -> Result<Lines, Reply> {
        let running = self.running.as_ref().ok_or_else(|| Reply::problem(503, "no gateway runs: nothing passes"))?;
        let target =
            call.text("of").ok_or_else(|| Reply::problem(400, "expected `of`: a topic, or `PIPELINE.PROCESS`"))?;
        let when = call.text("when").map(|when| Expr::parse(&when)).transpose();
        let when = when.map_err(|error| Reply::problem(400, &format!("`when`: {error}")))?;
        let span = call.text("for").map_or(Ok(Span(LONGEST)), |text| text.parse());
        let span: Span = span.map_err(|error: String| Reply::problem(400, &format!("`for`: {error}")))?;
        let most = call.number("n")?.unwrap_or(u64::MAX);
        let seat = self.taps.clone().try_acquire_owned();
        let seat = seat.map_err(|_| Reply::problem(429, &format!("{AT_ONCE} others look on already")))?;
        let passing = running.tap(&target, when).map_err(|error| Reply::problem(404, &error))?;
        let until = Box::pin(sleep(span.0.min(LONGEST)));
        Ok(Lines(Some(Box::pin(Tail { passing, until, told: 0, most, counted: 0, _seat: seat }.step()))))
    }
}
