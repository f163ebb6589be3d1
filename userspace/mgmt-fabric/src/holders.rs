// SPDX-License-Identifier: MIT OR Apache-2.0

//! Who serves which hardware: which host speaks for a serial number.

use crate::Host;
use mgmt_wire::Serial;
use std::collections::{BTreeMap, BTreeSet};

/// Serial numbers for which one host may be known to have served them, before it is forgotten of which it
/// did.
const MAX_FORMER: usize = 1024;

/// The hardware of all peers.
#[derive(Debug, Default)]
pub struct Holders {
    announced: BTreeMap<Host, BTreeSet<Serial>>,
    /// Who serves it, or did last.
    at: BTreeMap<Serial, Host>,
}

/// What an announcement has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Hardware that is not where it was, or nowhere.
    pub gone: Vec<Serial>,
    /// Hardware that is somewhere else than it was, or was nowhere.
    pub there: Vec<Serial>,
    /// Hardware that the host says it has, as another did before it.
    pub refused: Vec<(Serial, Host)>,
}

impl Holders {
    /// A host serves this hardware and no other.
    ///
    /// Hardware stays with the host that said so first, as long as it does: nobody takes it from there.
    pub fn announce(&mut self, host: Host, serials: impl IntoIterator<Item = Serial>) -> Changes {
        let serials: BTreeSet<_> = serials.into_iter().collect();
        let before = self.announced.get(&host).cloned().unwrap_or_default();
        let touched = &before | &serials;
        let held = |this: &Self, serial: &Serial| {
            let holder = this.find(serial)?;
            this.has(holder, serial).then_some(holder)
        };
        let held_before: Vec<_> = touched.iter().map(|serial| held(self, serial)).collect();
        self.announced.insert(host, serials);
        let mut changes = Changes::default();
        for (&serial, was) in touched.iter().zip(held_before) {
            match held(self, &serial) {
                Some(holder) if holder != host => {
                    if self.has(host, &serial) && !before.contains(&serial) {
                        changes.refused.push((serial, holder));
                    }
                }
                Some(_) => {}
                // Nobody has it, or this host, or another that was refused.
                None => {
                    let mut others = self.announced.iter();
                    let other = others.find(|(_, its)| its.contains(&serial));
                    if let Some((&other, _)) = other {
                        self.at.insert(serial, other);
                    }
                }
            }
            let is = held(self, &serial);
            if was != is {
                changes.gone.extend(was.map(|_| serial));
                changes.there.extend(is.map(|_| serial));
            }
        }
        self.forget_former(host);
        changes
    }

    /// A host is gone: its hardware may be anywhere.
    pub fn forget(&mut self, host: Host) -> Changes {
        let changes = self.announce(host, []);
        self.announced.remove(&host);
        self.at.retain(|_, at| *at != host);
        changes
    }

    /// Bounds what is known of hardware that a host does not serve any more.
    fn forget_former(&mut self, host: Host) {
        if self.at.values().filter(|at| **at == host).count() > MAX_FORMER {
            let has = self.announced.get(&host).cloned().unwrap_or_default();
            self.at
                .retain(|serial, at| *at != host || has.contains(serial));
        }
    }

    fn has(&self, host: Host, serial: &Serial) -> bool {
        self.announced
            .get(&host)
            .is_some_and(|serials| serials.contains(serial))
    }

    /// The host that serves the hardware, or did last: what it sent then may be on its way.
    pub fn find(&self, serial: &Serial) -> Option<Host> {
        self.at.get(serial).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::MAX_HARDWARE;
    use proptest::prelude::*;

    const ONE: Host = Host([1; 16]);
    const TWO: Host = Host([2; 16]);

    fn serial(number: usize) -> Serial {
        Serial::new(format!("S{number}").as_bytes()).unwrap()
    }

    #[test]
    fn the_first_that_says_so_keeps_it_while_it_does() {
        let mut holders = Holders::default();
        let disk = serial(1);
        let found = holders.announce(ONE, [disk]);
        assert_eq!((found.there, found.gone), (vec![disk], vec![]));
        for refused in [vec![(disk, ONE)], vec![]] {
            let found = holders.announce(TWO, [disk]);
            assert_eq!((found.there, found.gone), (vec![], vec![]));
            // It is said once.
            assert_eq!(found.refused, refused);
            assert_eq!(holders.find(&disk), Some(ONE));
        }
        let found = holders.announce(ONE, []);
        assert_eq!((found.there, found.gone), (vec![disk], vec![disk]));
        assert_eq!(holders.find(&disk), Some(TWO));
        // What was sent is on its way.
        let found = holders.announce(TWO, []);
        assert_eq!((found.there, found.gone), (vec![], vec![disk]));
        assert_eq!(holders.find(&disk), Some(TWO));
        assert_eq!(holders.announce(ONE, [disk]).there, [disk]);
        assert_eq!(holders.find(&disk), Some(ONE));
        assert_eq!(holders.forget(ONE).gone, [disk]);
        assert_eq!(holders.find(&disk), None);
    }

    #[test]
    fn what_was_served_once_is_bounded() {
        let mut holders = Holders::default();
        holders.announce(TWO, [serial(1)]);
        for round in 0..50 {
            let first = 2 + round * MAX_HARDWARE;
            holders.announce(ONE, (first..first + MAX_HARDWARE).map(serial));
            assert!(holders.at.len() <= 1 + MAX_FORMER + MAX_HARDWARE);
            assert_eq!(holders.find(&serial(first)), Some(ONE));
        }
        assert_eq!(holders.find(&serial(1)), Some(TWO));
    }

    proptest! {
        /// Whoever says what: a host holds only what it has said, changes are those of who holds it, and
        /// nobody is the holder of what another has said for longer.
        #[test]
        fn changes_are_those_of_the_holder(
            steps in prop::collection::vec(
                (0u8..4, prop::option::of(prop::collection::btree_set(0usize..4, 0..4))),
                1..40,
            ),
        ) {
            let mut holders = Holders::default();
            let mut held = BTreeMap::new();
            for (host, said) in steps {
                let host = Host([host; 16]);
                let changes = match said {
                    Some(said) => holders.announce(host, said.into_iter().map(serial)),
                    None => holders.forget(host),
                };
                for number in 0..4 {
                    let serial = serial(number);
                    let is = holders.find(&serial).filter(|host| holders.has(*host, &serial));
                    let was = held.get(&serial).copied().flatten();
                    prop_assert_eq!(changes.gone.contains(&serial), was.is_some() && was != is);
                    prop_assert_eq!(changes.there.contains(&serial), is.is_some() && was != is);
                    // It goes only from who does not say so any more.
                    let goes = was.is_some_and(|was| was != host && is != Some(was));
                    prop_assert!(!goes);
                    let anybody = holders.announced.values().any(|its| its.contains(&serial));
                    prop_assert_eq!(is.is_some(), anybody);
                    held.insert(serial, is);
                }
            }
        }
    }
}
