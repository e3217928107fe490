//! Why something did not work, said as what to do next.

use std::fmt;
use std::time::Duration;

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
