//! W3C `traceparent`: the trace that an event belongs to, as its sender says. It is the last member of the meta, where it is
//! found without reading the rest.

/// Version, trace, span and flags: `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
const LENGTH: usize = 55;
const BEFORE: &[u8] = b"\"traceparent\":\"";

/// The text of a header or property, if it is one; of a later version what this one knows.
pub fn valid(text: &str) -> Option<&str> {
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let (version, trace, span, flags) = (known.get(..2)?, known.get(3..35)?, known.get(36..52)?, known.get(53..)?);
    let hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let dashes = [2, 35, 52].iter().all(|at| known.as_bytes()[*at] == b'-');
    let parts = [version, trace, span, flags].into_iter().all(hex) && !zero(trace) && !zero(span);
    let ends = rest.is_empty() || version != "00" && rest.starts_with('-');
    (dashes && parts && version != "ff" && ends).then_some(known)
}

/// Adds it to the meta of an event; one that is none is left out.
pub fn put(text: Option<&str>, meta: &mut Vec<u8>) {
    let Some(text) = text.and_then(valid) else { return };
    match meta.pop() {
        Some(_) => meta.push(b','),
        None => meta.push(b'{'),
    }
    meta.extend_from_slice(BEFORE);
    meta.extend_from_slice(text.as_bytes());
    meta.extend_from_slice(b"\"}");
}

/// That of an event's meta.
pub fn of(meta: &[u8]) -> Option<&str> {
    let rest = meta.strip_suffix(b"\"}")?;
    let (before, text) = rest.split_at_checked(rest.len().checked_sub(LENGTH)?)?;
    // In a text of JSON no quote stands without a backslash, so this is the member and nothing else.
    if !before.ends_with(BEFORE) {
        return None;
    }
    valid(std::str::from_utf8(text).ok()?)
}

/// Whether the sender records its part of the trace, and wants others to.
pub fn is_sampled(meta: &[u8]) -> bool {
    let flags = of(meta).and_then(|text| u8::from_str_radix(text.get(53..)?, 16).ok());
    flags.is_some_and(|flags| flags & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_no_traceparent_is_left_out() {
        let later = format!("01{}", &TRACE[2..]);
        for (text, want) in [
            (TRACE.to_owned(), Some(TRACE)),
            (later.clone(), Some(&*later)),
            (format!("{later}-more"), Some(&*later)),
            (format!("{later}more"), None),
            (format!("{TRACE}-more"), None),
            (format!("ff{}", &TRACE[2..]), None),
            (TRACE.to_uppercase(), None),
            (TRACE.replace('-', "_"), None),
            (TRACE.replace("b7ad6b7169203331", "0000000000000000"), None),
            (TRACE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), None),
            (TRACE[1..].to_owned(), None),
            (format!("{}é", &TRACE[..54]), None),
            (String::new(), None),
        ] {
            assert_eq!(valid(&text), want, "{text}");
            for meta in ["", r#"{"topic":"a","user":{"traceparent":"x"}}"#] {
                let mut with = meta.as_bytes().to_vec();
                put(Some(&text), &mut with);
                assert_eq!(of(&with), want, "{meta}");
                assert!(want.is_some() || with == meta.as_bytes());
                assert!(with.is_empty() || super::super::json::check(&with).is_ok());
            }
        }
    }

    #[test]
    fn only_the_member_itself_counts() {
        let member = |before: &str| format!(r#"{{{before}"traceparent":"{TRACE}"}}"#);
        for (meta, want) in [
            (member(""), true),
            (member(r#""topic":"a","#), true),
            (member("").replace("-01", "-00"), false),
            (member("").replace("-01", "-03"), true),
            (format!(r#"{{"user":{}}}"#, member("")), false),
            (format!(r#"{{"key":"\"traceparent\":\"{TRACE}"}}"#), false),
            (String::new(), false),
        ] {
            assert_eq!(is_sampled(meta.as_bytes()), want, "{meta}");
        }
    }
}
