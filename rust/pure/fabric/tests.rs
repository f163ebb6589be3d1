// SPDX-License-Identifier: GPL-2.0

#![cfg(not(loom))]

use super::*;
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Read,
    Settle(usize),
    NewDaemon,
    ReadFails,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Read),
        3 => (0usize..100).prop_map(Step::Settle),
        1 => Just(Step::NewDaemon),
        1 => Just(Step::ReadFails),
    ]
}

/// As the module reads: what is kept first, from where it is to be repeated.
fn read(window: &mut Window, kept: &mut BTreeMap<u64, Amount>, amount: Amount) -> Option<u64> {
    if let Some(from) = window.repeats_from() {
        let found = kept.range(from..).next().map(|(&number, _)| number);
        window.repeated(found);
        if found.is_some() {
            return found;
        }
    }
    if !window.has_room() {
        return None;
    }
    let number = window.give(amount);
    assert!(
        kept.insert(number, amount).is_none(),
        "a number was given twice"
    );
    Some(number)
}

proptest! {
    /// Every daemon is handed all that no daemon has settled, in order, before anything new.
    #[test]
    fn each_daemon_gets_what_is_not_settled(
        steps in vec(step(), 1..200),
        bytes in 1u32..4 << 20,
    ) {
        let amount = Amount::message(bytes);
        let mut window = Window::new();
        let mut kept = BTreeMap::new();
        let mut newest = 0;
        // What this daemon has not been handed yet, or not whole.
        let mut owed: Vec<u64> = vec![];
        for step in steps {
            match step {
                Step::Read => {
                    let number = read(&mut window, &mut kept, amount);
                    owed.retain(|number| kept.contains_key(number));
                    if owed.is_empty() {
                        if let Some(number) = number {
                            prop_assert_eq!(number, newest + 1);
                            newest = number;
                        }
                    } else {
                        prop_assert_eq!(number, Some(owed.remove(0)));
                    }
                }
                Step::ReadFails => {
                    if let Some(number) = read(&mut window, &mut kept, amount) {
                        newest = newest.max(number);
                        window.repeat_from(number);
                        owed.retain(|number| kept.contains_key(number));
                        if !owed.contains(&number) {
                            owed.insert(0, number);
                        }
                    }
                }
                Step::Settle(at) => {
                    // A daemon knows the numbers that it was handed.
                    let known: Vec<u64> =
                        kept.keys().copied().filter(|number| !owed.contains(number)).collect();
                    if let Some(&number) = known.get(at % known.len().max(1)) {
                        window.settle(kept.remove(&number).unwrap());
                    }
                }
                Step::NewDaemon => {
                    window.repeat_from(0);
                    owed = kept.keys().copied().collect();
                }
            }
            let sum: u64 = kept.values().map(|amount| u64::from(amount.bytes)).sum();
            prop_assert_eq!(u64::from(window.kept.bytes), sum);
            prop_assert!(sum < u64::from(LIMIT.bytes) + u64::from(amount.bytes));
        }
    }
}
