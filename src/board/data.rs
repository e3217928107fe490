//! The boards' data files, compiled in.

use super::Line;
use jsonc_parser::{ParseOptions, parse_to_serde_value};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Rights and stable names of devices, for all boards.
pub const UDEV_RULES: &str = include_str!("../../board/99-tidegate.rules");

/// A folder of `board/`: its name, what it says of the board, and its example configuration.
macro_rules! folders {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../board/", $name, "/board.jsonc")),
             include_str!(concat!("../../board/", $name, "/tidegate.jsonc")))),*]
    };
}
const BOARDS: &[(&str, &str, &str)] = folders! {
    "raspberry-pi-3" "raspberry-pi-4" "raspberry-pi-5" "raspberry-pi-zero-2w" "beaglebone" "generic-x86"
};
/// Pin headers, which boards share.
const HEADERS: &[(&str, &str)] = &[
    ("raspberry-pi", include_str!("../../board/headers/raspberry-pi.jsonc")),
    ("beaglebone", include_str!("../../board/headers/beaglebone.jsonc")),
];

/// What is known of a board.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// The name of its folder.
    #[serde(skip)]
    pub name: &'static str,
    /// What people call it.
    pub title: String,
    /// What its device tree may have in `compatible`.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Processors, by Rust's names, of which a machine is taken for this board if its device tree names none.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// The label of the GPIO chip to which the pins' offsets refer.
    pub chip: Option<String>,
    /// The file, below `headers/`, with the pins.
    #[serde(default)]
    header: Option<String>,
    #[serde(skip)]
    pub pins: Vec<Pin>,
    #[serde(default)]
    pub buses: Vec<Device>,
    #[serde(default)]
    pub ports: Vec<Device>,
    /// Files of which one holds the lines that devices need; the first that exists counts.
    #[serde(default)]
    pub settings: Vec<String>,
    /// What a person who wires it should know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// A configuration to begin with.
    #[serde(skip)]
    pub example: &'static str,
}

/// A pin of a header.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// What is printed beside it: `11`, `P9_12`.
    pub pin: String,
    /// Its GPIO line, if it has one, by the name that the kernel gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// The same line's place on the board's chip, since not every kernel gives it that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
    /// What else it is for.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

/// A bus or a serial port.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub name: String,
    /// Its file: `/dev/i2c-1`.
    pub device: String,
    /// The pins that it takes.
    #[serde(default)]
    pub pins: Vec<String>,
    /// The line that switches it on, in one of the board's `settings`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    #[serde(default)]
    pub about: String,
}

impl Board {
    /// The pin with this name, however it is written: `P9_12`, `p9.12`.
    pub fn pin(&self, name: &str) -> Option<&Pin> {
        let plain = |name: &str| name.replace('.', "_").to_ascii_uppercase();
        self.pins.iter().find(|pin| plain(&pin.pin) == plain(name))
    }

    /// Where a pin's line is looked for, the surest first.
    pub(super) fn line_of(&self, pin: &Pin) -> Vec<Line> {
        let at = self.chip.clone().zip(pin.offset).map(|(chip, offset)| Line::At { chip, offset });
        at.into_iter().chain(pin.line.clone().map(Line::Name)).collect()
    }
}

/// All boards. An error is one in the data, which a test would have found.
pub fn boards() -> Result<Vec<Board>, String> {
    BOARDS.iter().map(|(name, text, example)| read(name, text, example)).collect()
}

fn read(name: &'static str, text: &str, example: &'static str) -> Result<Board, String> {
    let mut board: Board = parse(text).map_err(|e| format!("board/{name}/board.jsonc: {e}"))?;
    if let Some(header) = &board.header {
        let text = HEADERS.iter().find(|(name, _)| name == header).map(|(_, text)| *text);
        let text = text.ok_or_else(|| format!("board/{name}/board.jsonc: there is no header `{header}`"))?;
        board.pins = parse(text).map_err(|e| format!("board/headers/{header}.jsonc: {e}"))?;
    }
    (board.name, board.example) = (name, example);
    Ok(board)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    parse_to_serde_value(text, &ParseOptions::default()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, path::Path};

    #[test]
    fn the_boards_are_told_apart_and_their_pins_too() {
        let boards = boards().unwrap();
        let mut seen = BTreeSet::new();
        for board in &boards {
            let told = board.compatible.iter().chain(&board.architectures);
            assert!(told.clone().count() > 0, "{}: nothing tells it", board.name);
            for sign in told {
                assert!(seen.insert(sign), "{}: `{sign}` stands for another board too", board.name);
            }
            let mut names = BTreeSet::new();
            for pin in &board.pins {
                assert!(names.insert(format!("pin {}", pin.pin)), "{}: pin {} twice", board.name, pin.pin);
                assert!(pin.line.is_some() || pin.purpose.is_some(), "{}: pin {} is nothing", board.name, pin.pin);
                for line in board.line_of(pin) {
                    assert!(names.insert(line.to_string()), "{}: `{line}` twice", board.name);
                    assert_eq!(line.to_string().parse::<Line>(), Ok(line));
                }
            }
            for device in board.buses.iter().chain(&board.ports) {
                assert!(names.insert(device.name.clone()), "{}: {} twice", board.name, device.name);
                assert!(device.device.starts_with('/'), "{}: {}", board.name, device.device);
                assert!(device.pins.iter().all(|p| board.pin(p).is_some()), "{}: {}", board.name, device.name);
                assert!(device.needs.is_none() || !board.settings.is_empty(), "{}: {}", board.name, device.name);
            }
        }
    }

    #[test]
    fn every_folder_is_compiled_in() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("board");
        for (folder, known) in [
            (root.clone(), BOARDS.iter().map(|(name, ..)| (*name).to_owned()).collect::<BTreeSet<_>>()),
            (root.join("headers"), HEADERS.iter().map(|(name, _)| format!("{name}.jsonc")).collect()),
        ] {
            let entries = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let found: BTreeSet<_> =
                entries.filter(|n| folder != root || root.join(n).join("board.jsonc").exists()).collect();
            assert_eq!(found, known, "{}", folder.display());
        }
    }

    #[test]
    fn a_wrong_file_is_told() {
        for (text, want) in [
            (r#"{ "title": "x", "header": "y" }"#, "board/x/board.jsonc: there is no header `y`"),
            (r#"{ "titel": "x" }"#, "board/x/board.jsonc: unknown field `titel`"),
            ("{", "board/x/board.jsonc: Unterminated object"),
        ] {
            let told = read("x", text, "").err().unwrap();
            assert!(told.starts_with(want), "{told}");
        }
    }
}
