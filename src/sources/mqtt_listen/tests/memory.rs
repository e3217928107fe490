//! Where the memory is used up: clients wait, and none waits for ever.

use super::tools::*;
use crate::budget::{Pool, Pools};
use std::time::Duration;

/// A packet with a body of so many bytes.
fn large(size: usize, id: u16) -> Vec<u8> {
    publish(4, "t", format!(r#"{{"a":"{}"}}"#, "x".repeat(size)).as_bytes(), 1, id, 0)
}

#[tokio::test]
async fn a_client_waits_for_memory_and_gives_it_back() {
    let pools = Pools { events: Pool::new(1 << 20), ..Pools::default() };
    let rig = Rig::pooled(&pools).await;
    let (mut small, mut big) = (rig.client("small", 4).await, rig.client("big", 4).await);
    let others = pools.events.draw(1 << 20).unwrap();
    small.send(&publish(4, "t", b"{}", 1, 1, 0)).await;
    let packet = large(50_000, 2);
    big.send(&packet[..30_000]).await;
    assert!(small.silent().await && big.silent().await);
    drop(others);
    assert_eq!(small.packet().await, [0x40, 2, 0, 1]);
    big.send(&packet[30_000..]).await;
    assert_eq!(big.packet().await, [0x40, 2, 0, 2]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pools.events.used(), 0);
}

#[tokio::test]
async fn packets_that_do_not_fit_together_come_in_one_after_another() {
    // Two at a time; the first halves of all would be more than there is.
    let pools = Pools { events: Pool::new(450 << 10), ..Pools::default() };
    let rig = Rig::pooled(&pools).await;
    let (packet, mut clients) = (large(50_000, 1), Vec::new());
    for n in 0..20 {
        clients.push(rig.client(&n.to_string(), 4).await);
    }
    for client in &mut clients {
        client.send(&packet[..25_000]).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(pools.events.is_wanted());
    for client in &mut clients {
        client.send(&packet[25_000..]).await;
    }
    for client in &mut clients {
        assert_eq!(client.packet().await, [0x40, 2, 0, 1]);
    }
}

#[tokio::test]
async fn a_connection_needs_memory_too() {
    let pools = Pools { connections: Pool::new(40 << 10), ..Pools::default() };
    let rig = Rig::pooled(&pools).await;
    let others = pools.connections.draw(40 << 10).unwrap();
    assert!(rig.raw().await.closed().await);
    drop(others);
    let mut first = rig.client("first", 4).await;
    // Who was never of use has to go for the next.
    rig.client("second", 4).await;
    assert!(first.closed().await);
}

#[tokio::test]
async fn filters_are_refused_where_there_is_no_room() {
    let pools = Pools { kept: Pool::new(64 << 10), ..Pools::default() };
    let rig = Rig::pooled(&pools).await;
    let filter = |n: usize| format!("{n}/{}", "x".repeat(1000));
    for (version, refused) in [(5, 0x97), (4, 0x80)] {
        let (_, mut client) = rig.connect(&connect(version, "c", version == 4, 60)).await;
        let mut taken = 0;
        while *client.subscribe(version, &filter(taken), 0).await.last().unwrap() == 0 {
            taken += 1;
        }
        let ack = client.subscribe(version, &filter(taken), 0).await;
        assert_eq!((ack.last(), (20..40).contains(&taken)), (Some(&refused), true), "{taken}");
        let props: &[u8] = if version == 5 { &[0] } else { &[] };
        client.send(&framed(0xa2, &[&[0, 2][..], props, &text(&filter(0))].concat())).await;
        assert_eq!(client.packet().await[0], 0xb0);
        assert_eq!(client.subscribe(version, &filter(0), 0).await.last(), Some(&0), "there is room again");
    }
    // All came back with the session, the one that lasted too.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pools.kept.used(), 0);
    let (_, mut lasting) = rig.connect(&connect(5, "lasting", false, 60)).await;
    assert_eq!((lasting.subscribe(5, "a/#", 0).await.last(), pools.kept.used()), (Some(&0), 0), "a few are free");
    lasting.subscribe(5, &filter(0), 0).await;
    let rig = rig.restart().await;
    rig.client("other", 4).await;
    assert!(pools.kept.used() > 0, "a session that is taken up again has its filters");
    drop(rig.connect(&connect(5, "lasting", true, 0)).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pools.kept.used(), 0);
}

#[tokio::test]
async fn what_is_retained_has_its_own() {
    let pools = Pools { kept: Pool::new(64 << 10), ..Pools::default() };
    let rig = Rig::pooled(&pools).await;
    let mut client = rig.client("c", 5).await;
    let body = format!(r#"{{"a":"{}"}}"#, "x".repeat(30_000));
    let mut codes = Vec::new();
    for id in 1..=5u16 {
        client.send(&publish(5, &format!("t/{id}"), body.as_bytes(), 1, id, 1)).await;
        codes.push(client.packet().await.get(4).copied().unwrap_or(0));
    }
    assert_eq!((codes[0], codes[4]), (0, 0x97), "{codes:?}");
    assert!(pools.kept.used() <= 64 << 10);
    client.send(&publish(5, "t/1", b"", 1, 9, 1)).await;
    assert_eq!(client.packet().await[3], 9);
}
