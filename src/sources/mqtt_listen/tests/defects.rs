//! The ways in which clients took other brokers down, or made them lose messages: none of them works here. The rows of
//! the list that this follows are named P1 to P15.

use super::tools::*;
use crate::sources::mqtt_listen::props;
use tokio::io::AsyncReadExt;

/// Whether the listener still serves a newcomer.
async fn lives(rig: &Rig) {
    let mut c = rig.client("newcomer", 4).await;
    c.send(&publish(4, "alive", b"{}", 1, 1, 0)).await;
    assert_eq!(c.packet().await, [0x40, 2, 0, 1]);
}

#[tokio::test]
async fn p1_properties_reach_a_subscriber_that_knows_none() {
    let rig = Rig::new().await;
    let mut old = rig.client("old", 4).await;
    old.subscribe(4, "t/#", 1).await;
    let mut new = rig.client("new", 5).await;
    let props = [&[12, props::USER, 0, 1, b'a', 0, 1, b'b', props::EXPIRY][..], &60u32.to_be_bytes()].concat();
    new.send(&publish_with(5, "t/x", b"hello", 1, 1, 0, &props)).await;
    assert_eq!(new.packet().await, [0x40, 2, 0, 1]);
    assert_eq!(old.message(4).await, ("t/x".into(), b"hello".to_vec(), 0x32, 1));
    lives(&rig).await;
}

#[tokio::test]
async fn p2_p15_any_client_id_may_come_again_and_again() {
    let rig = Rig::with(|c| c.max_connections = 3, 1 << 30).await;
    for id in ["+", "#", "$SYS/x", "a/b", "$share/g/x", "é", "session/", "\u{7f}"] {
        for (clean, expiry) in [(true, 0), (false, 60), (false, 60), (true, 0)] {
            let (ack, mut c) = rig.connect(&connect(5, id, clean, expiry)).await;
            assert_eq!(ack[3], 0, "{id}");
            c.subscribe(5, "t/#", 1).await;
            c.send(&[0xe0, 0]).await;
            assert!(c.closed().await);
        }
    }
    let mut held = Vec::new();
    for at in 0..3 {
        let mut c = rig.client(&format!("held-{at}"), 4).await;
        c.send(&[0xc0, 0]).await; // of use: one that only holds its place would have to go
        assert_eq!(c.packet().await, [0xd0, 0]);
        held.push(c);
    }
    for _ in 0..5 {
        let mut c = rig.raw().await;
        c.0.set_nodelay(true).unwrap();
        let sent = tokio::io::AsyncWriteExt::write_all(&mut c.0, &connect(4, "held-0", true, 0)).await;
        assert!(sent.is_err() || c.closed().await);
    }
    drop(held);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    lives(&rig).await;
}

#[tokio::test]
async fn p3_topics_need_not_begin_with_ascii() {
    let rig = Rig::new().await;
    let mut c = rig.client("c", 4).await;
    c.subscribe(4, "é/+", 1).await;
    let mut publisher = rig.client("p", 4).await;
    publisher.send(&publish(4, "é/x", b"1", 1, 1, 1)).await;
    assert_eq!(publisher.packet().await, [0x40, 2, 0, 1]);
    assert_eq!(c.message(4).await, ("é/x".into(), b"1".to_vec(), 0x32, 1));
    lives(&rig).await;
}

#[tokio::test]
async fn p4_a_shared_subscriber_leaves_without_acknowledging() {
    let rig = Rig::new().await;
    let (_, mut c) = rig.connect(&connect(5, "worker", false, 60)).await;
    c.subscribe(5, "$share/g/t", 1).await;
    let mut publisher = rig.client("p", 4).await;
    publisher.send(&publish(4, "t", b"job", 1, 1, 0)).await;
    assert_eq!(c.message(5).await.1, b"job");
    drop(c);
    lives(&rig).await;
    let (ack, mut c) = rig.connect(&connect(5, "worker", false, 60)).await;
    assert_eq!(ack[2], 1);
    let (_, payload, first, _) = c.message(5).await;
    assert_eq!((payload, first), (b"job".to_vec(), 0x3a));
}

#[tokio::test]
async fn p5_an_absent_subscriber_loses_nothing_unseen() {
    let rig = Rig::with(|c| (c.session_events, c.session_bytes.0) = (5000, 8 << 20), 1 << 30).await;
    let (_, mut c) = rig.connect(&connect(5, "away", false, 60)).await;
    c.subscribe(5, "t", 1).await;
    drop(c);
    let mut publisher = rig.client("p", 4).await;
    for at in 0..2000u16 {
        publisher.send(&publish(4, "t", at.to_string().as_bytes(), 1, at + 1, 0)).await;
    }
    for _ in 0..2000 {
        publisher.packet().await;
    }
    let (_, mut c) = rig.connect(&connect(5, "away", false, 60)).await;
    for at in 0..2000u16 {
        let (_, payload, first, id) = c.message(5).await;
        assert_eq!((payload, first & !8), (at.to_string().into_bytes(), 0x32));
        c.send(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
    }
}

#[tokio::test]
async fn p6_quality_is_the_lower_of_both() {
    let rig = Rig::new().await;
    let mut c = rig.client("c", 4).await;
    c.subscribe(4, "t", 2).await;
    let mut publisher = rig.client("p", 4).await;
    for (qos, want) in [(0, 0x30), (1, 0x32), (2, 0x34)] {
        publisher.send(&publish(4, "t", b"x", qos, 1, 0)).await;
        assert_eq!(c.message(4).await.2, want);
    }
}

#[tokio::test]
async fn p7_an_alias_stands_for_one_topic() {
    let rig = Rig::new().await;
    let alias_maximum = [3, props::ALIAS_MAXIMUM, 0, 1];
    let (_, mut c) = rig.connect(&connect_with(5, "c", 2, 60, &alias_maximum, &[])).await;
    c.subscribe(5, "x/#", 0).await;
    let mut publisher = rig.client("p", 4).await;
    for topic in ["x/1", "x/2", "x/1"] {
        publisher.send(&publish(4, topic, topic.as_bytes(), 0, 0, 0)).await;
    }
    // Topic, alias 1; another topic without; then the alias alone.
    for (topic, payload) in [("x/1", "x/1"), ("x/2", "x/2"), ("", "x/1")] {
        let (got, bytes, _, _) = c.message(5).await;
        assert_eq!((got.as_str(), bytes.as_slice()), (topic, payload.as_bytes()));
    }
}

#[tokio::test]
async fn p8_a_second_copy_is_no_second_event() {
    let rig = Rig::new().await;
    let mut watcher = rig.client("w", 4).await;
    watcher.subscribe(4, "t", 0).await;
    let (_, mut c) = rig.connect(&connect(4, "c", false, 0)).await;
    c.send(&publish(4, "t", b"A", 2, 1, 0)).await;
    assert_eq!(c.packet().await, [0x50, 2, 0, 1]);
    // The connection breaks before PUBREL, and the gateway is started again.
    drop(c);
    assert_eq!(watcher.message(4).await.1, b"A");
    let rig = rig.restart().await;
    let mut watcher = rig.client("w", 4).await;
    watcher.subscribe(4, "t", 0).await;
    let (ack, mut c) = rig.connect(&connect(4, "c", false, 0)).await;
    assert_eq!(ack, [0x20, 2, 1, 0]);
    // The copy again, another message, and the copy a third time in the same read.
    let bytes = [publish(4, "t", b"A", 2, 1, 8), publish(4, "t", b"B", 2, 2, 0), publish(4, "t", b"A", 2, 1, 8)];
    c.send(&bytes.concat()).await;
    for id in [1, 2, 1] {
        assert_eq!(c.packet().await, [0x50, 2, 0, id]);
    }
    assert_eq!(watcher.message(4).await.1, b"B");
    for id in [1, 2] {
        c.send(&[0x62, 2, 0, id]).await;
        assert_eq!(c.packet().await, [0x70, 2, 0, id]);
    }
    // Released, the identifier is another message.
    c.send(&publish(4, "t", b"C", 2, 1, 0)).await;
    assert_eq!(c.packet().await, [0x50, 2, 0, 1]);
    assert_eq!(watcher.message(4).await.1, b"C");
}

#[tokio::test]
async fn p10_only_a_retained_nothing_deletes() {
    let rig = Rig::new().await;
    let mut publisher = rig.client("p", 4).await;
    let mut ask = async |payload: &[u8], flags: u8| {
        publisher.send(&publish(4, "t", payload, 1, 1, flags)).await;
        publisher.packet().await;
    };
    ask(b"kept", 1).await;
    ask(b"", 0).await;
    let mut c = rig.client("c", 4).await;
    c.subscribe(4, "#", 1).await;
    assert_eq!(c.message(4).await, ("t".into(), b"kept".to_vec(), 0x33, 1));
    ask(b"", 1).await;
    let rig = rig.restart().await;
    let mut c = rig.client("c", 4).await;
    c.subscribe(4, "#", 1).await;
    assert!(c.silent().await);
}

#[tokio::test]
async fn p11_all_retained_messages_come_also_after_a_restart() {
    let rig = Rig::new().await;
    let mut publisher = rig.client("p", 4).await;
    let all: Vec<u8> = (1..=500u16).flat_map(|n| publish(4, &format!("r/{n:03}"), b"on", 1, n, 1)).collect();
    publisher.send(&all).await;
    for _ in 0..500 {
        publisher.packet().await;
    }
    let rig = rig.restart().await;
    for version in [4, 5] {
        let mut c = rig.client("c", version).await;
        c.subscribe(version, "r/+", 1).await;
        for n in 1..=500 {
            let (topic, payload, first, id) = c.message(version).await;
            assert_eq!((topic, payload, first), (format!("r/{n:03}"), b"on".to_vec(), 0x33));
            c.send(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
        }
        assert!(c.silent().await);
    }
}

#[tokio::test]
async fn p13_p14_a_client_acknowledges_in_any_order_within_its_receive_maximum() {
    let rig = Rig::new().await;
    let receive_maximum = [3, props::RECEIVE_MAXIMUM, 0, 2];
    let (_, mut c) = rig.connect(&connect_with(5, "c", 2, 60, &receive_maximum, &[])).await;
    c.subscribe(5, "t", 1).await;
    let mut publisher = rig.client("p", 4).await;
    for at in 1..=5u16 {
        publisher.send(&publish(4, "t", b"x", 1, at, 0)).await;
    }
    let (first, second) = (c.message(5).await.3, c.message(5).await.3);
    assert!(c.silent().await, "more than the receive maximum");
    for id in [second, first] {
        c.send(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
        c.message(5).await;
    }
    assert!(c.silent().await);
}

#[tokio::test]
async fn packets_that_no_client_sends_end_their_connection_only() {
    let rig = Rig::new().await;
    let mut honest = rig.client("honest", 5).await;
    for version in [4, 5] {
        for first in [0x00, 0x20, 0x90, 0xb0, 0xd0, 0xf0, 0x10, 0x36, 0x38, 0x80, 0xa0, 0x60, 0xc1] {
            let mut c = rig.client("rude", version).await;
            c.send(&[first, 2, 0, 1]).await;
            let goodbye = c.packet().await;
            assert!(
                goodbye.is_empty() || version == 5 && goodbye[0] == 0xe0 && goodbye[2] >= 0x80,
                "{first:x} {goodbye:?}"
            );
        }
        for packet in [
            publish(version, "a/#", b"", 1, 1, 0),
            publish(version, "", b"", 1, 1, 0),
            publish(version, "a\0b", b"", 1, 1, 0),
            publish(version, "a", b"", 1, 0, 0),
            publish(version, &"t".repeat(2000), b"", 1, 1, 0),
            framed(0x30, &[0, 2, 0xff, 0xfe, 0]),
            framed(0x30, &[0, 9, b'a']),
            subscribe(version, "a/#/b", 0),
            subscribe(version, "a", 3),
            vec![0x30, 0xff, 0xff, 0xff, 0x7f],
            vec![0x30, 0xff, 0xff, 0xff, 0xff],
        ] {
            let mut c = rig.client("rude", version).await;
            c.send(&packet).await;
            let goodbye = c.packet().await;
            assert!(goodbye.is_empty() || version == 5 && goodbye[0] == 0xe0, "{packet:?} {goodbye:?}");
        }
    }
    // Topic Alias Maximum 0, which took another engine down.
    let (ack, _) = rig.connect(&connect_with(5, "zero", 2, 60, &[3, props::ALIAS_MAXIMUM, 0, 0], &[])).await;
    assert_eq!(ack[3], 0);
    honest.send(&publish(5, "t", b"{}", 1, 1, 0)).await;
    assert_eq!(honest.packet().await, [0x40, 2, 0, 1]);
}

#[tokio::test]
async fn a_second_version_and_a_wrong_one_get_their_answers() {
    let rig = Rig::new().await;
    let wrong = framed(0x10, b"\0\x06MQIsdp\x03\x02\0\x3c\0\x01c");
    for (packet, want) in [
        (connect_with(6, "c", 2, 60, &[], &[]), vec![0x20, 2, 0, 1]),
        (wrong, vec![0x20, 2, 0, 1]),
        (connect_with(4, "", 0, 60, &[], &[]), vec![0x20, 2, 0, 2]),
        (connect_with(4, &"x".repeat(300), 2, 60, &[], &[]), vec![0x20, 2, 0, 2]),
        (connect_with(5, "c", 2, 60, &[4, props::AUTH_METHOD, 0, 1, b'x'], &[]), vec![0x20, 3, 0, 0x8c, 0]),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![]),
    ] {
        let (ack, _) = rig.connect(&packet).await;
        assert_eq!(ack, want, "{packet:?}");
    }
    let mut c = rig.client("c", 4).await;
    c.send(&connect(4, "c", true, 0)).await;
    assert!(c.closed().await);
}

/// One client for each way to hold a place and be of no use.
async fn crowd(rig: &Rig) -> Vec<Client> {
    let connected = connect(4, "slow", true, 0);
    let begun = [connected.clone(), vec![0xc0, 0], publish(4, "t", b"{}", 1, 1, 0)[..5].to_vec()].concat();
    let starts = [&b""[..], &connected[..5], &connected, &begun];
    let mut crowd = Vec::new();
    for start in starts {
        let mut c = rig.raw().await;
        c.send(start).await;
        crowd.push(c);
    }
    crowd
}

#[tokio::test]
async fn whoever_is_of_no_use_gives_way() {
    let rig = Rig::with(|c| c.max_connections = 5, 1 << 30).await;
    let mut honest = rig.client("honest", 4).await;
    honest.send(&publish(4, "t", b"{}", 1, 1, 0)).await;
    assert_eq!(honest.packet().await, [0x40, 2, 0, 1]);
    let (mut crowd, mut newcomers) = (crowd(&rig).await, vec![honest]);
    for at in 0..crowd.len() {
        let mut c = rig.client(&format!("newcomer-{at}"), 4).await;
        c.send(&publish(4, "t", b"{}", 1, 1, 0)).await;
        assert_eq!(c.packet().await, [0x40, 2, 0, 1]);
        newcomers.push(c);
    }
    for c in &mut crowd {
        while !c.packet().await.is_empty() {}
    }
    for c in &mut newcomers {
        c.send(&[0xc0, 0]).await;
        assert_eq!(c.packet().await, [0xd0, 0]);
    }
    assert!(rig.raw().await.closed().await, "all the others are of use");
}

#[tokio::test]
async fn who_begins_a_packet_ends_it_in_time() {
    let rig = Rig::new().await;
    let mut c = rig.client("torn", 4).await;
    c.send(&publish(4, "t", &[b'x'; 300], 1, 1, 0)[..20]).await;
    tokio::time::pause();
    let since = tokio::time::Instant::now();
    let ended = c.0.read_u8().await;
    assert!(ended.is_err() && (9..=12).contains(&since.elapsed().as_secs()), "{ended:?} {:?}", since.elapsed());
}

#[tokio::test]
async fn a_packet_with_more_filters_than_a_session_may_have_ends_the_connection() {
    let rig = Rig::with(|c| c.max_subscriptions = 3, 1 << 30).await;
    for (filters, ends) in [(3, false), (4, true)] {
        let mut c = rig.client("many", 4).await;
        let body = [&[0, 1][..], &[&text("#")[..], &[0]].concat().repeat(filters)].concat();
        c.send(&framed(0x82, &body)).await;
        assert_eq!(c.packet().await.is_empty(), ends, "{filters}");
    }
    lives(&rig).await;
}
