//! MQTT 3.1.1 by hand: a client that keeps a window of unacknowledged messages, and an upstream that acknowledges. Their
//! own, so that the tests count exactly what was acknowledged.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::{AbortHandle, JoinSet},
    time::{sleep, sleep_until, timeout},
};

/// A packet of the given first byte around a body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(body);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub fn connect(client: &str, clean: bool) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04".to_vec();
    body.extend_from_slice(&[u8::from(clean) << 1, 0, 0]);
    text(&mut body, client);
    packet(0x10, &body)
}

/// QoS 1.
pub fn publish(topic: &str, id: u16, dup: bool, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(payload.len() + topic.len() + 4);
    text(&mut body, topic);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(payload);
    packet(0x32 | u8::from(dup) << 3, &body)
}

/// The first packet of a buffer: first byte, body, and length of the whole.
fn split(buffer: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (length, at) = number(buffer.get(1..)?)?;
    Some((buffer[0], buffer.get(1 + at..1 + at + length)?, 1 + at + length))
}

/// A number of up to four bytes, and how many it has.
fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = bytes.iter().take(4).position(|b| b & 128 == 0)? + 1;
    let value = bytes[..length].iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 127));
    Some((value, length))
}

/// Reads packets from a connection, as many at a time as have come.
pub struct Packets {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Packets {
    pub fn new(stream: OwnedReadHalf) -> Self {
        Packets { stream, buffer: Vec::with_capacity(64 << 10) }
    }

    /// Waits for bytes and gives every whole packet to `take`.
    pub async fn read(&mut self, mut take: impl FnMut(u8, &[u8])) -> io::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = 0;
        while let Some((first, body, length)) = split(&self.buffer[at..]) {
            take(first, body);
            at += length;
        }
        self.buffer.drain(..at);
        Ok(())
    }
}

/// A connection that CONNACK was received on; the second is whether the session was there.
pub async fn open(port: u16, client: &str, clean: bool) -> io::Result<(Packets, OwnedWriteHalf)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    write.write_all(&connect(client, clean)).await?;
    let mut packets = Packets::new(read);
    let mut answer = None;
    while answer.is_none() {
        let read = packets.read(|first, body| answer = Some((first, body.to_vec())));
        timeout(Duration::from_secs(5), read).await??;
    }
    match answer {
        Some((0x20, body)) if body[1] == 0 => Ok((packets, write)),
        other => Err(io::Error::other(format!("no CONNACK but {other:?}"))),
    }
}

/// What a producer publishes, and how.
#[derive(Clone)]
pub struct Load {
    pub client: String,
    pub topic: String,
    pub window: usize,
    /// Time between two events, kept on average; `None`: as fast as the window lets it.
    pub pace: Option<Duration>,
}

impl Load {
    pub fn new(client: &str, window: usize) -> Self {
        Load { client: client.into(), topic: format!("bench/{client}"), window, pace: None }
    }

    /// Publishes events `numbers` with QoS 1 until each is acknowledged: over a new connection, from the first that is
    /// not acknowledged, whenever one is lost. `body` makes an event, `acked` hears of each acknowledgement.
    pub async fn run(
        &self,
        port: u16,
        numbers: std::ops::Range<u64>,
        mut body: impl FnMut(u64) -> Vec<u8>,
        mut acked: impl FnMut(u64),
    ) {
        let (begun, mut next, mut tried) = (tokio::time::Instant::now(), numbers.start, numbers.start);
        while next < numbers.end {
            let Ok((mut packets, mut write)) = open(port, &self.client, true).await else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let mut sent = next;
            while next < numbers.end {
                let mut block = Vec::new();
                while sent < numbers.end && sent < next + self.window as u64 {
                    let due = self.pace.map(|pace| begun + pace.mul_f64((sent - numbers.start) as f64));
                    if let Some(due) = due.filter(|due| *due > tokio::time::Instant::now()) {
                        if sent > next || !block.is_empty() {
                            break;
                        }
                        sleep_until(due).await;
                    }
                    block.extend(publish(&self.topic, packet_id(sent), sent < tried, &body(sent)));
                    sent += 1;
                }
                tried = tried.max(sent);
                let mut wrong = None;
                if write.write_all(&block).await.is_err() {
                    break;
                }
                let read = packets.read(|first, ack| {
                    let id = u16::from_be_bytes([ack[0], ack[1]]);
                    if (first, id) != (0x40, packet_id(next)) {
                        wrong = Some(format!("expected PUBACK {}, got {first:#x} {id}", packet_id(next)));
                        return;
                    }
                    acked(next);
                    next += 1;
                });
                if read.await.is_err() {
                    break;
                }
                assert_eq!(wrong, None, "{}", self.client);
            }
        }
    }
}

fn packet_id(n: u64) -> u16 {
    (n % 65_535) as u16 + 1
}

/// A message as it came upstream.
pub struct Message<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub at: Instant,
}

type Take = Arc<dyn Fn(Message<'_>) + Send + Sync>;

/// An upstream that acknowledges what it is sent, 3.1.1 and 5, QoS 0 to 2. It ends with the value.
pub struct Upstream(AbortHandle);

impl Upstream {
    /// Listens; `take` is called before a message is acknowledged.
    pub fn start(port: u16, take: impl Fn(Message<'_>) + Send + Sync + 'static) -> Upstream {
        let listener = super::listen(port);
        let take: Take = Arc::new(take);
        let task = super::runtime().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, take.clone()));
            }
        });
        Upstream(task.abort_handle())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(stream: TcpStream, take: Take) {
    stream.set_nodelay(true).ok();
    let (read, mut write) = stream.into_split();
    let mut packets = Packets::new(read);
    let (mut five, mut goodbye) = (false, false);
    while !goodbye {
        let mut answers = Vec::new();
        let read = packets.read(|first, body| match first >> 4 {
            1 => {
                five = body[6] == 5;
                answers.extend(packet(0x20, if five { b"\0\0\0" } else { b"\0\0" }));
            }
            3 => answers.extend(message(first, body, five, &take)),
            6 => answers.extend(packet(0x70, &body[..2])),
            8 => {
                let mut answer = body[..2].to_vec();
                answer.extend_from_slice(if five { b"\0\x01" } else { b"\x01" });
                answers.extend(packet(0x90, &answer));
            }
            12 => answers.extend(packet(0xd0, b"")),
            14 => goodbye = true,
            _ => {}
        });
        if read.await.is_err() || (!answers.is_empty() && write.write_all(&answers).await.is_err()) {
            return;
        }
    }
}

/// Takes a PUBLISH and gives the answer.
fn message(first: u8, body: &[u8], five: bool, take: &Take) -> Vec<u8> {
    let (topic, mut rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
    let qos = first >> 1 & 3;
    let id = if qos > 0 { rest.split_off(..2).unwrap() } else { b"" };
    if five {
        let (length, at) = number(rest).unwrap();
        rest = &rest[at + length..];
    }
    take(Message { topic: std::str::from_utf8(topic).unwrap(), payload: rest, at: Instant::now() });
    match qos {
        0 => Vec::new(),
        1 => packet(0x40, id),
        _ => packet(0x50, id),
    }
}

/// Subscribes with QoS 1 and a session that stays, and acknowledges what comes, for ever.
pub async fn subscribe(port: u16, client: &str, filter: &str, take: impl Fn(Message<'_>)) -> io::Result<()> {
    let (mut packets, mut write) = open(port, client, false).await?;
    let mut body = 1u16.to_be_bytes().to_vec();
    text(&mut body, filter);
    body.push(1);
    write.write_all(&packet(0x82, &body)).await?;
    loop {
        let mut acks: VecDeque<u8> = VecDeque::new();
        packets
            .read(|first, body| {
                if first >> 4 == 3 {
                    let (topic, rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
                    let (id, payload) = if first & 6 == 0 { (None, rest) } else { (Some(&rest[..2]), &rest[2..]) };
                    take(Message { topic: std::str::from_utf8(topic).unwrap(), payload, at: Instant::now() });
                    acks.extend(id.map(|id| packet(0x40, id)).into_iter().flatten());
                }
            })
            .await?;
        write.write_all(acks.make_contiguous()).await?;
    }
}
