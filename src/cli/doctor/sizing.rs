//! How long the store lasts while there is no upstream, and what is written to the disk meanwhile.

use super::{Finding, number, size, span};
use crate::{
    budget::{Size, Span},
    config::Settings,
};
use clap::Args;
use serde_json::Value;
use std::time::Duration;

const DAY: f64 = 86_400.0;
/// What an event takes in the store beside its body: id, key, times, and its part of a row and of the pages.
const AROUND: f64 = 100.0;
/// A body, where nothing is known.
const BODY: f64 = 200.0;
/// What a commit writes beside its events: pages of rows, cursors and the log, measured.
const COMMIT: f64 = 8192.0;
/// Each stored byte is written to the log and to the database.
const TWICE: f64 = 2.0;
/// A gateway that runs for less says nothing about its rate.
const LONG_ENOUGH: f64 = 60.0;
/// As much of a card may be written in its life, in times of its size: of the cheap ones.
const CYCLES: f64 = 500.0;
const CARD: f64 = 8e9;

/// For how much it shall do.
#[derive(Args, Clone)]
pub(in crate::cli) struct Load {
    /// Events that come in, such as `20/s` or `5/m`; without it what the running gateway has taken in.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Bytes of an event's body; without it what the running gateway has in its store, or 200.
    #[arg(long, value_parser = str::parse::<Size>)]
    size: Option<Size>,
    /// How long there may be no upstream.
    #[arg(long, default_value = "6h", value_parser = str::parse::<Span>)]
    offline: Span,
}

impl Default for Load {
    fn default() -> Self {
        Load { rate: None, size: None, offline: Span::millis(6 * 3_600_000) }
    }
}

/// Events a second.
fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a rate; write it like \"20/s\", \"5/m\" or \"100/h\"");
    let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
    let seconds = match unit {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => DAY,
        _ => return Err(wrong()),
    };
    let count: f64 = count.trim().parse().map_err(|_| wrong())?;
    if count.is_finite() && count > 0.0 && count <= 1e7 { Ok(count / seconds) } else { Err(wrong()) }
}

/// What is known of a running gateway: events a second, bytes of one in the store, commits a second.
fn seen(status: &Value) -> (Option<f64>, Option<f64>, Option<f64>) {
    let seconds = number(status, "/seconds") as f64;
    let consumers = status["consumers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let queued = consumers.iter().map(|row| number(row, "/queued")).max().unwrap_or(0) as f64;
    let a_second = |count: &str| (seconds >= LONG_ENOUGH).then(|| number(status, count) as f64 / seconds);
    // Of a few events one would measure the empty tables.
    let bytes = (queued >= 1000.0).then(|| number(status, "/store/bytes") as f64 / queued);
    (a_second("/taken_since_start").filter(|rate| *rate > 0.0), bytes, a_second("/store/commits"))
}

pub(super) fn look(settings: &Settings, status: Option<&Value>, load: &Load, sync: Option<Duration>) -> Vec<Finding> {
    let (rate, bytes, commits) = status.map(seen).unwrap_or_default();
    let Some(rate) = load.rate.or(rate) else {
        return vec![Finding::right("sizing", "say how much comes in: `--rate 20/s --size 200B`")];
    };
    let event = match load.size {
        Some(body) => body.0 as f64 + AROUND,
        None => bytes.unwrap_or(BODY + AROUND),
    };
    let a_second = rate * event;
    let used = status.map_or(0, |status| number(status, "/store/bytes"));
    let left = settings.store.disk.high.0.saturating_sub(used);
    let (offline, lasts) = (load.offline.0.as_secs_f64(), left as f64 / a_second);
    let says = format!(
        "{} offline at {rate:.3} events/s of {event:.0} bytes in the store need {}; what it has left, {}, lasts for {}",
        span(offline),
        size((a_second * offline) as u64),
        size(left),
        span(lasts)
    );
    let advice = "raise `store.disk.high`, or say with `when_full` what goes first";
    let room = if lasts < offline { Finding::wrong("sizing", says, advice) } else { Finding::right("sizing", says) };
    // Each event may be a commit of its own, as fast as the disk allows; those of a running gateway are counted.
    let fastest = sync.map_or(100.0, |sync| 1.0 / sync.as_secs_f64().max(1e-4));
    let commits = if load.rate.is_none() { commits } else { None }.unwrap_or_else(|| rate.min(fastest));
    let a_day = (commits * COMMIT + TWICE * a_second) * DAY;
    let says = format!(
        "some {} a day are written at {commits:.2} commits/s; a cheap card of {} lasts for {}",
        size(a_day as u64),
        size(CARD as u64),
        span(CARD * CYCLES / a_day * DAY)
    );
    let worn = CARD * CYCLES / a_day < 365.0;
    let advice = "fewer commits write less: batch at the producers, `linger` of polling sources, a pipeline that aggregates; or an \
                  industrial card or SSD";
    vec![room, if worn { Finding::doubtful("wear", says, advice) } else { Finding::right("wear", says) }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict::{self, Doubtful, Right, Wrong};
    use serde_json::json;

    #[test]
    fn a_rate_is_read_as_people_write_it() {
        for (text, want) in [
            ("20/s", Some(20.0)),
            ("20", Some(20.0)),
            ("6/m", Some(0.1)),
            ("0.5/s", Some(0.5)),
            ("0/s", None),
            ("20/week", None),
            ("NaN/s", None),
            ("many", None),
        ] {
            assert_eq!(rate(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn it_is_worked_out_how_long_the_store_lasts() {
        let running = |seconds: u64, taken: u64, bytes: u64, queued: u64| {
            json!({ "seconds": seconds, "taken_since_start": taken, "store": { "bytes": bytes, "commits": seconds },
                "consumers": [{ "queued": queued }] })
        };
        let load = |rate: Option<f64>, size: Option<u64>| Load {
            rate,
            size: size.map(Size),
            offline: Span::millis(6 * 3_600_000),
        };
        let settings = Settings::default(); // 1 GiB
        for (status, load, verdicts, says) in [
            (None, load(None, None), &[Right][..], "--rate"),
            (
                None,
                load(Some(20.0), Some(200)),
                &[Right, Doubtful],
                "6 hours offline at 20.000 events/s of 300 bytes in the store need 123 MiB; what it has left, 1.0 GiB, lasts for 49 hours",
            ),
            (None, load(Some(1.0), Some(200)), &[Right, Right], "need 6.2 MiB"),
            (None, load(Some(2000.0), Some(200)), &[Wrong, Doubtful], "lasts for 29 minutes"),
            (
                Some(running(1000, 2000, 512 << 20, 1 << 20)),
                load(None, None),
                &[Right, Right],
                "of 512 bytes in the store need 21 MiB; what it has left, 512 MiB",
            ),
            (Some(running(10, 2000, 0, 0)), load(None, None), &[Right], "--rate"),
        ] {
            let found = look(&settings, status.as_ref(), &load, Some(Duration::from_millis(5)));
            assert_eq!(found.iter().map(|f| f.verdict).collect::<Vec<Verdict>>(), verdicts, "{found:#?}");
            assert!(found[0].says.contains(says), "{found:#?}");
        }
    }
}
