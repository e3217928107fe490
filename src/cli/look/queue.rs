//! `tidegate queue`: what waits, and what is stored: shown, written to a file, taken in again.

use super::stored::{self, Lane, Line, Range, Walk};
use crate::cli::{
    columns,
    operate::{Gateway, Which, cell},
    print,
};
use crate::{
    admin::client::Client,
    budget::{Size, Span},
    store::At,
};
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// Events that are asked for at once.
const AT_ONCE: usize = 1000;
/// Bytes of a piece that is taken in; a line is smaller than the gateway's limit for a body.
const PIECE: usize = 256 << 10;
const LONGEST_LINE: u64 = 1 << 20;
/// Wrong lines that are told one by one.
const TOLD: usize = 20;

#[derive(Subcommand)]
pub(in crate::cli) enum Queue {
    /// List topics and consumers: how many events are there or wait, their bytes, and the age of the oldest.
    ///
    /// Example: tidegate queue ls
    Ls {
        #[command(flatten)]
        which: Which,
    },
    /// Show stored events with their envelopes, one per line. Nobody's place is moved.
    ///
    /// Example: tidegate queue peek hook --from newest -n 3
    Peek {
        /// The name of a source or pipeline.
        topic: String,
        /// The first: `oldest`, a sequence number, a time as RFC 3339 says, or a span back from now, `-1h`; or `newest`: the last.
        #[arg(long, allow_hyphen_values = true, default_value = "oldest")]
        from: At,
        /// At most so many.
        #[arg(short, default_value_t = 10)]
        n: usize,
        #[command(flatten)]
        gateway: Gateway,
    },
    /// Write stored events to a file: one line each, with envelope, and a last line with their number and SHA-256.
    ///
    /// Example: tidegate queue export hook --since 1h hook.ndjson
    Export(Export),
    /// Take in the events of a file that `export` wrote: with their ids and times, each once.
    ///
    /// An interrupted import is run again: what was taken in is passed over. While the store is full, nothing is taken in. A line
    /// that holds no event is told; exit code 1 if there is one.
    ///
    /// Example: tidegate queue import hook.ndjson --topic restored
    Import(Import),
}

#[derive(Args)]
pub(in crate::cli) struct Export {
    /// The name of a source or pipeline, with `--all` none; and the file, or `-` for standard output.
    #[arg(num_args = 1..=2, value_names = ["TOPIC", "FILE"])]
    what: Vec<String>,
    /// All topics.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    gateway: Gateway,
}

#[derive(Args)]
pub(in crate::cli) struct Import {
    /// What `export` wrote.
    file: PathBuf,
    /// The topic of all of them, whatever they were from.
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(what: &Queue) -> anyhow::Result<()> {
    match what {
        Queue::Ls { which } => ls(which),
        Queue::Peek { topic, from, n, gateway } => peek(&mut gateway.client()?, topic, *from, *n),
        Queue::Export(export) => export.run(),
        Queue::Import(import) => import.run(),
    }
}

fn ls(which: &Which) -> anyhow::Result<()> {
    let mut client = which.gateway.client()?;
    let topics = client.ask("GET", "/topics", &[], &[])?["topics"].take();
    let consumers = client.ask("GET", "/consumers", &[], &[])?["consumers"].take();
    which.show(&json!({ "topics": topics, "consumers": consumers }), |all| {
        let head = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut topics = vec![head(&["TOPIC", "PRIORITY", "EVENTS", "BYTES", "WAITS FOR"])];
        let rows = all["topics"].as_array().into_iter().flatten();
        topics.extend(rows.map(|row| line(row, &["topic", "priority", "events"])));
        let mut waits = vec![head(&["CONSUMER", "TOPIC", "PRIORITY", "QUEUED", "BYTES", "WAITS FOR"])];
        for consumer in all["consumers"].as_array().into_iter().flatten() {
            let lanes = consumer["lanes"].as_array().into_iter().flatten();
            waits.extend(lanes.map(|row| line(row, &["consumer", "topic", "priority", "queued"])));
        }
        format!("{}\n{}", columns(&topics), columns(&waits))
    })
}

/// Some members of a row, and then its bytes and the age of its oldest.
fn line(row: &Value, names: &[&str]) -> Vec<String> {
    let age = row["oldest_seconds"].as_f64().map(|s| Span(Duration::from_secs(s as u64)).to_string());
    let bytes = Size(row["bytes"].as_u64().unwrap_or(0)).to_string();
    names.iter().map(|name| cell(&row[*name])).chain([bytes, age.unwrap_or_else(|| "-".into())]).collect()
}

fn peek(client: &mut Client, topic: &str, from: At, n: usize) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for lane in stored::lanes(client, &[topic.to_owned()])? {
        let mut at = if from == At::Newest { At::Seq(lane.next.saturating_sub(n as u64)) } else { from };
        let mut left = n;
        while left > 0 {
            let page = stored::page(client, &lane, at, left.min(AT_ONCE))?;
            let Some(last) = page.last() else { break };
            (at, left) = (At::Seq(last.seq + 1), left.saturating_sub(page.len()));
            lines.extend(page);
        }
    }
    // Priorities have numbers of their own.
    lines.sort_by_key(|line| line.intake);
    let passed = if from == At::Newest { lines.len().saturating_sub(n) } else { 0 };
    let text: Vec<String> =
        lines.iter().skip(passed).take(n).map(|line| String::from_utf8_lossy(&line.text).into_owned() + "\n").collect();
    print(&text.concat())
}

/// What is written, counted, and its sum.
struct Writing<W: Write> {
    out: W,
    sum: Sha256,
    events: u64,
    bytes: u64,
}

impl<W: Write> Writing<W> {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        for part in [&line.text[..], b"\n"] {
            self.sum.update(part);
            self.out.write_all(part)?;
            self.bytes += part.len() as u64;
        }
        self.events += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<(W, u64, u64)> {
        let trailer = json!({ "tidegate": "export", "events": self.events, "sha256": hex(self.sum) });
        writeln!(self.out, "{trailer}")?;
        self.out.flush()?;
        Ok((self.out, self.events, self.bytes))
    }
}

impl Export {
    fn run(&self) -> anyhow::Result<()> {
        let (topics, file) = match (&self.what[..], self.all) {
            ([topic, file], false) => (vec![topic.clone()], file),
            ([file], true) => (Vec::new(), file),
            _ => bail!("expected a topic and a file, or `--all` and a file"),
        };
        let mut client = self.gateway.client()?;
        let lanes = stored::lanes(&mut client, &topics)?;
        if file == "-" {
            let (_, events, _) = self.write(&mut client, lanes, io::stdout().lock())?;
            eprintln!("{events} events");
            return Ok(());
        }
        let out = File::create(file).with_context(|| format!("`{file}`"))?;
        let (out, events, bytes) = self.write(&mut client, lanes, BufWriter::new(out))?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all().with_context(|| format!("`{file}`"))?;
        print(&format!("{events} events, {} to `{file}`\n", Size(bytes)))
    }

    fn write<W: Write>(&self, client: &mut Client, lanes: Vec<Lane>, out: W) -> anyhow::Result<(W, u64, u64)> {
        let all: u64 = lanes.iter().map(|lane| lane.events).sum();
        let mut writing = Writing { out, sum: Sha256::new(), events: 0, bytes: 0 };
        for lane in lanes {
            let mut walk = Walk::of(lane, &self.range, AT_ONCE);
            loop {
                let lines = walk.more(client)?;
                if lines.is_empty() {
                    break;
                }
                lines.iter().try_for_each(|line| writing.line(line)).context("the file")?;
                progress(|| format!("{} of {all} events, {}", writing.events, Size(writing.bytes)));
            }
        }
        progress(String::new);
        writing.finish().context("the file")
    }
}

/// Shows how far something is, where a person looks on.
fn progress(text: impl FnOnce() -> String) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{}", text());
    }
}

fn hex(sum: Sha256) -> String {
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the lines of a file; the last one may lack its end.
struct Lines {
    file: BufReader<File>,
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    fn of(path: &Path) -> anyhow::Result<Lines> {
        let file = File::open(path).with_context(|| format!("`{}`", path.display()))?;
        Ok(Lines { file: BufReader::new(file), number: 0, line: Vec::new() })
    }

    /// Reads the next line; false at the end.
    fn next(&mut self) -> anyhow::Result<bool> {
        self.line.clear();
        let read = self.file.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.line)?;
        self.number += u64::from(read > 0);
        ensure!(
            self.line.ends_with(b"\n") || (read as u64) < LONGEST_LINE,
            "line {}: longer than {}",
            self.number,
            Size(LONGEST_LINE)
        );
        Ok(read > 0)
    }
}

/// Checks the file against its last line; gives how many events it has, and its sum.
fn checked(path: &Path) -> anyhow::Result<(u64, String)> {
    let (mut lines, mut sum, mut last) = (Lines::of(path)?, Sha256::new(), Vec::new());
    while lines.next()? {
        sum.update(&last);
        last.clone_from(&lines.line);
    }
    let cut = "it has no last line of `tidegate queue export`: it is not whole";
    let trailer: Value = serde_json::from_slice(&last).context(cut)?;
    ensure!(trailer["tidegate"] == "export", cut);
    let (sum, events) = (hex(sum), lines.number - 1);
    ensure!(trailer["sha256"] == *sum && trailer["events"] == events, "its last line does not fit it: it was changed");
    Ok((events, sum))
}

/// What became of lines.
#[derive(Default)]
struct Taken {
    new: u64,
    repeats: u64,
    wrong: u64,
}

impl Import {
    fn run(&self) -> anyhow::Result<()> {
        let (events, sum) = checked(&self.file).with_context(|| format!("`{}`", self.file.display()))?;
        let (mut client, mut lines) = (self.which.gateway.client()?, Lines::of(&self.file)?);
        let (mut taken, mut earlier) = (Taken::default(), 0);
        while lines.number < events {
            let (begin, mut piece) = (lines.number, Vec::new());
            while lines.number < events && piece.len() < PIECE && lines.next()? {
                piece.extend_from_slice(&lines.line);
            }
            let mut query = vec![("name", sum.clone()), ("at", begin.to_string())];
            query.extend(self.topic.clone().map(|topic| ("topic", topic)));
            let answer = client.ask("POST", "/import", &query, &piece)?;
            let done = answer["done"].as_u64().context("the gateway's answer")?;
            let n = |name: &str| answer[name].as_u64().unwrap_or(0);
            taken.new += n("new");
            taken.repeats += n("repeats");
            for wrong in answer["wrong"].as_array().into_iter().flatten() {
                taken.wrong += 1;
                if taken.wrong as usize <= TOLD {
                    eprintln!("line {}: {}", wrong["line"], cell(&wrong["reason"]));
                }
            }
            if done != lines.number {
                // An earlier run came as far as that.
                ensure!(done > begin, "another import of the same file began");
                earlier = done - begin;
                lines.file.seek(SeekFrom::Start(0))?;
                lines.number = 0;
                while lines.number < done && lines.next()? {}
            }
            progress(|| format!("{} of {events} lines", lines.number));
        }
        progress(String::new);
        let Taken { new, repeats, wrong } = taken;
        let all = json!({ "new": new, "repeats": repeats, "earlier": earlier, "wrong": wrong });
        self.which.show(&all, |_| {
            let earlier = if earlier > 0 { format!(", {earlier} in an earlier run") } else { String::new() };
            format!("{new} taken in{earlier}, {repeats} were there already, {wrong} are wrong\n")
        })?;
        ensure!(wrong == 0, "{wrong} lines hold no event that can be taken in");
        Ok(())
    }
}
