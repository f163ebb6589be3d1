// SPDX-License-Identifier: GPL-2.0

//! The M-channel bridge (MCB, paper §4.1): routes every message by its header.
//!
//! It knows endpoints (bound files, later kernel clients) and links (channels to other domains),
//! and nothing else. Routing is `pure::route`; here are the tables and the stamping.

use crate::{
    inbox::{Inbox, PushError},
    link::Link,
    message::{Message, Principal},
    pure::route::{route, Above, Names, Origin, Route, VmName},
    queue::OwnedQueue,
    wire::{Address, AppId, Component, Flags, Header, Kind, Reason, MAX_HOPS}, //
};
use kernel::{
    list::ListArc,
    new_spinlock,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        poll::PollCondVarBox,
        Arc,
        SpinLock, //
    }, //
};

/// What the bridge itself sends is charged to this principal.
const BRIDGE: Principal = Principal(0);

/// Somebody in this domain who has bound an App_ID.
#[pin_data]
pub(crate) struct Endpoint {
    pub(crate) app: AppId,
    pub(crate) principal: Principal,
    #[pin]
    pub(crate) inbox: Inbox,
    /// Notified when a message was queued.
    pub(crate) readable: PollCondVarBox,
}

/// Who gets a message next.
pub(crate) enum Target {
    Endpoint(Arc<Endpoint>),
    Link(Arc<Link>),
}

impl Target {
    pub(crate) fn inbox(&self) -> &Inbox {
        match self {
            Self::Endpoint(endpoint) => &endpoint.inbox,
            Self::Link(link) => &link.inbox,
        }
    }

    /// Queues a message and wakes its receiver.
    pub(crate) fn push(&self, message: ListArc<Message>) -> Result<(), PushError> {
        self.inbox().push(message)?;
        self.wake();
        Ok(())
    }

    /// As [`Target::push`], whatever the sender's share.
    pub(crate) fn push_returned(&self, message: ListArc<Message>) -> Result<(), PushError> {
        self.inbox().push_returned(message)?;
        self.wake();
        Ok(())
    }

    /// Why a message that this receiver did not take any more is refused.
    pub(crate) fn gone(&self) -> Refused {
        match self {
            Self::Endpoint(_) => Refused::Unreachable(Reason::NoEndpoint),
            Self::Link(link) if link.origin == Origin::Uplink => Refused::NotConnected,
            Self::Link(_) => Refused::Unreachable(Reason::NoComponent),
        }
    }

    fn wake(&self) {
        match self {
            Self::Endpoint(endpoint) => endpoint.readable.notify_all(),
            Self::Link(link) => Link::kick(link),
        }
    }
}

/// What became of a message that came in by a link.
pub(crate) enum Forwarded {
    /// It goes to this receiver, or back where it came from as undeliverable.
    To(ListArc<Message>, Target),
    /// It ends here: undeliverable, and nobody wants to know.
    Dropped,
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

/// The bridge of this domain.
#[pin_data]
pub(crate) struct Bridge {
    queue: OwnedQueue,
    next_principal: Atomic<u64>,
    next_epoch: Atomic<u32>,
    #[pin]
    table: SpinLock<Table>,
}

struct Table {
    names: Names,
    endpoints: RBTree<AppId, Arc<Endpoint>>,
    guests: RBTree<u32, Arc<Link>>,
    uplink: Option<Arc<Link>>,
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
        Arc::pin_init(
            try_pin_init!(Self {
                queue: OwnedQueue::new(c"mgmt")?,
                next_principal: Atomic::new(BRIDGE.0 + 1),
                next_epoch: Atomic::new(1),
                table <- new_spinlock!(
                    Table {
                        names,
                        endpoints: RBTree::new(),
                        guests: RBTree::new(),
                        uplink: None,
                    },
                    "mgmt_table"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// Where links do their work.
    pub(crate) fn queue(&self) -> &OwnedQueue {
        &self.queue
    }

    pub(crate) fn new_principal(&self) -> Principal {
        Principal(self.next_principal.fetch_add(1, Relaxed))
    }

    pub(crate) fn new_epoch(&self) -> u32 {
        self.next_epoch.fetch_add(1, Relaxed)
    }

    pub(crate) fn names(&self) -> Names {
        self.table.lock().names
    }

    /// Sets the address of this management VM.
    pub(crate) fn set_mvm_ip(&self, ip: [u8; 16]) {
        self.table.lock().names.mvm.mvm_ip = ip;
    }

    /// Sets what is known of the management VM above.
    pub(crate) fn set_above(&self, above: Above) {
        self.table.lock().names.above = above;
    }

    pub(crate) fn summary(&self) -> Summary {
        let table = self.table.lock();
        Summary {
            names: table.names,
            uplink: table.uplink.is_some(),
            links: table.guests.values().count() as u32,
            endpoints: table.endpoints.values().count() as u32,
        }
    }

    /// The link to the guest with the smallest VM_ID from `id` on.
    pub(crate) fn guest_from(&self, id: u32) -> Option<(u32, Arc<Link>)> {
        let table = self.table.lock();
        let cursor = table.guests.cursor_lower_bound(&id)?;
        let (id, link) = cursor.current();
        Some((*id, link.clone()))
    }

    pub(crate) fn uplink(&self) -> Option<Arc<Link>> {
        self.table.lock().uplink.clone()
    }

    /// Binds an App_ID. `EADDRINUSE` if somebody in this domain has bound it.
    pub(crate) fn bind(&self, app: AppId, principal: Principal) -> Result<Arc<Endpoint>> {
        let endpoint = Arc::pin_init(
            try_pin_init!(Endpoint {
                app,
                principal,
                inbox <- Inbox::new(),
                readable: PollCondVarBox::new(c"mgmt_endpoint", kernel::static_lock_class!())?,
            }),
            GFP_KERNEL,
        )?;
        let node = RBTreeNode::new(app, endpoint.clone(), GFP_KERNEL)?;
        let mut table = self.table.lock();
        if table.endpoints.get(&app).is_some() {
            return Err(EADDRINUSE);
        }
        table.endpoints.insert(node);
        Ok(endpoint)
    }

    /// Frees the App_ID; what the endpoint had not read goes back to its senders.
    pub(crate) fn unbind(&self, endpoint: &Endpoint) {
        let node = self.table.lock().endpoints.remove_node(&endpoint.app);
        drop(node);
        let mut left = endpoint.inbox.close();
        endpoint.readable.notify_all();
        while let Some(message) = left.pop_front() {
            self.bounce(&message, Reason::PeerGone);
        }
    }

    /// Makes a link known. If there is one to the same domain already, `EEXIST`.
    pub(crate) fn add_link(&self, link: &Arc<Link>) -> Result {
        match link.origin {
            Origin::Guest(id) => {
                let node = RBTreeNode::new(id, link.clone(), GFP_KERNEL)?;
                let mut table = self.table.lock();
                if table.guests.get(&id).is_some() {
                    return Err(EEXIST);
                }
                table.guests.insert(node);
            }
            Origin::Uplink => {
                let mut table = self.table.lock();
                if table.uplink.is_some() {
                    return Err(EEXIST);
                }
                table.uplink = Some(link.clone());
            }
            Origin::Local => return Err(EINVAL),
        }
        Ok(())
    }

    /// Forgets a link, if it is the one that is known under its name.
    pub(crate) fn remove_link(&self, link: &Arc<Link>) {
        let mut table = self.table.lock();
        match link.origin {
            Origin::Guest(id) => {
                let known = table.guests.get(&id);
                if known.is_some_and(|known| Arc::ptr_eq(known, link)) {
                    let node = table.guests.remove_node(&id);
                    drop(table);
                    drop(node);
                }
            }
            Origin::Uplink => {
                let known = table.uplink.as_ref();
                if known.is_some_and(|known| Arc::ptr_eq(known, link)) {
                    table.uplink = None;
                    if let Above::Connected { .. } = table.names.above {
                        table.names.above = Above::Disconnected;
                    }
                }
            }
            Origin::Local => {}
        }
    }

    /// Stamps a message of an endpoint and finds its receiver.
    ///
    /// `header` is as the endpoint wrote it; `payload` has the length that it says.
    pub(crate) fn prepare(
        &self,
        from: &Endpoint,
        header: &Header,
        payload: KVVec<u8>,
    ) -> Result<(ListArc<Message>, Target), Refused> {
        if from.inbox.is_over_capacity() {
            return Err(Refused::Backlog);
        }
        let (target, component, own) = self.find(Origin::Local, header)?;
        let header = Header {
            hops: 0,
            epoch: 0,
            source: Address::new(own.into(), from.app),
            destination: Address {
                component,
                ..header.destination
            },
            ..*header
        };
        let message = Message::new(header, payload, from.principal).map_err(Refused::Failed)?;
        Ok((message, target))
    }

    /// Finds the receiver of a message that came in by `link`.
    pub(crate) fn forward(
        &self,
        link: &Arc<Link>,
        mut header: Header,
        payload: KVVec<u8>,
    ) -> Forwarded {
        // Only a bridge sends undeliverable ones; another domain's may: it returns what we sent.
        if header.source.app.is_none()
            || header.destination.app.is_none()
            || header.kind == Kind::Presence
        {
            return Forwarded::Forged;
        }
        if let Origin::Guest(vm_id) = link.origin {
            let mvm_ip = self.names().mvm.mvm_ip;
            header.source.component = VmName { mvm_ip, vm_id }.into();
            // What comes back has the epoch of the message that it is about.
            if header.kind != Kind::Undeliverable {
                header.epoch = link.epoch;
            }
        }
        header.hops = header.hops.saturating_add(1);
        let found = if header.hops > MAX_HOPS {
            Err(Reason::Hops)
        } else {
            self.find(link.origin, &header)
                .map_err(|refused| match refused {
                    Refused::Unreachable(reason) => reason,
                    _ => Reason::NoComponent,
                })
        };
        let result = match found {
            Ok((target, destination, _)) => {
                header.destination.component = destination;
                Message::new(header, payload, link.principal).map(|message| (message, target))
            }
            Err(reason) => {
                let Some(back) = header.undeliverable(reason) else {
                    return Forwarded::Dropped;
                };
                link.count_undeliverable();
                Message::new(back, KVVec::new(), link.principal)
                    .map(|message| (message, Target::Link(link.clone())))
            }
        };
        match result {
            Ok((message, target)) => Forwarded::To(message, target),
            Err(_) => {
                pr_err!(
                    "no memory for a message from {:?}: it is lost\n",
                    link.origin
                );
                Forwarded::Dropped
            }
        }
    }

    /// Tells the sender of `message` that it was not delivered, if it wants to know and is there.
    pub(crate) fn bounce(&self, message: &Message, reason: Reason) {
        let Some(back) = message.undeliverable(reason, BRIDGE) else {
            return;
        };
        let Ok((target, ..)) = self.find(Origin::Local, &back.header()) else {
            // The sender is gone.
            return;
        };
        if let Target::Link(link) = &target {
            link.count_undeliverable();
        }
        // A sender that went away meanwhile does not wait for it.
        let _ = target.push_returned(back);
    }

    fn find(
        &self,
        origin: Origin,
        header: &Header,
    ) -> Result<(Target, Component, VmName), Refused> {
        let table = self.table.lock();
        let own = table.names.own();
        let (way, component) = route(&table.names, origin, &header.destination.component);
        let target = match way {
            Route::Local => {
                let app = header.destination.app.as_ref();
                let endpoint = app.and_then(|app| table.endpoints.get(app));
                let endpoint = endpoint.ok_or(Refused::Unreachable(Reason::NoEndpoint))?;
                Target::Endpoint(endpoint.clone())
            }
            Route::Guest(id) => {
                let link = table.guests.get(&id);
                let link = link.ok_or(Refused::Unreachable(Reason::NoComponent))?;
                Target::Link(link.clone())
            }
            Route::Uplink => {
                let link = table.uplink.as_ref().ok_or(Refused::NotConnected)?;
                Target::Link(link.clone())
            }
            Route::Unreachable(reason) => return Err(Refused::Unreachable(reason)),
        };
        Ok((target, component, own))
    }
}

/// Whether an endpoint may write such a header, apart from where it goes.
pub(crate) fn check_written(header: &Header) -> Result {
    if header.flags.contains(Flags::BROADCAST) {
        return Err(EOPNOTSUPP);
    }
    if !header.kind.is_from_endpoint() || header.destination.app.is_none() {
        return Err(EINVAL);
    }
    Ok(())
}
