//! Functions of numbers beyond the CEL standard.

use super::{
    ast::Node,
    eval::{Out, Run, Stop},
    functions::{Function, cannot},
    value::Value,
};
use std::borrow::Cow;

const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63

pub(super) fn call<'a>(run: &Run<'a>, node: &'a Node, id: Function, args: &'a [Node]) -> Out<'a> {
    let (name, combine): (_, fn(i64, i64) -> i64) = match id {
        Function::Plus => return plus(run, node, run.eval(&args[0])?, run.eval(&args[1])?),
        Function::Order => return order(run, node, run.eval(&args[0])?, run.eval(&args[1])?),
        Function::Pow => {
            let (x, y) = (double(run, node, "pow", &args[0])?, double(run, node, "pow", &args[1])?);
            return Ok(Value::Double(x.powf(y)));
        }
        Function::Rfc3339 => {
            let ms = run.int(&args[0])?;
            let time = jiff::Timestamp::from_millisecond(ms)
                .map_err(|_| run.fail(node, "`rfc3339` takes milliseconds of the years -9999 to 9999".to_owned()))?;
            return Ok(Value::Str(Cow::Owned(format!("{time:.3}"))));
        }
        Function::BitNot => return Ok(Value::Int(!whole(run, node, "bitNot", &args[0])?)),
        Function::BitShiftLeft | Function::BitShiftRight => return shift(run, node, id, args),
        Function::Unsigned => {
            let bits = bits(run, node, "unsigned", &args[0])?;
            return Ok(i64::try_from(bits).map_or(Value::Double(bits as f64), Value::Int));
        }
        Function::BitAnd => ("bitAnd", |a, b| a & b),
        Function::BitOr => ("bitOr", |a, b| a | b),
        _ => ("bitXor", |a, b| a ^ b),
    };
    Ok(Value::Int(combine(whole(run, node, name, &args[0])?, whole(run, node, name, &args[1])?)))
}

fn double<'a>(run: &Run<'a>, node: &Node, name: &str, arg: &'a Node) -> Result<f64, Stop<'a>> {
    match run.eval(arg)? {
        Value::Int(i) => Ok(i as f64),
        Value::Double(d) => Ok(d),
        other => Err(cannot(run, node, name, &other)),
    }
}

/// The int, or the double without its fraction.
fn whole<'a>(run: &Run<'a>, node: &Node, name: &str, arg: &'a Node) -> Result<i64, Stop<'a>> {
    whole_of(run, node, name, run.eval(arg)?)
}

fn whole_of<'a>(run: &Run<'a>, node: &Node, name: &str, value: Value<'a>) -> Result<i64, Stop<'a>> {
    match value {
        Value::Int(i) => Ok(i),
        Value::Double(d) if (-LIMIT..LIMIT).contains(&d) => Ok(d as i64),
        Value::Double(_) => Err(run.fail(node, format!("`{name}`: the double is out of range"))),
        other => Err(cannot(run, node, name, &other)),
    }
}

/// The bits of the int, or of the double without its fraction, which may be one of 2^63 and more.
fn bits<'a>(run: &Run<'a>, node: &Node, name: &str, arg: &'a Node) -> Result<u64, Stop<'a>> {
    match run.eval(arg)? {
        Value::Double(d) if (0.0..2.0 * LIMIT).contains(&d) => Ok(d as u64),
        value => whole_of(run, node, name, value).map(|int| int as u64),
    }
}

/// As CEL has it: to the right zeros come in, 64 and more leave nothing.
fn shift<'a>(run: &Run<'a>, node: &Node, id: Function, args: &'a [Node]) -> Out<'a> {
    let left = id == Function::BitShiftLeft;
    let name = if left { "bitShiftLeft" } else { "bitShiftRight" };
    let (bits, by) = (bits(run, node, name, &args[0])?, whole(run, node, name, &args[1])?);
    let Ok(by) = u64::try_from(by) else {
        return Err(run.fail(node, format!("`{name}`: the number of bits is negative")));
    };
    let by = u32::try_from(by).unwrap_or(u32::MAX);
    let shifted = if left { bits.checked_shl(by) } else { bits.checked_shr(by) };
    Ok(Value::Int(shifted.unwrap_or(0) as i64))
}

fn plus<'a>(run: &Run<'a>, node: &Node, a: Value<'a>, b: Value<'a>) -> Out<'a> {
    match (&a, &b) {
        (Value::Int(_) | Value::Double(_), Value::Int(_) | Value::Double(_)) => {
            let number = |value: &Value<'_>| match value {
                Value::Int(i) => *i as f64,
                Value::Double(d) => *d,
                _ => f64::NAN,
            };
            Ok(Value::Double(number(&a) + number(&b)))
        }
        (Value::Str(_), _) | (_, Value::Str(_)) => {
            let mut joined = String::new();
            for value in [&a, &b] {
                match value {
                    Value::Str(text) => joined += text,
                    Value::Bool(b) => joined += &b.to_string(),
                    Value::Int(i) => joined += &written(*i as f64),
                    Value::Double(d) => joined += &written(*d),
                    other => return Err(cannot(run, node, "plus", other)),
                }
                run.spend(node, joined.len())?;
            }
            Ok(Value::Str(Cow::Owned(joined)))
        }
        (Value::Int(_) | Value::Double(_), _) => Err(cannot(run, node, "plus", &b)),
        _ => Err(cannot(run, node, "plus", &a)),
    }
}

/// A double as Go prints it: whole numbers without a fraction, from a million on and below 0.0001 with an exponent.
fn written(d: f64) -> String {
    if d == 0.0 || !d.is_finite() || (1e-4..1e6).contains(&d.abs()) {
        return match d {
            f64::INFINITY => "+Inf".to_owned(),
            f64::NEG_INFINITY => "-Inf".to_owned(),
            d => d.to_string(),
        };
    }
    let text = format!("{d:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

/// The doubles of `0/0` have no order: the result is not a number either, and no comparison with it holds.
fn order<'a>(run: &Run<'a>, node: &Node, a: Value<'a>, b: Value<'a>) -> Out<'a> {
    let ordered = |value: &Value<'_>| matches!(value, Value::Int(_) | Value::Double(_) | Value::Str(_));
    match a.order(&b) {
        Ok(order) if ordered(&a) && ordered(&b) => {
            Ok(order.map_or(Value::Double(f64::NAN), |order| Value::Int(order as i64)))
        }
        _ => {
            let what = format!("`order` cannot take {} and {}", a.type_name(), b.type_name());
            Err(run.fail(node, what))
        }
    }
}
