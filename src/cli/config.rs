//! `tidegate config`: another configuration for a gateway that runs, and the versions of it.

use super::{
    columns, diff,
    operate::{Which, cell, plain},
    print,
};
use crate::{
    admin::{client, config as answers},
    budget::Span,
    config::{self, redacted},
    runtime::Versions,
};
use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub(super) enum Config {
    /// Hand a configuration to the running gateway: it is checked whole, written over the gateway's file and taken over.
    ///
    /// What is in both runs on. With `--confirm-within` the one before comes back by itself, in the file too, unless
    /// `tidegate config confirm` is said in time; also if the gateway dies meanwhile.
    ///
    /// Example: tidegate config apply new.jsonc --confirm-within 60s
    Apply {
        /// The new configuration.
        file: PathBuf,
        /// How long it is on trial.
        #[arg(long)]
        confirm_within: Option<Span>,
        #[command(flatten)]
        which: Which,
    },
    /// Say that the configuration on trial stays.
    ///
    /// Example: tidegate config confirm
    Confirm {
        #[command(flatten)]
        which: Which,
    },
    /// Go back to an earlier version: the one before, or the one of a number. It is written over the gateway's file; where that
    /// may not be, the file stays, and no start takes up again what stands in it.
    ///
    /// Example: tidegate config rollback
    Rollback {
        /// The version, as `tidegate config log` says.
        number: Option<u32>,
        #[command(flatten)]
        which: Which,
    },
    /// List the versions that ran: when, by whom, and how they ended.
    ///
    /// Example: tidegate config log
    Log {
        #[command(flatten)]
        which: Which,
    },
    /// Show a version as it was written; without a number the one that runs.
    ///
    /// Example: tidegate config show
    Show {
        /// The version, as `tidegate config log` says.
        number: Option<u32>,
        #[command(flatten)]
        which: Which,
    },
    /// Show what two versions differ in: what runs and the file; a version and what runs; or two versions.
    ///
    /// Example: tidegate config diff
    Diff {
        /// The older version.
        from: Option<u32>,
        /// The newer one.
        to: Option<u32>,
        #[command(flatten)]
        which: Which,
    },
}

pub(super) fn run(what: &Config) -> anyhow::Result<()> {
    match what {
        Config::Apply { file, confirm_within, which } => {
            let text = config::read(file).map_err(|problem| anyhow::anyhow!("{problem}"))?;
            let query = confirm_within.map(|span| format!("?confirm={}", span.0.as_secs().max(1)));
            let answer = order(which, &format!("/config{}", query.unwrap_or_default()), &text)?;
            which.show(&answer, |answer| {
                let tried = confirm_within.filter(|_| answer["on_trial"] == true).map_or(String::new(), |span| {
                    format!("it goes back in {span}, unless you say `tidegate config confirm`\n")
                });
                told(answer) + &tried
            })
        }
        Config::Confirm { which } => {
            which.show(&order(which, "/config/confirm", "")?, |answer| format!("version {} stays\n", answer["version"]))
        }
        Config::Rollback { number, which } => {
            let query = number.map(|number| format!("?to={number}")).unwrap_or_default();
            which.show(&order(which, &format!("/config/rollback{query}"), "")?, told)
        }
        Config::Log { which } => which.show(&history(which)?, table),
        Config::Show { number, which } => {
            let version = version(which, *number)?;
            which.show(&version, |version| text_of(version).to_owned())
        }
        Config::Diff { from, to, which } => {
            let (old, new) = (version(which, *from)?, to.map(|to| version(which, Some(to))).transpose()?);
            let name = |version: &Value| format!("version {}", version["number"]);
            let (name_of_new, new) = match (new, from) {
                (Some(new), _) => (name(&new), text_of(&new).to_owned()),
                (None, Some(_)) => {
                    let running = version(which, None)?;
                    (name(&running), text_of(&running).to_owned())
                }
                (None, None) => {
                    let text = which.gateway.settings()?.1;
                    ("the file".into(), redacted(which.config(), &text).unwrap_or(text))
                }
            };
            print(&diff::unified((&name(&old), &name_of_new), text_of(&old), &new))
        }
    }
}

/// Asks the gateway that runs.
fn order(which: &Which, path: &str, text: &str) -> anyhow::Result<Value> {
    let (settings, _) = which.gateway.settings()?;
    let answer = client::ask_running(&settings, "POST", &format!("/api/v1{path}"), text)?;
    answer.context("no gateway runs with this configuration: write the file, and start it")
}

fn told(answer: &Value) -> String {
    let list = |name: &str| {
        let names: Vec<String> = answer[name].as_array().into_iter().flatten().map(cell).collect();
        if names.is_empty() { String::new() } else { format!("{name}: {}\n", names.join(", ")) }
    };
    let warnings = answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let warnings: String = warnings.map(|warning| format!("warning: {}\n", plain(warning))).collect();
    if answer["restarts"] == true {
        return format!("version {}: the whole gateway starts again\n{warnings}", answer["version"]);
    }
    format!("version {} runs\n{}{}{warnings}", answer["version"], list("stopped"), list("started"))
}

/// Of the gateway that runs, or, where none does, of what lies beside its store.
fn history(which: &Which) -> anyhow::Result<Value> {
    let (settings, _) = which.gateway.settings()?;
    match client::ask_running(&settings, "GET", "/api/v1/config", "")? {
        Some(answer) => Ok(answer),
        None => Ok(answers::history(&Versions::beside(Path::new(&settings.store.path)))),
    }
}

/// One version, or the one that runs, or ran last.
fn version(which: &Which, number: Option<u32>) -> anyhow::Result<Value> {
    let (settings, _) = which.gateway.settings()?;
    let number = match number {
        Some(number) => number,
        None => {
            let all = history(which)?;
            let running = if all["running"].is_null() { &all["version"] } else { &all["running"] };
            match running.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) => number,
                None => {
                    bail!("no version of the configuration is known; the gateway keeps them from its first start on")
                }
            }
        }
    };
    match client::ask_running(&settings, "GET", &format!("/api/v1/config/{number}"), "")? {
        Some(answer) => Ok(answer),
        None => {
            answers::version(&Versions::beside(Path::new(&settings.store.path)), number).map_err(anyhow::Error::msg)
        }
    }
}

fn text_of(version: &Value) -> &str {
    version["text"].as_str().unwrap_or_default()
}

fn table(answer: &Value) -> String {
    let list = answer["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return "no versions yet\n".into();
    }
    let mut rows = vec![["VERSION", "AT", "CLOCK", "BY", "STATE", "WHY"].map(str::to_owned).to_vec()];
    let names = ["number", "at", "clock", "by", "state", "why"];
    rows.extend(list.iter().map(|version| names.iter().map(|name| cell(&version[*name])).collect()));
    columns(&rows)
}
