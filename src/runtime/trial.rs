//! A configuration on trial: it stays when it is confirmed or proves well, else the one before comes back.

use super::{
    order::{Changed, Denied},
    reload::Live,
    versions::{State, sum_of},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The writer of a store that works answers sooner.
const PROGRESS: Duration = Duration::from_secs(5);

/// A configuration that may go back.
pub(super) struct Trial {
    pub number: u32,
    /// What comes back.
    pub text: String,
    pub until: Instant,
    pub must: bool,
    /// What was down before.
    down: BTreeSet<String>,
}

impl Live<'_> {
    /// What runs now is on trial, with what comes back and what was down before; or for good.
    pub async fn taken(
        &mut self,
        tried: Option<Duration>,
        number: Option<u32>,
        must: bool,
        (text, down): (String, BTreeSet<String>),
        base: Option<Trial>,
    ) {
        match (tried, number) {
            (Some(within), Some(number)) => {
                // What was on trial before never ran for good: what it broke was not down.
                let down = base.map_or(down, |base| base.down);
                log::info!("on trial for {} s", within.as_secs());
                self.trial = Some(Trial { number, text, until: Instant::now() + within, must, down });
            }
            _ => match base {
                Some(base) if number == Some(base.number) => self.trial = Some(base),
                _ => self.settle().await,
            },
        }
    }

    /// Another did not take its place: what was on trial is so still, and what ran for good stays.
    pub async fn resume(&mut self, base: Option<Trial>) {
        match (&base, &mut self.versions) {
            (Some(base), Some(versions)) => {
                let marked = versions.end(base.number, State::OnTrial, "", false);
                marked.unwrap_or_else(|error| log::warn!("that it is on trial could not be written down: {error}"));
            }
            _ => self.settle().await,
        }
        self.trial = base;
        if self.trial.is_some() {
            self.show(self.running());
        }
    }

    /// It is known what stays: what only one on trial had is gone, and who reads a topic no more gives its place in it up.
    pub async fn settle(&mut self) {
        if let Some(versions) = self.versions.as_mut().filter(|versions| !versions.made().is_empty()) {
            let left = self.parts.forget(versions.made()).await;
            versions.settled(left);
        }
        self.parts.settle().await;
    }

    /// Has written down what a trial goes back to: when it came, there may have been no room for that.
    pub fn keep(&mut self, text: &str) -> std::io::Result<()> {
        match &mut self.versions {
            Some(versions) if versions.confirmed().is_none_or(|version| version.sha256 != sum_of(text)) => {
                versions.begin(text, "sighup", State::Confirmed, &[]).map(drop)
            }
            _ => Ok(()),
        }
    }

    pub fn confirm(&mut self) -> Result<Changed, Denied> {
        // What runs for good already is confirmed.
        let Some(trial) = self.trial.take() else {
            return Ok(Changed { version: self.running(), ..Changed::default() });
        };
        if let Some(versions) = &mut self.versions
            && let Err(error) = versions.end(trial.number, State::Confirmed, "", false)
        {
            let why = format!("it cannot be written down: {error}");
            self.trial = Some(trial);
            return Err(Denied::Failed(why));
        }
        log::info!("version {} of the configuration stays", trial.number);
        self.show(Some(trial.number));
        Ok(Changed { version: Some(trial.number), ..Changed::default() })
    }

    /// The time of the trial is over.
    pub async fn over(&mut self) -> anyhow::Result<()> {
        let Some(trial) = &self.trial else { return Ok(()) };
        let down = self.view.down().into_iter().filter(|(name, ..)| !trial.down.contains(name));
        let mut wrong: Vec<String> = down.map(|(name, reason, _)| format!("`{name}` is down: {reason}")).collect();
        wrong.extend(self.view.stuck().into_iter().map(|name| format!("`{name}` makes no progress")));
        wrong.extend(self.store.answers(PROGRESS).await.err());
        let why = match wrong.is_empty() {
            true if trial.must => "it was not confirmed in time".to_owned(),
            true => {
                if let Err(Denied::Failed(why)) = self.confirm() {
                    log::warn!("the configuration on trial stays, but {why}");
                    self.trial = None;
                }
                self.settle().await;
                return Ok(());
            }
            false => wrong.join("; "),
        };
        self.back(&why).await?.ok();
        Ok(())
    }

    /// A part cannot go on: on trial, the one before comes back; else it is the end.
    pub async fn failed(&mut self, failure: String) -> anyhow::Result<()> {
        anyhow::ensure!(self.trial.is_some(), failure);
        self.parts.fail(&failure);
        self.back(&failure).await?.ok();
        Ok(())
    }

    /// What is on trial goes back.
    pub async fn back(&mut self, why: &str) -> anyhow::Result<Result<Changed, Denied>> {
        let Some(trial) = self.trial.take() else { return Ok(Err(Denied::Conflict("nothing is on trial".into()))) };
        let failed = std::mem::replace(&mut self.text, trial.text);
        self.undo(Some(trial.number), &failed, why, true).await?;
        self.settle().await;
        log::warn!("version {} of the configuration went back: {why}", trial.number);
        Ok(Ok(Changed { version: self.running(), ..Changed::default() }))
    }

    pub fn down(&self) -> BTreeSet<String> {
        self.view.down().into_iter().map(|(name, ..)| name).collect()
    }
}
