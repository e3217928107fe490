//! `tidegate support-bundle`: what somebody needs who is to help, in one file, and nothing that is secret.
//!
//! No event's body is in it, no secret of the configuration, nothing of the environment. What the configuration has as a secret is
//! also blotted out wherever else it stands.

mod tar;

use super::{
    Format,
    doctor::{self, Doctor, Load},
    operate::Which,
};
use crate::{
    admin::{client, token},
    clock, config,
};
use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use std::{fs::File, os::unix::fs::OpenOptionsExt, path::PathBuf};

/// Bytes of a file in it; ten of them make 7 MiB, before they are packed.
const LARGEST: usize = 700 << 10;
/// Behind these comes, after a colon, what an upstream or a program said: it may have said an event.
const SAID: [&str; 6] = [
    " answered ",
    "` printed what is not one JSON object",
    "` ended with status ",
    "` was ended by signal ",
    "` did not end within ",
    "` printed more than ",
];
/// Dead letters whose reasons are in it.
const LETTERS: usize = 1000;

#[derive(Args)]
pub(super) struct Bundle {
    /// The file, which must not be there yet. Without it: `tidegate-bundle-TIME.tar.gz` here.
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(bundle: Bundle) -> anyhow::Result<()> {
    let now = clock::wall_ms();
    let name = format!("tidegate-bundle-{}", clock::rfc3339(now)[..19].replace(':', ""));
    let path = bundle.output.unwrap_or_else(|| format!("{name}.tar.gz").into());
    let mut opened = File::options();
    opened.write(true).create_new(true).mode(0o600);
    let file = opened.open(&path).with_context(|| format!("`{}`", path.display()))?;
    let format = bundle.which.format();
    let files = gather(bundle.which);
    let files: Vec<_> = files.into_iter().map(|(file, text)| (format!("{name}/{file}"), text)).collect();
    let seconds = u64::try_from(now / 1000).unwrap_or(0);
    tar::archive(&file, &files, seconds).with_context(|| format!("`{}`", path.display()))?;
    let bytes = file.metadata().map_or(0, |is| is.len());
    let shown = path.display();
    super::print(&match format {
        Format::Json => format!("{:#}\n", json!({ "file": shown.to_string(), "bytes": bytes })),
        Format::Text => {
            let list: String =
                files.iter().map(|(name, text)| format!("  {name}, {}\n", doctor::size(text.len() as u64))).collect();
            format!(
                "{shown}, {}, readable by you only; look at it before you give it away:\n{list}",
                doctor::size(bytes)
            )
        }
    })
}

/// The files: what could be asked for, or why it could not.
fn gather(which: Which) -> Vec<(&'static str, String)> {
    let mut files = vec![("version.txt", version())];
    let text = config::read(which.config()).map_err(|problem| problem.to_string());
    let shared = text.as_ref().ok().and_then(|text| config::shareable(which.config(), text));
    let settings = text.as_ref().ok().and_then(|text| config::settings(which.config(), text).ok());
    let (shown, mut secrets) = shared.unwrap_or_else(|| ("it cannot be read; doctor.json says why".into(), Vec::new()));
    files.push(("configuration.json", format!("{shown:#}\n")));
    let running = |target| match &settings {
        Some(settings) => client::running(settings, "GET", target),
        None => Ok(None),
    };
    let pretty = |answer: anyhow::Result<Value>| match answer {
        Ok(answer) => format!("{answer:#}\n"),
        Err(error) => format!("{error:#}\n"),
    };
    files.push(("status.json", pretty(which.ask("GET", "/status", &[]).map(quiet))));
    if let Ok(versions) = which.ask("GET", "/config", &[]) {
        files.push(("versions.json", format!("{:#}\n", quiet(versions))));
    }
    files.push(("ledger.json", pretty(which.ask("GET", "/ledger", &[]))));
    let letters = which.ask("GET", "/dead", &[("limit", LETTERS.to_string())]);
    files.push(("dead.json", pretty(letters.map(without_bodies))));
    files.push((
        "metrics.txt",
        match running("/metrics") {
            Ok(Some(reply)) => String::from_utf8_lossy(&reply.body).into_owned(),
            Ok(None) => "no gateway runs\n".into(),
            Err(error) => format!("{error:#}\n"),
        },
    ));
    let lines = which.ask("GET", "/logs", &[("n", usize::MAX.to_string())]);
    files.push(("logs.ndjson", lines.map_or_else(|error| format!("{error:#}\n"), |answer| log(&answer))));
    let findings = doctor::look(&Doctor { which, load: Load::default() });
    files.push(("doctor.json", format!("{:#}\n", quiet(json!(findings)))));
    files.push(("system.txt", doctor::facts()));
    // It is in none of them; but were it, it would open the gateway.
    secrets.extend(settings.and_then(|settings| token(&settings).ok()));
    files.into_iter().map(|(name, text)| (name, cut(blotted(text, &secrets)))).collect()
}

fn version() -> String {
    let features = [("redis", cfg!(feature = "redis")), ("s3", cfg!(feature = "s3"))];
    let features: Vec<&str> = features.iter().filter(|(_, with)| *with).map(|(name, _)| *name).collect();
    let (version, machine) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    format!("tidegate {version} for {machine}, features: {}\n", features.join(" "))
}

/// Dead letters as what failed where, when and why.
fn without_bodies(mut answer: Value) -> Value {
    for letter in answer["letters"].as_array_mut().into_iter().flatten() {
        let reason = unquoted(letter["reason"].as_str().unwrap_or_default());
        let kept = ["id", "at", "consumer", "topic", "seq", "event_id"];
        let mut shown: Value = kept.iter().map(|name| ((*name).to_owned(), letter[*name].clone())).collect();
        shown["reason"] = reason.into();
        *letter = shown;
    }
    answer
}

/// The lines of the log, without what an upstream said: it may have said an event.
fn log(answer: &Value) -> String {
    let line = |line: &Value| {
        let mut line = line.clone();
        line["message"] = unanswered(line["message"].as_str().unwrap_or_default()).into();
        format!("{line}\n")
    };
    answer["lines"].as_array().into_iter().flatten().map(line).collect()
}

/// The same without what upstreams and programs said, wherever it stands.
fn quiet(value: Value) -> Value {
    match value {
        Value::String(text) => unanswered(&text).into(),
        Value::Array(items) => items.into_iter().map(quiet).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, quiet(value))).collect(),
        other => other,
    }
}

/// A text up to what an upstream answered beside its status, or a program said at its end.
fn unanswered(text: &str) -> String {
    let told = SAID.iter().filter_map(|said| Some((text.find(said)?, said))).min();
    let told = told.and_then(|(at, said)| Some(at + said.len() + text[at + said.len()..].find(": ")?));
    told.map_or_else(|| text.to_owned(), |end| format!("{}: …", &text[..end]))
}

/// A reason without the pieces of events that it quotes. Names and paths of fields stay.
fn unquoted(reason: &str) -> String {
    let reason = unanswered(reason);
    let (mut out, mut rest) = (String::new(), reason.as_str());
    while let Some(at) = rest.find(['`', '"', '\'']) {
        let (before, quoted) = rest.split_at(at);
        let quote = &quoted[..1];
        let (inside, after) = quoted[1..].split_once(quote).unwrap_or((&quoted[1..], ""));
        let plain = quote == "`"
            && inside.len() <= 40
            && inside.starts_with(|c: char| c.is_ascii_alphabetic())
            && inside.chars().all(|c| c.is_ascii_lowercase() || "_.[]".contains(c));
        out += &format!("{before}{quote}{}{quote}", if plain { inside } else { "…" });
        rest = after;
    }
    out + rest
}

fn blotted(text: String, secrets: &[String]) -> String {
    secrets.iter().fold(text, |text, secret| match text.contains(secret.as_str()) {
        true => text.replace(secret.as_str(), "***"),
        false => text,
    })
}

/// The end of a log tells most, of all else the beginning; but then it is large for no good reason.
fn cut(text: String) -> String {
    if text.len() <= LARGEST {
        return text;
    }
    let end = (0..=LARGEST).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}\n… cut: it had {} bytes\n", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_shows_no_piece_of_an_event() {
        for (reason, want) in [
            ("`device.id` is absent", "`device.id` is absent"),
            ("expected a number instead of `canary-1`", "expected a number instead of `…`"),
            ("`x.org` answered 422 Unprocessable: {\"canary\": 1}", "`x.org` answered 422 Unprocessable: …"),
            ("not \"canary 'x\": at 'it", "not \"…\": at '…'"),
            ("`sh` ended with status 3: {\"canary\": 1}", "`sh` ended with status 3: …"),
            ("plain", "plain"),
        ] {
            assert_eq!(unquoted(reason), want);
        }
        let letters =
            json!({ "letters": [{ "id": 1, "reason": "r", "event": { "body": "canary" }, "bytes": "canary" }] });
        assert_eq!(without_bodies(letters)["letters"][0]["id"], 1);
        let letters =
            json!({ "letters": [{ "id": 1, "reason": "r", "event": { "body": "canary" }, "bytes": "canary" }] });
        assert!(!without_bodies(letters).to_string().contains("canary"));
    }

    #[test]
    fn it_is_bounded_and_blots_secrets_out() {
        assert!(cut("é".repeat(LARGEST)).len() < LARGEST + 100);
        let secrets = ["longer-secret".to_owned(), "secret".to_owned()];
        assert_eq!(blotted("a longer-secret, a secret".into(), &secrets), "a ***, a ***");
    }
}
