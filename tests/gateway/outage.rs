//! The upstream goes away and comes back, several times; sources do not notice, and nothing is lost.

use crate::{
    account::Arrivals,
    kit::{LONG, Mosquitto, folder, mqtt, runtime, wait_for},
    rig::{Rig, take_message},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Each lasts long enough for the waits between attempts to reach their longest.
const OUTAGES: u64 = 3;
const OUTAGE: Duration = Duration::from_secs(3);
/// Events sent while it is up, and again while it is down.
const EACH: u64 = 1_000;

/// Plays the outages with `start` and its counterpart, dropping; gives how long each return went unnoticed, the middle
/// of which has to be below a second: a slow moment of the machine is forgiven, a slow gateway is not.
fn play<T>(rig: &Rig, arrivals: &Arrivals, start: impl Fn() -> T, stop: impl Fn(T)) {
    let acknowledged = AtomicU64::new(0);
    let (mut sent, mut unnoticed, mut longest) = (0, Vec::new(), Duration::ZERO);
    let mut send = || {
        longest = longest.max(rig.post_all("post", sent..sent + EACH, &acknowledged));
        runtime().block_on(rig.publish_all("raw", sent..sent + EACH, &acknowledged));
        sent += EACH;
        2 * sent as usize
    };
    let mut upstream = start();
    for _ in 0..OUTAGES {
        let all = send();
        wait_for("the upstream to have everything", LONG, || arrivals.distinct() == all);
        stop(upstream);
        let down = Instant::now();
        let all = send();
        thread::sleep(OUTAGE.saturating_sub(down.elapsed()));
        let before = arrivals.len();
        upstream = start();
        let back = Instant::now();
        wait_for("draining to begin", LONG, || arrivals.len() > before);
        unnoticed.push(back.elapsed());
        wait_for("the queue to drain", LONG, || arrivals.distinct() == all);
    }
    println!("draining began after {unnoticed:?}; the longest wait for a 202 was {longest:?}");
    assert_eq!(acknowledged.load(Ordering::Relaxed), 2 * sent);
    arrivals.check(&[("post", sent), ("raw", sent)]);
    unnoticed.sort();
    assert!(unnoticed[unnoticed.len() / 2] < Duration::from_secs(1), "{unnoticed:?}");
    assert!(longest < Duration::from_secs(2), "an outage upstream slowed intake: {longest:?}");
}

#[test]
fn an_http_upstream_goes_away_and_comes_back() {
    let (dir, rig) = (folder(), Rig::new());
    let gateway = rig.start(dir.path());
    let arrivals = Arrivals::default();
    play(&rig, &arrivals, || rig.cloud(&arrivals), drop);
    assert!(gateway.stop().success());
}

#[test]
fn a_broker_goes_away_and_comes_back() {
    let (dir, broker, rig) = (folder(), folder(), Rig::new());
    let gateway = rig.start(dir.path());
    let arrivals = Arrivals::default();
    let (watched, port) = (arrivals.clone(), rig.bridge);
    let watch = runtime().spawn(async move {
        loop {
            mqtt::subscribe(port, "watch", "up/#", |message| take_message(&watched, &message)).await.ok();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let start = || {
        let mosquitto = Mosquitto::start(broker.path(), rig.bridge);
        thread::sleep(Duration::from_millis(if arrivals.len() == 0 { 500 } else { 0 })); // the first subscription
        mosquitto
    };
    play(&rig, &arrivals, start, Mosquitto::stop);
    watch.abort();
    assert!(gateway.stop().success());
}
