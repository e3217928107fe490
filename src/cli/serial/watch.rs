//! Shows what comes from a port.

use crate::{
    clock::{rfc3339, wall_of},
    fault::printable,
    kind::{Params, Scope},
    sources::serial::{
        Came, Serial,
        framing::{Broken, Counts},
    },
};
use serde_json::Value;
use std::io::Write;
use tokio::sync::Notify;

/// Bytes shown of what is no frame.
const SHOWN: usize = 40;

/// Watches until `stop`, or until nobody reads `out`; then `told` gets the counts. Fails if the port does.
pub(super) async fn watch(
    config: Value,
    out: &mut (dyn Write + Send),
    told: &mut (dyn Write + Send),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let serial = Serial::of(&Params::new("watch", Scope::default(), config))?;
    let (mut frames, mut broken, unread) = (0_u64, Counts::default(), Notify::new());
    let mut each = |time: u64, came: Came<'_>| {
        let time = rfc3339(wall_of(time));
        let written = match came {
            Ok(body) => {
                frames += 1;
                writeln!(out, "{time} {}", String::from_utf8_lossy(body))
            }
            Err((why, bytes)) => {
                broken.add(why);
                let shown = printable(bytes, SHOWN);
                let first = if why == Broken::Noise { "it begins with " } else { "" };
                writeln!(out, "{time} {}: {first}`{shown}`", why.name())
            }
        };
        if written.and_then(|()| out.flush()).is_err() {
            unread.notify_one();
        }
    };
    let fault = tokio::select! {
        fault = serial.watch(&mut each) => Some(fault),
        () = stop => None,
        () = unread.notified() => None,
    };
    let of = if broken.total() > 0 { format!(" ({broken})") } else { String::new() };
    if frames + broken.total() > 0 || fault.is_none() {
        writeln!(told, "{frames} frames; {} times bytes that are no frame{of}", broken.total()).ok();
    }
    match fault {
        Some(fault) => Err(anyhow::anyhow!("{fault}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::serial::tests::{opened, pty, send};
    use serde_json::json;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frames_are_shown_with_their_times_and_the_broken_are_counted() {
        let (device, path) = pty();
        let (mut out, mut told) = (Vec::new(), Vec::new());
        let config = json!({ "path": path, "framing": "nmea" });
        let speaking = async {
            opened(&device).await;
            send(&device, b"\x1bx$GPGLL,1*4D\r\n$GPGLL,2*4F\r\n$GPGLL,3*4F\r\n".to_vec()).await;
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        };
        watch(config, &mut out, &mut told, speaking).await.unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
        let body = |n| format!("{{\"talker\":\"GP\",\"sentence\":\"GLL\",\"fields\":[\"{n}\"]}}");
        let want = ["noise: it begins with `\\u{1b}`", &body(1), "checksum: `$GPGLL,2*4F`", &body(3)];
        assert_eq!(lines, want);
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told, "2 frames; 2 times bytes that are no frame (1 checksum, 1 noise)\n");
        drop(device);
        let gone = watch(json!({ "path": path }), &mut Vec::new(), &mut Vec::new(), std::future::pending()).await;
        assert!(gone.unwrap_err().to_string().ends_with("it is not there; is the device plugged in?"));
    }
}
