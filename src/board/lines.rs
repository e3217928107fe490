//! How a GPIO line is named, and where it is then.

use super::{Board, Chip};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};
use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr};

/// The name of a line in a configuration: `GPIO17`, `pin 11`, `gpiochip0:17`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    /// By the name that the kernel gives it.
    Name(String),
    /// By the pin of the board's header.
    Pin(String),
    /// By chip (name, label or path) and offset.
    At { chip: String, offset: u32 },
}

/// Where a line is: the path of its chip, and its offset there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub chip: PathBuf,
    pub offset: u32,
}

/// A longer name is refused; the kernel's own have at most 31 bytes, paths of chips more.
const LONGEST: usize = 200;

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.len() > LONGEST || text.contains(char::is_control) {
            let text = text.escape_default();
            return Err(format!("`{text:.40}` names no line; write \"GPIO17\", \"pin 11\" or \"gpiochip0:17\""));
        }
        if let Some(pin) = text.strip_prefix("pin ") {
            return Ok(Line::Pin(pin.trim().to_owned()));
        }
        let at = text.rsplit_once(':').filter(|(chip, _)| !chip.is_empty());
        Ok(match at.and_then(|(chip, offset)| Some((chip, offset.parse().ok()?))) {
            Some((chip, offset)) => Line::At { chip: chip.to_owned(), offset },
            None => Line::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Name(name) => f.write_str(name),
            Line::Pin(pin) => write!(f, "pin {pin}"),
            Line::At { chip, offset } => write!(f, "{chip}:{offset}"),
        }
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(de)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Line {
    fn schema_name() -> Cow<'static, str> {
        "Line".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": LONGEST, "examples": ["GPIO17"] })
    }
}

/// Finds a line among the chips. Pins, and names that this kernel does not use, are looked up in the board's data.
pub fn find(line: &Line, chips: &[Chip], board: Option<&Board>) -> Result<Place, String> {
    match line {
        Line::At { chip, offset } => at(chip, *offset, chips),
        Line::Name(name) => named(name, chips).unwrap_or_else(|| {
            let known = board.and_then(|b| Some((b, b.pins.iter().find(|p| p.line.as_ref() == Some(name))?)));
            let place = known.and_then(|(board, pin)| {
                board.line_of(pin).iter().filter(|l| *l != line).find_map(|l| find(l, chips, None).ok())
            });
            place.ok_or_else(|| format!("no line is called `{name}`; `tidegate gpio list` shows those that there are"))
        }),
        Line::Pin(name) => {
            let board = board.ok_or_else(|| {
                format!("`{line}` is unknown, since this board is; name the line as `tidegate gpio list` does")
            })?;
            let title = &board.title;
            let pin = board.pin(name).ok_or_else(|| format!("{title} has no `{line}`; `tidegate board` lists them"))?;
            let lines = board.line_of(pin);
            if lines.is_empty() {
                let purpose = pin.purpose.as_deref().unwrap_or("something else");
                return Err(format!("`{line}` of {title} is no GPIO line but {purpose}"));
            }
            let found = lines.iter().find_map(|l| find(l, chips, None).ok());
            let known = || lines.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(" and ");
            found.ok_or_else(|| format!("`{line}` is {}, which no chip has", known()))
        }
    }
}

fn at(name: &str, offset: u32, chips: &[Chip]) -> Result<Place, String> {
    // A link that udev made: `/dev/tidegate/header`.
    let path = name.starts_with('/').then(|| std::fs::canonicalize(name).ok()).flatten();
    let is = |chip: &&Chip| chip.name == name || chip.label == name || path.as_ref().is_some_and(|p| *p == chip.path);
    let mut found = chips.iter().filter(is);
    let chip = match (found.next(), found.next()) {
        (None, _) => {
            return Err(format!("there is no GPIO chip `{name}`; `tidegate gpio list` shows those that there are"));
        }
        (Some(a), Some(b)) => {
            let (a, b) = (&a.name, &b.name);
            return Err(format!("`{name}` stands for more than one chip: `{a}` and `{b}`"));
        }
        (Some(chip), None) => chip,
    };
    match chip.lines.len() as u32 {
        lines if offset >= lines => Err(format!("`{name}` has {lines} lines, so `{name}:{offset}` is none")),
        _ => Ok(Place { chip: chip.path.clone(), offset }),
    }
}

/// By its whole name, else by the first word: BeagleBones call a line `P9_24 [uart1_txd]`.
fn named(name: &str, chips: &[Chip]) -> Option<Result<Place, String>> {
    let all = || chips.iter().flat_map(|chip| chip.lines.iter().map(move |line| (chip, line)));
    let whole: Vec<_> = all().filter(|(_, line)| line.name == name).collect();
    let found = match whole.is_empty() {
        true => all().filter(|(_, line)| line.name.split(' ').next() == Some(name)).collect(),
        false => whole,
    };
    match found.as_slice() {
        [] => None,
        [(chip, line)] => Some(Ok(Place { chip: chip.path.clone(), offset: line.offset })),
        [(a, x), (b, y), ..] => {
            let (a, b, x, y) = (&a.name, &b.name, x.offset, y.offset);
            Some(Err(format!("more than one line is called `{name}`; write `{a}:{x}` or `{b}:{y}`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Info, boards};
    use super::*;

    fn chip(number: u32, label: &str, names: &[&str]) -> Chip {
        let line = |(offset, name): (usize, &&str)| Info {
            offset: offset as u32,
            name: (*name).to_owned(),
            ..Info::default()
        };
        Chip {
            path: format!("/dev/gpiochip{number}").into(),
            name: format!("gpiochip{number}"),
            label: label.to_owned(),
            lines: names.iter().enumerate().map(line).collect(),
        }
    }

    #[test]
    fn a_line_is_read_as_people_write_it() {
        let at = |chip: &str, offset| Ok(Line::At { chip: chip.into(), offset });
        for (text, want) in [
            ("GPIO17", Ok(Line::Name("GPIO17".into()))),
            (" pin  11 ", Ok(Line::Pin("11".into()))),
            ("pin P9_12", Ok(Line::Pin("P9_12".into()))),
            ("pinctrl-bcm2835:17", at("pinctrl-bcm2835", 17)),
            ("/dev/gpiochip0:3", at("/dev/gpiochip0", 3)),
            ("a:b:3", at("a:b", 3)),
            ("a:b", Ok(Line::Name("a:b".into()))),
            ("P9_24 [uart1_txd]", Ok(Line::Name("P9_24 [uart1_txd]".into()))),
            ("", Err("`` names no line")),
            ("a\nb", Err("`a\\nb` names no line")),
        ] {
            let got = text.parse::<Line>();
            match want {
                Ok(line) => assert_eq!(got, Ok(line), "{text}"),
                Err(start) => assert!(got.as_ref().is_err_and(|e| e.starts_with(start)), "{got:?}"),
            }
        }
    }

    #[test]
    fn a_line_is_found_by_every_name() {
        let chips = [
            chip(0, "pinctrl-bcm2711", &["ID_SDA", "ID_SCL", "SDA1", "SCL1", "GPIO_GCLK", "GPIO5", "-"]),
            chip(1, "raspberrypi-exp-gpio", &["BT_ON", "WL_ON", "-"]),
            chip(2, "twin", &["P9_12", "P9_24 [uart1_txd]", "P9_15A"]),
            chip(3, "twin", &["P9_15B"]),
        ];
        let boards = boards().unwrap();
        let board = |name: &str| boards.iter().find(|b| b.name == name);
        for (name, line, want) in [
            ("raspberry-pi-4", "GPIO5", "0:5"),
            ("raspberry-pi-4", "GPIO3", "0:3"),
            ("raspberry-pi-4", "SCL1", "0:3"),
            ("raspberry-pi-4", "pin 3", "0:2"),
            ("raspberry-pi-4", "pin 1", "`pin 1` of Raspberry Pi 4 Model B is no GPIO line but 3.3 V"),
            ("raspberry-pi-4", "pin 41", "Raspberry Pi 4 Model B has no `pin 41`; `tidegate board` lists them"),
            ("raspberry-pi-4", "pin 11", "`pin 11` is `pinctrl-bcm2711:17` and `GPIO17`, which no chip has"),
            ("raspberry-pi-5", "pin 29", "0:5"),
            ("beaglebone", "pin p9.24", "2:1"),
            ("beaglebone", "P9_24", "2:1"),
            ("beaglebone", "pin P9_15", "2:2"),
            ("", "pin 11", "`pin 11` is unknown, since this board is; name the line as `tidegate gpio list` does"),
            ("", "GPIO3", "no line is called `GPIO3`; `tidegate gpio list` shows those that there are"),
            ("", "-", "more than one line is called `-`; write `gpiochip0:6` or `gpiochip1:2`"),
            ("", "gpiochip1:1", "1:1"),
            ("", "raspberrypi-exp-gpio:1", "1:1"),
            ("", "gpiochip1:3", "`gpiochip1` has 3 lines, so `gpiochip1:3` is none"),
            ("", "gpiochip9:0", "there is no GPIO chip `gpiochip9`; `tidegate gpio list` shows those that there are"),
            ("", "twin:0", "`twin` stands for more than one chip: `gpiochip2` and `gpiochip3`"),
        ] {
            let got = match find(&line.parse().unwrap(), &chips, board(name)) {
                Ok(place) => format!("{}:{}", &place.chip.to_str().unwrap()["/dev/gpiochip".len()..], place.offset),
                Err(error) => error,
            };
            assert_eq!(got, want, "{name} {line}");
        }
    }
}
