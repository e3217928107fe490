//! Requests that rusty-s3 signs and ureq makes.

use super::Config;
use crate::{
    clock,
    fault::{Fault, printable},
    systems::{
        http,
        objects::{MAX_OBJECT, Objects, check_key, check_list, check_put},
        tls::ClientTls,
    },
};
use async_trait::async_trait;
use rusty_s3::{
    Bucket, Credentials, Method, S3Action, UrlStyle,
    actions::{DeleteObject, GetObject, ListObjectsV2, PutObject},
};
use std::{io::Read, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use ureq::{
    Agent,
    http::{Method as Verb, Request, Uri},
};

/// Requests at once, each with its object in memory.
const REQUESTS: usize = 4;
/// How long a signature is good: as far as the board's clock may be behind.
const GOOD: Duration = Duration::from_secs(900);
/// Bytes of an answer that is no object: a page of keys, or an error.
const MAX_ANSWER: usize = 8 << 20;
/// Bytes of an error that are quoted.
const QUOTE: usize = 200;
/// Errors of status 400 that are the fault of no object.
const MAY_WORK: [&str; 8] = [
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "IncompleteBody",
    "InvalidToken",
    "InvalidBucketName",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "TokenRefreshRequired",
];

pub(super) struct S3 {
    agent: Agent,
    bucket: Bucket,
    credentials: Credentials,
    prefix: String,
    timeout: Duration,
    requests: Arc<Semaphore>,
    /// Bucket and host, for messages.
    name: Arc<str>,
}

impl S3 {
    pub fn new(config: Config) -> Result<Self, (String, String)> {
        let wrong = |field: &str, why: &str| (field.to_owned(), why.to_owned());
        let form = || wrong("endpoint", "expected `https://host`, `http://host` or one of them with a port");
        let endpoint: Uri = config.endpoint.parse().map_err(|_| form())?;
        let (scheme, authority) = (endpoint.scheme_str(), endpoint.authority().map_or("", |a| a.as_str()));
        let path = endpoint.path_and_query().map_or("/", |p| p.as_str());
        if !matches!(scheme, Some("http" | "https")) || authority.contains('@') || path != "/" {
            return Err(form());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let begins = config.bucket.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins || config.bucket.len() > 255 || !config.bucket.chars().all(plain) {
            return Err(wrong(
                "bucket",
                "expected letters, digits, `.`, `-` and `_`, beginning with a letter or digit",
            ));
        }
        if config.region.is_empty() || !config.region.chars().all(plain) {
            return Err(wrong("region", "expected letters, digits and `-`"));
        }
        // Text that may stand before any key: the parts in it are those of a key.
        if config.prefix.len() > 256
            || (!config.prefix.is_empty() && check_key(&format!("{}x", config.prefix)).is_err())
        {
            return Err(wrong("prefix", "expected the beginning of a key, at most 256 bytes"));
        }
        if config.access_key.is_empty() || config.secret_key.is_empty() {
            return Err(wrong("secret_key", "expected both, `access_key` and `secret_key`"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(600)).contains(&config.timeout.0) {
            return Err(wrong("timeout", "expected 100ms to 10m"));
        }
        let style = if config.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let name = format!("{}@{authority}", config.bucket).into();
        let endpoint = config.endpoint.parse().map_err(|_| form())?;
        let bucket = Bucket::new(endpoint, style, config.bucket, config.region).map_err(|_| form())?;
        let tls = ClientTls { ca: config.ca, ..ClientTls::default() };
        Ok(S3 {
            agent: http::agent(config.timeout.0, tls, REQUESTS),
            bucket,
            credentials: Credentials::new(config.access_key, config.secret_key),
            prefix: config.prefix,
            timeout: config.timeout.0,
            requests: Arc::new(Semaphore::new(REQUESTS)),
            name,
        })
    }

    fn key(&self, key: &str) -> Result<String, Fault> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    fn retry(&self, why: impl std::fmt::Display) -> Fault {
        Fault::retry(format!("`{}`: {why}", self.name))
    }

    /// Makes a request; gives the body of an answer 2xx, or `None` for an object that is not there.
    async fn ask<'a, A: S3Action<'a>>(&self, action: A, body: Vec<u8>, most: usize) -> Result<Option<Vec<u8>>, Fault> {
        let waiting = timeout(self.timeout, self.requests.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = waiting else { return Err(self.retry("the requests before have not ended")) };
        let now = jiff::Timestamp::from_millisecond(clock::wall_ms()).map_err(|e| self.retry(e))?;
        let url = action.sign_with_time(GOOD, &now);
        let verb = match A::METHOD {
            Method::Put => Verb::PUT,
            Method::Delete => Verb::DELETE,
            _ => Verb::GET,
        };
        let (agent, name) = (self.agent.clone(), self.name.clone());
        let request = move || {
            let _permit = permit;
            request(&agent, &name, verb, url.as_str(), &body, most)
        };
        spawn_blocking(request).await.map_err(|e| self.retry(e))?
    }

    /// One page of what the server lists, with the prefix, and whether there is more.
    async fn page(&self, prefix: &str, after: &str) -> Result<(Vec<String>, bool), Fault> {
        let mut action = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
        action.with_prefix(prefix);
        if !after.is_empty() {
            action.with_start_after(after);
        }
        let Some(answer) = self.ask(action, Vec::new(), MAX_ANSWER).await? else { return Ok((Vec::new(), false)) };
        let encoded = contains(&answer, b"<EncodingType>url</EncodingType>");
        let page =
            ListObjectsV2::parse_response(&answer).map_err(|e| self.retry(format!("no list of objects: {e}")))?;
        let more = page.next_continuation_token.is_some();
        let keys = page.contents.into_iter().map(|object| if encoded { decode(&object.key) } else { object.key });
        Ok((keys.collect(), more))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Blocks for the agent's timeout at most.
fn request(
    agent: &Agent,
    name: &str,
    verb: Verb,
    url: &str,
    body: &[u8],
    most: usize,
) -> Result<Option<Vec<u8>>, Fault> {
    let retry = |why: &dyn std::fmt::Display| Fault::retry(format!("`{name}`: {why}"));
    let put = verb == Verb::PUT;
    let request = Request::builder().method(verb).uri(url);
    let answer = match put {
        true => request.body(body).map_err(ureq::Error::Http).and_then(|request| agent.run(request)),
        false => request.body(()).map_err(ureq::Error::Http).and_then(|request| agent.run(request)),
    };
    let (head, mut body) = answer.map_err(|e| retry(&e))?.into_parts();
    let (good, mut said) = (head.status.is_success(), Vec::new());
    let limit = if good { most } else { MAX_ANSWER };
    let read = body.as_reader().take(limit as u64 + 1).read_to_end(&mut said);
    if good {
        read.map_err(|e| retry(&e))?;
        return match said.len() > limit {
            true => Err(Fault::reject(format!("`{name}`: the answer has more than {limit} bytes"))),
            false => Ok(Some(said)),
        };
    }
    let text = String::from_utf8_lossy(&said);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
    let told = format!(
        "`{name}` answered {}: {}",
        head.status,
        printable(if code.is_empty() { &said } else { code.as_bytes() }, QUOTE)
    );
    match (head.status.as_u16(), code) {
        (404, "NoSuchKey") => Ok(None),
        // Credentials may be renewed, and a bucket made.
        (401 | 403 | 404 | 405 | 407 | 408 | 409 | 425 | 429, _) => Err(Fault::retry(told)),
        (400, code) if MAY_WORK.contains(&code) => Err(Fault::retry(told)),
        (400..500, _) => Err(Fault::reject(told)),
        _ => Err(Fault::retry(told)),
    }
}

/// Undoes the encoding that a list was asked for: `%2F`, and `+` for a space.
fn decode(text: &str) -> String {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[async_trait]
impl Objects for S3 {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault> {
        let key = self.key(key)?;
        self.ask(GetObject::new(&self.bucket, Some(&self.credentials), &key), Vec::new(), MAX_OBJECT).await
    }

    async fn put(&self, key: &str, object: &[u8]) -> Result<(), Fault> {
        check_put(key, object)?;
        let key = self.key(key)?;
        let action = PutObject::new(&self.bucket, Some(&self.credentials), &key);
        self.ask(action, object.to_vec(), MAX_ANSWER).await.map(|_| ())
    }

    async fn delete(&self, key: &str) -> Result<(), Fault> {
        let key = self.key(key)?;
        let action = DeleteObject::new(&self.bucket, Some(&self.credentials), &key);
        self.ask(action, Vec::new(), MAX_ANSWER).await.map(|_| ())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault> {
        let limit = check_list(prefix, after, limit)?;
        let prefix = format!("{}{prefix}", self.prefix);
        let mut from = after.map(|after| format!("{}{after}", self.prefix)).unwrap_or_default();
        let listing = async {
            let mut keys = Vec::new();
            while keys.len() < limit {
                let (page, more) = self.page(&prefix, &from).await?;
                from = page.last().cloned().unwrap_or_default();
                // Some programs put empty objects with names as `folder/`: they are no keys here.
                let own =
                    page.iter().filter_map(|key| key.strip_prefix(&*self.prefix)).filter(|key| check_key(key).is_ok());
                keys.extend(own.take(limit - keys.len()).map(str::to_owned));
                if !more || page.is_empty() {
                    break;
                }
            }
            Ok(keys)
        };
        let late = |_| Err(self.retry("the list takes too long"));
        timeout(self.timeout, listing).await.unwrap_or_else(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_decoded() {
        for (text, want) in [
            ("a/b+c%2B%C3%A4", "a/b c+ä"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("", ""),
            ("%+1", "% 1"),
            ("%1+", "%1 "),
            ("%25", "%"),
        ] {
            assert_eq!(decode(text), want);
        }
    }
}
