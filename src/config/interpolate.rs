//! References in text to what stands outside the file: `${NAME}`, `${NAME:-default}`, `${file:/path}`, `${cred:name}`.
//! What they stand for may be secret and never gets into a message.

use std::os::unix::fs::MetadataExt;
use std::{ffi::OsString, fs::File, io::Read, path::Path};

/// A key, a certificate chain or a token is far smaller.
const LARGEST: u64 = 64 << 10;
/// Mode bits of a file that everyone may read, or write.
const READ_BY_OTHERS: u32 = 0o004;
const WRITTEN_BY_OTHERS: u32 = 0o002;
/// From this length on a piece of a secret counts as the secret: messages may cut or quote it in part.
const TELLING: usize = 8;

/// What a reference (without `${` and `}`) stands for, or why there is nothing.
pub(crate) type Outside<'a> = &'a dyn Fn(&str) -> Result<String, String>;
/// The environment variables of the process, or those of a test.
type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A text with its references filled in. No `Debug`: it may be secret.
pub(crate) struct Filled {
    pub text: String,
    /// What was filled in, and the reference it stood for.
    pub parts: Vec<Part>,
    written: Option<String>,
}

pub(crate) struct Part {
    pub value: String,
    reference: String,
}

impl Filled {
    /// A text in which nothing is a reference.
    pub fn plain(text: &str) -> Filled {
        Filled { text: text.to_owned(), parts: Vec::new(), written: None }
    }

    /// The text as it stands in the file.
    pub fn written(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.text)
    }
}

/// Fills in the references of a text, or says what is wrong with one.
pub(super) fn fill(written: &str, outside: Outside<'_>) -> Result<Filled, String> {
    let mut text = String::new();
    let mut parts = Vec::new();
    let mut rest = written;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            text.push_str(before);
            text.push_str("${");
            rest = &reference[2..];
            continue;
        }
        text.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err(format!("`{}` has no closing `}}`; write `$${{` for a literal `${{`", shorten(reference)));
        };
        let name = &reference[2..end];
        let part = outside(name)?;
        text.push_str(&part);
        if !name.ends_with(&format!(":-{part}")) {
            parts.push(Part { value: part, reference: reference[..=end].to_owned() });
        }
        rest = &reference[end + 1..];
    }
    text.push_str(rest);
    let written = (text != written).then(|| written.to_owned());
    Ok(Filled { text, parts, written })
}

fn shorten(text: &str) -> String {
    super::report::shown(text)
}

/// Looks a reference up in these environment variables and in the file system.
pub(super) fn resolve(name: &str, variables: Variables<'_>) -> Result<String, String> {
    if let Some(path) = name.strip_prefix("file:") {
        return read(Path::new(path), true).map_err(|e| format!("`${{{}}}`: {e}", shorten(name)));
    }
    if let Some(cred) = name.strip_prefix("cred:") {
        return credential(cred, variables).map_err(|e| format!("`${{{}}}`: {e}", shorten(name)));
    }
    let (variable, default) = name.split_once(":-").map_or((name, None), |(v, d)| (v, Some(d)));
    let wellformed = !variable.is_empty()
        && !variable.starts_with(|c: char| c.is_ascii_digit())
        && variable.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !wellformed {
        return Err(format!(
            "`${{{}}}` is not a reference; expected `${{NAME}}`, `${{NAME:-default}}`, `${{file:/path}}` or `${{cred:name}}`, or `$${{` for a literal `${{`",
            shorten(name)
        ));
    }
    match (variables(variable), default) {
        // As in a shell, `:-` also stands in for an empty variable.
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (None, Some(default)) => Ok(default.to_owned()),
        (Some(value), _) => {
            value.into_string().map_err(|_| format!("the environment variable `{variable}` is not UTF-8"))
        }
        (None, None) => Err(format!("the environment variable `{variable}` is not set")),
    }
}

fn credential(name: &str, variables: Variables<'_>) -> Result<String, String> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err("the name of a credential is a plain file name".into());
    }
    let folder = variables("CREDENTIALS_DIRECTORY")
        .ok_or("$CREDENTIALS_DIRECTORY is not set; systemd sets it where the unit has `LoadCredential=`")?;
    read(&Path::new(&folder).join(name), false)
}

/// Reads a secret, without its trailing newline. `private`: not if everyone else may read it as well.
fn read(path: &Path, private: bool) -> Result<String, String> {
    let told = |e: std::io::Error| e.to_string().to_lowercase();
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let meta = std::fs::metadata(path).map_err(told)?;
    if !meta.is_file() {
        return Err("not a regular file".into());
    }
    if let Some(open) = open(path, &meta).filter(|_| private) {
        return Err(open);
    }
    let mut text = Vec::new();
    File::open(path).and_then(|f| f.take(LARGEST + 1).read_to_end(&mut text)).map_err(told)?;
    if text.len() as u64 > LARGEST {
        return Err("the file is larger than 64KiB".into());
    }
    let mut text = String::from_utf8(text).map_err(|_| "the file is not UTF-8")?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// What is wrong with the mode of a file that holds a secret.
pub(super) fn open(path: &Path, meta: &std::fs::Metadata) -> Option<String> {
    let what = match meta.mode() {
        mode if mode & READ_BY_OTHERS != 0 => "read",
        mode if mode & WRITTEN_BY_OTHERS != 0 => "write",
        _ => return None,
    };
    Some(format!("everyone can {what} this file; run `chmod 600 {}`", shorten(&path.to_string_lossy())))
}

/// A message of a component, with everything that came from outside put back to how the file writes it. A message that
/// still shows a piece of it, or that cannot be told apart from it, is withheld.
pub(super) fn redact(message: &str, filled: &[&Filled]) -> String {
    let secrets = || filled.iter().flat_map(|f| &f.parts).map(|p| (p.value.as_str(), p.reference.as_str()));
    let whole = filled.iter().map(|f| (f.text.as_str(), f.written()));
    let mut parts: Vec<(&str, &str)> = whole.chain(secrets()).filter(|(value, _)| !value.is_empty()).collect();
    parts.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    // Each place holder is one character of a private use area, so that what is put back is not searched again.
    let mark = |n: usize| char::from_u32(0xF0000 + n as u32 % 0xFFFF).unwrap_or('\u{F0000}').to_string();
    let mut out = message.to_owned();
    for (n, (value, _)) in parts.iter().enumerate() {
        let quoted = format!("{value:?}");
        for form in [*value, quoted.trim_matches('"')] {
            if value.len() >= TELLING / 2 && !form.is_empty() {
                out = out.replace(form, &mark(n));
            } else if out.contains(form) {
                out = replace_quoted(&out, form, &mark(n));
            }
        }
    }
    if let Some((_, reference)) = secrets().find(|(value, _)| tells(&out, value)) {
        return format!("the value is not accepted (`{reference}` comes from outside, so what it says is not shown)");
    }
    for (n, (_, reference)) in parts.iter().enumerate() {
        out = out.replace(&mark(n), reference);
    }
    out
}

/// A short value may be part of any word; only where it stands in quotes it is surely the value.
fn replace_quoted(text: &str, value: &str, mark: &str) -> String {
    ['`', '"', '\'']
        .iter()
        .fold(text.to_owned(), |out, q| out.replace(&format!("{q}{value}{q}"), &format!("{q}{mark}{q}")))
}

/// Whether a text shows a value or a telling piece of it.
fn tells(text: &str, value: &str) -> bool {
    let letters: Vec<usize> = value.char_indices().map(|(i, _)| i).chain([value.len()]).collect();
    let length = TELLING.min(letters.len() - 1);
    length > 0 && letters.windows(length + 1).any(|w| text.contains(&value[w[0]..w[length]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn outside(reference: &str) -> Result<String, String> {
        resolve(reference, &|name| match name {
            "HOST" => Some("example.org".into()),
            "EMPTY" => Some("".into()),
            "TOKEN" => Some("canary-3f9a".into()),
            "PORT" => Some("80".into()),
            _ => None,
        })
    }

    #[test]
    fn references_are_filled_in() {
        for (written, want) in [
            ("plain $ {} text", Ok("plain $ {} text")),
            ("https://${HOST}/x", Ok("https://example.org/x")),
            ("${HOST}${PORT}", Ok("example.org80")),
            ("${NONE:-there}", Ok("there")),
            ("${NONE:-}", Ok("")),
            ("${EMPTY:-there}", Ok("there")),
            ("${EMPTY}", Ok("")),
            ("${HOST:-there}", Ok("example.org")),
            ("$${HOST}", Ok("${HOST}")),
            ("$$${HOST}", Ok("$${HOST}")),
            ("${NONE}", Err("the environment variable `NONE` is not set")),
            ("${HOST", Err("`${HOST` has no closing `}`; write `$${` for a literal `${`")),
            ("${}", Err("`${}` is not a reference; expected")),
            ("${a b}", Err("`${a b}` is not a reference; expected")),
            ("${9A}", Err("`${9A}` is not a reference; expected")),
            ("${file:/nowhere/x}", Err("`${file:/nowhere/x}`: no such file or directory")),
            ("${file:/tmp}", Err("`${file:/tmp}`: not a regular file")),
            ("${cred:x}", Err("`${cred:x}`: $CREDENTIALS_DIRECTORY is not set")),
            ("${cred:../x}", Err("`${cred:../x}`: the name of a credential is a plain file name")),
        ] {
            match (fill(written, &outside), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.text, want, "{written}"),
                (Err(got), Err(want)) => assert!(got.starts_with(want), "{written}: {got}"),
                (got, _) => panic!("{written}: {:?}", got.map(|f| f.text)),
            }
        }
    }

    #[test]
    fn a_secret_file_is_private_small_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (content, mode, want) in [
            (&b"abc\n"[..], 0o600, Ok("abc")),
            (b"abc\r\n", 0o640, Ok("abc")),
            (b"abc\n\n", 0o600, Ok("abc\n")),
            (b"abc\n", 0o604, Err("everyone can read this file; run `chmod 600 ")),
            (b"abc\n", 0o622, Err("everyone can write this file; run `chmod 600 ")),
            (b"\xff", 0o600, Err("the file is not UTF-8")),
            (&[b'x'; 65_537], 0o600, Err("the file is larger than 64KiB")),
        ] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let got = fill(&format!("${{file:{}}}", path.display()), &outside).map(|f| f.text);
            match want {
                Ok(want) => assert_eq!(got.as_deref(), Ok(want)),
                Err(want) => assert!(got.as_ref().unwrap_err().contains(want), "{got:?}"),
            }
        }
        std::fs::write(&path, "abc").unwrap();
        let given = folder.path().as_os_str().to_owned();
        let credentials = |reference: &str| resolve(reference, &|_| Some(given.clone()));
        assert_eq!(fill("${cred:token}", &credentials).map(|f| f.text).as_deref(), Ok("abc"));
    }

    #[test]
    fn a_message_shows_what_the_file_says() {
        let redacted = |written: &str, message: &str| {
            let filled = fill(written, &outside).map_err(|e| panic!("{e}")).unwrap();
            redact(message, &[&filled])
        };
        for (written, message, want) in [
            ("${TOKEN}", "`canary-3f9a` is not a size", "`${TOKEN}` is not a size"),
            ("Bearer ${TOKEN}", "bad \"Bearer canary-3f9a\"", "bad \"Bearer ${TOKEN}\""),
            ("Bearer ${TOKEN}", "bad word canary-3f9a", "bad word ${TOKEN}"),
            ("${TOKEN}", "bad start `canary-3`", "the value is not accepted (`${TOKEN}` comes from outside"),
            ("${TOKEN}", "expected a can opener", "expected a can opener"),
            ("${PORT}", "`80` is not a port", "`${PORT}` is not a port"),
            ("${PORT}", "at most 180", "the value is not accepted (`${PORT}` comes from outside"),
            ("${EMPTY}", "empty", "empty"),
        ] {
            let got = redacted(written, message);
            assert!(got.starts_with(want), "{written}: {got}");
        }
    }
}
