//! What is wrong with a configuration, and where: collected, so that one run tells everything.

use std::fmt;

/// More than a person reads at once; it also bounds what a hostile file makes us keep.
const MOST: usize = 100;
/// Names and values in messages are cut here.
const SHOWN: usize = 64;
/// Messages are cut here; a list of all kinds fits.
const LONGEST: usize = 800;

/// An error or a warning about a configuration, one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field: `sinks.cloud.url`, `pipelines.climate.processes[0]`. Empty: the file as a whole.
    pub path: String,
    /// Lower case, no full stop. Values that came from outside the file are not in it.
    pub message: String,
    /// The file as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, counted in characters.
    pub column: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} ({}:{}:{})", self.message, self.file, self.line, self.column)
    }
}

impl std::error::Error for Problem {}

/// A problem before its line and column are worked out.
pub(crate) struct Finding {
    pub path: String,
    /// Byte offset in the text.
    pub at: usize,
    pub message: String,
}

/// All findings about one file.
pub(crate) struct Report<'a> {
    file: String,
    text: &'a str,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    left_out: usize,
}

impl<'a> Report<'a> {
    /// `text` is what the offsets of the findings refer to.
    pub fn new(file: String, text: &'a str) -> Self {
        Report { file, text, errors: Vec::new(), warnings: Vec::new(), left_out: 0 }
    }

    pub fn error(&mut self, path: impl Into<String>, at: usize, message: impl Into<String>) {
        self.add(Finding { path: path.into(), at, message: message.into() });
    }

    pub fn add(&mut self, finding: Finding) {
        if self.errors.len() < MOST {
            self.errors.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    pub fn warning(&mut self, path: impl Into<String>, at: usize, message: impl Into<String>) {
        if self.warnings.len() < MOST {
            self.warnings.push(Finding { path: path.into(), at, message: message.into() });
        }
    }

    /// Whether nothing is wrong at `path` and below, so that it can be decoded.
    pub fn clean(&self, path: &str) -> bool {
        let below =
            |found: &str| found.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.left_out == 0 && !self.errors.iter().any(|e| below(&e.path))
    }

    /// Whether more errors would not be shown anyway.
    pub fn full(&self) -> bool {
        self.errors.len() >= MOST
    }

    /// Warnings and errors, each in the order of the file.
    pub fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        let placed = |findings: &[Finding]| {
            let mut findings: Vec<&Finding> = findings.iter().collect();
            findings.sort_by_key(|f| f.at);
            findings.into_iter().map(|f| self.place(f)).collect::<Vec<_>>()
        };
        let mut errors = placed(&self.errors);
        if let Some(last) = errors.last().filter(|_| self.left_out > 0).cloned() {
            let message = format!("{} more errors are not shown", self.left_out);
            errors.push(Problem { path: String::new(), message, ..last });
        }
        (placed(&self.warnings), errors)
    }

    pub fn place(&self, finding: &Finding) -> Problem {
        let before = self.text.get(..finding.at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        Problem {
            path: finding.path.clone(),
            message: without_user(&one_line(&finding.message)),
            file: self.file.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// `a.b`, with what does not read well in a key escaped.
pub(crate) fn field(path: &str, key: &str) -> String {
    let key = shown(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// A text of the user's as it may stand in a message: control characters escaped, long ones cut.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        match c {
            _ if n == SHOWN => {
                out.push('…');
                break;
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// With nothing of the user and password of a URL: all that stands before its `@`.
fn without_user(message: &str) -> String {
    let words = message.split_inclusive(|c: char| c.is_whitespace() || c == '`' || c == '"');
    let shown = words.map(|word| match word.rfind('@').filter(|at| word[..*at].contains(':')) {
        Some(at) => {
            let from = word.find("://").map_or(0, |colon| colon + 3);
            format!("{}…{}", &word[..from.min(at)], &word[at..])
        }
        None => word.to_owned(),
    });
    shown.collect()
}

/// Messages of decoders may span lines (those of `regex` do) and quote a value at length.
fn one_line(message: &str) -> String {
    let line = message.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_of_a_url_are_not_told() {
        for (message, want) in [
            ("found `amqp://me:canary@host/x`", "found `amqp://…@host/x`"),
            ("`me:canary@host`: `mqtt://` is missing", "`…@host`: `mqtt://` is missing"),
            ("mqtt://me:can/ary@host, a@b", "mqtt://…@host, a@b"),
            ("`http://host:80/x`", "`http://host:80/x`"),
        ] {
            assert_eq!(without_user(message), want);
        }
    }
}
