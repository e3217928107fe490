//! Measures the gateway beside a reference in the same run, so that a slow machine slows both. Prints tables, asserts
//! nothing: time is no test.
//!
//!     cargo bench                          all
//!     cargo bench -- intake --quick        one part: intake, pipeline, processes, mqtt, memory, admin; --quick takes a fraction of the time
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admin;
mod intake;
#[path = "../../tests/gateway/kit/mod.rs"]
mod kit;
mod mqtt;
mod pipeline;
mod processes;
mod sensor;
mod usage;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [part, producers, millis] = arguments.as_slice()
        && part == intake::TRACED
    {
        return intake::traced(producers.parse().unwrap(), millis.parse().unwrap());
    }
    let quick = arguments.iter().any(|a| a == "--quick");
    let parts: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    let tables: [(&str, Table); 6] = [
        ("intake", intake::table),
        ("mqtt", mqtt::table),
        ("pipeline", pipeline::table),
        ("processes", processes::table),
        ("memory", mqtt::memory),
        ("admin", admin::table),
    ];
    if let Some(unknown) = parts.iter().find(|p| tables.iter().all(|(name, _)| name != *p)) {
        eprintln!("there is no part `{unknown}`; there are: {}", tables.map(|(name, _)| name).join(", "));
        std::process::exit(2);
    }
    for (name, table) in tables {
        if parts.is_empty() || parts.contains(&name) {
            table(quick);
            println!();
        }
    }
}

/// Measures one part, quickly or well, and prints it.
type Table = fn(bool);
