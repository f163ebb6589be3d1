// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::outgoing::{Limits, Outgoing};
use mgmt_wire::{Address, AppId};
use proptest::{collection::vec, prelude::*};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// What may happen between a bridge that sends and one that takes.
#[derive(Clone, Debug)]
enum Step {
    Accept,
    Send,
    Deliver,
    Acknowledge,
    Disconnect,
    RestartSender,
    RestartReceiver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Accept),
        4 => Just(Step::Send),
        4 => Just(Step::Deliver),
        3 => Just(Step::Acknowledge),
        1 => Just(Step::Disconnect),
        1 => Just(Step::RestartSender),
        1 => Just(Step::RestartReceiver),
    ]
}

/// Two bridges, two daemons, and what is on the wire between them.
#[derive(Default)]
struct World {
    accepted: u64,
    /// The sender's bridge keeps what is not settled.
    unsettled: BTreeMap<u64, ()>,
    came_back: Vec<u64>,
    outgoing: Outgoing,
    there: VecDeque<u64>,
    back: VecDeque<u64>,
    /// What the receiver's daemon has in its journal, and its bridge has delivered.
    taken: Incoming,
    delivered: Vec<u64>,
}

impl World {
    fn connect(&mut self) {
        self.there.clear();
        self.back.clear();
        self.taken.begin(1);
        for number in self.outgoing.begin(self.taken.received) {
            self.unsettled.remove(&number);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Accept => {
                self.accepted += 1;
                let number = self.accepted * 3;
                self.unsettled.insert(number, ());
                if self.outgoing.push(number, Rc::new(vec![0; 10])).is_err() {
                    self.unsettled.remove(&number);
                    self.came_back.push(number);
                }
            }
            Step::Send => self
                .there
                .extend(self.outgoing.send_next().map(|(number, _)| number)),
            Step::Deliver => {
                if let Some(number) = self.there.pop_front() {
                    if self.taken.is_new(number) {
                        self.delivered.push(number);
                        self.taken.took(number);
                    }
                    self.back.push_back(self.taken.received);
                }
            }
            Step::Acknowledge => {
                if let Some(number) = self.back.pop_front() {
                    for number in self.outgoing.received(number) {
                        self.unsettled.remove(&number);
                    }
                }
            }
            Step::Disconnect | Step::RestartReceiver => self.connect(),
            Step::RestartSender => {
                self.outgoing = Outgoing::new(LIMITS);
                for &number in self.unsettled.keys() {
                    self.outgoing.push(number, Rc::new(vec![0; 10])).unwrap();
                }
                self.connect();
            }
        }
    }
}

const LIMITS: Limits = Limits {
    bytes: 1000,
    messages: 8,
};

proptest! {
    /// Whatever breaks: each message is delivered once, in order, or comes back.
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(steps in vec(step(), 1..300)) {
        let mut world = World {
            outgoing: Outgoing::new(LIMITS),
            ..World::default()
        };
        world.connect();
        for step in &steps {
            world.step(step);
        }
        world.connect();
        for _ in 0..LIMITS.messages {
            for step in [Step::Send, Step::Deliver, Step::Acknowledge] {
                world.step(&step);
            }
        }
        prop_assert!(world.unsettled.is_empty());
        prop_assert!(world.delivered.is_sorted_by(|a, b| a < b));
        let mut all = [world.delivered, world.came_back].concat();
        all.sort_unstable();
        let wanted: Vec<_> = (1..=world.accepted).map(|n| n * 3).collect();
        prop_assert_eq!(all, wanted);
    }

    /// A peer that acknowledges what it was not sent settles nothing by that.
    #[test]
    fn only_what_was_sent_is_settled(sent in 0usize..5, number: u64) {
        let mut outgoing = Outgoing::new(LIMITS);
        for number in 1..=5 {
            outgoing.push(number, Rc::new(vec![])).unwrap();
        }
        for _ in 0..sent {
            outgoing.send_next();
        }
        prop_assert!(outgoing.received(number).len() <= sent);
        prop_assert!(!outgoing.refused(5) || sent == 5);
    }
}

#[test]
fn a_refused_message_is_not_sent_again() {
    let mut outgoing = Outgoing::new(LIMITS);
    for number in [2, 5, 7] {
        outgoing.push(number, Rc::new(vec![1])).unwrap();
    }
    assert_eq!(outgoing.send_next().map(|next| next.0), Some(2));
    assert_eq!(outgoing.send_next().map(|next| next.0), Some(5));
    assert!(outgoing.refused(2));
    assert!(!outgoing.refused(2));
    assert_eq!(outgoing.send_next().map(|next| next.0), Some(7));
    assert_eq!(outgoing.received(9), [5, 7]);
}

#[test]
fn a_host_speaks_for_its_own_components_only() {
    let peer = Host([2; 16]);
    let app = AppId::new(b"App").unwrap();
    let vm = |mvm_ip| Component::Vm { mvm_ip, vm_id: 0 };
    let message = |component, kind| {
        let mut header = Header::new(kind, Address::new(vm([1; 16]), app), 0);
        header.source = Address::new(component, app);
        if kind == Kind::Undeliverable {
            header.reason = Reason::NoComponent;
        }
        header.encode().to_vec()
    };
    let hardware = |serial: &[u8]| Component::Hardware(Serial::new(serial).unwrap());
    let allowed = |component, kind| {
        let has = |serial: &Serial| serial.as_bytes() == b"CZ2";
        check(peer, &message(component, kind), |_| true, has).is_ok()
    };
    let data = |component| allowed(component, Kind::Data);
    assert!(data(vm([2; 16])));
    assert!(data(hardware(b"CZ2")));
    for component in [hardware(b"CZ1"), Component::Stable([2; 16])] {
        assert!(allowed(component, Kind::Undeliverable), "{component:?}");
    }
    for component in [
        vm([1; 16]),
        vm([3; 16]),
        vm([0; 16]),
        Component::Mvm,
        Component::SelfDomain,
        Component::Platform,
        Component::Everywhere,
        Component::Stable([2; 16]),
        hardware(b"CZ1"),
    ] {
        assert!(!data(component), "{component:?}");
    }
    let mut whole = message(vm([2; 16]), Kind::Data);
    assert!(check(peer, &whole[1..], |_| true, |_| true).is_err());
    whole.push(0);
    assert!(check(peer, &whole, |_| true, |_| true).is_err());
}

#[test]
fn a_host_brings_what_others_sent_to_the_guest_that_it_had() {
    let peer = Host([2; 16]);
    let app = AppId::new(b"App").unwrap();
    let source = Component::Vm {
        mvm_ip: [1; 16],
        vm_id: 0,
    };
    let allowed = |to: Component, source| {
        let mut header = Header::new(Kind::Data, Address::new(to, app), 0);
        header.source = Address::new(source, app);
        check(peer, &header.encode(), |guest| *guest == [7; 16], |_| false).is_ok()
    };
    assert!(allowed(Component::Stable([7; 16]), source));
    assert!(!allowed(Component::Stable([8; 16]), source));
    assert!(!allowed(source, source));
    assert!(!allowed(Component::Stable([7; 16]), Component::Mvm));
}
