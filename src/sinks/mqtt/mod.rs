//! Publishes events to a broker, and moves on when the broker has acknowledged them.

mod live;
mod template;
#[cfg(test)]
mod tests;
mod window;

use crate::{
    budget::Span,
    event::Event,
    fault::Fault,
    kind::{Kind, Params, ParamsError, Sink},
    systems::{
        mqtt::{
            self, Broker, Dial, Link, Message, Version, payload,
            wire::{self, Outgoing},
        },
        tls::ClientTls,
    },
};
use async_trait::async_trait;
use live::Live;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;
use template::Template;
use window::Window;

pub const KIND: Kind<dyn Sink> = Kind {
    name: "mqtt",
    about: "publishes to an MQTT broker and waits for its acknowledgements",
    example: r#"{
  "type": "mqtt",
  "url": "mqtts://broker.example.org",
  "username": "barn-7", "password": "${MQTT_PASSWORD:-secret}",
  "topic": "sites/{gateway}/{key}",
  // What others see of this gateway: `on` while it is connected, `off` when it is stopped or lost.
  "birth": { "topic": "sites/{gateway}/state", "payload": "on", "retain": true },
  "death": { "topic": "sites/{gateway}/state", "payload": "off", "retain": true },
  "will": { "topic": "sites/{gateway}/state", "payload": "off", "retain": true }
}"#,
    schema: Config::json_schema,
    build,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The broker: `mqtt://host:1883`, or `mqtts://host:8883` for TLS.
    url: Broker,
    /// How the gateway calls itself; no two clients of a broker may have the same. Default: the gateway's id, a dash
    /// and the sink's name.
    client_id: Option<String>,
    /// Who the gateway is for the broker.
    username: Option<String>,
    /// Its password: a reference, such as `${cred:mqtt}`.
    password: Option<String>,
    /// Where an event is published. `{gateway}`, `{topic}` (the gateway's topic), `{key}` (or the topic, if the event has
    /// no key), `{meta.NAME}` and `{event.PATH}` are replaced. An event that lacks one of them, or with `+`, `#` or a
    /// control character in it, goes to the dead letters.
    #[serde(default = "default_topic")]
    topic: Template,
    /// The quality of service: 0, 1 or 2. With 0 the gateway only knows that the broker has read the message.
    #[serde(default = "default_qos")]
    #[schemars(range(max = 2))]
    qos: u8,
    /// Whether the broker keeps the last message of each topic for those who subscribe later.
    #[serde(default)]
    retain: bool,
    /// Messages that may wait for their acknowledgement; fewer, if the broker says so.
    #[serde(default = "default_window")]
    #[schemars(range(min = 1))]
    window: u16,
    /// After so long without a packet the broker is asked for a sign of life; after half of it again, it is gone.
    #[serde(default = "default_keepalive")]
    keepalive: Span,
    #[serde(default)]
    version: Version,
    /// For `mqtts://`: how the broker is trusted, and a client certificate.
    tls: Option<ClientTls>,
    /// Whether to send id, times, key and meta around the body.
    #[serde(default)]
    envelope: bool,
    /// Whether a payload that came by MQTT and is no JSON object goes out as it came, without the field that it is kept
    /// in; unless a pipeline added to it.
    #[serde(default)]
    unwrap: bool,
    /// The user property that carries the event's id, by which a receiver can drop repeats; `null` for none. MQTT 5 only.
    #[serde(default = "default_id_property")]
    id_property: Option<String>,
    /// What is published after each connect.
    birth: Option<Message>,
    /// What the broker publishes when the connection is lost.
    will: Option<Message>,
    /// What is published at a stop; the will is not sent then.
    death: Option<Message>,
    /// How long to wait for an acknowledgement before connecting anew.
    #[serde(default = "default_timeout")]
    timeout: Span,
    /// How long connecting may take, name lookup and TLS included.
    #[serde(default = "default_connect_timeout")]
    connect_timeout: Span,
}

fn default_topic() -> Template {
    Template::key()
}
fn default_qos() -> u8 {
    1
}
fn default_window() -> u16 {
    1000
}
fn default_keepalive() -> Span {
    Span::millis(30_000)
}
fn default_id_property() -> Option<String> {
    Some("event-id".into())
}
fn default_timeout() -> Span {
    Span::millis(30_000)
}
fn default_connect_timeout() -> Span {
    Span::millis(5_000)
}

/// Bytes of the largest packet that is taken from the broker: it has nothing to say but acknowledgements.
const MAX_PACKET: usize = 64 << 10;

/// How long a goodbye may take; the stop waits for it.
const GOODBYE: Duration = Duration::from_millis(700);

fn build(params: Params) -> Result<Box<dyn Sink>, ParamsError> {
    let config: Config = params.decode()?;
    let gateway = &params.scope.gateway;
    mqtt::check_qos(config.qos).map_err(|why| ParamsError::at("qos", why))?;
    if config.window == 0 {
        return Err(ParamsError::at("window", "nothing can be sent with a window of 0"));
    }
    if config.envelope && config.unwrap {
        return Err(ParamsError::at("unwrap", "a payload is either in the `envelope` or without; choose one"));
    }
    if config.id_property.as_ref().is_some_and(|p| p.is_empty() || p.len() > 256 || !p.chars().all(mqtt::allowed)) {
        return Err(ParamsError::at("id_property", "is empty, longer than 256 bytes, or has a control character"));
    }
    let message = |name: &str, message: Option<Message>| match message.map(|m| m.complete(gateway)) {
        Some(Err((field, why))) => Err(ParamsError::at(format!("{name}.{field}"), why)),
        Some(Ok(message)) => Ok(Some(message)),
        None => Ok(None),
    };
    let dial = Dial {
        broker: config.url,
        tls: config.tls.unwrap_or_default(),
        version: config.version,
        client_id: config.client_id.unwrap_or_else(|| format!("{gateway}-{}", params.name)),
        username: config.username,
        password: config.password,
        clean: true,
        keepalive: config.keepalive.0,
        connect: config.connect_timeout.0,
        receive: 16,
        max_packet: MAX_PACKET,
        will: message("will", config.will)?,
    };
    dial.check().map_err(|(field, why)| ParamsError::at(field, why))?;
    Ok(Box::new(Mqtt {
        dial,
        birth: message("birth", config.birth)?,
        death: message("death", config.death)?,
        window: config.window,
        timeout: config.timeout.0,
        form: Form {
            topic: config.topic.of_gateway(gateway),
            qos: config.qos,
            retain: config.retain,
            envelope: config.envelope,
            unwrap: config.unwrap,
            id_property: config.id_property,
            name: String::new(),
            payload: Vec::new(),
        },
        live: None,
    }))
}

struct Mqtt {
    dial: Dial,
    birth: Option<Message>,
    death: Option<Message>,
    window: u16,
    timeout: Duration,
    form: Form,
    live: Option<Live>,
}

/// How an event becomes a message; the last two fields are scratch.
struct Form {
    topic: Template,
    qos: u8,
    retain: bool,
    envelope: bool,
    unwrap: bool,
    id_property: Option<String>,
    name: String,
    payload: Vec<u8>,
}

#[async_trait]
impl Sink for Mqtt {
    async fn deliver(&mut self, batch: &[Event]) -> Result<(), Fault> {
        self.attach().await?;
        let Mqtt { form, live: Some(live), timeout, .. } = self else { return Ok(()) };
        match live.send(batch.len(), form.qos, *timeout, |i, live| form.put(&batch[i], live)).await {
            Ok(None) => Ok(()),
            Ok(Some(refused)) => Err(refused),
            Err(lost) => {
                self.live = None;
                Err(lost)
            }
        }
    }

    fn answer(&self) -> String {
        let said = self.live.as_ref().and_then(|live| live.said);
        match said {
            None => "the broker has read it".into(),
            Some((kind, 0)) => format!("{}: success", kind.name()),
            Some((kind, 0x10)) => format!("{}: success, and nobody has subscribed to it", kind.name()),
            Some((kind, code)) => format!("{}: {}", kind.name(), wire::reason(code)),
        }
    }

    async fn idle(&mut self) -> Fault {
        if let Err(fault) = self.attach().await {
            return fault;
        }
        let Some(live) = &mut self.live else { return Fault::retry("not connected") };
        let fault = live.keep().await;
        self.live = None;
        fault
    }

    async fn close(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        if let Some(death) = &self.death {
            live.send(1, death.qos, GOODBYE, |_, live| put_message(death, live)).await.ok();
        }
        live.leave(GOODBYE).await;
    }
}

impl Mqtt {
    /// Connects and says that we are here, unless we are. Whatever goes wrong here is not the fault of an event.
    async fn attach(&mut self) -> Result<(), Fault> {
        // A delivery that was dropped has left messages in flight; nobody waits for them any more.
        if self.live.as_ref().is_some_and(|live| live.window.open() == 0) {
            return Ok(());
        }
        self.live = None;
        let link = Link::connect(&self.dial).await.map_err(Fault::Retry)?;
        let broker = &self.dial.broker;
        if link.limits.qos < self.form.qos {
            let most = link.limits.qos;
            return Err(Fault::retry(format!(
                "`{broker}`: the broker has no quality of service over {most}; lower `qos`"
            )));
        }
        if self.form.retain && !link.limits.retain {
            return Err(Fault::retry(format!(
                "`{broker}`: the broker does not retain messages; set `retain` to false"
            )));
        }
        let window = Window::new(usize::from(self.window.min(link.limits.receive)));
        let mut live = Live { link, window, said: None };
        if let Some(birth) = &self.birth {
            let sent = live.send(1, birth.qos, self.dial.connect, |_, live| put_message(birth, live)).await;
            if let Err(fault) | Ok(Some(fault)) = sent {
                return Err(Fault::retry(format!("`{broker}`: birth message: {fault}")));
            }
        }
        self.live = Some(live);
        Ok(())
    }
}

impl Form {
    /// Appends the message of an event. A `Reject` says why it cannot be one.
    fn put(&mut self, event: &Event, live: &mut Live) -> Result<(), Fault> {
        self.topic.write(event, &mut self.name).map_err(Fault::reject)?;
        self.payload.clear();
        if self.envelope {
            event.write_envelope(&mut self.payload);
        } else if !(self.unwrap && payload::unwrap(&event.body, &event.meta, &mut self.payload)) {
            event.body.write(&mut self.payload);
        }
        let id = event.id.text();
        // What a broker would close the connection for, and the event would come back for ever.
        let id = match id.chars().all(mqtt::allowed) {
            true => id,
            false => id.replace(|c| !mqtt::allowed(c), "\u{fffd}").into(),
        };
        let id = self.id_property.as_deref().map(|name| (name, &*id));
        let user = [id, event.parent().map(|parent| ("traceparent", parent))];
        let Form { name, payload, qos, retain, .. } = self;
        put(Outgoing { topic: name, qos: *qos, retain: *retain, id: 0, user, payload }, live)
    }
}

fn put_message(message: &Message, live: &mut Live) -> Result<(), Fault> {
    let Message { topic, payload, qos, retain } = message;
    put(Outgoing { topic, qos: *qos, retain: *retain, id: 0, user: [None; 2], payload: payload.as_bytes() }, live)
}

/// Appends a message, with the next packet id if it needs one.
fn put(message: Outgoing<'_>, live: &mut Live) -> Result<(), Fault> {
    let Live { link, window, .. } = live;
    let id = if message.qos > 0 { window.take() } else { 0 };
    let (version, limit) = (link.version(), link.limits.packet);
    Outgoing { id, ..message }.write(version, limit, &mut link.out).map_err(|size| {
        if id > 0 {
            window.untake();
        }
        Fault::reject(format!("the message has {size} bytes, the broker takes {limit}"))
    })
}
