//! Events that were stored elsewhere, or earlier, are taken in.

use super::{Call, Desk, Reply, routes::Answer};
use crate::{
    event::{Batch, Draft, Event, When, walk::Json},
    store::{Append, Put, Refusal, Step},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Who remembers how far imports have come: by their names, how many lines are done. So none is taken in twice.
const OWNER: &str = "import";
/// Imports that are remembered.
const REMEMBERED: usize = 64;
/// Bytes of events in one commit, and one more: less than may wait for the disk in the smallest gateway.
const COMMIT: usize = 32 << 10;
/// Bytes of a topic's name.
const NAME: usize = 200;

/// Events of a commit, by topic and priority.
#[derive(Default)]
struct Piece {
    batches: BTreeMap<(Arc<str>, u8), Batch>,
    bytes: usize,
}

#[derive(Default)]
struct Taken {
    new: u64,
    repeats: u64,
    wrong: Vec<Value>,
}

impl Desk {
    pub(super) async fn import(&self, call: &Call) -> Answer {
        let name = call.text("name").filter(|name| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()));
        let name = name.ok_or_else(|| Reply::problem(400, "`name`: expected a SHA-256 in hexadecimal"))?;
        let (at, topic) = (call.number("at")?.unwrap_or(0), call.text("topic"));
        // Into another topic, it is another import.
        let name = topic.iter().fold(name, |name, topic| name + " " + topic);
        let known = self.store.state(OWNER, name.as_bytes(), 1).await?;
        let known = known.first().and_then(|(_, done)| std::str::from_utf8(done).ok()?.parse::<u64>().ok());
        let (mut done, mut taken) = (known.unwrap_or(0), Taken::default());
        if done == at {
            if self.store.is_full() {
                return Err(Refusal::Full.into());
            }
            if known.is_none() {
                self.forget_one().await?;
            }
            let mut piece = Piece::default();
            for line in call.body.split_inclusive(|byte| *byte == b'\n') {
                done += 1;
                if let Err(reason) = piece.add(line.trim_ascii(), topic.as_deref()) {
                    taken.wrong.push(json!({ "line": done, "reason": reason }));
                }
                if piece.bytes >= COMMIT {
                    self.take(std::mem::take(&mut piece), &name, done, &mut taken).await?;
                }
            }
            self.take(piece, &name, done, &mut taken).await?;
        }
        let Taken { new, repeats, wrong } = taken;
        Ok(Reply::json(&json!({ "done": done, "new": new, "repeats": repeats, "wrong": wrong })))
    }

    /// Commits a piece, and how far the import is with it.
    async fn take(&self, piece: Piece, name: &str, done: u64, taken: &mut Taken) -> Result<(), Refusal> {
        let append = |((topic, priority), batch)| Append { topic, priority, batch };
        let appends: Vec<Append> = piece.batches.into_iter().map(append).collect();
        let put = Put { owner: OWNER.into(), key: name.into(), value: Some(done.to_string().into()) };
        for placed in self.store.commit(Step { appends, state: vec![put], ..Step::default() }).await? {
            taken.new += u64::from(placed.count);
            taken.repeats += placed.repeats.len() as u64;
            let told = [
                (placed.conflicts.len(), "their ids were used before with other bodies: they are dead letters"),
                (placed.passed.len(), "they were dropped, as the topic's `when_full` says"),
            ];
            for (count, why) in told.into_iter().filter(|(count, _)| *count > 0) {
                taken.wrong.push(json!({ "line": done, "reason": format!("{count} of the lines up to here: {why}") }));
            }
        }
        Ok(())
    }

    /// Makes room for another import among those that are remembered.
    async fn forget_one(&self) -> Result<(), Refusal> {
        let mut known = self.store.state(OWNER, &[], REMEMBERED).await?;
        if known.len() < REMEMBERED {
            return Ok(());
        }
        let put = Put { owner: OWNER.into(), key: known.swap_remove(0).0, value: None };
        self.store.commit(Step { state: vec![put], ..Step::default() }).await.map(drop)
    }
}

impl Piece {
    fn add(&mut self, line: &[u8], topic: Option<&str>) -> Result<(), String> {
        let event = Event::of_envelope(line).ok_or("no event with an envelope")?;
        let topic = topic.map_or_else(|| event.topic.clone(), Arc::from);
        if topic.is_empty() || topic.len() > NAME || topic.contains(|c: char| c.is_control() || c == '!') {
            return Err("its topic is none".into());
        }
        let key = (topic, event.priority);
        let batch = self.batches.entry(key).or_default();
        let before = batch.bytes();
        // As it was written: to know a repeat, the store compares the bytes.
        let body = Json::trusted(line).member("body").map_or(&b""[..], Json::raw);
        let draft = Draft {
            id: Some(&event.id.text()),
            key: event.key.as_str(),
            time: Some(When::Told(event.happened())),
            ttl: None,
            meta: &event.meta,
            body,
        };
        batch.push(&draft).map_err(|unfit| unfit.to_string())?;
        self.bytes += batch.bytes() - before;
        Ok(())
    }
}
