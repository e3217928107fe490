//! GPIO lines as inputs: their edges as the kernel timed them, and levels read at intervals.

#[cfg(test)]
mod tests;

use crate::{
    board::{Bias, Edge, Edges, Held, Inputs, Line, MOST_LINES, Settings},
    budget::Span,
    clock,
    event::json::write_string,
    fault::Fault,
    kind::{Intake, Kind, ParamsError, Source},
    sources::{
        recent::{Reading, Recent, Writing},
        report::{Policy, Report, Sample},
    },
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::BTreeMap, future::pending, io::Write, time::Duration};
use tokio::time;

pub const KIND: Kind<dyn Source> = Kind {
    name: "gpio",
    about: "edges and levels of GPIO lines, with the kernel's debounce and times",
    example: r#"{ "type": "gpio", "line": "GPIO17", "edge": "both", "debounce": "5ms", "bias": "up", "active_low": true }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(Gpio::new(params.decode()?)?)),
};

/// Watches GPIO lines. An edge becomes `{"line":"GPIO17","value":true,"edge":"rising","seq":7}` with the time at which the kernel saw
/// it; `value` is whether the line is active then, `seq` numbers the line's edges since the gateway holds it. With `"edge": "both"`
/// the level at the beginning is told too, without `edge` and `seq`, as are levels that `poll` reads. The line is the key. A line
/// cannot wait: while the store takes nothing, the last 256 edges are kept; what is lost before an event stands in it as `lost`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The line: by its name (`GPIO17`), by the pin of the board's header (`pin 11`), or by chip and offset (`gpiochip0:17`,
    /// `pinctrl-bcm2835:17`, `/dev/tidegate/header:17`).
    line: Option<Line>,
    /// Instead of `line`: up to 64 of them, by the names that their events shall have as `line`.
    #[serde(default)]
    lines: BTreeMap<String, Line>,
    /// Which edges are told. Without: both, or none if there is a `poll`.
    edge: Option<Edges>,
    /// How long a level must be stable to count, up to 10s: contacts bounce for about 5ms.
    #[serde(default = "zero")]
    debounce: Span,
    /// The pull resistor inside the chip. Without: as it is.
    bias: Option<Bias>,
    /// Whether a low line is active: a contact that closes to ground.
    #[serde(default)]
    active_low: bool,
    /// Reads the levels this often; 10ms is the shortest.
    poll: Option<Span>,
    /// When a level that `poll` reads is told.
    #[serde(default)]
    report: Policy,
}

fn zero() -> Span {
    Span::millis(0)
}

/// The kernel counts it in microseconds and 32 bits; more than this is a mistake.
const LONGEST_DEBOUNCE: Span = Span::millis(10_000);
/// Reading a line takes some microseconds; more often than this is what edges are for.
const SHORTEST_POLL: Span = Span::millis(10);
/// Readings that are kept while the store refuses: 10 kB, and half a minute of a button that somebody presses as fast as they
/// can.
const KEPT: usize = 256;

struct Gpio {
    lines: Vec<Watched>,
    settings: Settings,
    poll: Option<Duration>,
    /// What is not on the disk yet.
    recent: Recent<Level, KEPT>,
}

/// A level that was read, or an edge to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Level {
    active: bool,
    /// The edge's number.
    edge: Option<u32>,
}

/// One line.
struct Watched {
    name: String,
    line: Line,
    /// The number of its last edge, since it is held.
    seq: u32,
    report: Report,
}

impl Gpio {
    fn new(config: Config) -> Result<Self, ParamsError> {
        let names: Vec<(String, Line)> = match (config.line, config.lines) {
            (Some(line), lines) if lines.is_empty() => vec![(line.to_string(), line)],
            (None, lines) if !lines.is_empty() => lines.into_iter().collect(),
            _ => return Err(ParamsError::at("", "expected either `line` or `lines`")),
        };
        let at = |field: &str, what: String| Err(ParamsError::at(field, what));
        if names.len() > MOST_LINES {
            return at("lines", format!("{} lines, at most {MOST_LINES}", names.len()));
        }
        if config.debounce > LONGEST_DEBOUNCE {
            return at("debounce", format!("expected at most {LONGEST_DEBOUNCE}"));
        }
        if config.poll.is_some_and(|poll| poll < SHORTEST_POLL) {
            return at("poll", format!("expected at least {SHORTEST_POLL}; for what is faster there is `edge`"));
        }
        if config.poll.is_none() && config.report != Policy::default() {
            return at("poll", "is missing: `report` is about the levels that it reads".into());
        }
        config.report.check().map_err(|(field, why)| ParamsError::at(format!("report.{field}"), why))?;
        let edges = config.edge.or_else(|| config.poll.is_none().then_some(Edges::Both));
        let watched = |(name, line)| Watched { name, line, seq: 0, report: Report::new(config.report) };
        Ok(Gpio {
            lines: names.into_iter().map(watched).collect(),
            settings: Settings { edges, debounce: config.debounce.0, bias: config.bias, active_low: config.active_low },
            poll: config.poll.map(|poll| poll.0),
            recent: Recent::default(),
        })
    }

    /// Tells what the lines do until they are lost.
    async fn follow(&mut self, inputs: &mut dyn Inputs, intake: &Intake) -> Result<(), Fault> {
        self.lines.iter_mut().for_each(|line| line.seq = 0);
        if self.settings.edges == Some(Edges::Both) && self.poll.is_none() {
            self.read(inputs)?;
        }
        let mut ticks = self.poll.map(|poll| {
            let mut ticks = time::interval(poll);
            ticks.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
            ticks
        });
        let mut writing = Writing::default();
        let ended = loop {
            if writing.idle() && !self.recent.is_empty() {
                let lines = &self.lines;
                let write = |reading: &Reading<Level>, out: &mut Vec<u8>| lines.get(reading.of)?.write(reading, out);
                writing.begin(intake, self.recent.take(intake, write)?);
            }
            let done = tokio::select! {
                edge = inputs.edge(), if self.settings.edges.is_some() => edge.map(|edge| self.edge(&edge)),
                () = tick(&mut ticks) => self.read(inputs),
                result = writing.done() => match result {
                    Some(result) => self.recent.written(result, intake).map(|wait| writing.pause(wait)),
                    None => Ok(()), // the pause is over
                },
            };
            if let Err(fault) = done {
                break fault;
            }
        };
        if let Some(result) = writing.finish().await {
            self.recent.written(result, intake)?;
        }
        Err(ended)
    }

    fn edge(&mut self, edge: &Edge) {
        let Some(line) = self.lines.get_mut(edge.line) else { return };
        // Rising numbers; the kernel's own wrap around.
        let lost = edge.seq.wrapping_sub(line.seq).wrapping_sub(1);
        line.seq = edge.seq;
        line.report.told(Sample::Bool(edge.rising), clock::mono_ms());
        self.recent.push(edge.line, edge.mono_ms, lost, Level { active: edge.rising, edge: Some(edge.seq) });
    }

    /// Reads all levels, and tells those that are due by `report`.
    fn read(&mut self, inputs: &mut dyn Inputs) -> Result<(), Fault> {
        for (n, line) in self.lines.iter_mut().enumerate() {
            let active = inputs.level(n)?;
            if self.recent.missed(n) {
                line.report.forget();
            }
            if line.report.tell(Sample::Bool(active), clock::mono_ms()) {
                self.recent.push(n, clock::mono_ms(), 0, Level { active, edge: None });
            }
        }
        Ok(())
    }
}

async fn tick(ticks: &mut Option<time::Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => pending().await,
    }
}

impl Watched {
    /// Writes the body of an event, and gives its key.
    fn write(&self, Reading { lost, what, .. }: &Reading<Level>, out: &mut Vec<u8>) -> Option<&str> {
        out.extend_from_slice(b"{\"line\":");
        write_string(&self.name, out);
        let mut put = |text: std::fmt::Arguments<'_>| out.write_fmt(text).ok(); // a `Vec` takes everything
        put(format_args!(",\"value\":{}", what.active));
        if let Some(seq) = what.edge {
            let edge = if what.active { "rising" } else { "falling" };
            put(format_args!(",\"edge\":\"{edge}\",\"seq\":{seq}"));
        }
        if *lost > 0 {
            put(format_args!(",\"lost\":{lost}"));
        }
        out.push(b'}');
        Some(&self.name)
    }
}

#[async_trait]
impl Source for Gpio {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        let lines: Vec<Line> = self.lines.iter().map(|line| line.line.clone()).collect();
        let mut held = Held::open(&lines, &self.settings)?;
        self.follow(&mut held, intake).await
    }
}
