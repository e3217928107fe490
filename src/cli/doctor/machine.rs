//! The machine: its clock, its memory, and the devices that a configuration names.

use super::{Finding, size, touches::Touches};
use crate::{
    board::{chips, find, i2c_path, recognise},
    cli::{Format, board},
    clock::{self, Quality},
    runtime::{Plan, Sum},
};
use rustix::fs::{Access, FileType, access, stat};
use std::{fs, path::Path};

/// What the program takes beside what is budgeted.
const PROGRAM: u64 = 12 << 20;
/// 2020: no clock that was ever set says less.
const LEAST_YEAR_MS: i64 = 1_577_836_800_000;

pub(super) fn clock() -> Finding {
    let now = clock::stamp();
    let by = [
        ("/run/systemd/timesync", "systemd-timesyncd"),
        ("/run/chrony", "chrony"),
        ("/var/lib/ntp", "ntpd"),
        ("/var/lib/ntpsec", "ntpd"),
    ];
    let by = by.iter().find(|(place, _)| Path::new(place).exists()).map(|known| known.1);
    judged(now.wall_ms, now.quality == Quality::Synced, by)
}

fn judged(wall_ms: i64, synced: bool, by: Option<&str>) -> Finding {
    let time = clock::rfc3339(wall_ms);
    let advice = "let something set it: `timedatectl set-ntp true`, or chrony; by a wrong clock TLS refuses every certificate, \
                  and events get their times when it is set";
    match (wall_ms >= LEAST_YEAR_MS, synced, by) {
        (false, ..) => Finding::wrong("clock", format!("{time}: it was never set"), advice),
        (true, true, by) => Finding::right("clock", format!("{time}, set by {}", by.unwrap_or("a time service"))),
        (true, false, Some(by)) => {
            Finding::doubtful("clock", format!("{time}; {by} has not set it since boot"), advice)
        }
        (true, false, None) => {
            Finding::doubtful("clock", format!("{time}; no time service is known to set it"), advice)
        }
    }
}

/// Devices are looked at, not opened: to open a serial port may reset what hangs on it.
pub(super) fn devices(touches: &Touches) -> Vec<Finding> {
    let ports = touches.devices.iter().map(|(place, path)| device(place, path));
    let buses = touches.buses.iter().map(|(place, bus)| device(place, i2c_path(bus).as_ref()));
    let mut findings: Vec<Finding> = ports.chain(buses).collect();
    if touches.lines.is_empty() {
        return findings;
    }
    let known = chips().map_err(|error| error.to_string());
    let board = recognise(Path::new("/")).ok().and_then(|machine| machine.board);
    findings.extend(touches.lines.iter().map(|(place, line)| {
        match known.as_ref().map_err(String::clone).and_then(|chips| find(line, chips, board.as_ref())) {
            Ok(found) => {
                Finding::right(place, format!("`{line}` is line {} of {}", found.offset, found.chip.display()))
            }
            Err(why) => {
                Finding::wrong(place, why, "`tidegate gpio list` shows the lines, `tidegate board` what is missing")
            }
        }
    }));
    findings
}

fn device(place: &str, path: &Path) -> Finding {
    let shown = path.display();
    match stat(path) {
        Err(error) => Finding::wrong(
            place,
            format!("`{shown}`: {error}"),
            "is it plugged in, its driver loaded? see `tidegate board`",
        ),
        Ok(is) if FileType::from_raw_mode(is.st_mode) != FileType::CharacterDevice => {
            Finding::wrong(place, format!("`{shown}` is no device"), "`tidegate serial list` shows the ports")
        }
        Ok(is) => match access(path, Access::READ_OK | Access::WRITE_OK) {
            Ok(()) => Finding::right(place, format!("`{shown}` can be opened")),
            Err(_) => {
                let says = format!("`{shown}`: no permission; it is of the group of number {}", is.st_gid);
                Finding::wrong(place, says, "put the gateway's user into that group: `usermod -aG`, then restart")
            }
        },
    }
}

/// Whether the machine has what the configuration may take.
pub(super) fn memory(plan: &Plan) -> Option<Finding> {
    let most = Sum::of(plan).ok()?.limit as u64 + PROGRAM;
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (all, free) = (field("MemTotal:")?, field("MemAvailable:")?);
    let says = format!("at most {}; the machine has {}, of them {} available", size(most), size(all), size(free));
    Some(match most {
        most if most > all => Finding::wrong("memory", says, "set `gateway.memory`; `tidegate check` adds it up"),
        most if most > free => {
            Finding::doubtful("memory", says, "set `gateway.memory` lower; `tidegate check` adds it up")
        }
        _ => Finding::right("memory", says),
    })
}

/// What stands in a support bundle of the machine.
pub(in crate::cli) fn facts() -> String {
    let mut out = String::new();
    for path in ["/proc/version", "/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/mounts", "/etc/os-release"] {
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[..text.len().min(32 << 10)]);
        out += &format!("== {path}\n{text}\n");
    }
    let board = board::board(Path::new("/"), board::Part::All(Format::Text));
    format!("{out}== board\n{}", board.unwrap_or_else(|why| why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict::{Doubtful, Right, Wrong};

    #[test]
    fn a_clock_is_judged_by_its_year_and_who_set_it() {
        for (wall_ms, synced, want) in
            [(1_795_255_200_000, true, Right), (1_795_255_200_000, false, Doubtful), (86_400_000, false, Wrong)]
        {
            let found = judged(wall_ms, synced, Some("chrony"));
            assert_eq!(found.verdict, want, "{found:?}");
        }
    }

    #[test]
    fn a_device_is_there_and_for_us_or_not() {
        for (path, want) in [("/dev/null", Right), ("/dev/none", Wrong), ("/proc/version", Wrong)] {
            let found = device("sources.line", Path::new(path));
            assert_eq!(found.verdict, want, "{found:?}");
        }
    }
}
