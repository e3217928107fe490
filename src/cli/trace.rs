//! `tidegate trace` and `tidegate ledger`: the way of one event, and what became of all.

use super::{
    columns,
    operate::{Which, cell, table},
};
use crate::admin::client;
use clap::Args;
use serde_json::Value;

#[derive(Args)]
pub(super) struct Trace {
    /// The event's id: its producer's, or the one that the gateway made and answered.
    id: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Args)]
pub(super) struct Ledger {
    /// From this time on: `2026-11-29T10:00:00Z`, or `2h`, `7d` before now.
    #[arg(long)]
    since: Option<String>,
    /// Up to this time; now, without it.
    #[arg(long)]
    until: Option<String>,
    #[command(flatten)]
    which: Which,
}

/// The way of one event.
pub(super) fn trace(Trace { id, which }: &Trace) -> anyhow::Result<()> {
    let answer = which.ask("GET", &format!("/trace/{}", client::encode(id)), &[])?;
    which.show(&answer, way)?;
    anyhow::ensure!(answer["found"] == true, "nothing is known of `{id}`{}", unseen(&answer));
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What was not looked at.
fn unseen(answer: &Value) -> String {
    let mut text = String::new();
    if answer["complete"] == false {
        text += "; the store holds more than could be looked through in time";
    }
    if answer["offloaded"].as_u64().is_some_and(|count| count > 0) {
        text += &format!("; the {} events in the object store were not looked at", answer["offloaded"]);
    }
    text
}

fn way(answer: &Value) -> String {
    let mut text = String::new();
    for place in list(&answer["places"]) {
        let taken = place["taken"].as_str().map(|taken| format!(", taken in {taken}")).unwrap_or_default();
        text += &format!(
            "{} in topic `{}` (lane {}, number {}{taken})\n",
            cell(&place["is"]),
            cell(&place["topic"]),
            place["lane"],
            place["number"]
        );
        for reading in list(&place["consumers"]) {
            let before = match (reading["is"].as_str(), reading["before"].as_u64()) {
                (Some("waits"), Some(before)) if before > 0 => format!(", {before} before it"),
                _ => String::new(),
            };
            text += &format!("  {}: {}{before}\n", cell(&reading["consumer"]), cell(&reading["is"]));
        }
    }
    if list(&answer["places"]).is_empty() && answer["found"] == true {
        text += &format!("not in the store any more{}\n", unseen(answer));
    }
    for topic in list(&answer["known"]) {
        text += &format!("its id was taken in lately, into topic `{}`\n", cell(topic));
    }
    for letter in list(&answer["letters"]) {
        text += &format!(
            "dead letter {} of {}, {}: {}\n",
            letter["id"],
            cell(&letter["consumer"]),
            cell(&letter["at"]),
            cell(&letter["reason"])
        );
    }
    let steps = list(&answer["steps"]);
    if steps.is_empty() {
        return match answer["found"] == true {
            true => text + "its way was not recorded: `gateway.trace.sample` says which are\n",
            false => text,
        };
    }
    let mut rows = vec![["AT", "WHO", "WHAT", "TOOK", ""].map(str::to_owned).to_vec()];
    rows.extend(steps.iter().map(|step| {
        let took = step["us"].as_u64().map(|us| format!("{:.1} ms", us as f64 / 1e3)).unwrap_or_default();
        let said = if step["said"].is_null() { String::new() } else { cell(&step["said"]) };
        vec![cell(&step["at"]), cell(&step["who"]), cell(&step["what"]), took, said]
    }));
    text + "\n" + &columns(&rows)
}

/// All totals, or what happened in a span of time.
pub(super) fn ledger(Ledger { since, until, which }: &Ledger) -> anyhow::Result<()> {
    let query = [("since", since), ("until", until)];
    let query: Vec<(&str, String)> =
        query.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
    which.show(&which.ask("GET", "/ledger", &query)?, |answer| match query.is_empty() {
        true => table(&answer["ledger"]),
        false => span(answer),
    })
}

fn span(answer: &Value) -> String {
    let mut text = format!("{} to {}\n{}", cell(&answer["since"]), cell(&answer["until"]), table(&answer["ledger"]));
    let losses = list(&answer["losses"]);
    if losses.is_empty() {
        return text + "nothing was lost\n";
    }
    for loss in losses {
        let (from, to) = (cell(&loss["from"]), cell(&loss["to"]));
        let minute = |time: &str| time.get(..16).unwrap_or(time).replace('T', " ");
        let (from, to) = (minute(&from), minute(&to));
        let to = match from.get(..10) == to.get(..10) {
            _ if from == to => String::new(),
            true => format!(" to {}", to.get(11..).unwrap_or_default()),
            false => format!(" to {to}"),
        };
        let consumer = cell(&loss["consumer"]);
        let consumer = if consumer.is_empty() { consumer } else { format!(", {consumer}") };
        text += &format!(
            "{from}{to}: topic {}{consumer}: {} {}: {}\n",
            cell(&loss["topic"]),
            loss["count"],
            cell(&loss["what"]),
            cell(&loss["reason"])
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn losses_are_told_with_time_number_and_reason() {
        let loss = |from: &str, to: &str, consumer: &str| {
            json!({ "from": format!("2026-11-29T{from}:07.123Z"), "to": format!("2026-11-{to}:00.000Z"), "topic": "readings",
                "consumer": consumer, "what": "evicted", "count": 412, "reason": "store over `high`, drop_oldest" })
        };
        let losses = json!([
            loss("10:04", "29T10:09", "sinks.cloud"),
            loss("10:04", "29T10:04", ""),
            loss("23:59", "30T00:01", "")
        ]);
        let answer = json!({ "since": "a", "until": "b", "ledger": [], "losses": losses });
        let told = span(&answer);
        for line in [
            "2026-11-29 10:04 to 10:09: topic readings, sinks.cloud: 412 evicted: store over `high`, drop_oldest",
            "2026-11-29 10:04: topic readings: 412 evicted: store over `high`, drop_oldest",
            "2026-11-29 23:59 to 2026-11-30 00:01: topic readings: 412 evicted: store over `high`, drop_oldest",
        ] {
            assert!(told.lines().any(|told| told == line), "{told}");
        }
        assert!(span(&json!({ "ledger": [], "losses": [] })).ends_with("nothing was lost\n"));
    }
}
