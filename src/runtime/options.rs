//! What a configuration says about the store.

use crate::{
    config::{self, Settings, WhenFull},
    store::{Keep, Options, Policy, Window},
};
use std::path::PathBuf;

/// How the store of a configuration is opened.
pub fn options(settings: &Settings, stateless: bool) -> Options {
    let path = (!stateless).then(|| PathBuf::from(&settings.store.path));
    let keep = |t: &config::TopicSettings| Keep { age: t.keep.age.map(|s| s.0), bytes: t.keep.bytes.map(|s| s.0) };
    let (dedupe, disk) = (&settings.store.dedupe, &settings.store.disk);
    Options {
        path,
        high: disk.high.0,
        low: disk.low().0,
        soft: disk.soft.map(|s| s.0),
        critical: disk.critical.map(|s| s.0),
        events: disk.events.as_ref().map(|events| (events.high, events.low())),
        free: disk.free.map(|s| s.0),
        endurance: disk.endurance.map(|s| s.0),
        when_full: policy(&disk.when_full),
        policies: settings
            .topics
            .iter()
            .filter_map(|(name, t)| Some((name.clone(), policy(t.when_full.as_ref()?))))
            .collect(),
        window: Window {
            ms: i64::try_from(dedupe.window.0.as_millis()).unwrap_or(i64::MAX),
            ids: usize::try_from(dedupe.ids).unwrap_or(usize::MAX),
        },
        keep: settings.topics.iter().map(|(name, topic)| (name.clone(), keep(topic))).collect(),
        ttl: settings.topics.iter().filter_map(|(name, topic)| Some((name.clone(), topic.ttl?.0))).collect(),
        ..Options::default()
    }
}

fn policy(when_full: &WhenFull) -> Policy {
    match when_full {
        WhenFull::Reject => Policy::Reject,
        WhenFull::DropOldest => Policy::DropOldest,
        WhenFull::DropNewest => Policy::DropNewest,
        WhenFull::Sample(n) => Policy::Sample(*n),
        WhenFull::Offload => Policy::Offload,
    }
}
