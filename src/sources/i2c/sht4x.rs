//! SHT40, SHT41, SHT43 and SHT45, temperature and humidity. Sections are those of Sensirion's datasheet "SHT4x", by their titles,
//! since their numbers differ between its versions.

use super::{Values, Wrong, between};
use crate::systems::scale::rounded;
use embedded_hal::{delay::DelayNs, i2c::I2c};
use schemars::JsonSchema;
use serde::Deserialize;

/// Addresses of the SHT4x-A, -B and -C ("Ordering Information").
pub const ADDRESSES: [u8; 3] = [0x44, 0x45, 0x46];
pub const FIELDS: &[&str] = &["temperature", "humidity"];

/// "Command Overview": soft reset; it takes 1 ms ("Timings").
const RESET: u8 = 0x94;
const RESET_US: u32 = 1_000;

/// How exactly it measures; more takes longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Low,
    Medium,
    #[default]
    High,
}

impl Precision {
    /// The command ("Command Overview"), and how long it takes at most, in microseconds ("Timings").
    fn command(self) -> (u8, u32) {
        match self {
            Precision::Low => (0xe0, 1_600),
            Precision::Medium => (0xf6, 4_500),
            Precision::High => (0xfd, 8_300),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Sht4x {
    pub address: u8,
    pub precision: Precision,
}

impl Sht4x {
    pub fn start<B: I2c + ?Sized>(&self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<(), Wrong<B::Error>> {
        bus.write(self.address, &[RESET])?;
        delay.delay_us(RESET_US);
        Ok(())
    }

    /// A measurement: two words, each with its checksum.
    pub fn read<B: I2c + ?Sized>(&self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<Values, Wrong<B::Error>> {
        let (command, wait_us) = self.precision.command();
        bus.write(self.address, &[command])?;
        delay.delay_us(wait_us);
        let mut bytes = [0; 6];
        bus.read(self.address, &mut bytes)?;
        let [t0, t1, tc, h0, h1, hc] = bytes;
        if crc(&[t0, t1]) != tc || crc(&[h0, h1]) != hc {
            return Err(Wrong::Broken("a wrong checksum".into()));
        }
        let share = |high, low| f64::from(u16::from_be_bytes([high, low])) / 65_535.0;
        // "Conversion of Signal Output": the sensor may tell a little less than 0 % and more than 100 %, which is cropped.
        let temperature = rounded(-45.0 + 175.0 * share(t0, t1), 2);
        let humidity = rounded((-6.0 + 125.0 * share(h0, h1)).clamp(0.0, 100.0), 2);
        // "Temperature": it measures from -40 to 125 °C.
        Ok(Values::from_array([between(-40.0, temperature, 125.0), humidity]))
    }
}

/// "Checksum Calculation": CRC-8 with the polynomial 0x31, from 0xff.
fn crc(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0xff, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc: u8, _| if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x31 })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NoDelay, script};
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_datasheet() {
        assert_eq!(crc(&[0xbe, 0xef]), 0x92);
    }

    #[test]
    fn words_become_values() {
        let sensor = Sht4x { address: 0x44, precision: Precision::High };
        for (answer, want) in [
            // 25 °C is 0.4 of the range, 50 % is 0.448 of it.
            (answer(0x6666, 0x72b0), Ok([25.0, 50.0])),
            (answer(0, 0), Ok([f64::NAN, 0.0])), // below what it can measure
            (answer(0xffff, 0xffff), Ok([f64::NAN, 100.0])),
            ("6666930000ff".into(), Err("a wrong checksum")),
            ("666600000081".into(), Err("a wrong checksum")),
        ] {
            let mut bus = script(&[(0x44, "fd", ""), (0x44, "", &answer)]);
            let told = sensor.read(&mut bus, &mut NoDelay);
            match (told, want) {
                (Ok(told), Ok(want)) => assert_eq!(format!("{told:?}"), format!("{want:?}")),
                (Err(Wrong::Broken(told)), Err(want)) => assert_eq!(told, want),
                (told, _) => panic!("{answer}: {told:?}"),
            }
            bus.end();
        }
        for (precision, command) in [(Precision::Low, "e0"), (Precision::Medium, "f6")] {
            let mut bus = script(&[(0x45, "94", ""), (0x45, command, ""), (0x45, "", &answer(0x6666, 0x72b0))]);
            let sensor = Sht4x { address: 0x45, precision };
            sensor.start(&mut bus, &mut NoDelay).unwrap();
            sensor.read(&mut bus, &mut NoDelay).unwrap();
            bus.end();
        }
    }

    fn answer(temperature: u16, humidity: u16) -> String {
        let word = |word: u16| format!("{word:04x}{:02x}", crc(&word.to_be_bytes()));
        word(temperature) + &word(humidity)
    }
}
