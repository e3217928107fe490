//! Sensors on an I2C bus: devices that the configuration describes by their registers, and drivers for common ones.

mod ads1115;
mod bme280;
mod config;
mod ina219;
mod registers;
mod sht4x;
#[cfg(test)]
mod tests;

use crate::{
    board::{Delay, I2cBus, I2cError, i2c_path, open_i2c},
    fault::Fault,
    kind::{Intake, Kind, Params, ParamsError, Source},
    sources::probe::{Probe, Probes, Taken, Trouble, Values},
};
use async_trait::async_trait;
use config::Config;
use embedded_hal::{delay::DelayNs, i2c::I2c};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

pub const KIND: Kind<dyn Source> = Kind {
    name: "i2c",
    about: "polls sensors on an I2C bus: BME280, ADS1115, INA219, SHT4x, and any other by its registers",
    example: r#"{
  "type": "i2c",
  "bus": "/dev/i2c-1",
  "every": "10s",
  "devices": {
    "air": { "driver": "bme280", "address": "0x76", "report": { "when": { "band": 0.1 }, "at_least": "10m" } },
    "soil": { "driver": "ads1115", "channels": {
      "moisture": { "input": "0", "range": "4.096V", "scale": 40, "offset": -10 } } },
    // A TMP102, from its datasheet: configuration at 1, temperature at 0 in the upper 12 bits, 0.0625 °C each.
    "pipe": { "address": "0x49", "writes": [{ "register": 1, "value": "0x60a0", "length": 2 }], "registers": {
      "temperature": { "register": 0, "length": 2, "signed": true, "shift": 4, "scale": 0.0625 } } } } }"#,
    schema: <Config as schemars::JsonSchema>::json_schema,
    build,
};

fn build(params: Params) -> Result<Box<dyn Source>, ParamsError> {
    let config: Config = params.decode()?;
    let mut source = Sensors { name: config.bus.clone(), bus: Bus::default(), probes: Probes::new("device", true) };
    for device in config.devices()? {
        let (bus, driver) = (source.bus.clone(), device.driver);
        let probe = Device { bus, delay: Delay, driver, started: false };
        source.probes.add(&device.name, device.every, device.fields, probe);
    }
    Ok(Box::new(source))
}

/// The bus, while it is open.
type Bus = Arc<Mutex<Option<I2cBus>>>;

struct Sensors {
    /// The bus as the configuration names it.
    name: String,
    bus: Bus,
    probes: Probes<Device<Delay>>,
}

#[async_trait]
impl Source for Sensors {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        self.open()?;
        self.probes.run(intake).await
    }
}

impl Sensors {
    /// Opens the bus, after it was closed.
    fn open(&self) -> Result<(), Fault> {
        let mut bus = match self.bus.try_lock() {
            Ok(bus) => bus,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Fault::retry(format!("`{}`: a transfer does not end", self.name)));
            }
        };
        *bus = None;
        *bus = Some(open_i2c(&i2c_path(&self.name)).map_err(Fault::retry)?);
        Ok(())
    }
}

/// A device on the bus.
struct Device<D> {
    bus: Bus,
    delay: D,
    driver: Driver,
    /// Whether it is set up. After a failure it is set up again, since its power may have failed.
    started: bool,
}

impl<D: DelayNs + Send + 'static> Probe for Device<D> {
    fn read(&mut self, tell: &mut dyn FnMut(Taken)) -> Result<(), Trouble> {
        let bus = self.bus.clone();
        let mut bus = bus.lock().unwrap_or_else(PoisonError::into_inner);
        let bus = bus.as_deref_mut().ok_or_else(|| Trouble::Gone("the bus is not open".into()))?;
        let started = std::mem::replace(&mut self.started, false);
        let read = match started {
            true => Ok(()),
            false => self.driver.start(bus, &mut self.delay),
        };
        match read.and_then(|()| self.driver.read(bus, &mut self.delay)) {
            Ok(values) => {
                self.started = true;
                tell(Taken::now(None, Ok(values)));
                Ok(())
            }
            Err(Wrong::Bus(I2cError { gone: true, .. })) => Err(Trouble::Gone("the bus is gone".into())),
            Err(Wrong::Bus(error)) => Err(Trouble::Failed(error.to_string())),
            Err(Wrong::Broken(why)) => Err(Trouble::Failed(why)),
        }
    }
}

/// Why a device gave no values.
#[derive(Debug)]
pub enum Wrong<E> {
    /// A transfer failed.
    Bus(E),
    /// What came cannot be true.
    Broken(String),
}

impl<E> From<E> for Wrong<E> {
    fn from(error: E) -> Self {
        Wrong::Bus(error)
    }
}

/// What knows how a device is spoken to.
#[derive(Clone, Debug)]
enum Driver {
    Registers(registers::Registers),
    Bme280(bme280::Bme280),
    Ads1115(ads1115::Ads1115),
    Ina219(ina219::Ina219),
    Sht4x(sht4x::Sht4x),
}

impl Driver {
    /// Sets the device up.
    fn start<B: I2c + ?Sized>(&mut self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<(), Wrong<B::Error>> {
        match self {
            Driver::Registers(device) => device.start(bus, delay),
            Driver::Bme280(sensor) => sensor.start(bus, delay),
            Driver::Sht4x(sensor) => sensor.start(bus, delay),
            // Each of their readings writes all that they need.
            Driver::Ads1115(_) | Driver::Ina219(_) => Ok(()),
        }
    }

    /// Measures once.
    fn read<B: I2c + ?Sized>(&self, bus: &mut B, delay: &mut dyn DelayNs) -> Result<Values, Wrong<B::Error>> {
        match self {
            Driver::Registers(device) => device.read(bus),
            Driver::Bme280(sensor) => sensor.read(bus, delay),
            Driver::Ads1115(sensor) => sensor.read(bus, delay),
            Driver::Ina219(sensor) => sensor.read(bus, delay),
            Driver::Sht4x(sensor) => sensor.read(bus, delay),
        }
    }
}

/// The value, or no number if it is out of its range.
fn between(least: f64, value: f64, most: f64) -> f64 {
    if (least..=most).contains(&value) { value } else { f64::NAN }
}

/// The sensors that often have an address, for `tidegate i2c scan`.
pub fn usual(address: u8) -> String {
    let (sht4x, others) =
        (sht4x::ADDRESSES.contains(&address), OTHERS.iter().filter(|(range, _)| range.contains(&address)));
    let known = [
        (bme280::ADDRESSES.contains(&address), "BME280"),
        (ads1115::ADDRESSES.contains(&address), "ADS1115"),
        (sht4x, "SHT4x"),
        (ina219::ADDRESSES.contains(&address), "INA219"),
    ];
    let known = known.into_iter().filter(|(is, _)| *is).map(|(_, name)| name);
    known.chain(others.map(|(_, name)| *name)).collect::<Vec<_>>().join(", ")
}

/// What else is often met; no driver is here for it.
const OTHERS: &[(std::ops::RangeInclusive<u8>, &str)] = &[
    (0x20..=0x27, "MCP23017 or PCF8574"),
    (0x23..=0x23, "BH1750"),
    (0x3c..=0x3d, "SSD1306"),
    (0x48..=0x4b, "TMP102 or LM75"),
    (0x50..=0x57, "EEPROM 24Cxx"),
    (0x5c..=0x5c, "BH1750"),
    (0x68..=0x68, "DS3231, DS1307 or MPU-6050"),
    (0x76..=0x77, "BMP280"),
];
