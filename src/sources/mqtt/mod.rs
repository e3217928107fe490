//! Subscribes to a broker, and acknowledges what is on disk.

#[cfg(test)]
mod tests;

use crate::{
    budget::Span,
    event::{Batch, Draft, batch::MAX_ID},
    fault::Fault,
    kind::{Intake, Kind, Params, ParamsError, Source},
    store::{Dead, Refusal, Step},
    systems::{
        mqtt::{
            self, Broker, Dial, Link, Version,
            payload::{self, About},
            wire::{self, Packet, Publish},
        },
        tls::ClientTls,
    },
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

pub const KIND: Kind<dyn Source> = Kind {
    name: "mqtt",
    about: "subscribes to an MQTT broker that is there already",
    example: r#"{
  "type": "mqtt",
  "url": "mqtt://localhost:1883",
  "subscribe": ["sensors/#", "meters/+/reading"]
}"#,
    schema: Config::json_schema,
    build,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The broker: `mqtt://host:1883`, or `mqtts://host:8883` for TLS.
    url: Broker,
    /// The topic filters to subscribe to, with `+` for one level and `#` for all that follow.
    subscribe: Vec<String>,
    /// How the gateway calls itself; the broker keeps what comes while the gateway is away under this name. Default: the
    /// gateway's id, a dash and the source's name.
    client_id: Option<String>,
    /// Who the gateway is for the broker.
    username: Option<String>,
    /// Its password: a reference, such as `${cred:mqtt}`.
    password: Option<String>,
    /// The highest quality of service to ask for: 0, 1 or 2. The broker is told that it may forget a message when it is
    /// on disk here, so 1 loses nothing; a repeat is possible with 2 as well, when the connection is lost in between.
    #[serde(default = "default_qos")]
    #[schemars(range(max = 2))]
    qos: u8,
    #[serde(default)]
    version: Version,
    /// For `mqtts://`: how the broker is trusted, and a client certificate.
    tls: Option<ClientTls>,
    /// After so long without a packet the broker is asked for a sign of life; after half of it again, it is gone.
    #[serde(default = "default_keepalive")]
    keepalive: Span,
    /// The user property that carries the sender's id for the event, so that a repeat is dropped; `null` for none.
    /// MQTT 5 only.
    #[serde(default = "default_id_property")]
    id_property: Option<String>,
    /// How long connecting may take, name lookup and TLS included; and then subscribing.
    #[serde(default = "default_connect_timeout")]
    connect_timeout: Span,
}

fn default_qos() -> u8 {
    1
}
fn default_keepalive() -> Span {
    Span::millis(30_000)
}
fn default_id_property() -> Option<String> {
    Some("event-id".into())
}
fn default_connect_timeout() -> Span {
    Span::millis(5_000)
}

/// Filters of one source: they go in one packet.
const MAX_FILTERS: usize = 1000;

/// Messages that the broker may send ahead of our acknowledgements; with MQTT 3.1.1 that is up to the broker.
const RECEIVE: u16 = 1000;

/// Bytes that go into one commit; what comes meanwhile waits in the network.
const BATCH: usize = 128 << 10;

/// Bytes of acknowledgements that may wait for the network: those of `RECEIVE` messages many times over.
const MAX_OUT: usize = 256 << 10;

/// Room in a packet besides the payload: a topic, and properties up to what meta may hold.
const AROUND: usize = 160 << 10;

/// Bytes of a refused message that are kept with the reason.
const KEPT: usize = 4 << 10;

/// How long a turn without deadline waits; it is only looked at again after that.
const LONG: Duration = Duration::from_secs(3600);

fn build(params: Params) -> Result<Box<dyn Source>, ParamsError> {
    let config: Config = params.decode()?;
    mqtt::check_qos(config.qos).map_err(|why| ParamsError::at("qos", why))?;
    if !(1..=MAX_FILTERS).contains(&config.subscribe.len()) {
        return Err(ParamsError::at("subscribe", format!("expected 1 to {MAX_FILTERS} topic filters")));
    }
    for (i, filter) in config.subscribe.iter().enumerate() {
        mqtt::check_filter(filter)
            .map_err(|why| ParamsError::at(format!("subscribe[{i}]"), format!("`{filter:.100}` {why}")))?;
    }
    let dial = Dial {
        broker: config.url,
        tls: config.tls.unwrap_or_default(),
        version: config.version,
        client_id: config.client_id.unwrap_or_else(|| format!("{}-{}", params.scope.gateway, params.name)),
        username: config.username,
        password: config.password,
        clean: false,
        keepalive: config.keepalive.0,
        connect: config.connect_timeout.0,
        receive: RECEIVE,
        max_packet: AROUND,
        will: None,
    };
    dial.check().map_err(|(field, why)| ParamsError::at(field, why))?;
    Ok(Box::new(Mqtt { dial, filters: config.subscribe, qos: config.qos, id_property: config.id_property }))
}

struct Mqtt {
    dial: Dial,
    filters: Vec<String>,
    qos: u8,
    id_property: Option<String>,
}

/// What was taken from the connection and is not on disk yet.
#[derive(Default)]
struct Taken {
    batch: Batch,
    dead: Vec<Dead>,
    /// Acknowledgements to send after the commit, in the order of arrival (4.6).
    acks: Vec<u8>,
    meta: Vec<u8>,
    scratch: Vec<u8>,
}

#[async_trait]
impl Source for Mqtt {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        self.dial.max_packet = intake.max_event().saturating_add(AROUND);
        let mut link = Link::connect(&self.dial).await.map_err(Fault::Retry)?;
        wire::put_subscribe(self.dial.version, 1, &self.filters, self.qos, true, &mut link.out);
        let (mut subscribed, mut deadline) = (false, Instant::now() + self.dial.connect);
        let mut taken = Taken::default();
        loop {
            while taken.batch.bytes() < BATCH && taken.acks.len() < BATCH {
                let Some(packet) = link.packet().map_err(Fault::Retry)? else { break };
                match packet {
                    Packet::Publish(publish) => taken.add(&publish, intake, self.id_property.as_deref()),
                    Packet::Oversized { topic, qos, id, size } => {
                        let limit = self.dial.max_packet;
                        let why = format!("the message to `{topic:.100}` has {size} bytes, the limit is {limit}");
                        taken.refuse(why, &[], intake);
                        taken.acknowledge(qos, id);
                    }
                    Packet::SubAck { codes } => {
                        self.check_subscription(&codes)?;
                        subscribed = true;
                    }
                    Packet::Ack { kind: wire::Kind::PubRel, id, .. } => {
                        wire::put_ack(wire::Kind::PubComp, id, &mut link.out);
                    }
                    // After a DISCONNECT the next turn fails with its reason; what was taken is committed first.
                    Packet::Pong | Packet::Disconnect(_) => {}
                    Packet::Ack { .. } | Packet::ConnAck { .. } => {
                        return Err(Fault::retry("the broker sent a packet that nothing asked for"));
                    }
                }
            }
            if !taken.is_empty() {
                taken.commit(intake, &mut link.out).await.map_err(Fault::retry)?;
                if link.out.len() > MAX_OUT {
                    return Err(Fault::retry("the broker does not read what it is sent"));
                }
                deadline = Instant::now() + self.dial.connect;
            } else if !subscribed && deadline <= Instant::now() {
                return Err(Fault::retry(format!("no answer to SUBSCRIBE within {}", Span(self.dial.connect))));
            } else {
                let until = if subscribed { Instant::now() + LONG } else { deadline };
                link.turn(until).await.map_err(Fault::Retry)?;
            }
        }
    }
}

impl Mqtt {
    /// Codes from 0x80 on are refusals, lower ones the quality of service that is granted (3.9.3).
    fn check_subscription(&self, codes: &[u8]) -> Result<(), Fault> {
        for (filter, code) in self.filters.iter().zip(codes) {
            if *code >= 0x80 {
                let why = wire::reason(*code);
                return Err(Fault::retry(format!("the broker refused the subscription to `{filter}`: {why}")));
            }
            if *code < self.qos {
                log::warn!("`{}`: `{filter}` is granted only with quality of service {code}", self.dial.broker);
            }
        }
        match codes.len() == self.filters.len() {
            true => Ok(()),
            false => Err(Fault::retry("the broker answered SUBSCRIBE with another number of subscriptions")),
        }
    }
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.dead.is_empty() && self.acks.is_empty()
    }

    /// Adds a message. One that can be no event is set aside with the reason: refused, it would come again for ever.
    fn add(&mut self, publish: &Publish, intake: &Intake, id_property: Option<&str>) {
        let Ok(topic) = std::str::from_utf8(&publish.topic) else { return };
        let (body, form) = payload::wrap(&publish.payload, &mut self.scratch);
        let mut about = About { topic, qos: publish.qos, retain: publish.retain, form, ..About::default() };
        let mut id = None;
        if let Some(p) = &publish.properties {
            about.content_type = p.content_type.as_deref();
            about.response_topic = p.response_topic.as_deref();
            about.correlation = p.correlation_data.as_deref();
            about.format = p.payload_format_indicator;
            about.expiry = p.message_expiry_interval;
            about.user = &p.user_properties;
            let named = |(name, _): &&(String, String)| Some(name.as_str()) == id_property;
            id = about.user.iter().find(named).map(|(_, value)| value.as_str());
        }
        self.meta.clear();
        about.write(&mut self.meta);
        // An id that cannot be one is not Tidegate's; it stays in meta.
        let id = id.filter(|id| (1..=MAX_ID).contains(&id.len()));
        let draft = Draft { id, key: topic, meta: &self.meta, body, ttl: about.expiry, time: None };
        if let Err(unfit) = intake.push(&mut self.batch, &draft) {
            self.refuse(format!("the message to `{topic:.100}`: {unfit}"), &publish.payload, intake);
        }
        self.acknowledge(publish.qos, publish.id);
    }

    fn refuse(&mut self, reason: String, payload: &[u8], intake: &Intake) {
        self.dead.push(Dead {
            consumer: intake.topic().to_string(),
            topic: intake.topic().to_string(),
            seq: 0,
            event: String::new(),
            reason,
            body: payload[..payload.len().min(KEPT)].to_vec(),
        });
    }

    fn acknowledge(&mut self, qos: u8, id: u16) {
        match qos {
            0 => {}
            1 => wire::put_ack(wire::Kind::PubAck, id, &mut self.acks),
            _ => wire::put_ack(wire::Kind::PubRec, id, &mut self.acks),
        }
    }

    /// Commits, and then lets the acknowledgements out.
    async fn commit(&mut self, intake: &Intake, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (batch, dead) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.dead));
        if !dead.is_empty() {
            intake.store().commit(Step { dead, ..Step::default() }).await?;
        }
        if !batch.is_empty() {
            intake.append(batch).await?;
        }
        out.append(&mut self.acks);
        Ok(())
    }
}
