//! Places for connections, for sources that listen: how many there are, and who must go when all are taken.
//!
//! Who has made us wait for longest goes first; who was never of use has waited since it connected. Who is being served stays.
//! So a crowd of slow clients, from however few addresses, keeps nobody out: a connection that says at once what it wants is
//! answered before its turn to go comes.

use super::trouble::Trouble;
use crate::clock;
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Notify,
    time::{Instant, sleep, timeout},
};

/// Nobody goes before so many milliseconds: time for a TLS handshake and a first request from far away. While a crowd comes
/// back at once, a place changes hands this often: with 256 places, 2,000 others before one are through within a second.
const GRACE: u64 = 100;
/// A new connection waits this long for a place; the others wait behind it.
const PATIENCE: Duration = Duration::from_millis(500);
/// A part of all places: so many of those that make us wait go at once.
const AT_ONCE: usize = 16;
/// Bytes that the kernel keeps for a client that does not read (it doubles them); without, it would be megabytes.
const SEND_BUFFER: u32 = 64 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Who stays.
const STAYS: u64 = u64::MAX;

/// Listens with buffers that are bounded.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The places of one listener.
#[derive(Clone)]
pub(super) struct Seats(Arc<Hall>);

struct Hall {
    all: usize,
    per_peer: usize,
    numbers: AtomicU64,
    taken: Mutex<BTreeMap<u64, Arc<Place>>>,
    freed: Notify,
    /// Connections that had to go since the last one came.
    ended: AtomicU64,
    crowded: Trouble,
    /// The source's, for the log.
    name: String,
}

struct Place {
    peer: IpAddr,
    /// From when on it makes us wait, milliseconds; or [`STAYS`].
    standing: AtomicU64,
    /// Bytes of the common memory that it holds while it waits.
    holds: AtomicUsize,
    out: Notify,
}

impl Seats {
    /// Loopback is limited in all only.
    pub fn new(name: &str, all: usize, per_peer: usize) -> Self {
        let (numbers, ended, name) = (AtomicU64::new(0), AtomicU64::new(0), format!("sources.{name}"));
        let (taken, freed, crowded) = (Mutex::default(), Notify::new(), Trouble::default());
        Seats(Arc::new(Hall { all, per_peer, numbers, taken, freed, ended, crowded, name }))
    }

    /// A place; somebody else's, if it must be. `None`: all are being served, or nobody has been there for long enough.
    /// The log hears of those who had to go.
    pub async fn take(&self, peer: IpAddr) -> Option<Seat> {
        let seat = self.find(peer).await;
        let Hall { ended, crowded, name, .. } = &*self.0;
        match (&seat, ended.swap(0, Relaxed)) {
            (Some(_), 0) => crowded.ends(|n| format!("{name}: there is room again; {n} connections were sent away")),
            _ => crowded.begins(|| format!("{name}: too many connections, the last from {peer}")),
        }
        seat
    }

    /// A place, and what else a connection needs; where there is none of that, somebody has to go, as for a place.
    pub async fn take_with<T>(&self, peer: IpAddr, draw: impl Fn() -> Option<T>) -> Option<(Seat, T)> {
        let (seat, until) = (self.take(peer).await?, Instant::now() + PATIENCE);
        loop {
            if let Some(drawn) = draw() {
                return Some((seat, drawn));
            }
            let other = |place: &Place| !std::ptr::eq(place, &*seat.place);
            let (_, wait) = self.end_some(&self.lock(), 1, other).filter(|_| Instant::now() < until)?;
            timeout(wait, self.0.freed.notified()).await.ok();
        }
    }

    async fn find(&self, peer: IpAddr) -> Option<Seat> {
        let (peer, until) = (network(peer), Instant::now() + PATIENCE);
        loop {
            let wait = match self.try_take(peer) {
                Ok(seat) => return Some(seat),
                Err(wait) => wait.filter(|_| Instant::now() < until)?,
            };
            timeout(wait, self.0.freed.notified()).await.ok();
        }
    }

    /// The error says when to try again.
    fn try_take(&self, peer: IpAddr) -> Result<Seat, Option<Duration>> {
        let mut taken = self.lock();
        let here = taken.values().filter(|place| place.peer == peer).count();
        let crowd = here >= self.0.per_peer && !peer.is_loopback();
        if crowd || taken.len() >= self.0.all {
            let wait = self.end_some(&taken, self.0.all / AT_ONCE, |place| !crowd || place.peer == peer);
            // One address that has too many does not make the others wait.
            return Err(wait.filter(|(went, _)| *went || !crowd).map(|(_, wait)| wait));
        }
        let number = self.0.numbers.fetch_add(1, Relaxed);
        let (born, holds) = (clock::mono_ms(), AtomicUsize::new(0));
        let place = Arc::new(Place { peer, standing: AtomicU64::new(born), holds, out: Notify::new() });
        taken.insert(number, place.clone());
        Ok(Seat { seats: self.clone(), number, born, proven: AtomicBool::new(false), place })
    }

    /// Sends away the first of some who must go, and a few more for the next who come, `most` in all: whether any goes now,
    /// and how long until its place, or another's turn, may come. `None`: all of them stay.
    fn end_some(
        &self,
        taken: &BTreeMap<u64, Arc<Place>>,
        most: usize,
        of: impl Fn(&Place) -> bool,
    ) -> Option<(bool, Duration)> {
        let now = clock::mono_ms();
        let left = |standing: u64| (standing + GRACE).saturating_sub(now);
        let some = taken.values().filter(|place| of(place)).map(|place| (place.standing.load(Relaxed), place));
        let mut some: Vec<(u64, &Arc<Place>)> = some.filter(|(standing, _)| *standing != STAYS).collect();
        some.sort_unstable_by_key(|(standing, _)| *standing);
        let wait = left(some.first()?.0);
        for (_, place) in some.iter().take(most.max(1)).filter(|(standing, _)| left(*standing) == 0) {
            place.standing.store(STAYS, Relaxed);
            place.out.notify_one();
            self.0.ended.fetch_add(1, Relaxed);
        }
        match wait {
            0 => Some((true, Duration::from_millis(GRACE))),
            // More is a silence that is allowed until then.
            wait => (wait <= GRACE).then(|| (false, Duration::from_millis(wait))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Place>>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One host, as far as one can tell: an IPv6 host has a whole /64 to choose addresses from.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}

/// A connection's place, given back when dropped. At first its connection is one that was never of use.
pub(super) struct Seat {
    seats: Seats,
    number: u64,
    born: u64,
    proven: AtomicBool,
    place: Arc<Place>,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Seat {
    /// The client was of use: while nothing is asked of it, it does not make us wait.
    pub fn proves(&self) {
        self.proven.store(true, Relaxed);
    }

    /// The client has made us wait for so long.
    pub fn waits(&self, since: Duration) {
        self.stand(clock::mono_ms().saturating_sub(millis(since)));
    }

    /// Nothing is asked of the client, which may be silent for so long from now; unless it was never of use.
    pub fn rests(&self, silence: Duration) {
        self.stand(clock::mono_ms().saturating_add(millis(silence)).min(STAYS - GRACE - 1));
    }

    fn stand(&self, standing: u64) {
        let proven = self.proven.load(Relaxed);
        self.place.standing.store(if proven { standing } else { self.born }, Relaxed);
    }

    /// The client is being served.
    pub fn stays(&self) {
        self.place.standing.store(STAYS, Relaxed);
    }

    /// Ends when somebody else needs the place: the connection must end then.
    pub async fn out(&self) {
        self.place.out.notified().await;
    }

    /// How many bytes of the memory that all connections share this one holds.
    pub fn holds(&self, bytes: usize) {
        self.place.holds.store(bytes, Relaxed);
    }

    /// There is no memory left: sends away one that holds some and makes us wait, and gives it a moment. `false`: there is none.
    pub async fn make_room(&self) -> bool {
        let own = &self.place;
        let went = {
            let taken = self.seats.lock();
            let holder = |place: &Place| place.holds.load(Relaxed) > 0 && !std::ptr::eq(place, &**own);
            self.seats.end_some(&taken, 1, holder).is_some_and(|(went, _)| went)
        };
        if went {
            sleep(Duration::from_millis(5)).await;
        }
        went
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
        self.seats.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn seats_are_counted_by_host_and_given_back() {
        for (peers, want) in [
            (["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2"], [true, true, false, true]),
            (["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"], [true, true, false, false]),
            (["fd00::1", "fd00::2", "fd00::3", "fd00:0:0:1::1"], [true, true, false, true]),
            (["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"], [true, true, true, false]),
            (["::1", "::1", "::1", "10.0.0.1"], [true, true, true, false]),
        ] {
            let seats = Seats::new("x", 3, 2);
            for _ in 0..2 {
                let mut taken = Vec::new();
                for peer in peers {
                    let seat = seats.take(peer.parse().unwrap()).await;
                    seat.iter().for_each(Seat::stays);
                    taken.push(seat);
                }
                assert_eq!(taken.iter().map(Option::is_some).collect::<Vec<_>>(), want, "{peers:?}");
            }
            assert!(seats.lock().is_empty());
        }
    }

    /// Runs who is given a seat: keeps it until it must go.
    fn sit(seat: Seat, name: &'static str, gone: &Arc<Mutex<Vec<&'static str>>>) {
        let gone = gone.clone();
        tokio::spawn(async move {
            seat.out().await;
            gone.lock().unwrap().push(name);
        });
    }

    #[tokio::test]
    async fn who_makes_others_wait_goes_first_and_who_is_served_stays() {
        let seats = Seats::new("x", 5, 5);
        let (gone, here) = (Arc::default(), "127.0.0.1".parse().unwrap());
        for name in ["served", "idle", "slow", "stranger", "resting"] {
            let seat = seats.take(here).await.unwrap();
            if name != "stranger" {
                seat.proves();
            }
            match name {
                "served" => seat.stays(),
                "idle" => seat.waits(Duration::from_secs(10)),
                "slow" => seat.waits(Duration::from_secs(20)),
                "resting" => seat.rests(Duration::from_secs(10)),
                _ => {}
            }
            sit(seat, name, &gone);
        }
        let begun = Instant::now();
        let mut more = Vec::new();
        for _ in 0..3 {
            let seat = seats.take(here).await.unwrap();
            seat.stays();
            more.push(seat);
        }
        let told = gone.lock().unwrap().clone();
        assert_eq!(told, ["slow", "idle", "stranger"]);
        assert!(begun.elapsed() >= Duration::from_millis(GRACE - 50), "{:?}", begun.elapsed());
        assert!(seats.take(here).await.is_none(), "the others stay");
    }

    #[tokio::test]
    async fn who_holds_memory_and_waits_gives_it_back() {
        let seats = Seats::new("x", 5, 5);
        let (gone, here) = (Arc::default(), "127.0.0.1".parse().unwrap());
        let own = seats.take(here).await.unwrap();
        own.holds(1);
        for (name, holds) in [("nothing", 0), ("much", 9)] {
            let seat = seats.take(here).await.unwrap();
            seat.holds(holds);
            sit(seat, name, &gone);
        }
        assert!(!own.make_room().await, "nobody has been there for long");
        sleep(Duration::from_millis(GRACE)).await;
        assert!(own.make_room().await && !own.make_room().await);
        assert_eq!(*gone.lock().unwrap(), ["much"]);
    }
}
