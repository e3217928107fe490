//! What looking on costs: a gateway that is scraped and asked every second, beside one without a listener for operators.

use crate::{mqtt::Bench, usage};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// What a small gateway may have to take; the ends of it come every second.
const RATE: f64 = 10_000.0;

fn ask(dir: &Path, path: &str) -> usize {
    let token = std::fs::read_to_string(dir.join("tidegate.db-token")).unwrap();
    let mut stream = UnixStream::connect(dir.join("tidegate.db-admin")).unwrap();
    let token = token.trim();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    answer.len()
}

/// CPU an event in microseconds, and the most memory in MiB.
fn run(looked_at: bool, events: u64) -> (f64, f64) {
    let bench = Bench::with_admin(if looked_at { "unix" } else { "off" });
    let (_upstream, delivered) = bench.sink();
    let pid = bench.gateway.pid();
    thread::sleep(Duration::from_secs(1));
    let cpu = usage::cpu(pid);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        if looked_at {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for path in ["/metrics", "/api/v1/status", "/api/v1/consumers", "/api/v1/topics"] {
                        ask(bench.dir.path(), path);
                    }
                    thread::sleep(Duration::from_secs(1));
                }
            });
        }
        bench.publish(events, Some(RATE));
        while delivered.load(Ordering::Relaxed) < events {
            thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::Relaxed);
    });
    let cpu = usage::cpu(pid) - cpu;
    (cpu.as_secs_f64() * 1e6 / events as f64, usage::peak(pid) as f64 / 1024.0)
}

pub fn table(quick: bool) {
    let (rounds, events) = if quick { (1, 50_000) } else { (5, 150_000) };
    println!(
        "{RATE} events/s from MQTT to MQTT; metrics, status, consumers and topics asked every second, beside no admin listener"
    );
    println!("CPU µs/event  without  ratio | most MiB  without  more");
    let (mut ratios, mut mores) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let ((cpu, memory), (plain_cpu, plain_memory)) = (run(true, events), run(false, events));
        println!(
            "{cpu:12.2} {plain_cpu:8.2} {:6.3} | {memory:8.1} {plain_memory:8.1} {:5.1}",
            cpu / plain_cpu,
            memory - plain_memory
        );
        ratios.push(cpu / plain_cpu);
        mores.push(memory - plain_memory);
    }
    for values in [&mut ratios, &mut mores] {
        values.sort_by(f64::total_cmp);
    }
    println!("median: {:.3} times the CPU, {:.1} MiB more", ratios[rounds / 2], mores[rounds / 2]);
}
