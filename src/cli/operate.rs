//! `tidegate status`, `logs` and `dead`: what an operator sees and does.

use super::{Format, columns, print};
use crate::{
    admin::client::{Client, encode},
    config::{self, Settings},
};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Which gateway.
#[derive(Args)]
pub(super) struct Gateway {
    /// The configuration of the gateway. If that does not run, its store is asked.
    #[arg(short, long, default_value = "/etc/tidegate/tidegate.jsonc")]
    pub config: PathBuf,
}

/// Which gateway, and how it is printed.
#[derive(Args)]
pub(super) struct Which {
    #[command(flatten)]
    pub(super) gateway: Gateway,
    /// Output: `text` for people, `json` for programs.
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

#[derive(Subcommand)]
pub(super) enum Dead {
    /// List dead letters, the newest first.
    ///
    /// Example: tidegate dead ls --consumer sinks.cloud
    Ls {
        #[command(flatten)]
        of: Of,
        /// At most so many; up to 1000.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        which: Which,
    },
    /// Show one dead letter whole, as JSON: the event with its envelope, and why it died.
    ///
    /// Example: tidegate dead show 12
    Show {
        /// Its number, as `dead ls` says.
        id: i64,
        #[command(flatten)]
        which: Which,
    },
    /// Give dead letters back to the consumer that they failed at, and to no other; they keep their ids.
    ///
    /// One that fails again becomes a new letter. Letters that hold no event, since it could not be read, stay.
    ///
    /// Example: tidegate dead retry --consumer sinks.cloud
    Retry {
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        which: Which,
    },
    /// Drop dead letters for ever.
    ///
    /// Example: tidegate dead purge 12
    Purge {
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        which: Which,
    },
}

/// Dead letters of a consumer or topic.
#[derive(Args)]
pub(super) struct Of {
    /// Only what failed at this consumer: `sinks.NAME`, `pipelines.NAME`.
    #[arg(long)]
    consumer: Option<String>,
    /// Only events of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only letters with a smaller number.
    #[arg(long)]
    before: Option<i64>,
}

/// Dead letters that something is done with.
#[derive(Args)]
pub(super) struct Chosen {
    /// The number of one letter, as `dead ls` says.
    #[arg(required_unless_present_any = ["consumer", "topic", "before", "all"])]
    id: Option<i64>,
    #[command(flatten)]
    of: Of,
    /// All of them.
    #[arg(long, conflicts_with_all = ["id", "consumer", "topic", "before"])]
    all: bool,
}

impl Of {
    fn query(&self) -> Vec<(&'static str, String)> {
        let text = |name, value: &Option<String>| value.clone().map(|value| (name, value));
        let before = self.before.map(|id| ("before", id.to_string()));
        [text("consumer", &self.consumer), text("topic", &self.topic), before].into_iter().flatten().collect()
    }
}

impl Chosen {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = self.of.query();
        query.extend(self.id.map(|id| ("id", id.to_string())));
        query.extend(self.all.then(|| ("all", "true".to_owned())));
        query
    }
}

impl Gateway {
    /// Its own settings, and the text of the file.
    pub fn settings(&self) -> anyhow::Result<(Settings, String)> {
        let problem = |problem: config::Problem| anyhow::anyhow!("{problem}");
        let text =
            config::read(&self.config).map_err(problem).context("say which configuration with `--config FILE`")?;
        let settings = config::settings(&self.config, &text).map_err(|mut problems| problem(problems.remove(0)))?;
        Ok((settings, text))
    }

    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::of(self.settings()?.0))
    }
}

impl Which {
    pub(super) fn config(&self) -> &Path {
        &self.gateway.config
    }

    pub(super) fn format(&self) -> Format {
        Format::of(&self.format)
    }

    pub(super) fn ask(&self, method: &str, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.gateway.client()?.ask(method, path, query, &[])
    }

    /// Prints the answer, for people as `text` makes it.
    pub(super) fn show(&self, answer: &Value, text: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        match self.format() {
            Format::Json => print(&format!("{answer:#}\n")),
            Format::Text => print(&text(answer)),
        }
    }
}

pub(super) fn dead(what: &Dead) -> anyhow::Result<()> {
    match what {
        Dead::Ls { of, limit, which } => {
            let mut query = of.query();
            query.push(("limit", limit.to_string()));
            which.show(&which.ask("GET", "/dead", &query)?, letters)
        }
        Dead::Show { id, which } => {
            let answer = which.ask("GET", "/dead", &[("id", id.to_string())])?;
            let letter = answer["letters"].get(0).with_context(|| format!("there is no dead letter {id}"))?;
            print(&format!("{letter:#}\n"))
        }
        Dead::Retry { chosen, which } => {
            let answer = which.ask("POST", "/dead/retry", &chosen.query())?;
            which.show(&answer, |answer| {
                let left = match answer["left"].as_u64() {
                    Some(0) | None => String::new(),
                    Some(left) => format!("; {left} stay: they hold no event, or their consumer is gone"),
                };
                format!("{} given back to their consumers{left}\n", answer["retried"])
            })
        }
        Dead::Purge { chosen, which } => {
            let answer = which.ask("POST", "/dead/purge", &chosen.query())?;
            which.show(&answer, |answer| format!("{} dropped\n", answer["purged"]))
        }
    }
}

fn letters(answer: &Value) -> String {
    let list = answer["letters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return "no dead letters\n".into();
    }
    let names = ["id", "at", "consumer", "topic", "event_id", "reason"];
    let mut rows = vec![["ID", "AT", "CONSUMER", "TOPIC", "EVENT", "REASON"].map(str::to_owned).to_vec()];
    rows.extend(list.iter().map(|letter| names.iter().map(|name| cell(&letter[*name])).collect()));
    format!("{}{} of {}\n", columns(&rows), list.len(), answer["count"])
}

/// A value in a line of a table.
pub(super) fn cell(value: &Value) -> String {
    plain(value.as_str().unwrap_or(&value.to_string())).chars().take(120).collect()
}

/// A text without anything that a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Holds a consumer back, or lets it go.
pub(super) fn pause(name: &str, paused: bool, which: &Which) -> anyhow::Result<()> {
    let what = if paused { "pause" } else { "resume" };
    let answer = which.ask("POST", &format!("/consumers/{}/{what}", encode(name)), &[])?;
    let text = if paused { "is held back until `tidegate resume`" } else { "goes on" };
    which.show(&answer, |_| format!("{name} {text}\n"))
}

/// The ledger as a table; every row adds up.
pub(super) fn table(ledger: &Value) -> String {
    let numbers = ["accepted", "delivered", "queued", "dead", "expired", "evicted", "offloaded"];
    let mut rows =
        vec![["topic", "consumer"].iter().chain(&numbers).map(|name| name.to_uppercase()).collect::<Vec<_>>()];
    for row in ledger.as_array().into_iter().flatten() {
        let names = ["topic", "consumer"].into_iter().chain(numbers);
        rows.push(names.map(|name| cell(&row[name])).collect());
    }
    columns(&rows)
}

/// The newest lines of the log.
pub(super) fn logs(lines: usize, which: &Which) -> anyhow::Result<()> {
    which.show(&which.ask("GET", "/logs", &[("n", lines.to_string())])?, |answer| {
        let lines = answer["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let line = |line| {
            format!("{} {:<5} {}\n", text(line, "time"), text(line, "level").to_uppercase(), text(line, "message"))
        };
        lines.iter().map(line).collect()
    })
}

pub(super) fn status(which: &Which) -> anyhow::Result<()> {
    which.show(&which.ask("GET", "/status", &[])?, |answer| {
        let store = &answer["store"];
        let size = crate::budget::Size(store["bytes"].as_u64().unwrap_or(0));
        let mut text = match answer["running"] == json!(true) {
            true => format!(
                "gateway {} runs for {} s, took in {} events; store {size}, {} dead letters\n",
                cell(&answer["gateway"]),
                answer["seconds"],
                answer["taken"],
                store["dead_letters"]
            ),
            false => format!("no gateway runs; store {size}, {} dead letters\n", store["dead_letters"]),
        };
        text += &format!("clock {} ({})\n", cell(&answer["clock"]["time"]), cell(&answer["clock"]["quality"]));
        for down in answer["down"].as_array().into_iter().flatten() {
            text += &format!("down for {} s: {}: {}\n", down["seconds"], cell(&down["name"]), cell(&down["reason"]));
        }
        text += &about_config(&answer["config"]);
        for name in answer["paused"].as_array().into_iter().flatten() {
            text += &format!("paused: {}\n", cell(name));
        }
        for held in answer["held"].as_array().into_iter().flatten() {
            text += &format!("waits: {}: {}\n", cell(&held["name"]), cell(&held["why"]));
        }
        text + "\n" + &table(&answer["consumers"])
    })
}

/// Which version of the configuration runs, if there is something to say about it.
fn about_config(config: &Value) -> String {
    let mut text = String::new();
    if let Some(left) = config["trial"]["seconds_left"].as_u64() {
        let how = match config["trial"]["to_be_confirmed"] == json!(true) {
            true => "goes back, unless `tidegate config confirm` says otherwise,",
            false => "goes back if something new is down",
        };
        text += &format!("configuration {}: on trial, {how} in {left} s\n", config["version"]);
    }
    if let Some(difference) = config["differs"].as_str() {
        text += &format!("configuration {}: {}\n", cell(&config["file"]), cell(&json!(difference)));
    }
    text
}
