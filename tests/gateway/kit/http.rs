//! An HTTP upstream that remembers what it was sent, and a client for the gateway's listener.

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Read,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::task::{AbortHandle, JoinSet};

/// A request as it came upstream.
#[derive(Clone, Debug)]
pub struct Post {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// Decompressed.
    pub body: String,
    pub at: Instant,
    /// What it was answered.
    pub status: u16,
}

impl Post {
    /// The events in it: of a list, of lines, or the one.
    pub fn events(&self) -> Vec<Value> {
        let documents = serde_json::Deserializer::from_str(&self.body).into_iter::<Value>();
        let flat = documents.map(|d| d.unwrap()).flat_map(|d| match d {
            Value::Array(events) => events,
            event => vec![event],
        });
        flat.collect()
    }
}

/// An upstream that answers as it is told. It ends with the value.
pub struct Upstream {
    posts: Arc<Mutex<Vec<Post>>>,
    task: AbortHandle,
}

impl Upstream {
    /// Listens; `answer` gives the status of a request, which is remembered before it is answered.
    pub fn start(port: u16, answer: impl Fn(&Post) -> u16 + Send + Sync + 'static) -> Upstream {
        let listener = super::listen(port);
        let (posts, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let kept = posts.clone();
        let task = super::runtime().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, answer) = (kept.clone(), answer.clone());
                let service = service_fn(move |request| reply(request, kept.clone(), answer.clone()));
                connections.spawn(async move {
                    http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        Upstream { posts, task: task.abort_handle() }
    }

    /// All requests so far.
    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    /// The events of all requests that were answered 2xx.
    pub fn events(&self) -> Vec<Value> {
        self.posts().iter().filter(|p| p.status < 300).flat_map(Post::events).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn reply(
    request: Request<Incoming>,
    kept: Arc<Mutex<Vec<Post>>>,
    answer: Arc<impl Fn(&Post) -> u16>,
) -> Result<Response<Full<&'static [u8]>>, Infallible> {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    let text = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    let headers: BTreeMap<_, _> = head.headers.iter().map(text).collect();
    // A client that was killed half way through is no request.
    let Ok(body) = body.collect().await else { return Ok(Response::default()) };
    let bytes = body.to_bytes();
    let mut text = String::new();
    if headers.get("content-encoding").is_some_and(|e| e == "gzip") {
        flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes.to_vec()).unwrap();
    }
    let mut post = Post { path: head.uri.path().to_owned(), headers, body: text, at, status: 0 };
    post.status = answer(&post);
    let status = post.status;
    kept.lock().unwrap().push(post);
    let mut response = Response::new(Full::new(&b"{}"[..]));
    *response.status_mut() = status.try_into().unwrap();
    Ok(response)
}

/// Posts and gives status and body; `None` when there was no answer.
pub fn post(url: &str, body: &str) -> Option<(u16, String)> {
    thread_local! {
        static AGENT: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .into();
    }
    let sent = AGENT.with(|agent| agent.post(url).content_type("application/json").send(body));
    let mut response = sent.ok()?;
    let text = response.body_mut().read_to_string().ok()?;
    Some((response.status().as_u16(), text))
}
