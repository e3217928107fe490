//! Requests and answers on a serial line: frames between silences, each with a checksum, after "MODBUS over Serial Line V1.02".

use super::{
    Error,
    codec::{Ask, Request, crc},
};
use crate::systems::serial::{Line, Port};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes that are kept of what is heard: an answer has at most 256, and garbage may come before it.
const HEARD: usize = 1024;
/// A frame has at least this silence before it, 3.5 characters below 19,200 bits a second (2.5.1.1).
const SHORTEST_GAP: Duration = Duration::from_micros(1750);

/// A serial line to which the gateway is the only one to speak unasked.
pub(super) struct Rtu {
    line: Line,
    gap: Duration,
    port: Option<Port>,
    /// Since when nothing was sent or heard.
    quiet: Instant,
    /// Whether what is sent is heard as well. Some RS-485 adapters do that.
    echo: bool,
}

impl Rtu {
    pub fn new(line: Line, gap: Option<Duration>) -> Rtu {
        let gap = gap.unwrap_or_default().max(least_gap(&line));
        Rtu { line, gap, port: None, quiet: Instant::now(), echo: false }
    }

    /// Asks once. A future that is dropped before its end closes the port.
    pub async fn exchange(&mut self, request: &Request<'_>, patience: Duration) -> Result<Vec<u8>, Error> {
        let port = match self.port.take() {
            Some(port) => port,
            None => self.line.open().map_err(|fault| Error::Lost(fault.to_string()))?,
        };
        let answer = self.ask(&port, request, patience).await;
        self.quiet = Instant::now();
        if !matches!(answer, Err(Error::Lost(_))) {
            self.port = Some(port);
        }
        answer
    }

    async fn ask(&mut self, port: &Port, request: &Request<'_>, patience: Duration) -> Result<Vec<u8>, Error> {
        self.silence(port, patience).await?;
        let frame = frame(request);
        let on_the_wire = character(&self.line) * (frame.len() + request.answer() + 3) as u32;
        let deadline = Instant::now() + on_the_wire + patience;
        match timeout_at(deadline, port.write(&frame)).await {
            Ok(written) => written.map_err(|fault| Error::Lost(fault.to_string()))?,
            Err(_) => return Err(Error::Lost(format!("`{}` takes no bytes", self.line.path.display()))),
        }
        let mut heard = heapless::Vec::<u8, HEARD>::new();
        let mut chunk = [0; 256];
        loop {
            let Ok(read) = timeout_at(deadline, port.read(&mut chunk)).await else {
                return Err(puzzle(request, &frame, &heard));
            };
            let read = read.map_err(|fault| Error::Lost(fault.to_string()))?;
            if heard.len() + read > HEARD {
                // Garbage: an answer lies in the newest bytes.
                heard = heard.iter().skip(HEARD / 2).copied().collect();
            }
            heard.extend_from_slice(&chunk[..read]).ok();
            let single = matches!(request.ask, Ask::Coil { .. } | Ask::Register { .. });
            let begins_with_echo = heard.starts_with(&frame);
            // The answer to a single write is the request again: only a line that is known to echo tells them apart.
            let after = if self.echo && single && begins_with_echo { frame.len() } else { 0 };
            if let Some(pdu) = find(request, &heard[after..]) {
                self.echo |= begins_with_echo && !single;
                return request.parse(pdu);
            }
        }
    }

    /// Waits until the line has been silent for long enough; what is heard meanwhile answers nothing.
    async fn silence(&mut self, port: &Port, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        let mut chunk = [0; 256];
        loop {
            let wait = (self.quiet + self.gap).saturating_duration_since(Instant::now());
            match timeout(wait, port.read(&mut chunk)).await {
                Err(_) => return Ok(()),
                Ok(read) => read.map_err(|fault| Error::Lost(fault.to_string()))?,
            };
            self.quiet = Instant::now();
            if self.quiet > deadline {
                return Err(Error::Wrong("somebody else speaks all the time".into()));
            }
        }
    }
}

/// How long a character takes: a start bit, data, parity, stop bits.
fn character(line: &Line) -> Duration {
    let parity = u32::from(line.parity != crate::systems::serial::Parity::None);
    let bits = 1 + u32::from(line.data_bits) + parity + u32::from(line.stop_bits);
    Duration::from_secs(1) * bits / line.baud.max(1)
}

fn least_gap(line: &Line) -> Duration {
    if line.baud > 19_200 { SHORTEST_GAP } else { character(line) * 7 / 2 }
}

fn frame(request: &Request<'_>) -> Vec<u8> {
    let mut frame = [vec![request.unit], request.pdu()].concat();
    frame.extend(crc(&frame).to_le_bytes());
    frame
}

/// The data unit of the answer, wherever it lies in what was heard.
fn find<'a>(request: &Request<'_>, heard: &'a [u8]) -> Option<&'a [u8]> {
    (0..heard.len()).find_map(|at| {
        let rest = &heard[at..];
        let length = match rest {
            [unit, ..] if *unit != request.unit => return None,
            [_, code, ..] if *code == request.function() => request.answer() + 3,
            [_, code, ..] if *code == request.function() | 0x80 => 5,
            _ => return None,
        };
        checked(rest.get(..length)?).filter(|pdu| length == 5 || !read_of_another_length(request, pdu))
    })
}

fn read_of_another_length(request: &Request<'_>, pdu: &[u8]) -> bool {
    matches!(request.ask, Ask::Read { .. }) && pdu.get(1).is_none_or(|n| usize::from(*n) + 2 != request.answer())
}

/// The data unit of a frame whose checksum is right.
fn checked(frame: &[u8]) -> Option<&[u8]> {
    let (content, sum) = frame.split_last_chunk::<2>()?;
    (crc(content) == u16::from_le_bytes(*sum)).then(|| content.get(1..)).flatten()
}

/// What was heard instead of an answer.
fn puzzle(request: &Request<'_>, sent: &[u8], heard: &[u8]) -> Error {
    let heard = heard.strip_prefix(sent).unwrap_or(heard);
    if heard.is_empty() {
        return Error::Silent;
    }
    for at in 0..heard.len() {
        let rest = &heard[at..];
        let length = match *rest {
            [_, 1..=4, n, ..] => usize::from(n) + 5,
            [_, 5 | 6 | 15 | 16, ..] => 8,
            [_, 0x80..=0xff, ..] => 5,
            _ => continue,
        };
        match rest.get(..length).and_then(checked) {
            Some(_) if rest[0] != request.unit => {
                return Error::Wrong(format!("unit {} answered instead of {}", rest[0], request.unit));
            }
            Some(pdu) => return request.parse(pdu).err().unwrap_or(Error::Silent),
            None => {}
        }
    }
    Error::Wrong(format!("{} bytes came that are no answer; are baud and parity right?", heard.len()))
}

#[cfg(test)]
mod tests {
    use super::super::codec::Table;
    use super::*;
    use crate::systems::serial::Parity;

    const READ: Request<'static> = Request { unit: 1, ask: Ask::Read { table: Table::Holding, address: 0, count: 2 } };
    const SET: Request<'static> = Request { unit: 1, ask: Ask::Register { address: 2, value: 3 } };

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        [bytes, &crc(bytes).to_le_bytes()].concat()
    }

    #[test]
    fn an_answer_is_found_among_garbage_and_what_is_none_is_told() {
        let right = sealed(&[1, 3, 4, 0, 7, 0, 8]);
        let mut broken = right.clone();
        broken[4] ^= 1;
        let garbage = [0xff, 1, 3, 4, 0, 0, 1];
        let told = |heard: &[u8]| match find(&READ, heard) {
            Some(pdu) => format!("{:?}", READ.parse(pdu)),
            None => puzzle(&READ, &frame(&READ), heard).to_string(),
        };
        for (heard, want) in [
            (right.clone(), "Ok([0, 7, 0, 8])"),
            ([&garbage[..], &right].concat(), "Ok([0, 7, 0, 8])"),
            ([&right[..], &garbage].concat(), "Ok([0, 7, 0, 8])"),
            ([frame(&READ), right.clone()].concat(), "Ok([0, 7, 0, 8])"),
            ([broken.clone(), right.clone()].concat(), "Ok([0, 7, 0, 8])"),
            (sealed(&[1, 0x83, 2]), "Err(Refused(Exception(2)))"),
            (broken, "9 bytes came that are no answer; are baud and parity right?"),
            (right[..8].to_vec(), "8 bytes came that are no answer; are baud and parity right?"),
            (sealed(&[2, 3, 4, 0, 7, 0, 8]), "unit 2 answered instead of 1"),
            (sealed(&[1, 4, 4, 0, 7, 0, 8]), "function 4 was answered instead of 3"),
            (sealed(&[1, 3, 2, 0, 7]), "2 bytes of data were answered instead of 4"),
            (frame(&READ), "no answer in time"),
            (Vec::new(), "no answer in time"),
        ] {
            assert_eq!(told(&heard), want, "{heard:?}");
        }
    }

    #[test]
    fn garbage_is_no_answer() {
        let mut random = fastrand::Rng::with_seed(9);
        let mut bytes = [0; HEARD];
        for _ in 0..2_000 {
            random.fill(&mut bytes);
            // As near to an answer as garbage comes.
            (0..20).for_each(|_| bytes[random.usize(..HEARD - 3)..][..3].copy_from_slice(&[1, 3, 4]));
            assert_eq!(find(&READ, &bytes), None);
            puzzle(&SET, &frame(&SET), &bytes);
        }
    }

    #[test]
    fn silences_are_those_of_the_specification() {
        let line = |baud, parity, stop_bits| Line {
            path: "/dev/null".into(),
            baud,
            data_bits: 8,
            parity,
            stop_bits,
            flow: Default::default(),
            rs485: None,
        };
        for (line, micros) in [
            (line(9600, Parity::Even, 1), 4010),
            (line(9600, Parity::None, 1), 3645),
            (line(19_200, Parity::Odd, 1), 2005),
            (line(115_200, Parity::Even, 1), 1750),
        ] {
            assert_eq!(least_gap(&line).as_micros(), micros);
        }
    }
}
