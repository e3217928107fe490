//! Listens to a topic of a broker that `systems` names.

use crate::{
    event::{Batch, Draft, json::write_string},
    fault::Fault,
    kind::{Intake, Kind, Params, ParamsError, Source},
    store::{Dead, Step},
    systems::{
        mqtt::payload,
        pubsub::{self, PubSub, Subscription},
    },
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub const KIND: Kind<dyn Source> = Kind {
    name: "subscribe",
    about: "listens to a topic of a broker in `systems`",
    example: r#"{ "type": "subscribe", "system": "memory_broker", "topic": "site/commands" }"#,
    schema: Config::json_schema,
    build,
};

/// Listens to a topic of a broker. What is published while the gateway does not listen, or its store is full, never comes;
/// the source `mqtt` has a broker keep it. A message that is no JSON object is taken as `{"payload": …}`, and one that is no text as
/// `{"payload_base64": "…"}`. The topic is the key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The broker's name in `systems`.
    system: String,
    /// The topic, without wildcards.
    topic: String,
}

/// Bytes that go into one commit.
const BATCH: usize = 128 << 10;
/// Bytes of a refused message that are kept with the reason.
const KEPT: usize = 4 << 10;

fn build(params: Params) -> Result<Box<dyn Source>, ParamsError> {
    let Config { system, topic } = params.decode()?;
    let broker = params.scope.systems.pubsub(&system).map_err(|why| ParamsError::at("system", why))?;
    pubsub::check(&topic).map_err(|why| ParamsError::at("topic", format!("`{topic:.100}` {why}")))?;
    Ok(Box::new(Subscribe { broker, topic }))
}

struct Subscribe {
    broker: Arc<dyn PubSub>,
    topic: String,
}

#[async_trait]
impl Source for Subscribe {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        let mut messages = self.broker.subscribe(&self.topic).await?;
        loop {
            let mut taken = Taken::default();
            taken.add(&self.topic, &messages.next().await?, intake);
            let mut ended = Ok(());
            while taken.batch.bytes() + taken.bytes < BATCH && ended.is_ok() {
                match ready(&mut *messages).await {
                    Some(Ok(message)) => taken.add(&self.topic, &message, intake),
                    Some(Err(fault)) => ended = Err(fault),
                    None => break,
                }
            }
            taken.commit(intake).await?;
            ended?;
        }
    }
}

/// A message that is there already.
async fn ready(messages: &mut dyn Subscription) -> Option<Result<Vec<u8>, Fault>> {
    tokio::select! {
        biased;
        message = messages.next() => Some(message),
        () = std::future::ready(()) => None,
    }
}

/// What was taken from the broker and is not on disk yet.
#[derive(Default)]
struct Taken {
    batch: Batch,
    dead: Vec<Dead>,
    /// Bytes of messages that went to the dead letters.
    bytes: usize,
}

impl Taken {
    fn add(&mut self, topic: &str, message: &[u8], intake: &Intake) {
        let mut scratch = Vec::new();
        let (body, form) = payload::wrap(message, &mut scratch);
        let mut meta = b"{\"topic\":".to_vec();
        write_string(topic, &mut meta);
        if let Some(form) = form.name() {
            meta.extend_from_slice(b",\"wrapped\":");
            write_string(form, &mut meta);
        }
        meta.push(b'}');
        let draft = Draft { key: topic, meta: &meta, body, ..Draft::default() };
        if let Err(unfit) = intake.push(&mut self.batch, &draft) {
            self.bytes += message.len().max(1);
            self.dead.push(Dead {
                consumer: intake.topic().to_string(),
                topic: intake.topic().to_string(),
                seq: 0,
                event: String::new(),
                reason: format!("a message to `{topic:.100}`: {unfit}"),
                body: message[..message.len().min(KEPT)].to_vec(),
            });
        }
    }

    async fn commit(self, intake: &Intake) -> Result<(), Fault> {
        if !self.dead.is_empty() {
            intake.store().commit(Step { dead: self.dead, ..Step::default() }).await.map_err(Fault::retry)?;
        }
        if !self.batch.is_empty() {
            intake.append(self.batch).await.map_err(Fault::retry)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bodies, intake};
    use super::*;
    use crate::{
        kind::Scope,
        systems::{System, Systems, pubsub::memory::MemoryBroker},
    };
    use serde_json::json;
    use std::time::Duration;

    fn source(broker: &Arc<MemoryBroker>, system: &str, topic: &str) -> Result<Box<dyn Source>, String> {
        let mut systems = Systems::default();
        systems.insert("inside", System::PubSub(broker.clone()));
        systems.insert("broken", None);
        let scope = Scope { systems, ..Scope::default() };
        build(Params::new("in", scope, json!({ "system": system, "topic": topic }))).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn messages_become_events_in_order() {
        let broker = Arc::new(MemoryBroker::default());
        let (intake, store) = intake(100).await;
        let mut source = source(&broker, "inside", "a/b").unwrap();
        let told = async {
            let long = "x".repeat(200);
            // Until it listens, nobody gets them.
            while bodies(&store).await.is_empty() {
                broker.publish("a/b", b"{\"first\":1}").await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            for message in ["{\"n\":1}", "21.5", &long, "on", "{\"n\":2}"] {
                broker.publish("a/b", message.as_bytes()).await.unwrap();
            }
            broker.publish("a/b", b"\xff\x00").await.unwrap();
            loop {
                let mut all = bodies(&store).await;
                all.retain(|body| body != "{\"first\":1}");
                if all.len() == 5 {
                    return all;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let all = tokio::select! {
            ended = source.run(&intake) => panic!("{ended:?}"),
            all = told => all,
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it takes too long"),
        };
        let wrapped = ["{\"payload\":21.5}", "{\"payload\":\"on\"}"];
        assert_eq!(all, ["{\"n\":1}", wrapped[0], wrapped[1], "{\"n\":2}", "{\"payload_base64\":\"/wA=\"}"]);
    }

    #[test]
    fn a_wrong_system_or_topic_is_told() {
        let broker = Arc::new(MemoryBroker::default());
        for (system, topic, want) in [
            ("outside", "a", "system: there is no system `outside`; there are: broken, inside"),
            ("broken", "a", "system: the system `broken` is itself wrong"),
            ("inside", "a/#", "topic: `a/#` has a wildcard"),
            ("inside", "", "topic: `` is empty"),
        ] {
            let told = source(&broker, system, topic).err().unwrap_or_default();
            assert!(told.starts_with(want), "{told}");
        }
    }
}
