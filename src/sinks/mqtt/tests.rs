//! Against mosquitto, and against a broker that does what the test says.

use super::*;
use crate::{
    event::{Body, Id},
    kind::Scope,
    systems::{
        mqtt::testing::{Client, Frame, Mosquitto, fake},
        tls::tests::authority,
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Instant};

fn params(port: u16, mut more: Value) -> Params {
    let url = more["url"].as_str().map_or_else(|| format!("mqtt://localhost:{port}"), str::to_owned);
    more["url"] = url.replace("PORT", &port.to_string()).into();
    Params::new("up", Scope { gateway: "g-1".into(), ..Scope::default() }, more)
}

fn sink(port: u16, more: Value) -> Box<dyn Sink> {
    build(params(port, more)).unwrap()
}

pub(super) fn event(n: usize) -> Event {
    let body = Body::parse(format!("{{\"n\":{n}}}").into()).unwrap();
    let key = format!("dev/{}", n % 3).into();
    Event { lane: 1, seq: n as u64, key, ..Event::made(format!("id-{n}"), "hook".into(), 0, body) }
}

fn events(range: std::ops::Range<usize>) -> Vec<Event> {
    range.map(event).collect()
}

async fn subscriber(broker: &Mosquitto, args: &[&str]) -> Client {
    let base = ["-t", "dev/#", "-q", "2", "-F", "%t %q %r %p %P"];
    let client = broker.client("mosquitto_sub", &[&base[..], args].concat(), "sub");
    tokio::time::sleep(Duration::from_millis(300)).await;
    client
}

#[tokio::test]
async fn mosquitto_gets_every_event_in_order() {
    let broker = Mosquitto::start("").await;
    for (qos, version) in [(0, "5"), (1, "5"), (2, "5"), (0, "3.1.1"), (1, "3.1.1"), (2, "3.1.1")] {
        let sub = subscriber(&broker, &["-V", "5"]).await;
        let mut sink = sink(broker.port, json!({ "qos": qos, "version": version, "window": 7 }));
        for at in [0, 100] {
            sink.deliver(&events(at..at + 100)).await.unwrap();
        }
        let lines = sub.until(|l| l.len() >= 200).await;
        for (n, line) in lines.iter().enumerate() {
            let id = if version == "5" { format!("event-id:id-{n}") } else { String::new() };
            assert_eq!(line.trim_end(), format!("dev/{} {qos} 0 {{\"n\":{n}}} {id}", n % 3).trim_end());
        }
        assert_eq!(lines.len(), 200);
        sink.close().await;
    }
}

/// Delivers batches as the runtime does: again after a `Retry`, never after anything else.
async fn deliver_all(sink: &mut dyn Sink, count: usize, mut between: impl AsyncFnMut(usize)) {
    for (i, at) in (0..count).step_by(100).enumerate() {
        between(i).await;
        let batch = events(at..at + 100);
        loop {
            match sink.deliver(&batch).await {
                Ok(()) => break,
                Err(Fault::Retry(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(fault) => panic!("{fault}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_arrives_though_the_broker_goes_and_comes_back() {
    for qos in [1, 2] {
        let broker = Mosquitto::start("").await;
        let sub = subscriber(&broker, &["-c", "-i", "sub"]).await;
        let broker = tokio::sync::Mutex::new(broker);
        let port = broker.lock().await.port;
        let mut sink = sink(port, json!({ "qos": qos, "window": 50 }));
        let restart = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                let mut broker = broker.lock().await;
                broker.stop();
                tokio::time::sleep(Duration::from_millis(200)).await;
                broker.again().await;
            }
        };
        let pace = async |_| tokio::time::sleep(Duration::from_millis(20)).await;
        tokio::join!(deliver_all(&mut *sink, 5000, pace), restart);
        let numbers = |lines: &[String]| -> BTreeSet<usize> {
            lines.iter().filter_map(|l| l.split("\"n\":").nth(1)?.split('}').next()?.parse().ok()).collect()
        };
        let lines = sub.until(|l| numbers(l).len() == 5000).await;
        assert!(lines.len() >= 5000);
    }
}

#[tokio::test]
async fn draining_begins_when_the_broker_is_back() {
    let mut broker = Mosquitto::start("").await;
    let mut sink = sink(broker.port, json!({}));
    sink.deliver(&events(0..1)).await.unwrap();
    broker.stop();
    let gone = tokio::time::timeout(Duration::from_secs(1), sink.idle()).await.expect("the loss is noticed");
    assert!(matches!(gone, Fault::Retry(_)), "{gone}");
    let refused = Instant::now();
    assert!(matches!(sink.deliver(&events(1..2)).await, Err(Fault::Retry(_))));
    assert!(refused.elapsed() < Duration::from_millis(200), "a refused connection fails at once");
    broker.again().await;
    let back = Instant::now();
    sink.deliver(&events(1..2)).await.unwrap();
    assert!(back.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn birth_death_and_will_are_seen() {
    let broker = Mosquitto::start("").await;
    let message = |text: &str| json!({ "topic": "dev/{gateway}/state", "payload": text, "retain": true });
    let config = json!({ "birth": message("on"), "will": message("lost"), "death": message("off"), "version": "5" });
    let sub = broker.client("mosquitto_sub", &["-t", "dev/#", "-q", "2", "-F", "%t %p"], "sub");
    tokio::time::sleep(Duration::from_millis(300)).await;
    for version in ["5", "3.1.1"] {
        let before = sub.lines().len();
        let mut config = config.clone();
        config["version"] = version.into();
        let mut first = sink(broker.port, config.clone());
        // Without any event: `idle` connects. It is dropped and begun again at any time.
        for _ in 0..20 {
            tokio::time::timeout(Duration::from_millis(50), first.idle()).await.ok();
        }
        sub.until(|l| l.len() > before).await;
        first.deliver(&events(0..1)).await.unwrap();
        first.close().await;
        sub.until(|l| l.len() >= before + 3).await;
        let mut second = sink(broker.port, config);
        second.deliver(&events(0..1)).await.unwrap();
        drop(second);
        let lines = sub.until(|l| l.len() >= before + 6).await;
        let state = "dev/g-1/state";
        let want = [format!("{state} on"), "dev/0 {\"n\":0}".into(), format!("{state} off")];
        assert_eq!(lines[before..before + 3], want, "a stop");
        let want = [format!("{state} on"), "dev/0 {\"n\":0}".into(), format!("{state} lost")];
        assert_eq!(lines[before + 3..], want, "a loss");
    }
}

#[tokio::test]
async fn retain_envelope_and_original_payloads() {
    let broker = Mosquitto::start("").await;
    let mut wrapped = event(0);
    wrapped.meta = r#"{"topic":"x","wrapped":"base64"}"#.into();
    wrapped.body = Body::parse(r#"{"payload_base64":"AP8="}"#.into()).unwrap();
    for (config, event, want) in [
        (json!({ "retain": true }), event(0), "{\"n\":0}"),
        (json!({ "retain": true, "unwrap": true }), event(0), "{\"n\":0}"),
        (json!({ "retain": true, "unwrap": true }), wrapped.clone(), "00ff"),
        (json!({ "retain": true, "version": "3.1.1" }), wrapped, "{\"payload_base64\":\"AP8=\"}"),
        (
            json!({ "retain": true, "envelope": true }),
            event(0),
            "{\"id\":\"id-0\",\"topic\":\"hook\",\"key\":\"dev/0\",",
        ),
    ] {
        sink(broker.port, config.clone()).deliver(&[event]).await.unwrap();
        let format = if want == "00ff" { "%x" } else { "%p" };
        let sub = broker.client("mosquitto_sub", &["-t", "dev/0", "-C", "1", "-F", format], "once");
        let lines = sub.until(|l| !l.is_empty()).await;
        assert!(lines[0].starts_with(want), "{config}: {lines:?}");
    }
}

#[tokio::test]
async fn who_we_are_is_checked_by_the_broker_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path(), "a");
    authority(dir.path(), "b");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let tls = format!("cafile {}\ncertfile {}\nkeyfile {}", at("a-ca.pem"), at("a.pem"), at("a.key"));
    let passwords = dir.path().join("passwords");
    let mut made = std::process::Command::new("mosquitto_passwd");
    assert!(made.arg("-b").arg("-c").arg(&passwords).args(["me", "right"]).status().unwrap().success());
    let password = format!("allow_anonymous false\npassword_file {}", passwords.display());
    let secure = json!("mqtts://localhost:PORT");
    let with = |ca: &str, own: Option<&str>| match own {
        Some(own) => {
            json!({ "url": secure, "tls": { "ca": at(ca), "cert": at(&format!("{own}.pem")), "key": at(&format!("{own}.key")) } })
        }
        None => json!({ "url": secure, "tls": { "ca": at(ca) } }),
    };
    for (broker, rows) in [
        (
            password,
            vec![
                (json!({ "username": "me", "password": "right" }), ""),
                (json!({ "username": "me", "password": "canary" }), "not authorized"),
                (json!({ "username": "me", "password": "canary", "version": "3.1.1" }), "not authorized"),
                (json!({}), "not authorized"),
            ],
        ),
        (
            tls.clone(),
            vec![
                (with("a-ca.pem", None), ""),
                (with("b-ca.pem", None), "tls: invalid peer certificate"),
                (json!({ "url": secure }), "tls: invalid peer certificate"),
                (with("none.pem", None), "none.pem`: No such file"),
                (json!({}), "the broker"),
            ],
        ),
        (
            tls + "\nrequire_certificate true",
            vec![
                (with("a-ca.pem", Some("a")), ""),
                (with("a-ca.pem", None), "ertificate"),
                (with("a-ca.pem", Some("b")), "nknown"),
            ],
        ),
    ] {
        let broker = Mosquitto::start(&broker).await;
        for (config, want) in rows {
            let got = sink(broker.port, config.clone()).deliver(&events(0..10)).await;
            match got {
                Ok(()) => assert_eq!(want, "", "{config}"),
                Err(Fault::Retry(e)) => {
                    let text = format!("{e:#}");
                    assert!(!want.is_empty() && text.contains(want) && !text.contains("canary"), "{config}: {text}");
                    assert!(text.starts_with("`mqtt"), "{text}");
                }
                Err(fault) => panic!("{config}: {fault}"),
            }
        }
    }
}

/// A broker for whatever goes well: `publish` answers a PUBLISH, the rest is as it should be.
fn broker(
    connack: &'static [u8],
    mut publish: impl FnMut(&Frame) -> Option<Vec<u8>> + Send + 'static,
) -> impl FnMut(&Frame) -> Option<Vec<u8>> + Send + 'static {
    move |frame| match frame.first >> 4 {
        1 => Some(connack.to_vec()),
        3 => publish(frame),
        6 => Some([&[0x70, 2][..], &frame.body].concat()),
        12 => Some(vec![0xd0, 0]),
        _ => None,
    }
}

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];

fn puback(frame: &Frame, code: u8) -> Vec<u8> {
    let [high, low] = frame.id().to_be_bytes();
    if code == 0 { vec![0x40, 2, high, low] } else { vec![0x40, 3, high, low, code] }
}

#[tokio::test]
async fn a_reason_code_says_what_to_do_next() {
    for (code, want) in [
        (0x00, "ok"),
        (0x10, "ok"),
        (0x80, "retry: the broker refused the message: unspecified error"),
        (0x83, "retry: the broker refused the message: implementation specific error"),
        (0x87, "reject: the broker refused the message: not authorized"),
        (0x89, "retry: the broker refused the message: server busy"),
        (0x90, "reject: the broker refused the message: topic name invalid"),
        (0x97, "retry: the broker refused the message: quota exceeded"),
        (0x99, "reject: the broker refused the message: payload format invalid"),
    ] {
        // The third message gets the code; all others are fine.
        let mut count = 0;
        let port = fake(broker(CONNACK, move |frame| {
            count += 1;
            Some(puback(frame, if count == 3 { code } else { 0 }))
        }))
        .await;
        let mut sink = sink(port, json!({ "window": 1 }));
        let got = match sink.deliver(&events(0..9)).await {
            Ok(()) => "ok".to_owned(),
            Err(Fault::Retry(e)) => format!("retry: {e:#}"),
            Err(Fault::Reject(e)) => format!("reject: {e:#}"),
            Err(fault) => panic!("{fault}"),
        };
        assert_eq!(got, want);
        sink.deliver(&events(0..9)).await.expect("the connection is still of use");
    }
}

#[tokio::test]
async fn a_broker_that_breaks_the_rules_does_no_harm() {
    let garbage: Vec<u8> = (0..=255).collect();
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("never acknowledges", vec![], "retry: no acknowledgement within 300ms, 9 expected"),
        ("garbage", garbage, "retry: the broker sent"),
        ("a length that never ends", vec![0x40, 0xff, 0xff, 0xff, 0xff, 1], "retry: the broker sent a length of more"),
        ("a huge packet", vec![0x40, 0xff, 0xff, 0xff, 0x7f], "retry: the broker sent a packet over the size limit"),
        ("busy", vec![0xe0, 2, 0x89, 0], "retry: the broker disconnected: server busy"),
        ("too large", vec![0xe0, 1, 0x95], "reject: the broker disconnected: packet too large"),
        ("a second hello", CONNACK.to_vec(), "retry: the broker sent a packet that nothing asked for"),
        (
            "wants more",
            vec![0xf0, 0],
            "retry: the broker sent a demand for enhanced authentication, which is not supported",
        ),
        ("acknowledges something else", vec![0x40, 2, 0x7f, 0xff], "retry: no acknowledgement within 300ms"),
        ("completes what it did not receive", vec![0x70, 2, 0, 1], "retry: no acknowledgement within 300ms"),
        ("pushes", vec![0x30, 6, 0, 1, b'a', 0, b'x', b'y'], "retry: no acknowledgement within 300ms"),
    ];
    for (what, bytes, want) in rows {
        let port = fake(broker(CONNACK, move |_| Some(bytes.clone()))).await;
        let mut sink = sink(port, json!({ "timeout": "300ms" }));
        let got = match sink.deliver(&events(0..9)).await {
            Err(Fault::Retry(e)) => format!("retry: {e:#}"),
            Err(Fault::Reject(e)) => format!("reject: {e:#}"),
            other => panic!("{what}: {other:?}"),
        };
        assert!(got.starts_with(want), "{what}: {got}");
    }
    let port = fake(|_| None).await;
    let error = sink(port, json!({})).deliver(&events(0..1)).await.unwrap_err();
    assert!(matches!(error, Fault::Retry(_)), "hangs up: {error}");
    let port = fake(|_| Some(vec![])).await;
    let error = sink(port, json!({ "connect_timeout": "200ms" })).deliver(&events(0..1)).await.unwrap_err();
    assert!(error.to_string().ends_with("no answer within 200ms"), "says nothing: {error}");
}

#[tokio::test]
async fn acknowledgements_may_come_late_repeatedly_and_in_any_order() {
    // Holds three back and then acknowledges them in the reverse order, each twice.
    let mut held: Vec<Vec<u8>> = Vec::new();
    let port = fake(broker(CONNACK, move |frame| {
        held.push(puback(frame, 0));
        if held.len() < 3 {
            return Some(vec![]);
        }
        Some(held.drain(..).rev().flat_map(|ack| [ack.clone(), ack]).flatten().collect())
    }))
    .await;
    let mut sink = sink(port, json!({ "window": 5, "timeout": "2s" }));
    for _ in 0..20 {
        sink.deliver(&events(0..9)).await.unwrap();
    }
}

#[tokio::test]
async fn the_brokers_limits_are_kept() {
    // Receive Maximum 2; quality of service at most 1; no retained messages; packets of at most 64 bytes.
    let window: &[u8] = &[0x20, 6, 0, 0, 3, 0x21, 0, 2];
    let qos: &[u8] = &[0x20, 5, 0, 0, 2, 0x24, 1];
    let retain: &[u8] = &[0x20, 5, 0, 0, 2, 0x25, 0];
    let size: &[u8] = &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 64];
    let mut large = event(1);
    large.body = Body::parse(format!("{{\"pad\":\"{}\"}}", "x".repeat(100)).into()).unwrap();
    for (connack, config, event, want) in [
        (window, json!({ "qos": 1 }), event(1), "ok"),
        (qos, json!({ "qos": 2 }), event(1), "the broker has no quality of service over 1; lower `qos`"),
        (retain, json!({ "retain": true }), event(1), "the broker does not retain messages; set `retain` to false"),
        (size, json!({}), event(1), "ok"),
        (size, json!({}), large, "reject: the message has 140 bytes, the broker takes 64"),
    ] {
        let mut open = 0;
        let mut held = Vec::new();
        let port = fake(broker(connack, move |frame| {
            open += 1;
            assert!(open <= 2 || connack != window, "more in flight than allowed");
            held.extend(puback(frame, 0));
            if open < 2 && connack == window {
                return Some(vec![]);
            }
            open = 0;
            Some(std::mem::take(&mut held))
        }))
        .await;
        let batch = vec![event; 4];
        let got = match sink(port, config).deliver(&batch).await {
            Ok(()) => "ok".to_owned(),
            Err(Fault::Reject(e)) => format!("reject: {e:#}"),
            Err(fault) => fault.to_string(),
        };
        assert!(got.ends_with(want), "{got}");
    }
}

#[tokio::test]
async fn a_silent_broker_is_noticed_and_a_dropped_delivery_does_no_harm() {
    let mut deaf = false;
    let port = fake(move |frame| match frame.first >> 4 {
        1 => Some(CONNACK.to_vec()),
        // Answers the first ping only.
        12 if !std::mem::replace(&mut deaf, true) => Some(vec![0xd0, 0]),
        _ => Some(vec![]),
    })
    .await;
    let mut sink = sink(port, json!({ "keepalive": "1s" }));
    let begun = Instant::now();
    let fault = sink.idle().await;
    assert!(fault.to_string().starts_with("the broker has been silent for"), "{fault}");
    assert!((2400..3500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    // A delivery that is dropped leaves messages in flight; the next one begins anew.
    let deliver = tokio::time::timeout(Duration::from_millis(100), sink.deliver(&events(0..3))).await;
    assert!(deliver.is_err());
    tokio::time::timeout(Duration::from_secs(2), sink.close()).await.expect("a goodbye does not hang");
}

#[test]
fn the_configuration_is_checked() {
    for (config, want) in [
        (json!({ "url": "http://x" }), "url: `http://x`: expected `mqtt://` or `mqtts://`"),
        (json!({ "qos": 3 }), "qos: `3` is no quality of service"),
        (json!({ "window": 0 }), "window: nothing can be sent"),
        (json!({ "window": 70000 }), "window: invalid value"),
        (json!({ "keepalive": "10ms" }), "keepalive: does not lie between 1s and 18h"),
        (json!({ "topic": "a/{b}" }), "topic: `a/{b}`: unknown place `{b}`"),
        (json!({ "topic": "a/#" }), "topic: `a/#` has a wildcard"),
        (json!({ "version": "4" }), "version: unknown variant `4`, expected `5` or `3.1.1`"),
        (json!({ "tls": {} }), "ok"),
        (json!({ "tls": { "ca": "a" } }), "tls: needs an `mqtts://` url"),
        (json!({ "url": "mqtts://x", "tls": { "cert": "a" } }), "tls.cert: a certificate needs its private key"),
        (json!({ "will": { "topic": "a/+" } }), "will.topic: `a/+` has a wildcard"),
        (json!({ "birth": { "topic": "a", "qos": 7 } }), "birth.qos: `7` is no quality of service"),
        (json!({ "envelope": true, "unwrap": true }), "unwrap: a payload is either"),
        (json!({ "id_property": "" }), "id_property: is empty"),
        (json!({ "id_property": null }), "ok"),
        (json!({ "client_id": "" }), "client_id: is empty"),
        (json!({ "password": "x", "version": "3.1.1" }), "password: needs a `username`"),
        (json!({ "ulr": 1 }), "ulr: unknown field `ulr`"),
    ] {
        let got = build(params(1883, config)).map_or_else(|e| e.to_string(), |_| "ok".into());
        assert!(got.starts_with(want), "{want}: {got}");
    }
    let example = KIND.example;
    let lines: String = example.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
    let mut example: Value = serde_json::from_str(&lines).unwrap();
    example.as_object_mut().unwrap().remove("type");
    build(Params::new("up", Scope::default(), example)).unwrap();
}

/// A look at throughput, with a broker at a port of this machine that acknowledges at once:
/// `edgeload serve-mqtt --listen 127.0.0.1:1890`, `MQTT_PORT=1890 cargo test --release mqtt_throughput -- --ignored --nocapture`.
#[tokio::test]
#[ignore]
async fn mqtt_throughput() {
    let port: u16 = std::env::var("MQTT_PORT").unwrap().parse().unwrap();
    let cpu = || -> f64 {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e3
    };
    for (batch, config) in [
        (512, json!({})),
        (512, json!({ "version": "3.1.1" })),
        (4096, json!({})),
        (512, json!({ "topic": "sites/{gateway}/{event.device}" })),
        (512, json!({ "qos": 2 })),
        (512, json!({ "qos": 0 })),
    ] {
        let mut sink = sink(port, config.clone());
        let events: Vec<Event> = (0..batch)
            .map(|n| {
                let id = Id::Made { store: 7, lane: 1, seq: n as u64 };
                let text = format!(
                    "{{\"_id\":\"1-{n}-1700000000000000\",\"device\":\"d{n:04}\",\"pad\":\"{}\"}}",
                    "x".repeat(140)
                );
                Event { id, body: Body::parse(text.into()).unwrap(), ..event(n) }
            })
            .collect();
        sink.deliver(&events).await.unwrap();
        let (begun, used, mut count) = (Instant::now(), cpu(), 0);
        while begun.elapsed() < Duration::from_secs(3) {
            sink.deliver(&events).await.unwrap();
            count += batch;
        }
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        println!("{batch} a batch, {config}: {rate:.0} events/s, {:.2} µs of CPU each", (cpu() - used) / count as f64);
        sink.close().await;
    }
}
