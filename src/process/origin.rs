//! What is remembered of an event, so that one can be made later in its place.

use crate::{
    event::{Body, Event, Text, batch::MAX_ID},
    kind::{Params, side_topic},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Where an event stood.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Origin {
    pub id: String,
    topic: String,
    key: String,
    priority: u8,
}

impl Origin {
    pub fn of(event: &Event) -> Origin {
        Origin {
            id: event.id.text().into_owned(),
            topic: event.topic.to_string(),
            key: event.key.as_str().to_owned(),
            priority: event.priority,
        }
    }

    /// A new event in the place of this one.
    pub fn event(&self, id: String, now: i64, body: Body) -> Event {
        let mut event = Event::made(id, Arc::from(&*self.topic), now, body);
        event.key = Text::from(&*self.key);
        event.priority = self.priority.min(7); // one that was altered on disk may be anything
        event
    }
}

/// The process as it stands in ids of events that it makes: no other, in no other pipeline, has this name.
pub(super) fn maker(params: &Params) -> String {
    side_topic(&params.scope.pipeline, &params.name)
}

/// An id made of parts; what is longer than ids may be is told by its SHA-256.
pub(super) fn id(parts: &[&str]) -> String {
    let id = parts.join(".");
    if id.len() <= MAX_ID {
        return id;
    }
    format!("{:x}", Sha256::digest(id.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_id_is_cut_and_still_its_own() {
        assert_eq!(id(&["e-1", "p/fold", "10"]), "e-1.p/fold.10");
        let long = |last: &str| id(&[&"x".repeat(MAX_ID), last]);
        assert_eq!(long("1").len(), 64);
        assert_eq!(long("1"), long("1"));
        assert_ne!(long("1"), long("2"));
    }
}
