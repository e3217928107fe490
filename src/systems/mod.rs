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
    mark: Mark,
    /// By anybody, and by whom these `Systems` were made for.
    used: Arc<AtomicBool>,
    noted: Arc<AtomicBool>,
}

/// What tells whether something is as it was: the SHA-256 of its configuration, so that no secret is kept for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(pub [u8; 32]);

impl Systems {
    /// Adds one, or replaces it; `None` for one whose own configuration is wrong.
    pub fn insert(&mut self, name: &str, system: impl Into<Option<System>>) {
        self.insert_marked(name, system, Mark::default());
    }

    /// As `insert`, with what tells it from another of that name.
    pub fn insert_marked(&mut self, name: &str, system: impl Into<Option<System>>, mark: Mark) {
        let named = Named { system: system.into(), mark, used: Arc::default(), noted: Arc::default() };
        self.0.insert(name.to_owned(), named);
    }

    /// The system of that name, if it has this mark.
    pub fn as_marked(&self, name: &str, mark: &Mark) -> Option<System> {
        self.0.get(name).filter(|named| named.mark == *mark)?.system.clone()
    }

    /// The mark of the system of that name.
    pub fn mark(&self, name: &str) -> Mark {
        self.0.get(name).map(|named| named.mark).unwrap_or_default()
    }

    /// The same systems, which note on their own who is asked for.
    pub fn noting(&self) -> Systems {
        let own = |(name, named): (&String, &Named)| (name.clone(), Named { noted: Arc::default(), ..named.clone() });
        Systems(self.0.iter().map(own).collect())
    }

    /// The marks of those that were noted.
    pub fn marks_used(&self) -> impl Iterator<Item = &Mark> {
        self.0.values().filter(|named| named.noted.load(Ordering::Relaxed)).map(|named| &named.mark)
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
        named.noted.store(true, Ordering::Relaxed);
        named.system.as_ref().ok_or_else(|| format!("the system `{name}` is itself wrong"))
    }
}

/// The names alone: a system may hold a password.
impl std::fmt::Debug for Systems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
