//! What the tests are made of: the gateway as a process of its own, and the parts around it.
#![allow(dead_code)] // the benchmark takes some of it

pub mod http;
pub mod mqtt;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

/// What runs beside a test: upstreams and producers. The test itself waits in its own thread.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
    &RUNTIME
}

/// The longest that anything here takes on a slow and busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// A port that nobody listens on, below those that the kernel gives to clients.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    (0..10_000)
        .map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// A listener, also where connections of the last one have not timed out yet.
fn listen(port: u16) -> tokio::net::TcpListener {
    let _inside = runtime().enter();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).unwrap();
    socket.listen(1024).unwrap()
}

/// Waits until `true`; fails with `what` when it takes too long.
pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until somebody listens.
pub fn wait_for_port(port: u16) {
    wait_for(&format!("port {port}"), LONG, || TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// A folder on the disk of the build, not in memory as `/tmp` may be.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs the program to its end, with text on standard input; fails when it has none.
pub fn tidegate(dir: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, input, pid) = (child.stdin.take().unwrap(), input.to_owned(), child.id());
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        done.send(child.wait_with_output().unwrap()).ok();
    });
    ended.recv_timeout(LONG).unwrap_or_else(|_| {
        Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
        panic!("`tidegate {}` does not end", arguments.join(" "))
    })
}

/// A running gateway: `tidegate.jsonc` and the store lie in its folder, its log in `log`. Killed with the value.
pub struct Gateway {
    child: Child,
    dir: PathBuf,
}

impl Gateway {
    /// Writes the configuration and starts. `arguments` go before the file.
    pub fn start(dir: &Path, configuration: &str, arguments: &[&str]) -> Gateway {
        Self::begin(dir, configuration, Command::new(env!("CARGO_BIN_EXE_tidegate")), arguments)
    }

    /// As `start` or, with a fault, `start_with_fault`; and with variables in its environment.
    pub fn start_with(dir: &Path, configuration: &str, env: &[(&str, &str)], fault: Option<[&str; 2]>) -> Gateway {
        let mut command = Command::new(if fault.is_some() { "strace" } else { env!("CARGO_BIN_EXE_tidegate") });
        if let Some([call, fault]) = fault {
            command.args(["-D", "-f", "-qq", "-o", "faults", "-e", &format!("trace={call}"), "-e"]);
            command.args([&format!("inject={call}:{fault}"), env!("CARGO_BIN_EXE_tidegate")]);
        }
        command.envs(env.iter().copied());
        Self::begin(dir, configuration, command, &[])
    }

    /// As `start`, with a fault that strace injects into system calls; what it did is in the file `faults`.
    pub fn start_with_fault(dir: &Path, configuration: &str, call: &str, fault: &str) -> Gateway {
        Self::start_with(dir, configuration, &[], Some([call, fault]))
    }

    /// As `start`, in a cgroup, with variables in its environment.
    pub fn start_in(dir: &Path, configuration: &str, env: &[(&str, &str)], group: &Path) -> Gateway {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(group);
        command.arg(env!("CARGO_BIN_EXE_tidegate")).envs(env.iter().copied());
        Self::begin(dir, configuration, command, &[])
    }

    fn begin(dir: &Path, configuration: &str, mut command: Command, arguments: &[&str]) -> Gateway {
        fs::write(dir.join("tidegate.jsonc"), configuration).unwrap();
        let log = OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
        let child = command
            .arg("run")
            .args(arguments)
            .arg("tidegate.jsonc")
            .env("TIDEGATE_LOG", "text") // wherever the tests run
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Gateway { child, dir: dir.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it and those before it in the same folder have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// Fails if it ended by itself.
    pub fn alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the gateway ended with {ended:?}:\n{}", self.log());
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and what it ends with.
    pub fn stop(self) -> ExitStatus {
        let done = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
        self.end()
    }

    /// What it ends with by itself.
    pub fn end(mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the gateway's end", LONG, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- log of the gateway\n{}---", self.log());
        }
    }
}

/// A mosquitto that keeps its sessions in a folder. Killed with the value.
pub struct Mosquitto(Child);

impl Mosquitto {
    pub fn start(dir: &Path, port: u16) -> Mosquitto {
        let file = dir.join("mosquitto.conf");
        // Without limits of its own: they would drop what it has acknowledged.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nuser root\n\
             max_queued_messages 0\nmax_inflight_messages 0\n",
            dir.display()
        );
        fs::write(&file, text).unwrap();
        let program =
            ["/usr/sbin/mosquitto", "mosquitto"].into_iter().find(|p| !p.contains('/') || Path::new(p).exists());
        let log = fs::File::create(dir.join("mosquitto.log")).unwrap();
        let child = Command::new(program.unwrap()).arg("-c").arg(file).stderr(log).spawn().expect("mosquitto");
        wait_for_port(port);
        Mosquitto(child)
    }

    /// SIGTERM: it writes its sessions down.
    pub fn stop(mut self) {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
