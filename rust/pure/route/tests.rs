// SPDX-License-Identifier: GPL-2.0

#![cfg(not(loom))]

use super::*;
use crate::wire::{AppId, Kind, Serial};
use proptest::prelude::*;

const NONE: [u8; 16] = UNSPECIFIED_IP;
/// The platform that this domain manages.
const OURS: [u8; 16] = [1; 16];
/// The platform that this domain is a guest of.
const ABOVE: [u8; 16] = [2; 16];
/// Another platform.
const OTHER: [u8; 16] = [3; 16];
const ADDRESSES: [[u8; 16]; 4] = [NONE, OURS, ABOVE, OTHER];

/// This domain as a management VM, and as a guest; the management VM above; two guests.
const MVM_ID: u32 = 4;
const OWN_ID: u32 = 7;
const ABOVE_ID: u32 = 0;
const GUEST: u32 = 3;
const SIBLING: u32 = 5;
const IDS: [u32; 5] = [MVM_ID, OWN_ID, ABOVE_ID, GUEST, SIBLING];

const MVM: VmName = VmName {
    mvm_ip: OURS,
    vm_id: MVM_ID,
};
const CONNECTED: Above = Above::Connected {
    own: VmName {
        mvm_ip: ABOVE,
        vm_id: OWN_ID,
    },
    mvm_id: ABOVE_ID,
};

const UNREACHABLE: Route = Route::Unreachable(Reason::NoComponent);
const STABLE: Component = Component::Stable([9; 16]);

fn vm(mvm_ip: [u8; 16], vm_id: u32) -> Component {
    Component::Vm { mvm_ip, vm_id }
}

fn serial() -> Serial {
    Serial::new(b"CZ342").unwrap()
}

fn hardware() -> Component {
    Component::Hardware(serial())
}

fn names(above: Above) -> Names {
    Names {
        mvm: MVM,
        above,
        stable: None,
    }
}

/// Where messages to some components go, and under which name.
struct Table(Vec<(Component, Route, Component)>);

impl Table {
    /// These go there, under this name.
    fn named(mut self, to: &[Component], route: Route, name: Component) -> Self {
        self.0.extend(to.iter().map(|&to| (to, route, name)));
        self
    }

    /// These go there, under the name that they have.
    fn kept(mut self, to: &[Component], route: Route) -> Self {
        self.0.extend(to.iter().map(|&to| (to, route, to)));
        self
    }

    /// These VMs of the platform with this address are our guests.
    fn guests(mut self, mvm_ip: [u8; 16], ids: &[u32]) -> Self {
        self.0.extend(
            ids.iter()
                .map(|&id| (vm(mvm_ip, id), Route::Guest(id), vm(OURS, id))),
        );
        self
    }

    /// These VMs of the platform with this address go there, under the name that they have.
    fn vms(self, mvm_ip: [u8; 16], ids: &[u32], route: Route) -> Self {
        let vms: Vec<_> = ids.iter().map(|&id| vm(mvm_ip, id)).collect();
        self.kept(&vms, route)
    }

    /// Checks the routes, and that there is one for every component.
    fn check(self, above: Above, origin: Origin) {
        for (to, expected_route, name) in &self.0 {
            assert_eq!(
                route(&names(above), origin, to),
                (*expected_route, *name),
                "{above:?}, from {origin:?} to {to:?}"
            );
        }
        for component in components() {
            let rows = self.0.iter().filter(|row| row.0 == component).count();
            assert_eq!(rows, 1, "{above:?}, from {origin:?}: {component:?}");
        }
    }
}

fn components() -> Vec<Component> {
    let mut components = vec![
        Component::Unspecified,
        Component::SelfDomain,
        Component::Mvm,
        Component::Platform,
        Component::Everywhere,
        STABLE,
        hardware(),
    ];
    for address in ADDRESSES {
        components.extend(IDS.map(|id| vm(address, id)));
    }
    components
}

/// All but the first.
const NOT_MVM: &[u32] = &[OWN_ID, ABOVE_ID, GUEST, SIBLING];
const NOT_OWN: &[u32] = &[MVM_ID, ABOVE_ID, GUEST, SIBLING];

#[test]
fn a_domain_is_where_its_own_stable_name_leads() {
    for above in [Above::Nobody, Above::Disconnected, CONNECTED] {
        let names = Names {
            stable: Some([9; 16]),
            ..names(above)
        };
        let here = (Route::Local, names.own().into());
        assert_eq!(route(&names, Origin::Local, &STABLE), here, "{above:?}");
        // Of its guests, none has that name.
        let elsewhere = route(&names, Origin::Guest(GUEST), &STABLE).0;
        assert_ne!(elsewhere, Route::Local, "{above:?}");
    }
}

#[test]
fn the_platforms_management_vm_knows_its_guests_and_nobody_else() {
    let own = MVM.into();
    let table = || {
        Table(vec![])
            .kept(&[Component::Unspecified], UNREACHABLE)
            .kept(&[STABLE], Route::Fabric)
            .kept(&[hardware()], Route::Hardware(serial()))
            .named(&[Component::Mvm], Route::Local, own)
            .kept(&[Component::Platform], Route::LocalAndGuests)
            .kept(&[Component::Everywhere], Route::Everywhere)
            .named(&[vm(NONE, MVM_ID), vm(OURS, MVM_ID)], Route::Local, own)
            .guests(NONE, NOT_MVM)
            .guests(OURS, NOT_MVM)
            .vms(ABOVE, &IDS, Route::Fabric)
            .vms(OTHER, &IDS, Route::Fabric)
    };
    table()
        .named(&[Component::SelfDomain], Route::Local, own)
        .check(Above::Nobody, Origin::Local);
    table()
        .named(
            &[Component::SelfDomain],
            Route::Guest(GUEST),
            vm(OURS, GUEST),
        )
        .check(Above::Nobody, Origin::Guest(GUEST));
}

#[test]
fn a_guest_without_channel_leaves_to_it_what_is_not_its_own() {
    Table(vec![])
        .kept(&[Component::Unspecified], UNREACHABLE)
        .named(&[Component::SelfDomain], Route::Local, MVM.into())
        .kept(&[Component::Mvm, STABLE, hardware()], Route::Uplink)
        .kept(
            &[Component::Platform, Component::Everywhere],
            Route::LocalAndUplink,
        )
        .named(
            &[vm(NONE, MVM_ID), vm(OURS, MVM_ID)],
            Route::Local,
            MVM.into(),
        )
        .vms(NONE, NOT_MVM, Route::Uplink)
        .guests(OURS, NOT_MVM)
        .vms(ABOVE, &IDS, Route::Uplink)
        .vms(OTHER, &IDS, Route::Uplink)
        .check(Above::Disconnected, Origin::Local);
}

#[test]
fn a_guest_sends_up_what_is_not_its_own() {
    let own = vm(ABOVE, OWN_ID);
    Table(vec![])
        .kept(&[Component::Unspecified], UNREACHABLE)
        .named(&[Component::SelfDomain], Route::Local, own)
        .named(&[vm(NONE, OWN_ID), vm(ABOVE, OWN_ID)], Route::Local, own)
        .named(&[Component::Mvm], Route::Uplink, vm(ABOVE, ABOVE_ID))
        .kept(
            &[Component::Platform, Component::Everywhere],
            Route::LocalAndUplink,
        )
        .kept(&[STABLE, hardware()], Route::Uplink)
        // Without an address, the platform is the one that it is a guest of.
        .vms(NONE, NOT_OWN, Route::Uplink)
        .vms(ABOVE, NOT_OWN, Route::Uplink)
        .vms(OTHER, &IDS, Route::Uplink)
        .named(&[vm(OURS, MVM_ID)], Route::Local, MVM.into())
        .guests(OURS, NOT_MVM)
        .check(CONNECTED, Origin::Local);
}

#[test]
fn to_the_guests_of_a_guest_it_is_their_management_vm() {
    for above in [Above::Disconnected, CONNECTED] {
        Table(vec![])
            .kept(&[Component::Unspecified], UNREACHABLE)
            .named(
                &[Component::SelfDomain],
                Route::Guest(GUEST),
                vm(OURS, GUEST),
            )
            .named(&[Component::Mvm], Route::Local, MVM.into())
            .kept(
                &[Component::Platform, Component::Everywhere],
                Route::LocalAndGuests,
            )
            .kept(&[STABLE, hardware()], Route::Uplink)
            .named(
                &[vm(NONE, MVM_ID), vm(OURS, MVM_ID)],
                Route::Local,
                MVM.into(),
            )
            .guests(NONE, NOT_MVM)
            .guests(OURS, NOT_MVM)
            .vms(ABOVE, &IDS, Route::Uplink)
            .vms(OTHER, &IDS, Route::Uplink)
            .check(above, Origin::Guest(GUEST));
    }
}

#[test]
fn what_comes_from_above_is_for_this_domain() {
    for above in [Above::Nobody, Above::Disconnected, CONNECTED] {
        let own = names(above).own().into();
        let mut table = Table(vec![])
            .kept(
                &[
                    Component::Unspecified,
                    Component::SelfDomain,
                    Component::Mvm,
                    Component::Platform,
                    Component::Everywhere,
                    hardware(),
                ],
                UNREACHABLE,
            )
            .named(&[STABLE], Route::Local, own);
        for address in ADDRESSES {
            table = table.named(&IDS.map(|id| vm(address, id)), Route::Local, own);
        }
        table.check(above, Origin::Uplink);
    }
}

#[test]
fn what_another_platform_sends_is_for_this_one() {
    let own = MVM.into();
    let table = || {
        Table(vec![])
            .kept(
                &[
                    Component::Unspecified,
                    Component::SelfDomain,
                    Component::Mvm,
                    Component::Platform,
                ],
                UNREACHABLE,
            )
            .kept(&[Component::Everywhere], Route::LocalAndGuests)
            .kept(&[hardware()], Route::Hardware(serial()))
            .named(&[vm(OURS, MVM_ID)], Route::Local, own)
            .guests(OURS, NOT_MVM)
            .vms(NONE, &IDS, UNREACHABLE)
            .vms(ABOVE, &IDS, UNREACHABLE)
            .vms(OTHER, &IDS, UNREACHABLE)
    };
    table()
        .kept(&[STABLE], UNREACHABLE)
        .check(Above::Nobody, Origin::Fabric);
    let named = Names {
        stable: Some([9; 16]),
        ..names(Above::Nobody)
    };
    assert_eq!(route(&named, Origin::Fabric, &STABLE), (Route::Local, own));
}

#[test]
fn a_remote_source_is_a_vm_of_another_platform_or_hardware() {
    let names = names(Above::Nobody);
    for source in [vm(OTHER, MVM_ID), hardware()] {
        assert!(is_remote(&names, &source, Kind::Data), "{source:?}");
    }
    for name in [STABLE, hardware()] {
        assert!(is_remote(&names, &name, Kind::Undeliverable), "{name:?}");
    }
    assert!(!is_remote(&names, &vm(OURS, GUEST), Kind::Undeliverable));
    for source in [
        vm(OURS, MVM_ID),
        vm(OURS, GUEST),
        vm(NONE, GUEST),
        STABLE,
        Component::Mvm,
        Component::SelfDomain,
        Component::Platform,
        Component::Everywhere,
        Component::Unspecified,
    ] {
        assert!(!is_remote(&names, &source, Kind::Data), "{source:?}");
    }
}

#[test]
fn a_domain_sends_under_the_name_that_its_management_vm_knows() {
    assert_eq!(names(Above::Nobody).own(), MVM);
    assert_eq!(names(Above::Disconnected).own(), MVM);
    assert_eq!(Component::from(names(CONNECTED).own()), vm(ABOVE, OWN_ID));
}

/// Until somebody sets the address of the management VM, nobody has one.
#[test]
fn routes_need_no_addresses() {
    let vm = |id| vm(NONE, id);
    let name = |vm_id| VmName {
        mvm_ip: NONE,
        vm_id,
    };
    let top = Names {
        mvm: name(0),
        above: Above::Nobody,
        stable: None,
    };
    let guest = Names {
        mvm: name(7),
        above: Above::Connected {
            own: name(7),
            mvm_id: 0,
        },
        stable: None,
    };
    for (names, origin, to, expected) in [
        (top, Origin::Local, vm(0), (Route::Local, vm(0))),
        (top, Origin::Local, vm(7), (Route::Guest(7), vm(7))),
        (top, Origin::Guest(7), vm(0), (Route::Local, vm(0))),
        (top, Origin::Guest(7), vm(8), (Route::Guest(8), vm(8))),
        (top, Origin::Guest(7), Component::Mvm, (Route::Local, vm(0))),
        (guest, Origin::Local, vm(7), (Route::Local, vm(7))),
        (guest, Origin::Local, vm(0), (Route::Uplink, vm(0))),
        (guest, Origin::Local, vm(8), (Route::Uplink, vm(8))),
        (guest, Origin::Local, Component::Mvm, (Route::Uplink, vm(0))),
        (guest, Origin::Uplink, vm(7), (Route::Local, vm(7))),
    ] {
        assert_eq!(route(&names, origin, &to), expected, "{origin:?} to {to:?}");
    }
}

/// A platform's management VM, or a guest at any moment of its life. Addresses may be unset.
fn any_names() -> impl Strategy<Value = Names> {
    let address = |set| prop::sample::select(vec![NONE, set]);
    let above = prop_oneof![
        Just(Above::Nobody),
        Just(Above::Disconnected),
        address(ABOVE).prop_map(|mvm_ip| Above::Connected {
            own: VmName {
                mvm_ip,
                vm_id: OWN_ID
            },
            mvm_id: ABOVE_ID,
        }),
    ];
    // Its own id is the same on both platforms, or not.
    (
        address(OURS),
        prop::sample::select(vec![MVM_ID, OWN_ID]),
        above,
    )
        .prop_map(|(mvm_ip, vm_id, above)| Names {
            mvm: VmName { mvm_ip, vm_id },
            above,
            stable: None,
        })
}

fn any_origin() -> impl Strategy<Value = Origin> {
    prop::sample::select(vec![
        Origin::Local,
        Origin::Guest(GUEST),
        Origin::Guest(SIBLING),
        Origin::Uplink,
        Origin::Fabric,
    ])
}

fn any_component() -> impl Strategy<Value = Component> {
    prop_oneof![
        prop::sample::select(components()),
        any::<([u8; 16], u32)>().prop_map(|(mvm_ip, vm_id)| vm(mvm_ip, vm_id)),
    ]
}

proptest! {
    #[test]
    fn nothing_goes_back_up_or_further_down_from_above(
        names in any_names(),
        to in any_component(),
    ) {
        let (route, _) = route(&names, Origin::Uplink, &to);
        prop_assert!(matches!(route, Route::Local | Route::Unreachable(_)));
    }

    #[test]
    fn nothing_goes_from_one_platform_by_this_to_a_third(
        names in any_names(),
        to in any_component(),
    ) {
        let (route, _) = route(&names, Origin::Fabric, &to);
        prop_assert!(!matches!(
            route,
            Route::Fabric | Route::Everywhere | Route::Uplink | Route::LocalAndUplink
        ));
    }

    #[test]
    fn only_the_platforms_own_management_vm_has_a_fabric(
        names in any_names(),
        origin in any_origin(),
        to in any_component(),
    ) {
        let (route, _) = route(&names, origin, &to);
        let leaves = matches!(route, Route::Fabric | Route::Everywhere);
        prop_assert!(!leaves || names.above == Above::Nobody);
    }

    #[test]
    fn nothing_goes_up_where_nobody_is_above(
        names in any_names(),
        origin in any_origin(),
        to in any_component(),
    ) {
        let (route, _) = route(&names, origin, &to);
        let up = matches!(route, Route::Uplink | Route::LocalAndUplink);
        prop_assert!(!up || names.above != Above::Nobody);
    }

    #[test]
    fn a_guest_gets_back_only_what_bears_its_own_name(
        names in any_names(),
        to in any_component(),
    ) {
        let (route, name) = route(&names, Origin::Guest(GUEST), &to);
        if route == Route::Guest(GUEST) {
            let own = [
                Component::SelfDomain,
                vm(NONE, GUEST),
                vm(names.mvm.mvm_ip, GUEST),
            ];
            prop_assert!(own.contains(&to));
            prop_assert_eq!(name, vm(names.mvm.mvm_ip, GUEST));
        }
    }

    #[test]
    fn a_receiver_never_sees_the_words_of_the_sender(
        names in any_names(),
        origin in any_origin(),
        to in any_component(),
    ) {
        let (route, name) = route(&names, origin, &to);
        match route {
            Route::Local | Route::Guest(_) => {
                let is_vm = matches!(name, Component::Vm { .. });
                prop_assert!(is_vm);
            }
            // While the channel is not there, nothing passes it.
            Route::Uplink if names.above != Above::Disconnected => {
                prop_assert!(!matches!(name, Component::SelfDomain | Component::Mvm));
            }
            Route::Uplink => prop_assert_ne!(name, Component::SelfDomain),
            Route::Hardware(_) | Route::Unreachable(_) => prop_assert_eq!(name, to),
            Route::Fabric => {
                prop_assert!(!matches!(name, Component::SelfDomain | Component::Mvm));
            }
            // Each copy is named when it is made.
            Route::LocalAndUplink | Route::LocalAndGuests => {
                prop_assert!(matches!(to, Component::Platform | Component::Everywhere));
            }
            Route::Everywhere => prop_assert_eq!(to, Component::Everywhere),
        }
    }

    #[test]
    fn a_name_that_was_found_leads_to_the_same_place(
        names in any_names(),
        origin in any_origin(),
        to in any_component(),
    ) {
        let found = route(&names, origin, &to);
        prop_assert_eq!(route(&names, origin, &found.1), found);
    }

    /// Whoever asks everywhere reaches whom it reaches on its platform, and the fabric perhaps.
    #[test]
    fn everywhere_is_the_platform_and_more(names in any_names(), origin in any_origin()) {
        let (all, _) = route(&names, origin, &Component::Everywhere);
        let (platform, _) = route(&names, origin, &Component::Platform);
        match origin {
            // There it is the sender's word for this platform.
            Origin::Fabric if names.above == Above::Nobody => {
                prop_assert_eq!(all, Route::LocalAndGuests);
            }
            _ if all == Route::Everywhere => prop_assert_eq!(platform, Route::LocalAndGuests),
            _ => prop_assert_eq!(all, platform),
        }
    }

    /// Up, and at the management VM above not down again.
    #[test]
    fn what_a_guest_sends_up_does_not_come_back(names in any_names(), to in any_component()) {
        if let Above::Connected { own, mvm_id } = names.above {
            let above = Names {
                mvm: VmName {
                    mvm_ip: own.mvm_ip,
                    vm_id: mvm_id,
                },
                above: Above::Nobody,
                stable: None,
            };
            let (up, name) = route(&names, Origin::Local, &to);
            if up == Route::Uplink {
                let (next, _) = route(&above, Origin::Guest(own.vm_id), &name);
                prop_assert_ne!(next, Route::Guest(own.vm_id));
            }
        }
    }
}

#[test]
fn an_answer_comes_from_where_the_question_went_or_from_the_management_vm() {
    let here = Names {
        mvm: MVM,
        above: Above::Nobody,
        stable: None,
    };
    let guest = Names {
        mvm: MVM,
        above: CONNECTED,
        stable: None,
    };
    let vm = |mvm_ip, vm_id| Component::Vm { mvm_ip, vm_id };
    for (names, destination, source, same_app, expected) in [
        (here, vm(OURS, GUEST), vm(OURS, GUEST), true, true),
        (here, vm(OURS, GUEST), vm(OURS, GUEST), false, false),
        (here, vm(OURS, GUEST), vm(OURS, SIBLING), true, false),
        (here, vm(OURS, GUEST), vm(OTHER, GUEST), true, false),
        // Who does not know the address of the platform yet.
        (here, vm(NONE, GUEST), vm(OURS, GUEST), true, true),
        // A broker of the management VM, and nobody else's.
        (here, vm(OURS, GUEST), vm(OURS, MVM_ID), false, true),
        (guest, vm(ABOVE, SIBLING), vm(ABOVE, ABOVE_ID), false, true),
        (guest, vm(ABOVE, SIBLING), vm(OTHER, ABOVE_ID), false, false),
        (guest, vm(ABOVE, SIBLING), vm(ABOVE, OWN_ID), true, false),
        // Who has a stable name is known by another one, too.
        (guest, STABLE, vm(ABOVE, SIBLING), true, true),
        (guest, STABLE, vm(ABOVE, SIBLING), false, false),
        // Hardware has one name.
        (here, hardware(), hardware(), true, true),
        (here, hardware(), hardware(), false, false),
        (here, hardware(), vm(OTHER, ABOVE_ID), true, false),
        (guest, hardware(), hardware(), true, true),
        (guest, hardware(), vm(ABOVE, ABOVE_ID), false, true),
    ] {
        let app = |name: &[u8]| AppId::new(name).unwrap();
        let to = Address::new(destination, app(b"App"));
        let from = Address::new(source, app(if same_app { b"App" } else { b"Other" }));
        assert_eq!(
            is_answer(&names, &to, &from),
            expected,
            "{to:?} answered by {from:?}"
        );
    }
}
