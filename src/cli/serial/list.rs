//! The serial ports of the machine, as the kernel describes them.

use crate::fault::printable;
use anyhow::Context;
use serde::Serialize;
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Bytes shown of what a device says about itself.
const SHOWN: usize = 100;

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Port {
    path: PathBuf,
    /// Names that stay: by what the device says it is, then by where it is plugged in.
    stable: Vec<PathBuf>,
    /// Empty where the kernel does not tell.
    driver: String,
    usb: Option<Usb>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Usb {
    /// Four hexadecimal digits each.
    vendor: String,
    product: String,
    /// What the device says about itself, where it does.
    manufacturer: String,
    name: String,
    serial: String,
}

/// Those that have hardware behind them. `sys` is the kernel's folder of ttys, `dev` that of device files.
pub(super) fn ports(sys: &Path, dev: &Path) -> anyhow::Result<Vec<Port>> {
    let mut ports = Vec::new();
    let stable: Vec<(PathBuf, PathBuf)> = (["serial/by-id", "serial/by-path"].iter())
        .flat_map(|folder| entries(&dev.join(folder)))
        .filter_map(|link| Some((fs::canonicalize(&link).ok()?, link)))
        .collect();
    fs::read_dir(sys).with_context(|| format!("cannot read `{}`", sys.display()))?;
    for tty in entries(sys) {
        let Ok(device) = fs::canonicalize(tty.join("device")) else { continue }; // a console, a terminal
        if line(&tty.join("type")) == "0" {
            continue; // a place for a UART where none was found
        }
        let path = dev.join(tty.file_name().unwrap_or_default());
        let stable = stable.iter().filter(|(of, _)| *of == path).map(|(_, link)| link.clone()).collect();
        ports.push(Port { path, stable, driver: driver(&device), usb: usb(&device) });
    }
    ports.sort_by_key(|port| (port.path.as_os_str().len(), port.path.clone()));
    Ok(ports)
}

/// What is in a folder, sorted; nothing if it is not there.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    entries
}

fn line(file: &Path) -> String {
    printable(fs::read(file).unwrap_or_default().trim_ascii(), SHOWN)
}

/// What a link points to, by its last name.
fn target(link: PathBuf) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// The driver of the device or of what it sits on. Newer kernels put ports of a bus of their own between.
fn driver(device: &Path) -> String {
    let real = |folder: &&Path| target(folder.join("subsystem")).is_none_or(|bus| bus != "serial-base");
    device.ancestors().filter(real).find_map(|folder| target(folder.join("driver"))).unwrap_or_default()
}

fn usb(device: &Path) -> Option<Usb> {
    let folder = device.ancestors().find(|folder| folder.join("idVendor").exists())?;
    let read = |name| line(&folder.join(name));
    Some(Usb {
        vendor: read("idVendor"),
        product: read("idProduct"),
        manufacturer: read("manufacturer"),
        name: read("product"),
        serial: read("serial"),
    })
}

pub(super) fn json(ports: &[Port]) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(ports)?))
}

pub(super) fn text(ports: &[Port]) -> String {
    let mut text = String::new();
    for Port { path, stable, driver, usb } in ports {
        write!(text, "{:<16}  {driver:<14}", path.display()).ok();
        if let Some(Usb { vendor, product, manufacturer, name, serial }) = usb {
            write!(text, "  {vendor}:{product} {manufacturer} {name} {serial}").ok();
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        for name in stable {
            writeln!(text, "    {}", name.display()).ok();
        }
    }
    if ports.is_empty() { "no serial ports\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Makes files, and links where the text begins with `->`.
    fn plant(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("->") {
                Some(target) => symlink(root.join(target), path).unwrap(),
                None => fs::write(path, text).unwrap(),
            }
        }
    }

    #[test]
    fn ports_are_found_with_their_drivers_and_names() {
        let folder = tempfile::tempdir().unwrap();
        let root = &fs::canonicalize(folder.path()).unwrap();
        plant(
            root,
            &[
                ("class/tty/console/active", "tty0"),
                ("class/tty/ttyS0/device", "->devices/serial8250"),
                ("class/tty/ttyS0/type", "0\n"),
                ("devices/serial8250/uevent", ""),
                ("class/tty/ttyAMA10/device", "->devices/soc/uart/ctrl/port"),
                ("class/tty/ttyAMA10/type", "32\n"),
                ("devices/soc/uart/driver", "->drivers/uart-pl011"),
                ("devices/soc/uart/ctrl/port/driver", "->drivers/port"),
                ("devices/soc/uart/ctrl/port/subsystem", "->bus/serial-base"),
                ("class/tty/ttyUSB0/device", "->devices/usb1/1-1/1-1:1.0/ttyUSB0"),
                ("devices/usb1/1-1/idVendor", "0403\n"),
                ("devices/usb1/1-1/idProduct", "6001\n"),
                ("devices/usb1/1-1/manufacturer", "FTDI\n"),
                ("devices/usb1/1-1/product", "FT232R\x1b[2J\n"),
                ("devices/usb1/1-1/1-1:1.0/ttyUSB0/driver", "->drivers/ftdi_sio"),
                ("devices/usb1/1-1/1-1:1.0/driver", "->drivers/usb"),
                ("dev/ttyUSB0", ""),
                ("dev/serial/by-id/usb-FTDI-if00", "->dev/ttyUSB0"),
                ("dev/serial/by-path/usb-0:1:1.0", "->dev/ttyUSB0"),
            ],
        );
        let ports = ports(&root.join("class/tty"), &root.join("dev")).unwrap();
        let text = text(&ports).replace(root.to_str().unwrap(), "");
        assert_eq!(
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>(),
            [
                "/dev/ttyUSB0 ftdi_sio 0403:6001 FTDI FT232R\\u{1b}[2J",
                "/dev/serial/by-id/usb-FTDI-if00",
                "/dev/serial/by-path/usb-0:1:1.0",
                "/dev/ttyAMA10 uart-pl011",
            ]
        );
        let value: serde_json::Value = serde_json::from_str(&json(&ports).unwrap()).unwrap();
        assert_eq!((&value[0]["usb"]["product"], &value[1]["usb"]), (&"6001".into(), &serde_json::Value::Null));
        assert_eq!(super::text(&[]), "no serial ports\n");
    }
}
