//! The `cel` crate is the oracle: where it has a value, ours must be the same. Where it has none, ours may have one:
//! mixed numbers, `has` through absent parts, absent fields, `1u` as int are said to differ (see the module's page).
//!
//! Where `cel` has a value and ours deliberately differs:
//! - `!!x` and `--x` are `x` of any type there: its parser cancels them. Here `x` must be a bool or a number.
//! - Ints and doubles are compared after rounding the int there, exactly here (2^53 + 1 is not 2^53).
//! - `list + map` adds the keys there, and lists and maps may stand to the left of `in`. Here both are errors.
//! - Computed keys, keys that are no strings, computed patterns and macros are no expressions here.
//! - `1u` is a uint there and an int here; `min([])` is null there and an error here.
//! - Results that are not finite are values there.
//! - `math.abs` and its kin are bare names here; those of bits take doubles, too.

use super::*;
use fastrand::Rng;
use std::{collections::HashMap, sync::Arc};

fn theirs(json: &serde_json::Value) -> cel::Value {
    match json {
        serde_json::Value::Null => cel::Value::Null,
        serde_json::Value::Bool(b) => cel::Value::Bool(*b),
        serde_json::Value::Number(n) => {
            n.as_i64().map_or_else(|| cel::Value::Float(n.as_f64().unwrap()), cel::Value::Int)
        }
        serde_json::Value::String(s) => s.as_str().into(),
        serde_json::Value::Array(list) => list.iter().map(theirs).collect::<Vec<_>>().into(),
        serde_json::Value::Object(map) => {
            map.iter().map(|(name, v)| (name.clone(), theirs(v))).collect::<HashMap<String, cel::Value>>().into()
        }
    }
}

fn same(ours: &Value<'_>, theirs: &cel::Value) -> bool {
    match (ours, theirs) {
        (Value::Null, cel::Value::Null) => true,
        (Value::Bool(a), cel::Value::Bool(b)) => a == b,
        (Value::Int(a), cel::Value::Int(b)) => a == b,
        (Value::Double(a), cel::Value::Float(b)) => a == b || a.is_nan() && b.is_nan(),
        (Value::Str(a), cel::Value::String(b)) => **a == **b,
        (_, cel::Value::List(b)) => ours.items().is_some_and(|items| {
            let items: Vec<_> = items.collect();
            items.len() == b.len() && items.iter().zip(b.iter()).all(|(a, b)| same(a, b))
        }),
        (Value::Map(_) | Value::Raw(_), cel::Value::Map(b)) => {
            let a: serde_json::Value = serde_json::from_slice(&ours.to_json()).unwrap();
            let b: HashMap<_, _> = b.map.iter().map(|(key, v)| (key.to_string(), v)).collect();
            let a = a.as_object().unwrap();
            a.len() == b.len()
                && a.iter().all(|(name, value)| {
                    let raw = value.to_string();
                    let value = Value::from_json(crate::event::json::Json::trusted(raw.as_bytes()));
                    b.get(name).is_some_and(|b| same(&value, b))
                })
        }
        _ => false,
    }
}

/// Our errors where `cel` has a value; see above.
const DELIBERATE: &[&str] = &["`in` cannot look for", "`+` cannot take list and map", "`+` cannot take map and list"];

struct Oracle {
    env: Arc<cel::Env>,
    events: Vec<(Fixture, cel::Value)>,
    compared: usize,
    differences: Vec<String>,
}

impl Oracle {
    fn new() -> Oracle {
        let mut env = cel::Env::stdlib();
        env.add_extension(cel::extensions::strings).unwrap();
        env.add_extension(cel::extensions::math).unwrap();
        let events = EVENTS.iter().map(|text| (fixture(text), theirs(&serde_json::from_str(text).unwrap()))).collect();
        Oracle { env: Arc::new(env), events, compared: 0, differences: Vec::new() }
    }

    /// Compares the values of one expression for all events.
    fn check(&mut self, text: &str) {
        let mut standard = text.to_owned();
        let bits = ["bitAnd(", "bitOr(", "bitXor(", "bitNot(", "bitShiftLeft(", "bitShiftRight("];
        for name in ["abs(", "round(", "floor(", "ceil("].into_iter().chain(bits) {
            standard = standard.replace(name, &format!("math.{name}"));
        }
        let program = self.env.compile(&standard);
        let ours = Expr::parse(text);
        let Ok(program) = program else { return };
        let ours = ours.unwrap_or_else(|e| panic!("{text}: {e}"));
        for (scope, event) in &self.events {
            let mut context = cel::Context::with_env(self.env.clone());
            context.add_variable_from_value("event", event.clone());
            let Ok(want) = program.execute(&context) else { continue };
            if matches!(want, cel::Value::Float(d) if !d.is_finite()) {
                continue;
            }
            self.compared += 1;
            match ours.eval(scope) {
                Ok(got) if same(&got, &want) => {}
                Err(e) if DELIBERATE.iter().any(|known| e.to_string().contains(known)) => {}
                got => self.differences.push(format!("{text}: ours {got:?}, cel {want:?}")),
            }
        }
    }

    fn agreed(&self, least: usize) {
        let first: Vec<_> = self.differences.iter().take(20).map(String::as_str).collect();
        assert!(first.is_empty(), "{} differences:\n{}", self.differences.len(), first.join("\n"));
        assert!(self.compared > least, "only {} values were compared", self.compared);
    }
}

const EVENTS: &[&str] = &[
    r#"{"a":5,"b":2.5,"s":"abc","t":"b","on":true,"l":[1,2.5,"abc",null],"m":{"x":1,"y":{"z":"q"}},"n":null}"#,
    r#"{"a":-7,"b":0.0,"s":"Ünï x","t":"","on":false,"l":[],"m":{},"n":{"x":[true]}}"#,
    r#"{"a":4611686018427387904,"b":1e300,"s":"a,b,,c","t":",","l":["b","c"],"m":{"x":-3.5,"b":2},"on":true}"#,
    r#"{"a":"5","b":3,"s":"  5 ","t":"5","on":1,"l":"list","m":[{"x":1}]}"#,
];

#[test]
fn written_expressions_have_the_values_that_cel_gives() {
    let mut oracle = Oracle::new();
    for text in [
        "1 + 2 * 3 % 4 - -5",
        "7 / -2",
        "-7 % 3",
        "7.0 / 2.0",
        "1 == 1.0",
        "1 < 1.5",
        "2 > 1.5 == true",
        "'a' == 1",
        "null == null",
        "true || event.x",
        "event.x || true",
        "false && event.x",
        "event.x && false",
        "true || 1",
        "1 || true",
        "1 > 2 ? 3 : 4",
        "event.a == 5 && event.b == 2.5",
        "event.l[0] == 1",
        "event['s'] + event.t",
        "event.l + [1]",
        "[1, 2] == [1.0, 2.0]",
        "{'a': 1} == {'a': 1.0}",
        "has(event.a)",
        "has(event.q)",
        "has(event.m.x)",
        "'x' in event.m",
        "1 in event.l",
        "2.5 in event.l",
        "null in event.l",
        "size('é€😀')",
        "'é€😀'.size()",
        "size(event.l)",
        "size(event.m)",
        r#""\x41\u00e9\U0001F600\101\a\b\f\v\?\`""#,
        r#"r"\n" + R'\d'"#,
        r#""""a"b""" + '''c'd'''"#,
        "0x10 + 0xFf",
        "1e3 + .5",
        "1.5e-3 + 2E+2",
        "string(1.0)",
        "string(1e21)",
        "string(-0.5)",
        "string(1e-7)",
        "string(123456789.125)",
        "int('42')",
        "int(-1.9)",
        "int(9.9e17)",
        "double('1e3')",
        "bool('t')",
        "bool('False')",
        "double(event.a)",
        "'Hello'.lowerAscii() + 'wörld'.upperAscii()",
        "'  a b\\t\\n'.trim()",
        "'abcabc'.replace('b', '')",
        "'abc'.replace('', '-')",
        "'abc'.replace('x', 'y')",
        "'a,b'.split(',')",
        "'abc'.split('')",
        "''.split('')",
        "''.split(',')",
        "',a,'.split(',')",
        "'é€😀'.substring(1)",
        "'é€😀'.substring(1, 2)",
        "'abc'.substring(3)",
        "['a','b'].join()",
        "['a','b'].join(', ')",
        "[].join(',')",
        "'foobar'.matches('^fo+b')",
        "matches('foobar', 'o{3}')",
        "'ab' < 'abc'",
        "'é' < 'z'",
        "false < true",
        "min(1, 2)",
        "max([1, 3, 2])",
        "min(1.5, 0.5)",
        "max('a', 'b')",
        "abs(-3)",
        "abs(-2.5)",
        "round(2.5)",
        "round(-2.5)",
        "floor(-1.5)",
        "ceil(1.2)",
        "!(event.a == 5)",
        "!!(event.a == 5)",
        "- -5",
        "-event.a",
        "-(2.5)",
        "event.on ? event.a : event.b",
        "event.m.y.z",
        "event.m['y']['z']",
        "[[1, 2], [3]][0][1]",
        "{'a': {'b': [1, 2]}}.a.b[1]",
        "event.l[1.0]",
        "true ? false ? 1 : 2 : 3",
        "1 == 1 == true",
        "1 - 2 - 3",
        "100 / 10 / 5",
        "2 * 3 + 4 * 5 == 26 && !false || false",
        "event == event",
        "event.m == event.m",
        "event.a != event.b",
        "1 in [1.0]",
        "{'a': 1, 'b': [event.a]}",
        "[event.a, event.b, event.s]",
        "'a' + \"b\" // remark",
        "-9223372036854775808 < 0",
        "5 % -3",
        "(1 + 2) * 3",
        "[1,2,]",
        "bitAnd(12, 10)",
        "bitOr(12, 10)",
        "bitXor(-12, 10)",
        "bitNot(event.a)",
        "bitShiftLeft(-1, 2)",
        "bitShiftRight(-1024, 2)",
        "bitShiftRight(1, 64)",
        "{'a':1,}",
    ] {
        oracle.check(text);
    }
    oracle.agreed(250);
}

/// A random expression, mostly of the wanted type: n(umber), s(tring), b(ool), l(ist), i(nt by its bits), or any.
fn generate(random: &mut Rng, kind: char, depth: u32) -> String {
    let leaves: &[&str] = match kind {
        'n' => &["0", "1", "-3", "7", "2.5", "-0.5", "1e3", "event.a", "event.b", "event.m.x", "event.l[0]", "event.x"],
        'i' => &["0", "1", "-3", "4611686018427387904", "event.a", "event.m.x", "size(event.l)", "event.x"],
        's' => {
            &["''", "'b'", "\"abc\"", "'5'", "'é,b'", "event.s", "event.t", "event.m.y.z", "event.l[2]", "event.x.y"]
        }
        'b' => &["true", "false", "event.on", "has(event.m.x)", "has(event.n)", "event.y"],
        'l' => &["[]", "[1, 2.5]", "['a', 'b']", "event.l", "[event.a, event.s]", "event.m.l"],
        _ => &["null", "event.n", "event.m", "event", "{'x': 1}", "event.a", "event.s"],
    };
    if depth == 0 || random.u8(..6) == 0 {
        return leaves[random.usize(..leaves.len())].to_owned();
    }
    let forms: &[&str] = match kind {
        'n' => &[
            "n + n",
            "n - n",
            "n * n",
            "n / n",
            "n % n",
            "-n",
            "(n)",
            "b ? n : n",
            "size(s)",
            "l.size()",
            "int(n)",
            "double(n)",
            "int(s)",
            "min(n, n)",
            "max(n, n, n)",
            "abs(n)",
            "round(n)",
            "floor(n)",
            "l[n]",
            "double(s)",
        ],
        's' => &[
            "s + s",
            "s.lowerAscii()",
            "s.upperAscii()",
            "s.trim()",
            "s.replace(s, s)",
            "s.substring(n)",
            "s.substring(n, n)",
            "string(n)",
            "l.join(s)",
            "s.split(s)[n]",
            "b ? s : s",
            "string(b)",
            "max(s, s)",
        ],
        'b' => &[
            "b && b",
            "b || b",
            "!b",
            "b ? b : b",
            "n == n",
            "n < n",
            "n >= n",
            "n != n",
            "s == s",
            "s < s",
            "s.contains(s)",
            "s.startsWith(s)",
            "s.endsWith(s)",
            "n in l",
            "s in l",
            "s in x",
            "x == x",
            "x != x",
            "l == l",
            "s.matches('^[a-c]+,?')",
            "n <= n && s > s",
            "b || n > n && b",
            "bool(s)",
        ],
        'i' => &[
            "bitAnd(i, i)",
            "bitOr(i, n)",
            "bitXor(n, i)",
            "bitNot(i)",
            "bitShiftLeft(i, n)",
            "bitShiftRight(i, size(l))",
            "i + i",
        ],
        'l' => &["l + l", "[n, s]", "s.split(s)", "[b, l]", "b ? l : l", "[n]"],
        _ => &["n", "s", "b", "l", "{'k': n, 'l': l}", "b ? x : x"],
    };
    // One in twelve is of another type than the place asks for.
    let form = forms[random.usize(..forms.len())];
    let mut out = String::new();
    let chars: Vec<char> = form.chars().collect();
    for (i, &c) in chars.iter().enumerate() {
        let lone = |other: Option<&char>| other.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '\'' | '^'));
        let before = i.checked_sub(1).and_then(|i| chars.get(i));
        if "nsblxi".contains(c) && lone(before) && lone(chars.get(i + 1)) && before != Some(&'.') {
            let kind = if random.u8(..12) == 0 { ['n', 's', 'b', 'l', 'x'][random.usize(..5)] } else { c };
            let inner = generate(random, kind, depth - 1);
            let bare = inner.chars().all(|c| c.is_alphanumeric() || "._'\"[]".contains(c));
            out.push_str(&if bare { inner } else { format!("({inner})") });
        } else {
            out.push(c);
        }
    }
    out
}

#[test]
fn generated_expressions_have_the_values_that_cel_gives() {
    let (mut oracle, mut random) = (Oracle::new(), Rng::with_seed(42));
    for _ in 0..6000 {
        let kind = ['n', 's', 'b', 'b', 'l', 'x'][random.usize(..6)];
        let text = generate(&mut random, kind, 3);
        oracle.check(&text);
    }
    oracle.agreed(3000);
}

#[test]
fn generated_bits_are_those_that_cel_gives() {
    let (mut oracle, mut random) = (Oracle::new(), Rng::with_seed(42));
    for _ in 0..2000 {
        let text = generate(&mut random, 'i', 3);
        oracle.check(&text);
    }
    oracle.agreed(1000);
}
