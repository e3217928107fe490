//! Where Tidegate differs from what the reference answered, and why.

use serde_json::{Value, json};

/// What holds instead of the reference's answer.
pub enum Mended {
    /// The results, one an event; a text is a failure.
    Results(Value),
    /// The configuration is refused, with this in the message.
    Wrong(&'static str),
}

/// Conditions that hold, or not, or are refused with this message. `*`: in every process.
const CONDITIONS: &[(&str, &str, Result<bool, &str>)] = &[
    // A backslash of a literal is kept: `\d` is a digit.
    ("*", "s RegexMatch '\\d' (backslash)", Ok(true)),
    // A bad pattern is seen when the configuration is read.
    ("*", "s RegexMatch '(' bad regex", Err("`(` is not a regular expression")),
    // What looks like a date is a text all the same.
    ("*", "d Equal literal date", Ok(true)),
    ("*", "d NotEqual literal date", Ok(false)),
    // Variables inside of objects and lists are read everywhere.
    ("tee", "m.x Equal 7 (annotator flattens)", Ok(true)),
    ("tee", "l.0 Equal 1", Ok(true)),
    // Signs before an operand work.
    ("*", "unary Negation var: (-n) Equal -5", Ok(true)),
    ("*", "unary Inversion bool in logical", Ok(false)),
    ("*", "top-level unary", Ok(false)),
    // Or is or.
    ("*", "logical Or true,false", Ok(true)),
    // Constants work.
    ("*", "boolean true", Ok(true)),
    // An object is there.
    ("*", "exists m", Ok(true)),
    // What crashed is refused.
    ("*", "exists empty ops", Err("`ops` is empty")),
    ("*", "exists key empty string", Err("expected text, found an empty one")),
];

pub fn condition(group: &str, name: &str) -> Option<Result<bool, &'static str>> {
    let found = CONDITIONS.iter().find(|(of, own, _)| *own == name && (*of == group || *of == "*"));
    found.map(|(.., truth)| *truth)
}

pub fn mended(group: &str, name: &str) -> Option<Mended> {
    let results = match (group, name) {
        // Null, and what lies behind it, is passed over.
        ("transforms", "Copy nul" | "Copy through null nul.x") => json!([{}]),
        // Indexes of lists work.
        ("transforms", "Copy list idx nums.0") => json!([{ "o": 1 }]),
        // A bad pattern is seen when the configuration is read.
        ("transforms", "MapRegex bad regex") => return Some(Mended::Wrong("`(` is not a regular expression")),
        // Folds fold.
        ("transforms", "LeftFold cat maps") => {
            json!([{ "o": { "v": 2, "internal:acc": { "v": 1, "internal:acc": null } } }])
        }
        ("transforms", "RightFold cat maps") => {
            json!([{ "o": { "v": 1, "internal:acc": { "v": 2, "internal:acc": null } } }])
        }
        // Groups are found inside of objects.
        ("processes", "nested key m.v, groupBy nested m.g") => json!([
            { "m": { "v": 1, "g": "q" }, "internal:aggregation:p": { "m.v:AggCount": { "q": { "value": 1 } } } }]),
        // Each aggregator has a state of its own, and both are told under the same key.
        ("processes", "two aggregators same key/type, grouped+ungrouped") => two_aggregators(),
        // Variables inside of objects are read everywhere.
        ("processes", "cond on nested") => json!([
            { "m": { "v": 1 }, "internal:aggregation:p": { "m.v:AggSum": { "value": 1 } } }]),
        // All keys of an event count.
        ("processes", "completer both keys in one event") => json!([
            { "a": "1", "b": "1", "internal:completion:C": "complete", "internal:completion:state:C":
                { "deadline": -1, "resolved": { "a": true, "b": true }, "value": "1" } },
            { "b": "1", "internal:completion:C": "triggered" }]),
        // The state does not hang on fields of the event.
        ("processes", "filter drop ^internal: then aggregator") => json!([
            { "v": 1, "internal:aggregation:p": { "v:AggSum": { "value": 1 } } }]),
        // Events of another instance are accepted.
        ("processes", "incoming internal:name (mesh)") => json!([{ "v": 1, "x": "1" }]),
        ("processes", "incoming internal:tee:output list") => json!([{ "internal:tee:output": [
            { "uuid": "u" },
            { "uuid": "", "outputType": "kvstore", "connectionString": "inMemStore" }] }]),
        // It publishes to a topic of the gateway.
        ("processes", "tee to pubsub ext") => json!([{ "internal:tee:output": [
            { "uuid": "", "outputType": "topic", "connectionString": "topic1" }] }]),
        // The order of definitions does not matter.
        ("processes", "tee transformer defined later") => json!([{ "internal:tee:output": [
            { "uuid": "", "outputType": "kvstore", "connectionString": "inMemStore" }] }]),
        // What the program says on stderr is no part of its answer.
        ("processes", "spawner stderr+json") => json!([{ "v": 1, "internal:spawn:output": [{ "S": {
            "v": 1, "internal:messageID": "m0", "internal:name": "p", "internal:partitionID": super::PARTITION } }] }]),
        _ => return None,
    };
    Some(Mended::Results(results))
}

fn two_aggregators() -> Value {
    let event =
        |v: i64, g: &str, sums: Value| json!({ "v": v, "g": g, "internal:aggregation:p": { "v:AggSum": sums } });
    json!([
        event(1, "a", json!({ "value": 1, "a": { "value": 1 } })),
        event(2, "a", json!({ "value": 3, "a": { "value": 3 } })),
        // At the place of the sum stands the group that is called like it: that of the later aggregator.
        event(5, "value", json!({ "value": { "value": 5 }, "a": { "value": 3 } })),
    ])
}
