//! What a step does to events that are recorded, told when it is committed.

use super::{Append, Placed, Refusal, Step, Store};
use crate::trace::{Note, Trace};
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// Those of a step that waits for the disk.
pub(super) struct Traced {
    begun: Instant,
    at: u64,
    intake: bool,
    parts: Vec<Part>,
}

/// Of one append.
struct Part {
    topic: Arc<str>,
    count: u32,
    /// By index: the id, empty as long as it has none, and the `traceparent`.
    known: BTreeMap<u32, (Arc<str>, Option<Arc<str>>)>,
    /// Indexes of those that bring an id of their own, where others do not.
    named: Vec<u32>,
    /// Some bring none.
    unnamed: bool,
}

impl Store {
    /// Commits a step and answers when it is on disk: where each of its appends lies. Waits while too many bytes wait.
    pub async fn commit(&self, mut step: Step) -> Result<Vec<Placed>, Refusal> {
        let traced = Traced::begin(&self.trace, &mut step);
        let answer = self.committed(step).await;
        if let Some(traced) = traced {
            traced.end(&self.trace, &answer);
        }
        answer
    }
}

impl Traced {
    pub fn begin(trace: &Trace, step: &mut Step) -> Option<Traced> {
        if !trace.is_on() || step.appends.is_empty() {
            return None;
        }
        let intake = step.is_intake();
        let part = |append: &mut Append| {
            let batch = &mut append.batch;
            let known = std::mem::take(&mut batch.traced).into_iter().map(|(index, id, parent)| (index, (id, parent)));
            let mut known: BTreeMap<u32, _> = known.collect();
            let unnamed = !batch.stamped() && batch.marks.len() < batch.len();
            let named = if unnamed { batch.marks.iter().map(|mark| mark.index).collect() } else { Vec::new() };
            if intake {
                trace.come(batch.marks.len(), batch.own_ids().map(|(_, id)| id));
            }
            for (index, id) in batch.own_ids().filter(|(_, id)| trace.wants_id(id)) {
                known.entry(index).or_insert_with(|| (id.into(), None));
            }
            Part { topic: append.topic.clone(), count: batch.count, known, named, unnamed }
        };
        let parts = step.appends.iter_mut().map(part).collect();
        Some(Traced { begun: Instant::now(), at: crate::clock::mono_ms(), intake, parts })
    }

    pub fn end(self, trace: &Trace, answer: &Result<Vec<Placed>, Refusal>) {
        match answer {
            Ok(placed) => self.parts.iter().zip(placed).for_each(|(part, placed)| self.stored(part, placed, trace)),
            Err(refusal) => {
                let known = self.parts.iter().flat_map(|part| part.known.values().map(move |known| (part, known)));
                for (part, (id, parent)) in known.filter(|(_, (id, _))| !id.is_empty()) {
                    let note = Note::new(id.clone(), self.who(part), "refused").said(refusal.to_string());
                    trace.note(Note { parent: parent.clone(), ..note });
                }
            }
        }
    }

    fn who(&self, part: &Part) -> Arc<str> {
        if self.intake { format!("sources.{}", part.topic).into() } else { "store".into() }
    }

    fn stored(&self, part: &Part, placed: &Placed, trace: &Trace) {
        let lists = [&placed.repeats, &placed.conflicts, &placed.passed];
        let (whole, mut seq) = (lists.iter().all(|list| list.is_empty()), placed.first);
        if !part.unnamed && part.known.is_empty() {
            return;
        }
        for index in 0..part.count {
            let known = part.known.get(&index);
            let verdict = if whole { None } else { lists.iter().position(|list| list.binary_search(&index).is_ok()) };
            let made = part.unnamed && verdict.is_none() && part.named.binary_search(&index).is_err();
            if known.is_some() || made && trace.wants_place(placed.store, placed.lane, seq) {
                let (id, parent) = known.cloned().unwrap_or_default();
                let id = if made && id.is_empty() { placed.id_at(seq).into() } else { id };
                self.tell((id, parent), part, verdict, (placed.lane, seq), trace);
            }
            seq += u64::from(verdict.is_none());
        }
    }

    fn tell(
        &self,
        (id, parent): (Arc<str>, Option<Arc<str>>),
        part: &Part,
        verdict: Option<usize>,
        (lane, seq): (u16, u64),
        trace: &Trace,
    ) {
        let note =
            |who, what, said: String| Note { parent: parent.clone(), ..Note::new(id.clone(), who, what) }.said(said);
        if self.intake {
            let came = note(self.who(part), "taken in", format!("topic `{}`", part.topic));
            trace.note(Note { at: self.at, ..came });
        }
        let (what, said) = match verdict {
            Some(0) => ("repeat", "its id was taken in before, with the same body: not stored again"),
            Some(1) => ("rejected", "its id was used before with another body"),
            Some(_) => return, // the writer has told it
            None => {
                trace.watch(lane, seq, id.clone());
                let place = format!("topic `{}`, lane {lane}, number {seq}", part.topic);
                let what = if self.intake { "committed" } else { "stored" };
                return trace.note(note("store".into(), what, place).took(self.begun.elapsed()));
            }
        };
        trace.note(note("store".into(), what, said.to_owned()));
    }
}
