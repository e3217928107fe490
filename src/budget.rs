//! Sizes, durations and what may wait: every buffer has a limit in bytes, said the way people write it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

/// A number of bytes, written `"64KiB"`, `"1MB"`, `"512"` or as a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A span of time, written `"250ms"`, `"5s"`, `"10m"`, `"6h"`, `"7d"`. At most ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Size {
    /// The size as `usize`, for buffers in memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Span {
    /// A span of so many milliseconds.
    pub const fn millis(ms: u64) -> Self {
        Span(Duration::from_millis(ms))
    }
}

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("", 1),
];
const SPANS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const TEN_YEARS_MS: u64 = 3653 * 86_400_000;

/// Splits `1.5MiB` into number and unit and multiplies them; `None` for anything else, negative or beyond `u64`.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..at].trim(), &text[at..]);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let number: f64 = number.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)?;
    let scaled = number * factor as f64;
    (scaled < u64::MAX as f64).then_some(scaled as u64)
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, SIZES)
            .map(Size)
            .ok_or_else(|| format!("`{text}` is not a size; write it like \"64KiB\" or \"1MB\""))
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, SPANS).filter(|ms| *ms <= TEN_YEARS_MS).map(Span::millis).ok_or_else(|| {
            format!("`{text}` is not a duration; write it like \"250ms\", \"5s\", \"10m\", \"6h\" or \"7d\"")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor)
            .unwrap_or(("B", 1));
        if self.0.is_multiple_of(factor) {
            write!(f, "{}{unit}", self.0 / factor)
        } else {
            write!(f, "{:.1}{unit}", self.0 as f64 / factor as f64)
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let (unit, factor) = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor))
            .unwrap_or(("ms", 1));
        write!(f, "{}{unit}", ms / factor)
    }
}

/// Text or a bare number, read by `FromStr`; shared by both types.
fn read<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(de: D) -> Result<T, D::Error> {
    struct Text<T>(std::marker::PhantomData<T>);
    impl<T: FromStr<Err = String>> serde::de::Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text with a number and a unit")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
        fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<T, E> {
            n.to_string().parse().map_err(E::custom)
        }
    }
    de.deserialize_any(Text(std::marker::PhantomData))
}

macro_rules! written_as_text {
    ($type:ident, $example:literal, $pattern:literal, $accepts:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                read(de)
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
                json_schema!({ "type": $accepts, "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}
written_as_text!(Size, "64KiB", "^[0-9.]+ ?([kKMG]?B|[KMGT]iB)?$", ["string", "integer"]);
written_as_text!(Span, "5s", "^[0-9.]+ ?(ms|s|m|min|h|d)$", "string");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_read_as_people_write_them() {
        for (text, want) in [
            ("64KiB", Some(65_536)),
            ("1MB", Some(1_000_000)),
            ("1.5 MiB", Some(1_572_864)),
            ("512", Some(512)),
            ("0", Some(0)),
            ("-1", None),
            ("1XB", None),
            ("", None),
            ("KiB", None),
            ("99999999999999999999GiB", None),
            ("inf", None),
        ] {
            assert_eq!(text.parse::<Size>().ok().map(|s| s.0), want, "{text}");
        }
        for (text, want) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("1.5h", Some(5_400_000)),
            ("7d", Some(604_800_000)),
            ("5", None),
        ] {
            assert_eq!(text.parse::<Span>().ok().map(|s| s.0.as_millis()), want, "{text}");
        }
        assert!("4000d".parse::<Span>().is_err());
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["64KiB", "1MiB", "7B"] {
            assert_eq!(text.parse::<Size>().map(|s| s.to_string()).as_deref(), Ok(text));
        }
        for text in ["250ms", "90s", "7d", "6h"] {
            assert_eq!(text.parse::<Span>().map(|s| s.to_string()).as_deref(), Ok(text));
        }
    }
}
