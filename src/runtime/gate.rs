//! Whether a sink may send now, and how much of what: its governor, windows and budget together.

use super::{allowance::Allowance, governor::Governor, windows::Windows};
use crate::{
    clock::{Stamp, rfc3339},
    store::Put,
};
use std::time::Duration;

/// How often a closed gate is looked at: the clock may be set.
const LOOK: Duration = Duration::from_secs(5);

pub(super) struct Gate {
    pub governor: Governor,
    pub windows: Windows,
    pub allowance: Option<Allowance>,
    /// Events of this priority and above pass always.
    pub urgent: u8,
}

/// What may be sent now.
#[derive(Debug, PartialEq)]
pub(super) struct Opening {
    /// Events of this priority and above.
    pub floor: u8,
    pub events: usize,
    pub bytes: usize,
    /// When to look again, if not all may be sent.
    pub again: Duration,
    /// Why not all may be sent, if that will last: meanwhile no connection is kept.
    pub why: Option<String>,
}

impl Gate {
    pub fn look(&mut self, now: &Stamp) -> Opening {
        let closed = Opening { floor: self.urgent, events: usize::MAX, bytes: usize::MAX, again: LOOK, why: None };
        if let Some(why) = self.windows.closed(now) {
            return Opening { why: Some(why), ..closed };
        }
        let left = match self.allowance.as_mut().map(|allowance| allowance.left(now)) {
            Some(Err(wait)) => {
                let until = now.wall_ms.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX));
                // To the minute, so that it stays the same text while the clock is trimmed.
                let until = rfc3339(until.saturating_add(30_000) / 60_000 * 60_000);
                let why = Some(format!("its budget is used up until about {until}"));
                return Opening { why, again: LOOK.min(Duration::from_millis(wait.max(1))), ..closed };
            }
            Some(Ok(left)) => usize::try_from(left).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        match self.governor.room() {
            Ok((events, bytes)) => Opening { floor: 0, events, bytes: bytes.min(left), ..closed },
            Err(again) => Opening { again: again.min(LOOK), ..closed },
        }
    }

    /// Whether a window has closed, or the budget is used up, since it was looked at.
    pub fn shut(&mut self, now: &Stamp) -> bool {
        self.windows.closed(now).is_some()
            || self.allowance.as_mut().is_some_and(|allowance| allowance.left(now).is_err())
    }

    /// The next event is larger than what the budget has left: nothing goes before the next span.
    pub fn leave_rest(&mut self) {
        if let Some(allowance) = &mut self.allowance {
            allowance.leave_rest();
        }
    }

    /// How many bytes may go under the budget, if these are too many. A single event goes that is larger than all of it, once
    /// nothing is used.
    pub fn most(&mut self, events: usize, bytes: usize, now: &Stamp) -> Option<usize> {
        let allowance = self.allowance.as_mut()?;
        let left = usize::try_from(allowance.left(now).unwrap_or(0)).unwrap_or(usize::MAX);
        (bytes > left && !(events == 1 && allowance.whole())).then_some(left)
    }

    /// So much is about to be sent.
    pub fn spend(&mut self, events: usize, bytes: usize) {
        self.governor.spend(events, bytes);
    }

    /// So much was sent; gives what to remember.
    pub fn sent(&mut self, bytes: usize, now: &Stamp) -> Option<Put> {
        self.allowance.as_mut().map(|allowance| allowance.spend(bytes as u64, now))
    }
}
