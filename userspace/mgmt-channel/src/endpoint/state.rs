// SPDX-License-Identifier: MIT OR Apache-2.0

//! What an endpoint knows: who waits for what. It does no input and output.

use super::unacknowledged::{Sent, Unacknowledged};
use super::{Incoming, Presence, Undeliverable};
use crate::ids::Ids;
use crate::{Address, Component, Error, Event, Flags, Header, Kind, Message, Reason, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::task::{Poll, Waker};

/// Messages that are kept for who receives.
const QUEUE_MAX: usize = 1024;
/// Their bytes; the last one may exceed it.
const QUEUE_BYTES: usize = 8 << 20;
/// Addresses of which a watch knows that they are there, and those that it has to tell.
const WATCH_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct State {
    ids: Ids,
    pending: HashMap<u64, Pending>,
    queue: VecDeque<Incoming>,
    queue_bytes: usize,
    receivers: Vec<Waker>,
    watches: BTreeMap<u64, Watching>,
    unacknowledged: Unacknowledged,
    /// Nothing is kept for a receiver.
    requests_only: bool,
    /// A thread reads for all.
    pub(super) is_reading: bool,
}

/// A request that is under way.
#[derive(Default)]
struct Pending {
    answer: Answer,
    waker: Option<Waker>,
}

enum Answer {
    One(Option<Result<Message>>),
    Many(Vec<Address>),
}

impl Default for Answer {
    fn default() -> Self {
        Self::One(None)
    }
}

/// A watch.
struct Watching {
    about: Address,
    up: BTreeSet<Address>,
    news: VecDeque<Presence>,
    /// More came than is kept.
    is_behind: bool,
    waker: Option<Waker>,
}

impl Watching {
    /// Whether what is told of `source` may be about this. Only the bridge knows whom *mvm*, *self*
    /// and a stable name stand for, and it tells only what was asked for.
    fn covers(&self, source: &Address) -> bool {
        if self.about.app != source.app {
            return false;
        }
        match (self.about.component, source.component) {
            (
                Component::Vm { mvm_ip, vm_id },
                Component::Vm {
                    mvm_ip: ip,
                    vm_id: id,
                },
            ) => {
                let unknown = [0; 16];
                vm_id == id && (mvm_ip == ip || mvm_ip == unknown || ip == unknown)
            }
            _ => true,
        }
    }

    fn tell(&mut self, presence: Presence) {
        match presence.event {
            Event::Down => drop(self.up.remove(&presence.who)),
            _ if self.up.len() < WATCH_MAX => drop(self.up.insert(presence.who)),
            _ => self.is_behind = true,
        }
        if self.news.len() < 2 * WATCH_MAX {
            self.news.push_back(presence);
        } else {
            self.is_behind = true;
        }
        wake(&mut self.waker);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl State {
    pub(super) fn new(requests_only: bool) -> Self {
        Self {
            requests_only,
            ..Self::default()
        }
    }

    /// The number of a message that is about to be sent; it is unacknowledged from now on.
    pub(super) fn sending(&mut self, header: &mut Header) -> u64 {
        if header.correlation == 0 {
            header.correlation = self.ids.next();
        }
        self.unacknowledged
            .add(Sent::of(header, header.correlation));
        header.correlation
    }

    /// It was not sent.
    pub(super) fn not_sent(&mut self, id: u64) {
        self.unacknowledged.remove(id);
    }

    /// Expects an answer to a request, or with `many` all that come until it is ended.
    pub(super) fn expect(&mut self, header: &mut Header, many: bool) -> u64 {
        header.correlation = self.ids.next();
        let pending = self.pending.entry(header.correlation).or_default();
        if many {
            pending.answer = Answer::Many(Vec::new());
        } else {
            self.unacknowledged
                .add(Sent::of(header, header.correlation));
        }
        header.correlation
    }

    /// Nobody waits for it any more.
    pub(super) fn end_request(&mut self, id: u64) -> Vec<Address> {
        match self.pending.remove(&id) {
            Some(Pending {
                answer: Answer::Many(found),
                ..
            }) => found,
            _ => Vec::new(),
        }
    }

    pub(super) fn poll_answer(&mut self, id: u64, waker: &Waker) -> Poll<Result<Message>> {
        let Some(pending) = self.pending.get_mut(&id) else {
            return Poll::Ready(Err(Error::Lost));
        };
        match &mut pending.answer {
            Answer::One(answer) if answer.is_some() => {
                Poll::Ready(answer.take().unwrap_or(Err(Error::Lost)))
            }
            _ => {
                pending.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn poll_recv(&mut self, waker: &Waker) -> Poll<Incoming> {
        if let Some(incoming) = self.queue.pop_front() {
            if let Incoming::Message(message) = &incoming {
                self.queue_bytes -= message.payload.len();
            }
            return Poll::Ready(incoming);
        }
        if !self.receivers.iter().any(|known| known.will_wake(waker)) {
            self.receivers.push(waker.clone());
        }
        Poll::Pending
    }

    pub(super) fn watch(&mut self, about: Address) -> u64 {
        let key = self.ids.next();
        let watching = Watching {
            about,
            up: BTreeSet::new(),
            news: VecDeque::new(),
            is_behind: false,
            waker: None,
        };
        self.watches.insert(key, watching);
        key
    }

    /// Ends a watch. What the bridge need not tell any more: others may watch the same.
    pub(super) fn unwatch(&mut self, key: u64) -> Option<Address> {
        let ended = self.watches.remove(&key)?.about;
        let is_left = |watching: &Watching| watching.about == ended;
        (!self.watches.values().any(is_left)).then_some(ended)
    }

    /// What is watched.
    pub(super) fn watched(&self) -> BTreeSet<Address> {
        self.watches
            .values()
            .map(|watching| watching.about)
            .collect()
    }

    pub(super) fn poll_watch(&mut self, key: u64, waker: &Waker) -> Poll<Result<Presence>> {
        let Some(watching) = self.watches.get_mut(&key) else {
            return Poll::Ready(Err(Error::Lost));
        };
        if let Some(presence) = watching.news.pop_front() {
            return Poll::Ready(Ok(presence));
        }
        if std::mem::take(&mut watching.is_behind) {
            return Poll::Ready(Err(Error::Backlog));
        }
        watching.waker = Some(waker.clone());
        Poll::Pending
    }

    /// No more may be read: somebody has to receive first.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_MAX || self.queue_bytes >= QUEUE_BYTES
    }

    /// Whether nothing may be read, as nobody receives. Requests would wait in vain then, and fail.
    pub(super) fn starves(&mut self) -> bool {
        let is_full = self.is_full();
        if is_full {
            self.fail(|| Error::Backlog);
        }
        is_full
    }

    fn fail(&mut self, error: impl Fn() -> Error) {
        for pending in self.pending.values_mut() {
            if let Answer::One(answer @ None) = &mut pending.answer {
                *answer = Some(Err(error()));
            }
            wake(&mut pending.waker);
        }
    }

    /// Wakes all who wait.
    pub(super) fn wake_all(&mut self) {
        self.receivers.drain(..).for_each(Waker::wake);
        let pending = self.pending.values_mut().map(|p| &mut p.waker);
        let watches = self.watches.values_mut().map(|w| &mut w.waker);
        pending.chain(watches).for_each(wake);
    }

    fn keep(&mut self, incoming: Incoming) {
        if self.requests_only {
            return;
        }
        if let Incoming::Message(message) = &incoming {
            self.queue_bytes += message.payload.len();
        }
        self.queue.push_back(incoming);
        // Each takes one: the first that comes, whoever it is.
        self.receivers.drain(..).for_each(Waker::wake);
    }

    /// Takes in a message that was read.
    pub(super) fn enter(&mut self, message: Message) {
        let header = &message.header;
        let id = header.correlation;
        match header.kind {
            Kind::Reply | Kind::Terminate => {
                let Some(pending) = self.pending.get_mut(&id) else {
                    return self.keep(Incoming::Message(message));
                };
                match &mut pending.answer {
                    Answer::Many(found) if found.len() < WATCH_MAX => found.push(header.source),
                    Answer::One(answer @ None) => {
                        *answer = Some(if header.kind == Kind::Reply {
                            Ok(message)
                        } else {
                            Err(Error::Terminated(Box::new(message)))
                        });
                        self.unacknowledged.answered(id);
                        wake(&mut pending.waker);
                    }
                    // A second answer.
                    _ => self.keep(Incoming::Message(message)),
                }
            }
            Kind::Undeliverable if header.flags.contains(Flags::REQUEST) => {
                self.unacknowledged.remove(id);
                // One that nobody waits for any more has been reported as timed out.
                let Some(Pending {
                    answer: Answer::One(answer @ None),
                    waker,
                }) = self.pending.get_mut(&id)
                else {
                    return;
                };
                *answer = Some(Err(match header.reason {
                    Reason::Deadline => Error::TimedOut,
                    reason => Error::Undeliverable(reason),
                }));
                wake(waker);
            }
            Kind::Undeliverable => {
                self.unacknowledged.remove(id);
                self.keep(Incoming::Undeliverable(Undeliverable {
                    id,
                    destination: header.source,
                    reason: header.reason,
                }));
            }
            Kind::Presence => self.tell(&message),
            _ => match message.unbundle() {
                Some(messages) => {
                    for message in messages {
                        self.keep(Incoming::Message(message));
                    }
                }
                None => self.keep(Incoming::Message(message)),
            },
        }
    }

    fn tell(&mut self, message: &Message) {
        let who = message.header.source;
        // Only a bridge tells; what else there is was somebody's attempt.
        let Ok(event @ (Event::Up | Event::Down | Event::Moved)) = Event::decode(&message.payload)
        else {
            return;
        };
        let presence = Presence { who, event };
        let moved = event == Event::Moved;
        for watching in self.watches.values_mut() {
            // What has moved has another name now.
            if watching.covers(&who) || (moved && watching.about.app == who.app) {
                watching.tell(presence);
            }
        }
    }

    /// The device has gone.
    pub(super) fn lost(&mut self) {
        self.fail(|| Error::Lost);
        let lost = self.unacknowledged.take();
        self.keep(Incoming::Lost(lost));
        for watching in self.watches.values_mut() {
            for who in std::mem::take(&mut watching.up) {
                watching.tell(Presence {
                    who,
                    event: Event::Down,
                });
            }
        }
    }

    /// The device is there again.
    pub(super) fn restored(&mut self) {
        self.keep(Incoming::Restored);
    }
}
