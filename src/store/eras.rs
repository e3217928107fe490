//! Times that hold although the wall clock does not. A board without a battery boots in 1970, and its clock is set minutes
//! or months later; but the monotonic clock places every event in its boot, and what is known of the boot gives the rest.
//!
//! The steady clock goes with the monotonic one. Between two boots it stands, unless the wall clock says at the start how
//! long the machine was off: one that was set says it exactly, another one is believed up to a day. What becomes known
//! later does not move it, or timeouts would be over at once; but the ages of events count it.

use super::{OpenError, Store};
use crate::clock::{self, Quality, Stamp, millis_of as ms};
use rusqlite::{Connection, params};
use std::time::Duration;

/// A wall clock that nobody has set may be anything; what it says of the time without power counts up to this much. Events
/// that are older expire later than they should, never sooner.
const BELIEVED: i64 = 86_400_000;
/// Starts of the gateway that are remembered. One that starts every minute fills it in a week.
const STARTS: i64 = 10_000;
/// The end of a boot is known to so many milliseconds if power fails: it is written in a commit that is made anyway.
const NOTE: u64 = 60_000;

/// The time between two boots of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Era {
    /// The number of the first start of the gateway in it.
    first: u32,
    /// The kernel's boot id.
    id: String,
    /// The steady clock at boot.
    steady: i64,
    /// As that, with all that became known of the time without power: for ages. And what it is at least.
    aged: i64,
    least: i64,
    /// The wall clock at boot, as known since the clock was set.
    wall: Option<i64>,
    /// The latest monotonic time known of it.
    last: u64,
}

/// The boots of the machine that the store knows, the present one last.
#[derive(Clone, Debug, Default)]
pub(super) struct Eras {
    eras: Vec<Era>,
    start: u32,
    /// Something is to be written.
    changed: bool,
}

impl Eras {
    /// What the store knows, and the present boot, `now`.
    pub fn load(db: &Connection, id: &str, now: &Stamp) -> Result<Eras, OpenError> {
        let mut eras = Eras::default();
        let mut query = db.prepare("SELECT n, id, at, steady, aged, wall, last FROM boot ORDER BY n")?;
        let mut rows = query.query([])?;
        while let Some(r) = rows.next()? {
            let (at, last): (i64, u64) = (r.get(2)?, r.get::<_, i64>(6)?.unsigned_abs());
            // A row of an older version knows nothing: the steady clock is what the wall clock was.
            let (steady, aged) = (r.get::<_, Option<i64>>(3)?.unwrap_or(at), r.get::<_, Option<i64>>(4)?.unwrap_or(at));
            let first = u32::try_from(r.get::<_, i64>(0)?).unwrap_or(u32::MAX);
            eras.start = first;
            eras.add(Era { first, id: r.get(1)?, steady, aged, least: aged, wall: r.get(5)?, last });
        }
        let here = eras.begin(id, now);
        eras.start = eras.start.saturating_add(1);
        eras.add(Era { first: eras.start, ..here });
        eras.changed = true;
        Ok(eras)
    }

    /// A later start in the same boot knows all that the earlier did.
    fn add(&mut self, era: Era) {
        match self.eras.last_mut().filter(|last| !era.id.is_empty() && last.id == era.id) {
            Some(last) => *last = Era { first: last.first, ..era },
            None => self.eras.push(era),
        }
    }

    /// The present boot, by what is known of the one before.
    fn begin(&self, id: &str, now: &Stamp) -> Era {
        let (mono, set) = (ms(now.mono_ms), now.quality == Quality::Synced);
        let wall = set.then_some(now.wall_ms - mono);
        let era = |steady: i64, least: i64, off: i64| Era {
            first: 0,
            id: id.to_owned(),
            steady: steady + off,
            aged: least + off,
            least,
            wall,
            last: now.mono_ms,
        };
        match self.eras.last() {
            Some(same) if !id.is_empty() && same.id == id => {
                Era { wall: same.wall.or(wall), last: now.mono_ms, ..same.clone() }
            }
            Some(before) => {
                let end = ms(before.last);
                let aged = before.aged.saturating_add(end);
                let off = self.ahead().map_or(0, |ahead| now.wall_ms.saturating_sub(aged - ahead));
                let off = if set { off.max(0) } else { off.clamp(0, BELIEVED) };
                era(before.steady.saturating_add(end) - mono, aged - mono, off)
            }
            None => era(now.wall_ms - mono, now.wall_ms - mono, 0),
        }
    }

    /// How far the ages are ahead of a wall clock that was set, if one ever was: the same in all boots, but for the time without
    /// power that nobody knows of.
    fn ahead(&self) -> Option<i64> {
        self.eras.iter().rev().find_map(|era| Some(era.aged - era.wall?))
    }

    /// Whether the clock was set just now.
    pub fn learns(&self, now: &Stamp) -> bool {
        now.quality == Quality::Synced && self.eras.last().is_some_and(|here| here.wall.is_none())
    }

    /// Notes the time.
    pub fn note(&mut self, now: &Stamp) {
        let ahead = self.ahead();
        let Some(here) = self.eras.last_mut() else { return };
        if here.wall.is_none() && now.quality == Quality::Synced {
            let wall = now.wall_ms - ms(now.mono_ms);
            here.wall = Some(wall);
            here.aged = ahead.map_or(here.aged, |ahead| (wall + ahead).max(here.least));
            self.changed = true;
        }
        if now.mono_ms >= here.last.saturating_add(NOTE) {
            here.last = now.mono_ms;
            self.changed = true;
        }
    }

    /// Writes what is new of the present boot, in the open transaction. It counts as written once `settle` is called.
    pub fn write(&self, db: &Connection) -> rusqlite::Result<()> {
        let Some(here) = self.eras.last().filter(|_| self.changed) else { return Ok(()) };
        db.prepare_cached(
            "INSERT OR REPLACE INTO boot (n, id, at, steady, aged, wall, last) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            self.start,
            here.id,
            here.steady,
            here.steady,
            here.aged,
            here.wall,
            ms(here.last)
        ])?;
        db.prepare_cached("DELETE FROM boot WHERE n <= ?1")?.execute([i64::from(self.start) - STARTS])?;
        Ok(())
    }

    /// Writes the present start into a fresh database.
    pub fn write_all(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.changed = true;
        self.write(db)
    }

    /// What was new is committed; gives whether there was anything.
    pub fn settle(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether the gateway ran before in this boot of the machine.
    pub fn began_before(&self) -> bool {
        self.eras.last().is_some_and(|here| here.first < self.start)
    }

    /// The number of this start.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The steady clock at the boot of the machine, for this run.
    pub fn steady_at_boot(&self) -> i64 {
        self.eras.last().map_or(0, |here| here.steady)
    }

    fn of(&self, stamp: &Stamp) -> Option<&Era> {
        let after = self.eras.partition_point(|era| era.first <= stamp.boot);
        self.eras.get(after.checked_sub(1)?)
    }

    /// How old what carries the stamp is, at least, in milliseconds.
    pub fn age(&self, stamp: &Stamp, now_mono: u64) -> i64 {
        let (Some(then), Some(here)) = (self.of(stamp), self.eras.last()) else { return 0 };
        let now = here.aged.saturating_add(ms(now_mono));
        now.saturating_sub(then.aged.saturating_add(ms(stamp.mono_ms))).max(0)
    }

    /// Sets a wall time right that was taken before the clock was set, as far as it is known by now.
    pub fn mend(&self, stamp: &mut Stamp) {
        let Some(era) = self.of(stamp).filter(|_| stamp.quality == Quality::Unsynced) else { return };
        if let Some(wall) = era.wall {
            (stamp.wall_ms, stamp.quality) = (wall.saturating_add(ms(stamp.mono_ms)), Quality::Restamped);
        } else if let Some(ahead) = self.ahead() {
            let estimate = era.aged.saturating_add(ms(stamp.mono_ms)) - ahead;
            (stamp.wall_ms, stamp.quality) = (estimate, Quality::Estimated);
        }
    }
}

impl Store {
    /// How long ago an event was taken in, at least, whatever was done to the wall clock since, over restarts and boots.
    pub fn ages(&self) -> impl Fn(&Stamp) -> Duration + use<> {
        let (eras, now) = (self.shared.view().eras.clone(), clock::stamp().mono_ms);
        move |stamp| Duration::from_millis(eras.age(stamp, now).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const TODAY: i64 = 1_795_255_200_000;

    fn db() -> Connection {
        super::super::schema::open(None).unwrap()
    }

    fn at(wall_ms: i64, mono: i64, quality: Quality) -> Stamp {
        Stamp { wall_ms, mono_ms: mono.unsigned_abs(), boot: 0, quality }
    }

    /// Starts in a boot, and writes it down.
    fn start(db: &Connection, id: &str, now: Stamp) -> Eras {
        let mut eras = Eras::load(db, id, &now).unwrap();
        eras.write(db).unwrap();
        eras.settle();
        eras
    }

    fn event(eras: &Eras, now: Stamp) -> Stamp {
        Stamp { boot: eras.start(), ..now }
    }

    #[test]
    fn a_boot_in_1970_is_set_right_when_the_clock_is() {
        use Quality::*;
        let db = db();
        let mut eras = start(&db, "a", at(5_000, 5_000, Unsynced));
        let mut taken = event(&eras, at(60_000, 60_000, Unsynced));
        eras.mend(&mut taken);
        assert_eq!((taken.wall_ms, taken.quality), (60_000, Unsynced));
        assert_eq!(eras.age(&taken, 90_000), 30_000);
        // The clock is set an hour after boot: the steady clock does not step.
        eras.note(&at(TODAY, HOUR, Synced));
        eras.write(&db).unwrap();
        assert_eq!(eras.age(&taken, HOUR.unsigned_abs()), HOUR - 60_000);
        eras.mend(&mut taken);
        assert_eq!((taken.wall_ms, taken.quality), (TODAY - HOUR + 60_000, Restamped));
        // Also by a later start, and in a later boot.
        for (id, now) in [("a", at(TODAY, HOUR, Unsynced)), ("b", at(1_000, 1_000, Unsynced))] {
            let eras = start(&db, id, now);
            let mut taken = Stamp { boot: 1, ..at(60_000, 60_000, Unsynced) };
            eras.mend(&mut taken);
            assert_eq!((taken.wall_ms, taken.quality), (TODAY - HOUR + 60_000, Restamped), "{id}");
        }
    }

    #[test]
    fn the_time_without_power_counts_as_far_as_a_clock_knows_it() {
        use Quality::*;
        for (name, now, mono, set, want) in [
            ("a battery clock", TODAY + 3 * HOUR, 1_000, Synced, 3 * HOUR),
            ("1970, never set", 1_000, 1_000, Unsynced, 0),
            ("a clock that nobody has set", TODAY + 3 * HOUR, 1_000, Unsynced, 3 * HOUR),
            ("one that is years ahead", TODAY + 99_999 * HOUR, 1_000, Unsynced, BELIEVED),
            ("one that was set back", TODAY - 5 * HOUR, 1_000, Synced, 0),
        ] {
            let db = db();
            let eras = start(&db, "a", at(TODAY, HOUR, Synced));
            let taken = event(&eras, at(TODAY, HOUR, Synced));
            let eras = start(&db, "b", at(now, mono, set));
            let age = eras.age(&taken, mono.unsigned_abs());
            assert_eq!(age, want, "{name}");
        }
        // It is known only later: what was taken in before that is no older for it, what came before the boot is.
        let db = db();
        let eras = start(&db, "a", at(TODAY, HOUR, Synced));
        let before = event(&eras, at(TODAY, HOUR, Synced));
        let mut eras = start(&db, "b", at(1_000, 1_000, Unsynced));
        let after = event(&eras, at(2_000, 2_000, Unsynced));
        assert_eq!((eras.age(&before, 3_000), eras.age(&after, 3_000)), (2_000, 1_000));
        eras.note(&at(TODAY + 9 * HOUR, 3_000, Synced));
        assert_eq!((eras.age(&before, 3_000), eras.age(&after, 3_000)), (9 * HOUR, 1_000));
    }

    #[test]
    fn a_boot_whose_clock_was_never_set_is_estimated_between_its_neighbours() {
        use Quality::*;
        let db = db();
        start(&db, "a", at(TODAY, HOUR, Synced));
        let unset = start(&db, "b", at(1_000, 1_000, Unsynced));
        let mut taken = event(&unset, at(HOUR, HOUR, Unsynced));
        let eras = start(&db, "c", at(TODAY + 9 * HOUR, 1_000, Synced));
        eras.mend(&mut taken);
        assert_eq!((taken.wall_ms, taken.quality), (TODAY + HOUR - 1_000, Estimated));
    }

    #[test]
    fn a_step_of_a_clock_that_was_set_changes_nothing() {
        use Quality::*;
        let db = db();
        let mut eras = start(&db, "a", at(TODAY, HOUR, Synced));
        let taken = event(&eras, at(TODAY, HOUR, Synced));
        for wall in [0, TODAY + 99_999 * HOUR] {
            eras.note(&at(wall, HOUR + 1_000, Synced));
            assert_eq!(eras.age(&taken, (HOUR + 1_000).unsigned_abs()), 1_000);
        }
        let again = start(&db, "a", at(0, HOUR + 2_000, Unsynced));
        assert_eq!((again.age(&taken, (HOUR + 2_000).unsigned_abs()), again.start()), (2_000, 2));
    }
}
