//! `tidegate modbus`: asks a unit by hand.

use crate::{
    budget::Span,
    systems::{
        modbus::{Ask, Bus, Connect, Error, Form, Order, Patience, Reading, Request, Rtu, Table, Type, bit},
        serial::Parity,
    },
};
use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use std::{fmt::Write, path::PathBuf};

#[derive(Subcommand)]
pub(super) enum Modbus {
    /// Read values of a unit, once. Addresses count from 0: register 40001 of a manual is `--holding 0`.
    ///
    /// A serial port that the gateway uses is locked: stop the gateway first.
    ///
    /// Example: tidegate modbus read --rtu /dev/ttyUSB0 --baud 9600 --unit 1 --holding 0 --count 10
    Read(Read),
}

#[derive(Args)]
pub(super) struct Read {
    /// Host and port of a device or gateway; without a port: 502.
    #[arg(long, required_unless_present = "rtu", conflicts_with = "rtu")]
    tcp: Option<String>,
    /// A serial port.
    #[arg(long)]
    rtu: Option<PathBuf>,
    /// Bits a second of the serial port.
    #[arg(long, default_value_t = 9600, conflicts_with = "tcp")]
    baud: u32,
    /// Parity of the serial port.
    #[arg(long, default_value = "none", value_parser = word::<Parity>, conflicts_with = "tcp")]
    parity: Parity,
    /// Stop bits of the serial port, 1 or 2.
    #[arg(long, default_value_t = 1, conflicts_with = "tcp")]
    stop_bits: u8,
    /// The unit's number.
    #[arg(long, default_value_t = 1)]
    unit: u8,
    /// Holding registers from this address.
    #[arg(long, group = "table", value_name = "ADDRESS", required_unless_present_any = ["input", "coil", "discrete"])]
    holding: Option<u16>,
    /// Input registers from this address.
    #[arg(long, group = "table", value_name = "ADDRESS")]
    input: Option<u16>,
    /// Coils from this address.
    #[arg(long, group = "table", value_name = "ADDRESS")]
    coil: Option<u16>,
    /// Discrete inputs from this address.
    #[arg(long, group = "table", value_name = "ADDRESS")]
    discrete: Option<u16>,
    /// How many values.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// Type of the values in registers: u16, i16, u32, i32, u64, i64, f32, f64, bool.
    #[arg(long = "as", default_value = "u16", value_parser = word::<Type>)]
    r#as: Type,
    /// Which register of a value comes first: the most significant, `big`, or `little`.
    #[arg(long, default_value = "big", value_parser = word::<Order>)]
    words: Order,
    /// How long to wait for an answer.
    #[arg(long, default_value = "1s", value_parser = str::parse::<Span>)]
    timeout: Span,
    /// Output: `text` for people, `json` for programs.
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

/// A word as the configuration reads it.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, value::Error> {
    T::deserialize(text.into_deserializer())
}

pub(super) fn run(Modbus::Read(read): Modbus) -> anyhow::Result<()> {
    super::block_on(async move { super::print(&read.values().await?) })
}

impl Read {
    fn bus(&self) -> anyhow::Result<Bus> {
        let (baud, parity, stop_bits) = (self.baud, self.parity, self.stop_bits);
        let rtu = |path| Rtu { baud, parity, stop_bits, ..Rtu::new(path) };
        let path = self.rtu.as_ref().map(std::path::absolute).transpose().context("--rtu")?;
        let connect = Connect { tcp: self.tcp.clone(), rtu: path.map(rtu) };
        let option = |field: &str| field.trim_start_matches("rtu.").replace('_', "-");
        Bus::new(&connect).map_err(|(field, why)| anyhow::anyhow!("--{}: {why}", option(field)))
    }

    async fn values(&self) -> anyhow::Result<String> {
        let bus = self.bus()?;
        bus.check_unit(self.unit).map_err(anyhow::Error::msg).context("--unit")?;
        let patience = Patience { timeout: self.timeout.0, retries: 1 };
        patience.check().map_err(|(field, why)| anyhow::anyhow!("--{field}: {why}"))?;
        let tables = [
            (Table::Holding, self.holding),
            (Table::Input, self.input),
            (Table::Coil, self.coil),
            (Table::Discrete, self.discrete),
        ];
        let asked = tables.into_iter().find_map(|(table, address)| Some((table, address?)));
        let (table, first) = asked.context("expected an address")?;
        ensure!(self.r#as != Type::Text, "--as: expected the type of a number");
        let form = Form { words: self.words, ..Form::plain(self.r#as) };
        let size = if table.bits() { 1 } else { form.registers() };
        let whole = u32::from(first) + u32::from(size) * u32::from(self.count);
        ensure!(whole <= 1 << 16, "--count: the values end behind the last address, 65535");
        // As few requests as there must be, each with whole values.
        let each = table.most() / size;
        let mut readings = Vec::new();
        for from in (0..self.count).step_by(each.into()) {
            let count = each.min(self.count - from);
            let ask = Ask::Read { table, address: first + from * size, count: count * size };
            let answer = bus.ask(&Request { unit: self.unit, ask }, patience).await;
            let data = answer.map_err(|error| match error {
                Error::Lost(why) => anyhow::Error::msg(why),
                error => anyhow::anyhow!("unit {}: {error}", self.unit),
            })?;
            let width = 2 * usize::from(size);
            readings.extend((0..usize::from(count)).map(|n| match table.bits() {
                true => Reading::Bool(bit(&data, n)),
                false => form.read(data.get(n * width..(n + 1) * width).unwrap_or_default()),
            }));
        }
        let rows =
            readings.iter().enumerate().map(|(n, reading)| (usize::from(first) + n * usize::from(size), reading));
        Ok(self.show(rows))
    }

    fn show<'a>(&self, rows: impl Iterator<Item = (usize, &'a Reading)>) -> String {
        let mut out = String::new();
        for (n, (address, reading)) in rows.enumerate() {
            let mut value = Vec::new();
            reading.write_json(&mut value);
            let value = String::from_utf8_lossy(&value);
            // Writing to a String cannot fail.
            let _ = match (self.format.as_str(), n) {
                ("json", 0) => write!(out, "[{{\"address\":{address},\"value\":{value}}}"),
                ("json", _) => write!(out, ",{{\"address\":{address},\"value\":{value}}}"),
                _ => writeln!(out, "{address:5}  {value}"),
            };
        }
        if self.format == "json" {
            out.push_str("]\n");
        }
        out
    }
}
