//! Why something did not work, said as what to do next.

use std::fmt;
use std::time::Duration;

/// From so many bytes on a text counts as a secret, or a word of it as telling one.
const TELLING: usize = 8;

/// The answer to "what now?" after a component failed. Text for people rides along.
#[derive(Debug)]
pub enum Fault {
    /// It may work later: the same work is tried again after a backoff.
    Retry(anyhow::Error),
    /// As `Retry`, but the other side said how long it wants to be left alone.
    RetryAfter(Duration, anyhow::Error),
    /// It will never work for this event or batch: it goes to the dead letters.
    Reject(anyhow::Error),
    /// Nothing can work until a person changes something: the gateway stops with exit code 1.
    Fatal(anyhow::Error),
}

impl Fault {
    /// A `Retry` from a message.
    pub fn retry(message: impl fmt::Display) -> Self {
        Fault::Retry(anyhow::anyhow!("{message}"))
    }

    /// A `Reject` from a message.
    pub fn reject(message: impl fmt::Display) -> Self {
        Fault::Reject(anyhow::anyhow!("{message}"))
    }

    /// A `Fatal` from a message.
    pub fn fatal(message: impl fmt::Display) -> Self {
        Fault::Fatal(anyhow::anyhow!("{message}"))
    }

    /// The same with the place in the configuration before its text.
    pub fn at(self, place: impl fmt::Display + Send + Sync + 'static) -> Self {
        match self {
            Fault::Retry(e) => Fault::Retry(e.context(place)),
            Fault::RetryAfter(wait, e) => Fault::RetryAfter(wait, e.context(place)),
            Fault::Reject(e) => Fault::Reject(e.context(place)),
            Fault::Fatal(e) => Fault::Fatal(e.context(place)),
        }
    }

    /// The text for people, with its chain of causes.
    pub fn error(&self) -> &anyhow::Error {
        match self {
            Fault::Retry(e) | Fault::RetryAfter(_, e) | Fault::Reject(e) | Fault::Fatal(e) => e,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error())
    }
}

/// The first `limit` bytes of foreign text, safe for a log and a terminal.
pub fn printable(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(limit)]);
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// Foreign text with `…` for each of our secrets in it, and for each telling word of one: of `Bearer TOKEN`, a server may
/// send back the token alone.
pub fn blotted<'a>(text: &[u8], secrets: impl IntoIterator<Item = &'a str>) -> String {
    let text = String::from_utf8_lossy(text).into_owned();
    secrets.into_iter().filter(|secret| secret.len() >= TELLING).fold(text, |text, secret| {
        let words = secret.split_whitespace().filter(|word| word.len() >= TELLING);
        words.fold(text.replace(secret, "…"), |text, word| text.replace(word, "…"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_comes_back_is_not_told() {
        for (text, want) in [
            ("401 for Bearer canary-token", "401 for …"),
            ("no token `canary-token`", "no token `…`"),
            ("Bearer is expected", "Bearer is expected"),
            ("a short one", "a short one"),
        ] {
            assert_eq!(blotted(text.as_bytes(), ["", "Bearer canary-token", "short"]), want);
        }
    }

    #[test]
    fn foreign_text_cannot_harm_a_terminal() {
        for (bytes, want) in [
            (&b"a\r\nb\x1b[2J\0"[..], "a\\r\\nb\\u{1b}[2J\\u{0}"),
            (b"\xff\xc2\x9b31m", "\u{fffd}\\u{9b}31m"),
            ("ä".as_bytes(), "ä"),
        ] {
            assert_eq!(printable(bytes, 200), want);
        }
        assert_eq!(printable(&[b'x'; 300], 200).len(), 200);
    }

    #[test]
    fn a_place_stands_before_the_cause() {
        let fault = Fault::RetryAfter(Duration::from_secs(1), anyhow::anyhow!("busy")).at("to.http").at("tee");
        assert_eq!(fault.to_string(), "tee: to.http: busy");
        assert!(matches!(fault, Fault::RetryAfter(..)));
    }
}
