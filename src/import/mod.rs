//! Configurations of Agglo's `binge` as ours: `tidegate import-binge`.
//!
//! The file is the JSON form of Agglo's protobuf message `Pipelines`. It is read strictly, and everything that is wrong with
//! it is told at once. What Agglo did wrong is mended, with a comment where that changes what a configuration means; what
//! cannot be imported is left out, with a comment and a warning.

mod conditions;
mod definitions;
mod externals;
mod pattern;
mod pipelines;
mod processes;
mod reading;
mod specs;
mod writing;

use crate::config::{Problem, report::Report, tree};
use reading::{At, Reader};
use std::path::Path;

/// The text of our configuration, and warnings about what is left out of it; or all that is wrong with the one given.
pub fn binge(file: &Path, text: &str) -> Result<(String, Vec<Problem>), Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::new(file.display().to_string(), text);
    let out = tree::parse_plain(text, &mut report).map(|node| {
        let mut reader = Reader(&mut report);
        convert(&mut reader, &At { node: &node, path: String::new() })
    });
    let (warnings, errors) = report.finish();
    match out {
        Some(out) if errors.is_empty() => Ok((out, warnings)),
        _ => Err(errors),
    }
}

fn convert(reader: &mut Reader<'_, '_>, root: &At<'_>) -> String {
    if !reader.message(root, &["partitionUuid", "pipelines", "processDefinitions", "externalSystems"]) {
        return String::new();
    }
    let partition = reader.named(root, "partitionUuid").and_then(|(text, at)| {
        let uuid = uuid(&text);
        if uuid.is_none() {
            reader.error(&at, format!("{} is not a UUID", reading::told(&text)));
        }
        uuid
    });
    let externals = externals::Externals::read(reader, root);
    let nodes = reader.list(root, "processDefinitions");
    let definitions: Vec<_> = nodes.iter().filter_map(|at| definitions::definition(reader, at, &externals)).collect();
    definitions::check(reader, &definitions, &nodes);
    let pipelines = pipelines::read(reader, root, &definitions, &externals);
    let partition = partition.unwrap_or_default();
    let whole = pipelines::Whole {
        partition: &partition,
        pipelines: &pipelines,
        definitions: &definitions,
        externals: &externals,
    };
    let lines = whole.lines(reader);
    writing::file(&head(), lines)
}

fn head() -> Vec<String> {
    [
        "Imported from a configuration of Agglo's binge by `tidegate import-binge`. Where a meaning was mended, a comment says so.",
        "In conditions, `event.leaf('a.b')` is what Agglo calls a variable: the text, number, bool or null in that place, whose dots may also belong to a name. Where neither matters, `event.a.b` does the same and reads better. `has()` also holds for objects and lists, where Agglo's `Exists` did not.",
        "Everywhere else `a.b` is b inside of a; a field whose own name has the dot is written `a\\\\.b`.",
    ]
    .map(str::to_owned)
    .into()
}

/// A UUID in the forms that Go reads, as it writes it.
fn uuid(text: &str) -> Option<String> {
    let bare = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
    let urn = bare.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("urn:uuid:"));
    let bare = if urn { &bare[9..] } else { bare };
    let dashes: Vec<usize> = bare.match_indices('-').map(|(at, _)| at).collect();
    let hex: String = bare.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
    let whole = hex.len() == 32 && hex.bytes().all(|c| c.is_ascii_hexdigit());
    let placed = dashes == [8, 13, 18, 23] || (dashes.is_empty() && bare == text);
    (whole && placed).then(|| [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests;
