//! One request, and what its answer means.

use crate::{
    clock,
    fault::Fault,
    systems::{
        https::{self, printable},
        tls::ClientTls,
    },
};
use anyhow::anyhow;
use std::{io::Read, time::Duration};
use ureq::{
    Agent, Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header},
};

/// Longer than this nobody may keep us waiting, whatever `Retry-After` says.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Bytes of an answer that are read, so that the connection can be used again.
const MAX_ANSWER: u64 = 64 << 10;

/// A request's body and what the server knows it by.
pub(super) struct Parcel {
    pub key: String,
    pub body: Vec<u8>,
}

/// Sends to one URL. It holds secrets, so it is not `Debug`.
pub(super) struct Sender {
    agent: Agent,
    method: Method,
    url: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    key: HeaderName,
    retry: Vec<u16>,
}

impl Sender {
    pub fn new(
        method: Method,
        url: Uri,
        headers: Vec<(HeaderName, HeaderValue)>,
        key: HeaderName,
        retry: Vec<u16>,
        timeout: Duration,
        tls: ClientTls,
    ) -> Self {
        let agent = https::agent(timeout, tls, 1);
        Sender { agent, method, url, headers, key, retry }
    }

    /// Sends one after another until one fails; says how many arrived. Blocks, at most for the timeout each.
    pub fn send(&self, parcels: &[Parcel]) -> (usize, Result<(), Fault>) {
        for (sent, parcel) in parcels.iter().enumerate() {
            if let Err(fault) = self.send_one(parcel) {
                return (sent, Err(fault));
            }
        }
        (parcels.len(), Ok(()))
    }

    /// Interrupts a request under way; none can be sent any more.
    pub fn stop(&self) {
        self.agent.clone().shutdown();
    }

    fn send_one(&self, parcel: &Parcel) -> Result<(), Fault> {
        let mut request = Request::builder().method(&self.method).uri(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.header(&self.key, &parcel.key).body(&parcel.body[..]);
        let answer = request.map_err(ureq::Error::Http).and_then(|request| self.agent.run(request));
        match answer {
            Ok(answer) => self.judge(answer),
            Err(ureq::Error::Io(error)) => Err(self.retry(&error)),
            Err(error) => Err(self.retry(&error)),
        }
    }

    fn retry(&self, error: &dyn std::error::Error) -> Fault {
        Fault::retry(format!("`{}`: {error}", self.host()))
    }

    /// All of the URL that is never a secret.
    fn host(&self) -> &str {
        self.url.authority().map_or("", |authority| authority.as_str())
    }

    fn judge(&self, answer: Response<Body>) -> Result<(), Fault> {
        let (head, mut body) = answer.into_parts();
        let mut said = Vec::new();
        body.as_reader().take(MAX_ANSWER).read_to_end(&mut said).ok(); // the status has said it all
        if head.status.is_success() {
            return Ok(());
        }
        let host = self.host();
        if head.status.is_redirection() {
            let to = head.headers.get(header::LOCATION).map(|to| printable(to.as_bytes())).unwrap_or_default();
            return Err(Fault::retry(format!(
                "`{host}` answered {}: set `url` to where it moved: `{to}`",
                head.status
            )));
        }
        let error = anyhow!("`{host}` answered {}{}", head.status, quote(&said, &self.headers));
        Err(if !self.may_work_later(head.status) {
            Fault::Reject(error)
        } else if let Some(wait) = retry_after(&head.headers, clock::wall_ms()) {
            Fault::RetryAfter(wait, error)
        } else {
            Fault::Retry(error)
        })
    }

    fn may_work_later(&self, status: StatusCode) -> bool {
        !status.is_client_error() || matches!(status.as_u16(), 408 | 425 | 429) || self.retry.contains(&status.as_u16())
    }
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

/// Quotes the beginning of an answer. A server may send our own headers back: their values are blotted out.
fn quote(answer: &[u8], secrets: &[(HeaderName, HeaderValue)]) -> String {
    let mut text = String::from_utf8_lossy(answer).into_owned();
    for secret in secrets.iter().filter(|(_, value)| value.is_sensitive()) {
        if let Ok(secret) = secret.1.to_str()
            && !secret.is_empty()
        {
            text = text.replace(secret, "…");
        }
    }
    let text = printable(text.trim().as_bytes());
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
