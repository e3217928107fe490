//! `tidegate init`: a configuration to begin with, for a use. The comments in it teach.

use super::print;
use anyhow::Context;
use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::Path,
};

/// A use: its name, what it is, and its configuration.
type Use = (&'static str, &'static str, &'static str);
pub(super) const USES: &[Use] = &[
    (
        "gpio-to-mqtt",
        "a contact on a GPIO line to an MQTT broker",
        include_str!("../../configs/init/gpio-to-mqtt.jsonc"),
    ),
    ("serial-to-http", "lines from a serial port to a URL", include_str!("../../configs/init/serial-to-http.jsonc")),
    ("modbus-to-mqtt", "a meter on Modbus to an MQTT broker", include_str!("../../configs/init/modbus-to-mqtt.jsonc")),
    (
        "broker-bridge",
        "devices connect by MQTT; a broker elsewhere gets it",
        include_str!("../../configs/init/broker-bridge.jsonc"),
    ),
    ("mqtt-to-http", "a broker in the house to a URL", include_str!("../../configs/init/mqtt-to-http.jsonc")),
    ("http-to-http", "what is posted here to a URL elsewhere", include_str!("../../configs/init/http-to-http.jsonc")),
];

/// Writes the configuration of a use to a file, or prints it; without a use, lists them.
pub(super) fn init(name: Option<&str>, output: Option<&Path>, force: bool) -> anyhow::Result<()> {
    let Some(name) = name else {
        let rows: Vec<Vec<String>> =
            USES.iter().map(|(name, about, _)| vec![(*name).into(), (*about).into()]).collect();
        return print(&super::columns(&rows));
    };
    let known = USES.iter().find(|known| known.0 == name);
    let (_, _, text) = known.with_context(|| format!("there is no `{name}`; `tidegate init` lists what there is"))?;
    let Some(path) = output else { return print(text) };
    let opened = match force {
        true => File::create(path),
        false => File::create_new(path),
    };
    let mut file = opened.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::anyhow!("`{}` is there already; `--force` overwrites it", path.display()),
        _ => anyhow::anyhow!("`{}`: {error}", path.display()),
    })?;
    file.write_all(text.as_bytes()).with_context(|| format!("`{}`", path.display()))?;
    print(&format!("{path} is written; next: tidegate check {path}\n", path = path.display()))
}
