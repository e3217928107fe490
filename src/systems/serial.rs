//! A serial port: its settings, and how it is opened so that nobody else reads it meanwhile.

use crate::{budget::Span, fault::Fault};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::{self, Errno},
    termios::{
        ControlModes, InputModes, OptionalActions, SpecialCodeIndex, Termios, ioctl_tiocexcl, tcgetattr, tcsetattr,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serial2::{
    SerialPort,
    rs4xx::{Rs485Config, TransceiverMode},
};
use std::{os::fd::OwnedFd, path::PathBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// How parity bits are set and checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
        let told = |e: Errno| {
            let why = match e {
                Errno::NOENT | Errno::NODEV | Errno::NXIO => "it is not there; is the device plugged in?",
                Errno::ACCESS | Errno::PERM => "no permission; is the user in the group `dialout`?",
                Errno::BUSY | Errno::AGAIN => "another program, or another source, has it open",
                Errno::NOTTY => "it is no serial port",
                _ => return Fault::retry(format!("cannot open `{}`: {e}", self.path.display())),
            };
            Fault::retry(format!("cannot open `{}`: {why}", self.path.display()))
        };
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = open(&self.path, flags, Mode::empty()).map_err(told)?;
        // The lock stops who asks for it, this gateway included; the kernel stops everyone else but root.
        flock(&port, FlockOperation::NonBlockingLockExclusive).map_err(told)?;
        let wanted = self.settings(tcgetattr(&port).map_err(told)?).map_err(told)?;
        tcsetattr(&port, OptionalActions::Drain, &wanted).map_err(told)?;
        // A driver takes what it can and drops the rest without a word.
        if !same(&wanted, &tcgetattr(&port).map_err(told)?) {
            let why = "it does not take this speed, parity, flow control or number of bits";
            return Err(Fault::retry(format!("cannot open `{}`: {why}", self.path.display())));
        }
        ioctl_tiocexcl(&port).map_err(told)?;
        if let Some(rs485) = &self.rs485 {
            let set = |port| SerialPort::from(port).set_rs4xx_mode(rs485.mode());
            let refused = |e| Fault::retry(format!("`{}` cannot be set to RS-485: {e}", self.path.display()));
            port.try_clone().and_then(set).map_err(refused)?;
        }
        #[allow(deprecated, reason = "what replaces it is not safe; a port keeps its descriptor as long as it lives")]
        let port = AsyncFd::new(port);
        let cannot_wait = |e| Fault::retry(format!("cannot wait for `{}`: {e}", self.path.display()));
        Ok(Port { port: port.map_err(cannot_wait)?, path: self.path.clone() })
    }

    /// Bytes as they are, all at once when they are there. (The kernel's call for any speed is missing in emulators such
    /// as qemu-user; rustix then falls back to the one for the usual speeds.)
    fn settings(&self, mut port: Termios) -> io::Result<Termios> {
        port.make_raw();
        port.special_codes[SpecialCodeIndex::VMIN] = 1;
        port.special_codes[SpecialCodeIndex::VTIME] = 0;
        port.set_speed(self.baud)?;
        port.input_modes |= InputModes::IGNBRK | InputModes::IGNPAR;
        port.input_modes.set(InputModes::IXON | InputModes::IXOFF, self.flow == Flow::XonXoff);
        port.control_modes.remove(ControlModes::CSIZE);
        port.control_modes.insert(match self.data_bits {
            5 => ControlModes::CS5,
            6 => ControlModes::CS6,
            7 => ControlModes::CS7,
            _ => ControlModes::CS8,
        });
        port.control_modes.set(ControlModes::PARENB, self.parity != Parity::None);
        port.control_modes.set(ControlModes::PARODD, self.parity == Parity::Odd);
        port.control_modes.set(ControlModes::CSTOPB, self.stop_bits == 2);
        port.control_modes.set(ControlModes::CRTSCTS, self.flow == Flow::RtsCts);
        Ok(port)
    }
}

/// Whether a port has what was wanted. Its divisor may miss the speed by 2.5 %, which receivers bear.
fn same(wanted: &Termios, got: &Termios) -> bool {
    let bits = ControlModes::CSIZE
        | ControlModes::PARENB
        | ControlModes::PARODD
        | ControlModes::CSTOPB
        | ControlModes::CRTSCTS;
    let speed = wanted.output_speed();
    wanted.control_modes & bits == got.control_modes & bits
        && wanted.input_modes == got.input_modes
        && got.output_speed().abs_diff(speed) <= speed / 40
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

/// An open port. Dropped, it is closed, and the lock with it.
pub struct Port {
    port: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl Port {
    /// What has come, waiting for the first byte. A device that is gone, or hung up, is an error.
    pub async fn read(&self, into: &mut [u8]) -> Result<usize, Fault> {
        let path = self.path.display();
        match self.port.async_io(Interest::READABLE, |port| Ok(rustix::io::read(port, &mut *into)?)).await {
            Ok(0) => Err(Fault::retry(format!("`{path}` is gone"))),
            Ok(read) => Ok(read),
            Err(e) => match Errno::from_io_error(&e) {
                Some(Errno::IO | Errno::NODEV | Errno::NXIO) => Err(Fault::retry(format!("`{path}` is gone"))),
                _ => Err(Fault::retry(format!("cannot read `{path}`: {e}"))),
            },
        }
    }

    /// Writes all of it.
    pub async fn write(&self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let write = |port: &OwnedFd| Ok(rustix::io::write(port, bytes)?);
            let refused = |e| Fault::retry(format!("cannot write `{}`: {e}", self.path.display()));
            let written = self.port.async_io(Interest::WRITABLE, write).await.map_err(refused)?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}
