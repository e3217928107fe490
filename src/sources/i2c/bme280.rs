//! BME280: temperature, humidity and pressure. Sections are those of Bosch's datasheet BST-BME280-DS001, revision 1.23.

use super::{Values, Wrong, between};
use crate::systems::scale::rounded;
use embedded_hal::{delay::DelayNs, i2c::I2c};

/// Its two addresses (section 6.2).
pub const ADDRESSES: [u8; 2] = [0x76, 0x77];
pub const FIELDS: &[&str] = &["temperature", "humidity", "pressure"];

/// Registers (section 5.3, table 18).
const CALIBRATION_1: u8 = 0x88;
const ID: u8 = 0xd0;
const RESET: u8 = 0xe0;
const CALIBRATION_2: u8 = 0xe1;
const CTRL_HUM: u8 = 0xf2;
const STATUS: u8 = 0xf3;
const CTRL_MEAS: u8 = 0xf4;
const DATA: u8 = 0xf7;
/// Section 5.4.1; a BMP280 says 0x58.
const CHIP: u8 = 0x60;
/// Section 5.4.2; it starts within 2 ms (section 1.1, table 1).
const RESET_WORD: u8 = 0xb6;
const START_US: u32 = 2_000;
/// Section 5.4.4: it measures, or still copies its calibration.
const MEASURING: u8 = 1 << 3;
const COPYING: u8 = 1;
/// Asked so often whether it is done, with so long between.
const TRIES: u32 = 10;
const PAUSE_US: u32 = 1_000;

#[derive(Clone, Debug)]
pub struct Bme280 {
    address: u8,
    /// How each value is oversampled: 1 for once, 2 for twice, 3 for four times …
    oversampling: u8,
    calibration: Calibration,
}

/// What each chip was found to be like (section 4.2.2, table 16).
#[derive(Clone, Debug, Default, PartialEq)]
struct Calibration {
    t1: i32,
    t: [i32; 2],
    p1: i64,
    p: [i64; 8],
    h: [i64; 6],
}

impl Bme280 {
    /// With the average of so many measurements. `None` if it cannot do so many.
    pub fn new(address: u8, oversampling: u8) -> Option<Bme280> {
        let valid = oversampling.is_power_of_two() && oversampling <= 16;
        let oversampling = oversampling.trailing_zeros() as u8 + 1;
        valid.then(|| Bme280 { address, oversampling, calibration: Calibration::default() })
    }

    /// Sees that it is one, resets it, and reads its calibration.
    pub fn start<B: I2c + ?Sized>(&mut self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<(), Wrong<B::Error>> {
        let mut id = [0];
        bus.write_read(self.address, &[ID], &mut id)?;
        match id[0] {
            CHIP => {}
            0x58 => return Err(Wrong::Broken("it is a BMP280, which has no humidity, and no BME280".into())),
            other => return Err(Wrong::Broken(format!("it is no BME280: its id is {other:#04x}, not {CHIP:#04x}"))),
        }
        bus.write(self.address, &[RESET, RESET_WORD])?;
        delay.delay_us(START_US);
        self.wait(COPYING, bus, delay)?;
        let (mut first, mut second) = ([0; 26], [0; 7]);
        bus.write_read(self.address, &[CALIBRATION_1], &mut first)?;
        bus.write_read(self.address, &[CALIBRATION_2], &mut second)?;
        self.calibration = Calibration::new(&first, &second).ok_or(Wrong::Broken("its calibration is empty".into()))?;
        Ok(())
    }

    /// One measurement in forced mode (section 3.3.3). Both control registers are written each time, so a chip whose power failed
    /// meanwhile measures all the same.
    pub fn read<B: I2c + ?Sized>(&self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<Values, Wrong<B::Error>> {
        let samples = self.oversampling;
        bus.write(self.address, &[CTRL_HUM, samples])?;
        bus.write(self.address, &[CTRL_MEAS, samples << 5 | samples << 2 | 1])?;
        // Section 9.1, the longest it takes: 1.25 ms, 2.3 ms for each sample, and 0.575 ms each for pressure and humidity.
        delay.delay_us(1_250 + 3 * 2_300 * (1 << (samples - 1)) + 2 * 575);
        self.wait(MEASURING, bus, delay)?;
        let mut data = [0; 8];
        bus.write_read(self.address, &[DATA], &mut data)?;
        let [p0, p1, p2, t0, t1, t2, h0, h1] = data.map(i32::from);
        let raw = [t0 << 12 | t1 << 4 | t2 >> 4, h0 << 8 | h1, p0 << 12 | p1 << 4 | p2 >> 4];
        Ok(self.calibration.values(raw))
    }

    /// Waits until a bit of the status is 0.
    fn wait<B: I2c + ?Sized>(&self, bit: u8, bus: &mut B, delay: &mut dyn DelayNs) -> Result<(), Wrong<B::Error>> {
        for _ in 0..TRIES {
            let mut status = [0];
            bus.write_read(self.address, &[STATUS], &mut status)?;
            if status[0] & bit == 0 {
                return Ok(());
            }
            delay.delay_us(PAUSE_US);
        }
        Err(Wrong::Broken("its measurement does not end".into()))
    }
}

impl Calibration {
    /// From registers 0x88 to 0xa1 and 0xe1 to 0xe7. `None` if nothing is there.
    fn new(first: &[u8; 26], second: &[u8; 7]) -> Option<Calibration> {
        let word = |at: usize| u16::from_le_bytes([first[at], first[at + 1]]);
        let signed = |at: usize| word(at) as i16;
        let [e1, e2, e3, e4, e5, e6, e7] = *second;
        // 12 bits each: E5 has the lower four of H4, and the lower four of H5 in its upper half.
        let twelve = |high: u8, low: u8| i64::from(high as i8) << 4 | i64::from(low);
        let calibration = Calibration {
            t1: word(0).into(),
            t: [2, 4].map(|at| signed(at).into()),
            p1: word(6).into(),
            p: [8, 10, 12, 14, 16, 18, 20, 22].map(|at| signed(at).into()),
            h: [
                first[25].into(),
                i16::from_le_bytes([e1, e2]).into(),
                e3.into(),
                twelve(e4, e5 & 15),
                twelve(e6, e5 >> 4),
                (e7 as i8).into(),
            ],
        };
        let empty = |word: i64| word == 0 || word == 0xffff;
        (!empty(calibration.t1.into()) && !empty(calibration.p1)).then_some(calibration)
    }

    /// °C, % and hPa of raw temperature, humidity and pressure; no number for what is out of the range of section 1, tables 1
    /// to 4.
    fn values(&self, [temperature, humidity, pressure]: [i32; 3]) -> Values {
        let fine = self.fine(temperature);
        let celsius = between(-40.0, f64::from((fine * 5 + 128) >> 8) / 100.0, 85.0);
        let fine = i64::from(fine);
        let percent = rounded(self.humidity(fine, humidity.into()) as f64 / 1024.0, 2);
        let hectopascals = self.pressure(fine, pressure.into()).map_or(f64::NAN, |p| rounded(p as f64 / 25_600.0, 2));
        // What the chip says of a value that it did not measure (section 5.4.7 to 5.4.9).
        let there = |value: f64, raw: i32, none: i32| if raw == none { f64::NAN } else { value };
        Values::from_array([
            there(celsius, temperature, 0x80000),
            there(between(0.0, percent, 100.0), humidity, 0x8000),
            there(between(300.0, hectopascals, 1100.0), pressure, 0x80000),
        ])
    }

    /// `t_fine` of section 4.2.3, `BME280_compensate_T_int32`, where 5120 is 1 °C.
    fn fine(&self, raw: i32) -> i32 {
        let (raw, t1, [t2, t3]) = (i64::from(raw), i64::from(self.t1), self.t.map(i64::from));
        let first = (((raw >> 3) - (t1 << 1)) * t2) >> 11;
        let distance = (raw >> 4) - t1;
        let second = (((distance * distance) >> 12) * t3) >> 14;
        // With any calibration below 2^24: 17 bits by 16, shifted by 11, and 34 by 16, shifted by 26.
        (first + second) as i32
    }

    /// Section 4.2.3, `BME280_compensate_P_int64`: Pa in 24.8 bits. Wider than there, so that no calibration overflows.
    fn pressure(&self, fine: i64, raw: i64) -> Option<i64> {
        let [p2, p3, p4, p5, p6, p7, p8, p9] = self.p.map(i128::from);
        let fine = i128::from(fine) - 128_000;
        let second = fine * fine * p6 + ((fine * p5) << 17) + (p4 << 35);
        let first = ((fine * fine * p3) >> 8) + ((fine * p2) << 12);
        let first = (((1 << 47) + first) * i128::from(self.p1)) >> 33;
        if first == 0 {
            return None;
        }
        let p = ((((1_048_576 - i128::from(raw)) << 31) - second) * 3125) / first;
        // Ten times what it can measure is no pressure.
        let p = (0..1 << 40).contains(&p).then_some(p)?;
        let (first, second) = ((p9 * (p >> 13) * (p >> 13)) >> 25, (p8 * p) >> 19);
        i64::try_from(((p + first + second) >> 8) + (p7 << 4)).ok()
    }

    /// Section 4.2.3, `bme280_compensate_H_int32`: % in 22.10 bits. Wider than there, as above.
    fn humidity(&self, fine: i64, raw: i64) -> i64 {
        let [h1, h2, h3, h4, h5, h6] = self.h.map(i128::from);
        let fine = i128::from(fine) - 76_800;
        let slope = ((((fine * h6) >> 10) * (((fine * h3) >> 11) + 32_768)) >> 10) + 2_097_152;
        let x = (((i128::from(raw) << 14) - (h4 << 20) - h5 * fine + 16_384) >> 15) * ((slope * h2 + 8192) >> 14);
        let x = x - (((((x >> 15) * (x >> 15)) >> 7) * h1) >> 4);
        (x.clamp(0, 419_430_400) >> 12) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NoDelay, script};
    use super::*;

    /// Bosch's own example: BMP280 datasheet, section 3.12, whose formulas for temperature and pressure are the same.
    fn example() -> Calibration {
        Calibration {
            t1: 27_504,
            t: [26_435, -1000],
            p1: 36_477,
            p: [-10_685, 3024, 2855, 140, -7, 15_500, -14_600, 6000],
            h: [75, 362, 0, 319, 50, 30],
        }
    }

    #[test]
    fn the_example_of_the_datasheet() {
        let calibration = example();
        assert_eq!(calibration.fine(519_888), 128_422);
        // There 25767236, which is 100653.27 Pa, by floating point all the way; the integer formula gives 0.01 Pa less.
        assert_eq!(calibration.pressure(128_422, 415_148), Some(25_767_233));
        let values = calibration.values([519_888, 0x6000, 415_148]);
        assert_eq!((values[0], values[2]), (25.08, 1006.53));
    }

    /// Section 8.1, `bme280_compensate_H_double`.
    fn humidity(c: &Calibration, fine: f64, raw: f64) -> f64 {
        let [h1, h2, h3, h4, h5, h6] = c.h.map(|h| h as f64);
        let t = fine - 76_800.0;
        let h = (raw - (h4 * 64.0 + h5 / 16_384.0 * t))
            * (h2 / 65_536.0 * (1.0 + h6 / 67_108_864.0 * t * (1.0 + h3 / 67_108_864.0 * t)));
        (h * (1.0 - h1 * h / 524_288.0)).clamp(0.0, 100.0)
    }

    #[test]
    fn humidity_is_that_of_the_formula_in_floating_point() {
        for fine in [-100_000, 0, 76_800, 128_422, 300_000] {
            for raw in (20_000..45_000).step_by(500) {
                let calibration = example();
                let (told, want) =
                    (calibration.humidity(fine, raw) as f64 / 1024.0, humidity(&calibration, fine as f64, raw as f64));
                assert!((told - want).abs() < 0.03, "{fine} {raw}: {told}, not {want}");
            }
        }
    }

    #[test]
    fn no_calibration_and_no_data_can_harm() {
        for byte in [0x00, 0x01, 0x7f, 0x80, 0x81, 0xfe] {
            let Some(calibration) = Calibration::new(&[byte; 26], &[byte; 7]) else { continue };
            for raw in [0, 1, 0x7ffff, 0x80000, 0xfffff] {
                for value in calibration.values([raw, raw & 0xffff, raw]) {
                    assert!(value.is_nan() || (-40.0..=1100.0).contains(&value), "{byte} {raw}: {value}");
                }
            }
        }
        assert_eq!(Calibration::new(&[0; 26], &[0; 7]), None);
        assert_eq!(Calibration::new(&[0xff; 26], &[0xff; 7]), None);
        let values = example().values([0x80000, 0x8000, 0x80000]);
        assert!(values.iter().all(|value| value.is_nan()), "{values:?}");
    }

    /// The registers of the example, as a chip has them.
    const FIRST: &str = "706b4367 18fc 7d8e 43d6 d00b 270b 8c00 f9ff 8c3c f8c6 7017 00 4b";
    const SECOND: &str = "6a01 00 13 2f 03 1e";

    #[test]
    fn a_chip_is_started_and_read() {
        let mut sensor = Bme280::new(0x76, 2).unwrap();
        let mut bus = script(&[
            (0x76, "d0", "60"),
            (0x76, "e0b6", ""),
            (0x76, "f3", "01"),
            (0x76, "f3", "00"),
            (0x76, "88", FIRST),
            (0x76, "e1", SECOND),
            (0x76, "f202", ""),
            (0x76, "f449", ""),
            (0x76, "f3", "08"),
            (0x76, "f3", "00"),
            (0x76, "f7", "655ac0 7eed00 6d60"),
        ]);
        sensor.start(&mut bus, &mut NoDelay).unwrap();
        assert_eq!(sensor.calibration, example());
        let values = sensor.read(&mut bus, &mut NoDelay).unwrap();
        let percent = rounded(humidity(&example(), 128_422.0, 28_000.0), 1);
        assert_eq!((values[0], rounded(values[1], 1), values[2]), (25.08, percent, 1006.53));
        bus.end();
    }

    #[test]
    fn what_is_no_bme280_is_told() {
        for (id, want) in [("58", "it is a BMP280"), ("ff", "it is no BME280: its id is 0xff, not 0x60")] {
            let mut bus = script(&[(0x77, "d0", id)]);
            match Bme280::new(0x77, 1).unwrap().start(&mut bus, &mut NoDelay).unwrap_err() {
                Wrong::Broken(why) => assert!(why.starts_with(want), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(Bme280::new(0x76, 3).is_none() && Bme280::new(0x76, 0).is_none() && Bme280::new(0x76, 32).is_none());
    }
}
