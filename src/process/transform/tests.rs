use super::super::tests::check;
use super::*;

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
