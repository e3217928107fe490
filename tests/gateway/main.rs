//! The gateway as its users have it: the real program in a process of its own, between real producers and upstreams, with
//! kills, outages and bad input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account;
mod admin;
mod bounded;
mod check;
mod exact;
mod faults;
mod full;
mod help;
mod hostile;
mod in_process;
mod kill;
mod kit;
mod ledger;
mod look;
mod memory;
mod metered;
mod offload;
mod operate;
mod outage;
mod poison;
mod refused;
mod reload;
mod rig;
mod security;
mod service;
mod state;
mod stateless;
mod stop;
mod tls;
mod tools;
mod trace;
