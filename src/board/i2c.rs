//! The kernel's I2C character devices (`/dev/i2c-1`), by linux-embedded-hal.

use super::{Device, Machine, State, recognise};
use embedded_hal::i2c::{self, ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};
use linux_embedded_hal::{I2cdev, i2cdev::core::I2CDevice, i2cdev::linux::LinuxI2CError};
use rustix::io::Errno;
use serde::Serialize;
use std::{fs, path::Path};

pub use linux_embedded_hal::Delay;

/// A bus that is open, or one that a test plays.
pub type I2cBus = Box<dyn I2c<Error = I2cError> + Send>;

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct I2cError {
    kind: ErrorKind,
    why: String,
    /// The bus itself is gone, not only who was spoken to.
    pub gone: bool,
    /// A driver of the kernel has the address.
    pub taken: bool,
}

impl i2c::Error for I2cError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<ErrorKind> for I2cError {
    fn from(kind: ErrorKind) -> Self {
        let why = match kind {
            ErrorKind::NoAcknowledge(_) => "nobody answers at its address".to_owned(),
            ErrorKind::Bus => "the bus does not work: is a line stuck, or a pull-up missing?".to_owned(),
            ErrorKind::ArbitrationLoss => "another master took the bus".to_owned(),
            other => other.to_string(),
        };
        I2cError { kind, why, gone: false, taken: false }
    }
}

impl From<Errno> for I2cError {
    /// By the kernel's table of faults, Documentation/i2c/fault-codes.rst; `EREMOTEIO` is what many adapters say for it too.
    fn from(errno: Errno) -> Self {
        let other = |kind, why: &str| I2cError { kind, why: why.to_owned(), gone: false, taken: false };
        match errno {
            Errno::NXIO | Errno::REMOTEIO => ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown).into(),
            Errno::AGAIN => ErrorKind::ArbitrationLoss.into(),
            Errno::TIMEDOUT | Errno::IO => ErrorKind::Bus.into(),
            Errno::BUSY => {
                let why =
                    "a driver of the kernel has this address; its values may be below /sys/bus/iio or /sys/class/hwmon";
                I2cError { taken: true, ..other(ErrorKind::Other, why) }
            }
            Errno::NODEV => I2cError { gone: true, ..other(ErrorKind::Bus, "the bus is gone") },
            errno => other(ErrorKind::Other, &std::io::Error::from(errno).to_string()),
        }
    }
}

fn errno(error: &LinuxI2CError) -> Errno {
    let raw = match error {
        LinuxI2CError::Errno(raw) => *raw,
        LinuxI2CError::Io(error) => error.raw_os_error().unwrap_or_default(),
    };
    Errno::from_raw_os_error(raw)
}

struct Linux {
    inner: I2cdev,
    path: String,
}

impl ErrorType for Linux {
    type Error = I2cError;
}

impl I2c for Linux {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), I2cError> {
        let result = I2c::<u8>::transaction(&mut self.inner, address, operations);
        result.map_err(|error| match errno(error.inner()) {
            // An adapter that was unplugged: the descriptor is dead, and its file is not there any more.
            _ if !Path::new(&self.path).exists() => Errno::NODEV.into(),
            errno => errno.into(),
        })
    }
}

/// The file of a bus that is named by its path (`/dev/i2c-1`), its number (`1`), or as the board's data names it (`i2c-1`).
pub fn i2c_path(bus: &str) -> String {
    let number = bus.strip_prefix("i2c-").unwrap_or(bus);
    match number.parse::<u8>() {
        _ if bus.starts_with('/') => bus.to_owned(),
        Ok(number) => format!("/dev/i2c-{number}"),
        Err(_) => {
            let board = recognise(Path::new("/")).ok().and_then(|machine| machine.board);
            let named = board.iter().flat_map(|board| &board.buses).find(|device| device.name == bus);
            named.map_or_else(|| format!("/dev/{bus}"), |device| device.device.clone())
        }
    }
}

/// Opens a bus.
pub fn open_i2c(path: &str) -> Result<I2cBus, String> {
    Ok(Box::new(Linux { inner: device(path)?, path: path.to_owned() }))
}

fn device(path: &str) -> Result<I2cdev, String> {
    I2cdev::new(path).map_err(|error| {
        let told = recognise(Path::new("/")).ok().and_then(|machine| needs(&machine, path));
        told.map_or_else(
            || format!("cannot open `{path}`: {}", std::io::Error::from(errno(&error))),
            |needs| format!("cannot open `{path}`: {needs}"),
        )
    })
}

/// What has to be done before the bus can be opened.
fn needs(machine: &Machine, path: &str) -> Option<String> {
    let known = machine.board.iter().flat_map(|board| &board.buses).find(|bus| bus.device == path).cloned();
    let is_known = known.is_some();
    let device = known.unwrap_or_else(|| Device {
        name: String::new(),
        device: path.to_owned(),
        pins: Vec::new(),
        needs: None,
        about: String::new(),
    });
    match machine.state(&device) {
        State::Ready => None,
        State::Absent { needs } if is_known => Some(format!("there is none; {needs}, then `modprobe i2c-dev`")),
        State::Absent { .. } => Some(
            "there is none; on a Raspberry Pi, add `dtparam=i2c_arm=on` to config.txt and reboot; elsewhere, `modprobe i2c-dev`; \
             `tidegate i2c scan` lists those that there are"
                .to_owned(),
        ),
        State::Denied { needs } => Some(format!("no right; {needs}")),
    }
}

/// A bus of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct I2cAdapter {
    pub path: String,
    /// What the kernel calls it: `bcm2835 (i2c@7e804000)`.
    pub name: String,
}

/// The buses of the machine whose file system has this root, usually `/`, by their numbers.
pub fn i2c_adapters(root: &Path) -> Vec<I2cAdapter> {
    let entries = fs::read_dir(root.join("dev")).into_iter().flatten().flatten();
    let number = |name: String| name.strip_prefix("i2c-")?.parse::<u32>().ok();
    let mut numbers: Vec<u32> = entries.filter_map(|entry| number(entry.file_name().into_string().ok()?)).collect();
    numbers.sort_unstable();
    let adapter = |number| {
        let name = fs::read(root.join(format!("sys/class/i2c-dev/i2c-{number}/name"))).unwrap_or_default();
        I2cAdapter { path: format!("/dev/i2c-{number}"), name: crate::fault::printable(name.trim_ascii(), 100) }
    };
    numbers.into_iter().map(adapter).collect()
}

/// Asks addresses of a bus whether somebody is there. Nothing is written but the address itself.
pub struct I2cScan(I2cdev);

/// How an address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// A write of no bytes: the address alone. Some EEPROMs take it for the beginning of a write.
    Quick,
    /// A read of one byte. Some devices that can only be written take it badly.
    Read,
}

impl I2cScan {
    pub fn open(path: &str) -> Result<Self, String> {
        Ok(I2cScan(device(path)?))
    }

    /// Whether somebody answers. The error: why it cannot be asked.
    pub fn ask(&mut self, address: u8, how: Asked) -> Result<bool, I2cError> {
        self.0.set_slave_address(u16::from(address)).map_err(|error| I2cError::from(errno(&error)))?;
        let read = |bus: &mut I2cdev| bus.smbus_read_byte().map(drop);
        let asked = match how {
            Asked::Read => read(&mut self.0),
            Asked::Quick => self.0.smbus_write_quick(false).or_else(|error| match errno(&error) {
                Errno::OPNOTSUPP | Errno::INVAL => read(&mut self.0), // an adapter that cannot write nothing
                _ => Err(error),
            }),
        };
        match asked.map_err(|error| I2cError::from(errno(&error))) {
            Ok(()) => Ok(true),
            Err(I2cError { kind: ErrorKind::NoAcknowledge(_), .. }) => Ok(false),
            // Many adapters do not tell a missing answer from other errors.
            Err(I2cError { kind: ErrorKind::Bus, gone: false, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_has_several_names() {
        for (name, path) in [
            ("1", "/dev/i2c-1"),
            ("i2c-11", "/dev/i2c-11"),
            ("/dev/i2c-1", "/dev/i2c-1"),
            ("/dev/tidegate/sensors", "/dev/tidegate/sensors"),
            ("sensors", "/dev/sensors"),
        ] {
            assert_eq!(i2c_path(name), path);
        }
    }

    #[test]
    fn what_a_bus_lacks_is_told() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/device-tree")).unwrap();
        fs::create_dir_all(root.path().join("dev")).unwrap();
        fs::write(root.path().join("proc/device-tree/compatible"), "raspberrypi,4-model-b\0").unwrap();
        let machine = recognise(root.path()).unwrap();
        let told = needs(&machine, "/dev/i2c-1").unwrap();
        assert!(told.starts_with("there is none; add `dtparam=i2c_arm=on` to /boot/"), "{told}");
        let told = needs(&machine, "/dev/i2c-7").unwrap();
        assert!(told.contains("dtparam=i2c_arm=on") && told.contains("tidegate i2c scan"), "{told}");
        for file in ["dev/i2c-10", "dev/i2c-1", "dev/i2c-x"] {
            fs::write(root.path().join(file), "").unwrap();
        }
        assert_eq!(needs(&machine, "/dev/i2c-1"), None);
        let name = root.path().join("sys/class/i2c-dev/i2c-1");
        fs::create_dir_all(&name).unwrap();
        fs::write(name.join("name"), "bcm2835 (i2c@7e804000)\n").unwrap();
        let adapter = |path: &str, name: &str| I2cAdapter { path: path.into(), name: name.into() };
        let want = [adapter("/dev/i2c-1", "bcm2835 (i2c@7e804000)"), adapter("/dev/i2c-10", "")];
        assert_eq!(i2c_adapters(root.path()), want);
        assert!(open_i2c("/dev/i2c-250").err().unwrap().starts_with("cannot open `/dev/i2c-250`: there is none"));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (errno, want, gone) in [
            (Errno::NXIO, "nobody answers at its address", false),
            (Errno::REMOTEIO, "nobody answers at its address", false),
            (Errno::TIMEDOUT, "the bus does not work", false),
            (Errno::BUSY, "a driver of the kernel has this address", false),
            (Errno::NODEV, "the bus is gone", true),
            (Errno::ACCESS, "Permission denied", false),
        ] {
            let error = I2cError::from(errno);
            assert!(error.to_string().starts_with(want), "{error}");
            assert_eq!(error.gone, gone);
        }
    }
}
