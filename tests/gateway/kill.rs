//! Twenty kills at random moments, under load from both sides.

use crate::{
    account::Arrivals,
    kit::{LONG, folder, runtime, wait_for},
    rig::Rig,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const KILLS: u64 = 20;
const SEED: u64 = 20;
/// Numbered events of each producer: 50,000 in all.
const SENT: [(&str, u64); 6] =
    [("raw-1", 8_000), ("raw-2", 8_000), ("raw-3", 8_000), ("lines", 6_000), ("post-1", 10_000), ("post-2", 10_000)];

#[test]
fn twenty_kills_lose_nothing_that_was_acknowledged() {
    let (dir, rig) = (folder(), Arc::new(Rig::new()));
    let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
    let (_cloud, _bridge) = (rig.cloud(&by_http), rig.bridge(&by_mqtt));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let total: u64 = SENT.iter().map(|(_, count)| count).sum();
    let mut gateway = rig.start(dir.path());
    let producers = SENT.map(|(producer, count)| {
        let (rig, acknowledged) = (rig.clone(), acknowledged.clone());
        thread::spawn(move || match producer.split('-').next() {
            Some("raw") => runtime().block_on(rig.publish_all(producer, 0..count, &acknowledged)),
            Some("lines") => rig.pipe_all(producer, 0..count, &acknowledged),
            _ => drop(rig.post_all(producer, 0..count, &acknowledged)),
        })
    });
    let mut random = fastrand::Rng::with_seed(SEED);
    for kill in 1..=KILLS {
        // Spread over the whole load: each when some more were acknowledged, and a random moment later.
        let until = total * kill / (KILLS + 1);
        wait_for("acknowledgements", 3 * LONG, || acknowledged.load(Ordering::Relaxed) >= until);
        thread::sleep(Duration::from_micros(random.u64(0..30_000)));
        gateway.alive();
        gateway.kill();
        gateway = rig.start(dir.path());
    }
    for producer in producers {
        producer.join().unwrap();
    }
    let total = total as usize;
    let all = || by_http.distinct() >= total && by_mqtt.distinct() >= total;
    wait_for("both upstreams to have everything", 3 * LONG, all);
    assert!(gateway.stop().success());
    by_http.check(&SENT);
    by_mqtt.check(&SENT);
    println!("repeats: {} over HTTP, {} over MQTT", by_http.len() - total, by_mqtt.len() - total);
}
