//! Events on the standard output, one a line.

use crate::{
    event::Event,
    fault::Fault,
    kind::{Kind, Sink},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::io::ErrorKind;
use tokio::io::{AsyncWrite, AsyncWriteExt};

pub const KIND: Kind<dyn Sink> = Kind {
    name: "stdout",
    about: "one line of JSON an event on the standard output",
    example: r#"{ "type": "stdout", "envelope": true }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(params.decode::<Config>()?)),
};

/// Writes events to the standard output. When that is closed, the gateway stops.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Whether the body is wrapped in an object with the event's id, topic, key, priority and times.
    #[serde(default)]
    envelope: bool,
}

#[async_trait]
impl Sink for Config {
    async fn deliver(&mut self, batch: &[Event]) -> Result<(), Fault> {
        write(&mut tokio::io::stdout(), &super::lines(batch, self.envelope)).await
    }
}

async fn write(out: &mut (impl AsyncWrite + Unpin), lines: &[u8]) -> Result<(), Fault> {
    let written = async {
        out.write_all(lines).await?;
        out.flush().await
    };
    written.await.map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Fault::fatal("stdout was closed"),
        _ => Fault::retry(format!("cannot write to stdout: {e}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_pipe_is_the_end() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut writer = tokio::fs::File::from_std(std::os::fd::OwnedFd::from(writer).into());
        write(&mut writer, b"{}\n").await.unwrap();
        drop(reader);
        let fault = write(&mut writer, b"{}\n").await.unwrap_err();
        assert!(matches!(fault, Fault::Fatal(_)));
        assert_eq!(fault.to_string(), "stdout was closed");
    }
}
