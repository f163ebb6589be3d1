// SPDX-License-Identifier: GPL-2.0

//! The bounded queue in front of every receiver.

use crate::{
    account::{Account, Holding},
    bh::{new_spinlock_bh, Guard, SpinLockBh},
    link::Link,
    message::{Draft, Message},
    pure::{
        flow::{before, Before, Flow, Held, There, MAX_FLOWS},
        quota::{Amount, Division, NoMemory}, //
    },
    shares::Tree,
    waiters::{deadline, sleep, time_left, Stalled},
    wire::{Component, CLASSES}, //
};
use kernel::{
    list::{List, ListArc},
    new_condvar,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
        CondVar, //
    }, //
};

/// What a receiver's queue holds at most: a quarter of what its owner's account has room for, so that
/// one receiver that does not read leaves room for the owner's others. While few small messages of at
/// most three others wait in it, a sender has room for one of the largest, whatever its priority.
pub(crate) const CAPACITY: Amount = Amount {
    bytes: 8 << 20,
    messages: 4096,
};

/// What may wait at Dom-M's end of a link while any flow is held back: that it may go on again is said in
/// the ring, which must be read for that.
const LIMIT_WHILE_HELD: Amount = Amount {
    bytes: 2 * CAPACITY.bytes,
    messages: 2 * CAPACITY.messages,
};

/// What may wait at the guest's end of a link before that stops reading: eight times as much, which is
/// twice what the guest's account has room for. Dom-M's end stops at [`CAPACITY`], so that of two ends
/// to which much comes back at once, one reads on (`pure/tests/both_ends.rs`).
const LIMIT_OF_UPLINK: Amount = Amount {
    bytes: 8 * CAPACITY.bytes,
    messages: 8 * CAPACITY.messages,
};

/// Why a message was not queued.
pub(crate) enum PushError {
    /// The sender's share of the queue, or of the account, is used up. It may wait with
    /// [`Inbox::wait_room`] or [`Inbox::call_when_room`].
    Full(Draft),
    /// The receiver is gone.
    Closed(Draft),
}

/// A queue of messages to one receiver, shared fairly among its senders.
#[pin_data]
pub(crate) struct Inbox {
    #[pin]
    queue: SpinLockBh<Queue>,
    /// Notified when a sender may have room, and when the queue closes.
    #[pin]
    room: CondVar,
    /// Its owner's account, to which all that is queued is charged.
    account: Arc<Account>,
    /// What the queue was when it last changed, for who looks often and does not mind to be late:
    /// whether nothing waits in it, and whether it is over its limit.
    is_empty: Atomic<bool>,
    is_over: Atomic<bool>,
    /// Whether any flow is held back here.
    holds_back: Atomic<bool>,
}

/// More flows are held back than an honest bridge asks for.
pub(crate) struct TooMany;

struct Queue {
    open: bool,
    /// Tasks that wait for a message.
    readers: u32,
    /// A small message that came while one waited, and nothing else did. It is before all others, and
    /// charged to nobody: there is one.
    handed: Option<ListArc<Message>>,
    /// Messages by their priority class.
    lanes: [List<Message>; CLASSES],
    /// Flows that the other end of a link has no room for, and those that wait behind them.
    held_back: KVec<Held>,
    /// Messages of these, which are before all others of their class.
    behind: [List<Message>; CLASSES],
    /// Messages whose deadline passed here, until [`Inbox::take_expired`].
    expired: List<Message>,
    /// How many of all these have a deadline.
    deadlines: u32,
    /// What each open file or link has in the queue.
    held: Division<u64, Tree<u64>>,
    /// Whom the link leads to, if it is one's queue.
    there: There,
    /// With more its owner must not go on to send, or to read from a link.
    limit: Amount,
    /// Tasks that wait for room.
    waiting: u32,
    /// Links that stopped because this queue was full.
    stalled: Stalled,
}

impl Queue {
    fn admits(&self, message: &Message) -> bool {
        let (more, bulk) = (message.amount(), message.class() == 0);
        self.held.admits(message.principal.id, more, bulk)
    }

    /// Whether a task waits for this message, and need not queue for it.
    fn may_hand(&self, message: &Message) -> bool {
        self.readers > 0
            && self.handed.is_none()
            && self.held.used().is_zero()
            && message.is_in_one()
            && !message.has_deadline()
    }

    fn is_over_limit(&self) -> bool {
        self.held.exceeds(self.limit)
            && (self.held_back.is_empty() || self.held.exceeds(LIMIT_WHILE_HELD))
    }

    /// The class that the next message is of. Sets aside what has expired before it, and what is held
    /// back.
    fn next_class(&mut self) -> Option<usize> {
        for (class, lane) in self.lanes.iter_mut().enumerate().rev() {
            loop {
                let mut cursor = lane.cursor_front();
                let Some(next) = cursor.peek_next() else {
                    break;
                };
                let message = next.arc();
                if message.is_expired() {
                    self.expired.push_back(next.remove());
                    continue;
                }
                if self.held_back.is_empty() || message.is_question() {
                    return Some(class);
                }
                let flow = message.flow();
                match before(&self.held_back, &flow, self.there) {
                    Before::Nothing => return Some(class),
                    Before::Own => {}
                    Before::Another => {
                        let held = Held { flow, told: false };
                        let is_full = self.held_back.len() >= 2 * MAX_FLOWS;
                        if is_full || self.held_back.push(held, GFP_ATOMIC).is_err() {
                            // Then all of its class waits until one of them goes on.
                            break;
                        }
                    }
                }
                self.behind[class].push_back(next.remove());
            }
        }
        None
    }

    /// Holds no flow of this class back any more but these. What waited is looked at again.
    fn go_on(&mut self, class: usize, still: impl Fn(&Held) -> bool) {
        self.held_back
            .retain(|held| held.flow.class() != class || held.told && still(held));
        if self.held_back.is_empty() {
            self.held_back = KVec::new();
        }
        let (lane, behind) = (&mut self.lanes[class], &mut self.behind[class]);
        behind.push_all_back(lane);
        core::mem::swap(lane, behind);
    }

    fn go_on_with_all(&mut self) {
        (0..CLASSES).for_each(|class| self.go_on(class, |_| false));
    }
}

impl Inbox {
    pub(crate) fn new(account: &Holding) -> impl PinInit<Self> {
        // Nothing is held back here.
        Self::with_limit(account, There::Many, CAPACITY)
    }

    /// That of a link.
    pub(crate) fn of_link(account: &Holding, there: There) -> impl PinInit<Self> {
        let limit = match there {
            There::OneGuest => CAPACITY,
            There::Many => LIMIT_OF_UPLINK,
        };
        Self::with_limit(account, there, limit)
    }

    fn with_limit(account: &Holding, there: There, limit: Amount) -> impl PinInit<Self> {
        let account = Arc::clone(account);
        pin_init!(Self {
            queue <- new_spinlock_bh!(
                Queue {
                    open: true,
                    readers: 0,
                    handed: None,
                    lanes: [const { List::new() }; CLASSES],
                    held_back: KVec::new(),
                    behind: [const { List::new() }; CLASSES],
                    expired: List::new(),
                    deadlines: 0,
                    held: Division::new(CAPACITY, Tree::new()),
                    there,
                    limit,
                    waiting: 0,
                    stalled: Stalled::new(),
                },
                "mgmt_inbox"
            ),
            room <- new_condvar!("mgmt_inbox_room"),
            account,
            is_empty: Atomic::new(true),
            is_over: Atomic::new(false),
            holds_back: Atomic::new(false),
        })
    }

    /// Hands out nothing of this flow until [`Inbox::go_on`].
    pub(crate) fn hold_back(&self, flow: Flow) -> Result<(), TooMany> {
        let mut queue = self.queue.lock();
        if !queue.open {
            return Ok(());
        }
        let told = queue.held_back.iter().filter(|held| held.told).count();
        let known = queue.held_back.iter_mut().find(|held| held.flow == flow);
        match known {
            Some(held) if held.told => {}
            _ if told == MAX_FLOWS => return Err(TooMany),
            Some(held) => held.told = true,
            None => {
                let held = Held { flow, told: true };
                // Without memory it is sent, and set aside there as long as there is room.
                let _ = queue.held_back.push(held, GFP_ATOMIC);
            }
        }
        self.note(&queue);
        Ok(())
    }

    /// Hands out this flow again, what was held back of it first.
    pub(crate) fn go_on(&self, flow: &Flow) {
        let mut queue = self.queue.lock();
        queue.go_on(flow.class(), |held| held.flow != *flow);
        self.note(&queue);
    }

    /// Holds nothing back any more.
    pub(crate) fn go_on_with_all(&self) {
        let mut queue = self.queue.lock();
        queue.go_on_with_all();
        self.note(&queue);
    }

    /// Whether any flow is held back: then none may pass by the queue.
    pub(crate) fn holds_back(&self) -> bool {
        self.holds_back.load(Relaxed)
    }

    /// Queues a message if its sender's shares allow. The caller wakes the receiver.
    pub(crate) fn push(&self, message: Draft) -> Result<(), PushError> {
        let mut queue = self.queue.lock();
        if !queue.open {
            return Err(PushError::Closed(message));
        }
        if queue.may_hand(&message) {
            queue.handed = Some(message.into());
            return Ok(());
        }
        if queue.admits(&message) && self.account.admit(&message).is_ok() {
            return self.enqueue(&mut queue, message);
        }
        drop(queue);
        self.account.refuse(&message);
        Err(PushError::Full(message))
    }

    /// Queues what comes back to its own sender, whose queue this is or leads to it, or gives it back if
    /// the sender is gone too.
    ///
    /// It may pass the capacity: a receiver that does not read what comes back to it may not send
    /// on (see [`Inbox::is_over_limit`]), so it can't grow beyond what it had in flight.
    pub(crate) fn push_returned(&self, message: Draft) -> Result<(), PushError> {
        let mut queue = self.queue.lock();
        if !queue.open {
            return Err(PushError::Closed(message));
        }
        if self.account.charge(&message).is_err() {
            return Err(PushError::Full(message));
        }
        self.enqueue(&mut queue, message)
    }

    /// Queues what waited in another queue, whatever its sender's share; gives it back if the
    /// receiver is gone, or there is no memory.
    pub(crate) fn push_moved(&self, message: ListArc<Message>) -> Result<(), ListArc<Message>> {
        let mut queue = self.queue.lock();
        if !queue.open
            || self.account.charge(&message).is_err()
            || self.charge(&mut queue, &message).is_err()
        {
            return Err(message);
        }
        self.put(&mut queue, message);
        Ok(())
    }

    /// Queues a message that the account was charged for, behind those of its class.
    fn enqueue(&self, queue: &mut Guard<'_, Queue>, message: Draft) -> Result<(), PushError> {
        if let Err(NoMemory) = self.charge(queue, &message) {
            return Err(PushError::Full(message));
        }
        self.put(queue, message.into());
        Ok(())
    }

    /// Charges the sender's share for a message that the account was charged for, or neither.
    fn charge(&self, queue: &mut Queue, message: &Message) -> Result<(), NoMemory> {
        let charged = queue.held.charge(message.principal.id, message.amount());
        if charged.is_err() {
            self.account.discharge(message, false);
        }
        charged
    }

    fn put(&self, queue: &mut Queue, message: ListArc<Message>) {
        queue.deadlines += u32::from(message.has_deadline());
        queue.lanes[message.class()].push_back(message);
        self.note(queue);
    }

    /// A message is not in the queue any more: links for whose messages there is room now go on.
    fn discharge(&self, queue: &mut Guard<'_, Queue>, message: &Message) {
        let principal = message.principal.id;
        let was_over = queue.held.is_over();
        queue.deadlines -= u32::from(message.has_deadline());
        queue.held.discharge(principal, message.amount());
        let is_empty = queue.held.used().is_zero();
        // While it is over capacity nobody has room. When it is empty, no other message will go.
        if is_empty || was_over && !queue.held.is_over() {
            queue.stalled.resume();
        } else {
            queue.stalled.message_gone(principal);
        }
        self.account.discharge(message, is_empty);
        self.note(queue);
    }

    fn note(&self, queue: &Queue) {
        let is_empty = queue.lanes.iter().all(List::is_empty);
        self.is_empty.store(is_empty, Relaxed);
        self.is_over.store(queue.is_over_limit(), Relaxed);
        let holds_back = !queue.held_back.is_empty();
        self.holds_back.store(holds_back, Relaxed);
    }

    /// Whether so much came back to this receiver that it must read before it sends.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// Whether nothing waits. Who queued something just now says so to the receiver.
    pub(crate) fn seems_empty(&self) -> bool {
        self.is_empty.load(Relaxed)
    }

    /// Waits until this message may fit, or the receiver is gone.
    ///
    /// `EINTR` (as `ERESTARTSYS`) if a signal came first, `ETIMEDOUT` if its deadline passed.
    pub(crate) fn wait_room(&self, message: &Message) -> Result {
        let mut queue = self.queue.lock();
        while queue.open {
            let left = message.time_left();
            if left == Some(0) {
                return Err(ETIMEDOUT);
            }
            if !queue.admits(message) {
                queue.waiting += 1;
                let slept = sleep(&self.room, &mut queue, left);
                queue.waiting -= 1;
                slept?;
            } else if let Some(shortage) = self.account.shortage(message) {
                // That the queue closes from now on is news for the account, too.
                drop(queue);
                self.account.wait(shortage, left)?;
                queue = self.queue.lock();
            } else {
                break;
            }
        }
        Ok(())
    }

    /// Calls [`Link::try_again`] once when this message may fit, or now if it does.
    pub(crate) fn call_when_room(&self, link: &Arc<Link>, message: &Message) {
        let mut queue = self.queue.lock();
        if queue.open && !queue.admits(message) {
            queue.stalled.add(link);
        } else if !queue.open || !self.account.call_when_room(link, message) {
            drop(queue);
            Link::try_again(link);
        }
    }

    /// As [`Inbox::call_when_room`], for a link whose own inbox this is and is over its limit.
    pub(crate) fn call_when_below_limit(&self, link: &Arc<Link>) {
        let mut queue = self.queue.lock();
        if queue.open && queue.is_over_limit() {
            queue.stalled.add(link);
        } else {
            drop(queue);
            Link::schedule(link);
        }
    }

    /// Whose account what waits here is charged to.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Takes the next message if it has at most `max` bytes.
    ///
    /// `EAGAIN` if there is none, `EMSGSIZE` if it is larger, `ENODEV` if the queue is closed.
    pub(crate) fn pop(&self, max: usize) -> Result<ListArc<Message>> {
        self.pop_locked(&mut self.queue.lock(), max)
    }

    /// As [`Inbox::pop`], but waits for a message on `readable`, which whoever pushes notifies; at
    /// most so many milliseconds if any number is given.
    ///
    /// `EINTR` (as `ERESTARTSYS`) if a signal came first.
    pub(crate) fn pop_wait(
        &self,
        max: usize,
        readable: &CondVar,
        milliseconds: Option<u32>,
    ) -> Result<ListArc<Message>> {
        let end = milliseconds.map(deadline);
        let mut queue = self.queue.lock();
        loop {
            match self.pop_locked(&mut queue, max) {
                Err(e) if e == EAGAIN => {}
                other => return other,
            }
            let left = end.map(time_left);
            if left == Some(0) {
                return Err(EAGAIN);
            }
            queue.readers += 1;
            let slept = sleep(readable, &mut queue, left);
            queue.readers -= 1;
            slept?;
        }
    }

    fn pop_locked(&self, queue: &mut Guard<'_, Queue>, max: usize) -> Result<ListArc<Message>> {
        if !queue.open {
            return Err(ENODEV);
        }
        if let Some(handed) = queue.handed.take() {
            if handed.len() > max {
                queue.handed = Some(handed);
                return Err(EMSGSIZE);
            }
            return Ok(handed);
        }
        // All that waits is charged.
        if queue.held.used().is_zero() {
            return Err(EAGAIN);
        }
        let Some(class) = queue.next_class() else {
            // What is held back was set aside.
            self.note(queue);
            return Err(EAGAIN);
        };
        let lane = &mut queue.lanes[class];
        let mut cursor = lane.cursor_front();
        let next = cursor.peek_next().ok_or(EAGAIN)?;
        if next.arc().len() > max {
            return Err(EMSGSIZE);
        }
        let message = next.remove();
        self.discharge(queue, &message);
        self.tell_of_room(queue);
        Ok(message)
    }

    /// Wakes the tasks that wait for room.
    fn tell_of_room(&self, queue: &Queue) {
        if queue.waiting > 0 {
            self.room.notify_all();
        }
    }

    /// Puts back, at the front, the message that [`Inbox::pop`] just took.
    pub(crate) fn unpop(&self, message: ListArc<Message>) {
        let mut queue = self.queue.lock();
        // Without memory for its shares, it goes uncharged, once, to nobody's gain.
        let _ = self.account.charge(&message);
        let _ = queue.held.charge(message.principal.id, message.amount());
        queue.deadlines += u32::from(message.has_deadline());
        queue.lanes[message.class()].push_front(message);
        self.note(&queue);
    }

    /// Whether a message waits, or never will.
    pub(crate) fn is_readable(&self) -> bool {
        let mut queue = self.queue.lock();
        !queue.open || queue.handed.is_some() || queue.next_class().is_some()
    }

    /// Messages that wait.
    pub(crate) fn used(&self) -> Amount {
        self.queue.lock().held.used()
    }

    /// Takes out the messages whose deadline has passed. Also returns whether others have one
    /// that will.
    pub(crate) fn take_expired(&self) -> (List<Message>, bool) {
        let mut taken = List::new();
        let mut queue = self.queue.lock();
        if queue.deadlines == 0 {
            return (taken, false);
        }
        taken.push_all_back(&mut queue.expired);
        let Queue { lanes, behind, .. } = &mut *queue;
        for lane in Iterator::chain(behind.iter_mut(), lanes) {
            take_out(lane, Message::is_expired, &mut taken);
        }
        self.discharge_all(&mut queue, &taken);
        (taken, queue.deadlines > 0)
    }

    /// Takes out the messages to the component with this name, the most urgent first, and in order.
    pub(crate) fn take_for(&self, component: &Component) -> List<Message> {
        let mut taken = List::new();
        let mut queue = self.queue.lock();
        let is_for = |message: &Message| message.stamped().destination.component == *component;
        for lane in queue.lanes.iter_mut().rev() {
            take_out(lane, is_for, &mut taken);
        }
        self.discharge_all(&mut queue, &taken);
        taken
    }

    /// These were taken out.
    fn discharge_all(&self, queue: &mut Guard<'_, Queue>, taken: &List<Message>) {
        for message in taken.iter() {
            self.discharge(queue, &message);
        }
        if !taken.is_empty() {
            self.room.notify_all();
        }
    }

    /// Refuses messages from now on and gives back those that wait, the most urgent first.
    pub(crate) fn close(&self) -> List<Message> {
        let mut left = List::new();
        let mut queue = self.queue.lock();
        queue.open = false;
        queue.go_on_with_all();
        left.push_all_back(&mut queue.expired);
        for lane in queue.lanes.iter_mut().rev() {
            left.push_all_back(lane);
        }
        for message in left.iter() {
            self.discharge(&mut queue, &message);
        }
        if let Some(handed) = queue.handed.take() {
            left.push_front(handed);
        }
        queue.stalled.resume();
        self.room.notify_all();
        self.account.receiver_gone();
        left
    }
}

/// Moves the messages for which `is_it` says so.
fn take_out(lane: &mut List<Message>, is_it: impl Fn(&Message) -> bool, taken: &mut List<Message>) {
    let mut cursor = lane.cursor_front();
    while let Some(next) = cursor.peek_next() {
        if is_it(&next.arc()) {
            taken.push_back(next.remove());
        } else {
            cursor.move_next();
        }
    }
}
