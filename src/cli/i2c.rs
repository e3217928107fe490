//! `tidegate i2c`: who is on a bus.

use super::{Format, columns, print};
use crate::{
    board::{Asked, I2cAdapter, I2cError, I2cScan, i2c_adapters, i2c_path},
    sources::i2c::usual,
};
use anyhow::{Context, ensure};
use clap::Subcommand;
use serde_json::json;
use std::{fmt::Write, path::Path};

/// What to do with I2C buses.
#[derive(Subcommand)]
pub enum I2c {
    /// List the buses, or ask every address of one who is there.
    ///
    /// Addresses 0x08 to 0x77 are asked as i2cdetect does: 0x30 to 0x37 and 0x50 to 0x5f, where EEPROMs are, by reading one byte, the
    /// others by a write of no bytes. No data is ever written; a few chips take even that badly. Names are guesses by the address.
    ///
    /// Example: tidegate i2c scan 1
    Scan {
        /// `/dev/i2c-1`, `1` or `i2c-1`.
        bus: Option<String>,
        /// Output: `text` for people, `json` for programs.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        format: String,
    },
}

/// UM10204, section 3.1.12: the others are reserved.
const ADDRESSES: std::ops::RangeInclusive<u8> = 0x08..=0x77;

/// What an address has.
#[derive(Debug, PartialEq)]
enum Found {
    Nobody,
    Device,
    /// A driver of the kernel uses it.
    Kernel,
}

pub fn run(what: I2c) -> anyhow::Result<()> {
    let I2c::Scan { bus, format } = what;
    let format = Format::of(&format);
    let Some(bus) = bus else {
        let adapters = i2c_adapters(Path::new("/"));
        ensure!(
            format == Format::Json || !adapters.is_empty(),
            "this machine has no I2C bus (no /dev/i2c-*); on a Raspberry Pi, add `dtparam=i2c_arm=on` to config.txt and reboot; \
             elsewhere, `modprobe i2c-dev`; see `tidegate board`"
        );
        return print(&list(&adapters, format));
    };
    let path = i2c_path(&bus);
    let mut scan = I2cScan::open(&path).map_err(anyhow::Error::msg)?;
    let found = ask(&mut |address, how| scan.ask(address, how)).with_context(|| format!("`{path}`"))?;
    print(&show(&path, &found, format))
}

/// Reading is what EEPROMs bear, and writing nothing what others do.
fn how(address: u8) -> Asked {
    match address {
        0x30..=0x37 | 0x50..=0x5f => Asked::Read,
        _ => Asked::Quick,
    }
}

fn ask(bus: &mut dyn FnMut(u8, Asked) -> Result<bool, I2cError>) -> anyhow::Result<Vec<(u8, Found)>> {
    let mut found = Vec::new();
    for address in ADDRESSES {
        let there = match bus(address, how(address)) {
            Ok(true) => Found::Device,
            Ok(false) => Found::Nobody,
            Err(error) if error.taken => Found::Kernel,
            Err(error) => return Err(error.into()),
        };
        found.push((address, there));
    }
    Ok(found)
}

fn list(adapters: &[I2cAdapter], format: Format) -> String {
    let row = |adapter: &I2cAdapter| vec![adapter.path.clone(), adapter.name.clone()];
    match format {
        Format::Json => format!("{:#}\n", json!(adapters)),
        Format::Text => columns(&adapters.iter().map(row).collect::<Vec<_>>()),
    }
}

fn show(path: &str, found: &[(u8, Found)], format: Format) -> String {
    let there: Vec<_> = found.iter().filter(|(_, found)| *found != Found::Nobody).collect();
    if format == Format::Json {
        let row = |(address, found): &&(u8, Found)| {
            json!({ "address": address, "hex": format!("{address:#04x}"), "kernel": *found == Found::Kernel,
                "asked": how(*address), "perhaps": usual(*address) })
        };
        return format!("{:#}\n", json!({ "bus": path, "devices": there.iter().map(row).collect::<Vec<_>>() }));
    }
    let mut out = String::from("     0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f\n");
    for row in 0..8u8 {
        let _ = write!(out, "{:02x}:", row << 4);
        for address in row << 4..=(row << 4 | 15) {
            let cell = match found.iter().find(|(at, _)| *at == address) {
                None => "  ".to_owned(),
                Some((_, Found::Nobody)) => "--".to_owned(),
                Some((_, Found::Device)) => format!("{address:02x}"),
                Some((_, Found::Kernel)) => "UU".to_owned(),
            };
            let _ = write!(out, " {cell}");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    let row = |(address, found): &&(u8, Found)| {
        let guess = match usual(*address) {
            name if name.is_empty() => name,
            name => format!("{name}?"),
        };
        let kernel = if *found == Found::Kernel { "a driver of the kernel uses it" } else { "" };
        vec![format!("{address:#04x}"), guess, kernel.to_owned()]
    };
    match there.is_empty() {
        true => out.push_str("nobody answers: check the wires, the supply, and the pull-ups\n"),
        false => out.push_str(&columns(&there.iter().map(row).collect::<Vec<_>>())),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_bus_is_shown_with_guesses() {
        let mut asked = Vec::new();
        let found = ask(&mut |address, how| {
            asked.push((address, how));
            match address {
                0x68 => Err(Errno::BUSY.into()),
                _ => Ok([0x10, 0x50, 0x76].contains(&address)),
            }
        })
        .unwrap();
        assert_eq!((asked.len(), asked[0], asked[0x50 - 8]), (112, (8, Asked::Quick), (0x50, Asked::Read)));
        let told = show("/dev/i2c-1", &found, Format::Text);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[1], "00:                         -- -- -- -- -- -- -- --");
        assert_eq!(lines[2], "10: 10 -- -- -- -- -- -- -- -- -- -- -- -- -- -- --");
        assert_eq!(lines[7], "60: -- -- -- -- -- -- -- -- UU -- -- -- -- -- -- --");
        assert_eq!(lines[8], "70: -- -- -- -- -- -- 76 --");
        assert_eq!(lines[9], "  0x10");
        assert_eq!(lines[10], "  0x50  EEPROM 24Cxx?");
        assert_eq!(lines[11], "  0x68  DS3231, DS1307 or MPU-6050?  a driver of the kernel uses it");
        assert_eq!(lines[12], "  0x76  BME280, BMP280?");
        let told: serde_json::Value = serde_json::from_str(&show("/dev/i2c-1", &found, Format::Json)).unwrap();
        assert_eq!(
            told["devices"][1],
            json!({ "address": 80, "hex": "0x50", "kernel": false, "asked": "read", "perhaps": "EEPROM 24Cxx" })
        );
        assert_eq!(told["devices"][2]["kernel"], true);
        let empty = ask(&mut |_, _| Ok(false)).unwrap();
        assert!(show("x", &empty, Format::Text).ends_with("pull-ups\n"));
        assert!(ask(&mut |_, _| Err(Errno::NODEV.into())).unwrap_err().to_string().contains("the bus is gone"));
    }

    #[test]
    fn buses_are_listed() {
        let adapter = I2cAdapter { path: "/dev/i2c-1".into(), name: "bcm2835".into() };
        assert_eq!(list(std::slice::from_ref(&adapter), Format::Text), "  /dev/i2c-1  bcm2835\n");
        assert!(list(&[adapter], Format::Json).contains("\"path\": \"/dev/i2c-1\""));
        let told = run(I2c::Scan { bus: Some("252".into()), format: "text".into() }).unwrap_err().to_string();
        assert!(told.starts_with("cannot open `/dev/i2c-252`: there is none;"), "{told}");
    }
}
