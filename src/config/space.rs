//! What the marks of the disk must fit: each other, and the policies of topics.

use super::settings::{Settings, WhenFull};
use crate::budget::Size;

/// Places and what is wrong there.
pub(super) fn wrong(settings: &Settings) -> Vec<(String, String)> {
    let disk = &settings.store.disk;
    let mut wrong = Vec::new();
    let mut put = |at: &str, message: String| wrong.push((format!("store.disk.{at}"), message));
    let critical = disk.critical.unwrap_or(Size(u64::MAX));
    if disk.low() > disk.high {
        put("low", format!("expected at most `high`, which is {}", disk.high));
    }
    if disk.soft.is_some_and(|soft| soft > disk.high) {
        put("soft", format!("expected at most `high`, which is {}", disk.high));
    }
    if disk.soft.is_some_and(|soft| soft < disk.low()) {
        put("soft", format!("expected at least `low`, which is {}", disk.low()));
    }
    if critical < disk.high {
        put("critical", format!("expected at least `high`, which is {}", disk.high));
    }
    if let Some(events) = disk.events.as_ref().filter(|events| events.low() > events.high) {
        put("events.low", format!("expected at most `high`, which is {}", events.high));
    }
    if disk.offload.is_none() {
        let message = "`offload` needs to know where: `store.disk.offload`";
        if disk.when_full == WhenFull::Offload {
            put("when_full", message.into());
        }
        let topics = settings.topics.iter().filter(|(_, topic)| topic.when_full == Some(WhenFull::Offload));
        wrong.extend(topics.map(|(name, _)| (format!("topics.{name}.when_full"), message.to_owned())));
    }
    wrong
}
