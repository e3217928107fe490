//! Devices connect to the gateway itself: MQTT 3.1.1 and 5 on one port, no other broker needed.
//!
//! ```text
//! socket → wire → decode → inbound ─ one batch a read ─→ intake → PUBACK, PUBREC
//!                                                           │
//! socket ← encode ← outbound ← session's filters ← Reader ←─┘ the log
//! ```
//!
//! There are no queues between clients. A message is committed to the source's topic; who subscribed reads that topic
//! like any consumer: a lasting session with a durable cursor, any other from where it subscribed on. Only what a client
//! leaves unacknowledged is held for it, in memory and, if its session lasts, as rows of state, so that a client that is
//! away never holds back the log.
//!
//! A shared subscription (`$share/GROUP/FILTER`) gives each event to one member of the group: the connected ones in turn
//! by sequence number. When members come or go at that moment, an event may go to two of them or to none.

mod access;
mod config;
#[doc(hidden)] // for tests/fuzz, as `wire`
pub mod decode;
mod encode;
mod filter;
mod greet;
mod hub;
mod inbound;
mod link;
mod memory;
mod outbound;
mod pace;
mod parked;
mod payload;
mod props;
mod rows;
mod session;
mod subscribe;
#[cfg(test)]
mod tests;
#[doc(hidden)]
pub mod wire;

pub use access::hash_password;

use crate::{
    fault::Fault,
    kind::{Intake, Kind, Need, Params, ParamsError, Source},
    sources::{
        seats::{self, Seats},
        trouble::Trouble,
    },
};
use access::Access;
use async_trait::async_trait;
use config::Config;
use hub::Hub;
use link::{OUT_FULL, OUT_LEAST};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

pub const KIND: Kind<dyn Source> = Kind {
    name: "mqtt_listen",
    about: "devices connect here with MQTT 3.1.1 or 5; no other broker is needed",
    example: r#"{
  "type": "mqtt_listen",
  "listen": "127.0.0.1:1883", // beyond loopback: users, or tls with client_ca
  "max_packet": "256KiB"
}"#,
    schema: |generator| <Config as schemars::JsonSchema>::json_schema(generator),
    build: |params: Params| {
        let config: Config = params.decode()?;
        let (listen, access) = config.check()?;
        Ok(Box::new(Listener { config, listen, access: Arc::new(access) }) as Box<dyn Source>) as Result<_, ParamsError>
    },
};

struct Listener {
    config: Config,
    listen: SocketAddr,
    access: Arc<Access>,
}

/// What all connections of one listener have in common.
pub(crate) struct Shared {
    config: Config,
    access: Arc<Access>,
    intake: Intake,
    hub: Arc<Hub>,
}

impl Shared {
    /// The source's name: its topic, and the owner of its state.
    fn owner(&self) -> &str {
        self.intake.topic()
    }

    /// Bytes that are put out for a client before it reads them: as much as its part of the memory has room for.
    fn out_full(&self) -> usize {
        (self.intake.store().pools().connections.limit() / 512).clamp(OUT_LEAST, OUT_FULL)
    }
}

#[async_trait]
impl Source for Listener {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        if let Some(tls) = &self.config.tls {
            crate::systems::tls::server_config(tls).map_err(Fault::Retry)?;
        }
        let listener = seats::listen(self.listen).map_err(|e| Fault::retry(format!("`{}`: {e}", self.listen)))?;
        self.serve(listener, intake).await
    }

    fn has_sessions(&self) -> bool {
        true
    }

    fn need(&self) -> Need {
        let Config { max_packet, max_connections, retained_bytes, .. } = &self.config;
        let largest = memory::WHOLE * max_packet.bytes() + (64 << 10);
        let connections = max_connections * hub::seat(&self.config);
        Need { fixed: 256 << 10, largest, connections, kept: retained_bytes.bytes() + hub::QUEUED }
    }
}

impl Listener {
    async fn serve(&self, listener: TcpListener, intake: &Intake) -> Result<(), Fault> {
        let shared = Arc::new(Shared {
            config: self.config.clone(),
            access: self.access.clone(),
            intake: intake.clone(),
            hub: Arc::new(Hub::new(self.config.clone(), intake.store().pools())),
        });
        // Dropped with this future, and with it every connection.
        let mut tasks = JoinSet::new();
        for task in parked::restore(&shared).await.map_err(Fault::retry)? {
            tasks.spawn(task);
        }
        let crashed = Trouble::default();
        let seats = Seats::new(shared.owner(), self.config.max_connections, self.config.max_per_address);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((tcp, peer)) => {
                        let memory = || intake.store().pools().connections.draw(hub::seat(&self.config));
                        if let Some(seat) = seats.take_with(peer.ip(), memory).await {
                            tasks.spawn(greet::serve(shared.clone(), tcp, seat));
                        }
                    }
                    // Out of file descriptors, most likely: those who are connected go on.
                    Err(error) => {
                        shared.hub.crowded.begins(|| format!("sources.{}: nobody can connect: {error}", shared.owner()));
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(done) = tasks.join_next() => {
                    if let Err(error) = done {
                        #[cfg(test)]
                        assert!(!error.is_panic(), "a connection died of a defect: {error}");
                        crashed.begins(|| format!("sources.{}: a connection died of a defect: {error}", shared.owner()));
                    }
                }
            }
        }
    }
}
