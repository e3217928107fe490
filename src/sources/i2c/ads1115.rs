//! ADS1115: four analog inputs with 16 bits. Sections are those of Texas Instruments' datasheet SBAS444D.

use super::{Values, Wrong};
use crate::systems::scale::{decimals, rounded};
use embedded_hal::{delay::DelayNs, i2c::I2c};
use schemars::JsonSchema;
use serde::Deserialize;

/// Its four addresses (table 4).
pub const ADDRESSES: std::ops::RangeInclusive<u8> = 0x48..=0x4b;

/// Registers (table 6).
const CONVERSION: u8 = 0;
const CONFIG: u8 = 1;
/// The config register (table 8): begin a conversion, or there is none under way; single shot; no comparator.
const START: u16 = 1 << 15;
const SINGLE: u16 = 1 << 8;
const NO_COMPARATOR: u16 = 3;
/// Asked so often whether a conversion is ready, with so long between.
const TRIES: u32 = 20;
const PAUSE_US: u32 = 500;
/// The slowest rate, which is off by 10 % at most (section 7.5).
const RATES: [u16; 8] = [8, 16, 32, 64, 128, 250, 475, 860];

/// Which pins are measured: one against ground, or one against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Input {
    #[serde(rename = "0")]
    A0,
    #[serde(rename = "1")]
    A1,
    #[serde(rename = "2")]
    A2,
    #[serde(rename = "3")]
    A3,
    #[serde(rename = "0-1")]
    A0A1,
    #[serde(rename = "0-3")]
    A0A3,
    #[serde(rename = "1-3")]
    A1A3,
    #[serde(rename = "2-3")]
    A2A3,
}

impl Input {
    /// Table 8, MUX.
    fn bits(self) -> u16 {
        match self {
            Input::A0A1 => 0,
            Input::A0A3 => 1,
            Input::A1A3 => 2,
            Input::A2A3 => 3,
            Input::A0 => 4,
            Input::A1 => 5,
            Input::A2 => 6,
            Input::A3 => 7,
        }
    }
}

/// Up to which voltage is measured, either way; never more than the supply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Range {
    #[serde(rename = "6.144V")]
    V6,
    #[serde(rename = "4.096V")]
    V4,
    #[default]
    #[serde(rename = "2.048V")]
    V2,
    #[serde(rename = "1.024V")]
    V1,
    #[serde(rename = "0.512V")]
    V05,
    #[serde(rename = "0.256V")]
    V025,
}

impl Range {
    /// Table 8, PGA, and the volts of one step (table 3).
    fn gain(self) -> (u16, f64) {
        match self {
            Range::V6 => (0, 187.5e-6),
            Range::V4 => (1, 125e-6),
            Range::V2 => (2, 62.5e-6),
            Range::V1 => (3, 31.25e-6),
            Range::V05 => (4, 15.625e-6),
            Range::V025 => (5, 7.8125e-6),
        }
    }
}

/// What is measured of one input.
#[derive(Clone, Debug)]
pub struct Channel {
    pub input: Input,
    pub range: Range,
    pub scale: Option<f64>,
    pub offset: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct Ads1115 {
    pub address: u8,
    pub channels: Vec<Channel>,
    /// Table 8, DR.
    rate: u16,
    wait_us: u32,
}

impl Ads1115 {
    /// With so many conversions a second. `None` if it has no such rate.
    pub fn new(address: u8, rate: u16, channels: Vec<Channel>) -> Option<Ads1115> {
        let at = RATES.iter().position(|known| *known == rate)?;
        // 10 % more, and 25 µs to wake up (section 9.4.2.1).
        let wait_us = 1_100_000 / u32::from(rate) + 25;
        Some(Ads1115 { address, channels, rate: at as u16, wait_us })
    }

    /// Measures the inputs one after another, each as a single shot (section 9.4.2.1).
    pub fn read<B: I2c + ?Sized>(&self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<Values, Wrong<B::Error>> {
        let mut values = Values::new();
        for channel in &self.channels {
            values.push(self.channel(channel, bus, delay)?).ok(); // there are no more than fit
        }
        Ok(values)
    }

    fn channel<B: I2c + ?Sized>(
        &self,
        channel: &Channel,
        bus: &mut B,
        delay: &mut dyn DelayNs,
    ) -> Result<f64, Wrong<B::Error>> {
        let (gain, step) = channel.range.gain();
        let config = START | channel.input.bits() << 12 | gain << 9 | SINGLE | self.rate << 5 | NO_COMPARATOR;
        let [high, low] = config.to_be_bytes();
        bus.write(self.address, &[CONFIG, high, low])?;
        delay.delay_us(self.wait_us);
        let mut word = |register| -> Result<u16, Wrong<B::Error>> {
            let mut bytes = [0; 2];
            bus.write_read(self.address, &[register], &mut bytes)?;
            Ok(u16::from_be_bytes(bytes))
        };
        let mut tries = 0;
        while word(CONFIG)? & START == 0 {
            tries += 1;
            if tries > TRIES {
                return Err(Wrong::Broken("its conversion does not end".into()));
            }
            delay.delay_us(PAUSE_US);
        }
        // Section 9.5.4: what is beyond the range is clipped to it.
        let raw = word(CONVERSION)? as i16;
        if raw == i16::MAX || raw == i16::MIN {
            return Ok(f64::NAN);
        }
        let volts = f64::from(raw) * step;
        let value = volts * channel.scale.unwrap_or(1.0) + channel.offset.unwrap_or(0.0);
        // A step has 7 decimals at most.
        Ok(rounded(value, (7 + decimals(channel.scale.unwrap_or(1.0))).min(12)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NoDelay, script};
    use super::*;

    fn one(input: Input, range: Range, rate: u16) -> Ads1115 {
        Ads1115::new(0x48, rate, vec![Channel { input, range, scale: None, offset: None }]).unwrap()
    }

    /// The codes of table 5 and figure 27, the steps of table 3, the bits of table 8.
    #[test]
    fn codes_become_volts() {
        for (input, range, rate, config, code, want) in [
            (Input::A0, Range::V2, 128, "c583", "0001", 0.0000625),
            (Input::A1, Range::V2, 128, "d583", "ffff", -0.0000625),
            (Input::A2, Range::V6, 8, "e103", "4000", 3.072),
            (Input::A3, Range::V4, 860, "f3e3", "7ffe", 4.09575),
            (Input::A0A1, Range::V1, 16, "8723", "c000", -0.512),
            (Input::A0A3, Range::V05, 250, "99a3", "2000", 0.128),
            (Input::A1A3, Range::V025, 475, "abc3", "0001", 0.0000078),
            (Input::A2A3, Range::V025, 64, "bb63", "8001", -0.2559922),
            (Input::A0, Range::V2, 32, "c543", "7fff", f64::NAN),
            (Input::A0, Range::V2, 32, "c543", "8000", f64::NAN),
        ] {
            let write = format!("01{config}");
            // Not ready when it is asked first.
            let mut bus = script(&[(0x48, &write, ""), (0x48, "01", "0583"), (0x48, "01", "8583"), (0x48, "00", code)]);
            let told = one(input, range, rate).read(&mut bus, &mut NoDelay).unwrap()[0];
            assert_eq!(format!("{told}"), format!("{want}"), "{config}");
            bus.end();
        }
        assert!(Ads1115::new(0x48, 100, Vec::new()).is_none());
    }

    #[test]
    fn a_conversion_without_end_is_told() {
        let mut steps = vec![(0x48, "01c583", "")];
        steps.extend([(0x48, "01", "0583"); 21]);
        let mut bus = script(&steps);
        let told = one(Input::A0, Range::V2, 128).read(&mut bus, &mut NoDelay).unwrap_err();
        assert!(matches!(told, Wrong::Broken(_)), "{told:?}");
        bus.end();
    }
}
