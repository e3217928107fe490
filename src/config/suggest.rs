//! What the user may have meant.

/// The nearest of the known words, if it is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + word.chars().count().min(30) / 4;
    known
        .into_iter()
        .map(|k| (distance(&word.to_lowercase(), &k.to_lowercase(), allowed), k))
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// ``unknown field `ulr`, did you mean `url`?``, or what else could stand there.
pub(crate) fn unknown_field(name: &str, free: &[&str]) -> String {
    let name_shown = super::report::shown(name);
    match nearest(name, free.iter().copied()) {
        Some(near) => format!("unknown field `{name_shown}`, did you mean `{near}`?"),
        None if free.is_empty() => format!("unknown field `{name_shown}`, no other field can stand here"),
        None => format!("unknown field `{name_shown}`, expected {}", listed(free)),
    }
}

/// As `unknown_field`, for one of a few words; `shown` is the value as it may be printed. `kind`: it is a `type`.
pub(crate) fn unknown_word(kind: bool, shown: &str, known: &[&str]) -> String {
    let what = if kind { "kind" } else { "value" };
    let guess = nearest(shown.trim_matches('`'), known.iter().copied());
    let guess = guess.map_or(", ".to_owned(), |near| format!(", did you mean `{near}`? "));
    format!("unknown {what} {shown}{guess}expected {}", listed(known))
}

/// ``unknown source `a`, did you mean `b`?`` for a name that should be defined elsewhere.
pub(crate) fn unknown_name(what: &str, shown: &str, known: &[&str]) -> String {
    match nearest(shown.trim_matches('`'), known.iter().copied()) {
        Some(near) => format!("there is no {what} {shown}, did you mean `{near}`?"),
        None if known.is_empty() => format!("there is no {what} {shown}, none is defined"),
        None => format!("there is no {what} {shown}, expected {}", listed(known)),
    }
}

fn listed(words: &[&str]) -> String {
    choice(words.iter().map(|w| format!("`{w}`")))
}

/// `a, b or c`; a long list is cut.
pub(crate) fn choice(words: impl IntoIterator<Item = String>) -> String {
    const MOST: usize = 24;
    let mut words: Vec<String> = words.into_iter().collect();
    if words.len() > MOST {
        words.truncate(MOST);
        words.push("…".into());
    }
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// Edits (insert, delete, replace, swap of neighbours) between two words; more than `limit` is not counted on.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut least = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        least = least.min(rows[i - 2][j - 2] + 1);
                    }
                    least
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        for (word, want) in [
            ("ulr", Some("url")),
            ("URL", Some("url")),
            ("hedaers", Some("headers")),
            ("header", Some("headers")),
            ("u", None),
            ("password", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, ["url", "headers", "timeout"]), want, "{word}");
        }
        assert_eq!(nearest("x", []), None);
    }
}
