//! What the configuration says.

use super::{
    Driver,
    ads1115::{self, Ads1115, Channel, Input, Range},
    bme280::{self, Bme280},
    ina219::{self, Ina219},
    registers::{Register, Registers, Write},
    sht4x::{self, Precision, Sht4x},
};
use crate::{
    budget::Span,
    kind::ParamsError,
    sources::{
        probe::{MOST_PLACES, MOST_VALUES, checked_every, checked_name},
        report::Policy,
    },
    systems::scale,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

/// Polls sensors on an I2C bus. Each is read at its own period, and becomes one event a reading:
/// `{"device":"air","temperature":21.5,"humidity":40.2,"pressure":1013.2}`, with the values that their `report` lets through (no
/// event if that is none); its time is when it was read, its key the device. A device that does not answer is tried at growing
/// intervals, to a minute, and set up anew when it does; the others keep their periods. While the store takes nothing, the last
/// 256 readings are kept; what is lost before an event stands in it as `lost`. `tidegate i2c scan` shows who is on a bus.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// The bus: `/dev/i2c-1`, its number `"1"`, or its name in the board's data, `i2c-1`.
    pub bus: String,
    /// How often devices are read that do not say it, 10 ms at least.
    every: Span,
    /// The devices, by names; at most 64.
    devices: BTreeMap<String, DeviceConfig>,
}

/// A device: a `driver` and its settings, or `registers`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct DeviceConfig {
    /// What it is; without: what `registers` say. `bme280` has the values `temperature` (°C), `humidity` (%) and `pressure` (hPa),
    /// `sht4x` `temperature` and `humidity`, `ina219` `voltage` (V), `current` (A) and `power` (W), `ads1115` its `channels` (V).
    driver: Option<Name>,
    /// Its address, 8 to 119: a number, or `"0x76"`. Without: that which the driver's chip usually has.
    address: Option<Number>,
    /// How often it is read. Without: as the source says.
    every: Option<Span>,
    /// When a value is told, for those that do not say it.
    report: Policy,
    /// When values of a driver are told, by their names.
    reports: BTreeMap<String, Policy>,
    /// Values of a device without a driver, by names; at most 16.
    registers: BTreeMap<String, RegisterConfig>,
    /// Bytes of a register's number: 1, or 2 with the high one first. Without: 1.
    register_size: Option<u8>,
    /// What is written first, and again after the device did not answer: at most 32.
    writes: Vec<WriteConfig>,
    /// Of `bme280`: the mean of 1, 2, 4, 8 or 16 measurements. Without: 1.
    oversampling: Option<u8>,
    /// Of `sht4x`: `low`, `medium` or `high`. Without: `high`.
    precision: Option<Precision>,
    /// Of `ina219`: the ohms of the shunt. Without: 0.1, as on most boards.
    shunt: Option<f64>,
    /// Of `ina219`: the most amperes to be measured; less is measured more finely. Without: what the shunt allows, 0.32 V.
    max_current: Option<f64>,
    /// Of `ina219`: the mean of 1, 2, 4 … 128 measurements. Without: 1.
    samples: Option<u8>,
    /// Of `ads1115`: conversions a second, 8, 16, 32, 64, 128, 250, 475 or 860; fewer have less noise. Without: 128.
    rate: Option<u16>,
    /// Of `ads1115`: the inputs, by the names of their values.
    channels: BTreeMap<String, ChannelConfig>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Name {
    Bme280,
    Ads1115,
    Ina219,
    Sht4x,
}

/// A value in a register.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RegisterConfig {
    /// Its number, such as 5 or `"0x05"`.
    register: Number,
    /// Bytes: 1 to 4.
    #[serde(default = "one")]
    length: u8,
    /// Which byte comes first: the most significant, `big`, or `little`.
    #[serde(default)]
    bytes: Order,
    /// Whether the highest bit that counts is a sign.
    #[serde(default)]
    signed: bool,
    /// The bits that count, such as `"0x0fff"`. Without: all.
    mask: Option<Number>,
    /// By how many bits the value is moved down, after the mask.
    #[serde(default)]
    shift: u8,
    /// The number is multiplied by this…
    scale: Option<f64>,
    /// …and then this is added.
    offset: Option<f64>,
    /// When it is told. Without: as the device says.
    report: Option<Policy>,
}

/// Which byte comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Big,
    Little,
}

/// A register that is written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteConfig {
    register: Number,
    /// What is written there, the most significant byte first.
    value: Number,
    /// Bytes of it: 1 to 4.
    #[serde(default = "one")]
    length: u8,
    /// How long the device needs then, at most 1s.
    #[serde(default = "none")]
    wait: Span,
}

/// An input of an ADS1115.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChannelConfig {
    /// The pin, `"0"` to `"3"`, or two for their difference: `"0-1"`, `"0-3"`, `"1-3"`, `"2-3"`.
    input: Input,
    /// Up to which voltage it is measured: `6.144V`, `4.096V`, `2.048V`, `1.024V`, `0.512V` or `0.256V`; less is measured more finely.
    #[serde(default)]
    range: Range,
    /// The volts are multiplied by this…
    scale: Option<f64>,
    /// …and then this is added.
    offset: Option<f64>,
    /// When it is told. Without: as the device says.
    report: Option<Policy>,
}

fn one() -> u8 {
    1
}
fn none() -> Span {
    Span::millis(0)
}

/// A number as datasheets write it: 118, or `"0x76"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0, or one such as \"0x76\"")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(number), &self);
                u32::try_from(number).map(Number).map_err(wrong)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Signed(number), &self);
                u32::try_from(number).map(Number).map_err(wrong)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                number.map(Number).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        de.deserialize_any(Visitor)
    }
}

impl JsonSchema for Number {
    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 0, "pattern": "^0x[0-9a-fA-F]{1,8}$", "examples": ["0x76"] })
    }
}

/// A device as it is read.
pub(super) struct DevicePlan {
    pub name: String,
    pub every: Duration,
    pub fields: Vec<(String, Policy)>,
    pub driver: Driver,
}

type Wrong = (String, String);

impl Config {
    pub fn devices(self) -> Result<Vec<DevicePlan>, ParamsError> {
        if self.bus.trim().is_empty() || self.bus.contains(char::is_control) {
            return Err(ParamsError::at("bus", "expected a bus, such as `/dev/i2c-1`"));
        }
        checked_every(self.every).map_err(|why| ParamsError::at("every", why))?;
        if self.devices.is_empty() || self.devices.len() > MOST_PLACES {
            return Err(ParamsError::at("devices", format!("expected 1 to {MOST_PLACES}")));
        }
        let mut taken = BTreeMap::new();
        let mut plans = Vec::new();
        for (name, config) in self.devices {
            let under = |(field, why): Wrong| ParamsError::at(format!("devices.{name}{field}"), why);
            checked_name(&name, &[]).map_err(|why| under((String::new(), why)))?;
            let address = config.address().map_err(|(field, why)| under((format!(".{field}"), why)))?;
            if let Some(other) = taken.insert(address, name.clone())
                && config.driver.is_some()
            {
                let why = format!("`{other}` has the address {address:#04x} already");
                return Err(under((".address".into(), why)));
            }
            let every = config.every.unwrap_or(self.every);
            checked_every(every).map_err(|why| under((".every".into(), why)))?;
            let (driver, fields) = config.driver(address).map_err(|(field, why)| under((format!(".{field}"), why)))?;
            plans.push(DevicePlan { name: name.clone(), every: every.0, fields, driver });
        }
        Ok(plans)
    }
}

impl DeviceConfig {
    fn address(&self) -> Result<u8, Wrong> {
        let usual = match self.driver {
            Some(Name::Bme280) => bme280::ADDRESSES[0],
            Some(Name::Ads1115) => *ads1115::ADDRESSES.start(),
            Some(Name::Ina219) => *ina219::ADDRESSES.start(),
            Some(Name::Sht4x) => sht4x::ADDRESSES[0],
            None if self.address.is_none() => {
                return Err(wrong("address", "is missing: only a `driver` knows what it usually is"));
            }
            None => 0,
        };
        let address = self.address.map_or(u32::from(usual), |number| number.0);
        // UM10204, section 3.1.12: the sixteen others have a meaning of their own, or ten bits.
        if !(0x08..=0x77).contains(&address) {
            let why = format!("{address:#04x} is reserved or none; expected 0x08 to 0x77");
            return Err(wrong("address", &why));
        }
        let address = address as u8;
        let known = match self.driver {
            Some(Name::Bme280) => bme280::ADDRESSES.contains(&address),
            Some(Name::Ads1115) => ads1115::ADDRESSES.contains(&address),
            Some(Name::Ina219) => ina219::ADDRESSES.contains(&address),
            Some(Name::Sht4x) => sht4x::ADDRESSES.contains(&address),
            None => true,
        };
        match known {
            true => Ok(address),
            false => Err(wrong("address", &format!("{address:#04x} is none that this chip can have"))),
        }
    }

    /// Fields that belong to something else.
    fn strangers(&self) -> Result<(), Wrong> {
        for (field, there, of) in [
            ("oversampling", self.oversampling.is_some(), Some(Name::Bme280)),
            ("precision", self.precision.is_some(), Some(Name::Sht4x)),
            ("shunt", self.shunt.is_some(), Some(Name::Ina219)),
            ("max_current", self.max_current.is_some(), Some(Name::Ina219)),
            ("samples", self.samples.is_some(), Some(Name::Ina219)),
            ("rate", self.rate.is_some(), Some(Name::Ads1115)),
            ("channels", !self.channels.is_empty(), Some(Name::Ads1115)),
            ("registers", !self.registers.is_empty(), None),
            ("register_size", self.register_size.is_some(), None),
            ("writes", !self.writes.is_empty(), None),
        ] {
            if there && self.driver != of {
                let whose = of.map_or("a device without a `driver`".into(), |of| format!("{of:?}").to_lowercase());
                return Err(wrong(field, &format!("is for {whose}")));
            }
        }
        Ok(())
    }

    fn driver(mut self, address: u8) -> Result<(Driver, Vec<(String, Policy)>), Wrong> {
        self.strangers()?;
        checked_policy("report", self.report)?;
        let driver = match self.driver {
            Some(Name::Bme280) => {
                let sensor = Bme280::new(address, self.oversampling.unwrap_or(1));
                Driver::Bme280(sensor.ok_or_else(|| wrong("oversampling", "expected 1, 2, 4, 8 or 16"))?)
            }
            Some(Name::Sht4x) => Driver::Sht4x(Sht4x { address, precision: self.precision.unwrap_or_default() }),
            Some(Name::Ina219) => {
                let shunt = self.shunt.unwrap_or(0.1);
                let most = self.max_current.unwrap_or(0.32 / shunt);
                let sensor = Ina219::new(address, shunt, most, self.samples.unwrap_or(1));
                Driver::Ina219(sensor.map_err(|(field, why)| wrong(field, &why))?)
            }
            Some(Name::Ads1115) => return self.ads1115(address),
            None => return self.registers(address),
        };
        let names = match driver {
            Driver::Bme280(_) => bme280::FIELDS,
            Driver::Sht4x(_) => sht4x::FIELDS,
            _ => ina219::FIELDS,
        };
        let fields = self.fields(names.iter().map(|name| ((*name).to_owned(), None)).collect())?;
        Ok((driver, fields))
    }

    /// The fields with when they are told.
    fn fields(&mut self, own: Vec<(String, Option<Policy>)>) -> Result<Vec<(String, Policy)>, Wrong> {
        let mut fields = Vec::new();
        for (name, report) in own {
            let named = self.reports.remove(&name);
            let policy = report.or(named).unwrap_or(self.report);
            checked_policy(&format!("reports.{name}"), policy)?;
            fields.push((name, policy));
        }
        match self.reports.keys().next() {
            None => Ok(fields),
            Some(name) => {
                let names: Vec<_> = fields.iter().map(|(name, _)| format!("`{name}`")).collect();
                Err(wrong(&format!("reports.{name}"), &format!("there is no such value, but {}", names.join(", "))))
            }
        }
    }

    fn ads1115(mut self, address: u8) -> Result<(Driver, Vec<(String, Policy)>), Wrong> {
        counted("channels", self.channels.len())?;
        let (mut channels, mut fields) = (Vec::new(), Vec::new());
        for (name, config) in std::mem::take(&mut self.channels) {
            let under = |field: &str, why: &str| wrong(&format!("channels.{name}{field}"), why);
            checked_name(&name, &["device", "lost"]).map_err(|why| under("", &why))?;
            scale::check(config.scale, config.offset).map_err(|(field, why)| under(&format!(".{field}"), why))?;
            let ChannelConfig { input, range, scale, offset, report } = config;
            channels.push(Channel { input, range, scale, offset });
            fields.push((name, report));
        }
        let fields = self.fields(fields)?;
        let why = "expected 8, 16, 32, 64, 128, 250, 475 or 860";
        let sensor = Ads1115::new(address, self.rate.unwrap_or(128), channels).ok_or_else(|| wrong("rate", why))?;
        Ok((Driver::Ads1115(sensor), fields))
    }

    fn registers(mut self, address: u8) -> Result<(Driver, Vec<(String, Policy)>), Wrong> {
        if self.registers.is_empty() {
            return Err(wrong("registers", "is missing, or a `driver`: bme280, ads1115, ina219 or sht4x"));
        }
        counted("registers", self.registers.len())?;
        let size = match self.register_size.unwrap_or(1) {
            size @ 1..=2 => usize::from(size),
            _ => return Err(wrong("register_size", "expected 1 or 2")),
        };
        if self.writes.len() > 32 {
            return Err(wrong("writes", "expected at most 32"));
        }
        let mut writes = Vec::new();
        for (n, config) in self.writes.iter().enumerate() {
            let under = |(field, why): Wrong| wrong(&format!("writes[{n}].{field}"), &why);
            writes.push(config.write(size).map_err(under)?);
        }
        let (mut registers, mut fields) = (Vec::new(), Vec::new());
        for (name, config) in std::mem::take(&mut self.registers) {
            checked_name(&name, &["device", "lost"]).map_err(|why| wrong(&format!("registers.{name}"), &why))?;
            let under = |(field, why): Wrong| wrong(&format!("registers.{name}.{field}"), &why);
            registers.push(config.register(size).map_err(under)?);
            fields.push((name, config.report));
        }
        let fields = self.fields(fields)?;
        Ok((Driver::Registers(Registers { address, writes, registers }), fields))
    }
}

impl RegisterConfig {
    fn register(&self, size: usize) -> Result<Register, Wrong> {
        let number = number(self.register, size)?;
        let all = u32::MAX >> (32 - 8 * u32::from(checked_length(self.length)?));
        let mask = self.mask.map_or(all, |mask| mask.0);
        if mask == 0 || mask & !all != 0 {
            return Err(wrong("mask", &format!("expected some of the register's bits, {all:#x}")));
        }
        let shift = u32::from(self.shift);
        if shift >= 8 * u32::from(self.length) || mask >> shift == 0 {
            return Err(wrong("shift", "nothing would be left"));
        }
        scale::check(self.scale, self.offset).map_err(|(field, why)| wrong(field, why))?;
        let (length, little, signed) = (usize::from(self.length), self.bytes == Order::Little, self.signed);
        Ok(Register { number, length, little, signed, mask, shift, scale: self.scale, offset: self.offset })
    }
}

impl WriteConfig {
    fn write(&self, size: usize) -> Result<Write, Wrong> {
        let mut bytes = number(self.register, size)?;
        let length = usize::from(checked_length(self.length)?);
        let value = self.value.0.to_be_bytes();
        if value[..4 - length].iter().any(|byte| *byte != 0) {
            return Err(wrong("value", &format!("does not fit into {length} bytes")));
        }
        bytes.extend_from_slice(&value[4 - length..]);
        if self.wait.0 > Duration::from_secs(1) {
            return Err(wrong("wait", "expected at most 1s"));
        }
        Ok(Write { bytes, wait_us: self.wait.0.as_micros() as u32 })
    }
}

fn wrong(field: &str, why: &str) -> Wrong {
    (field.to_owned(), why.to_owned())
}

/// A register's number as it is sent.
fn number(register: Number, size: usize) -> Result<Vec<u8>, Wrong> {
    let bytes = register.0.to_be_bytes();
    match register.0 >> (8 * size) {
        0 => Ok(bytes[4 - size..].to_vec()),
        _ if size == 1 => Err(wrong("register", "expected 0 to 0xff; for more there is `\"register_size\": 2`")),
        _ => Err(wrong("register", "expected 0 to 0xffff")),
    }
}

fn checked_length(length: u8) -> Result<u8, Wrong> {
    match length {
        1..=4 => Ok(length),
        _ => Err(wrong("length", "expected 1 to 4")),
    }
}

fn counted(field: &str, count: usize) -> Result<(), Wrong> {
    match count {
        1..=MOST_VALUES => Ok(()),
        _ => Err(wrong(field, &format!("expected 1 to {MOST_VALUES}"))),
    }
}

fn checked_policy(place: &str, policy: Policy) -> Result<(), Wrong> {
    policy.check().map_err(|(field, why)| wrong(&format!("{place}.{field}"), why))
}
