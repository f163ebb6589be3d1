// SPDX-License-Identifier: GPL-2.0

//! Who is here: the endpoints of this domain and the links to others, and which of them a message
//! goes to.
//!
//! To find one receiver takes time that grows with the logarithm of their number; to find all of a
//! broadcast, with the number found. The module keeps its directory in red-black trees, behind a
//! lock; tests and benchmarks keep the same one in B-trees.

use super::{
    policy::Verdict,
    route::{is_remote, route, Above, Names, Origin, Route, VmName},
    uuid::Uuid, //
};
use crate::wire::{AppId, Component, Flags, Header, Kind, Reason, Serial};

/// An ordered map. Who uses it allocates and frees its entries, where no lock is held.
pub trait Map<K: Copy + Ord, V: Clone>: Default {
    /// A key, its value, and the memory for both.
    type Entry;

    /// What stands under this key.
    fn get(&self, key: &K) -> Option<&V>;

    /// What stands under the smallest key that is not less than this one.
    fn lower_bound(&self, key: &K) -> Option<(K, V)>;

    /// Adds an entry, and returns the one that had its key.
    fn insert(&mut self, entry: Self::Entry) -> Option<Self::Entry>;

    /// Takes an entry out.
    fn remove(&mut self, key: &K) -> Option<Self::Entry>;
}

/// What a directory is made of.
pub trait Parts {
    /// Somebody in this domain who has bound an App_ID.
    type Endpoint: Clone;
    /// A channel to another domain.
    type Link: Clone;
    /// The link to other platforms.
    type Fabric: Clone;
    /// Where they stand.
    type Map<K: Copy + Ord, V: Clone>: Map<K, V>;

    /// The stable name of the guest that a link leads to.
    fn stable_name(link: &Self::Link) -> Option<Uuid>;

    /// Whether that guest has come from another platform, which may still have messages for it.
    fn is_arriving(link: &Self::Link) -> bool;
}

/// One end of a message, as a bridge stamped or resolved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<'a> {
    /// Its component.
    pub component: Component,
    /// Its management application.
    pub app: Option<&'a AppId>,
    /// The stable name of the VM, where the bridge knows it.
    pub stable: Option<Uuid>,
    /// Whether it is of another platform, if it is hardware, or all other platforms, if it is *everywhere*.
    pub elsewhere: bool,
}

/// The rules of who may talk to whom.
pub trait Rules {
    /// What happens with a message between these, on the platform of `mvm`.
    fn decide(&self, mvm: VmName, source: &End<'_>, destination: &End<'_>, kind: Kind) -> Verdict;
}

/// Who gets a message next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver<E, L, F> {
    /// Somebody in this domain.
    Endpoint(E),
    /// The domain at the other end.
    Link(L),
    /// Another platform.
    Fabric(F),
}

/// A receiver in the directory of these parts.
pub type ReceiverOf<P> = Receiver<<P as Parts>::Endpoint, <P as Parts>::Link, <P as Parts>::Fabric>;

/// Why a message has no receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReceiver {
    /// The destination is not there, or no rule allows it.
    Unreachable(Reason),
    /// It is beyond the management VM, to which there is no channel.
    NotConnected,
}

/// What an endpoint has bound: an App_ID of this domain, or of a hardware component that this domain
/// serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// The hardware component; none: this domain.
    pub serial: Option<Serial>,
    /// Its management application.
    pub app: AppId,
}

impl From<AppId> for Service {
    /// The application of this domain.
    fn from(app: AppId) -> Self {
        Self { serial: None, app }
    }
}

/// By name, and then by age: a number that is larger for who came later.
pub type EndpointKey = (Service, u64);

/// An endpoint and how it has bound its App_ID.
#[derive(Clone, Copy)]
pub struct Bound<E> {
    /// Who it is.
    pub endpoint: E,
    /// Whether others may bind it too.
    pub shared: bool,
}

type Endpoints<P> = <P as Parts>::Map<EndpointKey, Bound<<P as Parts>::Endpoint>>;
type Guests<P> = <P as Parts>::Map<u32, <P as Parts>::Link>;
type StableNames<P> = <P as Parts>::Map<Uuid, u32>;
type FormerNames<P> = <P as Parts>::Map<u32, u32>;

/// An entry for an endpoint.
pub type EndpointEntry<P> =
    <Endpoints<P> as Map<EndpointKey, Bound<<P as Parts>::Endpoint>>>::Entry;
/// An entry for the link to a guest, under its VM_ID.
pub type GuestEntry<P> = <Guests<P> as Map<u32, <P as Parts>::Link>>::Entry;
/// An entry for the VM_ID that a stable name stands for.
pub type StableEntry<P> = <StableNames<P> as Map<Uuid, u32>>::Entry;

/// An entry for the VM_ID that a guest has in the place of a former one.
pub type FormerEntry<P> = <FormerNames<P> as Map<u32, u32>>::Entry;

/// Endpoints and links, by their names.
///
/// # Invariants
///
/// Those who have bound the same App_ID all share it, or there is one. The counts are those of the
/// maps.
pub struct Directory<P: Parts> {
    /// What this domain is called.
    pub names: Names,
    endpoints: Endpoints<P>,
    endpoint_count: u32,
    guests: Guests<P>,
    guest_count: u32,
    stable: StableNames<P>,
    /// What guests that moved were called before. At most one such name leads to a guest.
    former: FormerNames<P>,
    uplink: Option<P::Link>,
    /// The link to other platforms, while there is one.
    pub fabric: Option<P::Fabric>,
}

impl<P: Parts> Directory<P> {
    /// The directory of the domain with these names, in which nobody is yet.
    pub fn new(names: Names) -> Self {
        Self {
            names,
            endpoints: Default::default(),
            endpoint_count: 0,
            guests: Default::default(),
            guest_count: 0,
            stable: Default::default(),
            former: Default::default(),
            uplink: None,
            fabric: None,
        }
    }

    /// How many endpoints there are.
    pub fn endpoint_count(&self) -> u32 {
        self.endpoint_count
    }

    /// How many guests have a link.
    pub fn guest_count(&self) -> u32 {
        self.guest_count
    }

    /// Whether an App_ID may be bound.
    pub fn may_bind(&self, service: Service, shared: bool) -> bool {
        let first = self.endpoints.lower_bound(&(service, 0));
        first.is_none_or(|((bound, _), first)| bound != service || shared && first.shared)
    }

    /// Adds an endpoint that [`Directory::may_bind`].
    pub fn bind(&mut self, entry: EndpointEntry<P>) {
        if self.endpoints.insert(entry).is_none() {
            self.endpoint_count += 1;
        }
    }

    /// Forgets an endpoint.
    pub fn unbind(&mut self, key: &EndpointKey) -> Option<EndpointEntry<P>> {
        let entry = self.endpoints.remove(key)?;
        self.endpoint_count -= 1;
        Some(entry)
    }

    /// The first endpoint from this key on.
    pub fn endpoint_from(&self, key: &EndpointKey) -> Option<P::Endpoint> {
        let (_, bound) = self.endpoints.lower_bound(key)?;
        Some(bound.endpoint)
    }

    /// Every endpoint from this key on, in their order.
    fn endpoints_from(
        &self,
        key: EndpointKey,
    ) -> impl Iterator<Item = (EndpointKey, P::Endpoint)> + '_ {
        let mut from = Some(key);
        core::iter::from_fn(move || {
            let (key, bound) = self.endpoints.lower_bound(&from?)?;
            from = key.1.checked_add(1).map(|number| (key.0, number));
            Some((key, bound.endpoint))
        })
    }

    /// Every endpoint that has bound an App_ID, the oldest first.
    fn bound(&self, service: Service) -> impl Iterator<Item = (u64, P::Endpoint)> + '_ {
        self.endpoints_from((service, 0))
            .take_while(move |((bound, _), _)| *bound == service)
            .map(|((_, number), endpoint)| (number, endpoint))
    }

    /// The endpoint that gets what is sent to one that has bound an App_ID: the oldest.
    pub fn first(&self, service: Service) -> Option<P::Endpoint> {
        let ((bound, _), first) = self.endpoints.lower_bound(&(service, 0))?;
        (bound == service).then_some(first.endpoint)
    }

    /// Every endpoint that serves this App_ID of hardware, with the serial number and its own number.
    pub fn hardware(&self, app: AppId) -> impl Iterator<Item = (Serial, u64, P::Endpoint)> + '_ {
        let first = Service {
            serial: Some(Serial::FIRST),
            app: AppId::FIRST,
        };
        self.endpoints_from((first, 0))
            .filter(move |((service, _), _)| service.app == app)
            .filter_map(|((service, number), endpoint)| Some((service.serial?, number, endpoint)))
    }

    /// The hardware that somebody serves, with the smallest serial number behind this one; without one,
    /// the first.
    pub fn hardware_after(&self, last: Option<Serial>) -> Option<Serial> {
        let first = Service {
            serial: last.or(Some(Serial::FIRST)),
            app: AppId::FIRST,
        };
        let mut served = self
            .endpoints_from((first, 0))
            .filter_map(|((service, _), _)| service.serial);
        served.find(|serial| Some(*serial) != last)
    }

    /// Whether anybody serves this hardware.
    pub fn is_served(&self, serial: Serial) -> bool {
        let first = Service {
            serial: Some(serial),
            app: AppId::FIRST,
        };
        let next = self.endpoints.lower_bound(&(first, 0));
        next.is_some_and(|((service, _), _)| service.serial == Some(serial))
    }

    /// The link that messages from there come in by.
    pub fn link(&self, origin: Origin) -> Option<&P::Link> {
        match origin {
            Origin::Local | Origin::Fabric => None,
            Origin::Guest(vm_id) => self.guest(vm_id),
            Origin::Uplink => self.uplink(),
        }
    }

    /// The link to a guest.
    pub fn guest(&self, vm_id: u32) -> Option<&P::Link> {
        self.guests.get(&vm_id)
    }

    /// The link to the guest with the smallest VM_ID from this one on.
    pub fn guest_from(&self, vm_id: u32) -> Option<(u32, P::Link)> {
        self.guests.lower_bound(&vm_id)
    }

    /// The links to all guests.
    pub fn guests(&self) -> impl Iterator<Item = (u32, P::Link)> + '_ {
        let mut from = Some(0);
        core::iter::from_fn(move || {
            let (vm_id, link) = self.guest_from(from?)?;
            from = vm_id.checked_add(1);
            Some((vm_id, link))
        })
    }

    /// Adds the link to a guest that has none.
    pub fn add_guest(&mut self, entry: GuestEntry<P>) {
        if self.guests.insert(entry).is_none() {
            self.guest_count += 1;
        }
    }

    /// Forgets the link to a guest.
    pub fn remove_guest(&mut self, vm_id: u32) -> Option<GuestEntry<P>> {
        let entry = self.guests.remove(&vm_id)?;
        self.guest_count -= 1;
        Some(entry)
    }

    /// The link to the guest with this stable name: the last that was named so.
    pub fn stable_guest(&self, uuid: &Uuid) -> Option<&P::Link> {
        self.guest(*self.stable.get(uuid)?)
    }

    /// Has a stable name stand for a VM_ID. Returns the entry that did before.
    pub fn set_stable(&mut self, entry: StableEntry<P>) -> Option<StableEntry<P>> {
        self.stable.insert(entry)
    }

    /// Forgets a stable name that stands for this VM_ID.
    pub fn remove_stable(&mut self, uuid: &Uuid, vm_id: u32) -> Option<StableEntry<P>> {
        self.stable.get(uuid).filter(|&&known| known == vm_id)?;
        self.stable.remove(uuid)
    }

    /// A guest is another domain now, and answers to what it asked before are for that. Returns what
    /// led to it from an earlier name, which is forgotten.
    pub fn set_former(&mut self, was: u32, entry: FormerEntry<P>) -> Option<FormerEntry<P>> {
        let earlier = self.remove_former(was);
        self.former.insert(entry).or(earlier)
    }

    /// Forgets the former name of a guest.
    pub fn remove_former(&mut self, vm_id: u32) -> Option<FormerEntry<P>> {
        let mut next = self.former.lower_bound(&0);
        while let Some((was, is)) = next {
            if is == vm_id {
                return self.former.remove(&was);
            }
            next = self.former.lower_bound(&was.checked_add(1)?);
        }
        None
    }

    /// As [`Directory::route`], for an answer: a guest that has moved since it asked is found.
    fn route_back(&self, origin: Origin, component: &Component) -> (Route, Component) {
        let (way, component) = self.route(origin, component);
        if let Route::Guest(was) = way {
            if let (None, Some(&is)) = (self.guest(was), self.former.get(&was)) {
                return (Route::Guest(is), self.names.guest(is));
            }
        }
        (way, component)
    }

    /// The link to the management VM.
    pub fn uplink(&self) -> Option<&P::Link> {
        self.uplink.as_ref()
    }

    /// Adds the link to the management VM.
    pub fn set_uplink(&mut self, link: P::Link) {
        self.uplink = Some(link);
    }

    /// Forgets the link to the management VM, and what that called this domain.
    pub fn remove_uplink(&mut self) {
        self.uplink = None;
        if let Above::Connected { .. } = self.names.above {
            self.names.above = Above::Disconnected;
        }
    }

    /// Finds the way to a component, and the name that it is to carry from here on.
    pub fn route(&self, origin: Origin, component: &Component) -> (Route, Component) {
        let guest = match component {
            Component::Stable(uuid) => self
                .stable
                .get(uuid)
                .filter(|&&id| self.is_here(origin, id)),
            _ => None,
        };
        let component = guest.map_or(*component, |&vm_id| self.names.guest(vm_id));
        route(&self.names, origin, &component)
    }

    /// Whether the stable name of a guest leads to it: while it is arriving, only for what other
    /// platforms bring, so that the rest comes behind that.
    fn is_here(&self, origin: Origin, vm_id: u32) -> bool {
        origin == Origin::Fabric || !self.guest(vm_id).is_some_and(P::is_arriving)
    }

    /// Whether hardware may be found on this way that nobody serves here: on another platform. What comes
    /// from one is not sent on to a third.
    pub fn may_be_elsewhere(&self, origin: Origin, way: Route) -> bool {
        let Route::Hardware(serial) = way else {
            return false;
        };
        origin != Origin::Fabric && self.fabric.is_some() && !self.is_served(serial)
    }

    /// Whether the fabric may bring this from there. Nobody there speaks for hardware that is served here;
    /// that a request did not reach it, who asked hears once, and only of what went there.
    pub fn may_come(&self, header: &Header) -> bool {
        let is_told = header.kind == Kind::Undeliverable && header.flags.contains(Flags::REQUEST);
        let is_ours = match header.source.component {
            Component::Hardware(serial) => self.is_served(serial) && !is_told,
            _ => false,
        };
        !is_ours && is_remote(&self.names, &header.source.component, header.kind)
    }

    /// What the rules say of a message, and its way: to hardware of another platform, if nobody here
    /// serves it and they let it go there.
    fn judge_way(
        &self,
        rules: &impl Rules,
        origin: Origin,
        way: Route,
        header: &Header,
        component: Component,
    ) -> (Route, Verdict) {
        if self.may_be_elsewhere(origin, way) {
            let verdict = self.judge(rules, origin, Route::Fabric, header, component);
            if verdict != Verdict::Deny {
                return (Route::Fabric, verdict);
            }
        }
        (way, self.judge(rules, origin, way, header, component))
    }

    /// Finds the receiver of a message to one, and the name that its component is to carry, as far
    /// as the rules allow.
    pub fn find(
        &self,
        rules: &impl Rules,
        origin: Origin,
        header: &Header,
    ) -> Result<(ReceiverOf<P>, Component), NoReceiver> {
        let (way, component) = if header.kind.is_answer() {
            self.route_back(origin, &header.destination.component)
        } else {
            self.route(origin, &header.destination.component)
        };
        let (way, verdict) = self.judge_way(rules, origin, way, header, component);
        let receiver = match verdict {
            Verdict::Allow => self.locate(way, header.destination.app)?,
            Verdict::Deny => return Err(NoReceiver::Unreachable(Reason::Denied)),
            Verdict::Through(broker) => self.locate(Route::Local, Some(broker))?,
        };
        Ok((receiver, component))
    }

    /// As [`Directory::find`], for what no rule forbids: a bridge's own words to who asked for
    /// them.
    pub fn find_asker(
        &self,
        origin: Origin,
        header: &Header,
    ) -> Result<(ReceiverOf<P>, Component), NoReceiver> {
        let (mut way, component) = self.route_back(origin, &header.destination.component);
        if self.may_be_elsewhere(origin, way) {
            way = Route::Fabric;
        }
        Ok((self.locate(way, header.destination.app)?, component))
    }

    /// Finds every receiver of a broadcast but the endpoint with the number of the sender, and the
    /// name of the component of each. The link to other platforms is one receiver for all of these.
    ///
    /// Ends with the first error of `found`.
    pub fn find_all<E: From<NoReceiver>>(
        &self,
        rules: &impl Rules,
        origin: Origin,
        header: &Header,
        sender: u64,
        mut found: impl FnMut(ReceiverOf<P>, Component) -> Result<(), E>,
    ) -> Result<(), E> {
        // What comes back comes back to one: no bridge sends it to all.
        if header.kind == Kind::Undeliverable {
            return Err(NoReceiver::Unreachable(Reason::NoComponent).into());
        }
        let (mut way, component) = self.route(origin, &header.destination.component);
        if self.may_be_elsewhere(origin, way) {
            way = Route::Fabric;
        }
        // Where a rule forbids it, nobody is told: a broadcast is to whom it may reach.
        let mut add = |way, receiver, component| {
            let receiver = match self.judge(rules, origin, way, header, component) {
                Verdict::Allow => receiver,
                Verdict::Deny => return Ok(()),
                // A broker passes on what is for one receiver, and this is for many at once.
                Verdict::Through(_) if component == Component::Everywhere => return Ok(()),
                Verdict::Through(broker) => match self.first(broker.into()) {
                    Some(broker) => Receiver::Endpoint(broker),
                    None => return Ok(()),
                },
            };
            found(receiver, component)
        };
        let app = header.destination.app;
        if let (Some(component), Some(app)) = (self.names.local(way, component), app) {
            for (_, endpoint) in self
                .bound(app.into())
                .filter(|(number, _)| *number != sender)
            {
                add(Route::Local, Receiver::Endpoint(endpoint), component)?;
            }
        }
        let of_hardware = app.into_iter().flat_map(|app| self.hardware(app));
        for (serial, number, endpoint) in of_hardware {
            let reached = match way {
                Route::LocalAndGuests | Route::Everywhere => number != sender,
                Route::Hardware(wanted) => number != sender && serial == wanted,
                _ => false,
            };
            if reached {
                let receiver = Receiver::Endpoint(endpoint);
                add(
                    Route::Hardware(serial),
                    receiver,
                    Component::Hardware(serial),
                )?;
            }
        }
        match way {
            Route::Local | Route::Hardware(_) => {}
            Route::Guest(_) | Route::Uplink | Route::Fabric => {
                add(way, self.locate(way, app)?, component)?;
            }
            Route::LocalAndUplink => add(way, self.locate(Route::Uplink, app)?, component)?,
            Route::LocalAndGuests | Route::Everywhere => {
                let others = self.guests().filter(|(id, _)| origin != Origin::Guest(*id));
                for (id, link) in others {
                    add(Route::Guest(id), Receiver::Link(link), self.names.guest(id))?;
                }
            }
            Route::Unreachable(reason) => return Err(NoReceiver::Unreachable(reason).into()),
        }
        if let (Route::Everywhere, Some(fabric)) = (way, &self.fabric) {
            add(Route::Fabric, Receiver::Fabric(fabric.clone()), component)?;
        }
        Ok(())
    }

    /// What the rules say of a message between this domain's guests, or one of them and others.
    ///
    /// No rule is asked for what stays in this domain, or comes from the management VM above.
    pub fn judge(
        &self,
        rules: &impl Rules,
        origin: Origin,
        way: Route,
        header: &Header,
        component: Component,
    ) -> Verdict {
        let is_hardware = matches!(header.source.component, Component::Hardware(_));
        let asked = match origin {
            Origin::Guest(_) | Origin::Fabric => true,
            Origin::Local => {
                is_hardware
                    || matches!(way, Route::Guest(_))
                    || self.names.above == Above::Nobody && !matches!(way, Route::Local)
            }
            Origin::Uplink => false,
        };
        // What is no destination is refused for that.
        if !asked || component == Component::Unspecified {
            return Verdict::Allow;
        }
        let mvm = self.names.mvm;
        let source = match origin {
            Origin::Local if !is_hardware => mvm.into(),
            _ => header.source.component,
        };
        let source = End {
            component: source,
            app: header.source.app.as_ref(),
            stable: self.stable_name(&source),
            elsewhere: origin == Origin::Fabric,
        };
        let destination = End {
            component,
            app: header.destination.app.as_ref(),
            stable: self.stable_name(&component),
            elsewhere: matches!(way, Route::Fabric),
        };
        rules.decide(mvm, &source, &destination, header.kind)
    }

    fn stable_name(&self, component: &Component) -> Option<Uuid> {
        match component {
            Component::Vm { mvm_ip, vm_id } if *mvm_ip == self.names.mvm.mvm_ip => {
                P::stable_name(self.guest(*vm_id)?)
            }
            _ => None,
        }
    }

    /// The one receiver on this way.
    fn locate(&self, way: Route, app: Option<AppId>) -> Result<ReceiverOf<P>, NoReceiver> {
        match way {
            Route::Local => {
                let endpoint = app.and_then(|app| self.first(app.into()));
                let endpoint = endpoint.ok_or(NoReceiver::Unreachable(Reason::NoEndpoint))?;
                Ok(Receiver::Endpoint(endpoint))
            }
            Route::Hardware(serial) => {
                let service = app.map(|app| Service {
                    serial: Some(serial),
                    app,
                });
                match service.and_then(|service| self.first(service)) {
                    Some(endpoint) => Ok(Receiver::Endpoint(endpoint)),
                    None if self.is_served(serial) => {
                        Err(NoReceiver::Unreachable(Reason::NoEndpoint))
                    }
                    None => Err(NoReceiver::Unreachable(Reason::NoComponent)),
                }
            }
            Route::Guest(id) => {
                let link = self.guest(id);
                let link = link.ok_or(NoReceiver::Unreachable(Reason::NoComponent))?;
                Ok(Receiver::Link(link.clone()))
            }
            Route::Uplink => {
                let link = self.uplink().ok_or(NoReceiver::NotConnected)?;
                Ok(Receiver::Link(link.clone()))
            }
            Route::Fabric => {
                let fabric = self.fabric.as_ref();
                let fabric = fabric.ok_or(NoReceiver::Unreachable(Reason::NoComponent))?;
                Ok(Receiver::Fabric(fabric.clone()))
            }
            // Only a broadcast goes to everybody.
            Route::LocalAndUplink | Route::LocalAndGuests | Route::Everywhere => {
                Err(NoReceiver::Unreachable(Reason::NoComponent))
            }
            Route::Unreachable(reason) => Err(NoReceiver::Unreachable(reason)),
        }
    }
}

#[cfg(test)]
mod tests;
