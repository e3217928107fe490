//! What operators ask of a configuration, and what they are told of it.

use super::{Plan, versions::sum_of};
use crate::config::{self, Before, Problem};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Where configurations come from.
pub struct Origin<'a> {
    pub file: &'a Path,
    /// Makes a plan of a text, with what the one that runs lends; or tells everything that is wrong with it.
    #[allow(clippy::type_complexity)]
    pub build: &'a dyn Fn(&str, Option<&Before>) -> Result<(Plan, Vec<Problem>), Vec<Problem>>,
}

/// What is known of a gateway's configuration.
#[derive(Clone, Default)]
pub struct Origins {
    pub file: PathBuf,
    /// Where its store lies, and so its versions; `None` without a store.
    pub store: Option<PathBuf>,
    /// The number of the version that runs, if it could be written down.
    pub version: Option<u32>,
    /// Of its text.
    pub(super) sum: String,
    /// What was wrong with the file when it was read last, for that file.
    pub(super) wrong: Vec<String>,
    pub(super) wrong_sum: String,
    /// Until when it is on trial, and whether it has to be confirmed.
    pub(super) trial: Option<(Instant, bool)>,
}

impl Origins {
    /// For how many seconds more it is on trial, and whether it has to be confirmed.
    pub fn trial(&self) -> Option<(u64, bool)> {
        self.trial.map(|(until, must)| (until.saturating_duration_since(Instant::now()).as_secs(), must))
    }

    /// How the file differs from what runs; nothing, if it does not.
    pub fn difference(&self) -> Option<String> {
        let text = match config::read(&self.file) {
            Ok(text) => text,
            Err(problem) => return Some(format!("the file is wrong: {problem}")),
        };
        let sum = sum_of(&text);
        match self.wrong.first() {
            _ if sum == self.sum => None,
            Some(first) if sum == self.wrong_sum => {
                let more =
                    if self.wrong.len() > 1 { format!(", and {} more", self.wrong.len() - 1) } else { String::new() };
                Some(format!("the file was read and did not work; the one before goes on: {first}{more}"))
            }
            _ => Some("the file differs from what runs (`systemctl reload` takes it over)".into()),
        }
    }
}

/// What an operator wants.
pub enum Order {
    /// This text in place of the configuration. With a time it goes back unless it is confirmed within that.
    Apply { text: String, within: Option<Duration> },
    /// What is on trial stays.
    Confirm,
    /// An earlier version, by its number; or the one before.
    Rollback(Option<u32>),
}

/// How a configuration comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It stands in the file.
    Hangup,
    /// An operator hands it over, maybe for a trial.
    Apply(Option<Duration>),
    /// An earlier one comes back; into the file, too, if that can be written.
    Back { file: bool },
}

impl Way {
    pub fn by(self) -> &'static str {
        match self {
            Way::Hangup => "sighup",
            Way::Apply(_) => "api",
            Way::Back { .. } => "rollback",
        }
    }
}

pub(super) struct Asked {
    pub order: Order,
    pub reply: oneshot::Sender<Result<Changed, Denied>>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Changed {
    pub version: Option<u32>,
    pub started: Vec<String>,
    pub stopped: Vec<String>,
    /// How many parts run on as they did.
    pub kept: usize,
    /// The whole gateway starts again, in the same process: what changed cannot be changed otherwise.
    pub restarts: bool,
    /// It goes back by itself, unless it is confirmed or proves well.
    pub tried: bool,
    pub warnings: Vec<String>,
}

/// Why nothing was.
#[derive(Debug)]
pub enum Denied {
    /// The configuration is wrong: every problem.
    Wrong(Vec<String>),
    /// It is not the time for that.
    Conflict(String),
    /// It did not work, and the old one runs.
    Failed(String),
}
