// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where guests are: which host has the guest with a stable name.

use crate::Host;
use std::collections::{BTreeMap, BTreeSet};

/// A VM's UUID.
pub type Uuid = [u8; 16];

/// Most names of guests that are elsewhere.
const MAX_NAMES: usize = 1 << 16;

/// The guests of all peers.
#[derive(Debug, Default)]
pub struct Places {
    announced: BTreeMap<Host, BTreeSet<Uuid>>,
    /// Where a guest is, or was last.
    at: BTreeMap<Uuid, Host>,
}

impl Places {
    /// A host has these guests and no other.
    ///
    /// A guest stays where it is as long as its host says so: nobody takes it from there.
    pub fn announce(&mut self, host: Host, guests: impl IntoIterator<Item = Uuid>) {
        let guests: BTreeSet<_> = guests.into_iter().collect();
        let before = self
            .announced
            .insert(host, guests.clone())
            .unwrap_or_default();
        for guest in guests {
            let is_elsewhere = self.at.get(&guest).is_some_and(|at| self.has(*at, &guest));
            if !is_elsewhere && (self.at.contains_key(&guest) || self.at.len() < MAX_NAMES) {
                self.at.insert(guest, host);
            }
        }
        for guest in before {
            if self.at.get(&guest) == Some(&host) && !self.has(host, &guest) {
                let other = self.announced.iter().find(|(_, its)| its.contains(&guest));
                if let Some((&other, _)) = other {
                    self.at.insert(guest, other);
                }
            }
        }
    }

    /// A host is gone: its guests may be anywhere.
    pub fn forget(&mut self, host: Host) {
        self.announce(host, []);
        self.announced.remove(&host);
        self.at.retain(|_, at| *at != host);
    }

    fn has(&self, host: Host, guest: &Uuid) -> bool {
        self.announced
            .get(&host)
            .is_some_and(|guests| guests.contains(guest))
    }

    /// The host that has the guest, or had it last.
    pub fn find(&self, guest: &Uuid) -> Option<Host> {
        self.at.get(guest).copied()
    }

    /// Whether another host says that it has the guest.
    pub fn is_elsewhere(&self, guest: &Uuid) -> bool {
        self.find(guest).is_some_and(|host| self.has(host, guest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Host = Host([1; 16]);
    const TWO: Host = Host([2; 16]);
    const GUEST: Uuid = [9; 16];

    #[test]
    fn a_guest_moves_when_its_host_has_let_it_go() {
        let mut places = Places::default();
        assert_eq!(places.find(&GUEST), None);
        places.announce(ONE, [GUEST]);
        // It comes up there before the first has told that it went.
        places.announce(TWO, [GUEST]);
        assert_eq!(places.find(&GUEST), Some(ONE));
        places.announce(ONE, []);
        assert_eq!(places.find(&GUEST), Some(TWO));
        // In the other order, it is where it was until it is known to be elsewhere.
        places.announce(TWO, []);
        assert_eq!(places.find(&GUEST), Some(TWO));
        assert!(!places.is_elsewhere(&GUEST));
        places.announce(ONE, [GUEST]);
        assert_eq!(places.find(&GUEST), Some(ONE));
        assert!(places.is_elsewhere(&GUEST));
    }

    #[test]
    fn nobody_takes_a_guest_from_the_host_that_has_it() {
        let mut places = Places::default();
        places.announce(ONE, [GUEST]);
        for _ in 0..3 {
            places.announce(TWO, [GUEST]);
            places.announce(ONE, [GUEST]);
            assert_eq!(places.find(&GUEST), Some(ONE));
        }
        places.forget(ONE);
        assert_eq!(places.find(&GUEST), Some(TWO));
        places.forget(TWO);
        assert_eq!(places.find(&GUEST), None);
    }

    #[test]
    fn names_are_bounded() {
        let mut places = Places::default();
        let name = |n: usize| -> Uuid { (n as u128).to_le_bytes() };
        places.announce(ONE, (0..MAX_NAMES + 5).map(name));
        assert_eq!(places.at.len(), MAX_NAMES);
    }
}
