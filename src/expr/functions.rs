//! The functions: their table, and what they do.

use super::{
    ast::Node,
    eval::{Out, Run, Stop},
    numbers,
    value::{Held, Value},
};
use std::{borrow::Cow, cmp::Ordering};

/// What a function is called, and how.
pub(super) struct Spec {
    pub name: &'static str,
    pub id: Function,
    /// `value.name(…)`
    pub method: bool,
    /// `name(value, …)`
    pub global: bool,
    /// Least and most arguments, the value before the dot included.
    pub arguments: (usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    LowerAscii,
    UpperAscii,
    Trim,
    Replace,
    Split,
    Substring,
    Join,
    Int,
    Double,
    String,
    Bool,
    Abs,
    Min,
    Max,
    Round,
    Floor,
    Ceil,
    Find,
    Leaf,
    Plus,
    Order,
    Pow,
    Rfc3339,
    BitAnd,
    BitOr,
    BitXor,
    BitNot,
    BitShiftLeft,
    BitShiftRight,
    Unsigned,
}

const fn method(name: &'static str, id: Function, least: usize, most: usize) -> Spec {
    Spec { name, id, method: true, global: false, arguments: (least, most) }
}

const fn global(name: &'static str, id: Function, least: usize, most: usize) -> Spec {
    Spec { name, id, method: false, global: true, arguments: (least, most) }
}

/// All functions. From `abs` on they are not in the CEL standard.
pub(super) const FUNCTIONS: &[Spec] = &[
    Spec { name: "size", id: Function::Size, method: true, global: true, arguments: (1, 1) },
    Spec { name: "matches", id: Function::Matches, method: true, global: true, arguments: (2, 2) },
    method("contains", Function::Contains, 2, 2),
    method("startsWith", Function::StartsWith, 2, 2),
    method("endsWith", Function::EndsWith, 2, 2),
    method("lowerAscii", Function::LowerAscii, 1, 1),
    method("upperAscii", Function::UpperAscii, 1, 1),
    method("trim", Function::Trim, 1, 1),
    method("replace", Function::Replace, 3, 3),
    method("split", Function::Split, 2, 2),
    method("substring", Function::Substring, 2, 3),
    method("join", Function::Join, 1, 2),
    global("int", Function::Int, 1, 1),
    global("double", Function::Double, 1, 1),
    global("string", Function::String, 1, 1),
    global("bool", Function::Bool, 1, 1),
    global("abs", Function::Abs, 1, 1),
    global("min", Function::Min, 1, 16),
    global("max", Function::Max, 1, 16),
    global("round", Function::Round, 1, 2),
    global("floor", Function::Floor, 1, 1),
    global("ceil", Function::Ceil, 1, 1),
    method("find", Function::Find, 2, 2),
    method("leaf", Function::Leaf, 2, 2),
    global("plus", Function::Plus, 2, 2),
    global("order", Function::Order, 2, 2),
    global("pow", Function::Pow, 2, 2),
    global("rfc3339", Function::Rfc3339, 1, 1),
    global("bitAnd", Function::BitAnd, 2, 2),
    global("bitOr", Function::BitOr, 2, 2),
    global("bitXor", Function::BitXor, 2, 2),
    global("bitNot", Function::BitNot, 1, 1),
    global("bitShiftLeft", Function::BitShiftLeft, 2, 2),
    global("bitShiftRight", Function::BitShiftRight, 2, 2),
    global("unsigned", Function::Unsigned, 1, 1),
];

/// The name that `name` was probably meant to be: at most two letters off, and less than half of them.
pub(super) fn closest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let (lower, limit) = (name.to_ascii_lowercase(), name.len().div_ceil(2).min(3));
    names
        .map(|other| (letters_off(&lower, &other.to_ascii_lowercase()), other))
        .filter(|(off, _)| *off < limit)
        .min_by_key(|(off, _)| *off)
        .map(|(_, other)| other)
}

/// Levenshtein's distance.
fn letters_off(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

/// Calls a function; the parser has seen to the number of arguments.
pub(super) fn call<'a>(run: &Run<'a>, node: &'a Node, id: Function, args: &'a [Node]) -> Out<'a> {
    match id {
        Function::Size => {
            let value = run.eval(&args[0])?;
            let size =
                value.size().ok_or_else(|| run.fail(node, format!("`size` cannot take {}", value.type_name())))?;
            Ok(Value::Int(size as i64))
        }
        Function::Contains => Ok(Value::Bool(run.text(&args[0])?.contains(&*run.text(&args[1])?))),
        Function::StartsWith => Ok(Value::Bool(run.text(&args[0])?.starts_with(&*run.text(&args[1])?))),
        Function::EndsWith => Ok(Value::Bool(run.text(&args[0])?.ends_with(&*run.text(&args[1])?))),
        Function::LowerAscii => recase(run, node, &args[0], u8::is_ascii_uppercase, str::make_ascii_lowercase),
        Function::UpperAscii => recase(run, node, &args[0], u8::is_ascii_lowercase, str::make_ascii_uppercase),
        Function::Trim => {
            let text = run.text(&args[0])?;
            let (start, end) = (text.len() - text.trim_start().len(), text.trim_end().len());
            part(text, start, end.max(start))
        }
        Function::Replace => replace(run, node, args),
        Function::Split => split(run, node, args),
        Function::Substring => substring(run, node, args),
        Function::Join => join(run, node, args),
        Function::Int => int(run, node, run.eval(&args[0])?),
        Function::Double => double(run, node, run.eval(&args[0])?),
        Function::String => string(run, node, run.eval(&args[0])?),
        Function::Bool => match run.eval(&args[0])? {
            Value::Bool(b) => Ok(Value::Bool(b)),
            Value::Str(s) if ["1", "t", "true", "TRUE", "True"].contains(&&*s) => Ok(Value::Bool(true)),
            Value::Str(s) if ["0", "f", "false", "FALSE", "False"].contains(&&*s) => Ok(Value::Bool(false)),
            Value::Str(_) => Err(run.fail(node, "`bool` cannot read the string".to_owned())),
            other => Err(cannot(run, node, "bool", &other)),
        },
        Function::Abs => match run.eval(&args[0])? {
            Value::Int(i) => Ok(Value::Int(i.checked_abs().ok_or_else(|| run.overflow(node))?)),
            Value::Double(d) => Ok(Value::Double(d.abs())),
            other => Err(cannot(run, node, "abs", &other)),
        },
        Function::Min => extreme(run, node, "min", Ordering::Less, args),
        Function::Max => extreme(run, node, "max", Ordering::Greater, args),
        Function::Round => round(run, node, args),
        Function::Floor => whole(run, node, "floor", &args[0], f64::floor),
        Function::Ceil => whole(run, node, "ceil", &args[0], f64::ceil),
        Function::Matches => Err(run.fail(node, "the pattern was not compiled".to_owned())),
        Function::Find | Function::Leaf => Err(run.fail(node, "the place was not read".to_owned())),
        _ => numbers::call(run, node, id, args),
    }
}

pub(super) fn cannot<'a>(run: &Run<'a>, node: &Node, name: &str, value: &Value<'_>) -> Stop<'a> {
    run.fail(node, format!("`{name}` cannot take {}", value.type_name()))
}

/// The bytes `start..end` of a text, borrowed if it is.
fn part<'a>(text: Cow<'a, str>, start: usize, end: usize) -> Out<'a> {
    Ok(Value::Str(match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[start..end]),
        Cow::Owned(text) => Cow::Owned(text[start..end].to_owned()),
    }))
}

fn recase<'a>(run: &Run<'a>, node: &Node, arg: &'a Node, other: fn(&u8) -> bool, change: fn(&mut str)) -> Out<'a> {
    let text = run.text(arg)?;
    if !text.as_bytes().iter().any(other) {
        return Ok(Value::Str(text));
    }
    run.spend(node, text.len())?;
    let mut text = text.into_owned();
    change(&mut text);
    Ok(Value::Str(Cow::Owned(text)))
}

fn replace<'a>(run: &Run<'a>, node: &Node, args: &'a [Node]) -> Out<'a> {
    let (text, old, new) = (run.text(&args[0])?, run.text(&args[1])?, run.text(&args[2])?);
    let (mut out, mut from) = (String::new(), 0);
    for (at, _) in text.match_indices(&*old) {
        run.spend(node, at - from + new.len())?;
        out.push_str(&text[from..at]);
        out.push_str(&new);
        from = at + old.len();
    }
    if from == 0 && out.is_empty() {
        return Ok(Value::Str(text));
    }
    run.spend(node, text.len() - from)?;
    out.push_str(&text[from..]);
    Ok(Value::Str(Cow::Owned(out)))
}

fn split<'a>(run: &Run<'a>, node: &Node, args: &'a [Node]) -> Out<'a> {
    let (text, mark) = (run.text(&args[0])?, run.text(&args[1])?);
    let mut items = Vec::new();
    let (mut from, mut more) = (0, true);
    while more {
        let rest = &text[from..];
        let (length, skip) = match rest.find(&*mark) {
            // An empty mark stands between all characters.
            Some(0) if mark.is_empty() && !rest.is_empty() => (rest.chars().next().map_or(0, char::len_utf8), 0),
            Some(_) if mark.is_empty() => break,
            Some(at) => (at, mark.len()),
            None => {
                more = false;
                (rest.len(), 0)
            }
        };
        run.spend(node, size_of::<Value<'_>>() + length)?;
        items.push(Value::Str(match &text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[from..from + length]),
            Cow::Owned(text) => Cow::Owned(text[from..from + length].to_owned()),
        }));
        from += length + skip;
    }
    Ok(Value::List(Held::Own(items)))
}

fn substring<'a>(run: &Run<'a>, node: &Node, args: &'a [Node]) -> Out<'a> {
    let text = run.text(&args[0])?;
    let place = |arg: &'a Node| -> Result<usize, Stop<'a>> {
        let index = run.int(arg)?;
        let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        let at = usize::try_from(index).ok().and_then(|index| starts.into_iter().nth(index));
        at.ok_or_else(|| run.fail(node, format!("`substring`: {index} is not within the string")))
    };
    let start = place(&args[1])?;
    let end = args.get(2).map_or(Ok(text.len()), place)?;
    if start > end {
        return Err(run.fail(node, "`substring`: the start is behind the end".to_owned()));
    }
    part(text, start, end)
}

fn join<'a>(run: &Run<'a>, node: &Node, args: &'a [Node]) -> Out<'a> {
    let list = run.items(node, "join", run.eval(&args[0])?)?;
    let mark = args.get(1).map_or(Ok(Cow::Borrowed("")), |arg| run.text(arg))?;
    let mut out = String::new();
    for (i, item) in list.enumerate() {
        let Value::Str(text) = item else {
            return Err(run.fail(node, format!("`join` takes a list of strings, not of {}", item.type_name())));
        };
        if i > 0 {
            run.spend(node, mark.len())?;
            out.push_str(&mark);
        }
        run.spend(node, text.len())?;
        out.push_str(&text);
    }
    Ok(Value::Str(Cow::Owned(out)))
}

fn int<'a>(run: &Run<'a>, node: &Node, value: Value<'a>) -> Out<'a> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63
    match value {
        Value::Int(i) => Ok(Value::Int(i)),
        Value::Bool(b) => Ok(Value::Int(i64::from(b))),
        Value::Double(d) if d > -LIMIT && d < LIMIT => Ok(Value::Int(d as i64)),
        Value::Double(_) => Err(run.fail(node, "`int`: the double is out of range".to_owned())),
        Value::Str(s) => {
            s.parse().map(Value::Int).map_err(|_| run.fail(node, "`int` cannot read the string".to_owned()))
        }
        other => Err(cannot(run, node, "int", &other)),
    }
}

fn double<'a>(run: &Run<'a>, node: &Node, value: Value<'a>) -> Out<'a> {
    match value {
        Value::Int(i) => Ok(Value::Double(i as f64)),
        Value::Double(d) => Ok(Value::Double(d)),
        Value::Str(s) => match s.parse::<f64>() {
            Ok(d) if d.is_finite() => Ok(Value::Double(d)),
            _ => Err(run.fail(node, "`double` cannot read the string".to_owned())),
        },
        other => Err(cannot(run, node, "double", &other)),
    }
}

fn string<'a>(run: &Run<'a>, node: &Node, value: Value<'a>) -> Out<'a> {
    let text = match value {
        Value::Str(s) => return Ok(Value::Str(s)),
        Value::Bool(b) => return Ok(Value::Str(Cow::Borrowed(if b { "true" } else { "false" }))),
        Value::Int(i) => i.to_string(),
        Value::Double(d) => d.to_string(),
        other => return Err(cannot(run, node, "string", &other)),
    };
    run.spend(node, text.len())?;
    Ok(Value::Str(Cow::Owned(text)))
}

/// The least or greatest of the arguments, or of one list. Of equal ones the last.
fn extreme<'a>(run: &Run<'a>, node: &Node, name: &str, wanted: Ordering, args: &'a [Node]) -> Out<'a> {
    let mut best: Option<Value<'a>> = None;
    let mut meet = |value: Value<'a>| -> Result<(), Stop<'a>> {
        if !matches!(value, Value::Int(_) | Value::Double(_) | Value::Str(_) | Value::Bool(_)) {
            return Err(cannot(run, node, name, &value));
        }
        match best.as_ref().map(|best| best.order(&value)) {
            Some(Err(())) => Err(run.fail(node, format!("`{name}` cannot compare values of different types"))),
            Some(Ok(order)) if order == Some(wanted) => Ok(()),
            _ => {
                best = Some(value);
                Ok(())
            }
        }
    };
    match args {
        [one] => match run.eval(one)? {
            list @ (Value::List(_) | Value::Raw(_)) => {
                for value in run.items(node, name, list)? {
                    meet(value)?;
                }
            }
            value => meet(value)?,
        },
        _ => {
            for arg in args {
                meet(run.eval(arg)?)?;
            }
        }
    }
    best.ok_or_else(|| run.fail(node, format!("`{name}` of an empty list")))
}

/// `round(x)` to the next whole number, halves away from zero; `round(x, n)` to n decimals.
fn round<'a>(run: &Run<'a>, node: &Node, args: &'a [Node]) -> Out<'a> {
    let Some(decimals) = args.get(1) else { return whole(run, node, "round", &args[0], f64::round) };
    let decimals = run.int(decimals)?;
    if !(0..=15).contains(&decimals) {
        return Err(run.fail(node, "`round` takes 0 to 15 decimals".to_owned()));
    }
    let factor = 10f64.powi(decimals as i32);
    match run.eval(&args[0])? {
        Value::Double(d) if (d * factor).is_finite() => Ok(Value::Double((d * factor).round() / factor)),
        value @ (Value::Int(_) | Value::Double(_)) => Ok(value),
        other => Err(cannot(run, node, "round", &other)),
    }
}

fn whole<'a>(run: &Run<'a>, node: &Node, name: &str, arg: &'a Node, to: fn(f64) -> f64) -> Out<'a> {
    match run.eval(arg)? {
        Value::Int(i) => Ok(Value::Int(i)),
        Value::Double(d) => Ok(Value::Double(to(d))),
        other => Err(cannot(run, node, name, &other)),
    }
}
