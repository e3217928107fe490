//! Cuts a stream of bytes into events, for sources that read one to its end: `file` and `stdin`.

use crate::{
    event::{Batch, Draft, Unfit, json},
    fault::Fault,
    kind::Intake,
    store::Put,
};
use bytes::BufMut;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes read at once, and about what one commit takes: some hundreds of events for one flush.
const CHUNK: usize = 64 << 10;

/// What the input is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON objects one after another, each an event: NDJSON, or with any white space between and inside.
    #[default]
    Json,
    /// Text; each line that is not empty is an event with the line in one field.
    Lines,
}

/// What happens at a piece of input that is no event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBad {
    /// The gateway stops and names the line and column. What comes before is taken in.
    #[default]
    Stop,
    /// It is passed over up to the next line (with `json`: the next line that begins with `{`) and counted; a line in
    /// the log says at the end how many were, and where the first was.
    Skip,
}

pub(super) fn line_field() -> String {
    "line".into()
}

/// How far the input was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Line ends before it, and bytes before the line it is in.
    lines: u64,
    line_at: u64,
    /// Pieces of input passed over, and whether it stands inside one.
    skipped: u64,
    skipping: bool,
}

/// The input, read up to some place and committed up to another.
pub(super) struct Documents {
    /// The input's name, for messages.
    name: String,
    format: Format,
    field: String,
    on_bad: OnBad,
    /// What was read from the committed place on; at most the longest event and one chunk.
    buffer: Vec<u8>,
    committed: Place,
    place: Place,
    /// Where in the buffer `place` is.
    at: usize,
    scan: Scan,
    ended: bool,
    first_bad: Option<String>,
}

/// How far the document at `Documents::at` was looked through for its end.
#[derive(Default)]
struct Scan {
    at: usize,
    depth: usize,
    string: bool,
}

impl Documents {
    pub fn new(name: String, format: Format, field: String, on_bad: OnBad, place: Place) -> Self {
        Documents {
            name,
            format,
            field,
            on_bad,
            buffer: Vec::new(),
            committed: place,
            place,
            at: 0,
            scan: Scan::default(),
            ended: false,
            first_bad: None,
        }
    }

    /// Reads to the end and commits every event. With each commit goes what `remember` makes of the place then reached.
    /// Dropping the future, or a fault, loses nothing: the next call goes on at the last commit.
    pub async fn pump<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        intake: &Intake,
        remember: &(dyn Fn(&Place) -> Vec<Put> + Sync),
    ) -> Result<(), Fault> {
        (self.place, self.at, self.scan) = (self.committed, 0, Scan::default());
        loop {
            let batch = self.cut(intake)?;
            if !batch.is_empty() {
                intake.append_with(batch, remember(&self.place)).await.map_err(super::refused)?;
            }
            let idle = self.commit();
            if idle && self.ended {
                break;
            }
            if idle {
                self.buffer.reserve(CHUNK);
                let read = reader.read_buf(&mut (&mut self.buffer).limit(CHUNK)).await;
                self.ended = read.map_err(|e| Fault::retry(format!("cannot read `{}`: {e}", self.name)))? == 0;
            }
        }
        if let Some(first) = self.first_bad.take() {
            log::warn!(
                "sources.{}: passed over {} pieces of input, the first: {first}",
                intake.topic(),
                self.place.skipped
            );
        }
        Ok(())
    }

    /// Lets go of what lies before the place; says whether that was nothing.
    fn commit(&mut self) -> bool {
        let idle = self.at == 0;
        self.buffer.drain(..self.at);
        self.scan.at = self.scan.at.saturating_sub(self.at);
        self.at = 0;
        self.committed = self.place;
        idle
    }

    /// The events that are whole in the buffer, about a chunk of them. Stops before a bad one, to fail with the next call.
    fn cut(&mut self, intake: &Intake) -> Result<Batch, Fault> {
        let (mut batch, mut body) = (Batch::default(), Vec::new());
        while batch.bytes() < CHUNK {
            let (bad_at, unfit) = match self.next(intake.max_event()) {
                None => break,
                Some(Err((at, unfit))) => (at, unfit),
                Some(Ok(range)) => match self
                    .body(range.clone(), &mut body)
                    .and_then(|draft| intake.push(&mut batch, &Draft { body: draft, ..Draft::default() }))
                {
                    Ok(()) => {
                        self.advance(range.end);
                        continue;
                    }
                    Err(Unfit::Json(e)) => (range.start + e.at, Unfit::Json(e)),
                    Err(unfit) => (range.start, unfit),
                },
            };
            if self.on_bad == OnBad::Stop && !batch.is_empty() {
                break;
            }
            self.bad(bad_at, &unfit)?;
        }
        Ok(batch)
    }

    /// The event's body that a piece of input stands for.
    fn body<'a>(&'a self, piece: Range<usize>, body: &'a mut Vec<u8>) -> Result<&'a [u8], Unfit> {
        let piece = &self.buffer[piece];
        if self.format == Format::Json {
            return Ok(piece);
        }
        let line = std::str::from_utf8(piece)
            .map_err(|e| Unfit::Json(json::JsonError { at: e.valid_up_to(), what: "expected UTF-8" }))?;
        body.clear();
        body.push(b'{');
        json::write_string(&self.field, body);
        body.push(b':');
        json::write_string(line, body);
        body.push(b'}');
        Ok(body)
    }

    /// Where the next piece of input lies in the buffer, or where one is that cannot be read to its end. `None`: there
    /// is none before more is read.
    fn next(&mut self, limit: usize) -> Option<Result<Range<usize>, (usize, Unfit)>> {
        if self.place.skipping && !self.skip() {
            return None;
        }
        if self.place.offset == 0 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.advance(3); // the mark of UTF-8 that some editors put in front
        }
        let blank: fn(&u8) -> bool = match self.format {
            Format::Json => |c: &u8| matches!(c, b' ' | b'\t' | b'\r' | b'\n'),
            Format::Lines => |c: &u8| matches!(c, b'\r' | b'\n'),
        };
        let start =
            self.at + self.buffer[self.at..].iter().position(|c| !blank(c)).unwrap_or(self.buffer.len() - self.at);
        self.advance(start);
        let first = *self.buffer.get(start)?;
        let nested = self.format == Format::Json && matches!(first, b'{' | b'[');
        let end = if nested { self.bracket() } else { self.line_end() };
        if let Some(end) = end {
            self.scan = Scan::default(); // it is looked for again if the event cannot be taken now
            return Some(Ok(start..end));
        }
        let size = self.buffer.len() - start;
        if size <= limit && !self.ended {
            return None;
        }
        let unfit = match json::check(&self.buffer[start..]) {
            Err(e) if nested && (self.ended || e.at < limit) => return Some(Err((start + e.at, Unfit::Json(e)))),
            _ => Unfit::TooLong { part: "body", size, limit },
        };
        Some(Err((start, unfit)))
    }

    /// The end of the object or list at `at`, by its brackets.
    fn bracket(&mut self) -> Option<usize> {
        let Scan { at, depth, string } = &mut self.scan;
        *at = (*at).max(self.at);
        while let Some(c) = self.buffer.get(*at) {
            *at += 1;
            match c {
                b'\\' if *string => *at += 1,
                b'"' => *string = !*string,
                _ if *string => {}
                b'{' | b'[' => *depth += 1,
                b'}' | b']' => {
                    *depth = depth.saturating_sub(1);
                    if *depth == 0 {
                        return Some(*at);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The end of the line at `at`, without its line end.
    fn line_end(&mut self) -> Option<usize> {
        let from = self.scan.at.max(self.at);
        let end = self.buffer[from..].iter().position(|c| *c == b'\n').map(|n| from + n);
        self.scan.at = self.buffer.len();
        let end = end.or(self.ended.then_some(self.buffer.len()))?;
        Some(if self.buffer[self.at..end].ends_with(b"\r") { end - 1 } else { end })
    }

    /// Moves the place forward to `to` in the buffer.
    fn advance(&mut self, to: usize) {
        let passed = &self.buffer[self.at..to];
        if let Some(last) = passed.iter().rposition(|c| *c == b'\n') {
            self.place.lines += passed.iter().filter(|c| **c == b'\n').count() as u64;
            self.place.line_at = self.place.offset + last as u64 + 1;
        }
        self.place.offset += passed.len() as u64;
        if to > self.at {
            (self.at, self.scan) = (to, Scan::default());
        }
    }

    /// Moves on to the next line on which an event may begin; says whether it is there.
    fn skip(&mut self) -> bool {
        let json = self.format == Format::Json;
        let mut from = self.at;
        while let Some(end) = self.buffer[from..].iter().position(|c| *c == b'\n').map(|n| from + n) {
            match self.buffer.get(end + 1) {
                None if !self.ended => {
                    self.advance(end);
                    return false;
                }
                Some(c) if json && *c != b'{' => from = end + 1,
                _ => {
                    self.advance(end + 1);
                    self.place.skipping = false;
                    return true;
                }
            }
        }
        self.advance(self.buffer.len());
        false
    }

    fn bad(&mut self, at: usize, unfit: &Unfit) -> Result<(), Fault> {
        let before = &self.buffer[self.at..at.min(self.buffer.len())];
        let lines = before.iter().filter(|c| **c == b'\n').count() as u64;
        let column = match before.iter().rposition(|c| *c == b'\n') {
            Some(last) => before.len() - last,
            None => (self.place.offset - self.place.line_at) as usize + before.len() + 1,
        };
        let cause = match unfit {
            Unfit::Json(e) => e.what.to_owned(),
            other => other.to_string(),
        };
        let text = format!("{}:{}:{column}: {cause}", self.name, self.place.lines + lines + 1);
        if self.on_bad == OnBad::Stop {
            return Err(Fault::fatal(text));
        }
        self.place.skipped += 1;
        self.place.skipping = true;
        self.scan = Scan::default();
        self.first_bad.get_or_insert(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bodies, intake};
    use super::*;

    /// What comes out of an input that arrives in pieces of `chunk` bytes: the bodies, and how it ended.
    async fn run(format: Format, on_bad: OnBad, input: &[u8], chunk: usize) -> (Vec<String>, String) {
        let (intake, store) = intake(40).await;
        let mut documents = Documents::new("in".into(), format, "line".into(), on_bad, Place::default());
        let mut reader = in_pieces(input, chunk);
        let end = documents.pump(&mut reader, &intake, &|_| Vec::new()).await;
        let end = end.map_or_else(|e| e.to_string(), |()| format!("{} passed over", documents.place.skipped));
        (bodies(&store).await, end)
    }

    /// A reader that gives so many bytes at once.
    fn in_pieces(input: &[u8], chunk: usize) -> impl AsyncRead + Unpin {
        struct Chunks(Vec<u8>, usize, usize);
        impl AsyncRead for Chunks {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                out: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                let end = (self.1 + self.2).min(self.0.len());
                out.put_slice(&self.0[self.1..end]);
                self.1 = end;
                std::task::Poll::Ready(Ok(()))
            }
        }
        Chunks(input.to_vec(), 0, chunk)
    }

    #[tokio::test]
    async fn input_becomes_events_in_whatever_pieces_it_comes() {
        use {Format::*, OnBad::*};
        for (format, on_bad, input, want, end) in [
            (Json, Stop, "", vec![], "0 passed over"),
            (
                Json,
                Stop,
                "\u{feff}{\"a\":1}{\"a\":\n2}\r\n\n{\"}\\\"\":[{}]}",
                vec!["{\"a\":1}", "{\"a\":\n2}", "{\"}\\\"\":[{}]}"],
                "0 passed over",
            ),
            (Json, Stop, "{\"a\":1}\n {\"a\":}\n{\"a\":3}", vec!["{\"a\":1}"], "in:2:7: expected a value"),
            (
                Json,
                Stop,
                "{\"a\":1} [2]",
                vec!["{\"a\":1}"],
                "in:1:9: the body is JSON but not an object; an event is one JSON object",
            ),
            (Json, Stop, "{\"a\":1}\n{\"a\":\"", vec!["{\"a\":1}"], "in:2:7: expected `\"` at the end of the string"),
            (
                Json,
                Stop,
                "{\"a\":\"0123456789012345678901234567890123456789\"}",
                vec![],
                "in:1:1: the body has 48 bytes, over the limit of 40",
            ),
            (
                Json,
                Skip,
                "x {\"a\":1}\n{\"a\":2}\n{\"a\":\n  {\"b\":1}\n]\n{\"a\":3}\n5\n",
                vec!["{\"a\":2}", "{\"a\":3}"],
                "3 passed over",
            ),
            (
                Json,
                Skip,
                "{\"a\":\n{\"a\":2}\n{\"a\":3}\n{\"a\":4}\n{\"a\":5}\n",
                vec!["{\"a\":2}", "{\"a\":3}", "{\"a\":4}", "{\"a\":5}"],
                "1 passed over",
            ),
            (
                Lines,
                Stop,
                "one\r\n\n t\"wo \n",
                vec!["{\"line\":\"one\"}", "{\"line\":\" t\\\"wo \"}"],
                "0 passed over",
            ),
            (Lines, Stop, "a\nb", vec!["{\"line\":\"a\"}", "{\"line\":\"b\"}"], "0 passed over"),
            (
                Lines,
                Skip,
                "a\n0123456789012345678901234567890123456789012345678901234567890123456789\nb",
                vec!["{\"line\":\"a\"}", "{\"line\":\"b\"}"],
                "1 passed over",
            ),
        ] {
            for chunk in [1, 3, 7, 1000] {
                let (got, ended) = run(format, on_bad, input.as_bytes(), chunk).await;
                assert_eq!(got, want, "{input} by {chunk}");
                // How much of a too long event was read depends on the pieces.
                let known = |text: &str| text.split("has 4").next().unwrap_or_default().to_owned();
                assert_eq!(known(&ended), known(end), "{input} by {chunk}");
            }
        }
        let (got, end) = run(Lines, Stop, b"a\nb\xff", 9).await;
        assert_eq!((got.len(), end.as_str()), (1, "in:2:2: expected UTF-8"));
    }

    #[tokio::test]
    async fn after_a_refusal_nothing_is_lost_or_repeated() {
        let (full, _) = super::super::tests::intake(40).await;
        full.store().close().await;
        let (intake, store) = intake(40).await;
        let mut documents = Documents::new("in".into(), Format::Json, "line".into(), OnBad::Stop, Place::default());
        let mut reader: &[u8] = b"{\"a\":1}{\"a\":2}";
        let refused = documents.pump(&mut reader, &full, &|_| Vec::new()).await.unwrap_err();
        assert!(matches!(refused, Fault::Retry(_)), "{refused}");
        documents.pump(&mut reader, &intake, &|_| Vec::new()).await.unwrap();
        assert_eq!(bodies(&store).await, ["{\"a\":1}", "{\"a\":2}"]);
    }
}
