use super::super::tests::{bodies, build, intake};
use super::*;
use embedded_hal::i2c::{ErrorKind, ErrorType, NoAcknowledgeSource, Operation};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Time that passes at once.
pub(super) struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

/// A bus with transfers that are expected: the address, what is written, and what is read then, in hexadecimal digits.
pub(super) struct Script(VecDeque<(u8, Vec<u8>, Vec<u8>)>);

pub(super) fn script(steps: &[(u8, &str, &str)]) -> Script {
    Script(steps.iter().map(|(address, written, read)| (*address, hex(written), hex(read))).collect())
}

pub(super) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<char> = digits.chars().filter(|c| *c != ' ').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
}

impl Script {
    /// All that was expected has come.
    pub fn end(&self) {
        assert!(self.0.is_empty(), "{:x?}", self.0);
    }
}

impl ErrorType for Script {
    type Error = ErrorKind;
}

impl I2c for Script {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        let (expected, written, read) = self.0.pop_front().expect("no more transfers");
        assert_eq!((address, written_of(operations)), (expected, written));
        fill(operations, &read);
        Ok(())
    }
}

fn written_of(operations: &[Operation<'_>]) -> Vec<u8> {
    let written = operations.iter().filter_map(|operation| match operation {
        Operation::Write(bytes) => Some(bytes.to_vec()),
        Operation::Read(_) => None,
    });
    written.flatten().collect()
}

fn fill(operations: &mut [Operation<'_>], mut from: &[u8]) {
    for operation in operations {
        if let Operation::Read(bytes) = operation {
            let (now, later) = from.split_at(bytes.len());
            bytes.copy_from_slice(now);
            from = later;
        }
    }
    assert!(from.is_empty(), "more than was asked for");
}

/// A bus with chips: what they answer to an address and what is written.
struct Chips<F>(F);

impl<F> ErrorType for Chips<F> {
    type Error = I2cError;
}

impl<F: FnMut(u8, &[u8]) -> Result<Vec<u8>, ErrorKind>> I2c for Chips<F> {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), I2cError> {
        let mut answer = (self.0)(address, &written_of(operations))?;
        let wanted = operations.iter().map(|operation| match operation {
            Operation::Write(_) => 0,
            Operation::Read(bytes) => bytes.len(),
        });
        answer.resize(wanted.sum(), 0);
        fill(operations, &answer);
        Ok(())
    }
}

const NOBODY: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);

/// Probes of a configuration's devices, on a bus of a test.
fn probes(
    config: Value,
    chips: impl FnMut(u8, &[u8]) -> Result<Vec<u8>, ErrorKind> + Send + 'static,
) -> Probes<Device<NoDelay>> {
    let config: Config = serde_json::from_value(config).unwrap();
    let bus: I2cBus = Box::new(Chips(chips));
    let bus: Bus = Arc::new(Mutex::new(Some(bus)));
    let mut probes = Probes::new("device", true);
    for device in config.devices().unwrap() {
        let probe = Device { bus: bus.clone(), delay: NoDelay, driver: device.driver, started: false };
        probes.add(&device.name, device.every, device.fields, probe);
    }
    probes
}

fn devices(all: &[String], name: &str) -> Vec<Value> {
    let parsed = all.iter().map(|body| serde_json::from_str::<Value>(body).unwrap());
    parsed.filter(|body| body["device"] == name).collect()
}

/// Two chips that count, one of which is away for a time; a third has a checksum that is always wrong.
#[tokio::test]
async fn a_device_that_is_away_is_set_up_again_and_holds_up_nobody() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    static SET_UP: AtomicU32 = AtomicU32::new(0);
    let chips = |address, written: &[u8]| match (address, written) {
        (0x20, [7]) => Ok(vec![0x12, 0x34]),
        (0x21, written) => {
            let away = (3..6).contains(&ASKED.fetch_add(1, Ordering::Relaxed));
            match written {
                _ if away => Err(NOBODY),
                [1, 2, 0x60, 0xa0] => {
                    SET_UP.fetch_add(1, Ordering::Relaxed);
                    Ok(Vec::new())
                }
                [1, 3] => Ok(vec![5]),
                other => panic!("{other:?}"),
            }
        }
        (0x44, [0x94] | [0xfd]) => Ok(Vec::new()),
        (0x44, []) => Ok(vec![0xbe, 0xef, 0x92, 0xbe, 0xef, 0x93]),
        other => panic!("{other:?}"),
    };
    let config = json!({ "bus": "1", "every": "50ms", "devices": {
        "steady": { "address": "0x20", "registers": {
            "x": { "register": 7, "length": 2, "scale": 0.1 } } },
        "away": { "address": 33, "register_size": 2, "writes": [{ "register": "0x102", "value": "0x60a0", "length": 2 }],
            "registers": { "y": { "register": "0x103" } } },
        "torn": { "driver": "sht4x" } } });
    let (intake, store) = intake(1000).await;
    let mut probes = probes(config, chips);
    let ended = tokio::time::timeout(Duration::from_secs(9), probes.run(&intake)).await;
    assert!(ended.is_err(), "{ended:?}");
    let all = bodies(&store).await;
    let (steady, away) = (devices(&all, "steady"), devices(&all, "away"));
    assert!(steady.len() >= 90 && steady.iter().all(|event| event["x"] == 466.0), "{}", steady.len());
    // Twice read, then three attempts fail: one at once, one after 1 s, one after 2 s more. After 4 s it answers.
    assert!(away.len() >= 4 && away.iter().all(|event| event["y"] == 5.0), "{}", away.len());
    assert_eq!(SET_UP.load(Ordering::Relaxed), 2);
    assert!(devices(&all, "torn").is_empty());
}

#[tokio::test]
async fn a_bus_that_is_stuck_or_gone_is_told() {
    let config = json!({ "bus": "1", "every": "50ms", "devices": { "a": { "driver": "ads1115", "channels": { "u": { "input": "0-1" } } } } });
    let (intake, store) = intake(1000).await;
    let mut stuck = probes(config, |_, _: &[u8]| Err(ErrorKind::Bus));
    assert!(tokio::time::timeout(Duration::from_millis(300), stuck.run(&intake)).await.is_err());
    assert!(bodies(&store).await.is_empty());
    // On a machine without this bus.
    let mut source = build(&KIND, &KIND.example.replace("/dev/i2c-1", "/dev/i2c-251")).unwrap();
    let fault = source.run(&intake).await.unwrap_err();
    assert!(
        matches!(&fault, Fault::Retry(_)) && fault.to_string().starts_with("cannot open `/dev/i2c-251`"),
        "{fault}"
    );
    // Without a bus there is nothing to wait for.
    let mut device = Device {
        bus: Bus::default(),
        delay: NoDelay,
        driver: Driver::Sht4x(sht4x::Sht4x { address: 0x44, precision: sht4x::Precision::High }),
        started: false,
    };
    assert_eq!(device.read(&mut |_| {}), Err(Trouble::Gone("the bus is not open".into())));
}

#[test]
fn addresses_have_usual_sensors() {
    for (address, want) in
        [(0x76, "BME280, BMP280"), (0x44, "SHT4x, INA219"), (0x48, "ADS1115, INA219, TMP102 or LM75"), (0x10, "")]
    {
        assert_eq!(usual(address), want, "{address:#x}");
    }
}

#[test]
fn a_wrong_configuration_is_told() {
    let register = |value: Value| json!({ "address": "0x48", "registers": { "t": value } });
    for (device, want) in [
        (
            json!({ "driver": "bme680" }),
            "a.driver: unknown variant `bme680`, expected one of `bme280`, `ads1115`, `ina219`, `sht4x`",
        ),
        (json!({}), "a.address: is missing: only a `driver` knows what it usually is"),
        (json!({ "address": 3 }), "a.address: 0x03 is reserved or none; expected 0x08 to 0x77"),
        (json!({ "address": "0x78" }), "a.address: 0x78 is reserved or none; expected 0x08 to 0x77"),
        (json!({ "address": 1000 }), "a.address: 0x3e8 is reserved or none; expected 0x08 to 0x77"),
        (
            json!({ "address": "76" }),
            "a.address: invalid value: string \"76\", expected a number from 0, or one such as \"0x76\"",
        ),
        (
            json!({ "address": -1 }),
            "a.address: invalid value: integer `-1`, expected a number from 0, or one such as \"0x76\"",
        ),
        (json!({ "address": "0x48", "driver": "bme280" }), "a.address: 0x48 is none that this chip can have"),
        (json!({ "address": "0x48" }), "a.registers: is missing, or a `driver`: bme280, ads1115, ina219 or sht4x"),
        (json!({ "driver": "bme280", "oversampling": 3 }), "a.oversampling: expected 1, 2, 4, 8 or 16"),
        (json!({ "driver": "bme280", "shunt": 1 }), "a.shunt: is for ina219"),
        (
            json!({ "driver": "bme280", "registers": { "x": { "register": 1 } } }),
            "a.registers: is for a device without a `driver`",
        ),
        (
            json!({ "driver": "bme280", "reports": { "light": {} } }),
            "a.reports.light: there is no such value, but `temperature`, `humidity`, `pressure`",
        ),
        (
            json!({ "driver": "bme280", "report": { "when": { "band": 0 } } }),
            "a.report.when: expected a number above 0",
        ),
        (json!({ "driver": "sht4x", "every": "1ms" }), "a.every: expected at least 10ms"),
        (json!({ "driver": "sht4x", "precision": "best" }), "a.precision: unknown variant `best`"),
        (json!({ "driver": "ina219", "shunt": 0 }), "a.shunt: expected the ohms of the shunt, 0.000001 to 1000"),
        (
            json!({ "driver": "ina219", "max_current": 4 }),
            "a.max_current: expected amperes above 0, with this shunt at most 3.2",
        ),
        (json!({ "driver": "ads1115" }), "a.channels: expected 1 to 16"),
        (
            json!({ "driver": "ads1115", "rate": 100, "channels": { "u": { "input": "0" } } }),
            "a.rate: expected 8, 16, 32",
        ),
        (
            json!({ "driver": "ads1115", "channels": { "u": { "input": "4" } } }),
            "a.channels.u.input: unknown variant `4`",
        ),
        (
            json!({ "driver": "ads1115", "channels": { "device": { "input": "0" } } }),
            "a.channels.device: the event has a field of this name already",
        ),
        (
            register(json!({ "register": 256 })),
            "a.registers.t.register: expected 0 to 0xff; for more there is `\"register_size\": 2`",
        ),
        (register(json!({ "register": 1, "length": 0 })), "a.registers.t.length: expected 1 to 4"),
        (register(json!({ "register": 1, "length": 5 })), "a.registers.t.length: expected 1 to 4"),
        (
            register(json!({ "register": 1, "mask": "0x100" })),
            "a.registers.t.mask: expected some of the register's bits, 0xff",
        ),
        (
            register(json!({ "register": 1, "mask": 0 })),
            "a.registers.t.mask: expected some of the register's bits, 0xff",
        ),
        (register(json!({ "register": 1, "shift": 8 })), "a.registers.t.shift: nothing would be left"),
        (register(json!({ "register": 1, "scale": 0 })), "a.registers.t.scale: expected anything but 0"),
        (
            json!({ "address": 72, "registers": { "t": { "register": 1 } }, "writes": [{ "register": 1, "value": 256 }] }),
            "a.writes[0].value: does not fit into 1 bytes",
        ),
        (
            json!({ "address": 72, "registers": { "t": { "register": 1 } }, "writes": [{ "register": 1, "value": 1, "wait": "2s" }] }),
            "a.writes[0].wait: expected at most 1s",
        ),
        (
            json!({ "address": 72, "registers": { "t": { "register": 1 } }, "register_size": 3 }),
            "a.register_size: expected 1 or 2",
        ),
    ] {
        let config = json!({ "bus": "1", "every": "1s", "devices": { "a": device } });
        let told = build(&KIND, &config.to_string()).err().unwrap_or_default();
        assert!(told.starts_with(&format!("devices.{want}")), "{told}\n{want}");
    }
    let twice =
        json!({ "bus": "1", "every": "1s", "devices": { "a": { "driver": "sht4x" }, "b": { "driver": "sht4x" } } });
    let told = build(&KIND, &twice.to_string()).err();
    assert_eq!(told.as_deref(), Some("devices.b.address: `a` has the address 0x44 already"));
    for (place, value, want) in [
        ("bus", json!(""), "bus: expected a bus, such as `/dev/i2c-1`"),
        ("every", json!("0s"), "every: expected at least 10ms"),
        ("devices", json!({}), "devices: expected 1 to 64"),
    ] {
        let mut config = twice.clone();
        config[place] = value;
        assert_eq!(build(&KIND, &config.to_string()).err().as_deref(), Some(want));
    }
}
