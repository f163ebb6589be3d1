// SPDX-License-Identifier: GPL-2.0

//! A connected channel: two rings and an event channel, the same at both ends.

use crate::{
    link::Link,
    pure::ring::{Consumer, Producer},
    xen::{event::EventChannel, ring::RingMemory}, //
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
    /// Backend: incarnation of the channel.
    pub(crate) const EPOCH: &CStr = c"epoch";

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

/// Two rings and an event channel.
pub(crate) struct Channel {
    /// Both rings' events, in both directions. Closed before the rings are given up.
    pub(crate) event: EventChannel<Link>,
    /// To the other end.
    pub(crate) tx: Producer<RingMemory>,
    /// From the other end.
    pub(crate) rx: Consumer<RingMemory>,
}
