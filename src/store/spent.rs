//! What happened in a span of time, out of the rows that `history` wrote.

use super::{
    Refusal, Store,
    eras::Eras,
    history::{Counters, MINUTE, Pair, counters},
    rows::ask,
};
use crate::clock::{self, Quality, Stamp};
use serde::Serialize;
use std::collections::BTreeMap;

/// Rows that are read at once, so that nobody who reads events waits long.
const READ: i64 = 512;
/// Losses with less than this between them are told as one.
const NEAR: i64 = 5 * MINUTE;

/// What happened to events of a topic in a span of time, as one consumer saw it:
/// `accepted = delivered + queued + dead + expired + evicted + offloaded`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    pub topic: String,
    pub consumer: String,
    pub accepted: u64,
    pub delivered: u64,
    pub stopped: u64,
    pub dead: u64,
    pub expired: u64,
    pub evicted: u64,
    /// How many more were in the object store at the end than at the beginning, and how many more were queued.
    pub offloaded: i64,
    pub queued: i64,
}

/// Events that were lost, or refused, for one reason, within a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The first and the last, in milliseconds since 1970.
    pub from: i64,
    pub to: i64,
    pub topic: String,
    /// Empty where nobody reads the topic, and of what was never taken in.
    pub consumer: String,
    /// `dead`, `expired`, `evicted`, or `refused`: then it was never taken in.
    pub what: String,
    pub reason: String,
    pub count: u64,
}

impl Store {
    /// What happened from after one time up to another, in milliseconds since 1970: to the minute; more than a day ago, to the
    /// hour. What was not yet written down counts as of now.
    pub async fn spent(&self, since: i64, until: i64) -> Result<(Vec<Spent>, Vec<Lost>), Refusal> {
        let (now, eras) = (clock::wall_ms(), self.shared.view().eras.clone());
        let (mut sums, mut before) = (BTreeMap::<Pair, Sum>::new(), BTreeMap::<Pair, Counters>::new());
        let mut add = |pair: Pair, counters: Counters, at: i64| {
            let last = before.insert(pair.clone(), counters).unwrap_or_default();
            if since < at && at <= until {
                sums.entry(pair).or_default().add(&last, &counters);
            }
        };
        let mut after = 0;
        loop {
            let rows = self.history_rows(after, &eras).await?;
            let Some((last, ..)) = rows.last() else { break };
            after = *last;
            rows.into_iter().for_each(|(_, at, pair, counters)| add(pair, counters, at));
        }
        for row in self.ledger() {
            add((row.topic.clone(), row.consumer.clone()), counters(&row), now);
        }
        let spent = sums.into_iter().map(|((topic, consumer), sum)| sum.spent(topic, consumer));
        let spent = spent.filter(|row| {
            *row != Spent { topic: row.topic.clone(), consumer: row.consumer.clone(), ..Spent::default() }
        });
        Ok((spent.collect(), self.lost(since, until, &eras).await?))
    }

    async fn history_rows(&self, after: i64, eras: &Eras) -> Result<Vec<(i64, i64, Pair, Counters)>, Refusal> {
        let rows = ask(&self.reads, move |db| {
            let sql =
                "SELECT id, boot, mono, wall, quality, topic, consumer, accepted, delivered, stopped, dead, expired,
                evicted, offloaded FROM history WHERE id > ?1 ORDER BY id LIMIT ?2";
            let mut query = db.prepare_cached(sql)?;
            let rows = query.query_map([after, READ], |r| {
                Ok((r.get::<_, i64>(0)?, stamp(r, 1)?, (r.get(5)?, r.get(6)?), columns(r, 7)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        });
        let mended = |mut stamp: Stamp| {
            eras.mend(&mut stamp);
            stamp.wall_ms
        };
        Ok(rows.await?.into_iter().map(|(id, stamp, pair, counters)| (id, mended(stamp), pair, counters)).collect())
    }

    async fn lost(&self, since: i64, until: i64, eras: &Eras) -> Result<Vec<Lost>, Refusal> {
        let (mut all, mut after): (Vec<Lost>, i64) = (Vec::new(), 0);
        loop {
            let rows = ask(&self.reads, move |db| {
                let sql = "SELECT id, boot, mono, wall, quality, last, topic, consumer, what, reason, count FROM loss
                    WHERE id > ?1 ORDER BY id LIMIT ?2";
                let mut query = db.prepare_cached(sql)?;
                let rows = query.query_map([after, READ], |r| {
                    let lost = Lost {
                        from: 0,
                        to: r.get(5)?,
                        topic: r.get(6)?,
                        consumer: r.get(7)?,
                        what: r.get(8)?,
                        reason: r.get(9)?,
                        count: r.get::<_, i64>(10)?.unsigned_abs(),
                    };
                    Ok((r.get::<_, i64>(0)?, stamp(r, 1)?, lost))
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            });
            let rows = rows.await?;
            let Some((last, ..)) = rows.last() else { return Ok(all) };
            after = *last;
            for (_, mut stamp, lost) in rows {
                eras.mend(&mut stamp);
                let lost = Lost { from: stamp.wall_ms, to: stamp.wall_ms.saturating_add(lost.to), ..lost };
                if lost.to > since && lost.from <= until {
                    gather(&mut all, lost);
                }
            }
        }
    }
}

/// Adds a loss to the last of its sort, if that was not long before.
fn gather(all: &mut Vec<Lost>, lost: Lost) {
    let same = |known: &&mut Lost| {
        (&known.topic, &known.consumer, &known.what, &known.reason)
            == (&lost.topic, &lost.consumer, &lost.what, &lost.reason)
            && (known.to - NEAR..=known.to + NEAR).contains(&lost.from)
    };
    match all.iter_mut().rev().find(same) {
        Some(known) => {
            known.to = known.to.max(lost.to);
            known.count += lost.count;
        }
        None => all.push(lost),
    }
}

/// Differences of rows.
#[derive(Default)]
struct Sum {
    counters: Counters,
    offloaded: i64,
}

impl Sum {
    /// What came between two rows. A consumer that was dropped, and is there again, began at nothing.
    fn add(&mut self, before: &Counters, after: &Counters) {
        let anew = before.iter().zip(after).take(6).any(|(before, after)| after < before);
        let before = if anew { &Counters::default() } else { before };
        for (sum, (before, after)) in self.counters.iter_mut().zip(before.iter().zip(after)).take(6) {
            *sum += after - before;
        }
        self.offloaded += after[6] as i64 - before[6] as i64;
    }

    fn spent(self, topic: String, consumer: String) -> Spent {
        let [accepted, delivered, stopped, dead, expired, evicted, _] = self.counters;
        let ended = (delivered + dead + expired + evicted) as i64;
        let queued = accepted as i64 - ended - self.offloaded;
        Spent {
            topic,
            consumer,
            accepted,
            delivered,
            stopped,
            dead,
            expired,
            evicted,
            offloaded: self.offloaded,
            queued,
        }
    }
}

pub(super) fn columns(row: &rusqlite::Row<'_>, from: usize) -> rusqlite::Result<Counters> {
    let mut counters = Counters::default();
    for (at, counter) in counters.iter_mut().enumerate() {
        *counter = row.get::<_, i64>(from + at)?.unsigned_abs();
    }
    Ok(counters)
}

pub(super) fn stamp(row: &rusqlite::Row<'_>, from: usize) -> rusqlite::Result<Stamp> {
    let quality = match row.get(from + 3)? {
        0 => Quality::Unsynced,
        2 => Quality::Restamped,
        3 => Quality::Estimated,
        _ => Quality::Synced,
    };
    let mono_ms = row.get::<_, i64>(from + 1)?.unsigned_abs();
    Ok(Stamp { boot: row.get(from)?, mono_ms, wall_ms: row.get(from + 2)?, quality })
}
