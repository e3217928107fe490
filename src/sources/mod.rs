//! Where events come from: one file, or folder, a kind.

mod mqtt;

use crate::kind::{Kind, Source};

/// Every kind of source.
pub const KINDS: &[Kind<dyn Source>] = &[mqtt::KIND];
