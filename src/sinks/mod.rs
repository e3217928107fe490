//! Where events go: one file, or folder, a kind.

pub mod file;
pub mod gpio;
pub mod http;
pub mod modbus;
pub mod mqtt;
pub mod stdout;

use crate::{
    event::Event,
    kind::{Kind, Sink},
};

/// Every kind of sink.
pub const KINDS: &[Kind<dyn Sink>] = &[http::KIND, mqtt::KIND, gpio::KIND, modbus::KIND, file::KIND, stdout::KIND];

/// NDJSON: each event on a line of its own, with its envelope or the body alone.
fn lines(batch: &[Event], envelope: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.iter().map(|e| e.body.size() + 256 * usize::from(envelope) + 1).sum());
    for event in batch {
        let start = out.len();
        if envelope {
            event.write_envelope(&mut out);
        } else {
            event.body.write(&mut out);
        }
        // A body is the bytes that came, line ends between its members included; in strings they stand escaped.
        for byte in out.iter_mut().skip(start).filter(|b| matches!(b, b'\n' | b'\r')) {
            *byte = b' ';
        }
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Batch, Draft, When},
        kind::{Params, Scope},
        store::{Append, Options, Start, Step, Store},
    };

    /// Events with these bodies, as a sink gets them.
    pub async fn events(bodies: &[&str]) -> Vec<Event> {
        let store = Store::open(Options::default()).unwrap();
        let topics = ["in".into()];
        let consumer = store.consumer("test", &topics, Start::Oldest).await.unwrap();
        let mut batch = Batch::default();
        for body in bodies {
            batch
                .push(&Draft { key: "k", time: Some(When::Told(0)), body: body.as_bytes(), ..Draft::default() })
                .unwrap();
        }
        let append = Append { topic: "in".into(), priority: 4, batch };
        store.commit(Step { appends: vec![append], ..Step::default() }).await.unwrap();
        store.reader(consumer, &topics).next(bodies.len(), 1 << 20).await.unwrap().events
    }

    /// A sink from a configuration, or what is wrong with it.
    pub fn build(kind: &Kind<dyn Sink>, config: &str) -> Result<Box<dyn Sink>, String> {
        let mut value: serde_json::Value = serde_json::from_str(config).unwrap();
        value.as_object_mut().unwrap().shift_remove("type");
        (kind.build)(Params::new("out", Scope::default(), value)).map_err(|e| e.to_string())
    }

    #[test]
    fn every_example_builds() {
        for kind in [&file::KIND, &gpio::KIND, &modbus::KIND, &stdout::KIND] {
            build(kind, kind.example).unwrap();
        }
    }

    #[tokio::test]
    async fn an_event_is_one_line() {
        let events = events(&["{\"a\":\n[1,\r\n2]}", "{\"b\":\"\\n\"}"]).await;
        assert_eq!(lines(&events, false), b"{\"a\": [1,  2]}\n{\"b\":\"\\n\"}\n");
        let text = String::from_utf8(lines(&events, true)).unwrap();
        let read: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(
            (&read[0]["body"]["a"][1], &read[0]["key"], &read[1]["topic"]),
            (&2.into(), &"k".into(), &"in".into())
        );
    }
}
