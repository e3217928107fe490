//! Makes fields out of fields.

use super::specs::{Others, Spec, Specs};
use crate::{
    event::Event,
    fault::Fault,
    kind::{Cx, Kind, Outside, Process},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

pub const KIND: Kind<dyn Process> = Kind {
    name: "transform",
    about: "makes fields out of fields: copies, sums, replaces, folds, computes",
    example: r#"{ "type": "transform", "others": "keep", "specs": [
    { "from": "temp", "to": "air.temp", "op": "move" },
    { "from": "list", "to": "total", "op": "sum" },
    { "from": "list", "to": "doubled", "op": { "multiply": 2 } },
    { "from": "path", "op": { "replace": { "regex": "^/dev/(.*)$", "with": "$1" } } },
    { "from": "list", "to": "largest", "op": { "fold_left": { "start": 0, "expr": "max(meta.acc, meta.item)" } } },
    { "to": "hot", "op": { "expr": "event.temp > 30.0" } } ] }"#,
    schema: Config::json_schema,
    build: |params| {
        let Config { specs, others } = params.decode()?;
        Ok(Box::new(Transform(Specs::new("specs", specs, others)?)))
    },
};

/// Makes fields out of fields. Every spec reads the event as it came, never what another spec made.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What to make; of two specs with the same `to` the later wins.
    specs: Vec<Spec>,
    /// Whether the event's own fields stay beside those that are made: `"keep"` or `"drop"`.
    #[serde(default)]
    others: Others,
}

struct Transform(Specs);

impl Process for Transform {
    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if !self.0.run_programs() {
            self.0.apply(&mut event)?;
        }
        cx.emit(event);
        Ok(())
    }

    /// With programs everything is done out there.
    fn outside(&self) -> Option<&dyn Outside> {
        self.0.run_programs().then_some(self)
    }
}

#[async_trait]
impl Outside for Transform {
    async fn reach(&self, event: &mut Event) -> Result<(), Fault> {
        self.0.apply_outside(event).await
    }
}

#[cfg(test)]
mod tests;
