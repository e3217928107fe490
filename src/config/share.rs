//! A configuration as others may see it: without secrets, and which values those are.
//!
//! What comes from outside stays a reference. What stands in the file as a secret, by the name of its field, is blotted out; so is
//! what looks like one. Comments, and the events of tests, are left out, or shown without.

use super::{interpolate, report::Report, tree};
use jsonc_parser::{Scanner, ScannerOptions, tokens::Token};
use serde_json::Value;
use std::path::Path;
use tree::{Content, Node};

const BLOT: &str = "***";
/// Parts of the names of fields whose values are secrets.
const SECRET: [&str; 11] = [
    "pass",
    "secret",
    "token",
    "key",
    "credential",
    "auth",
    "cookie",
    "private",
    "signature",
    "session_id",
    "pin_code",
];
/// Everything below these may be one.
const ALL_SECRET: [&str; 2] = ["headers", "env"];
/// So many letters and digits without a break, and both of them, are no word.
const RANDOM: usize = 20;
/// Shorter values stand everywhere by chance.
const SHORT: usize = 8;

/// The configuration, and all values that must not be shown; `None` if it cannot be read.
pub fn shareable(file: &Path, text: &str) -> Option<(Value, Vec<String>)> {
    let (shown, share) = Share::of(file, text)?;
    Some((shown, share.secrets))
}

/// The text of a configuration with its comments, without what must not be shown; `None` if it cannot be read.
pub fn redacted(file: &Path, text: &str) -> Option<String> {
    let (_, share) = Share::of(file, text)?;
    // Short ones only as whole values.
    let text = share.values.iter().fold(text.to_owned(), |text, value| {
        text.replace(&Value::from(value.as_str()).to_string(), &Value::from(BLOT).to_string())
    });
    let text = share.secrets.iter().fold(text, |text, secret| text.replace(secret, BLOT));
    Some(with_quiet_comments(&text))
}

/// A text in whose comments nothing is said of a field that may be a secret, as of one that was put aside.
fn with_quiet_comments(text: &str) -> String {
    let (mut scanner, mut quiet, mut done) = (Scanner::new(text, &ScannerOptions::default()), String::new(), 0);
    while let Ok(Some(token)) = scanner.scan() {
        if let (Token::CommentLine(_) | Token::CommentBlock(_), start, end) =
            (token, scanner.token_start(), scanner.token_end())
        {
            let lines = text[start..end].split_inclusive('\n').map(quieted);
            quiet.extend([text[done..start].to_owned()].into_iter().chain(lines));
            done = end;
        }
    }
    quiet + &text[done..]
}

/// A line of a comment: without what stands behind the name of a secret, and what looks like one.
fn quieted(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let name = SECRET.iter().filter_map(|part| lower.find(part)).min();
    match name.and_then(|name| Some(name + lower[name..].find([':', '='])? + 1)) {
        Some(value) => {
            let end = if line.ends_with("*/") { " */" } else { &line[line.trim_end().len()..] };
            format!("{} {BLOT}{end}", &line[..value])
        }
        None => Share::default().text(line, line, false).as_str().unwrap_or_default().to_owned(),
    }
}

#[derive(Default)]
struct Share {
    secrets: Vec<String>,
    /// Values that are secret as a whole, as they are written.
    values: Vec<String>,
}

impl Share {
    fn of(file: &Path, text: &str) -> Option<(Value, Share)> {
        let outside =
            |reference: &str| Ok(interpolate::resolve(reference, &|name| std::env::var_os(name)).unwrap_or_default());
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut report = Report::new(file.display().to_string(), text);
        let root = tree::parse(text, &outside, &mut report)?;
        let mut share = Share::default();
        let shown = share.node("", &root, false);
        share.secrets.retain(|secret| secret.len() >= SHORT);
        share.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Some((shown, share))
    }

    fn node(&mut self, name: &str, node: &Node, secret: bool) -> Value {
        match &node.content {
            Content::Text(filled) => {
                self.secrets.extend(filled.parts.iter().map(|part| part.value.clone()));
                self.text(filled.written(), filled.text.as_str(), secret)
            }
            Content::Number(_) if secret => {
                self.secrets.push(node.json().to_string());
                BLOT.into()
            }
            Content::List(items) => items.iter().map(|item| self.node(name, item, secret)).collect(),
            Content::Object(fields) => {
                let field =
                    |field: &tree::Field| (field.name.clone(), self.field(name, &field.name, &field.node, secret));
                Value::Object(fields.iter().map(field).collect())
            }
            _ => node.json(),
        }
    }

    fn field(&mut self, above: &str, name: &str, node: &Node, secret: bool) -> Value {
        let lower = name.to_lowercase();
        // Of a `key` alone most are a file, or the field of a body that holds an event's key.
        let word = |text: &str| text.starts_with('/') || !text.contains(|c: char| c.is_ascii_digit() || c == '-');
        let plain = lower == "key" && node.text().is_some_and(word);
        let secret =
            secret || ALL_SECRET.contains(&above) || (!plain && SECRET.iter().any(|part| lower.contains(part)));
        match (name, &node.content) {
            ("tests", Content::List(tests)) => format!("{} tests", tests.len()).into(),
            _ => self.node(name, node, secret),
        }
    }

    /// `written` is as the file has it, with references.
    fn text(&mut self, written: &str, text: &str, secret: bool) -> Value {
        let (shown, rest) = without_defaults(written);
        if secret {
            // Of `Bearer TOKEN` the last word, too.
            self.secrets.extend([Some(text), text.split_whitespace().last()].into_iter().flatten().map(str::to_owned));
            let only = ["", "Bearer", "Basic", "Token"].contains(&rest.trim());
            let refers = only && shown.contains("${");
            if !refers || shown != written {
                self.values.push(written.to_owned());
            }
            return if refers { shown.into() } else { BLOT.into() };
        }
        let mut shown = self.without_user(&shown);
        let mut words: Vec<&str> =
            rest.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_random(word)).collect();
        words.sort_unstable_by_key(|word| std::cmp::Reverse(word.len()));
        for word in words {
            self.secrets.push(word.to_owned());
            shown = shown.replace(word, BLOT);
        }
        shown.into()
    }

    /// A URL without user, password and query, in which tokens stand.
    fn without_user(&mut self, text: &str) -> String {
        let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
        let values = query.into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split_once('='));
        self.secrets.extend(password.into_iter().chain(values.map(|(_, value)| value)).map(str::to_owned));
        let (at, mark) = (user.map_or("", |_| "***@"), query.map_or("", |_| "?***"));
        format!("{scheme}://{at}{host}{path}{mark}")
    }
}

fn is_random(word: &str) -> bool {
    let has = |what: fn(&u8) -> bool| word.as_bytes().iter().any(what);
    word.len() >= RANDOM && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
}

/// A text without what its references fall back to, `${NAME:-secret}`; and that which is around the references.
fn without_defaults(written: &str) -> (String, String) {
    let (mut shown, mut around, mut rest) = (String::new(), String::new(), written);
    while let Some((before, reference)) = rest.split_once("${") {
        let (reference, after) = reference.split_once('}').unwrap_or((reference, ""));
        let name = reference.split_once(":-").map_or(reference, |(name, _)| name);
        shown += &format!("{before}${{{name}}}");
        around += before;
        rest = after;
    }
    (shown + rest, around + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_secret_is_blotted_out_and_known() {
        let canary = |n: u32| format!("canary-{n}-value");
        let text = format!(
            r#"{{
  // {c0}
  "sources": {{ "web": {{ "type": "http", "tokens": ["{c1}", "${{TIDEGATE_NO_TOKEN:-{c2}}}"], "key": "device", "x": {{ "key": "{c10}" }},
    "tls": {{ "cert": "/c.pem", "key": "/k.pem" }} }} }},
  "pipelines": {{ "p": {{ "processes": [
      {{ "type": "spawn", "program": "x", "env": {{ "A": "{c3}" }}, "args": ["q7Zr5Tq9Wm2Kx8Lp4Vn6"] }} ],
    "tests": [{{ "name": "{c4}" }}] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "https://user:{c5}@example.org/in?sig={c6}", "from": ["web"],
    "headers": {{ "x-any": "{c7}", "authorization": "Bearer ${{cred:token}}", "Authorization": "Bearer {c8}" }} }} }},
  "systems": {{ "s3": {{ "access_key": "{c9}", "secret_key": 12345678, "bucket": "plain" }} }}
}}"#,
            c0 = canary(0),
            c1 = canary(1),
            c2 = canary(2),
            c3 = canary(3),
            c4 = canary(4),
            c5 = canary(5),
            c6 = canary(6),
            c7 = canary(7),
            c8 = canary(8),
            c9 = canary(9),
            c10 = canary(10),
        );
        let (shown, secrets) = shareable(Path::new("f"), &text).unwrap();
        let out = shown.to_string();
        assert!(!out.contains("canary") && !out.contains("q7Zr5") && !out.contains("12345678"), "{shown:#}");
        for (pointer, want) in [
            ("/sources/web/tokens", json!(["***", "${TIDEGATE_NO_TOKEN}"])),
            ("/sources/web/key", json!("device")),
            ("/sources/web/tls", json!({ "cert": "/c.pem", "key": "/k.pem" })),
            ("/pipelines/p/processes/0/args", json!(["***"])),
            ("/pipelines/p/tests", json!("1 tests")),
            ("/sinks/cloud/url", json!("https://***@example.org/in?***")),
            ("/sinks/cloud/headers/authorization", json!("Bearer ${cred:token}")),
            ("/sinks/cloud/headers/Authorization", json!("***")),
            ("/systems/s3/bucket", json!("plain")),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&want), "{pointer}: {shown:#}");
        }
        for n in [1, 3, 5, 6, 7, 8, 9, 10] {
            assert!(secrets.iter().any(|secret| *secret == canary(n)), "{n}: {secrets:?}");
        }
        assert!(shareable(Path::new("f"), "{").is_none());

        // As it was written: but for those of the comment and the test.
        let written = redacted(Path::new("f"), &text).unwrap();
        assert_eq!(written.matches("canary").count(), 2, "{written}");
        assert!(!written.contains("q7Zr5") && !written.contains("12345678"), "{written}");
        assert!(written.contains(r#""authorization": "Bearer ${cred:token}", "Authorization": "***" }"#), "{written}");
        let aside = "{ // plain: 1\n // \"Password\": \"canary\",\r\n /* token = canary */ \"a\": \"// pass: 1\", /* x\n auth: canary\n y */\n \
                     // mqtts://me:canary@host/x\n // a secret of q7Zr5Tq9Wm2Kx8Lp4Vn6\n }";
        let want = "{ // plain: 1\n // \"Password\": ***\r\n /* token = *** */ \"a\": \"// pass: 1\", /* x\n auth: ***\n y */\n \
                    // mqtts://***@host/x\n // a secret of ***\n }";
        assert_eq!(redacted(Path::new("f"), aside).unwrap(), want);
        let short = redacted(Path::new("f"), r#"{ "a": { "password": "ab" }, "b": "ab c" }"#).unwrap();
        assert_eq!(short, r#"{ "a": { "password": "***" }, "b": "ab c" }"#);
    }
}
