// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests on their way to the BMC: bounded, with deadlines, in turn.
//!
//! The kernel's IPMI layer has no timeout of its own for a BMC that is gone, and forgets what is on
//! its way when an interface goes. So who asked hears from here, in any case and once; and a request
//! that the layer has keeps its place until the layer returns it, so that there are never more.

use super::{Answer, Next, Operation, Request, Status};
use core::ops::DerefMut;

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests of one owner.
    pub each: usize,
    /// Requests that the IPMI layer has at the same time; the others wait here.
    pub sent: usize,
    /// A request that the layer has not returned after so many milliseconds it has lost.
    pub lost_after: u64,
}

/// A request.
pub struct Slot<O, T> {
    id: u64,
    owner: O,
    /// Who is told; nobody, if that was done.
    asker: Option<T>,
    operation: Operation,
    step: u8,
    /// When who asked is told that it took too long, ms.
    expires: u64,
    state: State,
}

/// Where a request is.
// There is nothing to allocate with.
#[allow(clippy::large_enum_variant)]
enum State {
    Waits(Request),
    /// The IPMI layer has it since then, ms: its network function and command.
    Sent(u64, (u8, u8)),
    Done(Answer),
}

/// Requests in a memory with a place for each.
///
/// `O` is whoever may have only so many, `T` what is needed to tell who asked.
pub struct Table<S> {
    limits: Limits,
    last_id: u64,
    slots: S,
}

impl<O, T, S> Table<S>
where
    O: PartialEq + 'static,
    T: 'static,
    S: DerefMut<Target = [Option<Slot<O, T>>]>,
{
    /// An empty table.
    pub const fn new(slots: S, limits: Limits) -> Self {
        Self {
            limits,
            last_id: 0,
            slots,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Slot<O, T>> {
        self.slots.iter().flatten()
    }

    fn with_id(&mut self, id: u64) -> Option<&mut Slot<O, T>> {
        self.slots.iter_mut().flatten().find(|slot| slot.id == id)
    }

    /// Adds a request; returns who asked if there is no room for it.
    pub fn add(&mut self, owner: O, asker: T, operation: Operation, expires: u64) -> Result<(), T> {
        let held = self.all().filter(|slot| slot.owner == owner).count();
        let free = self.slots.iter_mut().find(|slot| slot.is_none());
        let Some(free) = free.filter(|_| held < self.limits.each) else {
            return Err(asker);
        };
        self.last_id += 1;
        *free = Some(Slot {
            id: self.last_id,
            owner,
            asker: Some(asker),
            operation,
            step: 0,
            expires,
            state: State::Waits(operation.first()),
        });
        Ok(())
    }

    fn sent(&self) -> impl Iterator<Item = &Slot<O, T>> {
        self.all()
            .filter(|slot| matches!(slot.state, State::Sent(..)))
    }

    /// The request that is to be sent now, with its number: the oldest of an owner who has the fewest
    /// on their way.
    pub fn next_to_send(&mut self, now: u64) -> Option<(u64, Request)> {
        if self.sent().count() >= self.limits.sent {
            return None;
        }
        let waits = self
            .all()
            .filter(|slot| matches!(slot.state, State::Waits(_)));
        let ahead = |slot: &Slot<O, T>| self.sent().filter(|o| o.owner == slot.owner).count();
        let id = waits.min_by_key(|slot| (ahead(slot), slot.id))?.id;
        let slot = self.with_id(id)?;
        let State::Waits(request) = slot.state else {
            return None;
        };
        slot.state = State::Sent(now, (request.netfn, request.command));
        Some((id, request))
    }

    /// A request could not be sent.
    pub fn not_sent(&mut self, id: u64, status: Status) {
        if let Some(slot) = self.with_id(id) {
            slot.state = State::Done(status.into());
        }
    }

    /// A response came: to the request with this number, which may not be there any more.
    pub fn respond(&mut self, id: u64, netfn: u8, command: u8, response: &[u8]) {
        let Some(slot) = self.with_id(id) else {
            return;
        };
        let State::Sent(_, sent) = slot.state else {
            return;
        };
        slot.state = if sent != (netfn & !1, command) {
            State::Done(Status::Nonsense.into())
        } else {
            match slot.operation.next(slot.step, response) {
                // Nobody waits for what would follow.
                Next::Send(_) if slot.asker.is_none() => State::Done(Status::TimedOut.into()),
                Next::Send(request) => {
                    slot.step += 1;
                    State::Waits(request)
                }
                Next::Answer(answer) => State::Done(answer),
            }
        };
    }

    /// The BMC is gone: nothing will be answered.
    pub fn gone(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            if !matches!(slot.state, State::Done(_)) {
                slot.state = State::Done(Status::Absent.into());
            }
        }
    }

    /// Who is to be told what: call it until there is nobody.
    pub fn next_done(&mut self, now: u64) -> Option<(T, Answer)> {
        let lost_after = self.limits.lost_after;
        for place in self.slots.iter_mut() {
            let Some(slot) = place else {
                continue;
            };
            let is_late = slot.expires <= now;
            let (answer, stays) = match slot.state {
                State::Done(answer) => (answer, false),
                State::Waits(_) if is_late => (Status::TimedOut.into(), false),
                State::Sent(since, _) if is_late => (
                    Status::TimedOut.into(),
                    now < since.saturating_add(lost_after),
                ),
                _ => continue,
            };
            let asker = slot.asker.take();
            if !stays {
                *place = None;
            }
            if let Some(asker) = asker {
                return Some((asker, answer));
            }
        }
        None
    }

    /// Whether there is nothing that could come late.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}
