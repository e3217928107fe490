//! A listener to talk to, and a client that sends what it is told.

use super::super::{Config, Listener, access::Access};
use crate::{
    budget::Pools,
    event::{Batch, Draft, Event},
    kind::{Fields, Intake},
    store::{Append, Options, Reader, Step, Store},
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

pub const MAX_EVENT: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Rig {
    pub addr: SocketAddr,
    pub store: Store,
    options: Options,
    config: Config,
    task: JoinSet<()>,
    dir: TempDir,
}

impl Rig {
    pub async fn new() -> Rig {
        Rig::with(|_| {}, 1 << 30).await
    }

    /// `high`: bytes from which the store is full.
    pub async fn with(set: impl FnOnce(&mut Config), high: u64) -> Rig {
        Rig::open(set, Options { high, low: high, ..Options::default() }).await
    }

    /// With what the listener may draw from.
    pub async fn pooled(pools: &Pools) -> Rig {
        Rig::open(|_| {}, Options { pools: pools.clone(), ..Options::default() }).await
    }

    async fn open(set: impl FnOnce(&mut Config), options: Options) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("t.db");
        let options = Options { path: Some(path), ..options };
        let mut config = Config::default();
        set(&mut config);
        let store = Store::open(options.clone()).unwrap();
        let (addr, task) = start(&config, &store).await;
        Rig { addr, store, options, config, task, dir }
    }

    /// Stops the gateway, in order or not, and starts it again.
    pub async fn restart(self) -> Rig {
        let Rig { store, options, config, mut task, dir, .. } = self;
        task.shutdown().await;
        store.close().await;
        drop(store);
        let store = Store::open(options.clone()).unwrap();
        let (addr, task) = start(&config, &store).await;
        Rig { addr, store, options, config, task, dir }
    }

    pub async fn client(&self, id: &str, version: u8) -> Client {
        self.connect(&connect(version, id, true, 0)).await.1
    }

    /// Sends a CONNECT; gives the CONNACK.
    pub async fn connect(&self, packet: &[u8]) -> (Vec<u8>, Client) {
        let mut client = self.raw().await;
        client.send(packet).await;
        (client.packet().await, client)
    }

    pub async fn raw(&self) -> Client {
        Client(TcpStream::connect(self.addr).await.unwrap())
    }

    /// Reads the log from here on.
    pub fn log(&self) -> Log {
        Log(self.store.tail(&[Arc::from("devices")]))
    }
    /// Whether the listener ended; in tests it does if a connection's task panics.
    pub fn crashed(&mut self) -> bool {
        self.task.try_join_next().is_some()
    }

    /// Brings the store over its mark.
    pub async fn fill(&self) {
        for _ in 0..5 {
            let mut batch = Batch::default();
            batch.push(&Draft { body: b"{}", ..Draft::default() }).unwrap();
            let append = Append { topic: "other".into(), priority: 4, batch };
            self.store.commit(Step { appends: vec![append], ..Step::default() }).await.ok();
            tokio::time::sleep(Duration::from_millis(110)).await;
        }
    }
}

async fn start(config: &Config, store: &Store) -> (SocketAddr, JoinSet<()>) {
    let fields = Fields { max_event: MAX_EVENT, priority: 4, ..Fields::default() };
    let intake = Intake::new("devices", fields, store.clone(), None);
    let access = Arc::new(Access::new(&config.users).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let source = Listener { config: config.clone(), listen: addr, access };
    let mut task = JoinSet::new();
    task.spawn(async move {
        source.serve(listener, &intake).await.unwrap();
    });
    (addr, task)
}

pub struct Log(Reader);

impl Log {
    /// Waits for so many events.
    pub async fn events(&mut self, n: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < n {
            events.extend(timeout(PATIENCE, self.0.next(1000, 1 << 20)).await.unwrap().unwrap().events);
        }
        events
    }
}

pub struct Client(pub TcpStream);

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next packet, whole; empty when the server closed the connection.
    pub async fn packet(&mut self) -> Vec<u8> {
        timeout(PATIENCE, self.read()).await.expect("no packet came")
    }

    async fn read(&mut self) -> Vec<u8> {
        let Ok(first) = self.0.read_u8().await else { return Vec::new() };
        let (mut packet, mut len, mut shift) = (vec![first], 0usize, 0);
        loop {
            let byte = self.0.read_u8().await.unwrap();
            packet.push(byte);
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let start = packet.len();
        packet.resize(start + len, 0);
        self.0.read_exact(&mut packet[start..]).await.unwrap();
        packet
    }

    /// Whether nothing comes for a while.
    pub async fn silent(&mut self) -> bool {
        timeout(Duration::from_millis(150), self.read()).await.is_err()
    }

    /// Whether the server closes without another packet.
    pub async fn closed(&mut self) -> bool {
        self.packet().await.is_empty()
    }

    /// The next message: topic, payload, first byte, packet id. Properties of MQTT 5 are skipped.
    pub async fn message(&mut self, version: u8) -> (String, Vec<u8>, u8, u16) {
        let packet = self.packet().await;
        message(&packet, version)
    }

    pub async fn subscribe(&mut self, version: u8, filter: &str, options: u8) -> Vec<u8> {
        self.send(&subscribe(version, filter, options)).await;
        let ack = self.packet().await;
        assert_eq!(ack[0], 0x90, "{ack:?}");
        ack
    }
}

pub fn message(packet: &[u8], version: u8) -> (String, Vec<u8>, u8, u16) {
    assert_eq!(packet.first().map(|b| b >> 4), Some(3), "{packet:?}");
    let at = 1 + packet[1..].iter().position(|b| b & 0x80 == 0).unwrap() + 1;
    let mut body = &packet[at..];
    let len = usize::from(body[0]) << 8 | usize::from(body[1]);
    let topic = String::from_utf8(body[2..2 + len].to_vec()).unwrap();
    body = &body[2 + len..];
    let mut id = 0;
    if packet[0] & 6 != 0 {
        id = u16::from(body[0]) << 8 | u16::from(body[1]);
        body = &body[2..];
    }
    if version == 5 {
        body = &body[1 + usize::from(body[0])..];
    }
    (topic, body.to_vec(), packet[0], id)
}

pub fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    crate::systems::mqtt::wire::put_length(body.len(), &mut out);
    out.extend_from_slice(body);
    out
}

pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// A CONNECT; `expiry` is for version 5, in seconds.
pub fn connect(version: u8, id: &str, clean: bool, expiry: u32) -> Vec<u8> {
    let props: Vec<u8> = match (version, expiry) {
        (5, 0) => vec![0],
        (5, n) => [&[5, 0x11][..], &n.to_be_bytes()].concat(),
        _ => vec![],
    };
    connect_with(version, id, u8::from(clean) << 1, 60, &props, &[])
}

/// A CONNECT from its parts; `rest` follows the client id.
pub fn connect_with(version: u8, id: &str, flags: u8, keep_alive: u16, props: &[u8], rest: &[u8]) -> Vec<u8> {
    let body = [&text("MQTT")[..], &[version, flags], &keep_alive.to_be_bytes(), props, &text(id), rest].concat();
    framed(0x10, &body)
}

/// A PUBLISH; `flags` are DUP (8) and RETAIN (1).
pub fn publish(version: u8, topic: &str, payload: &[u8], qos: u8, id: u16, flags: u8) -> Vec<u8> {
    publish_with(version, topic, payload, qos, id, flags, &[0])
}

pub fn publish_with(version: u8, topic: &str, payload: &[u8], qos: u8, id: u16, flags: u8, props: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if version == 5 {
        body.extend_from_slice(props);
    }
    body.extend_from_slice(payload);
    framed(0x30 | qos << 1 | flags, &body)
}

pub fn subscribe(version: u8, filter: &str, options: u8) -> Vec<u8> {
    let props: &[u8] = if version == 5 { &[0] } else { &[] };
    framed(0x82, &[&[0, 1][..], props, &text(filter), &[options]].concat())
}
