use super::*;
use crate::{
    event::Body,
    expr::{Expr, Scope, Value},
};
use bytes::Bytes;

const EVENT: &str = r#"{"n":5,"neg":-2.5,"z":0,"s":"hello","s2":"5","b":true,"d":"2021-01-01","m":{"x":7,"y":"q"},"l":[1,2],"nul":null,
    "big":1e-05,"q":"a\"b","a.b":"dotted","e":{},"el":[],"it's":1,"a b":2,"x]y":3,"huge":9007199254740993,"ü":"é","w":"a\\d"}"#;

struct Fixture(Body);

impl Scope for Fixture {
    fn event(&self) -> &Body {
        &self.0
    }
    fn meta(&self, _: &str) -> Option<Value<'_>> {
        None
    }
}

fn import(text: &str) -> Result<(String, Vec<String>), Vec<String>> {
    let told = |problems: Vec<Problem>| problems.into_iter().map(|p| p.to_string()).collect::<Vec<_>>();
    binge(Path::new("f"), text).map(|(text, warnings)| (text, told(warnings))).map_err(told)
}

/// A configuration with these definitions and externals, each a text of JSON without the brackets around.
fn config(pipeline: &str, definitions: &str, externals: &str) -> String {
    format!(
        r#"{{"partitionUuid":"C5024CA8-d601-499f-bb24-daae74357b5e",
"pipelines":[{pipeline}],
"processDefinitions":[{definitions}],
"externalSystems":[{externals}]}}"#
    )
}

const STORE: &str = r#"{"externalType":"ExternalKVStore","name":"K","connectionString":"mem:x"}"#;

/// The lines of the processes, without the two that every pipeline begins with.
fn processes(uses: &str, definitions: &str, externals: &str) -> String {
    let pipeline = format!(r#"{{"name":"p","processes":[{uses}]}}"#);
    let (text, _) = import(&config(&pipeline, definitions, externals)).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let from = text.find("\"meta.id\"").unwrap();
    let inner = &text[from + text[from..].find('\n').unwrap()..];
    let inner = &inner[..inner.find("\n      ]").unwrap()];
    inner.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// The expression of a condition, and whether it holds for the event; or what is said of it.
fn condition(json: &str) -> (String, String) {
    let definition = format!(r#"{{"continuation":{{"name":"c","condition":{json}}}}}"#);
    let text = match import(&config(r#"{"name":"p","processes":[{"name":"c"}]}"#, &definition, "")) {
        Ok((text, _)) => text,
        Err(told) => {
            let (place, what) = told[0].split_once(": ").unwrap();
            let what = what.rsplit_once(" (f:").unwrap().0;
            return (
                place.trim_start_matches("processDefinitions[0].continuation.condition").to_owned(),
                what.to_owned(),
            );
        }
    };
    let Some(when) = text.lines().find_map(|line| line.split_once("\"when\": ")).map(|(_, when)| when) else {
        return (String::new(), "true".into());
    };
    let mut values = serde_json::Deserializer::from_str(when).into_iter::<String>();
    let when = values.next().unwrap().unwrap();
    let scope = Fixture(Body::parse(Bytes::from_static(EVENT.as_bytes())).unwrap());
    let result = Expr::parse(&when).unwrap().test(&scope);
    (when, result.map_or_else(|_| "fails".into(), |b| b.to_string()))
}

fn variable(name: &str) -> String {
    format!(r#"{{"variable":{{"name":{}}}}}"#, serde_json::Value::from(name))
}
fn literal(text: &str) -> String {
    format!(r#"{{"literal":{}}}"#, serde_json::Value::from(text))
}
fn number(n: &str) -> String {
    format!(r#"{{"numeric":{n}}}"#)
}
fn nested(expression: &str) -> String {
    format!(r#"{{"expression":{expression}}}"#)
}
fn two(kind: &str, lhs: &str, op: &str, rhs: &str) -> String {
    format!(r#"{{"{kind}":{{"lhs":{lhs},"rhs":{rhs},"op":{op}}}}}"#)
}
fn compare(lhs: &str, op: &str, rhs: &str) -> String {
    two("comparator", lhs, &format!("\"{op}\""), rhs)
}
fn compute(lhs: &str, op: &str, rhs: &str) -> String {
    nested(&two("binary", lhs, &format!("\"{op}\""), rhs))
}
fn unary(op: &str, rhs: &str) -> String {
    format!(r#"{{"unary":{{"op":"{op}","rhs":{rhs}}}}}"#)
}

#[test]
fn comparisons_hold_as_they_did_or_as_they_should() {
    let v = variable;
    for (expression, text, holds) in [
        (compare(&v("n"), "Equal", &number("5")), "event.n == 5", "true"),
        (compare(&v("n"), "Equal", &number("\"5\"")), "event.n == 5", "true"),
        (compare(&v("n"), "Equal", &number("\"5e0\"")), "event.n == 5", "true"),
        (compare(&number("5"), "Equal", &v("n")), "5 == event.n", "true"),
        (compare(&v("s2"), "Equal", &number("5")), "event.s2 == 5", "false"),
        (compare(&v("n"), "NotEqual", &literal("5")), "event.leaf('n') != '5'", "true"),
        (compare(&v("m"), "NotEqual", &literal("5")), "event.leaf('m') != '5'", "false"),
        (compare(&v("e"), "LessThan", &number("1")), "event.leaf('e') < 1", "false"),
        (compare(&v("gone"), "NotEqual", &literal("5")), "event.leaf('gone') != '5'", "false"),
        (compare(&v("nul"), "NotEqual", &literal("")), "event.leaf('nul') != ''", "true"),
        (compare(&v("nul"), "GreaterThan", &number("0")), "event.leaf('nul') > 0", "fails"),
        (compare(&v("s"), "GreaterThan", &number("3")), "event.leaf('s') > 3", "fails"),
        (compare(&v("s"), "GreaterThanOrEqual", &literal("abc")), "event.leaf('s') >= 'abc'", "true"),
        (compare(&v("b"), "LessThan", &v("b")), "order(event.leaf('b'), event.leaf('b')) < 0", "fails"),
        (compare(&v("neg"), "LessThanOrEqual", &v("n")), "order(event.leaf('neg'), event.leaf('n')) <= 0", "true"),
        (compare(&v("s"), "GreaterThan", &v("s2")), "order(event.leaf('s'), event.leaf('s2')) > 0", "true"),
        (compare(&v("n"), "Equal", &v("n")), "event.leaf('n') == event.leaf('n')", "true"),
        (compare(&v("big"), "LessThan", &number("0.00002")), "event.leaf('big') < 2e-5", "true"),
        (compare(&v("neg"), "LessThan", &number("-2.4")), "event.leaf('neg') < -2.4", "true"),
        (compare(&v("huge"), "Equal", &number("9007199254740993")), "event.huge == 9007199254740993", "true"),
        (compare(&v("q"), "Equal", &literal("a\"b")), "event.q == 'a\"b'", "true"),
        (compare(&v("w"), "Equal", &literal("a\\d")), r"event.w == r'a\d'", "true"),
        (compare(&literal("it's \\ \n\t\u{1}"), "Equal", &v("n")), r"'it\'s \\ \n\t\u0001' == event.n", "false"),
        (compare(&v("a.b"), "Equal", &literal("dotted")), "event.leaf('a.b') == 'dotted'", "true"),
        (compare(&v("m.x"), "Equal", &number("7")), "event.leaf('m.x') == 7", "true"),
        (compare(&v("l.1"), "Equal", &number("2")), "event.leaf('l.1') == 2", "true"),
        (compare(&v("it's"), "Equal", &number("1")), r"event['it\'s'] == 1", "true"),
        (compare(&v("a b"), "Equal", &number("2")), "event['a b'] == 2", "true"),
        (compare(&v("x]y"), "Equal", &number("3")), "event['x]y'] == 3", "true"),
        (compare(&v("ü"), "Equal", &literal("é")), "event['ü'] == 'é'", "true"),
        (compare(&v("s2"), "RegexMatch", &literal(r"^\d$")), "event.leaf('s2').matches('^[0-9]$')", "true"),
        (compare(&v("s"), "RegexNotMatch", &literal("zz")), "!event.leaf('s').matches('zz')", "true"),
        (compare(&v("gone"), "RegexNoMatch", &literal("zz")), "!event.leaf('gone').matches('zz')", "false"),
        (compare(&v("n"), "RegexMatch", &literal("5")), "event.leaf('n').matches('5')", "fails"),
        (compare(&number("5"), "RegexMatch", &literal("5")), "(5.0).matches('5')", "fails"),
        (compare(&literal("a"), "Equal", &literal("a")), "'a' == 'a'", "true"),
        (two("comparator", &v("n"), "19", &number("4")), "event.leaf('n') > 4", "true"),
    ] {
        assert_eq!(condition(&nested(&expression)), (text.to_owned(), holds.to_owned()), "{expression}");
    }
}

#[test]
fn arithmetic_is_that_of_doubles() {
    let v = variable;
    let equal = |left: String, right: &str| compare(&left, "Equal", &number(right));
    let inner = compute(&v("n"), "Multiply", &compute(&v("n"), "Subtract", &number("1")));
    for (expression, text, holds) in [
        (equal(compute(&v("n"), "Divide", &number("2")), "2.5"), "event.leaf('n') / 2.0 == 2.5", "true"),
        (
            compare(&compute(&v("n"), "Divide", &v("z")), "GreaterThan", &number("1")),
            "event.leaf('n') * 1.0 / event.leaf('z') > 1",
            "true",
        ),
        (equal(compute(&v("z"), "Modulus", &v("z")), "0"), "event.leaf('z') * 1.0 % event.leaf('z') == 0", "false"),
        (equal(compute(&v("neg"), "Modulus", &number("2")), "-0.5"), "event.leaf('neg') % 2.0 == -0.5", "true"),
        (
            compare(&compute(&v("huge"), "Multiply", &v("huge")), "GreaterThan", &number("1e31")),
            "event.leaf('huge') * 1.0 * event.leaf('huge') > 1e31",
            "true",
        ),
        (equal(compute(&v("n"), "Subtract", &number("-2")), "7"), "event.leaf('n') - -2.0 == 7", "true"),
        (equal(compute(&v("s2"), "Subtract", &number("1")), "4"), "event.leaf('s2') - 1.0 == 4", "fails"),
        (equal(compute(&v("n"), "Power", &number("2")), "25"), "pow(event.leaf('n'), 2) == 25", "true"),
        (equal(compute(&v("n"), "Addition", &number("2")), "7"), "plus(event.leaf('n'), 2) == 7", "true"),
        (
            compare(&compute(&v("s"), "Addition", &number("2")), "Equal", &literal("hello2")),
            "plus(event.leaf('s'), 2) == 'hello2'",
            "true",
        ),
        (equal(compute(&v("n"), "Addition", &v("b")), "6"), "plus(event.leaf('n'), event.leaf('b')) == 6", "fails"),
        (equal(compute(&number("1"), "Addition", &number("2")), "3"), "1.0 + 2.0 == 3", "true"),
        (equal(compute(&v("n"), "And", &number("4")), "4"), "bitAnd(event.leaf('n'), 4) == 4", "true"),
        (equal(compute(&v("n"), "Or", &number("8")), "13"), "bitOr(event.leaf('n'), 8) == 13", "true"),
        (equal(compute(&v("n"), "Xor", &number("1")), "4"), "bitXor(event.leaf('n'), 1) == 4", "true"),
        (
            equal(compute(&v("n"), "LeftShift", &number("1")), "10"),
            "unsigned(bitShiftLeft(event.leaf('n'), 1)) == 10",
            "true",
        ),
        (equal(compute(&v("n"), "RightShift", &number("1")), "2"), "bitShiftRight(event.leaf('n'), 1) == 2", "true"),
        (equal(inner, "20"), "event.leaf('n') * (event.leaf('n') - 1.0) == 20", "true"),
        (
            equal(
                compute(&compute(&v("n"), "And", &number("7")), "Divide", &compute(&v("n"), "Xor", &number("7"))),
                "2.5",
            ),
            "bitAnd(event.leaf('n'), 7) * 1.0 / bitXor(event.leaf('n'), 7) == 2.5",
            "true",
        ),
        (equal(nested(&unary("Negation", &v("n"))), "-5"), "-event.leaf('n') == -5", "true"),
        (equal(nested(&unary("Negation", &number("-5"))), "5"), "-(-5.0) == 5", "true"),
        (
            equal(nested(&unary("Negation", &compute(&v("n"), "Subtract", &number("1")))), "-4"),
            "-(event.leaf('n') - 1.0) == -4",
            "true",
        ),
        (equal(nested(&unary("LogicalNot", &v("n"))), "-6"), "bitNot(event.leaf('n')) == -6", "true"),
        (equal(compute(&v("gone"), "Addition", &number("2")), "7"), "plus(event.leaf('gone'), 2) == 7", "false"),
    ] {
        assert_eq!(condition(&nested(&expression)), (text.to_owned(), holds.to_owned()), "{expression}");
    }
}

#[test]
fn logic_works_at_any_depth() {
    let is = |name: &str, n: &str| nested(&compare(&variable(name), "Equal", &number(n)));
    let both = |op: &str, a: &str, b: &str| two("logical", a, &format!("\"{op}\""), b);
    let or = nested(&both("LogicalOr", &is("n", "1"), &is("z", "0")));
    let mut chain = is("n", "5");
    for _ in 0..40 {
        chain = nested(&both("And", &chain, &is("z", "0")));
    }
    let long = vec!["event.z == 0"; 40].join(" && ");
    for (json, text, holds) in [
        (nested(&both("LogicalAnd", &is("n", "5"), &or)), "event.n == 5 && (event.n == 1 || event.z == 0)", "true"),
        (nested(&both("Or", &is("n", "1"), &is("gone", "1"))), "event.n == 1 || event.gone == 1", "false"),
        (nested(&both("Or", &is("gone", "1"), &is("n", "5"))), "event.gone == 1 || event.n == 5", "true"),
        (nested(&two("logical", &or, "17", &is("n", "5"))), "(event.n == 1 || event.z == 0) && event.n == 5", "true"),
        (nested(&unary("Inversion", &or)), "!(event.leaf('n') == 1 || event.leaf('z') == 0)", "false"),
        (nested(&unary("Inversion", &is("m", "1"))), "!(event.leaf('m') == 1)", "false"),
        (nested(&unary("Inversion", &variable("b"))), "!event.leaf('b')", "false"),
        (nested(&unary("Inversion", &number("5"))), "!5.0", "fails"),
        (nested(&unary("Inversion", &variable("gone"))), "!event.leaf('gone')", "false"),
        (nested(r#"{"boolean":{"value":true}}"#), "true", "true"),
        (nested(r#"{"boolean":{}}"#), "false", "false"),
        (
            nested(&compare(&nested(r#"{"boolean":{"value":true}}"#), "Equal", &variable("b"))),
            "true == event.leaf('b')",
            "true",
        ),
        (nested(&compare(&is("n", "5"), "Equal", &is("z", "0"))), "(event.n == 5) == (event.z == 0)", "true"),
        (chain, &format!("event.n == 5 && {long}"), "true"),
        ("{}".into(), "", "true"),
        ("null".into(), "", "true"),
    ] {
        assert_eq!(condition(&json), (text.to_owned(), holds.to_owned()), "{json}");
    }
}

#[test]
fn what_exists_is_there() {
    let ops = |ops: &str| format!(r#"{{"exists":{{"ops":[{ops}]}}}}"#);
    for (json, text, holds) in [
        (r#"{"key":"n","op":"Exists"},{"key":"q2","op":"NotExists"}"#, "has(event.n) && !has(event.q2)", "true"),
        (r#"{"key":"m"}"#, "has(event.m)", "true"),
        (
            r#"{"key":"e","op":1},{"key":"el","op":"Exists"},{"key":"nul","op":"Exists"}"#,
            "has(event.e) && has(event.el) && has(event.nul)",
            "true",
        ),
        (
            r#"{"key":"m.x","op":"Exists"},{"key":"l.0","op":"Exists"}"#,
            "has(event.find('m.x')) && has(event.find('l.0'))",
            "true",
        ),
        (r#"{"key":"a.b","op":"NotExists"}"#, "!has(event.find('a.b'))", "false"),
        (r#"{"key":"l.2","op":"NotExists"}"#, "!has(event.find('l.2'))", "true"),
        (r#"{"key":"internal:completion:x","op":"Exists"}"#, "has(event['internal:completion:x'])", "false"),
    ] {
        assert_eq!(condition(&ops(json)), (text.to_owned(), holds.to_owned()), "{json}");
    }
}

#[test]
fn a_wrong_condition_is_told_with_its_place() {
    let v = variable;
    let deep = (0..80).fold(v("n"), |inner, _| compute(&inner, "Power", &number("2")));
    let long = compare(&v(&"x".repeat(5000)), "Equal", &number("1"));
    for (json, place, what) in [
        (r#"{"exists":{"ops":[]}}"#.to_owned(), ".exists", "`ops` is empty: there is nothing to look for"),
        (r#"{"exists":{}}"#.to_owned(), ".exists", "`ops` is empty: there is nothing to look for"),
        (r#"{"exists":{"ops":[{"key":""}]}}"#.into(), ".exists.ops[0].key", "expected text, found an empty one"),
        (r#"{"exists":{"ops":[{"op":"Exists"}]}}"#.into(), ".exists.ops[0]", "missing field `key`"),
        (
            r#"{"exists":{"ops":[{"key":"a","op":"Is"}]}}"#.into(),
            ".exists.ops[0].op",
            "unknown value `Is`, expected `Exists` or `NotExists`",
        ),
        (
            r#"{"exists":{"ops":[]},"expression":{}}"#.into(),
            ".exists",
            "`expression` is given too, and only one can be: take out `expression` or `exists`",
        ),
        ("[]".into(), "", "expected an object, found a list"),
        (nested("{}"), ".expression", "expected `boolean`, `comparator`, `logical`, `binary` or `unary`"),
        (
            nested(&two("binary", &v("n"), "6", &number("1"))),
            ".expression",
            "it gives a number, and a condition is true or false",
        ),
        (nested(&unary("Negation", &v("n"))), ".expression", "it gives a number, and a condition is true or false"),
        (
            nested(&compare(&v("n"), "UnknownComparator", &number("1"))),
            ".expression.comparator.op",
            "expected an operator: `GreaterThan`, `LessThan`, `GreaterThanOrEqual`, `LessThanOrEqual`, `Equal`, `NotEqual`, `RegexMatch` or `RegexNotMatch`",
        ),
        (
            nested(&format!(r#"{{"comparator":{{"lhs":{},"rhs":{}}}}}"#, v("n"), v("n"))),
            ".expression.comparator.op",
            "expected an operator: `GreaterThan`, `LessThan`, `GreaterThanOrEqual`, `LessThanOrEqual`, `Equal`, `NotEqual`, `RegexMatch` or `RegexNotMatch`",
        ),
        (
            nested(r#"{"comparator":{"op":"Equal","rhs":{"numeric":1}}}"#),
            ".expression.comparator",
            "missing field `lhs`",
        ),
        (
            nested(&compare(&v(""), "Equal", &number("1"))),
            ".expression.comparator.lhs.variable.name",
            "expected text, found an empty one",
        ),
        (
            nested(&compare(&v("n"), "Equal", r#"{"literal":"a","numeric":1}"#)),
            ".expression.comparator.rhs.numeric",
            "`literal` is given too, and only one can be: take out `literal` or `numeric`",
        ),
        (
            nested(&compare(&v("n"), "Equal", &number("\"NaN\""))),
            ".expression.comparator.rhs.numeric",
            "`NaN` is not a number that JSON can hold",
        ),
        (
            nested(&compare(&v("n"), "Equal", &number("\"five\""))),
            ".expression.comparator.rhs.numeric",
            "expected a number, found text",
        ),
        (
            nested(&compare(&v("s"), "RegexMatch", &literal("("))),
            ".expression.comparator.rhs.literal",
            "`(` is not a regular expression: unclosed group",
        ),
        (
            nested(&compare(&v("s"), "RegexMatch", &v("s"))),
            ".expression.comparator.rhs",
            "a pattern must be a `literal`: one that comes from the event is not compiled here",
        ),
        (
            nested(&two("logical", &v("b"), "17", &nested(r#"{"boolean":{}}"#))),
            ".expression.logical.lhs",
            "`LogicalAnd` takes an `expression` on both sides",
        ),
        (
            nested(&compare(&compute(&literal("a"), "Addition", &v("n")), "Equal", &number("1"))),
            ".expression.comparator.lhs.expression.binary.lhs",
            "expected `variable`, `numeric` or `expression`, found `literal`",
        ),
        (
            nested(&compare(&compute(&nested(r#"{"boolean":{}}"#), "Power", &v("n")), "Equal", &number("1"))),
            ".expression.comparator.lhs.expression.binary.lhs",
            "expected a number, found what is true or false",
        ),
        (
            nested(&compare(&deep, "Equal", &number("1"))),
            "",
            "it cannot be written as an expression here: column 257: the expression has more than 64 levels",
        ),
        (
            nested(&long),
            "",
            "it cannot be written as an expression here: column 4097: the expression is longer than 4 KiB",
        ),
    ] {
        let (got, told) = condition(&json);
        assert_eq!((got.as_str(), told.as_str()), (place, what), "{json}");
    }
}

#[test]
fn processes_become_ours() {
    let put = r#"{"name":"x"}"#;
    for (uses, definition, externals, want) in [
        (
            put,
            r#"{"annotator":{"name":"x","annotations":[{"fieldKey":"a.b","value":"1"},{"fieldKey":"t","value":"derived:currentTime"},
                {"fieldKey":"c","value":"${2}","condition":{"exists":{"ops":[{"key":"a.b"}]}}},{"fieldKey":"c","value":""}]}}"#,
            "",
            r#"{
"type": "annotate",
"name": "x",
"set": { "a\\.b": "1", "t": { "expr": "rfc3339(meta.intake)" } },
"exists": "fail"
},
{
"type": "annotate",
"name": "x-2",
"when": "has(event.find('a.b'))",
"set": { "c": "$${2}" },
"exists": "fail"
},
{ "type": "annotate", "name": "x-3", "set": { "c": "" }, "exists": "fail" }"#,
        ),
        (put, r#"{"annotator":{"name":"x"}}"#, "", "// `x` has no annotations: there is nothing to do"),
        (
            put,
            r#"{"aggregator":{"name":"x","stateStore":"K","aggregation":{"key":"m.v","aggregationType":"Avg","groupByKeys":["g","a.b"]},"asyncCheckpoint":true}},
               {"annotator":{"name":"y","annotations":[{"fieldKey":"a.b","value":""}]}}"#,
            STORE,
            r#"{ "type": "aggregate", "name": "x", "field": "m.v", "op": "avg", "by": ["g", "a\\.b"], "forward": false }"#,
        ),
        (
            put,
            r#"{"completer":{"name":"x","stateStore":"K","completion":{"joinKeys":["a","b.c","a"],"timeoutMs":"1500"}}}"#,
            STORE,
            r#"{ "type": "complete", "name": "x", "join": ["a", "b.c"], "timeout": "1500ms" }"#,
        ),
        (
            put,
            r#"{"completer":{"name":"x","stateStore":"K","completion":{"joinKeys":["a","b"],"timeoutMs":-1},"condition":{"exists":{"ops":[{"key":"c"}]}}}}"#,
            STORE,
            r#"// mended in `x`: its condition is honoured, it was ignored
{ "type": "complete", "name": "x", "when": "has(event.c)", "join": ["a", "b"] }"#,
        ),
        (
            put,
            r#"{"completer":{"name":"x","stateStore":"K","completion":{"joinKeys":["a"],"timeoutMs":10}}}"#,
            STORE,
            r#"// `x` joins on one key alone: every event that has it is complete at once
{
"type": "annotate",
"name": "x",
"when": "event.leaf('a') != null",
"set": {
"internal:completion:x": "complete",
"internal:completion:state:x": {
"expr": "{'value': event.leaf('a'), 'resolved': {'a': true}, 'deadline': (meta.intake + 10) * 1000000}"
}
}
}"#,
        ),
        (
            put,
            r#"{"completer":{"name":"x","stateStore":"K","completion":{}}}"#,
            STORE,
            "// `x` has no `joinKeys`: every event passes it unchanged",
        ),
        (
            put,
            r#"{"filter":{"name":"x","regex":"^\\d"}}"#,
            "",
            r#"{ "type": "filter", "name": "x", "drop_matching": "^[0-9]", "lists": false }"#,
        ),
        (
            r#"{"name":"my x","retryStrategy":{"numRetries":3,"initialBackOffMs":"100"}},{"name":"my x"}"#,
            r#"{"spawner":{"name":"my x","delayInMs":"5","job":{"runnable":{"pathToExec":"bin/x","cmdArgs":["-c","${a}"]}}}}"#,
            "",
            r#"// `bin/x` is looked for from the directory that Tidegate runs in
// `bin/x` has the gateway's `PATH` alone in its environment: what else it reads there goes into `env`
{
"type": "spawn",
"name": "my-x",
"label": "my x",
"program": "bin/x",
"args": ["-c", "$${a}"],
"wait": false,
"on_fail": "continue",
"delay": "5ms",
"timeout": "1h",
"retry": { "count": 3, "initial": "100ms", "factor": 2 }
},
// `bin/x` is looked for from the directory that Tidegate runs in
// `bin/x` has the gateway's `PATH` alone in its environment: what else it reads there goes into `env`
{
"type": "spawn",
"name": "my-x-2",
"label": "my x",
"program": "bin/x",
"args": ["-c", "$${a}"],
"wait": false,
"on_fail": "continue",
"delay": "5ms",
"timeout": "1h"
}"#,
        ),
        (put, r#"{"continuation":{"name":"x"}}"#, "", r#"{ "type": "continue", "name": "x" }"#),
        (
            put,
            r#"{"continuation":{"name":"x","condition":{"exists":{"ops":[{"key":"c"}]}}}}"#,
            "",
            r#"{ "type": "continue", "name": "x", "when": "has(event.c)", "on_fail": "drop" }"#,
        ),
        (
            put,
            r#"{"transformer":{"name":"x","specs":[
                {"sourceField":"a","targetField":"b.c","transformation":{}},
                {"sourceField":"a","targetField":"b","transformation":{"transformationType":"MapAdd","mapAddArgs":{"value":"1.5"}}},
                {"sourceField":"a","targetField":"b","transformation":{"transformationType":5,"mapAddArgs":{}}},
                {"transformation":{"transformationType":"Copy","condition":{"exists":{"ops":[{"key":"c"}]}}}},
                {"sourceField":"a","transformation":{}},{"targetField":"b","transformation":{}}]}}"#,
            "",
            r#"// `b`: mended: an empty list stays an empty list, it does not become null
// `b`: without its arguments the transformation is a copy
// the condition of a spec over the whole event was never looked at; it is left out
// left out: the spec for `a` has no `targetField`, and no field has an empty name here
// left out: the spec for `b` has no `sourceField`, so it never did anything
{
"type": "transform",
"name": "x",
"specs": [
{ "from": "a", "to": "b.c" },
{ "from": "a", "to": "b", "op": { "add": 1.5 } },
{ "from": "a", "to": "b" },
{ "op": "copy" }
],
"others": "drop"
}"#,
        ),
        (
            put,
            r#"{"transformer":{"name":"x","forwardInputFields":true,"specs":[
                {"sourceField":"a","targetField":"b","transformation":{"transformationType":"TransformLeftFold","leftFoldArgs":{"path":"/f"}}}]}}"#,
            "",
            r#"// `b`: mended: it folds, with the accumulator in `internal:acc`; it ran as a map
{
"type": "transform",
"name": "x",
"specs": [{ "from": "a", "to": "b", "op": { "fold_left": { "run": ["/f"], "timeout": "1h" } } }],
"others": "keep"
}"#,
        ),
        (
            put,
            r#"{"tee":{"name":"x","outputConnectorRef":"T","transformerRef":"r","additionalBody":{"a":[1,null]},
                "condition":{"expression":{"comparator":{"lhs":{"variable":{"name":"m.x"}},"rhs":{"literal":"1"},"op":"Equal"}}}}},
               {"transformer":{"name":"r","specs":[]}}"#,
            r#"{"externalType":"PubSub","name":"T","connectionString":"my topic"}"#,
            r#"// mended in `x`: variables inside of objects and lists failed here
// mended in `x`: it publishes to a topic of the gateway; it never loaded
{
"type": "tee",
"name": "x",
"when": "event.leaf('m.x') == '1'",
"to": { "topic": "my-topic" },
"transform": [],
"others": "drop",
"merge": { "a": [1, null] }
}"#,
        ),
        (
            put,
            r#"{"tee":{"name":"x","outputConnectorRef":"H"}}"#,
            r#"{"externalType":4,"name":"H","connectionString":"http://h/x"}"#,
            r#"{ "type": "tee", "name": "x", "to": { "http": { "url": "http://h/x" } }, "keep_answer": true }"#,
        ),
        (
            put,
            r#"{"tee":{"name":"x","outputConnectorRef":"D"}}"#,
            r#"{"externalType":"ExternalKVStore","name":"D","connectionString":"dynamo:endpoint=http://d,region=r,tableName=t,prefixLength=4"}"#,
            "// `x` tees to the DynamoDB table `t`, and there is nothing for that here: it is left out; a `redis` or\n// `sqlite` system can take its place: `\"to\": { \"kv\": NAME }`",
        ),
    ] {
        assert_eq!(processes(uses, definition, externals), want, "{definition}");
    }
}

#[test]
fn what_is_wrong_is_told_at_once_with_its_place() {
    let at = |pipeline: &str, definitions: &str, externals: &str| {
        import(&config(pipeline, definitions, externals)).map(|_| ()).unwrap_err()
    };
    let filter = r#"{"filter":{"name":"f","regex":"x"}}"#;
    for (pipeline, definitions, externals, want) in [
        (
            r#"{"name":"p","processes":[{"name":"q"}]}"#,
            filter,
            "",
            &["pipelines[0].processes[0].name: there is no process `q`, did you mean `f`? (f:2:47)"][..],
        ),
        (
            r#"{"name":"p","process":[]}"#,
            filter,
            "",
            &["pipelines[0]: unknown field `process`, did you mean `processes`? (f:2:26)"],
        ),
        (r#"{"name":"p"},{"name":"p"}"#, "", "", &["pipelines[1].name: another pipeline is called `p` (f:2:35)"]),
        (
            "",
            r#"{"filter":{"name":"f","regex":"("}},{"tee":{"name":"f","outputConnectorRef":"K"}}"#,
            STORE,
            &[
                "processDefinitions[0].filter.regex: `(` is not a regular expression: unclosed group (f:3:53)",
                "processDefinitions[1].tee.name: another process is called `f` (f:3:74)",
            ],
        ),
        (
            r#"{"name":"p","processes":[{"name":"f"}]}"#,
            r#"{"filtre":{"name":"f"}}"#,
            "",
            &["processDefinitions[0]: unknown field `filtre`, did you mean `filter`? (f:3:24)"],
        ),
        (
            "",
            r#"{"tee":{"name":"t","outputConnectorRef":"U"}},{"tee":{"name":"u","outputConnectorRef":"F"}}"#,
            r#"{"name":"U","externalType":4,"connectionString":"http://u:p@h/"},{"name":"F","externalType":4,"connectionString":"ftp://h/"}"#,
            &[
                "processDefinitions[0].tee.outputConnectorRef: the `connectionString` of `U`: expected no user and password in the URL: take them out, and send them in `headers` of the tee (f:3:63)",
                "processDefinitions[1].tee.outputConnectorRef: the `connectionString` of `F`: expected a URL that starts with `https://` or `http://` (f:3:109)",
            ],
        ),
        (
            "",
            r#"{"filter":{"name":"f"},"annotator":{"name":"a"}}"#,
            "",
            &[
                "processDefinitions[0].filter: `annotator` is given too, and only one can be: take out `annotator` or `filter` (f:3:33)",
            ],
        ),
        (
            "",
            r#"{}, {"filters":{}}, null, {"spawner":{"name":"s"}}, {"spawner":{"name":"t","job":{}}}"#,
            "",
            &[
                "processDefinitions[0]: expected `annotator`, `aggregator`, `completer`, `filter`, `spawner`, `tee`, `transformer`, `continuation` or `entwine` (f:3:23)",
                "processDefinitions[1]: unknown field `filters`, did you mean `filter`? (f:3:28)",
                "processDefinitions[2]: expected an object, found null (f:3:43)",
                "processDefinitions[3].spawner: missing field `job` (f:3:60)",
                "processDefinitions[4].spawner.job: missing field `runnable` (f:3:104)",
            ],
        ),
        (
            "",
            r#"{"aggregator":{"name":"a","stateStore":"J","aggregation":{"aggregation_type":1,"groupByKeys":["a..b",1]}}}"#,
            STORE,
            &[
                "processDefinitions[0].aggregator.stateStore: there is no key-value store `J`, did you mean `K`? (f:3:62)",
                "processDefinitions[0].aggregator.aggregation.aggregationType: expected an aggregation: `AggSum`, `AggMax`, `AggMin`, `AggAvg`, `AggCount` or `AggDiscreteHistogram` (f:3:80)",
                "processDefinitions[0].aggregator.aggregation: missing field `key` (f:3:80)",
                "processDefinitions[0].aggregator.aggregation: unknown field `aggregation_type`, did you mean `aggregationType`? (f:3:81)",
                "processDefinitions[0].aggregator.aggregation.groupByKeys[0]: path `a..b` has an empty part (f:3:117)",
                "processDefinitions[0].aggregator.aggregation.groupByKeys[1]: expected text, found a number (f:3:124)",
            ],
        ),
        (
            "",
            r#"{"tee":{"name":"t","outputConnectorRef":"X","transformerRef":"f"}},{"tee":{"name":"u","outputConnectorRef":"K","transformerRef":"r"}},{"filter":{"name":"f"}}"#,
            STORE,
            &[
                "processDefinitions[0].tee.outputConnectorRef: there is no external system `X`, did you mean `K`? (f:3:63)",
                "processDefinitions[0].tee.transformerRef: `f` is not a transformer (f:3:84)",
                "processDefinitions[1].tee.transformerRef: there is no transformer `r`, none is defined (f:3:151)",
            ],
        ),
        (
            "",
            r#"{"transformer":{"name":"t","specs":[{"sourceField":"a"},{"transformation":{"mapArgs":{},"leftFoldArgs":{}}}],"forwardInputFields":"yes"}}"#,
            "",
            &[
                "processDefinitions[0].transformer.specs[0]: missing field `transformation` (f:3:59)",
                "processDefinitions[0].transformer.specs[1].transformation.leftFoldArgs: `mapArgs` is given too, and only one can be: take out `mapArgs` or `leftFoldArgs` (f:3:126)",
                "processDefinitions[0].transformer.forwardInputFields: expected true or false, found text (f:3:153)",
            ],
        ),
        // The flaws of configurations that Agglo ships.
        (
            "",
            r#"{"tee":{"name":"t","outputConnectorRef":"F","externalType":"ExternalLocalFile"}}"#,
            r#"{"externalType":"ExternalKVStore","name":"K","connectionString":"local"},{"externalType":"ExternalLocalFile","name":"F","connectionString":"/tmp/f"}"#,
            &[
                "processDefinitions[0].tee.externalType: a tee has no `externalType`: take it out; the type stands in `externalSystems`, with the connection string (f:3:82)",
                "externalSystems[0].connectionString: the connection string `local` lacks its type; write `mem:local` for one in memory, or `dynamo:endpoint=URL,region=R,tableName=T,prefixLength=N` (f:4:84)",
            ],
        ),
        (
            r#"{"name":"p","checkpoint":{"outputConnector":"/tmp/c","externalType":"ExternalLocalFile"}}"#,
            "",
            "",
            &[
                r#"pipelines[0].checkpoint: an old form of a checkpoint; write `{"outputConnectorRef": "checkpoints"}` and, in `externalSystems`, `{"externalType": "ExternalLocalFile", "name": "checkpoints", "connectionString": "/tmp/c"}` (f:2:39)"#,
            ],
        ),
        (
            r#"{"name":"p","checkpoint":{"outputConnectorRef":"C"},"enableTracing":1}"#,
            "",
            r#"{"externalType":"Http","name":"C","connectionString":"http://c"}"#,
            &[
                "pipelines[0].checkpoint.outputConnectorRef: there is no key-value store or directory `C`, none is defined (f:2:61)",
                "pipelines[0].enableTracing: expected true or false, found a number (f:2:82)",
            ],
        ),
        (
            "",
            "",
            r#"{"name":"a","connectionString":"mem:x"},{"externalType":7,"name":"b","connectionString":"x"},
{"externalType":"ObjectStore","name":"c","connectionString":"s3:endpoint=h"},{"externalType":"ExternalObjectStore","name":"c","connectionString":"gcs:bucketName=x"},
{"externalType":"SearchIndex","name":"d","connectionString":"elastic:index=i,authString=basic;me;canary"}"#,
            &[
                "externalSystems[0].externalType: expected the type of an external system: `ExternalKVStore`, `ExternalObjectStore`, `ExternalPubSub`, `ExternalHttp`, `ExternalLocalFile` or `ExternalSearchIndex` (f:4:20)",
                "externalSystems[1].externalType: unknown value `7`, expected `ExternalKVStore`, `ExternalObjectStore`, `ExternalPubSub`, `ExternalHttp`, `ExternalLocalFile` or `ExternalSearchIndex` (f:4:76)",
                "externalSystems[2].connectionString: the connection string `s3:endpoint=h`: `bucketName=…` is missing (f:5:61)",
                "externalSystems[3].name: another ExternalObjectStore is called `c` (f:5:123)",
                "externalSystems[3].connectionString: a connection string of the unknown type `gcs`; expected `mem:NAME` or `s3:endpoint=HOST:PORT,bucketName=B` (f:5:146)",
                "externalSystems[4].connectionString: the connection string `elastic:…`: `nodes=…` is missing (f:6:61)",
            ],
        ),
        (
            r#"{"name":"p","processes":[{"name":"f","retryStrategy":{"numRetries":1.5,"initialBackOffMs":"x"}}]}"#,
            filter,
            "",
            &[
                "pipelines[0].processes[0].retryStrategy.numRetries: expected a whole number from 0 to 2147483647, found `1.5` (f:2:81)",
                "pipelines[0].processes[0].retryStrategy.initialBackOffMs: expected a whole number, found text (f:2:104)",
            ],
        ),
    ] {
        assert_eq!(at(pipeline, definitions, externals), want, "{definitions}");
    }
    for (text, want) in [
        ("", "the file is empty, expected an object (f:1:1)"),
        ("[]", "expected an object, found a list (f:1:1)"),
        ("{", "an object without its closing `}` (f:1:1)"),
        ("{}", "missing field `partitionUuid` (f:1:1)"),
        (r#"{"partitionUuid":"c5024ca8"}"#, "partitionUuid: `c5024ca8` is not a UUID (f:1:18)"),
    ] {
        assert_eq!(import(text).unwrap_err(), [want], "{text}");
    }
}

#[test]
fn a_uuid_is_written_as_go_does() {
    let want = Some("c5024ca8-d601-499f-bb24-daae74357b5e".to_owned());
    for text in [
        "C5024CA8-d601-499f-bb24-daae74357b5e",
        "{c5024ca8-d601-499f-bb24-daae74357b5e}",
        "urn:uuid:c5024ca8-d601-499f-bb24-daae74357b5e",
        "c5024ca8d601499fbb24daae74357b5e",
    ] {
        assert_eq!(uuid(text), want, "{text}");
    }
    for text in [
        "",
        "c5024ca8-d601-499f-bb24daae74357b5e-",
        "c5024ca8-d601-499f-bb24-daae74357b5é",
        "{c5024ca8d601499fbb24daae74357b5e}",
    ] {
        assert_eq!(uuid(text), None, "{text}");
    }
}

#[test]
fn checkpoints_stand_between_what_reaches_outside() {
    let pipeline = r#"{"name":"The pipeline","checkpoint":{"outputConnectorRef":"K"},"enableMetrics":true,"processes":
        [{"name":"t"},{"name":"f"},{"name":"a"},{"name":"t","retryStrategy":{"numRetries":12,"initialBackOffMs":1000}},{"name":"f"}]}"#;
    let definitions = r#"{"filter":{"name":"f"}},{"tee":{"name":"t","outputConnectorRef":"O"}},{"filter":{"name":"g"}},
        {"aggregator":{"name":"a","stateStore":"K","forwardState":true,"aggregation":{"key":"v","aggregationType":5}}}"#;
    let objects = |name| {
        format!(
            r#"{{"externalType":"ExternalObjectStore","name":"{name}","connectionString":"s3:endpoint=h:1,bucketName=b-c"}}"#
        )
    };
    let (text, warnings) = import(&config(pipeline, definitions, &format!("{STORE},{}", objects("O")))).unwrap();
    assert!(warnings.is_empty());
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let types: Vec<&str> = lines.iter().filter_map(|l| l.strip_prefix("{ \"type\": \"")?.split('"').next()).collect();
    assert_eq!(types, ["annotate", "tee", "checkpoint", "filter", "aggregate", "filter"]);
    for line in [
        r#""The-pipeline": {"#,
        "// it was called `The pipeline`",
        r#"{ "type": "aggregate", "name": "a", "label": "The pipeline", "field": "v", "op": "count" },"#,
        r#"{ "type": "checkpoint", "name": "after-t" },"#,
        r#""retry": { "count": 12, "initial": "1s", "factor": 2, "max": "2048s" }"#,
        r#""endpoint": "http://h:1","#,
        r#""access_key": "${S3ObjectStoreAccessKeyID_b_c:-unset}","#,
        "// left out, since no pipeline has it: `g`",
        "// Counters and latency of every process are always on; there are no traces.",
    ] {
        assert!(lines.contains(&line), "{line}\n{text}");
    }
}

#[test]
fn an_entwine_is_left_out_with_a_warning() {
    let objects = r#"{"externalType":"ExternalObjectStore","name":"O","connectionString":"mem:o"}"#;
    let definition = r#"{"entwine":{"name":"e","streamStateStore":"K","objectStore":"O","tickerInterval":1}}"#;
    let (text, warnings) =
        import(&config(r#"{"name":"p","processes":[{"name":"e"}]}"#, definition, &format!("{STORE},{objects}")))
            .unwrap();
    let told = "`e` is an entwine, and there is no process for that here: it is left out";
    assert_eq!(warnings, [format!("pipelines[0].processes[0].name: {told} (f:2:47)")]);
    assert!(text.contains(&format!("// {told}")), "{text}");
}

#[test]
fn no_configuration_makes_it_panic() {
    let whole = include_str!("../../tests/reference/agglo/processes.json");
    let cases: serde_json::Value = serde_json::from_str(whole).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let pieces =
        ["", "null", "{}", "[]", "\"\"", "1e400", "-1", "\"${\"", "\"a.\\\\\"", "true", r#""\u0000""#, ",", "}"];
    let (mut done, mut wrong) = (0, 0);
    for case in cases["cases"].as_array().unwrap() {
        let text = case["config"].to_string();
        for _ in 0..60 {
            let marks: Vec<usize> = text.match_indices([':', ',']).map(|(at, _)| at + 1).collect();
            let from = marks[random.usize(..marks.len())];
            let to = marks.iter().copied().find(|m| *m > from).unwrap_or(text.len()) - 1;
            let broken = format!("{}{}{}", &text[..from], pieces[random.usize(..pieces.len())], &text[to.max(from)..]);
            match import(&broken) {
                Ok(_) => done += 1,
                Err(told) => wrong += usize::from(!told.is_empty()),
            }
        }
    }
    assert!(done > 20 && wrong > 500, "{done} {wrong}");
}
