//! `tidegate board`: what board this is, what it has, and what is missing.

use super::Format;
use crate::board::{Board, Device, Machine, Pin, State, UDEV_RULES, recognise};
use serde_json::{Value, json};
use std::{fmt::Write, path::Path};

/// What of it is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    All(Format),
    /// A configuration to begin with.
    Example,
    /// The udev rules.
    Udev,
}

/// The text to print; `root` is where the machine's file system begins.
pub fn board(root: &Path, part: Part) -> Result<String, String> {
    let machine = recognise(root)?;
    match part {
        Part::Udev => Ok(UDEV_RULES.to_owned()),
        Part::Example => match &machine.board {
            Some(board) => Ok(board.example.to_owned()),
            None => Err(format!("there is no example for this board: {}", machine.why)),
        },
        Part::All(Format::Text) => Ok(text(&machine)),
        Part::All(Format::Json) => Ok(format!("{:#}\n", json(&machine))),
    }
}

fn text(machine: &Machine) -> String {
    let mut out = String::new();
    let name = machine.board.as_ref().map_or("unknown board", |board| &board.title);
    let _ = writeln!(out, "{name}: {}", machine.why);
    if !machine.model.is_empty() {
        let _ = writeln!(out, "model: {}", machine.model);
    }
    let chips = machine.chips();
    if chips.is_empty() {
        out.push_str("\ngpio chips\n  none: this machine has no GPIO, or its driver is not loaded\n");
    } else {
        section(&mut out, "gpio chips", chips.iter().map(|(path, state)| vec![path.clone(), state_text(state)]));
    }
    let Some(board) = &machine.board else { return out };
    for (title, devices) in [("buses", &board.buses), ("serial ports", &board.ports)] {
        let row = |d: &Device| {
            let (pins, state) = (d.pins.join(" "), state_text(&machine.state(d)));
            vec![d.name.clone(), d.device.clone(), pins, state, d.about.clone()]
        };
        section(&mut out, title, devices.iter().map(row));
    }
    let pin = |pin: &Pin| {
        let purpose = pin.purpose.clone().unwrap_or_default();
        vec![format!("pin {}", pin.pin), pin.line.clone().unwrap_or_default(), purpose]
    };
    section(&mut out, "pins", board.pins.iter().map(pin));
    section(&mut out, "to know", board.notes.iter().map(|note| vec![note.clone()]));
    let _ = write!(out, "\nA configuration to begin with: tidegate board --example\n");
    out
}

/// A title and rows below it, in columns; nothing if there are none.
fn section(out: &mut String, title: &str, rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        let _ = write!(out, "\n{title}\n{}", super::columns(&rows));
    }
}

fn state_text(state: &State) -> String {
    match state {
        State::Ready => "ready".to_owned(),
        State::Absent { needs } => format!("absent: {needs}"),
        State::Denied { needs } => format!("no right: {needs}"),
    }
}

fn json(machine: &Machine) -> Value {
    let state = |state: &State| match state {
        State::Ready => json!({ "state": "ready" }),
        State::Absent { needs } => json!({ "state": "absent", "do": needs }),
        State::Denied { needs } => json!({ "state": "denied", "do": needs }),
    };
    let merged = |mut value: Value, more: Value| {
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        value
    };
    let devices = |devices: &[Device]| -> Value {
        devices.iter().map(|device| merged(json!(device), state(&machine.state(device)))).collect()
    };
    let chips = machine.chips();
    let chips: Value = chips.iter().map(|(path, s)| merged(json!({ "path": path }), state(s))).collect();
    let board = |board: &Board| {
        json!({ "name": board.name, "title": board.title, "buses": devices(&board.buses), "ports": devices(&board.ports),
            "pins": board.pins, "notes": board.notes })
    };
    let board = machine.board.as_ref().map(board);
    json!({ "board": board, "why": machine.why, "model": machine.model, "compatible": machine.compatible, "chips": chips })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_board_is_shown_with_what_it_lacks() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/device-tree")).unwrap();
        fs::create_dir_all(root.path().join("dev")).unwrap();
        fs::write(root.path().join("proc/device-tree/model"), "Raspberry Pi 4 Model B Rev 1.4\0").unwrap();
        fs::write(root.path().join("proc/device-tree/compatible"), "raspberrypi,4-model-b\0brcm,bcm2711\0").unwrap();
        fs::write(root.path().join("dev/gpiochip0"), "").unwrap();
        let told = board(root.path(), Part::All(Format::Text)).unwrap();
        for part in [
            "Raspberry Pi 4 Model B: its device tree is compatible with `raspberrypi,4-model-b`\nmodel: Raspberry Pi 4 Model B Rev 1.4\n",
            "\ngpio chips\n  /dev/gpiochip0  ready\n",
            "\nbuses\n  i2c-1   /dev/i2c-1 ",
            "absent: add `dtparam=i2c_arm=on` to /boot/firmware/config.txt and reboot",
            "\n  pin 11  GPIO17\n",
            "\n  pin 14          ground\n",
        ] {
            assert!(told.contains(part), "{part}\n{told}");
        }
        let told: Value = serde_json::from_str(&board(root.path(), Part::All(Format::Json)).unwrap()).unwrap();
        assert_eq!(told["board"]["name"], "raspberry-pi-4");
        assert_eq!(told["board"]["buses"][0]["state"], "absent");
        assert_eq!(told["board"]["pins"][10], json!({ "pin": "11", "line": "GPIO17", "offset": 17 }));
        assert_eq!(told["chips"], json!([{ "path": "/dev/gpiochip0", "state": "ready" }]));
        assert!(board(root.path(), Part::Example).unwrap().contains("\"id\": \"raspberry-pi-4\""));
        assert!(board(root.path(), Part::Udev).unwrap().contains("GROUP=\"gpio\""));
    }

    #[test]
    fn an_unknown_board_is_shown_too() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/device-tree")).unwrap();
        fs::write(root.path().join("proc/device-tree/compatible"), "linux,dummy-virt\0").unwrap();
        let why = "its device tree is compatible with no known board, but with `linux,dummy-virt`";
        let told = board(root.path(), Part::All(Format::Text)).unwrap();
        let none = "gpio chips\n  none: this machine has no GPIO, or its driver is not loaded\n";
        assert_eq!(told, format!("unknown board: {why}\n\n{none}"));
        let told: Value = serde_json::from_str(&board(root.path(), Part::All(Format::Json)).unwrap()).unwrap();
        assert_eq!((&told["board"], &told["chips"]), (&Value::Null, &json!([])));
        let told = board(root.path(), Part::Example);
        assert_eq!(told, Err(format!("there is no example for this board: {why}")));
    }
}
