//! An HTTP server for tests, real down to the socket, that does with each request what it is told to.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

/// What the server does with a request.
#[derive(Clone)]
pub enum Act {
    /// Writes these bytes and goes on with the connection.
    Say(String),
    /// Writes these bytes and closes.
    Cut(String),
    /// Closes with data unread, which resets the connection.
    Reset,
    Stall(Duration),
}

use Act::{Cut, Reset, Say, Stall};

pub fn ok() -> Act {
    Say("HTTP/1.1 204 No Content\r\n\r\n".into())
}

pub fn status(line: &str) -> Act {
    Say(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n"))
}

/// A request as it came, and the number of its connection.
#[derive(Debug)]
pub struct Got {
    pub connection: usize,
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

pub struct Server {
    pub port: u16,
    got: Mutex<mpsc::Receiver<Got>>,
}

impl Server {
    /// Serves one connection after another, an act for each request.
    pub fn start(acts: Vec<Act>) -> Server {
        Server::wrapped(acts, |stream| Some(Box::new(stream)))
    }

    pub fn wrapped(acts: Vec<Act>, wrap: impl Fn(TcpStream) -> Option<Box<dyn Duplex>> + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, got) = mpsc::channel();
        thread::spawn(move || {
            let mut acts = acts.into_iter();
            for (connection, stream) in listener.incoming().enumerate() {
                let stream = stream.unwrap();
                let raw = stream.try_clone().unwrap();
                let Some(stream) = wrap(stream) else { continue };
                let mut stream = BufReader::new(stream);
                while let Some(got) = request(&mut stream, connection) {
                    send.send(got).ok();
                    match acts.next() {
                        Some(Say(bytes)) => {
                            stream.get_mut().write_all(bytes.as_bytes()).unwrap();
                            stream.get_mut().flush().unwrap();
                        }
                        Some(Cut(bytes)) => {
                            stream.get_mut().write_all(bytes.as_bytes()).unwrap();
                            raw.shutdown(Shutdown::Both).unwrap();
                            break;
                        }
                        Some(Stall(time)) => thread::sleep(time),
                        Some(Reset) | None => break,
                    }
                }
            }
        });
        Server { port, got: Mutex::new(got) }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/in?x=y", self.port)
    }

    pub fn next(&self) -> Got {
        self.got.lock().unwrap().recv_timeout(Duration::from_secs(5)).unwrap()
    }

    pub fn none(&self) -> bool {
        self.got.lock().unwrap().try_recv().is_err()
    }
}

pub trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

fn request(stream: &mut impl BufRead, connection: usize) -> Option<Got> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    assert_eq!(headers.len(), lines.len() - 1, "a header stands twice: {lines:?}");
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(Got { connection, line: lines[0].clone(), headers, body })
}
