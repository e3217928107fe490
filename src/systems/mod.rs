//! Means that several components share.

pub mod tls;
