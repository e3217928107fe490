//! Servers as processes of their own. Killed with the value.

use crate::kit;
use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

pub struct Server {
    pub port: u16,
    command: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Starts a program that listens on a port; `PORT` in its arguments is replaced. `install` says where it comes from.
    fn start(dir: &Path, install: &str, command: &[&str]) -> Server {
        let port = kit::port();
        let command = command.iter().map(|part| part.replace("PORT", &port.to_string())).collect();
        let mut server = Server { port, command, log: dir.join("server.log"), child: None };
        assert!(server.spawn().is_ok(), "`{}` is missing: {install}", server.command[0]);
        kit::wait_for_port(port);
        server
    }

    fn spawn(&mut self) -> std::io::Result<()> {
        let log = File::create(&self.log)?;
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    pub fn redis(dir: &Path) -> Server {
        let dir_text = dir.display().to_string();
        let arguments =
            ["--bind", "127.0.0.1", "--port", "PORT", "--save", "", "--appendonly", "no", "--dir", &dir_text];
        Server::start(dir, "install the package redis-server", &[&["redis-server"], &arguments[..]].concat())
    }

    /// moto's server, with a bucket `readings`. It is `$MOTO_SERVER`, or what `tests/run` installs, or in the PATH.
    pub fn s3(dir: &Path) -> Server {
        let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/moto/bin/moto_server");
        let program = std::env::var("MOTO_SERVER").unwrap_or_else(|_| match Path::new(installed).exists() {
            true => installed.into(),
            false => "moto_server".into(),
        });
        let install = "`tests/run` installs it, or `pip install 'moto[server]'`; MOTO_SERVER may say where it is";
        let mut server = Server::start(dir, install, &[&program, "-H", "127.0.0.1", "-p", "PORT"]);
        server.make_bucket();
        server
    }

    /// The server forgets all with its process.
    pub fn make_bucket(&mut self) {
        let answer =
            self.ask("PUT /readings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// What the server answers to bytes.
    pub fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(kit::LONG)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().unwrap();
        }
    }

    /// Starts it again on the same port.
    pub fn again(&mut self) {
        self.spawn().unwrap();
        kit::wait_for_port(self.port);
    }

    /// Stops answering, or goes on.
    pub fn freeze(&self, frozen: bool) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}---", self.command[0], std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        self.kill();
    }
}
