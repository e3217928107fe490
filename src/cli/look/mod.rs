//! Looking into what is stored and what moves.

mod query;
mod queue;
mod replay;
mod stored;
mod tap;
mod top;

use super::{finish, load, loaded};
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(super) enum Look {
    /// List what is stored and what waits; show events, write them to a file, take them in from one.
    ///
    /// Example: tidegate queue ls
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Show events as they come into a topic, or out of a process, until Ctrl-C. The gateway does not wait for it: what finds no
    /// room is left out and counted.
    ///
    /// Example: tidegate tap climate --when "event.temperature > 20.0" -n 5
    Tap(tap::Tap),
    /// Run stored events through the pipelines of two configurations, the present and a candidate, and tell what came out
    /// differently. Nothing is sent or stored, and what a process does outside is left out.
    ///
    /// The time is that at which the events were taken in. Exit codes: 0 the outputs are the same, 1 they differ.
    ///
    /// Example: tidegate replay new.jsonc --since 2h
    Replay(replay::Replay),
    /// Show what moves: rates, what waits, what is down, memory and disk, every second. Ends with `q`. Where no terminal is, it
    /// looks once.
    ///
    /// Example: tidegate top
    Top(top::Top),
    /// Ask in SQL what is stored; nothing is changed, and it ends in time.
    ///
    /// `events` has the columns topic, priority, seq, id, key, time (when it happened), taken (when it was taken in), stored
    /// (when it was written here), quality (of its time), time_ms, meta and body; `body ->> 'a'` is a field of the body. What
    /// topic, priority, seq and stored rule out is not even read. `state` has owner, key, value; `timers` owner, key, due;
    /// `dead` id, at, consumer, topic, seq, event, reason, body; `consumers` consumer, topic, priority, seq, next; `ledger`
    /// what `tidegate ledger` says. Times are UTC, and compare with those of `datetime` and `date`.
    ///
    /// Example: tidegate query "SELECT topic, count(*), avg(body ->> 'temperature') FROM events GROUP BY topic"
    Query(query::Query),
}

pub(super) fn run(what: &Look) -> ExitCode {
    match what {
        Look::Queue(what) => finish(queue::run(what)),
        Look::Tap(tap) => finish(tap::run(tap)),
        Look::Replay(replay) => load(replay.which.config(), |before, _| match loaded(&replay.candidate) {
            Ok((after, _)) => replay::run(replay, before, after),
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(anyhow::anyhow!("{}", problems.join("\n")))
            }
        }),
        Look::Top(top) => finish(top::run(top)),
        Look::Query(query) => finish(query::run(query)),
    }
}
