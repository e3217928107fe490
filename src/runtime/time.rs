//! The time that processes are given.

use crate::clock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

/// The steady clock, or one that stands still until somebody moves it or waits.
#[derive(Clone)]
pub(super) enum Time {
    Steady,
    Still(Arc<AtomicI64>),
}

impl Time {
    /// Now, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        match self {
            Time::Steady => clock::steady_ms(),
            Time::Still(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Until that much later. A still clock is moved on.
    pub async fn wait(&self, time: Duration) {
        match self {
            Time::Steady => tokio::time::sleep(time).await,
            Time::Still(now) => {
                let ms = i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
                now.fetch_add(ms, Ordering::Relaxed);
            }
        }
    }
}
