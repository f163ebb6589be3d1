// SPDX-License-Identifier: GPL-2.0

//! An endpoint as its owner has it, an open file or a kernel client: it numbers what is sent.

use crate::{
    bh::{new_spinlock_bh, SpinLockBh},
    inbox::PushError,
    mcb::{check_written, Bind, Bridge, Endpoint, Prepared, Refused, Target},
    message::{Draft, Message},
    pure::large::MAX_PAYLOAD,
    spares::Spares,
    trace::{is_traced, trace, Point},
    wire::{Header, Reason, WireError, HEADER_LEN}, //
};
use kernel::{
    alloc::Flags,
    list::ListArc,
    prelude::*,
    sync::{Arc, UniqueArc}, //
};

/// Whether a sender waits for a receiver that has no room for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Waits,
    Fails,
}

impl Full {
    /// It waits, unless it may not.
    pub(crate) fn unless(nonblock: bool) -> Self {
        if nonblock {
            Self::Fails
        } else {
            Self::Waits
        }
    }
}

/// An endpoint, bound until this is dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct Port {
    bridge: Arc<Bridge>,
    endpoint: Arc<Endpoint>,
    /// Messages that were accepted.
    #[pin]
    sent: SpinLockBh<u64>,
}

impl Port {
    /// Binds an App_ID: see [`Bridge::bind`].
    pub(crate) fn new(bridge: Arc<Bridge>, bind: Bind<'_>) -> Result<Arc<Self>> {
        // Memory first: what is bound is freed by `drop` and nothing else.
        let room = UniqueArc::<Self>::new_uninit(GFP_KERNEL)?;
        let endpoint = bridge.bind(bind)?;
        let port = room.pin_init_with(try_pin_init!(Self {
            endpoint,
            bridge,
            sent <- new_spinlock_bh!(0, "mgmt_port_sent"),
        }? Error))?;
        Ok(port.into())
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Memory of messages, for the next ones.
    pub(crate) fn spares(&self) -> &Spares {
        &self.bridge.spares
    }

    /// A message that is to be sent, still without content.
    pub(crate) fn draft(&self, gfp: Flags) -> Result<Draft> {
        self.bridge.spares.take(self.endpoint.principal, gfp)
    }

    /// Sends a message with this header, which is stamped here too.
    ///
    /// Does not sleep if `gfp` does not allow it and a full receiver [`Fails`](Full::Fails) it with
    /// `EAGAIN`.
    pub(crate) fn send(&self, header: &mut Header, draft: Draft, gfp: Flags, full: Full) -> Result {
        match self.send_known(draft, full)? {
            Some(draft) => self.send_new(header, draft, gfp, full),
            None => Ok(()),
        }
    }

    /// As [`Port::send`], for a message that goes the way of an earlier one; returns any other. Its header
    /// was checked, but for the addresses.
    pub(crate) fn send_known(&self, mut draft: Draft, full: Full) -> Result<Option<Draft>> {
        let known = self.bridge.prepare_known(&self.endpoint, &mut draft);
        let Some(target) = known.map_err(errno)? else {
            return Ok(Some(draft));
        };
        self.send_to(draft, &target, full)?;
        Ok(None)
    }

    /// As [`Port::send`], for one of which [`Port::send_known`] does not know the way.
    pub(crate) fn send_new(
        &self,
        header: &mut Header,
        draft: Draft,
        gfp: Flags,
        full: Full,
    ) -> Result {
        let prepared = self.bridge.prepare(&self.endpoint, header, draft, gfp);
        match prepared.map_err(errno)? {
            Prepared::To(message, target, answered) => {
                let done = self.send_to(message, &target, full);
                if done.is_err() {
                    self.bridge.unanswer(answered);
                }
                done
            }
            Prepared::Broadcast(mut copies) => {
                let mut sent = self.sent.lock();
                *sent += 1;
                for (copy, _) in &mut copies {
                    copy.stamp(|mut stamp| stamp.sequence(*sent));
                }
                self.trace(Point::Send, || Header {
                    sequence: *sent,
                    ..*header
                });
                self.bridge.deliver(copies);
                Ok(())
            }
        }
    }

    /// Hands a message to its receiver, when that has room for it.
    fn send_to(&self, mut message: Draft, to: &Target, full: Full) -> Result {
        let from = || Target::Endpoint(self.endpoint.clone());
        loop {
            // Numbers follow the order in which messages are accepted. Nobody sleeps with the lock.
            let mut sent = self.sent.lock();
            message.stamp(|mut stamp| stamp.sequence(*sent + 1));
            self.bridge.await_reply(from, &message, to)?;
            // Once it is handed over, it is the receiver's.
            let header = is_traced(Point::Send).then(|| message.header());
            let (left, is_gone) = match to.push(message) {
                Ok(()) => {
                    *sent += 1;
                    if let Some(header) = header {
                        self.trace(Point::Send, || header);
                    }
                    return Ok(());
                }
                Err(PushError::Full(left)) => (left, false),
                Err(PushError::Closed(left)) => (left, true),
            };
            if !self.bridge.withdraw(&left) {
                *sent += 1;
                return Ok(());
            }
            drop(sent);
            if is_gone {
                return Err(errno(to.gone()));
            }
            if full == Full::Fails {
                return Err(EAGAIN);
            }
            to.inbox().wait_room(&left)?;
            message = left;
        }
    }

    /// Whoever reads from this endpoint has this message.
    pub(crate) fn delivered(&self, message: ListArc<Message>) {
        self.trace(Point::Deliver, || message.header());
        self.bridge.spares.put(message);
    }

    /// Tells who listens what this endpoint does.
    pub(crate) fn trace(&self, point: Point, header: impl FnOnce() -> Header) {
        trace(point, self.endpoint.principal.owner, Reason::None, header);
    }
}

#[pinned_drop]
impl PinnedDrop for Port {
    fn drop(self: Pin<&mut Self>) {
        self.bridge.unbind(&self.endpoint);
    }
}

/// The header of a message of an endpoint, checked for all that is wrong wherever it goes.
pub(crate) fn decode_written(header: &[u8; HEADER_LEN]) -> Result<Header> {
    let header = Header::decode(header).map_err(malformed)?;
    check_written(&header)?;
    Ok(header)
}

/// The errno for a message that is none.
pub(crate) fn malformed(error: WireError) -> Error {
    match error {
        WireError::Version => EPROTONOSUPPORT,
        _ => EINVAL,
    }
}

/// Checks the length of a payload.
pub(crate) fn check_length(header: &Header, length: usize) -> Result {
    if length != header.length as usize {
        return Err(EINVAL);
    }
    if length > MAX_PAYLOAD {
        return Err(EMSGSIZE);
    }
    Ok(())
}

/// The errno for a message that was not accepted.
fn errno(refused: Refused) -> Error {
    match refused {
        Refused::Unreachable(Reason::NoEndpoint) => ECONNREFUSED,
        Refused::Unreachable(Reason::Denied) => EACCES,
        Refused::Unreachable(_) => EHOSTUNREACH,
        Refused::NotConnected => ENOTCONN,
        Refused::Backlog => ENOBUFS,
        Refused::Failed(e) => e,
    }
}
