// SPDX-License-Identifier: GPL-2.0

//! The link to other platforms: a daemon with a file carries it.
//!
//! The daemon is handed messages for components that are not of this platform, and hands in what
//! such components send. The link outlives the daemon for a while, so that another one can go on:
//! what was read is kept until the daemon has said what became of it.
//!
//! Locks, outermost first: `Fabric::reading`, one link's `io`, `Fabric::moving`, the bridge's table,
//! `Fabric::state`, one inbox.

use super::{Bridge, Notices, Prepared, Refused, Target};
use crate::{
    account::Holding,
    bh::{new_spinlock_bh, SpinLockBh},
    inbox::{Inbox, PushError},
    link::Link,
    message::{Draft, Message, Principal},
    pure::{
        account::Owner,
        fabric::Window,
        route::{is_vm_of, Above, Origin},
        uuid::Uuid, //
    },
    trace::{trace, Point},
    wire::{Component, Event, Flags, Header, Kind, Reason, Serial, MAX_HOPS},
    xen, //
};
use kernel::{
    list::{List, ListArc},
    new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{poll::PollCondVarBox, Arc, Mutex},
    time::{Delta, Instant, Monotonic}, //
};

/// How long the link waits for its next daemon.
const PARK: Delta = Delta::from_secs(30);

/// The link to other platforms.
#[pin_data]
pub(crate) struct Fabric {
    pub(crate) principal: Principal,
    #[pin]
    pub(crate) inbox: Inbox,
    /// Notified when there may be something to read.
    pub(crate) readable: PollCondVarBox,
    bridge: Arc<Bridge>,
    /// A random name, so that a daemon knows whether it is the link that it knew.
    pub(crate) lineage: u64,
    /// Held while a message is read, which is in no queue then.
    #[pin]
    reading: Mutex<()>,
    /// Held while what waits for a guest that has moved is sent after it.
    #[pin]
    moving: SpinLockBh<()>,
    #[pin]
    state: SpinLockBh<State>,
    _account: Holding,
}

struct State {
    window: Window,
    /// What was read, by number, until it is settled.
    unsettled: RBTree<u64, ListArc<Message>>,
    carrier: Carrier,
    /// Messages that were taken from daemons.
    accepted: u64,
}

/// Who carries the link.
#[derive(Clone, Copy)]
enum Carrier {
    /// A daemon, with a file.
    File,
    /// Nobody, until this time.
    Awaited(Instant<Monotonic>),
}

/// A message that was read, with its number, and where it is to be kept.
pub(crate) struct Reading(
    RBTreeNodeReservation<u64, ListArc<Message>>,
    u64,
    ListArc<Message>,
);

impl Reading {
    pub(crate) fn number(&self) -> u64 {
        self.1
    }

    pub(crate) fn message(&self) -> &Message {
        &self.2
    }
}

impl Fabric {
    /// Makes the link, which no daemon carries yet.
    fn new(bridge: &Arc<Bridge>) -> Result<Arc<Self>> {
        let account = bridge.accounts.open(Owner::Fabric)?;
        Arc::pin_init(
            try_pin_init!(Self {
                principal: bridge.new_principal(&account),
                inbox <- Inbox::new(&account),
                _account: account,
                readable: PollCondVarBox::new(c"mgmt_fabric", kernel::static_lock_class!())?,
                bridge: bridge.clone(),
                lineage: u64::from(xen::random()) << 32 | u64::from(xen::random()),
                reading <- new_mutex!((), "mgmt_fabric_reading"),
                moving <- new_spinlock_bh!((), "mgmt_fabric_moving"),
                state <- new_spinlock_bh!(
                    State {
                        window: Window::new(),
                        unsettled: RBTree::new(),
                        carrier: Carrier::File,
                        accepted: 0,
                    },
                    "mgmt_fabric"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// Messages that were taken from daemons.
    pub(crate) fn accepted(&self) -> u64 {
        self.state.lock().accepted
    }

    /// Hands the next message to `read`, which says whether it has it: what an earlier daemon left
    /// comes first. `EAGAIN` if there is none, or too much is unsettled; `EMSGSIZE` if it has more
    /// than `max` bytes. Never waits.
    pub(crate) fn read<T>(
        &self,
        max: usize,
        read: impl FnOnce(&Reading) -> Result<T>,
    ) -> Result<T> {
        let _reading = self.reading.lock();
        let reading = self.next(max)?;
        let done = read(&reading);
        let Reading(room, number, message) = reading;
        let node = room.into_node(number, message);
        let mut state = self.state.lock();
        state.unsettled.insert(node);
        if done.is_err() {
            state.window.repeat_from(number);
        }
        done
    }

    fn next(&self, max: usize) -> Result<Reading> {
        let room = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let mut state = self.state.lock();
        if let Some(from) = state.window.repeats_from() {
            let cursor = state.unsettled.cursor_lower_bound(&from);
            let found = cursor.map(|cursor| {
                let (number, message) = cursor.current();
                (*number, message.len())
            });
            if found.is_some_and(|(_, len)| len > max) {
                return Err(EMSGSIZE);
            }
            let number = found.map(|(number, _)| number);
            state.window.repeated(number);
            if let Some(node) = number.and_then(|number| state.unsettled.remove_node(&number)) {
                let (number, message) = node.to_key_value();
                return Ok(Reading(room, number, message));
            }
        }
        if !state.window.has_room() {
            return Err(EAGAIN);
        }
        let message = self.inbox.pop(max)?;
        let number = state.window.give(message.amount());
        Ok(Reading(room, number, message))
    }

    /// Whether there is something to read.
    pub(crate) fn is_readable(&self) -> bool {
        let state = self.state.lock();
        let repeats = state.window.repeats_from();
        repeats.is_some_and(|from| state.unsettled.cursor_lower_bound(&from).is_some())
            || state.window.has_room() && self.inbox.is_readable()
    }

    /// What became of a message that was read: another platform has it, or it is undeliverable.
    /// `ENOENT` if no message with this number is unsettled.
    pub(crate) fn settle(&self, number: u64, reason: Reason) -> Result {
        let mut state = self.state.lock();
        let node = state.unsettled.remove_node(&number).ok_or(ENOENT)?;
        let (_, message) = node.to_key_value();
        state.window.settle(message.amount());
        drop(state);
        self.readable.notify_all();
        if reason != Reason::None {
            self.bridge.bounce(&message, reason);
        }
        Ok(())
    }

    /// Takes out, in order, the messages to the component with this name: of those that were read,
    /// from this number on.
    fn take_for(&self, component: &Component, from: u64, taken: &mut List<Message>) {
        let mut state = self.state.lock();
        let mut next = Some(from);
        while let Some((number, found)) = next.and_then(|from| {
            let cursor = state.unsettled.cursor_lower_bound(&from)?;
            let (number, message) = cursor.current();
            Some((
                *number,
                message.stamped().destination.component == *component,
            ))
        }) {
            next = number.checked_add(1);
            if !found {
                continue;
            }
            if let Some(node) = state.unsettled.remove_node(&number) {
                let (_, message) = node.to_key_value();
                state.window.settle(message.amount());
                taken.push_back(message);
            }
        }
        taken.push_all_back(&mut self.inbox.take_for(component));
    }

    /// Takes a message that a component of another platform has sent. `EACCES` if its source is
    /// none, `EAGAIN` if its receiver has no room: then nothing was taken. Never waits.
    pub(crate) fn write(self: &Arc<Self>, draft: Draft) -> Result {
        let mut header = draft.stamped();
        let back = Target::Fabric(self.clone());
        let prepared = match self.bridge.prepare_remote(self, header, draft) {
            Ok(prepared) => prepared,
            Err(Refused::Failed(e)) => return Err(e),
            Err(refused) => {
                let reason = refused.reason();
                trace(Point::Drop, Owner::Fabric, reason, || header);
                // Who sent it to all hears which one has refused it, as no peer speaks for all.
                if header.destination.component == Component::Everywhere {
                    header.destination.component = self.bridge.names().mvm.into();
                }
                self.bridge.tell_undeliverable(&header, reason, back);
                self.count_accepted();
                return Ok(());
            }
        };
        let (message, target, answered) = match prepared {
            Prepared::To(message, target, answered) => (message, target, answered),
            Prepared::Broadcast(copies) => {
                self.bridge.deliver(copies);
                self.count_accepted();
                return Ok(());
            }
        };
        if self.bridge.await_reply(|| back, &message, &target).is_err() {
            // As for a link: who asked has its own bridge for that.
            message.set_request_number(0);
        }
        match target.push(message) {
            Ok(()) => {}
            Err(PushError::Closed(left)) => self.bridge.bounce(&left, Reason::PeerGone),
            Err(PushError::Full(left)) => {
                if self.bridge.withdraw(&left) {
                    self.bridge.unanswer(answered);
                    return Err(EAGAIN);
                }
            }
        }
        self.count_accepted();
        Ok(())
    }

    fn count_accepted(&self) {
        self.state.lock().accepted += 1;
    }

    /// Its daemon is gone: another one may go on, for a while.
    pub(crate) fn leave(&self) {
        let mut state = self.state.lock();
        state.carrier = Carrier::Awaited(Instant::now() + PARK);
        drop(state);
        self.expire_later();
    }

    /// Has the bridge look soon for what has expired here.
    pub(super) fn expire_later(&self) {
        Bridge::expire_soon(&self.bridge);
    }

    /// Ends the link if its time is up. Whether that is to be looked at again.
    pub(super) fn tend(self: &Arc<Self>) -> bool {
        let carrier = self.state.lock().carrier;
        match carrier {
            Carrier::File => false,
            Carrier::Awaited(until) if Instant::now() - until < Delta::ZERO => true,
            Carrier::Awaited(_) => {
                self.bridge.end_fabric(self);
                false
            }
        }
    }
}

impl Bridge {
    pub(crate) fn fabric(&self) -> Option<Arc<Fabric>> {
        self.table.look().directory.fabric.clone()
    }

    /// Has a daemon carry the link to other platforms: the one that is there, or a new one.
    ///
    /// `EOPNOTSUPP` where this is not the platform's management VM, `ENXIO` while that has no
    /// address, `EBUSY` if another file carries it.
    pub(crate) fn carry_fabric(self: &Arc<Self>) -> Result<Arc<Fabric>> {
        let new = Fabric::new(self)?;
        let mut notices = Notices::default();
        let mut table = self.table.change();
        let names = table.directory.names;
        if names.above != Above::Nobody {
            return Err(EOPNOTSUPP);
        }
        if names.mvm.mvm_ip == [0; 16] {
            return Err(ENXIO);
        }
        let fabric = match table.directory.fabric.clone() {
            Some(known) => {
                let mut state = known.state.lock();
                if let Carrier::File = state.carrier {
                    return Err(EBUSY);
                }
                state.carrier = Carrier::File;
                state.window.repeat_from(0);
                drop(state);
                known
            }
            None => {
                table.directory.fabric = Some(new.clone());
                table.ask_fabric(&new, |_| true, &mut notices);
                new
            }
        };
        drop(table);
        self.tell(notices);
        Ok(fabric)
    }

    /// Ends the link to other platforms, unless a daemon carries it again. What it holds goes back
    /// to the senders.
    pub(super) fn end_fabric(&self, fabric: &Arc<Fabric>) {
        let mut notices = Notices::default();
        let mut table = self.table.change();
        let mut state = fabric.state.lock();
        if let Carrier::File = state.carrier {
            return;
        }
        let unsettled = core::mem::replace(&mut state.unsettled, RBTree::new());
        drop(state);
        table.tell_link_gone(Origin::Fabric, &mut notices);
        let known = table.directory.fabric.take();
        drop(table);
        drop(known);
        self.tell(notices);
        for message in unsettled.values() {
            self.bounce(message, Reason::PeerGone);
        }
        let mut left = fabric.inbox.close();
        while let Some(message) = left.pop_front() {
            self.bounce(&message, Reason::PeerGone);
        }
        self.end_requests_of(fabric.principal);
    }

    /// Finds the receiver of a message that a component of another platform has sent.
    fn prepare_remote(
        self: &Arc<Self>,
        fabric: &Arc<Fabric>,
        mut header: Header,
        mut draft: Draft,
    ) -> Result<Prepared, Refused> {
        let from = fabric.principal;
        let origin = Origin::Fabric;
        let (names, source) = (self.names(), header.source.component);
        let is_own = is_vm_of(&names, &source) && self.is_expected(&header);
        if !is_own && !self.table.look().directory.may_come(&header) {
            return Err(Refused::Failed(EACCES));
        }
        if header.source.app.is_none() || header.destination.app.is_none() {
            return Err(Refused::Failed(EINVAL));
        }
        header.hops = header.hops.saturating_add(1);
        if header.hops > MAX_HOPS {
            return Err(Refused::Unreachable(Reason::Hops));
        }
        let back = Target::Fabric(fabric.clone());
        let nobody = || Ok(Prepared::Broadcast(KVVec::new()));
        let (mut target, component) = if header.kind == Kind::Presence {
            let event = Event::decode(&draft.payload()).map_err(|_| Refused::Failed(EINVAL))?;
            if event.is_from_endpoint() {
                self.watch(origin, &header, event, from, &back)?;
                return nobody();
            }
            if !self.seen(origin, &header, event) {
                return nobody();
            }
            self.find_asker(origin, &header)?
        } else if header.flags.contains(Flags::BROADCAST) {
            let copies =
                self.distribute(origin, &header, draft.payload(), from, &back, GFP_KERNEL)?;
            return Ok(Prepared::Broadcast(copies));
        } else {
            self.find(origin, &header)?
        };
        header.destination.component = component;
        let answered = self.answer(from, &header, &mut target);
        let is_told = header.kind == Kind::Undeliverable
            && header.flags.contains(Flags::REQUEST)
            && answered.is_none();
        if is_told && matches!(target, Target::Endpoint(_)) {
            return nobody();
        }
        draft.stamp(|mut stamp| {
            stamp.hops(header.hops);
            stamp.destination(&header.destination);
        });
        self.number_request(&draft, &header);
        target.trace_route(&draft);
        Ok(Prepared::To(draft, target, answered))
    }

    /// The guest with this stable name is on another platform now: what waits for it here goes
    /// there, in order, and then what is sent to it. `ENOENT` if it has no link here, `EBUSY` while
    /// that has a channel, or holds what the guest had sent.
    pub(crate) fn guest_left(&self, fabric: &Arc<Fabric>, uuid: Uuid) -> Result {
        let link = self.stable_guest(&uuid).ok_or(ENOENT)?;
        let component = Component::Stable(uuid);
        let mut lost = List::new();
        link.end_moved(&fabric.moving, |mut left: List<Message>| {
            self.move_requests(link.principal, fabric.principal, component);
            while let Some(message) = left.pop_front() {
                if self.redirect(&message, component, fabric).is_err() {
                    lost.push_back(message);
                }
            }
        })?;
        while let Some(message) = lost.pop_front() {
            self.bounce(&message, Reason::PeerGone);
        }
        Ok(())
    }

    /// Sends a message after a guest that has moved: its sender found the link here, which ends. Gives
    /// it back if that is not so.
    pub(super) fn send_after(&self, link: &Link, message: Draft) -> Result<(), Draft> {
        let (true, Some(uuid), Some(fabric)) = (link.has_moved(), link.uuid, self.fabric()) else {
            return Err(message);
        };
        // Behind what waited.
        let moving = fabric.moving.lock();
        self.move_request(&message, fabric.principal);
        let done = self.redirect(&message, Component::Stable(uuid), &fabric);
        drop(moving);
        if done.is_err() {
            self.bounce(&message, Reason::PeerGone);
        }
        Ok(())
    }

    /// Whether a message goes to a guest that has just come from another platform: that may bring back
    /// what this one had sent there for the guest.
    fn is_expected(&self, header: &Header) -> bool {
        match &header.destination.component {
            Component::Stable(uuid) => self
                .stable_guest(uuid)
                .is_some_and(|link| link.is_arriving()),
            _ => false,
        }
    }

    /// The guest with this stable name has all that other platforms had for it, and of it. What the
    /// daemon holds for it since the number `from` goes to it, too. `ENOENT` if it has no link here.
    pub(crate) fn guest_is_here(&self, uuid: Uuid, from: u64) -> Result {
        let link = self.stable_guest(&uuid).ok_or(ENOENT)?;
        if link.is_arriving() {
            self.guest_arrived(&link, from);
        }
        Ok(())
    }

    /// Has a guest's stable name lead to it, behind what waits for it in the link to other platforms;
    /// of what was read of that, from this number on.
    pub(crate) fn guest_arrived(&self, link: &Arc<Link>, from: u64) {
        let fabric = self.fabric();
        let reading = fabric.as_ref().map(|fabric| fabric.reading.lock());
        let mut waits = List::new();
        let mut left = List::new();
        // Nobody finds the one way or the other meanwhile.
        let table = self.table.change();
        link.has_arrived();
        if let (Some(fabric), Some(uuid)) = (&fabric, link.uuid) {
            fabric.take_for(&Component::Stable(uuid), from, &mut waits);
        }
        while let Some(message) = waits.pop_front() {
            self.move_request(&message, link.principal);
            // They were accepted: what waited in one queue may wait in the other.
            if let Err(message) = link.inbox.push_moved(message) {
                left.push_back(message);
            }
        }
        drop(table);
        drop(reading);
        while let Some(message) = left.pop_front() {
            self.bounce(&message, Reason::PeerGone);
        }
        if let Some(fabric) = &fabric {
            fabric.readable.notify_all();
        }
        link.go_ahead();
    }

    /// Another platform is there, or is gone: tells those who watch somebody there.
    pub(crate) fn tell_platform(&self, fabric: &Arc<Fabric>, ip: [u8; 16], is_there: bool) {
        let mut notices = Notices::default();
        let mut table = self.table.change();
        if is_there {
            // A stable name may be of any platform.
            let may_be_there = |component: &Component| match component {
                Component::Vm { mvm_ip, .. } => ip == *mvm_ip,
                Component::Hardware(_) => false,
                _ => true,
            };
            table.ask_fabric(fabric, may_be_there, &mut notices);
        } else {
            let is_there = |component: &Component| matches!(component, Component::Vm { mvm_ip, .. } if *mvm_ip == ip);
            table.tell_gone(is_there, &mut notices);
        }
        drop(table);
        self.tell(notices);
    }

    /// Another platform has the hardware with this serial number, or none has it any more: tells those
    /// who watch it.
    pub(crate) fn tell_hardware(&self, fabric: &Arc<Fabric>, serial: Serial, is_there: bool) {
        let is_it = |component: &Component| *component == Component::Hardware(serial);
        let mut notices = Notices::default();
        let mut table = self.table.change();
        if is_there {
            table.ask_fabric(fabric, is_it, &mut notices);
        } else {
            table.tell_gone(is_it, &mut notices);
        }
        drop(table);
        self.tell(notices);
    }

    /// The hardware that this domain serves, with the smallest serial number behind this one.
    pub(crate) fn hardware_after(&self, last: Option<Serial>) -> Option<Serial> {
        self.table.look().directory.hardware_after(last)
    }

    /// Sends a message on to other platforms, under another name.
    fn redirect(&self, message: &Message, component: Component, fabric: &Arc<Fabric>) -> Result {
        let mut header = message.header();
        header.destination.component = component;
        let new = Draft::of(&header, message.payload(), message.principal, GFP_ATOMIC)?;
        new.set_request_number(message.request_number().unwrap_or(0));
        // They were accepted: what waited in one queue may wait in the other.
        let pushed = Target::Fabric(fabric.clone()).push_returned(new);
        pushed.map_err(|_| ENODEV)
    }
}
