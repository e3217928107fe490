//! A connection with messages in flight.

use super::window::{Settled, Window};
use crate::{
    budget::Span,
    fault::Fault,
    systems::mqtt::{
        Link,
        wire::{self, Kind, Packet},
    },
};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes that may wait for the network; with one event's what a connection holds.
const OUT: usize = 256 << 10;

/// How long a keep-alive turn waits; it is only looked at again after that.
const LONG: Duration = Duration::from_secs(3600);

pub struct Live {
    pub link: Link,
    pub window: Window,
    /// What the broker said last to a message that it took: the packet and, of all since a delivery began, the highest code.
    pub said: Option<(Kind, u8)>,
}

impl Live {
    /// Sends `count` messages and waits until all are acknowledged; `write` appends one. An error means that the
    /// connection is of no use any more, a fault that something was refused but the connection is at rest. After a
    /// refusal nothing more is begun.
    pub async fn send(
        &mut self,
        count: usize,
        qos: u8,
        wait: Duration,
        mut write: impl FnMut(usize, &mut Live) -> Result<(), Fault> + Send,
    ) -> Result<Option<Fault>, Fault> {
        let (mut next, mut refused, mut echo) = (0, None, None);
        let mut progress = Instant::now();
        self.said = None;
        loop {
            // Only when half is free: else each acknowledgement would cost a write.
            if self.window.open() <= self.window.max / 2 {
                let begun = next;
                while next < count && refused.is_none() && self.window.has_room() && self.link.out.len() < OUT {
                    refused = write(next, self).err();
                    next += 1;
                }
                if next > begun {
                    progress = Instant::now();
                }
            }
            let fed = next == count || refused.is_some();
            if fed && qos == 0 && echo.is_none() {
                // Nothing acknowledges these; the answer to a ping behind them says that the broker has read them.
                echo = Some(self.link.ping());
            }
            if fed && self.window.open() == 0 && echo.is_none_or(|ping| self.link.answered(ping)) {
                return Ok(refused);
            }
            self.link.turn(progress + wait).await.map_err(Fault::Retry)?;
            if self.read(&mut refused)? {
                progress = Instant::now();
            } else if progress.elapsed() >= wait {
                let open = self.window.open().max(1);
                return Err(Fault::retry(format!("no acknowledgement within {}, {open} expected", Span(wait))));
            }
        }
    }

    /// Keeps the connection alive; ends when it is lost.
    pub async fn keep(&mut self) -> Fault {
        loop {
            if let Err(e) = self.link.turn(Instant::now() + LONG).await {
                return Fault::Retry(e);
            }
            if let Err(fault) = self.read(&mut None) {
                return fault;
            }
        }
    }

    /// Says goodbye, so that the will is not sent, and waits until the broker has hung up.
    pub async fn leave(mut self, wait: Duration) {
        let until = Instant::now() + wait;
        self.link.out.extend_from_slice(&wire::DISCONNECT);
        while Instant::now() < until && self.link.turn(until).await.is_ok() {
            if self.read(&mut None).is_err() {
                break;
            }
        }
    }

    /// Takes what has arrived and says whether it settled anything; `refused` gets the first refusal.
    fn read(&mut self, refused: &mut Option<Fault>) -> Result<bool, Fault> {
        let mut settled = false;
        while let Some(packet) = self.link.packet().map_err(Fault::Retry)? {
            match packet {
                Packet::Ack { kind, id, code } => match self.window.settle(kind, id, code) {
                    Settled::Nothing => {}
                    Settled::Release if self.link.out.len() > 2 * OUT => {
                        return Err(Fault::retry("the broker does not read what it is sent"));
                    }
                    Settled::Release => {
                        wire::put_ack(Kind::PubRel, id, &mut self.link.out);
                        settled = true;
                    }
                    Settled::Done => {
                        settled = true;
                        self.said = Some((kind, self.said.map_or(code, |(_, said)| code.max(said))));
                    }
                    Settled::Refused(code) => {
                        settled = true;
                        refused.get_or_insert_with(|| refusal(code));
                    }
                },
                Packet::Pong => settled = true,
                Packet::Disconnect(code) => {
                    let text = format!("the broker disconnected: {}", wire::reason(code));
                    return Err(match code {
                        // Only a message of ours can be meant.
                        0x90 | 0x95 | 0x99 if self.window.open() > 0 => Fault::reject(text),
                        _ => Fault::retry(text),
                    });
                }
                // Nothing was subscribed to; some brokers push all the same.
                Packet::Publish(_) | Packet::Oversized { .. } => {}
                Packet::ConnAck { .. } | Packet::SubAck { .. } => {
                    return Err(Fault::retry("the broker sent a packet that nothing asked for"));
                }
            }
        }
        Ok(settled)
    }
}

/// What a refused message means: for these reasons (3.4.2.1) it will be refused again.
fn refusal(code: u8) -> Fault {
    let text = format!("the broker refused the message: {}", wire::reason(code));
    match code {
        0x87 | 0x90 | 0x95 | 0x99 => Fault::reject(text),
        _ => Fault::retry(text),
    }
}
