//! What a configuration touches outside, by the names of fields that all kinds share: `listen`, `url`, `tls`, `connect`.

use crate::{
    board::Line,
    config::{Listen, Settings},
    systems::tls::{ClientTls, ServerTls},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{net::SocketAddr, path::PathBuf};

/// Everything, each with the place of the component.
#[derive(Default)]
pub(super) struct Touches {
    pub listeners: Vec<(String, String)>,
    pub upstreams: Vec<(String, Upstream)>,
    pub servers: Vec<(String, ServerTls)>,
    pub devices: Vec<(String, PathBuf)>,
    pub lines: Vec<(String, Line)>,
    pub buses: Vec<(String, String)>,
}

#[derive(Clone)]
pub(super) struct Upstream {
    pub host: String,
    pub port: u16,
    /// How it speaks TLS, if it does.
    pub tls: Option<ClientTls>,
}

pub(super) fn of(values: &Value, settings: &Settings) -> Touches {
    let mut touches = Touches::default();
    if let Listen::Tcp(address) = settings.admin.listen {
        touches.listeners.push(("admin".into(), address.to_string()));
    }
    for section in ["sources", "sinks", "systems"] {
        for (name, part) in values[section].as_object().into_iter().flatten() {
            touches.component(&format!("{section}.{name}"), part);
        }
    }
    for (name, pipeline) in values["pipelines"].as_object().into_iter().flatten() {
        for (n, process) in pipeline["processes"].as_array().into_iter().flatten().enumerate() {
            if process["type"] == "tee" {
                touches.peer(&format!("pipelines.{name}.processes[{n}]"), &process["to"]["http"]);
            }
        }
    }
    touches
}

impl Touches {
    fn component(&mut self, place: &str, part: &Value) {
        let text = |name: &str| part[name].as_str();
        let kind = text("type").unwrap_or_default();
        let usual = match (place.split('.').next(), kind) {
            (Some("sources"), "http") => Some("127.0.0.1:8080"),
            (_, "mqtt_listen") => Some("127.0.0.1:1883"),
            _ => None,
        };
        if let Some(listen) = text("listen").or(usual) {
            self.listeners.push((place.into(), listen.into()));
            self.servers.extend(decoded(&part["tls"]).map(|tls| (place.to_owned(), tls)));
        } else {
            self.peer(place, part);
        }
        let ports = [(kind == "serial").then(|| text("path")).flatten(), part["connect"]["rtu"]["path"].as_str()];
        self.devices.extend(ports.into_iter().flatten().map(|path| (place.to_owned(), path.into())));
        if kind == "i2c" {
            self.buses.extend(text("bus").map(|bus| (place.to_owned(), bus.to_owned())));
        }
        if kind == "gpio" {
            let lines = text("line")
                .into_iter()
                .chain(part["lines"].as_object().into_iter().flatten().filter_map(|l| l.1.as_str()));
            self.lines.extend(lines.filter_map(|line| Some((place.to_owned(), line.parse().ok()?))));
        }
    }

    /// Who is connected to.
    fn peer(&mut self, place: &str, part: &Value) {
        let tcp = part["connect"]["tcp"].as_str().map(|address| format!("modbus://{address}"));
        let url = tcp.as_deref().or(part["url"].as_str()).or(part["endpoint"].as_str());
        if let Some((secure, host, port)) = url.and_then(address) {
            let ca = part["ca"].as_str().map(PathBuf::from);
            let tls = || decoded(&part["tls"]).unwrap_or(ClientTls { ca, ..ClientTls::default() });
            self.upstreams.push((place.into(), Upstream { host, port, tls: secure.then(tls) }));
        }
    }
}

fn decoded<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

/// Whether TLS is spoken, the host and the port of a URL.
fn address(url: &str) -> Option<(bool, String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let (secure, usual) = match scheme {
        "http" => (false, 80),
        "https" => (true, 443),
        "mqtt" | "tcp" => (false, 1883),
        "mqtts" | "ssl" => (true, 8883),
        "redis" => (false, 6379),
        "rediss" => (true, 6379),
        "modbus" => (false, 502),
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(usual), |port| port.parse().ok())?;
    (!host.is_empty()).then(|| (secure, host.to_owned(), port))
}

/// The address of a listener, if it is one and not a name.
pub(super) fn socket(listen: &str) -> Option<SocketAddr> {
    listen.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_url_says_who_is_connected_to() {
        for (url, want) in [
            ("https://example.org/ingest?x", Some((true, "example.org", 443))),
            ("http://user:p@ss@host:8080/x", Some((false, "host", 8080))),
            ("mqtts://[::1]:8884", Some((true, "::1", 8884))),
            ("mqtt://broker", Some((false, "broker", 1883))),
            ("redis://:secret@db:6380/1", Some((false, "db", 6380))),
            ("modbus://10.0.0.7", Some((false, "10.0.0.7", 502))),
            ("ftp://x", None),
            ("http://", None),
            ("http://x:port", None),
            ("no url", None),
        ] {
            let want = want.map(|(secure, host, port)| (secure, host.to_owned(), port));
            assert_eq!(address(url), want, "{url}");
        }
    }

    #[test]
    fn everything_outside_is_found() {
        let values = json!({
            "sources": { "web": { "type": "http" }, "dev": { "type": "mqtt_listen", "listen": "0.0.0.0:8883",
                    "tls": { "cert": "/c", "key": "/k" } },
                "line": { "type": "modbus", "connect": { "rtu": { "path": "/dev/ttyUSB0" } } },
                "door": { "type": "gpio", "line": "GPIO17" }, "air": { "type": "i2c", "bus": "1" },
                "port": { "type": "serial", "path": "/dev/ttyS0" }, "in": { "type": "file", "path": "/x" } },
            "pipelines": { "p": { "processes": [{ "type": "annotate", "set": { "url": "http://not" } },
                { "type": "tee", "to": { "http": { "url": "http://copy" } } }] } },
            "sinks": { "cloud": { "type": "http", "url": "https://up", "tls": { "ca": "/ca" } },
                "valve": { "type": "modbus", "connect": { "tcp": "plc:1502" } } },
            "systems": { "s3": { "type": "s3", "endpoint": "https://s3", "ca": "/ca" } },
        });
        let touches = of(&values, &Settings::default());
        let listeners: Vec<_> = touches.listeners.iter().map(|(place, at)| format!("{place} {at}")).collect();
        assert_eq!(listeners, ["sources.web 127.0.0.1:8080", "sources.dev 0.0.0.0:8883"]);
        let upstreams: Vec<_> = touches
            .upstreams
            .iter()
            .map(|(place, up)| format!("{place} {}:{} {}", up.host, up.port, up.tls.is_some()))
            .collect();
        assert_eq!(
            upstreams,
            [
                "sinks.cloud up:443 true",
                "sinks.valve plc:1502 false",
                "systems.s3 s3:443 true",
                "pipelines.p.processes[1] copy:80 false"
            ]
        );
        assert_eq!(
            (touches.servers.len(), touches.devices.len(), touches.lines.len(), touches.buses.len()),
            (1, 2, 1, 1)
        );
        assert!(touches.upstreams[..3].iter().filter_map(|u| u.1.tls.as_ref()).all(|tls| tls.ca.is_some()));
    }
}
