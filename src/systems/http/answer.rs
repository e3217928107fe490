//! What the answer to a request means.

use crate::{
    clock,
    fault::{Fault, blotted, printable},
};
use anyhow::anyhow;
use std::{io::Read, time::Duration};
use ureq::{
    Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};

/// Longer than this nobody may keep us waiting, whatever `Retry-After` says.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Bytes of an answer that are read, so that the connection can be used again.
const MAX_ANSWER: u64 = 64 << 10;
/// Bytes of an answer that are quoted.
const QUOTE: usize = 200;

/// What a 2xx answer says, or what to do about any other.
pub(super) fn judge(
    host: &str,
    answer: Response<Body>,
    secrets: &[String],
    retry: impl Fn(StatusCode) -> bool,
) -> Result<Vec<u8>, Fault> {
    let (head, mut body) = answer.into_parts();
    let mut said = Vec::new();
    body.as_reader().take(MAX_ANSWER).read_to_end(&mut said).ok(); // the status has said it all
    if head.status.is_success() {
        return Ok(said);
    }
    let error = if head.status.is_redirection() {
        // Without its query, which may be that of our own URL, and secret.
        let to = head.headers.get(header::LOCATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let to = printable(to.split(|byte| *byte == b'?').next().unwrap_or_default(), QUOTE);
        anyhow!("`{host}` answered {}: set `url` to where it moved: `{to}`", head.status)
    } else {
        anyhow!("`{host}` answered {}{}", head.status, quote(&said, secrets))
    };
    Err(if !(head.status.as_u16() >= 500 || retry(head.status)) {
        Fault::Reject(error)
    } else if let Some(wait) = retry_after(&head.headers, clock::wall_ms()) {
        Fault::RetryAfter(wait, error)
    } else {
        Fault::Retry(error)
    })
}

/// How long `Retry-After` asks to wait: seconds, or a date (RFC 9110, 10.2.3). A date counts from the answer's own
/// `Date`, since the board's clock may be wrong.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let date = |text: &str| Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond());
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let from = headers.get(header::DATE).and_then(|text| date(text.to_str().ok()?)).unwrap_or(now_ms);
        Duration::from_millis(u64::try_from(date(text)?.saturating_sub(from)).ok()?)
    };
    (!wait.is_zero()).then(|| wait.min(MAX_WAIT))
}

/// Quotes the beginning of an answer. A server may send our own request back: what is secret in it is blotted out.
fn quote(answer: &[u8], secrets: &[String]) -> String {
    let text = printable(blotted(answer, secrets.iter().map(String::as_str)).trim().as_bytes(), QUOTE);
    if text.is_empty() { text } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = clock::parse_time("2026-11-21T10:00:00Z").unwrap();
        for (after, date, want) in [
            ("0", None, None),
            ("7", None, Some(7)),
            (" 7 ", None, Some(7)),
            ("99999", None, Some(3600)),
            ("99999999999999999999999", None, Some(3600)),
            ("-1", None, None),
            ("1.5", None, None),
            ("soon", None, None),
            ("", None, None),
            ("Sat, 21 Nov 2026 10:00:30 GMT", None, Some(30)),
            ("Sat, 21 Nov 2026 09:00:00 GMT", None, None),
            ("Sun, 22 Nov 2026 10:00:00 GMT", None, Some(3600)),
            ("Sat, 21 Nov 2026 12:00:30 GMT", Some("Sat, 21 Nov 2026 12:00:00 GMT"), Some(30)),
            ("Sat, 21 Nov 2026 10:00:30 GMT", Some("yesterday"), Some(30)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, after.parse().unwrap());
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().unwrap());
            }
            assert_eq!(retry_after(&headers, now).map(|wait| wait.as_secs()), want, "{after} {date:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
