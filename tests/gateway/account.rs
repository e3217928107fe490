//! Numbered events, and what became of them: who sent which, what was acknowledged, what came upstream.

use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
};

/// The body of a producer's event: its id stands in `id`, and comes again when it is sent again.
pub fn body(producer: &str, n: u64) -> Vec<u8> {
    format!(r#"{{"id":"{producer}-{n}","producer":"{producer}","n":{n},"note":"{:>80}"}}"#, n * 7919).into_bytes()
}

/// What an upstream was given, in the order it came.
#[derive(Clone, Default)]
pub struct Arrivals(Arc<Mutex<Came>>);

#[derive(Default)]
struct Came {
    all: Vec<Arrival>,
    distinct: HashSet<(String, u64)>,
}

#[derive(Clone, Debug)]
struct Arrival {
    producer: String,
    n: u64,
    id: String,
}

impl Arrivals {
    /// Takes an event with the id that its delivery carried.
    pub fn take(&self, event: &Value, id: &str) {
        let producer = event["producer"].as_str().unwrap().to_owned();
        let arrival = Arrival { producer, n: event["n"].as_u64().unwrap(), id: id.to_owned() };
        let mut came = self.0.lock().unwrap();
        came.distinct.insert((arrival.producer.clone(), arrival.n));
        came.all.push(arrival);
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().all.len()
    }

    /// How many different events.
    pub fn distinct(&self) -> usize {
        self.0.lock().unwrap().distinct.len()
    }

    /// Every producer's events up to its number arrived; repeats carry the same id, no two events share one; first
    /// deliveries of a producer are in order.
    pub fn check(&self, acknowledged: &[(&str, u64)]) {
        let arrivals = &self.0.lock().unwrap().all;
        let mut first: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let (mut ids, mut owners) = (HashMap::new(), HashMap::new());
        for a in arrivals.iter() {
            let event = (a.producer.as_str(), a.n);
            match ids.insert(event, &a.id) {
                None => first.entry(&a.producer).or_default().push(a.n),
                Some(id) => assert_eq!(id, &a.id, "{event:?} came again with another id"),
            }
            let owner = *owners.entry(&a.id).or_insert(event);
            assert_eq!(owner, event, "two events with the id {}", a.id);
        }
        for (producer, count) in acknowledged {
            let came = first.remove(producer).unwrap_or_default();
            let missing: Vec<u64> = (0..*count).filter(|n| !ids.contains_key(&(*producer, *n))).collect();
            let some = &missing[..missing.len().min(10)];
            assert!(missing.is_empty(), "{producer}: {} acknowledged events are lost: {some:?} …", missing.len());
            let swapped = came.windows(2).find(|pair| pair[0] > pair[1]);
            assert_eq!(swapped, None, "{producer}: out of order");
        }
    }
}
