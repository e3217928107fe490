//! A gateway stops when it is told, in the middle of traffic, and goes on where it was.

use crate::{
    account::Arrivals,
    kit::{LONG, folder, runtime, tidegate, wait_for},
    rig::Rig,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const STOPS: u64 = 3;
const COUNT: u64 = 6_000;

#[test]
fn sigterm_ends_it_with_0_and_loses_nothing() {
    let (dir, rig) = (folder(), Arc::new(Rig::new()));
    let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
    let (_cloud, _bridge) = (rig.cloud(&by_http), rig.bridge(&by_mqtt));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut gateway = rig.start(dir.path());
    let producers = ["raw", "post"].map(|producer| {
        let (rig, acknowledged) = (rig.clone(), acknowledged.clone());
        thread::spawn(move || match producer {
            "raw" => runtime().block_on(rig.publish_all(producer, 0..COUNT, &acknowledged)),
            _ => drop(rig.post_all(producer, 0..COUNT, &acknowledged)),
        })
    });
    for stop in 1..=STOPS {
        let until = 2 * COUNT * stop / (STOPS + 1);
        wait_for("acknowledgements", LONG, || acknowledged.load(Ordering::Relaxed) >= until);
        let told = Instant::now();
        let status = gateway.stop();
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(told.elapsed() < Duration::from_secs(12), "the stop took {:?}", told.elapsed());
        gateway = rig.start(dir.path());
    }
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    let all = 2 * COUNT as usize;
    wait_for("everything upstream", LONG, || by_http.distinct() == all && by_mqtt.distinct() == all);
    // Told to stop right after a delivery, it still remembers that delivery.
    assert!(gateway.stop().success());
    gateway = rig.start(dir.path());
    rig.post_all("last", 0..1, &acknowledged);
    wait_for("the last one", LONG, || by_http.distinct() == all + 1 && by_mqtt.distinct() == all + 1);
    assert!(gateway.stop().success());
    for arrivals in [by_http, by_mqtt] {
        arrivals.check(&[("raw", COUNT), ("post", COUNT), ("last", 1)]);
        assert_eq!(arrivals.len(), all + 1, "an orderly stop repeats nothing");
    }
}

#[test]
fn a_second_gateway_on_the_same_store_is_refused() {
    let (dir, rig) = (folder(), Rig::new());
    let mut gateway = rig.start(dir.path());
    let second = tidegate(dir.path(), &["run", "tidegate.jsonc"], "");
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("tidegate.db") && said.contains("another process has the database open"), "{said}");
    rig.post_all("post", 0..10, &AtomicU64::new(0));
    gateway.alive();
}
