//! From the text of a configuration to built components: read, check against the schema, decode, cross-check, build.
//! Everything wrong is reported in one go, and nothing happens outside before all of it is right.

mod admin;
mod cases;
mod checks;
mod cron;
mod flaws;
mod interpolate;
mod mark;
mod outgoing;
mod plan;
pub(crate) mod report;
mod rules;
mod schema;
mod settings;
mod share;
mod space;
pub(crate) mod suggest;
mod trace;
pub(crate) mod tree;
mod validate;

pub use admin::{AdminSettings, AdminTls, Listen};
pub use cases::{Case, CaseStep};
pub use cron::{Cron, Zone};
pub use flaws::flaws;
pub use outgoing::{Budget, Drain, Late, Window};
pub use plan::{Before, Catalogue, PipelinePlan, Plan, ProcessPlan, SinkPlan, SourcePlan, late_topic};
pub use report::Problem;
pub(crate) use rules::sort;
pub(crate) use schema::common_fields;
pub use schema::schema;
pub use settings::{
    Attempts, Batch, DedupeSettings, DiskSettings, EventMarks, GatewaySettings, Keep, OffloadSettings, OnFail,
    PipelineSettings, ProcessCommon, Retry, Settings, SinkCommon, SourceCommon, Start, StoreSettings, TopicSettings,
    WhenFull,
};
pub use share::{redacted, shareable};
pub(crate) use suggest::{choice, unknown_name};
pub use trace::{OtlpSettings, TraceSettings};

use interpolate::Outside;
use report::{Finding, Report};
use std::io::Read;
use std::path::Path;

/// Reads a configuration file; at most 4 MiB, UTF-8.
pub fn read(file: &Path) -> Result<String, Problem> {
    let problem = |message: String, before: &[u8]| {
        let text = String::from_utf8_lossy(before);
        let finding = Finding { path: String::new(), at: text.len(), message };
        Report::new(file.display().to_string(), &text).place(&finding)
    };
    let mut bytes = Vec::new();
    let limit = tree::LARGEST.0 + 1;
    if let Err(e) = std::fs::File::open(file).and_then(|f| f.take(limit).read_to_end(&mut bytes)) {
        return Err(problem(format!("cannot be read: {}", e.to_string().to_lowercase()), b""));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        problem("not UTF-8".into(), &e.as_bytes()[..valid])
    })
}

/// Turns the text of `file` into components that are ready to run, with warnings; or gives every error there is, in the
/// order of the file. References are filled in from the environment. Nothing is opened, connected or started.
#[allow(clippy::type_complexity)]
pub fn load<S: ?Sized, P: ?Sized, K: ?Sized>(
    file: &Path,
    text: &str,
    catalogue: &Catalogue<'_, S, P, K>,
) -> Result<(Plan<S, P, K>, Vec<Problem>), Vec<Problem>> {
    load_after(file, text, catalogue, None)
}

/// As `load`, for a gateway that runs: systems that are as they were `before` are the same ones.
#[allow(clippy::type_complexity)]
pub fn load_after<S: ?Sized, P: ?Sized, K: ?Sized>(
    file: &Path,
    text: &str,
    catalogue: &Catalogue<'_, S, P, K>,
    before: Option<&Before>,
) -> Result<(Plan<S, P, K>, Vec<Problem>), Vec<Problem>> {
    let outside = |reference: &str| interpolate::resolve(reference, &|name| std::env::var_os(name));
    build(file, text, catalogue, before, &outside)
}

/// A problem that what `load` gave turned out to have, at its place in the text.
pub fn found(file: &Path, text: &str, path: &str, message: String) -> Problem {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::new(file.display().to_string(), text);
    let outside = |reference: &str| interpolate::resolve(reference, &|name| std::env::var_os(name));
    let at = tree::parse(text, &outside, &mut report).map_or(0, |root| root.locate(path));
    report.place(&Finding { path: path.to_owned(), at, message })
}

/// As `load`, with other references.
#[allow(clippy::type_complexity)]
fn load_with<S: ?Sized, P: ?Sized, K: ?Sized>(
    file: &Path,
    text: &str,
    catalogue: &Catalogue<'_, S, P, K>,
    outside: Outside<'_>,
) -> Result<(Plan<S, P, K>, Vec<Problem>), Vec<Problem>> {
    build(file, text, catalogue, None, outside)
}

#[allow(clippy::type_complexity)]
fn build<S: ?Sized, P: ?Sized, K: ?Sized>(
    file: &Path,
    text: &str,
    catalogue: &Catalogue<'_, S, P, K>,
    before: Option<&Before>,
    outside: Outside<'_>,
) -> Result<(Plan<S, P, K>, Vec<Problem>), Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::new(file.display().to_string(), text);
    let plan = tree::parse(text, outside, &mut report).map(|root| {
        for finding in validate::validate(&schema(catalogue), &root) {
            report.add(finding);
        }
        checks::check(&root, &mut report);
        plan::build(&root, catalogue, before, &mut report)
    });
    let (warnings, errors) = report.finish();
    match plan {
        Some(plan) if errors.is_empty() => Ok((plan, warnings)),
        _ => Err(errors),
    }
}

/// Only the gateway's own settings, without its components: for who asks a gateway that runs. References that cannot be
/// filled in here are left empty: an operator need not read the gateway's secrets.
pub fn settings(file: &Path, text: &str) -> Result<Settings, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::new(file.display().to_string(), text);
    let outside =
        |reference: &str| Ok(interpolate::resolve(reference, &|name| std::env::var_os(name)).unwrap_or_default());
    let settings = tree::parse(text, &outside, &mut report).map(|root| plan::settings(&root, &mut report));
    match (settings, report.finish().1) {
        (Some(settings), errors) if errors.is_empty() => Ok(settings),
        (_, errors) => Err(errors),
    }
}

/// A whole configuration as values, for who looks at what it names. References that cannot be filled in here are left empty. What
/// it holds may be secret.
pub fn values(file: &Path, text: &str) -> Option<serde_json::Value> {
    let outside =
        |reference: &str| Ok(interpolate::resolve(reference, &|name| std::env::var_os(name)).unwrap_or_default());
    let mut report = Report::new(file.display().to_string(), text);
    tree::parse(text.strip_prefix('\u{feff}').unwrap_or(text), &outside, &mut report).map(|root| root.json())
}

#[cfg(test)]
mod tests;
