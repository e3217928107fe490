//! Asks the time service of this machine whether it has set the clock, with one datagram over loopback. Its files do not say: they
//! are there before it has, and may be its own user's.
//!
//! chronyd is asked as `chronyc tracking` asks it (version 6 of its protocol: `candm.h` of chrony), ntpd as any client asks a
//! server (RFC 5905, section 7.3).

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

/// How long the first answer is waited for; who listens answers at once, and where nobody does the kernel says so.
const PATIENCE: Duration = Duration::from_millis(50);
/// Bytes of a question and of an answer.
const CHRONY: usize = 104;
const NTP: usize = 48;

/// One that may run here.
pub(super) struct Daemon {
    /// It is installed if one of these is there.
    signs: &'static [&'static str],
    address: SocketAddr,
    question: Vec<u8>,
    /// Whether an answer says that the clock is set; nothing, if it is none.
    says: fn(&[u8]) -> Option<bool>,
    socket: Option<UdpSocket>,
    answer: bool,
}

impl Daemon {
    pub fn chrony() -> Daemon {
        let mut question = vec![0; CHRONY];
        // Version, a request, and 33: tracking.
        (question[0], question[1], question[5]) = (6, 1, 33);
        Daemon::new(&["/run/chrony"], 323, question, |answer| {
            let number = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
            let fits = answer.starts_with(&[6, 2]) && (number(6)?, number(8)?) == (5, 0);
            fits.then_some(number(54)? != 3)
        })
    }

    pub fn ntp() -> Daemon {
        let mut question = vec![0; NTP];
        question[0] = 4 << 3 | 3; // version 4, a client
        Daemon::new(&["/var/lib/ntp", "/var/lib/ntpsec"], 123, question, |answer| {
            let (first, stratum) = (*answer.first()?, *answer.get(1)?);
            (answer.len() >= NTP && first & 7 == 4).then_some(first >> 6 != 3 && (1..16).contains(&stratum))
        })
    }

    fn new(signs: &'static [&'static str], port: u16, question: Vec<u8>, says: fn(&[u8]) -> Option<bool>) -> Daemon {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Daemon { signs, address, question, says, socket: None, answer: false }
    }

    /// Whether it has set the clock, as far as it has answered, and asks anew. Only the first call waits. One that has gone
    /// leaves a clock that is set.
    pub fn has_set_the_clock(&mut self) -> bool {
        if self.signs.iter().any(|sign| Path::new(sign).exists()) && self.ask().is_err() {
            self.socket = None;
        }
        self.answer
    }

    fn ask(&mut self) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.connect(self.address)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.send(&self.question)?;
                self.socket.insert(socket)
            }
        };
        let mut answer = [0; CHRONY];
        match socket.recv(&mut answer) {
            Ok(length) => self.answer = (self.says)(&answer[..length]).unwrap_or(self.answer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        socket.set_nonblocking(true)?;
        socket.send(&self.question).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_they_answer_is_understood_and_nobody_is_waited_for() {
        let mut tracking = vec![0; CHRONY];
        (tracking[0], tracking[1], tracking[7]) = (6, 2, 5);
        let with = |at: usize, byte: u8, packet: &[u8]| {
            let mut packet = packet.to_vec();
            packet[at] = byte;
            packet
        };
        let mut served = vec![0; NTP];
        (served[0], served[1]) = (4 << 3 | 4, 2);
        for (make, says, want) in [
            (Daemon::chrony as fn() -> Daemon, with(55, 3, &tracking), false),
            (Daemon::chrony, tracking.clone(), true),
            (Daemon::chrony, with(55, 1, &tracking), true),
            (Daemon::chrony, with(9, 2, &tracking), false),
            (Daemon::chrony, tracking[..55].to_vec(), false),
            (Daemon::chrony, Vec::new(), false),
            (Daemon::ntp, served.clone(), true),
            (Daemon::ntp, with(0, 0xc0 | 4 << 3 | 4, &served), false),
            (Daemon::ntp, with(1, 16, &served), false),
            (Daemon::ntp, with(1, 0, &served), false),
            (Daemon::ntp, served[..40].to_vec(), false),
        ] {
            let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mut daemon = Daemon { signs: &["/"], address: peer.local_addr().unwrap(), ..make() };
            assert!(!daemon.has_set_the_clock(), "nobody has answered");
            let (mut question, length) = ([0; 200], daemon.question.len());
            let (got, from) = peer.recv_from(&mut question).unwrap();
            assert_eq!(&question[..got], &daemon.question[..length]);
            peer.send_to(&says, from).unwrap();
            assert_eq!(daemon.has_set_the_clock(), want, "{says:?}");
            drop(peer);
            (0..3).for_each(|_| assert_eq!(daemon.has_set_the_clock(), want, "it has gone"));
        }
        let mut absent = Daemon { signs: &["/no/such/sign"], answer: false, ..Daemon::chrony() };
        assert!(!absent.has_set_the_clock() && absent.socket.is_none());
    }
}
