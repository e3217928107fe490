//! What can be asked: one row for each question. From it requests are answered, and the OpenAPI document is written.

use super::{Call, Desk, Reply, config, openapi, tap};
use std::{future::ready, pin::Pin};

/// An answer, or a refusal.
pub(super) type Answer = Result<Reply, Reply>;
type Work<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// A question.
pub(super) struct Route {
    pub method: &'static str,
    /// A part in braces stands for any text, which [`Call::text`] knows by that name.
    pub path: &'static str,
    /// What the answer is, or what is done.
    pub about: &'static str,
    /// Parameters of the query: name and meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// Who may ask.
    pub to: To,
    /// What answers.
    pub work: for<'a> fn(&'a Desk, &'a Call) -> Work<'a>,
}

/// Who may ask something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// Everybody who reaches the listener.
    All,
    /// The same, where only this machine does; else who has the token.
    Near,
    /// Who has the token.
    Operator,
}

type Query = &'static [(&'static str, &'static str)];
const WHICH: Query = &[
    ("id", "one dead letter, by its number"),
    ("consumer", "only what failed at this consumer"),
    ("topic", "only events of this topic"),
    ("event", "only the event with this id"),
    ("before", "only letters with a smaller number"),
    ("limit", "at most so many; 100 without it, 1000 at most"),
];
const CHOSEN: Query = &[
    ("id", "one dead letter, by its number"),
    ("consumer", "only what failed at this consumer"),
    ("topic", "only events of this topic"),
    ("event", "only the event with this id"),
    ("before", "only letters with a smaller number"),
    ("all", "`true`: all of them"),
];

const SPAN: Query = &[
    ("since", "from this time on: RFC 3339, or a span before now such as `2h`"),
    ("until", "up to this time; now, without it"),
];

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/healthz",
        about: "200 while the store and the pipelines make progress, else 503 and why",
        query: &[],
        to: To::All,
        work: |desk, _| Box::pin(desk.health()),
    },
    Route {
        method: "GET",
        path: "/readyz",
        about: "200 while events are taken in, else 503 and why",
        query: &[],
        to: To::All,
        work: |desk, _| Box::pin(ready(desk.readiness())),
    },
    Route {
        method: "GET",
        path: "/metrics",
        about: "metrics, as Prometheus reads them",
        query: &[],
        to: To::Near,
        work: |desk, _| Box::pin(desk.metrics()),
    },
    Route {
        method: "GET",
        path: "/api/v1/openapi.json",
        about: "this document",
        query: &[],
        to: To::All,
        work: |_, _| Box::pin(ready(Ok(Reply::json(&openapi::document())))),
    },
    Route {
        method: "GET",
        path: "/api/v1/status",
        about: "how the gateway is, and what waits where",
        query: &[],
        to: To::Operator,
        work: |desk, _| Box::pin(desk.status()),
    },
    Route {
        method: "GET",
        path: "/api/v1/logs",
        about: "the newest lines of the log",
        query: &[("n", "so many; 100 without it")],
        to: To::Operator,
        work: |desk, call| Box::pin(ready(desk.logs(call))),
    },
    Route {
        method: "GET",
        path: "/api/v1/ledger",
        about: "what became of every event, by topic and consumer; with a span of time, what happened and was lost in it",
        query: SPAN,
        to: To::Operator,
        work: |desk, call| Box::pin(desk.ledger(call)),
    },
    Route {
        method: "GET",
        path: "/api/v1/trace/{id}",
        about: "the way of one event: where it is, who has it, what happened to it",
        query: &[],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.way(call)),
    },
    Route {
        method: "GET",
        path: "/api/v1/dead",
        about: "dead letters, the newest first",
        query: WHICH,
        to: To::Operator,
        work: |desk, call| Box::pin(desk.letters(call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/dead/retry",
        about: "gives dead letters back to the consumers that they failed at",
        query: CHOSEN,
        to: To::Operator,
        work: |desk, call| Box::pin(desk.retry(call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/dead/purge",
        about: "drops dead letters for ever",
        query: CHOSEN,
        to: To::Operator,
        work: |desk, call| Box::pin(desk.purge(call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/consumers/{name}/pause",
        about: "holds a consumer back, also over restarts",
        query: &[],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.pause(call, true)),
    },
    Route {
        method: "POST",
        path: "/api/v1/consumers/{name}/resume",
        about: "lets a consumer go on",
        query: &[],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.pause(call, false)),
    },
    Route {
        method: "GET",
        path: "/api/v1/topics",
        about: "what is stored, by topic and priority, and how long it is kept",
        query: &[],
        to: To::Operator,
        work: |desk, _| Box::pin(desk.topics()),
    },
    Route {
        method: "GET",
        path: "/api/v1/consumers",
        about: "pipelines, sinks and clients: where each is, what waits for it, what is in its way",
        query: &[],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.consumers(call)),
    },
    Route {
        method: "GET",
        path: "/api/v1/consumers/{name}",
        about: "one of them",
        query: &[],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.consumers(call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/consumers/{name}/seek",
        about: "moves a pipeline or sink back, to get again what is still stored, or forward, past what it is not to get",
        query: &[
            ("to", "`oldest`, `newest`, a sequence number, a time as RFC 3339 says, or a span back from now: `-1h`"),
            ("topic", "only in this topic"),
            ("priority", "only at this priority"),
        ],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.seek(call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/consumers/{name}/forget",
        about: "forgets a pipeline, a sink or an MQTT session that is not in the configuration any more, what waits for it, and what it remembers",
        query: &[],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.forget(call)),
    },
    Route {
        method: "GET",
        path: "/api/v1/events",
        about: "stored events of a topic, in the order in which they are read: 4 MiB at most",
        query: &[
            ("topic", "which topic"),
            ("priority", "only this priority"),
            ("from", "the first: `oldest`, or a sequence number"),
            ("time", "the first: taken in at this time, as RFC 3339 says, or so long ago: `-1h`"),
            ("limit", "at most so many; 100 without it, 1000 at most"),
        ],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.events(call)),
    },
    Route {
        method: "GET",
        path: "/api/v1/events/{id}",
        about: "stored events with an id; each topic that it went through has one. Looks for 10 s at most",
        query: &[("topic", "only in this topic")],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.event(call)),
    },
    Route {
        method: "GET",
        path: "/api/v1/state",
        about: "which processes remember something; of one, what, and when its timers are due: 4 MiB at most",
        query: &[
            ("owner", "the process: `PIPELINE.PROCESS`"),
            ("prefix", "only keys that begin with this"),
            ("limit", "at most so many; 100 without it, 1000 at most"),
        ],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.state(call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/log",
        about: "how much is logged, until the next start",
        query: &[("level", "`off`, `error`, `warn`, `info`, `debug` or `trace`")],
        to: To::Operator,
        work: |desk, call| Box::pin(ready(desk.log_level(call))),
    },
    Route {
        method: "GET",
        path: config::PATH,
        about: "the versions of the configuration, which runs, and how the file differs",
        query: &[],
        to: To::Operator,
        work: |desk, _| Box::pin(ready(config::all(desk.running()))),
    },
    Route {
        method: "GET",
        path: "/api/v1/config/{number}",
        about: "a version of the configuration, with its text",
        query: &[],
        to: To::Operator,
        work: |desk, call| Box::pin(ready(config::one(desk.running(), call))),
    },
    Route {
        method: "POST",
        path: config::PATH,
        about: "another configuration, the text in the body: checked, written over the file, taken over",
        query: &[("confirm", "seconds after which it goes back, unless it is confirmed")],
        to: To::Operator,
        work: |desk, call| Box::pin(config::apply(desk.running(), call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/config/confirm",
        about: "the configuration on trial stays",
        query: &[],
        to: To::Operator,
        work: |desk, _| Box::pin(config::confirm(desk.running())),
    },
    Route {
        method: "POST",
        path: "/api/v1/config/rollback",
        about: "an earlier configuration",
        query: &[("to", "the number of its version; the one before without it")],
        to: To::Operator,
        work: |desk, call| Box::pin(config::rollback(desk.running(), call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/query",
        about: "answers a SELECT, which is the body, over stored events and states",
        query: &[
            ("rows", "at most so many; 1000 without it"),
            ("ms", "milliseconds it may take; 5000 without it, 60000 at most"),
        ],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.query(call)),
    },
    Route {
        method: "POST",
        path: "/api/v1/import",
        about: "takes in events with their envelopes, a line each, which are the body; an import that was begun goes on where it was",
        query: &[
            ("name", "of the import: the SHA-256 of the whole, in hexadecimal"),
            ("at", "how many of its lines come before these"),
            ("topic", "the topic of all of them, whatever they say"),
        ],
        to: To::Operator,
        work: |desk, call| Box::pin(desk.import(call)),
    },
    Route {
        method: "GET",
        path: tap::PATH,
        about: "events as they pass, with their envelopes, a line each; `{\"tapped\":…,\"dropped\":…}` is no event but a count, when events find no room and as the last line",
        query: &[
            ("of", "a topic, or `PIPELINE.PROCESS`: what comes out of it"),
            ("when", "only events for which this condition holds"),
            ("n", "at most so many"),
            ("for", "how long, `10s`; 10 minutes at most, and without it"),
        ],
        to: To::Operator,
        // Of a gateway that runs, it is answered before it comes here.
        work: |_, _| Box::pin(ready(Err(Reply::problem(503, "no gateway runs: nothing passes")))),
    },
];

/// What stood for the parts in braces, by their names.
type Parts<'a> = Vec<(&'static str, &'a str)>;

/// The route of a request, and what stood for the parts in braces; or the status of a refusal.
pub(super) fn find<'a>(method: &str, path: &'a str) -> Result<(&'static Route, Parts<'a>), u16> {
    let mut status = 404;
    for route in ROUTES {
        match fits(route.path, path) {
            Some(parts) if route.method == method => return Ok((route, parts)),
            Some(_) => status = 405,
            None => {}
        }
    }
    Err(status)
}

/// The name in braces.
pub(super) fn braced(part: &str) -> Option<&str> {
    part.strip_prefix('{')?.strip_suffix('}')
}

fn fits<'a>(pattern: &'static str, path: &'a str) -> Option<Parts<'a>> {
    let mut parts = Vec::new();
    let (mut path, mut pattern) = (path.split('/'), pattern.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(parts),
            (Some(want), Some(got)) => match braced(want) {
                Some(name) if !got.is_empty() => parts.push((name, got)),
                _ if want == got => {}
                _ => return None,
            },
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_finds_its_row_or_a_refusal() {
        for (method, path, want) in [
            ("GET", "/healthz", Ok(("/healthz", vec![]))),
            ("POST", "/healthz", Err(405)),
            ("GET", "/healthz/", Err(404)),
            ("GET", "/", Err(404)),
            ("GET", "", Err(404)),
            (
                "POST",
                "/api/v1/consumers/sinks.a/pause",
                Ok(("/api/v1/consumers/{name}/pause", vec![("name", "sinks.a")])),
            ),
            ("GET", "/api/v1/consumers/sinks.a/pause", Err(405)),
            ("POST", "/api/v1/consumers//pause", Err(404)),
            ("POST", "/api/v1/consumers/a/b/pause", Err(404)),
        ] {
            assert_eq!(find(method, path).map(|(route, parts)| (route.path, parts)), want, "{method} {path}");
        }
    }

    #[test]
    fn no_two_rows_are_the_same_question() {
        for (at, route) in ROUTES.iter().enumerate() {
            let again = ROUTES[..at].iter().find(|r| r.method == route.method && fits(r.path, route.path).is_some());
            assert!(again.is_none(), "{} {}", route.method, route.path);
        }
    }
}
