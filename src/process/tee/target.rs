//! Where a copy goes.

use super::file;
use crate::{
    budget::Span,
    event::Event,
    expr::{Expr, Value},
    fault::Fault,
    kind::{Params, ParamsError, side_topic},
    systems::{
        http::{self, Client, Method, Settings},
        kv::Kv,
        objects::Objects,
        pubsub::PubSub,
        tls::ClientTls,
    },
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use tokio::task::spawn_blocking;

/// Where the copy goes. The copy for a topic, a sink, a URL or a broker has the id `ID.NAME`, with the name of the
/// process; in a key-value store, an object store or a directory it is kept under the event's id, or `key`: of two tees
/// to one place at least one needs a `key`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct To {
    /// A topic; with `publish` the broker's.
    #[schemars(length(min = 1))]
    topic: Option<String>,
    /// A sink of the gateway.
    sink: Option<String>,
    /// A key-value store of `systems`.
    kv: Option<String>,
    /// An object store of `systems`.
    objects: Option<String>,
    /// A broker of `systems`; with `topic`.
    publish: Option<String>,
    /// A directory, in which each copy becomes a file `ID.json`.
    #[schemars(with = "Option<String>")]
    directory: Option<PathBuf>,
    /// A URL to which each copy is posted as JSON; any 2xx is success.
    http: Option<Http>,
    /// With `kv`, `objects` or `directory`: an expression for the key, a text or a number. Default: the event's id.
    key: Option<Expr>,
    /// With `kv`: how long it is kept; without, for ever.
    ttl: Option<Span>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Http {
    /// `https://…` or `http://…`, without user and password.
    url: String,
    /// `POST` or `PUT`.
    #[serde(default)]
    method: Method,
    /// Headers of every request. Refer to secrets with `${file:…}` or `${cred:…}`.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// How long a request may take in all, `100ms` to `10m`. After that it is tried again, as after 408, 425, 429 and 5xx.
    #[serde(default = "ten_seconds")]
    timeout: Span,
    /// How the server is trusted, and a client certificate.
    #[serde(default)]
    tls: Option<ClientTls>,
    /// The header that carries the copy's id, the same when it is sent again.
    #[serde(default = "idempotency_key")]
    idempotency_header: String,
}

fn ten_seconds() -> Span {
    Span::millis(10_000)
}

fn idempotency_key() -> String {
    "Idempotency-Key".into()
}

pub(super) enum Target {
    Topic(Arc<str>),
    Sink { name: String, topic: Arc<str> },
    Kv { name: String, store: Arc<dyn Kv>, key: Option<Expr>, ttl: Option<Span> },
    Objects { name: String, store: Arc<dyn Objects>, key: Option<Expr> },
    Publish { name: String, broker: Arc<dyn PubSub>, topic: String },
    Directory { path: Arc<PathBuf>, key: Option<Expr>, by: String },
    Http(Link),
}

/// Requests to a URL; they end with it, so that the gateway's stop need not wait for them.
pub(super) struct Link(Arc<Client>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Target {
    pub fn new(to: To, params: &Params) -> Result<Self, ParamsError> {
        let scope = &params.scope;
        let at = |field: &'static str| move |message: String| ParamsError::at(format!("to.{field}"), message);
        let To { topic, sink, kv, objects, publish, directory, http, key, ttl } = to;
        if ttl.is_some() && kv.is_none() {
            return Err(ParamsError::at("to.ttl", "only with `kv`"));
        }
        if key.is_some() && kv.is_none() && objects.is_none() && directory.is_none() {
            return Err(ParamsError::at("to.key", "only with `kv`, `objects` or `directory`"));
        }
        Ok(match (topic, sink, kv, objects, publish, directory, http) {
            (Some(topic), None, None, None, None, None, None) => Target::Topic(topic.into()),
            (None, Some(name), None, None, None, None, None) => {
                Target::Sink { name, topic: side_topic(&scope.pipeline, &params.name).into() }
            }
            (None, None, Some(name), None, None, None, None) => {
                Target::Kv { store: scope.systems.kv(&name).map_err(at("kv"))?, name, key, ttl }
            }
            (None, None, None, Some(name), None, None, None) => {
                Target::Objects { store: scope.systems.objects(&name).map_err(at("objects"))?, name, key }
            }
            (Some(topic), None, None, None, Some(name), None, None) => {
                Target::Publish { broker: scope.systems.pubsub(&name).map_err(at("publish"))?, name, topic }
            }
            (None, None, None, None, Some(_), None, None) => {
                return Err(ParamsError::at("to", "`publish` needs a `topic`"));
            }
            (None, None, None, None, None, Some(path), None) => {
                Target::Directory { path: path.into(), key, by: format!("{}.{}", scope.pipeline, params.name) }
            }
            (None, None, None, None, None, None, Some(http)) => {
                let link = link(http).map_err(|(field, what)| ParamsError::at(format!("to.http.{field}"), what))?;
                Target::Http(link)
            }
            _ => {
                let all = "`topic`, `sink`, `kv`, `objects`, `publish`, `directory` and `http`";
                return Err(ParamsError::at("to", format!("expected one of {all}")));
            }
        })
    }

    /// What `internal:tee:output` says of it: which sort, and the name, path or URL, without secrets.
    pub fn described(&self) -> (&'static str, String) {
        match self {
            Target::Topic(topic) => ("topic", topic.to_string()),
            Target::Sink { name, .. } => ("sink", name.clone()),
            Target::Kv { name, .. } => ("kvstore", name.clone()),
            Target::Objects { name, .. } => ("object", name.clone()),
            Target::Publish { name, .. } => ("pubsub", name.clone()),
            Target::Directory { path, .. } => ("localfile", path.display().to_string()),
            Target::Http(link) => ("web", link.0.place()),
        }
    }

    /// Puts the copy there. Gives the id that it has there, and the answer of a server.
    pub async fn put(&self, event: &Event, copy: Event) -> Result<(String, Vec<u8>), Fault> {
        let (id, body) = (copy.id.text().into_owned(), copy.body.to_bytes());
        let kept_as = match self {
            Target::Topic(_) | Target::Sink { .. } => id, // it is sent with the step
            Target::Kv { store, key, ttl, .. } => {
                let key = key_of(key.as_ref(), event)?;
                store.put(&key, &body, ttl.map(|ttl| ttl.0)).await?;
                key
            }
            Target::Objects { store, key, .. } => {
                let key = key_of(key.as_ref(), event)?;
                store.put(&key, &body).await?;
                key
            }
            Target::Publish { broker, topic, .. } => {
                broker.publish(topic, &body).await?;
                id
            }
            Target::Directory { path, key, by } => {
                let key = key_of(key.as_ref(), event)?;
                let (dir, name, by) = (path.clone(), key.clone(), by.clone());
                let write = move || {
                    let failed = |e| Fault::retry(format!("cannot write to `{}`: {e}", dir.display()));
                    file::write(&dir, &name, &by, &body).map_err(failed)
                };
                spawn_blocking(write).await.map_err(Fault::retry)??;
                key
            }
            Target::Http(link) => {
                let (client, parent) = (link.0.clone(), copy.parent().map(str::to_owned));
                let key = http::key(&[copy]);
                let sent = spawn_blocking(move || client.send(&key, parent.as_deref(), &body)).await;
                let (_, answer) = sent.map_err(Fault::retry)??;
                return Ok((id, answer));
            }
        };
        Ok((kept_as, Vec::new()))
    }
}

fn link(http: Http) -> Result<Link, (String, String)> {
    let settings = Settings {
        url: http.url,
        method: http.method,
        headers: http.headers,
        media: "application/json",
        gzip: false,
        key: http.idempotency_header,
        retry: Vec::new(),
        timeout: http.timeout.0,
        tls: http.tls.unwrap_or_default(),
    };
    Ok(Link(Arc::new(Client::new(settings)?)))
}

/// What a copy is kept under.
fn key_of(key: Option<&Expr>, event: &Event) -> Result<String, Fault> {
    let Some(expr) = key else { return Ok(event.id.text().into_owned()) };
    match expr.eval(event).map_err(|e| Fault::reject(e).at("key"))? {
        Value::Str(text) => Ok(text.into_owned()),
        value @ (Value::Int(_) | Value::Double(_)) => Ok(String::from_utf8_lossy(&value.to_json()).into_owned()),
        other => Err(Fault::reject(format!("key: expected a text or a number, found {}", other.type_name()))),
    }
}
