//! Messages that the broker has not acknowledged yet, by packet id.

use crate::systems::mqtt::wire::Kind;
use std::collections::VecDeque;

/// Packet ids are 1 to 65,535 (2.2.1); they are given out in turn.
const IDS: u64 = 65_535;

/// The messages in flight. An id is used again only after all others were, so a late repeat of an acknowledgement is not
/// taken for that of another message.
#[derive(Debug)]
pub struct Window {
    /// How many may be in flight.
    pub max: usize,
    /// How many ids were given out before the oldest slot.
    passed: u64,
    slots: VecDeque<Slot>,
    open: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Sent,
    /// PUBREC came and PUBREL went.
    Released,
    Done,
}

/// What an acknowledgement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// A repeat, or nothing that was asked for.
    Nothing,
    /// The broker has the message; PUBREL must follow.
    Release,
    /// The broker has the message.
    Done,
    /// The broker does not want it, for this reason.
    Refused(u8),
}

impl Window {
    pub fn new(max: usize) -> Self {
        Window { max, passed: 0, slots: VecDeque::new(), open: 0 }
    }

    /// Messages in flight.
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn has_room(&self) -> bool {
        self.open < self.max && (self.slots.len() as u64) < IDS
    }

    /// The next packet id. Only while there is room.
    pub fn take(&mut self) -> u16 {
        let id = (self.passed + self.slots.len() as u64) % IDS + 1;
        self.slots.push_back(Slot::Sent);
        self.open += 1;
        id as u16
    }

    /// Gives the last id back; its message was not sent.
    pub fn untake(&mut self) {
        if self.slots.pop_back().is_some() {
            self.open -= 1;
        }
    }

    /// Takes an acknowledgement. Codes from 0x80 on are refusals (4.13).
    pub fn settle(&mut self, kind: Kind, id: u16, code: u8) -> Settled {
        let first = self.passed % IDS;
        let at = (u64::from(id) + IDS - 1 - first) % IDS;
        let Some(slot) = self.slots.get_mut(at as usize).filter(|_| id != 0) else { return Settled::Nothing };
        let settled = match (*slot, kind) {
            (Slot::Sent, Kind::PubAck | Kind::PubRec) if code >= 0x80 => Settled::Refused(code),
            (Slot::Sent, Kind::PubAck) => Settled::Done,
            (Slot::Sent | Slot::Released, Kind::PubRec) => Settled::Release,
            // Whatever a PUBCOMP says, the broker has no message of that id any more (4.3.3).
            (Slot::Released, Kind::PubComp) => Settled::Done,
            _ => return Settled::Nothing,
        };
        if settled == Settled::Release {
            *slot = Slot::Released;
            return settled;
        }
        *slot = Slot::Done;
        self.open -= 1;
        while self.slots.front() == Some(&Slot::Done) {
            self.slots.pop_front();
            self.passed += 1;
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{PubAck, PubComp, PubRec, PubRel};

    #[test]
    fn acknowledgements_come_in_any_order_and_repeatedly() {
        let mut window = Window::new(4);
        for round in 0..40_000u64 {
            let ids: Vec<u16> = (0..4).map(|_| window.take()).collect();
            assert_eq!(
                ids.iter().map(|i| u64::from(*i) - 1).collect::<Vec<_>>(),
                (0..4).map(|i| (round * 4 + i) % IDS).collect::<Vec<_>>()
            );
            assert!(!window.has_room());
            for at in [2, 0, 3, 1] {
                assert_eq!(window.settle(PubAck, ids[at], 0), Settled::Done);
                assert_eq!(window.settle(PubAck, ids[at], 0), Settled::Nothing, "a repeat");
            }
            assert_eq!((window.open(), window.slots.len()), (0, 0));
        }
    }

    #[test]
    fn each_kind_has_its_meaning() {
        for (acks, want) in [
            (&[(PubAck, 1, 0)][..], Settled::Done),
            (&[(PubAck, 1, 0x10)], Settled::Done),
            (&[(PubAck, 1, 0x97)], Settled::Refused(0x97)),
            (&[(PubAck, 0, 0)], Settled::Nothing),
            (&[(PubAck, 2, 0)], Settled::Nothing),
            (&[(PubAck, u16::MAX, 0)], Settled::Nothing),
            (&[(PubRec, 1, 0)], Settled::Release),
            (&[(PubRec, 1, 0), (PubRec, 1, 0)], Settled::Release),
            (&[(PubRec, 1, 0), (PubComp, 1, 0)], Settled::Done),
            (&[(PubRec, 1, 0), (PubComp, 1, 0x92)], Settled::Done),
            (&[(PubRec, 1, 0x99)], Settled::Refused(0x99)),
            (&[(PubComp, 1, 0)], Settled::Nothing),
            (&[(PubRel, 1, 0)], Settled::Nothing),
            (&[(PubRec, 1, 0), (PubAck, 1, 0)], Settled::Nothing),
        ] {
            let mut window = Window::new(2);
            window.take();
            let got = acks.iter().map(|(kind, id, code)| window.settle(*kind, *id, *code)).last();
            assert_eq!(got, Some(want), "{acks:?}");
        }
    }

    #[test]
    fn ids_run_out_before_one_is_in_flight_twice() {
        let mut window = Window::new(usize::MAX);
        let first = window.take();
        while window.has_room() {
            let id = window.take();
            window.settle(PubAck, id, 0);
        }
        assert_eq!((window.open(), window.slots.len()), (1, 65_535));
        window.settle(PubAck, first, 0);
        assert_eq!(window.take(), first);
        window.untake();
        assert_eq!(window.open(), 0);
    }
}
