//! Events on the standard input.

use super::documents::{Documents, Format, OnBad, Place, line_field};
use crate::{
    fault::Fault,
    kind::{Intake, Kind, Source},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

pub const KIND: Kind<dyn Source> = Kind {
    name: "stdin",
    about: "JSON documents or lines on the standard input, to its end",
    example: r#"{ "type": "stdin", "format": "json" }"#,
    schema: Config::json_schema,
    build: |params| {
        let Config { format, field, on_bad } = params.decode()?;
        Ok(Box::new(Stdin(Documents::new("stdin".into(), format, field, on_bad, Place::default()))))
    },
};

/// Reads the standard input to its end. What was read and not committed when the gateway was killed is gone: a pipe
/// cannot be read again.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What the input is made of: `"json"` or `"lines"`.
    #[serde(default)]
    format: Format,
    /// With `lines`, the field that takes the line.
    #[serde(default = "line_field")]
    field: String,
    /// What happens at a piece of input that is no event: `"stop"` or `"skip"`.
    #[serde(default)]
    on_bad: OnBad,
}

struct Stdin(Documents);

#[async_trait]
impl Source for Stdin {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        self.0.pump(&mut tokio::io::stdin(), intake, &|_| Vec::new()).await
    }

    fn bounded(&self) -> bool {
        true
    }
}
