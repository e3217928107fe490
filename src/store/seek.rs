//! A consumer's place is moved by an operator: back, to get again what is still stored, or forward, past what it is not to get.
//!
//! The ledger adds up all the same. What it gets again is accepted once more: its count begins as much earlier. What it passes
//! over is evicted. Everything that it read before and had in hand at that moment does not count: until its reader says that
//! it begins at the new place, its steps are refused, and moves of its cursor that nobody waits for are left out.

use super::{
    Refusal, Store,
    lane::{Index, Lane},
    rows::{key, seq_of},
    writer::Writer,
};
use crate::{budget::Span, clock};
use rusqlite::{Connection, OptionalExtension, params};
use std::str::FromStr;

/// A place in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before all that is stored.
    Oldest,
    /// Behind it.
    Newest,
    /// A sequence number.
    Seq(u64),
    /// Before what was taken in at this time, by the wall clock in milliseconds since 1970, or later. What was committed
    /// together with it may come before it.
    Time(i64),
}

impl FromStr for At {
    type Err = String;

    /// `oldest`, `newest`, a number, a time as RFC 3339 says, or a span back from now, `-1h`.
    fn from_str(text: &str) -> Result<At, String> {
        let back = |text: &str| text.parse::<Span>().ok().map(|span| clock::millis_of(span.0.as_millis()));
        match text {
            "oldest" => return Ok(At::Oldest),
            "newest" => return Ok(At::Newest),
            _ => {}
        }
        if let Ok(seq) = text.strip_prefix("seq:").unwrap_or(text).parse() {
            return Ok(At::Seq(seq));
        }
        let time = match text.strip_prefix('-') {
            Some(span) => back(span).map(|span| clock::wall_ms().saturating_sub(span)),
            None => clock::parse_time(text.strip_prefix("time:").unwrap_or(text)),
        };
        time.map(At::Time).ok_or_else(|| {
            format!(
                "expected `oldest`, `newest`, a sequence number, a time like `2026-05-01T06:00:00Z` or a span back like `-1h` instead of `{text:.40}`"
            )
        })
    }
}

/// What became of a consumer's cursor in one lane.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sought {
    pub topic: String,
    pub priority: u8,
    /// Where the cursor was and where it is.
    pub from: u64,
    pub to: u64,
    /// Events that it gets again, or was moved past.
    pub again: u64,
    pub passed: u64,
    /// Some of what was asked for is gone: this is the oldest that is stored.
    pub gone: bool,
}

impl Store {
    /// Moves the cursors of a consumer, of one topic and priority if so said; those through which it gets dead letters again
    /// stay. What it has in hand it finishes, and then goes on from there. Nothing is given where there is no such consumer,
    /// or topic.
    pub async fn seek(
        &self,
        name: &str,
        topic: Option<&str>,
        priority: Option<u8>,
        to: At,
    ) -> Result<Vec<Sought>, Refusal> {
        let (name, topic) = (name.to_owned(), topic.map(str::to_owned));
        self.work(move |writer| {
            let Some(consumer) = writer.index.consumer(&name) else { return Ok(Vec::new()) };
            // What it did until now counts.
            if writer.ride_since.is_some() {
                writer.commit(Vec::new());
            }
            let chosen = |lane: &Lane| {
                !lane.topic.contains(super::dead::RETRIED)
                    && topic.as_deref().is_none_or(|topic| *lane.topic == *topic)
                    && priority.is_none_or(|priority| lane.priority == priority)
            };
            let lanes: Vec<u16> = writer.index.cursors.keys().filter(|(c, _)| *c == consumer).map(|(_, l)| *l).collect();
            let lanes: Vec<u16> =
                lanes.into_iter().filter(|lane| writer.index.lanes.get(lane).is_some_and(chosen)).collect();
            let mut done = Vec::new();
            writer.alone(|writer| {
                for lane in &lanes {
                    done.extend(writer.seek(consumer, *lane, to)?);
                }
                Ok(())
            })?;
            writer.sought.insert(consumer);
            let mut view = writer.shared.view();
            *view.sought.entry(consumer).or_default() += 1;
            lanes.iter().for_each(|lane| view.wake(*lane));
            drop(view);
            for sought in &done {
                let Sought { topic, from, to, again, passed, .. } = sought;
                log::warn!("`{name}`: moved by an operator in `{topic}` from {from} to {to}: {again} again, {passed} passed over");
            }
            Ok(done)
        })
        .await
    }
}

impl Writer {
    /// In the open transaction.
    fn seek(&mut self, consumer: u32, lane: u16, to: At) -> rusqlite::Result<Option<Sought>> {
        let (Some(known), Some(from)) =
            (self.index.lanes.get(&lane), self.index.cursors.get(&(consumer, lane)).map(|c| c.seq))
        else {
            return Ok(None);
        };
        let (topic, priority) = (known.topic.to_string(), known.priority);
        let (to, gone) = place(&self.db, &self.index, lane, to)?;
        let to = self.index.land(lane, to).min(self.index.barrier(lane, from));
        let (lost, skipped) = self.index.gone(lane, from.min(to), from.max(to));
        let count = from.abs_diff(to) - skipped;
        let Some(cursor) = self.index.cursors.get_mut(&(consumer, lane)) else { return Ok(None) };
        cursor.seq = to;
        let (again, passed) = if to < from {
            cursor.start -= (from - to) as i64;
            (count - lost, 0)
        } else {
            cursor.start += skipped as i64;
            cursor.evicted += count;
            (0, count)
        };
        self.open.cursors.insert((consumer, lane));
        self.open.lanes.insert(lane);
        Ok(Some(Sought { topic, priority, from, to, again, passed, gone }))
    }

    /// A consumer reads from its cursors: what it hands in from here on counts, what it did before does not.
    pub(super) fn begins(&mut self, consumer: u32) {
        if self.sought.remove(&consumer) {
            self.riding.moves.retain(|m| m.consumer != consumer);
        }
    }
}

/// The number of a place in a lane, and whether something before it was stored once, was asked for, and is gone.
pub(super) fn place(db: &Connection, index: &Index, lane: u16, at: At) -> rusqlite::Result<(u64, bool)> {
    let Some(known) = index.lanes.get(&lane) else { return Ok((0, false)) };
    let (first, next, trimmed) = (known.first, known.next, known.first > known.start);
    Ok(match at {
        At::Oldest => (first, false),
        At::Newest => (next, false),
        At::Seq(seq) => (seq.clamp(first, next), trimmed && seq < first),
        At::Time(wall) => {
            let then = clock::steady_ms().saturating_sub(clock::wall_ms().saturating_sub(wall));
            match before(db, lane, (first, next), then)? {
                Some(end) => (end.clamp(first, next), false),
                None => (first, trimmed),
            }
        }
    })
}

/// The end of the last row that was written before a time; rows lie in the order of their times.
fn before(db: &Connection, lane: u16, range: (u64, u64), then: i64) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT id, count, at FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1";
    let mut last = db.prepare_cached(sql)?;
    let ((mut low, mut high), mut end) = (range, None);
    while low < high {
        let middle = low + (high - low) / 2;
        let row = last.query_row(params![key(lane, low), key(lane, middle)], |r| {
            Ok((seq_of(r.get(0)?), r.get::<_, i64>(1)?.unsigned_abs(), r.get::<_, i64>(2)?))
        });
        match row.optional()? {
            None => low = middle + 1,
            Some((first, count, at)) if at < then => {
                end = Some(first + count);
                low = (first + count).max(middle + 1);
            }
            Some((first, ..)) => high = first,
        }
    }
    Ok(end)
}
