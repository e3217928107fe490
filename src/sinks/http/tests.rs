use super::*;
use crate::{
    event::{Body, When},
    kind::{Params, Scope},
    systems::{
        http::testing::{Act::*, Server, ok, status},
        tls::{self, ServerTls},
    },
};
use bytes::Bytes;
use flate2::read::GzDecoder;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    thread,
    time::Instant,
};

fn sink(mut config: Value, url: &str) -> Http {
    config["url"] = url.into();
    Http::new(Params::new("cloud", Scope::default(), config).decode().unwrap()).unwrap()
}

fn event(id: &str, body: &str) -> Event {
    let body = Body::parse(Bytes::copy_from_slice(body.as_bytes())).unwrap();
    Event {
        lane: 1,
        seq: 7,
        key: "d1".into(),
        time: Some(When::Told(0)),
        meta: Bytes::from_static(b"{\"m\":\n1}"),
        ..Event::made(id.into(), "hook".into(), 1000, body)
    }
}

fn events(ids: &[&str]) -> Vec<Event> {
    ids.iter().map(|id| event(id, &format!(r#"{{"id":"{id}"}}"#))).collect()
}

/// How a delivery ended: `ok`, or the sort of fault with its text.
fn ended(result: Result<(), Fault>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(fault) => match &fault {
            Fault::Retry(_) => format!("retry: {fault}"),
            Fault::RetryAfter(wait, _) => format!("after {}: {fault}", wait.as_secs()),
            Fault::Reject(_) => format!("reject: {fault}"),
            Fault::Fatal(_) => format!("fatal: {fault}"),
        },
    }
}

#[tokio::test]
async fn a_batch_is_written_as_the_configuration_says() {
    let two = [event("a", "{\"n\":1,\n\"m\":\"\\n\"}"), event("b", r#"{"n":2}"#)];
    let envelope = |id: &str, body: &str, end: &str| {
        format!(
            "{{\"id\":\"{id}\",\"topic\":\"hook\",\"key\":\"d1\",\"priority\":4,\"time\":\"1970-01-01T00:00:00.000Z\",\
             \"intake\":\"1970-01-01T00:00:01.000Z\",\"time_quality\":\"unsynced\",\"meta\":{{\"m\":{end}1}},\"body\":{body}}}"
        )
    };
    let (first, flat) = ("{\"n\":1,\n\"m\":\"\\n\"}", "{\"n\":1, \"m\":\"\\n\"}");
    for (config, media, bodies) in [
        (json!({}), "application/json", vec![format!("[{first},{{\"n\":2}}]")]),
        (json!({"format": "ndjson"}), "application/x-ndjson", vec![format!("{flat}\n{{\"n\":2}}\n")]),
        (json!({"format": "single"}), "application/json", vec![first.into(), r#"{"n":2}"#.into()]),
        (
            json!({"format": "ndjson", "envelope": true, "gzip": true}),
            "application/x-ndjson",
            vec![format!("{}\n{}\n", envelope("a", flat, " "), envelope("b", r#"{"n":2}"#, " "))],
        ),
        (
            json!({"envelope": true, "headers": {"content-type": "application/cloudevents-batch+json"}}),
            "application/cloudevents-batch+json",
            vec![format!("[{},{}]", envelope("a", first, "\n"), envelope("b", r#"{"n":2}"#, "\n"))],
        ),
    ] {
        let server = Server::start(vec![ok(), ok()]);
        assert_eq!(ended(sink(config.clone(), &server.url()).deliver(&two).await), "ok");
        for body in bodies {
            let mut got = server.next();
            if config["gzip"] == true {
                assert_eq!(got.headers.remove("content-encoding").as_deref(), Some("gzip"));
                let mut plain = Vec::new();
                GzDecoder::new(&got.body[..]).read_to_end(&mut plain).unwrap();
                got.body = plain;
            }
            assert_eq!(String::from_utf8(got.body).unwrap(), body, "{config}");
            assert_eq!(got.line, "POST /in?x=y HTTP/1.1");
            assert_eq!(got.headers["content-type"], media);
            assert_eq!(got.headers["user-agent"], concat!("tidegate/", env!("CARGO_PKG_VERSION")));
            assert!(!got.headers.contains_key("content-encoding") && !got.headers.contains_key("accept-encoding"));
        }
    }
}

#[tokio::test]
async fn the_same_events_carry_the_same_key_over_one_connection() {
    let server = Server::start(vec![ok(), ok(), ok(), ok(), ok()]);
    let config = json!({"method": "PUT", "idempotency_header": "X-Key", "headers": {"Authorization": "Bearer canary"}});
    let mut sink = sink(config, &server.url());
    let mut keys = Vec::new();
    for ids in [&["a"][..], &["a", "b"], &["a", "b"], &["b", "a"], &["ä b"]] {
        assert_eq!(ended(sink.deliver(&events(ids)).await), "ok");
        let got = server.next();
        assert_eq!((got.connection, got.line.as_str()), (0, "PUT /in?x=y HTTP/1.1"));
        assert_eq!(got.headers["authorization"], "Bearer canary");
        keys.push(got.headers["x-key"].clone());
    }
    assert_eq!(keys[0], "a");
    assert_eq!(keys[1], keys[2]);
    assert!(keys[1] != keys[3] && keys[1] != keys[4]);
    assert!(keys[1..].iter().all(|key| key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit())), "{keys:?}");
}

#[tokio::test]
async fn an_answer_says_what_to_do_next() {
    let said = |line: &str, headers: &str, body: &str| {
        Say(format!("HTTP/1.1 {line}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()))
    };
    let chunked = "HTTP/1.1 422 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n4\r\n id \r\n0\r\n\r\n";
    let long = "x".repeat(100_000);
    for (act, want) in [
        (status("200 OK"), "ok"),
        (status("202 Accepted"), "ok"),
        (said("201 Created", "", &long), "ok"),
        (Cut("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ntorn".into()), "ok"),
        (Cut("HTTP/1.0 200 OK\r\n\r\nfine".into()), "ok"),
        (
            said("400 Bad Request", "", "event 3:\r\n\x1b[2Jno"),
            "reject: `HOST` answered 400 Bad Request: event 3:\\r\\n\\u{1b}[2Jno",
        ),
        (said("404 Not Found", "", "no Bearer canary here"), "reject: `HOST` answered 404 Not Found: no … here"),
        (said("413 Large", "Retry-After: 5\r\n", ""), "reject: `HOST` answered 413 Payload Too Large"),
        (Say(chunked.into()), "reject: `HOST` answered 422 Unprocessable Entity: bad id"),
        (status("401 Unauthorized"), "retry: `HOST` answered 401 Unauthorized"),
        (status("403 Forbidden"), "retry: `HOST` answered 403 Forbidden"),
        (status("408 Timeout"), "retry: `HOST` answered 408 Request Timeout"),
        (status("425 Early"), "retry: `HOST` answered 425 Too Early"),
        (said("429 Slow", "Retry-After: 7\r\n", ""), "after 7: `HOST` answered 429 Too Many Requests"),
        (
            said(
                "503 No",
                "Date: Sat, 21 Nov 2026 12:00:00 GMT\r\nRetry-After: Sat, 21 Nov 2026 12:00:09 GMT\r\n",
                "busy",
            ),
            "after 9: `HOST` answered 503 Service Unavailable: busy",
        ),
        (said("503 No", "Retry-After: 999999\r\n", ""), "after 3600: `HOST` answered 503 Service Unavailable"),
        (status("500 Oops"), "retry: `HOST` answered 500 Internal Server Error"),
        (said("599 ?", "Retry-After: never\r\n", ""), "retry: `HOST` answered 599 <unknown status code>"),
        (
            said("307 Moved", "Location: http://other/?x=y\r\n", ""),
            "retry: `HOST` answered 307 Temporary Redirect: set `url` to where it moved: `http://other/`",
        ),
        (said("304 Same", "", ""), "retry: `HOST` answered 304 Not Modified: set `url` to where it moved: ``"),
        (Cut("HTTP/1.1 2".into()), "retry: `HOST`: "),
        (Cut(String::new()), "retry: `HOST`: "),
        (Cut("220 mail.example.org ESMTP\r\n".into()), "retry: `HOST`: "),
        (Cut(format!("HTTP/1.1 200 OK\r\nX: {long}\r\n\r\n")), "retry: `HOST`: "),
        (Reset, "retry: `HOST`: "),
        (Stall(Duration::from_millis(900)), "retry: `HOST`: timeout: global"),
        (
            Cut("HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\ntorn".into()),
            "retry: `HOST` answered 500 Internal Server Error: torn",
        ),
    ] {
        let server = Server::start(vec![act]);
        let config = json!({"timeout": "400ms", "headers": {"Authorization": "Bearer canary"}});
        let mut sink = sink(config, &server.url());
        let got = ended(sink.deliver(&events(&["a", "b"])).await);
        let host = format!("127.0.0.1:{}", server.port);
        let want = want.replace("HOST", &host);
        assert!(if want.ends_with(": ") { got.starts_with(&want) } else { got == want }, "\n got {got}\nwant {want}");
        assert!(!got.contains("canary") && !got.contains("x=y"), "{got}");
    }
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let got = ended(sink(json!({}), &format!("http://{unused}")).deliver(&events(&["a"])).await);
    assert_eq!(got, format!("retry: `{unused}`: Connection refused (os error 111)"));
    let got = ended(sink(json!({}), "http://nowhere.invalid").deliver(&events(&["a"])).await);
    assert!(got.starts_with("retry: `nowhere.invalid`: "), "{got}");
}

#[tokio::test]
async fn single_events_that_arrived_are_not_sent_again_with_the_rest() {
    let no = || status("422 No");
    let server = Server::start(vec![ok(), ok(), no(), no(), ok(), ok(), no(), ok(), ok()]);
    let mut sink = sink(json!({"format": "single"}), &server.url());
    let all = events(&["a", "b", "c", "d"]);
    for (batch, want, sent) in [
        (&all[..], "reject", &["a", "b", "c"][..]),
        (&all[..3], "reject", &["c"]),
        (&all[..2], "ok", &[]),
        (&all[3..], "ok", &["d"]),
        (&all[1..], "reject", &["b", "c"]),
        (&all[3..], "ok", &["d"]),
        (&all[..1], "ok", &["a"]),
    ] {
        assert!(ended(sink.deliver(batch).await).starts_with(want));
        for id in sent {
            assert_eq!(server.next().headers["idempotency-key"], *id);
        }
        assert!(server.none());
    }
}

#[tokio::test]
async fn a_dropped_delivery_does_not_break_the_next() {
    let server = Server::start(vec![Stall(Duration::from_millis(900)), ok()]);
    let mut sink = sink(json!({"timeout": "600ms"}), &server.url());
    let batch = events(&["a"]);
    assert!(tokio::time::timeout(Duration::from_millis(50), sink.deliver(&batch)).await.is_err());
    let first = ended(sink.deliver(&batch).await);
    server.next();
    assert_eq!(first, "ok");
    assert_eq!(server.next().headers["idempotency-key"], "a");

    let server = Server::start(vec![Stall(Duration::from_secs(60))]);
    let mut sink = self::sink(json!({}), &server.url());
    assert!(tokio::time::timeout(Duration::from_millis(50), sink.deliver(&batch)).await.is_err());
    let task = sink.busy.take().unwrap();
    let since = Instant::now();
    drop(sink);
    task.await.unwrap().1.unwrap_err();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

fn certificates(dir: &Path) {
    let ca = |name: &str| {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.join(name), ca.pem()).unwrap();
        ca
    };
    let (good, _) = (ca("ca"), ca("other"));
    for (name, host, until) in
        [("good", "localhost", 2100), ("host", "elsewhere", 2100), ("expired", "localhost", 2020)]
    {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let cert = params.signed_by(&key, &good).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn only_the_right_server_gets_the_events() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let at = |name: &str| dir.path().join(name);
    let client = json!({"ca": at("ca"), "cert": at("good.pem"), "key": at("good.key")});
    for (cert, client_ca, tls, want) in [
        ("good", false, json!({"ca": at("ca")}), "ok"),
        ("good", true, client, "ok"),
        ("good", true, json!({"ca": at("ca")}), "retry: `localhost:PORT`: "),
        (
            "host",
            false,
            json!({"ca": at("ca")}),
            "retry: `localhost:PORT`: tls: invalid peer certificate: certificate not valid for name",
        ),
        ("host", false, json!({"ca": at("ca"), "server_name": "elsewhere"}), "ok"),
        (
            "expired",
            false,
            json!({"ca": at("ca")}),
            "retry: `localhost:PORT`: tls: invalid peer certificate: certificate expired",
        ),
        ("good", false, json!({"ca": at("other")}), "retry: `localhost:PORT`: tls: invalid peer certificate: "),
        ("good", false, json!({}), "retry: `localhost:PORT`: tls: invalid peer certificate: UnknownIssuer"),
        ("good", false, json!({"ca": at("none")}), "retry: `localhost:PORT`: "),
    ] {
        let config = tls::server_config(&ServerTls {
            cert: at(&format!("{cert}.pem")),
            key: at(&format!("{cert}.key")),
            client_ca: client_ca.then(|| at("ca")),
        })
        .unwrap();
        let server = Server::wrapped(vec![ok(), ok()], move |stream| {
            let conn = rustls::ServerConnection::new(config.clone()).unwrap();
            Some(Box::new(rustls::StreamOwned::new(conn, stream)))
        });
        let mut sink = sink(json!({"tls": tls}), &format!("https://localhost:{}/in", server.port));
        let got = ended(sink.deliver(&events(&["a"])).await);
        assert!(got.starts_with(&want.replace("PORT", &server.port.to_string())), "{cert} {tls}: {got}");
        assert_eq!(got == "ok", !server.none(), "{cert} {tls}");
        if want == "ok" {
            assert_eq!(ended(sink.deliver(&events(&["b"])).await), "ok");
            assert_eq!(server.next().connection, 0, "the connection is used again");
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_shake_hands_is_given_up() {
    let server = Server::wrapped(vec![], |_| {
        thread::sleep(Duration::from_secs(3));
        None
    });
    let mut sink = sink(json!({"timeout": "300ms"}), &format!("https://localhost:{}", server.port));
    let since = Instant::now();
    let got = ended(sink.deliver(&events(&["a"])).await);
    assert!(got.contains("timeout") && since.elapsed() < Duration::from_secs(2), "{got}: {:?}", since.elapsed());
}

#[test]
fn a_wrong_configuration_names_the_field() {
    for (config, want) in [
        (json!({"url": "https://[::1]:8443/a?b=c"}), ""),
        (json!({}), "missing field `url`"),
        (json!({"url": "example.org"}), "url: expected a URL that starts with"),
        (json!({"url": "ftp://example.org"}), "url: expected a URL that starts with"),
        (json!({"url": "http://"}), "url: not a URL"),
        (json!({"url": "http://a b"}), "url: not a URL"),
        (json!({"url": "http://u:canary@h/"}), "url: expected no user and password"),
        (json!({"url": "http://h", "method": "GET"}), "method: unknown variant `GET`"),
        (json!({"url": "http://h", "format": "xml"}), "format: unknown variant `xml`"),
        (json!({"url": "http://h", "headers": {"a b": "c"}}), "headers.a b: not the name of a header"),
        (json!({"url": "http://h", "headers": {"X": "canary\n"}}), "headers.X: expected visible ASCII"),
        (json!({"url": "http://h", "headers": {"Content-Length": "1"}}), "headers.Content-Length: this header follows"),
        (json!({"url": "http://h", "idempotency_header": ""}), "idempotency_header: not the name of a header"),
        (json!({"url": "http://h", "timeout": "1ms"}), "timeout: expected 100ms to 10m"),
        (json!({"url": "http://h", "retry_status": [404, 500]}), "retry_status: 500 is not a status of 400 to 499"),
        (json!({"url": "http://h", "tls": {"cert": "a"}}), "tls.cert: a certificate needs its private key"),
        (json!({"url": "http://h", "ulr": 1}), "unknown field `ulr`"),
    ] {
        let got = (KIND.build)(Params::new("cloud", Scope::default(), config.clone()));
        let got = got.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{config}: {got}");
        assert!(!got.contains("canary"), "{got}");
    }
}

/// Answers every connection with `start`, and then with `rest` for ever, so long apart.
fn endless(start: &str, rest: &str, pause: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (start, rest) = (start.to_owned(), rest.to_owned());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, start, rest) = (stream.unwrap(), start.clone(), rest.clone());
            thread::spawn(move || {
                let mut sent = stream.write_all(start.as_bytes());
                while sent.is_ok() {
                    sent = stream.write_all(rest.as_bytes());
                    thread::sleep(pause);
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_never_ends_its_answer_is_left_in_time() {
    let (fast, slow) = (Duration::ZERO, Duration::from_millis(40));
    let ok = "HTTP/1.1 200 OK\r\n";
    for (what, scheme, start, rest, pause, want) in [
        ("headers", "http", ok, "X-A: b\r\n", fast, "retry"),
        ("slow headers", "http", ok, "X-A: b\r\n", slow, "retry"),
        ("one header", "http", "HTTP/1.1 200 OK\r\nX-A: ", "bbbbbbbb", fast, "retry"),
        ("a status line", "http", "HTTP/1.1 200 ", "OOOOOOOOOO", fast, "retry"),
        ("what is no HTTP", "http", "", "\0", fast, "retry"),
        ("promises", "http", "", "HTTP/1.1 100 Continue\r\n\r\n", fast, "retry"),
        ("a body", "http", "HTTP/1.1 200 OK\r\n\r\n", "xxxxxxxxxxxxxxxx", fast, "ok"),
        ("a slow body", "http", "HTTP/1.1 200 OK\r\n\r\n", "x", slow, "ok"),
        ("chunks", "http", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", fast, "ok"),
        ("a chunk's length", "http", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0", fast, "ok"),
        ("an error", "http", "HTTP/1.1 500 No\r\n\r\n", "xxxxxxxxxxxxxxxx", fast, "retry"),
        ("a refusal", "http", "HTTP/1.1 400 No\r\n\r\n", "xxxxxxxxxxxxxxxx", fast, "reject"),
        ("a handshake", "https", "", "\x16\x03\x01\0\x01\x01", slow, "retry"),
        ("a record", "https", "\x16\x03\x01\x3f\0\x02", "\0", slow, "retry"),
    ] {
        let url = format!("{scheme}://127.0.0.1:{}/", endless(start, rest, pause));
        let mut sink = sink(json!({"timeout": "500ms"}), &url);
        let begun = Instant::now();
        let got = ended(sink.deliver(&events(&["a"])).await);
        let took = begun.elapsed();
        println!("{what}: {took:?}: {got}");
        assert!(got.starts_with(want) && got.len() < 500, "{what}: {got}");
        assert!(took < Duration::from_secs(3), "{what}: {took:?}");
    }
}
