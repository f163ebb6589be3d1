// SPDX-License-Identifier: GPL-2.0

#![cfg(not(loom))]

use super::*;
use proptest::prelude::*;

const MAX: u32 = u32::MAX;

fn bytes(bytes: u32) -> Amount {
    Amount { bytes, messages: 0 }
}

fn messages(messages: u32) -> Amount {
    Amount { bytes: 0, messages }
}

#[test]
fn a_share_is_what_is_left_divided_by_the_senders_and_one() {
    // capacity, used, share, senders; the most that may be added
    const CASES: &[(u32, u32, u32, u32, u32)] = &[
        // A lone sender: half.
        (100, 0, 0, 1, 50),
        (101, 0, 0, 1, 50),
        (100, 20, 20, 1, 30),
        (100, 50, 50, 1, 0),
        // Beside one with half of it: a third of the rest.
        (100, 50, 0, 2, 16),
        (100, 66, 16, 2, 0),
        // Then the first has more than its share.
        (100, 66, 50, 2, 0),
        (100, 90, 0, 9, 1),
        (100, 91, 0, 9, 0),
        // Full, and fuller.
        (100, 100, 0, 2, 0),
        (100, 130, 0, 2, 0),
        (100, 130, 130, 1, 0),
        (0, 0, 0, 1, 0),
        // No sum overflows.
        (MAX, 0, 0, 1, MAX / 2),
        (MAX, MAX, MAX, 1, 0),
        (MAX, MAX, 0, MAX, 0),
        (MAX, 0, 0, MAX, 0),
        (MAX, 0, 0, MAX - 1, 1),
        (0, MAX, MAX, MAX, 0),
    ];
    for &(capacity, used, share, senders, most) in CASES {
        for more in [1, most.max(1), most + 1, MAX - 1, MAX] {
            for unit in [bytes, messages] {
                assert_eq!(
                    admits(
                        unit(capacity),
                        unit(used),
                        unit(share),
                        senders,
                        unit(more),
                        false
                    ),
                    more <= most,
                    "{more} more than {share} of {used} in {capacity}, {senders} senders"
                );
            }
        }
    }
}

#[test]
fn a_share_has_two_limits() {
    let capacity = Amount {
        bytes: 100,
        messages: 10,
    };
    let none = Amount::default();
    for (bytes, messages, expected) in [
        (50, 5, true),
        (51, 5, false),
        (50, 6, false),
        (51, 0, false),
        (0, 6, false),
        (0, 5, true),
    ] {
        let more = Amount { bytes, messages };
        assert_eq!(
            admits(capacity, none, none, 1, more, false),
            expected,
            "{more:?}"
        );
    }
}

#[test]
fn bulk_leaves_a_quarter_of_the_share_but_never_all_of_it() {
    let most = |capacity, share, bulk| {
        (0..=capacity).rev().find(|&more| {
            admits(
                messages(capacity),
                messages(share),
                messages(share),
                1,
                messages(more),
                bulk,
            )
        })
    };
    for (capacity, share, urgent, bulk) in [
        (80, 0, Some(40), Some(30)),
        (80, 30, Some(10), Some(0)),
        (80, 31, Some(9), None),
        (6, 0, Some(3), Some(3)),
        (2, 0, Some(1), Some(1)),
        (1, 0, Some(0), Some(0)),
    ] {
        assert_eq!(
            most(capacity, share, false),
            urgent,
            "urgent, {share} of {capacity}"
        );
        assert_eq!(
            most(capacity, share, true),
            bulk,
            "bulk, {share} of {capacity}"
        );
    }
}

#[test]
fn amounts_stop_at_their_ends() {
    let (some, all) = (Amount::message(7), bytes(MAX).plus(messages(MAX)));
    assert_eq!(some.plus(some).minus(some), some);
    assert_eq!(all.plus(some), all);
    assert_eq!(some.minus(all), Amount::default());
    assert!(Amount::default().is_zero());
    assert!(!some.is_zero() && !bytes(1).is_zero() && !messages(1).is_zero());
}

/// A queue: its capacity, and what each sender holds.
struct Queue {
    capacity: Amount,
    shares: Vec<Amount>,
}

impl Queue {
    fn new(capacity: Amount, senders: usize) -> Self {
        Self {
            capacity,
            shares: vec![Amount::default(); senders],
        }
    }

    fn used(&self) -> Amount {
        self.shares
            .iter()
            .fold(Amount::default(), |used, &share| used.plus(share))
    }

    /// Senders that hold something, this one included.
    fn senders_with(&self, sender: usize) -> u32 {
        let others = self.shares.iter().enumerate();
        let holding = others.filter(|&(other, share)| other == sender || !share.is_zero());
        holding.count() as u32
    }

    fn admits(&self, sender: usize, more: Amount) -> bool {
        let (share, senders) = (self.shares[sender], self.senders_with(sender));
        admits(self.capacity, self.used(), share, senders, more, false)
    }

    /// Adds to a sender's share if that is allowed.
    fn push(&mut self, sender: usize, more: Amount) {
        if self.admits(sender, more) {
            self.shares[sender] = self.shares[sender].plus(more);
        }
    }

    /// Gives a sender all that it can get.
    fn fill(&mut self, sender: usize) {
        for unit in [bytes, messages] {
            for bit in (0..32).rev() {
                self.push(sender, unit(1 << bit));
            }
        }
    }
}

/// The parts of an amount, each in its own right.
fn parts(amount: Amount) -> [u64; 2] {
    [amount.bytes.into(), amount.messages.into()]
}

#[test]
fn the_nth_greedy_sender_gets_a_part_in_n_times_n_plus_1() {
    // Divisible by all of them.
    let mut queue = Queue::new(bytes(27720).plus(messages(2 * 27720)), 10);
    for n in 1..=10 {
        queue.fill(n - 1);
        let expected = 27720 / (n * (n + 1)) as u32;
        let share = bytes(expected).plus(messages(2 * expected));
        assert_eq!(queue.shares[n - 1], share, "sender {n}");
    }
    // Nobody gets more by trying again.
    let shares = queue.shares.clone();
    (0..10).for_each(|sender| queue.fill(sender));
    assert_eq!(queue.shares, shares);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Send so much.
    Push(usize, Amount),
    /// Send as much as possible.
    Fill(usize),
    /// Have so much of what one sent read, in 1/4.
    Read(usize, u8),
}

const SENDERS: usize = 8;

fn any_op() -> impl Strategy<Value = Op> {
    let more = prop_oneof![
        (1u32..200, 1u32..3),
        (0u32..1 << 20, 0u32..1 << 12),
        any::<(u32, u32)>(),
    ]
    .prop_map(|(bytes, messages)| Amount { bytes, messages });
    prop_oneof![
        3 => (0..SENDERS, more).prop_map(|(sender, more)| Op::Push(sender, more)),
        3 => (0..SENDERS).prop_map(Op::Fill),
        3 => (0..SENDERS, 1u8..=4).prop_map(|(sender, part)| Op::Read(sender, part)),
    ]
}

fn any_capacity() -> impl Strategy<Value = Amount> {
    let part = || prop_oneof![0u32..200, Just(1 << 20), any::<u32>(), Just(MAX)];
    (part(), part()).prop_map(|(bytes, messages)| Amount { bytes, messages })
}

proptest! {
    #[test]
    fn a_lone_sender_gets_half(capacity: u32, share: u32, more in 1u32..) {
        let share = share.min(capacity);
        let fits = u64::from(share) + u64::from(more) <= u64::from(capacity / 2);
        for unit in [bytes, messages] {
            let share = unit(share);
            prop_assert_eq!(admits(unit(capacity), share, share, 1, unit(more), false), fits);
        }
    }

    /// Whatever was sent and read before, in whatever order.
    #[test]
    fn the_bounds_hold_whatever_the_others_do(
        capacity in any_capacity(),
        ops in prop::collection::vec(any_op(), 1..100),
    ) {
        let mut queue = Queue::new(capacity, SENDERS);
        for op in ops {
            match op {
                Op::Push(sender, more) => queue.push(sender, more),
                Op::Fill(sender) => queue.fill(sender),
                Op::Read(sender, part) => {
                    let share = &mut queue.shares[sender];
                    let read = |held: u32| (u64::from(held) * u64::from(part)).div_ceil(4) as u32;
                    let read = bytes(read(share.bytes)).plus(messages(read(share.messages)));
                    *share = share.minus(read);
                }
            }

            // The capacity is never passed, and n senders leave 1/(n+1) of it free.
            let holding = queue.shares.iter().filter(|share| !share.is_zero()).count() as u64;
            for (capacity, used) in parts(capacity).into_iter().zip(parts(queue.used())) {
                prop_assert!(used <= capacity);
                prop_assert!((capacity - used) * (holding + 1) >= capacity);
            }
            for sender in 0..SENDERS {
                let n = u64::from(queue.senders_with(sender));
                let share = queue.shares[sender];
                // Each of n may hold 1/(n(n+1)) of the capacity …
                let least = |capacity: u32| (u64::from(capacity) / (n * (n + 1))) as u32;
                let least = bytes(least(capacity.bytes)).plus(messages(least(capacity.messages)));
                if share.minus(least).is_zero() {
                    prop_assert!(queue.admits(sender, least.minus(share)));
                }
                // … and nobody may grow beyond 1/(n+1).
                for (unit, part) in [(bytes(1), 0), (messages(1), 1)] {
                    if queue.admits(sender, unit) {
                        prop_assert!((parts(share)[part] + 1) * (n + 1) <= parts(capacity)[part]);
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_overflows_and_nothing_passes_the_capacity(
        capacity: (u32, u32),
        used: (u32, u32),
        share: (u32, u32),
        senders: u32,
        more: (u32, u32),
        bulk: bool,
    ) {
        let amount = |(bytes, messages)| Amount { bytes, messages };
        let more = amount(more);
        if admits(amount(capacity), amount(used), amount(share), senders, more, bulk) {
            let free = amount(capacity).minus(amount(used));
            prop_assert!(more.bytes <= free.bytes && more.messages <= free.messages);
        }
    }
}
