// SPDX-License-Identifier: GPL-2.0

#![cfg(not(loom))]

mod cost;
mod model;

use super::*;
use crate::wire::Address;
use std::collections::BTreeMap;

/// Between whom and of what kind a message is that the rules are asked about.
type Asked = (Component, Component, Kind);
/// From where a message comes and to whom; between whom the rules are asked about it, if they are.
type Case = (Origin, Component, Option<(Component, Component)>);

/// Endpoints and links are told apart by numbers.
struct Numbers;

impl Parts for Numbers {
    type Endpoint = u64;
    type Link = u32;
    type Fabric = ();
    type Map<K: Copy + Ord, V: Clone> = BTreeMap<K, V>;

    fn stable_name(link: &u32) -> Option<Uuid> {
        Some([*link as u8; 16])
    }

    fn is_arriving(link: &u32) -> bool {
        *link == ARRIVING
    }
}

const MVM: VmName = VmName {
    mvm_ip: [1; 16],
    vm_id: 0,
};
const NAMES: Names = Names {
    mvm: MVM,
    above: Above::Nobody,
    stable: None,
};
/// The link of a guest that has just come from another platform.
const ARRIVING: u32 = 40;
/// The number of the uplink: no guest has it.
const UPLINK: u32 = u32::MAX;

fn app(number: u64) -> AppId {
    AppId::new(format!("App{number}").as_bytes()).unwrap()
}

fn guest(vm_id: u32) -> Component {
    NAMES.guest(vm_id)
}

fn serial(number: u64) -> Serial {
    Serial::new(format!("S{number}").as_bytes()).unwrap()
}

fn entry(service: impl Into<Service>, number: u64, shared: bool) -> (EndpointKey, Bound<u64>) {
    let bound = Bound {
        endpoint: number,
        shared,
    };
    ((service.into(), number), bound)
}

fn to(app: AppId, component: Component) -> Header {
    Header::new(Kind::Data, Address::new(component, app), 0)
}

/// Says the same of everything, and keeps what it was asked.
struct Always(Verdict, std::cell::RefCell<Vec<Asked>>);

impl Always {
    fn new(verdict: Verdict) -> Self {
        Self(verdict, Default::default())
    }
}

impl Rules for Always {
    fn decide(&self, _: VmName, source: &End, destination: &End, kind: Kind) -> Verdict {
        let asked = (source.component, destination.component, kind);
        self.1.borrow_mut().push(asked);
        self.0
    }
}

/// One endpoint, and two guests with this domain's verdict about what passes between them.
fn small() -> Directory<Numbers> {
    let mut directory = Directory::new(NAMES);
    directory.bind(entry(app(1), 7, false));
    directory.add_guest((3, 3));
    directory.add_guest((5, 5));
    directory
}

#[test]
fn rules_are_asked_about_guests_and_with_resolved_names() {
    let directory = small();
    let cases: &[Case] = &[
        (Origin::Local, Component::SelfDomain, None),
        (Origin::Local, Component::Mvm, None),
        (Origin::Local, guest(3), Some((MVM.into(), guest(3)))),
        (
            Origin::Guest(3),
            Component::Mvm,
            Some((guest(3), MVM.into())),
        ),
        (Origin::Guest(3), guest(5), Some((guest(3), guest(5)))),
        (
            Origin::Guest(3),
            Component::SelfDomain,
            Some((guest(3), guest(3))),
        ),
        (Origin::Uplink, MVM.into(), None),
        // What is no destination is refused for that.
        (Origin::Guest(3), Component::Unspecified, None),
    ];
    for &(origin, component, asked) in cases {
        let rules = Always::new(Verdict::Deny);
        let mut header = to(app(1), component);
        if let Origin::Guest(id) = origin {
            header.source = Address::new(guest(id), app(9));
        }
        let found = directory.find(&rules, origin, &header);
        let denied = found == Err(NoReceiver::Unreachable(Reason::Denied));
        assert_eq!(denied, asked.is_some(), "{origin:?} {component:?}");
        let expected: Vec<Asked> = asked.iter().map(|&(a, b)| (a, b, Kind::Data)).collect();
        assert_eq!(*rules.1.borrow(), expected, "{origin:?} {component:?}");
    }
}

#[test]
fn rules_are_asked_about_hardware_whoever_serves_it() {
    let mut directory = small();
    let hardware = Component::Hardware(serial(1));
    let service = Service {
        serial: Some(serial(1)),
        app: app(2),
    };
    directory.bind(entry(service, 8, false));
    let cases = [
        (Origin::Local, MVM.into(), hardware, app(2)),
        (Origin::Local, hardware, MVM.into(), app(1)),
        (Origin::Local, hardware, guest(3), app(1)),
        (Origin::Guest(3), guest(3), hardware, app(2)),
    ];
    for (origin, source, destination, whom) in cases {
        let rules = Always::new(Verdict::Allow);
        let header = Header {
            source: Address::new(source, app(9)),
            ..to(whom, destination)
        };
        assert!(
            directory.find(&rules, origin, &header).is_ok(),
            "{header:?}"
        );
        assert_eq!(
            *rules.1.borrow(),
            [(source, destination, Kind::Data)],
            "{header:?}"
        );
    }
}

#[test]
fn a_rule_sends_through_a_broker_of_this_domain_or_nowhere() {
    let directory = small();
    let header = to(app(2), guest(5));
    let find = |broker| {
        let rules = Always::new(Verdict::Through(broker));
        directory.find(&rules, Origin::Guest(3), &header)
    };
    assert_eq!(find(app(1)), Ok((Receiver::Endpoint(7), guest(5))));
    let nobody = NoReceiver::Unreachable(Reason::NoEndpoint);
    assert_eq!(find(app(2)), Err(nobody));
}

#[test]
fn a_stable_name_leads_to_the_guest_that_has_it_now() {
    let mut directory = small();
    let find = |directory: &Directory<Numbers>| {
        let header = to(app(1), Component::Stable([7; 16]));
        directory.find(&Always::new(Verdict::Allow), Origin::Local, &header)
    };
    let nobody = Err(NoReceiver::Unreachable(Reason::NoComponent));
    assert_eq!(find(&directory), nobody);
    for id in [3, 5] {
        directory.set_stable(([7; 16], id));
        assert_eq!(find(&directory), Ok((Receiver::Link(id), guest(id))));
    }
    // The guest that had it before does not take it along.
    assert_eq!(directory.remove_stable(&[7; 16], 3), None);
    assert!(find(&directory).is_ok());
    assert!(directory.remove_stable(&[7; 16], 5).is_some());
    assert_eq!(find(&directory), nobody);
}

#[test]
fn an_answer_follows_the_guest_that_asked() {
    let mut directory = small();
    let find = |directory: &Directory<Numbers>, kind, component| {
        let header = Header {
            kind,
            ..to(app(1), component)
        };
        directory.find(&Always::new(Verdict::Allow), Origin::Local, &header)
    };
    let nobody = Err(NoReceiver::Unreachable(Reason::NoComponent));
    // 3 is 8 now, and then 9.
    directory.remove_guest(3);
    directory.add_guest((8, 8));
    assert_eq!(directory.set_former(3, (3, 8)), None);
    for kind in [Kind::Reply, Kind::Terminate] {
        let found = find(&directory, kind, guest(3));
        assert_eq!(found, Ok((Receiver::Link(8), guest(8))));
    }
    assert_eq!(find(&directory, Kind::Data, guest(3)), nobody);
    // What it sent before may come back.
    let back = directory.find_asker(Origin::Local, &to(app(1), guest(3)));
    assert_eq!(back, Ok((Receiver::Link(8), guest(8))));
    directory.remove_guest(8);
    directory.add_guest((9, 9));
    assert_eq!(directory.set_former(8, (8, 9)), Some((3, 8)));
    assert_eq!(find(&directory, Kind::Reply, guest(3)), nobody);
    let found = find(&directory, Kind::Reply, guest(8));
    assert_eq!(found, Ok((Receiver::Link(9), guest(9))));
    // Another domain has that name now.
    directory.add_guest((8, 8));
    let found = find(&directory, Kind::Reply, guest(8));
    assert_eq!(found, Ok((Receiver::Link(8), guest(8))));
    directory.remove_guest(8);
    assert_eq!(directory.remove_former(9), Some((8, 9)));
    assert_eq!(find(&directory, Kind::Reply, guest(8)), nobody);
}

#[test]
fn a_guest_that_arrives_is_found_by_what_other_platforms_bring() {
    let mut directory = Directory::<Numbers>::new(NAMES);
    directory.fabric = Some(());
    let rules = Always::new(Verdict::Allow);
    let header = to(app(1), Component::Stable([40; 16]));
    for (link, here) in [(ARRIVING, false), (5, true)] {
        directory.add_guest((2, link));
        directory.set_stable(([40; 16], 2));
        let to_link = Ok((Receiver::Link(link), guest(2)));
        let to_fabric = Ok((Receiver::Fabric(()), header.destination.component));
        assert_eq!(directory.find(&rules, Origin::Fabric, &header), to_link);
        for origin in [Origin::Local, Origin::Guest(7)] {
            let wanted = if here { to_link } else { to_fabric };
            assert_eq!(
                directory.find(&rules, origin, &header),
                wanted,
                "{origin:?}"
            );
        }
    }
}

#[test]
fn what_leads_up_needs_a_channel_and_loses_its_name_with_it() {
    let own = VmName {
        mvm_ip: [2; 16],
        vm_id: 7,
    };
    let above = Above::Connected { own, mvm_id: 0 };
    let mut directory = Directory::<Numbers>::new(Names {
        mvm: MVM,
        above,
        stable: None,
    });
    let header = to(app(1), Component::Mvm);
    let find = |directory: &Directory<Numbers>| {
        let found = directory.find_asker(Origin::Local, &header);
        found.map(|(receiver, _)| receiver)
    };
    assert_eq!(find(&directory), Err(NoReceiver::NotConnected));
    directory.set_uplink(UPLINK);
    assert_eq!(find(&directory), Ok(Receiver::Link(UPLINK)));
    assert_eq!(directory.link(Origin::Uplink), Some(&UPLINK));
    directory.remove_uplink();
    assert_eq!(find(&directory), Err(NoReceiver::NotConnected));
    assert_eq!(directory.names.above, Above::Disconnected);
}

/// Says no to what leaves for hardware of other platforms, or comes from it, and yes to the rest.
struct NotElsewhere(bool);

impl Rules for NotElsewhere {
    fn decide(&self, _: VmName, source: &End, destination: &End, _: Kind) -> Verdict {
        if self.0 && (source.elsewhere || destination.elsewhere) {
            Verdict::Deny
        } else {
            Verdict::Allow
        }
    }
}

#[test]
fn hardware_that_nobody_serves_here_is_sought_elsewhere() {
    let mut directory = small();
    let hardware = Component::Hardware(serial(1));
    let service = Service {
        serial: Some(serial(1)),
        app: app(2),
    };
    let find = |directory: &Directory<Numbers>, origin, denied| {
        let header = Header {
            source: Address::new(guest(3), app(9)),
            ..to(app(2), hardware)
        };
        let found = directory.find(&NotElsewhere(denied), origin, &header);
        found.map(|(receiver, component)| {
            assert_eq!(component, hardware);
            receiver
        })
    };
    let nobody = Err(NoReceiver::Unreachable(Reason::NoComponent));
    let origins = [Origin::Local, Origin::Guest(3)];
    for origin in origins {
        assert_eq!(find(&directory, origin, false), nobody);
    }
    directory.fabric = Some(());
    for origin in origins {
        assert_eq!(find(&directory, origin, false), Ok(Receiver::Fabric(())));
        // Who may ask for the hardware of this platform only hears that it is not there.
        assert_eq!(find(&directory, origin, true), nobody);
    }
    // What comes from another platform is not sent on.
    assert_eq!(find(&directory, Origin::Fabric, false), nobody);
    directory.bind(entry(service, 8, false));
    for origin in [Origin::Local, Origin::Guest(3), Origin::Fabric] {
        assert_eq!(find(&directory, origin, false), Ok(Receiver::Endpoint(8)));
    }
}

#[test]
fn the_fabric_does_not_speak_for_hardware_that_is_served_here() {
    let mut directory = small();
    let header = |kind, flags| Header {
        kind,
        flags,
        source: Address::new(Component::Hardware(serial(1)), app(2)),
        ..to(app(1), MVM.into())
    };
    let may_come =
        |directory: &Directory<Numbers>, kind| directory.may_come(&header(kind, Flags::NONE));
    for kind in [Kind::Data, Kind::Reply, Kind::Undeliverable] {
        assert!(may_come(&directory, kind), "{kind:?}");
    }
    let service = Service {
        serial: Some(serial(1)),
        app: app(5),
    };
    directory.bind(entry(service, 8, false));
    for kind in [Kind::Data, Kind::Reply, Kind::Undeliverable] {
        assert!(!may_come(&directory, kind), "{kind:?}");
    }
    assert!(directory.may_come(&header(Kind::Undeliverable, Flags::REQUEST)));
}

/// Who gets a broadcast to everybody, by what these rules say.
fn reached(
    directory: &Directory<Numbers>,
    rules: &impl Rules,
    origin: Origin,
    source: Component,
) -> Vec<(Receiver<u64, u32, ()>, Component)> {
    let header = Header {
        source: Address::new(source, app(9)),
        ..to(app(1), Component::Everywhere)
    };
    let mut found = Vec::new();
    let add = |receiver, component| {
        found.push((receiver, component));
        Ok::<(), NoReceiver>(())
    };
    let result = directory.find_all(rules, origin, &header, u64::MAX, add);
    assert_eq!(result, Ok(()), "{origin:?}");
    found
}

#[test]
fn what_is_for_everybody_leaves_once_and_does_not_come_back() {
    let mut directory = small();
    let rules = Always::new(Verdict::Allow);
    let here = (Receiver::Endpoint(7), MVM.into());
    let (three, five) = ((Receiver::Link(3), guest(3)), (Receiver::Link(5), guest(5)));
    let there = (Receiver::Fabric(()), Component::Everywhere);
    let remote = Component::Vm {
        mvm_ip: [9; 16],
        vm_id: 0,
    };
    let all =
        |directory: &Directory<Numbers>, origin, source| reached(directory, &rules, origin, source);
    // Without a fabric it is the platform.
    assert_eq!(
        all(&directory, Origin::Local, MVM.into()),
        [here, three, five]
    );
    directory.fabric = Some(());
    assert_eq!(
        all(&directory, Origin::Local, MVM.into()),
        [here, three, five, there]
    );
    assert_eq!(
        all(&directory, Origin::Guest(3), guest(3)),
        [here, five, there]
    );
    assert_eq!(all(&directory, Origin::Fabric, remote), [here, three, five]);
}

#[test]
fn rules_are_asked_about_each_receiver_and_once_about_the_fabric() {
    let mut directory = small();
    directory.fabric = Some(());
    for verdict in [Verdict::Allow, Verdict::Deny, Verdict::Through(app(1))] {
        let rules = Always::new(verdict);
        let found = reached(&directory, &rules, Origin::Guest(3), guest(3));
        let asked = [MVM.into(), guest(5), Component::Everywhere];
        let asked = asked.map(|component| (guest(3), component, Kind::Data));
        assert_eq!(*rules.1.borrow(), asked);
        // A broker gets what is for one, and not what is for all other platforms.
        let expected = match verdict {
            Verdict::Allow => vec![
                Receiver::Endpoint(7),
                Receiver::Link(5),
                Receiver::Fabric(()),
            ],
            Verdict::Deny => vec![],
            Verdict::Through(_) => vec![Receiver::Endpoint(7); 2],
        };
        let receivers: Vec<_> = found.into_iter().map(|(receiver, _)| receiver).collect();
        assert_eq!(receivers, expected, "{verdict:?}");
    }
    let rules = Always::new(Verdict::Allow);
    let nobody = Err(NoReceiver::Unreachable(Reason::NoComponent));
    // What comes back comes back to one.
    let header = Header {
        kind: Kind::Undeliverable,
        ..to(app(1), Component::Everywhere)
    };
    let found = |_, _| -> Result<(), NoReceiver> { panic!("it has a receiver") };
    let all = directory.find_all(&rules, Origin::Guest(3), &header, u64::MAX, found);
    assert_eq!(all, Err(NoReceiver::Unreachable(Reason::NoComponent)));
    // To one it goes nowhere.
    for origin in [Origin::Local, Origin::Guest(3), Origin::Fabric] {
        let found = directory.find(&rules, origin, &to(app(1), Component::Everywhere));
        assert_eq!(found, nobody, "{origin:?}");
    }
}

#[test]
fn hardware_is_listed_once_and_in_order() {
    let mut directory = small();
    assert_eq!(directory.hardware_after(None), None);
    for (endpoint, (number, name)) in (20..).zip([(2, 1), (1, 1), (2, 3), (1, 2), (4, 1)]) {
        let service = Service {
            serial: Some(serial(number)),
            app: app(name),
        };
        directory.bind(entry(service, endpoint, true));
    }
    let next = |last: &Option<Serial>| Some(directory.hardware_after(*last));
    let all = std::iter::successors(Some(None), next).skip(1);
    let all: Vec<_> = all.map_while(|serial| serial).collect();
    assert_eq!(all, [1, 2, 4].map(serial));
}
