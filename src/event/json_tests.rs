use super::*;
use serde_json::Value;

/// `serde_json`'s opinion; `None` where it refuses a number for its size, which is its own rule.
fn oracle(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(_) => Some(true),
        Err(e) if e.to_string().contains("number out of range") => None,
        Err(_) => Some(false),
    }
}

fn agree(bytes: &[u8]) {
    let ours = check(bytes);
    if let Some(valid) = oracle(bytes) {
        assert_eq!(ours.is_ok(), valid, "{ours:?} for {:?}", String::from_utf8_lossy(bytes));
    }
    if let Err(e) = ours {
        assert!(e.at <= bytes.len(), "{e} for {:?}", String::from_utf8_lossy(bytes));
    }
}

const DOCUMENTS: &[&str] = &[
    r#"{"id":"barn-7/17","temp":21.5,"hum":60,"on":true,"tags":["a","b",null],"pos":{"lat":-1.5e-3,"lon":0}}"#,
    r#" [ 0 , -0.0 , 1E+9 , "\u00e9\ud83d\ude00\n\\\"\/" , {} , [ ] , [[[]]] , {"" : {"":false}} ] "#,
    r#""ünïcödé ✓ 😀 a longer string with more than sixteen bytes \t""#,
    "-12.5e-7",
    "null",
];

const HOSTILE: &[&str] = &[
    "",
    " ",
    "{",
    "}",
    "[",
    "]",
    "{}",
    "[]",
    "{]",
    "[}",
    "{}{}",
    "{},",
    ",",
    ":",
    "nul",
    "nulll",
    "null null",
    "tru",
    "True",
    "NaN",
    "Infinity",
    "-",
    "-a",
    "+1",
    "01",
    "00",
    "0",
    "-0",
    "-01",
    "1.",
    ".5",
    "1.e1",
    "1e",
    "1e+",
    "1e5",
    "1E-5",
    "1.5e+5x",
    "0x10",
    "1_000",
    "1 2",
    "\"",
    "\"\\",
    "\"\\u",
    "\"\\u12",
    "\"\\u12g4\"",
    "\"\\u+123\"",
    "\"\\x41\"",
    "\"\\'\"",
    "'a'",
    "\"\\ud800\"",
    "\"\\ud800\\n\"",
    "\"\\ud800\\u0041\"",
    "\"\\udc00\"",
    "\"\\ud800\\udc00\"",
    "\"\\uD83D\\uDE00\"",
    "\"\\ud800\\ud800\"",
    "\"\\ud800",
    "\"\\ud800\\",
    "\"\\ud800\\u",
    "\"\\ud800\\udc0",
    "\"\u{7f}\"",
    "\"\u{2028}\"",
    "\"a\nb\"",
    "\"a\tb\"",
    "\"a\u{0}b\"",
    "\"1234567\u{1f}\"",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{,}",
    "{a:1}",
    "{1:1}",
    "{\"a\":1 \"b\":2}",
    "{\"a\":1,,\"b\":2}",
    "[1,]",
    "[,1]",
    "[1 2]",
    "[1,,2]",
    "{\"a\":1]",
    "[1}",
    "[[1]",
    "// c\n1",
    "/**/1",
    "1//",
    "\u{feff}{}",
    "{}\u{0}",
    "{}\u{a0}",
    "\u{c}{}",
    "{\"a\":1}}",
    "[[[[[[[[]]]]]]]]",
    "1e999",
    "123456789012345678901234567890",
];

#[test]
fn hostile_bytes_are_judged_as_serde_json_judges_them() {
    for text in HOSTILE {
        agree(text.as_bytes());
    }
    for bytes in
        [&b"\"\xff\""[..], b"\"\xc3\"", b"\"\xc0\x80\"", b"\"\xed\xa0\x80\"", b"\xff", b"{\"\xe2\x82\":1}", b"[1]\xff"]
    {
        agree(bytes);
    }
    DOCUMENTS.iter().for_each(|text| agree(text.as_bytes()));
}

#[test]
fn mutated_documents_are_judged_as_serde_json_judges_them() {
    let mut random = fastrand::Rng::with_seed(7);
    let alphabet = b"{}[]\",:\\/ \n\t\x00\x1f\x7f\x80\xc3\xedtrufalsn0123456789+-.eEdDcC8\xff";
    let mut valid = 0;
    for _ in 0..40_000 {
        let mut bytes = DOCUMENTS[random.usize(..DOCUMENTS.len())].as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = alphabet[random.usize(..alphabet.len())],
                1 => bytes.insert(at, alphabet[random.usize(..alphabet.len())]),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        agree(&bytes);
        valid += usize::from(check(&bytes).is_ok());
        walk_everything(Json::trusted(&bytes), 100);
        documents(&bytes).for_each(drop);
    }
    assert!(valid > 1000, "only {valid} mutated documents were valid");
}

/// Whatever the bytes are, walking them ends without a panic.
fn walk_everything(value: Json<'_>, depth: u32) {
    if depth > 0 {
        let _ = (value.as_bool(), value.as_f64(), value.as_i64(), value.as_str());
        for member in value.members() {
            let _ = member.name();
            walk_everything(member.value, depth - 1);
        }
        value.elements().for_each(|element| walk_everything(element, depth - 1));
    }
}

#[test]
fn an_error_says_where_and_what() {
    for (text, want) in [
        (r#"{"a":1 "b":2}"#, "expected `,` or `}` at byte 7"),
        ("[1", "expected `,` or `]` at byte 2"),
        ("", "expected a value at byte 0"),
        ("{'a':1}", "expected a key in double quotes at byte 1"),
        (r#"{"a" 1}"#, "expected `:` at byte 5"),
        ("1 1", "expected the end of the document at byte 2"),
        ("\"abc", "expected `\"` at the end of the string at byte 4"),
        ("\"a\u{1}\"", "expected no control character in a string at byte 2"),
        (r#""\x""#, "expected an escape that JSON knows at byte 1"),
        ("[nil]", "expected `null` at byte 1"),
        ("-", "expected a digit at byte 1"),
    ] {
        assert_eq!(check(text.as_bytes()).unwrap_err().to_string(), want, "{text}");
    }
    assert_eq!(check(b" \"a\xff\"").unwrap_err().to_string(), "expected UTF-8 at byte 3");
}

#[test]
fn nesting_ends_at_64() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        assert!(check(nested(64).as_bytes()).is_ok());
        let error = check(nested(65).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), format!("expected at most 64 levels of nesting at byte {}", 64 * open.len()));
        assert!(check(open.repeat(100_000).as_bytes()).is_err());
    }
}

#[test]
fn a_stream_is_split_into_documents() {
    for (text, want) in [
        ("", Ok(vec![])),
        (" \n\r\n ", Ok(vec![])),
        ("{}", Ok(vec!["{}"])),
        ("{\"a\":1}\n{\"a\":2}\n", Ok(vec!["{\"a\":1}", "{\"a\":2}"])),
        ("{}{}[1]\"x\"", Ok(vec!["{}", "{}", "[1]", "\"x\""])),
        ("1 2\ntrue{}", Ok(vec!["1", "2", "true", "{}"])),
        ("1true", Err("expected white space after the document at byte 1")),
        ("{}\n{\"a\":}\n{}", Err("expected a value at byte 8")),
        ("{},{}", Err("expected a value at byte 2")),
    ] {
        let got: Result<Vec<_>, _> = documents(text.as_bytes()).collect();
        let got = got.map(|all| all.into_iter().map(|d| std::str::from_utf8(d).unwrap()).collect::<Vec<_>>());
        assert_eq!(got.map_err(|e| e.to_string()), want.map_err(str::to_owned), "{text}");
    }
    assert_eq!(documents(b"{} x {}").count(), 2, "one document, one error, then nothing");
}

#[test]
fn what_was_checked_is_read_as_serde_json_reads_it() {
    fn same(ours: Json<'_>, theirs: &Value) {
        match theirs {
            Value::Null => assert!(ours.is_null()),
            Value::Bool(b) => assert_eq!(ours.as_bool(), Some(*b)),
            Value::Number(n) => assert_eq!((ours.kind(), ours.as_f64()), (Kind::Number, n.as_f64())),
            Value::String(s) => {
                assert_eq!(ours.as_str().as_deref(), Some(&**s));
                let mut written = Vec::new();
                write_string(s, &mut written);
                assert_eq!(serde_json::from_slice::<String>(&written).unwrap(), *s);
            }
            Value::Array(list) => {
                assert_eq!(ours.elements().count(), list.len());
                ours.elements().zip(list).for_each(|(ours, theirs)| same(ours, theirs));
            }
            Value::Object(map) => {
                assert_eq!(ours.members().count(), map.len());
                for (member, (name, value)) in ours.members().zip(map) {
                    assert_eq!(member.name(), name.as_str());
                    same(member.value, value);
                }
            }
        }
    }
    for text in DOCUMENTS {
        same(Json::trusted(text.as_bytes()), &serde_json::from_str(text).unwrap());
    }
    let controls: String = (0..0x80).map(char::from).collect();
    let text = serde_json::to_string(&controls).unwrap();
    same(Json::trusted(text.as_bytes()), &Value::String(controls));
}

#[test]
fn a_number_is_an_integer_if_it_is_written_as_one() {
    for (text, int, double) in [
        ("21", Some(21), Some(21.0)),
        ("21.0", None, Some(21.0)),
        ("2e3", None, Some(2000.0)),
        ("-0", Some(0), Some(0.0)),
        ("9223372036854775807", Some(i64::MAX), Some(i64::MAX as f64)),
        ("9223372036854775808", None, Some(i64::MAX as f64)),
        ("1e999", None, None),
        ("\"1\"", None, None),
        ("true", None, None),
    ] {
        let json = Json::trusted(text.as_bytes());
        assert_eq!((json.as_i64(), json.as_f64()), (int, double), "{text}");
    }
}
