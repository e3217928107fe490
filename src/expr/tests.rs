use super::*;
use bytes::Bytes;

mod oracle;

struct Fixture(Body);

impl Scope for Fixture {
    fn event(&self) -> &Body {
        &self.0
    }
    fn meta(&self, name: &str) -> Option<Value<'_>> {
        match name {
            "topic" => Some(Value::Str("barn/climate".into())),
            "priority" => Some(Value::Int(3)),
            "headers" => Some(Value::from_json(crate::event::json::Json::trusted(br#"{"x-id":["a","b"]}"#))),
            _ => None,
        }
    }
}

const EVENT: &str = r#"{"temp":21.5,"count":7,"name":"barn","on":true,"none":null,"s":"caf\u00e9 9","tags":["a","b",3],
    "pos":{"lat":52.1,"lon":4},"big":9223372036854775807,"huge":1e999,"empty":[],"deep":{"a":[{"b":1},{"b":2}]},"a b":5,"dup":{"x":1,"x":2}}"#;

fn fixture(text: &str) -> Fixture {
    Fixture(Body::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap())
}

fn eval(text: &str) -> String {
    let scope = fixture(EVENT);
    let expr = Expr::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    match expr.eval(&scope) {
        Ok(value) => String::from_utf8(value.to_json()).unwrap(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn values_are_computed() {
    for (text, want) in [
        ("1 + 2 * 3 - 4 / 2", "5"),
        ("(1 + 2) * 3", "9"),
        ("7 / 2", "3"),
        ("-7 / 2", "-3"),
        ("-7 % 3", "-1"),
        ("7 / 2.0", "3.5"),
        ("event.count + 0.5", "7.5"),
        ("5.5 % 2", "1.5"),
        ("0x1F + 1u", "32"),
        (".5 + 1e1", "10.5"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("- -5", "5"),
        ("!!true", "true"),
        (r#"'a' + "b" + r"\n" + '''c"d''' + "\x41\u00e9\101\n\?""#, r#""ab\\nc\"dAéA\n?""#),
        ("event.s", r#""café 9""#),
        ("event.tags", r#"["a","b",3]"#),
        ("event.tags[1]", r#""b""#),
        ("event.tags[event.count - 5]", "3"),
        ("event.deep.a[1].b", "2"),
        ("event.deep.a[event.count - 6].b", "2"),
        (r#"event["a b"]"#, "5"),
        ("event['po' + 's'].lon", "4"),
        ("event.none", "null"),
        ("meta.topic", r#""barn/climate""#),
        ("meta.headers['x-id'][1]", r#""b""#),
        ("{'k': event.count, 'l': [1, event.on]}", r#"{"k":7,"l":[1,true]}"#),
        ("{'k': {'l': 5}}.k['l']", "5"),
        ("[1, 2] + event.tags + []", r#"[1,2,"a","b",3]"#),
        ("event.on ? 'yes' : 'no'", r#""yes""#),
        ("false ? 1 : true ? 2 : 3", "2"),
        ("has(event.pos.lat) && !has(event.pos.x) && !has(event.x.y.z) && !has(event.name.x)", "true"),
        ("has(meta.topic) && !has(meta.x) && has(event.none) && has(event.tags[2]) && !has(event.tags[3])", "true"),
        ("size(event.s) + event.tags.size() + size(event.pos) + size({'a': 1}) + size([1])", "13"),
        ("event.name.contains('ar') && event.name.startsWith('ba') && event.name.endsWith('rn')", "true"),
        ("event.name.matches('^b.*n$') && matches(event.s, r'\\d') && !event.name.matches('x')", "true"),
        ("event.s.upperAscii() + 'ÄB'.lowerAscii()", r#""CAFé 9Äb""#),
        ("'  x '.trim() + '|' + '  '.trim()", r#""x|""#),
        ("'a-b-c'.replace('-', '+')", r#""a+b+c""#),
        ("'a-b--c'.split('-')", r#"["a","b","","c"]"#),
        ("event.s.split(' ')[0]", r#""café""#),
        ("event.s.substring(3) + event.s.substring(0, 2)", r#""é 9ca""#),
        ("['a', 'b'].join('/') + ['a', 'b'].join() + [].join('x')", r#""a/bab""#),
        ("int('-12') + int(3.9) + int(-3.9) + int(true)", "-11"),
        ("double('1.5') + double(2)", "3.5"),
        ("string(1.5) + string(-2) + string(true) + string('x')", r#""1.5-2truex""#),
        ("bool('true') && !bool('0') && bool(true)", "true"),
        (
            "[abs(-3), abs(-1.5), floor(1.7), ceil(1.2), round(2.5), round(-2.5), round(7), round(3.14159, 2)]",
            "[3,1.5,1.0,2.0,3.0,-3.0,7,3.14]",
        ),
        ("[min(3, 1.5, 2), max([1, 5, 2]), min('b', 'a'), max(event.count, event.temp)]", r#"[1.5,5,"a",21.5]"#),
        ("1 == 1.0 && 1 != 1.5 && event.big != 9223372036854775808.0 && event.big < 9223372036854775808.0", "true"),
        ("9007199254740993 > 9007199254740992.0 && -5 > -5.5 && -6 < -5.5", "true"),
        ("'a' == 1 || null == false || [1] == 1 || event.pos == event.tags", "false"),
        ("event.tags == ['a', 'b', 3.0] && event.pos == {'lon': 4.0, 'lat': 52.1} && event.none == null", "true"),
        ("'a' < 'b' && false < true && event.huge > 1e308 && -event.huge < -1e308", "true"),
        ("'a' in event.tags && 3 in event.tags && !('x' in event.tags) && event.name in ['barn', 'shed']", "true"),
        ("'lat' in event.pos && 'temp' in event && !('x' in event) && 'k' in {'k': 1}", "true"),
        ("event.dup == {'x': 2} && event.dup.x == 2 && size(event.dup) == 1", "true"),
        ("1 + 1 // a remark\n + 1", "3"),
    ] {
        assert_eq!(eval(text), want, "{text}");
    }
}

#[test]
fn what_has_no_value_says_so_and_where() {
    for (text, want) in [
        ("1 + event.x", "column 5: `event.x` is absent"),
        ("event.pos.alt", "column 1: `event.pos.alt` is absent"),
        ("event.name.x.y", "column 1: `event.name.x.y` is absent"),
        ("meta.x", "column 1: `meta.x` is absent"),
        ("event.tags[event.count]", "column 11: `event.tags[…]` is absent"),
        ("event.tags[-1]", "column 11: `event.tags[-1]` is absent"),
        ("event.name + 1", "column 12: `+` cannot take string and int"),
        ("'é' + event.on", "column 5: `+` cannot take string and bool"),
        ("event.none > 5", "column 12: `>` cannot take null and int"),
        ("event.tags < [1]", "column 12: `<` cannot take list and list"),
        ("1 in 5", "column 3: `in` cannot take int and int"),
        ("[1] in [[1]]", "column 5: `in` cannot look for list"),
        ("!1", "column 2: expected a bool, not int"),
        ("-'a'", "column 1: `-` cannot take string"),
        ("1 ? 2 : 3", "column 1: expected a bool, not int"),
        ("true && 1", "column 9: expected a bool, not int"),
        ("1 / (event.count - 7)", "column 3: an int is divided by zero"),
        ("1 % 0", "column 3: an int is divided by zero"),
        ("event.big + 1", "column 11: the int overflows"),
        ("abs(-9223372036854775808)", "column 1: the int overflows"),
        ("1.0 / 0", "column 1: the result is not a finite number"),
        ("event.huge", "column 1: the result is not a finite number"),
        ("size(5)", "column 1: `size` cannot take int"),
        ("event.count.contains('x')", "column 1: expected a string, not int"),
        ("int('x')", "column 1: `int` cannot read the string"),
        ("int(1e300)", "column 1: `int`: the double is out of range"),
        ("double('inf')", "column 1: `double` cannot read the string"),
        ("string(null)", "column 1: `string` cannot take null"),
        ("'abc'.substring(4)", "column 7: `substring`: 4 is not within the string"),
        ("'abc'.substring(2, 1)", "column 7: `substring`: the start is behind the end"),
        ("['a', 1].join()", "column 10: `join` takes a list of strings, not of int"),
        ("max([])", "column 1: `max` of an empty list"),
        ("min(1, 'a')", "column 1: `min` cannot compare values of different types"),
        ("event.tags[true]", "column 11: bool is no index"),
    ] {
        assert_eq!(eval(text), want, "{text}");
    }
}

#[test]
fn what_is_no_expression_says_so_and_where() {
    let long = "1".repeat(4097);
    let nested = "(".repeat(65) + "1" + &")".repeat(65);
    let negated = "!".repeat(3000);
    let chain = vec!["1"; 70].join("+");
    let big = "event.name.matches('\\\\w{200}')";
    for (text, want) in [
        ("", "column 1: expected a value, found the end"),
        ("1 +", "column 4: expected a value, found the end"),
        ("1 2", "column 3: expected an operator or the end"),
        ("event.a = 1", "column 9: `=` is written `==`"),
        ("event.a and event.b", "column 9: `and` is written `&&`"),
        ("event.a & event.b", "column 9: `&` is written `&&`"),
        ("not event.a", "column 1: `not` is written `!`"),
        ("temp > 5", "column 1: `temp` is not known here; a field of the event is written `event.temp`"),
        ("evnt.temp > 5", "column 1: `evnt` is not known here; did you mean `event`?"),
        ("True", "column 1: `True` is not known here; did you mean `true`?"),
        ("event.name.startswith('a')", "column 12: there is no function `startswith`; did you mean `startsWith`?"),
        ("lenght(event)", "column 1: there is no function `lenght`"),
        ("event.tags.exists(t, t == 1)", "column 12: `exists` is a loop of CEL; there are no loops here"),
        ("contains('a', 'b')", "column 1: `contains` stands after a value: `event.text.contains(…)`"),
        ("event.a.int()", "column 9: `int` is written `int(…)`, not after a dot"),
        ("event.a.contains()", "column 9: arguments of `contains`: expected 1, found 0"),
        ("min()", "column 1: arguments of `min`: expected 1 to 16, found 0"),
        ("has(1)", "column 1: `has` takes one field: `has(event.a.b)`"),
        ("event.name.matches('(')", "column 20: bad pattern: unclosed group"),
        ("event.name.matches(event.x)", "column 12: the pattern of `matches` must be a text in quotes"),
        (big, "column 20: the pattern takes more than 256 KiB when compiled"),
        ("meta", "column 1: `meta` is not a value of its own; write `meta.` and a name"),
        ("event.", "column 7: expected the name of a field or function after `.`"),
        ("(1", "column 3: expected `)` to close the parenthesis"),
        ("[1, 2", "column 6: expected `]` or `,`"),
        ("{1: 2}", "column 2: expected a key in quotes"),
        ("{'a': 1, 'a': 2}", "column 10: the key `a` is there twice"),
        ("true ? 1", "column 9: expected `:` and what holds otherwise"),
        ("'abc", "column 1: the text is not closed, expected `'`"),
        ("'é\\q'", "column 3: expected an escape that CEL knows; a backslash is written `\\\\`"),
        ("b'x'", "column 1: bytes are not known here"),
        ("9223372036854775808", "column 1: the number is out of range"),
        ("1e999", "column 1: the number is out of range"),
        ("5x", "column 2: expected the end of the number"),
        ("1e+", "column 4: expected a digit of the exponent"),
        ("event.a # 1", "column 9: `#` is not known here"),
        (&long, "column 4097: the expression is longer than 4 KiB"),
        (&nested, "column 65: the expression has more than 64 levels"),
        (&negated, "column 65: the expression has more than 64 levels"),
        (&chain, "column 128: the expression has more than 64 levels"),
    ] {
        assert_eq!(Expr::parse(text).map(|e| e.to_string()).unwrap_err().to_string(), want, "{text}");
    }
    let chain = vec!["event.count == 7"; 200].join(" && ");
    assert_eq!(eval(&chain), "true", "a long chain of conditions is one level");
}

#[test]
fn a_condition_that_reads_an_absent_field_is_false() {
    for (text, want) in [
        ("event.temp > 20.0", Ok(true)),
        ("event.x > 20.0", Ok(false)),
        ("!(event.x > 20.0)", Ok(false)),
        ("event.x", Ok(false)),
        ("event.x > 1 || event.on", Ok(true)),
        ("event.on || event.x > 1", Ok(true)),
        ("event.x > 1 || event.y > 1", Ok(false)),
        ("event.x > 1 && event.on", Ok(false)),
        ("event.x > 1 ? true : true", Ok(false)),
        ("event.on ? true : event.x", Ok(true)),
        ("event.name > 1 || event.on", Ok(true)),
        ("event.name > 1 && event.temp < 0", Ok(false)),
        ("event.temp < 0 && event.name > 1", Ok(false)),
        ("event.x > 1 && event.name > 1", Ok(false)),
        ("event.name > 1 && event.x > 1", Ok(false)),
        ("event.x > 1 || event.name > 1", Err("column 27: `>` cannot take string and int")),
        ("event.name > 1 || event.x > 1", Err("column 12: `>` cannot take string and int")),
        ("event.name > 1 && event.on", Err("column 12: `>` cannot take string and int")),
        ("event.temp", Err("column 1: a condition must be a bool, not double")),
        ("event.none", Err("column 1: a condition must be a bool, not null")),
    ] {
        let got = Expr::parse(text).unwrap().test(&fixture(EVENT));
        assert_eq!(got.map_err(|e| e.to_string()), want.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn what_an_evaluation_builds_is_bounded() {
    let text = "x".repeat(40_000);
    let scope = fixture(&format!(r#"{{"t":"{text}","commas":"{}","l":[{}1]}}"#, ",".repeat(5000), "1,".repeat(5000)));
    for expr in [
        "event.t + event.t",
        "[event.t + 'a', event.t + 'b']",
        "event.t.replace('x', 'yy')",
        "event.t.replace('', 'yy')",
        "event.commas.split(',')",
        "event.commas.split('')",
        "event.l + event.l",
        "[event.t, event.t].join()",
        "event.t.upperAscii() + 'a'",
    ] {
        let error = Expr::parse(expr).unwrap().eval(&scope).map(|v| v.to_json().len()).unwrap_err().to_string();
        assert!(error.ends_with("the value becomes larger than 64 KiB"), "{expr}: {error}");
    }
    assert!(Expr::parse("event.t.contains('y') || size(event.l) == 5001").unwrap().test(&scope).unwrap());
}

#[test]
fn bits_powers_and_times_are_computed() {
    for (text, want) in [
        ("bitAnd(event.count, 4)", "4"),
        ("bitOr(event.count, 8.9)", "15"),
        ("bitXor(-1, 1)", "-2"),
        ("bitNot(0)", "-1"),
        ("bitShiftLeft(1, 3)", "8"),
        ("bitShiftRight(-1, 60)", "15"),
        ("bitShiftLeft(1, 64)", "0"),
        ("bitShiftRight(9223372036854775808.0, 62)", "2"),
        ("bitShiftRight(18446744073709551616.0, 1)", "column 1: `bitShiftRight`: the double is out of range"),
        ("unsigned(-1)", "1.8446744073709552e19"),
        ("unsigned(7)", "7"),
        ("unsigned(-2.5) > unsigned(2.5)", "true"),
        ("unsigned('1')", "column 1: `unsigned` cannot take string"),
        ("bitShiftLeft(1, -1)", "column 1: `bitShiftLeft`: the number of bits is negative"),
        ("bitAnd('1', 1)", "column 1: `bitAnd` cannot take string"),
        ("bitAnd(1e300, 1)", "column 1: `bitAnd`: the double is out of range"),
        ("pow(event.count, 2)", "49.0"),
        ("pow(2, 0.5) < 1.5", "true"),
        ("pow('2', 2)", "column 1: `pow` cannot take string"),
        ("rfc3339(1795255200250)", "\"2026-11-21T10:00:00.250Z\""),
        ("rfc3339(9223372036854775807)", "column 1: `rfc3339` takes milliseconds of the years -9999 to 9999"),
        ("order(event.count, 7.0)", "0"),
        ("order('b', 'a')", "1"),
        ("order(0.0 / 0, 1) < 0 || order(0.0 / 0, 1) >= 0", "false"),
        ("order(1, 'a')", "column 1: `order` cannot take int and string"),
        ("order(true, true)", "column 1: `order` cannot take bool and bool"),
    ] {
        assert_eq!(eval(text), want, "{text}");
    }
}

#[test]
fn plus_adds_numbers_and_joins_texts() {
    for (text, want) in [
        ("plus(1, 2)", "3.0"),
        ("plus(event.big, event.big)", "1.8446744073709552e19"),
        ("plus('a', 2)", "\"a2\""),
        ("plus(2.5, 'a')", "\"2.5a\""),
        ("plus('a', true)", "\"atrue\""),
        (
            "plus('', 1e21) + plus(' ', 1000000) + plus(' ', -0.00001) + plus(' ', 0.0001) + plus(' ', -999999)",
            "\"1e+21 1e+06 -1e-05 0.0001 -999999\"",
        ),
        ("plus('', 1.0 / 0) + plus('', -1.0 / 0)", "\"+Inf-Inf\""),
        ("plus(1, true)", "column 1: `plus` cannot take bool"),
        ("plus(true, 1)", "column 1: `plus` cannot take bool"),
        ("plus('a', null)", "column 1: `plus` cannot take null"),
        ("plus('a', event.x)", "column 11: `event.x` is absent"),
    ] {
        assert_eq!(eval(text), want, "{text}");
    }
}

#[test]
fn a_dot_may_belong_to_a_name() {
    let scope = fixture(r#"{"a.b":1,"a":{"c":{},"d.e":[{"f":null}]},"x":{"y.z":2,"y":{"z":[3]}},"":4,"l":[[5]]}"#);
    for (text, want) in [
        ("event.find('a.b')", "1"),
        ("event.leaf('a.b')", "1"),
        ("event.find('a.d.e.0.f')", "null"),
        ("event.leaf('a.d.e.0.f') == null", "true"),
        ("event.find('x.y.z')", "[3]"),
        ("event.leaf('x.y.z')", "2"),
        ("event.leaf('x.y.z.0')", "3"),
        ("event.leaf('l.0.0')", "5"),
        ("has(event.find('a.c')) && !has(event.leaf('a.c')) && !has(event.find('a.c.d'))", "true"),
        ("has(event.find('l.00')) || has(event.find('l.1')) || has(event.find('a.b.c'))", "false"),
        ("event.leaf('a')", "column 7: `event.a` is absent"),
        ("event.find('')", "column 12: path `` has an empty part"),
        ("event.a.find('b')", "column 9: `find` takes a place in quotes: `event.find(\"a.b\")`"),
        ("event.find(event.a)", "column 7: `find` takes a place in quotes: `event.find(\"a.b\")`"),
    ] {
        let got = match Expr::parse(text) {
            Ok(expr) => expr.eval(&scope).map_or_else(|e| e.to_string(), |v| String::from_utf8(v.to_json()).unwrap()),
            Err(e) => e.to_string(),
        };
        assert_eq!(got, want, "{text}");
    }
    assert!(Expr::parse(&format!("event.find('{}')", "a.".repeat(64))).is_err());
}

#[test]
fn an_edited_event_is_read_with_its_edits() {
    let mut scope = fixture(EVENT);
    scope.0.set(&"pos.alt".parse().unwrap(), b"3").unwrap();
    scope.0.remove(&"name".parse().unwrap());
    let test = |text: &str| Expr::parse(text).unwrap().test(&scope).unwrap();
    assert!(test("event.pos.alt == 3 && !has(event.name) && !('name' in event) && 'pos' in event"));
    assert!(test("event['p' + 'os'].alt == 3 && size(event) == 13"));
}

#[test]
fn an_expression_is_text_in_a_configuration() {
    #[derive(Debug, Deserialize, Serialize, JsonSchema)]
    struct Config {
        when: Expr,
    }
    let config: Config = serde_json::from_str(r#"{"when": "event.a\t> 1"}"#).unwrap();
    assert_eq!(serde_json::to_string(&config).unwrap(), r#"{"when":"event.a\t> 1"}"#);
    let error = serde_json::from_str::<Config>(r#"{"when": "event.a >"}"#).unwrap_err().to_string();
    assert!(error.starts_with("expression `event.a >`: column 10: expected a value, found the end"), "{error}");
    assert!(schemars::schema_for!(Config).to_value().to_string().contains("subset of CEL"));
}

#[test]
fn no_text_makes_parsing_or_evaluating_panic() {
    let words = r#"event meta . [ ] ( ) { } , : ? + - * / % ! == < && || in has( size( matches(' min( ' " \ \x4 \U0011ffff r' ''' é 0 1
        9223372036854775807 -9223372036854775808 1e308 .5 0x 1e u true null // tags a .name .substring( .split( .replace("#;
    let words: Vec<&str> = words.split_ascii_whitespace().chain([" ", "\n"]).collect();
    let (mut random, scope, mut values) = (fastrand::Rng::with_seed(5), fixture(EVENT), 0);
    for _ in 0..50_000 {
        let text: String = (0..random.usize(1..9)).map(|_| words[random.usize(..words.len())]).collect();
        if let Ok(expr) = Expr::parse(&text) {
            values += usize::from(expr.eval(&scope).map(|value| value.to_json()).is_ok());
            let _ = expr.test(&scope);
        }
    }
    assert!(values > 500, "only {values} had a value");
}
