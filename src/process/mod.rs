//! The steps of a pipeline: one file a kind. Plain functions of an event; nothing here reads a clock.

use crate::kind::{Kind, Process};

/// Every kind of process.
pub const KINDS: &[Kind<dyn Process>] = &[];
