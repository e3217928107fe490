//! Whether one of a sink's windows is open, and until when none is.

use crate::{
    clock::{Quality, Stamp, rfc3339},
    config::Window,
};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// A clock that is not synchronised and shows an earlier time was never set: 2020-01-01.
const SET: i64 = 1_577_836_800_000;
/// So long a clock may take to be set; then all windows count as open, since events that never leave serve nobody.
const UNSET: Duration = Duration::from_secs(600);
/// Gateways begin later than their window by up to a tenth of it, and this at most.
const SPREAD: i64 = 300_000;

pub(super) struct Windows {
    windows: Vec<Window>,
    /// By how much of the spread this gateway begins later: 0 to 1.
    share: f64,
    begun: Instant,
}

impl Windows {
    pub fn new(windows: Vec<Window>, share: f64) -> Self {
        Windows { windows, share, begun: Instant::now() }
    }

    /// Why nothing may be sent now, if that is so.
    pub fn closed(&self, now: &Stamp) -> Option<String> {
        if self.windows.is_empty() {
            return None;
        }
        if now.quality != Quality::Synced && now.wall_ms < SET {
            let wait = self.begun.elapsed() < UNSET;
            return wait.then(|| "outside of its windows, as far as is known: the clock is not set".to_owned());
        }
        let mut opens: Option<i64> = None;
        for window in &self.windows {
            let length = i64::try_from(window.length.0.as_millis()).unwrap_or(i64::MAX);
            let later = ((length / 10).min(SPREAD) as f64 * self.share) as i64;
            let days = u32::try_from(length / 86_400_000 + 1).unwrap_or(u32::MAX);
            let Ok(by) = Timestamp::from_millisecond(now.wall_ms.saturating_sub(later)) else { continue };
            let last = window.cron.last(by, &window.zone, days);
            if last.is_some_and(|last| now.wall_ms < last.as_millisecond().saturating_add(length)) {
                return None;
            }
            let next = window.cron.next(by, &window.zone).map(|next| next.as_millisecond().saturating_add(later));
            opens = opens.into_iter().chain(next).min();
        }
        let until = opens.map(|at| format!(" until {}", rfc3339(at)));
        Some(format!("outside of its windows{}", until.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::parse_time;

    fn windows(rows: &[(&str, &str)], share: f64) -> Windows {
        let window = |(cron, length): &(&str, &str)| Window {
            cron: cron.parse().unwrap(),
            length: length.parse().unwrap(),
            zone: Default::default(),
        };
        Windows::new(rows.iter().map(window).collect(), share)
    }

    fn at(time: &str) -> Stamp {
        Stamp { wall_ms: parse_time(time).unwrap(), ..Stamp::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn windows_open_and_close() {
        let night = &[("0 2 * * *", "2h")][..];
        let two = &[("0 2 * * *", "1h"), ("30 2 * * mon", "1h")][..];
        let hourly = &[("0 * * * *", "90m")][..];
        for (rows, share, time, want) in [
            (night, 0.0, "2026-11-21T01:59:59Z", Some("2026-11-21T02:00:00.000Z")),
            (night, 0.0, "2026-11-21T02:00:00Z", None),
            (night, 0.0, "2026-11-21T03:59:59Z", None),
            (night, 0.0, "2026-11-21T04:00:00Z", Some("2026-11-22T02:00:00.000Z")),
            (night, 1.0, "2026-11-21T02:04:59Z", Some("2026-11-21T02:05:00.000Z")), // five minutes at most
            (night, 1.0, "2026-11-21T02:05:00Z", None),
            (night, 1.0, "2026-11-21T04:00:00Z", Some("2026-11-22T02:05:00.000Z")), // it ends for all at once
            (&[("0 2 * * *", "10m")], 0.5, "2026-11-21T02:00:29Z", Some("2026-11-21T02:00:30.000Z")),
            (two, 0.0, "2026-11-23T03:10:00Z", None),
            (two, 0.0, "2026-11-23T03:30:00Z", Some("2026-11-24T02:00:00.000Z")),
            (hourly, 1.0, "2026-11-21T02:00:01Z", None), // the one before is still open
            (&[("0 0 1 1 *", "400d")], 0.0, "2026-12-31T23:00:00Z", None),
            (&[], 0.0, "2026-11-21T02:00:01Z", None),
        ] {
            let why = windows(rows, share).closed(&at(time));
            let want = want.map(|until| format!("outside of its windows until {until}"));
            assert_eq!(why, want, "{rows:?} {share} {time}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_not_set_closes_windows_for_ten_minutes() {
        let windows = windows(&[("0 2 * * *", "2h")], 0.0);
        let unset = at("1970-01-01T02:30:00Z");
        assert!(windows.closed(&unset).unwrap().contains("the clock is not set"));
        tokio::time::advance(UNSET).await;
        assert_eq!(windows.closed(&unset), None);
        assert!(
            windows.closed(&at("2026-11-21T12:00:00Z")).is_some(),
            "a clock without a sign that it was set is believed"
        );
        assert!(windows.closed(&Stamp { wall_ms: i64::MAX, ..Stamp::default() }).is_some());
    }
}
