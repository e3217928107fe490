//! What the configuration says.

use super::group::{Group, Value};
use crate::{
    budget::Span,
    kind::ParamsError,
    sources::report::{Policy, Report},
    systems::modbus::{Bus, Connect, Form, Order, Patience, Table, Type},
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

/// Groups, and values in one: what is remembered of them stays below a megabyte.
const GROUPS: usize = 256;
const VALUES: usize = 1000;
/// Registers of one text: what one answer carries.
const TEXT: u16 = 125;

/// Polls units on a serial line or over TCP. Each group is read at its own period, and becomes one event a poll:
/// `{"unit":1,"group":"meter","volts":230.1}`, with the values that their `report` lets through (no event if that is none); its
/// time is when the answer came, its key `1/meter`. A unit that does not answer is tried at growing intervals, to a minute,
/// while the others keep their periods. A poll that comes too late is left out.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// Where the units are: `tcp` or `rtu`. Components with the same one share it.
    pub connect: Connect,
    /// How long to wait for an answer, 10 ms to 1 min. On a serial line the time that the bytes take comes on top.
    #[serde(default = "Patience::usual_timeout")]
    pub timeout: Span,
    /// How often a unit that answered last time is asked again at once, 0 to 10.
    #[serde(default = "Patience::usual_retries")]
    pub retries: u32,
    /// Also makes events when a unit stops answering and when it answers again: `{"unit":1,"up":false,"error":"…"}`, with the
    /// unit as key.
    #[serde(default)]
    pub status: bool,
    /// What is polled, by names.
    groups: BTreeMap<String, GroupConfig>,
}

/// Values of one unit that are polled together.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GroupConfig {
    /// The unit's number: 1 to 247, over TCP 0 to 255.
    unit: u8,
    /// What is read: `holding` or `input` registers, `coil`s or `discrete` inputs.
    function: Table,
    /// How often, 10 ms at least.
    every: Span,
    /// When a value is told, for those that do not say it.
    #[serde(default)]
    report: Policy,
    /// Values that lie beside each other are read with one request, at most 125 registers or 2000 bits. So many that are
    /// not wanted may lie between them; units refuse to be read where they have nothing.
    #[serde(default)]
    skip: u16,
    /// The values, by names.
    values: BTreeMap<String, ValueConfig>,
}

/// A value.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ValueConfig {
    /// Where it begins, counted from 0 as on the wire: what a manual calls register 40001 is holding register 0.
    address: u16,
    /// Its type: `u16`, `i16`, `u32`, `i32`, `u64`, `i64`, `f32`, `f64`, `bool` or `text`. Without: `u16`, of coils and discrete
    /// inputs `bool`.
    #[serde(default)]
    r#as: Option<Type>,
    /// Which of its registers comes first: the most significant, `big`, or `little`.
    #[serde(default)]
    words: Order,
    /// Which byte of a register comes first; any but `big` is rare.
    #[serde(default)]
    bytes: Order,
    /// Registers of a `text`, two bytes each.
    #[serde(default)]
    length: Option<u16>,
    /// The bit of a register that a `bool` is, 0 is the lowest. Without: whether the register is not 0.
    #[serde(default)]
    bit: Option<u8>,
    /// The number is multiplied by this…
    #[serde(default)]
    scale: Option<f64>,
    /// …and then this is added.
    #[serde(default)]
    offset: Option<f64>,
    /// When it is told. Without: as the group says.
    #[serde(default)]
    report: Option<Policy>,
}

impl Config {
    pub fn patience(&self) -> Result<Patience, ParamsError> {
        let patience = Patience { timeout: self.timeout.0, retries: self.retries };
        patience.check().map_err(|(field, why)| ParamsError::at(field, why))?;
        Ok(patience)
    }

    pub fn groups(&self, bus: &Bus) -> Result<Vec<Group>, ParamsError> {
        if self.groups.is_empty() || self.groups.len() > GROUPS {
            return Err(ParamsError::at("groups", format!("expected 1 to {GROUPS}")));
        }
        let group = |(name, config): (&String, &GroupConfig)| {
            let under = |e: ParamsError| ParamsError::at(format!("groups.{name}.{}", e.path), e.message);
            bus.check_unit(config.unit).map_err(|why| under(ParamsError::at("unit", why)))?;
            config.group(name).map_err(under)
        };
        self.groups.iter().map(group).collect()
    }
}

impl GroupConfig {
    fn group(&self, name: &str) -> Result<Group, ParamsError> {
        if self.every.0 < Duration::from_millis(10) {
            return Err(ParamsError::at("every", "expected at least 10ms"));
        }
        if self.values.is_empty() || self.values.len() > VALUES {
            return Err(ParamsError::at("values", format!("expected 1 to {VALUES}")));
        }
        self.report.check().map_err(|(field, why)| ParamsError::at(format!("report.{field}"), why))?;
        let mut values = Vec::new();
        for (name, config) in &self.values {
            let under = |(field, why): (&str, &str)| ParamsError::at(format!("values.{name}.{field}"), why);
            if matches!(name.as_str(), "unit" | "group") {
                return Err(ParamsError::at(format!("values.{name}"), "the event has a field of this name already"));
            }
            let report = config.report.unwrap_or(self.report);
            report.check().map_err(|(field, why)| under((&format!("report.{field}"), why)))?;
            let form = config.form(self.function).map_err(under)?;
            values.push(Value::new(name.clone(), config.address, form, Report::new(report)));
        }
        Ok(Group::new(name.to_owned(), self.unit, self.function, self.every.0, self.skip, values))
    }
}

impl ValueConfig {
    fn form(&self, table: Table) -> Result<Form, (&'static str, &'static str)> {
        let r#type = self.r#as.unwrap_or(if table.bits() { Type::Bool } else { Type::U16 });
        let length = match (r#type, self.length) {
            (Type::Text, Some(length @ 1..=TEXT)) => length,
            (Type::Text, _) => return Err(("length", "expected 1 to 125, the registers of the text")),
            (_, Some(_)) => return Err(("length", "expected with `\"as\": \"text\"`")),
            (_, None) => 1,
        };
        let Self { words, bytes, bit, scale, offset, .. } = *self;
        let form = Form { r#type, words, bytes, length, bit, scale, offset };
        form.check()?;
        match () {
            () if table.bits() && (r#type != Type::Bool || bit.is_some()) => {
                Err(("as", "coils and discrete inputs are of type `bool`, and have no `bit`"))
            }
            () if u32::from(self.address) + u32::from(form.registers()) > 1 << 16 => {
                Err(("address", "it ends behind the last address, 65535"))
            }
            () => Ok(form),
        }
    }
}
