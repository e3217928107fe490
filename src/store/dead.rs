//! Events that nobody could do anything with are kept with the reason.

use super::{Dead, writer::Writer};
use crate::{
    clock,
    event::batch::{Place, Records},
};
use bytes::Bytes;
use rusqlite::params;

/// Dead letters beyond this many are dropped, the oldest first.
const MAX_DEAD: i64 = 10_000;

impl Writer {
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
        self.db
            .prepare_cached(
                "INSERT INTO dead (at, consumer, topic, seq, event, reason, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                clock::wall_ms(),
                letter.consumer,
                letter.topic,
                letter.seq as i64,
                letter.event,
                letter.reason,
                letter.body
            ])?;
        let id = self.db.last_insert_rowid();
        self.db.prepare_cached("DELETE FROM dead WHERE id <= ?1")?.execute([id - MAX_DEAD])?;
        Ok(())
    }
}
