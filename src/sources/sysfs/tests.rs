use super::super::tests::{bodies, build, intake};
use super::*;
use serde_json::{Value, json};
use std::time::Duration;

fn plant(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// What a sensor gives: an id and a number, or why not.
fn read(root: &Path, config: Value) -> Vec<String> {
    let mut config = config;
    config["path"] = json!(format!("{}/{}", root.display(), config["path"].as_str().unwrap()));
    let config: SensorConfig = serde_json::from_value(config).unwrap();
    let SensorConfig { path, r#where, scale, offset, .. } = config;
    let mut told = Vec::new();
    let result = Sensor { path, r#where, scale, offset }.read(&mut |taken| {
        let value = taken.values.map_or_else(|why| why, |values| format!("{:?}", values[0]));
        told.push(format!("{}={value}", taken.id.unwrap_or_default()));
    });
    if let Err(Trouble::Failed(why) | Trouble::Gone(why)) = result {
        told.push(why);
    }
    told.iter().map(|told| told.replace(root.to_str().unwrap(), "")).collect()
}

const W1: &str = "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n";

#[test]
fn files_become_values() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    plant(
        root,
        &[
            ("thermal/thermal_zone0/temp", "51540\n"),
            ("plain", " -0.125 "),
            ("big", "18446744073709551615"),
            ("empty", ""),
            ("words", "no\x1b[2J number"),
            ("nan", "nan"),
            ("long", &"1".repeat(5000)),
            ("w1/28-0316a2799aff/w1_slave", W1),
            ("w1/28-0416a2799aff/w1_slave", &W1.replace("YES", "NO")),
            (
                "w1/28-0516a2799aff/w1_slave",
                "50 05 4b 46 7f ff 0c 10 1c : crc=1c YES\n50 05 4b 46 7f ff 0c 10 1c t=85000\n",
            ),
            ("w1/w1_bus_master1/uevent", ""),
            ("hwmon/hwmon0/name", "nvme\n"),
            ("hwmon/hwmon0/temp1_input", "30000\n"),
            ("hwmon/hwmon3/name", "cpu_thermal\n"),
            ("hwmon/hwmon3/temp1_input", "48000\n"),
            ("hwmon/hwmon4/name", "twin\n"),
            ("hwmon/hwmon4/temp1_input", "1\n"),
            ("hwmon/hwmon5/name", "twin\n"),
            ("hwmon/hwmon5/temp1_input", "2\n"),
            ("iio/iio:device0/in_voltage0_raw", "1000\n"),
            ("iio/iio:device0/in_voltage_scale", "0.125000\n"),
            ("iio/iio:device0/in_temp_raw", "12345\n"),
            ("iio/iio:device0/in_temp_offset", "-2345.5\n"),
            ("iio/iio:device0/in_temp_scale", "0.0625\n"),
            ("iio/iio:device0/in_count0_raw", "7\n"),
            ("iio/iio:device0/in_voltage0-voltage1_raw", "-8\n"),
        ],
    );
    for (config, want) in [
        (json!({ "path": "thermal/thermal_zone0/temp", "scale": 0.001 }), &["=51.54"][..]),
        (json!({ "path": "thermal/thermal_zone0/temp", "scale": 0.001, "offset": -1.5 }), &["=50.04"]),
        (json!({ "path": "plain" }), &["=-0.125"]),
        (json!({ "path": "big" }), &["=1.8446744073709552e19"]),
        (json!({ "path": "empty" }), &["`` is no number"]),
        (json!({ "path": "words" }), &["`no\\u{1b}[2J number` is no number"]),
        (json!({ "path": "nan" }), &["`nan` is no number"]),
        (json!({ "path": "long" }), &["`/long` is longer than 4KiB"]),
        (json!({ "path": "missing" }), &["there is no `/missing`"]),
        (json!({ "path": "missing/*/x" }), &["there is no `/missing/*/x`"]),
        (
            json!({ "path": "w1/28-*/w1_slave", "scale": 0.001 }),
            &[
                "28-0316a2799aff=23.125",
                "28-0416a2799aff=a wrong checksum",
                "28-0516a2799aff=it was switched on meanwhile, and has measured nothing",
            ],
        ),
        (json!({ "path": "w1/28-0316a2799aff/w1_slave" }), &["=23125.0"]),
        (json!({ "path": "w*/28-03*ff/w1_sl*" }), &["w1/28-0316a2799aff/w1_slave=23125.0"]),
        (json!({ "path": "hwmon/hwmon*/temp1_input", "where": { "name": "cpu_thermal" }, "scale": 0.001 }), &["=48.0"]),
        (
            json!({ "path": "hwmon/hwmon*/temp1_input", "where": { "name": "none" } }),
            &["there is no `/hwmon/hwmon*/temp1_input` for which `where` holds"],
        ),
        (
            json!({ "path": "hwmon/hwmon*/temp1_input", "where": { "name": "twin" } }),
            &["more than one fits: `/hwmon/hwmon4/temp1_input` and `/hwmon/hwmon5/temp1_input`"],
        ),
        (json!({ "path": "iio/iio:device0/in_voltage0_raw", "scale": 0.001 }), &["=0.125"]),
        (json!({ "path": "iio/iio:device0/in_temp_raw" }), &["=624.96875"]),
        (json!({ "path": "iio/iio:device0/in_count0_raw" }), &["=7.0"]),
        (json!({ "path": "iio/iio:device0/in_voltage0-voltage1_raw" }), &["=-1.0"]),
    ] {
        assert_eq!(read(root, config.clone()), want, "{config}");
    }
    // A FIFO that nobody writes must not hold up anybody.
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
    assert_eq!(read(root, json!({ "path": "fifo" })), ["`` is no number"]);
}

#[test]
fn names_are_like_patterns() {
    for (name, pattern, want) in [
        ("28-03", "28-*", true),
        ("28-", "28-*", true),
        ("10-03", "28-*", false),
        ("iio:device0", "iio:device*", true),
        ("abcabc", "a*c", true),
        ("abcabd", "a*c", false),
        ("ab", "a*b*b", false),
        ("aXbYb", "a*b*b", true),
        ("x", "*", true),
    ] {
        assert_eq!(is_like(name, pattern), want, "{name} {pattern}");
    }
}

#[tokio::test]
async fn a_sensor_that_comes_and_goes() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    plant(root, &[("cpu", "51540"), ("w1/28-01/temperature", "1000"), ("w1/28-02/temperature", "2000")]);
    let (intake, store) = intake(1000).await;
    let path = |path: &str| format!("{}/{path}", root.display());
    let config = json!({ "every": "50ms", "sensors": {
        "cpu": { "path": path("cpu"), "field": "temperature", "scale": 0.001, "report": { "when": "change" } },
        "cellar": { "path": path("w1/28-*/temperature"), "scale": 0.001, "report": { "when": "change" } },
        "missing": { "path": path("missing"), "report": { "when": "change" } } } });
    let mut source = build(&KIND, &config.to_string()).unwrap();
    let change = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        fs::remove_dir_all(root.join("w1/28-01")).unwrap();
        plant(root, &[("cpu", "60000"), ("missing", "5")]);
        tokio::time::sleep(Duration::from_millis(600)).await;
        plant(root, &[("w1/28-01/temperature", "3000")]);
        tokio::time::sleep(Duration::from_millis(1200)).await;
    };
    tokio::select! {
        ended = source.run(&intake) => panic!("{ended:?}"),
        () = change => {}
    }
    let all = bodies(&store).await;
    let of = |part: &str| all.iter().filter(|body| body.contains(part)).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("cpu"), [r#"{"sensor":"cpu","temperature":51.54}"#, r#"{"sensor":"cpu","temperature":60}"#]);
    let [one, again] = [1, 3].map(|value| format!(r#"{{"sensor":"cellar","id":"28-01","value":{value}}}"#));
    assert_eq!(of("28-01"), [one, again]);
    assert_eq!(of("28-02"), [r#"{"sensor":"cellar","id":"28-02","value":2}"#]);
    assert_eq!(of("missing"), [r#"{"sensor":"missing","value":5}"#]);
}

#[test]
fn a_wrong_configuration_is_told() {
    let path = "expected an absolute path without `..`";
    for (place, value, want) in [
        ("/every", json!("1ms"), "every: expected at least 10ms".to_owned()),
        ("/sensors", json!({}), "sensors: expected 1 to 64".into()),
        ("/sensors/a/path", json!("temp"), format!("sensors.a.path: {path}")),
        ("/sensors/a/path", json!(""), "sensors.a.path: expected a path".into()),
        ("/sensors/a/path", json!("/"), "sensors.a.path: expected a file".into()),
        ("/sensors/a/path", json!("/sys/../etc/shadow"), format!("sensors.a.path: {path}")),
        ("/sensors/a/path", json!("/x\u{0}"), "sensors.a.path: has a zero byte".into()),
        ("/sensors/a/scale", json!(0), "sensors.a.scale: expected anything but 0".into()),
        ("/sensors/a/every", json!("0s"), "sensors.a.every: expected at least 10ms".into()),
        ("/sensors/a/field", json!("id"), "sensors.a.field: the event has a field of this name already".into()),
        ("/sensors/a/field", json!(""), "sensors.a.field: expected a name of 1 to 64 bytes".into()),
        (
            "/sensors/a/where",
            json!({ "../x": "y" }),
            "sensors.a.where.../x: expected the name of a file beside it".into(),
        ),
        (
            "/sensors/a/report",
            json!({ "when": { "band": -1 } }),
            "sensors.a.report.when: expected a number above 0".into(),
        ),
    ] {
        let mut config = json!({ "every": "1s", "sensors": { "a": { "path": "/x" } } });
        let (above, field) = place.rsplit_once('/').unwrap();
        config.pointer_mut(above).unwrap()[field] = value;
        assert_eq!(build(&KIND, &config.to_string()).err(), Some(want));
    }
}
