//! `tidegate passwd`.

use super::print;
use crate::sources;
use anyhow::Context;
use std::io::{BufRead, IsTerminal, Read};

/// MQTT's own limit for a password, in bytes.
const LONGEST: u64 = 65_535;

/// The first line of standard input, hashed.
pub(super) fn passwd(rounds: u32) -> anyhow::Result<()> {
    if std::io::stdin().is_terminal() {
        eprint!("password (it is shown): ");
    }
    let mut line = String::new();
    std::io::stdin().lock().take(LONGEST).read_line(&mut line).context("standard input")?;
    let password = line.trim_end_matches(['\n', '\r']);
    anyhow::ensure!(!password.is_empty(), "no password on standard input");
    print(&format!("{}\n", sources::mqtt_listen::hash_password(password, rounds)))
}
