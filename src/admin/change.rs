//! What operators change on a gateway that runs, or in its store.

use super::{
    api::{Call, Desk, Reply},
    look::no_consumer,
    routes::Answer,
};
use crate::{
    runtime::session_of,
    store::{At, Put, Step},
};
use serde_json::json;

impl Call {
    /// A place among stored events.
    pub(super) fn at(&self, name: &str) -> Result<Option<At>, Reply> {
        let wrong = |why: String| Reply::problem(400, &format!("`{name}`: {why}"));
        self.text(name).map(|text| text.parse().map_err(wrong)).transpose()
    }
}

impl Desk {
    /// Moves a consumer's cursors.
    pub(super) async fn seek(&self, call: &Call) -> Answer {
        let (name, topic, priority) = (self.known(call)?, call.text("topic"), call.number("priority")?);
        let to = call.at("to")?.ok_or_else(|| Reply::problem(400, "expected `to`"))?;
        if !name.starts_with("pipelines.") && !name.starts_with("sinks.") {
            return Err(Reply::problem(409, "only pipelines and sinks have a place of their own"));
        }
        if let At::Seq(_) = to {
            let chosen = |topic_: &str, priority_| {
                topic.as_ref().map_or(!topic_.contains('!'), |topic| topic == topic_)
                    && priority.is_none_or(|priority: u8| priority == priority_)
            };
            let lanes = self.store.backlog().await?;
            let lanes = lanes.iter().filter(|lane| lane.consumer == name && chosen(&lane.topic, lane.priority));
            let lanes: Vec<String> = lanes.map(|lane| format!("`{}` at {}", lane.topic, lane.priority)).collect();
            if lanes.len() > 1 {
                let lanes = lanes.join(", ");
                let why = format!(
                    "a number has a meaning in one topic and priority; say which `topic` and `priority`: {lanes}"
                );
                return Err(Reply::problem(400, &why));
            }
        }
        let lanes = self.store.seek(&name, topic.as_deref(), priority, to).await?;
        if lanes.is_empty() && (topic.is_some() || priority.is_some()) {
            return Err(Reply::problem(404, &format!("`{name}` has read nothing of this topic and priority")));
        }
        let sum = |number: fn(&crate::store::Sought) -> u64| lanes.iter().map(number).sum::<u64>();
        let (again, passed) = (sum(|lane| lane.again), sum(|lane| lane.passed));
        Ok(Reply::json(&json!({ "consumer": name, "again": again, "passed": passed, "lanes": lanes })))
    }

    /// Forgets a consumer that is not in the configuration any more, with what its processes remember.
    pub(super) async fn forget(&self, call: &Call) -> Answer {
        let name = self.known(call)?;
        let Some(running) = &self.running else {
            return Err(Reply::problem(
                409,
                "no gateway runs, and only it knows which consumers are in its configuration",
            ));
        };
        if !running.is_stranger(&name) {
            return Err(Reply::problem(409, &format!("`{name:.80}` is in use")));
        }
        let queued: u64 = self.store.ledger().iter().filter(|row| row.consumer == name).map(|row| row.queued).sum();
        self.store.forget_whole(&name).await?;
        // What an MQTT session left besides its consumer.
        if let Some((source, client)) = session_of(&name) {
            let mut state = Vec::new();
            for what in ["session", "queue", "pkid"] {
                let rows = self.store.state(source, format!("{what}/{client}\0").as_bytes(), usize::MAX).await?;
                state.extend(rows.into_iter().map(|(key, _)| Put { owner: source.to_owned(), key, value: None }));
            }
            self.store.commit(Step { state, ..Step::default() }).await?;
        }
        log::warn!("`{name}`: forgotten by an operator, with {queued} events that it had to go");
        Ok(Reply::json(&json!({ "consumer": name, "forgotten": true, "queued": queued })))
    }

    /// Sets how much is logged, until the next start.
    pub(super) fn log_level(&self, call: &Call) -> Answer {
        let levels = "expected `level`: `off`, `error`, `warn`, `info`, `debug` or `trace`";
        let level = call.text("level").and_then(|level| level.parse().ok());
        let level: log::LevelFilter = level.ok_or_else(|| Reply::problem(400, levels))?;
        if self.running.is_none() {
            return Err(Reply::problem(409, "no gateway runs; `RUST_LOG` says how much one logs from its start"));
        }
        log::set_max_level(level);
        Ok(Reply::json(&json!({ "level": level.as_str().to_lowercase() })))
    }

    /// The consumer that a call names.
    fn known(&self, call: &Call) -> Result<String, Reply> {
        let name = call.text("name").unwrap_or_default();
        let known = self.store.consumers().iter().any(|(known, _)| *known == name);
        known.then(|| name.clone()).ok_or_else(|| no_consumer(&name))
    }
}
