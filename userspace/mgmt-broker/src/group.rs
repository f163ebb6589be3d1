// SPDX-License-Identifier: MIT OR Apache-2.0

//! Several brokers of one application, of which one decides: the one with the lowest address of
//! those that are there. Everybody, broker or agent, finds it by presence.

use crate::application::{Application, Orders};
use crate::sessions::{Agent, Ended};
use mgmt_channel::{Address, Component, Event, Presence};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who is there.
#[derive(Clone, Debug, Default)]
pub struct Group(BTreeSet<Address>);

impl Group {
    /// Takes in what a watch of the application's App_ID on the platform tells.
    pub fn hear(&mut self, presence: &Presence) {
        match presence.event {
            Event::Down => drop(self.0.remove(&presence.who)),
            _ => drop(self.0.insert(presence.who)),
        }
    }

    /// Who decides.
    pub fn leader(&self) -> Option<Address> {
        self.0.first().copied()
    }

    /// Whether `own` is the leader's component.
    pub fn is_led_by(&self, own: Component) -> bool {
        self.leader().is_some_and(|leader| leader.component == own)
    }
}

/// An application that admits agents only while its broker leads.
pub struct Led<A> {
    application: A,
    leads: Arc<AtomicBool>,
}

impl<A> Led<A> {
    /// `leads` is set by who watches the group.
    pub fn new(application: A, leads: Arc<AtomicBool>) -> Self {
        Self { application, leads }
    }
}

impl<A: Application> Application for Led<A> {
    const APP: &'static str = A::APP;
    const VERSIONS: RangeInclusive<u16> = A::VERSIONS;
    type Report = A::Report;
    type Order = A::Order;

    fn joins(&mut self, agent: &Agent) -> bool {
        self.leads.load(Ordering::Relaxed) && self.application.joins(agent)
    }

    fn reported(&mut self, agent: &Agent, report: A::Report, orders: &mut Orders<A::Order>) {
        self.application.reported(agent, report, orders);
    }

    fn left(&mut self, agent: &Agent, why: Ended, orders: &mut Orders<A::Order>) {
        self.application.left(agent, why, orders);
    }

    fn tick(&mut self, orders: &mut Orders<A::Order>) {
        self.application.tick(orders);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mgmt_channel::AppId;
    use proptest::prelude::*;

    fn member(vm_id: u32) -> Address {
        let mvm_ip = [0; 16];
        Address::new(Component::Vm { mvm_ip, vm_id }, AppId::new(b"A").unwrap())
    }

    proptest! {
        /// Whoever has heard of the same members, in whatever order, has the same leader.
        #[test]
        fn all_agree(told in prop::collection::vec((0..5u32, any::<bool>()), 0..30)) {
            let mut group = Group::default();
            let mut there = BTreeSet::new();
            for (vm_id, up) in told {
                let event = if up { Event::Up } else { Event::Down };
                group.hear(&Presence { who: member(vm_id), event });
                if up { there.insert(vm_id); } else { there.remove(&vm_id); }
            }
            prop_assert_eq!(group.leader(), there.first().copied().map(member));
        }
    }
}
