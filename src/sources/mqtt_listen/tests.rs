//! Real clients over TCP, byte by byte, against a live listener over a real store.

mod defects;
mod fuzz;
mod memory;
mod sessions;
mod tools;

use super::wire::reason;
use tools::*;

#[tokio::test]
async fn what_is_acknowledged_is_in_the_log() {
    let rig = Rig::new().await;
    let mut log = rig.log();
    for version in [4, 5] {
        let mut c = rig.client("dev-1", version).await;
        for (qos, want) in [(0, None), (1, Some(vec![0x40, 2, 0, 7])), (2, Some(vec![0x50, 2, 0, 7]))] {
            c.send(&publish(version, "s/temp", br#"{"t":1}"#, qos, 7, 0)).await;
            if let Some(want) = want {
                assert_eq!(c.packet().await, want);
            }
        }
        c.send(&[0x62, 2, 0, 7]).await;
        assert_eq!(c.packet().await, [0x70, 2, 0, 7]);
        c.send(&[0xc0, 0]).await;
        assert_eq!(c.packet().await, [0xd0, 0]);
    }
    let events = log.events(6).await;
    assert_eq!(events.len(), 6);
    for (at, event) in events.iter().enumerate() {
        let meta = format!(r#"{{"topic":"s/temp","client":"dev-1","qos":{}}}"#, at % 3);
        assert_eq!((event.key.as_str(), &event.meta[..]), ("s/temp", meta.as_bytes()));
        assert_eq!(&event.body.to_bytes()[..], br#"{"t":1}"#);
    }
}

#[tokio::test]
async fn acknowledgements_come_in_the_order_of_receipt() {
    let rig = Rig::new().await;
    let mut c = rig.client("c", 4).await;
    let mut bytes = Vec::new();
    for id in 1..=200u16 {
        bytes.extend(publish(4, "t", b"{}", 1 + (id % 2) as u8, id, 0));
    }
    c.send(&bytes).await;
    for id in 1..=200u16 {
        let [high, low] = id.to_be_bytes();
        assert_eq!(c.packet().await, [if id % 2 == 0 { 0x40 } else { 0x50 }, 2, high, low]);
    }
}

#[tokio::test]
async fn a_packet_cut_anywhere_is_the_same_packet() {
    let rig = Rig::new().await;
    let mut log = rig.log();
    let mut c = rig.client("c", 4).await;
    for byte in publish(4, "a/b", &[b'x'; 300], 1, 9, 0) {
        c.send(&[byte]).await;
    }
    assert_eq!(c.packet().await, [0x40, 2, 0, 9]);
    let body = log.events(1).await[0].body.to_bytes();
    assert_eq!(body.len(), 300 + r#"{"payload":""}"#.len());
}

#[tokio::test]
async fn a_full_store_is_never_acknowledged() {
    let rig = Rig::with(|c| c.max_packet.0 = 1 << 20, 1).await;
    let mut five = rig.client("five", 5).await;
    five.send(&publish(5, "t", b"{}", 1, 1, 0)).await;
    five.packet().await;
    rig.fill().await;
    for (qos, want) in [(1, 0x40), (2, 0x50)] {
        five.send(&publish(5, "t", b"{}", qos, 2, 0)).await;
        assert_eq!(five.packet().await, [want, 3, 0, 2, reason::QUOTA]);
    }
    let mut four = rig.client("four", 4).await;
    four.send(&publish(4, "t", b"{}", 1, 3, 0)).await;
    assert!(four.closed().await);
}

#[tokio::test]
async fn an_event_too_large_is_refused_and_the_listener_lives() {
    let rig = Rig::new().await;
    let mut five = rig.client("five", 5).await;
    let large = vec![b'x'; MAX_EVENT + 1];
    five.send(&publish(5, "t", &large, 1, 1, 0)).await;
    assert_eq!(five.packet().await, [0x40, 3, 0, 1, reason::TOO_LARGE]);
    five.send(&publish(5, "t", b"{}", 1, 2, 0)).await;
    assert_eq!(five.packet().await, [0x40, 2, 0, 2]);
    let mut four = rig.client("four", 4).await;
    four.send(&publish(4, "t", &large, 1, 1, 0)).await;
    assert!(four.closed().await);
}

#[tokio::test]
async fn the_configuration_is_checked() {
    use crate::kind::{Params, Scope};
    let hash = super::hash_password("x", 1);
    for (json, want) in [
        (serde_json::json!({}), ""),
        (serde_json::json!({"listen": "[::1]:1883"}), ""),
        (serde_json::json!({"listen": "0.0.0.0:1883"}), "listen: `0.0.0.0:1883` can be reached"),
        (serde_json::json!({"listen": "0.0.0.0:1883", "users": [{"name": "a", "password": hash}]}), ""),
        (serde_json::json!({"listen": "0.0.0.0:1883", "tls": {"cert": "a", "key": "b"}}), "listen: "),
        (serde_json::json!({"listen": "0.0.0.0:1883", "tls": {"cert": "a", "key": "b", "client_ca": "c"}}), ""),
        (serde_json::json!({"listen": "localhost"}), "listen: `localhost` is no address"),
        (serde_json::json!({"max_packet": "1GiB"}), "max_packet: `1GiB` is not between"),
        (serde_json::json!({"max_connections": 0}), "max_connections: `0` is not between"),
        (serde_json::json!({"keep_alive": "1d"}), "keep_alive: `1d` is not between"),
        (serde_json::json!({"rate": 0}), "rate: "),
        (serde_json::json!({"anonymous": true}), "anonymous: unknown field `anonymous`"),
    ] {
        let built = (super::KIND.build)(Params::new("devices", Scope::default(), json.clone()));
        let got = built.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(got.starts_with(want) && want.is_empty() == got.is_empty(), "{json}: {got}");
    }
}
