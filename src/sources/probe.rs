//! Things that are read at intervals by calls that block: sensors on a bus, files of the kernel. Each goes at its own pace; what
//! does not answer holds up nobody else, is told once, and is tried again at growing intervals.

use super::{
    recent::{Reading, Recent, Writing},
    report::{Policy, Report, Sample},
};
use crate::{budget::Span, clock, event::json::write_string, fault::Fault, kind::Intake};
use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex, TryLockError},
    time::Duration,
};
use tokio::{
    sync::mpsc::{Sender, channel},
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

/// Values of one event.
pub const MOST_VALUES: usize = 16;
/// Bytes of a name.
const LONGEST_NAME: usize = 64;
/// Places that one source reads: each may have a thread.
pub const MOST_PLACES: usize = 64;
/// Things that are found at one place, behind a pattern.
const MOST_FOUND: usize = 64;
/// Readings that are kept while the store refuses: 70 kB.
const KEPT: usize = 256;
/// How long one reading may take: a 1-wire sensor needs 750 ms, the kernel gives an I2C bus up after one second.
const LIMIT: Duration = Duration::from_secs(5);
/// A place where nothing can be read is tried again after this, then after twice that, and so on.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Events of so long go into one commit.
const LINGER: Duration = Duration::from_millis(250);
/// What was taken and is not looked at yet.
const TAKEN: usize = 16;

/// In the order of the fields; what is no number is broken, and told nobody.
pub type Values = heapless::Vec<f64, MOST_VALUES>;
/// Which fields are told, and their values.
type Told = heapless::Vec<(u8, f64), MOST_VALUES>;

/// Something that can be read; the calls block.
pub trait Probe: Send + 'static {
    /// Reads it once, and hands over what it has.
    fn read(&mut self, tell: &mut dyn FnMut(Taken)) -> Result<(), Trouble>;
}

/// Why nothing could be read.
#[derive(Debug, PartialEq)]
pub enum Trouble {
    Failed(String),
    /// What all share is gone: everything has to be opened anew.
    Gone(String),
}

/// What was read.
#[derive(Debug)]
pub struct Taken {
    /// Which of the things at the place, where there may be several.
    pub id: Option<String>,
    pub mono_ms: u64,
    pub values: Result<Values, String>,
}

impl Taken {
    /// Read just now.
    pub fn now(id: Option<String>, values: Result<Values, String>) -> Taken {
        Taken { id, mono_ms: clock::mono_ms(), values }
    }
}

/// All that one source reads.
pub struct Probes<P> {
    /// What an event calls that which it is about: `device`.
    word: &'static str,
    /// Whether only one is read at a time, since all are on one bus.
    alone: bool,
    places: Vec<Place<P>>,
    /// What events are about: first of each place, then what was found behind patterns.
    things: Vec<Thing>,
    found: BTreeMap<(usize, String), usize>,
    recent: Recent<Told, KEPT>,
}

/// Where something is read.
struct Place<P> {
    name: String,
    every: Duration,
    fields: Vec<(String, Policy)>,
    probe: Arc<Mutex<P>>,
    /// When its turn is, on its own grid.
    due: Instant,
    /// While nothing can be read there: how long to wait, and until when.
    silent: Option<(Duration, Instant)>,
    reading: Option<Under>,
    /// Counts its readings.
    round: u64,
    /// Whether this reading brought anything.
    brought: bool,
    /// Whether it was told that readings are left out.
    behind: bool,
}

/// A reading that is under way.
struct Under {
    task: Id,
    /// When it began, or brought something.
    since: Instant,
    late: bool,
}

/// What events are about.
struct Thing {
    place: usize,
    key: String,
    /// The event's body up to its values.
    head: Vec<u8>,
    reports: Vec<Report>,
    /// Since when it fails, and how often.
    failing: Option<(Instant, u32)>,
    /// The last reading in which it was.
    round: u64,
}

impl<P: Probe> Probes<P> {
    pub fn new(word: &'static str, alone: bool) -> Self {
        let (places, things, found) = (Vec::new(), Vec::new(), BTreeMap::new());
        Probes { word, alone, places, things, found, recent: Recent::default() }
    }

    /// Adds a place, with the names of its values and when they are told; at most `MOST_PLACES`, with `MOST_VALUES` each.
    pub fn add(&mut self, name: &str, every: Duration, fields: Vec<(String, Policy)>, probe: P) {
        self.things.push(Thing::new(self.word, self.places.len(), name, None, &fields));
        let (name, probe, due) = (name.to_owned(), Arc::new(Mutex::new(probe)), Instant::now());
        let (silent, reading, round, brought, behind) = (None, None, 0, false, false);
        self.places.push(Place { name, every, fields, probe, due, silent, reading, round, brought, behind });
    }

    /// Reads until what all share is gone.
    pub async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        // Whatever was to be at its turn before is left out.
        let start = Instant::now();
        for place in &mut self.places {
            (place.due, place.reading) = (start, None);
            place.silent = place.silent.map(|(wait, _)| (wait, start));
        }
        let ((tell, mut taken), mut reads) = (channel(TAKEN), JoinSet::new());
        let (mut writing, mut lingered) = (Writing::default(), false);
        let ended = loop {
            if writing.idle() && !self.recent.is_empty() {
                lingered = !lingered;
                match lingered {
                    true => writing.pause(Some(Instant::now() + LINGER)),
                    false => writing.begin(intake, self.take(intake)?),
                }
            }
            self.begin(&mut reads, &tell, intake);
            let done = tokio::select! {
                Some((at, what)) = taken.recv() => {
                    self.taken(at, what, intake);
                    Ok(())
                }
                Some(done) = reads.join_next_with_id() => {
                    while let Ok((at, what)) = taken.try_recv() {
                        self.taken(at, what, intake);
                    }
                    self.done(done, intake)
                }
                () = sleep_until(self.next()) => {
                    self.late(intake);
                    Ok(())
                }
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

    /// Begins what is due, as far as it may begin.
    fn begin(&mut self, reads: &mut JoinSet<Result<(), Trouble>>, tell: &Sender<(usize, Taken)>, intake: &Intake) {
        let now = Instant::now();
        while let Some((at, when)) = self.first()
            && when <= now
        {
            let place = &mut self.places[at];
            if place.advance(now) && !place.behind && place.silent.is_none() {
                place.behind = true;
                let (topic, name, every) = (intake.topic(), &place.name, Span(place.every));
                log::warn!("sources.{topic}: `{name}` cannot be read every {every}: some readings are left out");
            }
            (place.round, place.brought) = (place.round + 1, false);
            let (probe, tell) = (place.probe.clone(), tell.clone());
            let read = move || {
                let mut probe = match probe.try_lock() {
                    Ok(probe) => probe,
                    Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                    // It hangs since before what all share was opened anew.
                    Err(TryLockError::WouldBlock) => {
                        return Err(Trouble::Failed("the reading before has not ended".into()));
                    }
                };
                // Nobody listens any more when the source has been stopped.
                probe.read(&mut |taken| drop(tell.blocking_send((at, taken))))
            };
            place.reading = Some(Under { task: reads.spawn_blocking(read).id(), since: now, late: false });
        }
    }

    /// The place that may begin next, and when.
    fn first(&self) -> Option<(usize, Instant)> {
        if self.alone && self.places.iter().any(|place| place.reading.is_some()) {
            return None;
        }
        let idle = self.places.iter().enumerate().filter(|(_, place)| place.reading.is_none());
        idle.map(|(at, place)| (at, place.turn())).min_by_key(|(_, when)| *when)
    }

    /// When there is something to do if nothing comes.
    fn next(&self) -> Instant {
        let under = self.places.iter().filter_map(|place| place.reading.as_ref());
        let limits = under.filter(|under| !under.late).map(|under| under.since + LIMIT);
        let idle = Instant::now() + LONGEST_WAIT;
        limits.chain(self.first().map(|(_, when)| when)).min().unwrap_or(idle)
    }

    /// Tells of readings that take too long; they go on all the same, since nothing can end them.
    fn late(&mut self, intake: &Intake) {
        let now = Instant::now();
        for (at, place) in self.places.iter_mut().enumerate() {
            if let Some(under) = &mut place.reading
                && !under.late
                && now >= under.since + LIMIT
            {
                under.late = true;
                self.things[at].failed(&format!("no answer within {}", Span(LIMIT)), intake);
            }
        }
    }

    /// Something was read.
    fn taken(&mut self, at: usize, taken: Taken, intake: &Intake) {
        if let Some(under) = &mut self.places[at].reading {
            under.since = Instant::now();
        }
        let round = self.places[at].round;
        let Some(of) = self.find(at, taken.id, intake) else { return };
        let thing = &mut self.things[of];
        thing.round = round;
        let values = match taken.values {
            Ok(values) => values,
            Err(why) => return thing.failed(&why, intake),
        };
        if self.recent.missed(of) {
            thing.reports.iter_mut().for_each(Report::forget);
        }
        let (mut told, mut broken, now) = (Told::new(), Vec::new(), clock::mono_ms());
        for (n, (value, report)) in values.into_iter().zip(&mut thing.reports).enumerate() {
            match value.is_finite() {
                true if report.tell(Sample::Float(value), now) => told.push((n as u8, value)).unwrap_or_default(),
                true => {}
                false => broken.push(n),
            }
            self.places[at].brought |= value.is_finite();
        }
        if broken.is_empty() {
            thing.answered(intake);
        } else {
            let fields = &self.places[at].fields;
            let names: Vec<_> = broken.iter().filter_map(|n| Some(format!("`{}`", fields.get(*n)?.0))).collect();
            thing.failed(&format!("out of range: {}", names.join(", ")), intake);
        }
        if !told.is_empty() {
            self.recent.push(of, taken.mono_ms, 0, told);
        }
    }

    /// What the reading is about; new things are remembered, up to a limit.
    fn find(&mut self, at: usize, id: Option<String>, intake: &Intake) -> Option<usize> {
        let Some(id) = id else { return Some(at) };
        if let Some(of) = self.found.get(&(at, id.clone())) {
            return Some(*of);
        }
        if self.found.keys().filter(|(place, _)| *place == at).count() >= MOST_FOUND {
            self.things[at].failed(&format!("more than {MOST_FOUND} are like its path"), intake);
            self.things[at].round = self.places[at].round;
            return None;
        }
        let place = &self.places[at];
        self.things.push(Thing::new(self.word, at, &place.name, Some(&id), &place.fields));
        self.found.insert((at, id), self.things.len() - 1);
        Some(self.things.len() - 1)
    }

    /// A reading is over.
    fn done(&mut self, done: Result<(Id, Result<(), Trouble>), JoinError>, intake: &Intake) -> Result<(), Fault> {
        let (task, result) = match done {
            Ok(done) => done,
            Err(error) => (error.id(), Err(Trouble::Failed(error.to_string()))),
        };
        let is = |place: &Place<P>| place.reading.as_ref().is_some_and(|under| under.task == task);
        let Some(at) = self.places.iter().position(is) else { return Ok(()) };
        let place = &mut self.places[at];
        place.reading = None;
        place.silent = match (place.brought, place.silent) {
            (true, _) => None,
            (false, None) => Some(FIRST_WAIT),
            (false, Some((wait, _))) => Some((wait * 2).min(LONGEST_WAIT)),
        }
        .map(|wait| (wait, Instant::now() + wait));
        let round = place.round;
        match result {
            Err(Trouble::Gone(why)) => return Err(Fault::retry(why)),
            Err(Trouble::Failed(why)) => self.things[at].failed(&why, intake),
            Ok(()) => {
                let own = |(n, thing): &(usize, &mut Thing)| thing.place == at && thing.round != round && *n != at;
                self.things.iter_mut().enumerate().filter(own).for_each(|(_, thing)| {
                    thing.failed("it is gone", intake);
                });
                if self.things[at].round != round {
                    self.things[at].answered(intake);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, intake: &Intake) -> Result<crate::event::Batch, Fault> {
        let (things, places) = (&self.things, &self.places);
        self.recent.take(intake, |reading, out| {
            let thing = things.get(reading.of)?;
            thing.write(&places.get(thing.place)?.fields, reading, out);
            Some(thing.key.as_str())
        })
    }
}

impl<P> Place<P> {
    /// Its next time: those that have passed are left out. Whether there are such.
    fn advance(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.due).as_nanos() / self.every.as_nanos().max(1);
        let steps = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
        self.due += self.every.saturating_mul(steps);
        steps > 1
    }

    fn turn(&self) -> Instant {
        self.silent.map_or(self.due, |(_, until)| self.due.max(until))
    }
}

impl Thing {
    fn new(word: &str, place: usize, name: &str, id: Option<&str>, fields: &[(String, Policy)]) -> Thing {
        let mut head = format!("{{\"{word}\":").into_bytes();
        write_string(name, &mut head);
        if let Some(id) = id {
            head.extend_from_slice(b",\"id\":");
            write_string(id, &mut head);
        }
        let key = id.map_or(name.to_owned(), |id| format!("{name}/{id}"));
        let reports = fields.iter().map(|(_, policy)| Report::new(*policy)).collect();
        Thing { place, key, head, reports, failing: None, round: 0 }
    }

    fn write(&self, fields: &[(String, Policy)], reading: &Reading<Told>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        for (n, value) in &reading.what {
            let Some((field, _)) = fields.get(usize::from(*n)) else { continue };
            out.push(b',');
            write_string(field, out);
            // A `Vec` takes everything. Without `.0`, and with an exponent where it would be long.
            let _ = match value.abs() {
                0.0 => out.write_all(b":0"),
                1e-6..1e15 => write!(out, ":{value}"),
                _ => write!(out, ":{value:e}"),
            };
        }
        if reading.lost > 0 {
            let _ = write!(out, ",\"lost\":{}", reading.lost);
        }
        out.push(b'}');
    }

    fn failed(&mut self, why: &str, intake: &Intake) {
        let Some((_, failures)) = &mut self.failing else {
            log::warn!("sources.{}: `{}` cannot be read, trying again: {why}", intake.topic(), self.key);
            self.failing = Some((Instant::now(), 1));
            return;
        };
        *failures = failures.saturating_add(1);
    }

    fn answered(&mut self, intake: &Intake) {
        if let Some((since, failures)) = self.failing.take() {
            let (topic, key, seconds) = (intake.topic(), &self.key, since.elapsed().as_secs_f64());
            log::info!("sources.{topic}: `{key}` is read again after {seconds:.1} s; {failures} readings had failed");
        }
    }
}

/// What is wrong with a period.
pub fn checked_every(every: Span) -> Result<(), String> {
    if every.0 < Duration::from_millis(10) { Err("expected at least 10ms".into()) } else { Ok(()) }
}

/// What is wrong with the name of a place or field; some have a meaning already.
pub fn checked_name(name: &str, taken: &[&str]) -> Result<(), String> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control) {
        return Err(format!("expected a name of 1 to {LONGEST_NAME} bytes"));
    }
    if taken.contains(&name) { Err("the event has a field of this name already".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
