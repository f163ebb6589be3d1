// SPDX-License-Identifier: GPL-2.0

//! Compares a directory with plain lists, whatever comes and goes.

use super::*;
use proptest::{collection::vec, prelude::*};

type Found = Receiver<u64, u32, ()>;

/// Something comes or goes, or a message is sent.
#[derive(Clone, Debug)]
enum Step {
    Bind(Service, bool),
    Unbind(usize),
    AddGuest(u32),
    RemoveGuest(u32),
    Uplink(bool),
    Fabric(bool),
    Send(Origin, Component, u64),
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(Origin::Local),
        Just(Origin::Uplink),
        Just(Origin::Fabric),
        (0u32..6).prop_map(Origin::Guest),
    ]
}

fn component() -> impl Strategy<Value = Component> {
    prop_oneof![
        Just(Component::SelfDomain),
        Just(Component::Mvm),
        Just(Component::Platform),
        Just(Component::Everywhere),
        (0u32..6).prop_map(guest),
        Just(Component::Stable([200; 16])),
        (0u32..6).prop_map(|vm_id| Component::Vm {
            mvm_ip: [9; 16],
            vm_id
        }),
        (0u64..3).prop_map(|number| Component::Hardware(serial(number))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let send = (origin(), component(), 0u64..4);
    prop_oneof![
        (service(), any::<bool>()).prop_map(|(service, shared)| Step::Bind(service, shared)),
        (0usize..1000).prop_map(Step::Unbind),
        (1u32..6).prop_map(Step::AddGuest),
        (1u32..6).prop_map(Step::RemoveGuest),
        any::<bool>().prop_map(Step::Uplink),
        any::<bool>().prop_map(Step::Fabric),
        send.prop_map(|(origin, component, app)| Step::Send(origin, component, app)),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    (prop::option::of(0u64..2), 0u64..4).prop_map(|(number, name)| Service {
        serial: number.map(serial),
        app: app(name),
    })
}

/// An endpoint: its service, its number, and whether it shares the service.
type Listed = (Service, u64, bool);

/// Everybody who is there, in the order in which they came.
#[derive(Default)]
struct Lists {
    endpoints: Vec<Listed>,
    guests: Vec<u32>,
    uplink: bool,
    fabric: bool,
}

impl Lists {
    fn bound(&self, service: Service) -> impl Iterator<Item = &Listed> {
        self.endpoints
            .iter()
            .filter(move |other| other.0 == service)
    }

    /// Those of hardware, in the order of their names.
    fn hardware(&self, app: AppId) -> Vec<Listed> {
        let of_app = |other: &&Listed| other.0.serial.is_some() && other.0.app == app;
        let mut found: Vec<_> = self.endpoints.iter().filter(of_app).copied().collect();
        found.sort_unstable();
        found
    }

    /// The way to hardware of another platform, if nobody serves it here.
    fn beyond(&self, way: Route, origin: Origin) -> Route {
        let is_served = |serial| {
            self.endpoints
                .iter()
                .any(|other| other.0.serial == Some(serial))
        };
        match way {
            Route::Hardware(serial)
                if self.fabric && origin != Origin::Fabric && !is_served(serial) =>
            {
                Route::Fabric
            }
            _ => way,
        }
    }

    /// Who gets a message to one.
    fn one(&self, way: Route, app: AppId) -> Result<Found, NoReceiver> {
        match way {
            Route::Local => match self.bound(app.into()).next() {
                Some(first) => Ok(Receiver::Endpoint(first.1)),
                None => Err(NoReceiver::Unreachable(Reason::NoEndpoint)),
            },
            Route::Hardware(serial) => {
                let found = self.hardware(app).into_iter();
                let mut found = found.filter(|other| other.0.serial == Some(serial));
                let is_there = |other: &Listed| other.0.serial == Some(serial);
                match found.next() {
                    Some(first) => Ok(Receiver::Endpoint(first.1)),
                    None if self.endpoints.iter().any(is_there) => {
                        Err(NoReceiver::Unreachable(Reason::NoEndpoint))
                    }
                    None => Err(NoReceiver::Unreachable(Reason::NoComponent)),
                }
            }
            Route::Guest(id) if self.guests.contains(&id) => Ok(Receiver::Link(id)),
            Route::Uplink if self.uplink => Ok(Receiver::Link(UPLINK)),
            Route::Uplink => Err(NoReceiver::NotConnected),
            Route::Fabric if self.fabric => Ok(Receiver::Fabric(())),
            Route::Unreachable(reason) => Err(NoReceiver::Unreachable(reason)),
            _ => Err(NoReceiver::Unreachable(Reason::NoComponent)),
        }
    }

    /// Who gets a broadcast of somebody who is not in the list.
    fn all(&self, way: Route, origin: Origin, app: AppId) -> Result<Vec<Found>, NoReceiver> {
        let here = self
            .bound(app.into())
            .map(|bound| Receiver::Endpoint(bound.1));
        let mut all: Vec<_> = here.collect();
        match way {
            Route::Local => {}
            Route::LocalAndUplink => all.push(self.one(Route::Uplink, app)?),
            Route::Hardware(serial) => {
                let found = self.hardware(app).into_iter();
                let found = found.filter(|other| other.0.serial == Some(serial));
                all = found.map(|other| Receiver::Endpoint(other.1)).collect();
            }
            Route::LocalAndGuests | Route::Everywhere => {
                let hardware = self.hardware(app).into_iter();
                all.extend(hardware.map(|other| Receiver::Endpoint(other.1)));
                let mut guests = self.guests.clone();
                guests.sort_unstable();
                guests.retain(|&id| origin != Origin::Guest(id));
                all.extend(guests.into_iter().map(Receiver::Link));
                if self.fabric && way == Route::Everywhere {
                    all.push(Receiver::Fabric(()));
                }
            }
            _ => all = vec![self.one(way, app)?],
        }
        Ok(all)
    }
}

/// A directory and what should be in it.
struct Pair {
    directory: Directory<Numbers>,
    lists: Lists,
}

impl Pair {
    fn bind(&mut self, service: Service, number: u64, shared: bool) {
        let may = self.lists.bound(service).all(|other| shared && other.2);
        assert_eq!(self.directory.may_bind(service, shared), may);
        if may {
            self.directory.bind(entry(service, number, shared));
            self.lists.endpoints.push((service, number, shared));
        }
    }

    fn unbind(&mut self, at: usize) {
        if self.lists.endpoints.is_empty() {
            return;
        }
        let at = at % self.lists.endpoints.len();
        let (service, number, _) = self.lists.endpoints.remove(at);
        assert!(self.directory.unbind(&(service, number)).is_some());
        assert!(self.directory.unbind(&(service, number)).is_none());
    }

    fn add_guest(&mut self, id: u32) {
        let known = self.lists.guests.contains(&id);
        assert_eq!(self.directory.guest(id).is_some(), known);
        if !known {
            self.directory.add_guest((id, id));
            self.lists.guests.push(id);
        }
    }

    fn remove_guest(&mut self, id: u32) {
        let known = self.lists.guests.contains(&id);
        assert_eq!(self.directory.remove_guest(id).is_some(), known);
        self.lists.guests.retain(|&other| other != id);
    }

    fn uplink(&mut self, up: bool) {
        if up {
            self.directory.set_uplink(UPLINK);
        } else {
            self.directory.remove_uplink();
        }
        self.lists.uplink = up;
    }

    fn send(&self, origin: Origin, component: Component, app: AppId) {
        let rules = Always::new(Verdict::Allow);
        let header = to(app, component);
        let (way, called) = route(&self.directory.names, origin, &component);
        let way = self.lists.beyond(way, origin);

        let one = self.lists.one(way, app).map(|found| (found, called));
        assert_eq!(self.directory.find(&rules, origin, &header), one);
        assert_eq!(self.directory.find_asker(origin, &header), one);

        let mut found = Vec::new();
        let add = |receiver, _| {
            found.push(receiver);
            Ok::<(), NoReceiver>(())
        };
        let result = self
            .directory
            .find_all(&rules, origin, &header, u64::MAX, add);
        assert_eq!(result.map(|()| found), self.lists.all(way, origin, app));
    }
}

proptest! {
    #[test]
    fn a_directory_finds_what_lists_would(steps in vec(step(), 1..60), top in any::<bool>()) {
        let above = if top { Above::Nobody } else { Above::Disconnected };
        let mut pair = Pair {
            directory: Directory::new(Names {
                mvm: MVM,
                above,
                stable: None,
            }),
            lists: Lists::default(),
        };
        for (number, step) in (1..).zip(steps) {
            match step {
                Step::Bind(service, shared) => pair.bind(service, number, shared),
                Step::Unbind(at) => pair.unbind(at),
                Step::AddGuest(id) => pair.add_guest(id),
                Step::RemoveGuest(id) => pair.remove_guest(id),
                Step::Uplink(up) => pair.uplink(up),
                Step::Fabric(there) => {
                    pair.directory.fabric = there.then_some(());
                    pair.lists.fabric = there;
                }
                Step::Send(origin, component, name) => pair.send(origin, component, app(name)),
            }
            let Pair { directory, lists } = &pair;
            prop_assert_eq!(directory.endpoint_count() as usize, lists.endpoints.len());
            prop_assert_eq!(directory.guest_count() as usize, lists.guests.len());
        }
    }
}
