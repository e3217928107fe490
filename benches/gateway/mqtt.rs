//! From MQTT QoS 1 through a pipeline to MQTT QoS 1: the real program between clients and an upstream in this process.

use crate::{
    kit::{self, Gateway, mqtt},
    sensor, usage,
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub const CLIENTS: usize = 50;
pub const WINDOW: usize = 20;

/// A gateway between two ports.
pub struct Bench {
    pub gateway: Gateway,
    pub taken: Arc<AtomicU64>,
    pub upstream: u16,
    listen: u16,
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn start() -> Bench {
        Self::with_admin("unix")
    }

    /// With an admin listener, or none.
    pub fn with_admin(admin: &str) -> Bench {
        let (listen, upstream, dir) = (kit::port(), kit::port(), kit::folder());
        let configuration = format!(
            r#"{{
  "gateway": {{ "id": "bench" }}, "admin": {{ "listen": "{admin}" }},
  "sources": {{ "in": {{ "type": "mqtt_listen", "listen": "127.0.0.1:{listen}" }} }},
  "pipelines": {{ "out": {{ "from": ["in"], "to": ["up"], "processes": [
    {{ "type": "continue", "when": "event.temp > -40.0 && event.temp < 85.0" }},
    {{ "type": "annotate", "set": {{ "site": "barn" }} }} ] }} }},
  "sinks": {{ "up": {{ "type": "mqtt", "url": "mqtt://127.0.0.1:{upstream}", "batch": {{ "max": 2000 }} }} }} }}"#
        );
        let gateway = Gateway::start(dir.path(), &configuration, &[]);
        kit::wait_for_port(listen);
        Bench { gateway, taken: Arc::default(), upstream, listen, dir }
    }

    /// An upstream that counts.
    pub fn sink(&self) -> (mqtt::Upstream, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let take = move |_: mqtt::Message<'_>| {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        (mqtt::Upstream::start(self.upstream, take), count)
    }

    /// Publishes from all clients until each event is acknowledged, at `rate` a second in all, or as fast as it goes.
    pub fn publish(&self, events: u64, rate: Option<f64>) {
        let each = events / CLIENTS as u64;
        let runs = (0..CLIENTS).map(|device| {
            let pace = rate.map(|rate| Duration::from_secs_f64(CLIENTS as f64 / rate));
            let load = mqtt::Load { pace, ..mqtt::Load::new(&format!("c{device}"), WINDOW) };
            let (port, taken) = (self.listen, self.taken.clone());
            kit::runtime().spawn(async move {
                // Not all in the same moment.
                tokio::time::sleep(pace.unwrap_or_default().mul_f64(device as f64 / CLIENTS as f64)).await;
                let acked = |_| {
                    taken.fetch_add(1, Ordering::Relaxed);
                };
                load.run(port, 0..each, |n| sensor::body(device, n, now()), acked).await;
            })
        });
        let runs: Vec<_> = runs.collect();
        kit::runtime().block_on(async {
            for run in runs {
                run.await.unwrap();
            }
        });
    }
}

/// Microseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

fn per_second(events: u64, begun: Instant) -> f64 {
    events as f64 / begun.elapsed().as_secs_f64()
}

/// The clients straight into the upstream: what this machine and this load generator could do at most.
fn straight(events: u64) -> f64 {
    let port = kit::port();
    let _upstream = mqtt::Upstream::start(port, |_| ());
    let begun = Instant::now();
    kit::runtime().block_on(async {
        let runs: Vec<_> = (0..CLIENTS)
            .map(|device| {
                let load = mqtt::Load::new(&format!("c{device}"), WINDOW);
                let each = events / CLIENTS as u64;
                kit::runtime()
                    .spawn(async move { load.run(port, 0..each, |n| sensor::body(device, n, 0), |_| ()).await })
            })
            .collect();
        for run in runs {
            run.await.unwrap();
        }
    });
    per_second(events, begun)
}

pub fn table(quick: bool) {
    let events: u64 = if quick { 100_000 } else { 500_000 };
    println!(
        "MQTT QoS 1 in, condition, annotation, MQTT QoS 1 out; {CLIENTS} clients, window {WINDOW}, {} bytes",
        sensor::SIZE
    );
    println!("acknowledged/s delivered/s | CPU µs/event | straight/s  ratio");
    for _ in 0..if quick { 1 } else { 3 } {
        let bench = Bench::start();
        let (_upstream, delivered) = bench.sink();
        let (cpu, begun) = (usage::cpu(bench.gateway.pid()), Instant::now());
        bench.publish(events, None);
        let acknowledged = per_second(events, begun);
        while delivered.load(Ordering::Relaxed) < events {
            thread::sleep(Duration::from_millis(1));
        }
        let rate = per_second(events, begun);
        let cpu = (usage::cpu(bench.gateway.pid()) - cpu).as_secs_f64() * 1e6 / events as f64;
        let most = straight(events);
        println!("{acknowledged:14.0} {rate:11.0} | {cpu:12.2} | {most:10.0} {:6.2}", rate / most);
    }
}

/// Memory at rest and with a long queue, and the time from the moment an event is due at its device to its arrival.
pub fn memory(quick: bool) {
    let mib = |bench: &Bench| usage::resident(bench.gateway.pid()) as f64 / 1024.0;
    println!("memory and latency of the gateway from MQTT to MQTT");
    let bench = Bench::start();
    thread::sleep(Duration::from_secs(2));
    println!("idle: {:.1} MiB", mib(&bench));
    let events: u64 = if quick { 100_000 } else { 1_000_000 };
    bench.publish(events, None);
    println!("{events} events queued, upstream down: {:.1} MiB", mib(&bench));
    let (_upstream, delivered) = bench.sink();
    while delivered.load(Ordering::Relaxed) < events {
        thread::sleep(Duration::from_millis(1));
    }
    println!("after delivery: {:.1} MiB", mib(&bench));
    drop(bench);
    latency(if quick { 4_000 } else { 20_000 });
}

fn latency(events: u64) {
    let bench = Bench::start();
    let waits: Arc<Mutex<Vec<u64>>> = Arc::default();
    let kept = waits.clone();
    let _upstream = mqtt::Upstream::start(bench.upstream, move |message| {
        if let Some(sent) = sent_at(message.payload) {
            kept.lock().unwrap().push(now().saturating_sub(sent));
        }
    });
    bench.publish(events, Some(2000.0));
    while waits.lock().unwrap().len() < events as usize {
        thread::sleep(Duration::from_millis(1));
    }
    let mut waits = waits.lock().unwrap();
    waits.sort_unstable();
    let at = |part: f64| waits[(waits.len() as f64 * part) as usize] as f64 / 1000.0;
    println!("2000 events/s, end to end: p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99));
}

/// The time that an event says it was sent at.
fn sent_at(payload: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?.split_once("\"at\":")?.1;
    text[..text.find(',')?].parse().ok()
}
