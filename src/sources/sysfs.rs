//! What the kernel's own drivers measure, as files: thermal zones, hwmon, IIO and 1-wire.

use super::{
    probe::{MOST_PLACES, Probe, Probes, Taken, Trouble, Values, checked_every, checked_name},
    report::Policy,
};
use crate::{
    budget::Span,
    fault::{Fault, printable},
    kind::{Intake, Kind, ParamsError, Source},
    systems::scale::{self, decimals, scaled},
};
use async_trait::async_trait;
use rustix::fs::OFlags;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

pub const KIND: Kind<dyn Source> = Kind {
    name: "sysfs",
    about: "reads sensors that the kernel has as files: thermal zones, hwmon, IIO, 1-wire",
    example: r#"{
  "type": "sysfs",
  "every": "10s",
  "sensors": {
    // The processor's temperature, on every Raspberry Pi: 51540 there is 51.54 °C.
    "cpu": { "path": "/sys/class/thermal/thermal_zone0/temp", "field": "temperature", "scale": 0.001,
             "report": { "when": { "band": 0.5 }, "at_least": "10m" } },
    // All DS18B20 on the 1-wire bus, each an event of its own with its number as `id`.
    "cellar": { "path": "/sys/bus/w1/devices/28-*/w1_slave", "field": "temperature", "scale": 0.001 },
    // The chip of this name, whatever number the kernel gave it.
    "supply": { "path": "/sys/class/hwmon/hwmon*/in0_input", "where": { "name": "ina226" }, "field": "volts", "scale": 0.001 },
    // IIO: raw values, with the `_scale` and `_offset` that lie beside them.
    "light": { "path": "/sys/bus/iio/devices/iio:device*/in_illuminance_raw", "where": { "name": "tsl2561" }, "field": "lux" } } }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(Sysfs(params.decode::<Config>()?.probes()?))),
};

/// Bytes of a file: what the kernel gives at most.
const LONGEST: u64 = 4096;
/// Entries of a folder that a pattern looks through.
const ENTRIES: usize = 4096;
/// Files that a pattern gives.
const MATCHES: usize = 256;
/// Bytes of a path.
const LONGEST_PATH: usize = 1024;

/// Reads files in which the kernel's drivers, or anybody else, keep a number. Each reading is an event,
/// `{"sensor":"cpu","temperature":51.54}`, with the time at which it was read and the sensor as key. Behind a `*` there may be
/// several: then each has its name there as `id`, `{"sensor":"cellar","id":"28-0316a2799aff","temperature":8.5}`, and the key
/// `cellar/28-0316a2799aff`. A file that is missing or has no number is looked for at growing intervals, to a minute; the others
/// keep their periods. While the store takes nothing, the last 256 readings are kept; what is lost before an event stands in it
/// as `lost`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How often sensors are read that do not say it, 10 ms at least.
    every: Span,
    /// The sensors, by names; at most 64.
    sensors: BTreeMap<String, SensorConfig>,
}

/// A file, or all files that are like a pattern.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SensorConfig {
    /// The file; a `*` stands for any part of a name. A number is read as it is. Of `w1_slave` the checksum must be right, and `t=`
    /// is the number. To `…_raw` of IIO, `…_offset` is added, and it is multiplied by `…_scale`.
    path: PathBuf,
    /// Files beside it, and what must stand in them: `{ "name": "cpu_thermal" }`. Of what `path` is like, the one for which that
    /// holds is read.
    #[serde(default)]
    r#where: BTreeMap<String, String>,
    /// What the value is called.
    #[serde(default = "value")]
    field: String,
    /// The number is multiplied by this…
    scale: Option<f64>,
    /// …and then this is added.
    offset: Option<f64>,
    /// How often it is read. Without: as the source says.
    every: Option<Span>,
    /// When it is told.
    #[serde(default)]
    report: Policy,
}

fn value() -> String {
    "value".into()
}

impl Config {
    fn probes(self) -> Result<Probes<Sensor>, ParamsError> {
        checked_every(self.every).map_err(|why| ParamsError::at("every", why))?;
        if self.sensors.is_empty() || self.sensors.len() > MOST_PLACES {
            return Err(ParamsError::at("sensors", format!("expected 1 to {MOST_PLACES}")));
        }
        let mut probes = Probes::new("sensor", false);
        for (name, config) in self.sensors {
            let under = |field: &str, why: String| ParamsError::at(format!("sensors.{name}{field}"), why);
            checked_name(&name, &[]).map_err(|why| under("", why))?;
            checked_name(&config.field, &["sensor", "id", "lost"]).map_err(|why| under(".field", why))?;
            let every = config.every.unwrap_or(self.every);
            checked_every(every).map_err(|why| under(".every", why))?;
            scale::check(config.scale, config.offset)
                .map_err(|(field, why)| under(&format!(".{field}"), why.into()))?;
            let wrong = |(field, why): (&str, &str)| under(&format!(".report.{field}"), why.into());
            config.report.check().map_err(wrong)?;
            check_path(&config.path).map_err(|why| under(".path", why.into()))?;
            if let Some(file) =
                config.r#where.keys().find(|file| file.contains('/') || matches!(file.as_str(), "" | "." | ".."))
            {
                return Err(under(&format!(".where.{file}"), "expected the name of a file beside it".into()));
            }
            let fields = vec![(config.field, config.report)];
            let SensorConfig { path, r#where, scale, offset, .. } = config;
            probes.add(&name, every.0, fields, Sensor { path, r#where, scale, offset });
        }
        Ok(probes)
    }
}

fn check_path(path: &Path) -> Result<(), &'static str> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    match path.to_str() {
        None | Some("") => Err("expected a path"),
        Some(text) if text.len() > LONGEST_PATH => Err("is longer than 1024 bytes"),
        Some(text) if text.contains('\0') => Err("has a zero byte"),
        _ if !path.is_absolute() || !path.components().all(plain) => Err("expected an absolute path without `..`"),
        _ if path.file_name().is_none() => Err("expected a file"),
        _ => Ok(()),
    }
}

struct Sysfs(Probes<Sensor>);

#[async_trait]
impl Source for Sysfs {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        self.0.run(intake).await
    }
}

/// A file, or those that are like a pattern.
struct Sensor {
    path: PathBuf,
    r#where: BTreeMap<String, String>,
    scale: Option<f64>,
    offset: Option<f64>,
}

impl Probe for Sensor {
    fn read(&mut self, tell: &mut dyn FnMut(Taken)) -> Result<(), Trouble> {
        let mut found = Vec::new();
        find(Path::new("/"), &self.path.components().collect::<Vec<_>>()[1..], "", &mut found);
        let shown = self.path.display();
        if !self.r#where.is_empty() {
            found.retain(|(path, _)| self.fits(path));
            if let [(a, _), (b, _), ..] = found.as_slice() {
                let why = format!("more than one fits: `{}` and `{}`", a.display(), b.display());
                return Err(Trouble::Failed(why));
            }
            found.iter_mut().for_each(|(_, id)| id.clear());
        }
        if found.is_empty() {
            return Err(Trouble::Failed(format!(
                "there is no `{shown}`{}",
                if self.r#where.is_empty() { "" } else { " for which `where` holds" }
            )));
        }
        for (path, id) in found {
            let value = self.value(&path).map(|value| Values::from_array([value]));
            match id.is_empty() {
                true => tell(Taken::now(None, Ok(value.map_err(Trouble::Failed)?))),
                false => tell(Taken::now(Some(id), value)),
            }
        }
        Ok(())
    }
}

impl Sensor {
    /// Whether the files beside it say what they must.
    fn fits(&self, path: &Path) -> bool {
        self.r#where.iter().all(|(file, want)| text(&path.with_file_name(file)).is_ok_and(|text| text.trim() == want))
    }

    fn value(&self, path: &Path) -> Result<f64, String> {
        let text = text(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (value, own) = match name.strip_suffix("_raw") {
            _ if name == "w1_slave" => (w1(&text)?, 0),
            Some(channel) => raw(path, channel, number(&text)?)?,
            None => {
                let value = number(&text)?;
                (value, decimals(value))
            }
        };
        Ok(scaled(value, own, self.scale, self.offset))
    }
}

/// The files behind a path, each with what its patterns stand for; sorted.
fn find(folder: &Path, parts: &[Component<'_>], id: &str, found: &mut Vec<(PathBuf, String)>) {
    let Some((part, rest)) = parts.split_first() else {
        if found.len() < MATCHES {
            found.push((folder.to_owned(), id.to_owned()));
        }
        return;
    };
    let pattern = part.as_os_str().to_string_lossy();
    if !pattern.contains('*') {
        let path = folder.join(part);
        // With a pattern before it, what has no such file is not meant.
        if id.is_empty() || path.exists() {
            find(&path, rest, id, found);
        }
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().take(ENTRIES).flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.len() <= 255 && is_like(name, &pattern));
    names.sort();
    for name in names {
        let id = if id.is_empty() { name.clone() } else { format!("{id}/{name}") };
        find(&folder.join(name), rest, &id, found);
    }
}

/// Whether a name is like a pattern, in which `*` stands for anything.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What a file has, up to the limit.
fn text(path: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no `{}`", path.display()),
        _ => format!("`{}`: {error}", path.display()),
    };
    // So that a FIFO without a writer does not hold up the thread.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(told)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(told)?;
    match bytes.len() as u64 {
        0..=LONGEST => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        _ => Err(format!("`{}` is longer than 4KiB", path.display())),
    }
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| format!("`{}` is no number", printable(text.trim().as_bytes(), 40)))
}

/// The file of the kernel's w1_therm: the sensor's bytes with `crc=57 YES`, and again with `t=23125`.
fn w1(text: &str) -> Result<f64, String> {
    let mut lines = text.lines();
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if !first.trim_end().ends_with("YES") {
        return Err("a wrong checksum".into());
    }
    // 85 °C, with the sixth byte as it is before any conversion: the sensor had just got its power.
    if first.starts_with("50 05 ") && first.split(' ').nth(6) == Some("0c") {
        return Err("it was switched on meanwhile, and has measured nothing".into());
    }
    number(second.rsplit_once("t=").ok_or("there is no `t=`")?.1)
}

/// A raw value of IIO, and its decimals (Documentation/ABI/testing/sysfs-bus-iio): the offset is added, then it is scaled. Both
/// may be the channel's own, or those of all channels of its type: `in_voltage_scale`.
fn raw(path: &Path, channel: &str, raw: f64) -> Result<(f64, usize), String> {
    let mut parts = channel.splitn(3, '_');
    let (direction, sort) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let sort: String = sort.chars().take_while(char::is_ascii_alphabetic).collect();
    let beside = |what: &str, none: f64| {
        let names = [format!("{channel}_{what}"), format!("{direction}_{sort}_{what}")];
        let file = names.iter().map(|name| path.with_file_name(name)).find(|file| file.exists());
        file.map_or(Ok(none), |file| number(&text(&file)?))
    };
    let (scale, offset) = (beside("scale", 1.0)?, beside("offset", 0.0)?);
    Ok(((raw + offset) * scale, decimals(raw) + decimals(offset) + decimals(scale)))
}

#[cfg(test)]
mod tests;
