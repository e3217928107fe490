//! Packets with bytes changed at random, against a listener that an honest client uses all the while.

use super::tools::*;
use crate::sources::mqtt_listen::{decode, wire};
use std::time::Duration;
use tokio::{io::AsyncWriteExt, time::timeout};

fn seeds() -> Vec<Vec<u8>> {
    let will = [&[0][..], &text("w"), &text("gone")].concat();
    let user = [9, 0x26, 0, 1, b'a', 0, 1, b'b', 0x01, 1];
    vec![
        connect(4, "fuzz", true, 0),
        connect(5, "fuzz", false, 1),
        connect_with(5, "fuzz", 0x06, 60, &[3, 0x22, 0, 1], &will),
        publish(4, "a/b", b"{\"n\":1}", 0, 0, 0),
        publish(5, "a/b", b"{\"n\":1}", 1, 5, 1),
        publish_with(5, "a/b", b"x", 2, 6, 0, &user),
        subscribe(4, "a/+", 1),
        subscribe(5, "$share/g/#", 2),
        vec![0x62, 2, 0, 6],
        vec![0x40, 2, 0, 5],
        vec![0xa2, 6, 0, 1, 0, 2, b'a', b'b'],
        vec![0xc0, 0],
        vec![0xe0, 2, 0, 0],
    ]
}

fn mutate(rng: &mut fastrand::Rng, packet: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..packet.len().max(1));
        match rng.u8(..5) {
            0 if !packet.is_empty() => packet[at] = rng.u8(..),
            1 if !packet.is_empty() => packet[at] ^= 1 << rng.u8(..8),
            2 if packet.len() > 1 => packet.truncate(at),
            3 => packet.insert(at.min(packet.len()), rng.u8(..)),
            _ if packet.len() > 1 => {
                // The length fits again: what is inside is looked at.
                let body = packet.split_off(2);
                let first = packet[0];
                *packet = framed(first, &body);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn ten_thousand_broken_packets_harm_nobody() {
    let mut rig = Rig::new().await;
    let mut honest = rig.client("honest", 4).await;
    honest.subscribe(4, "honest/#", 0).await;
    let (mut rng, seeds) = (fastrand::Rng::with_seed(7), seeds());
    let mut sent = 0;
    for round in 0..500u16 {
        let mut rude = rig.raw().await;
        let mut bytes = connect(if round % 2 == 0 { 4 } else { 5 }, "fuzz", round % 3 == 0, 0);
        for _ in 0..20 {
            let mut packet = seeds[rng.usize(..seeds.len())].clone();
            mutate(&mut rng, &mut packet);
            bytes.extend(packet);
            sent += 1;
            // After a wrong packet the connection ends: most get one of their own.
            if rude.0.write_all(&bytes).await.is_err() || rng.bool() {
                rude = rig.raw().await;
                bytes = if rng.u8(..4) == 0 { Vec::new() } else { connect(4 + rng.u8(..2), "fuzz", true, 0) };
            } else {
                bytes.clear();
            }
        }
        drop(rude);
        honest.send(&publish(4, "honest/n", round.to_string().as_bytes(), 1, round + 1, 0)).await;
        let mut seen = 0;
        while seen < 2 {
            let packet = timeout(Duration::from_secs(5), honest.packet()).await.unwrap();
            assert!(!packet.is_empty(), "the honest client was cut off in round {round}");
            seen += 1;
        }
    }
    assert_eq!(sent, 10_000);
    assert!(!rig.crashed(), "the listener ended");
}

/// The same without sockets, many more of them: nothing panics, and what is read is within the packet.
#[test]
fn decoders_take_anything() {
    let (mut rng, seeds) = (fastrand::Rng::with_seed(8), seeds());
    for _ in 0..300_000 {
        let mut packet = seeds[rng.usize(..seeds.len())].clone();
        mutate(&mut rng, &mut packet);
        let Ok(Some(frame)) = wire::frame(&packet, 1 << 16) else { continue };
        for version in [wire::Version::V311, wire::Version::V5] {
            decode::connect(frame.body).ok();
            decode::publish(&frame, version).ok();
            decode::ack(&frame, version).ok();
            decode::subscribe(frame.body, version).ok();
            decode::unsubscribe(frame.body, version).ok();
            decode::disconnect(frame.body, version).ok();
        }
    }
}
