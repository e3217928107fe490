//! Sizes, durations and what may wait: every buffer has a limit in bytes, said the way people write it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    borrow::Cow,
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Mutex, Semaphore, watch};

/// A number of bytes, written `"64KiB"`, `"1MB"`, `"512"` or as a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A span of time, written `"250ms"`, `"5s"`, `"10m"`, `"6h"`, `"7d"`. At most ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Size {
    /// The size as `usize`, for buffers in memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Span {
    /// A span of so many milliseconds.
    pub const fn millis(ms: u64) -> Self {
        Span(Duration::from_millis(ms))
    }
}

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("", 1),
];
const SPANS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const TEN_YEARS_MS: u64 = 3653 * 86_400_000;

/// Splits `1.5MiB` into number and unit and multiplies them; `None` for anything else, negative or beyond `u64`.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..at].trim(), &text[at..]);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let number: f64 = number.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)?;
    let scaled = number * factor as f64;
    (scaled < u64::MAX as f64).then_some(scaled as u64)
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, SIZES)
            .map(Size)
            .ok_or_else(|| format!("`{text}` is not a size; write it like \"64KiB\" or \"1MB\""))
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, SPANS).filter(|ms| *ms <= TEN_YEARS_MS).map(Span::millis).ok_or_else(|| {
            format!("`{text}` is not a duration; write it like \"250ms\", \"5s\", \"10m\", \"6h\" or \"7d\"")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor)
            .unwrap_or(("B", 1));
        if self.0.is_multiple_of(factor) {
            write!(f, "{}{unit}", self.0 / factor)
        } else {
            write!(f, "{:.1}{unit}", self.0 as f64 / factor as f64)
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let (unit, factor) = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor))
            .unwrap_or(("ms", 1));
        write!(f, "{}{unit}", ms / factor)
    }
}

/// Bytes of memory that this process takes; 0 where Linux does not tell.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |line: &str| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    status.lines().find_map(kib).unwrap_or(0) << 10
}

/// Bytes that many share. What comes in is drawn before it is buffered, and given back when it is done with; who finds none
/// waits or is refused.
#[derive(Clone, Debug)]
pub struct Pool {
    bounds: Arc<Bounds>,
    /// Held by the one that waits for room; the others wait for this.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct Bounds {
    /// Who waits hears of a change: it may want more than there will ever be.
    limit: watch::Sender<usize>,
    room: Semaphore,
    /// Bytes over the limit that are still drawn, after it was lowered: what comes back pays them first.
    owed: AtomicUsize,
    waiting: AtomicUsize,
}

impl Pool {
    /// At most 256 MiB on a machine of 32 bits.
    pub fn new(limit: usize) -> Self {
        let limit = most(limit);
        let bounds = Bounds {
            limit: watch::Sender::new(limit),
            room: Semaphore::new(limit),
            owed: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        };
        Pool { bounds: Arc::new(bounds), turn: Arc::default() }
    }

    /// The same bytes, for one of those who share them: these take turns, however many wait for each.
    pub fn apart(&self) -> Pool {
        Pool { turn: Arc::default(), ..self.clone() }
    }

    /// Bytes in all.
    pub fn limit(&self) -> usize {
        *self.bounds.limit.borrow()
    }

    /// From now on so many bytes, here and for all who share them. What is drawn stays so until it comes back.
    pub fn resize(&self, limit: usize) {
        let (limit, before) = (most(limit), self.limit());
        self.bounds.limit.send_if_modified(|known| std::mem::replace(known, limit) != limit);
        if limit > before {
            self.bounds.give(limit - before);
        } else {
            self.bounds.owed.fetch_add(before - limit, Relaxed);
            self.bounds.pay();
        }
    }

    /// Bytes that are drawn.
    pub fn used(&self) -> usize {
        let all = self.limit() + self.bounds.owed.load(Relaxed);
        all.saturating_sub(self.bounds.room.available_permits())
    }

    /// Whether somebody waits.
    pub fn is_wanted(&self) -> bool {
        self.bounds.waiting.load(Relaxed) > 0
    }

    /// Nothing yet, to be grown.
    pub fn share(&self) -> Share {
        Share { pool: self.clone(), bytes: 0 }
    }

    /// So many bytes at once, if they are there.
    pub fn draw(&self, bytes: usize) -> Option<Share> {
        let mut share = self.share();
        share.grow(bytes).then_some(share)
    }
}

fn most(limit: usize) -> usize {
    limit.min(Semaphore::MAX_PERMITS / 2).min(u32::MAX as usize)
}

impl Bounds {
    /// Bytes come back, or become more.
    fn give(&self, bytes: usize) {
        self.room.add_permits(bytes);
        self.pay();
    }

    /// Of what is there, what is owed goes; what somebody had gathered who waits no more came back by itself.
    fn pay(&self) {
        if self.owed.load(Relaxed) > 0 {
            let owed = self.owed.swap(0, Relaxed);
            self.owed.fetch_add(owed - self.room.forget_permits(owed), Relaxed);
        }
    }
}

/// What sources draw from, each for its own: so that neither idle connections nor what is kept for absent clients takes the
/// room that events need to come in.
#[derive(Clone, Debug)]
pub struct Pools {
    /// Connections, each with what it reads ahead.
    pub connections: Pool,
    /// Messages that are kept for clients: retained, or not yet acknowledged by them.
    pub kept: Pool,
    /// Requests, packets and batches until the disk has them.
    pub events: Pool,
}

impl Pools {
    /// All of them, in their order.
    pub fn each(&self) -> [&Pool; 3] {
        [&self.connections, &self.kept, &self.events]
    }
}

impl Default for Pools {
    fn default() -> Self {
        let pool = || Pool::new(256 << 20);
        Pools { connections: pool(), kept: pool(), events: pool() }
    }
}

/// Somebody's part of a pool, given back when dropped.
#[derive(Debug)]
pub struct Share {
    pool: Pool,
    bytes: usize,
}

impl Share {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Draws more, all or nothing; gives whether it was there.
    pub fn grow(&mut self, bytes: usize) -> bool {
        self.pool.bounds.pay();
        let permit = u32::try_from(bytes).ok().and_then(|n| self.pool.bounds.room.try_acquire_many(n).ok());
        permit.is_some_and(|permit| {
            permit.forget();
            self.bytes += bytes;
            true
        })
    }

    /// As `grow`, but waits until it is there, in the order of asking, those who are apart in turns; what is more than the whole pool never is. Dropping
    /// the future draws nothing.
    pub async fn wait(&mut self, bytes: usize) -> bool {
        let bounds = &*self.pool.bounds;
        let mut limit = bounds.limit.subscribe();
        let waits = Waits::new(&bounds.waiting);
        let _turn = self.pool.turn.lock().await;
        loop {
            bounds.pay();
            if bytes > *limit.borrow_and_update() {
                return false;
            }
            tokio::select! {
                biased;
                permit = bounds.room.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)) => {
                    drop(waits);
                    return permit.is_ok_and(|permit| {
                        permit.forget();
                        self.bytes += bytes;
                        true
                    });
                }
                _ = limit.changed() => {}
            }
        }
    }

    /// Takes over what another has drawn from the same pool.
    pub fn absorb(&mut self, mut other: Share) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back what is over so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        if self.bytes > bytes {
            self.pool.bounds.give(self.bytes - bytes);
            self.bytes = bytes;
        }
    }
}

/// Counts who waits, for as long as it does.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Waits(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// Text or a bare number, read by `FromStr`; shared by both types.
fn read<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(de: D) -> Result<T, D::Error> {
    struct Text<T>(std::marker::PhantomData<T>);
    impl<T: FromStr<Err = String>> serde::de::Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text with a number and a unit")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
        fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<T, E> {
            n.to_string().parse().map_err(E::custom)
        }
    }
    de.deserialize_any(Text(std::marker::PhantomData))
}

macro_rules! written_as_text {
    ($type:ident, $example:literal, $pattern:literal, $accepts:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                read(de)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
                ser.collect_str(self)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $accepts, "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}
written_as_text!(Size, "64KiB", "^[0-9.]+ ?([kKMG]?B|[KMGT]iB)?$", ["string", "integer"]);
written_as_text!(Span, "5s", "^[0-9.]+ ?(ms|s|m|min|h|d)$", "string");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_read_as_people_write_them() {
        for (text, want) in [
            ("64KiB", Some(65_536)),
            ("1MB", Some(1_000_000)),
            ("1.5 MiB", Some(1_572_864)),
            ("512", Some(512)),
            ("0", Some(0)),
            ("-1", None),
            ("1XB", None),
            ("", None),
            ("KiB", None),
            ("99999999999999999999GiB", None),
            ("inf", None),
        ] {
            assert_eq!(text.parse::<Size>().ok().map(|s| s.0), want, "{text}");
        }
        for (text, want) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("1.5h", Some(5_400_000)),
            ("7d", Some(604_800_000)),
            ("5", None),
        ] {
            assert_eq!(text.parse::<Span>().ok().map(|s| s.0.as_millis()), want, "{text}");
        }
        assert!("4000d".parse::<Span>().is_err());
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["64KiB", "1MiB", "7B"] {
            assert_eq!(text.parse::<Size>().map(|s| s.to_string()).as_deref(), Ok(text));
        }
        for text in ["250ms", "90s", "7d", "6h"] {
            assert_eq!(text.parse::<Span>().map(|s| s.to_string()).as_deref(), Ok(text));
        }
    }

    #[tokio::test]
    async fn a_pool_gives_what_it_has_and_takes_it_back() {
        let pool = Pool::new(100);
        let mut one = pool.draw(60).unwrap();
        assert!(pool.draw(41).is_none() && !one.grow(41) && !one.wait(101).await);
        assert_eq!((pool.used(), one.bytes()), (60, 60));
        let mut other = pool.share();
        {
            let waits = other.wait(70);
            tokio::pin!(waits);
            assert!(soon(&mut waits).await.is_none());
            // Who waits is not overtaken, however little the other wants.
            assert!(pool.draw(1).is_none() && pool.is_wanted());
            one.shrink(30);
            assert_eq!(soon(&mut waits).await, Some(true));
        }
        assert_eq!((pool.used(), other.bytes()), (100, 70));
        drop(other);
        {
            let mut third = pool.share();
            let waits = third.wait(80);
            tokio::pin!(waits);
            assert!(soon(&mut waits).await.is_none());
        }
        assert_eq!((pool.used(), pool.is_wanted()), (30, false), "who stopped waiting has nothing");
        drop(one);
        assert_eq!(pool.used(), 0);
    }

    #[tokio::test]
    async fn a_pool_can_be_resized_under_those_who_draw_from_it() {
        let pool = Pool::new(100);
        let (one, mut other) = (pool.draw(60).unwrap(), pool.share());
        {
            let waits = other.wait(90);
            tokio::pin!(waits);
            assert!(soon(&mut waits).await.is_none());
            pool.resize(50);
            assert_eq!(soon(&mut waits).await, Some(false), "there will never be as much");
        }
        assert_eq!((pool.limit(), pool.used()), (50, 60));
        assert!(pool.draw(1).is_none());
        drop(one);
        assert_eq!((pool.used(), pool.draw(51).is_none(), pool.draw(50).is_some()), (0, true, true));
        let held = pool.draw(50).unwrap();
        pool.resize(40);
        pool.resize(80);
        assert_eq!((pool.used(), pool.draw(31).is_none(), pool.draw(30).is_some()), (50, true, true));
        drop(held);
        assert_eq!((pool.used(), pool.draw(81).is_none(), pool.draw(80).is_some()), (0, true, true));
    }

    async fn soon<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(1), future).await.ok()
    }

    #[tokio::test]
    async fn those_who_are_apart_take_turns() {
        let pool = Pool::new(100);
        let (many, one) = (pool.apart(), pool.apart());
        let all = pool.draw(100).unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for name in ["many"; 9].into_iter().chain(["one"]) {
            let (mut share, order) = (if name == "one" { &one } else { &many }.share(), order.clone());
            tasks.spawn(async move {
                assert!(share.wait(100).await);
                order.lock().unwrap().push(name);
            });
            tokio::task::yield_now().await;
        }
        assert!(pool.is_wanted());
        drop(all);
        while tasks.join_next().await.is_some() {}
        let at = order.lock().unwrap().iter().position(|name| *name == "one");
        assert!(at.is_some_and(|at| at < 2), "{order:?}");
        assert_eq!((pool.used(), pool.is_wanted()), (0, false));
    }
}
