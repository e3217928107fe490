//! What is asked and answered, whoever asks: HTTP, or the command line on a store whose gateway does not run.

use super::{config, metrics};
use crate::{
    clock,
    event::walk::Json,
    runtime::Running,
    store::{Letter, Refusal, Store, Which},
    systems::http::decode,
};
use serde_json::{Value, json, value::RawValue};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::Mutex;

/// Dead letters in one answer, if it does not say otherwise, and at most.
const LETTERS: usize = 100;
const MOST_LETTERS: usize = 1000;
/// The writer of a store that works answers sooner.
const PROGRESS: Duration = Duration::from_secs(5);

/// A request.
pub struct Call {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    body: String,
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
        Call { method: method.to_owned(), path: path.to_owned(), query: pairs.collect(), body: String::new() }
    }

    /// The same, with a text.
    pub fn with_body(self, body: String) -> Call {
        Call { body, ..self }
    }

    pub(super) fn brings_text(&self) -> bool {
        config::brings_text(&self.method, &self.path)
    }

    pub(super) fn body(&self) -> &str {
        &self.body
    }

    /// Whether it needs no token.
    pub fn is_open(&self) -> bool {
        self.method == "GET" && ["/healthz", "/readyz", "/metrics"].contains(&self.path.as_str())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.query.get(name).filter(|text| !text.is_empty()).cloned()
    }

    pub(super) fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Reply> {
        let wrong =
            |text: &String| Reply::problem(400, &format!("`{name}`: expected a number instead of `{text:.40}`"));
        self.query.get(name).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }

    /// The dead letters it is about.
    fn which(&self) -> Result<Which, Reply> {
        let (id, before) = (self.number("id")?, self.number("before")?);
        Ok(Which { id, consumer: self.text("consumer"), topic: self.text("topic"), before })
    }

    /// As that, but only where it says so are they all.
    fn chosen(&self) -> Result<Which, Reply> {
        let which = self.which()?;
        let all = which.id.is_none() && which.consumer.is_none() && which.topic.is_none() && which.before.is_none();
        if all && self.text("all").as_deref() != Some("true") {
            return Err(Reply::problem(400, "expected `id`, `consumer`, `topic`, `before`, or `all=true`"));
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
    fn json(value: &Value) -> Reply {
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
    store: Store,
    /// `None` where no gateway runs.
    running: Option<Running>,
    /// One answer is made at a time: it may take some memory.
    turn: Mutex<()>,
}

impl Desk {
    /// The gateway that runs.
    pub(super) fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Of a gateway that runs.
    pub fn of(running: Running) -> Desk {
        Desk { store: running.store().clone(), running: Some(running), turn: Mutex::default() }
    }

    /// Of a store whose gateway does not run.
    pub fn of_store(store: Store) -> Desk {
        Desk { store, running: None, turn: Mutex::default() }
    }

    /// Answers a call; what is wrong with it is the answer, too.
    pub async fn answer(&self, call: &Call) -> Reply {
        let path = call.path.strip_prefix("/api/v1").unwrap_or_default();
        let apart = call.is_open() || config::is_about(path);
        let _turn = if apart { None } else { Some(self.turn.lock().await) };
        self.result(call).await.unwrap_or_else(|refused| refused)
    }

    async fn result(&self, call: &Call) -> Result<Reply, Reply> {
        let path = call.path.strip_prefix("/api/v1").unwrap_or(&call.path);
        let known = match (call.method.as_str(), path) {
            ("GET", "/healthz") => return Ok(self.health().await),
            ("GET", "/readyz") => return Ok(self.readiness()),
            ("GET", "/metrics") => {
                let body = metrics::text(&self.store, self.running.as_ref()).await.into_bytes();
                return Ok(Reply { status: 200, media: "text/plain; version=0.0.4", body });
            }
            ("GET", "/status") => self.status().await?,
            (method, path) if config::is_about(path) => {
                let none = || Reply::problem(409, "no gateway runs");
                config::answer(self.running.as_ref().ok_or_else(none)?, method, path, call).await?
            }
            ("GET", "/ledger") => json!({ "ledger": self.store.ledger() }),
            ("GET", "/dead") => {
                let limit = call.number("limit")?.unwrap_or(LETTERS).min(MOST_LETTERS);
                let letters = self.store.letters(&call.which()?, limit).await?;
                json!({ "letters": letters.iter().map(shown).collect::<Vec<_>>(),
                    "count": self.store.count_letters(&call.which()?).await? })
            }
            ("POST", "/dead/retry") => {
                let done = self.store.retry(&call.chosen()?).await?;
                json!({ "retried": done.retried, "left": done.left })
            }
            ("POST", "/dead/purge") => json!({ "purged": self.store.purge(&call.chosen()?).await? }),
            ("POST", path) if pause_of(path).is_some() => {
                let (name, paused) = pause_of(path).unwrap_or_default();
                if !self.store.pause(name, paused).await? {
                    return Err(Reply::problem(404, &format!("there is no consumer `{name:.80}`")));
                }
                json!({ "consumer": name, "paused": paused })
            }
            (
                _,
                "/healthz" | "/readyz" | "/metrics" | "/status" | "/ledger" | "/dead" | "/dead/retry" | "/dead/purge",
            ) => {
                return Err(Reply::problem(405, "this method does nothing here"));
            }
            _ => return Err(Reply::problem(404, "there is nothing here")),
        };
        Ok(Reply::json(&known))
    }

    async fn status(&self) -> Result<Value, Reply> {
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
            all["down"] = down
                .map(|(name, reason, seconds)| json!({ "name": name, "reason": reason, "seconds": seconds }))
                .collect();
            all["held"] = held.collect();
            all["config"] = config::state(running);
        }
        Ok(all)
    }

    /// Progress, not existence: the store's writer answers, and no pipeline is stuck. An upstream that is down is no reason
    /// to be restarted.
    async fn health(&self) -> Reply {
        let mut wrong: Vec<String> = self.store.answers(PROGRESS).await.err().into_iter().collect();
        wrong.extend(self.running.iter().flat_map(Running::stuck).map(|name| format!("{name} makes no progress")));
        verdict("healthy", &wrong)
    }

    /// Whether events are taken in.
    fn readiness(&self) -> Reply {
        let full = self.store.is_full().then(|| "the store is full".to_owned());
        verdict("ready", &full.into_iter().collect::<Vec<_>>())
    }
}

/// `/consumers/NAME/pause` and `resume`.
fn pause_of(path: &str) -> Option<(&str, bool)> {
    let (name, what) = path.strip_prefix("/consumers/")?.rsplit_once('/')?;
    matches!(what, "pause" | "resume").then_some((name, what == "pause"))
}

fn verdict(name: &str, wrong: &[String]) -> Reply {
    let mut reply = Reply::json(&json!({ name: wrong.is_empty(), "why": wrong }));
    reply.status = if wrong.is_empty() { 200 } else { 503 };
    reply
}

/// A dead letter: what it holds is the event with its envelope, or else the bytes as they came, as text.
fn shown(letter: &Letter) -> Value {
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
