//! The usual gateway: MQTT and HTTP in, a pipeline, HTTP and MQTT out; and producers that send until all is acknowledged.

use crate::{
    account::{Arrivals, body},
    kit::{Gateway, http, mqtt, port, wait_for_port},
};
use std::{
    io::Write,
    ops::Range,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

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

    fn configuration(&self) -> String {
        self.configuration_with(r#""store": {}"#)
    }

    /// With sections of its own, such as a store elsewhere.
    pub fn configuration_with(&self, sections: &str) -> String {
        let Rig { mqtt, http, cloud, bridge } = self;
        format!(
            r#"{{
  "gateway": {{ "id": "rig" }},
  {sections},
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

    /// As `start`, with sections of its own in the configuration.
    pub fn start_with(&self, dir: &Path, sections: &str) -> Gateway {
        let gateway = Gateway::start(dir, &self.configuration_with(sections), &[]);
        wait_for_port(self.mqtt);
        wait_for_port(self.http);
        gateway
    }

    /// As `start`, with a fault injected into system calls.
    pub fn start_with_fault(&self, dir: &Path, call: &str, fault: &str) -> Gateway {
        let gateway = Gateway::start_with_fault(dir, &self.configuration(), call, fault);
        wait_for_port(self.mqtt);
        wait_for_port(self.http);
        gateway
    }

    /// Posts a producer's events until each is acknowledged, some at a time. Gives the longest wait for an answer.
    pub fn post_all(&self, producer: &str, numbers: Range<u64>, acknowledged: &AtomicU64) -> Duration {
        let url = format!("http://127.0.0.1:{}/v1/events", self.http);
        let (mut n, mut longest) = (numbers.start, Duration::ZERO);
        while n < numbers.end {
            let some = n..numbers.end.min(n + 1 + n % 40);
            let bodies: Vec<String> = some.clone().map(|n| String::from_utf8(body(producer, n)).unwrap()).collect();
            let begun = Instant::now();
            match http::post(&url, &format!("[{}]", bodies.join(","))) {
                Some((202, _)) => {
                    longest = longest.max(begun.elapsed());
                    acknowledged.fetch_add(some.end - n, Ordering::Relaxed);
                    n = some.end;
                }
                Some((503 | 429, _)) | None => thread::sleep(Duration::from_millis(10)),
                Some((status, text)) => panic!("{status}: {text}"),
            }
        }
        longest
    }

    /// Posts a producer's events from `first` on, some at a time, until one is refused or `last` is reached. Gives the number
    /// after the last that was acknowledged, and whether it was refused.
    pub fn post_until_refused(&self, producer: &str, first: u64, last: u64) -> (u64, bool) {
        let url = format!("http://127.0.0.1:{}/v1/events", self.http);
        let mut n = first;
        while n < last {
            let some = n..last.min(n + 40);
            let bodies: Vec<String> = some.clone().map(|n| String::from_utf8(body(producer, n)).unwrap()).collect();
            match http::post(&url, &format!("[{}]", bodies.join(","))) {
                Some((202, _)) => n = some.end,
                Some((503 | 429, _)) => return (n, true),
                other => panic!("{other:?}"),
            }
        }
        (n, false)
    }

    /// Publishes a producer's events until each is acknowledged.
    pub async fn publish_all(&self, producer: &str, numbers: Range<u64>, acknowledged: &AtomicU64) {
        let acked = |_| {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        };
        mqtt::Load::new(producer, 20).run(self.mqtt, numbers, |n| body(producer, n), acked).await;
    }

    /// The same with `mosquitto_pub -l`, which says only by its exit code that all lines were acknowledged.
    pub fn pipe_all(&self, producer: &str, numbers: Range<u64>, acknowledged: &AtomicU64) {
        let port = self.mqtt.to_string();
        let mut n = numbers.start;
        while n < numbers.end {
            let end = numbers.end.min(n + 500);
            let mut child = Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "pipe", "-i", producer, "-l"])
                .stdin(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("mosquitto_pub");
            let lines: Vec<u8> = (n..end).flat_map(|n| [body(producer, n), b"\n".to_vec()].concat()).collect();
            child.stdin.take().unwrap().write_all(&lines).ok();
            let mut status = None;
            let begun = Instant::now();
            while status.is_none() && begun.elapsed() < Duration::from_secs(5) {
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

    /// The HTTP upstream; what it is given goes to `arrivals`.
    pub fn cloud(&self, arrivals: &Arrivals) -> http::Upstream {
        let arrivals = arrivals.clone();
        http::Upstream::start(self.cloud, move |post| {
            post.events().iter().for_each(|envelope| take(&arrivals, envelope));
            200
        })
    }

    /// The MQTT upstream.
    pub fn bridge(&self, arrivals: &Arrivals) -> mqtt::Upstream {
        let arrivals = arrivals.clone();
        mqtt::Upstream::start(self.bridge, move |message| take_message(&arrivals, &message))
    }
}

fn take(arrivals: &Arrivals, envelope: &serde_json::Value) {
    arrivals.take(&envelope["body"], envelope["id"].as_str().unwrap());
}

pub fn take_message(arrivals: &Arrivals, message: &mqtt::Message<'_>) {
    take(arrivals, &serde_json::from_slice(message.payload).unwrap());
}
