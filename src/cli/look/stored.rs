//! Stored events in pieces, for commands that read many of them.

use crate::{admin::client::Client, budget::Span, clock, event::walk::Json, store::At};
use anyhow::Context;
use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Between a consumer and the topic of which it gets dead letters again.
const RETRIED: char = '!';

/// Which events, by when they were taken in or by their numbers.
#[derive(Args, Clone, Copy)]
pub(super) struct Range {
    /// The first: `oldest`, a sequence number, a time as RFC 3339 says, or a span back from now, `-1h`.
    #[arg(long, allow_hyphen_values = true, default_value = "oldest", conflicts_with = "since")]
    from: At,
    /// Events before this, said in the same way; without it all that are stored now.
    #[arg(long, allow_hyphen_values = true)]
    to: Option<At>,
    /// The same as `--from -2h`.
    #[arg(long)]
    since: Option<Span>,
}

impl Range {
    fn begin(&self) -> At {
        match self.since {
            Some(since) => At::Time(clock::wall_ms().saturating_sub(clock::millis_of(since.0.as_millis()))),
            None => self.from,
        }
    }
}

/// A topic at one priority, as the gateway says.
#[derive(Deserialize)]
pub(super) struct Lane {
    pub topic: String,
    pub priority: u8,
    pub next: u64,
    pub events: u64,
}

/// What is stored of some topics, or of all; dead letters on their way back to a consumer are left out.
pub(super) fn lanes(client: &mut Client, topics: &[String]) -> anyhow::Result<Vec<Lane>> {
    #[derive(Deserialize)]
    struct Topics {
        topics: Vec<Lane>,
    }
    let all = client.fetch("GET", "/topics", &[], &[])?;
    let mut lanes = serde_json::from_slice::<Topics>(&all).context("the gateway's answer")?.topics;
    lanes.retain(|lane| !lane.topic.contains(RETRIED));
    if let Some(unknown) = topics.iter().find(|topic| lanes.iter().all(|lane| lane.topic != **topic)) {
        let mut known: Vec<&str> = lanes.iter().map(|lane| lane.topic.as_str()).collect();
        known.dedup();
        anyhow::bail!("nothing was ever stored of a topic `{unknown}`; there are: {}", known.join(", "));
    }
    lanes.retain(|lane| topics.is_empty() || topics.contains(&lane.topic));
    Ok(lanes)
}

/// An event with its envelope, on one line.
pub(super) struct Line {
    pub seq: u64,
    /// When it was taken in, in milliseconds since 1970.
    pub intake: i64,
    pub text: Vec<u8>,
}

/// Reads a range of a lane, up to where the lane ends now.
pub(super) struct Walk {
    pub lane: Lane,
    at: At,
    to: Option<At>,
    limit: usize,
}

impl Walk {
    /// At most `limit` events at once, or 4 MiB of them.
    pub fn of(lane: Lane, range: &Range, limit: usize) -> Walk {
        Walk { lane, at: range.begin(), to: range.to, limit }
    }

    /// The next events; none at the end.
    pub fn more(&mut self, client: &mut Client) -> anyhow::Result<Vec<Line>> {
        let end = if let Some(At::Seq(seq)) = self.to { seq.min(self.lane.next) } else { self.lane.next };
        loop {
            let mut lines = page(client, &self.lane, self.at, self.limit)?;
            let begin = self.at;
            match lines.last() {
                Some(last) => self.at = At::Seq(last.seq + 1),
                None => return Ok(lines),
            }
            let over = lines.iter().any(|line| line.seq >= end);
            lines.retain(|line| {
                let early = matches!(begin, At::Time(time) if line.intake < time);
                let late = matches!(self.to, Some(At::Time(time)) if line.intake >= time);
                line.seq < end && !early && !late
            });
            if over {
                self.at = At::Newest;
            }
            if over || !lines.is_empty() {
                return Ok(lines);
            }
        }
    }
}

/// Events of a lane from a place on.
pub(super) fn page(client: &mut Client, lane: &Lane, at: At, limit: usize) -> anyhow::Result<Vec<Line>> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let from = match at {
        At::Oldest => ("from", "oldest".to_owned()),
        At::Newest => return Ok(Vec::new()),
        At::Seq(seq) => ("from", seq.to_string()),
        At::Time(ms) => ("time", clock::rfc3339(ms)),
    };
    let query =
        [("topic", lane.topic.clone()), ("priority", lane.priority.to_string()), ("limit", limit.to_string()), from];
    let answer = client.fetch("GET", "/events", &query, &[])?;
    let page: Page<'_> = serde_json::from_slice(&answer).context("the gateway's answer")?;
    page.events.into_iter().map(|event| line(event).context("the gateway's answer")).collect()
}

fn line(event: &RawValue) -> Option<Line> {
    let all = Json::trusted(event.get().as_bytes());
    let intake = clock::parse_time(&all.member("intake")?.as_str()?)?;
    let seq = all.member("seq")?.as_i64()?.unsigned_abs();
    // A body stays as it came: with line ends between its parts, it may be.
    let text = event.get().bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte });
    Some(Line { seq, intake, text: text.collect() })
}
