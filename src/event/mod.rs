//! One observation and its parts.

pub mod body;
pub mod json;
pub mod path;
mod splice;
mod walk;
