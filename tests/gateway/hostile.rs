//! Whatever is thrown at its ports, the gateway lives, in bounded memory, and serves the next one who behaves.

use crate::{
    account::Arrivals,
    kit::{LONG, folder, mqtt, runtime, wait_for},
    rig::Rig,
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::AtomicU64,
    time::Duration,
};

/// Writes, and reads a little of what is answered.
fn throw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(bytes).ok();
    let mut answer = vec![0; 512];
    let length = stream.read(&mut answer).unwrap_or(0);
    answer.truncate(length);
    answer
}

fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn attacks(random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let noise =
        |random: &mut fastrand::Rng, most| (0..random.usize(1..most)).map(|_| random.u8(..)).collect::<Vec<u8>>();
    let connect = mqtt::connect("evil", true);
    let publish = mqtt::publish("a/b", 1, false, br#"{"a":1}"#);
    let mut all = vec![
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n\r\n{".to_vec(),
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_vec(),
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"
            .to_vec(),
        [b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n".to_vec(), vec![b'['; 200_000]]
            .concat(),
        [b"GET /".to_vec(), vec![b'a'; 300_000], b" HTTP/1.1\r\n\r\n".to_vec()].concat(),
        [b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(50_000)].concat(),
        connect[..connect.len() / 2].to_vec(),
        connect.repeat(2),
        publish.clone(),
        [connect.clone(), publish[..publish.len() - 3].to_vec()].concat(),
        [connect.clone(), vec![0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1]].concat(),
        [connect.clone(), vec![0x32, 0xff, 0xff, 0xff, 0xff, 0xff]].concat(),
        [connect.clone(), mqtt::packet(0x3e, b"\0\x01a\0\x01x")].concat(),
        [connect.clone(), mqtt::publish("a/#", 0, false, b"x")].concat(),
        [connect.clone(), mqtt::packet(0x82, b"\0\x01\0\x05")].concat(),
        [connect.clone(), mqtt::packet(0x62, b"\0\x09").repeat(1000)].concat(),
        mqtt::packet(0x10, b"\0\x04MQTT\x05\x02\0\0\xff\xff\xff\xff\xff"),
    ];
    for _ in 0..150 {
        all.push(noise(random, 3000));
        all.push([connect.clone(), noise(random, 3000)].concat());
        // A good beginning with a few bytes turned.
        let mut turned = [connect.clone(), publish.clone(), publish.clone()].concat();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..turned.len());
            turned[at] = random.u8(..);
        }
        all.push(turned);
    }
    all
}

#[test]
fn it_outlives_what_is_thrown_at_its_ports() {
    let (dir, rig) = (folder(), Rig::new());
    let arrivals = Arrivals::default();
    let came = arrivals.clone();
    // Noise that happens to be an event is not counted.
    let _cloud = crate::kit::http::Upstream::start(rig.cloud, move |post| {
        post.events()
            .iter()
            .filter(|e| e["body"]["producer"].is_string())
            .for_each(|e| came.take(&e["body"], e["id"].as_str().unwrap()));
        200
    });
    let mut gateway = rig.start(dir.path());
    let mut random = fastrand::Rng::with_seed(9);
    for attack in attacks(&mut random) {
        for port in [rig.http, rig.mqtt] {
            throw(port, &attack);
        }
    }
    gateway.alive();
    // Connections that say nothing, or only half of something, stay open meanwhile.
    let halves = [&b""[..], b"POST /v1/events HTTP/1.1\r\nHo", &mqtt::connect("half", true)[..5]];
    let _silent: Vec<TcpStream> = (0..150)
        .map(|n| {
            let mut stream = TcpStream::connect(("127.0.0.1", if n % 2 == 0 { rig.http } else { rig.mqtt })).unwrap();
            stream.write_all(halves[n % halves.len()]).unwrap();
            stream
        })
        .collect();
    let acknowledged = AtomicU64::new(0);
    rig.post_all("post", 0..100, &acknowledged);
    runtime().block_on(rig.publish_all("raw", 0..100, &acknowledged));
    wait_for("the good ones", LONG, || arrivals.distinct() == 200);
    arrivals.check(&[("post", 100), ("raw", 100)]);
    gateway.alive();
    let resident = resident_kib(gateway.pid());
    println!("{resident} KiB");
    assert!(resident < 64 << 10, "{resident} KiB");
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    assert!(gateway.stop().success());
}
