//! How fast a client must be: with a packet that it has begun, and in taking what it is sent.

use crate::sources::seats::Seat;
use std::time::Duration;
use tokio::time::Instant;

/// A packet that has begun comes at this pace, in bytes per second, after a start of `START`: a GPRS link manages 20 times that.
const PACE: usize = 100;
const START: Duration = Duration::from_secs(10);
/// Whatever its pace, a packet of the largest size takes no longer than at so many bytes per second.
const LEAST: usize = 1 << 10;
/// A client takes some of what waits for it within this.
const STUCK: Duration = Duration::from_secs(65);

#[derive(Debug, Default)]
pub struct Pace {
    /// Since when a part of a packet is there, and how many bytes of it.
    torn: Option<(Instant, usize)>,
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
        self.torn = (torn > 0).then(|| (self.torn.map_or(now, |(since, _)| since), torn));
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
        match self.torn.map(|(since, _)| since).into_iter().chain(self.stuck).min() {
            Some(since) => seat.waits(since.elapsed()),
            None => seat.rests(most.saturating_sub(silent)),
        }
    }

    /// When the client will have been too slow; `longest` is the size of the largest packet.
    pub fn due(&self, longest: usize) -> Option<Instant> {
        let torn = self.torn.map(|(since, got)| {
            let seconds = (got / PACE).min(longest / LEAST);
            since + START + Duration::from_secs(seconds as u64)
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
            (0, 0, None),
            (1, 0, Some(10)),
            (99, 0, Some(10)),
            (1000, 0, Some(20)),
            (1 << 20, 0, Some(266)),
            (0, 1, Some(65)),
            (6000, 1, Some(65)),
        ] {
            let mut pace = Pace::default();
            let begun = Instant::now();
            pace.note(torn, waiting);
            tokio::time::advance(Duration::from_secs(3)).await;
            pace.note(torn, waiting);
            let due = pace.due(256 << 10).map(|due| (due - begun).as_secs());
            assert_eq!(due, want, "{torn} {waiting}");
            pace.reads(true);
            pace.whole();
            assert_eq!(pace.due(256 << 10), None);
        }
    }
}
