//! Writes commands to Modbus units, on a serial line or over TCP.

use crate::{
    budget::Span,
    event::Event,
    expr::{EvalError, Expr, Value},
    fault::Fault,
    kind::{Kind, Params, ParamsError, Sink},
    systems::modbus::{
        Ask, Bus, Connect, Error, Exception, Form, MOST_WRITTEN, Order, Patience, Request, Type, Wanted, on,
    },
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub const KIND: Kind<dyn Sink> = Kind {
    name: "modbus",
    about: "writes registers and coils of Modbus units, on a serial line (RTU) or over TCP",
    example: r#"{
  "type": "modbus",
  "connect": { "tcp": "10.0.0.7:502" },
  "writes": [
    { "unit": 1, "function": "register", "address": 10, "value": "event.setpoint", "as": "i16", "scale": 0.1 },
    { "unit": 1, "function": "coil", "address": 0, "value": "event.pump == 'on'" } ] }"#,
    schema: Config::json_schema,
    build,
};

/// Registers of one text: what one request carries.
const TEXT: u16 = MOST_WRITTEN as u16;

/// Writes what events say into registers and coils. An event is delivered when each unit has acknowledged; a write whose
/// value reads an absent field is left out, and an event for which all are is rejected. So is one whose value does not fit, or
/// that a unit refuses (illegal function, address or value). After a crash or a timeout a write may be done twice.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Where the units are: `tcp` or `rtu`. Components with the same one share it.
    connect: Connect,
    /// How long to wait for an answer, 10 ms to 1 min. On a serial line the time that the bytes take comes on top.
    #[serde(default = "Patience::usual_timeout")]
    timeout: Span,
    /// How often a write is tried again at once, 0 to 10.
    #[serde(default = "Patience::usual_retries")]
    retries: u32,
    /// What is written, in this order.
    writes: Vec<Write>,
}

/// One write.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Write {
    /// The unit's number: 1 to 247, over TCP 0 to 255.
    unit: u8,
    /// What is written: a `coil` (function 5), a `register` (6) or `registers` (16).
    function: Function,
    /// Where it begins, counted from 0 as on the wire: what a manual calls register 40001 is holding register 0.
    address: u16,
    /// The value, an expression: `event.setpoint`. A coil takes a bool, or 0 and 1.
    value: Expr,
    /// Its type in registers: `u16`, `i16`, `u32`, `i32`, `u64`, `i64`, `f32`, `f64`, `bool` or `text`. Without: `u16`.
    #[serde(default)]
    r#as: Option<Type>,
    /// Which of its registers comes first: the most significant, `big`, or `little`.
    #[serde(default)]
    words: Order,
    /// Which byte of a register comes first; any but `big` is rare.
    #[serde(default)]
    bytes: Order,
    /// Registers of a `text`, two bytes each; the rest of them becomes 0.
    #[serde(default)]
    length: Option<u16>,
    /// The value less `offset`, divided by this, is what is written, rounded if the type is whole.
    #[serde(default)]
    scale: Option<f64>,
    /// See `scale`.
    #[serde(default)]
    offset: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Function {
    Coil,
    Register,
    Registers,
}

fn build(params: Params) -> Result<Box<dyn Sink>, ParamsError> {
    let config: Config = params.decode()?;
    let at = |(field, why)| ParamsError::at(format!("connect.{field}"), why);
    let bus = params.scope.buses.get(&config.connect).map_err(at)?;
    let patience = Patience { timeout: config.timeout.0, retries: config.retries };
    patience.check().map_err(|(field, why)| ParamsError::at(field, why))?;
    if config.writes.is_empty() {
        return Err(ParamsError::at("writes", "expected one or more"));
    }
    let mut writes = Vec::new();
    for (n, write) in config.writes.into_iter().enumerate() {
        let under = |(field, why): (&str, &str)| ParamsError::at(format!("writes[{n}].{field}"), why);
        bus.check_unit(write.unit).map_err(|why| under(("unit", why)))?;
        let form = write.form().map_err(under)?;
        writes.push((write, form));
    }
    Ok(Box::new(Modbus { bus, patience, writes, done: Vec::new() }))
}

impl Write {
    fn form(&self) -> Result<Form, (&'static str, &'static str)> {
        let r#type = match (self.function, self.r#as) {
            (Function::Coil, None | Some(Type::Bool)) => Type::Bool,
            (Function::Coil, _) => return Err(("as", "a coil is of type `bool`")),
            (_, r#type) => r#type.unwrap_or(Type::U16),
        };
        let length = match (r#type, self.length) {
            (Type::Text, Some(length @ 1..=TEXT)) => length,
            (Type::Text, _) => return Err(("length", "expected 1 to 123, the registers of the text")),
            (_, Some(_)) => return Err(("length", "expected with `\"as\": \"text\"`")),
            (_, None) => 1,
        };
        let Self { words, bytes, scale, offset, .. } = *self;
        let form = Form { r#type, words, bytes, length, bit: None, scale, offset };
        form.check()?;
        match () {
            () if self.function == Function::Register && form.registers() > 1 => {
                Err(("function", "the value takes several registers: expected `registers`"))
            }
            () if u32::from(self.address) + u32::from(form.registers()) > 1 << 16 => {
                Err(("address", "it ends behind the last address, 65535"))
            }
            () => Ok(form),
        }
    }

    /// What goes out for an event, if anything does: registers, or a coil as a register of 0 or 1.
    fn words(&self, form: &Form, event: &Event) -> Result<Option<Vec<u16>>, String> {
        let value = match self.value.eval(event) {
            Ok(value) => value,
            Err(EvalError::Absent { .. }) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let wanted = match &value {
            Value::Bool(b) => Wanted::Bool(*b),
            Value::Int(i) => Wanted::Int(*i),
            Value::Double(d) => Wanted::Float(*d),
            Value::Str(text) => Wanted::Text(text),
            other => return Err(format!("a {} cannot be written", other.type_name())),
        };
        match self.function {
            Function::Coil => on(wanted).map(|on| Some(vec![on.into()])),
            _ => form.write(wanted).map(Some),
        }
    }
}

struct Modbus {
    bus: Arc<Bus>,
    patience: Patience,
    writes: Vec<(Write, Form)>,
    /// Of the last batch that failed in the middle, the ids of what was done: a command is not given twice because
    /// another one behind it was refused.
    done: Vec<String>,
}

#[async_trait]
impl Sink for Modbus {
    async fn deliver(&mut self, batch: &[Event]) -> Result<(), Fault> {
        let known = |event: &&Event| self.done.iter().any(|id| *id == event.id.text());
        let mut done: Vec<String> = batch.iter().filter(known).map(|event| event.id.text().into_owned()).collect();
        let repeated = !done.is_empty();
        for event in batch {
            let id = event.id.text();
            if done.iter().any(|done| *done == id) {
                continue;
            }
            if let Err(fault) = self.write(event).await {
                self.done = done;
                return Err(fault);
            }
            done.push(id.into_owned());
        }
        if !repeated {
            self.done.clear();
        }
        Ok(())
    }
}

impl Modbus {
    async fn write(&self, event: &Event) -> Result<(), Fault> {
        // All of them before the first goes out.
        let mut ready = Vec::new();
        for (n, (write, form)) in self.writes.iter().enumerate() {
            let words = write.words(form, event).map_err(|why| Fault::reject(format!("writes[{n}].value: {why}")))?;
            ready.extend(words.map(|words| (n, write, words)));
        }
        if ready.is_empty() {
            return Err(Fault::reject("every value reads a field that is absent"));
        }
        for (n, write, words) in ready {
            let address = write.address;
            let ask = match (write.function, words.as_slice()) {
                (Function::Coil, words) => Ask::Coil { address, on: words == [1] },
                (Function::Register, [value]) => Ask::Register { address, value: *value },
                (_, values) => Ask::Registers { address, values },
            };
            let answer = self.bus.ask(&Request { unit: write.unit, ask }, self.patience).await;
            answer.map_err(|error| match error {
                Error::Refused(Exception(1..=3)) => Fault::reject(format!("writes[{n}]: unit {}: {error}", write.unit)),
                Error::Lost(_) => Fault::retry(error),
                _ => Fault::retry(format!("unit {}: {error}", write.unit)),
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{build, events};
    use super::*;
    use serde_json::json;
    use std::{
        io::{Read, Write as _},
        sync::Mutex,
    };

    /// A unit that does what it is told, but for address 99 (illegal) and 98 (busy once). Tells what it was told.
    fn unit() -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        std::thread::spawn(move || {
            let mut busy = true;
            let (mut stream, _) = listener.accept().unwrap();
            loop {
                let mut head = [0; 7];
                if stream.read_exact(&mut head).is_err() {
                    return;
                }
                let mut pdu = vec![0; usize::from(head[5]) - 1];
                stream.read_exact(&mut pdu).unwrap();
                let answer = match pdu[2] {
                    99 => vec![pdu[0] | 0x80, 2],
                    98 if std::mem::take(&mut busy) => vec![pdu[0] | 0x80, 6],
                    _ => {
                        heard.lock().unwrap().push(format!("{} {:02x?}", pdu[0], &pdu[1..]));
                        pdu[..5].to_vec()
                    }
                };
                let frame = [&head[..4], &[0, answer.len() as u8 + 1, head[6]], &answer].concat();
                stream.write_all(&frame).unwrap();
            }
        });
        (address, told)
    }

    fn config(address: &str) -> serde_json::Value {
        json!({ "connect": { "tcp": address }, "writes": [
            { "unit": 1, "function": "coil", "address": 1, "value": "event.on" },
            { "unit": 1, "function": "register", "address": 2, "value": "event.set", "as": "i16", "scale": 0.1 },
            { "unit": 1, "function": "registers", "address": 3, "value": "event.total", "as": "u32", "words": "little" },
            { "unit": 1, "function": "register", "address": 99, "value": "event.illegal" },
            { "unit": 1, "function": "register", "address": 98, "value": "event.busy" } ] })
    }

    #[tokio::test]
    async fn commands_are_written_and_what_cannot_be_is_rejected() {
        let (address, told) = unit();
        let mut sink = build(&KIND, &config(&address).to_string()).unwrap();
        for (body, want, written) in [
            (r#"{ "on": true }"#, "ok", &["5 [00, 01, ff, 00]"][..]),
            (r#"{ "on": 0 }"#, "ok", &["5 [00, 01, 00, 00]"]),
            (r#"{ "set": -21.54 }"#, "ok", &["6 [00, 02, ff, 29]"]),
            (
                r#"{ "total": 65538, "on": true }"#,
                "ok",
                &["5 [00, 01, ff, 00]", "16 [00, 03, 00, 02, 04, 00, 02, 00, 01]"],
            ),
            (r#"{ "other": 1 }"#, "Reject every value reads a field that is absent", &[]),
            (r#"{ "on": "yes" }"#, "Reject writes[0].value: expected a bool", &[]),
            (
                r#"{ "on": true, "set": 4000 }"#,
                "Reject writes[1].value: 40000 is out of the range -32768 to 32767",
                &[],
            ),
            (r#"{ "set": [] }"#, "Reject writes[1].value: a list cannot be written", &[]),
            (r#"{ "illegal": 1 }"#, "Reject writes[3]: unit 1: illegal data address", &[]),
            (r#"{ "busy": 1 }"#, "Retry unit 1: device busy", &[]),
            (r#"{ "busy": 1 }"#, "ok", &["6 [00, 62, 00, 01]"]),
        ] {
            let got = match sink.deliver(&events(&[body]).await).await {
                Ok(()) => "ok".to_owned(),
                Err(Fault::Reject(e)) => format!("Reject {e}"),
                Err(Fault::Retry(e)) => format!("Retry {e}"),
                Err(other) => format!("{other:?}"),
            };
            assert_eq!(got, want, "{body}");
            assert_eq!(std::mem::take(&mut *told.lock().unwrap()), written, "{body}");
        }
    }

    #[tokio::test]
    async fn a_command_is_not_repeated_for_a_refused_one_behind_it() {
        let (address, told) = unit();
        let mut sink = build(&KIND, &config(&address).to_string()).unwrap();
        let batch =
            events(&[r#"{ "on": true }"#, r#"{ "on": false }"#, r#"{ "illegal": 1 }"#, r#"{ "set": 0 }"#]).await;
        // As the runtime halves.
        assert!(sink.deliver(&batch).await.is_err());
        sink.deliver(&batch[..2]).await.unwrap();
        assert!(sink.deliver(&batch[2..]).await.is_err());
        assert!(sink.deliver(&batch[2..3]).await.is_err());
        sink.deliver(&batch[3..]).await.unwrap();
        let want = ["5 [00, 01, ff, 00]", "5 [00, 01, 00, 00]", "6 [00, 02, 00, 00]"];
        assert_eq!(*told.lock().unwrap(), want);
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        for (place, value, want) in [
            ("/timeout", json!("2m"), "timeout: expected 10ms to 1m"),
            ("/writes", json!([]), "writes: expected one or more"),
            ("/writes/0/as", json!("u16"), "writes[0].as: a coil is of type `bool`"),
            ("/writes/1/address", json!(65_536), "writes[1].address: invalid value: integer `65536`, expected u16"),
            (
                "/writes/1/as",
                json!("f32"),
                "writes[1].function: the value takes several registers: expected `registers`",
            ),
            ("/writes/2/address", json!(65_535), "writes[2].address: it ends behind the last address, 65535"),
            ("/writes/2/as", json!("text"), "writes[2].length: expected 1 to 123, the registers of the text"),
        ] {
            let mut config = config("plc");
            let (above, field) = place.rsplit_once('/').unwrap();
            config.pointer_mut(above).unwrap()[field] = value;
            let told = build(&KIND, &config.to_string()).err();
            assert!(told.as_deref().is_some_and(|t| t.starts_with(want)), "{told:?}, not {want}");
        }
    }
}
