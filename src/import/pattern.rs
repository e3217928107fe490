//! Regular expressions of Go's RE2 in the syntax of the `regex` crate.

/// The same pattern. The two differ in what `\d`, `\w`, `\s` and `\b` mean beyond ASCII, in `\Q…\E`, in characters by
/// their octal number, in a `{` that is no repetition, in `\<` and `\>`, and in characters that only one of them reads as
/// operators inside `[…]`.
pub(super) fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut class = false;
    let mut first = false; // whether a `]` would be the first of its class, and so no end
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let tail = &rest[c.len_utf8()..];
        let was_first = std::mem::take(&mut first);
        let next = tail.chars().next();
        match c {
            '\\' if tail.starts_with('Q') => {
                let quoted = &tail[1..];
                let (quoted, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                out += &regex::escape(quoted);
                rest = after;
                continue;
            }
            '\\' => {
                rest = escape(tail, class, &mut out);
                continue;
            }
            '[' if !class => {
                class = true;
                out.push('[');
                first = true;
                if next == Some('^') {
                    out.push('^');
                    rest = &tail[1..];
                    continue;
                }
            }
            '[' if next == Some(':') && tail.contains(":]") => {
                let end = tail.find(":]").map_or(tail.len(), |at| at + 2);
                out.push('[');
                out += &tail[..end];
                rest = &tail[end..];
                continue;
            }
            '[' => out += r"\[",
            ']' if class && was_first => out += r"\]",
            ']' if class => {
                class = false;
                out.push(']');
            }
            '{' if !class && !is_repetition(tail) => out += r"\{",
            '&' | '~' if class => out.extend(['\\', c]),
            '-' if class && next == Some('-') => out += r"\-",
            c => out.push(c),
        }
        rest = tail;
    }
    out
}

/// Writes what begins with a backslash, and gives what follows it. `class`: whether it stands in `[…]`.
fn escape<'p>(tail: &'p str, class: bool, out: &mut String) -> &'p str {
    let Some(next) = tail.chars().next() else {
        out.push('\\');
        return "";
    };
    match (ascii(next), class) {
        (Some(set), false) => *out += set,
        (Some(set), true) if next.is_ascii_lowercase() => *out += &set[1..set.len() - 1],
        (Some(set), true) => *out += set,
        (None, false) if next == 'b' => *out += r"(?-u:\b)",
        (None, false) if next == 'B' => *out += r"(?-u:\B)",
        _ if ['p', 'P', 'x'].contains(&next) && tail[1..].starts_with('{') => {
            let end = tail.find('}').map_or(tail.len(), |at| at + 1);
            out.push('\\');
            *out += &tail[..end];
            return &tail[end..];
        }
        _ if let Some((character, after)) = octal(tail) => {
            *out += &format!("\\x{{{character:x}}}");
            return after;
        }
        _ if ['<', '>'].contains(&next) => out.push(next),
        _ => out.extend(['\\', next]),
    }
    &tail[next.len_utf8()..]
}

/// A character by its octal number, as it stands behind a backslash, and what follows it. `\1` alone would be a group.
fn octal(tail: &str) -> Option<(u32, &str)> {
    let digits = tail.bytes().take(3).take_while(|c| (b'0'..=b'7').contains(c)).count();
    let is_one = digits > 1 || (digits == 1 && tail.starts_with('0'));
    is_one.then(|| Some((u32::from_str_radix(&tail[..digits], 8).ok()?, &tail[digits..]))).flatten()
}

/// Whether `{n}`, `{n,}` or `{n,m}` begins before this.
fn is_repetition(tail: &str) -> bool {
    let Some((inner, _)) = tail.split_once('}') else { return false };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    !least.is_empty() && least.bytes().chain(most.bytes()).all(|c| c.is_ascii_digit())
}

fn ascii(class: char) -> Option<&'static str> {
    Some(match class {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        _ => return None,
    })
}

/// The pattern, if it is one; else what is wrong with it.
pub(super) fn checked(pattern: &str) -> Result<String, String> {
    let translated = translated(pattern);
    match regex::Regex::new(&translated) {
        Ok(_) => Ok(translated),
        Err(e) => {
            let text = e.to_string();
            let cause = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("`{}` is not a regular expression: {cause}", crate::config::report::shown(pattern)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_meant() {
        for (pattern, want, fits, fails) in [
            ("^h.*o$", "^h.*o$", "hello", "help"),
            (r"\d+", "[0-9]+", "5", "٣"),
            (r"^[\d.]+$", "^[0-9.]+$", "1.5", "x"),
            (r"^[^\s]+$", r"^[^\t\n\f\r ]+$", "a", "a b"),
            (r"^[\W]$", "^[[^0-9A-Za-z_]]$", "é", "e"),
            (r"\ba\b", r"(?-u:\b)a(?-u:\b)", "b a", "ba"),
            (r"^\Qa.b[\E$", r"^a\.b\[$", "a.b[", "axb["),
            (r"^[[]$", r"^[\[]$", "[", "]"),
            (r"^[]a]+$", r"^[\]a]+$", "]a", "b"),
            (r"^[^]]+$", r"^[^\]]+$", "a", "]"),
            (r"^[a&&b]+$", r"^[a\&\&b]+$", "&", "c"),
            (r"^[[:alpha:]-]+$", r"^[[:alpha:]-]+$", "a-", "1"),
            (r"^[+--]+$", r"^[+\--]+$", "-", "a"),
            (r"\.", r"\.", ".", "a"),
            (r"^l{2,3}$", r"^l{2,3}$", "ll", "l{2,3}"),
            (r#"^{"a":{,2}$"#, r#"^\{"a":\{,2}$"#, r#"{"a":{,2}"#, "a"),
            (r"^x{$", r"^x\{$", "x{", "x"),
            (r"^x{1a}[{]$", r"^x\{1a}[{]$", "x{1a}{", "x"),
            (r"^\p{L}\pN\p{Greek}$", r"^\p{L}\pN\p{Greek}$", "é1α", "1é"),
            (r"^\x{e9}{2}\x68$", r"^\x{e9}{2}\x68$", "ééh", "éh"),
            (r"^\150\0[\060-\071]$", r"^\x{68}\x{0}[\x{30}-\x{39}]$", "h\u{0}5", "h"),
            (r"^\<a\>$", r"^<a>$", "<a>", "a"),
            (r"\B1", r"(?-u:\B)1", "a1", "é1"),
            (r"(?i)É", r"(?i)É", "é", "e"),
        ] {
            let got = checked(pattern);
            assert_eq!(got.as_deref(), Ok(want), "{pattern}");
            let regex = regex::Regex::new(&got.unwrap()).unwrap();
            assert!(regex.is_match(fits) && !regex.is_match(fails), "{pattern}");
        }
        for wrong in ["(", "a{2,1}", "[a", r"a\", "*", r"\1", r"\8", r"\pX", "x{3,2}"] {
            assert!(checked(wrong).unwrap_err().starts_with(&format!("`{wrong}` is not a regular")), "{wrong}");
        }
    }
}
