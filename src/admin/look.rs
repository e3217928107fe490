//! Topics, consumers, stored events, and what processes remember.

use super::{
    api::{Call, Desk, Reply},
    routes::Answer,
};
use crate::{
    clock,
    event::Event,
    store::{At, Backlog},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Events, or remembered values, in one answer: without a word, and at most.
const EVENTS: usize = 100;
const MOST: usize = 1000;
/// Bytes of bodies, or of values, in one answer, and one more.
const BYTES: usize = 4 << 20;
/// Stored events are looked through for an id for so long.
const SEARCH: Duration = Duration::from_secs(10);

impl Desk {
    pub(super) async fn topics(&self) -> Answer {
        Ok(Reply::json(&json!({ "topics": self.store.stock().await? })))
    }

    /// All consumers, or one.
    pub(super) async fn consumers(&self, call: &Call) -> Answer {
        let name = call.text("name");
        let mut lanes: BTreeMap<String, Vec<Backlog>> = BTreeMap::new();
        for backlog in self.store.backlog().await? {
            lanes.entry(backlog.consumer.clone()).or_default().push(backlog);
        }
        let (paused, running) = (self.store.paused(), self.running.as_ref());
        let down = running.map(|running| running.down()).unwrap_or_default();
        let held = running.map(|running| running.held()).unwrap_or_default();
        let outlets = running.map(|running| running.outlets()).unwrap_or_default();
        let mut all = Vec::new();
        for (consumer, registered) in self.store.consumers() {
            if name.as_ref().is_some_and(|name| *name != consumer) {
                continue;
            }
            let lanes = lanes.remove(&consumer).unwrap_or_default();
            let sum = |number: fn(&Backlog) -> u64| lanes.iter().map(number).sum::<u64>();
            let oldest = lanes.iter().filter_map(|lane| lane.oldest_seconds).reduce(f64::max);
            let down = down.iter().find(|(name, ..)| *name == consumer);
            let outlet = outlets.iter().find(|(name, _)| *name == consumer);
            all.push(json!({
                "consumer": consumer,
                "configured": running.map(|_| registered),
                "paused": paused.contains(&consumer),
                "down": down.map(|(_, reason, seconds)| json!({ "reason": reason, "seconds": seconds })),
                "held": held.iter().find(|(name, _)| *name == consumer).map(|(_, why)| why),
                "in_flight": outlet.map(|(_, counts)| counts.in_flight.load(std::sync::atomic::Ordering::Relaxed)),
                "queued": sum(|lane| lane.queued),
                "offloaded": sum(|lane| lane.offloaded),
                "bytes": sum(|lane| lane.bytes),
                "oldest_seconds": oldest,
                "lanes": lanes,
            }));
        }
        match name {
            None => Ok(Reply::json(&json!({ "consumers": all }))),
            Some(name) => all.pop().map(|one| Reply::json(&one)).ok_or_else(|| no_consumer(&name)),
        }
    }

    pub(super) async fn events(&self, call: &Call) -> Answer {
        let topic = call.text("topic").ok_or_else(|| Reply::problem(400, "expected `topic`"))?;
        let at = call.at("time")?.or(call.at("from")?).unwrap_or(At::Oldest);
        let limit = call.number("limit")?.unwrap_or(EVENTS).min(MOST);
        Ok(listed(&self.store.peek(&topic, call.number("priority")?, at, limit, BYTES).await?, None))
    }

    pub(super) async fn event(&self, call: &Call) -> Answer {
        let id = call.text("id").unwrap_or_default();
        let found = self.store.find(&id, call.text("topic").as_deref(), SEARCH).await?;
        if found.events.is_empty() {
            let more = if found.cut { ", as far as could be looked in 10 s: say which `topic`" } else { "" };
            return Err(Reply::problem(404, &format!("no event with the id `{id:.80}` is stored{more}")));
        }
        Ok(listed(&found.events, Some(found.cut)))
    }

    /// Who remembers something; or what an owner does.
    pub(super) async fn state(&self, call: &Call) -> Answer {
        let Some(owner) = call.text("owner") else {
            let owners = self.store.owners("pipelines.").await?;
            let owners = owners.iter().map(|(owner, values)| json!({ "owner": owner, "values": values }));
            return Ok(Reply::json(&json!({ "owners": owners.collect::<Vec<_>>() })));
        };
        // Others keep what is theirs alone: sessions of clients, positions in files.
        let owner = if owner.starts_with("pipelines.") { owner } else { format!("pipelines.{owner}") };
        let limit = call.number("limit")?.unwrap_or(EVENTS).min(MOST);
        let prefix = call.text("prefix").unwrap_or_default();
        let (mut values, mut bytes, mut cut) = (Vec::new(), 0, false);
        for (key, value) in self.store.state(&owner, prefix.as_bytes(), limit + 1).await? {
            cut = values.len() >= limit || bytes >= BYTES;
            if cut {
                break;
            }
            bytes += key.len() + value.len();
            values.push(json!({ "key": text(&key), "value": document(&value) }));
        }
        let timers = self
            .store
            .timers(&owner, limit)
            .await?
            .into_iter()
            .map(|(key, due)| json!({ "key": text(&key), "due": clock::rfc3339(clock::stamp_of(due).wall_ms) }));
        Ok(Reply::json(&json!({ "owner": owner, "values": values, "more": cut, "timers": timers.collect::<Vec<_>>() })))
    }
}

pub(super) fn no_consumer(name: &str) -> Reply {
    Reply::problem(404, &format!("there is no consumer `{name:.80}`"))
}

/// Events with their envelopes and where each lies; as many as were asked for does not mean that there are more.
fn listed(events: &[Event], cut: Option<bool>) -> Reply {
    let mut body = b"{\"events\":[".to_vec();
    for (at, event) in events.iter().enumerate() {
        body.extend_from_slice(if at > 0 { b",\n" } else { b"" });
        body.extend_from_slice(format!("{{\"seq\":{},", event.seq).as_bytes());
        let mut envelope = Vec::new();
        event.write_envelope(&mut envelope);
        body.extend_from_slice(envelope.get(1..).unwrap_or_default()); // without the brace that was written
    }
    body.push(b']');
    if let Some(cut) = cut {
        body.extend_from_slice(format!(",\"cut\":{cut}").as_bytes());
    }
    body.extend_from_slice(b"}\n");
    Reply { status: 200, media: "application/json", body }
}

/// Bytes as text; those that are none in hexadecimal.
fn text(bytes: &[u8]) -> String {
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    std::str::from_utf8(bytes).map_or_else(|_| hex(), str::to_owned)
}

/// A value as the JSON that it is, or as text.
fn document(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| text(bytes).into())
}
