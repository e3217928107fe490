//! A device that the configuration describes: its registers, and what is written to them first.

use super::{Values, Wrong};
use crate::systems::scale::scaled;
use embedded_hal::{delay::DelayNs, i2c::I2c};

/// A register that is read.
#[derive(Clone, Debug)]
pub struct Register {
    /// Its number as it is sent: one byte, or two with the high one first.
    pub number: Vec<u8>,
    /// Bytes, 1 to 4.
    pub length: usize,
    /// Whether the least significant byte comes first.
    pub little: bool,
    pub signed: bool,
    /// The bits that count.
    pub mask: u32,
    /// How far they are moved down then.
    pub shift: u32,
    pub scale: Option<f64>,
    pub offset: Option<f64>,
}

/// Bytes that are written, and microseconds to wait then.
#[derive(Clone, Debug)]
pub struct Write {
    pub bytes: Vec<u8>,
    pub wait_us: u32,
}

#[derive(Clone, Debug)]
pub struct Registers {
    pub address: u8,
    pub writes: Vec<Write>,
    pub registers: Vec<Register>,
}

impl Registers {
    pub fn start<B: I2c + ?Sized>(&self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<(), Wrong<B::Error>> {
        for write in &self.writes {
            bus.write(self.address, &write.bytes)?;
            delay.delay_us(write.wait_us);
        }
        Ok(())
    }

    pub fn read<B: I2c + ?Sized>(&self, bus: &mut B) -> Result<Values, Wrong<B::Error>> {
        let mut values = Values::new();
        for register in &self.registers {
            let mut bytes = [0; 4];
            let bytes = &mut bytes[..register.length.min(4)];
            bus.write_read(self.address, &register.number, bytes)?;
            values.push(register.value(bytes)).ok(); // the configuration has no more than fit
        }
        Ok(values)
    }
}

impl Register {
    /// The value in the register's bytes.
    pub fn value(&self, bytes: &[u8]) -> f64 {
        let add = |bits: u32, byte: &u8| bits << 8 | u32::from(*byte);
        let bits = if self.little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) };
        let (bits, width) = ((bits & self.mask) >> self.shift, 32 - (self.mask >> self.shift).leading_zeros());
        let raw = match self.signed && width > 0 && bits >> (width - 1) & 1 == 1 {
            true => i64::from(bits) - (1 << width),
            false => i64::from(bits),
        };
        scaled(raw as f64, 0, self.scale, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_a_value() {
        let plain = Register {
            number: vec![0],
            length: 2,
            little: false,
            signed: false,
            mask: u32::MAX,
            shift: 0,
            scale: None,
            offset: None,
        };
        let signed = |mask, shift, scale| Register { signed: true, mask, shift, scale, ..plain.clone() };
        for (register, bytes, want) in [
            (plain.clone(), &[0x12, 0x34][..], 4660.0),
            (Register { little: true, ..plain.clone() }, &[0x34, 0x12], 4660.0),
            (plain.clone(), &[0xff, 0xff, 0xff, 0xff], 4_294_967_295.0),
            (signed(0xffff, 0, None), &[0xff, 0xfe], -2.0),
            (signed(0xff_ffff, 0, None), &[0x80, 0, 0], -8_388_608.0),
            (signed(0xffff_ffff, 0, None), &[0xff, 0xff, 0xff, 0xff], -1.0),
            // TMP102 (SBOS397), table 2: 12 bits, left-aligned, 0.0625 °C each.
            (signed(0xffff, 4, Some(0.0625)), &[0x7f, 0xf0], 127.9375),
            (signed(0xffff, 4, Some(0.0625)), &[0x19, 0x00], 25.0),
            (signed(0xffff, 4, Some(0.0625)), &[0xe7, 0x00], -25.0),
            // MCP9808 (DS25095), 5.1.3.1: the upper three bits are flags.
            (signed(0x1fff, 0, Some(0.0625)), &[0xc1, 0x94], 25.25),
            (Register { mask: 0x80, shift: 7, ..plain.clone() }, &[0x80], 1.0),
            (Register { scale: Some(0.1), offset: Some(-40.0), ..plain.clone() }, &[2, 105], 21.7),
        ] {
            assert_eq!(register.value(bytes), want, "{bytes:x?}");
        }
    }
}
