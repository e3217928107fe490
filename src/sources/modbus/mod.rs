//! Polls Modbus units, on a serial line or over TCP.

mod config;
mod group;
#[cfg(test)]
mod tests;

use crate::{
    clock,
    event::{Batch, Draft, When, json::write_string},
    fault::Fault,
    kind::{Intake, Kind, Params, ParamsError, Source},
    systems::modbus::{Bus, Error, Patience},
};
use async_trait::async_trait;
use config::Config;
use group::Group;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

pub const KIND: Kind<dyn Source> = Kind {
    name: "modbus",
    about: "polls registers, coils and inputs of Modbus units, on a serial line (RTU) or over TCP",
    example: r#"{
  "type": "modbus",
  "connect": { "rtu": { "path": "/dev/ttyUSB0", "baud": 9600, "parity": "even" } },
  "groups": {
    "meter": { "unit": 1, "function": "input", "every": "5s", "values": {
      "volts": { "address": 0, "as": "f32", "report": { "when": { "band": 0.5 }, "at_least": "1m" } },
      "energy": { "address": 342, "as": "u32", "words": "little", "scale": 0.01 } } },
    "valves": { "unit": 2, "function": "coil", "every": "1s", "report": { "when": "change" }, "values": {
      "inlet": { "address": 0 }, "outlet": { "address": 1 } } } } }"#,
    schema: <Config as schemars::JsonSchema>::json_schema,
    build,
};

/// A unit that does not answer is tried again after this, then after twice that, and so on.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Groups that are due one after another go into one commit, up to so many bytes and so long.
const BATCH: usize = 64 << 10;
const LINGER: Duration = Duration::from_millis(250);

fn build(params: Params) -> Result<Box<dyn Source>, ParamsError> {
    let config: Config = params.decode()?;
    let at = |(field, why)| ParamsError::at(format!("connect.{field}"), why);
    let bus = params.scope.buses.get(&config.connect).map_err(at)?;
    let (patience, groups) = (config.patience()?, config.groups(&bus)?);
    let units = groups.iter().map(|group| (group.unit, None)).collect();
    Ok(Box::new(Modbus { bus, patience, status: config.status, groups, units }))
}

struct Modbus {
    bus: Arc<Bus>,
    patience: Patience,
    status: bool,
    groups: Vec<Group>,
    /// Which units are silent.
    units: BTreeMap<u8, Option<Silence>>,
}

/// A unit that does not answer.
struct Silence {
    since: Instant,
    wait: Duration,
    next: Instant,
}

/// Events on their way into the store, and the groups that they tell of.
#[derive(Default)]
struct Polled {
    batch: Batch,
    groups: Vec<usize>,
}

#[async_trait]
impl Source for Modbus {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        // Whatever was to be at its turn while there was no connection is left out.
        let start = Instant::now();
        self.groups.iter_mut().for_each(|group| group.due = start);
        self.units.values_mut().flatten().for_each(|silence| silence.next = start);
        loop {
            let Some((first, when)) = self.next() else { return Ok(()) };
            sleep_until(when).await;
            let (mut polled, begun) = (Polled::default(), Instant::now());
            let mut next = first;
            let ended = loop {
                if let Err(fault) = self.poll(next, &mut polled, intake).await {
                    break Err(fault);
                }
                let now = Instant::now();
                match self.next() {
                    Some((due, when)) if when <= now && now < begun + LINGER && polled.batch.bytes() < BATCH => {
                        next = due;
                    }
                    _ => break Ok(()),
                }
            };
            if !polled.batch.is_empty()
                && let Err(refusal) = intake.append(polled.batch).await
            {
                polled.groups.iter().for_each(|at| self.groups[*at].forget());
                return Err(super::refused(refusal));
            }
            ended?;
        }
    }
}

impl Modbus {
    /// The group whose turn is next, and when.
    fn next(&self) -> Option<(usize, Instant)> {
        let turn = |group: &Group| match self.units.get(&group.unit) {
            Some(Some(silence)) => group.due.max(silence.next),
            _ => group.due,
        };
        self.groups.iter().map(turn).enumerate().min_by_key(|(_, when)| *when)
    }

    /// Polls one group. Fails only when no unit at all can be reached.
    async fn poll(&mut self, at: usize, polled: &mut Polled, intake: &Intake) -> Result<(), Fault> {
        let (group, mut patience) = (&mut self.groups[at], self.patience);
        let unit = group.unit;
        if matches!(self.units.get(&unit), Some(Some(_))) {
            group.advance(Instant::now());
            patience.retries = 0; // each costs the others time
        } else if group.advance(Instant::now()) && !group.behind {
            group.behind = true;
            let every = crate::budget::Span(group.every);
            log::warn!(
                "sources.{}: `{}` cannot be polled every {every}: some are left out",
                intake.topic(),
                group.name
            );
        }
        let mut answers = Vec::new();
        let mut refused = None;
        for request in group.requests() {
            match self.bus.ask(&request, patience).await {
                Ok(answer) => answers.push(answer),
                Err(Error::Lost(why)) => return Err(Fault::retry(why)),
                Err(error) if error.unreached() => return self.silent(unit, &error, polled, intake),
                Err(error) => {
                    refused = Some(format!("{:?}: {error}", request.ask));
                    break;
                }
            }
        }
        let time = clock::mono_ms();
        self.answers(unit, polled, intake)?;
        let group = &mut self.groups[at];
        let mut body = Vec::new();
        if refused.is_none() && group.write(&answers, clock::mono_ms(), &mut body) {
            let key = format!("{unit}/{}", group.name);
            add(polled, intake, &key, time, &body)?;
            polled.groups.push(at);
        }
        match (&refused, &group.failing) {
            (Some(why), None) => {
                log::warn!("sources.{}: unit {unit} refuses `{}`: {why}", intake.topic(), group.name);
            }
            (None, Some(_)) => log::info!("sources.{}: unit {unit} answers `{}` again", intake.topic(), group.name),
            _ => {}
        }
        group.failing = refused;
        Ok(())
    }

    /// A unit did not answer.
    fn silent(&mut self, unit: u8, error: &Error, polled: &mut Polled, intake: &Intake) -> Result<(), Fault> {
        let now = Instant::now();
        match self.units.entry(unit).or_default() {
            Some(silence) => {
                silence.wait = (silence.wait * 2).min(LONGEST_WAIT);
                silence.next = now + silence.wait;
                return Ok(());
            }
            empty => *empty = Some(Silence { since: now, wait: FIRST_WAIT, next: now + FIRST_WAIT }),
        }
        log::warn!("sources.{}: unit {unit} does not answer, trying again: {error}", intake.topic());
        let mut body = format!("{{\"unit\":{unit},\"up\":false,\"error\":").into_bytes();
        write_string(&error.to_string(), &mut body);
        body.push(b'}');
        self.tell_status(unit, polled, intake, &body)
    }

    /// A unit answered.
    fn answers(&mut self, unit: u8, polled: &mut Polled, intake: &Intake) -> Result<(), Fault> {
        let Some(silence) = self.units.get_mut(&unit).and_then(Option::take) else { return Ok(()) };
        let seconds = silence.since.elapsed().as_secs_f64();
        log::info!("sources.{}: unit {unit} answers again after {seconds:.1} s", intake.topic());
        self.tell_status(unit, polled, intake, format!("{{\"unit\":{unit},\"up\":true}}").as_bytes())
    }

    fn tell_status(&self, unit: u8, polled: &mut Polled, intake: &Intake, body: &[u8]) -> Result<(), Fault> {
        if !self.status {
            return Ok(());
        }
        add(polled, intake, &unit.to_string(), clock::mono_ms(), body)
    }
}

fn add(polled: &mut Polled, intake: &Intake, key: &str, time: u64, body: &[u8]) -> Result<(), Fault> {
    let draft = Draft { key, time: Some(When::Sampled(time)), body, ..Draft::default() };
    // It would be the same at every poll.
    intake.push(&mut polled.batch, &draft).map_err(|unfit| Fault::fatal(format!("`{key}`: {unfit}")))
}
