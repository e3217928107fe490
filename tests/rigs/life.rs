//! What a store was told and has promised over all that happens to it, and whether it keeps it.

use crate::worker::{Orders, TOPICS};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    process::{Child, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// One topic: numbers up to, not including.
#[derive(Clone, Debug, Default)]
struct Topic {
    sent: u64,
    acked: u64,
    passing: u64,
    passed: u64,
    /// Sequence number of the event of number 0, and the one after the last that was given.
    offset: Option<i64>,
    next: u64,
    /// What the last start found: runs (from, to, sequence number), and the rows of the ledger by consumer.
    found: Vec<[u64; 3]>,
    ledger: BTreeMap<String, [u64; 4]>,
}

/// What one store lived through.
#[derive(Clone, Debug, Default)]
pub struct Life {
    topics: BTreeMap<String, Topic>,
    /// What was wrong. Lines that begin with `lost` are acknowledged events that are gone.
    pub flaws: Vec<String>,
    /// Payloads that nobody sent, which is wrong whatever the disk did.
    pub wrong: Vec<String>,
    pub starts: u64,
    pub refusals: u64,
    pub broken: u64,
    /// Acknowledged events of `a` and `b` that the last start did not find although nobody had passed them; and those in batches
    /// that are damaged.
    pub missing: u64,
    pub damaged: u64,
    /// What the store said about what it lost.
    pub told: Vec<String>,
    /// The last line that came.
    pub last: String,
}

/// How a worker ended.
pub struct End {
    pub status: ExitStatus,
    pub stderr: String,
    /// It did not end by itself in time.
    pub late: bool,
}

impl Life {
    pub fn new() -> Life {
        Life { topics: TOPICS.map(|topic| (topic.to_owned(), Topic::default())).into(), ..Life::default() }
    }

    /// Acknowledged events.
    pub fn acked(&self) -> u64 {
        self.topics.values().map(|topic| topic.acked).sum()
    }

    /// What the next worker goes on with.
    pub fn orders(&self, orders: &Orders) -> Orders {
        Orders { next: self.topics["a"].acked, ..orders.clone() }
    }

    /// Reads a worker's lines until it ends, which it must within `limit`; kills it when `stop` says so.
    pub fn watch(&mut self, mut child: Child, limit: Duration, mut stop: impl FnMut(&Life) -> bool) -> End {
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut errors = child.stderr.take().unwrap();
        let out = thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)).ok());
        let err = thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).ok();
            String::from_utf8_lossy(&text).into_owned()
        });
        let (begun, mut killed, mut late) = (Instant::now(), false, false);
        loop {
            match lines.recv_timeout(Duration::from_millis(1)) {
                Ok(line) => self.take(&line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            let over = begun.elapsed() > limit;
            if !killed && (over || stop(self)) {
                (killed, late) = (true, over);
                child.kill().ok();
            }
        }
        out.join().unwrap();
        End { status: child.wait().unwrap(), stderr: err.join().unwrap(), late }
    }

    /// Takes a line of a worker.
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let n = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok()).unwrap_or_default();
        let u = |at: usize| n(at) as u64;
        let named = words.get(if words[0] == "ledger" { 2 } else { 1 }).and_then(|name| self.topics.get_mut(*name));
        match (words[0], named) {
            ("ledger", Some(topic)) => drop(topic.ledger.insert(words[1].to_owned(), [u(3), u(4), u(5), u(6)])),
            ("found", Some(topic)) => topic.found.push([u(2), u(3), u(4)]),
            ("sent", Some(topic)) => topic.sent = topic.sent.max(u(2)),
            ("passing", Some(topic)) => topic.passing = topic.passing.max(u(2)),
            ("passed", Some(topic)) => topic.passed = topic.passed.max(u(2)),
            ("acked", Some(topic)) => {
                topic.acked = topic.acked.max(u(2));
                if words.len() > 3 && u(4) < topic.next {
                    self.flaws.push(format!("again: {line}, after {}", topic.next));
                }
                topic.next = topic.next.max(u(2).wrapping_add_signed(n(3)));
                if words.len() > 3 && *topic.offset.get_or_insert(n(3)) != n(3) {
                    self.flaws.push(format!("numbered anew: {line}, not {:?}", topic.offset));
                }
            }
            ("refused", _) => self.refusals += 1,
            ("broken", _) => {
                self.broken += 1;
                self.damaged += if words[1] == "out" { 0 } else { u(3) - u(2) };
            }
            ("told", _) => self.told.push(words[1..].join(" ")),
            ("wrong", _) => self.wrong.push(line.to_owned()),
            ("state", _) => self.judge(u(1)),
            ("ready", _) => self.starts += 1,
            _ => {}
        }
        if !line.is_empty() {
            line.clone_into(&mut self.last);
        }
    }

    /// Whether what a start found is what was promised.
    fn judge(&mut self, state: u64) {
        let mut flaws = Vec::new();
        for (name, topic) in &mut self.topics {
            let [accepted, delivered, queued, gone] = topic.ledger.get("sink").copied().unwrap_or_default();
            let Topic { sent, acked, passing, passed, .. } = *topic;
            if name != "out" && accepted < acked {
                flaws.push(format!("lost {} of {name}: {acked} acknowledged, {accepted} stored", acked - accepted));
            }
            if name != "out" && accepted > sent {
                flaws.push(format!("{name} has {accepted}, only {sent} were sent"));
            }
            if delivered < passed || delivered > passing {
                flaws.push(format!("{name}: cursor at {delivered}, acknowledged {passed}, asked for {passing}"));
            }
            if (queued, gone) != (accepted.saturating_sub(delivered), 0) {
                flaws.push(format!("{name}: accepted {accepted} delivered {delivered} queued {queued} gone {gone}"));
            }
            let runs: Vec<[u64; 2]> = topic.found.iter().map(|run| [run[0], run[1]]).collect();
            if runs != [[delivered, accepted]] && (accepted > delivered || !runs.is_empty()) {
                flaws.push(format!("{name}: found {runs:?} instead of {delivered} to {accepted}"));
            }
            for [from, _, seq] in &topic.found {
                let offset = *seq as i64 - *from as i64;
                if *topic.offset.get_or_insert(offset) != offset {
                    flaws.push(format!("{name}: numbered anew, {offset} instead of {:?}", topic.offset));
                }
            }
        }
        let missing = |topic: &Topic| {
            let found: u64 =
                topic.found.iter().map(|run| run[1].min(topic.acked).saturating_sub(run[0].max(topic.passing))).sum();
            topic.acked.saturating_sub(topic.passing).saturating_sub(found)
        };
        self.missing = ["a", "b"].map(|topic| missing(&self.topics[topic])).iter().sum();
        let piped = self.topics["a"].ledger.get("pipe").map_or(0, |row| row[1]);
        let made = self.topics["out"].ledger.get("sink").map_or(0, |row| row[0]);
        if (piped, made) != (state, state) {
            flaws.push(format!("not one step: {piped} passed, {made} made, {state} remembered"));
        }
        for topic in self.topics.values_mut() {
            topic.found.clear();
            topic.ledger.clear();
        }
        self.flaws.extend(flaws);
    }
}
