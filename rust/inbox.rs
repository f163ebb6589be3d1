// SPDX-License-Identifier: GPL-2.0

//! The bounded queue in front of every receiver.

use crate::{
    bh::{new_spinlock_bh, Guard, SpinLockBh},
    link::Link,
    message::{Message, Principal},
    pure::quota::{admits, Amount},
    wire::CLASSES, //
};
use kernel::{
    list::{List, ListArc},
    new_condvar,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{Arc, CondVar, CondVarTimeoutResult},
    time::msecs_to_jiffies, //
};

/// What a receiver's queue holds at most. While few small messages of at most three others wait in
/// it, a sender has room for one of the largest, whatever its priority.
pub(crate) const CAPACITY: Amount = Amount {
    bytes: 8 << 20,
    messages: 4096,
};

/// Why a message was not queued.
pub(crate) enum PushError {
    /// The sender's share is used up. It may wait with [`Inbox::wait_room`] or
    /// [`Inbox::call_when_room`].
    Full(ListArc<Message>),
    /// The receiver is gone.
    Closed(ListArc<Message>),
}

/// A queue of messages to one receiver, shared fairly among its senders.
#[pin_data]
pub(crate) struct Inbox {
    #[pin]
    queue: SpinLockBh<Queue>,
    /// Notified when a sender may have room, and when the queue closes.
    #[pin]
    room: CondVar,
}

struct Queue {
    open: bool,
    /// Messages by their priority class.
    lanes: [List<Message>; CLASSES],
    /// Messages whose deadline passed here, until [`Inbox::take_expired`].
    expired: List<Message>,
    /// How many of all these have a deadline.
    deadlines: u32,
    used: Amount,
    /// What each sender holds, if anything; and how many senders that are.
    shares: RBTree<Principal, Amount>,
    senders: u32,
    /// Memory for the next share: a queue that is often empty has a new one with each message.
    spare: Option<RBTreeNodeReservation<Principal, Amount>>,
    /// Links that stopped because this queue was full.
    stalled: KVec<Arc<Link>>,
}

impl Queue {
    fn is_over_capacity(&self) -> bool {
        self.used.bytes > CAPACITY.bytes || self.used.messages > CAPACITY.messages
    }

    fn admits(&self, message: &Message) -> bool {
        let share = self.shares.get(&message.principal);
        let senders = self.senders + u32::from(share.is_none());
        let share = share.copied().unwrap_or_default();
        let (more, bulk) = (message.amount(), message.class() == 0);
        admits(CAPACITY, self.used, share, senders, more, bulk)
    }

    /// Queues a message behind those of its class.
    fn enqueue(&mut self, message: ListArc<Message>) -> Result<(), ListArc<Message>> {
        if self.charge(&message).is_err() {
            return Err(message);
        }
        self.deadlines += u32::from(message.has_deadline());
        self.lanes[message.class()].push_back(message);
        Ok(())
    }

    /// The class that the next message is of. Sets aside what has expired before it.
    fn next_class(&mut self) -> Option<usize> {
        for (class, lane) in self.lanes.iter_mut().enumerate().rev() {
            loop {
                let mut cursor = lane.cursor_front();
                let Some(next) = cursor.peek_next() else {
                    break;
                };
                if !next.arc().is_expired() {
                    return Some(class);
                }
                self.expired.push_back(next.remove());
            }
        }
        None
    }

    fn charge(&mut self, message: &Message) -> Result {
        let amount = message.amount();
        if let Some(share) = self.shares.get_mut(&message.principal) {
            *share = share.plus(amount);
        } else {
            let memory = match self.spare.take() {
                Some(spare) => spare,
                None => RBTreeNodeReservation::new(GFP_ATOMIC)?,
            };
            self.shares
                .insert(memory.into_node(message.principal, amount));
            self.senders += 1;
        }
        self.used = self.used.plus(amount);
        Ok(())
    }

    fn discharge(&mut self, message: &Message) {
        let amount = message.amount();
        self.used = self.used.minus(amount);
        self.deadlines -= u32::from(message.has_deadline());
        if let Some(share) = self.shares.get_mut(&message.principal) {
            *share = share.minus(amount);
            if share.is_zero() {
                let node = self.shares.remove_node(&message.principal);
                self.spare = node.map(|node| node.into_reservation());
                self.senders -= 1;
            }
        }
    }
}

impl Inbox {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- new_spinlock_bh!(
                Queue {
                    open: true,
                    lanes: [const { List::new() }; CLASSES],
                    expired: List::new(),
                    deadlines: 0,
                    used: Amount::default(),
                    shares: RBTree::new(),
                    senders: 0,
                    spare: None,
                    stalled: KVec::new(),
                },
                "mgmt_inbox"
            ),
            room <- new_condvar!("mgmt_inbox_room"),
        })
    }

    /// Queues a message if its sender's share allows. The caller wakes the receiver.
    pub(crate) fn push(&self, message: ListArc<Message>) -> Result<(), PushError> {
        let mut queue = self.queue.lock();
        if !queue.open {
            return Err(PushError::Closed(message));
        }
        if !queue.admits(&message) {
            return Err(PushError::Full(message));
        }
        queue.enqueue(message).map_err(PushError::Full)
    }

    /// Queues what comes back to its own sender, whose queue this is, or gives it back if the
    /// sender is gone too.
    ///
    /// It may pass the capacity: a receiver that does not read what comes back to it may not send
    /// on (see [`Inbox::is_over_capacity`]), so it can't grow beyond what it had in flight.
    pub(crate) fn push_returned(&self, message: ListArc<Message>) -> Result<(), PushError> {
        let mut queue = self.queue.lock();
        if !queue.open {
            return Err(PushError::Closed(message));
        }
        queue.enqueue(message).map_err(PushError::Full)
    }

    /// Whether so much came back to this receiver that it must read before it sends.
    pub(crate) fn is_over_capacity(&self) -> bool {
        self.queue.lock().is_over_capacity()
    }

    /// Waits until this message may fit, or the receiver is gone.
    ///
    /// `EINTR` (as `ERESTARTSYS`) if a signal came first, `ETIMEDOUT` if its deadline passed.
    pub(crate) fn wait_room(&self, message: &Message) -> Result {
        let mut queue = self.queue.lock();
        while queue.open && !queue.admits(message) {
            let Some(left) = message.time_left() else {
                if self.room.wait_interruptible(&mut queue) {
                    return Err(ERESTARTSYS);
                }
                continue;
            };
            if left == 0 {
                return Err(ETIMEDOUT);
            }
            let jiffies = msecs_to_jiffies(left);
            if let CondVarTimeoutResult::Signal { .. } =
                self.room.wait_interruptible_timeout(&mut queue, jiffies)
            {
                return Err(ERESTARTSYS);
            }
        }
        Ok(())
    }

    /// Calls [`Link::schedule`] once when this message may fit, or now if it does.
    pub(crate) fn call_when_room(&self, link: &Arc<Link>, message: &Message) {
        self.call_unless(link, |queue| queue.admits(message));
    }

    /// As [`Inbox::call_when_room`], for a link whose own inbox this is and is over capacity.
    pub(crate) fn call_when_below_capacity(&self, link: &Arc<Link>) {
        self.call_unless(link, |queue| !queue.is_over_capacity());
    }

    fn call_unless(&self, link: &Arc<Link>, may_go_on: impl FnOnce(&Queue) -> bool) {
        let mut queue = self.queue.lock();
        let known = |queue: &Queue| queue.stalled.iter().any(|other| Arc::ptr_eq(other, link));
        if queue.open && !may_go_on(&queue) {
            // However often the link's peer sends events, it stands here once.
            if known(&queue) || queue.stalled.push(link.clone(), GFP_ATOMIC).is_ok() {
                return;
            }
        }
        drop(queue);
        Link::schedule(link);
    }

    /// Takes the next message if it has at most `max` bytes.
    ///
    /// `EAGAIN` if there is none, `EMSGSIZE` if it is larger, `ENODEV` if the queue is closed.
    pub(crate) fn pop(&self, max: usize) -> Result<ListArc<Message>> {
        self.pop_locked(&mut self.queue.lock(), max)
    }

    /// As [`Inbox::pop`], but waits for a message on `readable`, which whoever pushes notifies.
    ///
    /// `EINTR` (as `ERESTARTSYS`) if a signal came first.
    pub(crate) fn pop_wait(&self, max: usize, readable: &CondVar) -> Result<ListArc<Message>> {
        let mut queue = self.queue.lock();
        loop {
            match self.pop_locked(&mut queue, max) {
                Err(e) if e == EAGAIN => {}
                other => return other,
            }
            if readable.wait_interruptible(&mut queue) {
                return Err(ERESTARTSYS);
            }
        }
    }

    fn pop_locked(&self, queue: &mut Guard<'_, Queue>, max: usize) -> Result<ListArc<Message>> {
        if !queue.open {
            return Err(ENODEV);
        }
        let class = queue.next_class().ok_or(EAGAIN)?;
        let lane = &mut queue.lanes[class];
        let mut cursor = lane.cursor_front();
        let next = cursor.peek_next().ok_or(EAGAIN)?;
        if next.arc().len() > max {
            return Err(EMSGSIZE);
        }
        let message = next.remove();
        queue.discharge(&message);
        self.made_room(queue);
        Ok(message)
    }

    /// Puts back, at the front, the message that [`Inbox::pop`] just took.
    pub(crate) fn unpop(&self, message: ListArc<Message>) {
        let mut queue = self.queue.lock();
        // Without memory for the account, it goes uncharged, once, to nobody's gain.
        let _ = queue.charge(&message);
        queue.deadlines += u32::from(message.has_deadline());
        queue.lanes[message.class()].push_front(message);
    }

    /// Whether a message waits, or never will.
    pub(crate) fn is_readable(&self) -> bool {
        let mut queue = self.queue.lock();
        !queue.open || queue.next_class().is_some()
    }

    /// Messages that wait.
    pub(crate) fn used(&self) -> Amount {
        self.queue.lock().used
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
        for lane in &mut queue.lanes {
            let mut cursor = lane.cursor_front();
            while let Some(next) = cursor.peek_next() {
                if next.arc().is_expired() {
                    taken.push_back(next.remove());
                } else {
                    cursor.move_next();
                }
            }
        }
        for message in taken.iter() {
            queue.discharge(&message);
        }
        if !taken.is_empty() {
            self.made_room(&mut queue);
        }
        (taken, queue.deadlines > 0)
    }

    /// Refuses messages from now on and gives back those that wait, the most urgent first.
    pub(crate) fn close(&self) -> List<Message> {
        let mut left = List::new();
        let mut queue = self.queue.lock();
        queue.open = false;
        left.push_all_back(&mut queue.expired);
        for lane in queue.lanes.iter_mut().rev() {
            left.push_all_back(lane);
        }
        queue.used = Amount::default();
        queue.deadlines = 0;
        queue.shares = RBTree::new();
        queue.senders = 0;
        self.made_room(&mut queue);
        left
    }

    fn made_room(&self, queue: &mut Guard<'_, Queue>) {
        for link in core::mem::take(&mut queue.stalled) {
            Link::schedule(&link);
        }
        self.room.notify_all();
    }
}
