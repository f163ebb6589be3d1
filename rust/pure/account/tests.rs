// SPDX-License-Identifier: GPL-2.0

#![cfg(not(loom))]

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Shares in a map that may be out of memory.
#[derive(Default)]
struct Map {
    shares: BTreeMap<Owner, Amount>,
    full: bool,
}

impl Shares<Owner> for Map {
    fn get(&self, sender: Owner) -> Option<Amount> {
        self.shares.get(&sender).copied()
    }

    fn get_mut(&mut self, sender: Owner) -> Option<&mut Amount> {
        self.shares.get_mut(&sender)
    }

    fn insert(&mut self, sender: Owner, share: Amount) -> Result<(), NoMemory> {
        if self.full {
            return Err(NoMemory);
        }
        assert_eq!(self.shares.insert(sender, share), None);
        Ok(())
    }

    fn remove(&mut self, sender: Owner) {
        assert!(self.shares.remove(&sender).is_some());
    }
}

fn account(owner: Owner) -> Account<Map> {
    Account::new(owner, Limits::of(owner), Map::default())
}

/// Charges it if that is allowed.
fn send(account: &mut Account<Map>, sender: Owner, more: Amount) -> bool {
    let admitted = account.admits(sender, more, false);
    if admitted {
        account.charge(sender, more).unwrap();
    }
    admitted
}

/// Sends as many as possible.
fn fill(account: &mut Account<Map>, sender: Owner, each: Amount) -> u32 {
    (0..).take_while(|_| send(account, sender, each)).count() as u32
}

#[test]
fn owners_have_names() {
    for (owner, name) in [
        (Owner::Bridge, "bridge"),
        (Owner::Uid(1000), "uid:1000"),
        (Owner::Guest(3), "vm:3"),
        (Owner::Uplink, "uplink"),
    ] {
        assert_eq!(owner.to_string(), name);
    }
}

/// 1 MiB is the largest message that there is to be.
#[test]
fn a_lone_sender_may_send_several_of_the_largest_messages() {
    let largest = Amount::message((1 << 20) + 192);
    let mut account = account(Owner::Uid(0));
    assert!(account.admits(Owner::Guest(1), largest, true));
    assert_eq!(fill(&mut account, Owner::Guest(1), largest), 15);
}

#[test]
fn a_lone_sender_gets_half_and_leaves_the_others_theirs() {
    let each = Amount::message(256);
    let mut account = account(Owner::Uid(0));
    let most = Limits::of(Owner::Uid(0)).in_flight.messages;
    assert_eq!(fill(&mut account, Owner::Guest(1), each), most / 2);
    assert_eq!(fill(&mut account, Owner::Guest(2), each), most / 6);
    assert_eq!(fill(&mut account, Owner::Guest(1), each), 0);
}

#[test]
fn slots_have_limits_and_no_division() {
    for owner in [Owner::Uid(0), Owner::Guest(1), Owner::Uplink, Owner::Bridge] {
        for slot in Slot::ALL {
            let mut account = account(owner);
            let most = Limits::of(owner).slots[slot as usize];
            assert!(account.take(slot, most), "{owner} {slot:?}");
            assert!(!account.take(slot, 1), "{owner} {slot:?}");
            assert!(!account.take(slot, u32::MAX), "{owner} {slot:?}");
            assert_eq!(account.statement().slots[slot as usize], most);
            assert_eq!(account.statement().refusals, 2);
            account.give(slot, most);
            assert_eq!(account.statement().slots, [0; Slot::ALL.len()]);
        }
    }
}

#[test]
fn a_refusal_is_told_of_once_for_each_sender() {
    let mut account = account(Owner::Uid(0));
    for sender in 0..TOLD as u32 {
        assert!(account.refuse(Owner::Guest(sender)));
        assert!(!account.refuse(Owner::Guest(sender)));
    }
    assert!(
        !account.refuse(Owner::Guest(TOLD as u32)),
        "no room to note it"
    );
    assert_eq!(account.statement().refusals, 2 * TOLD as u64 + 1);
}

#[test]
fn without_memory_nothing_is_charged() {
    let mut account = account(Owner::Uid(0));
    account.in_flight = Division::new(
        account.statement().limits.in_flight,
        Map {
            full: true,
            ..Map::default()
        },
    );
    // The first needs none.
    account.charge(Owner::Guest(1), Amount::message(1)).unwrap();
    let before = account.statement();
    assert_eq!(
        account.charge(Owner::Uplink, Amount::message(1)),
        Err(NoMemory)
    );
    assert_eq!(account.statement(), before);
}

#[test]
fn who_finds_no_room_can_see_that_there_was_news() {
    let mut account = account(Owner::Uid(0));
    let each = Amount::message(100);
    account.charge(Owner::Uplink, each).unwrap();
    let seen = account.changes();
    account.charge(Owner::Uplink, each).unwrap();
    assert_eq!(account.changes(), seen, "less room is no news");
    account.discharge(Owner::Uplink, each);
    assert_ne!(account.changes(), seen);
}

const SENDERS: u32 = 6;

#[derive(Clone, Debug)]
enum Op {
    Send(u32, u32),
    /// The oldest message on its way arrives.
    Arrive,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..SENDERS, prop_oneof![192u32..4096, 1u32 << 18..1 << 20])
            .prop_map(|(sender, bytes)| Op::Send(sender, bytes)),
        2 => Just(Op::Arrive),
    ]
}

proptest! {
    #[test]
    fn charges_are_bounded_and_return_to_zero(ops in prop::collection::vec(any_op(), 1..300)) {
        let mut account = account(Owner::Uid(0));
        let limit = Limits::of(Owner::Uid(0)).in_flight;
        let mut on_their_way = std::collections::VecDeque::new();
        for op in ops {
            match op {
                Op::Send(sender, bytes) => {
                    let (sender, amount) = (Owner::Guest(sender), Amount::message(bytes));
                    if send(&mut account, sender, amount) {
                        on_their_way.push_back((sender, amount));
                    }
                }
                Op::Arrive => {
                    if let Some((sender, amount)) = on_their_way.pop_front() {
                        account.discharge(sender, amount);
                    }
                }
            }
            let used = account.statement().in_flight;
            prop_assert!(used.bytes <= limit.bytes && used.messages <= limit.messages);
            let sum = on_their_way.iter().fold(Amount::default(), |sum, (_, a)| sum.plus(*a));
            prop_assert_eq!(used, sum);
        }
        for (sender, amount) in on_their_way {
            account.discharge(sender, amount);
        }
        prop_assert_eq!(account.statement().in_flight, Amount::default());
        prop_assert!(account.in_flight.admits(Owner::Uplink, Amount::message(limit.bytes / 2), false));
    }

    /// However many it floods, and whoever did before.
    #[test]
    fn an_attacker_cannot_take_an_honest_senders_part(
        others in prop::collection::vec((0..SENDERS, 192u32..1 << 20), 0..200),
        attacks in prop::collection::vec(192u32..1 << 20, 1..200),
    ) {
        let mut account = account(Owner::Uid(0));
        let (attacker, honest) = (Owner::Guest(SENDERS), Owner::Guest(SENDERS + 1));
        for (sender, bytes) in others {
            send(&mut account, Owner::Guest(sender), Amount::message(bytes));
        }
        for bytes in attacks {
            send(&mut account, attacker, Amount::message(bytes));
        }
        // All of the others, the attacker, and this one.
        let n = SENDERS + 2;
        let limit = Limits::of(Owner::Uid(0)).in_flight;
        let part = Amount { bytes: limit.bytes / (n * (n + 1)), messages: 1 };
        prop_assert!(account.admits(honest, part, false));
    }

    /// Nothing breaks where more is given back than was taken.
    #[test]
    fn nothing_underflows(slot in 0..Slot::ALL.len(), taken: u32, given: u32, amount: (u32, u32)) {
        let mut account = account(Owner::Guest(1));
        account.take(Slot::ALL[slot], taken);
        account.give(Slot::ALL[slot], given);
        account.discharge(Owner::Uplink, Amount { bytes: amount.0, messages: amount.1 });
        prop_assert_eq!(account.statement().in_flight, Amount::default());
    }
}
