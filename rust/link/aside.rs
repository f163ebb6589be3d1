// SPDX-License-Identifier: GPL-2.0

//! What receivers without room have not taken of what came by a link. It waits here, and what came for
//! others passes it; the other end is told to send no more of it (`pure::flow`).
//!
//! This is bounded, whatever the other end does. What goes beyond stops the link, as [`Stopped`].

use super::{tell, Io, Link, Violation};
use crate::{
    account::Account,
    channel::Channel,
    inbox::PushError,
    mcb::{Addressed, Target},
    message::{Draft, Message, Principal},
    pure::{
        flow::{Flow, Told, MAX_FLOWS},
        quota::Amount, //
    },
    wire::Reason,
};
use core::mem;
use kernel::{
    list::List,
    prelude::*,
    sync::{atomic::ordering, Arc}, //
};

/// More than a ring holds, and what an honest end adds before it sees that it is to hold a flow back.
const MOST: Amount = Amount {
    bytes: 2 << 20,
    messages: 512,
};

/// A message from the other end that goes to this receiver.
pub(super) struct Stopped {
    pub(super) flow: Flow,
    pub(super) message: Draft,
    pub(super) target: Target,
}

/// What waits of one flow.
struct Waiting {
    flow: Flow,
    told: Told,
    target: Target,
    messages: List<Message>,
}

/// What waits of all flows.
pub(super) struct Aside {
    flows: KVec<Waiting>,
    amount: Amount,
}

impl Aside {
    pub(super) fn new() -> Self {
        Self {
            flows: KVec::new(),
            amount: Amount::default(),
        }
    }

    /// Whether no flow is held back.
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Whether messages wait.
    pub(super) fn waits(&self) -> bool {
        !self.amount.is_zero()
    }

    /// Where others wait of its flow, or to the same receiver by another of its names.
    fn index(&self, flow: &Flow, target: &Target) -> Option<usize> {
        self.flows.iter().position(|waiting| {
            waiting.flow == *flow || waiting.flow.is_like(flow) && waiting.target.is(target)
        })
    }

    /// Whether messages wait before one of this flow.
    fn is_behind(&self, flow: &Flow, target: &Target) -> bool {
        let index = self.index(flow, target);
        index.is_some_and(|index| !self.flows[index].messages.is_empty())
    }

    /// Adds a message behind those of its flow, if there is room.
    fn add(&mut self, stopped: Stopped, account: &Account) -> Result<(), Stopped> {
        let Stopped {
            flow,
            message,
            target,
        } = &stopped;
        let amount = self.amount.plus(message.amount());
        if amount.bytes > MOST.bytes || amount.messages > MOST.messages {
            return Err(stopped);
        }
        let known = self.index(flow, target);
        if known.is_none() {
            let new = Waiting {
                flow: *flow,
                told: Told::default(),
                target: target.clone(),
                messages: List::new(),
            };
            if self.flows.len() == MAX_FLOWS || self.flows.push(new, GFP_ATOMIC).is_err() {
                return Err(stopped);
            }
        }
        let index = known.unwrap_or(self.flows.len() - 1);
        let waiting = &mut self.flows[index];
        if waiting.messages.is_empty() {
            waiting.target = target.clone();
        }
        // If its receiver is another since, the older ones go back first.
        if !waiting.target.is(target) || account.admit(message).is_err() {
            self.tidy();
            return Err(stopped);
        }
        self.amount = amount;
        waiting.messages.push_back(stopped.message.into());
        Ok(())
    }

    /// A message of this amount does not wait any more.
    fn give_back(&mut self, account: &Account, principal: Principal, amount: Amount) {
        self.amount = self.amount.minus(amount);
        account.give_back(principal, amount, false);
    }

    /// Forgets flows of which nothing waits, and of which the other end holds nothing back.
    fn tidy(&mut self) {
        self.flows
            .retain(|waiting| !waiting.messages.is_empty() || waiting.told.holds());
        if self.flows.is_empty() {
            self.flows = KVec::new();
        }
    }

    /// The other end holds nothing back any more: the channel is a new one.
    pub(super) fn forget_told(&mut self) {
        for waiting in &mut self.flows {
            waiting.told = Told::default();
        }
        self.tidy();
    }

    /// Tells the other end what to hold back, and what not any more, as far as the ring has room.
    /// Whether it had room for all.
    pub(super) fn tell(&mut self, channel: &mut Channel) -> Result<bool, Violation> {
        let mut has_gone_on = false;
        let mut has_told_all = true;
        for waiting in &mut self.flows {
            let waits = !waiting.messages.is_empty();
            let Some(note) = waiting.told.word(&waiting.flow, waits) else {
                continue;
            };
            if !tell(channel, &note)? {
                has_told_all = false;
                break;
            }
            waiting.told.tell(waits);
            has_gone_on |= !waits;
        }
        if has_gone_on {
            self.tidy();
        }
        Ok(has_told_all)
    }

    /// Takes out all of it.
    pub(super) fn take_all(&mut self, account: &Account) -> List<Message> {
        let mut taken = List::new();
        for waiting in &mut self.flows {
            taken.push_all_back(&mut waiting.messages);
        }
        for message in taken.iter() {
            account.give_back(message.principal, message.amount(), false);
        }
        *self = Self::new();
        taken
    }

    /// Takes out what has expired. Whether others have a deadline.
    pub(super) fn expire(&mut self, account: &Account, expired: &mut List<Message>) -> bool {
        let mut more = false;
        let Self { flows, amount } = self;
        for waiting in flows {
            let mut cursor = waiting.messages.cursor_front();
            while let Some(next) = cursor.peek_next() {
                if next.arc().is_expired() {
                    let message = next.remove();
                    *amount = amount.minus(message.amount());
                    account.give_back(message.principal, message.amount(), false);
                    expired.push_back(message);
                } else {
                    more |= next.arc().has_deadline();
                    cursor.move_next();
                }
            }
        }
        more
    }
}

impl Link {
    /// There may be room now for what waits here. May be called from any context.
    pub(crate) fn try_again(this: &Arc<Self>) {
        this.room.store(true, ordering::Release);
        Self::schedule(this);
    }

    /// Whether what goes there goes back to the other end.
    pub(super) fn is_back(&self, target: &Target) -> bool {
        matches!(target, Target::Link(link) if core::ptr::eq(&**link, self))
    }

    /// Hands over a message from the other end, or sets it aside. Returns it if it stops the link.
    ///
    /// What goes back does not stop it: the other end would wait for this one to read, and this one for
    /// room that only the other can make.
    pub(super) fn place(
        self: &Arc<Self>,
        io: &mut Io,
        flow: &Flow,
        message: Draft,
        target: Target,
    ) -> Option<Stopped> {
        let Stopped {
            message, target, ..
        } = self.try_place(io, flow, message, target)?;
        let is_back = |target: &Target| self.is_back(target);
        self.empty_aside(io, is_back, hand_back);
        if !is_back(&target) {
            return self.try_place(io, flow, message, target);
        }
        let message = hand_back(message, &target)?;
        Some(Stopped {
            flow: *flow,
            message,
            target,
        })
    }

    /// As [`Link::place`], for what has a share of the receiver's room.
    fn try_place(
        self: &Arc<Self>,
        io: &mut Io,
        flow: &Flow,
        message: Draft,
        target: Target,
    ) -> Option<Stopped> {
        let message = if io.aside.is_behind(flow, &target) {
            self.expire_if_ever(&message);
            message
        } else {
            let message = self.hand_over(message, &target)?;
            self.counters.stalls.add(1);
            target.inbox().call_when_room(self, &message);
            message
        };
        let stopped = Stopped {
            flow: *flow,
            message,
            target,
        };
        io.aside.add(stopped, self.inbox.account()).err()
    }

    /// Delivers the copies of a broadcast, but for those that would overtake what waits here of the
    /// same sender: as there is no room for them, they come back.
    pub(super) fn deliver(
        &self,
        io: &Io,
        flow: &Flow,
        is_question: bool,
        copies: KVVec<Addressed>,
    ) {
        for (message, target) in copies {
            if !is_question && io.aside.is_behind(flow, &target) {
                self.bridge.bounce(&message, Reason::Quota);
            } else {
                self.bridge.deliver_one(message, &target);
            }
        }
    }

    /// Hands over what was set aside, as far as there is room now.
    pub(super) fn hand_over_aside(self: &Arc<Self>, io: &mut Io) {
        if !io.aside.is_empty() && self.room.xchg(false, ordering::Full) {
            self.empty_aside(io, |_| true, |message, to| self.hand_over(message, to));
        }
    }

    /// Hands over what was set aside for these, in order, until one is returned.
    fn empty_aside(
        self: &Arc<Self>,
        io: &mut Io,
        is_for: impl Fn(&Target) -> bool,
        hand_over: impl Fn(Draft, &Target) -> Option<Draft>,
    ) {
        let account = self.inbox.account();
        let mut flows = mem::replace(&mut io.aside.flows, KVec::new());
        for waiting in flows.iter_mut().filter(|waiting| is_for(&waiting.target)) {
            while let Some(message) = waiting.messages.pop_front() {
                let (principal, amount) = (message.principal, message.amount());
                // Nobody else has it.
                let left = Draft::whole(message).and_then(|message| {
                    if message.is_expired() {
                        self.bridge.bounce(&message, Reason::Deadline);
                        return None;
                    }
                    hand_over(message, &waiting.target)
                });
                if let Some(message) = left {
                    waiting.target.inbox().call_when_room(self, &message);
                    waiting.messages.push_front(message.into());
                    break;
                }
                io.aside.give_back(account, principal, amount);
            }
        }
        io.aside.flows = flows;
        io.aside.tidy();
    }

    /// Has a message looked after that expires here, if it has a deadline.
    fn expire_if_ever(self: &Arc<Self>, message: &Message) {
        if message.has_deadline() {
            Target::Link(self.clone()).expire_later();
        }
    }

    /// Gives a message from this link to its receiver; returns it if the receiver is full.
    fn hand_over(self: &Arc<Self>, message: Draft, target: &Target) -> Option<Draft> {
        match target.push(message) {
            Ok(()) => None,
            Err(PushError::Full(message)) => {
                self.expire_if_ever(&message);
                Some(message)
            }
            Err(PushError::Closed(message)) => {
                self.bridge.bounce(&message, Reason::PeerGone);
                None
            }
        }
    }
}

/// Gives a message back to the other end whatever its share; returns it if there is no memory.
fn hand_back(message: Draft, back: &Target) -> Option<Draft> {
    match back.push_returned(message) {
        Err(PushError::Full(message)) => Some(message),
        // The other end is gone, and does not wait for it.
        Ok(()) | Err(PushError::Closed(_)) => None,
    }
}
