//! A network that delays, cuts, falls silent, tears and loses answers: between producers and the gateway, and between it and
//! its upstreams.

use crate::{
    account::Arrivals,
    kit::{LONG, Mosquitto, folder, mqtt, runtime, wait_for, wait_for_port},
    rig::{Rig, take_message},
    size,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

/// What happens to a connection after some bytes from its client or its server. None lasts for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Well,
    /// Well, but each piece comes this much later.
    Slow,
    /// Closed, in the middle of a piece.
    Torn,
    /// Nothing comes through any more, either way, and nobody is told for a while.
    Silent,
    /// What the client sends arrives; no answer comes back, and the connection ends a while later.
    Answerless,
    /// Nobody listens.
    Refused,
    /// Answers for the server, which is never asked: of the control.
    Lying,
}

/// Bytes after which it happens, at the latest: some dozens of events.
const LONGEST: usize = 12_000;
const FATES: [Fate; 6] = [Fate::Well, Fate::Slow, Fate::Torn, Fate::Silent, Fate::Answerless, Fate::Refused];

/// Forwards a port to another. It ends with the value.
struct Proxy {
    task: AbortHandle,
    met: Arc<Mutex<BTreeMap<Fate, u64>>>,
}

impl Proxy {
    fn start(listen: u16, target: u16, seed: u64, fates: &'static [Fate], calm: &Arc<AtomicBool>) -> Proxy {
        let (calm, met) = (calm.clone(), Arc::new(Mutex::new(BTreeMap::new())));
        let counted = met.clone();
        let task = runtime().spawn(async move {
            let listener = TcpListener::bind(("127.0.0.1", listen)).await.unwrap();
            let mut random = fastrand::Rng::with_seed(seed);
            while let Ok((client, _)) = listener.accept().await {
                let fate = *random.choice(fates.iter()).unwrap();
                let fate = if calm.load(Ordering::Relaxed) { Fate::Well } else { fate };
                *counted.lock().unwrap().entry(fate).or_default() += 1;
                tokio::spawn(carry(client, target, fate, random.fork(), calm.clone()));
            }
        });
        Proxy { task: task.abort_handle(), met }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, target: u16, fate: Fate, mut random: fastrand::Rng, calm: Arc<AtomicBool>) {
    if fate == Fate::Refused {
        return;
    }
    if fate == Fate::Lying {
        let Ok(1..) = client.read(&mut [0; 64 << 10]).await else { return };
        client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
        return;
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let mut left = random.usize(1..LONGEST);
    let (mut up, mut down) = (vec![0; 8 << 10], vec![0; 8 << 10]);
    loop {
        // Which of the two sent something, and how much.
        let (out, n) = tokio::select! {
            read = client.read(&mut up) => (true, read.unwrap_or(0)),
            read = server.read(&mut down) => (false, read.unwrap_or(0)),
        };
        if n == 0 {
            return;
        }
        let over = n >= left && !calm.load(Ordering::Relaxed);
        left = left.saturating_sub(n);
        if fate == Fate::Slow {
            sleep(Duration::from_millis(random.u64(0..30))).await;
        }
        let n = if over && fate == Fate::Torn { random.usize(0..n) } else { n };
        let done = match out {
            _ if over && fate == Fate::Silent => Ok(()),
            true => server.write_all(&up[..n]).await,
            false if over && fate == Fate::Answerless => Ok(()),
            false => client.write_all(&down[..n]).await,
        };
        let at_once = matches!(fate, Fate::Torn | Fate::Well | Fate::Slow);
        if done.is_err() || (over && at_once) {
            return;
        }
        if over {
            let while_ = Duration::from_millis(random.u64(100..1_500));
            timeout(while_, fall_silent(&mut client, &mut server, fate == Fate::Answerless)).await.ok();
            return;
        }
    }
}

/// Swallows what comes; of the client's, passes it on if the server shall have it.
async fn fall_silent(client: &mut TcpStream, server: &mut TcpStream, forward: bool) {
    let (mut up, mut down) = (vec![0; 8 << 10], vec![0; 8 << 10]);
    loop {
        let (out, n) = tokio::select! {
            read = client.read(&mut up) => (true, read.unwrap_or(0)),
            read = server.read(&mut down) => (false, read.unwrap_or(0)),
        };
        if n == 0 {
            return;
        }
        if out && forward {
            server.write_all(&up[..n]).await.ok();
        }
    }
}

#[test]
fn a_network_that_loses_costs_no_acknowledged_event() {
    let begun = Instant::now();
    let each = size(1_400, 60_000);
    let (dir, broker) = (folder(), folder());
    // The gateway's own ports and its upstreams' as it sees them; and those that the others use.
    let (inside, outside) = (Rig::new(), Rig::new());
    let calm = Arc::new(AtomicBool::new(false));
    let start = |listen, target, seed| Proxy::start(listen, target, seed, &FATES, &calm);
    let proxies = [
        ("mqtt in", start(outside.mqtt, inside.mqtt, 1)),
        ("http in", start(outside.http, inside.http, 2)),
        ("http out", start(inside.cloud, outside.cloud, 3)),
        ("mqtt out", start(inside.bridge, outside.bridge, 4)),
    ];
    let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
    let _cloud = outside.cloud(&by_http);
    let _mosquitto = Mosquitto::start(broker.path(), outside.bridge);
    let (watched, bridge) = (by_mqtt.clone(), outside.bridge);
    let watch = runtime().spawn(async move {
        loop {
            mqtt::subscribe(bridge, "watch", "up/#", |message| take_message(&watched, &message)).await.ok();
        }
    });
    thread::sleep(Duration::from_millis(500)); // the first subscription
    let gateway = inside.start(dir.path());
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for from in (0..each).step_by(20) {
                outside.post_all("post", from..each.min(from + 20), &acknowledged);
                thread::sleep(Duration::from_millis(40));
            }
        });
        let load = mqtt::Load { pace: Some(Duration::from_millis(3)), ..mqtt::Load::new("raw", 20) };
        let acked = |_| {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        };
        runtime().block_on(load.run(outside.mqtt, 0..each, |n| crate::account::body("raw", n), acked));
    });
    let under_way = begun.elapsed();
    calm.store(true, Ordering::Relaxed);
    assert_eq!(acknowledged.load(Ordering::Relaxed), 2 * each);
    let (all, back) = (2 * each as usize, Instant::now());
    wait_for("everything upstream", 2 * LONG, || by_http.distinct() >= all && by_mqtt.distinct() >= all);
    let drained = back.elapsed();
    watch.abort();
    let sent = [("post", each), ("raw", each)];
    by_http.check(&sent);
    by_mqtt.check(&sent);
    for (name, proxy) in &proxies {
        let met = proxy.met.lock().unwrap();
        println!("{name}: {met:?}");
        assert!(met.values().sum::<u64>() > 5, "{name}: {met:?}");
    }
    let repeats = [by_http.len() - all, by_mqtt.len() - all];
    println!("{all} events in {under_way:?}, drained {drained:?} later; repeats: {repeats:?}");
    // A link that is back is tried again after 30 s at the latest.
    assert!(drained < Duration::from_secs(45), "{drained:?}");
    assert!(gateway.stop().success());
}

/// The control: where somebody between says yes, events are missing.
#[test]
fn a_network_that_lies_costs_events() {
    let (dir, inside, outside) = (folder(), Rig::new(), Rig::new());
    let calm = Arc::new(AtomicBool::new(false));
    let _proxy = Proxy::start(inside.cloud, outside.cloud, 5, &[Fate::Lying], &calm);
    wait_for_port(inside.cloud);
    let arrivals = Arrivals::default();
    let _cloud = outside.cloud(&arrivals);
    let gateway = inside.start(dir.path());
    inside.post_all("post", 0..100, &AtomicU64::new(0));
    thread::sleep(Duration::from_millis(1_000));
    calm.store(true, Ordering::Relaxed);
    inside.post_all("post", 100..110, &AtomicU64::new(0));
    wait_for("the last", LONG, || arrivals.len() >= 10);
    let checked = std::panic::catch_unwind(|| arrivals.check(&[("post", 110)]));
    assert!(checked.is_err());
    assert!(gateway.stop().success());
}
