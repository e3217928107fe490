use super::super::tests::{build, check, event, reach};
use super::*;
use crate::systems::Systems;
use std::time::{Duration, Instant};

const BODY: &str = r#"{"n":5,"s":"buzz/fizz","b":true,"nul":null,"nums":[1,2,3.5],"ints":[4,-2,9],"mix":[1,"a"],"strs":["buzz/a","x"],"empty":[],"m":{"x":7,"y":8},"ms":{"p":"buzz/q","r":"t"},"deep":{"a":{"b":{"c":1}}},"maps":[{"v":1},{"v":2}],"big":[9223372036854775807,1],"huge":[1e308,1e308]}"#;

/// What one spec makes of `BODY`, without its other fields.
fn one(rows: &[(&str, &str)]) {
    let rows: Vec<_> =
        rows.iter().map(|(spec, want)| (format!(r#"{{ "others": "drop", "specs": [{spec}] }}"#), *want)).collect();
    let rows: Vec<_> = rows.iter().map(|(config, want)| (config.as_str(), BODY, *want)).collect();
    check(&KIND, &rows);
}

#[test]
fn values_are_made_as_in_the_reference() {
    one(&[
        (r#"{ "from": "m", "to": "o.p.q" }"#, r#"{"o":{"p":{"q":{"x":7,"y":8}}}}"#),
        (r#"{ "from": "deep.a.b.c", "to": "c", "op": "copy" }"#, r#"{"c":1}"#),
        (r#"{ "from": "deep.a.b.c", "to": "c", "op": "move" }"#, r#"{"c":1}"#),
        (r#"{ "from": "zz", "to": "o" }"#, "{}"),
        (r#"{ "from": "deep.q.z", "to": "o" }"#, "{}"),
        (r#"{ "from": "n.z", "to": "o" }"#, "{}"),
        (r#"{ "from": "nul", "to": "o" }"#, "{}"),
        (r#"{ "from": "nul.x", "to": "o", "op": "sum" }"#, "{}"),
        (r#"{ "from": "nums.0", "to": "o" }"#, r#"{"o":1}"#),
        (r#"{ "from": "maps.1.v", "to": "o" }"#, r#"{"o":2}"#),
        (r#"{ "from": "m" }"#, r#"{"m":{"x":7,"y":8}}"#),
        (r#"{}"#, BODY),
        (r#"{ "from": "nums", "to": "o", "op": "sum" }"#, r#"{"o":6.5}"#),
        (r#"{ "from": "ints", "to": "o", "op": "sum" }"#, r#"{"o":11}"#),
        (r#"{ "from": "big", "to": "o", "op": "sum" }"#, r#"{"o":9.223372036854776e18}"#),
        (r#"{ "from": "empty", "to": "o", "op": "sum" }"#, r#"{"o":0}"#),
        (r#"{ "from": "m", "to": "o", "op": "sum" }"#, "rejected: specs[0]: `m`: expected a list, found an object"),
        (
            r#"{ "from": "mix", "to": "o", "op": "sum" }"#,
            "rejected: specs[0]: `mix`: expected a number, found a string",
        ),
        (
            r#"{ "from": "huge", "to": "o", "op": "sum" }"#,
            "rejected: specs[0]: `huge`: the result is not a finite number",
        ),
        (r#"{ "from": "nums", "to": "o", "op": "count" }"#, r#"{"o":3}"#),
        (r#"{ "from": "empty", "to": "o", "op": "count" }"#, r#"{"o":0}"#),
        (r#"{ "from": "m", "to": "o", "op": "count" }"#, "rejected: specs[0]: `m`: expected a list, found an object"),
        (r#"{ "from": "ints", "to": "o", "op": "min" }"#, r#"{"o":-2}"#),
        (r#"{ "from": "nums", "to": "o", "op": "max" }"#, r#"{"o":3.5}"#),
        (r#"{ "from": "empty", "to": "o", "op": "max" }"#, "{}"),
        (r#"{ "from": "nums", "to": "o", "op": "avg" }"#, r#"{"o":2.1666666666666665}"#),
        (r#"{ "from": "empty", "to": "o", "op": "avg" }"#, "{}"),
        (r#"{ "from": "nums", "to": "o", "op": { "add": 10 } }"#, r#"{"o":[11,12,13.5]}"#),
        (r#"{ "from": "m", "op": { "add": 0.5 } }"#, r#"{"m":{"x":7.5,"y":8.5}}"#),
        (r#"{ "from": "n", "to": "o", "op": { "multiply": -2 } }"#, r#"{"o":-10}"#),
        (r#"{ "from": "empty", "to": "o", "op": { "multiply": 2 } }"#, r#"{"o":[]}"#),
        (
            r#"{ "from": "s", "to": "o", "op": { "add": 1 } }"#,
            "rejected: specs[0]: `s`: expected a number, found a string",
        ),
        (
            r#"{ "from": "s", "to": "o", "op": { "replace": { "regex": "buzz/(.*)", "with": "$1" } } }"#,
            r#"{"o":"fizz"}"#,
        ),
        (r#"{ "from": "s", "to": "o", "op": { "replace": { "regex": "z", "with": "Z" } } }"#, r#"{"o":"buZZ/fiZZ"}"#),
        (
            r#"{ "from": "ms", "to": "o", "op": { "replace": { "regex": "buzz/(.*)", "with": "$1" } } }"#,
            r#"{"o":{"p":"q","r":"t"}}"#,
        ),
        (r#"{ "from": "strs", "op": { "replace": { "regex": "\\w+/", "with": "" } } }"#, r#"{"strs":["a","x"]}"#),
        (
            r#"{ "from": "mix", "op": { "replace": { "regex": "a", "with": "" } } }"#,
            "rejected: specs[0]: `mix`: expected a string, found a number",
        ),
        (r#"{ "from": "nums", "to": "o", "op": "pop_head" }"#, r#"{"o":1}"#),
        (r#"{ "from": "nums", "to": "o", "op": "pop_tail" }"#, r#"{"o":3.5}"#),
        (r#"{ "from": "empty", "to": "o", "op": "pop_head" }"#, r#"{"o":null}"#),
        (r#"{ "from": "n", "to": "o", "op": "pop_head" }"#, "rejected: specs[0]: `n`: expected a list, found a number"),
        (r#"{ "from": "n", "to": "o", "when": "event.n == 6" }"#, "{}"),
        (r#"{ "from": "n", "to": "o", "when": "event.n == 5" }"#, r#"{"o":5}"#),
        (
            r#"{ "from": "n", "to": "o", "when": "event.s > 1" }"#,
            "rejected: specs[0]: when: column 9: `>` cannot take string and int",
        ),
        (r#"{ "from": "zz", "to": "o", "when": "event.s > 1" }"#, "{}"),
    ]);
}

#[test]
fn expressions_map_and_fold() {
    one(&[
        (r#"{ "to": "o", "op": { "expr": "event.n * 2 + event.m.x" } }"#, r#"{"o":17}"#),
        (r#"{ "to": "o", "op": { "expr": "event.zz" } }"#, "{}"),
        (r#"{ "op": { "expr": "{'a': event.n, 'b': event.m}" } }"#, r#"{"a":5,"b":{"x":7,"y":8}}"#),
        (
            r#"{ "op": { "expr": "event.n" } }"#,
            "rejected: specs[0]: without `to` the result must be an object, not a number",
        ),
        (
            r#"{ "to": "o", "op": { "expr": "event.s * 2" } }"#,
            "rejected: specs[0]: `the event`: column 9: `*` cannot take string and int",
        ),
        (r#"{ "from": "nums", "to": "o", "op": { "map": "meta.item * event.n" } }"#, r#"{"o":[5,10,17.5]}"#),
        (r#"{ "from": "maps", "to": "o", "op": { "map": "meta.item.v + 1" } }"#, r#"{"o":[2,3]}"#),
        (r#"{ "from": "maps", "to": "o", "op": { "map": "meta.item.z" } }"#, r#"{"o":[null,null]}"#),
        (r#"{ "from": "m", "to": "o", "op": { "map": "string(meta.item)" } }"#, r#"{"o":{"x":"7","y":"8"}}"#),
        (r#"{ "from": "n", "to": "o", "op": { "map": "[meta.item, meta.topic]" } }"#, r#"{"o":[5,"barn"]}"#),
        (r#"{ "from": "n", "to": "o", "op": { "map": "meta.item.z" } }"#, "{}"),
        (r#"{ "from": "empty", "to": "o", "op": { "map": "meta.item.z" } }"#, r#"{"o":[]}"#),
        (
            r#"{ "from": "strs", "to": "o", "op": { "fold_left": { "start": "", "expr": "meta.acc + meta.item" } } }"#,
            r#"{"o":"buzz/ax"}"#,
        ),
        (
            r#"{ "from": "strs", "to": "o", "op": { "fold_right": { "start": "", "expr": "meta.acc + meta.item" } } }"#,
            r#"{"o":"xbuzz/a"}"#,
        ),
        (
            r#"{ "from": "nums", "to": "o", "op": { "fold_left": { "start": [0, 0], "expr": "[meta.acc[0] + meta.item, meta.acc[1] + 1]" } } }"#,
            r#"{"o":[6.5,3]}"#,
        ),
        (
            r#"{ "from": "maps", "to": "o", "op": { "fold_left": { "start": 0, "expr": "meta.acc + meta.item.v" } } }"#,
            r#"{"o":3}"#,
        ),
        (
            r#"{ "from": "mix", "to": "o", "op": { "fold_left": { "start": 0, "expr": "meta.acc + meta.item.v" } } }"#,
            r#"{"o":0}"#,
        ),
        (r#"{ "from": "empty", "to": "o", "op": { "fold_left": { "expr": "meta.item" } } }"#, r#"{"o":null}"#),
        (
            r#"{ "from": "n", "to": "o", "op": { "fold_left": { "expr": "meta.item" } } }"#,
            "rejected: specs[0]: `n`: expected a list, found a number",
        ),
    ]);
}

#[test]
fn specs_read_the_event_as_it_came() {
    check(
        &KIND,
        &[
            (
                r#"{ "specs": [{ "from": "a", "to": "b" }, { "from": "b", "to": "c" }] }"#,
                r#"{"a":1,"b":2}"#,
                r#"{"a":1,"b":1,"c":2}"#,
            ),
            (
                r#"{ "specs": [{ "from": "a", "to": "b", "op": "move" }, { "from": "b", "to": "a", "op": "move" }] }"#,
                r#"{"a":1,"b":2,"c":3}"#,
                r#"{"c":3,"b":1,"a":2}"#,
            ),
            (
                r#"{ "specs": [{ "from": "m", "to": "n.q" }] }"#,
                r#"{"m":{},"n":1}"#,
                "rejected: specs[0]: `n` is a number, not an object",
            ),
            (r#"{ "specs": [{ "from": "m", "to": "n" }] }"#, r#"{"m":{},"n":1}"#, r#"{"m":{},"n":{}}"#),
            (
                r#"{ "specs": [{ "from": "a", "to": "z", "op": "move" }, { "from": "x", "to": "y", "op": "move" }] }"#,
                r#"{"a":1}"#,
                r#"{"z":1}"#,
            ),
            (r#"{ "specs": [{ "to": "copy" }] }"#, r#"{"a":1}"#, r#"{"a":1,"copy":{"a":1}}"#),
            (r#"{ "specs": [{ "op": { "add": 1 } }] }"#, r#"{"a":1,"b":2}"#, r#"{"a":2,"b":3}"#),
            (r#"{ "specs": [], "others": "drop" }"#, r#"{"a":1}"#, "{}"),
            (r#"{ "specs": [], "others": "drop", "when": "event.a > 1" }"#, r#"{"a":1}"#, r#"{"a":1}"#),
        ],
    );
}

#[test]
fn a_wrong_configuration_is_refused() {
    check(
        &KIND,
        &[
            ("{}", "", "wrong: missing field `specs`"),
            (
                r#"{ "specs": [{}, { "from": "a", "op": "move" }] }"#,
                "",
                "wrong: specs[1]: `move` takes `from` and `to`",
            ),
            (
                r#"{ "specs": [{ "from": "a", "op": { "expr": "1" } }] }"#,
                "",
                "wrong: specs[0]: `expr` reads `event` and takes no `from`",
            ),
            (
                r#"{ "specs": [{ "from": "a", "op": { "replace": { "regex": "(", "with": "" } } }] }"#,
                "",
                "wrong: specs[0].op.replace.regex: `(` is not a regular expression: unclosed group",
            ),
        ],
    );
}

#[test]
fn a_hostile_list_does_not_keep_the_core_busy() {
    let list = vec![format!("\"{}\"", "x".repeat(40)); 20_000].join(",");
    let config = r#"{ "specs": [{ "from": "l", "to": "o", "op": { "fold_left": { "start": "", "expr": "meta.acc + meta.item" } } }] }"#;
    let body = format!("{{\"l\":[{list}]}}");
    let got = super::super::tests::Rig::new(&KIND, config).unwrap().feed(&body);
    assert!(got.contains("64 KiB") || got.contains("8 MiB"), "{got}");
}

/// What an operation of `field` with a program makes of `BODY`.
async fn run(field: &str, op: &str) -> String {
    let spec = format!(r#"{{ "others": "drop", "specs": [{{ "from": "{field}", "to": "o", "op": {op} }}] }}"#);
    let process = build(&KIND, Systems::default(), serde_json::from_str(&spec).unwrap()).unwrap();
    assert!(process.outside().is_some());
    reach(&*process, event(BODY)).await
}

#[tokio::test]
async fn programs_map_and_fold() {
    let map = |script: &str| format!(r#"{{ "map": {{ "run": ["/bin/sh", "-c", "{script}"] }} }}"#);
    let fold = |side: &str, script: &str, start: &str| {
        format!(r#"{{ "fold_{side}": {{ "run": ["/bin/sh", "-c", "{script}"], "start": {start} }} }}"#)
    };
    let sum = r#"sed -E 's/.*v.:([0-9]+),.internal:acc.:.*s.:.([0-9 ]+).*/{\"s\":\"\\2 \\1\"}/'"#;
    for (field, op, want) in [
        ("maps", map("cat"), r#"{"o":[{"v":1},{"v":2}]}"#),
        ("deep", map("cat"), r#"{"o":{"a":{"b":{"c":1}}}}"#),
        ("ms", map("cat"), r#"{"o":{"p":null,"r":null}}"#),
        ("s", map("cat"), r#"{"o":null}"#),
        ("maps", map("true"), r#"{"o":[null,null]}"#),
        ("empty", map("false"), r#"{"o":[]}"#),
        ("nul", map("false"), "{}"),
        ("n", map("cat"), "rejected: specs[0]: `n`: a program takes an object, a list or a string, not a number"),
        ("maps", map("exit 1"), "rejected: specs[0]: `maps`: `/bin/sh` ended with status 1"),
        ("maps", map("echo hi"), "rejected: specs[0]: `maps`: `/bin/sh` printed what is not one JSON object: `hi`"),
        ("maps", fold("left", "cat", "0"), r#"{"o":{"v":2,"internal:acc":{"v":1,"internal:acc":0}}}"#),
        ("maps", fold("right", "cat", "null"), r#"{"o":{"v":1,"internal:acc":{"v":2,"internal:acc":null}}}"#),
        ("maps", fold("left", sum, r#"{"s":"0"}"#), r#"{"o":{"s":"0 1 2"}}"#),
        ("maps", fold("right", sum, r#"{"s":"0"}"#), r#"{"o":{"s":"0 2 1"}}"#),
        ("maps", fold("left", "true", "7"), r#"{"o":null}"#),
        ("empty", fold("left", "false", "7"), r#"{"o":7}"#),
        ("n", fold("left", "cat", "7"), "rejected: specs[0]: `n`: expected a list, found a number"),
        (
            "nums",
            fold("left", "cat", "7"),
            "rejected: specs[0]: `nums`: a program folds a list of objects, found a number in it",
        ),
        (
            "maps",
            r#"{ "map": { "run": ["/nowhere"] } }"#.into(),
            "retry: specs[0]: `maps`: `/nowhere` cannot be started: No such file or directory (os error 2)",
        ),
        (
            "maps",
            r#"{ "map": { "run": ["sleep", "9"], "timeout": "50ms" } }"#.into(),
            "rejected: specs[0]: `maps`: `sleep` did not end within 50ms",
        ),
    ] {
        assert_eq!(run(field, &op).await, want, "{field} {op}");
    }
}

#[tokio::test]
async fn with_a_program_all_specs_work_and_others_stay() {
    let config = r#"{ "specs": [
        { "from": "a", "to": "b", "op": { "map": { "run": ["cat"] } }, "when": "event.n == 1" },
        { "from": "n", "to": "m", "op": { "add": 1 } }] }"#;
    let process = build(&KIND, Systems::default(), serde_json::from_str(config).unwrap()).unwrap();
    for (body, want) in [
        (r#"{"n":1,"a":{"x":{}}}"#, r#"{"n":1,"a":{"x":{}},"b":{"x":{}},"m":2}"#),
        (r#"{"n":2,"a":{"x":{}}}"#, r#"{"n":2,"a":{"x":{}},"m":3}"#),
        (r#"{"n":1}"#, r#"{"n":1,"m":2}"#),
    ] {
        assert_eq!(reach(&*process, event(body)).await, want);
    }
}

#[tokio::test]
async fn a_hostile_list_does_not_start_children_for_hours() {
    let config = r#"{ "specs": [{ "from": "l", "op": { "map": { "run": ["/nowhere"] } } }] }"#;
    let process = build(&KIND, Systems::default(), serde_json::from_str(config).unwrap()).unwrap();
    let config = r#"{ "specs": [{ "from": "l", "op": { "fold_left": { "run": ["true"] } } }] }"#;
    let fold = build(&KIND, Systems::default(), serde_json::from_str(config).unwrap()).unwrap();
    let list = vec!["{}"; 1001].join(",");
    let since = Instant::now();
    for process in [process, fold] {
        let got = reach(&*process, event(&format!("{{\"l\":[{list}]}}"))).await;
        assert_eq!(got, "rejected: specs[0]: `l`: more than 1000 elements: a program would run for each");
    }
    assert!(since.elapsed() < Duration::from_millis(500));
}

#[test]
fn a_wrong_program_is_refused() {
    let rows = [
        (r#""map""#, r#"{ "run": [] }"#, ".map: expected the path of a program"),
        (r#""map""#, r#"{ "run": "cat" }"#, ".map.run: invalid type: string \"cat\", expected a sequence"),
        (r#""map""#, r#"{ "expr": "1" }"#, ".map.expr: unknown field `expr`, expected `run` or `timeout`"),
        (r#""map""#, "1", ".map: invalid type: integer `1`, expected an expression, or an object with `run`"),
        (r#""fold_left""#, "{}", ".fold_left: expected either `expr` or `run`"),
        (r#""fold_left""#, r#"{ "expr": "1", "run": ["a"] }"#, ".fold_left: expected either `expr` or `run`"),
        (r#""fold_left""#, r#"{ "expr": "1", "timeout": "1s" }"#, ".fold_left: `timeout` is for `run` alone"),
        (r#""fold_left""#, r#"{ "run": ["a"], "timeout": "0s" }"#, ".fold_left: expected a `timeout` of 1ms to 1d"),
    ];
    for (op, value, want) in rows {
        let config = format!(r#"{{ "specs": [{{ "from": "l", "op": {{ {op}: {value} }} }}] }}"#);
        check(&KIND, &[(&config, "", &format!("wrong: specs[0].op{want}"))]);
    }
}
