//! The cloud in this process: rumqttd, a broker that nobody here wrote.

use crate::kit::{Gateway, folder, port, wait_for_port};
use rumqttd::{Broker, Config, ConnectionSettings, Notification, RouterConfig, ServerSettings};
use std::{
    collections::{BTreeSet, HashMap},
    thread,
    time::{Duration, Instant},
};

const COUNT: u64 = 2_000;
/// All of it arrives in well under a second; a slow machine gets time.
const LONG: Duration = Duration::from_secs(60);

/// Listens with MQTT 3.1.1 and with 5, one port each: it cannot tell them apart.
fn broker(v4: u16, v5: u16) -> Broker {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 1_000,
        auth: None,
        external_auth: None,
        dynamic_filters: false,
    };
    let server = |port: u16| {
        let listen = ([127, 0, 0, 1], port).into();
        let (name, connections) = (port.to_string(), connections.clone());
        HashMap::from([(
            name.clone(),
            ServerSettings { name, listen, tls: None, next_connection_delay_ms: 1, connections },
        )])
    };
    let router = RouterConfig {
        max_connections: 10,
        max_outgoing_packet_count: 200,
        max_segment_size: 16 << 20,
        max_segment_count: 4,
        ..RouterConfig::default()
    };
    Broker::new(Config { router, v4: Some(server(v4)), v5: Some(server(v5)), ..Config::default() })
}

#[test]
fn everything_reaches_a_broker_in_this_process_in_both_versions_of_mqtt() {
    let (v4, v5) = (port(), port());
    let mut broker = broker(v4, v5);
    let (mut link, mut messages) = broker.link("test").unwrap();
    link.subscribe("#").unwrap();
    thread::spawn(move || broker.start().unwrap()); // it cannot be stopped; it ends with this process
    wait_for_port(v4);
    wait_for_port(v5);

    let dir = folder();
    let configuration = format!(
        r#"{{ "sources": {{ "made": {{ "type": "generate", "rate": 0, "count": {COUNT}, "fields": {{ "n": {{ "counter": {{}} }} }} }} }},
            "pipelines": {{ "all": {{ "from": ["made"], "processes": [], "to": ["old", "new"] }} }},
            "sinks": {{
                "old": {{ "type": "mqtt", "url": "mqtt://127.0.0.1:{v4}", "version": "3.1.1", "topic": "old" }},
                "new": {{ "type": "mqtt", "url": "mqtt://127.0.0.1:{v5}", "topic": "new" }} }} }}"#
    );
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    let (mut arrived, deadline) = (HashMap::<String, BTreeSet<u64>>::new(), Instant::now() + LONG);
    while arrived.values().map(BTreeSet::len).sum::<usize>() < 2 * COUNT as usize && Instant::now() < deadline {
        let forward = match messages.recv_deadline(deadline).unwrap() {
            Some(Notification::Forward(forward)) => forward,
            Some(Notification::Unschedule) => {
                messages.ready().unwrap(); // its way of asking whether more is wanted
                continue;
            }
            _ => continue,
        };
        let body: serde_json::Value = serde_json::from_slice(&forward.publish.payload).unwrap();
        let topic = String::from_utf8(forward.publish.topic.to_vec()).unwrap();
        arrived.entry(topic).or_default().insert(body["n"].as_u64().unwrap());
    }
    assert!(gateway.end().success(), "it ends by itself when the broker has everything");
    for topic in ["old", "new"] {
        assert_eq!(arrived[topic].len() as u64, COUNT, "{topic}");
    }
}
