//! An event that kills the gateway is found, and set aside, so that the others get on.
//!
//! After a death (not a power cut: the machine still runs) the events that a pipeline or sink had in progress are suspect. They are
//! done once more, with a record on disk of which are being tried. If that kills the gateway again, they are tried in parts,
//! and those of the part that does it in smaller ones; an event that was tried twice alone is set aside. So that who is killed
//! again and again by somebody else blames no event for it, an attempt that came back is innocent whatever came of it, and
//! before the second time nothing is tried for a second or three, by chance. Where processes reach
//! outside, they are tried one by one from the start: it is there that something like this lurks, and the cost of a record is
//! small beside what they do.

use super::{
    backoff::Backoff,
    links::Links,
    sink::{Gathered, Outlet},
    step::letter,
};
use crate::{
    budget::Size,
    clock,
    config::Batch,
    event::Event,
    store::{Put, Refusal, Step, Store},
};
use std::{ops::ControlFlow, time::Duration};
use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::{sleep, timeout},
};

/// Who remembers what is being tried.
const OWNER: &str = "suspects";
/// What kills does so at once. An attempt that lasts longer is innocent: it waits for something.
const SURVIVED: Duration = Duration::from_secs(1);
/// How often it is looked whether an attempt came back.
const LOOK: Duration = Duration::from_millis(10);
/// One consumer tries at a time, so that the right event is blamed; but none waits for ever.
const TURN: Duration = Duration::from_secs(10);
/// Into so many parts what killed the gateway is taken apart: a full lot is down to single events after three deaths.
const PARTS: u64 = 16;
/// An event that was tried so often is set aside.
const TRIES: u32 = 2;

/// Events of a lane that are being tried, and for which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trial {
    pub lane: u16,
    pub from: u64,
    pub to: u64,
    pub tries: u32,
}

/// The events that a consumer had in progress when the gateway died.
pub(super) struct Suspects {
    store: Store,
    consumer: String,
    /// What was being tried at that time.
    before: Option<Trial>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Trial {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.lane.to_be_bytes().to_vec();
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes.extend(self.tries.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Trial> {
        let (lane, rest) = bytes.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (tries, _) = rest.split_first_chunk()?;
        Some(Trial {
            lane: u16::from_be_bytes(*lane),
            from: u64::from_be_bytes(*from),
            to: u64::from_be_bytes(*to),
            tries: u32::from_be_bytes(*tries),
        })
    }
}

impl Suspects {
    /// Those of a consumer, once it is its turn.
    pub async fn of(store: &Store, consumer: &str, links: &Links) -> Result<Suspects, Refusal> {
        let known = store.state(OWNER, consumer.as_bytes(), 1).await?;
        let own = known.iter().find(|(key, _)| key == consumer.as_bytes());
        let before = own.and_then(|(_, value)| Trial::from_bytes(value));
        let _turn = timeout(TURN, links.turns().lock_owned()).await.ok();
        Ok(Suspects { store: store.clone(), consumer: consumer.to_owned(), before, _turn })
    }

    /// How many are tried at once: of what was in vain, a part.
    pub fn at_once(&self, all: usize) -> usize {
        let part = |trial: Trial| usize::try_from((trial.to - trial.from) / PARTS).unwrap_or(all).max(1);
        self.before.map_or(all, part).min(all)
    }

    /// Whether an event was tried alone as often as it may be.
    pub fn is_guilty(&self, event: &Event) -> bool {
        let alone = |trial: &Trial| (trial.lane, trial.from, trial.to) == (event.lane, event.seq, event.seq + 1);
        self.before.as_ref().is_some_and(|trial| alone(trial) && trial.tries >= TRIES)
    }

    /// Writes down that events are tried now.
    pub async fn try_now(&self, lane: u16, from: u64, to: u64) -> Result<(), Refusal> {
        let before = self.before.filter(|trial| (trial.lane, trial.from, trial.to) == (lane, from, to));
        if before.is_some() && to == from + 1 {
            // If something else kills the gateway, it does so now, and the event is not blamed for it; nor if that comes at
            // regular times.
            sleep(SURVIVED.mul_f64(1.0 + 2.0 * fastrand::f64())).await;
        }
        let trial = Trial { lane, from, to, tries: before.map_or(0, |trial| trial.tries) + 1 };
        self.note(Some(trial.to_bytes())).await
    }

    /// Writes down that nothing is being tried. A record that stays does no harm: its events are behind the cursor.
    pub async fn forget(&self) {
        self.note(None).await.ok();
    }

    async fn note(&self, value: Option<Vec<u8>>) -> Result<(), Refusal> {
        let put = Put { owner: OWNER.into(), key: self.consumer.clone().into_bytes(), value };
        self.store.commit(Step { state: vec![put], inner: true, ..Step::default() }).await.map(drop)
    }
}

/// Until what is being tried is innocent: the consumer has had an answer, be it a bad one, or waits for one.
pub(super) async fn survived(links: &Links, consumer: &str) {
    let answered = async {
        while !links.fails(consumer) {
            sleep(LOOK).await;
        }
    };
    timeout(SURVIVED, answered).await.ok();
}

impl Outlet {
    /// Delivers what was in progress when the gateway died, with a record of it. Where the record cannot be written, or nothing
    /// may go now, it goes without.
    pub async fn try_suspects(&mut self, backoff: &mut Backoff, stop: &mut watch::Receiver<bool>) -> ControlFlow<()> {
        let on = ControlFlow::Continue(());
        let (all, bytes) = (self.common.batch.max as usize, self.common.batch.bytes.map_or(Batch::BYTES, Size::bytes));
        let Ok(suspects) = Suspects::of(&self.store, &self.name, &self.links).await else { return on };
        if self.gate.look(&clock::stamp()).floor > 0 {
            return on;
        }
        let most = suspects.at_once(all);
        let Ok(Some(first)) = self.reader.poll(all, bytes).await else { return on };
        self.reader.rewind(first.lane, first.from);
        while self.reader.position(first.lane).is_some_and(|at| at < first.to) && !*stop.borrow() {
            let begun: Vec<(u16, u64)> = self.reader.positions().collect();
            let Ok(Some(lot)) = self.reader.poll(most, bytes).await else { break };
            let (lane, from, to) = (lot.lane, lot.from, lot.to);
            let guilty = lot.events.first().is_some_and(|event| most == 1 && suspects.is_guilty(event));
            let mut gathered = Gathered { begun, ..Gathered::default() };
            gathered.add(lot, self.consumer, &self.name);
            if guilty {
                for event in std::mem::take(&mut gathered.events) {
                    let (name, id) = (&self.name, event.id.text());
                    log::error!("{name}: `{id}` has killed the gateway again and again and is set aside");
                    gathered.dead.push(letter(name, &event, "the gateway died while it delivered it".into()));
                }
                gathered.moves.values_mut().for_each(|moved| moved.dead = to - from);
                self.done(gathered, Vec::new(), false, stop).await?;
                continue;
            }
            if suspects.try_now(lane, from, to).await.is_err() {
                self.reader.restore(&gathered.begun);
                break;
            }
            {
                let (links, name) = (self.links.clone(), self.name.clone());
                let work = self.send(gathered, false, backoff, stop);
                tokio::pin!(work);
                tokio::select! {
                    done = &mut work => done?,
                    () = survived(&links, &name) => {
                        // It waits for the upstream, and the others not for it.
                        suspects.forget().await;
                        drop(suspects);
                        return work.await;
                    }
                }
            }
            if self.reader.position(lane) == Some(from) {
                break; // nothing may go now
            }
        }
        suspects.forget().await;
        on
    }
}
