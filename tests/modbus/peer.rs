//! pymodbus as a process of its own, `peer.py`. Killed with the value.

use crate::kit;
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

pub struct Peer {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// The `connect` of a configuration.
    pub connect: String,
    /// The arguments of `tidegate modbus read`.
    pub arguments: Vec<String>,
}

impl Peer {
    pub fn tcp(dir: &Path, port: u16) -> Peer {
        let mut peer = Peer::start(dir, &["tcp", &port.to_string()]);
        assert_eq!(peer.line(), "ready");
        peer.connect = format!(r#"{{ "tcp": "127.0.0.1:{port}" }}"#);
        peer.arguments = ["--tcp".to_owned(), format!("127.0.0.1:{port}")].into();
        peer
    }

    pub fn rtu(dir: &Path) -> Peer {
        let mut peer = Peer::start(dir, &["rtu"]);
        let path = peer.line();
        peer.connect = format!(r#"{{ "rtu": {{ "path": "{path}", "baud": 19200 }} }}"#);
        peer.arguments = ["--rtu", &path, "--baud", "19200"].map(str::to_owned).into();
        peer
    }

    /// Python with pymodbus is `$PYMODBUS`, or what `tests/run` installs, or the one in the PATH.
    fn start(dir: &Path, arguments: &[&str]) -> Peer {
        let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/pymodbus/bin/python");
        let python = std::env::var("PYMODBUS").unwrap_or_else(|_| match Path::new(installed).exists() {
            true => installed.into(),
            false => "python3".into(),
        });
        let has = Command::new(&python).args(["-c", "import pymodbus.simulator, serial"]).output();
        assert!(
            has.is_ok_and(|done| done.status.success()),
            "`{python}` lacks pymodbus: `tests/run` installs it, or `pip install 'pymodbus[serial]'`; PYMODBUS may say \
             which Python has it"
        );
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modbus/peer.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("peer.log")).unwrap())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Peer { child, commands, answers, connect: String::new(), arguments: Vec::new() }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the peer ended, see peer.log");
        line.trim().to_owned()
    }

    /// Tells it something, see `peer.py`.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
        assert_eq!(self.line(), "done");
    }

    /// `tidegate modbus read` of it: what it prints, and on failure says.
    pub fn read(&self, dir: &Path, more: &str) -> String {
        let head = ["modbus", "read", "--timeout", "500ms"];
        let arguments = head.into_iter().chain(self.arguments.iter().map(String::as_str)).chain(more.split(' '));
        let done = kit::tidegate(dir, &arguments.collect::<Vec<_>>(), "");
        String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
