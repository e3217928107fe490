//! The only place that reads a clock. The wall clock of a board may say 1970; the monotonic one never steps back.

use serde::{Deserialize, Serialize};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// When the gateway took an event in, said so that it can be mended later: an event taken in before the first time
/// synchronisation carries a wrong wall time, but boot and monotonic time place it exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Wall clock, milliseconds since 1970-01-01 UTC.
    pub wall_ms: i64,
    /// Milliseconds since the machine booted, time asleep included (`CLOCK_BOOTTIME`).
    pub mono_ms: u64,
    /// Number of the start of the gateway, as listed in the store's `boot` table with the kernel's boot id. 0: no store.
    pub boot: u32,
    /// Whether the kernel said that the wall clock was synchronised.
    pub synced: bool,
}

impl Stamp {
    /// How long before `now` that was: by the monotonic clock within one start of the gateway, else by the wall clock, and
    /// not at all where that was set back in between.
    pub fn age(&self, now: &Stamp) -> Duration {
        let wall = now.wall_ms.saturating_sub(self.wall_ms);
        let mono = now.mono_ms.saturating_sub(self.mono_ms);
        Duration::from_millis(if self.boot == now.boot { mono } else { u64::try_from(wall).unwrap_or(0) })
    }
}

static BOOT: AtomicU32 = AtomicU32::new(0);

/// Sets the start number that later stamps carry. Called by the store once it is open.
pub fn set_boot(boot: u32) {
    BOOT.store(boot, Ordering::Relaxed);
}

/// Now, as a stamp.
pub fn stamp() -> Stamp {
    Stamp { wall_ms: wall_ms(), mono_ms: mono_ms(), boot: BOOT.load(Ordering::Relaxed), synced: synced() }
}

/// Wall clock, milliseconds since 1970-01-01 UTC. (`SystemTime::now` panics on armv7 musl after January 2038; this
/// does not.)
pub fn wall_ms() -> i64 {
    millis(rustix::time::clock_gettime(rustix::time::ClockId::Realtime))
}

/// Milliseconds since boot, time asleep included.
pub fn mono_ms() -> u64 {
    u64::try_from(millis(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))).unwrap_or(0)
}

fn millis(t: rustix::time::Timespec) -> i64 {
    t.tv_sec.saturating_mul(1000).saturating_add(t.tv_nsec / 1_000_000)
}

/// Whether the wall clock can be trusted: systemd-timesyncd and chrony leave this file when they have set it.
/// Checked at most once a second, since it stands on the intake's path.
fn synced() -> bool {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    static CHECKED: AtomicU64 = AtomicU64::new(0);
    static SYNCED: AtomicBool = AtomicBool::new(false);
    let second = mono_ms() / 1000 + 1;
    if CHECKED.swap(second, Ordering::Relaxed) != second {
        let flag = std::path::Path::new("/run/systemd/timesync/synchronized").exists();
        SYNCED.store(flag || kernel_synced(), Ordering::Relaxed);
    }
    SYNCED.load(Ordering::Relaxed)
}

/// The kernel keeps `RTC_SYNCED` hints only behind `adjtimex`, which needs `unsafe`; chrony and ntpd leave files.
fn kernel_synced() -> bool {
    ["/run/chrony/chronyd.pid", "/var/lib/ntp/ntp.drift"].iter().any(|p| std::path::Path::new(p).exists())
        && wall_ms() > 1_700_000_000_000
}

/// The kernel's boot id: one per boot of the machine. Empty where the kernel does not tell.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// A wall time as RFC 3339 in UTC with milliseconds.
pub fn rfc3339(wall_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(wall_ms).map_or_else(|_| wall_ms.to_string(), |t| format!("{t:.3}"))
}

/// Reads a time as a source may send it: RFC 3339 text, or a number of seconds, milliseconds, microseconds or
/// nanoseconds since 1970, told apart by size (as seconds it would lie after the year 2286). Gives milliseconds.
pub fn parse_time(text: &str) -> Option<i64> {
    if let Ok(n) = text.parse::<f64>() {
        let magnitude = n.abs();
        let ms = match magnitude {
            m if m < 1e10 => n * 1e3,
            m if m < 1e13 => n,
            m if m < 1e16 => n / 1e3,
            m if m < 1e19 => n / 1e6,
            _ => return None,
        };
        return Some(ms as i64);
    }
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_every_form_a_device_sends() {
        for (text, want) in [
            ("2026-11-21T10:00:00Z", Some(1_795_255_200_000)),
            ("2026-11-21T12:00:00.250+02:00", Some(1_795_255_200_250)),
            ("1795255200", Some(1_795_255_200_000)),
            ("1795255200.5", Some(1_795_255_200_500)),
            ("1795255200000", Some(1_795_255_200_000)),
            ("1795255200000000", Some(1_795_255_200_000)),
            ("yesterday", None),
            ("NaN", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text), want, "{text}");
        }
        assert_eq!(rfc3339(1_795_255_200_250), "2026-11-21T10:00:00.250Z");
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
    }
}
