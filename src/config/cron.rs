//! Times that come again, as `cron` writes them, in a time zone.

use jiff::{
    Span, Timestamp,
    civil::{Date, DateTime},
    tz::{Offset, TimeZone},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{borrow::Cow, fmt, str::FromStr};

/// From one 29th of February to the next over a year 2100, the rarest day that comes at all.
const RAREST: u32 = 8 * 366;
/// The day from which on a day that never comes is looked for.
const LEAP: Date = jiff::civil::date(2024, 1, 1);
/// No zone has put its clocks on or back by more.
const SHIFT: i64 = 3;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Five fields as in `crontab(5)`: minute, hour, day of the month, month, day of the week. Each is a set of bits.
#[derive(Clone, Debug)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Where both are given, one of the two days is enough.
    either: bool,
}

impl FromStr for Cron {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(format!(
                "has {} fields, expected five: minute, hour, day, month, day of the week; such as `0 2 * * *`",
                parts.len()
            ));
        };
        let weekdays = field(weekday, "day of the week", 0, 7, &WEEKDAYS)?;
        let cron = Cron {
            text: parts.join(" "),
            minutes: field(minute, "minute", 0, 59, &[])?,
            hours: field(hour, "hour", 0, 23, &[])?,
            days: field(day, "day", 1, 31, &[])?,
            months: field(month, "month", 1, 12, &MONTHS)?,
            weekdays: weekdays | (weekdays >> 7 & 1),
            either: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        match cron.find(LEAP.at(0, 0, 0, 0), true, RAREST) {
            Some(_) => Ok(cron),
            None => Err(format!("never comes: no `{month}` has a day `{day}`")),
        }
    }
}

/// The values of one field.
fn field(text: &str, what: &str, low: u64, high: u64, names: &[&str]) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is no {what}: expected {low} to {high}, `*`, a range `a-b`, a list, or a step `*/n`");
    let value = |text: &str| {
        let named = names.iter().position(|name| text.eq_ignore_ascii_case(name)).map(|at| at as u64 + low);
        named.or_else(|| text.parse().ok()).filter(|value| (low..=high).contains(value)).ok_or_else(wrong)
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((first, last)) => (value(first)?, value(last)?),
            // `5/15` is every 15 from 5 on.
            None => (value(range)?, if step.is_some() { high } else { value(range)? }),
        };
        let step = step.map_or(Ok(1), |step| step.parse().ok().filter(|step| *step > 0).ok_or_else(wrong))?;
        if first > last {
            return Err(wrong());
        }
        set |= (first..=last).step_by(step).fold(0, |set, value| set | 1 << value);
    }
    Ok(set)
}

impl Cron {
    fn on(&self, date: Date) -> bool {
        let day = self.days >> date.day() & 1 == 1;
        let weekday = self.weekdays >> date.weekday().to_sunday_zero_offset() & 1 == 1;
        self.months >> date.month() & 1 == 1 && if self.either { day || weekday } else { day && weekday }
    }

    /// The first time at or after `from`, or the last at or before it; within so many days.
    fn find(&self, from: DateTime, forward: bool, days: u32) -> Option<DateTime> {
        let at = |minute: &i16| self.hours >> (minute / 60) & 1 == 1 && self.minutes >> (minute % 60) & 1 == 1;
        let begin = i16::from(from.hour()) * 60 + i16::from(from.minute());
        let mut date = from.date();
        for day in 0..=days {
            if self.on(date) {
                let found = match (forward, day) {
                    (true, 0) => (begin..1440).find(at),
                    (true, _) => (0..1440).find(at),
                    (false, 0) => (0..=begin).rev().find(at),
                    (false, _) => (0..1440).rev().find(at),
                };
                if let Some(minute) = found {
                    return Some(date.at((minute / 60) as i8, (minute % 60) as i8, 0, 0));
                }
            }
            date = if forward { date.tomorrow() } else { date.yesterday() }.ok()?;
        }
        None
    }

    /// The last time at or before `now`, not older than so many days. A time that the clocks pass over is the one an hour
    /// later; of a time that comes twice, the first counts.
    pub fn last(&self, now: Timestamp, zone: &Zone, days: u32) -> Option<Timestamp> {
        // An hour that is repeated: what stands later on the clock may have been before.
        let mut at = zone.0.to_datetime(now).checked_add(Span::new().hours(SHIFT)).ok()?;
        loop {
            let found = self.find(at, false, days.saturating_add(2))?;
            let time = zone.0.to_timestamp(found).ok()?;
            if time <= now {
                return Some(time);
            }
            at = found.checked_sub(Span::new().minutes(1)).ok()?;
        }
    }

    /// The first time after `now`.
    pub fn next(&self, now: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let mut at = zone.0.to_datetime(now).checked_sub(Span::new().hours(SHIFT)).ok()?;
        loop {
            let found = self.find(at, true, RAREST)?;
            let time = zone.0.to_timestamp(found).ok()?;
            if time > now {
                return Some(time);
            }
            at = found.checked_add(Span::new().minutes(1)).ok()?;
        }
    }
}

/// `UTC`, an offset such as `+01:00`, the name of a zone that the machine's `zoneinfo` knows, or a rule of POSIX.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone, String);

impl Default for Zone {
    fn default() -> Self {
        Zone(TimeZone::UTC, "UTC".into())
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no offset: expected one from -23:59 to +23:59, such as `+01:00`");
        let zone = match text.as_bytes() {
            b"UTC" => TimeZone::UTC,
            [sign @ (b'+' | b'-'), ..] => {
                let (hours, minutes) = text[1..].split_once(':').ok_or_else(wrong)?;
                let two = |text: &str, below: i32| {
                    let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
                    text.parse().ok().filter(|n: &i32| digits && *n < below).ok_or_else(wrong)
                };
                let seconds = (two(hours, 24)? * 60 + two(minutes, 60)?) * 60;
                let seconds = if *sign == b'-' { -seconds } else { seconds };
                TimeZone::fixed(Offset::from_seconds(seconds).map_err(|_| wrong())?)
            }
            _ => TimeZone::get(text).or_else(|_| TimeZone::posix(text)).map_err(|_| {
                format!(
                    "this machine knows no time zone `{text}`; `UTC`, `+01:00` and `CET-1CEST,M3.5.0,M10.5.0/3` need no \
                     list of them"
                )
            })?,
        };
        Ok(Zone(zone, text.to_owned()))
    }
}

macro_rules! written_as_text {
    ($type:ident, $example:literal, $text:expr) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text: fn(&$type) -> &str = $text;
                f.write_str(text(self))
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                Cow::<str>::deserialize(de)?.parse().map_err(D::Error::custom)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
                ser.collect_str(self)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": 1, "maxLength": 256, "examples": [$example] })
            }
        }
    };
}
written_as_text!(Cron, "0 2 * * *", |cron| &cron.text);
written_as_text!(Zone, "UTC", |zone| &zone.1);

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Berlin's, on a machine without a list too.
    const CET: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    #[test]
    fn the_time_before_and_after_is_found() {
        for (cron, zone, now, last, next) in [
            ("0 2 * * *", "UTC", "2026-11-21T12:00:00Z", "2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"),
            ("0 2 * * *", "UTC", "2026-11-21T02:00:00Z", "2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"),
            ("0 2 * * *", "+05:30", "2026-11-21T12:00:00Z", "2026-11-20T20:30:00Z", "2026-11-21T20:30:00Z"),
            ("*/15 8-10 * * mon-fri", "UTC", "2026-11-21T12:00:00Z", "2026-11-20T10:45:00Z", "2026-11-23T08:00:00Z"),
            ("0 0 1 jan,jul *", "UTC", "2026-11-21T12:00:00Z", "2026-07-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 29 2 *", "UTC", "2097-01-01T00:00:00Z", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"),
            // The 13th, and every Friday: either is enough.
            ("0 0 13 * 5", "UTC", "2026-11-12T12:00:00Z", "2026-11-06T00:00:00Z", "2026-11-13T00:00:00Z"),
            ("0 0 * * 7", "UTC", "2026-11-21T12:00:00Z", "2026-11-15T00:00:00Z", "2026-11-22T00:00:00Z"),
            ("50/5 23 * * *", "UTC", "2026-11-21T12:00:00Z", "2026-11-20T23:55:00Z", "2026-11-21T23:50:00Z"),
            // Clocks put on: 02:30 is 03:30. Put back: the first 02:30 counts, also in the second hour.
            ("30 2 * * *", CET, "2026-03-29T12:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"),
            ("30 2 * * *", CET, "2026-10-25T01:10:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ] {
            let (cron, zone): (Cron, Zone) = (cron.parse().unwrap(), zone.parse().unwrap());
            let got = (cron.last(time(now), &zone, 4000), cron.next(time(now), &zone));
            assert_eq!(got, (Some(time(last)), Some(time(next))), "{cron} {zone} {now}");
        }
        let daily: Cron = "0 2 1 1 *".parse().unwrap();
        assert_eq!(daily.last(time("2026-11-21T12:00:00Z"), &Zone::default(), 7), None, "it looks back no further");
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_reason() {
        for (text, want) in [
            ("", "has 0 fields"),
            ("0 2 * *", "has 4 fields"),
            ("0 2 * * * *", "has 6 fields"),
            ("60 2 * * *", "`60` is no minute: expected 0 to 59"),
            ("0 24 * * *", "`24` is no hour"),
            ("0 2 0 * *", "`0` is no day: expected 1 to 31"),
            ("0 2 * 13 *", "`13` is no month"),
            ("0 2 * * 8", "`8` is no day of the week"),
            ("0 2 * * son", "`son` is no day of the week"),
            ("5-2 * * * *", "`5-2` is no minute"),
            ("*/0 * * * *", "`*/0` is no minute"),
            ("-1 * * * *", "`-1` is no minute"),
            ("1,,2 * * * *", "`1,,2` is no minute"),
            ("0 0 30 2 *", "never comes: no `2` has a day `30`"),
            ("0 0 31 4,6,9,11 *", "never comes"),
        ] {
            let why = text.parse::<Cron>().unwrap_err();
            assert!(why.contains(want), "{text}: {why}");
        }
        for text in ["+1:00", "+24:00", "+01:60", "+0100", "+é:00", "Mars/Olympus", "", "-01:00:00"] {
            assert!(text.parse::<Zone>().is_err(), "{text}");
        }
    }
}
