//! The kernel's GPIO character devices (uAPI 2, since Linux 5.10), by gpiocdev.

use super::{Bias, Edge, Edges, Inputs, Line, MOST_LINES, Place, Settings, find, recognise};
use crate::{clock, fault::Fault};
use async_trait::async_trait;
use embedded_hal::digital::{Error, ErrorKind, ErrorType, OutputPin};
use gpiocdev::{
    Request, chip,
    line::{self, EdgeDetection, EdgeKind, Value},
    request::Builder,
};
use serde::Serialize;
use std::{
    collections::VecDeque,
    future::poll_fn,
    path::{Path, PathBuf},
    task::{Context, Poll},
};
use tokio::io::unix::AsyncFd;

/// What `tidegate gpio list` of another process shows as the user of our lines.
const CONSUMER: &str = "tidegate";
/// Edges that the kernel holds for a chip until they are read; it takes no more than 16 for each of 64 lines.
const KERNEL_EDGES: u32 = 1024;
/// Edges that are read at once.
const READ_EDGES: usize = 64;

/// A GPIO chip, as the kernel tells of it.
#[derive(Clone, Debug, Serialize)]
pub struct Chip {
    pub path: PathBuf,
    /// `gpiochip0`; the number may change from boot to boot.
    pub name: String,
    /// What kind of chip it is: `pinctrl-bcm2711`.
    pub label: String,
    pub lines: Vec<Info>,
}

/// A line of a chip.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Info {
    pub offset: u32,
    /// Empty where the kernel has no name for it.
    pub name: String,
    /// Who has it; empty if nobody said.
    pub consumer: String,
    /// Whether somebody has it.
    pub used: bool,
    pub output: bool,
    pub active_low: bool,
}

/// Why a line cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LineError(String);

impl From<String> for LineError {
    fn from(why: String) -> Self {
        LineError(why)
    }
}

impl Error for LineError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl From<LineError> for Fault {
    /// Whatever it is, it may pass: a module is loaded, another program ends, an expander is plugged in again.
    fn from(error: LineError) -> Self {
        Fault::retry(error)
    }
}

/// All chips that may be opened. An error if there is none, or none for us.
pub fn chips() -> Result<Vec<Chip>, LineError> {
    let paths = chip::chips().unwrap_or_default();
    let (mut chips, mut refused) = (Vec::new(), None);
    for path in &paths {
        match read(path) {
            Ok(chip) => chips.push(chip),
            Err(error) => refused = refused.or(Some((path, error))),
        }
    }
    match refused {
        None if chips.is_empty() => Err(LineError(
            "this machine has no GPIO chips (no /dev/gpiochip*); a driver may have to be loaded, see `tidegate board`"
                .into(),
        )),
        Some((path, error)) if chips.is_empty() => {
            let what = failed(&error);
            Err(LineError(format!("cannot open {}: {what}; `tidegate board` says what to do", path.display())))
        }
        _ => Ok(chips),
    }
}

fn read(path: &Path) -> Result<Chip, gpiocdev::Error> {
    let chip = gpiocdev::Chip::from_path(path)?;
    let info = chip.info()?;
    let line = |info: line::Info| Info {
        offset: info.offset,
        output: info.direction == line::Direction::Output,
        name: info.name,
        consumer: info.consumer,
        used: info.used,
        active_low: info.active_low,
    };
    let lines = chip.line_info_iter()?.map(|info| info.map(line)).collect::<Result<_, _>>()?;
    Ok(Chip { path: chip.path().to_owned(), name: info.name, label: info.label, lines })
}

/// Where lines are now. Chips come and go, so nothing is remembered.
fn places(lines: &[Line]) -> Result<Vec<Place>, LineError> {
    let chips = chips()?;
    let machine = recognise(Path::new("/")).map_err(LineError)?;
    let place = |line| find(line, &chips, machine.board.as_ref()).map_err(LineError);
    let places = lines.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    for (n, place) in places.iter().enumerate() {
        if let Some(first) = places[..n].iter().position(|p| p == place) {
            return Err(LineError(format!("`{}` and `{}` are the same line", lines[first], lines[n])));
        }
    }
    Ok(places)
}

/// Input lines of one or more chips. Dropping it lets go of them.
#[derive(Debug)]
pub struct Held {
    requests: Vec<Asked>,
    /// Edges that were read and not told yet; at most `READ_EDGES` of each chip.
    ready: VecDeque<Edge>,
    buffer: Vec<u64>,
}

/// The lines of one chip: one request, so that their edges come in order.
#[derive(Debug)]
struct Asked {
    request: AsyncFd<Request>,
    /// For each line its offset, and its place among all.
    lines: Vec<(u32, usize)>,
}

impl Held {
    /// Takes hold of lines as inputs.
    pub fn open(lines: &[Line], settings: &Settings) -> Result<Self, LineError> {
        let places = places(lines)?;
        let mut requests: Vec<Asked> = Vec::new();
        for (first, place) in places.iter().enumerate() {
            if places[..first].iter().any(|p| p.chip == place.chip) {
                continue;
            }
            let own = places.iter().enumerate().filter(|(_, p)| p.chip == place.chip);
            let own: Vec<(u32, usize)> = own.map(|(n, p)| (p.offset, n)).collect();
            requests.push(Asked::open(&place.chip, own, lines, settings)?);
        }
        Ok(Held { requests, ready: VecDeque::with_capacity(READ_EDGES), buffer: Vec::new() })
    }

    /// Reads what each chip has. Ready when there is something.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), gpiocdev::Error>> {
        for asked in &self.requests {
            while let Poll::Ready(guard) = asked.request.poll_read_ready(cx) {
                let mut guard = guard?;
                let request = asked.request.get_ref();
                if !request.has_edge_event()? {
                    guard.clear_ready();
                    continue;
                }
                let size = request.edge_event_u64_size();
                self.buffer.resize(size * READ_EDGES, 0);
                let read = request.read_edge_events_into_slice(&mut self.buffer)?;
                for words in self.buffer[..read].chunks_exact(size) {
                    let edge = request.edge_event_from_slice(words)?;
                    self.ready.extend(asked.edge(&edge));
                }
                break;
            }
        }
        if self.ready.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

#[async_trait]
impl Inputs for Held {
    async fn edge(&mut self) -> Result<Edge, Fault> {
        loop {
            if let Some(edge) = self.ready.pop_front() {
                return Ok(edge);
            }
            poll_fn(|cx| self.read(cx))
                .await
                .map_err(|e| Fault::retry(format!("cannot read edges: {}", failed(&e))))?;
        }
    }

    fn level(&mut self, line: usize) -> Result<bool, Fault> {
        let own = |asked: &Asked| asked.lines.iter().find(|(_, n)| *n == line).map(|(offset, _)| *offset);
        let found = self.requests.iter().find_map(|asked| Some((asked, own(asked)?)));
        let Some((asked, offset)) = found else { return Err(Fault::retry("the line is not held")) };
        let value = asked.request.get_ref().value(offset);
        value.map(|v| v == Value::Active).map_err(|e| Fault::retry(format!("cannot read the line: {}", failed(&e))))
    }
}

impl Asked {
    fn open(path: &Path, own: Vec<(u32, usize)>, lines: &[Line], settings: &Settings) -> Result<Self, LineError> {
        let offsets: Vec<u32> = own.iter().map(|(offset, _)| *offset).collect();
        if offsets.len() > MOST_LINES {
            return Err(LineError(format!(
                "{} has to give {} lines at once, at most {MOST_LINES}",
                path.display(),
                offsets.len()
            )));
        }
        let ask = || {
            let mut builder = builder(path, settings.active_low);
            builder.as_input();
            if let Some(bias) = settings.bias {
                builder.with_bias(match bias {
                    Bias::Up => line::Bias::PullUp,
                    Bias::Down => line::Bias::PullDown,
                    Bias::Off => line::Bias::Disabled,
                });
            }
            if let Some(edges) = settings.edges {
                builder.with_edge_detection(match edges {
                    Edges::Rising => EdgeDetection::RisingEdge,
                    Edges::Falling => EdgeDetection::FallingEdge,
                    Edges::Both => EdgeDetection::BothEdges,
                });
                builder.with_kernel_event_buffer_size(KERNEL_EDGES);
            }
            if !settings.debounce.is_zero() {
                builder.with_debounce_period(settings.debounce);
            }
            builder.with_lines(&offsets).request()
        };
        let request = ask();
        let names = || own.iter().map(|(_, n)| format!("`{}`", lines[*n])).collect::<Vec<_>>().join(", ");
        let request =
            request.map_err(|e| LineError(format!("cannot have {}: {}", names(), refused(&e, path, &offsets))))?;
        #[allow(
            deprecated,
            reason = "what replaces it is not safe; a request keeps its descriptor as long as it lives"
        )]
        let request = AsyncFd::new(request).map_err(|e| LineError(format!("cannot wait for {}: {e}", names())))?;
        Ok(Asked { request, lines: own })
    }

    /// An edge of a line that is ours.
    fn edge(&self, edge: &line::EdgeEvent) -> Option<Edge> {
        let line = self.lines.iter().find(|(offset, _)| *offset == edge.offset)?.1;
        let mono_ms = clock::mono_of(edge.timestamp_ns);
        Some(Edge { line, rising: edge.kind == EdgeKind::Rising, mono_ms, seq: edge.line_seqno })
    }
}

/// One line as an output; `set_high` makes it active. Dropping it lets go of it: what the line does then is up to the chip,
/// some keep the level, others become inputs.
#[derive(Debug)]
pub struct Output(Request);

impl Output {
    /// Takes hold of a line, and sets it in the same moment.
    pub fn open(line: &Line, active_low: bool, active: bool) -> Result<Self, LineError> {
        let places = places(std::slice::from_ref(line))?;
        let Some(Place { chip, offset }) = places.first() else { return Err(LineError("no line is named".into())) };
        let mut builder = builder(chip, active_low);
        builder.as_output(Value::from(active)).with_line(*offset);
        let request = builder.request();
        let request =
            request.map_err(|e| LineError(format!("cannot have `{line}`: {}", refused(&e, chip, &[*offset]))))?;
        Ok(Output(request))
    }

    fn set(&self, value: Value) -> Result<(), LineError> {
        self.0.set_lone_value(value).map_err(|e| LineError(format!("cannot set the line: {}", failed(&e))))
    }
}

impl ErrorType for Output {
    type Error = LineError;
}

impl OutputPin for Output {
    fn set_low(&mut self) -> Result<(), LineError> {
        self.set(Value::Inactive)
    }

    fn set_high(&mut self) -> Result<(), LineError> {
        self.set(Value::Active)
    }
}

fn builder(chip: &Path, active_low: bool) -> Builder {
    let mut builder = Request::builder();
    builder.on_chip(chip).with_consumer(CONSUMER);
    if active_low {
        builder.as_active_low();
    }
    builder
}

/// Without the name of the call, which tells a person nothing.
fn failed(error: &gpiocdev::Error) -> String {
    match error {
        gpiocdev::Error::Uapi(_, error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Whether it is the kernel's `EINVAL`.
fn invalid(error: &gpiocdev::Error) -> bool {
    failed(error) == std::io::Error::from(rustix::io::Errno::INVAL).to_string()
}

/// Why the kernel does not give lines.
fn refused(error: &gpiocdev::Error, path: &Path, offsets: &[u32]) -> String {
    let chip = read(path).ok();
    let mut lines = chip.iter().flat_map(|c| &c.lines).filter(|l| l.used && offsets.contains(&l.offset));
    match lines.next().map(|l| l.consumer.as_str()) {
        Some("") => "another program has it".to_owned(),
        Some(user) => format!("`{user}` has it"),
        None if invalid(error) => "the chip cannot do what is asked of it (direction, edges, bias)".to_owned(),
        None => failed(error),
    }
}
