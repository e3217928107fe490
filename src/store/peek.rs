//! What operators look at: stored events, and how much waits where. Each read is short and a transaction of its own, so none
//! stands in the way of the writer, and readers of other parts come in between.

use super::{
    Policy, Refusal, Store,
    reader::Reader,
    rows::{ask, key, seq_of},
    seek::{At, place},
};
use crate::{clock, event::Event};
use rusqlite::{Connection, params};
use std::time::Duration;
use tokio::time::timeout_at;

/// Rows that are looked at to know how many bytes a range of events has: of more, a sample is.
const SAMPLE: usize = 8;
/// Events that are looked through at once for an id.
const AT_ONCE: usize = 1000;
const BYTES_AT_ONCE: usize = 256 << 10;
/// Events with one id are given at most; each topic that an event went through has one.
const MOST: usize = 16;

/// What is stored in a lane.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Stock {
    pub topic: String,
    pub priority: u8,
    /// The oldest number kept, and the next to be given out.
    pub first: u64,
    pub next: u64,
    /// Events between them, those in an object store apart.
    pub events: u64,
    pub offloaded: u64,
    /// Bytes of them as stored, about.
    pub bytes: u64,
    /// Seconds since the oldest that somebody has not passed was taken in.
    pub oldest_seconds: Option<f64>,
    /// How long what everybody has passed is kept, and how much of it; without either it goes at once.
    pub keep_seconds: Option<f64>,
    pub keep_bytes: Option<u64>,
    /// How old its events may get.
    pub ttl_seconds: Option<f64>,
    /// What happens to new events while the mark is passed.
    pub when_full: Policy,
}

/// What waits for a consumer in a lane.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Backlog {
    pub consumer: String,
    pub topic: String,
    pub priority: u8,
    /// The number that it has not passed.
    pub cursor: u64,
    /// The next to be given out.
    pub next: u64,
    pub queued: u64,
    pub offloaded: u64,
    /// Bytes of the queued as stored, about.
    pub bytes: u64,
    /// Seconds since the oldest of them was taken in.
    pub oldest_seconds: Option<f64>,
}

/// Events with an id.
#[derive(Debug, Default)]
pub struct Found {
    pub events: Vec<Event>,
    /// Time was over before all was looked through.
    pub cut: bool,
}

impl Store {
    /// Stored events of a topic from a place on, those of a higher priority first; at most `limit` of them, and about so many
    /// bytes. What lies in an object store, or is damaged, is left out.
    pub async fn peek(
        &self,
        topic: &str,
        priority: Option<u8>,
        from: At,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Event>, Refusal> {
        let mut lanes = self.lanes(Some(topic));
        lanes.retain(|(p, _)| priority.is_none_or(|priority| *p == priority));
        let (mut reader, mut events, mut size) = (self.reader_nowhere(), Vec::new(), 0);
        for (_, lane) in lanes {
            let index = self.shared.view().index.clone();
            let (from, _) = ask(&self.reads, move |db| place(db, &index, lane, from)).await?;
            reader.place(lane, from);
            while events.len() < limit
                && size < bytes
                && let Some(lot) = reader.poll(limit - events.len(), bytes - size).await?
            {
                size += lot.events.iter().map(|event| event.body.size() + event.meta.len()).sum::<usize>();
                events.extend(lot.events);
            }
            reader.leave(lane);
        }
        Ok(events)
    }

    /// Stored events with an id, of a topic or of all; looks through them for so long.
    pub async fn find(&self, id: &str, topic: Option<&str>, within: Duration) -> Result<Found, Refusal> {
        let (deadline, mut found) = (tokio::time::Instant::now() + within, Found::default());
        for (_, lane) in self.lanes(topic) {
            let mut reader = self.reader_nowhere();
            let first = self.shared.view().index.lanes.get(&lane).map_or(0, |lane| lane.first);
            reader.place(lane, first);
            match timeout_at(deadline, with_id(&mut reader, id)).await {
                Ok(events) => found.events.extend(events?),
                Err(_) => {
                    found.cut = true;
                    return Ok(found);
                }
            }
            if found.events.len() >= MOST {
                break;
            }
        }
        Ok(found)
    }

    /// What is stored, by topic and priority.
    pub async fn stock(&self) -> Result<Vec<Stock>, Refusal> {
        let mut ranges = Vec::new();
        let mut stock: Vec<Stock> = {
            let view = self.shared.view();
            let index = &view.index;
            let lanes = index.lanes.iter().map(|(id, lane)| {
                ranges.push((*id, lane.first, lane.next));
                ranges.push((*id, index.passed(*id).max(lane.first), lane.next));
                let (lost, skipped) = index.gone(*id, lane.first, lane.next);
                let offloaded = index.away(*id, lane.first);
                Stock {
                    topic: lane.topic.to_string(),
                    priority: lane.priority,
                    first: lane.first,
                    next: lane.next,
                    events: (lane.next - lane.first).saturating_sub(lost + skipped + offloaded),
                    offloaded,
                    ..Stock::default()
                }
            });
            lanes.collect()
        };
        let sizes = self.sizes(ranges).await?;
        for (stock, pair) in stock.iter_mut().zip(sizes.chunks_exact(2)) {
            (stock.bytes, stock.oldest_seconds) = (pair[0].0, pair[1].1);
        }
        self.work(move |writer| {
            for stock in &mut stock {
                let keep = writer.options.keep.get(&stock.topic).copied().unwrap_or_default();
                (stock.keep_seconds, stock.keep_bytes) = (keep.age.map(|age| age.as_secs_f64()), keep.bytes);
                stock.ttl_seconds = writer.options.ttl.get(&stock.topic).map(Duration::as_secs_f64);
                stock.when_full = writer.policy(&stock.topic);
            }
            Ok(stock)
        })
        .await
    }

    /// Names of all consumers, and whether they registered in this run.
    pub fn consumers(&self) -> Vec<(String, bool)> {
        self.shared.view().index.consumers.values().map(|c| (c.name.clone(), !c.topics.is_empty())).collect()
    }

    /// Forgets what owners remember, and the times at which they want to be called.
    pub async fn forget_state(&self, owners: Vec<String>) -> Result<(), Refusal> {
        let sql = ["DELETE FROM state WHERE owner = ?1", "DELETE FROM timer WHERE owner = ?1"];
        self.work(move |writer| {
            writer.alone(|writer| {
                for owner in &owners {
                    sql.iter().try_for_each(|sql| writer.db.execute(sql, [owner]).map(drop))?;
                }
                Ok(())
            })
        })
        .await
    }

    /// What waits for each consumer, by topic and priority.
    pub async fn backlog(&self) -> Result<Vec<Backlog>, Refusal> {
        let mut ranges = Vec::new();
        let mut backlog = Vec::new();
        {
            let view = self.shared.view();
            let index = &view.index;
            for ((consumer, id), cursor) in &index.cursors {
                let (Some(lane), Some(consumer)) = (index.lanes.get(id), index.consumers.get(consumer)) else {
                    continue;
                };
                let (_, skipped) = index.gone(*id, cursor.seq, lane.next);
                let offloaded = index.away(*id, cursor.seq);
                ranges.push((*id, cursor.seq, lane.next));
                backlog.push(Backlog {
                    consumer: consumer.name.clone(),
                    topic: lane.topic.to_string(),
                    priority: lane.priority,
                    cursor: cursor.seq,
                    next: lane.next,
                    queued: lane.next.saturating_sub(cursor.seq + skipped + offloaded),
                    offloaded,
                    ..Backlog::default()
                });
            }
        }
        let sizes = self.sizes(ranges).await?;
        for (backlog, (bytes, age)) in backlog.iter_mut().zip(sizes) {
            (backlog.bytes, backlog.oldest_seconds) = (bytes, age);
        }
        Ok(backlog)
    }

    /// Priorities and lanes of a topic, or of all; the highest priority first.
    fn lanes(&self, topic: Option<&str>) -> Vec<(u8, u16)> {
        let view = self.shared.view();
        let lanes = view.index.lanes.iter().filter(|(_, lane)| topic.is_none_or(|topic| *lane.topic == *topic));
        let mut lanes: Vec<(u8, u16)> = lanes.map(|(id, lane)| (lane.priority, *id)).collect();
        lanes.sort_unstable_by_key(|(priority, id)| (std::cmp::Reverse(*priority), *id));
        lanes
    }

    /// Bytes of ranges, about, and how many seconds ago the first of each was written. Nothing is read for an empty one.
    async fn sizes(&self, ranges: Vec<(u16, u64, u64)>) -> Result<Vec<(u64, Option<f64>)>, Refusal> {
        if ranges.iter().all(|(_, from, to)| from >= to) {
            return Ok(vec![(0, None); ranges.len()]);
        }
        let now = clock::steady_ms();
        let age = move |at: i64| now.saturating_sub(at).max(0) as f64 / 1e3;
        ask(&self.reads, move |db| {
            let size = |(lane, from, to)| size(db, lane, from, to).map(|(bytes, at)| (bytes, at.map(age)));
            ranges.into_iter().map(size).collect()
        })
        .await
    }
}

async fn with_id(reader: &mut Reader, id: &str) -> Result<Vec<Event>, Refusal> {
    let mut found = Vec::new();
    while let Some(lot) = reader.poll(AT_ONCE, BYTES_AT_ONCE).await? {
        found.extend(lot.events.into_iter().filter(|event| event.id.text() == id));
        tokio::task::yield_now().await; // others want to run, and the time may be over
    }
    Ok(found)
}

/// Bytes of the rows of a range, and when the first was written. Of many rows, a few tell how large an event is.
fn size(db: &Connection, lane: u16, from: u64, to: u64) -> rusqlite::Result<(u64, Option<i64>)> {
    if from >= to {
        return Ok((0, None));
    }
    let mut at_or_before = db.prepare_cached(
        "SELECT id, count, length(body), at FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1",
    )?;
    let mut behind = db.prepare_cached(
        "SELECT id, count, length(body), at FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
    )?;
    let row = |r: &rusqlite::Row<'_>| {
        let n = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
        Ok((seq_of(r.get(0)?), n(1)?, n(2)?, r.get::<_, i64>(3)?))
    };
    let holds = at_or_before.query_map([key(lane, 0), key(lane, from)], row)?.next().transpose()?;
    let holds = holds.filter(|(first, count, ..)| first + count > from);
    let start = holds.map_or(from, |(first, count, ..)| first + count);
    let end = key(lane, to - 1);
    let rest = behind.query_map(params![key(lane, start), end, SAMPLE as i64], row)?;
    let mut rows: Vec<_> = holds.into_iter().map(Ok).chain(rest).collect::<rusqlite::Result<_>>()?;
    let at = rows.first().map(|(.., at)| *at);
    let exact = rows.len() < SAMPLE;
    if !exact {
        // The first few say nothing of those behind.
        for part in 1..SAMPLE as u64 {
            let seq = from + (to - from) / SAMPLE as u64 * part;
            rows.extend(at_or_before.query_map([key(lane, from), key(lane, seq)], row)?.next().transpose()?);
        }
    }
    let (mut events, mut bytes) = (0, 0);
    for (first, count, length, _) in rows {
        let inside = (first + count).min(to).saturating_sub(first.max(from));
        let part = if exact { length * inside / count.max(1) } else { length };
        (events, bytes) = (events + if exact { inside } else { count }, bytes + part);
    }
    let all = if exact { events } else { to - from };
    Ok((u64::try_from(u128::from(bytes) * u128::from(all) / u128::from(events.max(1))).unwrap_or(0), at))
}
