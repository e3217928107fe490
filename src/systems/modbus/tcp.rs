//! Requests and answers over TCP, with transaction numbers, after "MODBUS Messaging on TCP/IP Implementation Guide V1.0b".

use super::{Error, codec::Request};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

/// How long a connection may take to come about; units are near.
const CONNECT: Duration = Duration::from_secs(5);
/// After so many requests in a row that nobody answered, the connection is thought to be dead and made anew.
const UNANSWERED: u32 = 3;
/// Length of the header before the data unit (4.1 of the guide), and the longest frame: a data unit has at most 253 bytes.
const HEADER: usize = 7;
const LONGEST: usize = HEADER + 253;

/// A connection, made when it is needed.
pub(super) struct Tcp {
    address: String,
    live: Option<Live>,
    transaction: u16,
    unanswered: u32,
}

struct Live {
    stream: TcpStream,
    /// What has come and is not a whole frame yet; it outlives a request, whose answer may be late.
    heard: heapless::Vec<u8, LONGEST>,
}

impl Tcp {
    pub fn new(address: String) -> Tcp {
        Tcp { address, live: None, transaction: 0, unanswered: 0 }
    }

    /// Asks once. A future that is dropped before its end closes the connection.
    pub async fn exchange(&mut self, request: &Request<'_>, patience: Duration) -> Result<Vec<u8>, Error> {
        let kept = self.live.is_some();
        match self.attempt(request, patience).await {
            // Many units close a connection that was idle: that is no fault.
            Err(Error::Lost(_)) if kept => self.attempt(request, patience).await,
            other => other,
        }
    }

    async fn attempt(&mut self, request: &Request<'_>, patience: Duration) -> Result<Vec<u8>, Error> {
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.connect().await?,
        };
        self.transaction = self.transaction.wrapping_add(1);
        let answer = live.ask(self.transaction, request, patience).await;
        self.unanswered = if matches!(answer, Err(Error::Silent)) { self.unanswered + 1 } else { 0 };
        match answer {
            Err(Error::Lost(why)) => Err(Error::Lost(format!("`{}`: {why}", self.address))),
            answer => {
                if self.unanswered < UNANSWERED {
                    self.live = Some(live);
                }
                answer
            }
        }
    }

    async fn connect(&mut self) -> Result<Live, Error> {
        self.unanswered = 0;
        let lost = |why: String| Error::Lost(format!("cannot connect to `{}`: {why}", self.address));
        let stream = match timeout(CONNECT, TcpStream::connect(&self.address)).await {
            Ok(stream) => stream.map_err(|e| lost(e.to_string()))?,
            Err(_) => return Err(lost(format!("no answer within {} s", CONNECT.as_secs()))),
        };
        stream.set_nodelay(true).map_err(|e| lost(e.to_string()))?;
        Ok(Live { stream, heard: heapless::Vec::new() })
    }
}

impl Live {
    async fn ask(&mut self, number: u16, request: &Request<'_>, patience: Duration) -> Result<Vec<u8>, Error> {
        let pdu = request.pdu();
        let mut frame = number.to_be_bytes().to_vec();
        frame.extend([0, 0]);
        frame.extend((pdu.len() as u16 + 1).to_be_bytes());
        frame.push(request.unit);
        frame.extend(pdu);
        let deadline = Instant::now() + patience;
        match timeout_at(deadline, self.stream.write_all(&frame)).await {
            Ok(written) => written.map_err(|e| Error::Lost(e.to_string()))?,
            // Half of it may be gone.
            Err(_) => return Err(Error::Lost("it takes no bytes".into())),
        }
        loop {
            while let Some((answered, unit, pdu)) = next(&mut self.heard)? {
                match () {
                    // The answer to a request that was given up.
                    () if answered != number => {}
                    () if unit != request.unit => {
                        return Err(Error::Wrong(format!("unit {unit} answered instead of {}", request.unit)));
                    }
                    () => return request.parse(&pdu),
                }
            }
            let mut chunk = [0; LONGEST];
            let room = LONGEST - self.heard.len();
            match timeout_at(deadline, self.stream.read(&mut chunk[..room])).await {
                Ok(Ok(0)) => return Err(Error::Lost("it closed the connection".into())),
                Ok(Ok(read)) => self.heard.extend_from_slice(&chunk[..read]).unwrap_or_default(),
                Ok(Err(e)) => return Err(Error::Lost(e.to_string())),
                Err(_) => return Err(Error::Silent),
            }
        }
    }
}

/// Takes a whole frame: its number, unit and data unit. What is no frame is the end of the connection, since nothing tells
/// where the next one begins.
fn next(heard: &mut heapless::Vec<u8, LONGEST>) -> Result<Option<(u16, u8, Vec<u8>)>, Error> {
    let [n0, n1, p0, p1, l0, l1, unit, ref rest @ ..] = **heard else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if (p0, p1) != (0, 0) || !(2..=LONGEST - HEADER + 1).contains(&length) {
        return Err(Error::Lost("it does not speak Modbus".into()));
    }
    let Some(pdu) = rest.get(..length - 1).map(<[u8]>::to_vec) else { return Ok(None) };
    *heard = heard.iter().skip(HEADER + pdu.len()).copied().collect();
    Ok(Some((u16::from_be_bytes([n0, n1]), unit, pdu)))
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Ask, Table};
    use super::*;
    use std::io::{Read, Write};

    const READ: Request<'static> = Request { unit: 1, ask: Ask::Read { table: Table::Holding, address: 0, count: 1 } };
    const SHORT: Duration = Duration::from_millis(150);

    /// A peer that answers each request with what is in its turn, `NN` for the number of the request, and closes the
    /// connection after the last turn.
    fn peer(turns: Vec<Vec<&'static str>>) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for turns in turns {
                let (mut stream, _) = listener.accept().unwrap();
                for turn in turns {
                    let mut request = [0; 12];
                    if stream.read_exact(&mut request).is_err() {
                        break;
                    }
                    let text = turn.replace("NN", &format!("{:02x}{:02x}", request[0], request[1]));
                    let digits: Vec<char> = text.chars().filter(char::is_ascii_hexdigit).collect();
                    let pairs =
                        digits.chunks(2).map(|d| u8::from_str_radix(&d.iter().collect::<String>(), 16).unwrap());
                    for byte in pairs {
                        stream.write_all(&[byte]).ok(); // it may have heard enough
                    }
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn answers_belong_to_their_requests() {
        let right = "NN 0000 0005 01 03 02 002a";
        for (turns, want) in [
            (vec![vec![right]], vec!["Ok([0, 42])"]),
            (vec![vec!["7777 0000 0005 01 03 02 0001 NN 0000 0005 01 03 02 002a"]], vec!["Ok([0, 42])"]),
            // The answer to the first comes with that to the second.
            (vec![vec!["", "0001 0000 0005 01 03 02 0001 NN 0000 0005 01 03 02 002a"]], vec!["Silent", "Ok([0, 42])"]),
            // Half of it, late.
            (vec![vec!["0001 0000 0005 01", "03 02 0001 NN 0000 0005 01 03 02 002a"]], vec!["Silent", "Ok([0, 42])"]),
            (vec![vec!["NN 0000 0003 01 83 02"]], vec!["Exception(2)"]),
            (vec![vec!["NN 0000 0005 02 03 02 002a"]], vec!["unit 2 answered instead of 1"]),
            (vec![vec!["NN 0000 0005 01 04 02 002a"]], vec!["function 4 was answered instead of 3"]),
            (vec![vec!["NN 0000 0007 01 03 04 002a 0000"]], vec!["4 bytes of data were answered instead of 2"]),
            (vec![vec!["NN 0001 0005 01 03 02 002a"], vec![right]], vec!["it does not speak Modbus", "Ok([0, 42])"]),
            (vec![vec!["NN 0000 00ff 01"], vec![right]], vec!["it does not speak Modbus", "Ok([0, 42])"]),
            (vec![vec![], vec![right]], vec!["closed the connection|reset", "Ok([0, 42])"]),
            // A connection that was closed while idle is made anew at once.
            (vec![vec![right], vec![right]], vec!["Ok([0, 42])", "Ok([0, 42])"]),
            // Nobody answers three times: a new connection.
            (vec![vec!["", "", "", ""], vec![right]], vec!["Silent", "Silent", "Silent", "Ok([0, 42])"]),
        ] {
            let mut tcp = Tcp::new(peer(turns));
            for want in want {
                let got = format!("{:?}", tcp.exchange(&READ, SHORT).await);
                assert!(want.split('|').any(|want| got.contains(want)), "{got}, not {want}");
            }
        }
        let refused = Tcp::new("127.0.0.1:1".into()).exchange(&READ, SHORT).await.unwrap_err().to_string();
        assert!(refused.starts_with("cannot connect to `127.0.0.1:1`: "), "{refused}");
    }
}
