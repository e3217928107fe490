//! Counts that are kept while the work goes on, and read by who looks on.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// How often which size came, in powers of two.
#[derive(Debug)]
pub struct Histogram {
    /// Bucket `n` has what is at most 2^n, and more than half of that.
    buckets: [AtomicU64; Histogram::BUCKETS],
    sum: AtomicU64,
}

impl Histogram {
    /// The last has all that is larger, too: 2^39 ns are nine minutes.
    pub const BUCKETS: usize = 40;

    pub fn add(&self, size: u64) {
        let bucket = (64 - size.saturating_sub(1).leading_zeros() as usize).min(Self::BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(size, Relaxed);
    }

    /// Nanoseconds since a time.
    pub fn since(&self, begun: Instant) {
        self.add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// How often each came, and the sum of all.
    pub fn read(&self) -> ([u64; Self::BUCKETS], u64) {
        (std::array::from_fn(|n| self.buckets[n].load(Relaxed)), self.sum.load(Relaxed))
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

/// What a source did since the start.
#[derive(Debug, Default)]
pub struct Intake {
    /// Events that it was told are on disk; that were refused, each time it tried; that were lost before they could be
    /// handed over.
    pub taken: AtomicU64,
    pub refused: AtomicU64,
    pub lost: AtomicU64,
}

/// What a sink did since the start.
#[derive(Debug, Default)]
pub struct Outlet {
    /// Nanoseconds of a delivery that worked, and its events.
    pub time: Histogram,
    pub events: Histogram,
    /// Events that are being delivered.
    pub in_flight: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_falls_into_the_smallest_bucket_that_holds_it() {
        for (size, bucket) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1 << 38, 38), (u64::MAX, 39)] {
            let histogram = Histogram::default();
            histogram.add(size);
            assert_eq!(histogram.read().0.iter().position(|n| *n == 1), Some(bucket), "{size}");
        }
    }
}
