//! Counters and times of one process.

use super::tap::Tap;
use crate::tally::Histogram;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// The time of every event that is a multiple of this is taken: reading a clock twice costs as much as a small process.
const SAMPLE: u64 = 16;

/// What a process did since the start.
pub(super) struct Meter {
    /// The process' name.
    pub name: Arc<str>,
    taken: AtomicU64,
    pub emitted: AtomicU64,
    pub skipped: AtomicU64,
    pub failed: AtomicU64,
    pub retried: AtomicU64,
    /// Who looks on.
    pub tap: Tap,
    /// Nanoseconds of the samples.
    times: Histogram,
}

/// What a process did since the gateway's start.
#[derive(Clone, Debug)]
pub struct Counts {
    /// The process' name.
    pub name: String,
    /// Events that came, were emitted, passed by, and failed; and attempts that were made again.
    pub taken: u64,
    pub emitted: u64,
    pub skipped: u64,
    pub failed: u64,
    pub retried: u64,
    /// Nanoseconds that an event takes, on the average of those that were timed.
    pub mean_ns: Option<u64>,
}

impl Meter {
    pub fn read(&self) -> Counts {
        Counts {
            name: self.name.to_string(),
            taken: self.taken.load(Relaxed),
            emitted: self.emitted.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            failed: self.failed.load(Relaxed),
            retried: self.retried.load(Relaxed),
            mean_ns: self.latency().map(|(mean, _)| mean),
        }
    }

    pub fn new(name: &str) -> Self {
        let zero = || AtomicU64::new(0);
        Meter {
            name: name.into(),
            taken: zero(),
            emitted: zero(),
            skipped: zero(),
            failed: zero(),
            retried: zero(),
            tap: Tap::default(),
            times: Histogram::default(),
        }
    }

    /// An event comes; gives when, if its time is to be taken.
    pub fn begin(&self, always: bool) -> Option<Instant> {
        let before = self.taken.fetch_add(1, Relaxed);
        (always || before.is_multiple_of(SAMPLE)).then(Instant::now)
    }

    /// What began then is done.
    pub fn end(&self, begun: Option<Instant>) {
        if let Some(begun) = begun {
            self.times.since(begun);
        }
    }

    /// Mean, and an upper bound of what 99 of 100 took, in nanoseconds; nothing without a sample.
    fn latency(&self) -> Option<(u64, u64)> {
        let (counts, total) = self.times.read();
        let samples: u64 = counts.iter().sum();
        let mean = total.checked_div(samples)?;
        let mut below = 0;
        let bucket = counts.iter().position(|count| {
            below += count;
            below * 100 >= samples * 99
        });
        Some((mean, 1 << bucket.unwrap_or_default()))
    }
}

/// `in 400, out 400, mean 3.1 µs, 99 % under 8.2 µs`, with what went wrong, if anything did.
impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.read();
        write!(f, "in {}, out {}", counts.taken, counts.emitted)?;
        for (name, count) in [("passed by", counts.skipped), ("failed", counts.failed), ("tried again", counts.retried)]
        {
            if count > 0 {
                write!(f, ", {name} {count}")?;
            }
        }
        if let Some((mean, most)) = self.latency() {
            write!(f, ", mean {}, 99 % under {}", Short(mean), Short(most))?;
        }
        Ok(())
    }
}

/// Nanoseconds for people.
struct Short(u64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} ns", self.0),
            1_000..1_000_000 => write!(f, "{:.1} µs", ns / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} ms", ns / 1e6),
            _ => write!(f, "{:.1} s", ns / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_counts_and_times() {
        let meter = Meter::new("x");
        assert_eq!(meter.to_string(), "in 0, out 0");
        for n in 0..SAMPLE + 1 {
            assert_eq!(meter.begin(false).is_some(), n % SAMPLE == 0, "{n}");
        }
        meter.emitted.fetch_add(7, Relaxed);
        meter.failed.fetch_add(1, Relaxed);
        [1000, 600, 2_000_000].into_iter().for_each(|ns| meter.times.add(ns));
        assert_eq!(meter.to_string(), "in 17, out 7, failed 1, mean 667.2 µs, 99 % under 2.1 ms");
    }
}
