//! The events of a body.

use super::answer::Problem;
use crate::{
    event::{
        Batch, Draft, Unfit,
        json::{self, Json, JsonError, Kind},
    },
    kind::Intake,
};

/// Events that one request may bring: all their ids stand in the answer.
const MAX_EVENTS: usize = 10_000;

/// Bytes that an event takes besides those that it has in the batch: where it stands in the body, its place in the answer.
const AROUND: usize = 96;
/// And one with an id of its own: its mark, and the id twice.
const WITH_ID: usize = 192;

/// What a request says about all its events.
pub(super) struct About<'a> {
    pub key: &'a str,
    /// `Idempotency-Key`: the id of a single event; of several, `ID/0`, `ID/1` …
    pub id: Option<&'a str>,
    /// With the `traceparent`, if there is one.
    pub meta: &'a [u8],
}

/// Takes the body apart: one object, a list of objects, or objects one after another. All are taken or none.
pub(super) fn events(body: &[u8], about: &About<'_>, intake: &Intake) -> Result<Batch, Problem> {
    let found = find(body)?;
    if found.is_empty() {
        return Err(Problem::bad_request("there is no event in the body"));
    }
    let mut batch = Batch::with_room(body.len() + found.len() * (8 + about.key.len() + about.meta.len()));
    let mut id = about.id.unwrap_or_default().to_owned();
    let prefix = id.len();
    for (index, event) in found.iter().enumerate() {
        if about.id.is_some() && found.len() > 1 {
            id.truncate(prefix);
            id.push_str(&format!("/{index}"));
        }
        let id = about.id.map(|_| id.as_str());
        let draft = Draft { key: about.key, id, meta: about.meta, body: event, ..Draft::default() };
        intake.push(&mut batch, &draft).map_err(|unfit| refuse(&unfit, index, body, event))?;
    }
    Ok(batch)
}

/// Bytes that the events of a body take at most besides what they have there: there are no more of them than `{`.
pub(super) fn extra(body: &[u8], about: &About<'_>, intake: &Intake) -> usize {
    let count = body.iter().filter(|byte| **byte == b'{').count().min(MAX_EVENTS);
    let ids = if about.id.is_some() || intake.brings_ids() { WITH_ID + about.id.map_or(0, str::len) } else { 0 };
    // A `traceparent` stands in the batch, and beside it.
    count * (AROUND + ids + about.key.len() + 4 * about.meta.len())
}

fn find(body: &[u8]) -> Result<Vec<&[u8]>, Problem> {
    let mut found = Vec::new();
    let mut end = 0;
    for document in json::documents(body) {
        let document = document.map_err(|error| broken(error, found.len(), body, end))?;
        end = offset(body, document) + document.len();
        let value = Json::trusted(document);
        if value.kind() == Kind::Array {
            found.extend(value.elements().map(Json::raw).take(MAX_EVENTS + 1));
        } else {
            found.push(document);
        }
        if found.len() > MAX_EVENTS {
            let detail = format!("there are more than {MAX_EVENTS} events in the body; nothing was stored");
            return Err(Problem::too_large(detail));
        }
    }
    Ok(found)
}

/// `before` events came before the document that starts after `start` and is broken.
fn broken(error: JsonError, before: usize, body: &[u8], start: usize) -> Problem {
    let index = before + elements_before(body.get(start..error.at).unwrap_or_default());
    Problem::bad_request(format!("{}: {}; nothing was stored", place(index, error.at, body), error.what))
}

/// If the bytes begin a list, how many of its elements they hold whole.
fn elements_before(bytes: &[u8]) -> usize {
    let (mut depth, mut in_string, mut escaped, mut commas) = (0usize, false, false, 0);
    for byte in bytes.trim_ascii_start() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' if depth == 0 => return 0,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => commas += 1,
            _ => {}
        }
    }
    commas
}

fn refuse(unfit: &Unfit, index: usize, body: &[u8], event: &[u8]) -> Problem {
    let detail = format!("{}: {unfit}; nothing was stored", place(index, offset(body, event), body));
    match unfit {
        Unfit::TooLong { part: "body", .. } => Problem::too_large(detail),
        _ => Problem::bad_request(detail),
    }
}

/// Where a part of the body starts in it.
fn offset(body: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().saturating_sub(body.as_ptr().addr())
}

fn place(index: usize, at: usize, body: &[u8]) -> String {
    let line = body.iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    format!("event {index} (byte {at}, line {line})")
}
