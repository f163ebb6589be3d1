// SPDX-License-Identifier: GPL-2.0

//! A connected channel: two rings and an event channel, the same at both ends.

use crate::{
    link::Link,
    message::Message,
    pure::{
        flow::Note,
        large::REF_BYTES,
        lineage::Answer,
        ring::{Broken, Consumer, Format, Producer, PushError}, //
    },
    wire::HEADER_LEN,
    xen::{
        event::EventChannel,
        lend::{Lender, Lent},
        pages::PageBuffer,
        ring::RingMemory,
        xenbus::Transaction, //
    }, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Version of what the two ends agree on through xenstore: node names and ring layout.
pub(crate) const PROTOCOL: u32 = 1;

/// Names of the nodes by which the two ends of a channel find each other.
pub(crate) mod node {
    use kernel::prelude::*;

    /// Backend: the protocol version that it speaks.
    pub(crate) const BACKEND_PROTOCOL: &CStr = c"protocol";
    /// Backend: most data pages of a ring that it maps, as a power of two.
    pub(crate) const MAX_PAGE_ORDER: &CStr = c"max-ring-page-order";
    /// Backend: the VM_ID of the guest.
    pub(crate) const VM_ID: &CStr = c"vm-id";
    /// Backend: the VM_ID of the management VM.
    pub(crate) const MVM_ID: &CStr = c"mvm-id";
    /// Backend: the address of the management VM, 32 hexadecimal digits.
    pub(crate) const MVM_IP: &CStr = c"mvm-ip";
    /// Backend: incarnation of the link.
    pub(crate) const EPOCH: &CStr = c"epoch";
    /// Frontend: the lineage that it would go on with. Backend: the one that holds.
    pub(crate) const LINK: &CStr = c"link";
    /// Frontend: the lineage that begins if the backend does not know the other.
    pub(crate) const FRESH: &CStr = c"fresh-link";
    /// Both: messages of the lineage that were taken.
    pub(crate) const RECEIVED: &CStr = c"received";

    /// Frontend: a random number for each set of rings. Backend: of those that it has taken, so
    /// that neither mistakes rings of an earlier time for the present ones.
    pub(crate) const SESSION: &CStr = c"session";
    /// Frontend: the protocol version of this channel.
    pub(crate) const PROTOCOL: &CStr = c"protocol";
    /// Frontend: data pages of each ring, as a power of two.
    pub(crate) const PAGE_ORDER: &CStr = c"ring-page-order";
    /// Frontend: its event channel.
    pub(crate) const EVENT_CHANNEL: &CStr = c"event-channel";
    /// Frontend: grants of the pages of the ring to the backend, in order.
    pub(crate) const TX_REFS: &CStr = c"tx-ring-refs";
    /// Frontend: grants of the pages of the ring to the frontend, in order.
    pub(crate) const RX_REFS: &CStr = c"rx-ring-refs";
}

/// What one end publishes of the lineage of a link: [`node::LINK`] and [`node::RECEIVED`]. Who
/// publishes nothing goes on with nothing.
pub(crate) fn read_lineage(t: &Transaction, dir: &CStr) -> Result<Answer> {
    Ok(Answer {
        link: read_count(t, dir, node::LINK)?,
        received: read_count(t, dir, node::RECEIVED)?,
    })
}

pub(crate) fn write_lineage(t: &Transaction, dir: &CStr, link: u64, received: u64) -> Result {
    write_count(t, dir, node::LINK, link)?;
    write_count(t, dir, node::RECEIVED, received)
}

/// A number of 64 bits: 16 hexadecimal digits. 0 if there is no such node.
pub(crate) fn read_count(t: &Transaction, dir: &CStr, node: &CStr) -> Result<u64> {
    match t.read_hex(dir, node) {
        Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
        Err(e) if e == ENOENT => Ok(0),
        Err(e) => Err(e),
    }
}

pub(crate) fn write_count(t: &Transaction, dir: &CStr, node: &CStr, value: u64) -> Result {
    t.write(dir, node, fmt!("{value:016x}"))
}

/// Two rings and an event channel, and what was lent to the other end through them.
pub(crate) struct Channel {
    /// Both rings' events, in both directions. Closed before the rings are given up.
    pub(crate) event: EventChannel<Link>,
    /// To the other end.
    pub(crate) tx: Producer<RingMemory>,
    /// From the other end.
    pub(crate) rx: Consumer<RingMemory>,
    lender: Arc<Lender>,
    /// Pages of messages in the ring that the other end had not taken, with the positions behind
    /// those messages, in order.
    lent: KVec<(u32, Lent)>,
}

/// Why a message was not sent.
pub(crate) enum SendError {
    Ring(PushError),
    /// No memory to lend it, or the other end has too many pages already.
    Lend,
}

impl From<PushError> for SendError {
    fn from(error: PushError) -> Self {
        Self::Ring(error)
    }
}

impl Channel {
    pub(crate) fn new(
        event: EventChannel<Link>,
        tx: RingMemory,
        rx: RingMemory,
        lender: &Arc<Lender>,
    ) -> Self {
        Self {
            event,
            tx: Producer::new(tx),
            rx: Consumer::new(rx),
            lender: lender.clone(),
            lent: KVec::new(),
        }
    }

    /// The domain at the other end.
    pub(crate) fn peer(&self) -> u16 {
        self.lender.domid()
    }

    /// Puts a message into the ring, or what tells where its payload is. Does not sleep.
    pub(crate) fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let mut deadline = [0; 4];
        let parts = message.parts(&mut deadline);
        match message.pages() {
            None => Ok(self.tx.push(&parts)?),
            Some(pages) => self.send_lent(parts, pages),
        }
    }

    fn send_lent(
        &mut self,
        [a, b, c]: [&[u8]; 3],
        pages: &Arc<PageBuffer>,
    ) -> Result<(), SendError> {
        // First, so that nothing is lent for a ring that is full.
        self.tx.make_room(HEADER_LEN + pages.pages() * REF_BYTES)?;
        let lent = self.lent.reserve(1, GFP_ATOMIC).map_err(Error::from);
        let lent = lent.and_then(|()| self.lender.lend(pages));
        let lent = lent.map_err(|_| SendError::Lend)?;
        let refs = lent.refs().as_flattened();
        self.tx.push_as(Format::Pages, &[a, b, c, refs])?;
        // There is room for it.
        let _ = self.lent.push((self.tx.position(), lent), GFP_ATOMIC);
        Ok(())
    }

    /// Puts a note into the ring.
    pub(crate) fn tell(&mut self, note: &Note) -> Result<(), PushError> {
        let (head, flow) = note.encode();
        self.tx.push_as(Format::Note, &[&head, flow])
    }

    /// Takes back what was lent for messages that the other end has taken. If there is more, it
    /// will send an event. Returns whether there was anything.
    pub(crate) fn take_back(&mut self) -> Result<bool, Broken> {
        let mut any = false;
        while let Some((position, _)) = self.lent.first() {
            if !self.tx.await_consumed(*position)? {
                break;
            }
            any = true;
            drop(self.lent.remove(0));
        }
        Ok(any)
    }

    /// Whether the other end has pages, and will send an event when it has taken them.
    pub(crate) fn has_lent(&self) -> bool {
        !self.lent.is_empty()
    }
}
