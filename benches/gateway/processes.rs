//! What one condition or field operation costs an event of 200 bytes: a pipeline with it, less the same pipeline without
//! it. Beside it, for scale, reading and writing the event through `serde_json::Value` once.

use crate::{
    pipeline::{by_flow, nanoseconds},
    sensor,
};
use std::{hint::black_box, path::Path, sync::Arc};
use tidegate::{
    cli, config,
    event::{Batch, Draft},
    runtime::Flow,
};

const PROCESSES: &[&str] = &[
    r#"{ "type": "continue", "when": "event.temp > -40.0 && event.temp < 85.0" }"#,
    r#"{ "type": "continue", "when": "event.door == 'open' || has(event.hum)" }"#,
    r#"{ "type": "annotate", "set": { "site": "barn" } }"#,
    r#"{ "type": "annotate", "set": { "place.floor": 2 } }"#,
    r#"{ "type": "annotate", "set": { "f": { "expr": "event.temp * 1.8 + 32.0" } } }"#,
    r#"{ "type": "filter", "drop": ["door"] }"#,
    r#"{ "type": "filter", "drop_matching": "^_" }"#,
    r#"{ "type": "filter", "keep": ["device", "temp"] }"#,
    r#"{ "type": "transform", "specs": [{ "from": "temp", "to": "t", "op": "move" }] }"#,
    r#"{ "type": "transform", "specs": [{ "from": "hum", "op": { "multiply": 2 } }] }"#,
    r#"{ "type": "transform", "specs": [{ "from": "device", "op": { "replace": { "regex": "d", "with": "D" } } }] }"#,
    r#"{ "type": "map", "expr": "{'t': event.temp}" }"#,
    r#"{ "type": "aggregate", "field": "temp", "op": "avg", "by": ["device"], "forward": false }"#,
    r#"{ "type": "limit", "count": 1000000000 }"#,
];
/// Makes every row begin and end with the same: the event was read, and is written.
const BEFORE: &str = r#"{ "type": "annotate", "set": { "n": 1 } }"#;

pub fn table(quick: bool) {
    const EVENTS: usize = 1000;
    let bodies: Vec<Vec<u8>> = (0..EVENTS).map(|n| sensor::body(n % 50, n as u64, 0)).collect();
    let mut batch = Batch::default();
    for body in &bodies {
        batch.push(&Draft { body, ..Draft::default() }).unwrap();
    }
    let rounds = if quick { 30 } else { 300 };
    let cost = |processes: &str| {
        let text = format!(
            r#"{{ "sources": {{ "in": {{ "type": "stdin" }} }},
                "pipelines": {{ "out": {{ "from": ["in"], "processes": [{processes}] }} }} }}"#
        );
        let (plan, _) = config::load(Path::new("bench"), &text, &cli::catalogue()).unwrap();
        let (flow, topic, mut out) = (Flow::new(plan.pipelines, Vec::new()), Arc::from("in"), Vec::new());
        let round = || {
            nanoseconds(EVENTS, || {
                out.clear();
                by_flow(&flow, &topic, &batch, black_box(&mut out));
            })
        };
        std::iter::repeat_with(round).take(rounds).fold(f64::MAX, f64::min)
    };
    let mut out = Vec::new();
    let value = || {
        nanoseconds(EVENTS, || {
            out.clear();
            for body in &bodies {
                let value: serde_json::Value = serde_json::from_slice(body).unwrap();
                serde_json::to_writer(black_box(&mut out), &value).unwrap();
            }
        })
    };
    let value = std::iter::repeat_with(value).take(rounds).fold(f64::MAX, f64::min);
    let before = cost(BEFORE);
    println!(
        "one operation on an event of {} bytes, the best of many; ratio to serde_json::Value there and back ({value:.0} ns)",
        sensor::SIZE
    );
    println!("ns/event  ratio  process");
    for process in PROCESSES {
        let ns = cost(&format!("{BEFORE}, {process}")) - before;
        println!("{ns:8.0} {:6.2}  {process}", ns / value);
    }
}
