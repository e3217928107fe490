//! Requests and answers as bytes, after "MODBUS Application Protocol Specification V1.1b3".
//!
//! It is our own, since rmodbus is too lenient for answers: it takes a length that is short, and a foreign function for an
//! exception. In tests it is the oracle for requests.

use super::Error;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;

/// Registers that one answer has room for (6.3), and that one request can write (6.12).
pub const MOST_REGISTERS: u16 = 125;
pub const MOST_WRITTEN: usize = 123;
/// Coils or discrete inputs that one request reads: the specification's limit (6.1).
pub const MOST_BITS: u16 = 2000;

/// What a unit has to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Holding registers: 16 bits each, also written. In manuals 40001 and up.
    Holding,
    /// Input registers: 16 bits each. In manuals 30001 and up.
    Input,
    /// Coils: a bit each, also written. In manuals 1 and up.
    Coil,
    /// Discrete inputs: a bit each. In manuals 10001 and up.
    Discrete,
}

impl Table {
    /// Whether its elements are bits, not registers.
    pub fn bits(self) -> bool {
        matches!(self, Table::Coil | Table::Discrete)
    }

    /// Elements that one request reads.
    pub fn most(self) -> u16 {
        if self.bits() { MOST_BITS } else { MOST_REGISTERS }
    }

    fn function(self) -> u8 {
        match self {
            Table::Coil => 1,
            Table::Discrete => 2,
            Table::Holding => 3,
            Table::Input => 4,
        }
    }
}

/// What a unit is asked for. Addresses count from 0, as on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub unit: u8,
    pub ask: Ask<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// Elements of a table, at most its `most`.
    Read { table: Table, address: u16, count: u16 },
    /// Sets one coil (function 5).
    Coil { address: u16, on: bool },
    /// Sets one holding register (function 6).
    Register { address: u16, value: u16 },
    /// Sets holding registers (function 16), at most `MOST_WRITTEN`.
    Registers { address: u16, values: &'a [u16] },
}

/// Why a unit did not do it (7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception(pub u8);

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "illegal function",
            2 => "illegal data address",
            3 => "illegal data value",
            4 => "device failure",
            5 => "acknowledge, it takes long",
            6 => "device busy",
            8 => "memory parity error",
            10 => "gateway path unavailable",
            11 => "gateway target device failed to respond",
            code => return write!(f, "exception {code}"),
        })
    }
}

impl Request<'_> {
    pub(super) fn function(&self) -> u8 {
        match self.ask {
            Ask::Read { table, .. } => table.function(),
            Ask::Coil { .. } => 5,
            Ask::Register { .. } => 6,
            Ask::Registers { .. } => 16,
        }
    }

    /// The protocol data unit: function and data, at most 253 bytes.
    pub(super) fn pdu(&self) -> Vec<u8> {
        let mut out = vec![self.function()];
        let mut put = |word: u16| out.extend(word.to_be_bytes());
        match self.ask {
            Ask::Read { address, count, .. } => [address, count].into_iter().for_each(put),
            Ask::Coil { address, on } => [address, if on { 0xff00 } else { 0 }].into_iter().for_each(put),
            Ask::Register { address, value } => [address, value].into_iter().for_each(put),
            Ask::Registers { address, values } => {
                [address, values.len() as u16].into_iter().for_each(&mut put);
                out.push(2 * values.len() as u8);
                out.extend(values.iter().flat_map(|word| word.to_be_bytes()));
            }
        }
        out
    }

    /// Bytes of data that the answer carries; 0 for a write.
    fn data(&self) -> usize {
        match self.ask {
            Ask::Read { table, count, .. } if table.bits() => usize::from(count).div_ceil(8),
            Ask::Read { count, .. } => 2 * usize::from(count),
            _ => 0,
        }
    }

    /// Length of the data unit that answers it, unless it is an exception.
    pub(super) fn answer(&self) -> usize {
        match self.ask {
            Ask::Read { .. } => 2 + self.data(),
            _ => 5,
        }
    }

    /// The data of the answer: registers as they came, high byte first, or bits, the first in the lowest place. Nothing for
    /// a write.
    pub(super) fn parse(&self, pdu: &[u8]) -> Result<Vec<u8>, Error> {
        let (function, wanted) = (self.function(), self.data());
        match *pdu {
            [code, exception] if code == function | 0x80 => return Err(Error::Refused(Exception(exception))),
            [other, ..] if other != function => {
                return Err(Error::Wrong(format!("function {other} was answered instead of {function}")));
            }
            _ => {}
        }
        match (&self.ask, pdu) {
            (Ask::Read { .. }, [_, length, data @ ..]) if data.len() == wanted && usize::from(*length) == wanted => {
                Ok(data.to_vec())
            }
            (Ask::Read { .. }, _) => {
                let told = pdu.len().saturating_sub(2);
                Err(Error::Wrong(format!("{told} bytes of data were answered instead of {wanted}")))
            }
            _ if pdu.len() != self.answer() => {
                Err(Error::Wrong(format!("{} bytes were answered instead of {}", pdu.len(), self.answer())))
            }
            _ if pdu[1..] != self.pdu()[1..5] => {
                Err(Error::Wrong("the answer tells of another address or value than was written".into()))
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// The element at a place of an answer's bits.
pub fn bit(data: &[u8], at: usize) -> bool {
    data.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

/// The checksum of serial frames ("MODBUS over Serial Line V1.02", 6.2.2); sent low byte first.
pub(super) fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmodbus::{ModbusProto, client::ModbusRequest};

    const fn read(table: Table, address: u16, count: u16) -> Request<'static> {
        Request { unit: 17, ask: Ask::Read { table, address, count } }
    }

    /// The examples of the specification, 6.1 to 6.12.
    #[test]
    fn requests_and_answers_are_those_of_the_specification() {
        let write = |ask| Request { unit: 17, ask };
        for (request, sent, answered, data) in [
            (read(Table::Coil, 0x13, 19), "01 0013 0013", "01 03 cd6b05", "cd6b05"),
            (read(Table::Discrete, 0xc4, 22), "02 00c4 0016", "02 03 acdb35", "acdb35"),
            (read(Table::Holding, 0x6b, 3), "03 006b 0003", "03 06 022b00000064", "022b00000064"),
            (read(Table::Input, 8, 1), "04 0008 0001", "04 02 000a", "000a"),
            (write(Ask::Coil { address: 0xac, on: true }), "05 00ac ff00", "05 00ac ff00", ""),
            (write(Ask::Register { address: 1, value: 3 }), "06 0001 0003", "06 0001 0003", ""),
            (
                write(Ask::Registers { address: 1, values: &[10, 0x102] }),
                "10 0001 0002 04 000a0102",
                "10 0001 0002",
                "",
            ),
        ] {
            assert_eq!(request.pdu(), hex(sent), "{request:?}");
            assert_eq!(request.parse(&hex(answered)).unwrap(), hex(data), "{request:?}");
            assert_eq!(request.answer(), hex(answered).len(), "{request:?}");
        }
        assert!(bit(&[0xcd], 0) && !bit(&[0xcd], 1) && bit(&[0xcd, 0x6b], 8) && !bit(&[0xcd], 8));
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|c| *c != b' ').collect();
        digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn an_answer_to_something_else_is_an_error_that_says_so() {
        let one = read(Table::Holding, 0, 1);
        let set = Request { unit: 17, ask: Ask::Register { address: 1, value: 3 } };
        for (request, answered, want) in [
            (one, "83 02", "illegal data address"),
            (one, "83 0b", "gateway target device failed to respond"),
            (one, "83 63", "exception 99"),
            (one, "84 02", "function 132 was answered instead of 3"),
            (one, "04 02 0001", "function 4 was answered instead of 3"),
            (one, "83", "function 131 was answered instead of 3"),
            (one, "83 02 00", "function 131 was answered instead of 3"),
            (one, "03 02 00", "1 bytes of data were answered instead of 2"),
            (one, "03 04 0001", "2 bytes of data were answered instead of 2"),
            (one, "03 02 000102", "3 bytes of data were answered instead of 2"),
            (one, "", "0 bytes of data were answered instead of 2"),
            (set, "06 0001 0004", "the answer tells of another address or value than was written"),
            (set, "06 0001", "3 bytes were answered instead of 5"),
        ] {
            assert!(request.parse(&hex(answered)).unwrap_err().to_string().contains(want), "{answered}: {want}");
        }
    }

    #[test]
    fn another_implementation_sends_the_same() {
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..2000 {
            let (address, count) = (random.u16(..), random.u16(1..=123));
            let values: Vec<u16> = (0..count).map(|_| random.u16(..)).collect();
            let mut theirs = ModbusRequest::new(17, ModbusProto::Rtu);
            let mut frame = Vec::new();
            let ask = match random.u8(..7) {
                0 => theirs.generate_get_coils(address, count, &mut frame).map(|()| (Table::Coil, count)).ok(),
                1 => theirs.generate_get_discretes(address, count, &mut frame).map(|()| (Table::Discrete, count)).ok(),
                2 => theirs.generate_get_holdings(address, count, &mut frame).map(|()| (Table::Holding, count)).ok(),
                3 => theirs.generate_get_inputs(address, count, &mut frame).map(|()| (Table::Input, count)).ok(),
                4 => theirs.generate_set_coil(address, count > 60, &mut frame).map(|()| None).unwrap(),
                5 => theirs.generate_set_holding(address, count, &mut frame).map(|()| None).unwrap(),
                _ => theirs.generate_set_holdings_bulk(address, &values, &mut frame).map(|()| None).unwrap(),
            };
            let ask = match (ask, frame[1]) {
                (Some((table, count)), _) => Ask::Read { table, address, count },
                (None, 5) => Ask::Coil { address, on: count > 60 },
                (None, 6) => Ask::Register { address, value: count },
                _ => Ask::Registers { address, values: &values },
            };
            let mut ours = [vec![17], Request { unit: 17, ask }.pdu()].concat();
            ours.extend(crc(&ours).to_le_bytes());
            assert_eq!(ours, frame, "{ask:?}");
        }
    }
}
