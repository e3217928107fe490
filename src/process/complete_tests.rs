use super::super::tests::{Rig, check};
use super::*;

/// Feeds bodies one after another, each as the event `e-N`, and compares what comes of each.
fn run(config: &str, steps: &[(&str, &str)]) -> Rig {
    let mut rig = Rig::new(&KIND, config).unwrap();
    for (i, (body, want)) in steps.iter().enumerate() {
        let before = rig.state();
        let got = rig.feed_as(&format!("e-{}", i + 1), body);
        assert_eq!(got, *want, "{config}: {body}");
        if got.starts_with("rejected") {
            assert_eq!(rig.state(), before, "{config}: {body} left something behind");
        }
    }
    rig
}

/// The body with the status, and the state if there is one: value, resolved fields, deadline.
fn with(body: &str, status: &str, state: &str) -> String {
    let body = body.strip_suffix('}').unwrap();
    let comma = if body.len() > 1 { "," } else { "" };
    let state =
        if state.is_empty() { String::new() } else { format!(r#","internal:completion:state:complete":{state}"#) };
    format!(r#"{body}{comma}"internal:completion:complete":"{status}"{state}}}"#)
}

fn steps(config: &str, rows: &[(&str, &str, &str)]) -> Rig {
    let wants: Vec<String> = rows
        .iter()
        .map(|(body, status, state)| match *status {
            "" => body.to_string(),
            "rejected" => format!("rejected: {state}"),
            status => with(body, status, state),
        })
        .collect();
    let steps: Vec<_> = rows.iter().zip(&wants).map(|((body, ..), want)| (*body, want.as_str())).collect();
    run(config, &steps)
}

#[test]
fn events_are_joined_as_in_the_reference() {
    steps(
        r#"{ "join": ["p", "q.r", "s"] }"#,
        &[
            (r#"{"p":"k"}"#, "triggered", ""),
            (r#"{"q":{"r":"k"}}"#, "triggered", ""),
            (r#"{"p":"k"}"#, "triggered", ""),
            (r#"{"s":"other"}"#, "triggered", ""),
            (r#"{"s":"k"}"#, "complete", r#"{"value":"k","resolved":{"p":true,"q.r":true,"s":true},"deadline":-1}"#),
            (r#"{"s":"k"}"#, "triggered", ""),
            (r#"{"t":1}"#, "", ""),
            (r#"{"p":null}"#, "rejected", "`p`: expected a string, a number or a boolean to join on, found null"),
            (
                r#"{"p":"k","q":{"r":null}}"#,
                "rejected",
                "`q.r`: expected a string, a number or a boolean to join on, found null",
            ),
            (r#"{"p":{},"s":["k"]}"#, "", ""),
        ],
    );
}

#[test]
fn values_are_equal_with_their_type() {
    let done = |value: &str| format!(r#"{{"value":{value},"resolved":{{"a":true,"b":true}},"deadline":-1}}"#);
    for (value, others, equal) in [
        ("1", &["\"1\"", "\"1.000000\"", "true", "1.0000001", "2"][..], "1.0"),
        ("1.5", &["\"1.5\"", "15e-2"], "15e-1"),
        ("\"x\"", &["\"X\"", "\"x \"", "\"\""], "\"\\u0078\""),
        ("true", &["\"true\"", "false", "1"], "true"),
        ("9007199254740993", &["9007199254740992", "9007199254740993.0"], "9007199254740993"),
        ("1e999", &["1e998"], "1e999"),
    ] {
        let mut rig = Rig::new(&KIND, r#"{ "join": ["a", "b"] }"#).unwrap();
        rig.feed(&format!(r#"{{"a":{value}}}"#));
        for other in others {
            let body = format!(r#"{{"b":{other}}}"#);
            assert_eq!(rig.feed(&body), with(&body, "triggered", ""), "{value} {other}");
        }
        let body = format!(r#"{{"b":{equal}}}"#);
        assert_eq!(rig.feed(&body), with(&body, "complete", &done(value)));
    }
}

#[test]
fn all_keys_of_an_event_count() {
    let done = |value: &str| format!(r#"{{"value":{value},"resolved":{{"a":true,"b":true}},"deadline":-1}}"#);
    let both = r#"{ "join": ["a", "b"] }"#;
    steps(both, &[(r#"{"a":"1","b":"1"}"#, "complete", &done("\"1\"")), (r#"{"b":"1"}"#, "triggered", "")]);
    // Two values: each has its completion, and the event shows the first that is complete.
    let rig = steps(
        both,
        &[
            (r#"{"b":1}"#, "triggered", ""),
            (r#"{"a":1,"b":2}"#, "complete", &done("1")),
            (r#"{"a":2,"b":3}"#, "complete", &done("2")),
        ],
    );
    assert_eq!({ rig }.keys(), ["3"]);
    let rig = steps(
        both,
        &[
            (r#"{"a":2}"#, "triggered", ""),
            (r#"{"b":1}"#, "triggered", ""),
            (r#"{"a":1,"b":2}"#, "complete", &done("1")),
        ],
    );
    assert_eq!({ rig }.keys(), [""; 0]);
}

#[test]
fn fields_of_the_partners_are_carried() {
    let config = r#"{ "join": ["a", "b", "c"], "carry": ["x", "o.y", "z"] }"#;
    let state = r#"{"value":1,"resolved":{"a":true,"b":true,"c":true},"deadline":-1}"#;
    let fields = r#""internal:completion:complete":"complete","internal:completion:state:complete""#;
    for (first, second, last, want) in [
        (r#""x":1"#, r#""o":{"y":[2]}"#, r#""z":3"#, format!(r#""z":3,{fields}:{state},"o":{{"y":[2]}},"x":1"#)),
        (r#""x":1"#, r#""x":2"#, r#""n":0"#, format!(r#""n":0,{fields}:{state},"x":2"#)),
        (r#""x":1"#, r#""x":2"#, r#""x":null"#, format!(r#""x":null,{fields}:{state}"#)),
        (r#""o":{"y":1}"#, r#""n":0"#, r#""o":{"p":0}"#, format!(r#""o":{{"p":0,"y":1}},{fields}:{state}"#)),
        (r#""o":{"y":1}"#, r#""n":0"#, r#""o":5"#, format!(r#""o":5,{fields}:{state}"#)),
    ] {
        let mut rig = Rig::new(&KIND, config).unwrap();
        rig.feed(&format!(r#"{{"a":1,{first}}}"#));
        rig.feed(&format!(r#"{{"b":1,{second}}}"#));
        assert_eq!(rig.feed(&format!(r#"{{"c":1,{last}}}"#)), format!(r#"{{"c":1,{want}}}"#));
        assert_eq!(rig.state(), [""; 0]);
    }
}

#[test]
fn a_completion_ends_by_its_timer() {
    let config = r#"{ "join": ["a", "b"], "timeout": "3s", "carry": ["x"], "name": "pair" }"#;
    let mut rig = Rig::new(&KIND, config).unwrap();
    rig.now = 1_000;
    rig.feed_as("e-1", r#"{"a":1,"x":"first"}"#);
    rig.feed_as("e-2", r#"{"a":2}"#);
    rig.now = 2_000;
    rig.feed_as("e-3", r#"{"b":2}"#);
    rig.feed_as("e-4", r#"{"a":1,"x":"again"}"#); // the deadline stays that of the first
    assert_eq!(rig.advance(3_999), "");
    let state = r#"{"value":1,"resolved":{"a":true,"b":false},"deadline":4000000000}"#;
    let gone =
        format!(r#"{{"x":"again","internal:completion:pair":"timedout","internal:completion:state:pair":{state}}}"#);
    assert_eq!(rig.advance(4_000), gone);
    assert_eq!(rig.ids(), ["e-1.p/pair.a.timedout"]);
    assert_eq!((rig.out[0].key.as_str(), &*rig.out[0].topic, rig.out[0].priority), ("k", "barn", 4));
    assert_eq!(rig.state(), [""; 0]);
    assert_eq!(rig.feed_as("e-5", r#"{"b":1}"#), r#"{"b":1,"internal:completion:pair":"triggered"}"#);
    assert_eq!(rig.due(), Some(7_000));
    assert!(rig.feed_as("e-6", r#"{"a":1}"#).contains("\"complete\""));
    assert_eq!(rig.due(), None);
}

#[test]
fn an_event_that_comes_before_its_timer_begins_anew() {
    let mut rig = Rig::new(&KIND, r#"{ "join": ["a", "b"], "timeout": "3s" }"#).unwrap();
    rig.now = 1_000;
    rig.feed_as("e-1", r#"{"a":1}"#);
    rig.now = 4_000;
    let got = rig.feed_as("e-2", r#"{"b":1}"#);
    assert!(
        got.contains("timedout") && got.ends_with(r#"{"b":1,"internal:completion:complete":"triggered"}"#),
        "{got}"
    );
    assert_eq!(rig.ids(), ["e-1.p/complete.a.timedout", "e-2"]);
    assert!(rig.state().last().unwrap().ends_with("1@7000"), "{:?}", rig.state());
}

#[test]
fn each_completion_times_out_under_its_own_id() {
    let mut rig = Rig::new(&KIND, r#"{ "join": ["a", "b"], "timeout": "3s" }"#).unwrap();
    rig.feed_as("e-1", r#"{"a":1,"b":"1"}"#);
    rig.advance(10_000);
    assert_eq!(rig.ids(), ["e-1.p/complete.b.timedout", "e-1.p/complete.a.timedout"]);
}

#[test]
fn a_full_memory_rejects_and_leaves_nothing() {
    let mut rig = Rig::new(&KIND, r#"{ "join": ["a", "b"], "timeout": "1s", "carry": ["x"] }"#).unwrap();
    rig.feed(r#"{"a":1}"#);
    let before = rig.state();
    let big = format!(r#"{{"a":2,"b":3,"x":"{}"}}"#, "x".repeat(1 << 20));
    assert!(rig.feed(&big).starts_with("rejected: the pipeline's state is full"));
    assert_eq!(rig.state(), before);
    assert!(rig.feed(r#"{"b":1}"#).contains("\"complete\""));
}

#[test]
fn a_state_that_makes_no_sense_is_told() {
    let other = r#"{"value":1,"resolved":["a","gone"],"due":null,"first":{"id":"e","topic":"t","key":"","priority":99},
        "field":"gone","carried":{"a..b":1,"x":[1]}}"#;
    let mut rig = Rig::new(&KIND, r#"{ "join": ["a", "b"], "carry": ["x"] }"#).unwrap();
    for bad in ["", "null", "{}", "[1", &other[..100], &other.replace("99", "999")] {
        rig.remember(b"1", bad);
        let got = rig.feed(r#"{"b":1}"#);
        assert!(got.starts_with("rejected: the state for `1`: "), "{bad}: {got}");
    }
    // Another configuration's: what still fits counts.
    rig.remember(b"1", other);
    assert!(rig.feed(r#"{"b":1}"#).ends_with(r#""resolved":{"a":true,"b":true},"deadline":-1},"x":[1]}"#));
    rig.remember(b"1", &other.replace("\"due\":null", "\"due\":5"));
    assert!(rig.feed(r#"{"b":1}"#).starts_with(r#"{"x":[1],"internal:completion:complete":"timedout""#));
    assert_eq!(rig.out[0].priority, 7);
}

#[test]
fn a_wrong_configuration_is_refused() {
    check(
        &KIND,
        &[
            (r#"{ "join": ["a"] }"#, "", "wrong: join: it takes two fields or more"),
            (r#"{ "join": ["a", "b", "a"] }"#, "", "wrong: join[2]: `a` stands there twice"),
            (
                r#"{ "join": ["a", "b"], "timeout": "0s" }"#,
                "",
                "wrong: timeout: it must be longer than 0; without it nothing times out",
            ),
            (
                r#"{ "join": ["a", "b"], "label": "the join" }"#,
                r#"{"a":1}"#,
                r#"{"a":1,"internal:completion:the join":"triggered"}"#,
            ),
            (r#"{ "join": ["a", "b"], "when": "event.b == 1" }"#, r#"{"a":1}"#, r#"{"a":1}"#),
        ],
    );
}
