//! Sessions: what they keep, who gets them, what they are sent.

use super::tools::*;
use crate::{
    budget::Span,
    sources::mqtt_listen::{access::User, hash_password, props},
};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

async fn publisher(rig: &Rig) -> Client {
    rig.client("publisher", 4).await
}

async fn post(c: &mut Client, topic: &str, payload: &str, qos: u8, flags: u8) {
    c.send(&publish(4, topic, payload.as_bytes(), qos, 1, flags)).await;
    if qos > 0 {
        c.packet().await;
    }
    if qos == 2 {
        c.send(&[0x62, 2, 0, 1]).await;
        c.packet().await;
    }
}

#[tokio::test]
async fn a_lasting_session_gets_what_came_while_it_was_away_once_in_order() {
    let mut rig = Rig::new().await;
    let (_, mut c) = rig.connect(&connect(4, "device", false, 0)).await;
    c.subscribe(4, "commands/+", 2).await;
    let mut p = publisher(&rig).await;
    post(&mut p, "commands/a", "1", 1, 0).await;
    let (_, payload, _, id) = c.message(4).await;
    assert_eq!(payload, b"1");
    c.send(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
    c.send(&[0xe0, 0]).await;
    assert!(c.closed().await);
    for n in 2..6 {
        post(&mut p, "commands/a", &n.to_string(), 1 + n % 2, 0).await;
        post(&mut p, "telemetry/a", "{}", 1, 0).await;
    }
    for restarts in [false, true, true] {
        if restarts {
            // The rows that ride are given time once, and none the second time.
            sleep(Duration::from_millis(1500)).await;
            rig = rig.restart().await;
        }
        let (ack, mut c) = rig.connect(&connect(4, "device", false, 0)).await;
        assert_eq!(ack, [0x20, 2, 1, 0]);
        for n in 2..6u8 {
            let (topic, payload, first, _) = c.message(4).await;
            assert_eq!((topic.as_str(), payload), ("commands/a", n.to_string().into_bytes()));
            assert_eq!(first & 0xf6, if n % 2 == 0 { 0x32 } else { 0x34 });
        }
        assert!(c.silent().await);
    }
    // A clean one has nothing of it.
    let (ack, mut c) = rig.connect(&connect(4, "device", true, 0)).await;
    assert_eq!(ack, [0x20, 2, 0, 0]);
    assert!(c.silent().await);
    drop(c);
    let (ack, _) = rig.connect(&connect(4, "device", false, 0)).await;
    assert_eq!(ack, [0x20, 2, 0, 0]);
}

#[tokio::test]
async fn what_a_client_acknowledged_does_not_come_again() {
    let rig = Rig::new().await;
    let (_, mut c) = rig.connect(&connect(4, "device", false, 0)).await;
    c.subscribe(4, "t", 2).await;
    let mut p = publisher(&rig).await;
    for n in 0..4 {
        post(&mut p, "t", &n.to_string(), 2, 0).await;
    }
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(c.message(4).await.3);
    }
    // The first is done, the second received, the third and fourth open.
    for (at, done) in [(0, true), (1, false)] {
        let [high, low] = ids[at].to_be_bytes();
        c.send(&[0x50, 2, high, low]).await;
        assert_eq!(c.packet().await, [0x62, 2, high, low]);
        if done {
            c.send(&[0x70, 2, high, low]).await;
        }
    }
    sleep(Duration::from_millis(1600)).await;
    let rig = rig.restart().await;
    let (_, mut c) = rig.connect(&connect(4, "device", false, 0)).await;
    let [high, low] = ids[1].to_be_bytes();
    assert_eq!(c.packet().await, [0x62, 2, high, low]);
    for (n, id) in [(2u8, ids[2]), (3, ids[3])] {
        assert_eq!(c.message(4).await, ("t".into(), n.to_string().into_bytes(), 0x3c, id));
    }
    assert!(c.silent().await);
}

#[tokio::test]
async fn a_client_that_stays_away_does_not_hold_back_the_log() {
    let rig = Rig::with(|c| c.session_events = 3, 1 << 30).await;
    let (_, mut c) = rig.connect(&connect(5, "away", false, 60)).await;
    c.subscribe(5, "t", 1).await;
    drop(c);
    let mut p = publisher(&rig).await;
    for n in 0..10 {
        post(&mut p, "t", &n.to_string(), 1, 0).await;
        post(&mut p, "other", "{}", 1, 0).await;
    }
    sleep(Duration::from_millis(1700)).await;
    let row = rig.store.ledger().into_iter().find(|l| l.consumer == "devices/away").unwrap();
    assert_eq!((row.accepted, row.queued, row.evicted, row.stopped), (20, 0, 7, 10));
    let (_, mut c) = rig.connect(&connect(5, "away", false, 60)).await;
    for n in 7..10 {
        assert_eq!(c.message(5).await.1, n.to_string().into_bytes());
    }
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over() {
    let rig = Rig::new().await;
    for (expiry, goodbye, wait, want) in
        [(0, &[][..], 0, 0), (60, &[], 0, 1), (60, &[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0], 50, 0), (1, &[], 1200, 0)]
    {
        let (_, mut c) = rig.connect(&connect(5, "c", true, expiry)).await;
        c.subscribe(5, "t", 1).await;
        c.send(goodbye).await;
        drop(c);
        sleep(Duration::from_millis(wait)).await;
        let (ack, mut c) = rig.connect(&connect(5, "c", false, 0)).await;
        assert_eq!(ack[2], want, "{expiry} {goodbye:?}");
        c.send(&[0xe0, 0]).await;
        assert!(c.closed().await);
    }
    sleep(Duration::from_millis(50)).await;
    assert!(rig.store.registered().is_empty());
    assert_eq!(rig.store.state("devices", b"", 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    let rig = Rig::new().await;
    for version in [4, 5] {
        let mut first = rig.client("same", version).await;
        let mut second = rig.client("same", version).await;
        if version == 5 {
            assert_eq!(first.packet().await, [0xe0, 2, 0x8e, 0]);
        }
        assert!(first.closed().await);
        second.send(&[0xc0, 0]).await;
        assert_eq!(second.packet().await, [0xd0, 0]);
    }
}

#[tokio::test]
async fn a_will_is_published_when_it_should_be() {
    let rig = Rig::new().await;
    let mut watcher = rig.client("watcher", 4).await;
    watcher.subscribe(4, "w/#", 1).await;
    let will = |delay: u8| [&[5, props::WILL_DELAY, 0, 0, 0, delay][..], &text("w/1"), &text("gone")].concat();
    let lasting = [5, props::SESSION_EXPIRY, 0, 0, 0, 60];
    for (at, (delay, goodbye, clean_after, want)) in [
        (0, &[][..], None, Some(0)),
        (0, &[0xe0, 0], None, None),
        (0, &[0xe0, 2, 4, 0], None, Some(0)),
        (0, &[0xe0, 1], None, Some(0)), // malformed
        (1, &[], None, Some(1)),
        (1, &[], Some(false), None),
        (60, &[], Some(true), Some(0)),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("c{at}");
        let (_, mut c) = rig.connect(&connect_with(5, &id, 0x0e, 60, &lasting, &will(delay))).await;
        c.send(goodbye).await;
        let start = Instant::now();
        drop(c);
        if let Some(clean) = clean_after {
            rig.connect(&connect(5, &id, clean, 60)).await.1.send(&[0xe0, 0]).await;
        }
        match want {
            Some(seconds) => {
                let (topic, payload, _, id) = watcher.message(4).await;
                assert_eq!((topic.as_str(), payload), ("w/1", b"gone".to_vec()), "{at}");
                watcher.send(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
                let waited = start.elapsed().as_millis();
                assert!((seconds * 1000..seconds * 1000 + 900).contains(&waited), "{at}: {waited}");
            }
            None => {
                sleep(Duration::from_millis(1200)).await;
                assert!(watcher.silent().await, "{at}");
            }
        }
    }
}

#[tokio::test]
async fn subscription_options_are_honoured() {
    let rig = Rig::new().await;
    let (_, mut c) = rig.connect(&connect(5, "c", true, 0)).await;
    c.send(&publish(5, "r", b"kept", 1, 1, 1)).await;
    c.packet().await;
    // Retain handling: always, only when new, never.
    for (options, want) in [(0x10, true), (0x10, false), (0x00, true), (0x20, false)] {
        c.subscribe(5, "r", options).await;
        if want {
            assert_eq!(c.message(5).await.2, 0x31);
        } else {
            assert!(c.silent().await, "{options:x}");
        }
    }
    // Overlapping filters: once, with the highest quality and both identifiers; No Local on neither.
    for (id, filter, options) in [(1, "o/#", 0), (2, "o/+", 2), (3, "o/x", 0x04)] {
        let packet = framed(0x82, &[&[0, 1, 2, props::SUBSCRIPTION_ID, id][..], &text(filter), &[options]].concat());
        c.send(&packet).await;
        assert_eq!(c.packet().await[0], 0x90);
    }
    c.send(&publish(5, "o/x", b"x", 1, 9, 0)).await;
    let (one, other) = (c.packet().await, c.packet().await);
    let (ack, packet) = if one[0] == 0x40 { (one, other) } else { (other, one) };
    assert_eq!(ack, [0x40, 2, 0, 9]);
    assert_eq!(packet[9..14], [4, props::SUBSCRIPTION_ID, 1, props::SUBSCRIPTION_ID, 2], "{packet:?}");
    assert_eq!(packet[0], 0x32);
    // Retain as published, and not.
    for (options, want) in [(0x28, 0x31), (0x20, 0x30)] {
        c.subscribe(5, "q", options).await;
        c.send(&publish(5, "q", b"x", 0, 0, 1)).await;
        assert_eq!(c.message(5).await.2, want);
    }
    // Gone after UNSUBSCRIBE; `$` topics are not for wildcards.
    c.send(&framed(0xa2, &[&[0, 2, 0][..], &text("q"), &text("never")].concat())).await;
    assert_eq!(c.packet().await, [0xb0, 5, 0, 2, 0, 0, 0x11]);
    c.subscribe(5, "#", 0).await;
    c.message(5).await;
    c.message(5).await;
    c.send(&publish(5, "$x", b"x", 0, 0, 0)).await;
    assert!(c.silent().await);
}

#[tokio::test]
async fn a_message_expires_and_says_how_long_it_lives() {
    let rig = Rig::new().await;
    let (_, mut c) = rig.connect(&connect(5, "c", false, 60)).await;
    c.subscribe(5, "t", 1).await;
    drop(c);
    let mut p = rig.client("p", 5).await;
    for (at, seconds) in [1u32, 50].into_iter().enumerate() {
        let props = [&[5, props::EXPIRY][..], &seconds.to_be_bytes()].concat();
        p.send(&publish_with(5, "t", b"x", 1, at as u16 + 1, 0, &props)).await;
        p.packet().await;
    }
    sleep(Duration::from_millis(1500)).await;
    let (_, mut c) = rig.connect(&connect(5, "c", false, 60)).await;
    let packet = c.packet().await;
    let at = packet.iter().position(|b| *b == props::EXPIRY).unwrap();
    assert!(matches!(packet[at + 1..at + 5], [0, 0, 0, 48..=49]), "{packet:?}");
    assert!(c.silent().await);
}

#[tokio::test]
async fn a_group_shares_and_each_event_goes_to_one() {
    let rig = Rig::new().await;
    let mut members = [rig.client("a", 5).await, rig.client("b", 5).await];
    for c in &mut members {
        c.subscribe(5, "$share/g/t", 0).await;
    }
    let mut p = publisher(&rig).await;
    for n in 0..10 {
        post(&mut p, "t", &n.to_string(), 1, 0).await;
    }
    let mut seen = Vec::new();
    for c in &mut members {
        for _ in 0..5 {
            seen.push(c.message(5).await.1[0] - b'0');
        }
        assert!(c.silent().await);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    let [mut left, gone] = members;
    drop(gone);
    sleep(Duration::from_millis(100)).await;
    for n in 0..4 {
        post(&mut p, "t", &n.to_string(), 1, 0).await;
        assert_eq!(left.message(5).await.1, n.to_string().into_bytes());
    }
}

#[tokio::test]
async fn any_payload_and_property_arrives_as_it_was_sent() {
    let rig = Rig::new().await;
    let mut c = rig.client("c", 5).await;
    c.subscribe(5, "t", 1).await;
    let mut p = rig.client("p", 5).await;
    let inner = [
        &[props::FORMAT, 1, props::CONTENT_TYPE, 0, 1, b'c', props::RESPONSE_TOPIC, 0, 1, b'r'][..],
        &[props::CORRELATION, 0, 2, 0, 0xff, props::USER, 0, 1, b'a', 0, 1, b'b', props::USER, 0, 1, b'a', 0, 1, b'c'],
    ]
    .concat();
    let props = [&[inner.len() as u8], &inner[..]].concat();
    for payload in [&b""[..], b"{\"a\": 1}", b" {} ", b"{", b"21.5", b"\"x\"", b"text", b"\xff\x00", &[0x80; 9000]] {
        p.send(&publish_with(5, "t", payload, 1, 1, 0, &props)).await;
        p.packet().await;
        let packet = c.packet().await;
        assert!(packet.windows(props.len()).any(|w| w == props), "{packet:?}");
        let (_, got, _, id) = message(&packet, 5);
        assert_eq!(got, payload);
        c.send(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
    }
}

#[tokio::test]
async fn users_do_what_they_may() {
    let user = User {
        name: "ann".into(),
        password: hash_password("secret", 10),
        publish: vec!["s/%c/#".into()],
        subscribe: vec!["c/%c/#".into()],
    };
    let rig = Rig::with(|c| c.users = vec![user], 1 << 30).await;
    let mut log = rig.log();
    let login = |version: u8, password: &str| {
        let props: &[u8] = if version == 5 { &[0] } else { &[] };
        connect_with(version, "d1", 0xc2, 60, props, &[text("ann"), text(password)].concat())
    };
    for version in [4, 5] {
        let start = Instant::now();
        let (ack, _) = rig.connect(&login(version, "wrong")).await;
        assert_eq!(ack[3], if version == 5 { 0x86 } else { 5 });
        assert!(start.elapsed() >= Duration::from_millis(400));
        let (ack, _) = rig.connect(&connect(version, "d1", true, 0)).await;
        assert_eq!(ack[3], if version == 5 { 0x86 } else { 5 });
        let (ack, mut c) = rig.connect(&login(version, "secret")).await;
        assert_eq!(ack[3], 0);
        for (filter, allowed) in [("c/d1/+", true), ("c/d2/+", false), ("#", false)] {
            let code = *c.subscribe(version, filter, 1).await.last().unwrap();
            assert_eq!(
                code,
                if allowed {
                    1
                } else if version == 5 {
                    0x87
                } else {
                    0x80
                },
                "{filter}"
            );
        }
        c.send(&publish(version, "s/d1/x", b"{}", 1, 1, 0)).await;
        assert_eq!(c.packet().await, [0x40, 2, 0, 1]);
        c.send(&publish(version, "s/d2/x", b"{}", 1, 2, 0)).await;
        if version == 5 {
            assert_eq!(c.packet().await, [0x40, 3, 0, 2, 0x87]);
        } else {
            assert!(c.closed().await);
        }
    }
    assert_eq!(log.events(2).await.len(), 2);
}

#[tokio::test]
async fn a_silent_client_is_cut_off_and_a_fast_one_slowed_down() {
    let rig = Rig::with(|c| (c.rate, c.keep_alive) = (Some(100), Span::millis(60_000)), 1 << 30).await;
    let (_, mut c) = rig.connect(&connect_with(5, "silent", 2, 1, &[0], &[])).await;
    let start = Instant::now();
    assert_eq!(c.packet().await, [0xe0, 2, 0x8d, 0]);
    assert!((1400..2200).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let (ack, _) = rig.connect(&connect_with(5, "x", 2, 600, &[0], &[])).await;
    assert!(ack.windows(3).any(|w| w == [props::SERVER_KEEP_ALIVE, 0, 60]), "{ack:?}");
    let mut fast = rig.client("fast", 4).await;
    let start = Instant::now();
    for n in 1..=200u16 {
        fast.send(&publish(4, "t", b"{}", 1, n, 0)).await;
        fast.packet().await;
    }
    assert!((700..2500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn retained_messages_are_bounded() {
    let rig = Rig::with(|c| c.retained = 2, 1 << 30).await;
    let mut five = rig.client("five", 5).await;
    for (topic, payload, want) in
        [("a", "x", 0), ("b", "x", 0), ("c", "x", 0x97), ("b", "y", 0), ("a", "", 0), ("c", "x", 0)]
    {
        five.send(&publish(5, topic, payload.as_bytes(), 1, 1, 1)).await;
        let ack = five.packet().await;
        assert_eq!(ack.get(4).copied().unwrap_or(0), want, "{topic} {payload}");
    }
    // 3.1.1 cannot be told: the message is taken, only not retained.
    let mut four = rig.client("four", 4).await;
    post(&mut four, "d", "x", 1, 1).await;
    four.subscribe(4, "#", 0).await;
    assert_eq!((four.message(4).await.0, four.message(4).await.0), ("b".into(), "c".into()));
    assert!(four.silent().await);
}

#[tokio::test]
async fn what_is_retained_while_a_subscriber_waits_for_it_comes_once() {
    let rig = Rig::new().await;
    let mut device = publisher(&rig).await;
    let topic = |n: usize| format!("t/{n:03}");
    for n in 0..300 {
        post(&mut device, &topic(n), "old", 1, 1).await;
    }
    let (_, mut c) = rig.connect(&connect(5, "c", true, 0)).await;
    let packet = [&[0, 1, 2, props::SUBSCRIPTION_ID, 7][..], &text("#"), &[1]].concat();
    c.send(&framed(0x82, &packet)).await;
    assert_eq!(c.packet().await[0], 0x90);
    let mut got = vec![c.packet().await];
    // It takes one so far: one that it has, one that is still to come, one that ends, and one more.
    for (n, payload) in [(0, "new"), (200, "new"), (201, ""), (300, "new")] {
        post(&mut device, &topic(n), payload, 1, 1).await;
    }
    while got.len() < 302 {
        let (.., id) = message(got.last().unwrap(), 5);
        c.send(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
        got.push(c.packet().await);
    }
    assert!(c.silent().await);
    assert!(got.iter().all(|packet| packet[12..14] == [props::SUBSCRIPTION_ID, 7]), "{:?}", got[0]);
    let got: Vec<_> = got.iter().map(|packet| message(packet, 5)).collect();
    let got: Vec<_> = got.iter().map(|(topic, payload, first, _)| (&**topic, &**payload, first & 1)).collect();
    let topics: Vec<String> = (0..300).filter(|n| !(200..=201).contains(n)).map(topic).collect();
    let mut want: Vec<(&str, &[u8], u8)> = topics.iter().map(|topic| (&**topic, &b"old"[..], 1)).collect();
    want.extend([("t/000", &b"new"[..], 0), ("t/200", b"new", 0), ("t/201", b"", 0), ("t/300", b"new", 0)]);
    assert_eq!(got, want);
    // After UNSUBSCRIBE only what was on its way.
    c.subscribe(5, "#", 1).await;
    c.send(&framed(0xa2, &[&[0, 2, 0][..], &text("#")].concat())).await;
    let mut rest = 0;
    while let Ok(packet) = timeout(Duration::from_millis(200), c.packet()).await {
        if packet[0] != 0xb0 {
            c.send(&[&[0x40, 2][..], &message(&packet, 5).3.to_be_bytes()].concat()).await;
            rest += 1;
        }
    }
    assert!((60..200).contains(&rest), "{rest}");
}

#[tokio::test]
async fn a_subscriber_gets_more_that_is_retained_than_may_wait_for_it() {
    let rig = Rig::with(|c| c.session_bytes.0 = 64 << 10, 1 << 30).await;
    let mut c = rig.client("c", 4).await;
    for n in 0..60 {
        post(&mut c, &format!("t/{n:02}"), &"x".repeat(5000), 1, 1).await;
    }
    c.subscribe(4, "#", 1).await;
    for n in 0..60 {
        let (topic, .., id) = c.message(4).await;
        assert_eq!(topic, format!("t/{n:02}"));
        c.send(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
    }
    assert!(c.silent().await);
}

#[tokio::test]
async fn a_message_over_the_client_s_limit_is_passed_over() {
    let rig = Rig::new().await;
    let (_, mut c) = rig.connect(&connect_with(5, "c", 2, 60, &[5, props::PACKET_MAXIMUM, 0, 0, 0, 64], &[])).await;
    c.subscribe(5, "t", 1).await;
    let mut p = publisher(&rig).await;
    for payload in ["x".repeat(100), "fits".into()] {
        post(&mut p, "t", &payload, 1, 0).await;
    }
    assert_eq!(c.message(5).await.1, b"fits");
}

#[tokio::test]
async fn mosquitto_s_clients_get_along() {
    let rig = Rig::new().await;
    let port = rig.addr.port().to_string();
    for version in ["mqttv311", "mqttv5"] {
        let mut sub = tokio::process::Command::new("mosquitto_sub");
        sub.args(["-p", &port, "-V", version, "-t", "m/#", "-q", "2", "-C", "3", "-W", "5", "-F", "%t %q %p"]);
        let sub = sub.stdout(std::process::Stdio::piped()).spawn().expect("mosquitto_sub is needed for this test");
        sleep(Duration::from_millis(500)).await;
        for qos in ["0", "1", "2"] {
            let mut publish = tokio::process::Command::new("mosquitto_pub");
            publish.args(["-p", &port, "-V", version, "-t", "m/x", "-q", qos, "-m", "{\"t\": 1}"]);
            assert!(publish.status().await.expect("mosquitto_pub is needed for this test").success());
        }
        let out = sub.wait_with_output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "m/x 0 {\"t\": 1}\nm/x 1 {\"t\": 1}\nm/x 2 {\"t\": 1}\n");
    }
}

#[tokio::test]
async fn tls_lets_in_who_shows_a_certificate() {
    use crate::systems::tls::{ClientTls, ServerTls, client_config};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let at = |name: &str| dir.path().join(name);
    let tls = ServerTls { cert: at("own.pem"), key: at("own.key"), client_ca: Some(at("ca.pem")) };
    let rig = Rig::with(|c| c.tls = Some(tls), 1 << 30).await;
    // Silent, plain and wrong ones hold nobody up.
    let _silent = rig.raw().await;
    let mut plain = rig.raw().await;
    plain.send(&connect(4, "c", true, 0)).await;
    let with = ClientTls {
        ca: Some(at("ca.pem")),
        cert: Some(at("own.pem")),
        key: Some(at("own.key")),
        ..ClientTls::default()
    };
    let without = ClientTls { cert: None, key: None, ..with.clone() };
    for (client, want) in [(without, false), (with, true)] {
        let connector = tokio_rustls::TlsConnector::from(client_config(&client).unwrap());
        let tcp = tokio::net::TcpStream::connect(rig.addr).await.unwrap();
        let talk = async {
            let mut stream = connector.connect(client.server_name("localhost")?, tcp).await?;
            stream.write_all(&connect(4, "c", true, 0)).await?;
            let mut ack = [0; 4];
            stream.read_exact(&mut ack).await?;
            anyhow::Ok(ack)
        };
        let got = tokio::time::timeout(Duration::from_secs(5), talk).await.unwrap();
        assert_eq!(got.ok(), want.then_some([0x20, 2, 0, 0]));
    }
}

/// An authority (`ca.pem`) and a certificate of it for localhost, for both sides (`own.pem`, `own.key`).
fn certificates(dir: &std::path::Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params.signed_by(&key, &ca).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(dir.join("own.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("own.key"), key.serialize_pem()).unwrap();
}
