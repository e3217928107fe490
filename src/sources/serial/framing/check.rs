//! Checksums at the end of binary frames.

use schemars::JsonSchema;
use serde::Deserialize;

/// The checksum that ends a frame, over all bytes before it. Names are those of the catalogue of parametrised CRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// CRC-16/CCITT-FALSE (also IBM-3740): polynomial 0x1021, from 0xffff, high byte first.
    Crc16CcittFalse,
    /// CRC-16/XMODEM: polynomial 0x1021, from 0, high byte first.
    Crc16Xmodem,
    /// CRC-16/X-25, that of HDLC and PPP: polynomial 0x1021 reflected, from 0xffff, inverted, low byte first.
    Crc16X25,
    /// CRC-16/MODBUS: polynomial 0x8005 reflected, from 0xffff, low byte first.
    Crc16Modbus,
    /// CRC-32, that of Ethernet and zip, low byte first.
    Crc32,
}

static CCITT: [u16; 256] = table(0x1021);
static CCITT_REFLECTED: [u16; 256] = reflected_table(0x8408);
static MODBUS: [u16; 256] = reflected_table(0xa001);

impl Check {
    /// Bytes that it has.
    pub fn length(self) -> usize {
        if self == Check::Crc32 { 4 } else { 2 }
    }

    /// How many bytes of the frame are its content; `None` if the checksum is wrong or nothing lies before it.
    pub fn verify(self, frame: &[u8]) -> Option<usize> {
        let content = frame.len().checked_sub(self.length()).filter(|length| *length > 0)?;
        let (bytes, sum) = frame.split_at(content);
        let right = match self {
            Check::Crc16CcittFalse => forward(0xffff, bytes).to_be_bytes() == sum,
            Check::Crc16Xmodem => forward(0, bytes).to_be_bytes() == sum,
            Check::Crc16X25 => (!reflected(&CCITT_REFLECTED, bytes)).to_le_bytes() == sum,
            Check::Crc16Modbus => reflected(&MODBUS, bytes).to_le_bytes() == sum,
            Check::Crc32 => crc32fast::hash(bytes).to_le_bytes() == sum,
        };
        right.then_some(content)
    }
}

fn forward(from: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(from, |crc, byte| crc << 8 ^ CCITT[usize::from((crc >> 8) as u8 ^ byte)])
}

fn reflected(table: &[u16; 256], bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| crc >> 8 ^ table[usize::from(crc as u8 ^ byte)])
}

const fn table(polynomial: u16) -> [u16; 256] {
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ polynomial } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

const fn reflected_table(polynomial: u16) -> [u16; 256] {
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u16, 0);
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ polynomial } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_catalogue() {
        for (check, sum) in [
            (Check::Crc16CcittFalse, &[0x29, 0xb1][..]),
            (Check::Crc16Xmodem, &[0x31, 0xc3]),
            (Check::Crc16X25, &[0x6e, 0x90]),
            (Check::Crc16Modbus, &[0x37, 0x4b]),
            (Check::Crc32, &[0x26, 0x39, 0xf4, 0xcb]),
        ] {
            let mut frame = [b"123456789", sum].concat();
            assert_eq!(check.verify(&frame), Some(9), "{check:?}");
            frame[3] ^= 1;
            assert_eq!(check.verify(&frame), None, "{check:?}");
            assert_eq!(check.verify(sum), None, "{check:?}");
        }
    }
}
