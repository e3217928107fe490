//! What a configuration may take of the memory: the worst case of each part, and what is left for what comes in.
//!
//! The parts are what is held whatever comes: caches, what a consumer works on, what processes remember. The rest goes to the
//! sources, who draw from it before they buffer anything ([`Pools`]).

use super::{Plan, pipeline::LOT};
use crate::{
    budget::{Pool, Pools, Size},
    config::{Batch, PipelineSettings},
    kind::Need,
    store,
};
use std::{cmp::Reverse, fmt};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// From so much memory on, everything has its usual size; with less, what the configuration does not say shrinks with it.
const AMPLE: usize = 128 * MIB;
/// What is left for sources where the memory is not said: some hundred bodies and packets of the usual limits.
const UNSAID: usize = 160 * MIB;
/// The cache of the writer, 2 MiB, that of the reader, the index of the WAL, and what SQLite puts together for a row.
const SQLITE: usize = 3 * MIB;
/// What a row takes until it is written: as it grows, packed, and bound.
const ROW: usize = 768 * KIB;
/// A row is at most so large, unless one batch is larger, and so is what is read from the disk at once.
const READ: usize = 256 * KIB;
/// An event as it is worked on, without its body.
const EVENT: usize = 320;
/// What a connection of a sink or of a process outside takes: buffers, an answer, TLS.
const LINK: usize = 640 * KIB;
/// What operators ask for, one answer at a time, and their connections.
const ADMIN: usize = MIB;
/// Notes of what happened to single events, and the ids of those that lie in the store.
const NOTES: usize = MIB;
const WATCHED: usize = 256 * KIB;
/// Spans that wait for a collector, and a request of some of them.
const SPANS: usize = MIB;
/// An object on its way to the object store and back: made, sent, read back.
const OFFLOAD: usize = 4 * MIB;
/// A request of a process that reaches outside, and its answer.
const REACH: usize = 160 * KIB;
/// Events in the window of `workers`, and what became of them.
const WINDOW: usize = 2 * MIB;

/// A part: its name, its bytes, and what to change where it is too much.
type Part = (String, usize, &'static str);

/// What goes where.
pub struct Sum {
    pub limit: usize,
    parts: Vec<Part>,
    pub waiting: usize,
    pub tails: usize,
    pub lot: usize,
    /// What is recorded of single events.
    pub notes: usize,
    batch: usize,
    state: usize,
    needs: Vec<Need>,
}

impl Sum {
    /// Adds up. The error says why it cannot fit.
    pub fn of(plan: &Plan) -> Result<Sum, String> {
        let said = plan.settings.gateway.memory.map(|size| size.bytes());
        let mut sum = Sum::sized(plan, said.unwrap_or(AMPLE));
        if said.is_none() {
            sum.limit = sum.fixed().saturating_add(UNSAID.max(2 * sum.largest()));
        }
        let least = sum.fixed().saturating_add(2 * sum.largest());
        if least > sum.limit { Err(sum.too_much(least)) } else { Ok(sum) }
    }

    fn sized(plan: &Plan, limit: usize) -> Sum {
        let scaled = |full: usize, least: usize| {
            (full as u64 * limit as u64 / AMPLE as u64).clamp(least as u64, full as u64) as usize
        };
        let needs: Vec<Need> = plan.sources.iter().map(|source| source.source.need()).collect();
        // A batch that is larger than all that may wait is refused.
        let batch = needs.iter().map(|need| need.largest / 2).max().unwrap_or(0);
        let mut sum = Sum {
            limit,
            parts: Vec::new(),
            waiting: scaled(4 * MIB, MIB).max(batch.min(4 * MIB)),
            tails: scaled(8 * MIB, MIB),
            lot: scaled(LOT, 64 * KIB),
            notes: scaled(NOTES, 128 * KIB),
            batch: scaled(Batch::BYTES, 32 * KIB),
            state: scaled(PipelineSettings::STATE, MIB),
            needs,
        };
        sum.store(plan);
        sum.components(plan);
        sum
    }

    fn store(&mut self, plan: &Plan) {
        let settings = &plan.settings.store;
        let ids = usize::try_from(settings.dedupe.ids).unwrap_or(usize::MAX).saturating_mul(store::ID);
        self.add("store: SQLite", SQLITE, "");
        self.add("store: ids that are known", ids, "`store.dedupe.ids`");
        self.add("store: fresh events at hand", self.tails, "");
        self.add("store: waiting for the disk", self.waiting + ROW, "");
        self.add("admin", ADMIN, "");
        let taken = if plan.settings.gateway.trace.otlp.is_some() { SPANS } else { 0 };
        self.add("traces of events", self.notes + WATCHED + taken, "");
        if settings.disk.offload.is_some() {
            self.add("store: offload", OFFLOAD, "");
        }
        for (name, bytes) in plan.systems.memory() {
            self.add(format!("systems.{name}"), bytes, "its `limit`");
        }
    }

    fn components(&mut self, plan: &Plan) {
        for (source, need) in plan.sources.iter().zip(self.needs.clone()) {
            self.add(format!("sources.{}", source.name), need.fixed, "");
        }
        let made = 4 * self.lot + READ; // what a pipeline commits at once, at most, and one event more
        let row = |topics: &[String]| {
            let of = |topic: &String| match plan.sources.iter().position(|source| source.name == *topic) {
                Some(at) => self.needs.get(at).map_or(READ, |need| READ.max(need.largest / 4)),
                None => made,
            };
            topics.iter().map(of).max().unwrap_or(READ)
        };
        let mut parts = Vec::new();
        for pipeline in &plan.pipelines {
            let settings = &pipeline.settings;
            let outside = pipeline.processes.iter().filter(|process| process.process.outside().is_some()).count();
            // Read, and taken apart; made, with room to grow; the store's own copy.
            let mut bytes = READ + row(&settings.from) + self.lot + self.lot / 256 * EVENT + 3 * made;
            bytes += pipeline.processes.iter().map(|process| process.process.memory()).sum::<usize>();
            bytes += outside * settings.workers as usize * REACH + if outside > 0 { WINDOW } else { 0 };
            let keeps = pipeline.processes.iter().any(|process| process.process.keeps_state());
            bytes += if keeps { settings.state.map_or(self.state, Size::bytes) + 2 * self.lot } else { 0 };
            parts.push((format!("pipelines.{}", pipeline.name), bytes, "its `state`, `workers`, `flatmap`, `spawn`"));
        }
        for sink in &plan.sinks {
            let common = &sink.common;
            let (batch, max) = (common.batch.bytes.map_or(self.batch, Size::bytes), common.batch.max as usize);
            let readers = if common.drain.live.is_some() { 2 } else { 1 };
            // The events, their bodies once more as they are sent, and packed; late ones go back.
            let events = batch * if common.late.is_some() { 4 } else { 3 } + max.min(batch / 32) * EVENT;
            let bytes = events + readers * (READ + row(&sink.from)) + LINK;
            parts.push((format!("sinks.{}", sink.name), bytes, "its `batch.bytes`"));
        }
        self.parts.extend(parts);
    }

    fn add(&mut self, name: impl Into<String>, bytes: usize, hint: &'static str) {
        if bytes > 0 {
            self.parts.push((name.into(), bytes, hint));
        }
    }

    fn fixed(&self) -> usize {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.1))
    }

    fn largest(&self) -> usize {
        self.needs.iter().map(|need| need.largest).max().unwrap_or(0)
    }

    /// What is left for sources.
    fn left(&self) -> usize {
        self.limit - self.fixed()
    }

    fn too_much(&self, least: usize) -> String {
        let intake = (self.largest() > 0)
            .then(|| ("what comes in".to_owned(), 2 * self.largest(), "`max_body` and `max_packet` of sources"));
        let mut parts: Vec<&Part> = self.parts.iter().chain(&intake).collect();
        parts.sort_by_key(|part| Reverse(part.1));
        let told = |(name, bytes, hint): &&Part| match *hint {
            "" => format!("{name} {}", size(*bytes)),
            hint => format!("{name} {} ({hint})", size(*bytes)),
        };
        let told: Vec<String> = parts.iter().take(4).map(told).collect();
        format!(
            "{} is too little: the parts may take {} together, most of all {}; raise it, or lower those",
            size(self.limit),
            size(least),
            told.join(", ")
        )
    }

    /// Half of what is left is for events. Connections have three eighths, and what is kept for clients an eighth, or as much
    /// as is asked for where the memory is not said.
    pub fn pools(&self, said: bool) -> Pools {
        let left = self.left();
        let part = |part: usize, asked: fn(&Need) -> usize| {
            let asked: usize = self.needs.iter().map(asked).sum();
            Pool::new(if said { part } else { part.max(asked) })
        };
        Pools {
            connections: part(left / 8 * 3, |need| need.connections),
            kept: part(left / 8, |need| need.kept),
            events: Pool::new(left / 2),
        }
    }

    /// Fills in the sizes that the configuration does not say.
    pub fn fill_in(&self, plan: &mut Plan) {
        for pipeline in &mut plan.pipelines {
            pipeline.settings.state.get_or_insert(Size(self.state as u64));
        }
        for sink in &mut plan.sinks {
            sink.common.batch.bytes.get_or_insert(Size(self.batch as u64));
        }
    }

    /// The rows of a table: what, and how much.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let parts = self.parts.iter().map(|(name, bytes, _)| (name.as_str(), *bytes));
        let rows = parts.chain([("left for what comes in", self.left()), ("together", self.limit)]);
        rows.map(|(name, bytes)| vec![name.to_owned(), size(bytes)]).collect()
    }
}

/// To a tenth of a MiB.
fn size(bytes: usize) -> String {
    let tenths = (bytes as u64 * 10).div_ceil(MIB as u64);
    if tenths.is_multiple_of(10) {
        format!("{}MiB", tenths / 10)
    } else {
        format!("{}.{}MiB", tenths / 10, tenths % 10)
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rows()).finish()
    }
}
