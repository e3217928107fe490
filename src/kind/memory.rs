//! What the processes of one pipeline remember, and the times at which they want to be called.
//!
//! All of it is held in memory, so a process reads it without waiting; what a step changed is written to the store in the
//! same commit as the cursor. Every change can be taken back: those of an event that is rejected, and those of a step that
//! the store refused.

use crate::{fault::Fault, store::Put};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What an entry takes besides its key and value, about.
const ENTRY: usize = 96;

/// The state of a pipeline's processes. One party uses it at a time.
#[derive(Debug, Default)]
pub struct Memory {
    owners: Vec<Owner>,
    due: BTreeSet<(i64, usize, Arc<[u8]>)>,
    bytes: usize,
    limit: usize,
    /// What was before each change since `settle`, in order; with `Undo::State(_, _, None)` there was nothing.
    undo: Vec<Undo>,
    /// Bytes of what was before.
    undo_bytes: usize,
}

#[derive(Debug)]
struct Owner {
    /// In the store: `pipelines.NAME.PROCESS`.
    name: String,
    process: Arc<str>,
    kind: &'static str,
    state: BTreeMap<Arc<[u8]>, Bytes>,
    timers: BTreeMap<Arc<[u8]>, i64>,
}

#[derive(Debug)]
enum Undo {
    State(usize, Arc<[u8]>, Option<Bytes>),
    Timer(usize, Arc<[u8]>, Option<i64>),
}

/// A time that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    pub key: Arc<[u8]>,
    /// When it was to fire, in milliseconds since 1970; it is that time or later now.
    pub due: i64,
}

/// What a step wants committed: state and timers, as the store takes them.
pub type Changes = (Vec<Put>, Vec<(String, Vec<u8>, Option<i64>)>);

impl Memory {
    /// For processes given as name, kind; they may keep `limit` bytes together.
    pub fn new(pipeline: &str, processes: &[(&str, &'static str)], limit: usize) -> Self {
        let owner = |(process, kind): &(&str, &'static str)| Owner {
            name: format!("pipelines.{pipeline}.{process}"),
            process: Arc::from(*process),
            kind,
            state: BTreeMap::new(),
            timers: BTreeMap::new(),
        };
        Memory { owners: processes.iter().map(owner).collect(), limit, ..Memory::default() }
    }

    /// The names under which the processes' state lies in the store, in order.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.owners.iter().map(|owner| owner.name.as_str())
    }

    /// Takes in what the store remembers of the process at an index, also where that is more than the limit.
    pub fn load(&mut self, at: usize, state: Vec<(Vec<u8>, Vec<u8>)>, timers: Vec<(Vec<u8>, i64)>) {
        for (key, value) in state {
            self.put(at, &key, Some(value.into()));
        }
        for (key, due) in timers {
            self.set_timer(at, &key, Some(due));
        }
        self.settle();
    }

    /// Where the changes stand now, for `rollback`.
    pub fn savepoint(&self) -> usize {
        self.undo.len()
    }

    /// Takes back what was changed after a savepoint.
    pub fn rollback(&mut self, savepoint: usize) {
        while self.undo.len() > savepoint {
            match self.undo.pop() {
                Some(Undo::State(at, key, old)) => {
                    self.undo_bytes -= old.as_ref().map_or(0, Bytes::len);
                    self.replace(at, key, old);
                }
                Some(Undo::Timer(at, key, old)) => {
                    self.replace_timer(at, key, old);
                }
                None => {}
            }
        }
    }

    /// What changed since `settle`, each key once.
    pub fn changes(&self) -> Changes {
        let (mut state, mut timers) = (BTreeSet::new(), BTreeSet::new());
        for change in &self.undo {
            match change {
                Undo::State(at, key, _) => state.insert((*at, key)),
                Undo::Timer(at, key, _) => timers.insert((*at, key)),
            };
        }
        let put = |(at, key): (usize, &Arc<[u8]>)| {
            let owner = &self.owners[at];
            Put { owner: owner.name.clone(), key: key.to_vec(), value: owner.state.get(key).map(|v| v.to_vec()) }
        };
        let timer = |(at, key): (usize, &Arc<[u8]>)| {
            let owner = &self.owners[at];
            (owner.name.clone(), key.to_vec(), owner.timers.get(key).copied())
        };
        (state.into_iter().map(put).collect(), timers.into_iter().map(timer).collect())
    }

    /// What changed is on disk: it cannot be taken back any more.
    pub fn settle(&mut self) {
        self.undo.clear();
        self.undo_bytes = 0;
    }

    /// Bytes of values that are kept so that changes can be taken back: they are not in the limit.
    pub fn unsettled(&self) -> usize {
        self.undo_bytes
    }

    /// The earliest time at which a process wants to be called.
    pub fn next_due(&self) -> Option<i64> {
        self.due.first().map(|(due, ..)| *due)
    }

    /// Takes the earliest timer that is due, and the index of its process.
    pub fn take_due(&mut self, now: i64) -> Option<(usize, Timer)> {
        let (due, at, key) = self.due.first().filter(|(due, ..)| *due <= now)?.clone();
        self.set_timer(at, &key, None);
        Some((at, Timer { key, due }))
    }

    pub(super) fn get(&self, at: usize, key: &[u8]) -> Option<&Bytes> {
        self.owners.get(at)?.state.get(key)
    }

    pub(super) fn list(&self, at: usize) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.owners.get(at).into_iter().flat_map(|owner| owner.state.iter().map(|(k, v)| (&**k, v)))
    }

    /// The state of all processes of the kind of the one at `at`, each with its name.
    pub(super) fn siblings(&self, at: usize) -> impl Iterator<Item = (&str, &[u8], &Bytes)> {
        let kind = self.owners.get(at).map(|owner| owner.kind);
        let alike = self.owners.iter().filter(move |owner| Some(owner.kind) == kind);
        alike.flat_map(|owner| owner.state.iter().map(|(k, v)| (&*owner.process, &**k, v)))
    }

    /// A value that would take more than the limit is refused; `None` deletes.
    pub(super) fn try_put(&mut self, at: usize, key: &[u8], value: Option<Bytes>) -> Result<(), Fault> {
        let size = |value: Option<&Bytes>| value.map_or(0, |v| ENTRY + key.len() + v.len());
        let after = self.bytes - size(self.get(at, key)) + size(value.as_ref());
        if after > self.limit && after > self.bytes {
            return Err(Fault::reject(format!(
                "the pipeline's state is full: it may take {} bytes (`state` in the pipeline)",
                self.limit
            )));
        }
        self.put(at, key, value);
        Ok(())
    }

    fn put(&mut self, at: usize, key: &[u8], value: Option<Bytes>) {
        let key: Arc<[u8]> = key.into();
        let old = self.replace(at, key.clone(), value);
        self.undo_bytes += old.as_ref().map_or(0, Bytes::len);
        self.undo.push(Undo::State(at, key, old));
    }

    fn replace(&mut self, at: usize, key: Arc<[u8]>, value: Option<Bytes>) -> Option<Bytes> {
        let state = &mut self.owners.get_mut(at)?.state;
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, |v| ENTRY + key.len() + v.len());
        self.bytes += size(&value);
        let old = match value {
            Some(value) => state.insert(key.clone(), value),
            None => state.remove(&key),
        };
        self.bytes -= size(&old);
        old
    }

    pub(super) fn timer(&self, at: usize, key: &[u8]) -> Option<i64> {
        self.owners.get(at)?.timers.get(key).copied()
    }

    pub(super) fn set_timer(&mut self, at: usize, key: &[u8], due: Option<i64>) {
        let key: Arc<[u8]> = key.into();
        let old = self.replace_timer(at, key.clone(), due);
        self.undo.push(Undo::Timer(at, key, old));
    }

    fn replace_timer(&mut self, at: usize, key: Arc<[u8]>, due: Option<i64>) -> Option<i64> {
        let timers = &mut self.owners.get_mut(at)?.timers;
        let old = match due {
            Some(due) => timers.insert(key.clone(), due),
            None => timers.remove(&key),
        };
        if let Some(old) = old {
            self.due.remove(&(old, at, key.clone()));
        }
        if let Some(due) = due {
            self.due.insert((due, at, key));
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(memory: &Memory) -> String {
        let state = memory.list(0).map(|(k, v)| format!("{}={}", String::from_utf8_lossy(k), v.len()));
        let timers = memory.due.iter().map(|(due, _, k)| format!("{}@{due}", String::from_utf8_lossy(k)));
        format!("{} {}", state.chain(timers).collect::<Vec<_>>().join(" "), memory.bytes)
    }

    #[test]
    fn changes_are_taken_back() {
        let mut memory = Memory::new("p", &[("sum", "aggregate"), ("join", "complete")], 1000);
        memory.load(0, vec![(b"a".to_vec(), vec![0; 3])], vec![(b"t".to_vec(), 50)]);
        let before = text(&memory);
        assert_eq!(before, "a=3 t@50 100");
        assert!(memory.changes().0.is_empty());

        let save = memory.savepoint();
        memory.try_put(0, b"a", Some(vec![0; 4].into())).unwrap();
        memory.try_put(0, b"b", Some(vec![0; 1].into())).unwrap();
        memory.try_put(0, b"a", None).unwrap();
        memory.set_timer(0, b"t", Some(7));
        memory.set_timer(0, b"u", Some(9));
        assert_eq!(memory.take_due(8), Some((0, Timer { key: b"t"[..].into(), due: 7 })));
        assert_eq!(memory.take_due(8), None);
        assert_eq!(text(&memory), "b=1 u@9 98");
        assert_eq!(memory.unsettled(), 3 + 4);
        let (state, timers) = memory.changes();
        assert_eq!(
            state.iter().map(|p| (&p.key[..], p.value.is_some())).collect::<Vec<_>>(),
            [(&b"a"[..], false), (b"b", true)]
        );
        assert_eq!(state[0].owner, "pipelines.p.sum");
        assert_eq!(timers.iter().map(|t| t.2).collect::<Vec<_>>(), [None, Some(9)]);
        memory.rollback(save);
        assert_eq!((text(&memory), memory.unsettled()), (before, 0));
    }

    #[test]
    fn it_is_bounded() {
        let mut memory = Memory::new("p", &[("sum", "aggregate")], 300);
        memory.try_put(0, b"a", Some(vec![0; 100].into())).unwrap();
        let refused = memory.try_put(0, b"b", Some(vec![0; 100].into())).unwrap_err().to_string();
        assert!(refused.contains("may take 300 bytes"), "{refused}");
        memory.try_put(0, b"a", Some(vec![0; 50].into())).unwrap();
        memory.try_put(0, b"b", Some(vec![0; 50].into())).unwrap();
        assert_eq!(memory.bytes, 2 * (ENTRY + 51));
    }

    #[test]
    fn siblings_are_those_of_one_kind() {
        let mut memory = Memory::new("p", &[("a", "aggregate"), ("c", "complete"), ("b", "aggregate")], 1000);
        for at in 0..3 {
            memory.try_put(at, b"k", Some(vec![at as u8].into())).unwrap();
        }
        assert_eq!(memory.siblings(2).map(|(name, _, v)| (name, v[0])).collect::<Vec<_>>(), [("a", 0), ("b", 2)]);
    }
}
