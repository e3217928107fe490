use super::*;
use serde_json::{Value, json};

fn body(text: &str) -> Body {
    Body::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn text(body: &Body) -> String {
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[test]
fn only_an_object_is_a_body() {
    for (raw, want) in [
        ("[1]", "expected an object at byte 0"),
        ("{", "expected a key in double quotes at byte 1"),
        ("{} {}", "expected the end of the document at byte 3"),
    ] {
        assert_eq!(Body::parse(Bytes::from_static(raw.as_bytes())).unwrap_err().to_string(), want);
    }
}

#[test]
fn an_unedited_body_is_the_bytes_that_came() {
    let raw = Bytes::from_static(b" { \"a\" : [ 1 , 2 ] } ");
    let body = Body::parse(raw.clone()).unwrap();
    assert!(body.get(&path("a.1")).is_some());
    assert_eq!(body.to_bytes().as_ptr(), raw.as_ptr());
    let mut out = Vec::new();
    body.write(&mut out);
    assert_eq!(out, raw);
    assert_eq!(text(&Body::default()), "{}");
}

#[test]
fn values_are_found() {
    let body = body(
        r#"{"a":{"b":[10,{"c":"x"}]},"a.b":1,"dup":1,"dup":2,"n\u0061me":3,"0":{"0":true},"o":{"d":1,"d":{"e":5}}}"#,
    );
    for (at, want) in [
        ("a.b.0", Some("10")),
        ("a.b.1.c", Some("\"x\"")),
        ("a.b", Some(r#"[10,{"c":"x"}]"#)),
        (r"a\.b", Some("1")),
        ("dup", Some("2")),
        ("o.d.e", Some("5")),
        ("name", Some("3")),
        ("0.0", Some("true")),
        ("a.b.2", None),
        ("a.b.00", None),
        ("a.b.x", None),
        ("dup.x", None),
        ("missing", None),
    ] {
        let got = body.get(&path(at)).map(|json| String::from_utf8_lossy(json.raw()).into_owned());
        assert_eq!(got.as_deref(), want, "{at}");
    }
    let names: Vec<_> = body.fields().map(|(name, _)| name.into_owned()).collect();
    assert_eq!(names, ["a", "a.b", "dup", "dup", "name", "0", "o"]);
}

#[test]
fn edits_are_spliced_in() {
    for (before, at, value, want) in [
        (r#"{"a":1}"#, "a", "2", Ok(r#"{"a":2}"#)),
        (r#"{"a":1}"#, "b", "2", Ok(r#"{"a":1,"b":2}"#)),
        ("{}", "b.c.d", "[]", Ok(r#"{"b":{"c":{"d":[]}}}"#)),
        (r#"{"a":{"x":1},"z":0}"#, "a.y.z", "2", Ok(r#"{"a":{"x":1,"y":{"z":2}},"z":0}"#)),
        (r#"{"a":[1,{"b":2}]}"#, "a.1.b", "3", Ok(r#"{"a":[1,{"b":3}]}"#)),
        (r#"{"a":[1]}"#, "a.1", "3", Ok(r#"{"a":[1,3]}"#)),
        (r#"{"a":[]}"#, "a.0.b", "3", Ok(r#"{"a":[{"b":3}]}"#)),
        (r#"{"a":1,"b":2,"a":3}"#, "a", "4", Ok(r#"{"b":2,"a":4}"#)),
        (r#"{"o":{"a":1,"b":2,"a":3}}"#, "o.a", "4", Ok(r#"{"o":{"b":2,"a":4}}"#)),
        ("{}", "a \"b\"\n", "1", Ok(r#"{"a \"b\"\n":1}"#)),
        (r#"{"a \"b\"\n":0}"#, "a \"b\"\n", "1", Ok(r#"{"a \"b\"\n":1}"#)),
        (r#"{"a":[1]}"#, "a.2", "3", Err("`a` is a list of 1, `2` is no index in it")),
        (r#"{"a":[1]}"#, "a.x", "3", Err("`a` is a list of 1, `x` is no index in it")),
        (r#"{"a":5}"#, "a.b", "3", Err("`a` is a number, not an object")),
        (r#"{"a":{"b":"x"}}"#, "a.b.c", "3", Err("`a.b` is a string, not an object")),
        (r#"{"a":null}"#, "a.b", "3", Err("`a` is null, not an object")),
    ] {
        let mut body = body(before);
        let result = body.set(&path(at), value.as_bytes()).map_err(|e| e.to_string());
        assert_eq!(result.is_err(), want.is_err(), "{before} {at}: {result:?}");
        match want {
            Ok(want) => assert_eq!(text(&body), want, "{before} {at}"),
            Err(want) => {
                assert_eq!(result.unwrap_err(), want);
                assert_eq!(text(&body), before);
            }
        }
    }
}

#[test]
fn fields_are_removed_and_renamed() {
    for (before, at, want) in [
        (r#"{"a":1,"b":2,"a":3}"#, "a", r#"{"b":2}"#),
        (r#"{"a":{"b":1,"c":2,"b":3}}"#, "a.b", r#"{"a":{"c":2}}"#),
        (r#"{"a":[1,2,3]}"#, "a.1", r#"{"a":[1,3]}"#),
        (r#"{"a":[1,{"b":1}]}"#, "a.1.b", r#"{"a":[1,{}]}"#),
        (r#"{"a":1}"#, "b", r#"{"a":1}"#),
        (r#"{"a":1}"#, "a.b", r#"{"a":1}"#),
    ] {
        let mut body = body(before);
        assert_eq!(body.remove(&path(at)), before != want);
        assert_eq!(text(&body), want, "{before} {at}");
    }
    for (before, from, to, want) in [
        (r#"{"a":1,"b":2}"#, "a", "c", Ok((true, r#"{"c":1,"b":2}"#))),
        (r#"{"a":1,"b":2,"c":3}"#, "a", "c", Ok((true, r#"{"c":1,"b":2}"#))),
        (r#"{"c":0,"a":1,"a":2,"b":2}"#, "a", "c", Ok((true, r#"{"c":2,"b":2}"#))),
        (r#"{"a":1}"#, "a", "a", Ok((true, r#"{"a":1}"#))),
        (r#"{"a":1}"#, "b", "a", Ok((false, r#"{"a":1}"#))),
        (r#"{"a":{"b":1}}"#, "a.b", "c.d", Ok((true, r#"{"a":{},"c":{"d":1}}"#))),
        (r#"{"a":{"b":1}}"#, "a", "a.c", Ok((true, r#"{"a":{"c":{"b":1}}}"#))),
        (r#"{"a":{"b":1},"c":5}"#, "a.b", "c.d", Err(r#"{"a":{"b":1},"c":5}"#)),
    ] {
        let mut body = body(before);
        let got = body.rename(&path(from), &path(to));
        assert_eq!(got.is_err(), want.is_err());
        let want = want.map(|(moved, want)| (assert_eq!(got.unwrap(), moved), want).1).unwrap_or_else(|kept| kept);
        assert_eq!(text(&body), want, "{before} {from} {to}");
    }
}

#[test]
fn members_are_sifted_by_name() {
    let before = r#"{"id":1,"secret":2,"in":{"secret":3,"temp":4,"deep":[{"temp":5,"secret":6},7,{"x":8}]},"e":{}}"#;
    let mut dropped = body(before);
    dropped.drop_named(|name| name == "secret");
    assert_eq!(text(&dropped), r#"{"id":1,"in":{"temp":4,"deep":[{"temp":5},7,{"x":8}]},"e":{}}"#);
    let mut kept = body(before);
    kept.keep_named(|name| name == "temp");
    assert_eq!(text(&kept), r#"{"in":{"temp":4,"deep":[{"temp":5}]}}"#);
    let mut retained = body(before);
    retained.retain(|name, value| name != "id" && value.kind() == Kind::Number);
    assert_eq!(text(&retained), r#"{"secret":2}"#);
    let mut same = body(before);
    same.drop_named(|_| false);
    assert!(same.as_json().is_some(), "nothing went, so nothing was edited");
}

#[test]
fn bytes_that_are_no_object_have_no_fields_and_never_panic() {
    let mut random = fastrand::Rng::with_seed(3);
    let valid = br#"{"a":{"b":[1,2,{"c":"\u00e9x"}]},"t":-1.5e3,"s":"x\"y","n":null}"#;
    for _ in 0..5_000 {
        let mut bytes = valid.to_vec();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
            bytes.truncate(random.usize(1..200).max(at));
        }
        let mut body = Body::trusted(bytes.into());
        let _ = body.get(&path("a.b.2.c")).map(Json::as_str);
        body.fields().for_each(drop);
        body.drop_named(|name| name == "c");
        body.keep_named(|name| name != "t");
        let _ = (body.set(&path("a.b.2.c"), b"1"), body.remove(&path("s")), body.rename(&path("n"), &path("a.m")));
        let _ = body.to_bytes();
    }
    assert_eq!(Body::trusted(Bytes::from_static(b"[1,2")).fields().count(), 0);
}

#[test]
fn many_edits_do_not_pile_up() {
    let mut body = body(r#"{"a":1}"#);
    for i in 0..20_000 {
        body.set(&path("counter"), format!("\"{i:020}\"").as_bytes()).unwrap();
        assert!(body.size() < 2 * WASTE);
    }
    assert_eq!(text(&body), r#"{"a":1,"counter":"00000000000000019999"}"#);
}

/// The same operations on a `serde_json` tree; `None` where the path is blocked.
fn model_set(tree: &mut Value, parts: &[&str], value: Value) -> Option<()> {
    let Some((first, rest)) = parts.split_first() else {
        *tree = value;
        return Some(());
    };
    let inner = match tree {
        Value::Object(map) => map.entry(*first).or_insert_with(|| json!({})),
        Value::Array(list) => {
            let index: usize = first.parse().ok()?;
            if index == list.len() {
                list.push(json!({}));
            }
            list.get_mut(index)?
        }
        _ => return None,
    };
    model_set(inner, rest, value)
}

fn model_remove(tree: &mut Value, parts: &[&str]) -> bool {
    let (last, before) = parts.split_last().unwrap();
    let parent = before.iter().try_fold(tree, |tree, part| match tree {
        Value::Object(map) => map.get_mut(*part),
        Value::Array(list) => list.get_mut(part.parse::<usize>().ok()?),
        _ => None,
    });
    match parent {
        Some(Value::Object(map)) => map.shift_remove(*last).is_some(),
        Some(Value::Array(list)) => match last.parse::<usize>() {
            Ok(i) if i < list.len() => {
                list.remove(i);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

#[test]
fn random_edits_do_what_they_do_to_a_tree() {
    let mut random = fastrand::Rng::with_seed(11);
    let parts = ["a", "b", "c", "0", "1", "k\"x"];
    for _ in 0..300 {
        let mut tree = json!({"a": {"b": [1, {"c": 2}], "c": "x"}, "b": [], "k\"x": {"0": 1.5}});
        let mut body = body(&tree.to_string());
        for _ in 0..40 {
            let chosen: Vec<_> = (0..random.usize(1..5)).map(|_| parts[random.usize(..parts.len())]).collect();
            let at = Path::of(chosen.iter().copied()).unwrap();
            let pointer: String = chosen.iter().map(|part| format!("/{part}")).collect();
            assert_eq!(
                body.get(&at).map(|json| serde_json::from_slice::<Value>(json.raw()).unwrap()).as_ref(),
                tree.pointer(&pointer),
                "{at} in {tree}"
            );
            if random.u8(..3) == 0 {
                assert_eq!(body.remove(&at), model_remove(&mut tree, &chosen), "remove {at}");
            } else {
                let value =
                    [json!(1), json!({"b": {}}), json!([0, "x"]), json!("a\u{e9}\n")][random.usize(..4)].clone();
                let mut changed = tree.clone();
                let done = model_set(&mut changed, &chosen, value.clone()).is_some();
                assert_eq!(body.set(&at, value.to_string().as_bytes()).is_ok(), done, "set {at} in {tree}");
                if done {
                    tree = changed;
                }
            }
            assert_eq!(serde_json::from_slice::<Value>(&body.to_bytes()).unwrap(), tree);
        }
    }
}
