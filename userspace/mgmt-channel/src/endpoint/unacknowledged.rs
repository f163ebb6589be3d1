// SPDX-License-Identifier: MIT OR Apache-2.0

//! Messages of whose fate nothing is known yet.

use super::Lost;
use crate::{Address, Header};
use std::collections::VecDeque;

/// The messages that are listed.
const MAX: usize = 1024;

/// A message that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What sending it returned.
    pub id: u64,
    /// Where to.
    pub destination: Address,
    /// Order holds among messages of one class.
    class: usize,
}

impl Sent {
    pub(super) fn of(header: &Header, id: u64) -> Self {
        Self {
            id,
            destination: header.destination,
            class: header.class(),
        }
    }
}

/// In the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    sent: VecDeque<Sent>,
    more: u64,
}

impl Unacknowledged {
    pub(super) fn add(&mut self, sent: Sent) {
        if self.sent.len() == MAX {
            self.sent.pop_front();
            self.more += 1;
        }
        self.sent.push_back(sent);
    }

    /// It was not sent, or came back: its fate is known.
    pub(super) fn remove(&mut self, id: u64) {
        // What was sent last is what fails; what comes back is rare.
        if let Some(at) = self.sent.iter().rposition(|sent| sent.id == id) {
            self.sent.remove(at);
        }
    }

    /// It was answered: what went to the same receiver before it has arrived, or has come back.
    pub(super) fn answered(&mut self, id: u64) {
        let Some(at) = self.sent.iter().position(|sent| sent.id == id) else {
            return;
        };
        let answered = self.sent[at];
        let mut index = 0;
        self.sent.retain(|sent| {
            index += 1;
            index > at + 1
                || sent.destination != answered.destination
                || sent.class != answered.class
        });
    }

    pub(super) fn take(&mut self) -> Lost {
        Lost {
            unacknowledged: std::mem::take(&mut self.sent).into(),
            more: std::mem::take(&mut self.more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AppId, Component, Kind};
    use proptest::prelude::*;

    fn sent(id: u64, vm_id: u32, priority: u8) -> Sent {
        let mvm_ip = [0; 16];
        let app = AppId::new(b"A").unwrap();
        let to = Address::new(Component::Vm { mvm_ip, vm_id }, app);
        let header = Header {
            priority,
            ..Header::new(Kind::Data, to, 0)
        };
        Sent::of(&header, id)
    }

    #[test]
    fn an_answer_covers_what_went_there_before_in_its_class() {
        let mut all = Unacknowledged::default();
        for (id, vm, priority) in [(1, 3, 0), (2, 4, 0), (3, 3, 255), (4, 3, 0), (5, 3, 0)] {
            all.add(sent(id, vm, priority));
        }
        all.answered(4);
        let left: Vec<u64> = all.take().unacknowledged.iter().map(|s| s.id).collect();
        assert_eq!(left, [2, 3, 5]);
        assert_eq!(all.take(), Lost::default());
    }

    proptest! {
        /// Of every message it is said what is known, and none is forgotten in silence.
        #[test]
        fn nothing_is_forgotten(steps in prop::collection::vec((0..3u8, 0..3000u64, 0..3u32), 0..3000)) {
            let mut all = Unacknowledged::default();
            let (mut next, mut known) = (0, std::collections::HashSet::new());
            for (step, which, vm) in steps {
                match step {
                    0 => {
                        all.add(sent(next, vm, 0));
                        next += 1;
                    }
                    1 => {
                        all.remove(which);
                        known.insert(which);
                    }
                    _ => {
                        let listed: Vec<Sent> = all.sent.iter().copied().collect();
                        if let Some(at) = listed.iter().position(|s| s.id == which) {
                            let same = |s: &&Sent| s.destination == listed[at].destination;
                            known.extend(listed[..=at].iter().filter(same).map(|s| s.id));
                        }
                        all.answered(which);
                    }
                }
            }
            let lost = all.take();
            let listed: Vec<u64> = lost.unacknowledged.iter().map(|s| s.id).collect();
            prop_assert!(listed.is_sorted() && listed.len() <= MAX);
            let oldest = listed.first().copied().unwrap_or(next);
            for id in (oldest..next).filter(|id| !known.contains(id)) {
                prop_assert!(listed.contains(&id) || lost.more > 0, "{}", id);
            }
        }
    }
}
