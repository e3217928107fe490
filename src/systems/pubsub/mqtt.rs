//! A broker that speaks MQTT: one connection for what is published, and one for each subscription.

use super::{MAX_MESSAGE, PubSub, Subscription, check_publish, check_subscribe};
use crate::{
    budget::Span,
    fault::Fault,
    systems::{
        mqtt::{
            Broker, Dial, Link, Version,
            wire::{self, Kind, Outgoing, Packet},
        },
        tls::ClientTls,
    },
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// A broker that speaks MQTT.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker: `mqtt://host:1883`, or `mqtts://host:8883` for TLS.
    pub url: Broker,
    /// How the gateway calls itself; a subscription adds a dash and a number. No two clients of a broker may have the
    /// same. Default: the gateway's id, a dash and the system's name.
    pub client_id: Option<String>,
    /// Who logs in, where the broker asks for it.
    pub username: Option<String>,
    /// Refer to it with `${file:…}` or `${cred:…}`.
    pub password: Option<String>,
    /// The protocol that is spoken.
    #[serde(default)]
    pub version: Version,
    /// How the broker is trusted, and a client certificate.
    pub tls: Option<ClientTls>,
    /// After so long without a packet the broker is asked for a sign of life; after half of it again, it is gone.
    #[serde(default = "default_keepalive")]
    pub keepalive: Span,
    /// How long publishing may take, connecting included.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How long connecting may take, name lookup and TLS included; and then subscribing.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Span,
}

fn default_keepalive() -> Span {
    Span::millis(30_000)
}
fn default_timeout() -> Span {
    Span::millis(30_000)
}
fn default_connect_timeout() -> Span {
    Span::millis(5_000)
}

/// Room in a packet besides the message: a topic, and properties of others.
const AROUND: usize = 160 << 10;
/// Messages that the broker may send ahead of our acknowledgements.
const RECEIVE: u16 = 100;
/// How long a turn without deadline waits; it is only looked at again after that.
const LONG: Duration = Duration::from_secs(3600);

pub struct MqttBroker {
    dial: Dial,
    timeout: Duration,
    subscriptions: AtomicU32,
    /// What is published goes over this one, one message at a time.
    publisher: Mutex<Option<Publisher>>,
}

struct Publisher {
    link: Link,
    used: Instant,
    last: u16,
}

impl MqttBroker {
    /// For a system of that name.
    pub fn new(config: Config, gateway: &str, name: &str) -> Result<Self, (String, String)> {
        let dial = Dial {
            broker: config.url,
            tls: config.tls.unwrap_or_default(),
            version: config.version,
            client_id: config.client_id.unwrap_or_else(|| format!("{gateway}-{name}")),
            username: config.username,
            password: config.password,
            clean: true,
            keepalive: config.keepalive.0,
            connect: config.connect_timeout.0,
            receive: RECEIVE,
            max_packet: MAX_MESSAGE + AROUND,
            will: None,
        };
        dial.check()?;
        Ok(MqttBroker {
            dial,
            timeout: config.timeout.0,
            subscriptions: AtomicU32::new(0),
            publisher: Mutex::new(None),
        })
    }

    fn retry(&self, why: impl std::fmt::Display) -> Fault {
        Fault::retry(format!("`{}`: {why}", self.dial.broker))
    }

    async fn publish_now(&self, topic: &str, message: &[u8]) -> Result<(), Fault> {
        let mut slot = self.publisher.lock().await;
        // Taken, so that a connection is gone when this future is dropped or fails.
        let mut kept = slot.take();
        if let Some(publisher) = &mut kept
            && !publisher.fresh(self.dial.keepalive).await
        {
            kept = None;
        }
        let mut publisher = match kept {
            Some(publisher) => publisher,
            None => {
                let link = Link::connect(&self.dial).await.map_err(Fault::Retry)?;
                if link.limits.qos < 1 {
                    return Err(self.retry("the broker has no quality of service over 0"));
                }
                Publisher { link, used: Instant::now(), last: 0 }
            }
        };
        let answer = publisher.send(topic, message).await;
        if !matches!(answer, Err(Fault::Retry(_))) {
            *slot = Some(publisher);
        }
        answer
    }
}

impl Publisher {
    /// Whether the connection can still be used. One that nobody kept alive is left.
    async fn fresh(&mut self, keepalive: Duration) -> bool {
        let now = Instant::now();
        if now - self.used > keepalive / 2 || self.link.turn(now).await.is_err() {
            return false;
        }
        // A DISCONNECT may lie there.
        let none = matches!(self.link.packet(), Ok(None | Some(Packet::Pong)));
        none && self.link.turn(now).await.is_ok()
    }

    async fn send(&mut self, topic: &str, message: &[u8]) -> Result<(), Fault> {
        self.last = self.last % u16::MAX + 1;
        let id = self.last;
        let outgoing = Outgoing { topic, qos: 1, retain: false, id, user: [None; 2], payload: message };
        let limit = self.link.limits.packet;
        let too_large = |size| Fault::reject(format!("the message has {size} bytes, the broker takes {limit}"));
        let version = self.link.version();
        outgoing.write(version, limit, &mut self.link.out).map_err(too_large)?;
        loop {
            self.link.turn(Instant::now() + LONG).await.map_err(Fault::Retry)?;
            self.used = Instant::now();
            while let Some(packet) = self.link.packet().map_err(Fault::Retry)? {
                match packet {
                    Packet::Ack { kind: Kind::PubAck, id: of, code } if of == id => return judge(code),
                    Packet::Disconnect(code) => return Err(judge(code).err().unwrap_or(lost(code))),
                    // Some brokers push what nobody subscribed to.
                    _ => {}
                }
            }
        }
    }
}

fn lost(code: u8) -> Fault {
    Fault::retry(format!("the broker disconnected: {}", wire::reason(code)))
}

/// What an answer to a message means: codes from 0x80 on are refusals, these (3.4.2.1) for ever.
fn judge(code: u8) -> Result<(), Fault> {
    let text = || format!("the broker refused the message: {}", wire::reason(code));
    match code {
        0x87 | 0x90 | 0x95 | 0x99 => Err(Fault::reject(text())),
        0x80.. => Err(Fault::retry(text())),
        _ => Ok(()),
    }
}

#[async_trait]
impl PubSub for MqttBroker {
    async fn publish(&self, topic: &str, message: &[u8]) -> Result<(), Fault> {
        check_publish(topic, message)?;
        let late = |_| Err(self.retry(format!("no acknowledgement within {}", Span(self.timeout))));
        timeout(self.timeout, self.publish_now(topic, message)).await.unwrap_or_else(late)
    }

    async fn subscribe(&self, topic: &str) -> Result<Box<dyn Subscription>, Fault> {
        check_subscribe(topic)?;
        let mut dial = self.dial.clone();
        let number = self.subscriptions.fetch_add(1, Ordering::Relaxed) + 1;
        dial.client_id = format!("{}-{number}", dial.client_id);
        let mut link = Link::connect(&dial).await.map_err(Fault::Retry)?;
        wire::put_subscribe(dial.version, 1, &[topic.to_owned()], 1, false, &mut link.out);
        let (until, mut granted) = (Instant::now() + dial.connect, false);
        while !granted {
            if Instant::now() >= until {
                return Err(self.retry(format!("no answer to SUBSCRIBE within {}", Span(dial.connect))));
            }
            link.turn(until).await.map_err(Fault::Retry)?;
            // What follows it stays for `next`.
            match link.packet().map_err(Fault::Retry)? {
                Some(Packet::SubAck { codes }) => match codes.first() {
                    Some(code) if *code < 0x80 => granted = true,
                    code => {
                        let why = wire::reason(code.copied().unwrap_or(0x80));
                        return Err(self.retry(format!("the broker refused the subscription to `{topic}`: {why}")));
                    }
                },
                Some(Packet::Disconnect(code)) => return Err(lost(code)),
                _ => {}
            }
        }
        Ok(Box::new(Subscribed { link, told: false }))
    }
}

struct Subscribed {
    link: Link,
    /// Whether the log says that messages are passed over.
    told: bool,
}

impl Subscribed {
    /// A message over the limit: with MQTT 5 brokers do not send it, since the limit was told.
    fn pass_over(&mut self, size: usize) {
        if !std::mem::replace(&mut self.told, true) {
            log::warn!("a message of {size} bytes was passed over, the limit is {MAX_MESSAGE}");
        }
    }
}

#[async_trait]
impl Subscription for Subscribed {
    async fn next(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            while let Some(packet) = self.link.packet().map_err(Fault::Retry)? {
                let (qos, id) = match &packet {
                    Packet::Publish(publish) => (publish.qos, publish.id),
                    Packet::Oversized { qos, id, .. } => (*qos, *id),
                    _ => continue,
                };
                if qos == 1 {
                    wire::put_ack(Kind::PubAck, id, &mut self.link.out);
                }
                match packet {
                    // A retained message is older than the subscription.
                    Packet::Publish(publish) if publish.retain => {}
                    Packet::Publish(publish) if publish.payload.len() > MAX_MESSAGE => {
                        self.pass_over(publish.payload.len());
                    }
                    Packet::Publish(publish) => return Ok(publish.payload.to_vec()),
                    Packet::Oversized { size, .. } => self.pass_over(size),
                    _ => {}
                }
            }
            self.link.turn(Instant::now() + LONG).await.map_err(Fault::Retry)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged() {
        for (code, want) in
            [(0, "ok"), (0x10, "ok"), (0x80, "retry"), (0x97, "retry"), (0x87, "reject"), (0x95, "reject")]
        {
            let got = match judge(code) {
                Ok(()) => "ok",
                Err(Fault::Reject(_)) => "reject",
                Err(_) => "retry",
            };
            assert_eq!(got, want, "{code:#x}");
        }
    }
}
