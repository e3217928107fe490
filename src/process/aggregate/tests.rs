use super::super::tests::{Rig, check, event};
use super::*;
use crate::kind::{Memory, Params, Scope};

/// Feeds bodies one after another and compares what the aggregation is after each, or why it was rejected.
fn run(config: &str, steps: &[(&str, &str)]) {
    let mut rig = Rig::new(&KIND, config).unwrap();
    for (body, want) in steps {
        let before = rig.state();
        let got = rig.feed(body);
        if got.starts_with("rejected") {
            assert_eq!(rig.state(), before, "{config}: {body} left something behind");
            assert_eq!(got, format!("rejected: {want}"), "{config}: {body}");
        } else {
            let forward = rig.out[0].body.get(&Path::of(["internal:aggregation:p"]).unwrap());
            assert_eq!(forward.map_or("none".into(), |doc| format!("{doc:?}")), *want, "{config}: {body}");
        }
    }
}

/// The aggregations of five events with one, in the seed's way.
fn five(op: &str, wants: [&str; 5]) {
    let config = format!(r#"{{ "field": "n", "op": "{op}" }}"#);
    let bodies = [r#"{"n":5,"k":"x"}"#, r#"{"n":-2,"k":"y"}"#, r#"{"n":7,"k":"x"}"#, r#"{"k":"x"}"#, r#"{"n":1}"#];
    run(&config, &[0, 1, 2, 3, 4].map(|i| (bodies[i], wants[i])));
}

#[test]
fn aggregates_run_as_in_the_reference() {
    let value = |name: &str, values: [i32; 5]| values.map(|v| format!(r#"{{"n:{name}":{{"value":{v}}}}}"#));
    for (op, name, values) in [
        ("sum", "AggSum", [5, 3, 10, 10, 11]),
        ("max", "AggMax", [5, 5, 7, 7, 7]),
        ("min", "AggMin", [5, -2, -2, -2, -2]),
        ("count", "AggCount", [1, 2, 3, 3, 4]),
    ] {
        let wants = value(name, values);
        five(op, std::array::from_fn(|i| &*wants[i]));
    }
    let avg =
        [(5, 1), (3, 2), (10, 3), (10, 3), (11, 4)].map(|(s, n)| format!(r#"{{"n:AggAvg":{{"num":{n},"sum":{s}}}}}"#));
    five("avg", std::array::from_fn(|i| &*avg[i]));
}

#[test]
fn groups_nest() {
    run(
        r#"{ "field": "n", "op": "sum", "by": ["k"] }"#,
        &[
            (r#"{"n":5,"k":"x"}"#, r#"{"n:AggSum":{"x":{"value":5}}}"#),
            (r#"{"n":-2,"k":"y"}"#, r#"{"n:AggSum":{"x":{"value":5},"y":{"value":-2}}}"#),
            (r#"{"k":"new"}"#, r#"{"n:AggSum":{"x":{"value":5},"y":{"value":-2}}}"#),
            (r#"{"n":7,"k":"x"}"#, r#"{"n:AggSum":{"x":{"value":12},"y":{"value":-2}}}"#),
            (r#"{"n":1}"#, r#"{"n:AggSum":{"nil":{"value":1},"x":{"value":12},"y":{"value":-2}}}"#),
            (
                r#"{"n":1,"k":null}"#,
                r#"{"n:AggSum":{"<nil>":{"value":1},"nil":{"value":1},"x":{"value":12},"y":{"value":-2}}}"#,
            ),
        ],
    );
    run(
        r#"{ "field": "m.n", "op": "count", "by": ["m.k", "l.0"] }"#,
        &[
            (r#"{"m":{"n":null,"k":"x"},"l":[1]}"#, r#"{"m.n:AggCount":{"x":{"1":{"value":1}}}}"#),
            (r#"{"m":{"n":"","k":"x"},"l":[1.0]}"#, r#"{"m.n:AggCount":{"x":{"1":{"value":2}}}}"#),
            (r#"{"m":{"n":1,"k":true}}"#, r#"{"m.n:AggCount":{"true":{"nil":{"value":1}},"x":{"1":{"value":2}}}}"#),
            (
                r#"{"m":{"n":{},"k":1},"l":[1]}"#,
                r#"{"m.n:AggCount":{"true":{"nil":{"value":1}},"x":{"1":{"value":2}}}}"#,
            ),
        ],
    );
    run(r#"{ "op": "count", "by": ["a\"b"] }"#, &[(r#"{"a\"b":"c\"\n"}"#, r#"{"*:AggCount":{"c\"\n":{"value":1}}}"#)]);
    run(r#"{ "field": "a\\.b", "op": "sum" }"#, &[(r#"{"a.b":1}"#, r#"{"a.b:AggSum":{"value":1}}"#)]);
}

#[test]
fn a_histogram_counts_texts() {
    run(
        r#"{ "field": "v", "op": "histogram" }"#,
        &[
            (r#"{"w":1}"#, "{}"),
            (r#"{"v":"on"}"#, r#"{"v:AggDiscreteHistogram":{"buckets":{"on":1}}}"#),
            (r#"{"v":true}"#, r#"{"v:AggDiscreteHistogram":{"buckets":{"on":1,"true":1}}}"#),
            (r#"{"v":2}"#, r#"{"v:AggDiscreteHistogram":{"buckets":{"2":1,"on":1,"true":1}}}"#),
            (r#"{"v":2.0}"#, r#"{"v:AggDiscreteHistogram":{"buckets":{"2":2,"on":1,"true":1}}}"#),
            (r#"{"v":null}"#, "`v`: expected a string, a number or a boolean, found null"),
            (r#"{"v":-0.5}"#, r#"{"v:AggDiscreteHistogram":{"buckets":{"-0.5":1,"2":2,"on":1,"true":1}}}"#),
            (r#"{"v":[1]}"#, r#"{"v:AggDiscreteHistogram":{"buckets":{"-0.5":1,"2":2,"on":1,"true":1}}}"#),
        ],
    );
    run(
        r#"{ "field": "v", "op": "histogram", "by": ["g"], "max_groups": 2 }"#,
        &[
            (r#"{"v":"a","g":1}"#, r#"{"v:AggDiscreteHistogram":{"1":{"buckets":{"a":1}}}}"#),
            (r#"{"v":"a","g":2}"#, r#"{"v:AggDiscreteHistogram":{"1":{"buckets":{"a":1}},"2":{"buckets":{"a":1}}}}"#),
            (r#"{"v":"b","g":2}"#, "this event begins a new group, beyond the 2 of `max_groups`"),
            (r#"{"v":"a","g":2}"#, r#"{"v:AggDiscreteHistogram":{"1":{"buckets":{"a":1}},"2":{"buckets":{"a":2}}}}"#),
        ],
    );
}

#[test]
fn a_wrong_value_rejects_its_event_alone() {
    for op in ["sum", "min", "max", "avg"] {
        let leaf = |n: u32| match op {
            "avg" => format!(r#"{{"n:AggAvg":{{"num":{n},"sum":{n}}}}}"#),
            "sum" => format!(r#"{{"n:AggSum":{{"value":{n}}}}}"#),
            "min" => r#"{"n:AggMin":{"value":1}}"#.into(),
            _ => r#"{"n:AggMax":{"value":1}}"#.into(),
        };
        let huge = "`n`: the number is too large for a double";
        run(
            &format!(r#"{{ "field": "n", "op": "{op}" }}"#),
            &[
                (r#"{"n":"1"}"#, "`n`: expected a number, found a string"),
                (r#"{"n":1}"#, &leaf(1)),
                (r#"{"n":true}"#, "`n`: expected a number, found a boolean"),
                (r#"{"n":null}"#, "`n`: expected a number, found null"),
                (r#"{"n":1e999}"#, huge),
                (r#"{"n":-1e999}"#, huge),
                (r#"{"n":1}"#, &leaf(2)),
            ],
        );
    }
}

#[test]
fn numbers_are_exact_as_long_as_they_fit() {
    for (op, bodies, want) in [
        ("sum", &["9007199254740993", "1"][..], r#"{"n:AggSum":{"value":9007199254740994}}"#),
        ("sum", &["9223372036854775807", "1"], r#"{"n:AggSum":{"value":9.223372036854776e18}}"#),
        ("sum", &["18446744073709551615", "-1"], r#"{"n:AggSum":{"value":1.8446744073709552e19}}"#),
        ("sum", &["0.5", "1"], r#"{"n:AggSum":{"value":1.5}}"#),
        ("sum", &["1.5", "0.5"], r#"{"n:AggSum":{"value":2.0}}"#),
        ("max", &["-7", "-3", "-5"], r#"{"n:AggMax":{"value":-3}}"#),
        ("max", &["9007199254740992", "9007199254740993"], r#"{"n:AggMax":{"value":9007199254740993}}"#),
        ("min", &["2.5", "3"], r#"{"n:AggMin":{"value":2.5}}"#),
        ("avg", &["-0.5", "0.25"], r#"{"n:AggAvg":{"num":2,"sum":-0.25}}"#),
    ] {
        let mut rig = Rig::new(&KIND, &format!(r#"{{ "field": "n", "op": "{op}" }}"#)).unwrap();
        for n in bodies {
            rig.feed(&format!(r#"{{"n":{n}}}"#));
        }
        let got = rig.feed("{}");
        assert_eq!(got, format!(r#"{{"internal:aggregation:p":{want}}}"#), "{op} {bodies:?}");
    }
    let over = "`n`: the result is not a finite number";
    let max = r#"{"n":1.7976931348623157e308}"#;
    run(r#"{ "field": "n", "op": "sum" }"#, &[(max, r#"{"n:AggSum":{"value":1.7976931348623157e308}}"#), (max, over)]);
}

#[test]
fn groups_are_bounded() {
    let full = "this event begins a new group, beyond the 2 of `max_groups`";
    run(
        r#"{ "op": "count", "by": ["k"], "max_groups": 2 }"#,
        &[
            (r#"{"k":1}"#, r#"{"*:AggCount":{"1":{"value":1}}}"#),
            (r#"{"k":2}"#, r#"{"*:AggCount":{"1":{"value":1},"2":{"value":1}}}"#),
            (r#"{"k":3}"#, full),
            ("{}", full),
            (r#"{"k":2}"#, r#"{"*:AggCount":{"1":{"value":1},"2":{"value":2}}}"#),
        ],
    );
    let mut rig = Rig::new(&KIND, r#"{ "op": "count", "by": ["k"], "forward": false }"#).unwrap();
    let got = rig.feed(&format!(r#"{{"k":"{}"}}"#, "x".repeat(1 << 20)));
    assert!(got.starts_with("rejected: the pipeline's state is full"), "{got:.100}");
}

#[test]
fn the_body_stays_and_forwarding_is_a_choice() {
    check(
        &KIND,
        &[
            (r#"{ "field": "n", "op": "sum", "forward": false }"#, r#"{"n":1}"#, r#"{"n":1}"#),
            (
                r#"{ "field": "n", "op": "sum", "label": "my p" }"#,
                r#"{"n":1}"#,
                r#"{"n":1,"internal:aggregation:my p":{"n:AggSum":{"value":1}}}"#,
            ),
            (r#"{ "field": "n", "op": "sum", "when": "event.m.n == 2" }"#, r#"{"m":{"n":1}}"#, r#"{"m":{"n":1}}"#),
            (
                r#"{ "field": "m.n", "op": "sum", "when": "event.m.n == 1" }"#,
                r#"{"internal:aggregation:p":{"old":1},"m":{"n":1}}"#,
                r#"{"internal:aggregation:p":{"m.n:AggSum":{"value":1}},"m":{"n":1}}"#,
            ),
            (r#"{ "op": "sum" }"#, "", r#"wrong: field: it may be absent only with `"op": "count"`"#),
            (
                r#"{ "op": "median", "field": "n" }"#,
                "",
                "wrong: op: unknown variant `median`, expected one of `sum`, `min`, `max`, `avg`, `count`, `histogram`",
            ),
            (
                r#"{ "op": "count", "max_groups": 0 }"#,
                "",
                "wrong: max_groups: invalid value: integer `0`, expected a nonzero u32",
            ),
        ],
    );
    let many = format!(r#"{{ "op": "count", "by": ["{}"] }}"#, ["a"; 33].join("\",\""));
    check(&KIND, &[(&many, "", "wrong: by: 33 fields, at most 32")]);
    let most = format!(r#"{{ "op": "count", "by": ["{}"] }}"#, ["a"; 32].join("\",\""));
    let mut rig = Rig::new(&KIND, &most).unwrap();
    assert!(crate::event::json::check(rig.feed(r#"{"a":"x"}"#).as_bytes()).is_ok());
}

/// Several aggregates of one pipeline, as events pass them.
struct Chain {
    processes: Vec<Box<dyn Process>>,
    memory: Memory,
}

impl Chain {
    fn new(configs: &[&str]) -> Chain {
        let names: Vec<String> = (0..configs.len()).map(|i| format!("a{i}")).collect();
        let owners: Vec<(&str, &'static str)> = names.iter().map(|name| (name.as_str(), KIND.name)).collect();
        let build = |(name, config): (&String, &&str)| {
            let scope = Scope { pipeline: "p".into(), ..Scope::default() };
            (KIND.build)(Params::new(name, scope, serde_json::from_str(config).unwrap())).unwrap()
        };
        let processes = names.iter().zip(configs).map(build).collect();
        Chain { processes, memory: Memory::new("p", &owners, 1 << 20) }
    }

    /// What the last aggregate forwards.
    fn feed(&mut self, body: &str) -> String {
        let mut stage = vec![event(body)];
        for (at, process) in self.processes.iter().enumerate() {
            let (mut out, mut sent) = (Vec::new(), Vec::new());
            let mut cx = Cx { now: 0, out: &mut out, sent: &mut sent, memory: &mut self.memory, at };
            stage.drain(..).for_each(|event| process.process(event, &mut cx).unwrap());
            stage = out;
        }
        format!("{:?}", stage[0].body.get(&Path::of(["internal:aggregation:p"]).unwrap()).unwrap())
    }
}

#[test]
fn all_aggregates_of_a_pipeline_are_forwarded() {
    let sum = r#"{ "field": "n", "op": "sum" }"#;
    let by = r#"{ "field": "n", "op": "sum", "by": ["k"] }"#;
    for (configs, steps) in [
        (
            &[sum, by][..],
            &[
                (r#"{"n":1,"k":"x"}"#, r#"{"n:AggSum":{"value":1,"x":{"value":1}}}"#),
                (r#"{"n":2,"k":"x"}"#, r#"{"n:AggSum":{"value":3,"x":{"value":3}}}"#),
                (r#"{"n":4,"k":"y"}"#, r#"{"n:AggSum":{"value":7,"x":{"value":3},"y":{"value":4}}}"#),
                // A group that is called as a leaf's member: the later aggregate's is seen, each state stays right.
                (r#"{"n":8,"k":"value"}"#, r#"{"n:AggSum":{"value":{"value":8},"x":{"value":3},"y":{"value":4}}}"#),
                (r#"{"n":1,"k":"value"}"#, r#"{"n:AggSum":{"value":{"value":9},"x":{"value":3},"y":{"value":4}}}"#),
            ][..],
        ),
        (
            &[by, sum],
            &[
                (r#"{"n":8,"k":"value"}"#, r#"{"n:AggSum":{"value":8}}"#),
                (r#"{"n":1,"k":"x"}"#, r#"{"n:AggSum":{"value":9,"x":{"value":1}}}"#),
            ],
        ),
        (&[sum, sum], &[(r#"{"n":1}"#, r#"{"n:AggSum":{"value":1}}"#), (r#"{"n":1}"#, r#"{"n:AggSum":{"value":2}}"#)]),
        (
            &[r#"{ "op": "count" }"#, r#"{ "field": "n", "op": "avg" }"#, r#"{ "field": "k", "op": "histogram" }"#],
            &[(
                r#"{"n":1,"k":"x"}"#,
                r#"{"*:AggCount":{"value":1},"k:AggDiscreteHistogram":{"buckets":{"x":1}},"n:AggAvg":{"num":1,"sum":1}}"#,
            )],
        ),
    ] {
        let mut chain = Chain::new(configs);
        for (body, want) in steps {
            assert_eq!(chain.feed(body), *want, "{configs:?} {body}");
        }
    }
}

#[test]
fn another_configuration_begins_anew() {
    let mut rig = Rig::new(&KIND, r#"{ "field": "n", "op": "sum", "by": ["k"], "max_groups": 2 }"#).unwrap();
    rig.remember(br#"["n:AggSum",["z"],["1"]]"#, "7");
    rig.remember(br#"["n:AggAvg",["k"],["1"]]"#, r#"{"sum":7,"num":1}"#);
    assert_eq!(rig.feed("{}"), r#"{"internal:aggregation:p":{}}"#);
    assert_eq!(
        rig.feed(r#"{"n":1,"k":1}"#),
        r#"{"n":1,"k":1,"internal:aggregation:p":{"n:AggSum":{"1":{"value":1}}}}"#
    );
    assert_eq!(rig.state(), [r#"["n:AggSum",["k"],["1"]]=1"#]);
}

#[test]
fn a_state_that_makes_no_sense_is_told() {
    let key = br#"["n:AggSum",[],[]]"#;
    for (bad, body) in [
        ("", r#"{"n":1}"#),
        ("x", r#"{"n":1}"#),
        ("\"7\"", r#"{"n":1}"#),
        ("{\"value\":1}", r#"{"n":1}"#),
        ("{\"sum\":[]}", "{}"),
        ("[", "{}"),
    ] {
        let mut rig = Rig::new(&KIND, r#"{ "field": "n", "op": "sum" }"#).unwrap();
        rig.remember(key, bad);
        let got = rig.feed(body);
        assert!(got.starts_with(r#"rejected: the state for `["n:AggSum",[],[]]`: "#), "{bad}: {got}");
    }
    let mut rig = Rig::new(&KIND, r#"{ "field": "n", "op": "sum" }"#).unwrap();
    for bad in ["[", "[]", "[1]", r#"["n:AggSum",[],[],"#, r#"["n:AggSum",[],[1]]"#] {
        let mut document = Document::default();
        assert!(document.add(bad.as_bytes(), b"1").is_err(), "{bad}");
    }
    let deep = format!(r#"["n:AggSum",[],["{}"]]"#, ["a"; 99].join("\",\""));
    assert!(Document::default().add(deep.as_bytes(), b"1").is_err());
    assert_eq!(rig.feed(r#"{"n":1}"#), r#"{"n":1,"internal:aggregation:p":{"n:AggSum":{"value":1}}}"#);
}
