//! What sessions leave in the store, as rows of state: `session/CLIENT`, `queue/CLIENT N`, `pkid/CLIENT ID`, with a zero
//! byte after the client id, which cannot hold one. Retained messages: `retained/TOPIC`.

use super::{
    hub::Hub,
    payload::Message,
    session::{Item, Phase, Selected, Session, Sub},
};
use crate::store::{Put, Refusal, Store};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

fn key(what: &str, client: &str, rest: &[u8]) -> Vec<u8> {
    [what.as_bytes(), client.as_bytes(), &[0], rest].concat()
}

pub fn item_key(client: &str, n: u64) -> Vec<u8> {
    key("queue/", client, &n.to_be_bytes())
}

fn put(owner: &str, key: Vec<u8>, value: Option<Vec<u8>>) -> Put {
    Put { owner: owner.to_owned(), key, value }
}

/// A received QoS 2 packet identifier, or that it is released.
pub fn packet_id(owner: &str, client: &str, id: u16, held: bool) -> Put {
    put(owner, key("pkid/", client, &id.to_be_bytes()), held.then(Vec::new))
}

#[derive(Serialize, Deserialize)]
struct SessionRow {
    expiry: u32,
    /// When it ends, milliseconds since 1970; none while the client is connected.
    until: Option<i64>,
    subs: Vec<Sub>,
}

pub fn session(owner: &str, session: &Session, until: Option<i64>) -> Put {
    let row = SessionRow { expiry: session.expiry, until, subs: session.subs.clone() };
    put(owner, key("session/", &session.client, &[]), serde_json::to_vec(&row).ok())
}

#[derive(Serialize, Deserialize)]
struct ItemRow {
    place: Option<(u16, u64)>,
    qos: u8,
    retain: bool,
    ids: Vec<u32>,
    packet_id: u16,
    phase: Phase,
    topic: String,
    expiry: Option<u32>,
    at: i64,
    /// Bytes of properties; they follow, then the payload.
    props: usize,
}

pub fn item(owner: &str, client: &str, item: &Item) -> Put {
    let row = ItemRow {
        place: item.place,
        qos: item.to.qos,
        retain: item.to.retain,
        ids: item.to.ids.clone(),
        packet_id: item.packet_id,
        phase: item.phase,
        topic: item.message.topic.clone(),
        expiry: item.message.expiry,
        at: item.message.at,
        props: item.message.props.len(),
    };
    let head = serde_json::to_vec(&row).unwrap_or_default();
    let value = [&(head.len() as u32).to_be_bytes()[..], &head, &item.message.props, &item.message.payload].concat();
    put(owner, item_key(client, item.n), Some(value))
}

fn read_item(n: u64, value: &[u8]) -> Option<Item> {
    let len = u32::from_be_bytes(*value.first_chunk()?) as usize;
    let (head, rest) = value.get(4..)?.split_at_checked(len)?;
    let row: ItemRow = serde_json::from_slice(head).ok()?;
    let (props, payload) = rest.split_at_checked(row.props)?;
    let message = Message {
        topic: row.topic,
        expiry: row.expiry,
        at: row.at,
        props: props.to_vec(),
        payload: payload.to_vec(),
        ..Message::default()
    };
    let to = Selected { qos: row.qos, retain: row.retain, ids: row.ids };
    let (packet_id, phase) = (row.packet_id, row.phase);
    Some(Item { n, place: row.place, message, to, packet_id, phase, saved: true, row: true, looks: 0 })
}

/// The clients that have a session in the store; at most `limit`.
pub async fn clients(store: &Store, owner: &str, limit: usize) -> Result<Vec<Arc<str>>, Refusal> {
    let rows = store.state(owner, b"session/", limit).await?;
    let client = |key: &[u8]| Some(Arc::from(std::str::from_utf8(key.get(8..key.len().checked_sub(1)?)?).ok()?));
    Ok(rows.iter().filter_map(|(key, _)| client(key)).collect())
}

/// Reads a session back, and when it ends.
pub async fn restore(
    store: &Store,
    hub: &Hub,
    owner: &str,
    client: &Arc<str>,
) -> Result<Option<(Session, Option<i64>)>, Refusal> {
    let found = store.state(owner, &key("session/", client, &[]), 1).await?;
    let Some(row) = found.first().and_then(|(_, value)| serde_json::from_slice::<SessionRow>(value).ok()) else {
        return Ok(None);
    };
    let mut session = Session::new(client.clone(), row.expiry);
    row.subs.into_iter().for_each(|sub| session.begin(hub, sub));
    for (key, _) in store.state(owner, &key("pkid/", client, &[]), 65_536).await? {
        session.received.extend(key.last_chunk().map(|id| u16::from_be_bytes(*id)));
    }
    for (key, value) in store.state(owner, &key("queue/", client, &[]), hub.session_events).await? {
        let n = key.last_chunk().map(|n| u64::from_be_bytes(*n));
        if let Some(item) = n.and_then(|n| read_item(n, &value)) {
            session.restore(hub, item);
        }
    }
    Ok(Some((session, row.until)))
}

/// The deletion of all that a session left.
pub fn discard(owner: &str, session: &Session) -> Vec<Put> {
    let client = &session.client;
    let keys = session.received.iter().map(|id| key("pkid/", client, &id.to_be_bytes()));
    let items = session.queue.iter().filter(|i| i.row).map(|i| item_key(client, i.n));
    keys.chain(items).chain([key("session/", client, &[])]).map(|key| put(owner, key, None)).collect()
}

pub fn retained_key(topic: &str) -> Vec<u8> {
    [b"retained/", topic.as_bytes()].concat()
}
