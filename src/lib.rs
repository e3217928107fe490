//! Tidegate: a store-and-forward event gateway.
#![forbid(unsafe_code)]

pub mod budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fault;
pub mod kind;
