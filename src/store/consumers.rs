//! Lanes and consumers come and go, each in the transaction that needs it.

use super::{
    Start,
    dead::{reads, with_retries},
    lane::{Consumer, Cursor, Lane},
    writer::Writer,
};
use rusqlite::params;
use std::sync::Arc;

/// Keys under which a sink remembers what it sent ahead of its cursor: this, and the lane.
pub const AHEAD: &[u8] = b"ahead/";

impl Writer {
    /// The lane of a topic and priority; made, with cursors for the topic's consumers, if there is none.
    pub(super) fn lane(&mut self, topic: &Arc<str>, priority: u8) -> rusqlite::Result<u16> {
        if let Some(id) = self.index.lane(topic, priority) {
            return Ok(id);
        }
        let id = self.index.lanes.keys().next_back().map_or(1, |last| last + 1);
        let base = self.base;
        self.db
            .prepare_cached(
                "INSERT INTO lane (id, topic, priority, start, first, next) VALUES (?1, ?2, ?3, ?4, ?4, ?4)",
            )?
            .execute(params![id, topic.as_ref(), priority, base as i64])?;
        let lane = Lane { topic: topic.clone(), priority, start: base, first: base, next: base, bytes: 0, dropped: 0 };
        self.index.lanes.insert(id, lane);
        let readers = self.index.consumers.iter().filter(|(_, c)| reads(&c.topics, topic));
        for consumer in readers.map(|(consumer, _)| *consumer) {
            self.index.cursors.insert((consumer, id), Cursor { start: base as i64, seq: base, ..Cursor::default() });
            self.open.cursors.insert((consumer, id));
        }
        self.open.lanes.insert(id);
        Ok(id)
    }

    pub(super) fn register(
        &mut self,
        name: &str,
        topics: &[Arc<str>],
        start: Start,
        drops: bool,
    ) -> rusqlite::Result<u32> {
        let topics = &with_retries(name, topics)[..];
        let known = self.index.consumer(name);
        let id = match known {
            Some(id) => id,
            None => {
                let id = self.index.consumers.keys().next_back().map_or(1, |last| last + 1);
                self.db.execute("INSERT INTO consumer (id, name) VALUES (?1, ?2)", params![id, name])?;
                id
            }
        };
        self.index.consumers.insert(id, Consumer { name: name.to_owned(), topics: topics.to_vec() });
        let lanes: Vec<(u16, u64)> = self
            .index
            .lanes
            .iter()
            .filter(|(_, l)| reads(topics, &l.topic))
            .map(|(lane, l)| (*lane, if start == Start::Oldest { self.oldest(*lane, l) } else { l.next }))
            .collect();
        for (lane, seq) in lanes {
            self.index.cursors.entry((id, lane)).or_insert_with(|| {
                self.open.cursors.insert((id, lane));
                Cursor { start: seq as i64, seq, ..Cursor::default() }
            });
        }
        let dropped: Vec<_> = self.index.cursors.keys().filter(|(c, _)| *c == id && drops).copied().collect();
        for (_, lane) in dropped {
            let topic = self.index.lanes.get(&lane).map(|l| (l.topic.clone(), l.next));
            if topic.as_ref().is_some_and(|(topic, _)| reads(topics, topic)) {
                continue;
            }
            let seq = self.index.cursors.get(&(id, lane)).map_or(u64::MAX, |c| c.seq);
            if let Some((topic, next)) = topic.filter(|(_, next)| *next > seq) {
                log::warn!("`{name}` does not read `{topic}` any more; it had {} events of it to go", next - seq);
            }
            self.drop_cursor(id, lane)?;
        }
        let entry = self.index.consumers.get(&id).cloned();
        self.shared.view().index.consumers.extend(entry.map(|c| (id, c)));
        Ok(id)
    }

    /// The oldest event of a lane for who comes new. What everybody has passed and no retention keeps is gone, although it may
    /// not have been deleted yet: who takes another's place does nothing twice.
    fn oldest(&self, id: u16, lane: &Lane) -> u64 {
        let keep = self.options.keep.get(&*lane.topic).copied().unwrap_or_default();
        let kept = keep.age.is_some() || keep.bytes.is_some();
        if kept { lane.first } else { lane.first.max(self.index.passed(id)) }
    }

    /// It is as if it had not registered in this run.
    pub(super) fn leave(&mut self, name: &str) {
        let Some(id) = self.index.consumer(name) else { return };
        let mut view = self.shared.view();
        for index in [&mut self.index, &mut view.index] {
            if let Some(consumer) = index.consumers.get_mut(&id) {
                consumer.topics.clear();
            }
        }
    }

    pub(super) fn forget(&mut self, name: &str) -> rusqlite::Result<()> {
        let Some(id) = self.index.consumer(name) else {
            return Ok(());
        };
        let lanes: Vec<u16> = self.index.cursors.keys().filter(|(c, _)| *c == id).map(|(_, lane)| *lane).collect();
        for lane in lanes {
            self.drop_cursor(id, lane)?;
        }
        self.db.execute("DELETE FROM consumer WHERE id = ?1", [id])?;
        self.db
            .execute("DELETE FROM state WHERE owner = ?1 AND key = CAST(?2 AS BLOB)", [super::pause::OWNER, name])?;
        self.index.consumers.remove(&id);
        let mut view = self.shared.view();
        view.index.consumers.remove(&id);
        view.paused.remove(&id);
        Ok(())
    }

    fn drop_cursor(&mut self, consumer: u32, lane: u16) -> rusqlite::Result<()> {
        self.db.execute("DELETE FROM cursor WHERE id = ?1", [(i64::from(consumer) << 16) | i64::from(lane)])?;
        if let Some(consumer) = self.index.consumers.get(&consumer) {
            // Another cursor there would pass over it.
            let key = [AHEAD, &lane.to_be_bytes()].concat();
            self.db.execute("DELETE FROM state WHERE owner = ?1 AND key = ?2", params![consumer.name, key])?;
        }
        self.index.cursors.remove(&(consumer, lane));
        self.shared.view().index.cursors.remove(&(consumer, lane));
        self.open.lanes.insert(lane);
        Ok(())
    }
}
