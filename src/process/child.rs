//! Runs a program for an event: the input on its stdin, the answer from its stdout. Never a shell.
//!
//! A child leads a process group of its own. When it has ended, was too slow, printed too much, or nobody waits for it any
//! more, the whole group is killed: what it left running ends with it, unless it left the group (`setsid`). A group is
//! killed only before its leader is reaped, so its number cannot have gone to another.

use crate::{
    budget::{Size, Span},
    event::json::{self, Kind},
    fault::{Fault, blotted, printable},
};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::{
    collections::BTreeMap,
    future::pending,
    io,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

/// Bytes of an answer, and of what came last from stderr, that are quoted.
const QUOTE: usize = 300;
/// Bytes taken from a pipe at once.
const PIECE: usize = 8 << 10;
/// What a pipe can hold at most: so much is read of what stderr still has when the child has ended.
const PIPE: usize = 1 << 20;
/// A child that was killed is waited for so long: longer it hangs in the kernel, and is reaped later.
const REAP: Duration = Duration::from_secs(1);

/// A program, and the limits of its children.
pub(super) struct Program {
    path: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    dir: Option<PathBuf>,
    timeout: Duration,
    max_output: usize,
    seats: Arc<Semaphore>,
}

impl Program {
    /// The program at a path with its arguments; `children` of it run at once at most.
    pub fn new(path: String, args: Vec<String>, timeout: Span, children: usize) -> Self {
        Program {
            path,
            args,
            env: BTreeMap::new(),
            dir: None,
            timeout: timeout.0,
            max_output: 256 << 10,
            seats: Arc::new(Semaphore::new(children.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// With variables beside `PATH`, a directory to work in, and other than 256 KiB for an answer.
    pub fn with(self, env: BTreeMap<String, String>, dir: Option<PathBuf>, max_output: Size) -> Self {
        Program { env, dir, max_output: max_output.bytes(), ..self }
    }

    /// What is wrong with it, as far as that can be seen without running it.
    pub fn check(&self) -> Result<(), String> {
        if self.path.is_empty() {
            return Err("expected the path of a program".into());
        }
        let nul = |text: &String| text.contains('\0');
        if nul(&self.path) || self.args.iter().any(nul) || self.env.values().any(nul) {
            return Err("a program, its arguments and its environment cannot have NUL characters".into());
        }
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(format!("`{}` is not the name of a variable", name.escape_debug()));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&self.timeout) {
            return Err("expected a `timeout` of 1ms to 1d".into());
        }
        Ok(())
    }

    /// Runs it to its end. Gives the answer: one JSON object, or `null` for none.
    pub async fn answer(self: &Arc<Self>, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let out = self.run(input).await?;
        let out = out.trim_ascii();
        match json::check(out) {
            _ if out.is_empty() => Ok(b"null".to_vec()),
            Ok(Kind::Object) => Ok(out.to_vec()),
            _ => Err(Fault::reject(format!(
                "`{}` printed what is not one JSON object: `{}`{}",
                self.path,
                printable(self.blotted(out).as_bytes(), QUOTE),
                if out.len() > QUOTE { "…" } else { "" }
            ))),
        }
    }

    /// What it printed, without what it was given in its environment: secrets come that way.
    fn blotted(&self, printed: &[u8]) -> String {
        blotted(printed, self.env.values().map(String::as_str))
    }

    /// Runs it to its end. Gives what it printed.
    pub async fn run(self: &Arc<Self>, input: &[u8]) -> Result<Vec<u8>, Fault> {
        self.start(true).await?.finish(input, None).await
    }

    /// Starts it, once there is room for another child. Without `keep`, what it prints goes nowhere.
    pub async fn start(self: &Arc<Self>, keep: bool) -> Result<Run, Fault> {
        let seat = self.seats.clone().acquire_owned().await.map_err(Fault::retry)?;
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().process_group(0);
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path))).envs(&self.env);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        command.stdout(if keep { Stdio::piped() } else { Stdio::null() });
        let child = command.spawn().map_err(|e| Fault::retry(format!("`{}` cannot be started: {e}", self.path)))?;
        Ok(Run { program: self.clone(), child, out: Vec::new(), said: Tail::default(), _seat: seat })
    }
}

/// A child at work. Dropped, it is killed with its group; the runtime reaps it then.
pub(super) struct Run {
    program: Arc<Program>,
    child: Child,
    out: Vec<u8>,
    said: Tail,
    /// Given back when the child is gone.
    _seat: OwnedSemaphorePermit,
}

impl Run {
    /// Gives it the input, says so through `given`, and waits for its end. Gives what it printed.
    pub async fn finish(mut self, input: &[u8], given: Option<oneshot::Sender<()>>) -> Result<Vec<u8>, Fault> {
        let program = self.program.clone();
        let Program { path, timeout: limit, max_output, .. } = &*program;
        let ended = timeout(*limit, self.attend(input, given)).await;
        self.kill();
        let status = timeout(REAP, self.child.wait()).await;
        self.take_rest();
        let wrong = match (ended, status) {
            (Err(_), _) => format!("did not end within {}", Span(*limit)),
            _ if self.out.len() > *max_output => format!("printed more than {}", Size(*max_output as u64)),
            (Ok(Ok(())), Ok(Ok(status))) if status.success() => return Ok(std::mem::take(&mut self.out)),
            (Ok(Ok(())), Ok(Ok(status))) => how(status),
            (Ok(Err(e)), _) | (_, Ok(Err(e))) => return Err(Fault::retry(format!("`{path}` cannot be watched: {e}"))),
            (_, Err(_)) => "hangs and cannot be killed".into(),
        };
        Err(Fault::reject(format!("`{path}` {wrong}{}", self.said.told(&program))))
    }

    /// Until it has ended, which is not yet reaped, or has printed too much. Others may hold its pipes beyond that.
    async fn attend(&mut self, input: &[u8], given: Option<oneshot::Sender<()>>) -> io::Result<()> {
        let Some(id) = group(&self.child) else { return Ok(()) };
        let (stdin, stdout, stderr) = (self.child.stdin.take(), &mut self.child.stdout, &mut self.child.stderr);
        let (out, said, max) = (&mut self.out, &mut self.said, self.program.max_output);
        let give = async {
            if let Some(mut stdin) = stdin {
                stdin.write_all(input).await.ok(); // it need not read all of it, or any
            }
            given.map(|given| given.send(()));
        };
        let print = pieces(stdout, |piece| {
            out.extend_from_slice(piece);
            out.len() <= max
        });
        let say = pieces(stderr, |piece| said.push(piece));
        tokio::select! {
            ended = ended(id) => ended,
            () = async { tokio::join!(give, say); pending().await } => Ok(()),
            () = async { if print.await { pending().await } } => Ok(()),
        }
    }

    /// What it had printed before it ended, and is still in the pipes.
    fn take_rest(&mut self) {
        let (out, said, max) = (&mut self.out, &mut self.said, self.program.max_output);
        if let Some(stdout) = &self.child.stdout {
            rest(stdout, |piece| {
                out.extend_from_slice(piece);
                out.len() <= max
            });
        }
        if let Some(stderr) = &self.child.stderr {
            let mut left = PIPE;
            rest(stderr, |piece| {
                left = left.saturating_sub(piece.len());
                said.push(piece) && left > 0
            });
        }
    }

    fn kill(&self) {
        if let Some(group) = group(&self.child) {
            kill_process_group(group, Signal::KILL).ok(); // there may be none left
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The group that the child leads; `None` once it is reaped.
fn group(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
}

/// Waits for the end of a child without reaping it.
async fn ended(id: Pid) -> io::Result<()> {
    let mut deaths = signal(SignalKind::child())?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(id), look)?.is_none() {
        deaths.recv().await;
    }
    Ok(())
}

/// Passes on what comes until the end, which is `true`, or until `take` wants no more.
async fn pieces(pipe: &mut Option<impl AsyncRead + Unpin>, mut take: impl FnMut(&[u8]) -> bool) -> bool {
    let Some(pipe) = pipe else { return true };
    let mut piece = [0; PIECE];
    while let Ok(n @ 1..) = pipe.read(&mut piece).await {
        if !take(&piece[..n]) {
            return false;
        }
    }
    true
}

/// Passes on what is there now, without waiting.
fn rest(pipe: impl AsFd, mut take: impl FnMut(&[u8]) -> bool) {
    let mut piece = [0; PIECE];
    loop {
        match rustix::io::read(&pipe, &mut piece) {
            Ok(n @ 1..) if take(&piece[..n]) => {}
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".into(),
    }
}

/// The last of what came from stderr: twice as much as is told, so that what is cut off a secret is not told either.
#[derive(Default)]
struct Tail {
    last: Vec<u8>,
}

impl Tail {
    /// There is always room.
    fn push(&mut self, piece: &[u8]) -> bool {
        self.last.extend_from_slice(piece);
        if self.last.len() > 2 * QUOTE {
            self.last.drain(..self.last.len() - 2 * QUOTE);
        }
        true
    }

    fn told(&self, program: &Program) -> String {
        let said = program.blotted(self.last.trim_ascii());
        let from = (said.len().saturating_sub(QUOTE)..).find(|at| said.is_char_boundary(*at)).unwrap_or_default();
        let dots = if from > 0 { "…" } else { "" };
        if said.is_empty() { said } else { format!(": {dots}{}", printable(&said.as_bytes()[from..], QUOTE)) }
    }
}

#[cfg(test)]
#[path = "child_tests.rs"]
mod tests;
