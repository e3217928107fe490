//! How large a delivery may be, by how long the last ones took: an alarm waits for the delivery before it.

use std::time::Duration;
use tokio::time::Instant;

/// A delivery shall not take longer, if that lies in its size.
const TARGET: Duration = Duration::from_millis(500);
/// When smaller deliveries took as long (a link with a long way), they stay large for this time.
const CONTENT: Duration = Duration::from_secs(60);

pub(super) struct Pace {
    /// Of the sink's batches.
    most: usize,
    size: usize,
    /// What was too slow before the size was halved.
    tried: Option<(usize, Duration)>,
    content_until: Option<Instant>,
}

impl Pace {
    pub fn new(most: usize) -> Self {
        Pace { most, size: most, tried: None, content_until: None }
    }

    /// Events of the next delivery at most.
    pub fn size(&self) -> usize {
        self.size
    }

    /// A delivery of so many events took so long.
    pub fn took(&mut self, events: usize, time: Duration) {
        let now = Instant::now();
        if let Some((size, before)) = self.tried.take()
            && time * 4 > before * 3
        {
            self.size = size;
            self.content_until = Some(now + CONTENT);
        } else if time > TARGET && events > 1 && self.content_until.is_none_or(|until| now >= until) {
            self.tried = Some((events, time));
            self.size = events / 2;
        } else if time < TARGET / 2 && events >= self.size {
            self.size = (self.size * 2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deliveries_get_smaller_where_that_makes_them_faster() {
        let ms = Duration::from_millis;
        // The time of a delivery: a fixed part, and one for each event in microseconds; where the size ends up.
        for (fixed, each, want) in [
            (10, 100, 1000..=1000),
            (50, 2_000, 125..=250),
            (0, 20_000, 10..=31),
            (0, 3_000_000, 1..=1),
            (2_000, 10, 1000..=1000), // over a satellite: small ones would only be slower in all
            (300, 1_000, 125..=250),
        ] {
            let mut pace = Pace::new(1000);
            let time = |n: usize| ms(fixed) + Duration::from_micros(each * n as u64);
            for _ in 0..20 {
                pace.took(pace.size(), time(pace.size()));
            }
            assert!(want.contains(&pace.size()), "{fixed} {each}: {}", pace.size());
            // The upstream gets fast: so do deliveries get large.
            for _ in 0..12 {
                pace.took(pace.size(), ms(1));
            }
            assert_eq!(pace.size(), 1000);
            pace.took(1, ms(700));
            assert_eq!(pace.size(), 1000, "of a single event there is no smaller one");
        }
    }
}
