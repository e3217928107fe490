//! The worst days: power cuts, kills at every call, disks that fail, images that are broken, a model beside the store, a
//! network that loses, and bytes that nobody meant. Each rig has a control that must fail, so that a rig that sees nothing
//! is noticed. `TIDEGATE_RIG=long` runs what takes a night.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../gateway/account.rs"]
mod account;
mod bytes;
mod cuts;
mod disk;
mod faults;
mod images;
mod kills;
#[path = "../gateway/kit/mod.rs"]
mod kit;
mod life;
mod lossfs;
mod model;
mod proxy;
#[allow(dead_code)] // the gateway's tests take the rest
#[path = "../gateway/rig.rs"]
mod rig;
mod strace;
mod worker;

/// One of two sizes: that of every run, or that of a night.
fn size<T>(short: T, long: T) -> T {
    match std::env::var("TIDEGATE_RIG").as_deref() {
        Ok("long") => long,
        _ => short,
    }
}
