//! Values that are polled together: the requests for them, and the event out of the answers.

use crate::{
    event::json::write_string,
    sources::report::{Report, Sample},
    systems::modbus::{Ask, Form, Reading, Request, Table, bit},
};
use std::{ops::Range, time::Duration};
use tokio::time::Instant;

pub(super) struct Group {
    pub name: String,
    pub unit: u8,
    pub every: Duration,
    table: Table,
    /// Runs of addresses, one request each.
    runs: Vec<Range<u32>>,
    values: Vec<Value>,
    /// When it is to be polled.
    pub due: Instant,
    /// What is wrong with it while its unit answers.
    pub failing: Option<String>,
    /// Whether it was told that polls are left out.
    pub behind: bool,
}

pub(super) struct Value {
    name: String,
    range: Range<u32>,
    form: Form,
    report: Report,
}

impl Value {
    pub fn new(name: String, address: u16, form: Form, report: Report) -> Value {
        let address = u32::from(address);
        Value { name, range: address..address + u32::from(form.registers()), form, report }
    }
}

impl Group {
    pub fn new(name: String, unit: u8, table: Table, every: Duration, skip: u16, values: Vec<Value>) -> Group {
        let runs = runs(values.iter().map(|v| v.range.clone()).collect(), table.most().into(), skip.into());
        Group { name, unit, every, table, runs, values, due: Instant::now(), failing: None, behind: false }
    }

    /// What has to be asked, in this order.
    pub fn requests(&self) -> impl Iterator<Item = Request<'static>> + use<> {
        let (unit, table) = (self.unit, self.table);
        let asks = self.runs.clone().into_iter().map(move |run| Ask::Read {
            table,
            address: run.start as u16,
            count: (run.end - run.start) as u16,
        });
        asks.map(move |ask| Request { unit, ask })
    }

    /// Its next time, on its own grid: those that have passed are left out. Whether there are such.
    pub fn advance(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.due).as_nanos() / self.every.as_nanos().max(1);
        let steps = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
        self.due += self.every.saturating_mul(steps);
        steps > 1
    }

    /// Writes the body of the event into `out`; `false` if no value is to be told.
    pub fn write(&mut self, answers: &[Vec<u8>], now_ms: u64, out: &mut Vec<u8>) -> bool {
        out.clear();
        out.extend_from_slice(format!("{{\"unit\":{},\"group\":", self.unit).as_bytes());
        write_string(&self.name, out);
        let empty = out.len();
        for value in &mut self.values {
            let place = self.runs.iter().position(|run| run.start <= value.range.start && value.range.end <= run.end);
            let Some((run, data)) = place.and_then(|at| self.runs.get(at).zip(answers.get(at))) else { continue };
            let from = (value.range.start - run.start) as usize;
            let reading = match self.table.bits() {
                true => Reading::Bool(bit(data, from)),
                false => value.form.read(data.get(2 * from..2 * (from + value.range.len())).unwrap_or_default()),
            };
            if value.report.tell(sample(&reading), now_ms) {
                out.push(b',');
                write_string(&value.name, out);
                out.push(b':');
                reading.write_json(out);
            }
        }
        let told = out.len() > empty;
        out.push(b'}');
        told
    }

    /// What was told last got lost.
    pub fn forget(&mut self) {
        self.values.iter_mut().for_each(|value| value.report.forget());
    }
}

fn sample(reading: &Reading) -> Sample<'_> {
    match reading {
        Reading::Null => Sample::Null,
        Reading::Bool(b) => Sample::Bool(*b),
        Reading::Int(i) => Sample::Int(*i),
        Reading::Float(f) => Sample::Float(*f),
        Reading::Text(text) => Sample::Text(text),
    }
}

/// The fewest runs of at most `most` addresses, each value whole in one, with at most `skip` that nobody wants between two
/// values.
fn runs(mut values: Vec<Range<u32>>, most: u32, skip: u32) -> Vec<Range<u32>> {
    values.sort_by_key(|range| (range.start, range.end));
    let mut runs: Vec<Range<u32>> = Vec::new();
    for value in values {
        match runs.last_mut() {
            Some(run) if value.start <= run.end + skip && value.end.max(run.end) - run.start <= most => {
                run.end = run.end.max(value.end);
            }
            _ => runs.push(value),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sources::report::Policy,
        systems::modbus::{Order, Type},
    };

    #[test]
    fn neighbours_are_read_together() {
        for (values, most, skip, want) in [
            (&[(0, 1), (1, 3), (3, 7)][..], 125, 0, &[(0, 7)][..]),
            (&[(3, 7), (0, 1), (1, 3)], 125, 0, &[(0, 7)]),
            (&[(0, 1), (2, 3)], 125, 0, &[(0, 1), (2, 3)]),
            (&[(0, 1), (2, 3), (5, 6)], 125, 1, &[(0, 3), (5, 6)]),
            (&[(0, 2), (0, 1), (1, 2)], 125, 0, &[(0, 2)]),
            (&[(0, 4), (1, 2), (4, 5)], 125, 0, &[(0, 5)]),
            (&[(0, 3), (3, 6), (6, 9)], 7, 0, &[(0, 6), (6, 9)]),
            (&[(0, 1), (124, 126)], 125, 200, &[(0, 1), (124, 126)]),
            (&[(0, 1), (124, 125)], 125, 200, &[(0, 125)]),
        ] {
            let ranges = |pairs: &[(u32, u32)]| pairs.iter().map(|(from, to)| *from..*to).collect::<Vec<_>>();
            assert_eq!(runs(ranges(values), most, skip), ranges(want), "{values:?}");
        }
    }

    #[tokio::test]
    async fn a_poll_that_is_late_is_left_out() {
        let start = Instant::now();
        for (late_ms, want_ms, left_out) in
            [(0, 1000, false), (999, 1000, false), (1000, 2000, true), (5300, 6000, true)]
        {
            let mut group = Group::new("g".into(), 1, Table::Coil, Duration::from_secs(1), 0, Vec::new());
            group.due = start;
            assert_eq!(group.advance(start + Duration::from_millis(late_ms)), left_out, "{late_ms}");
            assert_eq!(group.due, start + Duration::from_millis(want_ms), "{late_ms}");
        }
    }

    #[tokio::test]
    async fn an_event_has_what_is_to_be_told() {
        let report = |policy: &str| Report::new(serde_json::from_str::<Policy>(policy).unwrap());
        let value = |name: &str, address, form, policy| Value::new(name.into(), address, form, report(policy));
        let values = vec![
            value("volts", 10, Form { scale: Some(0.1), ..Form::plain(Type::U16) }, "{}"),
            value("energy", 11, Form { words: Order::Little, ..Form::plain(Type::U32) }, r#"{ "when": "change" }"#),
            value("alarm", 20, Form { bit: Some(1), ..Form::plain(Type::Bool) }, r#"{ "when": "change" }"#),
        ];
        let mut group = Group::new("me\"ter".into(), 7, Table::Input, Duration::from_secs(1), 0, values);
        let asks: Vec<String> = group.requests().map(|r| format!("{:?}", r.ask)).collect();
        assert_eq!(
            asks,
            ["Read { table: Input, address: 10, count: 3 }", "Read { table: Input, address: 20, count: 1 }"]
        );
        let mut out = Vec::new();
        for (first, second, want) in [
            ([8, 253, 0, 2, 0, 1], [0, 2], ",\"volts\":230.1,\"energy\":65538,\"alarm\":true}"),
            ([8, 253, 0, 2, 0, 1], [0, 0], ",\"volts\":230.1,\"alarm\":false}"),
            ([8, 254, 0, 2, 0, 1], [0, 0], ",\"volts\":230.2}"),
        ] {
            assert!(group.write(&[first.to_vec(), second.to_vec()], 0, &mut out));
            assert_eq!(String::from_utf8_lossy(&out), format!("{{\"unit\":7,\"group\":\"me\\\"ter\"{want}"));
        }
        group.values.remove(0);
        assert!(!group.write(&[vec![8, 254, 0, 2, 0, 1], vec![0, 0]], 0, &mut out));
        group.forget();
        assert!(group.write(&[vec![8, 254, 0, 2, 0, 1], vec![0, 0]], 0, &mut out));
    }
}
