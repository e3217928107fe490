//! Tidegate: a store-and-forward event gateway.
#![forbid(unsafe_code)]

pub mod budget;
pub mod clock;
pub mod event;
pub mod expr;
pub mod fault;
