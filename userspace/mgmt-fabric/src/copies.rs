// SPDX-License-Identifier: MIT OR Apache-2.0

//! Messages that go to several peers: what became of one is known when it is known of each copy.

use mgmt_wire::Reason;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What is on its way to several peers, by its number. There are no more than the bridge hands over.
#[derive(Debug, Default)]
pub struct Copies(BTreeMap<u64, Copied>);

#[derive(Debug)]
struct Copied {
    left: usize,
    reason: Reason,
}

impl Copies {
    /// There will be so many copies of a message; nobody has one yet.
    pub fn begin(&mut self, number: u64, copies: usize) {
        let reason = Reason::None;
        self.0.insert(
            number,
            Copied {
                left: copies,
                reason,
            },
        );
    }

    /// This became of one copy. Returns what became of the message, if it was the last one: the first
    /// reason why one was not taken. A message of which no copies were begun has one.
    pub fn ended(&mut self, number: u64, reason: Reason) -> Option<Reason> {
        let Entry::Occupied(mut copied) = self.0.entry(number) else {
            return Some(reason);
        };
        let Copied {
            left,
            reason: first,
        } = copied.get_mut();
        if *first == Reason::None {
            *first = reason;
        }
        *left = left.saturating_sub(1);
        (*left == 0).then(|| copied.remove().reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn reason() -> impl Strategy<Value = Reason> {
        prop::sample::select(vec![Reason::None, Reason::PeerGone, Reason::Quota])
    }

    proptest! {
        /// In whatever order the peers of several messages answer: each message is settled once, with its
        /// last copy, and not as taken by all if one has not taken it.
        #[test]
        fn a_message_is_settled_once_and_with_its_last_copy(
            messages in vec(vec(reason(), 1..6), 1..6),
            order in vec(any::<prop::sample::Index>(), 30),
        ) {
            let mut copies = Copies::default();
            let mut left: BTreeMap<u64, Vec<Reason>> = (1..).zip(messages.clone()).collect();
            for (&number, of_it) in &left {
                copies.begin(number, of_it.len());
            }
            let mut said: BTreeMap<u64, Vec<Reason>> = BTreeMap::new();
            for index in order {
                if left.is_empty() {
                    break;
                }
                let number = *index.get(&left.keys().copied().collect::<Vec<_>>());
                let of_it = left.get_mut(&number).unwrap();
                let reason = of_it.pop().unwrap();
                said.entry(number).or_default().push(reason);
                let was_last = of_it.is_empty();
                let ended = copies.ended(number, reason);
                prop_assert_eq!(ended.is_some(), was_last);
                if was_last {
                    let first = said[&number].iter().find(|reason| **reason != Reason::None);
                    prop_assert_eq!(ended, Some(first.copied().unwrap_or(Reason::None)));
                    left.remove(&number);
                }
            }
            prop_assert!(left.is_empty() && copies.0.is_empty());
        }

        #[test]
        fn a_message_to_one_peer_is_settled_at_once(number: u64, reason in reason()) {
            prop_assert_eq!(Copies::default().ended(number, reason), Some(reason));
        }
    }
}
