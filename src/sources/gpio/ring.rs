//! What the lines told and the store has not taken yet.

use heapless::Deque;

/// Readings that are kept: 10 kB, and half a minute of a button that somebody presses as fast as they can.
pub const CAPACITY: usize = 256;

/// One edge or level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which of the lines, from 0.
    pub line: usize,
    pub active: bool,
    /// When: milliseconds of the monotonic clock.
    pub mono_ms: u64,
    /// The edge's number; a level has none.
    pub seq: Option<u32>,
    /// Readings of the line that were lost just before this one.
    pub lost: u32,
}

/// A queue that drops the oldest when it is full, and has the line's next reading say so.
#[derive(Default)]
pub struct Ring {
    readings: Box<Deque<Reading, CAPACITY>>,
    refused: bool,
}

impl Ring {
    pub fn is_empty(&self) -> bool {
        self.readings.is_empty()
    }

    pub fn push(&mut self, mut reading: Reading) {
        if self.readings.is_full()
            && let Some(oldest) = self.readings.pop_front()
        {
            self.drop(&oldest, Some(&mut reading));
        }
        self.readings.push_back(reading).ok(); // there is room now
    }

    pub fn pop(&mut self) -> Option<Reading> {
        self.readings.pop_front()
    }

    /// Puts what was taken out back before the rest, as much as there is room for: the newest of it.
    pub fn put_back(&mut self, taken: &mut Vec<Reading>) {
        while let Some(reading) = taken.pop() {
            if let Err(reading) = self.readings.push_front(reading) {
                self.drop(&reading, None);
            }
        }
    }

    /// Notes whether the store refuses; true if that is new.
    pub fn refused(&mut self, refused: bool) -> bool {
        std::mem::replace(&mut self.refused, refused) != refused
    }

    /// Counts a dropped reading, and what was lost before it, at the next one of its line.
    fn drop(&mut self, gone: &Reading, newest: Option<&mut Reading>) {
        let next = self.readings.iter_mut().chain(newest).find(|reading| reading.line == gone.line);
        if let Some(next) = next {
            next.lost = next.lost.saturating_add(gone.lost).saturating_add(1);
        }
    }
}
