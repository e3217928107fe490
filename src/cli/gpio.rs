//! `tidegate gpio`: what lines there are, what they do, and setting one by hand.

use super::{Format, columns, print};
use crate::{
    board::{Bias, Chip, Edges, Held, Inputs, Line, Output, Settings, chips},
    budget::Span,
    clock,
};
use clap::{Args, Subcommand};
use embedded_hal::digital::{OutputPin, PinState};
use std::fmt::Write;

/// What to do with GPIO lines.
#[derive(Subcommand)]
pub enum Action {
    /// List the chips and their lines, with names and who has them.
    ///
    /// Example: tidegate gpio list
    List {
        /// Output: `text` for people, `json` for programs.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        format: String,
    },
    /// Print the levels of lines, then every edge with its time, until Ctrl-C.
    ///
    /// Example: tidegate gpio watch GPIO17 --bias up --debounce 5ms
    Watch(Watch),
    /// Make a line an output and hold it, until Ctrl-C or for a time.
    ///
    /// With `--for`, the line goes back to the other level when the time is over. Then it is let go of; what it does after that is
    /// up to the chip.
    ///
    /// Example: tidegate gpio set GPIO27 1 --for 1s
    Set {
        /// `GPIO27`, `pin 13` or `gpiochip0:27`.
        line: Line,
        /// 1 is active, 0 is not.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=1))]
        level: u8,
        /// How long; without, until Ctrl-C.
        #[arg(long = "for", value_name = "TIME")]
        span: Option<Span>,
        /// Low is active.
        #[arg(long)]
        active_low: bool,
    },
}

#[derive(Args)]
pub struct Watch {
    /// `GPIO17`, `pin 11` or `gpiochip0:17`; more than one may be named.
    #[arg(required = true)]
    lines: Vec<Line>,
    /// How long a level must be stable to count.
    #[arg(long, default_value = "0ms")]
    debounce: Span,
    /// The pull resistor inside the chip; without, as it is.
    #[arg(long, value_parser = ["up", "down", "off"])]
    bias: Option<String>,
    /// Low is active.
    #[arg(long)]
    active_low: bool,
}

/// Does it, and prints what comes of it.
pub fn gpio(action: Action) -> anyhow::Result<()> {
    match action {
        Action::List { format } => {
            let chips = chips()?;
            print(&match Format::of(&format) {
                Format::Text => list(&chips),
                Format::Json => format!("{:#}\n", serde_json::json!(chips)),
            })
        }
        Action::Watch(asked) => super::block_on(watch(asked)),
        Action::Set { line, level, span, active_low } => super::block_on(set(line, level == 1, span, active_low)),
    }
}

fn list(chips: &[Chip]) -> String {
    let mut out = String::new();
    for chip in chips {
        let _ = writeln!(out, "{} ({}), {} lines", chip.name, chip.label, chip.lines.len());
        let row = |line: &crate::board::Info| {
            let direction = if line.output { "output" } else { "input" };
            let low = if line.active_low { "active low" } else { "" };
            let user = match line.consumer.as_str() {
                "" if line.used => "used by somebody".to_owned(),
                "" => String::new(),
                user => format!("used by {}", crate::fault::printable(user.as_bytes(), 64)),
            };
            let name = crate::fault::printable(line.name.as_bytes(), 64);
            vec![format!("{}:{}", chip.name, line.offset), name, direction.into(), low.into(), user]
        };
        out.push_str(&columns(&chip.lines.iter().map(row).collect::<Vec<_>>()));
    }
    out
}

async fn watch(asked: Watch) -> anyhow::Result<()> {
    let bias = asked.bias.as_deref().map(|bias| match bias {
        "up" => Bias::Up,
        "down" => Bias::Down,
        _ => Bias::Off,
    });
    let (edges, debounce) = (Some(Edges::Both), asked.debounce.0);
    let mut held = Held::open(&asked.lines, &Settings { edges, debounce, bias, active_low: asked.active_low })?;
    tokio::select! {
        ended = show(&asked.lines, &mut held) => ended,
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
    }
}

/// Prints what lines do, until they are gone.
async fn show(lines: &[Line], inputs: &mut dyn Inputs) -> anyhow::Result<()> {
    let width = lines.iter().map(|line| line.to_string().len()).max().unwrap_or(0);
    let told = |mono_ms: u64, line: usize, what: String| {
        let line = lines.get(line).map(Line::to_string).unwrap_or_default();
        print(&format!("{}  {line:width$}  {what}\n", clock::rfc3339(clock::wall_of(mono_ms))))
    };
    for n in 0..lines.len() {
        let level = inputs.level(n).map_err(|fault| anyhow::anyhow!("{fault}"))?;
        told(clock::mono_ms(), n, format!("is {}", u8::from(level)))?;
    }
    let mut numbers = vec![0u32; lines.len()];
    loop {
        let edge = inputs.edge().await.map_err(|fault| anyhow::anyhow!("{fault}"))?;
        let Some(number) = numbers.get_mut(edge.line) else { continue };
        let lost = edge.seq.wrapping_sub(*number).wrapping_sub(1);
        *number = edge.seq;
        let lost = if lost > 0 { format!("  ({lost} lost before)") } else { String::new() };
        let what = if edge.rising { "rising " } else { "falling" };
        told(edge.mono_ms, edge.line, format!("{what}  {}{lost}", edge.seq))?;
    }
}

async fn set(line: Line, active: bool, span: Option<Span>, active_low: bool) -> anyhow::Result<()> {
    let mut output = Output::open(&line, active_low, active)?;
    let level = u8::from(active);
    let Some(span) = span else {
        print(&format!("`{line}` is {level} until Ctrl-C\n"))?;
        return Ok(tokio::signal::ctrl_c().await?);
    };
    print(&format!("`{line}` is {level} for {span}\n"))?;
    let stopped = tokio::select! {
        () = tokio::time::sleep(span.0) => Ok(()),
        stopped = tokio::signal::ctrl_c() => stopped,
    };
    output.set_state(PinState::from(!active))?;
    Ok(stopped?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Info;

    #[test]
    fn lines_are_listed() {
        let line = |offset, name: &str, consumer: &str, used, output, active_low| Info {
            offset,
            name: name.into(),
            consumer: consumer.into(),
            used,
            output,
            active_low,
        };
        let lines = vec![
            line(0, "ID_SDA", "", false, false, false),
            line(1, "GPIO17", "tidegate", true, false, true),
            line(2, "", "", true, true, false),
            line(3, "\x1b[2J", "", false, false, false),
        ];
        let chip =
            Chip { path: "/dev/gpiochip0".into(), name: "gpiochip0".into(), label: "pinctrl-bcm2711".into(), lines };
        let want = "gpiochip0 (pinctrl-bcm2711), 4 lines
  gpiochip0:0  ID_SDA     input
  gpiochip0:1  GPIO17     input   active low  used by tidegate
  gpiochip0:2             output              used by somebody
  gpiochip0:3  \\u{1b}[2J  input
";
        assert_eq!(list(&[chip]), want);
    }

    /// There is no chip where tests run; on a board this test says nothing.
    #[test]
    fn a_machine_without_chips_says_so() {
        if chips().is_ok() {
            return;
        }
        let line: Line = "GPIO17".parse().unwrap();
        let watch = Watch { lines: vec![line.clone()], debounce: Span::millis(0), bias: None, active_low: false };
        for action in [
            Action::List { format: "text".into() },
            Action::Watch(watch),
            Action::Set { line, level: 1, span: Some(Span::millis(1)), active_low: false },
        ] {
            let told = gpio(action).unwrap_err().to_string();
            let want = "this machine has no GPIO chips (no /dev/gpiochip*); a driver may have to be loaded, see `tidegate board`";
            assert_eq!(told, want);
        }
    }
}
