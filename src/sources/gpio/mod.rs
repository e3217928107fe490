//! GPIO lines as inputs: their edges as the kernel timed them, and levels read at intervals.

mod ring;
#[cfg(test)]
mod tests;

use crate::{
    board::{Bias, Edge, Edges, Held, Inputs, Line, MOST_LINES, Settings},
    budget::Span,
    clock,
    event::{Batch, Draft, When, json::write_string},
    fault::Fault,
    kind::{Intake, Kind, ParamsError, Source},
    store::{Placed, Refusal},
};
use async_trait::async_trait;
use ring::{Reading, Ring};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    future::{Future, pending},
    io::Write,
    pin::Pin,
    time::{Duration, Instant},
};
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
    /// Which of the levels that `poll` reads are told.
    #[serde(default)]
    report: Report,
    /// With `"report": "change"`: a level is told after this long even if it is the same.
    at_least: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Report {
    /// Every one.
    #[default]
    Always,
    /// Those that differ from the last that was told.
    Change,
}

fn zero() -> Span {
    Span::millis(0)
}

/// The kernel counts it in microseconds and 32 bits; more than this is a mistake.
const LONGEST_DEBOUNCE: Span = Span::millis(10_000);
/// Reading a line takes some microseconds; more often than this is what edges are for.
const SHORTEST_POLL: Span = Span::millis(10);
/// How long to wait when the store refuses.
const REFUSED: Duration = Duration::from_millis(500);

/// An append that is on its way.
type Writing<'a> = Pin<Box<dyn Future<Output = Result<Placed, Refusal>> + Send + 'a>>;

struct Gpio {
    lines: Vec<Watched>,
    settings: Settings,
    poll: Option<Duration>,
    report: Report,
    at_least: Option<Duration>,
    /// What is not on the disk yet.
    ring: Ring,
    /// What is on its way there.
    taken: Vec<Reading>,
    /// Whether the last batch told of losses.
    losing: bool,
    /// Lost since the gateway started.
    lost: u64,
}

/// One line.
struct Watched {
    name: String,
    line: Line,
    /// The number of its last edge, since it is held.
    seq: u32,
    /// The level that was told last, and when.
    told: Option<(bool, Instant)>,
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
        if config.poll.is_none() && (config.report != Report::Always || config.at_least.is_some()) {
            return at("poll", "is missing: `report` and `at_least` are about the levels that it reads".into());
        }
        if config.report == Report::Always && config.at_least.is_some() {
            return at("at_least", "has a meaning only with `\"report\": \"change\"`".into());
        }
        let edges = config.edge.or_else(|| config.poll.is_none().then_some(Edges::Both));
        let watched = |(name, line)| Watched { name, line, seq: 0, told: None };
        Ok(Gpio {
            lines: names.into_iter().map(watched).collect(),
            settings: Settings { edges, debounce: config.debounce.0, bias: config.bias, active_low: config.active_low },
            poll: config.poll.map(|poll| poll.0),
            report: config.report,
            at_least: config.at_least.map(|span| span.0),
            ring: Ring::default(),
            taken: Vec::new(),
            losing: false,
            lost: 0,
        })
    }

    /// Tells what the lines do until they are lost.
    async fn follow(&mut self, inputs: &mut dyn Inputs, intake: &Intake) -> Result<(), Fault> {
        self.lines.iter_mut().for_each(|line| line.seq = 0);
        if self.settings.edges == Some(Edges::Both) && self.poll.is_none() {
            self.read(inputs, true)?;
        }
        let mut ticks = self.poll.map(|poll| {
            let mut ticks = time::interval(poll);
            ticks.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
            ticks
        });
        let mut writing: Option<Writing<'_>> = None;
        let mut pause: Option<time::Instant> = None;
        let ended = loop {
            if writing.is_none() && pause.is_none() && !self.ring.is_empty() {
                let batch = self.take(intake)?;
                writing = Some(Box::pin(intake.append(batch)));
            }
            let done = tokio::select! {
                edge = inputs.edge(), if self.settings.edges.is_some() => edge.map(|edge| self.edge(&edge)),
                () = tick(&mut ticks) => self.read(inputs, self.report == Report::Always),
                result = written(&mut writing) => {
                    writing = None;
                    self.written(result, intake).map(|wait| pause = wait)
                }
                () = over(pause) => {
                    pause = None;
                    Ok(())
                }
            };
            if let Err(fault) = done {
                break fault;
            }
        };
        if let Some(writing) = writing {
            self.written(writing.await, intake)?;
        }
        Err(ended)
    }

    fn edge(&mut self, edge: &Edge) {
        let Some(line) = self.lines.get_mut(edge.line) else { return };
        // Rising numbers; the kernel's own wrap around.
        let lost = edge.seq.wrapping_sub(line.seq).wrapping_sub(1);
        line.seq = edge.seq;
        line.told = Some((edge.rising, Instant::now()));
        let reading =
            Reading { line: edge.line, active: edge.rising, mono_ms: edge.mono_ms, seq: Some(edge.seq), lost };
        self.ring.push(reading);
    }

    /// Reads all levels, and tells them: every one, or those that are due by `report`.
    fn read(&mut self, inputs: &mut dyn Inputs, every: bool) -> Result<(), Fault> {
        let now = Instant::now();
        for (n, line) in self.lines.iter_mut().enumerate() {
            let active = inputs.level(n)?;
            let due = |since: Instant| self.at_least.is_some_and(|span| now.duration_since(since) >= span);
            if every || line.told.is_none_or(|(last, since)| last != active || due(since)) {
                line.told = Some((active, now));
                self.ring.push(Reading { line: n, active, mono_ms: clock::mono_ms(), seq: None, lost: 0 });
            }
        }
        Ok(())
    }

    /// Makes events of all that is in the ring.
    fn take(&mut self, intake: &Intake) -> Result<Batch, Fault> {
        let (mut batch, mut body) = (Batch::default(), Vec::new());
        let mut lost = 0;
        while let Some(reading) = self.ring.pop() {
            let Some(line) = self.lines.get(reading.line) else { continue };
            reading.write(&line.name, &mut body);
            let draft =
                Draft { key: &line.name, time: Some(When::Sampled(reading.mono_ms)), body: &body, ..Draft::default() };
            intake.push(&mut batch, &draft).map_err(Fault::fatal)?;
            lost += u64::from(reading.lost);
            self.taken.push(reading);
        }
        self.lost += lost;
        if (lost > 0) != self.losing {
            self.losing = lost > 0;
            let (name, all) = (intake.topic(), self.lost);
            match self.losing {
                true => log::warn!("sources.{name}: edges come faster than they can be stored: {lost} were lost"),
                false => log::info!("sources.{name}: no more edges are lost; {all} were since the start"),
            }
        }
        Ok(batch)
    }

    /// What became of an append: until when to wait before the next.
    fn written(&mut self, result: Result<Placed, Refusal>, intake: &Intake) -> Result<Option<time::Instant>, Fault> {
        let Err(refusal) = result else {
            self.taken.clear();
            if self.ring.refused(false) {
                log::info!("sources.{}: the store takes events again", intake.topic());
            }
            return Ok(None);
        };
        // They are counted again when they are taken again.
        self.lost -= self.taken.iter().map(|reading| u64::from(reading.lost)).sum::<u64>();
        self.ring.put_back(&mut self.taken);
        if let Refusal::Closed | Refusal::TooLarge { .. } = refusal {
            return Err(super::refused(refusal));
        }
        if self.ring.refused(true) {
            let (name, kept) = (intake.topic(), ring::CAPACITY);
            log::warn!("sources.{name}: {refusal}: the last {kept} readings are kept until it takes them");
        }
        Ok(Some(time::Instant::now() + REFUSED))
    }
}

async fn tick(ticks: &mut Option<time::Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => pending().await,
    }
}

async fn written(writing: &mut Option<Writing<'_>>) -> Result<Placed, Refusal> {
    match writing {
        Some(writing) => writing.await,
        None => pending().await,
    }
}

async fn over(pause: Option<time::Instant>) {
    match pause {
        Some(until) => time::sleep_until(until).await,
        None => pending().await,
    }
}

impl Reading {
    fn write(&self, line: &str, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(b"{\"line\":");
        write_string(line, out);
        let mut put = |text: std::fmt::Arguments<'_>| out.write_fmt(text).ok(); // a `Vec` takes everything
        put(format_args!(",\"value\":{}", self.active));
        if let Some(seq) = self.seq {
            let edge = if self.active { "rising" } else { "falling" };
            put(format_args!(",\"edge\":\"{edge}\",\"seq\":{seq}"));
        }
        if self.lost > 0 {
            put(format_args!(",\"lost\":{}", self.lost));
        }
        out.push(b'}');
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
