//! Means that several components share.

pub mod mqtt;
pub mod tls;
