//! `tidegate process`: events on standard input, results on standard output.

use crate::{
    event::{Batch, Draft, Event},
    runtime::{Flow, Plan},
};
use anyhow::{Context, bail};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, BufWriter, Read, Write},
    sync::Arc,
};

/// A line longer than this is refused: it would have to be held in memory.
const LONGEST: u64 = 64 << 20;
/// The topic of the events that are read; no configuration can name it.
const INPUT: &str = "(stdin)";

pub(super) fn run(mut plan: Plan, source: Option<&str>) -> anyhow::Result<()> {
    let sources: BTreeSet<String> = plan.sources.iter().map(|s| s.name.clone()).collect();
    if let Some(name) = source.filter(|name| !sources.contains(*name)) {
        bail!("there is no source `{name}`; there are: {}", Vec::from_iter(sources).join(", "));
    }
    let read: BTreeSet<String> = plan.pipelines.iter().flat_map(|p| p.settings.from.iter().cloned()).collect();
    let mut results = BTreeSet::new();
    for pipeline in &mut plan.pipelines {
        if pipeline.settings.from.iter().any(|topic| source.map_or(sources.contains(topic), |s| s == topic)) {
            pipeline.settings.from.push(INPUT.into());
        }
        if !pipeline.settings.to.is_empty() || !read.contains(&pipeline.name) {
            results.insert(pipeline.name.clone());
        }
    }
    let flow = Flow::new(plan.pipelines, Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut input = BufReader::new(std::io::stdin().lock());
    let mut output = BufWriter::new(std::io::stdout().lock());
    let (mut line, mut number, mut failed) = (Vec::new(), 0u64, 0u64);
    loop {
        line.clear();
        let read = input.by_ref().take(LONGEST).read_until(b'\n', &mut line).context("standard input")?;
        if read == 0 {
            break;
        }
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        match runtime.block_on(event(&flow, &line, &results)) {
            Ok(lines) => output.write_all(&lines).context("standard output")?,
            Err(reason) => {
                failed += 1;
                eprintln!("line {number}: {reason}");
            }
        }
        if input.buffer().is_empty() {
            output.flush().context("standard output")?; // who feeds line by line sees results line by line
        }
    }
    output.write_all(&runtime.block_on(finish(&flow, &results))?).context("standard output")?;
    output.flush().context("standard output")?;
    if failed > 0 {
        bail!("{failed} of {number} lines failed");
    }
    Ok(())
}

/// Runs one document through and gives what came out, a line each.
async fn event(flow: &Flow, document: &[u8], results: &BTreeSet<String>) -> Result<Vec<u8>, String> {
    let mut batch = Batch::default();
    batch.push(&Draft { body: document.trim_ascii(), ..Draft::default() }).map_err(|e| e.to_string())?;
    let mut lines = Vec::new();
    for event in flow.events(&Arc::from(INPUT), 4, &batch) {
        flow.run(event, |event| line(event, results, &mut lines)).await?;
    }
    Ok(lines)
}

/// What processes hold until no more events come.
async fn finish(flow: &Flow, results: &BTreeSet<String>) -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    flow.finish(|event| line(event, results, &mut lines)).await.map_err(anyhow::Error::msg)?;
    Ok(lines)
}

fn line(event: &Event, results: &BTreeSet<String>, lines: &mut Vec<u8>) {
    if results.contains(&*event.topic) {
        event.body.write(lines);
        lines.push(b'\n');
    }
}
