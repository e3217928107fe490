//! A serial port: bytes come whenever the device sends, become frames, and each frame an event.

mod body;
pub mod framing;
#[cfg(test)]
pub mod tests;
mod waiting;

use crate::{
    budget::{Size, Span},
    clock,
    fault::Fault,
    kind::{Intake, Kind, Params, ParamsError, Source},
    systems::serial::{Flow, Line, Parity, Port, Rs485},
};
use async_trait::async_trait;
use body::{Encoding, Shape};
use framing::{Broken, Check, Counts, Framer, Framing, LONGEST, Limits, Mark};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, sync::Arc, time::Duration};
use waiting::Waiting;

pub const KIND: Kind<dyn Source> = Kind {
    name: "serial",
    about: "reads frames from a serial port: lines, JSON, NMEA 0183, SLIP, COBS, fixed, delimited or with a length",
    example: r#"{
  "type": "serial",
  "path": "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0",
  "baud": 9600,
  "framing": "lines"
}"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(Serial::new(params.decode()?)?)),
};

/// Reads frames from a serial port. A port does not wait: while the store is full, the newest 256 KiB are kept, and what is
/// older is dropped and counted. An event's time is when its first byte came; its `meta` has the `path`, and under
/// `missed` how many frames were broken or dropped since the event before.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The port, best by a name that stays when devices are plugged in anew: `/dev/serial/by-id/…`; `tidegate serial list`
    /// shows them. Unplugged, it is looked for until it is there again.
    path: PathBuf,
    /// Bits a second; any number that the port can do.
    #[serde(default = "baud")]
    #[schemars(range(min = 1, max = 20_000_000))]
    baud: u32,
    /// Data bits of a byte: 5 to 8.
    #[serde(default = "data_bits")]
    #[schemars(range(min = 5, max = 8))]
    data_bits: u8,
    #[serde(default)]
    parity: Parity,
    /// Stop bits behind a byte: 1 or 2.
    #[serde(default = "stop_bits")]
    #[schemars(range(min = 1, max = 2))]
    stop_bits: u8,
    /// With either, a full store makes the device wait, and nothing is dropped.
    #[serde(default)]
    flow: Flow,
    /// RS-485, for ports whose driver switches the direction itself; an adapter that does it alone needs none of this.
    rs485: Option<Rs485>,
    #[serde(default)]
    framing: Framing,
    /// What ends a line, for `lines`; default: a line feed, with or without a carriage return before it.
    line_end: Option<Mark>,
    /// A checksum at the end of each frame, which is checked and cut off; not for text.
    check: Option<Check>,
    /// Bytes that a frame may have as it is received; longer ones are passed over and counted. At most 64 KiB.
    #[serde(default = "max_frame")]
    max_frame: Size,
    /// A silence of so long cannot be inside a frame: what came before it is a torn one. At least 10 ms, since
    /// the kernel hands bytes over in lots. Default: frames may pause.
    gap: Option<Span>,
    /// What comes first may be the rest of a frame that began before the port was opened: passes over it. For frames that
    /// only their ends tell apart (`lines`, `slip`, `cobs`, `delimited` without `start`).
    #[serde(default)]
    skip_first: bool,
    /// The field of the body that holds the frame; default: `line` for lines, else `data`. JSON and NMEA have none.
    field: Option<String>,
    /// What the frame is; default: `text` for lines, else `base64`.
    encoding: Option<Encoding>,
    #[serde(default)]
    on_bad: OnBad,
    /// Frames that come within so long are written together: less wear of flash, but that much may be lost with the power.
    #[serde(default = "linger")]
    linger: Span,
}

/// What happens with bytes that are no frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnBad {
    /// They are counted, in the log and in the `meta` of the next event.
    #[default]
    Skip,
    /// The first 4 KiB also go to the dead letters, with the reason; all but the noise between frames.
    Dead,
}

fn baud() -> u32 {
    115_200
}
fn data_bits() -> u8 {
    8
}
fn stop_bits() -> u8 {
    1
}
fn max_frame() -> Size {
    Size(4096)
}
fn linger() -> Span {
    Span::millis(100)
}

/// Bytes read at once: what a tty buffers.
const CHUNK: usize = 4096;
/// The log tells of broken frames at most so often.
const TELL_MS: u64 = 60_000;
/// The longest pause that `linger` may be.
const MAX_LINGER: Duration = Duration::from_secs(60);

/// A port and how its bytes become events.
pub struct Serial {
    line: Line,
    framing: Framing,
    line_end: Option<Mark>,
    limits: Limits,
    shape: Shape,
    linger: Duration,
    waiting: Arc<Waiting>,
}

/// What comes from a port: an event's body, or why there is none and the first bytes.
pub type Came<'a> = Result<&'a [u8], (Broken, &'a [u8])>;

impl Serial {
    fn new(config: Config) -> Result<Serial, ParamsError> {
        let Config { path, baud, data_bits, parity, stop_bits, flow, rs485, framing, line_end, check, .. } = config;
        let line = Line { path, baud, data_bits, parity, stop_bits, flow, rs485 };
        line.check().map_err(|(field, why)| ParamsError::at(field, why))?;
        let max = config.max_frame.bytes();
        if !(1..=LONGEST).contains(&max) {
            return Err(ParamsError::at("max_frame", "expected 1 to 64KiB"));
        }
        if line_end.is_some() && !matches!(framing, Framing::Lines) {
            return Err(ParamsError::at("line_end", "it is for the framing `lines`"));
        }
        if check.is_some() && matches!(framing, Framing::Lines | Framing::Json | Framing::Nmea) {
            return Err(ParamsError::at("check", "text has no checksum of bytes behind it; NMEA brings its own"));
        }
        if config.gap.is_some_and(|gap| gap.0 < Duration::from_millis(10)) {
            return Err(ParamsError::at("gap", "expected 10ms or more"));
        }
        if config.linger.0 > MAX_LINGER {
            return Err(ParamsError::at("linger", "expected at most 60s"));
        }
        framing.fits(max, check).map_err(|(field, why)| ParamsError::at(format!("framing.{field}"), why))?;
        let shape = Shape::new(&framing, config.field, config.encoding)
            .map_err(|field| ParamsError::at(field, "it does not go with this framing or encoding"))?;
        let gap_ms = config.gap.map(|gap| u64::try_from(gap.0.as_millis()).unwrap_or(u64::MAX));
        let limits = Limits { max, check, gap_ms, skip_first: config.skip_first };
        let waiting = Waiting::new(&line, config.on_bad == OnBad::Dead);
        Ok(Serial { line, framing, line_end, limits, shape, linger: config.linger.0, waiting: Arc::new(waiting) })
    }

    /// A port to look at, from what a configuration says about it.
    pub fn of(params: &Params) -> Result<Serial, ParamsError> {
        Serial::new(params.decode()?)
    }

    /// Opens the port and hands over what comes, with the time of its first byte in milliseconds since 1970, until the
    /// device is gone.
    pub async fn watch(&self, each: &mut (dyn FnMut(u64, Came<'_>) + Send)) -> Fault {
        match self.line.open() {
            Ok(port) => self.pump(&port, &mut || true, each).await,
            Err(fault) => fault,
        }
    }

    /// `room` says whether there is any for more; asked only where the device can be made to wait.
    async fn pump(
        &self,
        port: &Port,
        room: &mut (dyn FnMut() -> bool + Send),
        each: &mut (dyn FnMut(u64, Came<'_>) + Send),
    ) -> Fault {
        let mut framer = Framer::new(&self.framing, self.line_end, self.limits);
        let (mut chunk, mut body) = (vec![0; CHUNK], Vec::new());
        let mut take = |time: u64, piece: framing::Piece<'_>| match piece {
            Ok(frame) if self.shape.write(frame, &mut body) => each(time, Ok(&body)),
            Ok(frame) => each(time, Err((Broken::Content, frame))),
            Err(broken) => each(time, Err(broken)),
        };
        loop {
            while self.line.flow != Flow::None && !room() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Silence counts only while we listen: otherwise it may be we who were slow.
            let since = clock::mono_ms();
            match port.read(&mut chunk).await {
                Ok(read) => {
                    let quiet = clock::mono_ms().saturating_sub(since);
                    framer.feed(&chunk[..read], clock::mono_ms(), quiet, &mut take);
                }
                Err(fault) => {
                    framer.cut(&mut take);
                    return fault;
                }
            }
            // A port that always has bytes would keep the commits from being made.
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Source for Serial {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        let port = self.line.open()?;
        let waiting = self.waiting.clone();
        waiting.begin();
        let mut log = Log::new(intake.topic());
        let reading = async {
            let mut each = |time: u64, came: Came<'_>| {
                if let Err((why, _)) = came {
                    log.count(why);
                }
                waiting.add(time, came);
            };
            let fault = self.pump(&port, &mut || waiting.has_room(), &mut each).await;
            drop(port); // before the path is opened again
            log.tell();
            waiting.end();
            fault
        };
        let committing = waiting.commit(intake, self.linger);
        tokio::pin!(reading, committing);
        tokio::select! {
            fault = &mut reading => {
                committing.await?;
                Err(fault)
            }
            ended = &mut committing => ended,
        }
    }
}

/// Tells of broken frames: of the first at once, of those after it every minute.
struct Log {
    source: Arc<str>,
    counts: Counts,
    told: Counts,
    told_ms: Option<u64>,
}

impl Log {
    fn new(source: &Arc<str>) -> Log {
        Log { source: source.clone(), counts: Counts::default(), told: Counts::default(), told_ms: None }
    }

    fn count(&mut self, why: Broken) {
        self.counts.add(why);
        let now = clock::mono_ms();
        if self.told_ms.is_none_or(|told| now.saturating_sub(told) >= TELL_MS) {
            self.tell();
            self.told_ms = Some(now);
        }
    }

    fn tell(&mut self) {
        let new = self.counts.since(&self.told);
        if new.total() > 0 {
            log::warn!("sources.{}: bytes that are no frame: {new}", self.source);
            self.told = self.counts;
        }
    }
}
