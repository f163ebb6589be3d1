// SPDX-License-Identifier: GPL-2.0

//! The M-channel bridge (MCB, paper §4.1): routes every message by its header.
//!
//! It knows endpoints (bound files and kernel clients) and links (channels to other domains),
//! and nothing else. Routing is `pure::route`; here are the tables and the stamping.

use crate::{
    account::{Accounts, Holding, Taken},
    awaited::Awaited,
    bh::{new_spinlock_bh, SpinLockBh},
    inbox::{Inbox, PushError},
    link::{Comeback, Link},
    message::{Draft, Message, Principal},
    payload::Payload,
    policy::{Asked, LoadError, Policy},
    pure::{
        account::{Owner, Slot},
        directory::{Bound, Receiver, Service},
        route::{Above, Names, Origin},
        uuid::Uuid, //
    },
    queue::OwnedQueue,
    spares::Spares,
    trace::{trace, Point},
    wire::{
        Address,
        AppId,
        Component,
        Event,
        Flags,
        Header,
        Kind,
        Reason,
        WireError,
        MAX_HOPS, //
    },
};
use kernel::{
    alloc::Flags as AllocFlags,
    list::{impl_list_arc_safe, impl_list_item, AtomicTracker, ListArc, ListLinks, TryNewListArc},
    prelude::*,
    rbtree::RBTreeNode,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        poll::PollCondVarBox,
        Arc, //
    },
    time::{delay::fsleep, Delta},
    workqueue::{new_delayed_work, new_work, DelayedWork, Work}, //
};

mod calls;
mod directory;
mod expiry;
mod fabric;
mod replies;
mod table;
mod watch;

pub(crate) use calls::Receive;

use directory::Directory;
use expiry::Expiring;
pub(crate) use fabric::Fabric;
use replies::{Answered, Requests, Teller};
use table::{SharedTable, Table, Way};
use watch::Notices;

/// Most links of guests that are kept without a channel.
const MAX_PARKED: usize = 64;
/// Most links that have ended, and still hold what their receivers had no room for.
const MAX_LINGERING: u32 = 64;
/// What the bridge itself sends is charged to this principal.
pub(crate) const BRIDGE: Principal = Principal {
    id: 0,
    owner: Owner::Bridge,
};

/// What an endpoint binds, and for whom.
pub(crate) struct Bind<'a> {
    pub(crate) service: Service,
    /// Whether others may bind the same name.
    pub(crate) shared: bool,
    pub(crate) principal: Principal,
    pub(crate) account: &'a Holding,
    /// Where answers go, of a kernel client.
    pub(crate) awaited: Option<Arc<Awaited>>,
}

/// Somebody in this domain who has bound an App_ID.
#[pin_data]
pub(crate) struct Endpoint {
    pub(crate) service: Service,
    pub(crate) principal: Principal,
    /// Takes the answers to the requests of a kernel client.
    awaited: Option<Arc<Awaited>>,
    /// Whom messages go to, if they are not read; and whether there is anybody.
    #[pin]
    receiver: SpinLockBh<Option<KBox<dyn Receive>>>,
    is_called: Atomic<bool>,
    #[pin]
    calls: Work<Endpoint>,
    #[pin]
    pub(crate) inbox: Inbox,
    /// Notified when a message was queued.
    pub(crate) readable: PollCondVarBox,
    /// Whether it ever asked to hear of presence.
    has_asked: Atomic<bool>,
    bridge: Arc<Bridge>,
    /// In the list of those that hold messages with a deadline.
    #[pin]
    expiring: ListLinks,
    #[pin]
    is_expiring: AtomicTracker,
    _slot: Taken,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Endpoint { tracked_by is_expiring: AtomicTracker; }
}

impl_list_item! {
    impl ListItem<0> for Endpoint { using ListLinks { self.expiring }; }
}

impl Endpoint {
    /// Puts back, at the front, the message that was just taken from the inbox.
    pub(crate) fn put_back(self: &Arc<Self>, message: ListArc<Message>) {
        let has_deadline = message.has_deadline();
        self.inbox.unpop(message);
        if has_deadline {
            Target::Endpoint(self.clone()).expire_later();
        }
    }
}

/// Who gets a message next.
pub(crate) type Target = Receiver<Arc<Endpoint>, Arc<Link>, Arc<Fabric>>;

impl Target {
    /// Whether it is the same one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Endpoint(a), Self::Endpoint(b)) => Arc::ptr_eq(a, b),
            (Self::Link(a), Self::Link(b)) => Arc::ptr_eq(a, b),
            (Self::Fabric(a), Self::Fabric(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        match self {
            Self::Endpoint(endpoint) => &endpoint.inbox,
            Self::Link(link) => &link.inbox,
            Self::Fabric(fabric) => &fabric.inbox,
        }
    }

    pub(crate) fn principal(&self) -> Principal {
        match self {
            Self::Endpoint(endpoint) => endpoint.principal,
            Self::Link(link) => link.principal,
            Self::Fabric(fabric) => fabric.principal,
        }
    }

    /// Queues a message and wakes its receiver.
    pub(crate) fn push(&self, message: Draft) -> Result<(), PushError> {
        let left = match self {
            Self::Link(link) => link.pass(message),
            Self::Endpoint(_) | Self::Fabric(_) => self.without_answers(message),
        };
        let Some(message) = left else {
            return Ok(());
        };
        let has_deadline = message.has_deadline();
        match self.inbox().push(message) {
            Err(PushError::Closed(message)) => return self.push_after(message),
            pushed => pushed?,
        }
        self.pushed(has_deadline);
        Ok(())
    }

    /// Sends a message after a guest that is on another platform since its sender looked.
    fn push_after(&self, message: Draft) -> Result<(), PushError> {
        match self {
            Self::Link(link) => link.bridge.send_after(link, message),
            Self::Endpoint(_) | Self::Fabric(_) => Err(message),
        }
        .map_err(PushError::Closed)
    }

    /// As [`Target::push`], whatever the sender's share.
    pub(crate) fn push_returned(&self, message: Draft) -> Result<(), PushError> {
        let Some(message) = self.without_answers(message) else {
            return Ok(());
        };
        let has_deadline = message.has_deadline();
        match self.inbox().push_returned(message) {
            Err(PushError::Closed(message)) => return self.push_after(message),
            pushed => pushed?,
        }
        self.pushed(has_deadline);
        Ok(())
    }

    fn trace_route(&self, message: &Message) {
        let owner = self.inbox().account().owner();
        trace(Point::Route, owner, Reason::None, || message.header());
    }

    /// Gives a message to the task that waits for it, if there is one; else returns it.
    fn without_answers(&self, message: Draft) -> Option<Draft> {
        match self {
            Self::Endpoint(endpoint) => match &endpoint.awaited {
                Some(awaited) => awaited.take_answer(message).err(),
                None => Some(message),
            },
            Self::Link(_) | Self::Fabric(_) => Some(message),
        }
    }

    /// Why a message that this receiver did not take any more is refused.
    pub(crate) fn gone(&self) -> Refused {
        match self {
            Self::Endpoint(_) => Refused::Unreachable(Reason::NoEndpoint),
            Self::Link(link) if link.origin() == Origin::Uplink => Refused::NotConnected,
            Self::Link(_) | Self::Fabric(_) => Refused::Unreachable(Reason::NoComponent),
        }
    }

    fn pushed(&self, has_deadline: bool) {
        if has_deadline {
            self.expire_later();
        }
        match self {
            Self::Endpoint(endpoint) => endpoint.notify(),
            Self::Link(link) => Link::kick(link),
            Self::Fabric(fabric) => fabric.readable.notify_all(),
        }
    }
}

/// A message and its receiver.
pub(crate) type Addressed = (Draft, Target);

/// What an endpoint's message became.
pub(crate) enum Prepared {
    /// It goes to this receiver; perhaps it is the answer to a request.
    To(Draft, Target, Option<Answered>),
    /// Copies for each receiver of a broadcast, be there any or none.
    Broadcast(KVVec<Addressed>),
}

/// What became of a message that came in by a link.
pub(crate) enum Forwarded {
    /// It goes to this receiver, or back where it came from as undeliverable.
    To(Draft, Target),
    /// Copies of it go to these receivers.
    Broadcast(KVVec<Addressed>),
    /// It ends here: undeliverable, and nobody wants to know.
    Dropped,
    /// Its addresses are none.
    Malformed(WireError),
    /// No bridge sends such a message.
    Forged,
}

/// Why a message of an endpoint was not accepted.
pub(crate) enum Refused {
    /// The destination is not there.
    Unreachable(Reason),
    /// It would cross the channel to the management VM, which is not connected.
    NotConnected,
    /// What came back to the sender fills its own queue.
    Backlog,
    /// No memory, or the like.
    Failed(Error),
}

impl Refused {
    /// What another bridge is told.
    fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(reason) => *reason,
            Self::NotConnected | Self::Backlog => Reason::NoComponent,
            Self::Failed(_) => Reason::Quota,
        }
    }
}

/// The bridge of this domain.
#[pin_data]
pub(crate) struct Bridge {
    /// Where links move messages: as softirqs.
    moves: OwnedQueue,
    /// Where all is done that may sleep.
    chores: OwnedQueue,
    pub(crate) accounts: Arc<Accounts>,
    #[pin]
    pub(crate) spares: Spares,
    next_principal: Atomic<u64>,
    next_epoch: Atomic<u32>,
    next_watch: Atomic<u64>,
    #[pin]
    table: SharedTable,
    next_request: Atomic<u64>,
    #[pin]
    requests: SpinLockBh<Requests>,
    #[pin]
    expiring: SpinLockBh<Expiring>,
    /// Takes what has expired out of these, while there is any.
    #[pin]
    expiry: DelayedWork<Bridge>,
    /// How many delayed works wait for their time, and whether no more may.
    delayed: Atomic<u32>,
    closing: Atomic<bool>,
    /// How many links have ended that still hold what their receivers had no room for.
    lingering: Atomic<u32>,
}

/// What `MGMT_IOC_INFO` tells of the bridge.
pub(crate) struct Summary {
    pub(crate) names: Names,
    pub(crate) uplink: bool,
    pub(crate) links: u32,
    pub(crate) endpoints: u32,
}

impl Bridge {
    /// Makes the bridge of the domain with these names.
    pub(crate) fn new(names: Names) -> Result<Arc<Self>> {
        let policy = Policy::new(KVVec::new()).map_err(|_| ENOMEM)?;
        Arc::pin_init(
            try_pin_init!(Self {
                moves: OwnedQueue::new_bh(c"mgmt_moves")?,
                chores: OwnedQueue::new(c"mgmt_chores")?,
                accounts: Accounts::new()?,
                spares <- Spares::new(),
                next_principal: Atomic::new(BRIDGE.id + 1),
                next_epoch: Atomic::new(1),
                next_watch: Atomic::new(0),
                table <- SharedTable::new(Directory::new(names), policy),
                next_request: Atomic::new(1),
                requests <- new_spinlock_bh!(Requests::new(), "mgmt_requests"),
                expiring <- new_spinlock_bh!(Expiring::default(), "mgmt_expiring"),
                expiry <- new_delayed_work!("mgmt_expiry"),
                delayed: Atomic::new(0),
                closing: Atomic::new(false),
                lingering: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Where links move messages, as softirqs.
    pub(crate) fn moves(&self) -> &OwnedQueue {
        &self.moves
    }

    /// Where links do what may sleep.
    pub(crate) fn chores(&self) -> &OwnedQueue {
        &self.chores
    }

    /// Ends the links that are left, which are parked, and waits until none of the bridge's work
    /// runs or is queued.
    pub(crate) fn close(&self) {
        self.closing.store(true, Relaxed);
        while let Some(link) = self.uplink().or_else(|| Some(self.guest_from(0)?.1)) {
            link.end_parked();
            self.remove_link(&link);
        }
        if let Some(fabric) = self.fabric() {
            self.end_fabric(&fabric);
        }
        while self.delayed.load(Relaxed) != 0 {
            fsleep(Delta::from_millis(5));
        }
        // Moving messages may leave chores, and not the other way round: every link is closed.
        self.moves.drain();
        self.chores.drain();
        // Who is in this list holds the bridge.
        let expiring = core::mem::take(&mut *self.expiring.lock());
        drop(expiring);
    }

    /// Counts work that waits for its time: until [`Bridge::delay_ended`] the module stays.
    pub(crate) fn delay_begins(&self) {
        self.delayed.fetch_add(1, Relaxed);
    }

    pub(crate) fn delay_ended(&self) {
        self.delayed.fetch_sub(1, Relaxed);
    }

    /// Whether one more link that has ended may hold messages, until [`Bridge::lingered`].
    pub(crate) fn may_linger(&self) -> bool {
        let may = self.lingering.fetch_add(1, Relaxed) < MAX_LINGERING;
        if !may {
            self.lingered();
        }
        may
    }

    pub(crate) fn lingered(&self) {
        self.lingering.fetch_sub(1, Relaxed);
    }

    /// Another open file, or incarnation of a link, of this account.
    pub(crate) fn new_principal(&self, account: &Holding) -> Principal {
        Principal {
            id: self.next_principal.fetch_add(1, Relaxed),
            owner: account.owner(),
        }
    }

    pub(crate) fn new_epoch(&self) -> u32 {
        self.next_epoch.fetch_add(1, Relaxed)
    }

    pub(crate) fn names(&self) -> Names {
        self.table.look().directory.names
    }

    /// Sets the address of this management VM.
    pub(crate) fn set_mvm_ip(&self, ip: [u8; 16]) {
        self.table.change().directory.names.mvm.mvm_ip = ip;
    }

    /// Sets what is known of the management VM above.
    pub(crate) fn set_above(&self, above: Above) {
        self.table.change().directory.names.above = above;
    }

    /// Reads rules and puts them in the place of those that held. If one is wrong, nothing changes.
    pub(crate) fn load_policy(&self, text: KVVec<u8>) -> Result<(), LoadError> {
        let policy = Policy::new(text)?;
        let old = core::mem::replace(&mut self.table.change().policy, policy);
        // The table is not locked while it goes.
        drop(old);
        Ok(())
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.table.look().policy.clone()
    }

    pub(crate) fn summary(&self) -> Summary {
        let directory = &self.table.look().directory;
        Summary {
            names: directory.names,
            uplink: directory.uplink().is_some_and(|link| link.is_connected()),
            links: directory.guest_count(),
            endpoints: directory.endpoint_count(),
        }
    }

    /// The link to the guest with the smallest VM_ID from `id` on.
    pub(crate) fn guest_from(&self, id: u32) -> Option<(u32, Arc<Link>)> {
        self.table.look().directory.guest_from(id)
    }

    pub(crate) fn uplink(&self) -> Option<Arc<Link>> {
        self.table.look().directory.uplink().cloned()
    }

    /// Binds an App_ID. `EADDRINUSE` if somebody in this domain has bound it, unless all share it;
    /// `ENOSPC` if the account has as many as it may;
    /// `EOPNOTSUPP` for hardware in a domain that is no platform's management VM.
    pub(crate) fn bind(self: &Arc<Self>, bind: Bind<'_>) -> Result<Arc<Endpoint>> {
        let Bind {
            service,
            shared,
            principal,
            account,
            awaited,
        } = bind;
        if service.serial.is_some() && self.names().above != Above::Nobody {
            return Err(EOPNOTSUPP);
        }
        let endpoint = Arc::pin_init(
            try_pin_init!(Endpoint {
                service,
                principal,
                awaited,
                receiver <- new_spinlock_bh!(None, "mgmt_receiver"),
                is_called: Atomic::new(false),
                calls <- new_work!("mgmt_endpoint_calls"),
                inbox <- Inbox::new(account),
                _slot: account.take(Slot::Endpoints, 1)?,
                readable: PollCondVarBox::new(c"mgmt_endpoint", kernel::static_lock_class!())?,
                has_asked: Atomic::new(false),
                bridge: self.clone(),
                expiring <- ListLinks::new(),
                is_expiring <- AtomicTracker::new(),
            }),
            GFP_KERNEL,
        )?;
        let bound = Bound {
            endpoint: endpoint.clone(),
            shared,
        };
        let entry = RBTreeNode::new((service, principal.id), bound, GFP_KERNEL)?;
        let mut table = self.table.change();
        if !table.directory.may_bind(service, shared) {
            return Err(EADDRINUSE);
        }
        let mut notices = Notices::default();
        if table.directory.first(service).is_none() {
            table.tell_local(service, Event::Up, &mut notices);
        }
        table.directory.bind(entry);
        drop(table);
        self.tell(notices);
        Ok(endpoint)
    }

    /// Frees the App_ID; what the endpoint had not read goes back to its senders.
    pub(crate) fn unbind(&self, endpoint: &Endpoint) {
        let key = (endpoint.service, endpoint.principal.id);
        let mut notices = Notices::default();
        let mut table = self.table.change();
        let entry = table.directory.unbind(&key);
        if endpoint.has_asked.load(Relaxed) {
            table.end_watches_of(endpoint.principal, &mut notices);
        }
        if table.directory.first(endpoint.service).is_none() {
            table.tell_local(endpoint.service, Event::Down, &mut notices);
            // Another platform may have it, too.
            if let (Some(serial), Some(fabric)) =
                (endpoint.service.serial, table.directory.fabric.clone())
            {
                let is_it = |component: &Component| *component == Component::Hardware(serial);
                table.ask_fabric(&fabric, is_it, &mut notices);
            }
        }
        drop(table);
        drop(entry);
        self.tell(notices);
        let mut left = endpoint.inbox.close();
        endpoint.readable.notify_all();
        while let Some(message) = left.pop_front() {
            self.bounce(&message, Reason::PeerGone);
        }
        self.end_requests_of(endpoint.principal);
    }

    /// The link to this guest.
    pub(crate) fn guest(&self, vm_id: u32) -> Option<Arc<Link>> {
        self.table.look().directory.guest(vm_id).cloned()
    }

    /// The link to the guest with this stable name.
    pub(crate) fn stable_guest(&self, uuid: &Uuid) -> Option<Arc<Link>> {
        self.table.look().directory.stable_guest(uuid).cloned()
    }

    /// Whether one more link may be kept without a channel.
    pub(crate) fn may_park(&self) -> bool {
        let table = self.table.look();
        let guests = table.directory.guests();
        let parked = guests.filter(|(_, link)| !link.is_connected()).count();
        !self.closing.load(Relaxed) && parked < MAX_PARKED
    }

    /// Makes the link to a guest known under this VM_ID: a new link, or one that had another before
    /// the guest moved. `EEXIST` if another link has the name.
    pub(crate) fn add_guest(&self, link: &Arc<Link>, vm_id: u32) -> Result {
        let entry = RBTreeNode::new(vm_id, link.clone(), GFP_KERNEL)?;
        let name = match link.uuid {
            Some(uuid) => Some(RBTreeNode::new(uuid, vm_id, GFP_KERNEL)?),
            None => None,
        };
        let old = link.origin();
        let mut former = match old {
            Origin::Guest(was) if was != vm_id => Some(RBTreeNode::new(was, vm_id, GFP_KERNEL)?),
            _ => None,
        };
        let is_link = |known: &Arc<Link>| Arc::ptr_eq(known, link);
        let mut notices = Notices::default();
        let mut table = self.table.change();
        let directory = &mut table.directory;
        if directory.guest(vm_id).is_some_and(|known| !is_link(known)) {
            return Err(EEXIST);
        }
        let known = match old {
            Origin::Guest(old) if directory.guest(old).is_some_and(is_link) => {
                directory.remove_guest(old)
            }
            _ => None,
        };
        directory.add_guest(entry);
        let name = name.and_then(|name| directory.set_stable(name));
        let moved = match (&known, old, former.take()) {
            (Some(_), Origin::Guest(was), Some(entry)) => {
                former = directory.set_former(was, entry);
                link.set_vm_id(vm_id);
                table.guest_moved(old, vm_id, &mut notices);
                Some(table.directory.names.guest(vm_id))
            }
            _ => None,
        };
        table.ask_link(link, &mut notices);
        drop(table);
        drop((known, name, former));
        if let Some(component) = moved {
            self.move_requests(link.principal, link.principal, component);
        }
        self.tell(notices);
        Ok(())
    }

    /// Makes the link to the management VM known, with the names that this has given.
    pub(crate) fn set_uplink(&self, link: &Arc<Link>, above: Above, comeback: Comeback) {
        let mut notices = Notices::default();
        let mut table = self.table.change();
        let directory = &mut table.directory;
        let before = core::mem::replace(&mut directory.names.above, above);
        let is_new = directory.uplink().is_none();
        directory.set_uplink(link.clone());
        if !is_new && (comeback.anew || comeback.resumed) {
            table.uplink_moved(before, comeback, &mut notices);
        }
        if is_new || comeback.anew {
            table.ask_link(link, &mut notices);
        }
        drop(table);
        self.tell(notices);
    }

    /// Forgets a link, if it is the one that is known under its name.
    pub(crate) fn remove_link(&self, link: &Arc<Link>) {
        let mut notices = Notices::default();
        let mut table = self.table.change();
        let known = table.directory.link(link.origin());
        if !known.is_some_and(|known| Arc::ptr_eq(known, link)) {
            return;
        }
        table.tell_link_gone(link.origin(), &mut notices);
        let directory = &mut table.directory;
        let entries = match link.origin() {
            Origin::Guest(id) => {
                let name = link
                    .uuid
                    .and_then(|uuid| directory.remove_stable(&uuid, id));
                (
                    directory.remove_guest(id),
                    name,
                    directory.remove_former(id),
                )
            }
            _ => {
                directory.remove_uplink();
                (None, None, None)
            }
        };
        drop(table);
        drop(entries);
        self.tell(notices);
        self.end_requests_of(link.principal);
    }

    /// Stamps a message of an endpoint that goes the way of an earlier one, and returns where that is.
    ///
    /// The header is as the endpoint wrote it, and was checked but for the addresses.
    pub(crate) fn prepare_known(
        &self,
        from: &Endpoint,
        draft: &mut Draft,
    ) -> Result<Option<Target>, Refused> {
        if from.inbox.is_over_limit() {
            return Err(Refused::Backlog);
        }
        let Some(target) = self.table.known_way(from.principal.id, draft) else {
            return Ok(None);
        };
        draft.stamp(|mut stamp| {
            stamp.hops(0);
            stamp.epoch(0);
        });
        target.trace_route(draft);
        Ok(Some(target))
    }

    /// Stamps a message of an endpoint and finds who receives it.
    ///
    /// `header` and `draft` are as the endpoint wrote them.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        from: &Arc<Endpoint>,
        header: &mut Header,
        mut draft: Draft,
        gfp: AllocFlags,
    ) -> Result<Prepared, Refused> {
        if from.inbox.is_over_limit() {
            return Err(Refused::Backlog);
        }
        (header.hops, header.epoch) = (0, 0);
        let table = self.table.look();
        let component = match from.service.serial {
            Some(serial) => Component::Hardware(serial),
            None => table.directory.names.own().into(),
        };
        header.source = Address::new(component, from.service.app);
        let is_presence = header.kind == Kind::Presence;
        if is_presence || header.flags.contains(Flags::BROADCAST) {
            drop(table);
            let back = Target::Endpoint(from.clone());
            if is_presence {
                let event = Event::decode(&draft.payload()).map_err(|_| Refused::Failed(EINVAL))?;
                if !event.is_from_endpoint() {
                    return Err(Refused::Failed(EINVAL));
                }
                from.has_asked.store(true, Relaxed);
                self.watch(Origin::Local, header, event, from.principal, &back)?;
                return Ok(Prepared::Broadcast(KVVec::new()));
            }
            let (sender, payload) = (from.principal, draft.payload());
            return self
                .distribute(Origin::Local, header, payload, sender, &back, gfp)
                .map(Prepared::Broadcast);
        }
        let asked = Asked::new(&table.policy);
        let found = table.directory.find(&asked, Origin::Local, header);
        let (cause, changes) = (asked.cause(), table.changes());
        drop(table);
        let mut target;
        (target, header.destination.component) = found?;
        let written = *draft.addresses();
        draft.stamp(|mut stamp| {
            stamp.hops(header.hops);
            stamp.epoch(header.epoch);
            stamp.source(&header.source);
            stamp.destination(&header.destination);
        });
        if let Some(way) = Way::of(from.principal, &written, &draft, &target, cause) {
            self.table.remember(changes, way);
        }
        self.number_request(&draft, header);
        let answered = self.answer(from.principal, header, &mut target);
        draft.set_answers(answered.is_some());
        target.trace_route(&draft);
        Ok(Prepared::To(draft, target, answered))
    }

    /// Finds the receiver of a message that came in by `link`; what is to be said of one that has none
    /// is written in its place. Its header was checked, but for the addresses. Does not sleep.
    pub(crate) fn forward(self: &Arc<Self>, link: &Arc<Link>, mut draft: Draft) -> Forwarded {
        if let Some(target) = self.forward_known(link, &mut draft) {
            return Forwarded::To(draft, target);
        }
        if let Err(error) = draft.check_addresses() {
            return Forwarded::Malformed(error);
        }
        let mut header = draft.stamped();
        // Only a bridge sends undeliverable ones; another domain's may: it returns what we sent.
        if header.source.app.is_none() || header.destination.app.is_none() {
            return Forwarded::Forged;
        }
        let origin = link.origin();
        header.hops = header.hops.saturating_add(1);
        let table = self.table.look();
        if let Origin::Guest(vm_id) = origin {
            header.source.component = table.directory.names.guest(vm_id);
            // What comes back has the epoch of the message that it is about.
            if header.kind != Kind::Undeliverable {
                header.epoch = link.epoch();
            }
        }
        let is_special = header.hops > MAX_HOPS
            || header.kind == Kind::Presence
            || header.flags.contains(Flags::BROADCAST);
        let asked = Asked::new(&table.policy);
        let found = (!is_special).then(|| table.directory.find(&asked, origin, &header));
        let (cause, changes) = (asked.cause(), table.changes());
        drop(table);
        let back = || Target::Link(link.clone());
        let found = if let Some(found) = found {
            found.map_err(Refused::from)
        } else if header.hops > MAX_HOPS {
            Err(Refused::Unreachable(Reason::Hops))
        } else if header.kind == Kind::Presence {
            match Event::decode(&draft.payload()) {
                Err(_) => return Forwarded::Forged,
                Ok(event) if event.is_from_endpoint() => {
                    match self.watch(origin, &header, event, link.principal, &back()) {
                        Ok(()) => return Forwarded::Dropped,
                        Err(refused) => Err(refused),
                    }
                }
                Ok(event) if self.seen(origin, &header, event) => self.find_asker(origin, &header),
                // Its asker may just have gone.
                Ok(_) => return Forwarded::Dropped,
            }
        } else {
            let (from, payload) = (link.principal, draft.payload());
            match self.distribute(origin, &header, payload, from, &back(), GFP_ATOMIC) {
                Ok(copies) => return Forwarded::Broadcast(copies),
                Err(refused) => Err(refused),
            }
        };
        match found {
            Ok((mut target, destination)) => {
                header.destination.component = destination;
                let answered = self.answer(link.principal, &header, &mut target);
                let is_told = header.kind == Kind::Undeliverable
                    && header.flags.contains(Flags::REQUEST)
                    && answered.is_none();
                if is_told && matches!(target, Target::Endpoint(_)) {
                    return Forwarded::Dropped;
                }
                let written = *draft.addresses();
                draft.stamp(|mut stamp| {
                    stamp.hops(header.hops);
                    stamp.epoch(header.epoch);
                    stamp.source(&header.source);
                    stamp.destination(&header.destination);
                });
                if let Some(way) = Way::of(link.principal, &written, &draft, &target, cause) {
                    self.table.remember(changes, way);
                }
                self.number_request(&draft, &header);
                draft.set_answers(answered.is_some());
                if self.await_reply(back, &draft, &target).is_err() {
                    // It passes without being remembered: who asked has its own bridge for that.
                    draft.set_request_number(0);
                }
                target.trace_route(&draft);
                Forwarded::To(draft, target)
            }
            Err(refused) => {
                let reason = refused.reason();
                trace(Point::Drop, link.principal.owner, reason, || header);
                let Some(answer) = header.undeliverable(reason) else {
                    return Forwarded::Dropped;
                };
                link.count_undeliverable();
                // A header has room.
                if draft.write(&answer, &[], GFP_ATOMIC).is_err() {
                    return Forwarded::Dropped;
                }
                Forwarded::To(draft, back())
            }
        }
    }

    /// As [`Bridge::forward`], for one that goes the way of an earlier one.
    fn forward_known(&self, link: &Link, draft: &mut Draft) -> Option<Target> {
        let hops = draft.hops().saturating_add(1);
        if hops > MAX_HOPS {
            return None;
        }
        let target = self.table.known_way(link.principal.id, draft)?;
        draft.stamp(|mut stamp| {
            stamp.hops(hops);
            if let Origin::Guest(_) = link.origin() {
                stamp.epoch(link.epoch());
            }
        });
        target.trace_route(draft);
        Some(target)
    }

    /// Tells the sender of `message` that it was not delivered, if it wants to know and is there.
    pub(crate) fn bounce(&self, message: &Message, reason: Reason) {
        let reason = if message.is_expired() {
            Reason::Deadline
        } else {
            reason
        };
        let header = message.header();
        trace(Point::Drop, message.principal.owner, reason, || header);
        let sender = match self.teller(message) {
            Teller::Nobody => return,
            Teller::To(requester) => Some(requester),
            Teller::Anybody => self.find_sender(&header),
        };
        // A sender that is gone does not wait for it.
        if let Some(sender) = sender {
            self.tell_undeliverable(&header, reason, sender);
        }
    }

    /// Finds the receiver of a message to one, and the name that its component is to carry, as
    /// far as the rules allow.
    fn find(&self, origin: Origin, header: &Header) -> Result<(Target, Component), Refused> {
        let table = self.table.look();
        Ok(table.directory.find(&*table.policy, origin, header)?)
    }

    /// As [`Bridge::find`], for what no rule forbids: a bridge's own words to who asked for them.
    fn find_asker(&self, origin: Origin, header: &Header) -> Result<(Target, Component), Refused> {
        Ok(self.table.look().directory.find_asker(origin, header)?)
    }

    /// Finds who sent a message.
    fn find_sender(&self, header: &Header) -> Option<Target> {
        let back = Header::new(Kind::Undeliverable, header.source, 0);
        let (sender, _) = self.find_asker(Origin::Local, &back).ok()?;
        Some(sender)
    }

    /// Makes the copies of a broadcast, for every receiver but the sender.
    ///
    /// A bridge answers itself for the endpoints of its domain when it is asked who is there;
    /// `back` is where the answer goes.
    fn distribute(
        &self,
        origin: Origin,
        header: &Header,
        payload: Payload<'_>,
        principal: Principal,
        back: &Target,
        gfp: AllocFlags,
    ) -> Result<KVVec<Addressed>, Refused> {
        let is_question = header.kind == Kind::Discover && header.flags.contains(Flags::REQUEST);
        let targets = self.find_all(origin, header, principal)?;
        let mut copies =
            KVVec::with_capacity(targets.len(), gfp).map_err(|e| Refused::Failed(e.into()))?;
        for (target, component) in targets {
            let destination = Address {
                component,
                ..header.destination
            };
            let copy = if is_question && matches!(target, Target::Endpoint(_)) {
                let answer = Header {
                    correlation: header.correlation,
                    priority: header.priority,
                    flags: Flags::NO_UNDELIVERABLE,
                    source: destination,
                    ..Header::new(Kind::Reply, header.source, 0)
                };
                Draft::of(&answer, Payload::EMPTY, BRIDGE, gfp).map(|answer| (answer, back.clone()))
            } else {
                let header = Header {
                    destination,
                    ..*header
                };
                Draft::of(&header, payload, principal, gfp).map(|copy| (copy, target))
            };
            copies
                .push(copy.map_err(Refused::Failed)?, gfp)
                .map_err(|e| Refused::Failed(e.into()))?;
        }
        Ok(copies)
    }

    /// Finds every receiver of a broadcast but the sender, and the name of the component of each.
    fn find_all(
        &self,
        origin: Origin,
        header: &Header,
        sender: Principal,
    ) -> Result<KVec<(Target, Component)>, Refused> {
        let mut targets = KVec::new();
        let table = self.table.look();
        let add = |target, component| {
            let pushed = targets.push((target, component), GFP_ATOMIC);
            pushed.map_err(|e| Refused::Failed(e.into()))
        };
        let directory = &table.directory;
        directory.find_all(&*table.policy, origin, header, sender.id, add)?;
        Ok(targets)
    }

    /// Delivers the copies of a broadcast. Nobody waits for a receiver that is full: its copy
    /// comes back.
    pub(crate) fn deliver(&self, copies: KVVec<Addressed>) {
        for (message, target) in copies {
            self.deliver_one(message, &target);
        }
    }

    pub(crate) fn deliver_one(&self, message: Draft, target: &Target) {
        target.trace_route(&message);
        let pushed = if message.principal == BRIDGE {
            target.push_returned(message)
        } else {
            target.push(message)
        };
        match pushed {
            Ok(()) => {}
            Err(PushError::Full(message)) => self.bounce(&message, Reason::Quota),
            Err(PushError::Closed(message)) => self.bounce(&message, Reason::PeerGone),
        }
    }

    /// The endpoint behind this one in the directory, or the first.
    pub(crate) fn endpoint_after(&self, last: Option<&Endpoint>) -> Option<Arc<Endpoint>> {
        let from = match last {
            None => (AppId::FIRST.into(), 0),
            Some(last) => (last.service, last.principal.id + 1),
        };
        self.table.look().directory.endpoint_from(&from)
    }
}

/// Whether an endpoint may write such a header, apart from where it goes.
pub(crate) fn check_written(header: &Header) -> Result {
    let broadcast = header.flags.contains(Flags::BROADCAST);
    let goes_alone = match header.destination.component {
        // A watch goes where it applies by itself.
        Component::Platform | Component::Everywhere => header.kind == Kind::Presence,
        _ => true,
    };
    if broadcast && matches!(header.kind, Kind::Reply | Kind::Presence) || !broadcast && !goes_alone
    {
        return Err(EINVAL);
    }
    if !header.kind.is_from_endpoint() || header.destination.app.is_none() {
        return Err(EINVAL);
    }
    Ok(())
}
