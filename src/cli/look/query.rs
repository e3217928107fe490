//! `tidegate query`: SQL over what is stored.

use crate::budget::Span;
use crate::cli::{columns, operate::Gateway, print};
use clap::Args;
use serde_json::Value;

#[derive(Args)]
pub(in crate::cli) struct Query {
    /// One SELECT, in SQLite's SQL.
    sql: String,
    /// At most so many rows; up to 100000.
    #[arg(long, default_value_t = 1000)]
    rows: usize,
    /// How long it may take, up to a minute.
    #[arg(long, default_value = "5s")]
    within: Span,
    /// Output: `table` for people, `csv` or `json` for programs.
    #[arg(long, default_value = "table", value_parser = ["table", "csv", "json"])]
    format: String,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) fn run(query: &Query) -> anyhow::Result<()> {
    let limits = [("rows", query.rows.to_string()), ("ms", query.within.0.as_millis().to_string())];
    let found = query.gateway.client()?.ask("POST", "/query", &limits, query.sql.as_bytes())?;
    match query.format.as_str() {
        "json" => print(&format!("{found:#}\n"))?,
        "csv" => print(&lines(&found, |cells| cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n"))?,
        _ => print(&columns(&rows(&found).map(|cells| cells.iter().map(shown).collect()).collect::<Vec<_>>()))?,
    }
    if found["more"] == true {
        eprintln!("there is more: raise `--rows`, or ask for less; an answer has 2 MiB at most");
    }
    match found["damaged"].as_u64() {
        Some(damaged) if damaged > 0 => eprintln!("{damaged} damaged batches were passed over: their events are NULL"),
        _ => {}
    }
    Ok(())
}

/// The names of the columns, and the rows.
fn rows(found: &Value) -> impl Iterator<Item = &[Value]> {
    let all = found["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    [&found["columns"]].into_iter().chain(all).map(|row| row.as_array().map(Vec::as_slice).unwrap_or_default())
}

fn lines(found: &Value, line: impl Fn(&[Value]) -> String) -> String {
    rows(found).map(line).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// In a table: short, and without anything that a terminal would obey.
fn shown(value: &Value) -> String {
    text(value).chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect()
}

/// In CSV, RFC 4180.
fn quoted(value: &Value) -> String {
    let text = text(value);
    match text.contains(['"', ',', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cell_is_quoted_where_it_must_be() {
        for (value, want) in [
            (json!(null), ""),
            (json!(1.5), "1.5"),
            (json!("a b"), "a b"),
            (json!("a,b"), "\"a,b\""),
            (json!("say \"a\"\n"), "\"say \"\"a\"\"\n\""),
        ] {
            assert_eq!(quoted(&value), want);
        }
        assert_eq!(shown(&json!("a\u{1b}[2Jb")), "a [2Jb");
    }
}
