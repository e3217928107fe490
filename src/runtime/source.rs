//! Runs a source again and again, with backoff, until it has ended by itself.

use super::{backoff::Backoff, links::Links};
use crate::{
    fault::Fault,
    kind::{Intake, Source},
};
use std::time::{Duration, Instant};
use tokio::{sync::mpsc, time};

/// A source that fails waits from 100 ms to 5 s: it is near (a device, a local broker), and every second counts.
const INITIAL: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(5);
/// A run that lasted this long was up.
const UP: Duration = Duration::from_secs(1);

pub(super) async fn run(
    name: String,
    mut source: Box<dyn Source>,
    intake: Intake,
    links: Links,
    fatal: mpsc::Sender<String>,
) {
    let mut backoff = Backoff::new(INITIAL, MAX);
    loop {
        let begun = Instant::now();
        let fault = {
            let run = source.run(&intake);
            tokio::pin!(run);
            match time::timeout(UP, &mut run).await {
                Ok(result) => result,
                Err(_) => {
                    links.up(&name);
                    backoff.succeeded(begun);
                    run.await
                }
            }
        };
        let wait = match fault {
            Ok(()) => return links.up(&name),
            Err(Fault::Fatal(error)) => {
                fatal.send(format!("{name}: {error:#}")).await.ok();
                return;
            }
            Err(fault) => {
                links.down(&name, &fault.to_string());
                let wait = backoff.failed(Instant::now());
                if let Fault::RetryAfter(asked, _) = fault { wait.max(asked) } else { wait }
            }
        };
        time::sleep(wait).await;
    }
}
