//! Where events go: one file, or folder, a kind.

mod mqtt;

use crate::kind::{Kind, Sink};

/// Every kind of sink.
pub const KINDS: &[Kind<dyn Sink>] = &[mqtt::KIND];
