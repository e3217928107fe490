//! The specs of a transformer.

use super::{
    conditions::{self, Condition},
    definitions::place,
    pattern,
    reading::{At, Reader, Words, told},
};
use crate::event::Path;
use serde_json::{Map, Value, json};

const TYPES: Words = Words {
    what: "a transformation",
    list: &[
        ("TransformUnknown", 0),
        ("TransformSum", 1),
        ("TransformCopy", 2),
        ("TransformMapRegex", 3),
        ("TransformMapAdd", 4),
        ("TransformMapMult", 5),
        ("TransformCount", 6),
        ("TransformLeftFold", 7),
        ("TransformRightFold", 8),
        ("TransformMap", 9),
        ("TransformPopHead", 10),
        ("TransformPopTail", 11),
    ],
    prefixes: &["Transform"],
};
const ARGUMENTS: &[&str] = &["mapArgs", "mapAddArgs", "mapMultArgs", "mapRegexArgs", "leftFoldArgs", "rightFoldArgs"];

pub(super) struct Transformer {
    pub specs: Vec<Spec>,
    /// Whether the event's own fields stay.
    pub keep: bool,
}

pub(super) struct Spec {
    /// As it stands in our configuration; none if it never does anything.
    pub value: Option<Value>,
    pub notes: Vec<String>,
    /// Whether it runs a program.
    pub outside: bool,
}

pub(super) fn read(reader: &mut Reader<'_, '_>, of: &At<'_>) -> Option<Transformer> {
    reader.message(of, &["name", "specs", "forwardInputFields"]).then_some(())?;
    let keep = reader.flag(of, "forwardInputFields");
    let specs = reader.list(of, "specs").into_iter().filter_map(|at| spec(reader, &at)).collect();
    Some(Transformer { specs, keep })
}

fn spec(reader: &mut Reader<'_, '_>, at: &At<'_>) -> Option<Spec> {
    reader.message(at, &["sourceField", "targetField", "transformation"]).then_some(())?;
    let (from, to) = (reader.text(at, "sourceField"), reader.text(at, "targetField"));
    for (path, name) in [(&from, "sourceField"), (&to, "targetField")] {
        if let (false, Err(e), Some(at)) = (path.is_empty(), place(path, false).parse::<Path>(), at.get(name)) {
            reader.error(&at, e.to_string());
        }
    }
    let known = [&["condition", "transformationType"], ARGUMENTS].concat();
    let of = reader.part(at, "transformation", &known)?;
    let condition = conditions::condition(reader, &of, true);
    let word = reader.word(&of, "transformationType", &TYPES);
    let arguments = arguments(reader, &of);
    let (op, note) = operation(reader, word?, arguments?);
    let outside = op.as_ref().is_some_and(|op| ["map", "fold_left", "fold_right"].iter().any(|f| op.get(f).is_some()));
    Some(written(&from, &to, op, note, condition, outside))
}

fn written(
    from: &str,
    to: &str,
    op: Option<Value>,
    note: Option<&str>,
    Condition { when, notes }: Condition,
    outside: bool,
) -> Spec {
    let mut notes = conditions::mended(&notes, if to.is_empty() { "the whole event" } else { to });
    notes.extend(note.map(|note| format!("{}: {note}", told(to))));
    let mut value = Map::new();
    match (from.is_empty(), to.is_empty()) {
        (true, true) => {
            if when.is_some() {
                notes.push("the condition of a spec over the whole event was never looked at; it is left out".into());
            }
        }
        (true, false) => {
            notes.push(format!("left out: the spec for {} has no `sourceField`, so it never did anything", told(to)));
            return Spec { value: None, notes, outside: false };
        }
        (false, true) => {
            notes.push(format!(
                "left out: the spec for {} has no `targetField`, and no field has an empty name here",
                told(from)
            ));
            return Spec { value: None, notes, outside: false };
        }
        (false, false) => {
            value.insert("from".into(), place(from, false).into());
            value.insert("to".into(), place(to, false).into());
        }
    }
    let op = op.or_else(|| from.is_empty().then(|| "copy".into()));
    value.extend(op.map(|op| ("op".to_owned(), op)));
    if let Some(when) = when.filter(|_| !from.is_empty()) {
        value.insert("when".into(), when.into());
    }
    Spec { value: Some(Value::Object(value)), notes, outside }
}

/// The arguments that are given, of at most one kind.
#[allow(clippy::option_option)]
fn arguments<'n>(reader: &mut Reader<'_, '_>, of: &At<'n>) -> Option<Option<(&'static str, At<'n>)>> {
    let given: Vec<(&'static str, At<'n>)> = ARGUMENTS.iter().filter_map(|n| Some((*n, of.get(n)?))).collect();
    if let [(first, _), (second, at), ..] = &given[..] {
        reader.error(at, format!("`{first}` is given too, and only one can be: take out `{first}` or `{second}`"));
        return None;
    }
    Some(given.into_iter().next())
}

/// Our operation, none for a copy, and what is to be said about it.
fn operation(
    reader: &mut Reader<'_, '_>,
    word: &str,
    arguments: Option<(&'static str, At<'_>)>,
) -> (Option<Value>, Option<&'static str>) {
    let (takes, path, name) = match word {
        "TransformUnknown" | "TransformCopy" => return (None, None),
        "TransformSum" => return (Some("sum".into()), None),
        "TransformCount" => return (Some("count".into()), Some("mended: an empty list counts 0, not null")),
        "TransformPopHead" => return (Some("pop_head".into()), None),
        "TransformPopTail" => return (Some("pop_tail".into()), None),
        "TransformMapAdd" => ("mapAddArgs", false, "add"),
        "TransformMapMult" => ("mapMultArgs", false, "multiply"),
        "TransformMapRegex" => ("mapRegexArgs", false, "replace"),
        "TransformMap" => ("mapArgs", true, "map"),
        "TransformLeftFold" => ("leftFoldArgs", true, "fold_left"),
        _ => ("rightFoldArgs", true, "fold_right"),
    };
    let Some((_, at)) = arguments.filter(|(given, _)| *given == takes) else {
        return (None, Some("without its arguments the transformation is a copy"));
    };
    if path {
        let program = reader.message(&at, &["path"]).then(|| reader.named(&at, "path")).flatten();
        let note =
            (name != "map").then_some("mended: it folds, with the accumulator in `internal:acc`; it ran as a map");
        return (program.map(|(program, _)| json!({ name: { "run": [program], "timeout": "1h" } })), note);
    }
    if name == "replace" {
        reader.message(&at, &["regex", "replace"]);
        let with = reader.text(&at, "replace");
        let regex = pattern::checked(&reader.text(&at, "regex")).unwrap_or_else(|e| {
            let at = at.get("regex").unwrap_or(at.clone());
            reader.error(&at, e);
            String::new()
        });
        return (Some(json!({ name: { "regex": regex, "with": with } })), None);
    }
    reader.message(&at, &["value"]);
    let value = at.get("value").and_then(|at| reader.as_number(&at)).unwrap_or(0.into());
    let whole = value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15);
    let value = whole.map_or(value.into(), |n| Value::from(n as i64));
    (Some(json!({ name: value })), Some("mended: an empty list stays an empty list, it does not become null"))
}
