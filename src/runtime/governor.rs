//! How fast a sink may send: a bucket of events and one of bytes, filled at their rates, emptied by what is sent.

use crate::config::Drain;
use std::time::Duration;
use tokio::time::Instant;

/// A bucket holds what comes in this time: so many batches a second, rather than one event at a time.
const BURST: Duration = Duration::from_millis(250);

pub(super) struct Governor {
    events: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// What is in it may be sent at once. Urgent events, which do not wait, and an event larger than all that fits leave less
/// than nothing, which is made good before anything else goes.
struct Bucket {
    rate: f64,
    most: f64,
    level: f64,
    filled: Instant,
    /// It ran empty: nothing is sent before it is full.
    refilling: bool,
}

impl Governor {
    pub fn new(drain: &Drain) -> Self {
        let bucket = |rate: f64| {
            let most = (rate * BURST.as_secs_f64()).max(1.0);
            Bucket { rate, most, level: most, filled: Instant::now(), refilling: false }
        };
        Governor {
            events: drain.events.map(|events| bucket(f64::from(events))),
            bytes: drain.bytes.map(|bytes| bucket(bytes.0 as f64)),
        }
    }

    /// How many events and bytes may go now, or how long to wait.
    pub fn room(&mut self) -> Result<(usize, usize), Duration> {
        let room = |bucket: &mut Option<Bucket>| bucket.as_mut().map_or(Ok(usize::MAX), Bucket::room);
        match (room(&mut self.events), room(&mut self.bytes)) {
            (Ok(events), Ok(bytes)) => Ok((events, bytes)),
            (events, bytes) => Err(events.err().max(bytes.err()).unwrap_or_default()),
        }
    }

    /// So much is sent.
    pub fn spend(&mut self, events: usize, bytes: usize) {
        for (bucket, amount) in [(&mut self.events, events), (&mut self.bytes, bytes)] {
            if let Some(bucket) = bucket {
                bucket.level -= amount as f64;
            }
        }
    }
}

impl Bucket {
    fn room(&mut self) -> Result<usize, Duration> {
        let now = Instant::now();
        self.level = (self.level + self.rate * (now - self.filled).as_secs_f64()).min(self.most);
        self.filled = now;
        let missing = self.most - self.level;
        self.refilling = if self.refilling { missing > 1e-6 } else { self.level < 1.0 };
        if self.refilling {
            return Err(Duration::from_secs_f64(missing / self.rate).max(Duration::from_millis(1)));
        }
        Ok(self.level as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Size;
    use tokio::time::{advance, sleep};

    /// Sends as much as may go for `time`; gives what went in all.
    async fn sent(governor: &mut Governor, size: usize, time: Duration) -> (usize, usize) {
        let end = Instant::now() + time;
        let (mut events, mut bytes) = (0, 0);
        while Instant::now() < end {
            match governor.room() {
                Ok((count, room)) => {
                    let count = count.min(room.div_ceil(size)).min(1000);
                    governor.spend(count, count * size);
                    (events, bytes) = (events + count, bytes + count * size);
                }
                Err(wait) => sleep(wait).await,
            }
        }
        (events, bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_goes_than_the_rate_and_a_burst() {
        for (events, bytes, size, want) in [
            (Some(500), None, 100, 5_000),
            (Some(1), None, 100, 10),
            (Some(1_000_000), None, 100, 10_000_000),
            (None, Some(10_000), 100, 1_000),
            (None, Some(10_000), 4_000, 25), // an event is larger than the bucket
            (None, Some(10_000), 50_000, 2),
            (Some(500), Some(10_000), 100, 1_000),
        ] {
            let mut governor = Governor::new(&Drain { events, bytes: bytes.map(Size), live: None });
            let (got, _) = sent(&mut governor, size, Duration::from_secs(10)).await;
            let burst = (want / 40).max(1);
            assert!((want - 1..=want + burst + 1).contains(&got), "{events:?} {bytes:?} {size}: {got}, not {want}");
            // A pause is not saved up.
            advance(Duration::from_secs(3600)).await;
            let (got, _) = sent(&mut governor, size, Duration::from_millis(1)).await;
            assert!(got <= burst + 1, "{events:?} {bytes:?} {size}: {got} at once after a pause");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_wait_is_made_good() {
        let mut governor = Governor::new(&Drain { events: Some(100), ..Drain::default() });
        governor.spend(1_025, 0);
        assert_eq!(governor.room(), Err(Duration::from_millis(10_250)));
        advance(Duration::from_millis(10_250)).await;
        assert_eq!(governor.room(), Ok((25, usize::MAX)));
    }
}
