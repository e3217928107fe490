//! What a connection holds of the memory that all sources share for events. It reads no packet that it has no memory for: the
//! client waits, and its acknowledgements are late.

use super::link::{READ, Task};
use crate::budget::{Pool, Share};
use std::time::Duration;
use tokio::time::Instant;

/// Drawn at a time, so that small messages do not draw one by one.
const GRAIN: usize = 16 << 10;
/// What a packet takes at most for each of its bytes: itself, and what is made of it, which grows by doubling.
const MADE: usize = 3;
pub const WHOLE: usize = MADE + 1;
/// And what any packet takes: its acknowledgement, what is known of its sender.
const AROUND: usize = 512;
/// Who has the memory for a packet sends it in this time, and at this pace, in bytes per second; else it goes to those who
/// wait. A GPRS link manages the pace.
const START: Duration = Duration::from_secs(5);
const PACE: usize = 2 << 10;
/// Whether somebody waits is looked at again after this.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Holding {
    pool: Pool,
    share: Share,
    /// Until there is more, nothing is read.
    pub wait: Option<Task<Option<Share>>>,
    /// Of a packet that has begun, and when it is to be whole.
    partial: usize,
    due: Option<Instant>,
}

impl Holding {
    pub fn new(pool: &Pool) -> Self {
        Holding { pool: pool.clone(), share: pool.share(), wait: None, partial: 0, due: None }
    }

    /// Whether there is memory for a packet beside what is held; if not, it is waited for.
    pub fn packet(&mut self, held: usize, length: usize) -> bool {
        (self.partial, self.due) = (0, None);
        self.afford(held + MADE * length + AROUND)
    }

    /// The same for one that has begun: it gets all of it before more of it is read, so that it can become whole.
    pub fn begun(&mut self, held: usize, length: usize) -> bool {
        let bytes = WHOLE * length + AROUND;
        if length <= READ || self.partial == bytes {
            return true;
        }
        if !self.afford(held + bytes) {
            return false;
        }
        self.partial = bytes;
        self.due = Some(Instant::now() + START + Duration::from_secs((length / PACE) as u64));
        true
    }

    fn afford(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.share.bytes());
        if more == 0 || self.share.grow(more.next_multiple_of(GRAIN)) || self.share.grow(more) {
            return true;
        }
        let mut share = self.pool.share();
        self.wait = Some(Box::pin(async move { share.wait(more).await.then_some(share) }));
        false
    }

    /// What was waited for is there. `false`: it never will be.
    pub fn take(&mut self, share: Option<Share>) -> bool {
        self.wait = None;
        share.map(|share| self.share.absorb(share)).is_some()
    }

    /// Keeps what is needed.
    pub fn shrink(&mut self, held: usize) {
        self.share.shrink(held + self.partial);
    }

    /// When to look whether the packet that has begun comes too slowly.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it does, and others wait for its memory.
    pub fn is_slow(&mut self, now: Instant) -> bool {
        let Some(due) = self.due.as_mut().filter(|due| **due <= now) else { return false };
        *due = now + AGAIN;
        self.pool.is_wanted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_packet_keeps_its_memory_only_while_nobody_wants_it() {
        let pool = Pool::new(300 << 10);
        let (mut slow, mut next) = (Holding::new(&pool), Holding::new(&pool));
        assert!(slow.begun(0, 50 << 10));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!slow.is_slow(Instant::now()));
        assert!(!next.begun(0, 50 << 10));
        let wait = next.wait.as_mut().unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(2), wait).await.is_err());
        assert!(slow.is_slow(Instant::now()));
        drop(slow);
        let share = next.wait.as_mut().unwrap().await;
        assert!(next.take(share) && next.begun(0, 50 << 10));
        assert!(!next.packet(0, 400 << 10) && !pool.is_wanted());
        let never = next.wait.as_mut().unwrap().await;
        assert!(!next.take(never), "it is more than the pool has");
    }
}
