//! A file of the project, and its Rust text taken apart as far as the rules need it.

use std::{fs, path::Path};

/// A text file; the path is relative to the project, with `/`.
pub struct File {
    pub path: String,
    pub text: String,
}

/// Left out of a walk: what is built, what version control keeps, what the demonstration and fuzzing write.
const SKIPPED: [&str; 5] = [".git", "target", "tidegate-data", "corpus", "artifacts"];

/// All text files below `folder`.
pub fn walk(folder: &Path) -> Vec<File> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if SKIPPED.iter().any(|skipped| name == *skipped) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if let Some(text) = fs::read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
                files.push(File { path: path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

impl File {
    /// The Rust code: comments gone, texts and characters emptied, tests left out. Lines keep their numbers.
    pub fn code(&self) -> String {
        match self.is_test() {
            true => String::new(),
            false => without_tests(&split(&self.text).0),
        }
    }

    /// As `code`, of tests too.
    pub fn all_code(&self) -> String {
        split(&self.text).0
    }

    /// The contents of the texts in the code outside tests, with the lines on which they begin.
    pub fn literals(&self) -> Vec<(usize, String)> {
        let (code, literals) = split(&self.text);
        let kept: Vec<bool> = without_tests(&code).lines().zip(code.lines()).map(|(kept, all)| kept == all).collect();
        literals.into_iter().filter(|(line, _)| !self.is_test() && kept.get(line - 1) == Some(&true)).collect()
    }

    fn is_test(&self) -> bool {
        let stem = self.path.trim_end_matches(".rs").rsplit('/').next().unwrap_or_default();
        ["tests", "testing"].contains(&stem) || stem.ends_with("_tests") || self.path.contains("/tests/")
    }
}

/// Code and texts of a Rust file.
fn split(text: &str) -> (String, Vec<(usize, String)>) {
    let (mut code, mut literals, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let word_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some((prefix, hashes)) = raw(rest).filter(|_| !word_before) {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = &rest[prefix..];
            let length = inside.find(&end).unwrap_or(inside.len());
            literals.push((code.matches('\n').count() + 1, inside[..length].to_owned()));
            code.push_str("\"\"");
            (prefix + length + end.len()).min(rest.len())
        } else if first == '"' {
            let length = closing(&rest[1..], '"');
            literals.push((code.matches('\n').count() + 1, rest[1..=length].to_owned()));
            code.push_str("\"\"");
            (length + 2).min(rest.len())
        } else if let Some(length) = character(rest) {
            code.push_str("' '");
            length
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    (code, literals)
}

/// Length of the start of a raw text, and how many `#` it has.
fn raw(rest: &str) -> Option<(usize, usize)> {
    let start = ["r", "br", "cr"].into_iter().find(|s| rest.starts_with(*s))?.len();
    let hashes = rest[start..].chars().take_while(|c| *c == '#').count();
    rest[start + hashes..].starts_with('"').then_some((start + hashes + 1, hashes))
}

/// Bytes up to the quote that ends a text or character.
fn closing(inside: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = inside.char_indices().find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(inside.len(), |(at, _)| at)
}

/// Length of a character literal; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let mut chars = inside.chars();
    let first = chars.next()?;
    (first == '\\' || chars.next() == Some('\'')).then(|| closing(inside, '\'') + 2)
}

/// Empties every `#[cfg(test)] mod … { … }`. The form is that of rustfmt.
fn without_tests(code: &str) -> String {
    let lines: Vec<&str> = code.lines().collect();
    let mut out = String::with_capacity(code.len());
    let (mut at, mut end) = (0, 0);
    while at < lines.len() {
        let indent = &lines[at][..lines[at].len() - lines[at].trim_start().len()];
        let is_module = |line: &&str| line.trim_end().ends_with('{') && line.split_whitespace().any(|w| w == "mod");
        if at >= end && lines[at].trim() == "#[cfg(test)]" && lines.get(at + 1).is_some_and(is_module) {
            let length = lines[at..].iter().position(|line| *line == format!("{indent}}}"));
            end = at + length.unwrap_or(lines.len() - at - 1) + 1;
        }
        out.push_str(if at < end { "" } else { lines[at] });
        out.push('\n');
        at += 1;
    }
    out
}

/// Whether `word` stands in `code` as a word of its own.
pub fn has_word(code: &str, word: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = word.starts_with(inner) && code[..at].ends_with(inner);
        let after = word.ends_with(inner) && code[at + word.len()..].starts_with(inner);
        !before && !after
    })
}

#[test]
fn code_is_told_from_texts_comments_and_tests() {
    for (text, code, literals) in [
        ("a // \"b\nc", "a \nc", &[][..]),
        ("a /* \"\n */ b", "a \n b", &[]),
        ("f(\"x \\\" // y\", 'a', '\"', '\\'')", "f(\"\", ' ', ' ', ' ')", &["x \\\" // y"]),
        ("r#\"a \" b\"# 'static \"\n\"", "\"\" 'static \"\"\n", &["a \" b", "\n"]),
        ("a\n#[cfg(test)]\nmod tests {\n    b\n    }\n}\nc", "a\n\n\n\n\n\nc\n", &[]),
        ("#[cfg(test)]\nmod tests;\na \"s\"", "#[cfg(test)]\nmod tests;\na \"\"\n", &["s"]),
        ("#[cfg(test)]\nmod tests {\n    \"s\";\n}\n", "\n\n\n\n", &[]),
    ] {
        let file = File { path: "src/x.rs".into(), text: text.into() };
        assert_eq!(file.code().trim_end_matches('\n'), code.trim_end_matches('\n'), "{text}");
        assert_eq!(file.literals().into_iter().map(|l| l.1).collect::<Vec<_>>(), literals, "{text}");
    }
}
