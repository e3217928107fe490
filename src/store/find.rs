//! Where an event is, by its id. Ids are not indexed, so the rows are looked through from the newest back: in short turns, since
//! others read the disk too, and only for so long.

use super::{
    Refusal, Store,
    dead::origin,
    lane::{Lane, View},
    rows::{ask, key, seq_of, unpack},
};
use crate::{
    clock,
    event::batch::{Place, Records, put},
};
use rusqlite::params;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

/// Rows of one turn, and bytes of them before compression.
const ROWS: i64 = 64;
const BYTES: usize = 256 * 1024;
/// Rows, and time, in all.
const MOST_ROWS: usize = 50_000;
const LONGEST: Duration = Duration::from_secs(3);

/// What the store knows of an event.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Whereabouts {
    pub places: Vec<Sighting>,
    /// Topics into which an event of this id was taken lately, by what is remembered to tell repeats.
    pub known: Vec<String>,
    /// Whether all rows were looked through; and events in the object store, which are not.
    pub complete: bool,
    pub offloaded: u64,
}

/// A place where it lies, or lay.
#[derive(Clone, Debug, Serialize)]
pub struct Sighting {
    pub topic: String,
    pub lane: u16,
    pub number: u64,
    /// `stored`, `offloaded`, or `gone`.
    pub is: &'static str,
    /// When it was taken in, as long as it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<String>,
    pub consumers: Vec<Reading>,
}

/// How far a consumer is with it.
#[derive(Clone, Debug, Serialize)]
pub struct Reading {
    pub consumer: String,
    /// `passed`, `in flight`, `waits`, or, where a sink sends new events ahead of a backlog, `sent ahead`.
    pub is: &'static str,
    /// Events of its lane that are before it.
    pub before: u64,
}

/// A lane that is looked through, from `next` back.
struct Search {
    place: Place,
    next: u64,
}

impl Store {
    /// Looks an event up, by an id of its own or one that was made for it: that one says where it was first stored.
    pub async fn whereabouts(&self, id: &str) -> Result<Whereabouts, Refusal> {
        let home = self.home(id);
        let mut found = Whereabouts { complete: true, ..Whereabouts::default() };
        let (mut lanes, mut places) = (self.searches(home), Vec::from_iter(home.map(|(lane, seq)| (lane, seq, None))));
        let needles = needles(id, home);
        let (begun, mut rows) = (Instant::now(), 0);
        while !lanes.is_empty() {
            let mut left = Vec::new();
            for search in lanes {
                if rows >= MOST_ROWS || begun.elapsed() > LONGEST {
                    found.complete = false;
                    continue;
                }
                let (looked, hits, next) = self.turn(&search, id, &needles).await?;
                rows += looked;
                places.extend(hits);
                left.extend(next.map(|next| Search { next, ..search }));
            }
            lanes = left;
        }
        if let Some((lane, seq)) = home
            && let Some(hit) = self.hit_at(lane, seq).await?
            && let Some(first) = places.first_mut()
        {
            *first = hit;
        }
        {
            let view = self.shared.view();
            found.places = places.into_iter().map(|(lane, seq, taken)| sighting(&view, lane, seq, taken)).collect();
            found.offloaded = view.index.offloaded.iter().map(|((_, first), away)| away.next - first).sum();
        }
        if home.is_none() {
            found.known = self.known(id).await?;
        }
        Ok(found)
    }

    /// Where an event without an id of its own was first stored.
    fn home(&self, id: &str) -> Option<(u16, u64)> {
        let mut parts = id.splitn(3, '-');
        let store = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (lane, seq): (u16, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let view = self.shared.view();
        let there = view.index.lanes.get(&lane).is_some_and(|lane| (lane.start..lane.next).contains(&seq));
        (store == self.shared.store && there).then_some((lane, seq))
    }

    fn searches(&self, home: Option<(u16, u64)>) -> Vec<Search> {
        let view = self.shared.view();
        let others = view.index.lanes.iter().filter(|(id, _)| home.is_none_or(|(lane, _)| lane != **id));
        let search = |(id, lane): (&u16, &Lane)| {
            let (topic, priority) = (lane.topic.clone(), lane.priority);
            Search { place: Place { store: self.shared.store, lane: *id, topic, priority }, next: lane.next }
        };
        others.map(search).collect()
    }

    /// Looks through the rows before `next`: how many, where it stands in them, and from where to go on, if there are more.
    async fn turn(
        &self,
        search: &Search,
        id: &str,
        needles: &[Vec<u8>],
    ) -> Result<(usize, Vec<Hit>, Option<u64>), Refusal> {
        let (place, next, id, needles) = (search.place.clone(), search.next, id.to_owned(), needles.to_vec());
        let eras = self.shared.view().eras.clone();
        ask(&self.reads, move |db| {
            let sql =
                "SELECT id, count, size, crc, body FROM batch WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
            let mut query = db.prepare_cached(sql)?;
            let mut rows = query.query(params![key(place.lane, 0), key(place.lane, next), ROWS])?;
            let (mut looked, mut bytes, mut hits, mut first) = (0, 0, Vec::new(), None);
            while bytes < BYTES
                && let Some(row) = rows.next()?
            {
                let (at, count, size, sum): (i64, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                (looked, bytes, first) = (looked + 1, bytes + size.unsigned_abs() as usize, Some(seq_of(at)));
                let Ok(data) = unpack(at, count, size, sum, row.get_ref(4)?.as_blob().unwrap_or_default()) else {
                    continue;
                };
                if !needles.iter().any(|needle| holds(&data, needle)) {
                    continue;
                }
                let mut records = Records::new(&data, &place, seq_of(at));
                while let Some(mut event) = records.next() {
                    if event.id.text() == id {
                        eras.mend(&mut event.stamp);
                        hits.push((place.lane, event.seq, Some(clock::rfc3339(event.stamp.wall_ms))));
                    }
                }
            }
            let more = looked as i64 == ROWS || bytes >= BYTES;
            Ok((looked, hits, first.filter(|_| more)))
        })
        .await
    }

    /// When the event at a place was taken in, if it is stored.
    async fn hit_at(&self, lane: u16, seq: u64) -> Result<Option<Hit>, Refusal> {
        let Some(search) = self.searches(None).into_iter().find(|search| search.place.lane == lane) else {
            return Ok(None);
        };
        let id = crate::event::Id::Made { store: self.shared.store, lane, seq }.text().into_owned();
        // Every row holds the empty needle.
        let (_, hits, _) = self.turn(&Search { next: seq + 1, ..search }, &id, &[Vec::new()]).await?;
        Ok(hits.into_iter().find(|(_, at, _)| *at == seq))
    }

    async fn known(&self, id: &str) -> Result<Vec<String>, Refusal> {
        let digest = Sha256::digest(id.as_bytes());
        let mark = digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        self.work(move |writer| {
            let lanes = writer.index.lanes.iter().filter(|(id, _)| writer.seen.knows(**id, mark));
            Ok(lanes.map(|(_, lane)| lane.topic.to_string()).collect())
        })
        .await
    }
}

/// Lane, number, and when it was taken in.
type Hit = (u16, u64, Option<String>);

/// Bytes of which a record of the event has some.
fn needles(id: &str, home: Option<(u16, u64)>) -> Vec<Vec<u8>> {
    let made = home.map(|(lane, seq)| {
        let mut bytes = Vec::new();
        put(&mut bytes, lane.into());
        put(&mut bytes, seq);
        bytes
    });
    made.into_iter().chain([id.as_bytes().to_vec()]).collect()
}

fn holds(data: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || data.windows(needle.len()).any(|part| part == needle)
}

fn sighting(view: &View, lane: u16, seq: u64, taken: Option<String>) -> Sighting {
    let index = &view.index;
    let (topic, first) = index.lanes.get(&lane).map(|l| (l.topic.clone(), l.first)).unwrap_or_default();
    let is = match taken {
        Some(_) => "stored",
        None if index.away_at(lane, seq).is_some() => "offloaded",
        None if seq < first || index.gone(lane, seq, seq + 1) != (0, 0) => "gone",
        None => "stored",
    };
    let readings = index.cursors.iter().filter(|((_, l), _)| *l == lane).map(|((consumer, _), cursor)| {
        let handed = view.handed.get(&(*consumer, lane)).is_some_and(|to| seq < *to);
        let is = match cursor.seq > seq {
            true => "passed",
            false if handed => "in flight",
            false => "waits",
        };
        let name = index.consumers.get(consumer).map(|consumer| consumer.name.clone()).unwrap_or_default();
        Reading { consumer: name, is, before: seq.saturating_sub(cursor.seq) }
    });
    Sighting { topic: origin(&topic).to_string(), lane, number: seq, is, taken, consumers: readings.collect() }
}
