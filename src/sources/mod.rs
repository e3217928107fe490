//! Where events come from: one file, or folder, a kind.

pub mod http;

use crate::kind::{Kind, Source};

/// Every kind of source.
pub const KINDS: &[Kind<dyn Source>] = &[http::KIND];
