//! Tidegate: a store-and-forward event gateway.
#![forbid(unsafe_code)]

pub mod budget;
pub mod clock;
pub mod event;
pub mod expr;
pub mod fault;
pub mod kind;
pub mod process;
pub mod sinks;
pub mod sources;
pub mod store;
pub mod systems;
