//! Writes the man pages and the shells' completions into a folder: `cargo run --example pages -- FOLDER`. The packages have them;
//! the binary does not, since what makes them would be a part of it on every board.

use anyhow::Context;
use clap_complete::{Shell, generate_to};
use std::{fs, path::PathBuf};

fn main() -> anyhow::Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).context("usage: pages FOLDER")?.into();
    fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(tidegate::cli::command(), &folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut tidegate::cli::command(), "tidegate", &folder)?;
    }
    Ok(())
}
