//! A chain of condition, annotation, renaming and removing, an event at a time, beside the same through
//! `serde_json::Value`. Both begin with a body's bytes and end with bytes.

use crate::sensor;
use serde_json::Value;
use std::{hint::black_box, path::Path, sync::Arc, time::Instant};
use tidegate::{
    cli, config,
    event::{Batch, Draft},
    runtime::Flow,
};

const CONFIGURATION: &str = r#"{
  "sources": { "in": { "type": "stdin" } },
  "pipelines": { "out": { "from": ["in"], "processes": [
    { "type": "continue", "when": "event.temp > -40.0 && event.temp < 85.0" },
    { "type": "annotate", "set": { "site": "barn", "floor": 2 } },
    { "type": "transform", "specs": [{ "from": "hum", "to": "humidity", "op": "move" }] },
    { "type": "filter", "drop": ["door"] } ] } } }"#;

/// The same by hand.
fn by_value(body: &[u8], out: &mut Vec<u8>) {
    let mut event: Value = serde_json::from_slice(body).unwrap();
    if !event["temp"].as_f64().is_some_and(|t| t > -40.0 && t < 85.0) {
        return;
    }
    let object = event.as_object_mut().unwrap();
    object.insert("site".into(), "barn".into());
    object.insert("floor".into(), 2.into());
    if let Some(humidity) = object.shift_remove("hum") {
        object.insert("humidity".into(), humidity);
    }
    object.shift_remove("door");
    serde_json::to_writer(&mut *out, &event).unwrap();
}

pub fn by_flow(flow: &Flow, topic: &Arc<str>, batch: &Batch, out: &mut Vec<u8>) {
    for event in flow.events(topic, 4, batch) {
        let reached = |event: &tidegate::event::Event| {
            if &*event.topic == "out" {
                event.body.write(out);
            }
        };
        at_once(flow.run(event, reached)).unwrap();
    }
}

/// Runs what never waits.
pub fn at_once<T>(work: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(work).poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

pub fn table(quick: bool) {
    const EVENTS: usize = 1000;
    let (plan, _) = config::load(Path::new("bench"), CONFIGURATION, &cli::catalogue()).unwrap();
    let (flow, topic) = (Flow::new(plan.pipelines, Vec::new()), Arc::from("in"));
    let bodies: Vec<Vec<u8>> = (0..EVENTS).map(|n| sensor::body(n % 50, n as u64, 0)).collect();
    let mut batch = Batch::default();
    for body in &bodies {
        batch.push(&Draft { body, ..Draft::default() }).unwrap();
    }
    let (mut one, mut other) = (Vec::new(), Vec::new());
    by_flow(&flow, &topic, &batch, &mut one);
    bodies.iter().for_each(|body| by_value(body, &mut other));
    let parse = |text: &[u8]| serde_json::Deserializer::from_slice(text).into_iter().map(Result::unwrap).collect();
    let (by_one, by_other): (Vec<Value>, Vec<Value>) = (parse(&one), parse(&other));
    assert!(by_one.len() == EVENTS && by_one == by_other, "both do the same");

    let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
    for _ in 0..if quick { 50 } else { 500 } {
        ours = ours.min(nanoseconds(EVENTS, || {
            one.clear();
            by_flow(&flow, &topic, &batch, black_box(&mut one));
        }));
        theirs = theirs.min(nanoseconds(EVENTS, || {
            other.clear();
            bodies.iter().for_each(|body| by_value(body, black_box(&mut other)));
        }));
    }
    println!(
        "pipeline alone: condition, annotation, renaming, removing; events of {} bytes, the best of many",
        sensor::SIZE
    );
    println!("ns/event | serde_json::Value  ratio");
    println!("{ours:8.0} | {theirs:17.0} {:6.2}", ours / theirs);
}

pub fn nanoseconds(events: usize, work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_nanos() as f64 / events as f64
}
