//! Means that several components share, and the systems that a configuration names.

mod blocking;
pub mod http;
pub mod kv;
pub mod memory;
pub mod modbus;
pub mod mqtt;
pub mod objects;
pub mod pin;
pub mod pubsub;
pub mod scale;
pub mod serial;
pub mod tls;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A named connection to the outside. It connects when it is first used, and again when the connection was lost.
#[derive(Clone)]
pub enum System {
    /// A key-value store.
    Kv(Arc<dyn kv::Kv>),
    /// An object store.
    Objects(Arc<dyn objects::Objects>),
    /// A broker.
    PubSub(Arc<dyn pubsub::PubSub>),
}

impl System {
    /// What it is, for people.
    pub fn sort(&self) -> &'static str {
        match self {
            System::Kv(_) => "a key-value store",
            System::Objects(_) => "an object store",
            System::PubSub(_) => "a broker",
        }
    }
}

/// The systems of a configuration, by name.
#[derive(Clone, Default)]
pub struct Systems(BTreeMap<String, Named>);

#[derive(Clone)]
struct Named {
    /// `None`: its own configuration is wrong.
    system: Option<System>,
    used: Arc<AtomicBool>,
}

impl Systems {
    /// Adds one, or replaces it; `None` for one whose own configuration is wrong.
    pub fn insert(&mut self, name: &str, system: impl Into<Option<System>>) {
        self.0.insert(name.to_owned(), Named { system: system.into(), used: Arc::default() });
    }

    /// The key-value store of that name; the error says what is wrong with the name.
    pub fn kv(&self, name: &str) -> Result<Arc<dyn kv::Kv>, String> {
        match self.find(name)? {
            System::Kv(kv) => Ok(kv.clone()),
            other => Err(format!("`{name}` is {}, not a key-value store", other.sort())),
        }
    }

    /// The object store of that name.
    pub fn objects(&self, name: &str) -> Result<Arc<dyn objects::Objects>, String> {
        match self.find(name)? {
            System::Objects(objects) => Ok(objects.clone()),
            other => Err(format!("`{name}` is {}, not an object store", other.sort())),
        }
    }

    /// The broker of that name.
    pub fn pubsub(&self, name: &str) -> Result<Arc<dyn pubsub::PubSub>, String> {
        match self.find(name)? {
            System::PubSub(pubsub) => Ok(pubsub.clone()),
            other => Err(format!("`{name}` is {}, not a broker", other.sort())),
        }
    }

    /// Bytes that each may hold in memory.
    pub fn memory(&self) -> impl Iterator<Item = (&str, usize)> {
        let bytes = |system: &System| match system {
            System::Kv(kv) => kv.memory(),
            System::Objects(objects) => objects.memory(),
            System::PubSub(pubsub) => pubsub.memory(),
        };
        self.0.iter().filter_map(move |(name, named)| Some((name.as_str(), bytes(named.system.as_ref()?))))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that nothing has asked for, here or in a clone.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let unused = self.0.iter().filter(|(_, named)| !named.used.load(Ordering::Relaxed));
        unused.map(|(name, _)| name.as_str())
    }

    fn find(&self, name: &str) -> Result<&System, String> {
        let Some(named) = self.0.get(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            return Err(match known.as_slice() {
                [] => format!("there is no system `{name}`: `systems` is empty"),
                known => format!("there is no system `{name}`; there are: {}", known.join(", ")),
            });
        };
        named.used.store(true, Ordering::Relaxed);
        named.system.as_ref().ok_or_else(|| format!("the system `{name}` is itself wrong"))
    }
}

/// The names alone: a system may hold a password.
impl std::fmt::Debug for Systems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
