//! What is asked and answered, whoever asks: HTTP, or the command line on a store whose gateway does not run.

use super::{
    config, metrics,
    routes::{self, Answer, Route, To},
    tap, trace,
};
use crate::{
    budget::{Span, resident},
    clock,
    event::walk::Json,
    logs,
    runtime::{Counts, Running},
    store::{Letter, Refusal, Store, Which},
    systems::http::decode,
};
use serde_json::{Value, json, value::RawValue};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::sync::{Mutex, Semaphore};

/// Dead letters in one answer, if it does not say otherwise, and at most.
const LETTERS: usize = 100;
const MOST_LETTERS: usize = 1000;
/// It takes turns of its own, since it takes long; and so does all about the configuration, which waits for sinks to stop.
const QUERY: &str = "/api/v1/query";
/// Lines of the log in one answer, if it does not say otherwise.
const LINES: usize = 100;
/// The writer of a store that works answers sooner.
const PROGRESS: Duration = Duration::from_secs(5);

/// A request.
pub struct Call {
    /// Or the status of a refusal.
    route: Result<&'static Route, u16>,
    /// What stands for the parts in braces of the route, and the parameters of the query.
    given: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Call {
    /// From the method, the path and the query of a URL. What is not percent-encoded UTF-8 is left out.
    pub fn new(method: &str, path: &str, query: &str) -> Call {
        let pairs = query.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // In a query, `+` is a space.
            let text = |part: &str| Some(decode(&part.replace('+', " "))?.into_owned());
            Some((text(name)?, text(value)?))
        });
        let mut given: BTreeMap<_, _> = pairs.collect();
        let route = routes::find(method, path).map(|(route, parts)| {
            given.extend(parts.iter().filter_map(|(name, part)| Some(((*name).into(), decode(part)?.into_owned()))));
            route
        });
        Call { route, given, body: Vec::new() }
    }

    /// With what came after the head.
    pub fn with_body(self, body: Vec<u8>) -> Call {
        Call { body, ..self }
    }

    /// Whether it brings a configuration.
    pub(super) fn brings_config(&self) -> bool {
        self.route.is_ok_and(|route| (route.method, route.path) == ("POST", config::PATH))
    }

    /// What it brings.
    pub(super) fn body(&self) -> Result<&str, Reply> {
        std::str::from_utf8(&self.body).map_err(|_| Reply::problem(400, "the body is not UTF-8"))
    }

    /// Whether it needs no token; `far`: other machines reach the listener.
    pub fn is_open(&self, far: bool) -> bool {
        self.route.is_ok_and(|route| route.to == To::All || route.to == To::Near && !far)
    }

    /// Whether the answer goes on and on.
    pub(super) fn is_tap(&self) -> bool {
        self.route.is_ok_and(|route| route.path == tap::PATH)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.given.get(name).filter(|text| !text.is_empty()).cloned()
    }

    pub(super) fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Reply> {
        let wrong =
            |text: &String| Reply::problem(400, &format!("`{name}`: expected a number instead of `{text:.40}`"));
        self.given.get(name).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }

    /// The dead letters it is about.
    fn which(&self) -> Result<Which, Reply> {
        let (id, before, event) = (self.number("id")?, self.number("before")?, self.text("event"));
        Ok(Which { id, consumer: self.text("consumer"), topic: self.text("topic"), before, event })
    }

    /// As that, but only where it says so are they all.
    fn chosen(&self) -> Result<Which, Reply> {
        let which = self.which()?;
        let texts = [&which.consumer, &which.topic, &which.event];
        let all = which.id.is_none() && which.before.is_none() && texts.iter().all(|text| text.is_none());
        if all && self.text("all").as_deref() != Some("true") {
            return Err(Reply::problem(400, "expected `id`, `consumer`, `topic`, `event`, `before`, or `all=true`"));
        }
        Ok(which)
    }
}

/// An answer.
pub struct Reply {
    /// As in HTTP.
    pub status: u16,
    pub media: &'static str,
    pub body: Vec<u8>,
}

impl Reply {
    pub(super) fn json(value: &Value) -> Reply {
        Reply { status: 200, media: "application/json", body: format!("{value}\n").into_bytes() }
    }

    /// A refusal, RFC 9457.
    pub fn problem(status: u16, detail: &str) -> Reply {
        let body = format!("{}\n", json!({ "type": "about:blank", "status": status, "detail": detail }));
        Reply { status, media: "application/problem+json", body: body.into_bytes() }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        Reply::problem(503, &refusal.to_string())
    }
}

/// Where calls are answered.
pub struct Desk {
    pub(super) store: Store,
    /// `None` where no gateway runs.
    pub(super) running: Option<Running>,
    /// One answer is made at a time: it may take some memory.
    turn: Mutex<()>,
    pub(super) taps: Arc<Semaphore>,
}

impl Desk {
    /// The gateway that runs.
    pub(super) fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Of a gateway that runs.
    pub fn of(running: Running) -> Desk {
        Desk { running: Some(running.clone()), ..Desk::of_store(running.store().clone()) }
    }

    /// Of a store whose gateway does not run.
    pub fn of_store(store: Store) -> Desk {
        Desk { store, running: None, turn: Mutex::default(), taps: Arc::new(Semaphore::new(tap::AT_ONCE)) }
    }

    /// Answers a call; what is wrong with it is the answer, too.
    pub async fn answer(&self, call: &Call) -> Reply {
        let of = |route: &Route| route.path == QUERY || route.path.starts_with(config::PATH);
        let apart = call.is_open(false) || call.route.is_ok_and(of);
        let _turn = if apart { None } else { Some(self.turn.lock().await) };
        let route = match call.route {
            Ok(route) => route,
            Err(405) => return Reply::problem(405, "this method does nothing here"),
            Err(status) => return Reply::problem(status, "there is nothing here"),
        };
        (route.work)(self, call).await.unwrap_or_else(|refused| refused)
    }

    pub(super) async fn metrics(&self) -> Answer {
        let body = metrics::text(&self.store, self.running.as_ref()).await.into_bytes();
        Ok(Reply { status: 200, media: "text/plain; version=0.0.4", body })
    }

    /// All totals, or what happened in a span of time.
    pub(super) async fn ledger(&self, call: &Call) -> Answer {
        if call.text("since").is_none() && call.text("until").is_none() {
            return Ok(Reply::json(&json!({ "ledger": self.store.ledger() })));
        }
        self.spent(call).await
    }

    /// The way of one event.
    pub(super) async fn way(&self, call: &Call) -> Answer {
        let id = call.text("id").ok_or_else(|| Reply::problem(400, "expected the id of an event"))?;
        Ok(Reply::json(&trace::way(&self.store, &id).await?))
    }

    pub(super) async fn letters(&self, call: &Call) -> Answer {
        let limit = call.number("limit")?.unwrap_or(LETTERS).min(MOST_LETTERS);
        let letters = self.store.letters(&call.which()?, limit).await?;
        Ok(Reply::json(&json!({ "letters": letters.iter().map(shown).collect::<Vec<_>>(),
            "count": self.store.count_letters(&call.which()?).await? })))
    }

    pub(super) async fn retry(&self, call: &Call) -> Answer {
        let done = self.store.retry(&call.chosen()?).await?;
        Ok(Reply::json(&json!({ "retried": done.retried, "left": done.left })))
    }

    pub(super) async fn purge(&self, call: &Call) -> Answer {
        Ok(Reply::json(&json!({ "purged": self.store.purge(&call.chosen()?).await? })))
    }

    pub(super) async fn pause(&self, call: &Call, paused: bool) -> Answer {
        let name = call.text("name").unwrap_or_default();
        if !self.store.pause(&name, paused).await? {
            return Err(Reply::problem(404, &format!("there is no consumer `{name:.80}`")));
        }
        Ok(Reply::json(&json!({ "consumer": name, "paused": paused })))
    }

    pub(super) async fn status(&self) -> Answer {
        let (commits, bytes) = self.store.progress();
        let now = clock::stamp();
        let mut all = json!({
            "running": self.running.is_some(),
            "version": env!("CARGO_PKG_VERSION"),
            "clock": { "time": clock::rfc3339(now.wall_ms), "quality": now.quality.name() },
            "store": { "bytes": bytes, "commits": commits, "dead_letters": self.store.count_letters(&Which::default()).await? },
            "consumers": self.store.ledger(),
            "paused": self.store.paused(),
        });
        if let Some(running) = &self.running {
            let down = running.down().into_iter();
            let held = running.held().into_iter().map(|(name, why)| json!({ "name": name, "why": why }));
            all["gateway"] = running.gateway().into();
            all["seconds"] = running.seconds().into();
            all["taken"] = running.taken().into();
            let intakes = self.store.figures().intakes();
            all["taken_since_start"] = intakes.iter().map(|(_, intake)| intake.taken.load(Relaxed)).sum::<u64>().into();
            all["down"] = down
                .map(|(name, reason, seconds)| json!({ "name": name, "reason": reason, "seconds": seconds }))
                .collect();
            all["held"] = held.collect();
            all["config"] = config::state(running);
            all["memory"] = resident().into();
            let process = |(pipeline, counts): (String, Counts)| {
                json!({ "pipeline": pipeline, "process": counts.name, "in": counts.taken, "out": counts.emitted,
                    "skipped": counts.skipped, "failed": counts.failed, "mean_ns": counts.mean_ns })
            };
            all["processes"] = running.processes().into_iter().map(process).collect();
        }
        Ok(Reply::json(&all))
    }

    /// The newest lines of the log that a gateway has at hand.
    pub(super) fn logs(&self, call: &Call) -> Answer {
        if self.running.is_none() {
            return Err(Reply::problem(409, "no gateway runs, so none has its log at hand: see where it was written"));
        }
        let lines = logs::recent(call.number("n")?.unwrap_or(LINES));
        let lines: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Reply::json(&json!({ "lines": lines })))
    }

    /// What happened in a span of time.
    async fn spent(&self, call: &Call) -> Answer {
        let now = clock::wall_ms();
        let (since, until) = (time(call, "since", now)?.unwrap_or(0), time(call, "until", now)?);
        let (ledger, lost) = self.store.spent(since, until.unwrap_or(i64::MAX)).await?;
        let lost: Vec<Value> = lost
            .into_iter()
            .map(|lost| {
                let (from, to) = (clock::rfc3339(lost.from), clock::rfc3339(lost.to));
                json!({ "from": from, "to": to, "topic": lost.topic, "consumer": lost.consumer, "what": lost.what,
                    "count": lost.count, "reason": lost.reason })
            })
            .collect();
        let (since, until) = (clock::rfc3339(since), clock::rfc3339(until.unwrap_or(now)));
        Ok(Reply::json(&json!({ "since": since, "until": until, "ledger": ledger, "losses": lost })))
    }

    /// Progress, not existence: the store's writer answers, and no pipeline is stuck. An upstream that is down is no reason
    /// to be restarted.
    pub(super) async fn health(&self) -> Answer {
        let mut wrong: Vec<String> = self.store.answers(PROGRESS).await.err().into_iter().collect();
        wrong.extend(self.running.iter().flat_map(Running::stuck).map(|name| format!("{name} makes no progress")));
        Ok(verdict("healthy", &wrong))
    }

    /// Whether events are taken in.
    pub(super) fn readiness(&self) -> Answer {
        let full = self.store.is_full().then(|| "the store is full".to_owned());
        Ok(verdict("ready", &full.into_iter().collect::<Vec<_>>()))
    }
}

/// A time of a query: RFC 3339, or a span before now.
fn time(call: &Call, name: &str, now: i64) -> Result<Option<i64>, Reply> {
    let Some(text) = call.text(name) else { return Ok(None) };
    let ago = text.parse::<Span>().ok().filter(|_| text.ends_with(|c: char| c.is_ascii_alphabetic()));
    let time =
        ago.map(|ago| now.saturating_sub(clock::millis_of(ago.0.as_millis()))).or_else(|| clock::parse_time(&text));
    let wrong = format!(
        "`{name}`: expected a time such as `2026-11-29T10:00:00Z`, or a span before now such as `2h`, instead of `{text:.40}`"
    );
    time.map(Some).ok_or_else(|| Reply::problem(400, &wrong))
}

fn verdict(name: &str, wrong: &[String]) -> Reply {
    if wrong.is_empty() {
        return Reply::json(&json!({ name: true, "why": wrong }));
    }
    let problem =
        json!({ "type": "about:blank", "status": 503, "detail": wrong.join("; "), name: false, "why": wrong });
    Reply { status: 503, media: "application/problem+json", ..Reply::json(&problem) }
}

/// A dead letter: what it holds is the event with its envelope, or else the bytes as they came, as text.
pub(super) fn shown(letter: &Letter) -> Value {
    let dead = &letter.dead;
    let event = std::str::from_utf8(&dead.body).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let event = event.map(|raw| Json::trusted(raw.get().as_bytes())).filter(|json| json.member("body").is_some());
    let mut shown = json!({
        "id": letter.id, "at": clock::rfc3339(letter.at), "consumer": dead.consumer, "topic": dead.topic, "seq": dead.seq,
        "event_id": dead.event, "reason": dead.reason,
    });
    match event.and_then(|json| serde_json::from_slice::<Value>(json.raw()).ok()) {
        Some(event) => shown["event"] = event,
        None => shown["bytes"] = String::from_utf8_lossy(&dead.body).into(),
    }
    shown
}
