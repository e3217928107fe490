//! Events that nobody could do anything with are kept with the reason, until somebody retries or purges them.
//!
//! A letter that is retried goes to the consumer that it failed at, and to no other: through a topic that only this
//! consumer reads, `CONSUMER!TOPIC`. The consumer sees it as an event of `TOPIC`, with the id it had.

use super::{Append, Dead, Refusal, Store, lane::Cursor, rows::ask, writer::Writer};
use crate::{
    clock,
    event::{
        Batch, Event,
        batch::{Place, Records},
    },
};
use bytes::Bytes;
use rusqlite::{Params, params};
use std::sync::Arc;

/// Dead letters beyond this many are dropped, the oldest first.
const MAX_DEAD: i64 = 10_000;
/// Beyond so many bytes too, or an eighth of the store's `high` mark.
const MAX_BYTES: u64 = 64 << 20;
/// Letters retried in one transaction, and bytes of those that are retried or read at once, and one more.
const AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 256 << 10;
/// Between a consumer and a topic: no name has it.
pub(super) const RETRIED: char = '!';

/// A dead letter as it is kept.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Rises, and is not given out again as long as the store is open.
    pub id: i64,
    /// When it died, by the wall clock, in milliseconds since 1970.
    pub at: i64,
    pub dead: Dead,
}

/// Which dead letters; what is `None` says nothing.
#[derive(Clone, Debug, Default)]
pub struct Which {
    pub id: Option<i64>,
    /// The consumer that it failed at.
    pub consumer: Option<String>,
    pub topic: Option<String>,
    /// Only letters with a smaller id.
    pub before: Option<i64>,
    /// The id of the event.
    pub event: Option<String>,
}

const WHICH: &str = "(?1 IS NULL OR id = ?1) AND (?2 IS NULL OR consumer = ?2) AND (?3 IS NULL OR topic = ?3)
    AND (?4 IS NULL OR id < ?4) AND (?5 IS NULL OR event = ?5)";

impl Which {
    fn params(&self) -> impl Params {
        (self.id, self.consumer.as_deref(), self.topic.as_deref(), self.before, self.event.as_deref())
    }
}

/// How many letters there are, or more: the writer's.
#[derive(Default)]
pub(super) struct Letters {
    bytes: u64,
    count: i64,
    /// Whether that is what there is; it was never counted, or some went since, or may not have been written.
    exact: bool,
    newest: i64,
    /// Told that there are too many.
    told: bool,
}

impl Letters {
    /// There may be fewer.
    pub fn doubt(&mut self) {
        self.exact = false;
    }
}

/// What came of a retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Letters that are with their consumer again.
    pub retried: u64,
    /// Letters that hold no event, or one of a consumer that the store does not know: they stay.
    pub left: u64,
}

/// The topic through which a consumer gets its letters of a topic again.
pub(super) fn retry_topic(consumer: &str, topic: &str) -> Arc<str> {
    format!("{consumer}{RETRIED}{topic}").into()
}

/// The topic that an event in this one says it is from.
pub(super) fn origin(topic: &Arc<str>) -> Arc<str> {
    topic.split_once(RETRIED).map_or_else(|| topic.clone(), |(_, origin)| origin.into())
}

/// A consumer's topics, and what stands for all through which its letters come again: one may be of a topic that it does not
/// read any more.
pub(super) fn with_retries(consumer: &str, topics: &[Arc<str>]) -> Vec<Arc<str>> {
    let retries = (!topics.is_empty()).then(|| retry_topic(consumer, ""));
    topics.iter().cloned().chain(retries).collect()
}

/// What stands for a topic among those that [`with_retries`] gives.
pub(super) fn read_as(topic: &str) -> &str {
    topic.rfind(RETRIED).map_or(topic, |at| &topic[..=at])
}

/// Whether a topic is among those that [`with_retries`] gave.
pub(super) fn reads(topics: &[Arc<str>], topic: &str) -> bool {
    topics.iter().any(|known| **known == *read_as(topic))
}

impl Store {
    /// Dead letters from the newest back; at most `limit` of them, and of about 256 KiB.
    pub async fn letters(&self, which: &Which, limit: usize) -> Result<Vec<Letter>, Refusal> {
        let which = which.clone();
        ask(&self.reads, move |db| {
            let sql = format!(
                "SELECT id, at, consumer, topic, seq, event, reason, body FROM dead WHERE {WHICH} ORDER BY id DESC"
            );
            let mut query = db.prepare_cached(&sql)?;
            let mut rows = query.query(which.params())?;
            let (mut letters, mut bytes) = (Vec::new(), 0);
            while let Some(r) = rows.next()? {
                let dead = Dead {
                    consumer: r.get(2)?,
                    topic: r.get(3)?,
                    seq: r.get::<_, i64>(4)?.unsigned_abs(),
                    event: r.get(5)?,
                    reason: r.get(6)?,
                    body: r.get(7)?,
                };
                bytes += dead.body.len();
                letters.push(Letter { id: r.get(0)?, at: r.get(1)?, dead });
                if letters.len() >= limit || bytes >= BYTES_AT_ONCE {
                    break;
                }
            }
            Ok(letters)
        })
        .await
    }

    /// How many dead letters there are.
    pub async fn count_letters(&self, which: &Which) -> Result<u64, Refusal> {
        let which = which.clone();
        ask(&self.reads, move |db| {
            let sql = format!("SELECT count(*) FROM dead WHERE {WHICH}");
            db.prepare_cached(&sql)?.query_row(which.params(), |r| r.get::<_, i64>(0)).map(i64::unsigned_abs)
        })
        .await
    }

    /// Gives letters back to their consumers, the oldest first. One that fails again becomes a new letter.
    pub async fn retry(&self, which: &Which) -> Result<Retried, Refusal> {
        let (mut all, mut after, mut which) = (Retried::default(), 0, which.clone());
        // What dies again meanwhile is not tried once more.
        let newest = self.letters(&which, 1).await?.first().map_or(0, |letter| letter.id);
        which.before = Some(newest + 1);
        loop {
            let now = which.clone();
            let (done, last) = self.work(move |writer| writer.alone(|writer| writer.revive(&now, after))).await?;
            all.retried += done.retried;
            all.left += done.left;
            match last {
                Some(last) => after = last,
                None => return Ok(all),
            }
        }
    }

    /// Drops letters for ever; gives how many.
    pub async fn purge(&self, which: &Which) -> Result<u64, Refusal> {
        let which = which.clone();
        let sql = format!("DELETE FROM dead WHERE {WHICH}");
        let purge = move |writer: &mut Writer| {
            writer.letters.doubt();
            writer.alone(|w| w.db.execute(&sql, which.params()).map(|n| n as u64))
        };
        self.work(purge).await
    }
}

impl Writer {
    /// Puts letters behind the one of id `after` where their consumers find them; gives the last it looked at, if there may be more.
    fn revive(&mut self, which: &Which, after: i64) -> rusqlite::Result<(Retried, Option<i64>)> {
        let sql = format!("SELECT id, consumer, topic, body FROM dead WHERE {WHICH} AND id > ?6 ORDER BY id LIMIT ?7");
        let mut found: Vec<(i64, String, String, Vec<u8>)> = Vec::new();
        let mut query = self.db.prepare(&sql)?;
        let most = AT_ONCE as i64;
        let mut rows =
            query.query(params![which.id, which.consumer, which.topic, which.before, which.event, after, most])?;
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE
            && let Some(r) = rows.next()?
        {
            found.push((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?));
            bytes += found.last().map_or(0, |(.., body)| body.len());
        }
        drop(rows);
        drop(query);
        let mut done = Retried::default();
        self.letters.doubt();
        for (id, consumer, topic, body) in &found {
            let known = self.index.consumer(consumer);
            let (Some(consumer_id), Some(event)) = (known, Event::of_envelope(body)) else {
                done.left += 1;
                continue;
            };
            // A letter that was retried before and died again is from the topic it was from at first.
            let (topic, priority) = (retry_topic(consumer, topic), event.priority);
            let lane = self.lane(&topic, priority)?;
            // A consumer that did not register in this run must find it at the next.
            let at = self.index.lanes.get(&lane).map_or(0, |l| l.next);
            self.index.cursors.entry((consumer_id, lane)).or_insert_with(|| {
                self.open.cursors.insert((consumer_id, lane));
                Cursor { start: at as i64, seq: at, ..Cursor::default() }
            });
            let mut batch = Batch::default();
            batch.push_event(&event);
            self.append(lane, &Append { topic, priority, batch })?;
            self.db.prepare_cached("DELETE FROM dead WHERE id = ?1")?.execute([id])?;
            done.retried += 1;
        }
        Ok((done, found.last().map(|(id, ..)| *id)))
    }

    /// An id that came before with another body: the event is kept among the dead letters.
    pub(super) fn conflict(&mut self, lane: u16, record: Vec<u8>) -> rusqlite::Result<()> {
        let Some(topic) = self.index.lanes.get(&lane).map(|l| l.topic.clone()) else { return Ok(()) };
        let place = Place { store: self.shared.store, lane, topic: topic.clone(), priority: 0 };
        let data = Bytes::from(record);
        let mut body = Vec::new();
        let event = Records::new(&data, &place, 0).next();
        let id = event.as_ref().map(|e| e.id.text().into_owned()).unwrap_or_default();
        if let Some(mut event) = event {
            event.stamp = clock::stamp();
            event.write_envelope(&mut body);
        }
        let reason = "the id was used before with another body".to_owned();
        self.bury(&Dead { consumer: String::new(), topic: topic.to_string(), seq: 0, event: id, reason, body })
    }

    pub(super) fn bury(&mut self, letter: &Dead) -> rusqlite::Result<()> {
        let newest = "SELECT coalesce(max(id), 0) FROM dead";
        let newest: i64 = self.db.prepare_cached(newest)?.query_row([], |r| r.get(0))?;
        let id = newest.max(self.letters.newest) + 1;
        self.db
            .prepare_cached(
                "INSERT INTO dead (id, at, consumer, topic, seq, event, reason, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                id,
                clock::wall_ms(),
                letter.consumer,
                letter.topic,
                letter.seq as i64,
                letter.event,
                letter.reason,
                letter.body
            ])?;
        self.note_letter(letter, id);
        let letters = &mut self.letters;
        letters.newest = id;
        (letters.bytes, letters.count) = (letters.bytes.saturating_add(letter.body.len() as u64), letters.count + 1);
        if self.drop_letters()? && !std::mem::replace(&mut self.letters.told, true) {
            log::warn!("store: there are too many dead letters; the oldest are dropped from now on");
        }
        Ok(())
    }

    /// Drops the oldest letters of too many; gives whether there were.
    fn drop_letters(&mut self) -> rusqlite::Result<bool> {
        let (most, mut dropped) = (MAX_BYTES.min(self.options.high / 8), false);
        while !self.letters.exact || self.letters.bytes > most || self.letters.count > MAX_DEAD {
            if !std::mem::replace(&mut self.letters.exact, true) {
                let sum = "SELECT coalesce(sum(length(body)), 0), count(*) FROM dead";
                (self.letters.bytes, self.letters.count) =
                    self.db.query_row(sum, [], |r| Ok((r.get::<_, i64>(0)?.unsigned_abs(), r.get(1)?)))?;
                continue;
            }
            let oldest = "DELETE FROM dead WHERE id = (SELECT min(id) FROM dead) RETURNING length(body)";
            let bytes = self.db.prepare_cached(oldest)?.query_row([], |r| r.get::<_, i64>(0))?;
            self.letters.bytes = self.letters.bytes.saturating_sub(bytes.unsigned_abs());
            self.letters.count -= 1;
            dropped = true;
        }
        Ok(dropped)
    }
}
