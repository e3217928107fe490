//! `gateway.memory` holds: many times more comes in than the disk takes, by HTTP and MQTT, the upstreams are down, the store
//! becomes full; the process stays small, says "later" in time, and loses nothing that it acknowledged.
//!
//! 12 s in CI, 10 minutes with `TIDEGATE_RIG=long`. The program of a test build is larger than the one that ships: what is held
//! is how much it grows.

use crate::{
    account::Arrivals,
    kit::{Gateway, LONG, folder, http, mqtt, runtime, tidegate, wait_for, wait_for_port},
    rig::Rig,
};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

const POSTERS: usize = 32;
const PUBLISHERS: usize = 48;
/// Events in a request of about 700 KB.
const SOME: u64 = 64;
/// What the memory, the allocator's gaps and the pages of the program that are touched under load take together.
const GROWTH: u64 = 48 << 10;
/// A request waits 1 s for memory and 10 s for the disk at most; on a slow machine it is a while before and after.
const IN_TIME: Duration = Duration::from_secs(18);

/// A body with text that does not compress, cut out of a large one.
fn body(producer: &str, n: u64, size: usize) -> Vec<u8> {
    static NOISE: LazyLock<String> = LazyLock::new(|| (0..1 << 20).map(|_| fastrand::alphanumeric()).collect());
    let from = (n as usize * 7919) % (NOISE.len() - size);
    let noise = &NOISE[from..from + size];
    format!(r#"{{"id":"{producer}-{n}","producer":"{producer}","n":{n},"noise":"{noise}"}}"#).into_bytes()
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn configuration(rig: &Rig, memory: &str, waiting: &str) -> String {
    rig.configuration_with(r#""store": { "disk": { "high": "48MiB" } }"#)
        .replace(r#""id": "rig""#, &format!(r#""id": "rig", "memory": "{memory}""#))
        .replace(r#""type": "http", "listen""#, &format!(r#""type": "http", "waiting": "{waiting}", "listen""#))
}

/// Who posts: gives the numbers that were acknowledged, and the longest wait for an answer.
fn post(rig: &Rig, producer: &str, stop: &AtomicBool) -> (u64, Duration) {
    let url = format!("http://127.0.0.1:{}/v1/events", rig.http);
    let (mut n, mut longest) = (0, Duration::ZERO);
    while !stop.load(Relaxed) {
        let bodies: Vec<String> =
            (n..n + SOME).map(|n| String::from_utf8(body(producer, n, 11_000)).unwrap()).collect();
        let begun = Instant::now();
        let answer = http::post(&url, &format!("[{}]", bodies.join(",")));
        longest = longest.max(begun.elapsed());
        match answer {
            Some((202, _)) => n += SOME,
            Some((503 | 429, _)) | None => thread::sleep(Duration::from_millis(20)),
            Some((status, text)) => panic!("{status}: {text}"),
        }
    }
    (n, longest)
}

/// Loads the gateway for a while; gives what each producer knows to be acknowledged.
fn overload(rig: &Rig, gateway: &mut Gateway) -> Vec<(String, u64)> {
    let long = std::env::var("TIDEGATE_RIG").is_ok_and(|rig| rig == "long");
    let until = Instant::now() + Duration::from_secs(if long { 600 } else { 12 });
    let stop = AtomicBool::new(false);
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|i| {
            let (name, port, acknowledged) = (format!("mq{i}"), rig.mqtt, Arc::new(AtomicU64::new(0)));
            let (count, producer) = (acknowledged.clone(), name.clone());
            let task = runtime().spawn(async move {
                let size = [100_000, 30_000, 300][i % 3];
                let acked = |n| count.store(n + 1, Relaxed);
                mqtt::Load::new(&producer, 8).run(port, 0..u64::MAX, |n| body(&producer, n, size), acked).await;
            });
            (name, acknowledged, task)
        })
        .collect();
    let mut all = thread::scope(|scope| {
        let posters: Vec<_> = (0..POSTERS)
            .map(|i| {
                let (name, stop) = (format!("web{i}"), &stop);
                scope.spawn(move || {
                    let (count, longest) = post(rig, &name, stop);
                    assert!(longest < IN_TIME, "{name} waited {longest:?} for an answer");
                    (name, count)
                })
            })
            .collect();
        while Instant::now() < until {
            gateway.alive();
            thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Relaxed);
        posters.into_iter().map(|poster| poster.join().unwrap()).collect::<Vec<_>>()
    });
    for (name, acknowledged, task) in publishers {
        task.abort();
        all.push((name, acknowledged.load(Relaxed)));
    }
    let sum = |prefix: &str| all.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, n)| n).sum::<u64>();
    println!("acknowledged: {} by HTTP, {} by MQTT", sum("web"), sum("mq"));
    assert!(sum("web") > 0 && sum("mq") > 0, "both sources are served");
    all
}

/// With the upstreams there: all that was acknowledged arrives.
fn drains(rig: &Rig, gateway: &mut Gateway, acknowledged: &[(String, u64)]) {
    let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
    let (_cloud, _bridge) = (rig.cloud(&by_http), rig.bridge(&by_mqtt));
    let least = acknowledged.iter().map(|(_, n)| *n as usize).sum();
    let mut still = (0, Instant::now());
    wait_for("all that was acknowledged", 3 * LONG, || {
        gateway.alive();
        let now = by_http.len() + by_mqtt.len();
        if now != still.0 {
            still = (now, Instant::now());
        }
        by_http.distinct() >= least && by_mqtt.distinct() >= least && still.1.elapsed() > Duration::from_secs(3)
    });
    let acknowledged: Vec<(&str, u64)> = acknowledged.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    by_http.check(&acknowledged);
    by_mqtt.check(&acknowledged);
}

/// Like musl's allocator, which has no arena for each thread.
const ALLOCATOR: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// A gateway that runs, and what it takes before anything came, in KiB.
fn start(rig: &Rig, dir: &Path, configuration: &str, group: Option<&Path>) -> (Gateway, u64) {
    let gateway = match group {
        None => Gateway::start_with(dir, configuration, &[ALLOCATOR], None),
        Some(group) => Gateway::start_in(dir, configuration, &[ALLOCATOR], group),
    };
    wait_for_port(rig.mqtt);
    wait_for_port(rig.http);
    let idle = status_kib(gateway.pid(), "VmRSS:");
    (gateway, idle)
}

/// How much a gateway grows under load, in KiB.
fn growth(memory: &str, waiting: &str) -> u64 {
    let (dir, rig) = (folder(), Rig::new());
    let (mut gateway, idle) = start(&rig, dir.path(), &configuration(&rig, memory, waiting), None);
    let acknowledged = overload(&rig, &mut gateway);
    let most = status_kib(gateway.pid(), "VmHWM:");
    println!("memory {memory}: {idle} KiB before, {most} KiB at most");
    drains(&rig, &mut gateway, &acknowledged);
    assert!(gateway.stop().success());
    most - idle
}

#[test]
fn the_memory_holds_and_the_control_grows() {
    let (held, control) = (growth("32MiB", "8MiB"), growth("512MiB", "200MiB"));
    assert!(held < GROWTH, "with 32 MiB it grew by {held} KiB");
    assert!(control > GROWTH, "with 512 MiB it grew by {control} KiB only: the load proves nothing");
}

/// A memory cgroup, of version 1 or 2, or why there is none. Removed with the value.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Result<Group, String> {
        let mut why = String::new();
        for (root, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let group = Group(Path::new(root).join(format!("tidegate-test-{}", std::process::id())));
            let made = fs::create_dir(&group.0).and_then(|()| fs::write(group.0.join(file), limit.to_string()));
            match made {
                Ok(()) => return Ok(group),
                Err(error) => why = format!("{}: {error}", group.0.display()),
            }
        }
        Err(why)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn it_lives_in_a_small_cgroup() {
    let (dir, rig) = (folder(), Rig::new());
    let configuration = configuration(&rig, "32MiB", "8MiB");
    let (gateway, idle) = start(&rig, dir.path(), &configuration, None);
    assert!(gateway.stop().success());
    // 48 MiB for a program that takes 12.
    let limit = (idle + (36 << 10)) << 10;
    let group = match Group::new(limit) {
        Ok(group) => group,
        Err(why) => return eprintln!("skipped: no memory cgroup: {why}"),
    };
    let (mut gateway, _) = start(&rig, dir.path(), &configuration, Some(&group.0));
    let acknowledged = overload(&rig, &mut gateway);
    println!("cgroup of {limit} bytes: {} KiB at most", status_kib(gateway.pid(), "VmHWM:"));
    drains(&rig, &mut gateway, &acknowledged);
    assert!(gateway.stop().success());
}

/// Subscribers who ask for all that is retained, twice over, and take nothing of it.
const ASKING: usize = 64;

#[test]
fn who_asks_for_all_that_is_retained_takes_no_memory() {
    let (dir, rig) = (folder(), Rig::new());
    let (gateway, _) = start(&rig, dir.path(), &configuration(&rig, "32MiB", "8MiB"), None);
    let open = |bytes: &[u8], answer: &mut [u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", rig.mqtt)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.read_exact(answer).unwrap();
        stream
    };
    let mut device = open(&mqtt::connect("device", true), &mut [0; 4]);
    for n in 0..100u16 {
        let retained = (0..100).flat_map(|m| {
            let mut packet = mqtt::publish(&format!("t/{n}/{m}"), n + 1, false, b"{}");
            packet[0] |= 1;
            packet
        });
        device.write_all(&retained.collect::<Vec<u8>>()).unwrap();
        device.read_exact(&mut [0; 400]).unwrap();
    }
    let before = status_kib(gateway.pid(), "VmRSS:");
    let asking: Vec<TcpStream> = (0..ASKING)
        .map(|n| {
            let filters = mqtt::packet(0x82, b"\0\x01\0\x01#\x01\0\x03+/#\x01");
            let mut answer = [0; 10];
            let stream = open(&[mqtt::connect(&n.to_string(), true), filters].concat(), &mut answer);
            assert_eq!(answer[4..], [0x90, 4, 0, 1, 1, 1], "CONNACK, and SUBACK with all that was asked for");
            stream
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let most = status_kib(gateway.pid(), "VmHWM:") - before;
    println!("{ASKING} subscribers, {before} KiB before, {most} KiB more");
    assert!(most < 24 << 10, "it grew by {most} KiB");
    drop((device, asking));
    assert!(gateway.stop().success());
}

#[test]
fn what_cannot_fit_is_refused_by_name() {
    let dir = folder();
    let rig = Rig::new();
    let with = |memory: &str, from: &str, to: &str| configuration(&rig, memory, "8MiB").replace(from, to);
    let bridge = r#""type": "mqtt", "url""#;
    for (configuration, want) in [
        (with("32MiB", "", ""), None),
        (with("1GiB", "", ""), None),
        (with("8MiB", "", ""), Some("gateway.memory: 8MiB is too little")),
        (with("0", "", ""), Some("gateway.memory: 0MiB is too little")),
        (with("32MiB", bridge, r#""type": "mqtt", "batch": { "bytes": "8MiB" }, "url""#), Some("sinks.bridge 2")),
        (with("32MiB", "\"8MiB\"", r#""8MiB", "max_body": "8MiB""#), Some("`max_body`")),
        (with("32MiB", "\"8MiB\"", r#""64MiB""#), Some("what comes in 128MiB")),
        (with("32MiB", "\"disk\"", r#""dedupe": { "ids": 1000000 }, "disk""#), Some("`store.dedupe.ids`")),
        (with("32MiB", "\"to\":", r#""state": "20MiB", "to":"#), None), // nothing remembers anything
    ] {
        fs::write(dir.path().join("tidegate.jsonc"), &configuration).unwrap();
        for command in ["check", "run"] {
            if want.is_none() && command == "run" {
                continue;
            }
            let output = tidegate(dir.path(), &[command, "tidegate.jsonc"], "");
            let (said, told) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
            assert_eq!(output.status.code(), Some(if want.is_some() { 78 } else { 0 }), "{configuration}: {said}");
            match want {
                Some(want) => assert!(said.starts_with("gateway.memory: ") && said.contains(want), "{want}: {said}"),
                None => assert!(told.contains("together") && told.contains("pipelines.all"), "{told}"),
            }
            assert!(want.is_none() || said.contains("tidegate.jsonc:2:"), "{said}");
        }
    }
}
