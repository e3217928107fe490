//! Where events come from: one file, or folder, a kind.

mod documents;
pub mod file;
pub mod generate;
pub mod gpio;
pub mod http;
pub mod i2c;
pub mod modbus;
pub mod mqtt;
pub mod mqtt_listen;
mod probe;
mod recent;
mod report;
mod seats;
pub mod serial;
pub mod stdin;
pub mod subscribe;
pub mod sysfs;
mod trouble;

use crate::{
    fault::Fault,
    kind::{Kind, Source},
    store::Refusal,
};

/// Every kind of source.
pub const KINDS: &[Kind<dyn Source>] = &[
    http::KIND,
    mqtt_listen::KIND,
    mqtt::KIND,
    subscribe::KIND,
    gpio::KIND,
    serial::KIND,
    modbus::KIND,
    i2c::KIND,
    sysfs::KIND,
    file::KIND,
    stdin::KIND,
    generate::KIND,
];

/// What a refusal means to a source that answers nobody: it waits and tries again.
fn refused(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::TooLarge { .. } => Fault::fatal(refusal),
        _ => Fault::retry(refusal),
    }
}

/// The owner under which a source remembers things in the store.
fn owner(topic: &str) -> String {
    format!("sources.{topic}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kind::{Fields, Intake, Params, Scope},
        store::{Options, Start, Store},
    };
    use std::path::Path;

    /// A store with a consumer that holds all events.
    pub async fn open(path: Option<&Path>) -> Store {
        let store = Store::open(Options { path: path.map(Path::to_owned), ..Options::default() }).unwrap();
        store.consumer("test", &["in".into()], Start::Oldest).await.unwrap();
        store
    }

    pub fn intake_of(store: &Store, max_event: usize) -> Intake {
        Intake::new("in", Fields { max_event, priority: 4, ..Fields::default() }, store.clone(), None)
    }

    /// An intake into a store in memory.
    pub async fn intake(max_event: usize) -> (Intake, Store) {
        let store = open(None).await;
        (intake_of(&store, max_event), store)
    }

    /// Everything that a store holds, in order.
    pub async fn bodies(store: &Store) -> Vec<String> {
        let topics = ["in".into()];
        let consumer = store.consumer("test", &topics, Start::Oldest).await.unwrap();
        let mut reader = store.reader(consumer, &topics);
        let mut bodies = Vec::new();
        while let Some(lot) = reader.poll(1000, 1 << 20).await.unwrap() {
            bodies.extend(lot.events.iter().map(|e| String::from_utf8(e.body.to_bytes().to_vec()).unwrap()));
        }
        bodies
    }

    #[test]
    fn every_example_builds() {
        for kind in [&file::KIND, &generate::KIND, &gpio::KIND, &i2c::KIND, &modbus::KIND, &stdin::KIND, &sysfs::KIND] {
            build(kind, kind.example).unwrap();
        }
    }

    /// A source from a configuration, or what is wrong with it.
    pub fn build(kind: &Kind<dyn Source>, config: &str) -> Result<Box<dyn Source>, String> {
        let mut value: serde_json::Value = jsonc_parser::parse_to_serde_value(config, &Default::default()).unwrap();
        value.as_object_mut().unwrap().shift_remove("type");
        (kind.build)(Params::new("in", Scope::default(), value)).map_err(|e| e.to_string())
    }
}
