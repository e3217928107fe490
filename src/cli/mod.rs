//! The command line.

mod board;
mod bundle;
mod change;
mod config;
mod diff;
mod doctor;
mod gpio;
mod i2c;
mod init;
pub mod kinds;
mod look;
mod modbus;
mod operate;
mod passwd;
mod process;
mod run;
mod serial;
mod test;
mod trace;

use crate::{
    config::{self as configuration, Catalogue, Problem},
    import,
    kind::{self, Process, Sink, Source},
    logs, process as processes, runtime, sinks, sources,
};
use clap::{CommandFactory, Parser, Subcommand};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Exit code of a wrong configuration (`EX_CONFIG` of sysexits.h): systemd is told not to restart on it.
const BAD_CONFIGURATION: u8 = 78;
/// Exit code of wrong arguments.
const USAGE: u8 = 2;

/// Store-and-forward event gateway: takes sensor events in, has each on disk before it says yes, runs pipelines over
/// them, and sends the results upstream whenever there is an upstream.
///
/// Exit codes: 0 done, 1 failed, 2 wrong arguments, 78 wrong configuration.
///
/// Example: tidegate check configs/demo.jsonc
#[derive(Parser)]
#[command(name = "tidegate", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM, Ctrl-C, or until all bounded sources are delivered.
    ///
    /// SIGHUP reads the configuration again: a right one is taken over, and what did not change runs on; a wrong one is told and
    /// left. SIGUSR1 writes to the log what waits where, and what each process did.
    ///
    /// Example: tidegate run configs/demo.jsonc
    Run {
        /// The configuration: JSON with comments.
        file: PathBuf,
        /// Store nothing: a source is answered after the pipelines and sinks have run, and an HTTP client gets a 5xx
        /// that names the process or sink that failed.
        #[arg(long)]
        stateless: bool,
        /// How the log is written: `text` for people, `json`, `journal` for journald. Without it: as `TIDEGATE_LOG` says, or
        /// whatever suits standard error.
        #[arg(long, value_parser = logs::Form::NAMES)]
        log: Option<String>,
    },
    /// Check a configuration: every error with its line and column, exit code 78 if there is one.
    ///
    /// Also adds up how much memory its parts may take at most, beside some 12 MiB for the program itself. What does not fit
    /// into `gateway.memory` is an error.
    ///
    /// Example: tidegate check /etc/tidegate/tidegate.jsonc
    Check {
        /// The configuration.
        file: PathBuf,
    },
    /// Run events from standard input through the pipelines; results on standard output, one line each.
    ///
    /// Example: echo '{"temp": 21.5}' | tidegate process configs/demo.jsonc
    Process {
        /// The configuration; its sources and sinks are not used.
        file: PathBuf,
        /// The source whose events these are; without it they run through every pipeline that reads a source.
        #[arg(long)]
        source: Option<String>,
    },
    /// Run the tests that stand beside pipelines in a configuration; exit code 1 if one fails.
    ///
    /// A pipeline's `tests` have events that come, time that passes, and what is expected of it. Nothing is stored, sources
    /// and sinks are not used, and processes that reach outside do not, unless a test says so.
    ///
    /// Example: tidegate test configs/catalogue.jsonc
    Test {
        /// The configuration.
        file: PathBuf,
        /// Only the tests of this pipeline.
        #[arg(long)]
        pipeline: Option<String>,
        /// Output: `text` for people, `json` for programs.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        format: String,
    },
    /// Tell how a gateway is: what it took in, what waits where, what is down and why.
    ///
    /// Example: tidegate status
    Status {
        #[command(flatten)]
        which: operate::Which,
    },
    /// Show the newest lines of a running gateway's log; it has the last 256 KiB at hand, wherever they were written.
    ///
    /// Example: tidegate logs -n 20
    Logs {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
        #[command(flatten)]
        which: operate::Which,
    },
    /// Tell what became of every event, by topic and consumer: accepted = delivered + queued + dead + expired + evicted +
    /// offloaded.
    ///
    /// With a span of time: what happened in it, to the minute (more than a day ago, to the hour); QUEUED and OFFLOADED are then how
    /// many more there were at its end than at its beginning. And precisely what was lost, when and why.
    ///
    /// Example: tidegate ledger --since 2h
    Ledger(trace::Ledger),
    /// Tell the way of one event: where it is, who has it, and what happened to it.
    ///
    /// Where it is, is known of every event that the store holds. What happened to it in detail (each process with its time and
    /// effect, each delivery with its answer) is kept in memory for a sample, `gateway.trace`, and for what ended badly.
    ///
    /// Example: tidegate trace 6d1d38c1b5a8ca83-1-1 --format json
    Trace(trace::Trace),
    /// Look for what could keep a gateway from its work, and say what to do: clock, disk, rights, ports, devices, TLS,
    /// upstreams, memory, and for how long the store lasts.
    ///
    /// It changes nothing, sends nothing to an upstream but a TLS handshake, and takes a few seconds. Exit code 1 if something is
    /// wrong.
    ///
    /// Example: tidegate doctor --rate 20/s --size 200B
    Doctor(doctor::Doctor),
    /// Put what somebody needs who is to help into one file: versions, status, ledger, reasons of dead letters, metrics, log,
    /// what `tidegate doctor` finds, the configuration, and what machine this is.
    ///
    /// No event's body is in it, and no secret: those of the configuration are blotted out, by the names of their fields and
    /// wherever they stand. Comments are left out. Look at it all the same before you give it away.
    ///
    /// Example: tidegate support-bundle -o bundle.tar.gz
    SupportBundle(bundle::Bundle),
    /// Hold a pipeline or sink back: what it has in hand it finishes, the rest stays queued, also over restarts.
    ///
    /// Example: tidegate pause sinks.cloud
    Pause {
        /// `pipelines.NAME` or `sinks.NAME`.
        consumer: String,
        #[command(flatten)]
        which: operate::Which,
    },
    /// Let a pipeline or sink go on that was paused.
    ///
    /// Example: tidegate resume sinks.cloud
    Resume {
        /// `pipelines.NAME` or `sinks.NAME`.
        consumer: String,
        #[command(flatten)]
        which: operate::Which,
    },
    /// List, show, retry and purge dead letters: events that a process failed or an upstream refused for good.
    ///
    /// Example: tidegate dead ls
    #[command(subcommand)]
    Dead(operate::Dead),
    #[command(flatten)]
    Look(look::Look),
    #[command(flatten)]
    Change(change::Change),
    /// Change the configuration of a running gateway: apply, confirm, roll back; and its versions: log, show, diff.
    ///
    /// Example: tidegate config log
    #[command(subcommand)]
    Config(config::Config),
    /// List the kinds of sources, processes, sinks and systems, or explain one: its fields and an example.
    ///
    /// Example: tidegate kinds http
    Kinds {
        /// The kind to explain.
        name: Option<String>,
        /// Output: `text` for people, `json` for programs.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        format: String,
    },
    /// Tell what board this is, and why; its pins, buses and serial ports, and what is missing to use them.
    ///
    /// Example: tidegate board --example > tidegate.jsonc
    Board {
        /// Output: `text` for people, `json` for programs.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        format: String,
        /// Print a configuration to begin with on this board.
        #[arg(long, conflicts_with = "udev")]
        example: bool,
        /// Print udev rules: rights and stable names, for /etc/udev/rules.d/99-tidegate.rules.
        #[arg(long)]
        udev: bool,
        /// Where the machine's file system begins.
        #[arg(long, default_value = "/", hide = true)]
        root: PathBuf,
    },
    /// List, watch and set GPIO lines: `tidegate gpio list`, `watch`, `set`.
    ///
    /// Example: tidegate gpio watch GPIO17
    Gpio {
        #[command(subcommand)]
        action: gpio::Action,
    },
    /// List the I2C buses, or who is on one: `tidegate i2c scan`.
    ///
    /// Example: tidegate i2c scan
    #[command(subcommand)]
    I2c(i2c::I2c),
    /// Ask a Modbus unit, on a serial line or over TCP, without a gateway.
    ///
    /// Example: tidegate modbus read --tcp 192.168.1.20 --input 0 --as f32
    #[command(subcommand)]
    Modbus(modbus::Modbus),
    /// Hash a password for the `users` of an `mqtt_listen` source: reads it from standard input, prints the hash.
    ///
    /// Example: tidegate passwd < secret.txt
    Passwd {
        /// Rounds of PBKDF2-SHA512: more take longer to guess, and longer to check on a small board.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rounds: u32,
    },
    /// Turn a configuration of Agglo's binge into one of Tidegate, on standard output.
    ///
    /// Where binge did something wrong, the meaning is mended, and a comment says so. What has no equivalent is left out, with
    /// a comment and a warning on standard error. All that is wrong with FILE is told at once, with line and column.
    ///
    /// Exit codes: 0 done, 1 FILE cannot be read, 78 it is wrong.
    ///
    /// Example: tidegate import-binge pipeline.json > tidegate.jsonc && tidegate check tidegate.jsonc
    ImportBinge {
        /// The configuration of binge: the JSON form of its `Pipelines`.
        file: PathBuf,
    },
    /// List the serial ports, or watch what comes from one.
    ///
    /// Example: tidegate serial list
    #[command(subcommand)]
    Serial(serial::Command),
    /// Write a commented configuration to begin with, for a use; without one, list the uses.
    ///
    /// Example: tidegate init broker-bridge -o tidegate.jsonc
    Init {
        /// What it is for, such as `gpio-to-mqtt`.
        r#use: Option<String>,
        /// Where to write it; without, it is printed.
        #[arg(short, long, requires = "use")]
        output: Option<PathBuf>,
        /// Overwrite a file that is there.
        #[arg(long, requires = "output")]
        force: bool,
    },
    /// Print the JSON Schema of the configuration, for editors.
    ///
    /// Example: tidegate schema > tidegate.schema.json
    Schema,
}

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

impl Format {
    /// From what `--format` says, which the command line has checked.
    fn of(name: &str) -> Self {
        if name == "json" { Format::Json } else { Format::Text }
    }
}

/// The whole command line, for man pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Everything a configuration can name.
pub fn catalogue() -> Catalogue<'static, dyn Source, dyn Process, dyn Sink> {
    let systems = kind::systems::KINDS;
    Catalogue { sources: sources::KINDS, processes: processes::KINDS, sinks: sinks::KINDS, systems }
}

/// Reads the arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    logs::begin(match &arguments.command {
        Command::Run { log, .. } => log.as_deref(),
        _ => None,
    });
    let code = execute(arguments.command);
    log::logger().flush();
    code
}

fn execute(command: Command) -> ExitCode {
    match command {
        Command::Run { file, stateless, .. } => run::gateway(&file, stateless),
        Command::Process { file, source } => {
            // Its warnings are about a gateway: what nobody reads, what goes nowhere.
            load(&file, |plan, _| process::run(plan, source.as_deref()))
        }
        Command::Check { file } => start(&file, |plan| {
            let (sources, pipelines, sinks) = (plan.sources.len(), plan.pipelines.len(), plan.sinks.len());
            let (file, systems) = (file.display(), plan.systems.count());
            let systems = if systems == 0 { String::new() } else { format!(", {systems} systems") };
            let sum = runtime::Sum::of(&plan).map_err(anyhow::Error::msg)?;
            let said =
                if plan.settings.gateway.memory.is_some() { "" } else { " (`gateway.memory` does not limit it)" };
            let memory = columns(&sum.rows());
            print(&format!(
                "{file}: ok: {sources} sources, {pipelines} pipelines, {sinks} sinks{systems}\nmemory{said}:\n{memory}"
            ))
        }),
        Command::Test { file, pipeline, format } => load(&file, |plan, _| {
            let changed = |_| anyhow::anyhow!("the configuration changed");
            let again = || loaded(&file).map(|(plan, _)| plan).map_err(changed);
            test::run(&plan, &again, pipeline.as_deref(), &format)
        }),
        Command::Status { which } => finish(operate::status(&which)),
        Command::Logs { lines, which } => finish(operate::logs(lines, &which)),
        Command::Ledger(span) => finish(trace::ledger(&span)),
        Command::Trace(event) => finish(trace::trace(&event)),
        Command::SupportBundle(what) => finish(bundle::run(what)),
        Command::Doctor(what) => doctor::run(&what),
        Command::Pause { consumer, which } => finish(operate::pause(&consumer, true, &which)),
        Command::Resume { consumer, which } => finish(operate::pause(&consumer, false, &which)),
        Command::Dead(what) => finish(operate::dead(&what)),
        Command::Look(what) => look::run(&what),
        Command::Change(what) => finish(change::run(&what)),
        Command::Config(what) => finish(config::run(&what)),
        Command::Kinds { name, format } => finish(
            kinds::kinds(&catalogue(), name.as_deref(), Format::of(&format))
                .map_err(anyhow::Error::msg)
                .and_then(|text| print(&text)),
        ),
        Command::Board { format, example, udev, root } => {
            let part = match (example, udev) {
                (true, _) => board::Part::Example,
                (_, true) => board::Part::Udev,
                _ => board::Part::All(Format::of(&format)),
            };
            finish(board::board(&root, part).map_err(anyhow::Error::msg).and_then(|text| print(&text)))
        }
        Command::Gpio { action } => finish(gpio::gpio(action)),
        Command::I2c(what) => finish(i2c::run(what)),
        Command::Modbus(what) => finish(modbus::run(what)),
        Command::Passwd { rounds } => finish(passwd::passwd(rounds)),
        Command::ImportBinge { file } => import_binge(&file),
        Command::Serial(command) => finish(serial::run(command)),
        Command::Init { r#use, output, force } => finish(init::init(r#use.as_deref(), output.as_deref(), force)),
        Command::Schema => finish(print(&format!("{:#}\n", configuration::schema(&catalogue())))),
    }
}

/// Shows the imported configuration, or everything that is in its way.
fn import_binge(file: &Path) -> ExitCode {
    let text = match configuration::read(file) {
        Ok(text) => text,
        Err(problem) => return finish(Err(problem.into())),
    };
    match import::binge(file, &text) {
        Ok((text, warnings)) => {
            show("warning: ", &warnings);
            finish(print(&text))
        }
        Err(problems) => {
            show("", &problems);
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

/// As `load`, and shows the warnings.
fn start(file: &Path, go: impl FnOnce(runtime::Plan) -> anyhow::Result<()>) -> ExitCode {
    load(file, |plan, warnings| {
        show("warning: ", &warnings);
        go(plan)
    })
}

/// What a configuration file says, with warnings; or all that is wrong with it.
fn loaded(file: &Path) -> Result<(runtime::Plan, Vec<Problem>), Vec<Problem>> {
    run::built(file, &configuration::read(file).map_err(|problem| vec![problem])?, None)
}

/// Loads a configuration, shows what is wrong with it, and goes on if nothing is.
fn load(file: &Path, go: impl FnOnce(runtime::Plan, Vec<Problem>) -> anyhow::Result<()>) -> ExitCode {
    match loaded(file) {
        Ok((plan, warnings)) => finish(go(plan, warnings)),
        Err(problems) => {
            show("", &problems);
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

/// On standard error, as far as that takes it: a gateway that runs may tell of a wrong configuration on a full disk.
fn show(prefix: &str, problems: &[Problem]) {
    for problem in problems {
        writeln!(std::io::stderr(), "{prefix}{problem}").ok();
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).or_else(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(e.into()),
    })
}

/// Rows of text below one another, each cell as wide as the widest of its column.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
        let text: String = cells.map(|(cell, width)| format!("  {cell:width$}")).collect();
        format!("{}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // More threads than that cost memory and gain nothing: the store's writer is the limit.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(work);
    // A blocking read of standard input cannot be interrupted: do not wait for it.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_keeps_its_own_rules() {
        assert_eq!(configuration::flaws(&catalogue()), Vec::<String>::new());
    }
}
