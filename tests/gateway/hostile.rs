//! Whatever is thrown at its ports, the gateway lives, in bounded memory, and serves the next one who behaves.

use crate::{
    account::Arrivals,
    kit::{LONG, folder, mqtt, runtime, wait_for},
    rig::Rig,
};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::JoinSet,
    time::{sleep, timeout},
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

/// How many slow clients there are, and how long: `TIDEGATE_RIG=long` is the setting of a night.
const CROWD: usize = 200;

fn is_long() -> bool {
    std::env::var("TIDEGATE_RIG").is_ok_and(|v| v == "long")
}

/// A way to be slow: what is sent at once, and what a byte at a time after that.
struct Slow {
    name: &'static str,
    start: Vec<u8>,
    /// Sent again and again: a byte a second, or all of it a hundred times a second and nothing read.
    rest: Vec<u8>,
    drips: bool,
}

fn drip(name: &'static str, start: &[u8], rest: &[u8]) -> Slow {
    Slow { name, start: start.to_vec(), rest: rest.to_vec(), drips: true }
}

fn slow_posts() -> Vec<Slow> {
    let head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\n";
    let body = [head, &b"Content-Length: 100000\r\n\r\n"[..]].concat();
    let good = [head, &b"Content-Length: 20\r\n\r\n{\"noise\":\"slowdown\"}"[..]].concat();
    vec![
        drip("say nothing", b"", b""),
        drip("headers", head, b"X-A: b\r\n"),
        drip("body", &body, b" "),
        drip("a body that began fast", &[&body[..], &[b' '; 50_000]].concat(), b" "),
        drip("chunks", &[head, &b"Transfer-Encoding: chunked\r\n\r\n"[..]].concat(), b"1\r\n \r\n"),
        drip("an event, then nothing", &good, b""),
        drip("an event, then headers", &[&good[..], head].concat(), b"X-A: b\r\n"),
        Slow { name: "read no answers", start: Vec::new(), rest: good.repeat(10), drips: false },
    ]
}

fn slow_publishers() -> Vec<Slow> {
    let connect = |n: &str| mqtt::connect(n, true);
    let publish = mqtt::publish("noise", 1, false, &[b'x'; 100]);
    let (hello, ping) = (connect(""), [0xc0, 0]);
    vec![
        drip("say nothing", b"", b""),
        drip("CONNECT", &hello[..3], &hello[3..]),
        drip("CONNECT, then nothing", &hello, b""),
        drip("PUBLISH", &hello, &publish),
        drip("a whole packet, then PUBLISH", &[&hello[..], &ping, &publish[..20]].concat(), b"x"),
        drip("a large packet, all but its end", &[&hello[..], &[0x30, 0x80, 0x80, 0x08], &[0; 100_000]].concat(), b"x"),
        Slow { name: "read no PUBACK", start: hello, rest: publish.repeat(10), drips: false },
    ]
}

/// TLS that ends in the middle of its handshake.
fn slow_handshakes() -> Vec<Slow> {
    vec![
        drip("say nothing", b"", b""),
        drip("a record that never ends", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], b"\0"),
        drip("records of one byte", &[0x16, 3, 1, 0, 1, 1], &[0x16, 3, 1, 0, 1, 0]),
    ]
}

/// Keeps being slow until told to stop, and comes back at once when it is sent away. Counts how often that was.
async fn be_slow(port: u16, slow: Arc<Slow>, ended: Arc<AtomicU64>) {
    loop {
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut sent = stream.write_all(&slow.start).await;
        let mut rest = slow.rest.iter().cycle();
        let mut answer = [0; 64];
        while sent.is_ok() {
            if !slow.drips {
                sent = stream.write_all(&slow.rest).await;
                sleep(Duration::from_millis(10)).await;
                continue;
            }
            // Whoever drips reads, and so sees the end.
            match timeout(Duration::from_secs(1), stream.read(&mut answer)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => {}
                Err(_) => {
                    if let Some(byte) = rest.next() {
                        sent = stream.write_all(&[*byte]).await;
                    }
                }
            }
        }
        ended.fetch_add(1, Relaxed);
    }
}

/// What an honest client saw: how long each of its requests took, from the connection to the answer.
struct Honest {
    took: Vec<Duration>,
    failed: u64,
}

impl Honest {
    fn check(mut self, what: &str) {
        self.took.sort_unstable();
        let at = |share: f64| self.took[((self.took.len() - 1) as f64 * share) as usize];
        let (p50, p99, worst) = (at(0.5), at(0.99), at(1.0));
        println!(
            "{what}: {} requests, p50 {p50:?}, p99 {p99:?}, longest {worst:?}, {} failed",
            self.took.len(),
            self.failed
        );
        let limit = Duration::from_secs(if is_long() { 1 } else { 5 });
        assert!(p99 < limit, "{what}: p99 {p99:?}");
        // A connection that was kept may be closed while it is idle, as any server may do.
        assert!(self.failed <= 2 + self.took.len() as u64 / 20, "{what}: {} failed", self.failed);
        assert!(self.took.len() > 5, "{what}: only {} requests", self.took.len());
    }
}

/// Asks again and again until `end`; a request that fails counts with the time until one succeeds.
async fn ask<F: Future<Output = io::Result<()>>>(end: Instant, mut once: impl FnMut() -> F) -> Honest {
    let (mut took, mut failed) = (Vec::new(), 0);
    while Instant::now() < end {
        let begun = Instant::now();
        loop {
            match timeout(Duration::from_secs(10), once()).await {
                Ok(Ok(())) => break,
                _ => failed += 1,
            }
            assert!(begun.elapsed() < LONG, "an honest client is kept out");
        }
        took.push(begun.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    Honest { took, failed }
}

/// One event over a connection of its own.
async fn post_once(port: u16) -> io::Result<()> {
    post_over(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?).await
}

async fn post_over(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let request = b"POST /v1/events HTTP/1.1\r\nConnection: close\r\nContent-Length: 15\r\n\r\n{\"honest\":true}";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.1 202") { Ok(()) } else { Err(io::Error::other(answer)) }
}

/// The same over one connection that is kept, as devices do.
async fn post_kept(kept: &tokio::sync::Mutex<Option<tokio::net::TcpStream>>, port: u16) -> io::Result<()> {
    let mut slot = kept.lock().await;
    let mut stream = match slot.take() {
        Some(stream) => stream,
        None => tokio::net::TcpStream::connect(("127.0.0.1", port)).await?,
    };
    stream.write_all(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{\"honest\":true}").await?;
    let mut answer = vec![0; 1024];
    let length = stream.read(&mut answer).await?;
    if !answer[..length].starts_with(b"HTTP/1.1 202") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    *slot = Some(stream);
    Ok(())
}

/// One message over a connection of its own.
async fn publish_once(port: u16) -> io::Result<()> {
    let (mut packets, mut write) = mqtt::open(port, "", true).await?;
    write.write_all(&mqtt::publish("honest", 7, false, br#"{"honest":true}"#)).await?;
    let mut acknowledged = false;
    while !acknowledged {
        packets.read(|first, _| acknowledged |= first == 0x40).await?;
    }
    Ok(())
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Slow clients of all sorts beside an honest one, against a gateway with `places` for connections.
fn beside(name: &str, places: usize, slow: Vec<Slow>, source: &str, honest: impl AsyncFn(u16, Instant) -> Honest) {
    let (dir, port) = (folder(), crate::kit::port());
    let configuration = format!(
        r#"{{ "sources": {{ "in": {{ {source}: {places}, "listen": "127.0.0.1:{port}" }} }},
              "sinks": {{ "out": {{ "type": "stdout" }} }} }}"#
    );
    let mut gateway = crate::kit::Gateway::start(dir.path(), &configuration, &[]);
    crate::kit::wait_for_port(port);
    let before = resident_kib(gateway.pid());
    let end = Instant::now() + Duration::from_secs(if is_long() { 60 } else { 8 });
    let kinds: Vec<(Arc<Slow>, Arc<AtomicU64>)> = slow.into_iter().map(|s| (Arc::new(s), Arc::default())).collect();
    let (seen, most) = runtime().block_on(async {
        let mut crowd = JoinSet::new();
        for (slow, ended) in kinds.iter().cycle().take(CROWD) {
            crowd.spawn(be_slow(port, slow.clone(), ended.clone()));
        }
        sleep(Duration::from_millis(500)).await;
        let pid = gateway.pid();
        let most = tokio::spawn(async move {
            let mut most = (0, 0);
            while Instant::now() < end {
                most = (most.0.max(descriptors(pid)), most.1.max(resident_kib(pid)));
                sleep(Duration::from_millis(50)).await;
            }
            most
        });
        (honest(port, end).await, most.await.unwrap())
    });
    gateway.alive();
    println!("{name}: at most {} descriptors and {} KiB ({before} KiB before)", most.0, most.1);
    seen.check(name);
    for (slow, ended) in &kinds {
        let ended = ended.load(Relaxed);
        println!("{name}: {}: ended {ended} times", slow.name);
        // While there is room, only time ends them; in eight seconds it does not end all, nor those who once did what they
        // should and are silent now. Nor do those end here who send all they can.
        let may_stay = !slow.drips || places > CROWD && (!is_long() || slow.rest.is_empty());
        assert!(ended > 0 || may_stay, "{name}: `{}` was never ended", slow.name);
    }
    let log = gateway.log();
    assert!(most.0 < places + 40, "{name}: {} descriptors", most.0);
    assert!(most.1 < 64 << 10, "{name}: {} KiB", most.1);
    assert!(log.lines().count() < 20 && !log.contains("panicked"), "{name}: {log}");
    assert!(gateway.stop().success());
}

/// Whether they are given a place beside the crowd, or have to take it from the crowd.
const PLACES: [usize; 2] = [256, 64];

const HTTP: &str = r#""type": "http", "connections""#;
const MQTT: &str = r#""type": "mqtt_listen", "max_connections""#;

#[test]
fn who_posts_is_answered_beside_slow_clients() {
    for places in PLACES {
        let once = async |port, end| ask(end, || post_once(port)).await;
        beside(&format!("http, {places} places"), places, slow_posts(), HTTP, once);
    }
    let kept = async |port, end| {
        let kept = tokio::sync::Mutex::default();
        ask(end, || post_kept(&kept, port)).await
    };
    beside("http, 64 places, one connection", 64, slow_posts(), HTTP, kept);
}

#[test]
fn who_publishes_is_answered_beside_slow_clients() {
    for places in PLACES {
        let once = async |port, end| ask(end, || publish_once(port)).await;
        beside(&format!("mqtt, {places} places"), places, slow_publishers(), MQTT, once);
    }
}

#[test]
fn who_posts_over_tls_is_answered_beside_handshakes_that_never_end() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let own = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(at("cert"), own.cert.pem()).unwrap();
    std::fs::write(at("key"), own.signing_key.serialize_pem()).unwrap();
    let client = tidegate::systems::tls::ClientTls { ca: Some(at("cert")), ..Default::default() };
    let config = tidegate::systems::tls::client_config(&client).unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let post = async |port: u16| {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        post_over(connector.connect("localhost".try_into().unwrap(), stream).await?).await
    };
    let source = format!(r#""tls": {{ "cert": {:?}, "key": {:?} }}, {HTTP}"#, at("cert"), at("key"));
    let honest = async |port, end| ask(end, || post(port)).await;
    beside("https, 64 places", 64, slow_handshakes(), &source, honest);
}
