//! The catalogue entry of a component, and what its constructor is given.
//!
//! A component's file holds its configuration struct, its `KIND` and its logic:
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//! use tidegate::kind::{Kind, ParamsError};
//!
//! trait Lamp {}
//! struct Led(u32);
//! impl Lamp for Led {}
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     /// The GPIO line the lamp hangs on.
//!     line: u32,
//! }
//!
//! pub const KIND: Kind<dyn Lamp> = Kind {
//!     name: "led",
//!     about: "a lamp on a GPIO line",
//!     example: r#"{ "type": "led", "line": 17 }"#,
//!     schema: Config::json_schema,
//!     build: |params| {
//!         let config: Config = params.decode()?;
//!         if config.line > 63 {
//!             return Err(ParamsError::at("line", "a board has lines 0 to 63"));
//!         }
//!         Ok(Box::new(Led(config.line)))
//!     },
//! };
//! ```

mod intake;
mod memory;
mod process;
pub mod systems;

pub use intake::{Before, Fields, Intake, Need, Sink, Source};
pub use memory::{Memory, Timer};
pub use process::{Cx, Outside, Process};

use crate::systems::{Systems, modbus::Buses};

use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{fmt, path::PathBuf};

/// The catalogue entry of a source, process, sink or system.
pub struct Kind<T: ?Sized> {
    /// What `type` says in the configuration.
    pub name: &'static str,
    /// One line: lower case, no full stop.
    pub about: &'static str,
    /// A whole component as it stands in the configuration, JSON with comments; a test builds it.
    pub example: &'static str,
    /// The schema of the kind's own fields: `Config::json_schema`. Its doc comments are the user's documentation.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Makes the component without any side effect: nothing is opened, connected or started before it runs.
    pub build: fn(Params) -> Result<Box<T>, ParamsError>,
}

/// What a constructor gets to know about the gateway it is built for.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The id of the gateway.
    pub gateway: String,
    /// The directory of the store, where a component may keep files of its own.
    pub data: PathBuf,
    /// The systems that the configuration names.
    pub systems: Systems,
    /// The Modbus lines and connections, which its components share.
    pub buses: Buses,
    /// The pipeline of a process; else empty.
    pub pipeline: String,
}

/// The configuration of one component, without `type` and the fields that every component of its sort has.
/// It may hold secrets, so it has no way to print its values.
pub struct Params {
    /// The component's name in the configuration; a process without one is called after its kind, `annotate`, the
    /// second of them in its pipeline `annotate#2`.
    pub name: String,
    /// The gateway around the component.
    pub scope: Scope,
    value: Value,
}

impl Params {
    /// Parameters for a component; `value` is the object of its own fields.
    pub fn new(name: impl Into<String>, scope: Scope, value: Value) -> Self {
        Params { name: name.into(), scope, value }
    }

    /// The fields as the kind's own struct; an error says which field is wrong.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ParamsError> {
        decode(&self.value)
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Params").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Decodes a value and says, when that fails, where in it.
pub(crate) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, ParamsError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        ParamsError::at(if path == "." { "" } else { &path }, e.inner())
    })
}

/// The topic between a process of a pipeline and who reads from there: the sink of a `tee`, the part of the pipeline after
/// a `checkpoint`. No configuration can name it otherwise.
pub fn side_topic(pipeline: &str, process: &str) -> String {
    format!("{pipeline}/{process}")
}

/// What is wrong with a component's configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamsError {
    /// The field, relative to the component: `tls.cert`, `steps[2].when`. Empty: the component as a whole.
    pub path: String,
    /// Lower case, no full stop.
    pub message: String,
}

impl ParamsError {
    /// For a constructor that finds a value wrong after decoding.
    pub fn at(path: impl Into<String>, message: impl fmt::Display) -> Self {
        ParamsError { path: path.into(), message: message.to_string() }
    }
}

impl fmt::Display for ParamsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl std::error::Error for ParamsError {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Config {
        tls: Option<Tls>,
        #[serde(default)]
        steps: Vec<Tls>,
    }

    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Tls {
        cert: String,
    }

    #[test]
    fn an_error_names_the_field() {
        for (value, want) in [
            (json!({}), "ok"),
            (json!({"tls": {"cert": 3}}), "tls.cert: invalid type: integer `3`, expected a string"),
            (
                json!({"steps": [{"cert": ""}, {"cert": []}]}),
                "steps[1].cert: invalid type: sequence, expected a string",
            ),
            (json!({"tls": {}}), "tls: missing field `cert`"),
            (json!([1]), "invalid type: integer `1`, expected struct Tls"),
        ] {
            let got = Params::new("x", Scope::default(), value).decode::<Config>();
            let got = got.map_or_else(|e| e.to_string(), |_| "ok".into());
            assert!(got.ends_with(want), "{got}");
        }
    }

    #[test]
    fn values_are_not_printed() {
        let params = Params::new("x", Scope::default(), json!({"password": "canary"}));
        assert!(!format!("{params:?}").contains("canary"));
    }
}
