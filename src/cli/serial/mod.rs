//! `tidegate serial`: which ports there are, and what comes from one.

mod list;
mod watch;

use clap::Subcommand;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the serial ports, with the names that stay when devices are plugged in anew.
    ///
    /// Example: tidegate serial list
    List {
        /// Output: `text` for people, `json` for programs.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        format: String,
    },
    /// Print what comes from a port until Ctrl-C: time and body of each frame, and why other bytes are none.
    ///
    /// At the end it tells how many there were. Exit code 1 if the port cannot be opened or the device is gone.
    ///
    /// Example: tidegate serial watch /dev/ttyUSB0 --baud 4800 --framing nmea
    ///
    /// Example: tidegate serial watch /dev/ttyS0 --framing '{"fixed": {"length": 9, "start": "0x5959"}}'
    Watch {
        /// The port.
        path: PathBuf,
        /// Bits a second.
        #[arg(long)]
        baud: Option<u32>,
        /// Data bits, 5 to 8.
        #[arg(long)]
        data_bits: Option<u8>,
        /// Parity: `none`, `even` or `odd`.
        #[arg(long)]
        parity: Option<String>,
        /// Stop bits, 1 or 2.
        #[arg(long)]
        stop_bits: Option<u8>,
        /// Flow control: `none`, `rts_cts` or `xon_xoff`.
        #[arg(long)]
        flow: Option<String>,
        /// How frames are told apart: `lines`, `json`, `nmea`, `slip`, `cobs`, or an object as in a configuration.
        #[arg(long)]
        framing: Option<String>,
        /// The checksum at the end of each frame, such as `crc16-modbus`.
        #[arg(long)]
        check: Option<String>,
        /// What a frame is: `text`, `latin1`, `base64`, `hex`, `json`.
        #[arg(long)]
        encoding: Option<String>,
    },
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { format } => {
            let ports = list::ports(Path::new("/sys/class/tty"), Path::new("/dev"))?;
            super::print(&if format == "json" { list::json(&ports)? } else { list::text(&ports) })
        }
        Command::Watch { path, baud, data_bits, parity, stop_bits, flow, framing, check, encoding } => {
            let framing = match framing {
                Some(text) if text.trim_start().starts_with('{') => {
                    Some(serde_json::from_str(&text).map_err(|e| anyhow::anyhow!("--framing: {e}"))?)
                }
                text => text.map(Value::String),
            };
            let mut config = json!({
                "path": path, "baud": baud, "data_bits": data_bits, "parity": parity, "stop_bits": stop_bits, "flow": flow,
                "framing": framing, "check": check, "encoding": encoding,
            });
            if let Some(fields) = config.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
            let stop = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
            super::block_on(watch::watch(config, &mut std::io::stdout(), &mut std::io::stderr(), stop))
        }
    }
}
