use super::super::tests::{Rig, check};
use super::*;

const SUM: &str = r#""start": 0, "expr": "meta.acc + event.n""#;

fn rig(rest: &str) -> Rig {
    Rig::new(&KIND, &format!("{{ {SUM}{rest} }}")).unwrap()
}

/// Feeds these numbers as the events `e-N`; gives what came out.
fn feed(rig: &mut Rig, numbers: impl IntoIterator<Item = u32>) -> String {
    numbers.into_iter().map(|n| rig.feed_as(&format!("e-{n}"), &format!(r#"{{"n":{n},"g":{}}}"#, n % 2))).collect()
}

#[test]
fn a_value_is_told_after_so_many_events_and_at_the_end() {
    for (rest, count, want, end) in [
        (r#", "each": 10"#, 25, r#"{"value":45}{"value":190}"#, r#"{"value":300}"#),
        (r#", "each": 10"#, 20, r#"{"value":45}{"value":190}"#, ""),
        (r#", "each": 10, "reset": true"#, 25, r#"{"value":45}{"value":145}"#, r#"{"value":110}"#),
        (r#", "each": 1"#, 3, r#"{"value":0}{"value":1}{"value":3}"#, ""),
        ("", 3, "", r#"{"value":3}"#),
        ("", 0, "", ""),
        (r#", "each": 2, "into": "a.b""#, 2, r#"{"a":{"b":1}}"#, ""),
        (r#", "each": 2, "by": ["g"]"#, 5, r#"{"value":2,"g":0}{"value":4,"g":1}"#, r#"{"value":6,"g":0}"#),
        (r#", "by": ["g"], "into": "g""#, 2, "", r#"{"g":0}{"g":1}"#),
    ] {
        let mut rig = rig(rest);
        assert_eq!(feed(&mut rig, 0..count), want, "{rest}");
        assert_eq!(rig.finish(), end, "{rest}");
        assert_eq!(rig.finish(), "", "{rest}: it was told");
    }
}

#[test]
fn an_object_is_the_body() {
    let config = |into: &str| {
        format!(r#"{{ "start": {{"n": 0}}, "expr": "{{\"n\": meta.acc.n + 1, \"t\": meta.topic}}", "each": 1{into} }}"#)
    };
    check(
        &KIND,
        &[
            (&config(""), "{}", r#"{"n":1,"t":"barn"}"#),
            (
                &config(r#", "by": ["n", "x.y", "z"]"#),
                r#"{"n":5,"x":{"y":null}}"#,
                r#"{"n":1,"t":"barn","x":{"y":null}}"#,
            ),
            (&config(r#", "into": "v""#), "{}", r#"{"v":{"n":1,"t":"barn"}}"#),
            (r#"{ "expr": "[meta.acc, event.n]", "each": 1 }"#, r#"{"n":1}"#, r#"{"value":[null,1]}"#),
        ],
    );
}

#[test]
fn a_value_is_told_by_the_timer_if_it_changed() {
    let mut rig = rig(r#", "every": "10s""#);
    rig.now = 0;
    feed(&mut rig, [1, 2]);
    assert_eq!(rig.advance(9_999), "");
    assert_eq!(rig.advance(10_000), r#"{"value":3}"#);
    assert_eq!(rig.ids(), ["e-2.p/fold.2"]);
    assert_eq!((rig.out[0].key.as_str(), &*rig.out[0].topic, rig.out[0].happened()), ("k", "barn", 10_000));
    assert_eq!(rig.advance(60_000), "");
    feed(&mut rig, [4]);
    assert_eq!(rig.advance(69_999) + &rig.advance(70_000), r#"{"value":7}"#);
    feed(&mut rig, [5]);
    assert_eq!(rig.finish(), r#"{"value":12}"#);
    assert_eq!(rig.advance(900_000), "");
}

#[test]
fn each_and_every_do_not_tell_twice() {
    for reset in ["false", "true"] {
        let mut rig = rig(&format!(r#", "each": 2, "every": "10s", "reset": {reset}"#));
        rig.now = 0;
        assert_eq!(feed(&mut rig, [1, 2]), r#"{"value":3}"#);
        assert_eq!(rig.due(), None);
        rig.now = 5_000;
        feed(&mut rig, [3]);
        assert_eq!(rig.advance(14_999), "");
        assert_eq!(rig.advance(15_000), if reset == "true" { r#"{"value":3}"# } else { r#"{"value":6}"# });
    }
}

#[test]
fn ids_are_their_own_and_the_same_again() {
    let mut rig = rig(r#", "each": 2, "by": ["g"], "name": "total""#);
    let mut ids = Vec::new();
    for n in 0..9 {
        feed(&mut rig, [n]);
        ids.extend(rig.ids());
    }
    rig.finish();
    ids.extend(rig.ids());
    assert_eq!(ids, ["e-2.p/total.2", "e-3.p/total.2", "e-6.p/total.4", "e-7.p/total.4", "e-8.p/total.5"]);

    // An event that is taken back and comes again.
    let again = |rig: &mut Rig| {
        let save = rig.savepoint();
        let told = (feed(rig, [9]), rig.ids());
        rig.rollback(save);
        told
    };
    feed(&mut rig, [11]);
    let first = again(&mut rig);
    assert_eq!(first, again(&mut rig));
    assert_eq!(first, (r#"{"value":36,"g":1}"#.into(), vec!["e-9.p/total.6".into()]));
}

#[test]
fn an_event_without_the_field_is_passed_over_and_a_wrong_one_rejected() {
    let mut rig = rig(r#", "each": 2"#);
    for (body, want) in [
        ("{}", ""),
        (r#"{"n":1}"#, ""),
        ("{}", ""),
        (r#"{"n":"x"}"#, "rejected: expr: column 10: `+` cannot take int and string"),
        (r#"{"n":9223372036854775807}"#, "rejected: expr: column 10: the int overflows"),
        (r#"{"n":2}"#, r#"{"value":3}"#),
    ] {
        assert_eq!(rig.feed(body), want, "{body}");
    }
}

#[test]
fn groups_are_bounded() {
    let mut rig = rig(r#", "by": ["g"], "max_groups": 1"#);
    assert_eq!(rig.feed(r#"{"n":1,"g":1}"#), "");
    assert_eq!(rig.feed(r#"{"g":2}"#), "");
    let full = "rejected: this event begins a new group, beyond the 1 of `max_groups`";
    assert_eq!(rig.feed(r#"{"n":1,"g":2}"#), full);
    assert_eq!(rig.feed(r#"{"n":1,"g":1}"#), "");
    assert_eq!(rig.finish(), r#"{"value":2,"g":1}"#);
}

#[test]
fn a_value_that_cannot_be_told_is_not_remembered() {
    let mut rig = Rig::new(&KIND, r#"{ "expr": "[meta.acc]" }"#).unwrap();
    let outs: Vec<String> = (0..70).map(|_| rig.feed("{}")).collect();
    assert_eq!(outs[62], "");
    assert!(outs[63].starts_with("rejected: the value: expected at most 64 levels"), "{}", outs[63]);
    assert_eq!(outs[63], outs[69]);
    assert_eq!(rig.finish(), format!(r#"{{"value":{}null{}}}"#, "[".repeat(63), "]".repeat(63)));

    let mut rig = Rig::new(&KIND, r#"{ "start": "", "expr": "event.s" }"#).unwrap();
    assert_eq!(rig.feed(r#"{"s":"small"}"#), "");
    let got = rig.feed(&format!(r#"{{"s":"{}"}}"#, "x".repeat(1 << 20)));
    assert!(got.starts_with("rejected: the pipeline's state is full"), "{got:.100}");
    assert_eq!(rig.finish(), r#"{"value":"small"}"#);
}

#[test]
fn a_state_that_makes_no_sense_is_told() {
    let mut rig = rig("");
    for bad in ["", "{}", "[]", r#"{"acc":1,"new":-1}"#] {
        rig.remember(b"[]", bad);
        assert!(rig.feed(r#"{"n":1}"#).starts_with("rejected: the state for `[]`: "), "{bad}");
        assert!(rig.finish().starts_with("rejected: the state for `[]`: "), "{bad}");
    }
}

#[test]
fn a_wrong_configuration_is_refused() {
    check(
        &KIND,
        &[
            ("{}", "", "wrong: missing field `expr`"),
            (r#"{ "expr": "1", "each": 0 }"#, "", "wrong: each: invalid value: integer `0`, expected a nonzero u64"),
            (r#"{ "expr": "1", "every": "0s" }"#, "", "wrong: every: it must be longer than 0"),
        ],
    );
}
