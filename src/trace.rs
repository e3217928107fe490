//! What happened to single events, in memory: of a sample, of those whose sender records its part of the trace, of all that
//! ended badly, and of all while few come in.
//!
//! Who is sampled is told from the id alone, so every part of the gateway comes to the same answer without asking another.
//! For an event that is not, that is all that it costs.

use crate::{
    clock,
    event::{Event, Id, parent},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Words of a set of ids that are recorded whatever their hash is.
const WORDS: usize = 256;
/// With more of them in the set, too many others would be taken for them: it begins anew.
const MEMBERS: u64 = 1024;
/// While no more than so many come in a second, each is recorded: who looks for one event on a quiet gateway finds its way.
const QUIET: u64 = 20;
/// Events that lie in the store and are watched there.
const WATCHED: usize = 2048;
/// Notes that wait for who takes them: half a minute of a hundred a second.
const WAITING: usize = 2048;
/// Stretches of events that went together, unread.
const STRETCHES: usize = 256;

/// One thing that happened to an event.
#[derive(Clone, Debug)]
pub struct Note {
    /// The event's id.
    pub id: Arc<str>,
    /// Its `traceparent`, if it says that its sender records its part.
    pub parent: Option<Arc<str>>,
    /// When it was over, in milliseconds of the monotonic clock.
    pub at: u64,
    /// How long it took, where that says something.
    pub took: Option<Duration>,
    /// `sources.web`, `store`, `pipelines.climate.annotate`, `sinks.cloud`.
    pub who: Arc<str>,
    /// A word or two: `taken in`, `committed`, `changed`, `acknowledged`.
    pub what: &'static str,
    /// The rest: a place, an answer, a reason.
    pub said: Box<str>,
}

impl Note {
    /// That something happened now.
    pub fn new(id: impl Into<Arc<str>>, who: impl Into<Arc<str>>, what: &'static str) -> Note {
        let at = clock::mono_ms();
        Note { id: id.into(), parent: None, at, took: None, who: who.into(), what, said: "".into() }
    }

    /// The same, of an event that is at hand.
    pub fn of(event: &Event, who: impl Into<Arc<str>>, what: &'static str) -> Note {
        let parent = event.parent().filter(|_| parent::is_sampled(&event.meta)).map(Arc::from);
        Note { parent, ..Note::new(&*event.id.text(), who, what) }
    }

    /// Of the same trace as another.
    pub fn of_trace(self, other: &Note) -> Note {
        Note { parent: other.parent.clone(), ..self }
    }

    /// With what there is to say.
    pub fn said(self, said: impl Into<Box<str>>) -> Note {
        Note { said: said.into(), ..self }
    }

    /// With how long it took.
    pub fn took(self, took: Duration) -> Note {
        Note { took: Some(took), ..self }
    }

    /// Whether it is an end, or an attempt, that should not be.
    pub fn is_bad(&self) -> bool {
        ["failed", "dead", "dropped", "expired", "evicted", "rejected", "refused"].contains(&self.what)
    }

    fn bytes(&self) -> usize {
        size_of::<Note>() + self.id.len() + self.said.len() + self.parent.as_ref().map_or(0, |text| text.len()) + 48
    }
}

/// Events of a lane that had the same end, without anybody looking at each.
#[derive(Clone, Debug)]
pub struct Stretch {
    pub lane: u16,
    pub from: u64,
    pub to: u64,
    pub who: Arc<str>,
    pub what: &'static str,
    pub said: Arc<str>,
}

/// Where it is written down; clones are the same. The default records nothing.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    /// Ids whose hash is not above it are sampled.
    most: Option<u64>,
    /// Those that were made of what is recorded, and those that came while few did.
    children: Set,
    few: Set,
    pace: Mutex<Pace>,
    notes: Mutex<Notes>,
    /// Whether somebody takes them.
    taken: bool,
}

/// Hashes, and now and then one that is not in it.
#[derive(Debug)]
struct Set {
    words: [AtomicU64; WORDS],
    count: AtomicU64,
}

impl Set {
    fn new() -> Set {
        Set { words: std::array::from_fn(|_| AtomicU64::new(0)), count: AtomicU64::new(0) }
    }

    fn has(&self, hash: u64) -> bool {
        self.words[hash as usize / 64 % WORDS].load(Relaxed) >> (hash % 64) & 1 == 1
    }

    fn put(&self, hash: u64) {
        if self.has(hash) {
            return;
        }
        if self.count.fetch_add(1, Relaxed) >= MEMBERS {
            self.clear();
        }
        self.words[hash as usize / 64 % WORDS].fetch_or(1 << (hash % 64), Relaxed);
    }

    fn clear(&self) {
        if self.count.swap(0, Relaxed) > 0 {
            self.words.iter().for_each(|word| word.store(0, Relaxed));
        }
    }
}

/// How many events came in this second, and in the one before it.
#[derive(Debug, Default)]
struct Pace {
    second: u64,
    now: u64,
    before: u64,
}

#[derive(Debug)]
struct Notes {
    sampled: Ring,
    /// Of those that ended badly: many that end so do not push the others out.
    ended: Ring,
    /// By place.
    watched: BTreeMap<(u16, u64), Arc<str>>,
    stretches: VecDeque<(u64, Stretch)>,
    /// What waits for who takes it, and how many were dropped of it.
    waiting: VecDeque<Note>,
    dropped: u64,
}

/// The latest notes, within a number of bytes.
#[derive(Debug)]
struct Ring {
    notes: VecDeque<Note>,
    bytes: usize,
    limit: usize,
}

impl Notes {
    /// What took time, and bad ends, are for who takes them.
    fn wait(&mut self, note: &Note, taken: bool) {
        if !taken || note.took.is_none() && !note.is_bad() {
            return;
        }
        self.waiting.push_back(note.clone());
        if self.waiting.len() > WAITING {
            self.waiting.pop_front();
            self.dropped += 1;
        }
    }
}

impl Ring {
    fn push(&mut self, note: Note) {
        self.bytes += note.bytes();
        self.notes.push_back(note);
        while self.bytes > self.limit
            && let Some(old) = self.notes.pop_front()
        {
            self.bytes -= old.bytes();
        }
    }
}

/// Spreads the bits of a number.
fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (n ^ n >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn of_text(id: &[u8]) -> u64 {
    mix(u64::from(crc32fast::hash(id)))
}

fn of_place(store: u64, lane: u16, seq: u64) -> u64 {
    mix(store ^ u64::from(lane) << 48 ^ seq)
}

impl Trace {
    /// Of one of `sample` ids, all with 1, none with 0; within so many bytes. `taken`: somebody takes the notes, too.
    pub fn new(sample: u32, bytes: usize, taken: bool) -> Trace {
        let ring = |limit| Ring { notes: VecDeque::new(), bytes: 0, limit };
        let notes = Notes {
            sampled: ring(bytes / 4 * 3),
            ended: ring(bytes / 4),
            watched: BTreeMap::new(),
            stretches: VecDeque::new(),
            waiting: VecDeque::new(),
            dropped: 0,
        };
        Trace(Some(Arc::new(Shared {
            most: u64::MAX.checked_div(sample.into()),
            children: Set::new(),
            few: Set::new(),
            pace: Mutex::default(),
            notes: Mutex::new(notes),
            taken,
        })))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether an event is recorded.
    pub fn wants(&self, event: &Event) -> bool {
        let Some(shared) = &self.0 else { return false };
        let hash = match &event.id {
            Id::Own(text) => of_text(text.as_bytes()),
            Id::Made { store, lane, seq } => of_place(*store, *lane, *seq),
        };
        shared.wants(hash) || parent::is_sampled(&event.meta)
    }

    /// Whether an event with this id of its own is.
    pub fn wants_id(&self, id: &str) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.wants(of_text(id.as_bytes())))
    }

    /// Whether an event is that was first stored there without an id of its own.
    pub fn wants_place(&self, store: u64, lane: u16, seq: u64) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.wants(of_place(store, lane, seq)))
    }

    /// From now on what happens to this event is recorded, too.
    pub fn follow(&self, child: &Event) {
        if let (Some(shared), Id::Own(text)) = (&self.0, &child.id) {
            shared.children.put(of_text(text.as_bytes()));
        }
    }

    /// Events are about to be stored, so many of them with ids of their own.
    pub fn come<'a>(&self, count: usize, ids: impl Iterator<Item = &'a str>) {
        if let Some(shared) = self.0.as_ref().filter(|shared| shared.are_few(count as u64, false)) {
            ids.for_each(|id| shared.few.put(of_text(id.as_bytes())));
        }
    }

    /// Events are stored there, from the sequence number on.
    pub fn taken_in(&self, store: u64, lane: u16, first: u64, count: u32) {
        let Some(shared) = &self.0 else { return };
        match shared.are_few(count.into(), true) {
            true => (first..first + u64::from(count)).for_each(|seq| shared.few.put(of_place(store, lane, seq))),
            false => shared.few.clear(),
        }
    }

    /// Something happened to an event that is wanted.
    pub fn note(&self, note: Note) {
        if let Some(shared) = &self.0 {
            let mut notes = shared.notes();
            notes.wait(&note, shared.taken);
            notes.sampled.push(note);
        }
    }

    /// An event ended as it should not: that is kept whether it is wanted or not.
    pub fn ended(&self, note: Note) {
        if let Some(shared) = &self.0 {
            let mut notes = shared.notes();
            notes.wait(&note, shared.taken);
            notes.ended.push(note);
        }
    }

    /// The oldest notes that nobody has taken yet, at most so many, and how many were dropped since the last call.
    pub fn take(&self, most: usize) -> (Vec<Note>, u64) {
        let Some(shared) = &self.0 else { return (Vec::new(), 0) };
        let mut notes = shared.notes();
        let count = most.min(notes.waiting.len());
        (notes.waiting.drain(..count).collect(), std::mem::take(&mut notes.dropped))
    }

    /// Whoever took them could not use them yet.
    pub fn put_back(&self, taken: Vec<Note>) {
        let Some(shared) = &self.0 else { return };
        let mut notes = shared.notes();
        let room = WAITING.saturating_sub(notes.waiting.len());
        notes.dropped += taken.len().saturating_sub(room) as u64;
        let late = taken.len().saturating_sub(room);
        taken.into_iter().skip(late).rev().for_each(|note| notes.waiting.push_front(note));
    }

    /// An event that is wanted lies in the store.
    pub fn watch(&self, lane: u16, seq: u64, id: Arc<str>) {
        let Some(shared) = &self.0 else { return };
        let mut notes = shared.notes();
        notes.watched.insert((lane, seq), id);
        if notes.watched.len() > WATCHED {
            notes.watched.pop_first();
        }
    }

    /// What lay in a part of a lane is gone, or else where (`stays`: the store knows it still).
    pub fn left(&self, run: Stretch, stays: bool, badly: bool) {
        let Some(shared) = &self.0 else { return };
        let mut notes = shared.notes();
        let there = notes.watched.range((run.lane, run.from)..(run.lane, run.to.max(run.from)));
        let there: Vec<((u16, u64), Arc<str>)> = there.map(|(at, id)| (*at, id.clone())).collect();
        for (at, id) in there {
            notes.sampled.push(Note::new(id, run.who.clone(), run.what).said(&*run.said));
            if !stays {
                notes.watched.remove(&at);
            }
        }
        if !badly {
            return;
        }
        let now = clock::mono_ms();
        match notes.stretches.back_mut() {
            Some((at, last))
                if (last.lane, last.to, last.what) == (run.lane, run.from, run.what)
                    && last.who == run.who
                    && last.said == run.said =>
            {
                (*at, last.to) = (now, run.to);
            }
            _ => notes.stretches.push_back((now, run)),
        }
        if notes.stretches.len() > STRETCHES {
            notes.stretches.pop_front();
        }
    }

    /// What is known of an event, by its id and the places where it lies or lay, in order.
    pub fn of(&self, id: &str, places: &[(u16, u64)]) -> Vec<Note> {
        let Some(shared) = &self.0 else { return Vec::new() };
        let notes = shared.notes();
        let both = notes.sampled.notes.iter().chain(&notes.ended.notes);
        let mut found: Vec<Note> = both.filter(|note| &*note.id == id).cloned().collect();
        for (at, run) in &notes.stretches {
            let hit = places.iter().any(|(lane, seq)| *lane == run.lane && (run.from..run.to).contains(seq));
            let known = found.iter().any(|note| note.who == run.who && note.what == run.what);
            if hit && !known {
                let note = Note::new(id, run.who.clone(), run.what).said(&*run.said);
                found.push(Note { at: *at, ..note });
            }
        }
        found.sort_by_key(|note| note.at);
        found
    }
}

impl Shared {
    fn wants(&self, hash: u64) -> bool {
        self.most.is_some_and(|most| hash <= most) || self.children.has(hash) || self.few.has(hash)
    }

    /// Whether few come in with so many more, which are counted.
    fn are_few(&self, more: u64, counted: bool) -> bool {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let second = clock::mono_ms() / 1000;
        if second != pace.second {
            let before = if second == pace.second + 1 { pace.now } else { 0 };
            *pace = Pace { second, now: 0, before };
        }
        let few = pace.before <= QUIET && pace.now + more <= QUIET;
        pace.now += if counted { more } else { 0 };
        few && self.most.is_some()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Body;

    fn event(id: &str) -> Event {
        Event::made(id.to_owned(), "t".into(), 0, Body::default())
    }

    #[test]
    fn one_of_so_many_is_recorded_by_its_id_alone() {
        for (sample, least, most) in [(0, 0, 0), (1, 20_000, 20_000), (10, 1_800, 2_200), (1000, 8, 36)] {
            let trace = Trace::new(sample, 1 << 20, false);
            let own = (0..20_000).filter(|n| trace.wants(&event(&format!("device-{n}")))).count();
            let made = (0..20_000).filter(|n| trace.wants_place(77, 3, 1_000_000 + n)).count();
            for count in [own, made] {
                assert!((least..=most).contains(&count), "one of {sample}: {count} of 20,000");
            }
            for n in 0..1000 {
                let event = event(&format!("device-{n}"));
                assert_eq!(trace.wants(&event), trace.wants_id(&event.id.text()));
                let made = Id::Made { store: 77, lane: 3, seq: n };
                assert_eq!(trace.wants(&Event { id: made, ..event }), trace.wants_place(77, 3, n));
            }
        }
        assert!(!Trace::default().wants(&event("a")) && !Trace::default().is_on());
    }

    #[test]
    fn while_few_come_each_is_recorded() {
        let trace = Trace::new(u32::MAX, 1 << 20, false);
        let wanted = |from: u64, to: u64| (from..to).filter(|seq| trace.wants_place(7, 1, *seq)).count();
        trace.come(2, ["a", "b"].into_iter());
        trace.taken_in(7, 1, 0, 15);
        assert_eq!((trace.wants_id("a"), wanted(0, 15), wanted(15, 40)), (true, 15, 0));
        // More than few: none of them is, so that who has much to do is not held up.
        trace.taken_in(7, 1, 15, 1000);
        assert_eq!((trace.wants_id("a"), wanted(0, 1015)), (false, 0));
        trace.come(1, ["c"].into_iter());
        assert!(!trace.wants_id("c"));
        let none = Trace::new(0, 1 << 20, false);
        none.taken_in(7, 1, 0, 1);
        assert!(!none.wants_place(7, 1, 0), "none is none");
    }

    #[test]
    fn what_is_made_of_a_recorded_event_is_recorded() {
        let trace = Trace::new(0, 1 << 20, false);
        trace.follow(&event("a.1"));
        assert!(trace.wants(&event("a.1")) && trace.wants_id("a.1") && !trace.wants_id("a.2"));
        for n in 0..10 * MEMBERS {
            trace.follow(&event(&n.to_string()));
        }
        let others = (0..10_000).filter(|n| trace.wants_id(&format!("other-{n}"))).count();
        assert!(others < 1_000, "{others} of 10,000 are taken for one of 1,024");
    }

    #[test]
    fn notes_stay_within_their_bytes_and_bad_ends_do_not_push_out_the_others() {
        let trace = Trace::new(1, 64 << 10, false);
        trace.note(Note::new("a", "store", "committed").said("first"));
        for n in 0..10_000 {
            trace.ended(Note::new(format!("x{n}"), "sinks.a", "expired").said("x".repeat(100)));
        }
        let said: Vec<_> = trace.of("a", &[]).into_iter().map(|note| note.said).collect();
        assert_eq!(said.iter().map(|said| &**said).collect::<Vec<_>>(), ["first"]);
        assert_eq!((trace.of("x9999", &[]).len(), trace.of("x1", &[]).len()), (1, 0));
        for n in 0..10_000 {
            trace.note(Note::new(format!("y{n}"), "sinks.a", "acknowledged"));
        }
        assert!(trace.of("a", &[]).is_empty());
        let notes = trace.0.as_ref().unwrap().notes();
        assert!(notes.sampled.bytes <= 48 << 10 && notes.ended.bytes <= 16 << 10);
    }

    #[test]
    fn what_leaves_the_store_unread_is_known_by_its_place() {
        let trace = Trace::new(1, 64 << 10, false);
        let run = |from, to, what| Stretch { lane: 1, from, to, who: "store".into(), what, said: "full".into() };
        trace.watch(1, 7, "a".into());
        trace.left(run(1, 7, "evicted"), false, true);
        assert!(trace.of("a", &[]).is_empty());
        trace.left(run(7, 9, "evicted"), false, true);
        trace.left(run(9, 20, "removed"), false, false);
        let what = |id, places: &[_]| trace.of(id, places).iter().map(|note| note.what).collect::<Vec<_>>();
        assert_eq!(what("a", &[(1, 7)]), ["evicted"], "once");
        for (place, want) in [((1, 1), 1), ((1, 8), 1), ((1, 9), 0), ((2, 3), 0)] {
            assert_eq!(what("unknown", &[place]).len(), want, "{place:?}");
        }
        assert_eq!(trace.0.as_ref().unwrap().notes().stretches.len(), 1, "those that meet are one");
    }

    #[test]
    fn notes_wait_within_their_number_for_who_takes_them() {
        let trace = Trace::new(1, 1 << 20, true);
        let took = Duration::from_millis(1);
        trace.note(Note::new("a", "sources.web", "taken in"));
        for n in 0..3_000 {
            trace.note(Note::new(n.to_string(), "sinks.a", "acknowledged").took(took));
        }
        let (first, dropped) = trace.take(100);
        assert_eq!((first.len(), &*first[0].id, dropped), (100, "952", 952));
        trace.put_back(first);
        trace.ended(Note::new("x", "sinks.a", "expired"));
        let (again, dropped) = trace.take(5_000);
        assert_eq!((again.len(), &*again[0].id, &*again[2047].id, dropped), (2048, "953", "x", 1));
        assert_eq!(trace.take(1).0.len(), 0);
    }
}
