//! Twenty kills at random moments, under load from both sides.

use crate::{
    account::{Arrivals, body},
    kit::{self, Gateway, folder, http, mqtt, port, runtime, wait_for, wait_for_port},
};
use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const KILLS: usize = 20;
const SEED: u64 = 20;
/// Numbered events of each producer: 50,000 in all.
const RAW: u64 = 8_000;
const LINES: u64 = 6_000;
const POSTED: u64 = 10_000;

/// A gateway that takes MQTT and HTTP in and sends everything to an HTTP and an MQTT upstream, with envelopes.
pub struct Rig {
    pub mqtt: u16,
    pub http: u16,
    pub cloud: u16,
    pub bridge: u16,
}

impl Rig {
    pub fn new() -> Rig {
        Rig { mqtt: port(), http: port(), cloud: port(), bridge: port() }
    }

    pub fn configuration(&self) -> String {
        let Rig { mqtt, http, cloud, bridge } = self;
        format!(
            r#"{{
  "gateway": {{ "id": "rig" }},
  "sources": {{
    "mq": {{ "type": "mqtt_listen", "listen": "127.0.0.1:{mqtt}", "id": "id" }},
    "web": {{ "type": "http", "listen": "127.0.0.1:{http}", "id": "id" }} }},
  "pipelines": {{ "all": {{
    "from": ["mq", "web"],
    "processes": [{{ "type": "annotate", "set": {{ "site": "barn" }} }}],
    "to": ["cloud", "bridge"] }} }},
  "sinks": {{
    "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/ingest", "envelope": true }},
    "bridge": {{ "type": "mqtt", "url": "mqtt://127.0.0.1:{bridge}", "topic": "up/{{topic}}", "envelope": true }} }} }}"#
        )
    }

    pub fn start(&self, dir: &Path) -> Gateway {
        let gateway = Gateway::start(dir, &self.configuration(), &[]);
        wait_for_port(self.mqtt);
        wait_for_port(self.http);
        gateway
    }

    /// Posts a producer's events until each is acknowledged, some at a time.
    pub fn post_all(&self, producer: &str, count: u64, acknowledged: &AtomicU64) {
        let url = format!("http://127.0.0.1:{}/v1/events", self.http);
        let mut n = 0;
        while n < count {
            let some = (n..count.min(n + 1 + n % 40)).map(|n| String::from_utf8(body(producer, n)).unwrap());
            let some: Vec<String> = some.collect();
            match http::post(&url, &format!("[{}]", some.join(","))) {
                Some((202, _)) => {
                    n += some.len() as u64;
                    acknowledged.fetch_add(some.len() as u64, Ordering::Relaxed);
                }
                Some((503 | 429, _)) | None => thread::sleep(Duration::from_millis(10)),
                Some((status, text)) => panic!("{status}: {text}"),
            }
        }
    }

    /// Publishes a producer's events until each is acknowledged.
    pub async fn publish_all(&self, producer: &str, numbers: std::ops::Range<u64>, acknowledged: &AtomicU64) {
        let acked = |_| {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        };
        mqtt::Load::new(producer, 20).run(self.mqtt, numbers, |n| body(producer, n), acked).await;
    }

    /// The same with `mosquitto_pub -l`, which says only by its exit code that all lines were acknowledged.
    pub fn pipe_all(&self, producer: &str, count: u64, acknowledged: &AtomicU64) {
        let port = self.mqtt.to_string();
        let mut n = 0;
        while n < count {
            let end = count.min(n + 500);
            let mut child = Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "pipe", "-i", producer, "-l"])
                .stdin(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("mosquitto_pub");
            let lines: Vec<u8> = (n..end).flat_map(|n| [body(producer, n), b"\n".to_vec()].concat()).collect();
            child.stdin.take().unwrap().write_all(&lines).ok();
            let mut status = None;
            let begun = std::time::Instant::now();
            while status.is_none() && begun.elapsed() < Duration::from_secs(3) {
                thread::sleep(Duration::from_millis(5));
                status = child.try_wait().unwrap();
            }
            child.kill().ok();
            child.wait().unwrap();
            if status.is_some_and(|s| s.success()) {
                acknowledged.fetch_add(end - n, Ordering::Relaxed);
                n = end;
            }
        }
    }

    /// The MQTT upstream; what it is given goes to `arrivals`.
    pub fn bridge(&self, arrivals: &Arrivals) -> mqtt::Upstream {
        let arrivals = arrivals.clone();
        mqtt::Upstream::start(self.bridge, move |message| {
            if message.topic.starts_with("up/") {
                let envelope: serde_json::Value = serde_json::from_slice(message.payload).unwrap();
                arrivals.take(&envelope["body"], envelope["id"].as_str().unwrap());
            }
        })
    }

    /// The HTTP upstream.
    pub fn cloud(&self, arrivals: &Arrivals) -> http::Upstream {
        let arrivals = arrivals.clone();
        http::Upstream::start(self.cloud, move |post| {
            for envelope in post.events() {
                arrivals.take(&envelope["body"], envelope["id"].as_str().unwrap());
            }
            200
        })
    }
}

#[test]
fn twenty_kills_lose_nothing_that_was_acknowledged() {
    let (dir, rig) = (folder(), Arc::new(Rig::new()));
    let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
    let (_cloud, _bridge) = (rig.cloud(&by_http), rig.bridge(&by_mqtt));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let sent = [("raw-1", RAW), ("raw-2", RAW), ("raw-3", RAW), ("lines", LINES), ("post-1", POSTED), ("post-2", POSTED)];
    let total: u64 = sent.iter().map(|(_, count)| count).sum();
    assert_eq!(total, 50_000);
    let producers: Vec<thread::JoinHandle<()>> = sent
        .into_iter()
        .map(|(producer, count)| {
            let (rig, acknowledged) = (rig.clone(), acknowledged.clone());
            thread::spawn(move || match producer {
                "lines" => rig.pipe_all(producer, count, &acknowledged),
                raw if raw.starts_with("raw") => {
                    runtime().block_on(rig.publish_all(producer, 0..count, &acknowledged));
                }
                _ => rig.post_all(producer, count, &acknowledged),
            })
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut gateway = rig.start(dir.path());
    for kill in 1..=KILLS {
        // Spread over the whole load: each time after some more were acknowledged, and a moment.
        let until = total * kill as u64 / (KILLS as u64 + 1);
        wait_for("acknowledgements", 3 * kit::LONG, || acknowledged.load(Ordering::Relaxed) >= until);
        thread::sleep(Duration::from_micros(random.u64(0..30_000)));
        gateway.alive();
        gateway.kill();
        gateway = rig.start(dir.path());
    }
    for producer in producers {
        producer.join().unwrap();
    }
    let total = total as usize;
    wait_for("the upstreams to have everything", 3 * kit::LONG, || by_http.distinct() >= total && by_mqtt.distinct() >= total);
    assert!(gateway.stop().success());
    by_http.check(&sent);
    by_mqtt.check(&sent);
    println!("{} repeats over HTTP, {} over MQTT", by_http.len() - total, by_mqtt.len() - total);
}
