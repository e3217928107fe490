//! What connections share, in memory: who owns which session, who shares a subscription, what is retained, how much of
//! the common budgets is used. Locks are held for a few lines that cannot fail, never across an await.

use super::{
    config::Config,
    filter, link,
    payload::Kept,
    session::{FILTERS, Session, Sub},
};
use crate::{
    budget::{Pool, Pools, Share},
    sources::trouble::Trouble,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::{RwLock, oneshot};

/// Bytes of messages that may wait for all clients together, with the filters that are more than a session has room for.
pub const QUEUED: usize = 16 << 20;
/// Bytes that a connection takes besides what it brings: what is read ahead and put out, its task, a few filters.
const SEAT: usize = link::READ + link::IDLE + (4 << 10) + link::OUT_LEAST + FILTERS;
/// And one over TLS.
const TLS: usize = 40 << 10;
/// Memory for what is kept is drawn in steps of so many bytes.
const STEP: usize = 16 << 10;

/// Bytes of memory that a connection takes.
pub fn seat(config: &Config) -> usize {
    if config.tls.is_some() { SEAT + TLS } else { SEAT }
}

/// Bytes of packets that may be on their way to the store, of all clients together, before each has to wait for its own: what
/// many send at once, one more must wait for.
const FLYING: usize = 1 << 20;

/// A new connection asks the owner of its session for it.
pub struct Takeover {
    /// The session ends; the new connection begins another.
    pub clean: bool,
    pub reply: oneshot::Sender<Session>,
}

struct Owner {
    number: u64,
    call: oneshot::Sender<Takeover>,
}

/// The right to a client id, for as long as this lives.
pub struct Claim {
    hub: Arc<Hub>,
    client: Arc<str>,
    number: u64,
    /// Rings when another connection wants the session.
    pub call: oneshot::Receiver<Takeover>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut owners = lock(&self.hub.owners);
        if owners.get(&self.client).is_some_and(|o| o.number == self.number) {
            owners.remove(&self.client);
        }
        drop(owners);
        self.hub.connected(&self.client, false);
    }
}

/// A retained message and the place of its event, which tells which of two is the newer.
#[derive(Clone)]
struct Retained {
    place: (u16, u64),
    kept: Kept,
}

#[derive(Default)]
struct Shelf {
    messages: BTreeMap<Arc<str>, Retained>,
    bytes: usize,
}

pub struct Hub {
    owners: Mutex<HashMap<Arc<str>, Owner>>,
    /// By shared filter, its clients, and whether they are connected.
    shares: Mutex<HashMap<String, BTreeMap<Arc<str>, bool>>>,
    /// Clients whose session lasts.
    lasting: Mutex<BTreeSet<Arc<str>>>,
    shelf: Mutex<Shelf>,
    /// Held for reading while a retained message is committed, for writing at a subscription: a subscriber gets it
    /// as retained, or as new, but never not at all.
    pub gate: RwLock<()>,
    numbers: AtomicU64,
    queued: AtomicUsize,
    /// Bytes of retained messages.
    shelved: AtomicUsize,
    /// Memory for both, and whether there is too little.
    kept: Mutex<Share>,
    short: AtomicBool,
    flying: AtomicUsize,
    /// Memory for what comes in.
    pub events: Pool,
    limits: Config,
    pub session_events: usize,
    pub session_bytes: usize,
    pub full: Trouble,
    pub unfit: Trouble,
    pub slow: Trouble,
    pub shelf_full: Trouble,
    pub crowded: Trouble,
    pub denied: Trouble,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub fn new(limits: Config, pools: &Pools) -> Self {
        Hub {
            owners: Mutex::default(),
            shares: Mutex::default(),
            lasting: Mutex::default(),
            shelf: Mutex::default(),
            gate: RwLock::new(()),
            numbers: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
            shelved: AtomicUsize::new(0),
            kept: Mutex::new(pools.kept.share()),
            short: AtomicBool::new(false),
            flying: AtomicUsize::new(0),
            events: pools.events.apart(),
            session_events: limits.session_events,
            session_bytes: limits.session_bytes.bytes(),
            limits,
            full: Trouble::default(),
            unfit: Trouble::default(),
            slow: Trouble::default(),
            shelf_full: Trouble::default(),
            crowded: Trouble::default(),
            denied: Trouble::default(),
        }
    }

    /// Makes the caller the owner of a client id; also gives the line to the one before, who may still have the session.
    pub fn claim(self: &Arc<Self>, client: &Arc<str>) -> (Claim, Option<oneshot::Sender<Takeover>>) {
        let number = self.numbers.fetch_add(1, Relaxed);
        let (send, call) = oneshot::channel();
        let before = lock(&self.owners).insert(client.clone(), Owner { number, call: send });
        (Claim { hub: self.clone(), client: client.clone(), number, call }, before.map(|o| o.call))
    }

    /// Notes that a client's session lasts, or ended. `false`: there are too many.
    pub fn set_lasting(&self, client: &Arc<str>, lasts: bool) -> bool {
        let mut lasting = lock(&self.lasting);
        if !lasts {
            lasting.remove(client);
        } else if !lasting.contains(client) {
            if lasting.len() >= self.limits.max_sessions {
                return false;
            }
            lasting.insert(client.clone());
        }
        true
    }

    pub fn is_lasting(&self, client: &str) -> bool {
        lock(&self.lasting).contains(client)
    }

    /// Enters a client among those who share a filter, or takes it out.
    pub fn share(&self, filter: &str, client: &Arc<str>, joins: bool) {
        let mut shares = lock(&self.shares);
        if joins {
            shares.entry(filter.to_owned()).or_default().insert(client.clone(), true);
        } else if let Some(group) = shares.get_mut(filter) {
            group.remove(client);
            if group.is_empty() {
                shares.remove(filter);
            }
        }
    }

    /// Notes for all shared filters of a client whether it is there.
    pub fn connected(&self, client: &str, here: bool) {
        for group in lock(&self.shares).values_mut() {
            if let Some(entry) = group.get_mut(client) {
                *entry = here;
            }
        }
    }

    /// Whether this client is the one of its group that gets the event with this number: all connected ones in turn, in
    /// the order of their names; without any, all others.
    pub fn chosen(&self, filter: &str, client: &str, seq: u64) -> bool {
        let shares = lock(&self.shares);
        let Some(group) = shares.get(filter) else { return true };
        let any = group.values().any(|here| *here);
        let mut turn: Vec<&str> = group.iter().filter(|(_, here)| **here == any).map(|(c, _)| &**c).collect();
        turn.sort_unstable();
        let at = usize::try_from(seq % (turn.len().max(1) as u64)).unwrap_or(0);
        turn.get(at).is_some_and(|c| *c == client)
    }

    /// Whether a retained message of this size finds room; one that replaces another nearly always does.
    pub fn admits(&self, topic: &str, size: usize) -> bool {
        let shelf = lock(&self.shelf);
        let old = shelf.messages.get(topic).map_or(0, |r| r.kept.meta.len() + r.kept.body.len());
        let known = shelf.messages.contains_key(topic);
        let short = size > old && self.short.load(Relaxed);
        !short
            && (known || shelf.messages.len() < self.limits.retained)
            && shelf.bytes + size - old.min(shelf.bytes) <= self.limits.retained_bytes.bytes()
    }

    /// Takes over what was committed: a message, or `None` for its end.
    pub fn retain(&self, topic: &str, place: (u16, u64), kept: Option<Kept>) {
        let mut shelf = lock(&self.shelf);
        if shelf.messages.get(topic).is_some_and(|old| old.place.0 == place.0 && old.place.1 > place.1) {
            return;
        }
        if let Some(old) = shelf.messages.remove(topic) {
            shelf.bytes -= old.kept.meta.len() + old.kept.body.len();
        }
        if let Some(kept) = kept {
            shelf.bytes += kept.meta.len() + kept.body.len();
            shelf.messages.insert(topic.into(), Retained { place, kept });
        }
        self.shelved.store(shelf.bytes, Relaxed);
        drop(shelf);
        self.weigh();
    }

    /// The first retained message after a topic that a subscription selects. What was retained since it began comes by the
    /// log, as new; lane 0 is none of the log's.
    pub fn retained(&self, sub: &Sub, after: Option<&str>) -> Option<(Arc<str>, Kept)> {
        let (shelf, wanted) = (lock(&self.shelf), sub.bare());
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let (topic, found) = shelf.messages.range::<str, _>(behind).find(|(topic, retained)| {
            (retained.place.0 == 0 || sub.is_after(retained.place)) && filter::matches(wanted, topic)
        })?;
        Some((topic.clone(), found.kept.clone()))
    }

    /// Bytes of packets go to the store.
    pub fn flies(&self, bytes: usize) {
        self.flying.fetch_add(bytes, Relaxed);
    }

    pub fn landed(&self, bytes: usize) {
        self.flying.fetch_sub(bytes, Relaxed);
    }

    /// Whether a client may send on while the store has something of it.
    pub fn may_gather(&self) -> bool {
        self.flying.load(Relaxed) < FLYING
    }

    pub fn queued_more(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Relaxed);
        self.weigh();
    }

    pub fn queued_less(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Relaxed);
        self.weigh();
    }

    /// Draws memory for what is kept, or gives it back. What came before there was too little stays; nothing more comes.
    fn weigh(&self) {
        let mut kept = lock(&self.kept);
        let bytes = self.queued.load(Relaxed) + self.shelved.load(Relaxed);
        kept.shrink(bytes.next_multiple_of(STEP));
        let more = bytes.saturating_sub(kept.bytes()).next_multiple_of(STEP);
        self.short.store(more > 0 && !kept.grow(more), Relaxed);
    }

    pub fn queue_full(&self) -> bool {
        self.short.load(Relaxed) || self.queued.load(Relaxed) > QUEUED
    }
}
