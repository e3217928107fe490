//! Who may connect, and what they may publish and subscribe to.

use super::filter;
use crate::kind::ParamsError;
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha512;
use std::{borrow::Cow, fmt, sync::Arc};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// More iterations would let a configuration stall the gateway at every connection.
const MAX_ITERATIONS: u32 = 1_000_000;
/// Hashing takes a core for a tenth of a second on a small board: never more than this many at a time.
const HASHING: usize = 2;
const HASH_BYTES: usize = 64;

/// A user, and what it may do.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    /// `$7$ITERATIONS$SALT$HASH`, as `tidegate passwd` and `mosquitto_passwd` write it (PBKDF2 with SHA-512).
    pub password: String,
    /// Filters of the topics it may publish to; `%c` is its client id, `%u` its name. Default: all.
    #[serde(default = "all")]
    pub publish: Vec<String>,
    /// Filters that cover what it may subscribe to. Default: all.
    #[serde(default = "all")]
    pub subscribe: Vec<String>,
}

fn all() -> Vec<String> {
    vec!["#".into()]
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What `$7$…` holds.
#[derive(Clone)]
struct Secret {
    iterations: u32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Secret {
    fn read(text: &str) -> Option<Secret> {
        let mut parts = text.strip_prefix("$7$")?.split('$');
        let iterations = parts.next()?.parse().ok().filter(|n| (1..=MAX_ITERATIONS).contains(n))?;
        let salt = STANDARD.decode(parts.next()?).ok().filter(|s| !s.is_empty())?;
        let hash = STANDARD.decode(parts.next()?).ok().filter(|h| h.len() == HASH_BYTES)?;
        parts.next().is_none().then_some(Secret { iterations, salt, hash })
    }

    fn fits(&self, password: &[u8]) -> bool {
        let mut hash = [0; HASH_BYTES];
        pbkdf2::pbkdf2_hmac::<Sha512>(password, &self.salt, self.iterations, &mut hash);
        bool::from(hash.ct_eq(&self.hash))
    }
}

/// Hashes a password for `users[].password`. The same password gives another text each time.
pub fn hash_password(password: &str, iterations: u32) -> String {
    let iterations = iterations.clamp(1, MAX_ITERATIONS);
    let mut salt = [0; 16];
    // Salts need to differ, not to be secret.
    fastrand::fill(&mut salt);
    let mut hash = [0; HASH_BYTES];
    pbkdf2::pbkdf2_hmac::<Sha512>(password.as_bytes(), &salt, iterations, &mut hash);
    format!("$7${iterations}${}${}", STANDARD.encode(salt), STANDARD.encode(hash))
}

/// All users; without any, everybody who gets here may do everything.
pub struct Access {
    users: Vec<(User, Secret)>,
    hashing: Arc<Semaphore>,
}

/// What one client may do.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// `None`: everything.
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
}

/// Why a client may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    Password,
    /// The client id cannot stand in a permission.
    ClientId,
}

impl Access {
    pub fn new(users: &[User]) -> Result<Access, ParamsError> {
        let mut known: Vec<(User, Secret)> = Vec::new();
        for (at, user) in users.iter().enumerate() {
            let wrong = |field: &str, text: String| Err(ParamsError::at(format!("users[{at}].{field}"), text));
            if user.name.is_empty() || user.name.contains(['+', '#', '/', '\0']) {
                return wrong("name", format!("`{}` is empty or has one of + # /", user.name));
            }
            if known.iter().any(|(other, _)| other.name == user.name) {
                return wrong("name", format!("`{}` is there twice", user.name));
            }
            for (field, filters) in [("publish", &user.publish), ("subscribe", &user.subscribe)] {
                if let Some(bad) = filters.iter().find(|f| !filter::is_filter(f)) {
                    return wrong(field, format!("`{bad}` is no topic filter"));
                }
            }
            let Some(secret) = Secret::read(&user.password) else {
                return wrong(
                    "password",
                    "expected `$7$ITERATIONS$SALT$HASH`, as `tidegate passwd` prints it, with at most 1000000 iterations".into(),
                );
            };
            known.push((user.clone(), secret));
        }
        Ok(Access { users: known, hashing: Arc::new(Semaphore::new(HASHING)) })
    }

    /// Checks name and password. An unknown name takes as long as a wrong password.
    pub async fn admit(&self, client: &str, name: Option<&str>, password: Option<&[u8]>) -> Result<Grant, Denied> {
        if self.users.is_empty() {
            return Ok(Grant::default());
        }
        let found = self.users.iter().find(|(user, _)| Some(user.name.as_str()) == name);
        let Some((_, secret)) = found.or(self.users.first()) else { return Err(Denied::Password) };
        let (secret, password) = (secret.clone(), password.unwrap_or_default().to_vec());
        let permit = self.hashing.clone().acquire_owned().await.map_err(|_| Denied::Password)?;
        let fits = tokio::task::spawn_blocking(move || {
            let fits = secret.fits(&password);
            drop(permit);
            fits
        });
        let (Ok(true), Some((user, _))) = (fits.await, found) else { return Err(Denied::Password) };
        let uses_client = user.publish.iter().chain(&user.subscribe).any(|f| f.contains("%c"));
        if uses_client && (client.is_empty() || client.contains(['+', '#', '/'])) {
            return Err(Denied::ClientId);
        }
        let fill = |filters: &[String]| {
            let filled = filters.iter().map(|f| f.replace("%c", client).replace("%u", &user.name)).collect();
            if filters == ["#"] { None } else { Some(filled) }
        };
        Ok(Grant { publish: fill(&user.publish), subscribe: fill(&user.subscribe) })
    }
}

impl Grant {
    pub fn may_publish(&self, topic: &str) -> bool {
        self.publish.as_ref().is_none_or(|filters| filters.iter().any(|f| filter::matches(f, topic)))
    }

    /// Takes the filter of a shared subscription without `$share/GROUP/`.
    pub fn may_subscribe(&self, wanted: &str) -> bool {
        self.subscribe.as_ref().is_none_or(|filters| filters.iter().any(|f| filter::covers(f, wanted)))
    }
}

/// A name as it may stand in a line of the log.
pub fn shown(name: &str) -> Cow<'_, str> {
    let plain = name.len() <= 64 && !name.chars().any(char::is_control);
    if plain { name.into() } else { name.chars().take(64).flat_map(char::escape_debug).collect::<String>().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> User {
        User { name: name.into(), password: password.into(), publish: all(), subscribe: all() }
    }

    #[tokio::test]
    async fn a_password_opens_its_own_permissions_only() {
        let mut ann = user("ann", &hash_password("secret", 10));
        ann.publish = vec!["s/%c/#".into(), "u/%u".into()];
        ann.subscribe = vec!["c/%c/#".into()];
        let access = Access::new(&[ann, user("bob", &hash_password("other", 10))]).unwrap();
        for (client, name, password, want) in [
            ("d1", Some("ann"), Some("secret"), None),
            ("d1", Some("ann"), Some("other"), Some(Denied::Password)),
            ("d1", Some("eve"), Some("secret"), Some(Denied::Password)),
            ("d1", None, None, Some(Denied::Password)),
            ("d1", Some("ann"), None, Some(Denied::Password)),
            ("#", Some("ann"), Some("secret"), Some(Denied::ClientId)),
            ("+/#", Some("bob"), Some("other"), None),
        ] {
            let got = access.admit(client, name, password.map(str::as_bytes)).await;
            assert_eq!(got.err(), want, "{client} {name:?}");
        }
        let grant = access.admit("d1", Some("ann"), Some(b"secret")).await.unwrap();
        assert!(grant.may_publish("s/d1/x") && grant.may_publish("u/ann"));
        assert!(!grant.may_publish("s/d2/x") && !grant.may_publish("c/d1/x"));
        assert!(grant.may_subscribe("c/d1/+") && !grant.may_subscribe("c/+/x") && !grant.may_subscribe("#"));
    }

    #[test]
    fn a_user_is_checked() {
        // Written by mosquitto_passwd 2.0.11 for "secret".
        let fine = hash_password("x", 1);
        for (name, password, want) in [
            ("ann", fine.as_str(), ""),
            ("", &fine, "users[0].name"),
            ("a/b", &fine, "users[0].name"),
            ("ann", "secret", "users[0].password"),
            ("ann", "$6$x$y", "users[0].password"),
            ("ann", "$7$2000000$AAAA$AAAA", "users[0].password"),
            ("ann", "$7$10$AAAA$AAAA", "users[0].password"),
        ] {
            let got = Access::new(&[user(name, password)]).err().map(|e| e.path).unwrap_or_default();
            assert_eq!(got, want, "{name} {password}");
        }
        assert!(!format!("{:?}", user("ann", "canary")).contains("canary"));
        let twice = Access::new(&[user("a", &fine), user("a", &fine)]).err();
        assert_eq!(twice.map(|e| e.message).as_deref(), Some("`a` is there twice"));
    }

    #[test]
    fn hostile_names_do_not_reach_the_log() {
        assert_eq!(shown("d-1"), "d-1");
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(100)).len(), 64);
    }
}
