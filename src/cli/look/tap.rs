//! `tidegate tap`: events as they pass.

use crate::budget::Span;
use crate::cli::operate::Gateway;
use clap::Args;
use serde_json::Value;
use std::io::{BufRead, Write};

#[derive(Args)]
pub(in crate::cli) struct Tap {
    /// A topic, that is the name of a source or pipeline; or `PIPELINE.PROCESS`: what comes out of this process.
    #[arg(value_name = "TOPIC|PROCESS")]
    of: String,
    /// Only events for which this condition holds: `event.temperature > 20.0`.
    #[arg(long)]
    when: Option<String>,
    /// End after so many events.
    #[arg(short)]
    n: Option<u64>,
    /// End after this time; at most ten minutes.
    #[arg(long = "for", default_value = "10m")]
    span: Span,
    /// Output: `json` is the event with its envelope, `text` its time, topic, key and body.
    #[arg(long, default_value = "json", value_parser = ["json", "text"])]
    format: String,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) fn run(tap: &Tap) -> anyhow::Result<()> {
    let mut query = vec![("of", tap.of.clone()), ("for", tap.span.to_string())];
    query.extend(tap.when.clone().map(|when| ("when", when)));
    query.extend(tap.n.map(|n| ("n", n.to_string())));
    let mut ended = false;
    for line in tap.gateway.client()?.lines("/tap", &query, tap.span.0)?.lines() {
        let line = line?;
        // A count comes when events found no room, and at the end.
        ended = line.starts_with("{\"tapped\"");
        if ended {
            let count: Value = serde_json::from_str(&line)?;
            eprintln!("{} events, {} more found no room and were left out", count["tapped"], count["dropped"]);
            continue;
        }
        let line = if tap.format == "text" { short(&line) } else { line + "\n" };
        if std::io::stdout().write_all(line.as_bytes()).is_err() {
            return Ok(()); // nobody reads on
        }
    }
    anyhow::ensure!(ended, "the gateway went away");
    Ok(())
}

/// What a person looks for, on a line.
fn short(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    let text = |name: &str| event[name].as_str().unwrap_or_default().replace(char::is_control, " ");
    format!("{} {} {} {}\n", text("time"), text("topic"), text("key"), event["body"])
}
