//! What every broker does.

use crate::{at_last, build, kit, rejected, retried};
use serde_json::json;
use std::{path::Path, sync::Arc, time::Duration};
use tidegate::{
    fault::Fault,
    systems::{System, pubsub::PubSub},
};
use tokio::time::{sleep, timeout};

fn broker(kind: &str, config: serde_json::Value) -> Arc<dyn PubSub> {
    match build(kind, Path::new("."), config).unwrap() {
        System::PubSub(broker) => broker,
        other => panic!("{kind} is {}", other.sort()),
    }
}

async fn contract(broker: &Arc<dyn PubSub>) {
    // Nobody listens, which is no fault; and it does not come later.
    broker.publish("a/b", b"before").await.unwrap();
    let mut one = broker.subscribe("a/b").await.unwrap();
    let mut two = broker.subscribe("a/b").await.unwrap();
    let mut other = broker.subscribe("a/c").await.unwrap();
    for n in 0..200u32 {
        // A future of `next` that is dropped loses nothing.
        timeout(Duration::from_micros(u64::from(n % 7) * 50), two.next()).await.unwrap_err();
        broker.publish("a/b", &n.to_be_bytes()).await.unwrap();
        if n % 3 == 0 {
            assert_eq!(one.next().await.unwrap(), n.to_be_bytes());
            assert_eq!(two.next().await.unwrap(), n.to_be_bytes());
        } else {
            let (got, also) = tokio::join!(one.next(), two.next());
            assert_eq!((got.unwrap(), also.unwrap()), (n.to_be_bytes().to_vec(), n.to_be_bytes().to_vec()));
        }
    }
    for n in 0..500u32 {
        broker.publish("a/b", &n.to_be_bytes()).await.unwrap();
    }
    drop(two);
    for n in 0..500u32 {
        assert_eq!(one.next().await.unwrap(), n.to_be_bytes());
    }
    let all: Vec<u8> = (0..=255).collect();
    for message in [&b""[..], &all, &vec![b'x'; 1 << 20], b"last"] {
        broker.publish("a/b", message).await.unwrap();
        assert!(one.next().await.unwrap() == message);
    }
    assert!(timeout(Duration::from_millis(50), other.next()).await.is_err(), "another topic");
    broker.publish("a/c", b"c").await.unwrap();
    assert_eq!(other.next().await.unwrap(), b"c");
    let longest = "t".repeat(512);
    let mut third = broker.subscribe(&longest).await.unwrap();
    broker.publish(&longest, b"1").await.unwrap();
    assert_eq!(third.next().await.unwrap(), b"1");
    for topic in ["", "a/#", "+", "a\0", "a\nb", &"t".repeat(513)] {
        rejected(topic, broker.publish(topic, b"").await);
        rejected(topic, broker.subscribe(topic).await.map(|_| ()));
    }
    rejected("large", broker.publish("a", &vec![0; (1 << 20) + 1]).await);
    // Several at once.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let broker = broker.clone();
        tasks.spawn(async move {
            for _ in 0..20 {
                broker.publish("a/b", b"x").await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    for _ in 0..160 {
        assert_eq!(one.next().await.unwrap(), b"x");
    }
    assert!(timeout(Duration::from_millis(50), one.next()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    contract(&broker("memory_broker", json!({}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt() {
    let (dir, port) = (kit::folder(), kit::port());
    let _server = kit::Mosquitto::start(dir.path(), port);
    for version in ["5", "3.1.1"] {
        let name = format!("barn-{version}");
        let url = format!("mqtt://127.0.0.1:{port}");
        contract(&broker("mqtt_broker", json!({ "url": url, "version": version, "client_id": name }))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_message_is_older_than_a_subscription() {
    let (dir, port) = (kit::folder(), kit::port());
    let _server = kit::Mosquitto::start(dir.path(), port);
    let send = |retain: &str, message: &str| {
        let arguments = ["-p", &port.to_string(), "-t", "a", "-q", "1", retain, "-m", message];
        assert!(std::process::Command::new("mosquitto_pub").args(arguments).status().unwrap().success());
    };
    send("-r", "old");
    for version in ["5", "3.1.1"] {
        let url = format!("mqtt://127.0.0.1:{port}");
        let broker = broker("mqtt_broker", json!({ "url": url, "version": version }));
        let mut one = broker.subscribe("a").await.unwrap();
        sleep(Duration::from_millis(50)).await;
        send("-r", version);
        assert_eq!(one.next().await.unwrap(), version.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_and_comes() {
    let (dir, port) = (kit::folder(), kit::port());
    let server = kit::Mosquitto::start(dir.path(), port);
    let config = json!({ "url": format!("mqtt://127.0.0.1:{port}"), "timeout": "1s", "connect_timeout": "1s", "keepalive": "1s" });
    let broker = broker("mqtt_broker", config);
    let mut one = broker.subscribe("a").await.unwrap();
    broker.publish("a", b"1").await.unwrap();
    // The subscription is kept alive; the connection for publishing is not, and mosquitto closes it.
    let log = dir.path().join("mosquitto.log");
    let quiet = async {
        let begun = std::time::Instant::now();
        while !std::fs::read_to_string(&log).unwrap().contains("Client barn-shared has exceeded timeout") {
            assert!(begun.elapsed() < kit::LONG, "{}", std::fs::read_to_string(&log).unwrap());
            sleep(Duration::from_millis(50)).await;
        }
        broker.publish("a", b"2").await.unwrap();
        std::future::pending::<()>().await;
    };
    assert_eq!(one.next().await.unwrap(), b"1");
    tokio::select! {
        message = one.next() => assert_eq!(message.unwrap(), b"2"),
        () = quiet => {}
    }
    server.stop();
    retried("gone", one.next()).await;
    retried("gone", broker.publish("a", b"3")).await;
    retried("gone", async { broker.subscribe("a").await.map(|_| ()) }).await;
    let server = kit::Mosquitto::start(dir.path(), port);
    let mut one = at_last("back", || broker.subscribe("a")).await;
    at_last("back", || broker.publish("a", b"4")).await;
    assert_eq!(one.next().await.unwrap(), b"4");
    server.stop();
    // One that takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    retried("silent", broker.publish("a", b"5")).await;
    retried("silent", async { broker.subscribe("a").await.map(|_| ()) }).await;
    drop(silent);
    assert!(matches!(one.next().await, Err(Fault::Retry(_))));
}
