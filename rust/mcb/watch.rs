// SPDX-License-Identifier: GPL-2.0

//! Presence: who asked to hear of an App_ID's coming and going, and who tells them.
//!
//! The bridge of every domain tells of its own endpoints. A bridge also keeps what it passes on:
//! it asks again for its askers when a channel comes, and tells them when one goes.

use super::{Bridge, Directory, Fabric, Refused, Table, Target, BRIDGE};
use crate::{
    account::Taken,
    link::{Comeback, Link},
    message::{Draft, Principal},
    payload::Payload,
    pure::{
        account::Slot,
        directory::Service,
        policy::Verdict,
        route::{is_same_vm, route, Above, Origin, Route, VmName}, //
    },
    wire::{Address, AppId, Component, Event, Flags, Header, Kind, Reason, PRESENCE_LEN},
};
use kernel::{
    prelude::*,
    rbtree::RBTreeNode,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc, //
    }, //
};

/// Components that are remembered as up for a watch: another host may say of any number that they are.
const MAX_UP: usize = 1024;

/// Somebody wants to hear who binds and frees an App_ID. That is in the key.
pub(super) struct Watch {
    subscriber: Address,
    /// The way to the subscriber.
    to: Target,
    origin: Origin,
    principal: Principal,
    /// Where: one VM, the platform, or all of them.
    component: Component,
    /// Whether other platforms were asked, by a rule, where it does not lead to one alone.
    is_abroad: Atomic<bool>,
    /// What came up by a channel, and has not gone down again.
    up: KVec<Component>,
    /// Of the account of who asked; none only until it is clear that this watch is a new one.
    slot: Option<Taken>,
}

pub(super) type Key = (AppId, u64);

impl Watch {
    fn is_for(&self, subscriber: &Address, component: &Component) -> bool {
        // From above, every name is one of this domain, which may have moved.
        let here = self.origin == Origin::Uplink || self.component == *component;
        self.subscriber == *subscriber && here
    }

    fn notice(&self, source: Component, app: AppId, event: Event) -> Notice {
        Notice {
            to: self.to.clone(),
            source: Address::new(source, app),
            destination: self.subscriber,
            event,
            principal: BRIDGE,
            flags: Flags::NO_UNDELIVERABLE,
        }
    }

    /// Keeps what a link tells of presence there; `way` is where the watch leads. Whether it asked
    /// for it.
    fn sees(
        &mut self,
        (way, component): (Route, Component),
        link: Origin,
        header: &Header,
        event: Event,
    ) -> bool {
        let source = header.source.component;
        let everywhere = leads_to_many(way);
        // Whom a stable name means, only the management VM knows, or the fabric.
        let above = matches!(way, Route::Uplink | Route::Fabric);
        let named_above = above && matches!(component, Component::Stable(_));
        let covers = everywhere || named_above || is_same_vm(&component, &source);
        // What comes from above is for this domain, by whatever name that has meanwhile.
        let is_here = link == Origin::Uplink && self.origin == Origin::Local;
        let for_it = self.subscriber.app == header.destination.app
            && (is_here || is_same_vm(&self.subscriber.component, &header.destination.component));
        if !covers || !for_it {
            return false;
        }
        let at = self.up.iter().position(|up| *up == source);
        match (event, at) {
            // Without room, nobody hears when its channel goes.
            (Event::Up, None) if self.up.len() < MAX_UP => drop(self.up.push(source, GFP_ATOMIC)),
            (Event::Moved, None) => {
                if !everywhere {
                    self.up.clear();
                }
                if self.up.len() < MAX_UP {
                    let _ = self.up.push(source, GFP_ATOMIC);
                }
            }
            (Event::Down, Some(at)) => drop(self.up.remove(at)),
            _ => {}
        }
        // Who asked about everybody does not hear of each who is not there.
        !everywhere || event != Event::Down || at.is_some()
    }

    /// Asks, or stops asking, in this component by this link.
    fn passed(&self, to: Target, component: Component, app: AppId, event: Event) -> Notice {
        Notice {
            to,
            source: self.subscriber,
            destination: Address::new(component, app),
            event,
            principal: self.principal,
            flags: Flags::NONE,
        }
    }
}

/// A presence message to be made, when the table is not locked any more.
pub(super) struct Notice {
    to: Target,
    source: Address,
    destination: Address,
    event: Event,
    /// Who is charged for it: whoever asks, and the bridge for what it tells.
    principal: Principal,
    flags: Flags,
}

/// Notices, as far as there is memory: losing one is logged.
#[derive(Default)]
pub(super) struct Notices(KVec<Notice>);

impl Notices {
    fn add(&mut self, notice: Notice) {
        if self.0.push(notice, GFP_ATOMIC).is_err() {
            pr_warn!("no memory to tell of presence\n");
        }
    }
}

impl Table {
    /// The watches for an App_ID.
    fn watches_for(&self, app: AppId) -> impl Iterator<Item = (Key, &Watch)> {
        let mut from = 0;
        core::iter::from_fn(move || {
            let cursor = self.watches.cursor_lower_bound(&(app, from))?;
            let key = *cursor.current().0;
            from = key.1 + 1;
            let watch = self.watches.get(&key)?;
            (key.0 == app).then_some((key, watch))
        })
    }

    /// The name of this domain, or of hardware that it serves, in what it tells this asker.
    fn told_as(&self, service: Service, watch: &Watch) -> Option<Component> {
        let names = &self.directory.names;
        let (way, component) = self.directory.route(watch.origin, &watch.component);
        let Some(serial) = service.serial else {
            let name = names.local(way, component)?;
            // Who watches one domain was let to, or not, when it asked.
            let is_told =
                !leads_to_many(way) || self.may_watch(service.app, watch, Route::Local, name);
            return is_told.then_some(name);
        };
        let name = Component::Hardware(serial);
        let is_told = match way {
            Route::Hardware(wanted) => wanted == serial,
            Route::LocalAndGuests | Route::Everywhere => {
                self.may_watch(service.app, watch, Route::Hardware(serial), name)
            }
            _ => false,
        };
        is_told.then_some(name)
    }

    /// Tells the askers that an App_ID of this domain came or went.
    pub(super) fn tell_local(&self, service: Service, event: Event, notices: &mut Notices) {
        let app = service.app;
        for (_, watch) in self.watches_for(app) {
            if let Some(own) = self.told_as(service, watch) {
                notices.add(watch.notice(own, app, event));
            }
        }
    }

    /// Tells an asker at once what is known here.
    fn tell_at_once(&self, app: AppId, watch: &Watch, way: Route, notices: &mut Notices) {
        let mut tell = |service| match self.told_as(service, watch) {
            Some(own) if self.directory.first(service).is_some() => {
                notices.add(watch.notice(own, app, Event::Up));
            }
            // Who asked about everybody does not hear of those who are not there.
            Some(own) if matches!(way, Route::Local | Route::Hardware(_)) => {
                notices.add(watch.notice(own, app, Event::Down));
            }
            _ => {}
        };
        if let Route::Hardware(serial) = way {
            tell(Service {
                serial: Some(serial),
                app,
            });
            return;
        }
        tell(app.into());
        let mut last = None;
        for (serial, ..) in self.directory.hardware(app) {
            // Several may share the name.
            if last.replace(serial) != Some(serial) {
                tell(Service {
                    serial: Some(serial),
                    app,
                });
            }
        }
    }

    /// Whether the rules let this watch look there.
    fn may_watch(&self, app: AppId, watch: &Watch, way: Route, component: Component) -> bool {
        let header = Header {
            source: watch.subscriber,
            ..Header::new(Kind::Presence, Address::new(component, app), 0)
        };
        let (rules, from) = (&*self.policy, watch.origin);
        self.directory.judge(rules, from, way, &header, component) == Verdict::Allow
    }

    /// Passes a watch, or its end, on to where it applies; and tells at once what is known here.
    fn spread(&self, app: AppId, watch: &Watch, event: Event, notices: &mut Notices) {
        let (way, component) = self.directory.route(watch.origin, &watch.component);
        let asks = event == Event::Watch;
        let pass = |to, component| watch.passed(to, component, app, event);
        let link = |link: &Arc<Link>| Target::Link(link.clone());
        if asks {
            self.tell_at_once(app, watch, way, notices);
        }
        if way == Route::Everywhere || self.directory.may_be_elsewhere(watch.origin, way) {
            // Who asks knows by now what is here, or that it is not.
            let fabric = self.directory.fabric.clone();
            let was_asked = watch.is_abroad.load(Relaxed);
            let may = was_asked || asks && self.may_watch(app, watch, Route::Fabric, component);
            if let Some(fabric) = fabric.filter(|_| may) {
                watch.is_abroad.store(asks, Relaxed);
                notices.add(Notice {
                    flags: Flags::NO_UNDELIVERABLE,
                    ..pass(Target::Fabric(fabric), component)
                });
            }
        }
        let one = match way {
            Route::Guest(id) => Some(self.directory.guest(id).map(link)),
            Route::Uplink => Some(self.directory.uplink().map(link)),
            Route::Fabric => Some(self.directory.fabric.clone().map(Target::Fabric)),
            _ => None,
        };
        match one {
            Some(Some(to)) => notices.add(pass(to, component)),
            // It is asked when it comes.
            Some(None) if asks => notices.add(watch.notice(component, app, Event::Down)),
            _ => {}
        }
        if way == Route::LocalAndUplink {
            if let Some(uplink) = self.directory.uplink() {
                notices.add(pass(link(uplink), component));
            }
        }
        if matches!(way, Route::LocalAndGuests | Route::Everywhere) {
            for (id, guest) in self.directory.guests() {
                let name = self.directory.names.guest(id);
                // It ends also where the rules have come to forbid it.
                let may = !asks || self.may_watch(app, watch, Route::Guest(id), name);
                if may && guest.origin() != watch.origin {
                    notices.add(pass(link(&guest), name));
                }
            }
        }
    }

    /// Ends the watches for which `ends` says so.
    fn end_watches(&mut self, ends: impl Fn(&Watch) -> bool, notices: &mut Notices) {
        let mut from = None;
        loop {
            let next = match from {
                None => self.watches.cursor_front(),
                Some(key) => self.watches.cursor_lower_bound(&key),
            };
            let Some((&key, watch)) = next.as_ref().map(|cursor| cursor.current()) else {
                return;
            };
            from = Some((key.0, key.1 + 1));
            if ends(watch) {
                self.spread(key.0, watch, Event::Unwatch, notices);
                drop(self.watches.remove_node(&key));
            }
        }
    }

    /// An endpoint is gone: so are its watches.
    pub(super) fn end_watches_of(&mut self, principal: Principal, notices: &mut Notices) {
        self.end_watches(|watch| watch.principal == principal, notices);
    }

    /// A channel came: asks there for those who want to know.
    pub(super) fn ask_link(&self, link: &Arc<Link>, notices: &mut Notices) {
        let names = &self.directory.names;
        for ((app, _), watch) in self.watches.iter() {
            if watch.origin == link.origin() {
                continue;
            }
            let (way, component) = self.directory.route(watch.origin, &watch.component);
            let component = match (way, link.origin()) {
                (Route::Guest(id), Origin::Guest(new)) if id == new => component,
                (Route::LocalAndGuests | Route::Everywhere, Origin::Guest(new))
                    if self.may_watch(*app, watch, Route::Guest(new), names.guest(new)) =>
                {
                    names.guest(new)
                }
                (Route::Uplink | Route::LocalAndUplink, Origin::Uplink) => component,
                _ => continue,
            };
            notices.add(Notice {
                // The asker asked once, and not for this: the bridge asks again with the next link.
                flags: Flags::NO_UNDELIVERABLE,
                ..watch.passed(Target::Link(link.clone()), component, *app, Event::Watch)
            });
        }
    }

    /// The link to other platforms came, or what may be at these components: asks there for those who
    /// want to know.
    pub(super) fn ask_fabric(
        &self,
        fabric: &Arc<Fabric>,
        may_be_there: impl Fn(&Component) -> bool,
        notices: &mut Notices,
    ) {
        for ((app, _), watch) in self.watches.iter() {
            let (way, component) = self.directory.route(watch.origin, &watch.component);
            let may_lead_there =
                way == Route::Everywhere || self.directory.may_be_elsewhere(watch.origin, way);
            let leads_there = way == Route::Fabric
                || may_lead_there && self.may_watch(*app, watch, Route::Fabric, component);
            if leads_there && may_be_there(&component) {
                watch.is_abroad.store(may_lead_there, Relaxed);
                notices.add(Notice {
                    flags: Flags::NO_UNDELIVERABLE,
                    ..watch.passed(
                        Target::Fabric(fabric.clone()),
                        component,
                        *app,
                        Event::Watch,
                    )
                });
            }
        }
    }

    /// What is at these components of other platforms is gone, with all that was up there, and all who
    /// asked from there.
    pub(super) fn tell_gone(
        &mut self,
        is_there: impl Fn(&Component) -> bool,
        notices: &mut Notices,
    ) {
        self.end_watches(
            |watch| watch.origin == Origin::Fabric && is_there(&watch.subscriber.component),
            notices,
        );
        let Self {
            directory, watches, ..
        } = self;
        for ((app, _), watch) in watches.iter_mut() {
            while let Some(at) = watch.up.iter().position(&is_there) {
                if let Ok(component) = watch.up.remove(at) {
                    if !is_served(directory, component, *app) {
                        notices.add(watch.notice(component, *app, Event::Down));
                    }
                }
            }
        }
    }

    /// A channel went, with all that was up behind it, and all who asked from there.
    pub(super) fn tell_link_gone(&mut self, origin: Origin, notices: &mut Notices) {
        self.end_watches(|watch| watch.origin == origin, notices);
        let Self {
            directory, watches, ..
        } = self;
        for ((app, _), watch) in watches.iter_mut() {
            let mut i = 0;
            while let Some(&component) = watch.up.get(i) {
                let gone = match (route(&directory.names, Origin::Local, &component).0, origin) {
                    (Route::Guest(id), Origin::Guest(gone)) => id == gone,
                    // What hardware is here, its endpoints have told.
                    (Route::Fabric | Route::Hardware(_), Origin::Fabric)
                    | (Route::Uplink, Origin::Uplink) => true,
                    _ => false,
                };
                if !gone {
                    i += 1;
                } else if watch.up.remove(i).is_ok() && !is_served(directory, component, *app) {
                    notices.add(watch.notice(component, *app, Event::Down));
                }
            }
        }
    }
}

/// Whether this application of a component is hardware's that is served here.
fn is_served(directory: &Directory, component: Component, app: AppId) -> bool {
    let Component::Hardware(serial) = component else {
        return false;
    };
    let service = Service {
        serial: Some(serial),
        app,
    };
    directory.first(service).is_some()
}

/// Whether there is more than one component on this way.
fn leads_to_many(way: Route) -> bool {
    matches!(
        way,
        Route::LocalAndUplink | Route::LocalAndGuests | Route::Everywhere
    )
}

/// What a guest calls its management VM.
fn mvm_of(above: Above) -> Option<Component> {
    match above {
        Above::Connected { own, mvm_id } => Some(
            VmName {
                mvm_ip: own.mvm_ip,
                vm_id: mvm_id,
            }
            .into(),
        ),
        Above::Nobody | Above::Disconnected => None,
    }
}

impl Table {
    /// A guest is another domain now. Its watches go with it; those who watch it are told, and who
    /// had asked for the domain that it was, that this is gone.
    pub(super) fn guest_moved(&mut self, old: Origin, vm_id: u32, notices: &mut Notices) {
        let Origin::Guest(old_id) = old else {
            return;
        };
        let (from, to) = (
            self.directory.names.guest(old_id),
            self.directory.names.guest(vm_id),
        );
        for ((app, _), watch) in self.watches.iter_mut() {
            if watch.origin == old {
                watch.origin = Origin::Guest(vm_id);
                watch.subscriber.component = to;
            }
            let Some(at) = watch.up.iter().position(|up| *up == from) else {
                continue;
            };
            drop(watch.up.remove(at));
            if is_same_vm(&watch.component, &from) {
                notices.add(watch.notice(from, *app, Event::Down));
                continue;
            }
            // There is room: one was just removed.
            let _ = watch.up.push(to, GFP_ATOMIC);
            notices.add(watch.notice(to, *app, Event::Moved));
        }
    }

    /// This domain was resumed, and may have another management VM: those who watch that are told.
    /// If it knows nothing of what was before, all else that was up behind it is not, until it says
    /// so.
    pub(super) fn uplink_moved(
        &mut self,
        before: Above,
        comeback: Comeback,
        notices: &mut Notices,
    ) {
        if comeback.anew {
            self.end_watches(|watch| watch.origin == Origin::Uplink, notices);
        }
        let names = self.directory.names;
        let (from, to) = (mvm_of(before), mvm_of(names.above));
        for ((app, _), watch) in self.watches.iter_mut() {
            if watch.origin == Origin::Local {
                watch.subscriber.component = names.own().into();
            }
            let mut i = 0;
            while let Some(&component) = watch.up.get(i) {
                let is_mvm = comeback.resumed && Some(component) == from;
                if let (true, Some(to)) = (is_mvm, to) {
                    if let Some(up) = watch.up.get_mut(i) {
                        *up = to;
                    }
                    notices.add(watch.notice(to, *app, Event::Moved));
                } else if comeback.anew && watch.up.remove(i).is_ok() {
                    notices.add(watch.notice(component, *app, Event::Down));
                    continue;
                }
                i += 1;
            }
        }
    }
}

impl Bridge {
    /// Starts or ends a watch.
    pub(super) fn watch(
        &self,
        origin: Origin,
        header: &Header,
        event: Event,
        principal: Principal,
        to: &Target,
    ) -> Result<(), Refused> {
        let app = header.destination.app.ok_or(Refused::Failed(EINVAL))?;
        let component = header.destination.component;
        let watch = Watch {
            subscriber: header.source,
            to: to.clone(),
            origin,
            principal,
            component,
            is_abroad: Atomic::new(false),
            up: KVec::new(),
            slot: None,
        };
        let key = (app, self.next_watch.fetch_add(1, Relaxed));
        let node = RBTreeNode::new(key, watch, GFP_ATOMIC).map_err(Refused::Failed)?;
        let mut notices = Notices::default();
        let mut table = self.table.change();
        let (way, name) = table.directory.route(origin, &component);
        if let Route::Unreachable(reason) = way {
            return Err(Refused::Unreachable(reason));
        }
        let directory = &table.directory;
        if !leads_to_many(way)
            && directory.judge(&*table.policy, origin, way, header, name) != Verdict::Allow
        {
            return Err(Refused::Unreachable(Reason::Denied));
        }
        let same = |watch: &Watch| {
            watch.origin == origin
                && watch.principal == principal
                && watch.is_for(&header.source, &component)
        };
        let known = table.watches_for(app).find(|(_, watch)| same(watch));
        let known = known.map(|(key, _)| key);
        match (event, known) {
            (Event::Watch, None) => {
                let slot = to.inbox().account().take(Slot::Watches, 1);
                let slot = slot.map_err(Refused::Failed)?;
                table.watches.insert(node);
                if let Some(watch) = table.watches.get_mut(&key) {
                    watch.slot = Some(slot);
                }
                if let Some(watch) = table.watches.get(&key) {
                    table.spread(app, watch, event, &mut notices);
                }
            }
            (Event::Watch, Some(_)) => {}
            (_, Some(known)) => {
                if let Some(watch) = table.watches.get(&known) {
                    table.spread(app, watch, event, &mut notices);
                }
                drop(table.watches.remove_node(&known));
            }
            (_, None) => {}
        }
        drop(table);
        self.tell(notices);
        Ok(())
    }

    /// What a link tells of presence there. Whether anybody has asked for it.
    pub(super) fn seen(&self, link: Origin, header: &Header, event: Event) -> bool {
        let Some(app) = header.source.app else {
            return false;
        };
        let mut asked = false;
        let mut table = self.table.change();
        let Table {
            directory, watches, ..
        } = &mut *table;
        let mut next = watches.cursor_lower_bound_mut(&(app, 0));
        while let Some(mut cursor) = next {
            let (key, watch) = cursor.current_mut();
            if key.0 != app {
                break;
            }
            let way = directory.route(watch.origin, &watch.component);
            asked |= watch.sees(way, link, header, event);
            next = cursor.move_next();
        }
        asked
    }

    /// Sends presence messages. The table must not be locked.
    pub(super) fn tell(&self, notices: Notices) {
        for notice in notices.0 {
            let tells = !notice.event.is_from_endpoint();
            if tells && notice.to.inbox().is_over_limit() {
                // Who does not read does not hear.
                continue;
            }
            let header = Header {
                flags: notice.flags,
                source: notice.source,
                ..Header::new(Kind::Presence, notice.destination, PRESENCE_LEN as u32)
            };
            let payload = notice.event.encode();
            let payload = Payload::Small(&payload);
            let message = Draft::of(&header, payload, notice.principal, GFP_ATOMIC);
            let Ok(message) = message else {
                pr_warn!("no memory to tell of presence\n");
                continue;
            };
            self.deliver_one(message, &notice.to);
        }
    }
}
