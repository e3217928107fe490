//! Modbus, as the one that asks: over a serial line (RTU) or TCP.
//!
//! [`Bus`] is a line or a connection with all units on it. It takes one request at a time, also from several components:
//! on a serial line two requests at once would be none, and many devices with TCP serve one connection only. So the
//! components of a gateway share it, by its path or address, through [`Buses`].

mod codec;
mod rtu;
mod tcp;
mod value;

pub use codec::{Ask, Exception, MOST_WRITTEN, Request, Table, bit};
pub use value::{Form, Order, Reading, Type, Wanted, on};

use crate::{
    budget::Span,
    systems::serial::{Line, Parity, Rs485},
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The port of Modbus over TCP.
const PORT: u16 = 502;

/// Where the units are: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Connect {
    /// Host and port of a device or gateway, `10.0.0.7:502`; without a port: 502.
    pub tcp: Option<String>,
    /// A serial line.
    pub rtu: Option<Rtu>,
}

/// A serial line, such as RS-485.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rtu {
    /// The port: `/dev/serial/by-id/…` stays the same when the adapter is plugged in elsewhere.
    #[schemars(with = "String")]
    pub path: PathBuf,
    /// Bits a second.
    #[serde(default = "usual_baud")]
    pub baud: u32,
    /// The parity bit: `none`, `even` (what the specification wants) or `odd`.
    #[serde(default)]
    pub parity: Parity,
    /// 1 or 2.
    #[serde(default = "one")]
    pub stop_bits: u8,
    /// Has the port's driver switch the direction of RS-485; not needed for adapters that do so by themselves.
    #[serde(default)]
    pub rs485: Option<Rs485>,
    /// The least silence before a request, at most 1 s: for units that need time to turn round. Without: 3.5 characters, and
    /// at least 1.75 ms.
    #[serde(default)]
    pub gap: Option<Span>,
}

fn usual_baud() -> u32 {
    9600
}

fn one() -> u8 {
    1
}

impl Rtu {
    /// A port with nothing else said.
    pub fn new(path: PathBuf) -> Rtu {
        Rtu { path, baud: usual_baud(), parity: Parity::None, stop_bits: one(), rs485: None, gap: None }
    }

    fn line(&self) -> Line {
        let Rtu { path, baud, parity, stop_bits, rs485, .. } = self.clone();
        Line { path, baud, data_bits: 8, parity, stop_bits, flow: Default::default(), rs485 }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection, or no port: no unit can be reached.
    #[error("{0}")]
    Lost(String),
    /// Nothing came in time.
    #[error("no answer in time")]
    Silent,
    /// The unit answered that it will not.
    #[error("{0}")]
    Refused(Exception),
    /// Something came that does not answer the request.
    #[error("{0}")]
    Wrong(String),
}

impl Error {
    /// Whether it says that the unit cannot be reached, rather than what it thinks of the request.
    pub fn unreached(&self) -> bool {
        !matches!(self, Error::Refused(Exception(code)) if !matches!(code, 10 | 11))
    }
}

/// How long, and how often, an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one answer, besides the time that its bytes take on a serial line.
    pub timeout: Duration,
    /// Attempts after the first one.
    pub retries: u32,
}

impl Patience {
    /// For one answer, unless a configuration says otherwise.
    pub fn usual_timeout() -> Span {
        Span::millis(500)
    }

    pub fn usual_retries() -> u32 {
        1
    }

    /// What is wrong with it: the field, and why.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.timeout) {
            return Err(("timeout", "expected 10ms to 1m"));
        }
        if self.retries > 10 {
            return Err(("retries", "expected 0 to 10"));
        }
        Ok(())
    }
}

/// A line or connection with its units.
pub struct Bus {
    connect: Connect,
    wire: tokio::sync::Mutex<Wire>,
}

enum Wire {
    Tcp(tcp::Tcp),
    Rtu(rtu::Rtu),
}

impl Bus {
    /// Opens and connects nothing yet. The error is the field, and what is wrong with it.
    pub fn new(connect: &Connect) -> Result<Bus, (&'static str, String)> {
        let wire = match (&connect.tcp, &connect.rtu) {
            (Some(address), None) => Wire::Tcp(tcp::Tcp::new(whole_address(address).map_err(|e| ("tcp", e))?)),
            (None, Some(rtu)) => {
                rtu.line().check().map_err(|(field, why)| (rtu_field(field), why.to_owned()))?;
                if rtu.gap.is_some_and(|gap| gap.0 > Duration::from_secs(1)) {
                    return Err(("rtu.gap", "expected at most 1s".to_owned()));
                }
                Wire::Rtu(rtu::Rtu::new(rtu.line(), rtu.gap.map(|gap| gap.0)))
            }
            _ => return Err(("tcp", "expected either `tcp` or `rtu`".to_owned())),
        };
        Ok(Bus { connect: connect.clone(), wire: tokio::sync::Mutex::new(wire) })
    }

    /// Whether it has such a unit. On a serial line 0 is all of them at once, and none answers; over TCP 0 and 255 are often
    /// the device itself.
    pub fn check_unit(&self, unit: u8) -> Result<(), &'static str> {
        match self.connect.rtu {
            Some(_) if !(1..=247).contains(&unit) => Err("expected 1 to 247"),
            _ => Ok(()),
        }
    }

    /// Asks until there is an answer that is one. The bus is free for others between attempts.
    pub async fn ask(&self, request: &Request<'_>, patience: Patience) -> Result<Vec<u8>, Error> {
        let mut left = patience.retries;
        loop {
            let answer = match &mut *self.wire.lock().await {
                Wire::Tcp(tcp) => tcp.exchange(request, patience.timeout).await,
                Wire::Rtu(rtu) => rtu.exchange(request, patience.timeout).await,
            };
            match answer {
                Err(Error::Silent | Error::Wrong(_)) if left > 0 => left -= 1,
                answer => return answer,
            }
        }
    }
}

fn rtu_field(field: &str) -> &'static str {
    match field {
        "path" => "rtu.path",
        "baud" => "rtu.baud",
        "stop_bits" => "rtu.stop_bits",
        _ => "rtu",
    }
}

/// Adds the port where there is none.
fn whole_address(text: &str) -> Result<String, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = port.map_or(Ok(PORT), str::parse);
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    match port {
        Ok(port) if port > 0 && bare && !host.is_empty() && !host.contains(['/', ' ', '@']) => {
            Ok(format!("{host}:{port}"))
        }
        _ => Err(format!("`{text:.100}` is no host and port; write it like `10.0.0.7:502`")),
    }
}

/// The buses of a gateway.
#[derive(Clone, Default)]
pub struct Buses(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    buses: BTreeMap<String, Arc<Bus>>,
    /// Those of the configuration before: one that is as it was is the same line, which is not to be opened twice.
    before: BTreeMap<String, Arc<Bus>>,
}

impl Buses {
    /// The bus at a path or address: the same one for all who ask. The error is the field, and what is wrong with it.
    pub fn get(&self, connect: &Connect) -> Result<Arc<Bus>, (&'static str, String)> {
        let new = Bus::new(connect)?;
        let place = match &connect.rtu {
            Some(rtu) => rtu.path.display().to_string(),
            None => whole_address(connect.tcp.as_deref().unwrap_or_default()).unwrap_or_default(),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.before.get(&place).filter(|bus| bus.connect.rtu == connect.rtu).cloned();
        let bus = known.buses.entry(place.clone()).or_insert_with(|| before.unwrap_or_else(|| Arc::new(new)));
        if bus.connect.rtu != connect.rtu {
            return Err(("rtu", format!("another component uses `{place}` with other settings")));
        }
        Ok(bus.clone())
    }

    /// Those of the configuration that comes after: none yet, but these to choose from until it is settled.
    pub fn next(&self) -> Buses {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).buses.clone();
        Buses(Arc::new(Mutex::new(Known { before, ..Known::default() })))
    }

    /// All that there are have been asked for: the others may be closed.
    pub fn settle(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).before.clear();
    }
}

impl std::fmt::Debug for Buses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.lock().unwrap_or_else(PoisonError::into_inner).buses.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_their_port() {
        for (text, want) in [
            ("10.0.0.7", Some("10.0.0.7:502")),
            ("plc.lan:1502", Some("plc.lan:1502")),
            ("[fe80::1]:502", Some("[fe80::1]:502")),
            ("[fe80::1]", Some("[fe80::1]:502")),
            ("fe80::1", None),
            ("plc:0", None),
            ("plc:99999", None),
            ("plc:", None),
            ("", None),
            (":502", None),
            ("http://plc", None),
        ] {
            assert_eq!(whole_address(text).ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_place_has_one_bus() {
        let rtu = |path: &str, baud| Connect { rtu: Some(Rtu { baud, ..Rtu::new(path.into()) }), ..Connect::default() };
        let tcp = |address: &str| Connect { tcp: Some(address.into()), ..Connect::default() };
        let buses = Buses::default();
        let get = |connect: &Connect| buses.get(connect).map(|bus| Arc::as_ptr(&bus));
        let first = get(&rtu("/dev/ttyS9", 9600)).unwrap();
        assert_eq!(get(&rtu("/dev/ttyS9", 9600)).unwrap(), first);
        assert_ne!(get(&rtu("/dev/ttyS8", 9600)).unwrap(), first);
        assert_eq!(get(&tcp("plc")).unwrap(), get(&tcp("plc:502")).unwrap());
        for (connect, want) in [
            (rtu("/dev/ttyS9", 19_200), ("rtu", "another component uses `/dev/ttyS9` with other settings")),
            (rtu("ttyS9", 9600), ("rtu.path", "expected an absolute path")),
            (rtu("/dev/ttyS9", 0), ("rtu.baud", "expected 1 to 20000000")),
            (Connect::default(), ("tcp", "expected either `tcp` or `rtu`")),
            (Connect { tcp: Some("plc".into()), ..rtu("/dev/ttyS9", 9600) }, ("tcp", "expected either `tcp` or `rtu`")),
            (tcp("a b"), ("tcp", "`a b` is no host and port; write it like `10.0.0.7:502`")),
        ] {
            assert_eq!(get(&connect), Err((want.0, want.1.to_owned())));
        }
    }
}
