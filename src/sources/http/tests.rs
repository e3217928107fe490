use super::*;
use crate::{
    budget::{Pool, Pools},
    event::Batch,
    kind::{Before, Fields, Params, Scope},
    store::{Options, Start, Store},
    systems::tls::{self, ClientTls},
};
use flate2::{Compression, write::GzEncoder};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

struct Gate {
    addr: SocketAddr,
    store: Store,
    task: JoinHandle<Result<(), Fault>>,
    _dir: tempfile::TempDir,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn open(config: Value) -> Gate {
    open_with(config, Fields { max_event: 64 << 10, priority: 4, ..Fields::default() }, Options::default(), None).await
}

async fn open_with(config: Value, fields: Fields, options: Options, before: Option<Arc<dyn Before>>) -> Gate {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = Store::open(Options { path: Some(dir.path().join("t.db")), ..options }).unwrap();
    store.consumer("all", &["hook".into()], Start::Oldest).await.unwrap();
    let intake = Intake::new("hook", fields, store.clone(), before);
    let source = Http::new(Params::new("hook", Scope::default(), config).decode().unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { source.serve(listener, &intake).await });
    Gate { addr, store, task, _dir: dir }
}

impl Gate {
    /// Sends bytes as they are and gives everything that comes back until the connection ends.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(bytes).await.ok();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.ok();
        String::from_utf8(text).unwrap()
    }

    async fn post(&self, path: &str, headers: &str, body: &[u8]) -> String {
        let mut request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}").into_bytes();
        request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
        self.raw(&request).await
    }

    /// What is stored: `id key body`.
    async fn stored(&self) -> Vec<String> {
        let topics = ["hook".into()];
        let consumer = self.store.consumer("all", &topics, Start::Oldest).await.unwrap();
        let mut reader = self.store.reader(consumer, &topics);
        let mut all = Vec::new();
        while let Some(lot) = reader.poll(1000, 1 << 20).await.unwrap() {
            all.extend(lot.events.into_iter().map(|event| {
                let body = String::from_utf8(event.body.to_bytes().to_vec()).unwrap();
                format!("{} {} {body}", event.id.text(), event.key.as_str())
            }));
        }
        all
    }

    async fn count(&self) -> u64 {
        self.store.ledger().iter().map(|ledger| ledger.accepted).sum()
    }
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn body(answer: &str) -> Value {
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn every_form_of_a_body_is_taken_in_order() {
    let gate = open(json!({})).await;
    let mut want = Vec::new();
    for (headers, body, ids) in [
        ("", r#" {"a":1} "#, vec![r#"{"a":1}"#]),
        ("Content-Type: application/json\r\n", r#"[{"a":2}, {"a":3}]"#, vec![r#"{"a":2}"#, r#"{"a":3}"#]),
        (
            "Content-Type: application/x-ndjson; charset=utf-8\r\n",
            "{\"a\":4}\n{\"a\":5}\n",
            vec![r#"{"a":4}"#, r#"{"a":5}"#],
        ),
        ("Content-Type: application/jsonl\r\n", "{\"a\":6}\r\n\r\n{\"a\":7}", vec![r#"{"a":6}"#, r#"{"a":7}"#]),
        ("Content-Type: text/json\r\n", r#"{"a":8}{"a":9}"#, vec![r#"{"a":8}"#, r#"{"a":9}"#]),
        ("Content-Type: APPLICATION/Senml+JSON\r\n", r#"[{"a":"]"}]"#, vec![r#"{"a":"]"}"#]),
        ("Content-Encoding: identity\r\n", r#"{"a":1e999}"#, vec![r#"{"a":1e999}"#]),
    ] {
        let answer = gate.post("/v1/events", headers, body.as_bytes()).await;
        assert_eq!(status(&answer), 202, "{answer}");
        let said = self::body(&answer);
        assert_eq!((&said["accepted"], &said["repeats"]), (&json!(ids.len()), &json!(0)), "{answer}");
        want.extend(ids.iter().enumerate().map(|(i, body)| format!("{}  {body}", said["ids"][i].as_str().unwrap())));
    }
    let packed = gzip(br#"{"a":"packed"}"#);
    let answer = gate.post("/v1/events", "Content-Encoding: gzip\r\n", &packed).await;
    assert_eq!(status(&answer), 202, "{answer}");
    want.push(format!("{} {}", self::body(&answer)["ids"][0].as_str().unwrap(), r#" {"a":"packed"}"#));
    assert_eq!(gate.stored().await, want);
}

#[tokio::test]
async fn what_is_refused_is_refused_whole_and_says_why() {
    let gate = open(json!({"max_body": "256KiB"})).await;
    let deep = "[".repeat(100_000);
    let nested = format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65));
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(70_000));
    let many = "{}".repeat(10_001);
    let long_key = format!("/v1/events/{}", "k".repeat(1025));
    let long_id = format!("Idempotency-Key: {}\r\n", "i".repeat(201));
    let flood = "X-A: 1\r\n".repeat(80);
    let huge = vec![b' '; 300 << 10];
    let varied: Vec<u8> = (0..60_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
    let (v1, none) = ("/v1/events", "");
    let rows: &[(&str, &str, &[u8], u16, &str)] = &[
        (v1, none, b"", 400, "there is no event in the body"),
        (v1, none, b" \n", 400, "there is no event in the body"),
        (v1, none, b"[]", 400, "there is no event in the body"),
        (v1, none, b"{\"a\":1}\n{\"a\":}", 400, "event 1 (byte 13, line 2): expected a value; nothing was stored"),
        (v1, none, b"[{\"a\":\"],\"},\n {\"a\":NaN}]", 400, "event 1 (byte 19, line 2): expected a value"),
        (v1, none, b"{\"a\":1}\n{\"a\":1", 400, "event 1 (byte 14, line 2): expected `,` or `}`"),
        (v1, none, b"[{},7]", 400, "event 1 (byte 4, line 1): the body is JSON but not an object"),
        (v1, none, b"12", 400, "event 0 (byte 0, line 1): the body is JSON but not an object"),
        (v1, none, b"{\"a\":\"\xff\"}", 400, "event 0 (byte 6, line 1): expected UTF-8"),
        (v1, none, b"\xef\xbb\xbf{}", 400, "event 0 (byte 0, line 1): expected a value"),
        (v1, none, deep.as_bytes(), 400, "expected at most 64 levels of nesting"),
        (v1, none, nested.as_bytes(), 400, "expected at most 64 levels of nesting"),
        (v1, none, large.as_bytes(), 413, "the body has 70008 bytes, over the limit of 65536"),
        (v1, none, many.as_bytes(), 413, "there are more than 10000 events"),
        (v1, none, &huge, 413, "the body is over the limit of 262144 bytes"),
        (v1, "Content-Encoding: gzip\r\n", b"{}", 400, "the body is not gzip as it should be"),
        (v1, "Content-Encoding: gzip\r\n", b"", 400, "the body is not gzip"),
        (v1, "Content-Encoding: gzip\r\n", &gzip(&huge[..250_000]), 413, "grows more than 200 times"),
        (v1, "Content-Encoding: gzip\r\n", &gzip(&varied), 413, "decompressed body"),
        (v1, "Content-Encoding: br\r\n", b"{}", 415, "expected no `Content-Encoding` but `gzip`"),
        (v1, "Content-Encoding: gzip, gzip\r\n", b"{}", 415, "expected no `Content-Encoding` but `gzip`"),
        (v1, "Content-Type: text/plain\r\n", b"{}", 415, "expected `Content-Type: application/json`"),
        (v1, "Content-Type: a/b\r\nContent-Type: text/json\r\n", b"{}", 400, "`content-type` stands twice"),
        (v1, "Idempotency-Key: a\r\nIdempotency-Key: b\r\n", b"{}", 400, "`idempotency-key` stands twice"),
        (v1, "Idempotency-Key: \r\n", b"{}", 400, "expected 1 to 200 visible ASCII characters"),
        (v1, "Idempotency-Key: a b\r\n", b"{}", 400, "expected 1 to 200 visible ASCII characters"),
        (v1, &long_id, b"{}", 400, "expected 1 to 200 visible ASCII characters"),
        (v1, &flood, b"{}", 431, "expected at most 64 header lines"),
        (v1, "Sec-Fetch-Site: cross-site\r\n", b"{}", 403, "another site"),
        ("/", none, b"{}", 404, "there is only /v1/events and /v1/events/KEY"),
        ("/v1/events/", none, b"{}", 404, "there is only"),
        ("/v1/eventsx", none, b"{}", 404, "there is only"),
        ("/v1/events/%zz", none, b"{}", 400, "not percent-encoded UTF-8"),
        ("/v1/events/%ff", none, b"{}", 400, "not percent-encoded UTF-8"),
        ("/v1/events/a%0ab", none, b"{}", 400, "expected no control character in the key"),
        (&long_key, none, b"{}", 400, "the key has 1025 bytes, over the limit of 1024"),
    ];
    for (path, headers, sent, want, text) in rows {
        let answer = gate.post(path, headers, sent).await;
        assert_eq!(status(&answer), *want, "{path} {headers} {text}: {answer}");
        assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
        let said = body(&answer);
        assert!(said["detail"].as_str().unwrap().contains(text), "{text}: {said}");
        assert_eq!((&said["type"], &said["status"]), (&json!("about:blank"), &json!(want)));
    }
    assert_eq!(gate.count().await, 0);
    assert_eq!(status(&gate.post(v1, "", b"{}").await), 202);
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_the_process_lives() {
    let gate = open(json!({"max_body": "256KiB"})).await;
    let post = "POST /v1/events HTTP/1.1\r\nHost: x\r\n";
    let huge_head = format!("{post}X: {}\r\n\r\n", "x".repeat(20 << 10));
    for (request, want, text) in [
        ("GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(), 405, "allow: POST\r\n"),
        ("DELETE /v1/events/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(), 405, "allow: POST\r\n"),
        ("\x16\x03\x01\x02\r\n\r\n".to_owned(), 400, ""),
        (huge_head, 431, ""),
        (format!("{post}{}\r\n", "A: b\r\n".repeat(120)), 431, ""),
        (format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"), 400, ""),
        (format!("{post}Content-Length: -2\r\n\r\n{{}}"), 400, ""),
        (format!("{post}Content-Length: 99999999999999999999\r\n\r\n{{}}"), 400, ""),
        (format!("{post}Content-Length: 999999999999\r\n\r\n{{}}"), 413, "over the limit"),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n49000\r\n{}", " ".repeat(0x49000)), 413, "over the limit"),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"), 400, "the body does not end well"),
        (
            format!(
                "{post}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\n{{\r\n1;x=y\r\n}}\r\n0\r\nT: 1\r\n\r\n"
            ),
            202,
            "accepted",
        ),
    ] {
        let answer = gate.raw(request.as_bytes()).await;
        assert_eq!(status(&answer), want, "{:.200}: {answer}", request);
        assert!(answer.contains(text), "{answer}");
    }
    // A body that ends too early is never stored, whatever it looks like.
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    stream.write_all(format!("{post}Content-Length: 9\r\n\r\n{{}}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    assert_ne!(status(std::str::from_utf8(&rest).unwrap()), 202);
    assert_eq!(gate.count().await, 1);
}

#[tokio::test]
async fn a_body_that_asks_first_is_told_to_come() {
    let gate = open(json!({})).await;
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buf = [0; 512];
    let n = stream.read(&mut buf).await.unwrap();
    assert_eq!(&buf[..n], b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    let n = stream.read(&mut buf).await.unwrap();
    assert_eq!(status(std::str::from_utf8(&buf[..n]).unwrap()), 202);
}

#[tokio::test]
async fn requests_may_follow_each_other_without_waiting() {
    let gate = open(json!({})).await;
    let one = "POST /v1/events/k%2F1/%C3%A4 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    let last = "POST /v1/events HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}";
    let answer = gate.raw(format!("{}{last}", one.repeat(50)).as_bytes()).await;
    assert_eq!(answer.matches(" 202 Accepted\r\n").count(), 51, "{answer}");
    let stored = gate.stored().await;
    assert_eq!(stored.len(), 51);
    assert!(stored[0].ends_with(" k/1/ä {}"), "{}", stored[0]);
}

#[tokio::test]
async fn a_repeat_is_accepted_once_and_a_conflict_is_named() {
    let fields = Fields { max_event: 1 << 10, id: Some("uid".parse().unwrap()), ..Fields::default() };
    let gate = open_with(json!({}), fields, Options::default(), None).await;
    let long = format!("Idempotency-Key: {}\r\n", "i".repeat(200));
    for (headers, sent, want, said) in [
        ("", r#"{"uid":"a","n":1}"#, 202, json!({"accepted": 1, "ids": ["a"], "repeats": 0})),
        ("", r#"{"uid":"a","n":1}"#, 202, json!({"accepted": 1, "ids": ["a"], "repeats": 1})),
        ("Idempotency-Key: k\r\n", r#"{"n":1}"#, 202, json!({"accepted": 1, "ids": ["k"], "repeats": 0})),
        (&long, r#"{"n":1}"#, 202, json!({"accepted": 1, "ids": ["i".repeat(200)], "repeats": 0})),
        ("Idempotency-Key: k\r\n", r#"{"n":1}"#, 202, json!({"accepted": 1, "ids": ["k"], "repeats": 1})),
        (
            "Idempotency-Key: m\r\n",
            r#"[{"n":1},{"uid":"b"},{"n":3}]"#,
            202,
            json!({"accepted": 3, "ids": ["m/0", "b", "m/2"], "repeats": 0}),
        ),
        (
            "Idempotency-Key: m\r\n",
            r#"[{"n":1},{"uid":"a","n":2},{"uid":"c"}]"#,
            202,
            json!({"accepted": 2, "ids": ["m/0", "c"], "repeats": 1, "conflicts": [{"index": 1, "id": "a"}],
                "detail": "the id of each conflict was used before with another body; \
                           it was not accepted, but is kept in the dead letters"}),
        ),
        (
            "",
            r#"{"uid":"a","n":3}"#,
            422,
            json!({"type": "about:blank", "title": "Unprocessable Entity", "status": 422,
                "detail": "every event's id was used before with another body; \
                           they were not accepted, but are kept in the dead letters"}),
        ),
    ] {
        let answer = gate.post("/v1/events", headers, sent.as_bytes()).await;
        assert_eq!((status(&answer), body(&answer)), (want, said), "{headers}{sent}");
    }
    // Made ids are right also beside repeats: the answer names what is stored.
    let answer = gate.post("/v1/events", "", br#"{"uid":"a","n":1}{"n":7}{"uid":"d"}{"n":8}"#).await;
    let ids: Vec<String> = serde_json::from_value(body(&answer)["ids"].clone()).unwrap();
    let stored = gate.stored().await;
    assert_eq!(
        stored[stored.len() - 3..],
        [
            format!("{}  {}", ids[1], r#"{"n":7}"#),
            format!("d  {}", r#"{"uid":"d"}"#),
            format!("{}  {}", ids[3], r#"{"n":8}"#)
        ]
    );
    assert_eq!(gate.store.letters(&crate::store::Which::default(), 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_token_opens_and_nothing_else_does() {
    let gate = open(json!({"tokens": ["0123456789abcdef", "fedcba9876543210"]})).await;
    for (headers, want) in [
        ("Authorization: Bearer 0123456789abcdef\r\n", 202),
        ("Authorization: bearer  fedcba9876543210\r\n", 202),
        ("", 401),
        ("Authorization: 0123456789abcdef\r\n", 401),
        ("Authorization: Bearer\r\n", 401),
        ("Authorization: Bearer \r\n", 401),
        ("Authorization: Bearer 0123456789abcde\r\n", 401),
        ("Authorization: Bearer 0123456789abcdef0\r\n", 401),
        ("Authorization: Basic 0123456789abcdef\r\n", 401),
        ("Authorization: Bearer a\r\nAuthorization: Bearer 0123456789abcdef\r\n", 400),
    ] {
        let answer = gate.post("/v1/events", headers, b"{}").await;
        assert_eq!(status(&answer), want, "{headers}: {answer}");
        assert_eq!(answer.contains("www-authenticate: Bearer\r\n"), want == 401, "{answer}");
    }
    assert_eq!(gate.count().await, 2);
}

struct Broken;

#[async_trait]
impl Before for Broken {
    async fn pass(&self, _: &Arc<str>, _: u8, batch: &Batch) -> Result<(), String> {
        match batch.len() {
            1 => Err("climate.annotate#0: no such field".into()),
            _ => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn trouble_behind_the_listener_says_when_to_come_again() {
    let fields = Fields { max_event: 1 << 10, ..Fields::default() };
    let gate = open_with(json!({}), fields.clone(), Options::default(), Some(Arc::new(Broken))).await;
    let answer = gate.post("/v1/events", "", b"{}").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("climate.annotate#0: no such field"), "{answer}");
    tokio::time::pause();
    let answer = gate.post("/v1/events", "", b"{}{}").await;
    tokio::time::resume();
    assert!(status(&answer) == 503 && answer.contains("whether the events were stored is not known"), "{answer}");
    assert!(answer.contains("retry-after: 5\r\n"), "{answer}");

    let gate = open_with(json!({}), fields, Options::default(), None).await;
    gate.store.close().await;
    let answer = gate.post("/v1/events", "", b"{}").await;
    assert!(status(&answer) == 503 && answer.contains("the gateway is stopping"), "{answer}");
}

#[tokio::test]
async fn a_full_store_is_a_429() {
    let fields = Fields { max_event: 64 << 10, ..Fields::default() };
    let options = Options { high: 256 << 10, low: 128 << 10, ..Options::default() };
    let gate = open_with(json!({}), fields, options, None).await;
    let mut answer = String::new();
    for n in 0..100u32 {
        let noise: String = (0..5000u32).map(|i| format!("{:x}", (i + n * 5000).wrapping_mul(2_654_435_761))).collect();
        answer = gate.post("/v1/events", "", format!(r#"{{"a":"{noise}"}}"#).as_bytes()).await;
        if status(&answer) != 202 {
            break;
        }
    }
    assert!(status(&answer) == 429 && answer.contains("retry-after: 10\r\n"), "{answer}");
    assert!(answer.contains("the store is full"), "{answer}");
}

#[tokio::test]
async fn bodies_share_a_limited_memory() {
    let (half, config) = (32_767, json!({"max_body": "64KiB", "waiting": "64KiB"}));
    let fields = Fields { max_event: 64 << 10, priority: 4, ..Fields::default() };
    let stuck = open_with(config.clone(), fields, Options::default(), Some(Arc::new(Never))).await;
    let slow = open(config).await;
    for (gate, length, want) in [(&stuck, half, 429), (&slow, 60_000, 202)] {
        let mut hogs = Vec::new();
        for _ in 0..2 {
            let mut hog = TcpStream::connect(gate.addr).await.unwrap();
            let head = format!("POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{}}");
            hog.write_all(head.as_bytes()).await.unwrap();
            hog.write_all(&vec![b' '; half - 2]).await.unwrap();
            hogs.push(hog);
        }
        // Who is slow and holds memory gives it to others, who waits for the disk does not.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = gate.post("/v1/events", "", br#"{"a":1}"#).await;
        assert!(status(&answer) == want && (want == 202 || answer.contains("retry-after: 1\r\n")), "{answer}");
        let ended = tokio::time::timeout(Duration::from_millis(50), hogs[0].read(&mut [0])).await;
        assert_eq!(ended.is_ok(), want == 202, "the slowest has to go: {ended:?}");
        tokio::time::timeout(Duration::from_millis(50), hogs[1].read(&mut [0])).await.expect_err("the other stays");
    }
}

#[tokio::test]
async fn without_memory_it_is_later_and_later_it_works() {
    let pools = Pools { events: Pool::new(256 << 10), connections: Pool::new(70 << 10), ..Pools::default() };
    let options = Options { pools: pools.clone(), ..Options::default() };
    let gate = open_with(json!({}), Fields { max_event: 64 << 10, ..Fields::default() }, options, None).await;
    let others = pools.events.draw(250 << 10).unwrap();
    let begun = Instant::now();
    let body = format!(r#"{{"a":"{}"}}"#, "x".repeat(20_000));
    let answer = gate.post("/v1/events", "", body.as_bytes()).await;
    assert!(status(&answer) == 429 && answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(others);
    assert_eq!(status(&gate.post("/v1/events", "", body.as_bytes()).await), 202);
    // A thousand small events take more than their bytes.
    let many = gate.post("/v1/events", "", "{}".repeat(5000).as_bytes()).await;
    assert!(status(&many) == 413 && many.contains("more than the memory"), "{many}");
    assert_eq!(pools.events.used(), 0, "all is given back");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let others = pools.connections.draw(60 << 10).unwrap();
    let answer = gate.raw(b"").await;
    assert!(status(&answer) == 503 && answer.contains("retry-after: 1\r\n"), "{answer}");
    drop(others);
    // Where it is connections that hold it, who says nothing has to go.
    let _idle = (TcpStream::connect(gate.addr).await.unwrap(), TcpStream::connect(gate.addr).await.unwrap());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(status(&gate.post("/v1/events", "", b"{}").await), 202);
}

/// Sends a byte now and then until the other side hangs up, and says how long that took.
async fn drip(addr: SocketAddr, start: &[u8], every: Duration) -> (Duration, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let since = tokio::time::Instant::now();
    stream.write_all(start).await.unwrap();
    let mut text = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut text) => if !matches!(read, Ok(1..)) { break },
            () = tokio::time::sleep(every) => if stream.write_all(b"x").await.is_err() { break },
        }
    }
    (since.elapsed(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let gate = open(json!({})).await;
    let post = "POST /v1/events HTTP/1.1\r\nHost: x\r\n";
    tokio::time::pause();
    let (second, never) = (Duration::from_secs(1), Duration::from_secs(1000));
    for (start, every, from, to, want) in [
        (String::new(), never, 10, 11, 0),
        ("POST /v1".into(), never, 10, 11, 0),
        (format!("{post}X: "), second, 10, 12, 0),
        (format!("{post}Content-Length: 9999\r\n\r\n"), never, 5, 8, 408),
        (format!("{post}Content-Length: 9999\r\n\r\n{}", " ".repeat(200)), second, 7, 10, 408),
        (format!("{post}Content-Length: 9999\r\n\r\n{}", " ".repeat(5000)), second, 30, 33, 408),
        ("GET /v1/events HTTP/1.1\r\n\r\n".into(), never, 65, 66, 405),
        ("GET /v1/events HTTP/1.1\r\n\r\nPOST".into(), second, 10, 12, 405),
        ("GET /v1/events HTTP/1.1\r\n\r\n".into(), Duration::from_secs(30), 40, 42, 405),
    ] {
        let (took, answer) = drip(gate.addr, start.as_bytes(), every).await;
        assert_eq!(status(&answer), want, "{start:.80}: {answer}");
        assert!((from..=to).contains(&took.as_secs()), "{start:.80}: {took:?}");
    }
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_cut_off() {
    let gate = open(json!({})).await;
    tokio::time::pause();
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    let since = tokio::time::Instant::now();
    let requests = "GET /v1/events HTTP/1.1\r\n\r\n".repeat(1000);
    while stream.write_all(requests.as_bytes()).await.is_ok() {}
    assert!((65..=76).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_client_may_finish_writing_what_was_refused() {
    let gate = open(json!({})).await;
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    stream.write_all(b"POST /v1/events HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n").await.unwrap();
    for _ in 0..80 {
        stream.write_all(&[b' '; 100_000]).await.unwrap();
    }
    let mut answer = String::new();
    stream.shutdown().await.unwrap();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 413);
}

#[tokio::test]
async fn connections_end_with_the_source() {
    let gate = open(json!({})).await;
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    stream.write_all(b"POST /v1/events HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
    let mut buf = [0; 512];
    assert!(stream.read(&mut buf).await.unwrap() > 0);
    gate.task.abort();
    let ended = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buf)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
}

#[tokio::test]
async fn it_serves_https_also_to_known_clients_only() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let ca = CertifiedIssuer::self_signed(
        {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        },
        KeyPair::generate().unwrap(),
    )
    .unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &ca).unwrap();
    std::fs::write(at("ca"), ca.pem()).unwrap();
    std::fs::write(at("cert"), cert.pem()).unwrap();
    std::fs::write(at("key"), key.serialize_pem()).unwrap();
    let anonymous = ClientTls { ca: Some(at("ca")), ..ClientTls::default() };
    let known = ClientTls { cert: Some(at("cert")), key: Some(at("key")), ..anonymous.clone() };
    let open_to_all = json!({"cert": at("cert"), "key": at("key")});
    let strict = json!({"cert": at("cert"), "key": at("key"), "client_ca": at("ca")});
    for (server, client, want) in [(&open_to_all, &anonymous, 202), (&strict, &known, 202), (&strict, &anonymous, 0)] {
        let gate = open(json!({"tls": server})).await;
        let connector = tokio_rustls::TlsConnector::from(tls::client_config(client).unwrap());
        let stream = TcpStream::connect(gate.addr).await.unwrap();
        let mut stream = connector.connect(client.server_name("localhost").unwrap(), stream).await.unwrap();
        let request = b"POST /v1/events HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}";
        let mut answer = Vec::new();
        stream.write_all(request).await.ok();
        stream.read_to_end(&mut answer).await.ok();
        assert_eq!(status(std::str::from_utf8(&answer).unwrap()), want, "{server}");
        // A client that speaks no TLS gets nothing and harms nobody.
        assert_eq!(status(&gate.post("/v1/events", "", b"{}").await), 0);
        assert_eq!(gate.count().await, u64::from(want == 202));
    }
    let gate = open(json!({"tls": {"cert": at("none"), "key": at("key")}})).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(gate.task.is_finished());
}

#[tokio::test]
async fn an_honest_client_is_served_beside_slow_ones() {
    let gate = open(json!({"connections": 64})).await;
    let mut slow = Vec::new();
    for n in 0..60 {
        let mut stream = TcpStream::connect(gate.addr).await.unwrap();
        let start: &[u8] = if n % 2 == 0 {
            b"POST /v1/ev"
        } else {
            b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
        };
        stream.write_all(start).await.unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        let since = Instant::now();
        assert_eq!(status(&gate.post("/v1/events", "", b"{}").await), 202);
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    }
    for _ in 0..100 {
        slow.push(TcpStream::connect(gate.addr).await.unwrap());
    }
    let since = Instant::now();
    assert_eq!(status(&gate.post("/v1/events", "", b"{}").await), 202);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

struct Never;
#[async_trait]
impl Before for Never {
    async fn pass(&self, _: &Arc<str>, _: u8, _: &Batch) -> Result<(), String> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn who_is_being_served_keeps_the_place() {
    let fields = Fields { max_event: 64 << 10, priority: 4, ..Fields::default() };
    let gate = open_with(json!({"connections": 2}), fields, Options::default(), Some(Arc::new(Never))).await;
    let mut served = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(gate.addr).await.unwrap();
        stream.write_all(b"POST /v1/events HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
        served.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    let answer = gate.raw(b"").await;
    assert_eq!(status(&answer), 503);
    assert_eq!(body(&answer)["detail"], "there are too many connections already");
}

#[test]
fn a_wrong_configuration_names_the_field() {
    for (config, want) in [
        (json!({}), None),
        (json!({"listen": "[::1]:0"}), None),
        (json!({"listen": "0.0.0.0:80"}), Some("listen: `0.0.0.0:80` lets every machine of the network post")),
        (json!({"listen": "0.0.0.0:80", "open": true}), None),
        (json!({"listen": "[::]:80", "tokens": ["0123456789abcdef"]}), None),
        (json!({"listen": "0.0.0.0:80", "tls": {"cert": "a", "key": "b"}}), Some("listen: ")),
        (json!({"listen": "0.0.0.0:80", "tls": {"cert": "a", "key": "b", "client_ca": "c"}}), None),
        (json!({"listen": "8080"}), Some("listen: `8080` is no address and port")),
        (json!({"tokens": ["0123456789abcdef", "short"]}), Some("tokens[1]: expected at least 16 visible ASCII")),
        (json!({"max_body": 0}), Some("max_body: expected 1B to 16MiB")),
        (json!({"waiting": "1KiB"}), Some("waiting: expected at least `max_body`")),
        (json!({"connections": 0}), Some("connections: expected 1 to 10000")),
        (json!({"per_peer": 10_001}), Some("per_peer: expected 1 to 10000")),
        (json!({"port": 80}), Some("unknown field `port`")),
        (json!({"tls": {"cert": "a"}}), Some("tls: missing field `key`")),
    ] {
        let params = Params::new("hook", Scope::default(), config.clone());
        let got = (KIND.build)(params).err().map(|e| e.to_string());
        match want {
            None => assert_eq!(got, None, "{config}"),
            Some(want) => assert!(got.as_ref().is_some_and(|got| got.contains(want)), "{config}: {got:?}"),
        }
    }
}

/// `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test http::tests::throughput -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore]
async fn throughput() {
    let gate = open(json!({})).await;
    let (done, until) = (Arc::new(AtomicUsize::new(0)), Instant::now() + Duration::from_secs(3));
    let body = format!(r#"{{"device":"d1","temp":21.5,"pad":"{}"}}"#, "x".repeat(150));
    let request = format!("POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut clients = Vec::new();
    for _ in 0..16 {
        let (done, request, addr) = (done.clone(), request.clone(), gate.addr);
        clients.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut buf = [0; 1024];
            while Instant::now() < until {
                stream.write_all(request.as_bytes()).await.unwrap();
                let n = stream.read(&mut buf).await.unwrap();
                assert!(buf[..n].starts_with(b"HTTP/1.1 202") && buf[..n].ends_with(b"}"));
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let (done, (commits, _)) = (done.load(Ordering::Relaxed), gate.store.progress());
    println!("{} requests/s in {} commits/s", done / 3, commits / 3);
}
