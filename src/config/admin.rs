//! Where operators reach the gateway.

use super::settings::Settings;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// Where operators see and steer the gateway: health, status, metrics, dead letters.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSettings {
    /// `unix`: a socket beside the store, `STORE-admin`, that only the gateway's user can open. An address of this machine and a
    /// port, like `127.0.0.1:9797`, for example for Prometheus. With `tls` any address, like `0.0.0.0:9797`. `off`: nowhere.
    #[schemars(with = "String")]
    pub listen: Listen,
    /// The certificate with which it listens on an address. `tidegate` itself trusts this one and no other there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<AdminTls>,
}

/// A certificate and its key. Renewed files are used from the next connection on.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct AdminTls {
    /// PEM file of the certificate, with its chain.
    pub cert: PathBuf,
    /// PEM file of its private key, not encrypted.
    pub key: PathBuf,
}

impl AdminSettings {
    /// Whether other machines reach it.
    pub fn is_far(&self) -> bool {
        matches!(self.listen, Listen::Tcp(address) if !address.ip().to_canonical().is_loopback())
    }
}

/// Places and what is wrong there.
pub(super) fn wrong(settings: &Settings) -> Vec<(String, String)> {
    let admin = &settings.admin;
    match admin.listen {
        Listen::Tcp(_) if admin.is_far() && admin.tls.is_none() => {
            let why = "other machines reach this address: set `admin.tls` too, or listen on `unix` or `127.0.0.1` and come through SSH";
            vec![("admin.listen".into(), why.into())]
        }
        Listen::Unix | Listen::Off if admin.tls.is_some() => {
            vec![("admin.tls".into(), "it is for a `listen` that is an address and a port".into())]
        }
        _ => Vec::new(),
    }
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
        let what = "expected `unix`, `off`, or an address and a port, like `127.0.0.1:9797`";
        text.parse().map(Listen::Tcp).map_err(|_| format!("{what} instead of `{text}`"))
    }
}
