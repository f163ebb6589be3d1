// SPDX-License-Identifier: MIT OR Apache-2.0

//! Guests that have come from other hosts, until these have said that they have nothing more for them,
//! and of them. What is sent to such a guest meanwhile is held back, and so is what it sends.

use crate::Host;
use crate::places::Uuid;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A host that is away for this time is not waited for.
const ABSENCE: Duration = Duration::from_secs(2);
/// Nor is any other for longer than this.
const LIMIT: Duration = Duration::from_secs(20);

/// One guest.
#[derive(Debug)]
struct Arrival {
    since: Instant,
    /// The host that had it.
    from: Option<Host>,
    /// Who has not said yet that nothing is left there.
    waits_for: BTreeSet<Host>,
    /// Messages to it that are held back, in their order.
    held: Vec<u64>,
}

/// All of this host.
#[derive(Debug, Default)]
pub struct Arrivals(BTreeMap<Uuid, Arrival>);

impl Arrivals {
    /// A guest has come, `from` this host as far as is known; `held` are messages for it that were not
    /// sent there yet.
    pub fn begin(
        &mut self,
        guest: Uuid,
        from: Option<Host>,
        waits_for: impl IntoIterator<Item = Host>,
        mut held: Vec<u64>,
    ) {
        held.sort_unstable();
        self.0.insert(
            guest,
            Arrival {
                since: Instant::now(),
                from,
                waits_for: waits_for.into_iter().collect(),
                held,
            },
        );
    }

    /// Holds a message to a guest back, if it is arriving.
    pub fn hold(&mut self, guest: &Uuid, number: u64) -> bool {
        let arrival = self.0.get_mut(guest);
        let is_arriving = arrival.is_some();
        arrival
            .into_iter()
            .for_each(|arrival| arrival.held.push(number));
        is_arriving
    }

    /// Whether a host may bring what others had sent to the guest there: it has just had it in its hands.
    pub fn may_bring(&self, host: Host, guest: &Uuid) -> bool {
        self.0
            .get(guest)
            .is_some_and(|arrival| arrival.from == Some(host))
    }

    /// A host has nothing more for a guest, and of it.
    pub fn handed(&mut self, host: Host, guest: &Uuid) {
        if let Some(arrival) = self.0.get_mut(guest) {
            arrival.waits_for.remove(&host);
        }
    }

    /// Guests for which nobody is waited any more, and what was held back for them. `away` says since
    /// when a host is away.
    pub fn ended(&mut self, away: impl Fn(Host) -> Option<Instant>) -> Vec<(Uuid, Vec<u64>)> {
        let mut ended = Vec::new();
        self.0.retain(|&guest, arrival| {
            let is_there = |host: &Host| away(*host).is_none_or(|since| since.elapsed() < ABSENCE);
            arrival.waits_for.retain(is_there);
            let is_late = arrival.since.elapsed() >= LIMIT;
            if is_late {
                tracing::warn!(hosts = ?arrival.waits_for, "a guest that came is not waited for any more");
            }
            let goes_on = !arrival.waits_for.is_empty() && !is_late;
            if !goes_on {
                ended.push((guest, std::mem::take(&mut arrival.held)));
            }
            goes_on
        });
        ended
    }

    /// These guests are here; others do not arrive any more. Returns what was held back for those.
    pub fn keep(&mut self, here: &[Uuid]) -> Vec<u64> {
        let mut left = Vec::new();
        self.0.retain(|guest, arrival| {
            let is_here = here.contains(guest);
            if !is_here {
                left.append(&mut arrival.held);
            }
            is_here
        });
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Host = Host([1; 16]);
    const TWO: Host = Host([2; 16]);
    const GUEST: Uuid = [9; 16];

    #[test]
    fn it_has_arrived_when_all_have_said_so() {
        let mut arrivals = Arrivals::default();
        let there = |_| None;
        assert!(!arrivals.hold(&GUEST, 3));
        arrivals.begin(GUEST, Some(ONE), [ONE, TWO], vec![6, 5]);
        assert!(arrivals.hold(&GUEST, 7));
        assert!(arrivals.may_bring(ONE, &GUEST));
        assert!(!arrivals.may_bring(TWO, &GUEST));
        arrivals.handed(ONE, &GUEST);
        arrivals.handed(ONE, &GUEST);
        assert_eq!(arrivals.ended(there), []);
        arrivals.handed(TWO, &GUEST);
        assert_eq!(arrivals.ended(there), [(GUEST, vec![5, 6, 7])]);
        assert!(!arrivals.may_bring(ONE, &GUEST));
        assert!(!arrivals.hold(&GUEST, 8));
    }

    #[test]
    fn a_host_that_is_away_is_not_waited_for() {
        let mut arrivals = Arrivals::default();
        arrivals.begin(GUEST, Some(ONE), [ONE], vec![]);
        let now = Instant::now();
        assert_eq!(arrivals.ended(|_| Some(now)), []);
        let long = now.checked_sub(ABSENCE);
        assert_eq!(arrivals.ended(|_| long), [(GUEST, vec![])]);
    }

    #[test]
    fn a_guest_that_goes_again_leaves_what_was_held_back() {
        let mut arrivals = Arrivals::default();
        arrivals.begin(GUEST, None, [ONE], vec![1]);
        assert_eq!(arrivals.keep(&[GUEST]), []);
        assert_eq!(arrivals.keep(&[]), [1]);
        assert!(!arrivals.hold(&GUEST, 2));
    }
}
