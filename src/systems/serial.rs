//! A serial port: its settings, and how it is opened so that nobody else reads it meanwhile.

use crate::{budget::Span, fault::Fault};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
    termios::ioctl_tiocexcl,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serial2_tokio::{
    CharSize, FlowControl, SerialPort, Settings, StopBits,
    rs4xx::{Rs485Config, TransceiverMode},
};
use std::{io, os::fd::OwnedFd, path::PathBuf};

/// How parity bits are set and checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Parity {
    /// There is no parity bit.
    #[default]
    None,
    /// The number of ones is even.
    Even,
    /// The number of ones is odd.
    Odd,
}

/// How the receiver stops the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// It cannot.
    #[default]
    None,
    /// By wires of their own.
    RtsCts,
    /// By the bytes XOFF and XON, which then cannot be data.
    XonXoff,
}

/// RS-485, for ports whose driver switches the direction itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rs485 {
    /// Sending and receiving have a pair of wires each.
    full_duplex: bool,
    /// The bus is terminated here, by a resistor that the port can switch.
    terminate: bool,
    /// RTS is low while sending.
    invert_rts: bool,
    /// From RTS to the first byte sent.
    delay_before: Option<Span>,
    /// From the last byte sent to RTS.
    delay_after: Option<Span>,
}

/// A port and all that is set on it.
#[derive(Clone, Debug)]
pub struct Line {
    pub path: PathBuf,
    /// Bits a second, any number; ports come as close as they can, at most 2.5 % off.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    pub flow: Flow,
    pub rs485: Option<Rs485>,
}

impl Line {
    /// What no port can be set to: the field, and why.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match self {
            Line { path, .. } if !path.is_absolute() => Err(("path", "expected an absolute path")),
            Line { baud: 0 | 20_000_001.., .. } => Err(("baud", "expected 1 to 20000000")),
            Line { data_bits: 0..5 | 9.., .. } => Err(("data_bits", "expected 5 to 8")),
            Line { stop_bits: 0 | 3.., .. } => Err(("stop_bits", "expected 1 or 2")),
            _ => Ok(()),
        }
    }

    /// Opens the port for nobody else and sets it.
    pub fn open(&self) -> Result<Port, Fault> {
        let told = |e: io::Error| {
            let why = match e.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => "it is not there; is the device plugged in?",
                Some(Errno::ACCESS | Errno::PERM) => "no permission; is the user in the group `dialout`?",
                Some(Errno::BUSY | Errno::AGAIN) => "another program, or another source, has it open",
                Some(Errno::NOTTY) => "it is no serial port",
                _ => return Fault::retry(format!("cannot open `{}`: {e}", self.path.display())),
            };
            Fault::retry(format!("cannot open `{}`: {why}", self.path.display()))
        };
        // The lock stops who asks for it, this gateway included; the kernel stops everyone else but root.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let held = open(&self.path, flags, Mode::empty()).map_err(|e| told(e.into()))?;
        flock(&held, FlockOperation::NonBlockingLockExclusive).map_err(|e| told(e.into()))?;
        let port = SerialPort::open(&self.path, |settings| self.set(settings)).map_err(told)?;
        ioctl_tiocexcl(&held).map_err(|e| told(e.into()))?;
        if let Some(rs485) = &self.rs485 {
            let refused = |e| Fault::retry(format!("`{}` cannot be set to RS-485: {e}", self.path.display()));
            port.set_rs4xx_mode(rs485.mode()).map_err(refused)?;
        }
        Ok(Port { port, path: self.path.clone(), _held: held })
    }

    fn set(&self, mut settings: Settings) -> io::Result<Settings> {
        settings.set_raw();
        settings.set_baud_rate(self.baud)?;
        settings.set_char_size(match self.data_bits {
            5 => CharSize::Bits5,
            6 => CharSize::Bits6,
            7 => CharSize::Bits7,
            _ => CharSize::Bits8,
        });
        settings.set_parity(match self.parity {
            Parity::None => serial2_tokio::Parity::None,
            Parity::Even => serial2_tokio::Parity::Even,
            Parity::Odd => serial2_tokio::Parity::Odd,
        });
        settings.set_stop_bits(if self.stop_bits == 2 { StopBits::Two } else { StopBits::One });
        settings.set_flow_control(match self.flow {
            Flow::None => FlowControl::None,
            Flow::RtsCts => FlowControl::RtsCts,
            Flow::XonXoff => FlowControl::XonXoff,
        });
        Ok(settings)
    }
}

impl Rs485 {
    fn mode(&self) -> TransceiverMode {
        let mut mode = Rs485Config::new();
        mode.set_full_duplex(self.full_duplex);
        mode.set_bus_termination(self.terminate);
        mode.set_invert_rts(self.invert_rts);
        mode.set_delay_before_send(self.delay_before.map_or_else(Default::default, |span| span.0));
        mode.set_delay_after_send(self.delay_after.map_or_else(Default::default, |span| span.0));
        mode.into()
    }
}

/// An open port. Dropped, it is closed.
pub struct Port {
    port: SerialPort,
    path: PathBuf,
    /// Keeps the lock.
    _held: OwnedFd,
}

impl Port {
    /// What has come, waiting for the first byte. A device that is gone, or hung up, is an error.
    pub async fn read(&self, into: &mut [u8]) -> Result<usize, Fault> {
        let path = self.path.display();
        match self.port.read(into).await {
            Ok(0) => Err(Fault::retry(format!("`{path}` is gone"))),
            Ok(read) => Ok(read),
            Err(e) => match e.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::IO | Errno::NODEV | Errno::NXIO) => Err(Fault::retry(format!("`{path}` is gone"))),
                _ => Err(Fault::retry(format!("cannot read `{path}`: {e}"))),
            },
        }
    }

    /// Writes all of it.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        let refused = |e| Fault::retry(format!("cannot write `{}`: {e}", self.path.display()));
        self.port.write_all(bytes).await.map_err(refused)
    }
}
