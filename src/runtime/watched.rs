//! What a process does to an event that is recorded.

use super::chain::{Run, Unfinished};
use crate::{
    event::Event,
    trace::{Note, Trace},
};
use bytes::Bytes;
use std::time::Instant;

/// The event as it came.
pub(super) struct Watched {
    note: Note,
    begun: Instant,
    body: Bytes,
    skipped: bool,
    /// How many the process had emitted and sent of others before it.
    made: usize,
    sent: usize,
}

impl Watched {
    pub fn new(event: &Event, skipped: bool, made: usize, sent: usize) -> Watched {
        // Filled in when it is over.
        let note = Note::of(event, "", "");
        Watched { note, begun: Instant::now(), body: event.body.to_bytes(), skipped, made, sent }
    }

    /// Notes what came of it.
    pub fn tell(self, trace: &Trace, process: &str, next: &[Event], done: &Result<(), Unfinished>, run: &mut Run<'_>) {
        let out = next.get(self.made..).unwrap_or_default();
        let sent = run.effect.sent.get(self.sent..).unwrap_or_default();
        let (what, mut said) = match (done, out) {
            (Err(Unfinished::Failed(failure)), _) => ("failed", failure.reason.clone()),
            (Err(Unfinished::Later), _) => {
                ("held up", "to be done again when what came before is committed".to_owned())
            }
            (Ok(()), []) if self.skipped => ("stopped", "`when` does not hold".to_owned()),
            (Ok(()), []) if sent.is_empty() => ("stopped", String::new()),
            (Ok(()), []) => ("stopped", "what it sent goes on".to_owned()),
            (Ok(()), _) if self.skipped => ("skipped", "`when` does not hold".to_owned()),
            (Ok(()), [event]) if *event.id.text() == *self.note.id => {
                (if event.body.to_bytes() == self.body { "passed" } else { "changed" }, String::new())
            }
            (Ok(()), made) => ("emitted", format!("{} events", made.len())),
        };
        let more = std::mem::take(&mut run.said);
        if !more.is_empty() {
            said = if said.is_empty() { more } else { format!("{said}; {more}") };
        }
        let own = |what| Note::new(self.note.id.clone(), process, what).of_trace(&self.note);
        trace.note(own(what).took(self.begun.elapsed()).said(said));
        let children =
            out.iter().map(|event| (event, None)).chain(sent.iter().map(|(topic, event)| (event, Some(topic))));
        for (child, topic) in children {
            let to = topic.map(|topic| format!(" to `{topic}`")).unwrap_or_default();
            let id = child.id.text();
            if *id == *self.note.id {
                if topic.is_some() {
                    trace.note(Note::of(child, process, "sent").said(to.trim_start()));
                }
                continue;
            }
            trace.follow(child);
            trace.note(own("became").said(format!("`{id}`{to}")));
            trace.note(Note::of(child, process, "made").said(format!("of `{}`", self.note.id)));
        }
    }
}
