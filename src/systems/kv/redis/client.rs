//! Over one connection, which blocks.

use super::Config;
use crate::{
    fault::Fault,
    systems::{
        blocking::Blocking,
        kv::{Kv, MAX_KEY, MAX_VALUE, check_key, check_list, check_put, check_swap},
    },
};
use async_trait::async_trait;
use redis::{Client, Cmd, Connection, ConnectionLike, IntoConnectionInfo, RedisError, RedisResult, Value, cmd};
use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant},
};

/// Gives a value, or the length of one that is longer than ARGV[1]: that is not read.
const GET: &str = "
    local n = redis.call('STRLEN', KEYS[1])
    if n > tonumber(ARGV[1]) then return n end
    return redis.call('GET', KEYS[1])";

/// ARGV: whether there is an old value, which, and the new one.
const SWAP: &str = "
    local now = redis.call('GET', KEYS[1])
    if ARGV[1] == '1' then
        if now ~= ARGV[2] then return 0 end
    elseif now then
        return 0
    end
    redis.call('SET', KEYS[1], ARGV[3])
    return 1";

/// Keys that the server looks at for one answer to SCAN: it serves nobody else meanwhile.
const SCANNED: usize = 1000;

pub(super) struct RedisKv {
    client: Client,
    /// Host and port, without the password.
    name: String,
    prefix: String,
    timeout: Duration,
    connection: Blocking<Option<Connection>>,
}

impl RedisKv {
    pub fn new(config: Config) -> Result<Self, (String, String)> {
        let wrong = |field: &str, why: &str| (field.to_owned(), why.to_owned());
        // The url is not repeated: it may hold a password.
        let form = "expected `redis://[user:password@]host[:port][/database]` or `unix:///path`";
        if config.url.starts_with("rediss:") || config.url.starts_with("valkeys:") {
            return Err(wrong("url", "TLS is not supported here; expected `redis://`"));
        }
        let info = config.url.as_str().into_connection_info().map_err(|_| wrong("url", form))?;
        let name = info.addr().to_string();
        let client = Client::open(info).map_err(|_| wrong("url", form))?;
        if config.prefix.len() > 256 {
            return Err(wrong("prefix", "is longer than 256 bytes"));
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(600)).contains(&config.timeout.0) {
            return Err(wrong("timeout", "expected 10ms to 10m"));
        }
        let Config { prefix, timeout, .. } = config;
        Ok(RedisKv { client, name, prefix, timeout: timeout.0, connection: Blocking::new(None) })
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, Instant) -> RedisResult<R> + Send + 'static,
    ) -> Result<R, Fault> {
        let (client, name, timeout) = (self.client.clone(), self.name.clone(), self.timeout);
        let call = move |slot: &mut Option<Connection>| {
            let until = Instant::now() + timeout;
            let fault = |error: &RedisError| fault(&name, error);
            let mut connection = match slot.take().filter(Connection::is_open) {
                Some(connection) => connection,
                None => client.get_connection_with_timeout(timeout).map_err(|e| fault(&e))?,
            };
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            connection.set_read_timeout(Some(left)).map_err(|e| fault(&e))?;
            connection.set_write_timeout(Some(left)).map_err(|e| fault(&e))?;
            let done = work(&mut connection, until);
            // After any other failure the next thing to read could be the answer to this call.
            if done.as_ref().map_or_else(|e| e.code().is_some(), |_| true) {
                *slot = Some(connection);
            }
            done.map_err(|e| fault(&e))
        };
        self.connection.call(self.timeout, &self.name, call).await
    }

    fn key(&self, key: &str) -> Result<String, Fault> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }
}

/// A key with something else than a value is that key's own fault; all else may work later.
fn fault(name: &str, error: &RedisError) -> Fault {
    let text = format!("`{name}`: {error}");
    if text.contains("WRONGTYPE") { Fault::reject(text) } else { Fault::retry(text) }
}

fn script(text: &str, key: &str) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(text).arg(1).arg(key);
    eval
}

/// A pattern of SCAN that stands for the text itself and what follows.
fn pattern(prefix: &str) -> String {
    let mut out = String::with_capacity(prefix.len() + 1);
    for c in prefix.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('*');
    out
}

#[async_trait]
impl Kv for RedisKv {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault> {
        let key = self.key(key)?;
        let name = self.name.clone();
        let answer = self.run(move |c, _| script(GET, &key).arg(MAX_VALUE).query::<Value>(c)).await?;
        match answer {
            Value::Nil => Ok(None),
            Value::BulkString(value) => Ok(Some(value)),
            Value::Int(size) => Err(Fault::reject(format!("the value has {size} bytes, the limit is {MAX_VALUE}"))),
            _ => Err(Fault::retry(format!("`{name}`: the server's answer is no value"))),
        }
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), Fault> {
        let ttl = check_put(key, value, ttl)?;
        let mut set = cmd("SET");
        set.arg(self.key(key)?).arg(value);
        if let Some(ms) = ttl {
            set.arg("PX").arg(ms);
        }
        self.run(move |c, _| set.query::<()>(c)).await
    }

    async fn compare_and_swap(&self, key: &str, old: Option<&[u8]>, new: &[u8]) -> Result<bool, Fault> {
        check_swap(key, old, new)?;
        let mut swap = script(SWAP, &self.key(key)?);
        swap.arg(u8::from(old.is_some())).arg(old.unwrap_or_default()).arg(new);
        self.run(move |c, _| swap.query::<bool>(c)).await
    }

    async fn delete(&self, key: &str) -> Result<bool, Fault> {
        let key = self.key(key)?;
        self.run(move |c, _| cmd("DEL").arg(key).query::<bool>(c)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault> {
        let limit = check_list(prefix, after, limit)?;
        let (before, after) = (self.prefix.len(), after.unwrap_or_default().to_owned());
        let pattern = pattern(&format!("{}{prefix}", self.prefix));
        let scan = move |c: &mut Connection, until: Instant| {
            let (mut cursor, mut keys) = (0u64, BTreeSet::new());
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED);
                let (next, found): (u64, Vec<Vec<u8>>) = scan.query(c)?;
                // Keys of others that cannot be ours are passed over.
                let ours =
                    found.into_iter().filter_map(|key| String::from_utf8(key).ok()?.get(before..).map(str::to_owned));
                keys.extend(ours.filter(|key| *key > after && (1..=MAX_KEY).contains(&key.len())));
                while keys.len() > limit {
                    keys.pop_last();
                }
                cursor = next;
                if cursor == 0 {
                    return Ok(keys.into_iter().collect());
                }
                if Instant::now() >= until {
                    let late = "the database has too many keys to be listed in time";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, late).into());
                }
            }
        };
        self.run(scan).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Span;

    #[test]
    fn a_wrong_url_is_told_without_its_password() {
        for (url, want) in [
            ("redis://localhost", ""),
            ("redis://:canary@localhost:6380/3", ""),
            ("unix:///run/redis.sock", ""),
            ("rediss://:canary@localhost", "TLS is not supported"),
            ("http://canary", "expected `redis://"),
            ("redis://canary@:x", "expected `redis://"),
            ("", "expected `redis://"),
        ] {
            let config = Config { url: url.into(), prefix: String::new(), timeout: Span::millis(1000) };
            let told = RedisKv::new(config).err().map_or(String::new(), |(field, why)| format!("{field}: {why}"));
            assert!(told.contains(want) && told.is_empty() == want.is_empty(), "{url}: {told}");
            assert!(!told.contains("canary"));
        }
    }

    #[test]
    fn a_pattern_stands_for_its_text() {
        assert_eq!(pattern("a*b[c]\\"), "a\\*b\\[c\\]\\\\*");
    }
}
