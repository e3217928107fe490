//! Tidegate lets events out while there is an upstream and holds them back while there is none.
//!
//! # The flow
//!
//! A source hands events to its [`kind::Intake`]. The [`store`] appends them to the topic of the source's name, and only
//! after that commit is on disk does the source answer its peer: PUBACK, HTTP 202. A pipeline reads a batch from its cursor,
//! runs it through its chain of processes, and commits one step: how far its cursor moved, the events for its own topic and
//! for others, the dead letters. A sink reads from its cursor, delivers, and moves the cursor when the upstream has
//! acknowledged.
//!
//! So there is one log with many cursors. An event is written once, however many read it. What lies after a cursor is
//! not done; what is in flight is a batch in memory. A sink's cursor rides in the next commit, 200 ms later at most. So a
//! crash anywhere repeats, for each reader, the batch in flight and what was done in those 200 ms: inside the gateway nothing
//! shows of it, since outputs and cursor are one transaction; outside, a repeat carries the same id.
//!
//! Another configuration changes what runs part by part: a part whose own text, with what it refers to, is as it was runs on.
//! All consumers are registered before anything is touched; then what is gone stops in the order of flow, and what is new
//! starts against it. So no event finds itself without a reader, and who has not changed notices nothing. One on trial
//! goes back by itself: what ran before is written down first.
//!
//! # The words
//!
//! An *event* has an id, a topic, a key, a priority, times, and a body: one JSON object. A *topic* is a named stream of
//! them; a source writes one, a pipeline writes one. At one priority, a topic is a *lane*: a run of sequence numbers
//! without holes. A *consumer* is a pipeline or a sink, with a *cursor* in each lane. A *step* is what one party wants
//! committed, whole or not at all. A *system* is a key-value store, an object store or a broker that components share. A
//! *kind* is the catalogue entry of a component or system. A *fault* says why something failed, as
//! what to do next: retry, reject, give up.
//!
//! # The code, in reading order
//!
//! - [`fault`], [`budget`], [`clock`] and [`tally`] are small: what to do after a failure; sizes, spans and the memory that sources
//!   share; the only wall clock, and whether somebody has set it; counts for who looks on.
//! - [`logs`] is where lines of the log go: to a person, to journald, or as JSON; none ever stops the gateway.
//! - [`event`] has the event and its body, which stays the bytes that came, and the batch: a run of events as written
//!   to the log.
//! - [`expr`] compiles and evaluates conditions and values, a subset of CEL.
//! - [`trace`] keeps what happened to single events, for operators.
//! - [`store`] is one SQLite file and the one thread that writes it, in groups, an fsync for each. `writer` is its heart,
//!   `reader` what consumers see of it, `trim` how it stays small, `space` what happens when it does not, `offload` how
//!   events go elsewhere and come back, `tight` how it lives on a disk that somebody else has filled,
//!   `eras` how it knows times across boots whose clock was wrong, `history` what was counted when and `losses` why, `find`
//!   where one event is. `begin` opens whatever is there: `quarantine` takes what is
//!   broken, `carry` and `salvage` bring back what can be read of it, `given` knows from outside what was lost.
//! - [`systems`] has what several components share to reach others: TLS, HTTP, MQTT and Modbus as a client, serial ports; and
//!   the systems that a configuration names: a trait for each sort (`kv`, `objects`, `pubsub`) and one file, or folder, for each
//!   kind.
//! - [`board`] is the Linux edge: what board this is, by the data in the folder `board/`, its GPIO lines and I2C buses.
//! - [`kind`] has the traits of components, what they are given, the catalogue entry, and the list of systems.
//! - [`sources`], [`process`] and [`sinks`] have one file (or folder) a kind, and the list of all in `mod.rs`.
//! - [`config`] makes components out of a text, or tells everything that is wrong with it, with line and column.
//! - [`import`] makes a configuration out of one of Agglo's, the system whose ideas these are.
//! - [`runtime`] starts them, tries again what failed, and stops all in the order of flow. `parts` are what can be started and
//!   stopped alone, `reload` makes them those of another configuration, `trial` takes one back, `versions` keeps what ran, `strangers` tells what nobody reads any more.
//! - [`admin`] is how operators see and steer a running gateway: health, metrics, status, dead letters.
//! - [`cli`] is the command line.
//!
//! # Who may import whom
//!
//! | layer | modules | may use |
//! |---|---|---|
//! | words | `budget` `clock` `fault` `tally` | nothing |
//! | | `event` | `clock` |
//! | | `logs` | `clock` |
//! | | `expr` | `event` |
//! | | `trace` | `clock` `event` |
//! | means | `store` `systems` `board` | the words |
//! | components | `kind` | the words and means |
//! | | `sources/*` `process/*` `sinks/*` | those and `kind`; never each other |
//! | assembly | `config` | the words, means and `kind` |
//! | | `runtime` | those and `config` |
//! | | `import` | the words and `config` |
//! | faces | `admin` | those and `runtime` |
//! | | `cli` | all |
//!
//! Beside its components, a folder may have a module that they share: one without a `KIND`. `tests/tidy` holds all this.
//!
//! # What always holds
//!
//! - Acknowledged means on disk: `synchronous=FULL`, answered after the commit.
//! - An event leaves the store when every consumer has passed it: a pipeline by committing its step, a sink by the
//!   upstream's own acknowledgement.
//! - `accepted = delivered + queued + dead + expired + evicted + offloaded`, for every topic and consumer, across restarts.
//! - A row leaves the store for an object only in the transaction that writes its manifest, after the object was read back;
//!   an object is deleted only after the transaction that brought its rows back.
//! - Sequence numbers never repeat; what a broken database loses is counted and told.
//! - A full disk never ends the gateway: nothing that makes room needs a block that is not ours already.
//! - Every buffer, queue, request and connection has a limit. A full one makes the producer wait or refuses it clearly.
//! - All of them together have one (`gateway.memory`): `runtime::memory` adds up what is held whatever comes, and sources draw what
//!   comes in from the rest ([`budget::Pools`]) before they buffer it. No consumer draws from there: what is drawn comes back.
//! - Nothing is opened, connected or started before the whole configuration is right.
//!
//! # What is absent
//!
//! - No `unsafe`; no `unwrap`, `expect` or `panic` outside tests.
//! - No SQL outside [`store`] and the `sqlite` system, which has a file of its own; no second writer of the store.
//! - No wall clock outside [`clock`]; processes and expressions read none at all: time is an argument.
//! - No thread or task that nobody waits for: only [`runtime`] and [`store`] spawn; what a component starts lives in a
//!   `JoinSet` inside its own future, or inside itself, and ends with it.
//! - No child but those of `process/child`, which bounds their time, output and number; never a shell.
//! - No retries, splitting or counting in components: they do one attempt and say what kind of failure it was.
//! - No registration by macro: every list of kinds is written out.
#![forbid(unsafe_code)]

pub mod admin;
pub mod board;
pub mod budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod event;
pub mod expr;
pub mod fault;
pub mod import;
pub mod kind;
pub mod logs;
pub mod process;
pub mod runtime;
pub mod sinks;
pub mod sources;
pub mod store;
pub mod systems;
pub mod tally;
pub mod trace;

/// The example of how to add a kind compiles.
#[cfg(doctest)]
#[doc = include_str!("../CONTRIBUTING.md")]
struct Contributing;
