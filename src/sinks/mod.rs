//! Where events go: one file, or folder, a kind.

pub mod http;

use crate::kind::{Kind, Sink};

/// Every kind of sink.
pub const KINDS: &[Kind<dyn Sink>] = &[http::KIND];
