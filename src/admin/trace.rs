//! The way of one event: where it is, as the store knows it, and what happened to it, as far as it was recorded.

use super::{Reply, api::shown};
use crate::{
    clock,
    runtime::sent_ahead,
    store::{Store, Whereabouts, Which},
    trace::Note,
};
use serde_json::{Value, json};

/// Dead letters of one event: it may have died and been retried again and again.
const LETTERS: usize = 20;

/// All that is known of an event.
pub(super) async fn way(store: &Store, id: &str) -> Result<Value, Reply> {
    let mut found = store.whereabouts(id).await?;
    for place in &mut found.places {
        for reading in place.consumers.iter_mut().filter(|reading| reading.is != "passed") {
            if sent_ahead(store, &reading.consumer, place.lane, place.number).await? {
                reading.is = "sent ahead";
            }
        }
    }
    let letters = store.letters(&Which { event: Some(id.to_owned()), ..Which::default() }, LETTERS).await?;
    let letters: Vec<Value> = letters.iter().map(shown).collect();
    let places: Vec<(u16, u64)> = found.places.iter().map(|place| (place.lane, place.number)).collect();
    let steps: Vec<Value> = store.trace().of(id, &places).iter().map(step).collect();
    let Whereabouts { places, known, complete, offloaded } = found;
    let nothing = places.is_empty() && known.is_empty() && letters.is_empty() && steps.is_empty();
    Ok(json!({ "id": id, "found": !nothing, "places": places, "known": known, "letters": letters, "steps": steps,
        "complete": complete, "offloaded": offloaded }))
}

fn step(note: &Note) -> Value {
    let mut step = json!({ "at": clock::rfc3339(clock::wall_of(note.at)), "who": &*note.who, "what": note.what });
    if let Some(took) = note.took {
        step["us"] = clock::millis_of(took.as_micros()).into();
    }
    if !note.said.is_empty() {
        step["said"] = (*note.said).into();
    }
    step
}
