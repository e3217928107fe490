//! When to try again: random, growing, and back to the start only after things held for a while.

use std::time::{Duration, Instant};

/// A link that worked for this long is believed; one that comes and goes keeps its long waits.
const STABLE: Duration = Duration::from_secs(10);

/// Decorrelated jitter: each wait is random between `initial` and three times the last, `max` at most, so that a fleet
/// does not come back in step.
#[derive(Debug)]
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
    last: Duration,
    up_since: Option<Instant>,
}

impl Backoff {
    pub fn new(initial: Duration, max: Duration) -> Self {
        let initial = initial.max(Duration::from_millis(1)).min(max.max(Duration::from_millis(1)));
        Backoff { initial, max: max.max(initial), last: initial, up_since: None }
    }

    /// It worked.
    pub fn succeeded(&mut self, now: Instant) {
        self.up_since.get_or_insert(now);
    }

    /// It failed: how long to wait.
    pub fn failed(&mut self, now: Instant) -> Duration {
        if self.up_since.take().is_some_and(|since| now.duration_since(since) >= STABLE) {
            self.last = self.initial;
        }
        let (low, high) = (self.initial.as_micros() as u64, self.last.as_micros() as u64 * 3);
        self.last = Duration::from_micros(fastrand::u64(low..=high.max(low))).min(self.max);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_is_capped_and_starts_over_only_after_a_stable_link() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_millis(900));
        let mut backoff = Backoff::new(initial, max);
        let start = Instant::now();
        let waits: Vec<_> = (0..50).map(|_| backoff.failed(start)).collect();
        assert!(waits.iter().all(|w| (initial..=max).contains(w)), "{waits:?}");
        assert!(waits.contains(&max), "{waits:?}");
        let mut short = 0;
        for n in 0..100 {
            backoff.last = max;
            backoff.succeeded(start);
            let held = if n % 2 == 0 { STABLE } else { STABLE / 2 };
            let wait = backoff.failed(start + held);
            short += usize::from(wait <= initial * 3 && n % 2 == 0);
        }
        assert_eq!(short, 50, "after a stable link the wait starts over");
    }
}
