//! `tidegate top`: what moves, every second.

use crate::cli::{
    columns,
    operate::{Gateway, cell},
    print,
};
use crate::{
    admin::client::Client,
    budget::{Size, Span},
    clock,
};
use clap::Args;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{Read, Write, stdin, stdout},
    thread::sleep,
    time::Duration,
};

const EVERY: Duration = Duration::from_secs(1);
/// Tenths of a second that a key is waited for: as `EVERY`.
const TENTHS: u8 = 10;
/// The screen of its own that terminals have, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// What Ctrl-C sends, where it is no signal.
const CTRL_C: u8 = 3;

#[derive(Args)]
pub(in crate::cli) struct Top {
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) fn run(top: &Top) -> anyhow::Result<()> {
    let mut client = top.gateway.client()?;
    let mut before = Look::take(&mut client)?;
    if !isatty(stdin()) || !isatty(stdout()) {
        sleep(EVERY);
        return print(&Look::take(&mut client)?.text(&before));
    }
    let screen = Screen::enter()?;
    loop {
        if screen.key()?.is_some_and(|key| [b'q', b'Q', CTRL_C].contains(&key)) {
            return Ok(());
        }
        let now = Look::take(&mut client)?;
        screen.draw(&now.text(&before))?;
        before = now;
    }
}

/// A terminal that shows one page, and is as it was when this is dropped.
struct Screen(Termios);

impl Screen {
    fn enter() -> anyhow::Result<Screen> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        // A read ends with a key or after a second.
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = TENTHS;
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        let screen = Screen(before);
        screen.write(ENTER)?;
        screen.draw("looking …\n")?;
        Ok(screen)
    }

    /// The next key; nothing after a second.
    fn key(&self) -> std::io::Result<Option<u8>> {
        let mut key = [0];
        Ok((stdin().lock().read(&mut key)? > 0).then_some(key[0]))
    }

    /// As much as there is room for.
    fn draw(&self, text: &str) -> std::io::Result<()> {
        let size = tcgetwinsize(stdout()).ok().filter(|size| size.ws_row > 1 && size.ws_col > 0);
        let (rows, width) = size.map_or((24, 80), |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
        let lines = text.lines().take(rows - 1).map(|line| line.chars().take(width).collect::<String>());
        let page: String = lines.map(|line| line + "\x1b[K\r\n").collect();
        self.write(&format!("\x1b[H{page}\x1b[J"))
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        stdout().write_all(text.as_bytes())?;
        stdout().flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.write(LEAVE).ok();
        tcsetattr(stdin(), OptionalActions::Now, &self.0).ok();
    }
}

/// How all is at one time.
struct Look {
    at: u64,
    status: Value,
    topics: Value,
    consumers: Value,
}

impl Look {
    fn take(client: &mut Client) -> anyhow::Result<Look> {
        let status = client.ask("GET", "/status", &[], &[])?;
        let topics = client.ask("GET", "/topics", &[], &[])?["topics"].take();
        let consumers = client.ask("GET", "/consumers", &[], &[])?["consumers"].take();
        Ok(Look { at: clock::mono_ms(), status, topics, consumers })
    }

    fn text(&self, before: &Look) -> String {
        let seconds = (self.at.saturating_sub(before.at).max(1)) as f64 / 1e3;
        let rate = |now: u64, then: u64| format!("{:.0}", now.saturating_sub(then) as f64 / seconds);
        let mut text = self.head();
        let (now, then) = (sums(&self.topics, "topic", "next"), sums(&before.topics, "topic", "next"));
        let (events, bytes) = (sums(&self.topics, "topic", "events"), sums(&self.topics, "topic", "bytes"));
        let mut rows = vec![head(&["TOPIC", "IN/s", "STORED", "BYTES"])];
        for (topic, next) in &now {
            // One that was not there before has got all since then.
            let then = then.get(topic).copied().unwrap_or(*next);
            let of = |all: &BTreeMap<String, u64>| all.get(topic).copied().unwrap_or(0);
            rows.push(vec![topic.clone(), rate(*next, then), of(&events).to_string(), Size(of(&bytes)).to_string()]);
        }
        text += &format!("\n{}", columns(&rows));
        let done = |look: &Look| sums(&look.status["consumers"], "consumer", "delivered");
        let (now, then) = (done(self), done(before));
        let mut rows = vec![head(&["CONSUMER", "OUT/s", "QUEUED", "BYTES", "WAITS FOR", "STATE"])];
        for row in self.consumers.as_array().into_iter().flatten() {
            let name = cell(&row["consumer"]);
            let of = |all: &BTreeMap<String, u64>| all.get(&name).copied().unwrap_or(0);
            rows.push(vec![
                name.clone(),
                rate(of(&now), of(&then)),
                cell(&row["queued"]),
                Size(row["bytes"].as_u64().unwrap_or(0)).to_string(),
                row["oldest_seconds"].as_f64().map_or("-".into(), age),
                state(row),
            ]);
        }
        text += &format!("\n{}", columns(&rows));
        let key = |row: &Value| format!("{} {}", cell(&row["pipeline"]), cell(&row["process"]));
        let rows_of = |look: &Look| look.status["processes"].as_array().cloned().unwrap_or_default();
        let then: BTreeMap<String, Value> = rows_of(before).into_iter().map(|row| (key(&row), row)).collect();
        let mut rows = vec![head(&["PIPELINE", "PROCESS", "IN/s", "OUT/s", "FAILED", "MEAN"])];
        for row in rows_of(self) {
            let then = then.get(&key(&row));
            let moved = |name: &str| {
                let now = row[name].as_u64().unwrap_or(0);
                rate(now, then.and_then(|then| then[name].as_u64()).unwrap_or(now))
            };
            let mean = row["mean_ns"].as_u64().map_or("-".into(), |ns| format!("{:.1} µs", ns as f64 / 1e3));
            rows.push(vec![
                cell(&row["pipeline"]),
                cell(&row["process"]),
                moved("in"),
                moved("out"),
                cell(&row["failed"]),
                mean,
            ]);
        }
        if rows.len() > 1 {
            text += &format!("\n{}", columns(&rows));
        }
        text
    }

    fn head(&self) -> String {
        let (status, store) = (&self.status, &self.status["store"]);
        let size = |value: &Value| Size(value.as_u64().unwrap_or(0));
        let mut text = match status["running"] == true {
            true => format!(
                "gateway {}, up {}, took in {} events, memory {}",
                cell(&status["gateway"]),
                age(status["seconds"].as_f64().unwrap_or(0.0)),
                status["taken"],
                size(&status["memory"])
            ),
            false => "no gateway runs".to_owned(),
        };
        text += &format!(
            "; store {}, {} dead letters; {} ({})\n",
            size(&store["bytes"]),
            store["dead_letters"],
            cell(&status["clock"]["time"]),
            cell(&status["clock"]["quality"])
        );
        for down in status["down"].as_array().into_iter().flatten() {
            let seconds = age(down["seconds"].as_f64().unwrap_or(0.0));
            text += &format!("down for {seconds}: {}: {}\n", cell(&down["name"]), cell(&down["reason"]));
        }
        text
    }
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A number of rows, added up by a name.
fn sums(rows: &Value, name: &str, number: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for row in rows.as_array().into_iter().flatten() {
        *sums.entry(cell(&row[name])).or_default() += row[number].as_u64().unwrap_or(0);
    }
    sums
}

fn state(consumer: &Value) -> String {
    match consumer {
        row if row["paused"] == true => "paused".into(),
        row if row["down"].is_object() => format!("down: {}", cell(&row["down"]["reason"])),
        row if row["held"].is_string() => format!("waits: {}", cell(&row["held"])),
        row if row["configured"] == false => "not in the configuration".into(),
        _ => String::new(),
    }
}

/// A time for people: two units of it at most.
fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..60 => Span(Duration::from_secs(seconds)).to_string(),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
