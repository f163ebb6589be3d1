// SPDX-License-Identifier: GPL-2.0

//! A client in the kernel: what another module has opened.

use crate::{
    account::Holding,
    awaited::{Awaited, OURS},
    mcb::{Bind, Bridge, Receive},
    message::{Draft, Message},
    port::{check_length, Full, Port},
    pure::{account::Owner, directory::Service},
    trace::Point,
    wire::{Address, Event, Flags as MessageFlags, Header, Kind, PRESENCE_LEN}, //
};
use kernel::{
    alloc::Flags,
    list::ListArc,
    prelude::*,
    sync::Arc, //
};

/// An endpoint of another module.
pub(crate) struct Client {
    port: Arc<Port>,
    awaited: Arc<Awaited>,
    /// Whether messages go to a callback.
    is_called: bool,
    _account: Holding,
}

/// What the kernel's own clients hold is charged to this account: root's.
const OWNER: Owner = Owner::Uid(0);

impl Client {
    /// Opens an endpoint, whose messages go to a callback or are read.
    pub(crate) fn open(
        bridge: Arc<Bridge>,
        service: Service,
        shared: bool,
        is_called: bool,
    ) -> Result<Arc<Self>> {
        let account = bridge.accounts.open(OWNER)?;
        let principal = bridge.new_principal(&account);
        let awaited = Arc::pin_init(Awaited::new(), GFP_KERNEL)?;
        let bind = Bind {
            service,
            shared,
            principal,
            account: &account,
            awaited: Some(awaited.clone()),
        };
        let port = Port::new(bridge, bind)?;
        Ok(Arc::new(
            Self {
                port,
                awaited,
                is_called,
                _account: account,
            },
            GFP_KERNEL,
        )?)
    }

    /// Has messages go to `receiver` from now on.
    pub(crate) fn call(&self, receiver: KBox<dyn Receive>) {
        self.port.endpoint().call(receiver);
    }

    /// Waits for a running call; there is no other.
    pub(crate) fn close(&self) {
        self.port.endpoint().call_no_more();
    }

    pub(crate) fn send(&self, header: &Header, payload: &[u8], gfp: Flags, full: Full) -> Result {
        if header.flags.contains(MessageFlags::REQUEST) && header.correlation >= OURS {
            return Err(EINVAL);
        }
        self.send_any(header, payload, gfp, full)
    }

    fn send_any(&self, header: &Header, payload: &[u8], gfp: Flags, full: Full) -> Result {
        check_length(header, payload.len())?;
        let sender = self.port.endpoint().principal;
        let draft = Draft::copied(header, payload, sender, gfp)?;
        self.port.send(&mut draft.stamped(), draft, gfp, full)
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn request(&self, header: &Header, payload: &[u8]) -> Result<ListArc<Message>> {
        let is_question = !matches!(header.kind, Kind::Presence | Kind::Reply)
            && !header.flags.contains(MessageFlags::BROADCAST)
            && !header.flags.contains(MessageFlags::NO_UNDELIVERABLE);
        if !is_question {
            return Err(EINVAL);
        }
        let request = self.awaited.begin()?;
        let header = Header {
            flags: header.flags.union(MessageFlags::REQUEST),
            correlation: request.correlation,
            ..*header
        };
        self.send_any(&header, payload, GFP_KERNEL, Full::Waits)?;
        request.wait((header.deadline_ms != 0).then_some(header.deadline_ms))
    }

    pub(crate) fn reply(&self, request: &Message, payload: &[u8], gfp: Flags) -> Result {
        let request = request.header();
        if !request.flags.contains(MessageFlags::REQUEST) {
            return Err(EINVAL);
        }
        let length = u32::try_from(payload.len())?;
        let header = Header {
            priority: request.priority,
            correlation: request.correlation,
            flags: MessageFlags::NO_UNDELIVERABLE,
            ..Header::new(Kind::Reply, request.source, length)
        };
        self.send_any(&header, payload, gfp, Full::Fails)
    }

    /// Starts or ends a watch on who binds and frees an App_ID.
    pub(crate) fn watch(&self, whom: Address, on: bool) -> Result {
        let event = if on { Event::Watch } else { Event::Unwatch };
        let header = Header::new(Kind::Presence, whom, PRESENCE_LEN as u32);
        crate::mcb::check_written(&header)?;
        self.send_any(&header, &event.encode(), GFP_ATOMIC, Full::Fails)
    }

    /// The next message. Waits at most so many milliseconds, or for ever.
    pub(crate) fn receive(&self, milliseconds: Option<u32>) -> Result<ListArc<Message>> {
        if self.is_called {
            return Err(EINVAL);
        }
        let endpoint = self.port.endpoint();
        let message = if milliseconds == Some(0) {
            endpoint.inbox.pop(usize::MAX)?
        } else {
            let readable = &endpoint.readable;
            endpoint
                .inbox
                .pop_wait(usize::MAX, readable, milliseconds)?
        };
        self.port.trace(Point::Deliver, || message.header());
        Ok(message)
    }
}
