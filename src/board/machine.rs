//! What board this is, and what it lacks.

use super::{Board, Device, boards};
use rustix::fs::{Access, access};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What is known of the machine the gateway runs on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The root of its file system; a test's is elsewhere than `/`.
    root: PathBuf,
    /// What the device tree says it is; empty without one.
    pub model: String,
    /// The device tree's `compatible`, the most special first.
    pub compatible: Vec<String>,
    /// The board, if it is among those that are known.
    pub board: Option<Board>,
    /// Why it is taken for that board, or for none.
    pub why: String,
}

/// Whether a device can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// It is not there; `needs` says what would bring it.
    Absent {
        needs: String,
    },
    /// It is there, but not for us.
    Denied {
        needs: String,
    },
}

/// Finds out the board of the machine whose file system has this root, usually `/`.
pub fn recognise(root: &Path) -> Result<Machine, String> {
    let tree = root.join("proc/device-tree");
    let read = |name| fs::read(tree.join(name)).unwrap_or_default();
    let texts = |bytes: Vec<u8>| -> Vec<String> {
        let texts = bytes.split(|b| *b == 0).filter(|t| !t.is_empty());
        texts.map(|t| crate::fault::printable(t, 100)).collect()
    };
    let model = texts(read("model")).into_iter().next().unwrap_or_default();
    let compatible = texts(read("compatible"));
    let mut boards = boards()?;
    let by_tree =
        compatible.iter().find_map(|sign| Some((boards.iter().position(|b| b.compatible.contains(sign))?, sign)));
    let processor = std::env::consts::ARCH;
    let by_processor = || boards.iter().position(|b| b.architectures.iter().any(|a| a == processor));
    let (found, why) = match by_tree {
        Some((found, sign)) => (Some(found), format!("its device tree is compatible with `{sign}`")),
        None if compatible.is_empty() => {
            (by_processor(), format!("it has no device tree, and its processor is {processor}"))
        }
        None => {
            (None, format!("its device tree is compatible with no known board, but with `{}`", compatible.join("`, `")))
        }
    };
    let board = found.map(|n| boards.swap_remove(n));
    Ok(Machine { root: root.to_owned(), model, compatible, board, why })
}

impl Machine {
    /// Whether a bus or port can be used, and if not, what to do.
    pub fn state(&self, device: &Device) -> State {
        let path = self.at(&device.device);
        if !path.exists() {
            let settings = self.board.as_ref().map_or(&[][..], |board| &board.settings);
            let file = settings.iter().find(|file| self.at(file).exists()).or(settings.first());
            let needs = match (&device.needs, file) {
                (Some(line), Some(file)) => format!("add `{line}` to {file} and reboot"),
                _ => "it is not plugged in, or its driver is not loaded".to_owned(),
            };
            return State::Absent { needs };
        }
        // Below /sys everybody may read; what is read there has rights of its own.
        match device.device.starts_with("/dev/") {
            true => self.rights(&path),
            false => State::Ready,
        }
    }

    /// The GPIO chips, and whether they can be used.
    pub fn chips(&self) -> Vec<(String, State)> {
        let entries = fs::read_dir(self.at("/dev")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let number = |name: &str| name.strip_prefix("gpiochip")?.parse::<u32>().ok();
        let mut chips: Vec<_> = names.filter_map(|name| Some((number(&name)?, name))).collect();
        chips.sort();
        chips
            .into_iter()
            .map(|(_, name)| (format!("/dev/{name}"), self.rights(&self.at(&format!("/dev/{name}")))))
            .collect()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn rights(&self, path: &Path) -> State {
        if access(path, Access::READ_OK | Access::WRITE_OK).is_ok() {
            return State::Ready;
        }
        let gid = fs::metadata(path).map_or(0, |m| m.gid());
        let needs = match self.group(gid) {
            // What belongs to root belongs to nobody who should run a gateway: a udev rule gives it to a group.
            None if gid == 0 => "install the udev rules, `tidegate board --udev`".to_owned(),
            None => format!("join the group {gid}"),
            Some(group) => format!("join the group: `sudo usermod -aG {group} USER`, then log in again"),
        };
        State::Denied { needs }
    }

    fn group(&self, gid: u32) -> Option<String> {
        let groups = fs::read_to_string(self.at("/etc/group")).ok()?;
        let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
        lines.find(|line| gid != 0 && line.get(2) == Some(&gid.to_string().as_str())).map(|line| line[0].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn root(model: &str, compatible: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["proc/device-tree", "dev", "etc", "boot/firmware"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        if !compatible.is_empty() {
            fs::write(root.path().join("proc/device-tree/model"), model).unwrap();
            fs::write(root.path().join("proc/device-tree/compatible"), compatible).unwrap();
        }
        root
    }

    #[test]
    fn a_board_is_known_by_its_device_tree() {
        for (model, compatible, name, why) in [
            (
                "Raspberry Pi 4 Model B Rev 1.4\0",
                "raspberrypi,4-model-b\0brcm,bcm2711\0",
                "raspberry-pi-4",
                "its device tree is compatible with `raspberrypi,4-model-b`",
            ),
            ("Raspberry Pi 5", "raspberrypi,5-model-b\0brcm,bcm2712", "raspberry-pi-5", "its device tree is"),
            ("", "ti,am335x-bone-black\0ti,am335x-bone\0ti,am33xx\0", "beaglebone", "its device tree is"),
            (
                "",
                "linux,dummy-virt\0\x1b[2J",
                "",
                "its device tree is compatible with no known board, but with `linux,dummy-virt`, `\\u{1b}[2J`",
            ),
            ("", "\0\0", "generic-x86", "it has no device tree"),
            ("", "", "generic-x86", "it has no device tree, and its processor is "),
        ] {
            let root = root(model, compatible);
            let machine = recognise(root.path()).unwrap();
            let want = if name == "generic-x86" && std::env::consts::ARCH != "x86_64" { "" } else { name };
            assert_eq!(machine.board.map_or("", |b| b.name), want, "{compatible:?}");
            assert!(machine.why.starts_with(why), "{}", machine.why);
            assert_eq!(machine.model, model.trim_end_matches('\0'));
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        let root = root("Raspberry Pi 4", "raspberrypi,4-model-b\0");
        fs::write(root.path().join("boot/firmware/config.txt"), "").unwrap();
        let machine = recognise(root.path()).unwrap();
        let i2c = machine.board.as_ref().unwrap().buses[0].clone();
        let absent = State::Absent { needs: "add `dtparam=i2c_arm=on` to /boot/firmware/config.txt and reboot".into() };
        assert_eq!(machine.state(&i2c), absent);
        assert_eq!(machine.chips(), []);
        let file = root.path().join("dev/i2c-1");
        fs::write(&file, "").unwrap();
        assert_eq!(machine.state(&i2c), State::Ready);
        fs::write(root.path().join("dev/gpiochip10"), "").unwrap();
        fs::write(root.path().join("dev/gpiochip2"), "").unwrap();
        assert_eq!(
            machine.chips().iter().map(|c| c.0.as_str()).collect::<Vec<_>>(),
            ["/dev/gpiochip2", "/dev/gpiochip10"]
        );
        // Root may do everything, and who runs the tests may be root.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        let gid = fs::metadata(&file).unwrap().gid();
        fs::write(root.path().join("etc/group"), format!("root:x:0:\nplugdev:x:{gid}:\n")).unwrap();
        let denied = match gid {
            0 => "install the udev rules, `tidegate board --udev`",
            _ => "join the group: `sudo usermod -aG plugdev USER`, then log in again",
        };
        let want =
            if rustix::process::geteuid().is_root() { State::Ready } else { State::Denied { needs: denied.into() } };
        assert_eq!(machine.state(&i2c), want);
    }
}
