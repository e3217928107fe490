//! What systemd is told: that the gateway runs, how it is, and, for its watchdog, that it makes progress.
//! Without systemd nothing is told.

use super::status::Running;
use crate::clock;
use sd_notify::NotifyState;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::sleep;

/// How often the status is told, and the longest between two signs of life.
const EVERY: Duration = Duration::from_secs(10);
/// A step of plain processes that takes longer is stuck.
const STUCK: u64 = 60_000;

/// Since when a pipeline works on a lot of events without a pause, in milliseconds since the machine's start; 0: it waits.
#[derive(Clone, Default)]
pub(super) struct Beat(Arc<AtomicU64>);

impl Beat {
    /// It begins with a lot.
    pub fn works(&self) {
        self.0.store(clock::mono_ms().max(1), Relaxed);
    }

    /// It waits for what comes.
    pub fn waits(&self) {
        self.0.store(0, Relaxed);
    }

    pub fn stuck(&self) -> bool {
        let since = self.0.load(Relaxed);
        since != 0 && clock::mono_ms().saturating_sub(since) > STUCK
    }
}

/// The gateway runs: everything is open, and sources take events.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It waits for the disk: a sign of life, and more time to start.
pub(super) fn waiting() {
    tell(&[
        NotifyState::Watchdog,
        NotifyState::ExtendTimeoutUsec(30_000_000),
        NotifyState::Status("waiting for the disk"),
    ]);
}

/// The configuration is about to be read again.
pub(super) fn reloading() {
    let now = NotifyState::monotonic_usec_now().ok();
    tell(&[Some(NotifyState::Reloading), now].into_iter().flatten().collect::<Vec<_>>());
}

/// The gateway is about to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells the status for ever, and gives signs of life while the store's writer answers and no pipeline is stuck. That an
/// upstream is down is no reason to be restarted, nor is a disk that fails and says so.
pub(super) async fn keep_telling(view: Running) {
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(EVERY, |limit| (limit / 3).min(EVERY));
    let mut before = view.taken();
    loop {
        let alive = view.store().answers(every).await.is_ok();
        match view.stuck().first() {
            Some(name) => log::error!("{name}: no progress for {} s", STUCK / 1000),
            None if !alive => log::error!("the store does not answer"),
            None => tell(&[NotifyState::Watchdog]),
        }
        let now = view.taken();
        let rate = now.saturating_sub(before) as f64 / every.as_secs_f64();
        before = now;
        tell(&[NotifyState::Status(&format!("{rate:.0} events/s; {}", view.summary()))]);
        sleep(every).await;
    }
}

/// Whether there is somebody to tell.
pub(super) fn listened_to() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("systemd was not told: {error}");
    }
}
