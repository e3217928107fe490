//! What is wrong for a while, told in the log by sources that anybody may connect to.

use crate::clock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Something that is wrong for a while: a line when it begins, one when it ends, and no more than one of each a minute,
/// however often it comes and goes: whoever causes it does not fill the log.
#[derive(Default)]
pub struct Trouble {
    on: AtomicBool,
    count: AtomicU64,
    said: AtomicU64,
}

/// Milliseconds between two lines about the same trouble.
const SAY: u64 = 60_000;

impl Trouble {
    pub fn begins(&self, say: impl FnOnce() -> String) {
        let count = self.count.fetch_add(1, Relaxed) + 1;
        let (now, said) = (clock::mono_ms(), self.said.load(Relaxed));
        let due = said == 0 || now.saturating_sub(said) > SAY;
        if due && self.said.compare_exchange(said, now, Relaxed, Relaxed).is_ok() {
            self.on.store(true, Relaxed);
            log::warn!("{} ({count} so far)", say());
        }
    }

    pub fn ends(&self, say: impl FnOnce(u64) -> String) {
        if self.on.load(Relaxed) && self.on.swap(false, Relaxed) {
            log::info!("{}", say(self.count.swap(0, Relaxed)));
        }
    }
}
