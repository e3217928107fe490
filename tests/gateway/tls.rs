//! TLS is only spoken with whom it should be: on every side, with every fault that a certificate or a peer can have. What was to be
//! sent stays queued, the log says why, and it goes on when the fault is mended.

use crate::kit::{self, Gateway, LONG, folder, http, mqtt, port, wait_for, wait_for_port};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tidegate::systems::tls::{ClientTls, ServerTls, client_config, server_config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::{AbortHandle, JoinSet},
};

/// What is wrong with a certificate: its name, and what the log says of it when a server shows it, and when a client does.
/// Nothing: it is not refused.
const CERTIFICATES: &[(&str, &str, &str)] = &[
    ("good", "", ""),
    ("expired", "certificate expired", "certificate expired"),
    ("early", "certificate not valid yet", "certificate not valid yet"),
    ("elsewhere", "certificate not valid for name", ""),
    ("foreign", "UnknownIssuer", "UnknownIssuer"),
    ("self-signed", "UnknownIssuer", "UnknownIssuer"),
    ("purpose", "certificate does not allow extended key usage", "certificate does not allow extended key usage"),
];

/// `ca.pem`, and `NAME.pem` and `NAME.key` for each of the certificates.
fn issue(dir: &Path) {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ca, other) = (authority("ours"), authority("theirs"));
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for (name, ..) in CERTIFICATES {
        let host = if *name == "elsewhere" { "elsewhere.example" } else { "localhost" };
        let mut params = CertificateParams::new(vec![host.into()]).unwrap();
        params.extended_key_usages = match *name {
            "purpose" => vec![ExtendedKeyUsagePurpose::EmailProtection],
            _ => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        match *name {
            "expired" => params.not_after = date_time_ymd(2001, 1, 1),
            "early" => params.not_before = date_time_ymd(4000, 1, 1),
            _ => {}
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match *name {
            "self-signed" => params.self_signed(&key).unwrap(),
            "foreign" => params.signed_by(&key, &other).unwrap(),
            _ => params.signed_by(&key, &ca).unwrap(),
        };
        std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        let file = dir.join(format!("{name}.key"));
        std::fs::write(&file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// A peer that the gateway connects to.
#[derive(Clone)]
enum Peer {
    /// Speaks TLS with a certificate, and passes on what comes.
    Shows(&'static str),
    /// Answers without TLS.
    Plain,
    /// Answers with a ServerHello of this version.
    Speaks(u16),
}

/// Listens in front of a port, as one peer after another.
struct Front {
    peer: Arc<Mutex<Peer>>,
    task: AbortHandle,
}

impl Front {
    fn start(dir: &Path, at: u16, behind: u16, peer: Peer) -> Front {
        let (dir, peer) = (dir.to_owned(), Arc::new(Mutex::new(peer)));
        let now = peer.clone();
        let task = kit::runtime().spawn(async move {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", at)).await.unwrap();
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (peer, dir) = (now.lock().unwrap().clone(), dir.clone());
                connections.spawn(async move { be(peer, &dir, stream, behind).await });
            }
        });
        Front { peer, task: task.abort_handle() }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn be(peer: Peer, dir: &Path, mut stream: tokio::net::TcpStream, behind: u16) -> io::Result<()> {
    match peer {
        Peer::Speaks(version) => {
            stream.read_u8().await?;
            stream.write_all(&server_hello(version)).await?;
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        }
        Peer::Plain => {
            stream.read_u8().await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        }
        Peer::Shows(name) => {
            let at = |end: &str| dir.join(format!("{name}.{end}"));
            let config = server_config(&ServerTls { cert: at("pem"), key: at("key"), client_ca: None }).unwrap();
            let mut stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await?;
            let mut on = tokio::net::TcpStream::connect(("127.0.0.1", behind)).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut on).await.map(drop)
        }
    }
}

/// A record with one handshake message.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0];
    message.extend_from_slice(&(body.len() as u16).to_be_bytes());
    message.extend_from_slice(body);
    let mut out = vec![22, 3, 1];
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend(message);
    out
}

/// Takes TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, without a session, compression or extensions.
fn server_hello(version: u16) -> Vec<u8> {
    record(2, &[&version.to_be_bytes()[..], &[7; 32], &[0, 0xc0, 0x2f, 0]].concat())
}

/// Offers that suite and an older one, and what TLS 1.2 asks for, but no newer version than it says.
fn client_hello(version: u16) -> Vec<u8> {
    let extensions: &[u8] =
        &[0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 6, 0, 4, 4, 3, 4, 1, 0, 23, 0, 0, 255, 1, 0, 1, 0];
    let suites = [0, 8, 0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x13, 0, 0x2f, 1, 0];
    let length = (extensions.len() as u16).to_be_bytes();
    record(1, &[&version.to_be_bytes()[..], &[7; 32], &[0], &suites, &length, extensions].concat())
}

/// The gateway as a client of three sorts, in front of a peer that is at fault, and then is not.
fn connects_to(dir: &Path, peer: Peer, reason: &str) {
    let (own, web) = (folder(), port());
    let [https, mqtts, cloud, broker] = [port(), port(), port(), port()];
    let upstream = http::Upstream::start(cloud, |_| 200);
    let published = Arc::new(Mutex::new(0));
    let count = published.clone();
    let _broker = mqtt::Upstream::start(broker, move |_| *count.lock().unwrap() += 1);
    let fronts = [(https, cloud), (mqtts, broker)].map(|(at, behind)| Front::start(dir, at, behind, peer.clone()));
    wait_for_port(https);
    wait_for_port(mqtts);
    let tls = format!(r#""tls": {{ "ca": {:?} }}"#, dir.join("ca.pem"));
    let configuration = format!(
        r#"{{ "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{web}" }},
    "sub": {{ "type": "mqtt", "url": "mqtts://localhost:{mqtts}", "subscribe": ["t/+"], {tls} }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "https://localhost:{https}/", "from": ["web"], {tls} }},
    "broker": {{ "type": "mqtt", "url": "mqtts://localhost:{mqtts}", "from": ["web"], "topic": "t", {tls} }},
    "rest": {{ "type": "stdout", "from": ["sub"] }} }} }}"#
    );
    let gateway = Gateway::start(own.path(), &configuration, &[]);
    wait_for_port(web);
    let (status, answer) = http::post(&format!("http://127.0.0.1:{web}/v1/events"), r#"{"n":1}"#).unwrap();
    assert_eq!(status, 202, "{answer}");
    let arrived = || (upstream.events().len(), *published.lock().unwrap());
    if !reason.is_empty() {
        for part in ["sinks.cloud", "sinks.broker", "sources.sub"] {
            let told = |log: &str| log.lines().any(|l| l.contains(&format!("{part}: down")) && l.contains(reason));
            wait_for(&format!("{part}: {reason}"), LONG, || told(&gateway.log()));
        }
        assert_eq!(arrived(), (0, 0), "{reason}");
        let ledger = kit::tidegate(own.path(), &["ledger", "-c", "tidegate.jsonc", "--format", "json"], "");
        let ledger: serde_json::Value = serde_json::from_slice(&ledger.stdout).unwrap();
        let rows = ledger["ledger"].as_array().unwrap().iter().filter(|row| row["topic"] == "web");
        assert_eq!(rows.map(|row| row["queued"].as_u64().unwrap()).sum::<u64>(), 2, "{ledger}");
        fronts.iter().for_each(|front| *front.peer.lock().unwrap() = Peer::Shows("good"));
        wait_for("the source", LONG, || gateway.log().contains("sources.sub: up again"));
    }
    wait_for("the event", LONG, || arrived() == (1, 1));
    assert!(gateway.stop().success());
}

/// Runs all rows at once.
fn all_at_once<T: Send>(rows: Vec<T>, check: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        let check = &check;
        for row in rows {
            scope.spawn(move || check(row));
        }
    });
}

#[test]
fn an_upstream_or_broker_that_is_not_who_it_should_be_gets_nothing() {
    let dir = folder();
    issue(dir.path());
    let mut rows: Vec<_> = CERTIFICATES.iter().map(|(name, reason, _)| (Peer::Shows(name), *reason)).collect();
    rows.push((Peer::Plain, "received corrupt message"));
    rows.extend([0x301, 0x302].map(|version| (Peer::Speaks(version), "peer is incompatible")));
    all_at_once(rows, |(peer, reason)| connects_to(dir.path(), peer, reason));
}

/// A device that connects to the gateway.
enum Device {
    Shows(Option<&'static str>),
    Plain,
    Speaks(u16),
}

/// Sends over a connection of a device, and gives the beginning of what is answered.
fn send(dir: &Path, device: &Device, port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = vec![0; 64];
    let read = match device {
        Device::Plain => tcp.write_all(bytes).and_then(|()| tcp.read(&mut answer)),
        Device::Speaks(version) => tcp.write_all(&client_hello(*version)).and_then(|()| tcp.read(&mut answer)),
        Device::Shows(name) => {
            let at = |end: &str| name.map(|name| dir.join(format!("{name}.{end}")));
            let files = ClientTls { ca: Some(dir.join("ca.pem")), cert: at("pem"), key: at("key"), server_name: None };
            let config = client_config(&files).unwrap();
            let mut tls = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
            let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
            stream.write_all(bytes).and_then(|()| stream.read(&mut answer))
        }
    };
    answer.truncate(read.unwrap_or(0));
    answer
}

fn is_served(dir: &Path, device: Device, reason: &str) {
    let (own, web, devices, cloud) = (folder(), port(), port(), port());
    let upstream = http::Upstream::start(cloud, |_| 200);
    let at = |name: &str| dir.join(name);
    let tls = format!(
        r#""tls": {{ "cert": {:?}, "key": {:?}, "client_ca": {:?} }}"#,
        at("good.pem"),
        at("good.key"),
        at("ca.pem")
    );
    let configuration = format!(
        r#"{{ "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{web}", {tls} }},
    "devices": {{ "type": "mqtt_listen", "listen": "127.0.0.1:{devices}", {tls} }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "from": ["web", "devices"] }} }} }}"#
    );
    let mut gateway = Gateway::start(own.path(), &configuration, &[]);
    wait_for_port(web);
    wait_for_port(devices);
    // To find out that they listen was a handshake that failed.
    gateway.alive();
    let post = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{\"n\":1}";
    let publish = [mqtt::connect("d", true), mqtt::publish("t", 1, false, b"{\"n\":1}")].concat();
    let both = |device: &Device| {
        let posted = send(dir, device, web, post).starts_with(b"HTTP/1.1 202");
        (posted, send(dir, device, devices, &publish).starts_with(&[0x20, 2, 0, 0]))
    };
    if !reason.is_empty() {
        assert_eq!(both(&device), (false, false), "{reason}");
        for source in ["web", "devices"] {
            let told = |log: &str| {
                let lines = log.lines().filter(|l| l.contains(&format!("sources.{source}: tls with 127.0.0.1:")));
                lines.into_iter().any(|l| l.contains(reason))
            };
            wait_for(&format!("{source}: {reason}"), LONG, || told(&gateway.log()));
        }
        assert_eq!(upstream.events().len(), 0);
    }
    // Nobody else suffers from it.
    assert_eq!(both(&Device::Shows(Some("good"))), (true, true));
    wait_for("both events", LONG, || upstream.events().len() == 2);
    assert!(gateway.stop().success());
}

#[test]
fn a_device_that_is_not_who_it_should_be_is_not_let_in() {
    let dir = folder();
    issue(dir.path());
    let mut rows: Vec<_> = CERTIFICATES.iter().map(|(name, _, reason)| (Device::Shows(Some(name)), *reason)).collect();
    rows.push((Device::Shows(None), "peer sent no certificates"));
    rows.push((Device::Plain, "received corrupt message"));
    rows.extend([0x301, 0x302].map(|version| (Device::Speaks(version), "peer is incompatible")));
    all_at_once(rows, |(device, reason)| is_served(dir.path(), device, reason));
    // What they offered besides the version is right.
    let tls = ServerTls { cert: dir.path().join("good.pem"), key: dir.path().join("good.key"), client_ca: None };
    for (version, taken) in [(0x303, true), (0x302, false)] {
        let mut server = rustls::ServerConnection::new(server_config(&tls).unwrap()).unwrap();
        server.read_tls(&mut &client_hello(version)[..]).unwrap();
        assert_eq!(server.process_new_packets().is_ok(), taken, "{version:x}");
    }
}
