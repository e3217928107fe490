//! Tells an OpenTelemetry collector what is recorded of events: OTLP over HTTP, in JSON. It only looks on: while the collector is
//! away, spans wait within their number, and then the oldest are dropped and counted.

use super::{backoff::Backoff, links::Links};
use crate::{
    clock,
    config::GatewaySettings,
    fault::Fault,
    store::Store,
    systems::http::Client,
    trace::{Note, Trace},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// Spans are gathered for so long, and so many are sent at once.
const EVERY: Duration = Duration::from_secs(2);
const MOST: usize = 512;
/// The first and the longest wait after the collector has failed.
const INITIAL: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// At the stop, the last are given so long.
const LAST: Duration = Duration::from_secs(2);
/// What it is called in the log.
const NAME: &str = "gateway.trace.otlp";

pub(super) struct Exporter {
    trace: Trace,
    client: Arc<Client>,
    gateway: String,
    links: Links,
}

impl Exporter {
    /// That of a configuration, if it has one.
    pub fn of(gateway: &GatewaySettings, store: &Store, links: &Links) -> anyhow::Result<Option<Exporter>> {
        let Some(otlp) = &gateway.trace.otlp else { return Ok(None) };
        let client = otlp.client().map_err(|(field, why)| anyhow::anyhow!("{NAME}.{field}: {why}"))?;
        let (trace, links) = (store.trace().clone(), links.clone());
        Ok(Some(Exporter { trace, client: Arc::new(client), gateway: gateway.id.clone(), links }))
    }

    /// Until the stop is signalled, and the last are sent.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(INITIAL, LONGEST);
        let mut wait = EVERY;
        loop {
            let stopping = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => true,
                () = sleep(wait) => false,
            };
            if stopping {
                timeout(LAST, self.send()).await.ok();
                return;
            }
            wait = match self.send().await {
                Ok(more) => {
                    backoff.succeeded(Instant::now());
                    if more { Duration::ZERO } else { EVERY }
                }
                Err(fault) => {
                    self.links.down(NAME, &fault.to_string());
                    backoff.failed(Instant::now())
                }
            };
        }
    }

    /// Sends what waits; gives whether there may be more. What was not taken waits again, unless the collector refuses it.
    async fn send(&self) -> Result<bool, Fault> {
        let (notes, dropped) = self.trace.take(MOST);
        if dropped > 0 {
            log::warn!("{NAME}: {dropped} spans were dropped: the collector did not take them in time");
        }
        if notes.is_empty() {
            return Ok(false);
        }
        let (client, body) = (self.client.clone(), document(&self.gateway, &notes).to_string());
        let key = hex(&Sha256::digest(&body)[..16]);
        let sent = spawn_blocking(move || client.send(&key, None, body.as_bytes())).await.map_err(Fault::retry);
        match sent.and_then(|sent| sent) {
            Ok(_) => {
                self.links.up(NAME);
                Ok(notes.len() == MOST)
            }
            Err(fault @ Fault::Reject(_)) => Err(fault),
            Err(fault) => {
                self.trace.put_back(notes);
                Err(fault)
            }
        }
    }
}

/// All spans as one request. Numbers of 64 bits are texts, ids are hexadecimal (OTLP's JSON).
fn document(gateway: &str, notes: &[Note]) -> Value {
    let spans: Vec<Value> = notes.iter().map(span).collect();
    let resource = [attribute("service.name", "tidegate"), attribute("service.instance.id", gateway)];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "tidegate", "version": env!("CARGO_PKG_VERSION") }, "spans": spans }] }] })
}

fn attribute(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}

/// One that is in the trace of its sender, or in one that is made of its id. The first is the event's intake; all others are
/// below it.
fn span(note: &Note) -> Value {
    let digest = Sha256::digest(note.id.as_bytes());
    let root = hex(&digest[16..24]);
    let parent = note.parent.as_deref().and_then(|text| Some((text.get(3..35)?, text.get(36..52)?)));
    let trace = parent.map_or_else(|| hex(&digest[..16]), |(trace, _)| trace.to_owned());
    let is_root = note.what == "committed";
    let id = if is_root { root.clone() } else { hex(&fastrand::u64(1..).to_be_bytes()) };
    let end = i128::from(clock::wall_of(note.at)) * 1_000_000;
    let begin = end - note.took.map_or(0, |took| took.as_nanos() as i128);
    let mut span = json!({
        "traceId": trace, "spanId": id, "name": format!("{} {}", note.who, note.what),
        "kind": if note.who.starts_with("sinks.") { 4 } else { 1 },
        "startTimeUnixNano": begin.to_string(), "endTimeUnixNano": end.to_string(),
        "attributes": [attribute("event.id", &note.id), attribute("tidegate.said", &note.said)],
    });
    match parent {
        Some((_, above)) if is_root => span["parentSpanId"] = above.into(),
        None if is_root => {}
        _ => span["parentSpanId"] = root.into(),
    }
    if note.is_bad() {
        span["status"] = json!({ "code": 2, "message": &*note.said });
    }
    span
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_one_event_are_of_one_trace_below_its_intake() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let took = Duration::from_micros(1_500);
        for parent in [None, Some(text)] {
            let note =
                |who: &str, what| Note { parent: parent.map(Into::into), ..Note::new("a", who, what).took(took) };
            let notes =
                [note("store", "committed"), note("sinks.cloud", "acknowledged").said("HTTP 200"), note("p", "failed")];
            let all = document("barn", &notes);
            let spans = &all["resourceSpans"][0]["scopeSpans"][0]["spans"];
            let (root, sent) = (&spans[0], &spans[1]);
            let trace = root["traceId"].as_str().unwrap();
            assert_eq!((trace.len(), root["spanId"].as_str().unwrap().len()), (32, 16));
            assert_eq!((&sent["traceId"], &sent["parentSpanId"]), (&root["traceId"], &root["spanId"]));
            assert_eq!(root["parentSpanId"].as_str(), parent.map(|_| "b7ad6b7169203331"));
            assert!(parent.is_none() || trace == "0af7651916cd43dd8448eb211c80319c");
            let nanos = |name: &str| sent[name].as_str().unwrap().parse::<i64>().unwrap();
            assert_eq!(nanos("endTimeUnixNano") - nanos("startTimeUnixNano"), 1_500_000);
            assert_eq!((sent["kind"].as_i64(), &spans[2]["status"]["code"]), (Some(4), &2.into()));
            assert!(sent["status"].is_null());
        }
    }
}
