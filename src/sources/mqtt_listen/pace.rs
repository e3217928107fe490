//! How fast a client must be: with a packet that it has begun, and in taking what it is sent.

use crate::sources::seats::Seat;
use std::time::Duration;
use tokio::time::Instant;

/// Of a packet that has begun so many bytes come, or its end, within this: a GPRS link manages 20 times that.
const STEP: usize = 1000;
const WITHIN: Duration = Duration::from_secs(10);
/// Whatever its pace, a packet of the largest size takes no longer than at so many bytes per second.
const LEAST: usize = 1 << 10;
/// A client takes some of what waits for it within this.
const STUCK: Duration = Duration::from_secs(65);

#[derive(Clone, Copy, Debug)]
struct Torn {
    begun: Instant,
    /// When it last was a step longer, and how long it was then.
    last: (Instant, usize),
}

#[derive(Debug, Default)]
pub struct Pace {
    /// A part of a packet is there.
    torn: Option<Torn>,
    /// Since when the client has taken nothing of what waits for it.
    stuck: Option<Instant>,
    /// Whether the connection is of use: there was a whole packet after the CONNECT, or there are subscriptions.
    spoke: bool,
}

impl Pace {
    /// `spoke`: the connection is of use from the start.
    pub fn new(spoke: bool) -> Self {
        Pace { spoke, ..Pace::default() }
    }

    /// Called with each change: bytes of a packet that is not whole, 0 if nobody reads on; bytes that wait for the client.
    pub fn note(&mut self, torn: usize, waiting: usize) {
        let now = Instant::now();
        self.torn = (torn > 0).then(|| self.torn.unwrap_or(Torn { begun: now, last: (now, torn) }));
        if let Some(known) = &mut self.torn
            && torn >= known.last.1 + STEP
        {
            known.last = (now, torn);
        }
        self.stuck = (waiting > 0).then(|| self.stuck.unwrap_or(now));
    }

    /// A packet is whole.
    pub fn whole(&mut self) {
        (self.torn, self.spoke) = (None, true);
    }

    /// The client has taken something.
    pub fn reads(&mut self, something: bool) {
        self.stuck = self.stuck.filter(|_| !something);
    }

    /// Tells the seat whether the client makes others wait; `silent` since when, and how long it may be.
    pub fn judge(&self, seat: &Seat, silent: Duration, most: Duration) {
        if self.spoke {
            seat.proves();
        }
        match self.torn.map(|torn| torn.last.0).into_iter().chain(self.stuck).min() {
            Some(since) => seat.waits(since.elapsed()),
            None => seat.rests(most.saturating_sub(silent)),
        }
    }

    /// When the client will have been too slow; `longest` is the size of the largest packet.
    pub fn due(&self, longest: usize) -> Option<Instant> {
        let torn = self.torn.map(|torn| {
            let whole = torn.begun + Duration::from_secs((longest / LEAST) as u64);
            torn.last.0.min(whole) + WITHIN
        });
        torn.into_iter().chain(self.stuck.map(|since| since + STUCK)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_packet_keeps_its_pace_and_answers_are_taken() {
        for (torn, waiting, want) in [
            ([0, 0], 0, None),
            ([1, 1], 0, Some(10)),
            ([5000, 5999], 0, Some(10)),
            ([5000, 6000], 0, Some(13)),
            ([0, 0], 1, Some(65)),
            ([6000, 6000], 1, Some(10)),
        ] {
            let mut pace = Pace::default();
            let begun = Instant::now();
            pace.note(torn[0], waiting);
            tokio::time::advance(Duration::from_secs(3)).await;
            pace.note(torn[1], waiting);
            let due = pace.due(256 << 10).map(|due| (due - begun).as_secs());
            assert_eq!(due, want, "{torn:?} {waiting}");
            pace.reads(true);
            pace.whole();
            assert_eq!(pace.due(256 << 10), None);
        }
        let (mut pace, begun) = (Pace::default(), Instant::now());
        for n in 1..60 {
            pace.note(n * STEP, 0);
            tokio::time::advance(Duration::from_secs(9)).await;
        }
        assert_eq!(pace.due(256 << 10).map(|due| (due - begun).as_secs()), Some(266), "in all");
    }
}
