//! INA219: voltage, current and power of a supply. Sections are those of Texas Instruments' datasheet SBOS448G.

use super::{Values, Wrong};
use crate::systems::scale::rounded;
use embedded_hal::{delay::DelayNs, i2c::I2c};

/// Its 16 addresses (table 1).
pub const ADDRESSES: std::ops::RangeInclusive<u8> = 0x40..=0x4f;
pub const FIELDS: &[&str] = &["voltage", "current", "power"];

/// Registers (table 2).
const CONFIGURATION: u8 = 0;
const BUS_VOLTAGE: u8 = 2;
const POWER: u8 = 3;
const CURRENT: u8 = 4;
const CALIBRATION: u8 = 5;
/// The bus voltage register (section 8.6.3.2): whether a conversion is ready, and whether the chip's arithmetic overflowed.
const READY: u16 = 1 << 1;
const OVERFLOW: u16 = 1;
/// Fixed by the chip's arithmetic (section 8.5.1, equation 1).
const SCALE: f64 = 0.04096;
/// The shunt voltages that it measures to, in volts, with the bits that choose them (table 4).
const RANGES: [(f64, u16); 4] = [(0.04, 0), (0.08, 1), (0.16, 2), (0.32, 3)];
/// Asked so often whether a conversion is ready, with so long between.
const TRIES: u32 = 20;
const PAUSE_US: u32 = 500;

#[derive(Clone, Debug)]
pub struct Ina219 {
    pub address: u8,
    configuration: u16,
    calibration: u16,
    /// Amperes of one step.
    step: f64,
    wait_us: u32,
}

impl Ina219 {
    /// With a shunt of so many ohms, for currents up to so many amperes, over so many samples. The error: which field is wrong,
    /// and why.
    pub fn new(address: u8, shunt: f64, most: f64, samples: u8) -> Result<Ina219, (&'static str, String)> {
        if !(1e-6..=1000.0).contains(&shunt) {
            return Err(("shunt", "expected the ohms of the shunt, 0.000001 to 1000".into()));
        }
        let volts = shunt * most;
        let range = RANGES.iter().find(|(range, _)| volts > 0.0 && volts <= range + 1e-9);
        let Some((_, range)) = range else {
            let most = rounded(0.32 / shunt, 6);
            return Err(("max_current", format!("expected amperes above 0, with this shunt at most {most}")));
        };
        if !(1..=128).contains(&samples) || !samples.is_power_of_two() {
            return Err(("samples", "expected 1, 2, 4, 8, 16, 32, 64 or 128".into()));
        }
        // Section 8.5.1, equations 1 and 2. The register's lowest bit is always 0 (section 8.6.4.1).
        let step = most / 32_768.0;
        let calibration = (SCALE / (step * shunt)).clamp(2.0, 65_534.0) as u16 & !1;
        // Table 5: 1000 is one sample of 12 bits, 1001 two … 1111 128; one takes 586 µs at most, of both voltages in turn.
        let adc = 8 + samples.trailing_zeros() as u16;
        let wait_us = 2 * 586 * u32::from(samples);
        // Table 3: 32 V, the shunt's range, both resolutions, and mode 3: shunt and bus, once.
        let configuration = 1 << 13 | range << 11 | adc << 7 | adc << 3 | 3;
        Ok(Ina219 { address, configuration, calibration, step: SCALE / (f64::from(calibration) * shunt), wait_us })
    }

    /// A measurement. All is written each time, since a chip whose power failed meanwhile has forgotten its calibration and
    /// would tell 0 A.
    pub fn read<B: I2c + ?Sized>(&self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<Values, Wrong<B::Error>> {
        for (register, value) in [(CALIBRATION, self.calibration), (CONFIGURATION, self.configuration)] {
            let [high, low] = value.to_be_bytes();
            bus.write(self.address, &[register, high, low])?;
        }
        delay.delay_us(self.wait_us);
        let mut word = |register| -> Result<u16, Wrong<B::Error>> {
            let mut bytes = [0; 2];
            bus.write_read(self.address, &[register], &mut bytes)?;
            Ok(u16::from_be_bytes(bytes))
        };
        let mut voltage = word(BUS_VOLTAGE)?;
        let mut tries = 0;
        while voltage & READY == 0 {
            tries += 1;
            if tries > TRIES {
                return Err(Wrong::Broken("its measurement does not end".into()));
            }
            delay.delay_us(PAUSE_US);
            voltage = word(BUS_VOLTAGE)?;
        }
        let current = f64::from(word(CURRENT)? as i16) * self.step;
        // Equation 3: a step of the power is 20 of the current. Reading it clears the ready bit.
        let power = f64::from(word(POWER)?) * self.step * 20.0;
        // Section 8.6.3.2: then current and power mean nothing.
        let valid = |value: f64| if voltage & OVERFLOW == 0 { rounded(value, 6) } else { f64::NAN };
        // 4 mV a step, above the three lowest bits.
        let volts = rounded(f64::from(voltage >> 3) * 0.004, 3);
        Ok(Values::from_array([volts, valid(current), valid(power)]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NoDelay, script};
    use super::*;

    /// Section 9.2.2.1, the registers of the example circuit: 10 A at 12 V through 2 mOhm, where a step is 1 mA.
    #[test]
    fn the_example_of_the_datasheet() {
        let sensor = Ina219::new(0x40, 0.002, 32.768, 1).unwrap();
        assert_eq!((sensor.calibration, (sensor.step * 1e9).round()), (0x5000, 1e6));
        let want = Values::from_array([11.98, 10.0, 119.8]);
        // 32 V, ±80 mV, 12 bits, once; 5D98h of the example with the ready bit; 2710h; 1766h.
        let mut bus = script(&[
            (0x40, "055000", ""),
            (0x40, "002c43", ""),
            (0x40, "02", "5d98"),
            (0x40, "02", "5d9a"),
            (0x40, "04", "2710"),
            (0x40, "03", "1766"),
        ]);
        assert_eq!(sensor.read(&mut bus, &mut NoDelay).unwrap(), want);
        bus.end();
    }

    #[test]
    fn an_overflow_and_a_conversion_without_end_are_no_values() {
        let sensor = Ina219::new(0x41, 0.1, 3.2, 128).unwrap();
        assert_eq!((sensor.calibration, sensor.configuration), (4194, 0x3fff & !4));
        let begin = [(0x41, "051062", ""), (0x41, "003ffb", "")];
        let mut bus =
            script(&[&begin[..], &[(0x41, "02", "5d9b"), (0x41, "04", "8000"), (0x41, "03", "0000")]].concat());
        let told = sensor.read(&mut bus, &mut NoDelay).unwrap();
        assert!(told[0] == 11.98 && told[1].is_nan() && told[2].is_nan(), "{told:?}");
        let mut bus = script(&[&begin[..], &[(0x41, "02", "5d98"); 21]].concat());
        let told = sensor.read(&mut bus, &mut NoDelay).unwrap_err();
        assert!(matches!(told, Wrong::Broken(_)), "{told:?}");
        bus.end();
    }

    #[test]
    fn wrong_figures_are_refused() {
        for (shunt, most, samples, field) in [
            (0.0, 1.0, 1, "shunt"),
            (f64::NAN, 1.0, 1, "shunt"),
            (0.1, 3.3, 1, "max_current"),
            (0.1, 0.0, 1, "max_current"),
            (0.1, f64::NAN, 1, "max_current"),
            (0.1, 1.0, 3, "samples"),
            (0.1, 1.0, 0, "samples"),
        ] {
            assert_eq!(Ina219::new(0x40, shunt, most, samples).err().unwrap().0, field, "{shunt} {most} {samples}");
        }
        // Very small currents: the register has no more than 16 bits.
        assert_eq!(Ina219::new(0x40, 0.1, 0.001, 1).unwrap().calibration, 65_534);
    }
}
