//! What is asked about stored events.

use super::{Call, Desk, Reply, routes::Answer};
use crate::store::{LONGEST_QUERY, MOST_ROWS, Query};
use serde_json::json;
use std::time::Duration;

/// Rows of an answer, and how long it may take, if the question does not say otherwise.
const ROWS: usize = 1000;
const TIME: u64 = 5000;

impl Desk {
    pub(super) async fn query(&self, call: &Call) -> Answer {
        let sql = call.body()?;
        let time = Duration::from_millis(call.number("ms")?.unwrap_or(TIME)).min(LONGEST_QUERY);
        let rows = call.number("rows")?.unwrap_or(ROWS).min(MOST_ROWS);
        let found = self.store.query(Query { sql: sql.into(), rows, time }).await;
        let found = found.map_err(|error| Reply::problem(400, &error))?;
        Ok(Reply::json(&json!({
            "columns": found.columns, "rows": found.rows, "more": found.more, "damaged": found.damaged,
        })))
    }
}
