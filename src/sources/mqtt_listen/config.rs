//! The listener's configuration.

use super::access::{Access, User};
use crate::{
    budget::{Size, Span},
    kind::ParamsError,
    systems::tls::ServerTls,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{net::SocketAddr, time::Duration};

/// Devices connect to the gateway itself, with MQTT 3.1.1 or 5.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port. Beyond loopback it needs `users`, or `tls` with `client_ca`.
    pub listen: String,
    /// Serves TLS instead of plain TCP.
    pub tls: Option<ServerTls>,
    /// Who may connect. Without any, everybody on this machine, or everybody with a certificate of `tls.client_ca`.
    pub users: Vec<User>,
    /// Connections at a time. For one on top of that the slowest of those that make the gateway wait is closed, if there is one.
    pub max_connections: usize,
    /// Connections at a time from one address other than loopback.
    pub max_per_address: usize,
    /// A larger packet ends its connection.
    pub max_packet: Size,
    /// The longest silence that a client of MQTT 5 may ask for.
    pub keep_alive: Span,
    /// Messages a second that one client may publish in the long run; faster ones are made to wait. Default: no limit.
    pub rate: Option<u32>,
    /// The user property of MQTT 5 that holds the event's id, for telling repeats. Default: none.
    pub id_property: Option<String>,
    /// Sessions that outlive their connection.
    pub max_sessions: usize,
    /// How long such a session is kept without a connection, at most.
    pub session_expiry: Span,
    /// Subscriptions that one session may have.
    pub max_subscriptions: usize,
    /// Messages that may wait for one client; beyond that the oldest are dropped and counted.
    pub session_events: usize,
    /// Bytes of messages that may wait for one client.
    pub session_bytes: Size,
    /// How many events a connected client with a lasting session may lag behind before messages are dropped as above.
    pub backlog: u64,
    /// Retained messages.
    pub retained: usize,
    /// Bytes of retained messages.
    pub retained_bytes: Size,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: "127.0.0.1:1883".into(),
            tls: None,
            users: Vec::new(),
            max_connections: 256,
            max_per_address: 64,
            max_packet: Size(256 << 10),
            keep_alive: Span::millis(600_000),
            rate: None,
            id_property: None,
            max_sessions: 256,
            session_expiry: Span(Duration::from_secs(7 * 86_400)),
            max_subscriptions: 100,
            session_events: 1000,
            session_bytes: Size(256 << 10),
            backlog: 10_000,
            retained: 10_000,
            retained_bytes: Size(4 << 20),
        }
    }
}

impl Config {
    /// Checks what the types do not say; gives the address, and who may do what.
    pub fn check(&self) -> Result<(SocketAddr, Access), ParamsError> {
        let listen: SocketAddr = self.listen.parse().map_err(|_| {
            ParamsError::at(
                "listen",
                format!("`{}` is no address with port; write it like \"127.0.0.1:1883\"", self.listen),
            )
        })?;
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !listen.ip().is_loopback() && self.users.is_empty() && !certificates {
            return Err(ParamsError::at(
                "listen",
                format!("`{listen}` can be reached from other machines: set `users`, or `tls` with `client_ca`"),
            ));
        }
        for (name, n) in [
            ("max_connections", self.max_connections),
            ("max_per_address", self.max_per_address),
            ("max_sessions", self.max_sessions),
            ("max_subscriptions", self.max_subscriptions),
            ("session_events", self.session_events),
        ] {
            if n == 0 || n > 65_536 {
                return Err(ParamsError::at(name, format!("`{n}` is not between 1 and 65536")));
            }
        }
        if !(256..=64 << 20).contains(&self.max_packet.0) {
            return Err(ParamsError::at("max_packet", format!("`{}` is not between 256B and 64MiB", self.max_packet)));
        }
        if self.rate == Some(0) {
            return Err(ParamsError::at("rate", "`0` lets nothing in; leave it out for no limit"));
        }
        let seconds = self.keep_alive.0.as_secs();
        if !(1..=65_535).contains(&seconds) {
            return Err(ParamsError::at("keep_alive", format!("`{}` is not between 1s and 65535s", self.keep_alive)));
        }
        Ok((listen, Access::new(&self.users)?))
    }

    /// The longest a session is kept, in seconds.
    pub fn expiry_limit(&self) -> u32 {
        u32::try_from(self.session_expiry.0.as_secs()).unwrap_or(u32::MAX).max(1)
    }
}
