//! Brokers for tests: mosquitto as a process, and one that does what the test says.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A port that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A mosquitto of our own, that keeps its sessions in a directory.
pub struct Mosquitto {
    pub port: u16,
    pub dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts it; `more` are further lines of its configuration.
    pub async fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut broker = Mosquitto { port, dir, child: None };
        let at = broker.dir.path().display().to_string();
        // As root it would change to a user that cannot read the directory.
        let config = format!(
            "listener {port} 127.0.0.1\nuser root\npersistence true\npersistence_location {at}/\n\
             max_queued_messages 0\nmax_inflight_messages 0\n{}",
            more.replace("{dir}", &at)
        );
        let anonymous = if more.contains("allow_anonymous") { "" } else { "\nallow_anonymous true\n" };
        std::fs::write(broker.dir.path().join("conf"), config + anonymous).unwrap();
        broker.again().await;
        broker
    }

    /// Starts it after a stop, on the same port.
    pub async fn again(&mut self) {
        let conf = self.dir.path().join("conf");
        let child = Command::new("mosquitto").arg("-c").arg(conf).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("mosquitto must be installed"));
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("mosquitto did not start");
    }

    /// Stops it in good order, so that it saves what it has acknowledged (mosquitto does not when it is killed).
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            Command::new("kill").arg(child.id().to_string()).status().unwrap();
            child.wait().unwrap();
        }
    }

    /// A client program of mosquitto's, with its output in a file of that name.
    pub fn client(&self, program: &str, args: &[&str], name: &str) -> Client {
        let file = self.dir.path().join(name);
        let child = Command::new(program)
            .args(["-p", &self.port.to_string(), "-h", "localhost"])
            .args(args)
            .stdout(std::fs::File::create(&file).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Client { child, file }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

pub struct Client {
    child: Child,
    file: std::path::PathBuf,
}

impl Client {
    /// What it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.file).unwrap().lines().map(str::to_owned).collect()
    }

    /// Waits until it has printed what is wanted.
    pub async fn until(&self, what: impl Fn(&[String]) -> bool) -> Vec<String> {
        for _ in 0..1000 {
            let lines = self.lines();
            if what(&lines) {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("mosquitto's client printed only {:?}", self.lines().iter().take(20).collect::<Vec<_>>());
    }

    pub fn wait(mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A packet as it came: its first byte, and what follows the length.
pub struct Frame {
    pub first: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// The packet id of a PUBLISH.
    pub fn id(&self) -> u16 {
        let topic = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        u16::from_be_bytes([self.body[2 + topic], self.body[3 + topic]])
    }
}

/// A broker that answers every packet with what `answer` says, on each connection in turn; an empty CONNACK is sent
/// first. `None` hangs up.
pub async fn fake(mut answer: impl FnMut(&Frame) -> Option<Vec<u8>> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while let Some(frame) = read_frame(&mut stream).await {
                let Some(bytes) = answer(&frame) else { break };
                if stream.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
    });
    port
}

async fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let first = stream.read_u8().await.ok()?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Frame { first, body })
}
