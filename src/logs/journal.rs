//! journald's own protocol: a datagram of fields a line. (`systemd.journal-fields(7)`, native protocol of systemd's manual.)

use super::line::Line;
use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

pub(super) struct Journal {
    socket: UnixDatagram,
    /// It is looked up for each line, so that a journald that was started again is found.
    place: PathBuf,
}

impl Journal {
    pub fn new(place: &Path) -> Option<Journal> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Journal { socket, place: place.to_owned() })
    }

    /// Whether journald took it: it does not while it is away or behind.
    pub fn send(&self, line: &Line) -> bool {
        self.socket.send_to(line.fields().as_bytes(), &self.place).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::{Level, Record};

    #[test]
    fn journald_gets_fields_and_one_that_is_away_or_behind_blocks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("socket");
        let journal = Journal::new(&place).unwrap();
        let record = |text: &str| {
            Line::of(&Record::builder().level(Level::Error).target("m").args(format_args!("{text}")).build(), 0)
        };
        let line = record("sinks.a: down\nMESSAGE=forged");
        assert!(!journal.send(&line), "there is nobody");
        for _ in 0..2 {
            let journald = UnixDatagram::bind(&place).unwrap();
            assert!(journal.send(&line));
            let mut datagram = [0; 4096];
            let length = journald.recv(&mut datagram).unwrap();
            let fields = "PRIORITY=3\nSYSLOG_IDENTIFIER=tidegate\nCODE_MODULE=m\nMESSAGE=sinks.a: down\\nMESSAGE=forged\n\
                          COMPONENT=sinks.a\n";
            assert_eq!(std::str::from_utf8(&datagram[..length]).unwrap(), fields);
            assert!((0..100_000).any(|_| !journal.send(&line)), "one that does not read is full at some time");
            std::fs::remove_file(&place).unwrap(); // it begins anew
        }
    }
}
