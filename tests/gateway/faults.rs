//! The disk fails now and then: what is acknowledged is there all the same, and the gateway goes on.

use crate::{
    account::Arrivals,
    kit::{LONG, folder, runtime, wait_for},
    rig::Rig,
};
use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

/// Events of each producer.
const EACH: u64 = 1_500;

#[test]
fn a_disk_that_fails_now_and_then_costs_no_acknowledged_event() {
    // The call's number on its thread at which it fails first, and how many calls later again.
    for (call, fault) in [
        ("fdatasync", "error=EIO:when=20+37"),
        ("pwrite64", "error=EIO:when=150+431"),
        ("pwrite64", "error=ENOSPC:when=200+397"),
    ] {
        let (dir, rig) = (folder(), Rig::new());
        let gateway = rig.start_with_fault(dir.path(), call, fault);
        let (arrivals, acknowledged) = (Arrivals::default(), AtomicU64::new(0));
        let _cloud = rig.cloud(&arrivals);
        std::thread::scope(|scope| {
            scope.spawn(|| rig.post_all("post", 0..EACH, &acknowledged));
            runtime().block_on(rig.publish_all("raw", 0..EACH, &acknowledged));
        });
        assert_eq!(acknowledged.load(Ordering::Relaxed), 2 * EACH);
        wait_for("everything upstream", LONG, || arrivals.distinct() >= 2 * EACH as usize);
        arrivals.check(&[("post", EACH), ("raw", EACH)]);
        assert!(gateway.stop().success(), "{call} {fault}");
        let injected = fs::read_to_string(dir.path().join("faults")).unwrap().matches("(INJECTED)").count();
        assert!(injected >= 3, "{call} {fault}: only {injected} faults");
    }
}
