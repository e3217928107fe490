//! Where operators reach the gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Where operators see and steer the gateway: health, status, metrics, dead letters.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSettings {
    /// `unix`: a socket beside the store, `STORE-admin`, that only the gateway's user can open. An address of this machine and a
    /// port, like `127.0.0.1:9797`, for example for Prometheus. `off`: nowhere.
    #[schemars(with = "String")]
    pub listen: Listen,
}

/// Where operators reach the gateway.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    #[default]
    Unix,
    Tcp(SocketAddr),
    Off,
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        match listen {
            Listen::Unix => "unix".into(),
            Listen::Off => "off".into(),
            Listen::Tcp(address) => address.to_string(),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "unix" => return Ok(Listen::Unix),
            "off" => return Ok(Listen::Off),
            _ => {}
        }
        let what = "expected `unix`, `off`, or an address of this machine and a port, like `127.0.0.1:9797`";
        let address: SocketAddr = text.parse().map_err(|_| format!("{what} instead of `{text}`"))?;
        if !address.ip().to_canonical().is_loopback() {
            return Err(format!("{what}: from elsewhere it is reached through SSH or a proxy with TLS"));
        }
        Ok(Listen::Tcp(address))
    }
}
