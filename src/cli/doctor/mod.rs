//! `tidegate doctor`: looks at everything around a gateway that could keep it from its work, and says what to do.
//!
//! It changes nothing: no event is published or posted, no device opened, no store written. What it writes to measure the disk is a
//! file of its own, which it removes.

mod certificates;
mod disk;
mod machine;
mod network;
mod running;
mod sizing;
mod touches;

use super::{Format, operate};
use crate::{
    config::{self, Problem, Settings},
    runtime::Plan,
};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::{fmt::Display, process::ExitCode, time::Duration};

pub(super) use machine::facts;
pub(super) use sizing::Load;

/// No single question takes longer: a name server, a connection, a disk.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    pub which: operate::Which,
    #[command(flatten)]
    pub load: Load,
}

/// How it is with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Right,
    Doubtful,
    Wrong,
}

/// What was found of one thing, and what to do about it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    check: String,
    verdict: Verdict,
    says: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

impl Finding {
    fn new(verdict: Verdict, check: impl Display, says: impl Display, advice: impl Display) -> Finding {
        Finding { check: check.to_string(), verdict, says: says.to_string(), advice: advice.to_string() }
    }

    fn right(check: impl Display, says: impl Display) -> Finding {
        Finding::new(Verdict::Right, check, says, "")
    }

    fn doubtful(check: impl Display, says: impl Display, advice: impl Display) -> Finding {
        Finding::new(Verdict::Doubtful, check, says, advice)
    }

    fn wrong(check: impl Display, says: impl Display, advice: impl Display) -> Finding {
        Finding::new(Verdict::Wrong, check, says, advice)
    }
}

/// Prints what is found; exit code 1 if something is wrong.
pub(super) fn run(doctor: &Doctor) -> ExitCode {
    let findings = look(doctor);
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let [right, doubtful, wrong] = [Verdict::Right, Verdict::Doubtful, Verdict::Wrong].map(count);
    let text = match doctor.which.format() {
        Format::Json => {
            format!("{:#}\n", json!({ "right": right, "doubtful": doubtful, "wrong": wrong, "findings": findings }))
        }
        Format::Text => format!("{}\n{right} right, {doubtful} doubtful, {wrong} wrong\n", table(&findings)),
    };
    match super::finish(super::print(&text)) {
        ExitCode::SUCCESS if wrong > 0 => ExitCode::FAILURE,
        code => code,
    }
}

/// Everything that is found, as far as the configuration lets one look.
pub(super) fn look(doctor: &Doctor) -> Vec<Finding> {
    let file = doctor.which.config();
    let text = match config::read(file) {
        Ok(text) => text,
        Err(problem) => {
            let advice = "say which configuration with `--config FILE`, or write one: `tidegate init`";
            return vec![Finding::wrong("configuration", problem, advice)];
        }
    };
    let (mut findings, plan) = configuration(doctor);
    let settings = config::settings(file, &text);
    findings.extend(disk::told_to_all(file, &text));
    findings.push(machine::clock());
    if let (Ok(settings), Some(values)) = (settings, config::values(file, &text)) {
        let touches = touches::of(&values, &settings);
        let outside = super::block_on(async { Ok(around(&settings, &touches, plan.as_ref(), &doctor.load).await) });
        findings.extend(outside.unwrap_or_default());
    }
    findings
}

/// What is wrong with the configuration. That a secret of the service is not there for who asks is only doubtful.
fn configuration(doctor: &Doctor) -> (Vec<Finding>, Option<Plan>) {
    const CHECK: &str = "configuration";
    let file = doctor.which.config().display();
    let hidden = |problem: &Problem| {
        let text = &problem.message;
        text.contains("$CREDENTIALS_DIRECTORY is not set") || text.starts_with("the environment variable")
    };
    match super::loaded(doctor.which.config()) {
        Ok((plan, warnings)) => {
            let mut findings = vec![Finding::right(CHECK, format!("{file}: no error"))];
            findings.extend(warnings.iter().map(|w| Finding::doubtful(CHECK, w, "see whether that is meant")));
            (findings, Some(plan))
        }
        Err(problems) => {
            let finding = |problem: &Problem| match hidden(problem) {
                true => {
                    Finding::doubtful(CHECK, problem, "ask as the service does, with its variables and credentials")
                }
                false => Finding::wrong(CHECK, problem, "mend it; `tidegate kinds NAME` explains a kind's fields"),
            };
            (problems.iter().map(finding).collect(), None)
        }
    }
}

async fn around(settings: &Settings, touches: &touches::Touches, plan: Option<&Plan>, load: &Load) -> Vec<Finding> {
    let (own, path) = (settings.clone(), settings.store.path.clone());
    let (mut findings, status) = within(move || running::look(&own)).await.unwrap_or_else(|| {
        let says = "the gateway runs, and does not answer";
        (vec![Finding::wrong("gateway", says, "systemd starts it again if it makes no progress; see its log")], None)
    });
    let (own, seen) = (settings.clone(), status.clone());
    findings.extend(within(move || disk::look(&own, seen.as_ref())).await.unwrap_or_else(|| {
        let says = format!("the disk of `{path}` does not answer");
        vec![Finding::wrong("disk", says, "it hangs or fails: see `dmesg`; a network's file system may be away")]
    }));
    let (latency, sync) = disk::latency(settings).await;
    findings.extend(latency);
    findings.extend(disk::secrets(settings, touches));
    findings.extend(machine::devices(touches));
    findings.extend(network::ports(touches, status.is_some()));
    findings.extend(certificates::look(touches));
    findings.extend(network::upstreams(touches).await);
    findings.extend(plan.and_then(machine::memory));
    findings.extend(sizing::look(settings, status.as_ref(), load, sync));
    findings
}

/// The answer to a question that blocks; none if that takes longer than it may.
async fn within<T: Send + 'static>(question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(2 * PATIENCE, tokio::task::spawn_blocking(question)).await.ok()?.ok()
}

/// A line each, and one for what to do.
fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        let verdict = format!("{:?}", finding.verdict).to_lowercase();
        out +=
            &format!("{verdict:<8}  {:<width$}  {}\n", operate::plain(&finding.check), operate::plain(&finding.says));
        if !finding.advice.is_empty() {
            out += &format!("{:<8}  {:<width$}  -> {}\n", "", "", operate::plain(&finding.advice));
        }
    }
    out
}

/// A number of bytes as people read it.
pub(super) fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, bits)| bytes >> bits > 0) {
        Some((unit, bits)) if bytes >> bits < 10 => format!("{:.1} {unit}", bytes as f64 / (1u64 << bits) as f64),
        Some((unit, bits)) => format!("{} {unit}", bytes >> bits),
        None => format!("{bytes} B"),
    }
}

/// A time as people read it; never more than it is.
fn span(seconds: f64) -> String {
    let (unit, length) = match seconds {
        s if s < 120.0 => ("s", 1.0),
        s if s < 7_200.0 => ("minutes", 60.0),
        s if s < 259_200.0 => ("hours", 3600.0),
        s if s < 63_072_000.0 => ("days", 86_400.0),
        _ => ("years", 31_536_000.0),
    };
    format!("{} {unit}", (seconds / length).floor())
}

/// A number of a gateway's status.
fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_for_people() {
        for (bytes, want) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (210 << 20, "210 MiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(size(bytes), want);
        }
        for (seconds, want) in
            [(1.0, "1 s"), (600.0, "10 minutes"), (21_600.0, "6 hours"), (1e6, "11 days"), (1e9, "31 years")]
        {
            assert_eq!(span(seconds), want);
        }
    }
}
