//! The secret that opens the API: random, made at the first start, readable by the gateway's user only.

use crate::{config::Settings, store::beside};
use anyhow::Context;
use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use subtle::ConstantTimeEq;

/// Random bytes of it.
const SIZE: usize = 32;

/// The token that a gateway has made.
pub fn token(settings: &Settings) -> anyhow::Result<String> {
    let path = beside(settings.store.path.as_ref(), "-token");
    let found = read(&path).and_then(|found| found.context("the gateway has made no token yet"));
    found.with_context(|| format!("`{}`", path.display()))
}

/// The token of this gateway; made, if there is none. Nobody else makes one: it would not be the gateway's to read.
pub(super) fn make(settings: &Settings) -> anyhow::Result<String> {
    let path = beside(settings.store.path.as_ref(), "-token");
    made(&path).with_context(|| format!("`{}`", path.display()))
}

/// What a power cut left of one is none.
fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| text.len() >= SIZE)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn made(path: &Path) -> anyhow::Result<String> {
    if let Some(token) = read(path)? {
        return Ok(token);
    }
    let mut random = [0; SIZE];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::remove_file(path).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{text}\n").as_bytes())?;
    file.sync_all()?;
    Ok(text)
}

/// Whether what a request brought is the token. Nobody is let in where there is none.
pub(super) fn fits(token: Option<&str>, brought: Option<&str>) -> bool {
    let (Some(token), Some(brought)) = (token, brought.and_then(|value| value.strip_prefix("Bearer "))) else {
        return false;
    };
    bool::from(token.as_bytes().ct_eq(brought.as_bytes()))
}

/// Who tries tokens is made to wait.
#[derive(Default)]
pub(super) struct Brake(Mutex<(u64, u32)>);

impl Brake {
    /// Within a minute so many wrong tokens are answered at once, those after them late.
    const AT_ONCE: u32 = 10;
    const MINUTE_MS: u64 = 60_000;
    /// A connection waits meanwhile: with all of them that is 16 guesses a second.
    const LATE: Duration = Duration::from_secs(1);

    /// A token was wrong, at a time of the monotonic clock: how long to wait before that is said.
    pub fn wrong(&self, now_ms: u64) -> Duration {
        let mut wrong = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = *wrong;
        *wrong =
            if now_ms.saturating_sub(since) < Self::MINUTE_MS { (since, count.saturating_add(1)) } else { (now_ms, 1) };
        if wrong.1 > Self::AT_ONCE { Self::LATE } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn who_guesses_on_is_answered_late_until_a_minute_is_over() {
        let brake = Brake::default();
        for (now, times, want) in
            [(100_000, 10, 0), (100_500, 5, 1), (159_999, 1, 1), (160_000, 10, 0), (160_000, 1, 1)]
        {
            for _ in 0..times {
                assert_eq!(brake.wrong(now), Duration::from_secs(want), "{now}");
            }
        }
    }

    #[test]
    fn it_is_made_once_for_one_user_and_fits_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db-token");
        assert_eq!(read(&path).unwrap(), None, "who only asks makes none");
        assert!(!path.exists());
        let token = made(&path).unwrap();
        assert_eq!((made(&path).unwrap(), read(&path).unwrap()), (token.clone(), Some(token.clone())));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let right = format!("Bearer {token}");
        for (known, brought, want) in [
            (Some(token.as_str()), Some(right.as_str()), true),
            (Some(&token), Some(&right[..right.len() - 1]), false),
            (Some(&token), Some(token.as_str()), false),
            (Some(&token), Some("Bearer "), false),
            (Some(&token), None, false),
            (None, Some("Bearer "), false),
            (None, None, false),
        ] {
            assert_eq!(fits(known, brought), want, "{brought:?}");
        }
        fs::write(&path, "").unwrap();
        assert_ne!(made(&path).unwrap(), token, "a torn one is made anew");
    }
}
