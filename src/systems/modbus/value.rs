//! What registers mean: numbers and text of one register or more, scaled.

use crate::systems::scale::scaled;
use schemars::JsonSchema;
use serde::Deserialize;
use std::io::Write;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A coil or discrete input; of registers, one bit, or whether the register is not 0.
    Bool,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    /// Two bytes in each register, to the first zero.
    Text,
}

/// Which comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The most significant.
    #[default]
    Big,
    /// The least significant.
    Little,
}

/// How a value lies in registers.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub r#type: Type,
    /// The order of the registers, and of the two bytes in each.
    pub words: Order,
    pub bytes: Order,
    /// Registers of a text.
    pub length: u16,
    /// The bit of a `bool`, 0 is the lowest.
    pub bit: Option<u8>,
    pub scale: Option<f64>,
    pub offset: Option<f64>,
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// A float that is no number.
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
}

/// A value to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted<'a> {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
}

impl Form {
    /// A form without anything but its type.
    pub fn plain(r#type: Type) -> Form {
        Form { r#type, words: Order::Big, bytes: Order::Big, length: 1, bit: None, scale: None, offset: None }
    }

    /// Registers that it takes.
    pub fn registers(&self) -> u16 {
        match self.r#type {
            Type::Bool | Type::U16 | Type::I16 => 1,
            Type::U32 | Type::I32 | Type::F32 => 2,
            Type::U64 | Type::I64 | Type::F64 => 4,
            Type::Text => self.length,
        }
    }

    /// What is wrong with it: the field, and why.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let number = !matches!(self.r#type, Type::Bool | Type::Text);
        let wrong = |n: Option<f64>| n.is_some_and(|n| !n.is_finite() || !number);
        match self {
            Form { bit: Some(16..), .. } => Err(("bit", "a register has bits 0 to 15")),
            Form { bit: Some(_), r#type, .. } if *r#type != Type::Bool => {
                Err(("bit", "expected with `\"as\": \"bool\"`"))
            }
            Form { scale: Some(0.0), .. } => Err(("scale", "expected anything but 0")),
            Form { scale, .. } if wrong(*scale) => Err(("scale", "expected with a number's type")),
            Form { offset, .. } if wrong(*offset) => Err(("offset", "expected with a number's type")),
            _ => Ok(()),
        }
    }

    /// The value in the bytes of its registers.
    pub fn read(&self, data: &[u8]) -> Reading {
        let mut bytes = data.to_vec();
        if self.bytes == Order::Little {
            bytes.chunks_exact_mut(2).for_each(<[u8]>::reverse);
        }
        if self.r#type == Type::Text {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            return Reading::Text(String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned());
        }
        if self.words == Order::Little {
            bytes = bytes.chunks(2).rev().flatten().copied().collect();
        }
        let bits = bytes.iter().fold(0, |bits: u64, byte| bits << 8 | u64::from(*byte));
        match self.r#type {
            Type::Bool => Reading::Bool(self.bit.map_or(bits != 0, |bit| bits >> bit & 1 == 1)),
            Type::I16 => self.whole((bits as i16).into()),
            Type::I32 => self.whole((bits as i32).into()),
            Type::I64 => self.whole((bits as i64).into()),
            // By its shortest text, so that 21.7 does not become 21.700000762939453.
            Type::F32 => self.float(f32::from_bits(bits as u32).to_string().parse().unwrap_or(f64::NAN)),
            Type::F64 => self.float(f64::from_bits(bits)),
            _ => self.whole(bits.into()),
        }
    }

    fn whole(&self, int: i128) -> Reading {
        if self.scale.is_none() && self.offset.is_none() {
            return Reading::Int(int);
        }
        Reading::Float(scaled(int as f64, 0, self.scale, self.offset))
    }

    fn float(&self, float: f64) -> Reading {
        match self.scaled(float) {
            value if value.is_finite() => Reading::Float(value),
            _ => Reading::Null,
        }
    }

    fn scaled(&self, raw: f64) -> f64 {
        raw * self.scale.unwrap_or(1.0) + self.offset.unwrap_or(0.0)
    }

    /// The registers for a value; the error says why it does not fit.
    pub fn write(&self, wanted: Wanted<'_>) -> Result<Vec<u16>, String> {
        let mut bytes = match (self.r#type, wanted) {
            (Type::Text, Wanted::Text(text)) => {
                let room = 2 * usize::from(self.length);
                if text.len() > room {
                    return Err(format!("a text of {} bytes does not fit into {room}", text.len()));
                }
                let mut bytes = text.as_bytes().to_vec();
                bytes.resize(room, 0);
                bytes
            }
            (Type::Bool, wanted) => u16::from(on(wanted)?).to_be_bytes().to_vec(),
            (Type::F32, Wanted::Int(_) | Wanted::Float(_)) => {
                let raw = self.raw(wanted)? as f32;
                if !raw.is_finite() {
                    return Err("it is out of the range of f32".into());
                }
                raw.to_be_bytes().to_vec()
            }
            (Type::F64, Wanted::Int(_) | Wanted::Float(_)) => self.raw(wanted)?.to_be_bytes().to_vec(),
            (Type::Text, _) => return Err("expected a text".into()),
            (_, Wanted::Int(_) | Wanted::Float(_)) => self.whole_bytes(wanted)?,
            _ => return Err("expected a number".into()),
        };
        if self.bytes == Order::Little {
            bytes.chunks_exact_mut(2).for_each(<[u8]>::reverse);
        }
        let mut words: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        if self.words == Order::Little && self.r#type != Type::Text {
            words.reverse();
        }
        Ok(words)
    }

    fn whole_bytes(&self, wanted: Wanted<'_>) -> Result<Vec<u8>, String> {
        let (low, high) = match self.r#type {
            Type::I16 => (i16::MIN.into(), i16::MAX.into()),
            Type::U32 => (0, u32::MAX.into()),
            Type::I32 => (i32::MIN.into(), i32::MAX.into()),
            Type::U64 => (0, u64::MAX.into()),
            Type::I64 => (i64::MIN.into(), i64::MAX.into()),
            _ => (0, i128::from(u16::MAX)),
        };
        let int = match wanted {
            Wanted::Int(int) if self.scale.is_none() && self.offset.is_none() => int.into(),
            _ => {
                let raw = self.raw(wanted)?;
                if self.scale.is_none() && raw.fract() != 0.0 {
                    return Err(format!("{raw} is not whole"));
                }
                raw.round() as i128
            }
        };
        if !(low..=high).contains(&int) {
            return Err(format!("{int} is out of the range {low} to {high}"));
        }
        let bytes = int.to_be_bytes();
        Ok(bytes[bytes.len() - 2 * usize::from(self.registers())..].to_vec())
    }

    fn raw(&self, wanted: Wanted<'_>) -> Result<f64, String> {
        let value = match wanted {
            Wanted::Int(int) => int as f64,
            Wanted::Float(float) => float,
            _ => return Err("expected a number".into()),
        };
        let raw = (value - self.offset.unwrap_or(0.0)) / self.scale.unwrap_or(1.0);
        if raw.is_finite() { Ok(raw) } else { Err(format!("{value} cannot be scaled")) }
    }
}

/// A value as what a coil can be.
pub fn on(wanted: Wanted<'_>) -> Result<bool, String> {
    match wanted {
        Wanted::Bool(on) => Ok(on),
        Wanted::Int(0) => Ok(false),
        Wanted::Int(1) => Ok(true),
        Wanted::Int(other) => Err(format!("{other} is neither 0 nor 1")),
        _ => Err("expected a bool".into()),
    }
}

impl Reading {
    /// Appends it as JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = match self {
            Reading::Null => out.write_all(b"null"),
            Reading::Bool(b) => write!(out, "{b}"),
            Reading::Int(i) => write!(out, "{i}"),
            Reading::Float(d) => write!(out, "{d:?}"),
            Reading::Text(text) => {
                crate::event::json::write_string(text, out);
                Ok(())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Order::{Big, Little};

    #[test]
    fn registers_are_read_and_written_in_every_order() {
        let form = |r#type, words, bytes| Form { words, bytes, length: 3, ..Form::plain(r#type) };
        for (form, registers, want) in [
            (form(Type::U16, Big, Big), &[0xfffe][..], "65534"),
            (form(Type::I16, Big, Big), &[0xfffe], "-2"),
            (form(Type::I16, Big, Little), &[0xfeff], "-2"),
            (form(Type::U32, Big, Big), &[1, 2], "65538"),
            (form(Type::U32, Little, Big), &[2, 1], "65538"),
            (form(Type::U32, Little, Little), &[0x200, 0x100], "65538"),
            (form(Type::I32, Big, Big), &[0xffff, 0xffff], "-1"),
            (form(Type::U64, Big, Big), &[0xffff, 0xffff, 0xffff, 0xffff], "18446744073709551615"),
            (form(Type::I64, Little, Big), &[0xfffd, 0xffff, 0xffff, 0xffff], "-3"),
            (form(Type::F32, Big, Big), &[0x41ad, 0x999a], "21.7"),
            (form(Type::F32, Little, Big), &[0x999a, 0x41ad], "21.7"),
            (form(Type::F32, Big, Big), &[0x7fc0, 0], "null"),
            (form(Type::F64, Big, Big), &[0x4035, 0xb333, 0x3333, 0x3333], "21.7"),
            (form(Type::Bool, Big, Big), &[4], "true"),
            (Form { bit: Some(2), ..Form::plain(Type::Bool) }, &[4], "true"),
            (Form { bit: Some(3), ..Form::plain(Type::Bool) }, &[4], "false"),
            (form(Type::Text, Little, Big), &[0x4869, 0x2100, 0x4141], "\"Hi!\""),
            (form(Type::Text, Big, Little), &[0x6948, 0x0021, 0], "\"Hi!\""),
            (Form { scale: Some(0.1), ..Form::plain(Type::I16) }, &[217], "21.7"),
            (Form { scale: Some(0.01), offset: Some(-40.0), ..Form::plain(Type::U16) }, &[6170], "21.7"),
            (Form { scale: Some(1000.0), ..Form::plain(Type::U16) }, &[3], "3000.0"),
            (Form { scale: Some(1.0 / 3.0), ..Form::plain(Type::U16) }, &[3], "1.0"),
        ] {
            form.check().unwrap();
            let data: Vec<u8> = registers.iter().flat_map(|r: &u16| r.to_be_bytes()).collect();
            let (read, mut text) = (form.read(&data), Vec::new());
            read.write_json(&mut text);
            assert_eq!(String::from_utf8(text).unwrap(), want, "{form:?}");
            let wanted = match &read {
                Reading::Int(int) if i64::try_from(*int).is_ok() => Wanted::Int(*int as i64),
                Reading::Float(float) => Wanted::Float(*float),
                Reading::Text(text) => Wanted::Text(text),
                _ => continue,
            };
            let mut whole = registers.to_vec();
            if form.r#type == Type::Text {
                whole[2] = 0;
            }
            assert_eq!(form.write(wanted).unwrap(), whole, "{form:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let scaled = Form { scale: Some(0.1), ..Form::plain(Type::U16) };
        for (form, wanted, want) in [
            (Form::plain(Type::U16), Wanted::Int(65_536), "65536 is out of the range 0 to 65535"),
            (Form::plain(Type::U16), Wanted::Int(-1), "-1 is out of the range 0 to 65535"),
            (Form::plain(Type::I16), Wanted::Float(-4e4), "-40000 is out of the range -32768 to 32767"),
            (Form::plain(Type::U16), Wanted::Float(0.5), "0.5 is not whole"),
            (Form::plain(Type::U64), Wanted::Float(1e300), "is out of the range 0 to 18446744073709551615"),
            (Form::plain(Type::F32), Wanted::Float(1e300), "it is out of the range of f32"),
            (scaled, Wanted::Float(6554.0), "65540 is out of the range 0 to 65535"),
            (Form::plain(Type::U16), Wanted::Text("1"), "expected a number"),
            (Form::plain(Type::U16), Wanted::Bool(true), "expected a number"),
            (Form::plain(Type::Bool), Wanted::Int(2), "2 is neither 0 nor 1"),
            (Form::plain(Type::Bool), Wanted::Float(1.0), "expected a bool"),
            (Form::plain(Type::Text), Wanted::Text("abc"), "a text of 3 bytes does not fit into 2"),
            (Form::plain(Type::Text), Wanted::Int(1), "expected a text"),
        ] {
            let told = form.write(wanted).unwrap_err();
            assert!(told.ends_with(want), "{told}");
        }
        assert_eq!(scaled.write(Wanted::Float(21.54)), Ok(vec![215]));
        assert_eq!(Form::plain(Type::I64).write(Wanted::Int(i64::MIN)), Ok(vec![0x8000, 0, 0, 0]));
    }
}
