//! Against mosquitto, and against a broker that does what the test says.

use super::*;
use crate::{
    kind::{Fields, Scope},
    store::{Options, Start, Store},
    systems::{
        mqtt::testing::{Mosquitto, fake},
        tls::tests::authority,
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

fn params(port: u16, mut more: Value) -> Params {
    let url = more["url"].as_str().map_or_else(|| format!("mqtt://localhost:{port}"), str::to_owned);
    more["url"] = url.replace("PORT", &port.to_string()).into();
    if more["subscribe"].is_null() {
        more["subscribe"] = json!(["dev/#"]);
    }
    Params::new("in", Scope { gateway: "g-1".into(), ..Scope::default() }, more)
}

fn source(port: u16, more: Value) -> Box<dyn Source> {
    build(params(port, more)).unwrap()
}

/// An intake with a consumer, which holds back all that comes in.
async fn intake(dir: &std::path::Path) -> Intake {
    let store = Store::open(Options { path: Some(dir.join("t.db")), ..Options::default() }).unwrap();
    store.consumer("test", &["in".into()], Start::Oldest).await.unwrap();
    Intake::new("in", Fields { max_event: 10_000, priority: 4, ..Fields::default() }, store, None)
}

/// Every event that is in the store: id, key, meta and body.
async fn stored(intake: &Intake) -> Vec<[String; 4]> {
    let topics: [Arc<str>; 1] = ["in".into()];
    let consumer = intake.store().consumer("test", &topics, Start::Oldest).await.unwrap();
    let mut reader = intake.store().reader(consumer, &topics);
    let mut all = Vec::new();
    while let Some(lot) = reader.poll(1000, 1 << 20).await.unwrap() {
        all.extend(lot.events.iter().map(|e| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            [e.id.text().into_owned(), e.key.as_str().into(), text(&e.meta), text(&e.body.to_bytes())]
        }));
    }
    all
}

/// Runs the source until the condition holds; the fault, if it ends before.
async fn run_until(source: &mut dyn Source, intake: &Intake, done: impl AsyncFn() -> bool) -> Result<(), Fault> {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = source.run(intake) => ended,
        () = wait => Ok(()),
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it takes too long"),
    }
}

async fn count_of(intake: &Intake) -> u64 {
    intake.store().ledger().iter().map(|l| l.accepted).sum()
}

#[tokio::test]
async fn every_payload_becomes_an_event() {
    let broker = Mosquitto::start("").await;
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{{\"pad\":\"{}\"}}", "x".repeat(10_000));
    for (version, qos) in [("5", 1), ("3.1.1", 1), ("5", 2), ("3.1.1", 2), ("5", 0)] {
        let dir = tempfile::tempdir_in(dir.path()).unwrap();
        let intake = intake(dir.path()).await;
        let q = qos.to_string();
        let publish = async {
            // Time to subscribe; with a session that is there already, nothing would be lost either.
            tokio::time::sleep(Duration::from_millis(300)).await;
            for args in [
                &["-m", "{\"t\":1}"][..],
                &["-m", "21.5"],
                &["-m", "on \u{e9}"],
                &["-n"],
                &["-m", &long],
                &[
                    "-m",
                    "{}",
                    "-V",
                    "5",
                    "-D",
                    "publish",
                    "user-property",
                    "unit",
                    "C",
                    "-D",
                    "publish",
                    "user-property",
                    "event-id",
                    "e-1",
                ],
            ] {
                let client = broker.client("mosquitto_pub", &[&["-t", "dev/1", "-q", &q], args].concat(), "pub");
                assert!(client.wait());
            }
            let sent = broker.dir.path().join("bytes");
            std::fs::write(&sent, [0, 255]).unwrap();
            let client =
                broker.client("mosquitto_pub", &["-t", "dev/2", "-q", &q, "-f", sent.to_str().unwrap()], "pub");
            assert!(client.wait());
        };
        let mut source =
            source(broker.port, json!({ "version": version, "qos": qos, "client_id": format!("c{version}{qos}") }));
        let done = async || count_of(&intake).await == 6;
        let (ended, ()) = tokio::join!(run_until(&mut *source, &intake, done), publish);
        ended.unwrap();
        let all = stored(&intake).await;
        let user = if version == "5" { ",\"user\":{\"event-id\":\"e-1\",\"unit\":\"C\"}" } else { "" };
        let want = [
            ("dev/1", "", r#"{"t":1}"#),
            ("dev/1", ",\"wrapped\":\"json\"", r#"{"payload":21.5}"#),
            ("dev/1", ",\"wrapped\":\"text\"", "{\"payload\":\"on \u{e9}\"}"),
            ("dev/1", ",\"wrapped\":\"text\"", r#"{"payload":""}"#),
            ("dev/1", user, "{}"),
            ("dev/2", ",\"wrapped\":\"base64\"", r#"{"payload_base64":"AP8="}"#),
        ];
        for ([id, key, meta, body], (topic, more, payload)) in all.iter().zip(want) {
            let about = format!("{{\"topic\":\"{topic}\",\"qos\":{qos}{more}}}");
            assert_eq!((key.as_str(), meta.as_str(), body.as_str()), (topic, about.as_str(), payload));
            assert_eq!(id == "e-1", version == "5" && payload == "{}");
        }
        let dead = intake.store().letters(&crate::store::Which::default(), 10).await.unwrap();
        assert_eq!(dead.len(), 1, "what is too large for an event is set aside and does not come again");
        assert_eq!(dead[0].dead.reason, "the message to `dev/1`: the body has 10010 bytes, over the limit of 10000");
        intake.store().close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missing_though_broker_and_source_come_and_go() {
    let mut broker = Mosquitto::start("").await;
    let dir = tempfile::tempdir().unwrap();
    let intake = intake(dir.path()).await;
    let port = broker.port;
    let mut rng = fastrand::Rng::with_seed(3);
    let running = {
        let intake = intake.clone();
        tokio::spawn(async move {
            let mut source = source(port, json!({}));
            loop {
                // Dropped at any moment, also before it is connected.
                let life = Duration::from_millis(rng.u64(1..120));
                tokio::time::timeout(life, source.run(&intake)).await.ok();
            }
        })
    };
    // The first run has to subscribe before anything is published.
    tokio::time::sleep(Duration::from_millis(600)).await;
    for round in 0..5 {
        let lines: String = (round * 1000..(round + 1) * 1000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        let file = broker.dir.path().join("lines");
        std::fs::write(&file, lines).unwrap();
        let args = format!("mosquitto_pub -p {port} -t dev/1 -q 1 -l < {}", file.display());
        let sent = tokio::task::spawn_blocking(move || std::process::Command::new("sh").args(["-c", &args]).status());
        assert!(sent.await.unwrap().unwrap().success(), "mosquitto has acknowledged all of it");
        broker.stop();
        broker.again().await;
    }
    for _ in 0..500 {
        let all = stored(&intake).await;
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        all.iter().for_each(|[.., body]| *seen.entry(body).or_default() += 1);
        if seen.len() == 5000 {
            running.abort();
            return;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    panic!("something is missing");
}

#[tokio::test]
async fn who_we_are_is_checked_by_the_broker_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path(), "a");
    authority(dir.path(), "b");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let tls = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username false",
        at("a-ca.pem"),
        at("a.pem"),
        at("a.key")
    );
    let broker = Mosquitto::start(&tls).await;
    let intake = intake(dir.path()).await;
    for (ca, own, want) in
        [("a-ca.pem", "a", ""), ("b-ca.pem", "a", "invalid peer certificate"), ("a-ca.pem", "b", "nknown")]
    {
        let tls = json!({ "ca": at(ca), "cert": at(&format!("{own}.pem")), "key": at(&format!("{own}.key")) });
        let mut source = source(broker.port, json!({ "url": "mqtts://localhost:PORT", "tls": tls }));
        let got = tokio::time::timeout(Duration::from_millis(500), source.run(&intake)).await;
        let got = got.map_or_else(|_| String::new(), |ended| ended.unwrap_err().to_string());
        assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{ca} {own}: {got}");
    }
}

#[tokio::test]
async fn a_broker_that_breaks_the_rules_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let intake = intake(dir.path()).await;
    let huge =
        [&[0x32, 0xff, 0xff, 0x7f, 0, 1, b'a', 0, 9][..], &[0x40; 2_097_151 - 5], &[0x90, 4, 0, 1, 0, 0x87]].concat();
    for (what, suback, want) in [
        ("refuses", &[0x90, 4, 0, 1, 0, 0x87][..], "the broker refused the subscription to `dev/#`: not authorized"),
        ("says nothing", &[], "no answer to SUBSCRIBE within 300ms"),
        ("counts wrong", &[0x90, 5, 0, 1, 0, 1, 1], "another number of subscriptions"),
        ("hangs up", &[0x90, 4, 0, 1, 0, 1, 0xe0, 1, 0x8b], "the broker disconnected: server shutting down"),
        ("sends garbage", &[0x90, 4, 0, 1, 0, 1, 0xff, 0], "the broker sent a demand for enhanced authentication"),
        ("sends nonsense", &[0x40, 2, 0, 1], "the broker sent a packet that nothing asked for"),
        ("goes silent", &[0x90, 4, 0, 1, 0, 1], "the broker has been silent for"),
        ("sends what is too large", &huge, "the broker refused the subscription to `dev/#`: not authorized"),
    ] {
        let suback = suback.to_vec();
        let port = fake(move |frame| match frame.first >> 4 {
            1 => Some(vec![0x20, 3, 0, 0, 0]),
            8 => Some(suback.clone()),
            _ => Some(vec![]),
        })
        .await;
        let mut source = source(port, json!({ "connect_timeout": "300ms", "keepalive": "1s" }));
        let ended = tokio::time::timeout(Duration::from_secs(5), source.run(&intake)).await.expect(what);
        let got = ended.unwrap_err().to_string();
        assert!(got.contains(want), "{what}: {got}");
    }
    let dead = intake.store().letters(&crate::store::Which::default(), 10).await.unwrap();
    assert_eq!(dead[0].dead.reason, "the message to `a` has 2097155 bytes, the limit is 173840");
}

#[tokio::test]
async fn nothing_is_acknowledged_that_is_not_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let intake = intake(dir.path()).await;
    intake.store().close().await;
    let (acks, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let port = fake(move |frame| match frame.first >> 4 {
        1 => Some(vec![0x20, 3, 0, 0, 0]),
        8 => Some(vec![0x90, 4, 0, 1, 0, 1, 0x32, 8, 0, 1, b'a', 0, 9, 0, b'{', b'}']),
        _ => {
            acks.send(frame.first).ok();
            Some(vec![])
        }
    })
    .await;
    let fault = source(port, json!({})).run(&intake).await.unwrap_err();
    assert!(matches!(&fault, Fault::Retry(_)) && fault.to_string() == "the store is closed", "{fault}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(seen.try_recv().ok(), None);
}

#[test]
fn the_configuration_is_checked() {
    for (config, want) in [
        (json!({ "url": "x" }), "url: `x`: `mqtt://` is missing"),
        (json!({ "subscribe": [] }), "subscribe: expected 1 to 1000 topic filters"),
        (json!({ "subscribe": ["a", "a/#/b"] }), "subscribe[1]: `a/#/b` has a `#` that is not its last level"),
        (json!({ "subscribe": "a" }), "subscribe: invalid type"),
        (json!({ "qos": 3 }), "qos: `3` is no quality of service"),
        (json!({ "tls": { "key": "a" }, "url": "mqtts://x" }), "tls.key: a private key needs its certificate"),
        (json!({ "topic": "a" }), "topic: unknown field `topic`"),
        (json!({ "version": "3.1.1" }), "ok"),
    ] {
        let got = build(params(1883, config)).map_or_else(|e| e.to_string(), |_| "ok".into());
        assert!(got.starts_with(want), "{want}: {got}");
    }
    let mut example: Value = serde_json::from_str(KIND.example).unwrap();
    example.as_object_mut().unwrap().remove("type");
    build(Params::new("in", Scope::default(), example)).unwrap();
}
