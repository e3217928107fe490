//! Which producer's ids were taken in lately: a repeat is accepted again but stored once.
//!
//! The window is bounded by time and by count. It lives in memory (some 50 bytes an id, see `ID`) and is written down in the commit
//! that takes the events in, 12 bytes an id, so that a crash between that commit and the producer's retry forgets none.

use crate::event::batch::Mark;
use std::collections::{HashMap, VecDeque};

/// Bytes that an id takes in memory at most: twice 17 in the map just after it has grown, twice 8 in the list, and, of a
/// commit with one id, twice 24.
pub const ID: usize = 2 * (17 + 8 + 24);

/// How long, and how many, ids are remembered.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub ms: i64,
    pub ids: usize,
}

/// What a mark turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    New,
    /// Same id, same body.
    Repeat,
    /// Same id, another body: not a repeat, and not to be lost in silence.
    Conflict,
}

pub(super) struct Seen {
    window: Window,
    bodies: HashMap<u64, u32>,
    /// Row in the table, time, how many ids: oldest first.
    rows: VecDeque<(i64, i64, usize)>,
    /// Theirs.
    ids: VecDeque<u64>,
    next_row: i64,
    /// Marks taken in by the transaction that is being made.
    open: HashMap<u64, u32>,
}

impl Seen {
    pub fn load(db: &rusqlite::Connection, window: Window) -> rusqlite::Result<Self> {
        let mut seen = Seen {
            window,
            bodies: HashMap::new(),
            rows: VecDeque::new(),
            ids: VecDeque::new(),
            next_row: 1,
            open: HashMap::new(),
        };
        let mut query = db.prepare("SELECT id, at, marks FROM seen ORDER BY id")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (id, at, marks): (i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (marks, _) = marks.as_chunks::<12>();
            seen.open.extend(marks.iter().map(|m| {
                let (id, body) = m.split_at(8);
                (
                    u64::from_le_bytes(id.try_into().unwrap_or_default()),
                    u32::from_le_bytes(body.try_into().unwrap_or_default()),
                )
            }));
            seen.next_row = id;
            seen.settle(at);
        }
        Ok(seen)
    }

    /// From now on so long, and so many; what is over goes with the next commit.
    pub fn set_window(&mut self, window: Window) {
        self.window = window;
    }

    /// Judges an id and, when it is new, takes it into the open transaction. `source` keeps producers of different
    /// sources apart.
    pub fn judge(&mut self, source: u16, mark: &Mark) -> Verdict {
        let id = of_source(source, mark.id);
        match self.open.get(&id).or_else(|| self.bodies.get(&id)).copied() {
            None => {
                self.open.insert(id, mark.body);
                Verdict::New
            }
            Some(body) if body == mark.body => Verdict::Repeat,
            Some(_) => Verdict::Conflict,
        }
    }

    /// Whether an id of a source was taken in lately.
    pub fn knows(&self, source: u16, id: u64) -> bool {
        self.bodies.contains_key(&of_source(source, id))
    }

    /// The row to write in this transaction, if any id was new, and the highest row that is too old to keep.
    pub fn row(&self) -> Option<(i64, Vec<u8>)> {
        let marks =
            self.open.iter().flat_map(|(id, body)| [&id.to_le_bytes()[..], &body.to_le_bytes()[..]].concat()).collect();
        (!self.open.is_empty()).then_some((self.next_row, marks))
    }

    /// The transaction is on disk: its ids count from now on.
    pub fn settle(&mut self, at: i64) {
        if self.open.is_empty() {
            return;
        }
        self.bodies.extend(self.open.iter());
        self.rows.push_back((self.next_row, at, self.open.len()));
        self.ids.extend(self.open.drain().map(|(id, _)| id));
        self.next_row += 1;
    }

    /// The transaction failed: forget its ids.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// Drops what is outside the window; gives the highest row to delete. A wall clock that stepped back keeps rows
    /// longer, one that stepped forward drops them sooner; the count bounds both.
    pub fn expire(&mut self, now: i64) -> Option<i64> {
        let mut expired = None;
        while let Some((row, at, count)) = self.rows.front().copied() {
            if at + self.window.ms > now && self.bodies.len() <= self.window.ids {
                break;
            }
            for id in self.ids.drain(..count) {
                self.bodies.remove(&id);
            }
            expired = Some(row);
            self.rows.pop_front();
        }
        expired
    }
}

/// Keeps the ids of different sources apart.
fn of_source(source: u16, id: u64) -> u64 {
    id ^ u64::from(source).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
