//! From a request to its answer.

use super::{
    answer::{Answer, Problem, accepted},
    body::{self, Room, Share},
    parse::{self, About},
};
use crate::{
    budget,
    event::{Batch, json::write_string},
    kind::Intake,
    sources::{seats::Seat, trouble::Trouble},
    store::Placed,
    systems::http::decode,
};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName},
};
use sha2::{Digest, Sha256};
use std::{borrow::Cow, net::SocketAddr, time::Duration};
use subtle::{Choice, ConstantTimeEq};
use tokio::time::timeout;

const PATH: &str = "/v1/events";
/// Header lines of a request; clients send about ten.
const MAX_HEADERS: usize = 64;
/// Bytes of an `Idempotency-Key`; with `/9999` behind it, it fits into an event's id.
const MAX_KEY: usize = 200;
/// How long a request waits for the disk. After that the disk is in trouble, and the client should hear of it.
const PATIENCE: Duration = Duration::from_secs(10);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Where all requests of a listener are answered.
pub(super) struct Desk {
    intake: Intake,
    /// Only digests, so that comparing tells nothing about the tokens, not even their length.
    tokens: Vec<[u8; 32]>,
    max_body: usize,
    room: Room,
    /// Of TLS handshakes that failed.
    refused: Trouble,
}

impl Desk {
    pub fn new(intake: Intake, tokens: &[String], max_body: usize, waiting: usize) -> Self {
        let tokens = tokens.iter().map(|token| Sha256::digest(token).into()).collect();
        let room = Room::new(waiting, &intake.store().pools().events);
        Desk { tokens, max_body, room, intake, refused: Trouble::default() }
    }

    /// Tells why a client's TLS was refused.
    pub fn refuse(&self, peer: SocketAddr, why: &str) {
        self.refused.begins(|| format!("sources.{}: tls with {peer} failed: {why}", self.name()));
    }

    pub fn name(&self) -> &str {
        self.intake.topic()
    }

    /// A connection's memory, if there is some.
    pub fn seat(&self, bytes: usize) -> Option<budget::Share> {
        self.intake.store().pools().connections.draw(bytes)
    }

    pub async fn answer(&self, request: Request<Incoming>, seat: &Seat) -> Answer {
        self.take(request, seat).await.unwrap_or_else(Problem::answer)
    }

    async fn take(&self, request: Request<Incoming>, seat: &Seat) -> Result<Answer, Problem> {
        let (head, body) = request.into_parts();
        self.admit(&head.headers)?;
        let key = key(head.uri.path())?;
        if head.method != Method::POST {
            return Err(Problem::method());
        }
        media(&head.headers)?;
        let gzip = gzip(&head.headers)?;
        let id = idempotency_key(&head.headers)?;
        let mut share = Share::of(&self.room);
        let mut bytes = body::read(body, self.max_body, &mut share, seat).await?;
        seat.stays();
        if gzip {
            bytes = body::gunzip(&bytes, self.max_body, &mut share).await?;
        }
        let about = About { key: &key, id };
        let extra = parse::extra(&bytes, &about, &self.intake);
        share.extra(extra).await?;
        let batch = parse::events(&bytes, &about, &self.intake)?;
        drop(bytes);
        share.settle(batch.bytes() + extra);
        self.store(batch).await
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if headers.len() > MAX_HEADERS {
            let detail = format!("expected at most {MAX_HEADERS} header lines");
            return Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail));
        }
        if !self.tokens.is_empty() {
            let header = single(headers, &AUTHORIZATION)?.unwrap_or_default();
            let token = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            let token: [u8; 32] = Sha256::digest(token.map_or("", |(_, token)| token.trim())).into();
            let known = self.tokens.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&token));
            if !bool::from(known) {
                return Err(Problem::unauthorized());
            }
        }
        // A page on the web may make a browser post to loopback; browsers say so.
        if headers.get(&SEC_FETCH_SITE).is_some_and(|site| site == "cross-site") {
            return Err(Problem::new(StatusCode::FORBIDDEN, "a page of another site may not post here"));
        }
        Ok(())
    }

    async fn store(&self, batch: Batch) -> Result<Answer, Problem> {
        let count = batch.len();
        let own: Vec<(u32, String)> = batch.own_ids().map(|(index, id)| (index, id.to_owned())).collect();
        let placed = timeout(PATIENCE, self.intake.append(batch)).await.map_err(|_| {
            let detail = "the disk takes too long; whether the events were stored is not known, \
                          so send them again with the same `Idempotency-Key`";
            Problem::after(StatusCode::SERVICE_UNAVAILABLE, 5, detail)
        })??;
        if placed.conflicts.len() == count {
            let detail = "every event's id was used before with another body; they were not accepted, \
                          but are kept in the dead letters";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        Ok(accepted(receipt(count, &own, &placed)))
    }
}

/// `{"accepted":2,"ids":["…","…"],"repeats":0}`, and the conflicts, if there are any.
fn receipt(count: usize, own: &[(u32, String)], placed: &Placed) -> Vec<u8> {
    let mut text = format!("{{\"accepted\":{},\"ids\":[", count - placed.conflicts.len()).into_bytes();
    let (mut own, mut conflicts) = (own.iter().peekable(), placed.conflicts.iter().peekable());
    let (mut listed, mut refused) = (0, Vec::new());
    for index in 0..count as u32 {
        let id = match own.next_if(|(at, _)| *at == index) {
            Some((_, id)) => Cow::Borrowed(id),
            None => Cow::Owned(placed.made_id(index)),
        };
        if conflicts.next_if_eq(&&index).is_some() {
            refused.extend_from_slice(if refused.is_empty() { b"" } else { b"," });
            refused.extend_from_slice(format!("{{\"index\":{index},\"id\":").as_bytes());
            write_string(&id, &mut refused);
            refused.push(b'}');
            continue;
        }
        text.extend_from_slice(if listed == 0 { b"" } else { b"," });
        write_string(&id, &mut text);
        listed += 1;
    }
    text.extend_from_slice(format!("],\"repeats\":{}", placed.repeats.len()).as_bytes());
    if !refused.is_empty() {
        text.extend_from_slice(b",\"conflicts\":[");
        text.extend_from_slice(&refused);
        text.extend_from_slice(
            b"],\"detail\":\"the id of each conflict was used before with another body; \
              it was not accepted, but is kept in the dead letters\"",
        );
    }
    text.push(b'}');
    text
}

/// The key in the path: everything after `/v1/events/`, percent-decoded, slashes included.
fn key(path: &str) -> Result<Cow<'_, str>, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is only {PATH} and {PATH}/KEY"));
    let rest = path.strip_prefix(PATH).ok_or_else(unknown)?;
    if rest.is_empty() {
        return Ok(Cow::Borrowed(""));
    }
    let rest = rest.strip_prefix('/').filter(|key| !key.is_empty()).ok_or_else(unknown)?;
    let key = decode(rest).ok_or_else(|| Problem::bad_request("the key in the path is not percent-encoded UTF-8"))?;
    if key.chars().any(char::is_control) {
        return Err(Problem::bad_request("expected no control character in the key"));
    }
    Ok(key)
}

fn media(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(media) = single(headers, &CONTENT_TYPE)? else { return Ok(()) };
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let known = [
        "application/json",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "text/json",
        "application/x-www-form-urlencoded", // what `curl -d` says; a browser's form is refused by `Sec-Fetch-Site`
    ];
    if known.contains(&media.as_str()) || media.ends_with("+json") {
        return Ok(());
    }
    let detail = "expected `Content-Type: application/json` or `application/x-ndjson`";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

fn gzip(headers: &HeaderMap) -> Result<bool, Problem> {
    match single(headers, &CONTENT_ENCODING)?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "identity") => Ok(false),
        Some("gzip" | "x-gzip") => Ok(true),
        Some(_) => Err(Problem::encoding()),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(key) = single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let detail = format!("expected 1 to {MAX_KEY} visible ASCII characters in `Idempotency-Key`");
        return Err(Problem::bad_request(detail));
    }
    Ok(Some(key))
}

/// A header that may stand once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request(format!("`{name}` stands twice")));
    }
    value.to_str().map(Some).map_err(|_| Problem::bad_request(format!("expected ASCII in `{name}`")))
}
