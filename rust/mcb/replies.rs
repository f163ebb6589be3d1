// SPDX-License-Identifier: GPL-2.0

//! Requests that await their reply, so that who asked hears how each ended, once.
//!
//! Every bridge that hands a request to one receiver remembers it, until a reply or an
//! *undeliverable* comes back by the way that it went. If that way ends before, who asked is told
//! (*peer gone*). The bridge of who asked, and no other, also tells that the deadline passed.
//!
//! A request is remembered before its receiver can see it. From then on, who takes it out of the
//! table has its end to tell, and nobody else has.

use super::{Bridge, Target, BRIDGE};
use crate::{
    account::Taken,
    message::{Draft, Message, Principal},
    payload::Payload,
    pure::{
        account::{Owner, Slot},
        route::is_answer, //
    },
    wire::{AppId, Component, Flags, Header, Kind, Reason}, //
};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{atomic::ordering::Relaxed, Arc},
    time::{Instant, Monotonic}, //
};

/// Requests that are looked at before others may use the table; also the most of one application
/// with the same correlation among which the one that a reply is about is searched.
const STEP: usize = 64;

/// Who asked: which link, or 0 for this domain, and which application; then the correlation that it
/// chose, and the number that the request has here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    link: u64,
    app: Option<AppId>,
    correlation: u64,
    number: u64,
}

impl Key {
    const FIRST: Self = Self {
        link: 0,
        app: None,
        correlation: 0,
        number: 0,
    };

    /// `None` if the message is no request that was given a number.
    fn of(message: &Message) -> Option<Self> {
        let number = message.request_number()?;
        let header = message.header();
        Some(Self {
            link: match message.principal.owner {
                Owner::Uid(_) => 0,
                _ => message.principal.id,
            },
            app: header.source.app,
            correlation: header.correlation,
            number,
        })
    }

    fn next(self) -> Self {
        Self {
            number: self.number + 1,
            ..self
        }
    }
}

/// What is remembered of a request.
pub(super) struct Request {
    header: Header,
    requester: Target,
    /// Who got it.
    receiver: u64,
    expires: Option<Instant<Monotonic>>,
    _slot: Taken,
}

impl Request {
    fn is_expired(&self) -> bool {
        self.expires
            .is_some_and(|expires| (expires - Instant::now()).as_nanos() <= 0)
    }
}

/// The requests of one bridge that await their reply.
pub(super) type Requests = RBTree<Key, Request>;

/// A request that is not remembered any more, as it was answered.
pub(crate) struct Answered {
    node: RBTreeNode<Key, Request>,
    has_deadline: bool,
}

/// Whose it is to tell how a message ended that was not delivered.
pub(super) enum Teller {
    /// Who finds that it was not: it is no request, or could not be remembered.
    Anybody,
    /// It is told already.
    Nobody,
    /// Who finds that it was not, to this one.
    To(Target),
}

/// Whether the end of such a message is to be told to who sent it.
fn awaits_reply(header: &Header) -> bool {
    let flags = header.flags;
    flags.contains(Flags::REQUEST)
        && !flags.contains(Flags::BROADCAST)
        && !flags.contains(Flags::NO_UNDELIVERABLE)
        && !matches!(header.kind, Kind::Presence | Kind::Undeliverable)
}

impl Bridge {
    /// Gives the message with this header its number among the requests, if it is one.
    pub(super) fn number_request(&self, message: &Message, header: &Header) {
        if awaits_reply(header) {
            message.set_request_number(self.next_request.fetch_add(1, Relaxed));
        }
    }

    /// Remembers a request that is about to be handed to its receiver; `ENOSPC` if who asks has as
    /// many as it may. Any other message is not remembered.
    pub(crate) fn await_reply(
        self: &Arc<Self>,
        from: impl FnOnce() -> Target,
        message: &Message,
        to: &Target,
    ) -> Result {
        let Some(key) = Key::of(message) else {
            return Ok(());
        };
        let from = from();
        let request = Request {
            _slot: from.inbox().account().take(Slot::Replies, 1)?,
            expires: message.expires(),
            header: message.header(),
            requester: from,
            receiver: to.principal().id,
        };
        let node = RBTreeNode::new(key, request, GFP_ATOMIC)?;
        self.requests.lock().insert(node);
        if message.has_deadline() {
            Self::expire_soon(self);
        }
        Ok(())
    }

    /// A message was not delivered: forgets the request that it is.
    pub(super) fn teller(&self, message: &Message) -> Teller {
        let Some(key) = Key::of(message) else {
            return Teller::Anybody;
        };
        let node = self.requests.lock().remove_node(&key);
        match node {
            None => Teller::Nobody,
            Some(node) => Teller::To(node.to_key_value().1.requester),
        }
    }

    /// Forgets a request that its receiver did not take. `false` if its end has been told meanwhile:
    /// then it counts as accepted.
    pub(crate) fn withdraw(&self, message: &Message) -> bool {
        !matches!(self.teller(message), Teller::Nobody)
    }

    /// Forgets the request, if there is one, that a message from `by` on its way to `target` is the
    /// answer to. The message goes to who asked then: several may have bound the App_ID.
    pub(super) fn answer(
        &self,
        by: Principal,
        header: &Header,
        target: &mut Target,
    ) -> Option<Answered> {
        let came_back = header.kind == Kind::Undeliverable;
        if !came_back && !header.kind.is_answer() {
            return None;
        }
        let names = self.names();
        let first = Key {
            link: match target {
                Target::Endpoint(_) => 0,
                Target::Link(link) => link.principal.id,
                Target::Fabric(fabric) => fabric.principal.id,
            },
            app: header.destination.app,
            correlation: header.correlation,
            number: 0,
        };
        let mut requests = self.requests.lock();
        let mut cursor = requests.cursor_lower_bound_mut(&first)?;
        let mut left = STEP;
        loop {
            let (&key, request) = cursor.current();
            if (Key { number: 0, ..key }) != first {
                return None;
            }
            if request.receiver == by.id
                && (!came_back || request.header.sequence == header.sequence)
                && is_answer(&names, &request.header.destination, &header.source)
            {
                break;
            }
            left -= 1;
            if left == 0 {
                return None;
            }
            cursor = cursor.move_next()?;
        }
        let request = cursor.current().1;
        *target = request.requester.clone();
        let has_deadline = request.expires.is_some();
        let (_, node) = cursor.remove_current();
        Some(Answered { node, has_deadline })
    }

    /// What one receiver was asked, another one is to answer, who is called so now.
    pub(super) fn move_requests(&self, from: Principal, to: Principal, component: Component) {
        for request in self.requests.lock().values_mut() {
            if request.receiver == from.id {
                request.receiver = to.id;
                request.header.destination.component = component;
            }
        }
    }

    /// A request is on its way to another receiver now.
    pub(super) fn move_request(&self, message: &Message, to: Principal) {
        let Some(key) = Key::of(message) else {
            return;
        };
        if let Some(request) = self.requests.lock().get_mut(&key) {
            request.receiver = to.id;
        }
    }

    /// Remembers a request again, as the answer could not be sent.
    pub(crate) fn unanswer(self: &Arc<Self>, answered: Option<Answered>) {
        let Some(Answered { node, has_deadline }) = answered else {
            return;
        };
        self.requests.lock().insert(node);
        // Who looked for expired ones meanwhile may have found none, and not look again.
        if has_deadline {
            Self::expire_soon(self);
        }
    }

    /// A receiver is gone, which may also have asked: what it took and did not answer is told to who
    /// asked, and what it asked is forgotten.
    pub(super) fn end_requests_of(&self, gone: Principal) {
        self.end_requests(
            |request| request.receiver == gone.id || request.requester.principal().id == gone.id,
            |request| request.requester.principal().id != gone.id,
            Reason::PeerGone,
        );
    }

    /// Ends the requests whose deadline has passed, and tells those of this domain. Whether any
    /// other has a deadline.
    pub(super) fn expire_requests(&self) -> bool {
        self.end_requests(
            Request::is_expired,
            |request| matches!(request.requester, Target::Endpoint(_)),
            Reason::Deadline,
        );
        self.requests
            .lock()
            .values()
            .any(|request| request.expires.is_some())
    }

    /// Forgets the requests for which `ends` says so, and tells those who asked, where `tells` does.
    fn end_requests(
        &self,
        ends: impl Fn(&Request) -> bool,
        tells: impl Fn(&Request) -> bool,
        reason: Reason,
    ) {
        let mut from = Some(Key::FIRST);
        while let Some(key) = from {
            let ended;
            (ended, from) = self.next_ended(key, &ends);
            if let Some(request) = ended.filter(&tells) {
                self.tell_undeliverable(&request.header, reason, request.requester);
            }
        }
    }

    /// Forgets the first request from `key` on for which `ends` says so, if it is among so many that
    /// may be looked at. Also returns where to go on.
    fn next_ended(
        &self,
        key: Key,
        ends: impl Fn(&Request) -> bool,
    ) -> (Option<Request>, Option<Key>) {
        let mut requests = self.requests.lock();
        let mut cursor = requests.cursor_lower_bound_mut(&key);
        let mut last = key;
        for _ in 0..STEP {
            let Some(at) = cursor else {
                return (None, None);
            };
            let (&key, request) = at.current();
            last = key;
            if ends(request) {
                let (_, node) = at.remove_current();
                return (Some(node.to_key_value().1), Some(last.next()));
            }
            cursor = at.move_next();
        }
        (None, Some(last.next()))
    }

    /// Tells who sent a message with this header that it was not delivered.
    pub(super) fn tell_undeliverable(&self, header: &Header, reason: Reason, to: Target) {
        let Some(back) = header.undeliverable(reason) else {
            return;
        };
        let Ok(back) = Draft::of(&back, Payload::EMPTY, BRIDGE, GFP_ATOMIC) else {
            pr_warn!("no memory to tell a sender of an undeliverable message\n");
            return;
        };
        if let Target::Link(link) = &to {
            link.count_undeliverable();
        }
        // A sender that went away meanwhile does not wait for it.
        let _ = to.push_returned(back);
    }
}
