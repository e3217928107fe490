//! Readings on their way into the store. A sensor does not wait, so there is a fixed memory for what the store refuses: of the
//! last ones. What is lost is counted, and said by the next event of the same line or device.

use crate::{
    event::{Batch, Draft, When},
    fault::Fault,
    kind::Intake,
    store::{Placed, Refusal},
};
use heapless::Deque;
use std::{
    collections::BTreeMap, future::Future, future::pending, pin::Pin, sync::atomic::Ordering::Relaxed, time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// How long to wait when the store refuses.
pub const REFUSED: Duration = Duration::from_millis(500);

/// Something that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading<T> {
    /// Of which line or device, from 0.
    pub of: usize,
    /// When: milliseconds of the monotonic clock.
    pub mono_ms: u64,
    /// Readings of the same that were lost just before this one.
    pub lost: u32,
    pub what: T,
}

/// The last readings that are not on disk yet, at most `N`. When there is no room, the oldest is dropped.
pub struct Recent<T, const N: usize> {
    waiting: Box<Deque<Reading<T>, N>>,
    /// What is on its way to the disk.
    taken: Vec<Reading<T>>,
    /// Lost ones that no reading here tells of; at most one entry for each line or device.
    missed: BTreeMap<usize, u32>,
    /// Whether the store refuses.
    refused: bool,
    /// Whether the last batch told of losses.
    losing: bool,
    /// Lost since the gateway started.
    lost: u64,
}

impl<T, const N: usize> Default for Recent<T, N> {
    fn default() -> Self {
        let waiting = Box::default();
        Recent { waiting, taken: Vec::new(), missed: BTreeMap::new(), refused: false, losing: false, lost: 0 }
    }
}

impl<T, const N: usize> Recent<T, N> {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether readings of this were lost, and no reading that is still here is younger.
    pub fn missed(&self, of: usize) -> bool {
        self.missed.contains_key(&of)
    }

    /// Adds a reading; `lost` are those that its device lost before it.
    pub fn push(&mut self, of: usize, mono_ms: u64, lost: u32, what: T) {
        if self.waiting.is_full()
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.gone(&oldest);
        }
        let lost = lost.saturating_add(self.missed.remove(&of).unwrap_or(0));
        self.waiting.push_back(Reading { of, mono_ms, lost, what }).ok(); // there is room now
    }

    /// Counts a dropped reading, and what was lost before it, at the next one of the same.
    fn gone(&mut self, dropped: &Reading<T>) {
        let next = self.waiting.iter_mut().find(|reading| reading.of == dropped.of).map(|reading| &mut reading.lost);
        let lost = next.unwrap_or_else(|| self.missed.entry(dropped.of).or_default());
        *lost = lost.saturating_add(dropped.lost).saturating_add(1);
    }

    /// Makes events of all that is here. `write` writes the body of one, and gives its key.
    pub fn take<'a>(
        &mut self,
        intake: &Intake,
        write: impl Fn(&Reading<T>, &mut Vec<u8>) -> Option<&'a str>,
    ) -> Result<Batch, Fault> {
        let (mut batch, mut body, mut lost) = (Batch::default(), Vec::new(), 0);
        while let Some(reading) = self.waiting.pop_front() {
            body.clear();
            let Some(key) = write(&reading, &mut body) else { continue };
            let draft = Draft { key, time: Some(When::Sampled(reading.mono_ms)), body: &body, ..Draft::default() };
            // It would be the same each time.
            intake.push(&mut batch, &draft).map_err(|unfit| Fault::fatal(format!("`{key}`: {unfit}")))?;
            lost += u64::from(reading.lost);
            self.taken.push(reading);
        }
        self.lost += lost;
        if (lost > 0) != self.losing {
            self.losing = lost > 0;
            let (name, all) = (intake.topic(), self.lost);
            match self.losing {
                true => log::warn!("sources.{name}: readings come faster than they can be stored: {lost} were lost"),
                false => log::info!("sources.{name}: no more readings are lost; {all} were since the start"),
            }
        }
        Ok(batch)
    }

    /// What became of an append: until when to wait before the next.
    pub fn written(&mut self, result: Result<Placed, Refusal>, intake: &Intake) -> Result<Option<Instant>, Fault> {
        let Err(refusal) = result else {
            let lost = self.taken.drain(..).map(|reading| u64::from(reading.lost)).sum();
            intake.counts().lost.fetch_add(lost, Relaxed);
            if std::mem::take(&mut self.refused) {
                log::info!("sources.{}: the store takes events again", intake.topic());
            }
            return Ok(None);
        };
        // They are counted again when they are taken again.
        self.lost -= self.taken.iter().map(|reading| u64::from(reading.lost)).sum::<u64>();
        self.put_back();
        if let Refusal::Closed | Refusal::TooLarge { .. } = refusal {
            return Err(super::refused(refusal));
        }
        if !std::mem::replace(&mut self.refused, true) {
            log::warn!("sources.{}: {refusal}: the last {N} readings are kept until it takes them", intake.topic());
        }
        Ok(Some(Instant::now() + REFUSED))
    }

    /// Puts what was taken back before the rest, as much as there is room for: the newest of it.
    fn put_back(&mut self) {
        while let Some(reading) = self.taken.pop() {
            if let Err(reading) = self.waiting.push_front(reading) {
                self.gone(&reading);
            }
        }
    }
}

/// The append that is on its way, or how long to wait before the next.
#[derive(Default)]
pub struct Writing<'a> {
    append: Option<Append<'a>>,
    pause: Option<Instant>,
}

type Append<'a> = Pin<Box<dyn Future<Output = Result<Placed, Refusal>> + Send + 'a>>;

impl<'a> Writing<'a> {
    /// Whether one may begin.
    pub fn idle(&self) -> bool {
        self.append.is_none() && self.pause.is_none()
    }

    pub fn begin(&mut self, intake: &'a Intake, batch: Batch) {
        self.append = Some(Box::pin(intake.append(batch)));
    }

    /// None begins before then.
    pub fn pause(&mut self, until: Option<Instant>) {
        self.pause = until;
    }

    /// Waits until an append is done, or until a pause is over. Dropping the future loses nothing.
    pub async fn done(&mut self) -> Option<Result<Placed, Refusal>> {
        if let Some(append) = &mut self.append {
            let result = append.await;
            self.append = None;
            return Some(result);
        }
        match self.pause {
            Some(until) => sleep_until(until).await,
            None => pending().await,
        }
        self.pause = None;
        None
    }

    /// Waits for what is on its way.
    pub async fn finish(self) -> Option<Result<Placed, Refusal>> {
        Some(self.append?.await)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bodies, intake};
    use super::*;

    const CAPACITY: usize = 16;

    fn all(recent: &mut Recent<u32, CAPACITY>) -> Vec<(usize, u32, u32)> {
        let next = || recent.waiting.pop_front();
        std::iter::from_fn(next).map(|reading| (reading.of, reading.what, reading.lost)).collect()
    }

    #[test]
    fn the_oldest_is_dropped_and_counted() {
        let mut recent: Recent<u32, CAPACITY> = Recent::default();
        recent.push(1, 0, 3, 1);
        for n in 1..=CAPACITY as u32 + 9 {
            recent.push(0, 0, 0, n);
        }
        assert!(recent.missed(1) && !recent.missed(0));
        // Ten more come while these cannot be written: they are put back without the ten oldest.
        while let Some(reading) = recent.waiting.pop_front() {
            recent.taken.push(reading);
        }
        assert_eq!((recent.taken.len(), recent.taken[0].what, recent.taken[0].lost), (CAPACITY, 10, 9));
        (300..309).for_each(|n| recent.push(0, 0, 0, n));
        recent.push(1, 0, 0, 2);
        recent.put_back();
        assert!(!recent.missed(1));
        let all = all(&mut recent);
        assert_eq!((all.len(), all[0], all[CAPACITY - 1]), (CAPACITY, (0, 20, 19), (1, 2, 4)));
        assert!(all[1..CAPACITY - 1].iter().all(|reading| reading.2 == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_full_store_refuses_is_kept() {
        let (intake, store) = intake(1000).await;
        let mut recent: Recent<u32, CAPACITY> = Recent::default();
        let write = |reading: &Reading<u32>, out: &mut Vec<u8>| {
            out.extend_from_slice(format!("{{\"n\":{},\"lost\":{}}}", reading.what, reading.lost).as_bytes());
            Some("key")
        };
        for (n, lost) in [(1, 0), (2, 0), (5, 2)] {
            recent.push(0, 0, lost, n);
        }
        let batch = recent.take(&intake, write).unwrap();
        assert_eq!((batch.len(), recent.lost, recent.taken.len()), (3, 2, 3));
        let wait = recent.written(Err(Refusal::Full), &intake).unwrap();
        assert_eq!((wait, recent.lost, recent.taken.len()), (Some(Instant::now() + REFUSED), 0, 0));
        recent.push(0, 0, 0, 6);
        let mut writing = Writing::default();
        writing.pause(wait);
        assert!(!writing.idle() && writing.done().await.is_none() && writing.idle());
        writing.begin(&intake, recent.take(&intake, write).unwrap());
        let result = writing.done().await.unwrap();
        assert_eq!(recent.written(result, &intake).unwrap(), None);
        let all = bodies(&store).await;
        assert_eq!((all.len(), recent.lost, recent.taken.len()), (4, 2, 0));
        assert_eq!(all[2], r#"{"n":5,"lost":2}"#);
        let closed = recent.written(Err(Refusal::Closed), &intake).unwrap_err();
        assert!(matches!(closed, Fault::Retry(_)), "{closed}");
    }
}
