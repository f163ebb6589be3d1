// SPDX-License-Identifier: GPL-2.0

//! A link: a channel to another domain, as the bridge sees it.
//!
//! A link outlives its channel: without one it is parked, keeps what was not taken, and goes on in
//! another channel (`life`, `pure::lineage`).
//!
//! Messages are moved in softirq context ([`Link::pump`]): when an event comes, or by a work item where
//! somebody else is at it just then. Who sends a message puts it into the ring itself if nothing waits
//! for that ([`Link::pass`]). What may sleep is the chores' ([`Link::end_violated`],
//! [`Link::copy_large`]).
//!
//! Locks, outermost first: `Link::life`, `Link::io`, then the bridge's table, or one inbox, or the
//! bridge's list of queues to look after, or its spare messages, or one lender. Nobody waits for a
//! second `io`.

use crate::{
    account::Holding,
    bh::{new_spinlock_bh, Guard, SpinLockBh},
    channel::{Channel, SendError},
    inbox::{Inbox, TooMany},
    large::{Arriving, Large, NotGranted},
    mcb::{Bridge, Forwarded},
    message::{Draft, Message, Principal},
    pure::{
        account::Owner,
        flow::{Note, There, LONG_NOTE},
        large::MAX_INLINE,
        lineage::Lineage,
        pace::Pace,
        ring::{Broken, Format, Pending, PushError as RingError},
        route::Origin,
        uuid::Uuid, //
    },
    spares::Spares,
    wire::{Reason, WireError, HEADER_LEN},
    xen::event::Handler, //
};
use kernel::{
    fmt,
    list::{
        impl_list_arc_safe, impl_list_item, AtomicTracker, List, ListArc, ListLinks, TryNewListArc,
    },
    new_mutex,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
        ArcBorrow,
        Mutex, //
    },
    time::{Instant, Monotonic},
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

mod aside;
mod life;

pub(crate) use life::{Comeback, Rings, PARK_BRIEFLY, PARK_UPLINK};

use aside::{Aside, Stopped};
use life::Life;

/// Messages that a link takes from its ring, or puts into it, before others get their turn.
const BUDGET: usize = 64;
/// Jiffies until a link that found no memory tries again, and until one goes on whose peer sends too
/// much that reaches nobody.
const RETRY_DELAY: usize = 2;
const PACE_DELAY: usize = 8;

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
    /// The VM_ID of the guest at the other end, or [`UPLINK`].
    vm_id: Atomic<u32>,
    /// The stable name of that guest.
    pub(crate) uuid: Option<Uuid>,
    /// Who sends what comes from there.
    pub(crate) principal: Principal,
    /// Of the domain there.
    _account: Holding,
    epoch: Atomic<u32>,
    pub(crate) counters: Counters,
    pub(crate) bridge: Arc<Bridge>,
    /// What is to go there.
    #[pin]
    pub(crate) inbox: Inbox,
    #[pin]
    io: SpinLockBh<Io>,
    /// Held while the link gets a channel, or loses it: its device is bound until then.
    #[pin]
    life: Mutex<Life>,
    /// Whether it has a channel.
    attached: Atomic<bool>,
    /// Its guest has come from another platform, which may still have something for it, and of it.
    arriving: Atomic<bool>,
    /// Its guest is on another platform: what is still sent to it here goes after it.
    moved: Atomic<bool>,
    /// An event came and awaits its EOI.
    event: Atomic<bool>,
    /// The moving of messages waits for its time: an event that comes meanwhile is answered then.
    retrying: Atomic<bool>,
    /// There may be room for what is set aside.
    room: Atomic<bool>,
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

/// Stands for the management VM where a guest's VM_ID is expected: no domain has this number.
const UPLINK: u32 = u32::MAX;

/// The numbers of the link's work items.
const MOVES: u64 = 0;
const CHORES: u64 = 1;
const COPIES: u64 = 2;

struct Io {
    channel: Option<Channel>,
    /// The large message from there that is next.
    large: Large,
    /// Messages from there that receivers had no room for, while others pass.
    aside: Aside,
    /// One from there that nothing may pass.
    stopped: Option<Stopped>,
    /// The link has ended, and hands over these still.
    lingers: bool,
    /// What goes into the ring before anything of the inbox: a message that found no room there,
    /// or those that were in the ring of an earlier channel.
    outgoing: List<Message>,
    /// Messages in the ring that the other end had not taken when last looked at.
    sent: List<Message>,
    lineage: Lineage,
    /// Memory for the next message from there.
    spare: Option<Draft>,
    /// What came that reached nobody, and until when that is accounted for.
    pace: Pace,
    paced: Instant<Monotonic>,
    /// Since when this end sends nothing, as its domain is about to be suspended.
    paused: Option<Instant<Monotonic>>,
    /// This domain was suspended since the link came back last.
    resumed: bool,
    /// Whether the other end has said that its domain is about to be suspended.
    announced: bool,
    /// Whether the other end is ready, where this link goes on with it: nothing is sent before.
    is_ready: bool,
    /// Whether it knows that this one is.
    says_ready: bool,
    /// How long this end waits at most for what other platforms have of a guest that came from there.
    arrives: Option<Instant<Monotonic>>,
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
        if this.retrying.xchg(false, ordering::Full) {
            this.bridge.delay_ended();
        }
        this.pump(this.io.lock());
    }
}

impl Handler for Link {
    fn on_event(this: ArcBorrow<'_, Self>) {
        // Ordered before the look at `retrying`: whoever ends that looks at this.
        this.event.xchg(true, ordering::Full);
        if !this.retrying.load(ordering::Relaxed) {
            Link::pump_now(&this.into());
        }
    }
}

/// What a link does after a round of work.
enum Next {
    /// It waits for an event.
    Wait,
    /// It has more to do.
    Again,
    /// It has more to do in so many jiffies.
    Later(usize),
}

/// What the other end did that ends its channel.
enum Violation {
    Ring(Broken),
    Header(WireError),
    /// A message that no bridge sends.
    Forged,
    /// A message whose payload is in pages that are not granted to us.
    NotGranted,
    /// A note that means nothing.
    Note,
    /// It has too many flows held back.
    Held,
}

/// What was in the ring.
enum Found {
    Nothing,
    /// Something that there is no memory for.
    NoMemory,
    Message(Draft),
    /// A message whose payload a task must copy.
    Large(Arriving),
    /// Whatever it is, it is not its turn before such a payload was copied.
    Waiting,
    Note(Note),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(broken) => write!(f, "bad ring: {broken:?}"),
            Self::Header(error) => write!(f, "bad message: {error:?}"),
            Self::Forged => write!(f, "a message that no bridge sends"),
            Self::NotGranted => write!(f, "a message without its pages"),
            Self::Note => write!(f, "an unknown note"),
            Self::Held => write!(f, "more flows to hold back than there may be"),
        }
    }
}

impl Io {
    /// Whether the peer has not sent too much lately that reached nobody.
    fn keeps_pace(&mut self) -> bool {
        if self.pace.is_spent() {
            let now = Instant::now();
            let passed = (now - self.paced).as_millis();
            self.paced = now;
            self.pace.earn(passed.try_into().unwrap_or(0));
        }
        !self.pace.is_spent()
    }
}

impl Link {
    /// Makes a link without a channel. `uuid` is the stable name of the guest that it leads to.
    pub(crate) fn new(
        bridge: &Arc<Bridge>,
        origin: Origin,
        uuid: Option<Uuid>,
        lineage: Lineage,
        epoch: u32,
    ) -> Result<Arc<Self>> {
        let (vm_id, there) = match origin {
            Origin::Guest(vm_id) => (vm_id, There::OneGuest),
            _ => (UPLINK, There::Many),
        };
        let account = bridge.accounts.open(Owner::of(origin))?;
        Arc::pin_init(
            try_pin_init!(Self {
                vm_id: Atomic::new(vm_id),
                uuid,
                principal: bridge.new_principal(&account),
                epoch: Atomic::new(epoch),
                counters: Counters::default(),
                bridge: bridge.clone(),
                inbox <- Inbox::of_link(&account, there),
                _account: account,
                io <- new_spinlock_bh!(
                    Io {
                        channel: None,
                        large: Large::None,
                        aside: Aside::new(),
                        stopped: None,
                        lingers: false,
                        outgoing: List::new(),
                        sent: List::new(),
                        lineage,
                        spare: None,
                        pace: Pace::default(),
                        paced: Instant::now(),
                        paused: None,
                        resumed: false,
                        announced: false,
                        is_ready: true,
                        says_ready: true,
                        arrives: None,
                        violation: None,
                    },
                    "mgmt_link"
                ),
                life <- new_mutex!(Life::new(), "mgmt_link_life"),
                attached: Atomic::new(false),
                arriving: Atomic::new(false),
                moved: Atomic::new(false),
                event: Atomic::new(false),
                retrying: Atomic::new(false),
                room: Atomic::new(false),
                moves <- new_delayed_work!("mgmt_link_moves"),
                chores <- new_work!("mgmt_link_chores"),
                copies <- new_work!("mgmt_link_copies"),
                expiring <- ListLinks::new(),
                is_expiring <- AtomicTracker::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Who is at the other end, as messages from there come in.
    pub(crate) fn origin(&self) -> Origin {
        match self.vm_id.load(ordering::Relaxed) {
            UPLINK => Origin::Uplink,
            vm_id => Origin::Guest(vm_id),
        }
    }

    /// The guest at the other end is another domain now.
    pub(crate) fn set_vm_id(&self, vm_id: u32) {
        self.vm_id.store(vm_id, ordering::Relaxed);
    }

    /// Incarnation of the link.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(ordering::Relaxed)
    }

    pub(crate) fn set_epoch(&self, epoch: u32) {
        self.epoch.store(epoch, ordering::Relaxed);
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
        if !io.outgoing.is_empty() {
            // What has no room in the ring waits for an event, and all else behind it.
            return;
        }
        if let Err(violation) = this.transmit(&mut io) {
            this.violated(&mut io, violation);
        }
    }

    /// Whether it has a channel.
    pub(crate) fn is_connected(&self) -> bool {
        self.attached.load(ordering::Relaxed)
    }

    /// One round of moving messages, now if nobody else is at it, else soon. Does not sleep.
    fn pump_now(self: &Arc<Self>) {
        match self.io.try_lock() {
            Some(io) => self.pump(io),
            None => Self::schedule(self),
        }
    }

    /// One round of moving messages. Does not sleep.
    fn pump(self: &Arc<Self>, mut io: Guard<'_, Io>) {
        if io.channel.is_none() {
            // An event may come before the link has its channel: it is answered then.
            return self.hand_over_rest(&mut io);
        }
        if io.violation.is_some() {
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
            Next::Later(jiffies) => self.schedule_later(jiffies),
        }
    }

    /// Has the link move messages in so many jiffies, and not before.
    fn schedule_later(self: &Arc<Self>, jiffies: usize) {
        let queue = self.bridge.moves();
        self.bridge.delay_begins();
        if self.retrying.xchg(true, ordering::Full) {
            // It waits already: who ends that counts it once.
            return self.bridge.delay_ended();
        }
        if queue
            .enqueue_delayed::<_, MOVES>(self.clone(), jiffies)
            .is_err()
            && self.retrying.xchg(false, ordering::Relaxed)
        {
            self.bridge.delay_ended();
        }
    }

    /// Takes messages from the ring and hands them to the bridge.
    fn receive(self: &Arc<Self>, io: &mut Io, useful: &mut bool) -> Result<Next, Violation> {
        self.take_first_notes(io, useful)?;
        if io.arrives.is_some() {
            // What it had sent before it came is first.
            return Ok(Next::Wait);
        }
        self.hand_over_aside(io);
        let mut next = Next::Again;
        let mut budget = BUDGET;
        while budget > 0 {
            budget -= 1;
            if !self.hand_over_stopped(io) {
                next = Next::Wait;
                break;
            }
            if !io.keeps_pace() {
                next = Next::Later(PACE_DELAY);
                break;
            }
            let Some(channel) = &mut io.channel else {
                return Ok(Next::Wait);
            };
            if self.inbox.is_over_limit() {
                self.inbox.call_when_below_limit(self);
                self.counters.stalls.add(1);
                next = Next::Wait;
                break;
            }
            let draft = match self.find(channel, &mut io.large, &mut io.spare)? {
                Found::Message(draft) => draft,
                // Its record is not given back now, but when it was copied.
                Found::Large(arriving) => {
                    *useful = true;
                    io.large = Large::Wanted(arriving);
                    let _ = self.bridge.chores().enqueue::<_, COPIES>(self.clone());
                    return Ok(Next::Wait);
                }
                Found::Waiting => return Ok(Next::Wait),
                Found::Note(note) => {
                    *useful = true;
                    self.take_note(io, note)?;
                    continue;
                }
                Found::Nothing => {
                    next = Next::Wait;
                    break;
                }
                Found::NoMemory => {
                    next = Next::Later(RETRY_DELAY);
                    break;
                }
            };
            *useful = true;
            io.lineage.count_received();
            io.announced = false;
            self.counters.rx_messages.add(1);
            self.counters.rx_bytes.add(draft.len());
            // By the names that the other end knows it by.
            let flow = draft.flow();
            let is_question = draft.is_question();
            match self.bridge.forward(self, draft) {
                Forwarded::To(message, target) => {
                    if self.is_back(&target) {
                        io.pace.spend();
                    }
                    io.stopped = self.place(io, &flow, message, target);
                }
                Forwarded::Broadcast(copies) => {
                    if copies.is_empty() {
                        io.pace.spend();
                    }
                    budget = budget.saturating_sub(copies.len());
                    self.deliver(io, &flow, is_question, copies);
                }
                Forwarded::Dropped => io.pace.spend(),
                Forwarded::Malformed(error) => return Err(Violation::Header(error)),
                Forwarded::Forged => return Err(Violation::Forged),
            }
        }
        if let Some(channel) = &mut io.channel {
            if channel.rx.publish() {
                channel.event.notify();
            }
        }
        Ok(next)
    }

    /// Takes what the other end says before it is ready, whatever else keeps this one from reading: it may
    /// have to send before it can go on to read.
    fn take_first_notes(&self, io: &mut Io, useful: &mut bool) -> Result<(), Violation> {
        let mut budget = BUDGET;
        while !io.is_ready && budget > 0 {
            budget -= 1;
            let Some(channel) = &mut io.channel else {
                break;
            };
            let pending = channel.rx.peek().map_err(Violation::Ring)?;
            let Some(pending) = pending.filter(|pending| pending.format() == Format::Note) else {
                break;
            };
            let note = find_note(channel, pending)?;
            if channel.rx.publish() {
                channel.event.notify();
            }
            *useful = true;
            self.take_note(io, note)?;
        }
        Ok(())
    }

    /// Takes a word of the other end.
    fn take_note(&self, io: &mut Io, note: Note) -> Result<(), Violation> {
        io.announced = matches!(note, Note::Pausing);
        match note {
            Note::Pausing => {}
            Note::Hold(flow) => {
                // Messages may have to be looked through for it.
                io.pace.spend();
                let held = self.inbox.hold_back(flow);
                held.map_err(|TooMany| Violation::Held)?;
            }
            Note::GoOn(flow) => self.inbox.go_on(&flow),
            Note::Ready => io.is_ready = true,
        }
        Ok(())
    }

    /// Hands over the message that nothing may pass. False if it has to wait still: the link goes on
    /// when there is room.
    fn hand_over_stopped(self: &Arc<Self>, io: &mut Io) -> bool {
        if let Some(Stopped {
            flow,
            message,
            target,
        }) = io.stopped.take()
        {
            if message.is_expired() {
                self.bridge.bounce(&message, Reason::Deadline);
            } else {
                io.stopped = self.place(io, &flow, message, target);
            }
        }
        let Some(stopped) = &io.stopped else {
            return true;
        };
        let inbox = stopped.target.inbox();
        inbox.call_when_room(self, &stopped.message);
        false
    }

    /// Hands over what came by a channel that is gone.
    fn hand_over_rest(self: &Arc<Self>, io: &mut Io) {
        self.hand_over_aside(io);
        if self.hand_over_stopped(io) && io.lingers && !io.aside.waits() {
            io.lingers = false;
            self.bridge.lingered();
        }
    }

    /// Moves messages from the inbox into the ring. Returns whether any moved.
    fn transmit(self: &Arc<Self>, io: &mut Io) -> Result<bool, Violation> {
        if io.violation.is_some() || io.paused.is_some() {
            return Ok(false);
        }
        let Io {
            channel: Some(channel),
            outgoing,
            sent,
            aside,
            says_ready,
            is_ready,
            ..
        } = io
        else {
            return Ok(false);
        };
        if aside.tell(channel)? && !*says_ready {
            *says_ready = tell(channel, &Note::Ready)?;
        }
        if !*is_ready || !*says_ready {
            return self.publish(channel, sent, &mut io.lineage, &mut io.spare);
        }
        let mut moved = false;
        let mut waits_for_pages = false;
        let mut budget = BUDGET;
        loop {
            if budget == 0 {
                Self::schedule(self);
                break;
            }
            budget -= 1;
            let message = match outgoing.pop_front() {
                Some(message) => message,
                None if self.inbox.seems_empty() => break,
                None => match self.inbox.pop(usize::MAX) {
                    Ok(message) => message,
                    Err(_) => break,
                },
            };
            if message.is_expired() {
                self.bridge.bounce(&message, Reason::Deadline);
                continue;
            }
            match channel.send(&message) {
                Ok(()) => {
                    moved = true;
                    self.is_sent(channel, sent, message);
                    io.lineage.count_sent();
                }
                Err(SendError::Lend) => {
                    outgoing.push_front(message);
                    waits_for_pages = true;
                    break;
                }
                Err(SendError::Ring(RingError::Full)) => {
                    outgoing.push_front(message);
                    break;
                }
                Err(SendError::Ring(RingError::TooLarge)) => {
                    self.bridge.bounce(&message, Reason::TooLarge);
                }
                Err(SendError::Ring(RingError::Broken(broken))) => {
                    outgoing.push_front(message);
                    return Err(Violation::Ring(broken));
                }
            }
        }
        let came_back = self.publish(channel, sent, &mut io.lineage, &mut io.spare)?;
        if waits_for_pages && came_back {
            Self::schedule(self);
        } else if waits_for_pages && !channel.has_lent() {
            self.schedule_later(RETRY_DELAY);
        }
        Ok(moved || came_back)
    }

    /// Puts a message into the ring at once, where nothing waits for that. Returns one that has to
    /// queue up. Does not sleep.
    ///
    /// No share is asked for: one is of what waits.
    pub(crate) fn pass(self: &Arc<Self>, message: Draft) -> Option<Draft> {
        let Some(mut guard) = self.io.try_lock() else {
            return Some(message);
        };
        let io = &mut *guard;
        let Io {
            channel: Some(channel),
            violation: None,
            paused: None,
            is_ready: true,
            says_ready: true,
            outgoing,
            sent,
            ..
        } = io
        else {
            return Some(message);
        };
        let waits = !self.inbox.seems_empty() || self.inbox.holds_back() || !outgoing.is_empty();
        // Who finds that it cannot be sent deals with that where it queues.
        if waits || message.is_expired() || channel.send(&message).is_err() {
            return Some(message);
        }
        self.is_sent(channel, sent, message.into());
        io.lineage.count_sent();
        if let Err(violation) = self.publish(channel, sent, &mut io.lineage, &mut io.spare) {
            self.violated(&mut guard, violation);
        }
        None
    }

    /// A message is in the ring.
    fn is_sent(&self, channel: &Channel, sent: &mut List<Message>, message: ListArc<Message>) {
        self.counters.tx_messages.add(1);
        self.counters.tx_bytes.add(message.len());
        message.set_ring_position(channel.tx.position());
        sent.push_back(message);
    }

    /// Shows the other end what is in the ring, and drops what that has taken. Whether pages came
    /// back.
    fn publish(
        &self,
        channel: &mut Channel,
        sent: &mut List<Message>,
        lineage: &mut Lineage,
        spare: &mut Option<Draft>,
    ) -> Result<bool, Violation> {
        if channel.tx.publish() {
            channel.event.notify();
        }
        let came_back = channel.take_back().map_err(Violation::Ring)?;
        forget_consumed(channel, sent, lineage, &self.bridge.spares, spare);
        Ok(came_back)
    }

    /// Copies the payload of a large message, if one waits for that. One at a time: the other
    /// links have their turn.
    fn copy_large(self: &Arc<Self>) {
        let mut io = self.io.lock();
        let (Some(arriving), Some(channel)) = (io.large.begin(), &io.channel) else {
            return;
        };
        let peer = channel.peer();
        drop(io);
        // Nothing that the link does waits for this, but what is behind the message.
        let is_wanted = || matches!(self.io.lock().large, Large::Copying);
        let fetched = arriving.fetch(peer, is_wanted);
        let mut io = self.io.lock();
        if !matches!(io.large, Large::Copying) {
            // The channel is gone.
            return;
        }
        match fetched {
            Some(Ok(draft)) => io.large = Large::Here(draft),
            Some(Err(NotGranted)) => return self.violated(&mut io, Violation::NotGranted),
            None => {}
        }
        drop(io);
        Self::schedule(self);
    }

    /// Takes what is next from the ring, in order.
    fn find(
        &self,
        channel: &mut Channel,
        large: &mut Large,
        spare: &mut Option<Draft>,
    ) -> Result<Found, Violation> {
        match core::mem::replace(large, Large::None) {
            Large::None => {}
            Large::Here(draft) => return Ok(Found::Message(draft)),
            waits => {
                *large = waits;
                return Ok(Found::Waiting);
            }
        }
        let Some(pending) = channel.rx.peek().map_err(Violation::Ring)? else {
            return Ok(Found::Nothing);
        };
        let (length, format) = (pending.length(), pending.format());
        if format == Format::Note {
            return find_note(channel, pending).map(Found::Note);
        }
        if !(HEADER_LEN..=HEADER_LEN + MAX_INLINE).contains(&length) {
            return Err(Violation::Header(WireError::Length));
        }
        let spares = &self.bridge.spares;
        let Ok(mut draft) = spares.take_near(spare, self.principal, GFP_ATOMIC) else {
            return Ok(Found::NoMemory);
        };
        let room = spares.make_room(&mut draft, length, GFP_ATOMIC);
        if room.is_err() {
            return Ok(Found::NoMemory);
        }
        // What is before a large message is given back before that is copied.
        if format == Format::Pages && channel.rx.publish() {
            channel.event.notify();
        }
        let bytes = draft.bytes();
        channel
            .rx
            .take_with(pending, |ring, at, length| ring.append(at, length, bytes));
        // Of its addresses the bridge sees whether they were checked already.
        draft.check_fields().map_err(Violation::Header)?;
        match format {
            Format::Message if draft.is_whole() => Ok(Found::Message(draft)),
            Format::Message => Err(Violation::Header(WireError::Length)),
            Format::Pages => Arriving::new(draft)
                .map(Found::Large)
                .map_err(Violation::Header),
            Format::Note => Err(Violation::Note),
        }
    }

    /// Moves nothing any more, and has the channel closed: the peer broke the rules.
    fn violated(self: &Arc<Self>, io: &mut Guard<'_, Io>, violation: Violation) {
        io.violation = Some(violation);
        let _ = self.bridge.chores().enqueue::<_, CHORES>(self.clone());
    }

    /// Counts a message of this link that goes back to it.
    pub(crate) fn count_undeliverable(&self) {
        self.counters.undeliverable.add(1);
    }
}

/// Puts a note into the ring. Whether it had room.
fn tell(channel: &mut Channel, note: &Note) -> Result<bool, Violation> {
    match channel.tell(note) {
        Ok(()) => Ok(true),
        Err(RingError::Broken(broken)) => Err(Violation::Ring(broken)),
        Err(RingError::Full | RingError::TooLarge) => Ok(false),
    }
}

fn find_note(channel: &mut Channel, pending: Pending) -> Result<Note, Violation> {
    let mut bytes = [0; LONG_NOTE];
    let note = bytes.get_mut(..pending.length()).ok_or(Violation::Note)?;
    channel.rx.take(pending, note);
    Note::decode(note).ok_or(Violation::Note)
}

/// Drops the messages that the other end has taken, in order.
fn forget_consumed(
    channel: &Channel,
    sent: &mut List<Message>,
    lineage: &mut Lineage,
    spares: &Spares,
    spare: &mut Option<Draft>,
) {
    loop {
        let mut cursor = sent.cursor_front();
        let Some(next) = cursor.peek_next() else {
            return;
        };
        if !channel.tx.is_consumed(next.arc().ring_position()) {
            return;
        }
        spares.put_near(next.remove(), spare);
        lineage.count_taken();
    }
}
