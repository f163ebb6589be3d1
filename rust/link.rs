// SPDX-License-Identifier: GPL-2.0

//! A link: a channel to another domain, as the bridge sees it.
//!
//! Messages are moved in softirq context, by a work item that an event, or whoever sends, queues
//! ([`Link::pump`]); what may sleep is the chores' ([`Link::end_violated`], [`Link::copy_large`]).
//!
//! Locks, outermost first: `Link::ended`, `Link::io`, then the bridge's table, or one inbox, or
//! the bridge's list of queues with deadlines, or one lender. Nobody waits for a second `io`.

use crate::{
    account::Holding,
    bh::{new_spinlock_bh, Guard, SpinLockBh},
    channel::{Channel, SendError},
    inbox::{Inbox, PushError},
    large::{Arriving, Large, NotGranted},
    mcb::{Bridge, Forwarded, Target},
    message::{Message, Principal, Room},
    payload::Payload,
    pure::{
        account::Owner,
        large::MAX_INLINE,
        ring::{Broken, Format, PushError as RingError},
        route::Origin, //
    },
    wire::{Header, Reason, WireError, HEADER_LEN},
    xen::{
        event::Handler,
        xenbus::{Complaints, Device},
    }, //
};
use kernel::{
    alloc::AllocError,
    fmt,
    list::{
        impl_list_arc_safe, impl_list_item, AtomicTracker, List, ListArc, ListLinks, TryNewListArc,
    },
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{ordering, Atomic},
        Arc,
        ArcBorrow,
        Mutex, //
    },
    workqueue::{
        impl_has_delayed_work,
        impl_has_work,
        new_delayed_work,
        new_work,
        DelayedWork,
        Work,
        WorkItem, //
    }, //
};

/// Messages that a link takes from its ring, or puts into it, before others get their turn.
const BUDGET: usize = 64;
/// Jiffies until a link that found no memory tries again.
const RETRY_DELAY: usize = 2;

/// A counter that anybody may read.
pub(crate) struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    pub(crate) fn add(&self, by: usize) {
        self.0.fetch_add(by as u64, ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(ordering::Relaxed)
    }
}

/// What a link has done, for `MGMT_IOC_LINK`.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) rx_messages: Counter,
    pub(crate) rx_bytes: Counter,
    pub(crate) tx_messages: Counter,
    pub(crate) tx_bytes: Counter,
    pub(crate) undeliverable: Counter,
    pub(crate) stalls: Counter,
}

/// A link to the guest or management VM at the other end of a channel.
#[pin_data]
pub(crate) struct Link {
    /// Who is at the other end, as messages from there come in.
    pub(crate) origin: Origin,
    /// Who sends what comes from there.
    pub(crate) principal: Principal,
    /// Of the domain there.
    _account: Holding,
    /// Incarnation of the channel.
    pub(crate) epoch: u32,
    pub(crate) counters: Counters,
    pub(crate) dev: ARef<Device>,
    complaints: Arc<Complaints>,
    pub(crate) bridge: Arc<Bridge>,
    /// What is to go there.
    #[pin]
    pub(crate) inbox: Inbox,
    #[pin]
    io: SpinLockBh<Io>,
    /// Whether the link has ended. Held while it ends: its device is bound until then.
    #[pin]
    ended: Mutex<bool>,
    /// An event came and awaits its EOI.
    event: Atomic<bool>,
    /// The moving of messages waits for its time: nothing else queues it meanwhile.
    retrying: Atomic<bool>,
    #[pin]
    moves: DelayedWork<Link, MOVES>,
    #[pin]
    chores: Work<Link, CHORES>,
    #[pin]
    copies: Work<Link, COPIES>,
    /// In the bridge's list of those that hold messages with a deadline.
    #[pin]
    expiring: ListLinks,
    #[pin]
    is_expiring: AtomicTracker,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Link { tracked_by is_expiring: AtomicTracker; }
}

impl_list_item! {
    impl ListItem<0> for Link { using ListLinks { self.expiring }; }
}

/// The numbers of the link's work items.
const MOVES: u64 = 0;
const CHORES: u64 = 1;
const COPIES: u64 = 2;

struct Io {
    channel: Option<Channel>,
    /// The large message from there that is next.
    large: Large,
    /// A message from there that a full receiver stopped, and that receiver.
    stalled: Option<(ListArc<Message>, Target)>,
    /// A message that found no room in the ring.
    outgoing: Option<ListArc<Message>>,
    /// Messages in the ring that the other end had not taken when last looked at.
    sent: List<Message>,
    /// What the other end did that ends the channel: nothing is moved any more.
    violation: Option<Violation>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, MOVES> for Link { self.moves }
}

impl_has_work! {
    impl HasWork<Self, CHORES> for Link { self.chores }
}

impl_has_work! {
    impl HasWork<Self, COPIES> for Link { self.copies }
}

impl WorkItem<COPIES> for Link {
    type Pointer = Arc<Link>;

    fn run(this: Arc<Link>) {
        this.copy_large();
    }
}

impl WorkItem<CHORES> for Link {
    type Pointer = Arc<Link>;

    fn run(this: Arc<Link>) {
        this.end_violated();
    }
}

impl WorkItem<MOVES> for Link {
    type Pointer = Arc<Link>;

    fn run(this: Arc<Link>) {
        if this.retrying.xchg(false, ordering::Relaxed) {
            this.bridge.delay_ended();
        }
        this.pump();
    }
}

impl Handler for Link {
    fn on_event(this: ArcBorrow<'_, Self>) {
        this.event.store(true, ordering::Release);
        Link::schedule(&this.into());
    }
}

/// What a link does after a round of work.
enum Next {
    /// It waits for an event.
    Wait,
    /// It has more to do.
    Again,
    /// It has more to do when there is memory.
    Later,
}

/// What the other end did that ends its channel.
enum Violation {
    Ring(Broken),
    Header(WireError),
    /// A message that no bridge sends.
    Forged,
    /// A message whose payload is in pages that are not granted to us.
    NotGranted,
}

/// What was in the ring.
enum Found {
    Nothing,
    /// Something that there is no memory for.
    NoMemory,
    Message(Room, Header, Payload),
    /// A message whose payload a task must copy.
    Large(Arriving),
    /// Whatever it is, it is not its turn before such a payload was copied.
    Waiting,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(broken) => write!(f, "bad ring: {broken:?}"),
            Self::Header(error) => write!(f, "bad message: {error:?}"),
            Self::Forged => write!(f, "a message that no bridge sends"),
            Self::NotGranted => write!(f, "a message without its pages"),
        }
    }
}

impl Link {
    /// Makes a link that is not connected yet.
    pub(crate) fn new(
        bridge: &Arc<Bridge>,
        dev: ARef<Device>,
        complaints: &Arc<Complaints>,
        origin: Origin,
        epoch: u32,
    ) -> Result<Arc<Self>> {
        let account = bridge.accounts.open(Owner::of(origin))?;
        Arc::pin_init(
            try_pin_init!(Self {
                origin,
                principal: bridge.new_principal(&account),
                epoch,
                counters: Counters::default(),
                dev,
                complaints: complaints.clone(),
                bridge: bridge.clone(),
                inbox <- Inbox::new(&account),
                _account: account,
                io <- new_spinlock_bh!(
                    Io {
                        channel: None,
                        large: Large::None,
                        stalled: None,
                        outgoing: None,
                        sent: List::new(),
                        violation: None,
                    },
                    "mgmt_link"
                ),
                ended <- new_mutex!(false, "mgmt_link_ended"),
                event: Atomic::new(false),
                retrying: Atomic::new(false),
                moves <- new_delayed_work!("mgmt_link_moves"),
                chores <- new_work!("mgmt_link_chores"),
                copies <- new_work!("mgmt_link_copies"),
                expiring <- ListLinks::new(),
                is_expiring <- AtomicTracker::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Starts to move messages.
    pub(crate) fn start(self: &Arc<Self>, channel: Channel) {
        self.io.lock().channel = Some(channel);
        // What came before this moment had its event unanswered.
        Self::schedule(self);
    }

    /// Ends the link and returns its channel, if it has one. What has not reached the other end
    /// goes back to its senders.
    ///
    /// Waits for running work of the link, never for the other end.
    pub(crate) fn close(self: &Arc<Self>) -> Option<Channel> {
        let mut ended = self.ended.lock();
        *ended = true;
        self.end()
    }

    fn end(self: &Arc<Self>) -> Option<Channel> {
        self.bridge.remove_link(self);
        let mut io = self.io.lock();
        let mut channel = io.channel.take();
        // The other end was not told that it arrived: it knows what to do.
        io.large = Large::None;
        let stalled = io.stalled.take();
        if let Some(channel) = &mut channel {
            // If the other end broke the ring, nothing is known to have arrived.
            if channel.tx.refresh().is_ok() {
                forget_consumed(channel, &mut io.sent);
            }
        }
        let mut left = take(&mut io.sent);
        if let Some(message) = io.outgoing.take() {
            left.push_back(message);
        }
        drop(io);
        left.push_all_back(&mut self.inbox.close());
        if let Some((message, target)) = stalled {
            // The other end was told that it arrived: one message may pass the share.
            if let Err(PushError::Closed(message) | PushError::Full(message)) =
                target.push_returned(message)
            {
                self.bridge.bounce(&message, Reason::PeerGone);
            }
        }
        while let Some(message) = left.pop_front() {
            self.bridge.bounce(&message, Reason::PeerGone);
        }
        channel
    }

    /// Has the link move messages soon. May be called from any context.
    pub(crate) fn schedule(this: &Arc<Self>) {
        // If it is scheduled already, that is as good.
        let _ = this.bridge.moves().enqueue::<_, MOVES>(this.clone());
    }

    /// Moves what waits in the inbox into the ring, now if nobody else does. Does not sleep.
    pub(crate) fn kick(this: &Arc<Self>) {
        let Some(mut io) = this.io.try_lock() else {
            // Who holds the lock may have looked already.
            return Self::schedule(this);
        };
        if let Err(violation) = this.transmit(&mut io) {
            this.violated(&mut io, violation);
        }
    }

    /// Whether it has a channel.
    pub(crate) fn is_connected(&self) -> bool {
        self.io.lock().channel.is_some()
    }

    /// One round of moving messages. Does not sleep.
    fn pump(self: &Arc<Self>) {
        let mut io = self.io.lock();
        if io.channel.is_none() || io.violation.is_some() {
            // An event may come before the link starts: it is answered then.
            return;
        }
        let had_event = self.event.xchg(false, ordering::Acquire);
        let mut useful = false;
        let result = self
            .receive(&mut io, &mut useful)
            .and_then(|next| self.transmit(&mut io).map(|moved| (next, moved)));
        let (next, moved) = match result {
            Ok(done) => done,
            Err(violation) => return self.violated(&mut io, violation),
        };
        let Some(channel) = &io.channel else {
            // Dropping the channel answers for its events.
            return;
        };
        match next {
            // The event is answered when the work is done.
            Next::Again if had_event => self.event.store(true, ordering::Release),
            _ if had_event => channel.event.eoi(useful || moved),
            _ => {}
        }
        drop(io);
        match next {
            Next::Wait => {}
            Next::Again => Self::schedule(self),
            Next::Later => self.schedule_later(),
        }
    }

    /// Has the link move messages when there may be memory.
    fn schedule_later(self: &Arc<Self>) {
        let queue = self.bridge.moves();
        self.bridge.delay_begins();
        self.retrying.store(true, ordering::Relaxed);
        if queue
            .enqueue_delayed::<_, MOVES>(self.clone(), RETRY_DELAY)
            .is_err()
            && self.retrying.xchg(false, ordering::Relaxed)
        {
            self.bridge.delay_ended();
        }
    }

    /// Takes messages from the ring and hands them to the bridge.
    fn receive(self: &Arc<Self>, io: &mut Io, useful: &mut bool) -> Result<Next, Violation> {
        let Some(channel) = &mut io.channel else {
            return Ok(Next::Wait);
        };
        let mut next = Next::Again;
        let mut budget = BUDGET;
        while budget > 0 {
            budget -= 1;
            if let Some((message, target)) = io.stalled.take() {
                if message.is_expired() {
                    self.bridge.bounce(&message, Reason::Deadline);
                } else {
                    io.stalled = self.hand_over(message, target);
                }
            }
            if let Some((message, target)) = &io.stalled {
                target.inbox().call_when_room(self, message);
                self.counters.stalls.add(1);
                next = Next::Wait;
                break;
            }
            if self.inbox.is_over_capacity() {
                self.inbox.call_when_below_capacity(self);
                self.counters.stalls.add(1);
                next = Next::Wait;
                break;
            }
            let (room, header, payload) = match find(channel, &mut io.large)? {
                Found::Message(room, header, payload) => (room, header, payload),
                // Its record is not given back now, but when it was copied.
                Found::Large(arriving) => {
                    *useful = true;
                    io.large = Large::Wanted(arriving);
                    let _ = self.bridge.chores().enqueue::<_, COPIES>(self.clone());
                    return Ok(Next::Wait);
                }
                Found::Waiting => return Ok(Next::Wait),
                Found::Nothing => {
                    next = Next::Wait;
                    break;
                }
                Found::NoMemory => {
                    next = Next::Later;
                    break;
                }
            };
            *useful = true;
            self.counters.rx_messages.add(1);
            self.counters.rx_bytes.add(HEADER_LEN + payload.len());
            match self.bridge.forward(self, room, header, payload) {
                Forwarded::To(message, target) => {
                    io.stalled = self.hand_over(message, target);
                }
                Forwarded::Broadcast(copies) => {
                    budget = budget.saturating_sub(copies.len());
                    self.bridge.deliver(copies);
                }
                Forwarded::Dropped => {}
                Forwarded::Forged => return Err(Violation::Forged),
            }
        }
        if channel.rx.publish() {
            channel.event.notify();
        }
        Ok(next)
    }

    /// Gives a message from this link to its receiver; returns it if the receiver is full.
    fn hand_over(
        self: &Arc<Self>,
        message: ListArc<Message>,
        target: Target,
    ) -> Option<(ListArc<Message>, Target)> {
        match target.push(message) {
            Ok(()) => None,
            Err(PushError::Full(message)) => {
                if message.has_deadline() {
                    // Here it expires.
                    Target::Link(self.clone()).expire_later();
                }
                Some((message, target))
            }
            Err(PushError::Closed(message)) => {
                self.bridge.bounce(&message, Reason::PeerGone);
                None
            }
        }
    }

    /// Moves messages from the inbox into the ring. Returns whether any moved.
    fn transmit(self: &Arc<Self>, io: &mut Io) -> Result<bool, Violation> {
        let Some(channel) = io.channel.as_mut().filter(|_| io.violation.is_none()) else {
            return Ok(false);
        };
        let mut moved = false;
        let mut waits_for_pages = false;
        let mut budget = BUDGET;
        loop {
            if budget == 0 {
                Self::schedule(self);
                break;
            }
            budget -= 1;
            let message = match io.outgoing.take() {
                Some(message) => message,
                None => match self.inbox.pop(usize::MAX) {
                    Ok(message) => message,
                    Err(_) => break,
                },
            };
            if message.is_expired() {
                self.bridge.bounce(&message, Reason::Deadline);
                continue;
            }
            let header = message.header().encode();
            match channel.send(&header, &message.payload) {
                Ok(()) => {
                    moved = true;
                    self.counters.tx_messages.add(1);
                    self.counters.tx_bytes.add(message.len());
                    message.set_ring_position(channel.tx.position());
                    io.sent.push_back(message);
                }
                Err(SendError::Lend) => {
                    io.outgoing = Some(message);
                    waits_for_pages = true;
                    break;
                }
                Err(SendError::Ring(RingError::Full)) => {
                    io.outgoing = Some(message);
                    break;
                }
                Err(SendError::Ring(RingError::TooLarge)) => {
                    self.bridge.bounce(&message, Reason::TooLarge);
                }
                Err(SendError::Ring(RingError::Broken(broken))) => {
                    io.outgoing = Some(message);
                    return Err(Violation::Ring(broken));
                }
            }
        }
        if channel.tx.publish() {
            channel.event.notify();
        }
        let came_back = channel.take_back().map_err(Violation::Ring)?;
        forget_consumed(channel, &mut io.sent);
        if waits_for_pages && came_back {
            Self::schedule(self);
        } else if waits_for_pages && !channel.has_lent() {
            self.schedule_later();
        }
        Ok(moved || came_back)
    }

    /// Copies the payload of a large message, if one waits for that. One at a time: the other
    /// links have their turn.
    fn copy_large(self: &Arc<Self>) {
        let Some(arriving) = self.io.lock().large.begin() else {
            return;
        };
        // Nothing that the link does waits for this, but what is behind the message.
        let is_wanted = || matches!(self.io.lock().large, Large::Copying);
        let fetched = arriving.fetch(self.dev.otherend_id(), is_wanted);
        let mut io = self.io.lock();
        if !matches!(io.large, Large::Copying) {
            // The channel has ended.
            return;
        }
        match fetched {
            Some(Ok((header, payload))) => io.large = Large::Here(header, payload),
            Some(Err(NotGranted)) => return self.violated(&mut io, Violation::NotGranted),
            None => {}
        }
        drop(io);
        Self::schedule(self);
    }

    /// Has a message dealt with that has expired outside of the queues. Whether there is any that
    /// has a deadline.
    pub(crate) fn expire(this: &Arc<Self>) -> bool {
        let Some(io) = this.io.try_lock() else {
            // Somebody deals with it right now.
            return true;
        };
        let stalled = io.stalled.as_ref().map(|(message, _)| message);
        let has_deadline = |message: &ListArc<Message>| message.has_deadline();
        let more =
            stalled.is_some_and(has_deadline) || io.outgoing.as_ref().is_some_and(has_deadline);
        drop(io);
        if more {
            Self::schedule(this);
        }
        more
    }

    /// Moves nothing any more, and has the channel closed: the peer broke the rules.
    fn violated(self: &Arc<Self>, io: &mut Guard<'_, Io>, violation: Violation) {
        io.violation = Some(violation);
        let _ = self.bridge.chores().enqueue::<_, CHORES>(self.clone());
    }

    /// Closes the channel of a peer that broke the rules, and says so.
    fn end_violated(self: &Arc<Self>) {
        let mut ended = self.ended.lock();
        if *ended {
            return;
        }
        *ended = true;
        drop(self.end());
        let violation = self.io.lock().violation.take();
        let Some(violation) = violation else {
            return;
        };
        let Ok(what) = CString::try_from_fmt(fmt!("channel closed: {}", violation)) else {
            return;
        };
        // With `ended` held the device is still bound: its unbinding closes the link first.
        self.complaints.fatal(&self.dev, EPROTO, &what);
    }

    /// Counts a message of this link that goes back to it.
    pub(crate) fn count_undeliverable(&self) {
        self.counters.undeliverable.add(1);
    }
}

/// Takes what is next from the ring, in order.
fn find(channel: &mut Channel, large: &mut Large) -> Result<Found, Violation> {
    match core::mem::replace(large, Large::None) {
        Large::None => {}
        Large::Here(header, payload) => {
            let Ok(room) = Room::new(GFP_ATOMIC) else {
                *large = Large::Here(header, payload);
                return Ok(Found::NoMemory);
            };
            return Ok(Found::Message(room, header, payload));
        }
        waits => {
            *large = waits;
            return Ok(Found::Waiting);
        }
    }
    let Some(pending) = channel.rx.peek().map_err(Violation::Ring)? else {
        return Ok(Found::Nothing);
    };
    let (length, format) = (pending.length(), pending.format());
    if !(HEADER_LEN..=HEADER_LEN + MAX_INLINE).contains(&length) {
        return Err(Violation::Header(WireError::Length));
    }
    let (Ok(room), Ok(mut rest)) = (Room::new(GFP_ATOMIC), zeros(length - HEADER_LEN)) else {
        return Ok(Found::NoMemory);
    };
    // What is before a large message is given back before that is copied.
    if format == Format::Pages && channel.rx.publish() {
        channel.event.notify();
    }
    let mut header = [0; HEADER_LEN];
    channel.rx.take(pending, &mut header, &mut rest);
    let header = Header::decode(&header).map_err(Violation::Header)?;
    match format {
        Format::Message if header.length as usize != rest.len() => {
            Err(Violation::Header(WireError::Length))
        }
        Format::Message => Ok(Found::Message(room, header, Payload::Small(rest))),
        Format::Pages => Arriving::new(header, rest)
            .map(Found::Large)
            .map_err(Violation::Header),
    }
}

/// `len` zero bytes: `KVVec::from_elem` would write them one by one.
fn zeros(len: usize) -> Result<KVVec<u8>, AllocError> {
    const ZEROS: [u8; 512] = [0; 512];
    let mut bytes = KVVec::with_capacity(len, GFP_ATOMIC)?;
    while bytes.len() < len {
        let more = ZEROS.len().min(len - bytes.len());
        bytes.extend_from_slice(&ZEROS[..more], GFP_ATOMIC)?;
    }
    Ok(bytes)
}

/// Drops the messages that the other end has taken, in order.
fn forget_consumed(channel: &Channel, sent: &mut List<Message>) {
    loop {
        let mut cursor = sent.cursor_front();
        let Some(next) = cursor.peek_next() else {
            return;
        };
        if !channel.tx.is_consumed(next.arc().ring_position()) {
            return;
        }
        drop(next.remove());
    }
}

fn take(list: &mut List<Message>) -> List<Message> {
    let mut taken = List::new();
    taken.push_all_back(list);
    taken
}
