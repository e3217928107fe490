//! Runs a program for each event.

use super::{
    child::{Program, Run},
    trail::Trail,
};
use crate::{
    budget::{Size, Span},
    event::{Event, json::write_string},
    fault::Fault,
    kind::{Kind, Outside, ParamsError, Process},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinSet, time::sleep};

pub const KIND: Kind<dyn Process> = Kind {
    name: "spawn",
    about: "runs a program for each event, with the event on its stdin, and takes what it prints into the event",
    example: r#"{ "type": "spawn", "program": "/usr/local/bin/classify", "args": ["--model", "barn"],
  "timeout": "5s", "children": 2, "env": { "LANG": "C.UTF-8" } }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        Ok(Box::new(Spawn::new(&params.name, &params.scope.pipeline, config)?))
    },
};

/// Runs a program, never a shell, with the event as JSON on its stdin; the program need not read it. Its environment has
/// the gateway's `PATH` and what `env` says, nothing else. When it has ended, what it started and left running in its
/// process group is killed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The program: an absolute path, or a name that is looked for in `PATH`.
    program: String,
    /// Its arguments, as they are: nothing in them is replaced.
    #[serde(default)]
    args: Vec<String>,
    /// Whether to wait for its end. It must then end with status 0 and print one JSON object or nothing, which is appended
    /// to the list `internal:spawn:output` of the event as `{"NAME": {…}}` or `{"NAME": null}`; else the event is
    /// rejected. Without waiting, the event goes on once the program has been given its input.
    #[serde(default = "yes")]
    wait: bool,
    /// How long to wait before it is started.
    #[serde(default)]
    delay: Option<Span>,
    /// How long it may run, `1ms` to `1d`; then it is killed, and the event rejected.
    #[serde(default = "ten_seconds")]
    timeout: Span,
    /// How much it may print to stdout, at most 16 MiB; then it is killed, and the event rejected.
    #[serde(default = "quarter_mebibyte")]
    max_output: Size,
    /// How many of them may run at once; the next event waits.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 1024))]
    children: u16,
    /// Variables of its environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// What it is called in `internal:spawn:output`, if not by its name.
    #[serde(default)]
    label: Option<String>,
    /// The directory it works in; without, that of the gateway.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    dir: Option<PathBuf>,
}

/// What it may print: an event of a sensible size.
const MAX_OUTPUT: u64 = 16 << 20;

fn yes() -> bool {
    true
}

fn ten_seconds() -> Span {
    Span::millis(10_000)
}

fn quarter_mebibyte() -> Size {
    Size(256 << 10)
}

fn four() -> u16 {
    4
}

struct Spawn {
    label: String,
    wait: bool,
    delay: Duration,
    program: Arc<Program>,
    /// Of all children together: what they print, as it grows.
    memory: usize,
    trail: Trail,
    /// Those that nobody waits for; they end with this.
    left: Mutex<JoinSet<()>>,
    trouble: Arc<Trouble>,
}

impl Spawn {
    fn new(name: &str, pipeline: &str, config: Config) -> Result<Self, ParamsError> {
        let Config { program, args, wait, delay, timeout, max_output, children, env, label, dir } = config;
        if !(1..=1024).contains(&children) {
            return Err(ParamsError::at("children", "expected 1 to 1024"));
        }
        if !(1..=MAX_OUTPUT).contains(&max_output.0) {
            return Err(ParamsError::at("max_output", "expected 1B to 16MiB"));
        }
        let program = Program::new(program, args, timeout, children.into()).with(env, dir, max_output);
        program.check().map_err(|e| ParamsError::at("", e))?;
        Ok(Spawn {
            label: label.unwrap_or_else(|| name.to_owned()),
            wait,
            delay: delay.map_or(Duration::ZERO, |delay| delay.0),
            program: Arc::new(program),
            memory: 2 * max_output.bytes() * usize::from(children),
            trail: Trail::new("internal:spawn:output").map_err(|e| ParamsError::at("", e))?,
            left: Mutex::default(),
            trouble: Arc::new(Trouble { place: format!("pipelines.{pipeline}.{name}"), failures: AtomicU64::new(0) }),
        })
    }

    /// Gives a child its input, and leaves it to itself.
    async fn leave(&self, run: Run, event: &Event) {
        let (trouble, input) = (self.trouble.clone(), event.body.to_bytes());
        let (given, is_given) = oneshot::channel();
        let child = async move {
            match run.finish(&input, Some(given)).await {
                Ok(_) => trouble.ends(),
                Err(fault) => trouble.begins(&fault),
            }
        };
        {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            while left.try_join_next().is_some() {}
            left.spawn(child);
        }
        is_given.await.ok(); // an error: it ended without its input
    }
}

impl Process for Spawn {
    fn memory(&self) -> usize {
        self.memory
    }

    fn outside(&self) -> Option<&dyn Outside> {
        Some(self)
    }
}

#[async_trait]
impl Outside for Spawn {
    async fn reach(&self, event: &mut Event) -> Result<(), Fault> {
        self.trail.check(&event.body)?;
        if !self.delay.is_zero() {
            sleep(self.delay).await;
        }
        if !self.wait {
            self.leave(self.program.start(false).await?, event).await;
            return Ok(());
        }
        let answer = self.program.answer(&event.body.to_bytes()).await?;
        let mut entry = vec![b'{'];
        write_string(&self.label, &mut entry);
        entry.push(b':');
        entry.extend_from_slice(&answer);
        entry.push(b'}');
        self.trail.append(&mut event.body, &entry)
    }
}

/// Whether children fail that nobody waits for: a line in the log when that changes.
struct Trouble {
    place: String,
    failures: AtomicU64,
}

impl Trouble {
    fn begins(&self, fault: &Fault) {
        if self.failures.fetch_add(1, Relaxed) == 0 {
            log::warn!("{}: {fault}; the events go on all the same", self.place);
        }
    }

    fn ends(&self) {
        let failures = self.failures.swap(0, Relaxed);
        if failures > 0 {
            log::info!("{}: works again after {failures} failures", self.place);
        }
    }
}

#[cfg(test)]
#[path = "spawn_tests.rs"]
mod tests;
