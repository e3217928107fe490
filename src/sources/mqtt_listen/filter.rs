//! Topic names and filters (4.7), and the shared ones (4.8.2).

/// A longer topic or filter is refused: the store keeps topics as keys of events.
const MAX_TOPIC: usize = crate::event::batch::MAX_KEY;

/// A topic or filter with more levels is refused: a few of them would keep the gateway busy with comparing.
const MAX_LEVELS: usize = 128;

/// Whether a topic or filter is more than the store, or comparing, can take.
pub fn is_too_much(text: &str) -> bool {
    text.len() > MAX_TOPIC || text.bytes().filter(|b| *b == b'/').count() >= MAX_LEVELS
}

/// Whether messages can be published under this name.
pub fn is_topic(text: &str) -> bool {
    !text.is_empty() && !text.bytes().any(|b| matches!(b, b'+' | b'#' | 0))
}

/// Whether the wildcards stand where they may: `+` for a whole level, `#` for the last one.
pub fn is_filter(text: &str) -> bool {
    let mut levels = text.split('/').peekable();
    let mut fits = !text.is_empty() && !text.as_bytes().contains(&0);
    while let Some(level) = levels.next() {
        fits &= match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            level => !level.contains(['+', '#']),
        };
    }
    fits
}

/// The group and the filter of `$share/GROUP/FILTER`; `None` if it is not shared, `Some(None)` if it is, wrongly.
pub fn shared(text: &str) -> Option<Option<(&str, &str)>> {
    let rest = text.strip_prefix("$share/")?;
    Some(
        rest.split_once('/')
            .filter(|(group, filter)| !group.is_empty() && !group.contains(['+', '#']) && is_filter(filter)),
    )
}

/// Whether a filter selects a topic. Wildcards at the front do not select topics that begin with `$`.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filters, mut topics) = (filter.split('/'), topic.split('/'));
    loop {
        match (filters.next(), topics.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(f), Some(t)) if f == t => {}
            _ => return false,
        }
    }
}

/// Whether everything that `filter` selects is selected by `pattern` too: what a user may subscribe to.
pub fn covers(pattern: &str, filter: &str) -> bool {
    if filter.starts_with('$') && pattern.starts_with(['+', '#']) {
        return false;
    }
    let (mut patterns, mut filters) = (pattern.split('/'), filter.split('/'));
    loop {
        match (patterns.next(), filters.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(f)) if f != "#" => {}
            (Some(p), Some(f)) if p == f => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_selects_what_the_specification_says() {
        for (filter, topic, want) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/", false),
            ("a/+", "a/b", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("+", "a", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("é/+", "é/x", true),
        ] {
            assert_eq!(matches(filter, topic), want, "{filter} {topic}");
        }
    }

    #[test]
    fn what_is_too_much_is_refused() {
        for (text, want) in [
            ("a/b".to_owned(), false),
            ("x".repeat(MAX_TOPIC), false),
            ("x".repeat(MAX_TOPIC + 1), true),
            ("/".repeat(MAX_LEVELS - 1), false),
            ("/".repeat(MAX_LEVELS), true),
        ] {
            assert_eq!(is_too_much(&text), want, "{}", text.len());
        }
    }

    #[test]
    fn wildcards_stand_alone() {
        for (text, topic, filter) in [
            ("a", true, true),
            ("", false, false),
            ("/", true, true),
            ("a/#", false, true),
            ("a/#/b", false, false),
            ("a#", false, false),
            ("+a", false, false),
            ("+/+/#", false, true),
            ("é/x", true, true),
            ("a\0", false, false),
        ] {
            assert_eq!((is_topic(text), is_filter(text)), (topic, filter), "{text}");
        }
        for (text, want) in [
            ("a", None),
            ("$share/g/a/#", Some(Some(("g", "a/#")))),
            ("$share/g/", Some(None)),
            ("$share/g", Some(None)),
            ("$share//a", Some(None)),
            ("$share/+/a", Some(None)),
        ] {
            assert_eq!(shared(text), want, "{text}");
        }
    }

    #[test]
    fn a_permission_covers_no_more_than_it_says() {
        for (pattern, filter, want) in [
            ("#", "a/#", true),
            ("#", "$SYS/#", false),
            ("a/#", "a/+/b", true),
            ("a/#", "#", false),
            ("a/#", "+/b", false),
            ("a/+", "a/#", false),
            ("a/+", "a/+", true),
            ("a/+", "a/b", true),
            ("a/b", "a/+", false),
            ("a/+/c", "a/b/c", true),
        ] {
            assert_eq!(covers(pattern, filter), want, "{pattern} {filter}");
        }
    }
}
