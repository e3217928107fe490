//! Another configuration for a gateway that runs: what is in both runs on, and one that does not stay goes back by itself.

use super::{
    Plan, Sum,
    fresh::consumers,
    options,
    order::{Asked, Changed, Denied, Order, Origin, Origins, Way},
    parts::{Parts, Swapped},
    status::{Running, Shown},
    trial::Trial,
    versions::{State, Version, Versions, sum_of, write_file},
};
use crate::{
    config::{self, Before, Problem, Settings},
    store::{Options, Store},
    trace::Trace,
};
use std::{path::PathBuf, time::Duration};
use tokio::{sync::mpsc, time::sleep_until};

/// How long a disk is waited for that does not take a new consumer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is to be done next.
pub(super) enum Next {
    Asked(Asked),
    /// The time of the trial is over.
    Over,
    /// Something cannot go on.
    Failed(String),
    /// All sources were bounded and have ended.
    Drained,
}

/// A gateway that runs, with what it needs to become another.
pub(super) struct Live<'a> {
    pub origin: &'a Origin<'a>,
    pub parts: Parts,
    pub view: Running,
    pub store: Store,
    pub failures: mpsc::Receiver<String>,
    pub orders: mpsc::Receiver<Asked>,
    /// As it runs.
    pub text: String,
    pub settings: Settings,
    pub before: Before,
    pub versions: Option<Versions>,
    pub trial: Option<Trial>,
    /// It is to start again as a whole.
    pub restarts: bool,
}

impl<'a> Live<'a> {
    pub fn new(
        origin: &'a Origin<'a>,
        parts: Parts,
        view: Running,
        (failures, orders): (mpsc::Receiver<String>, mpsc::Receiver<Asked>),
        text: String,
        (settings, before): (Settings, Before),
        versions: Option<Versions>,
    ) -> Live<'a> {
        let store = view.store().clone();
        let (trial, restarts) = (None, false);
        let mut live =
            Live { origin, parts, view, store, failures, orders, text, settings, before, versions, trial, restarts };
        let number = live.begin("start", State::Confirmed, &[]);
        if let (Err(error), true) = (&number, live.versions.is_some()) {
            log::warn!("this version of the configuration is not kept: {error}");
        }
        live.show(number.ok());
        live
    }

    /// Waits for what is to be done.
    pub async fn next(&mut self) -> anyhow::Result<Next> {
        if let Some(failure) = self.parts.failure.take() {
            return Ok(Next::Failed(failure));
        }
        let until = self.trial.as_ref().map(|trial| trial.until);
        let over = async {
            match until {
                Some(until) => sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(failure) = self.failures.recv() => Ok(Next::Failed(failure)),
            Some(asked) = self.orders.recv() => Ok(Next::Asked(asked)),
            () = over => Ok(Next::Over),
            ended = self.parts.ended() => ended.map(|()| Next::Drained),
        }
    }

    /// SIGHUP: what the file says now. A wrong one is told, and nothing changes.
    pub async fn hangup(&mut self) -> anyhow::Result<()> {
        let text = match config::read(self.origin.file) {
            Ok(text) => text,
            Err(problem) => {
                self.wrong("", &[problem.to_string()]);
                return Ok(());
            }
        };
        match self.adopt(text.clone(), Way::Hangup).await? {
            Ok(_) => {}
            Err(Denied::Wrong(problems)) => self.wrong(&text, &problems),
            Err(Denied::Conflict(why) | Denied::Failed(why)) => self.wrong(&text, &[why]),
        }
        Ok(())
    }

    fn wrong(&self, text: &str, problems: &[String]) {
        log::error!("the configuration is wrong; going on with the old one");
        problems.iter().for_each(|problem| log::error!("{problem}"));
        self.view.note(|origins| (origins.wrong, origins.wrong_sum) = (problems.to_vec(), sum_of(text)));
    }

    /// Does what an operator asked for.
    pub async fn obey(&mut self, asked: Asked) -> anyhow::Result<()> {
        let done = match asked.order {
            Order::Confirm => match self.confirm() {
                Ok(changed) => {
                    self.settle().await;
                    Ok(changed)
                }
                Err(denied) => Err(denied),
            },
            Order::Apply { .. } if self.trial.is_some() => {
                Err(Denied::Conflict("a configuration is on trial: confirm it, or roll it back".into()))
            }
            Order::Apply { text, within } => self.adopt(text, Way::Apply(within)).await?,
            Order::Rollback(None) if self.trial.is_some() => self.back("an operator rolled it back").await?,
            Order::Rollback(number) => match self.earlier(number) {
                Ok(text) => self.back_to(text).await?,
                Err(denied) => Err(denied),
            },
        };
        asked.reply.send(done).ok();
        Ok(())
    }

    fn earlier(&self, number: Option<u32>) -> Result<String, Denied> {
        let none = || Denied::Conflict("there is no earlier version".into());
        let versions = self.versions.as_ref().ok_or_else(none)?;
        let number = number.or_else(|| Some(versions.before()?.number)).ok_or_else(none)?;
        versions.text(number).map_err(|error| Denied::Conflict(format!("version {number}: {error}")))
    }

    /// An earlier text comes back, also where the file is others' to write: then no start takes up again what stands there.
    async fn back_to(&mut self, text: String) -> anyhow::Result<Result<Changed, Denied>> {
        let says = config::read(self.origin.file).map_err(|problem| problem.to_string());
        let Err(why) = says.clone().and_then(|says| write_file(self.origin.file, &says)) else {
            return self.adopt(text, Way::Back { file: true }).await;
        };
        let (stands, ran) = (says.is_ok_and(|says| says == self.text), self.running());
        let mut done = self.adopt(text, Way::Back { file: false }).await?;
        if let Ok(changed) = &mut done
            && changed.version != ran
        {
            self.close(ran, "an operator rolled it back", stands);
            let next = if stands {
                "what stands there is not taken up again, unless by a reload"
            } else {
                "the next start takes up what stands there"
            };
            changed.warnings.push(format!("{why}; {next}"));
        }
        Ok(done)
    }

    /// The version that runs.
    fn version(&self) -> Option<&Version> {
        let versions = self.versions.as_ref()?;
        self.trial.as_ref().map_or_else(|| versions.confirmed(), |trial| versions.get(trial.number))
    }

    /// Its number.
    pub fn running(&self) -> Option<u32> {
        self.version().map(|version| version.number)
    }

    /// Goes over to another text, or stays what it is. The error ends the gateway: there is no way on and none back.
    async fn adopt(&mut self, text: String, way: Way) -> anyhow::Result<Result<Changed, Denied>> {
        let (plan, warnings) = match (self.origin.build)(&text, Some(&self.before)) {
            Ok(built) => built,
            Err(problems) => return Ok(Err(Denied::Wrong(problems.iter().map(Problem::to_string).collect()))),
        };
        let warnings: Vec<String> = warnings.iter().map(Problem::to_string).collect();
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        let restarts = self.parts.stateless() || whole(&self.settings) != whole(&plan.settings);
        let within = match way {
            Way::Hangup => plan.settings.gateway.confirm.map(|span| span.0),
            Way::Apply(within) => within,
            Way::Back { .. } => None,
        };
        let back = self.trial.as_ref().map_or(&self.text, |trial| &trial.text).clone();
        let tried = within.filter(|_| !restarts && text != self.text && text != back);
        let same = self.version().filter(|v| v.sha256 == sum_of(&text)).map(|version| version.number);
        let made: Vec<String> = consumers(&plan).into_iter().filter(|name| !self.store.knows(name)).collect();
        if restarts && matches!(way, Way::Apply(Some(_))) {
            let why = "another `store.path` or `gateway.id` starts the whole gateway again and cannot be tried";
            return Ok(Err(Denied::Conflict(why.into())));
        }
        let (old, base) = (std::mem::replace(&mut self.text, text), self.trial.take());
        let number = match self.written(way, tried.map(|_| (&*back, &*made)), same) {
            Ok(number) => number,
            Err(why) => {
                self.text = old;
                self.resume(base).await;
                return Ok(Err(Denied::Failed(why)));
            }
        };
        if restarts {
            self.restarts = true;
            return Ok(Ok(Changed { version: number, restarts, warnings, ..Changed::default() }));
        }
        let down = self.down();
        let swapped = match self.swap(plan).await {
            Ok(swapped) => swapped,
            Err((why, torn)) => {
                let failed = std::mem::replace(&mut self.text, old);
                self.undo(number, &failed, &why, torn).await?;
                self.parts.forget(&made).await;
                self.resume(base).await;
                return Ok(Err(Denied::Failed(why)));
            }
        };
        log::info!(
            "took over the configuration: started {:?}, stopped {:?}, {} run on",
            swapped.started,
            swapped.stopped,
            swapped.kept
        );
        self.taken(tried, number, way != Way::Hangup, (back, down), base).await;
        self.show(number);
        let Swapped { started, stopped, kept, .. } = swapped;
        let tried = self.trial.is_some();
        Ok(Ok(Changed { version: number, started, stopped, kept, restarts, tried, warnings }))
    }

    /// Writes down what is about to run, and, if it is ordered, over the file. `tried`: what it goes back to, and the consumers
    /// that come with it; where nothing can come back, nothing is tried. `same`: the version that runs is this one.
    fn written(
        &mut self,
        way: Way,
        tried: Option<(&str, &[String])>,
        same: Option<u32>,
    ) -> Result<Option<u32>, String> {
        if way == Way::Hangup && tried.is_none() && same.is_some() {
            return Ok(same);
        }
        let number = match tried {
            None => self.begin(way.by(), State::Confirmed, &[]),
            Some((back, made)) => self.keep(back).and_then(|()| self.begin(way.by(), State::OnTrial, made)),
        };
        let number = match number {
            Err(error) if tried.is_some() => {
                return Err(format!("it cannot be tried, since the one before cannot be written down: {error}"));
            }
            Err(error) => {
                log::warn!("this version of the configuration is not kept: {error}");
                None
            }
            Ok(number) => Some(number),
        };
        if matches!(way, Way::Apply(_) | Way::Back { file: true })
            && let Err(why) = write_file(self.origin.file, &self.text)
        {
            self.close(number, &why, false);
            return Err(format!("{why}; nothing was changed: write it there yourself, then reload"));
        }
        Ok(number)
    }

    fn begin(&mut self, by: &str, state: State, made: &[String]) -> std::io::Result<u32> {
        match &mut self.versions {
            Some(versions) => versions.begin(&self.text, by, state, made),
            None => Err(std::io::Error::other("nothing is stored")),
        }
    }

    /// The parts become those of a plan, and the store takes its options over.
    async fn swap(&mut self, plan: Plan) -> Result<Swapped, (String, bool)> {
        let mut plan = plan;
        let sum = Sum::of(&plan).map_err(|why| (why, false))?;
        sum.fill_in(&mut plan);
        let settings = plan.settings.clone();
        let before = Before { systems: plan.systems.clone(), buses: plan.buses.clone() };
        let store = store_options(&settings, &sum, false);
        self.store.change(store).await.map_err(|refusal| (refusal.to_string(), false))?;
        let swapped = self.parts.swap(plan, &sum, Some(PATIENCE), &mut self.failures).await;
        let swapped = swapped.map_err(|failure| (format!("{:#}", failure.why), failure.torn))?;
        (self.settings, self.before) = (settings, before);
        Ok(swapped)
    }

    /// A change did not work: the text before, which is `self.text` again, comes back.
    pub async fn undo(&mut self, number: Option<u32>, failed: &str, why: &str, torn: bool) -> anyhow::Result<()> {
        log::error!("the configuration could not be taken over; going back: {why}");
        let left = self.restore(failed);
        let back = (self.origin.build)(&self.text, Some(&self.before));
        let (plan, _) = back.map_err(|problems| anyhow::anyhow!("there is no way back: {}", problems[0]))?;
        if let Err((why, _)) = self.swap(plan).await {
            anyhow::ensure!(!torn, "there is no way back: {why}");
            log::error!("the store keeps some of the new settings: {why}");
        }
        self.close(number, why, left);
        self.show(self.running());
        Ok(())
    }

    /// Takes a text out of the file that is not to be there, and puts in what runs; gives whether it is still there.
    fn restore(&self, failed: &str) -> bool {
        let there = config::read(self.origin.file).is_ok_and(|text| text == failed);
        if !there || failed == self.text {
            return false;
        }
        let written = write_file(self.origin.file, &self.text);
        written.inspect_err(|why| log::error!("the file still says what went back: {why}")).is_err()
    }

    fn close(&mut self, number: Option<u32>, why: &str, left_in_file: bool) {
        if let (Some(number), Some(versions)) = (number, &mut self.versions)
            && let Err(error) = versions.end(number, State::RolledBack, why, left_in_file)
        {
            log::warn!("the end of version {number} of the configuration could not be written down: {error}");
        }
    }

    /// What operators see.
    pub fn show(&self, version: Option<u32>) {
        let parts = &self.parts;
        let (sources, with_sessions) = (parts.sources(), parts.with_sessions());
        self.view.show(Shown { sources, with_sessions, meters: parts.meters(), beats: parts.beats() });
        let trial = self.trial.as_ref().map(|trial| (trial.until, trial.must));
        let (file, sum) = (self.origin.file.to_owned(), sum_of(&self.text));
        let store = self.versions.is_some().then(|| PathBuf::from(&self.settings.store.path));
        self.view.note(|known| {
            let (wrong, wrong_sum) =
                if known.sum == sum { (known.wrong.clone(), known.wrong_sum.clone()) } else { Default::default() };
            *known = Origins { file, store, version, sum, wrong, wrong_sum, trial };
        });
    }
}

/// What cannot be changed while it runs: the place of the store, the name by which others know the gateway, and which events
/// are recorded.
fn whole(settings: &Settings) -> (&str, &str, Option<String>) {
    (&settings.store.path, &settings.gateway.id, serde_json::to_string(&settings.gateway.trace).ok())
}

/// How the store of a configuration is opened, with the sizes that it is given.
pub(super) fn store_options(settings: &Settings, sum: &Sum, stateless: bool) -> Options {
    let pools = sum.pools(settings.gateway.memory.is_some());
    let trace = if stateless { Trace::default() } else { settings.gateway.trace.recorder(sum.notes) };
    Options { waiting: sum.waiting, tails: sum.tails, pools, trace, ..options(settings, stateless) }
}
