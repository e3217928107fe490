//! The command line.

pub mod kinds;
