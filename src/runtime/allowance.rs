//! What is left of a sink's budget, counted in the step that moves its cursor.

use crate::{
    clock::{self, Stamp},
    config::Budget,
    store::Put,
};
use serde::{Deserialize, Serialize};

/// The key under which a sink remembers what it has sent.
pub(super) const KEY: &[u8] = b"budget";
/// Before this a clock was never set: 2020-01-01.
const SET: i64 = 1_577_836_800_000;

pub(super) struct Allowance {
    owner: String,
    bytes: u64,
    every_ms: u64,
    /// Of the machine's run.
    boot_id: String,
    /// The span that has begun, if one has.
    span: Option<Span>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Span {
    used: u64,
    /// When it began, by all clocks there are.
    wall_ms: i64,
    mono_ms: u64,
    boot_id: String,
}

impl Allowance {
    /// With what was remembered.
    pub fn new(owner: String, budget: &Budget, remembered: Option<&[u8]>) -> Self {
        let span = remembered.and_then(|text| serde_json::from_slice(text).ok());
        let every_ms = u64::try_from(budget.every.0.as_millis()).unwrap_or(u64::MAX);
        Allowance { owner, bytes: budget.bytes.0, every_ms, boot_id: clock::boot_id(), span }
    }

    /// How many bytes may still be sent; 0 with the time until there are more, in milliseconds.
    pub fn left(&mut self, now: &Stamp) -> Result<u64, u64> {
        let age = self.span.as_ref().map(|span| self.age(span, now));
        if age.is_some_and(|age| age >= self.every_ms) {
            self.span = None;
        }
        match self.bytes.saturating_sub(self.span.as_ref().map_or(0, |span| span.used)) {
            0 => Err(self.every_ms - age.unwrap_or(0)),
            left => Ok(left),
        }
    }

    /// Whether nothing of it is used.
    pub fn whole(&self) -> bool {
        self.span.as_ref().is_none_or(|span| span.used == 0)
    }

    /// The next event is larger than what is left: it waits for the next span.
    pub fn leave_rest(&mut self) {
        if let Some(span) = &mut self.span {
            span.used = span.used.max(self.bytes);
        }
    }

    /// So much was sent; gives what to remember.
    pub fn spend(&mut self, bytes: u64, now: &Stamp) -> Put {
        let new = || Span { used: 0, wall_ms: now.wall_ms, mono_ms: now.mono_ms, boot_id: self.boot_id.clone() };
        let span = self.span.get_or_insert_with(new);
        span.used = span.used.saturating_add(bytes);
        let value = serde_json::to_vec(span).ok();
        Put { owner: self.owner.clone(), key: KEY.to_vec(), value }
    }

    /// How long ago a span began, in milliseconds. Within one run of the machine the monotonic clock knows, however the wall
    /// clock is set. Over a reboot it is at least the time since then, or what the wall clock says, if it was set both times.
    fn age(&self, span: &Span, now: &Stamp) -> u64 {
        if span.boot_id == self.boot_id && !span.boot_id.is_empty() {
            return now.mono_ms.saturating_sub(span.mono_ms);
        }
        let set = span.wall_ms >= SET && now.wall_ms >= SET;
        let wall = if set { now.wall_ms.saturating_sub(span.wall_ms) } else { 0 };
        u64::try_from(wall).unwrap_or(0).max(now.mono_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Size;

    const HOUR: u64 = 3_600_000;
    const NOW: i64 = 1_795_255_200_000;

    fn stamp(wall_ms: i64, mono_ms: u64) -> Stamp {
        Stamp { wall_ms, mono_ms, ..Stamp::default() }
    }

    /// With a budget of 1000 bytes a day, of which 900 were used at `NOW`, the machine up for an hour.
    fn used(boot_id: &str) -> Allowance {
        let budget = Budget { bytes: Size(1000), every: "1d".parse().unwrap() };
        let mut before = Allowance::new("sinks.x".into(), &budget, None);
        assert_eq!((before.left(&stamp(NOW, HOUR)), before.whole()), (Ok(1000), true));
        let put = before.spend(900, &stamp(NOW, HOUR));
        let mut after = Allowance::new("sinks.x".into(), &budget, put.value.as_deref());
        assert_eq!(after.span, before.span, "it is remembered");
        if let Some(span) = after.span.as_mut() {
            span.boot_id = boot_id.into();
        }
        after.boot_id = "this".into();
        after
    }

    #[test]
    fn a_span_ends_whatever_the_clock_does() {
        let day = 24 * HOUR;
        for (boot, wall, mono, want) in [
            // The same run of the machine: the wall clock says nothing.
            ("this", NOW, 2 * HOUR, 100),
            ("this", NOW + 1_000 * day as i64, 2 * HOUR, 100),
            ("this", 0, 2 * HOUR, 100),
            ("this", 0, HOUR + day, 1000),
            // After a reboot.
            ("before", NOW + HOUR as i64, 60_000, 100),
            ("before", NOW + day as i64, 60_000, 1000),
            ("before", NOW - day as i64, 60_000, 100), // set back
            ("before", 60_000, 60_000, 100),           // 1970
            ("before", 60_000, day, 1000),
        ] {
            assert_eq!(used(boot).left(&stamp(wall, mono)), Ok(want), "{boot} {wall} {mono}");
        }
    }

    #[test]
    fn what_is_used_up_comes_again() {
        let mut allowance = used("this");
        allowance.leave_rest();
        assert_eq!(allowance.left(&stamp(NOW, 2 * HOUR)), Err(23 * HOUR));
        assert!(!allowance.whole());
        allowance.spend(5_000, &stamp(NOW, 2 * HOUR)); // urgent
        assert_eq!(allowance.left(&stamp(NOW, 24 * HOUR)), Err(HOUR));
        assert_eq!(allowance.left(&stamp(NOW, 25 * HOUR)), Ok(1000));
        for text in [&b"{}"[..], b"", b"\xff", br#"{"used":-1}"#] {
            let budget = Budget { bytes: Size(7), every: "1d".parse().unwrap() };
            assert_eq!(Allowance::new("x".into(), &budget, Some(text)).left(&stamp(NOW, 0)), Ok(7));
        }
    }
}
