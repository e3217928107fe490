//! The Linux edge: what board this is, its GPIO lines and its I2C buses. The only user of `gpiocdev` and `linux-embedded-hal`.
//!
//! The boards are data, in the folder `board/` of the project; its README says how to add one. [`recognise`] tells which of them
//! the gateway runs on. A GPIO line is named by a [`Line`], which [`find`] looks up among the [`Chip`]s that the kernel tells
//! of. [`Held`] has lines as inputs, [`Output`] one as an output. [`open_i2c`] opens a bus, [`I2cScan`] asks who is on it.

mod data;
mod gpio;
mod i2c;
mod lines;
mod machine;

pub use data::{Board, Device, Pin, UDEV_RULES, boards};
pub use gpio::{Chip, Held, Info, LineError, Output, chips};
pub use i2c::{Asked, Delay, I2cAdapter, I2cBus, I2cError, I2cScan, i2c_adapters, i2c_path, open_i2c};
pub use lines::{Line, Place, find};
pub use machine::{Machine, State, recognise};

use crate::fault::Fault;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Lines that the kernel takes in one request (`GPIO_V2_LINES_MAX` of its gpio.h).
pub const MOST_LINES: usize = 64;

/// Which edges are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Edges {
    /// From inactive to active.
    Rising,
    /// From active to inactive.
    Falling,
    Both,
}

/// The pull resistor inside the chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Bias {
    Up,
    Down,
    Off,
}

/// How input lines are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Without: no edges are told.
    pub edges: Option<Edges>,
    /// A level must have been stable for this long; the kernel takes care of it.
    pub debounce: Duration,
    /// Without: as it is.
    pub bias: Option<Bias>,
    /// Whether low is active.
    pub active_low: bool,
}

/// An edge of an input line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Which of the lines that are held, from 0.
    pub line: usize,
    /// From inactive to active.
    pub rising: bool,
    /// When: the kernel's own time, in milliseconds of the monotonic clock as [`crate::clock::mono_ms`] counts.
    pub mono_ms: u64,
    /// The line's edges are numbered from 1 since it is held; what the kernel had no room for leaves a gap.
    pub seq: u32,
}

/// Input lines that are held: those of a chip, or those that a test plays.
#[async_trait]
pub trait Inputs: Send {
    /// Waits for the next edge. Dropping the future loses none. A fault means that the lines must be held anew.
    async fn edge(&mut self) -> Result<Edge, Fault>;

    /// Whether a line is active now.
    fn level(&mut self, line: usize) -> Result<bool, Fault>;
}
