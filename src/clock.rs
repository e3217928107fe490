//! The only place that reads a clock. The wall clock of a board may say 1970; the monotonic one never steps back.

mod daemons;

use daemons::Daemon;
use std::sync::{
    LazyLock, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
};

/// When the gateway took an event in, said so that it can be mended later: an event taken in before the first time
/// synchronisation carries a wrong wall time, but boot and monotonic time place it exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Wall clock, milliseconds since 1970-01-01 UTC.
    pub wall_ms: i64,
    /// Milliseconds since the machine booted, time asleep included (`CLOCK_BOOTTIME`).
    pub mono_ms: u64,
    /// Number of the start of the gateway, as listed in the store's `boot` table with the kernel's boot id. 0: no store.
    pub boot: u32,
    /// How far the wall time can be trusted.
    pub quality: Quality,
}

/// How far a wall time can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quality {
    /// The clock had not been set since the machine's boot: it may say 1970.
    #[default]
    Unsynced,
    /// The clock had been set.
    Synced,
    /// Worked out from the monotonic time, after the clock was set: exact.
    Restamped,
    /// Worked out across a boot in which the clock was never set: it happened then or later.
    Estimated,
}

impl Quality {
    /// As users read it.
    pub fn name(self) -> &'static str {
        match self {
            Quality::Unsynced => "unsynced",
            Quality::Synced => "synced",
            Quality::Restamped => "restamped",
            Quality::Estimated => "estimated",
        }
    }
}

impl Stamp {
    /// A time of intake of which only the wall time and its quality are left.
    pub fn at(wall_ms: i64, quality: &str) -> Stamp {
        let now = stamp();
        let ago = u64::try_from(now.wall_ms.saturating_sub(wall_ms)).unwrap_or(0);
        // By a clock that is still not set, it can be mended when it is; by one that was set since, nobody can say any more.
        let known = [Quality::Synced, Quality::Restamped, now.quality].into_iter().find(|q| q.name() == quality);
        let quality = known.unwrap_or(Quality::Estimated);
        Stamp { wall_ms, mono_ms: now.mono_ms.saturating_sub(ago), quality, ..now }
    }
}

static BOOT: AtomicU32 = AtomicU32::new(0);
/// The steady clock less the monotonic one, in milliseconds; `i64::MIN`: nobody has set it.
static STEADY: AtomicI64 = AtomicI64::new(i64::MIN);

/// Sets the start number that later stamps carry. Called by the store once it is open.
pub fn set_boot(boot: u32) {
    BOOT.store(boot, Ordering::Relaxed);
}

/// Sets the steady clock, as its milliseconds at the machine's boot. Called by the store once it is open.
pub fn set_steady(at_boot: i64) {
    STEADY.store(at_boot, Ordering::Relaxed);
}

/// The steady clock, in milliseconds: it began with the wall clock, goes with the monotonic one, and is never set, so that
/// timeouts and ages by it hold whatever is done to the wall clock. The store carries it over restarts and boots.
pub fn steady_ms() -> i64 {
    let mono = millis_of(mono_ms());
    match STEADY.load(Ordering::Relaxed) {
        i64::MIN => {
            let at_boot = wall_ms() - mono;
            STEADY
                .compare_exchange(i64::MIN, at_boot, Ordering::Relaxed, Ordering::Relaxed)
                .map_or_else(|set| set + mono, |_| at_boot + mono)
        }
        at_boot => at_boot + mono,
    }
}

/// Now, as a stamp.
pub fn stamp() -> Stamp {
    let quality = if synced() { Quality::Synced } else { Quality::Unsynced };
    Stamp { wall_ms: wall_ms(), mono_ms: mono_ms(), boot: BOOT.load(Ordering::Relaxed), quality }
}

/// A time of the steady clock in this run of the gateway, as a stamp.
pub fn stamp_of(steady_ms: i64) -> Stamp {
    let (now, ago) = (stamp(), self::steady_ms().saturating_sub(steady_ms));
    let mono_ms = now.mono_ms.saturating_add_signed(ago.saturating_neg());
    Stamp { wall_ms: now.wall_ms.saturating_sub(ago), mono_ms, ..now }
}

/// Milliseconds, in the signed form of times; what cannot be said there is for ever.
pub fn millis_of(ms: impl TryInto<i64>) -> i64 {
    ms.try_into().unwrap_or(i64::MAX)
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

/// A time of the monotonic clock by the wall clock as it is now: milliseconds since 1970.
pub fn wall_of(mono_ms: u64) -> i64 {
    wall_ms().saturating_sub(millis_of(self::mono_ms().saturating_sub(mono_ms)))
}

/// A time of the kernel's monotonic clock, as GPIO edges have it, as [`mono_ms`] counts: with the time asleep.
pub fn mono_of(monotonic_ns: u64) -> u64 {
    let now = millis(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic));
    let ago = now.saturating_sub(millis_of(monotonic_ns / 1_000_000)).max(0);
    mono_ms().saturating_sub(ago.unsigned_abs())
}

fn millis(t: rustix::time::Timespec) -> i64 {
    t.tv_sec.saturating_mul(1000).saturating_add(t.tv_nsec / 1_000_000)
}

/// Whether the wall clock can be trusted: systemd-timesyncd leaves a file when it has set it, chronyd and ntpd are asked. (The
/// kernel would tell behind `adjtimex`, which takes `unsafe`, and which systemd's `ProtectClock` forbids.) Checked at most once
/// a second, since it stands on the intake's path.
fn synced() -> bool {
    static CHECKED: AtomicU64 = AtomicU64::new(0);
    static SYNCED: AtomicBool = AtomicBool::new(false);
    static DAEMONS: LazyLock<Mutex<[Daemon; 2]>> = LazyLock::new(|| Mutex::new([Daemon::chrony(), Daemon::ntp()]));
    let second = mono_ms() / 1000 + 1;
    if CHECKED.swap(second, Ordering::Relaxed) != second {
        let flag = std::path::Path::new("/run/systemd/timesync/synchronized").exists();
        let mut daemons = DAEMONS.lock().unwrap_or_else(PoisonError::into_inner);
        let set = flag || daemons.iter_mut().any(Daemon::has_set_the_clock);
        SYNCED.store(set, Ordering::Relaxed);
    }
    SYNCED.load(Ordering::Relaxed)
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
