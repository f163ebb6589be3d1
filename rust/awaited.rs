// SPDX-License-Identifier: GPL-2.0

//! Requests of a kernel client that await their reply.
//!
//! A reply goes straight to the task that waits for it and takes no room in the client's queue: there
//! is at most one for each task.

use crate::{
    bh::{new_spinlock_bh, SpinLockBh},
    mcb::BRIDGE,
    message::{Draft, Message},
    waiters::{deadline, sleep, time_left},
    wire::{Header, Kind, Reason}, //
};
use kernel::{
    list::ListArc,
    new_condvar,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        CondVar, //
    }, //
};

/// Correlations from here on are chosen here, so that replies to them are known.
pub(crate) const OURS: u64 = 1 << 63;

/// The answers that one client awaits.
#[pin_data]
pub(crate) struct Awaited {
    next: Atomic<u64>,
    #[pin]
    pending: SpinLockBh<KVec<Pending>>,
    /// Notified when an answer came.
    #[pin]
    answered: CondVar,
}

struct Pending {
    correlation: u64,
    answer: Option<ListArc<Message>>,
}

/// A request that awaits its reply, until it is dropped.
pub(crate) struct Request<'a> {
    awaited: &'a Awaited,
    pub(crate) correlation: u64,
}

impl Awaited {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            next: Atomic::new(OURS),
            pending <- new_spinlock_bh!(KVec::new(), "mgmt_awaited"),
            answered <- new_condvar!("mgmt_awaited_answered"),
        })
    }

    /// Begins a request, before it is sent.
    pub(crate) fn begin(&self) -> Result<Request<'_>> {
        let correlation = self.next.fetch_add(1, Relaxed) | OURS;
        let pending = Pending {
            correlation,
            answer: None,
        };
        self.pending.lock().push(pending, GFP_ATOMIC)?;
        Ok(Request {
            awaited: self,
            correlation,
        })
    }

    /// Takes a message that answers one of these requests. One that nobody waits for any more is
    /// dropped, and so is one of somebody who was not asked, and has guessed the correlation.
    pub(crate) fn take_answer(&self, message: Draft) -> Result<(), Draft> {
        let header = message.stamped();
        let is_answer = matches!(header.kind, Kind::Reply | Kind::Undeliverable);
        if !is_answer || header.correlation & OURS == 0 {
            return Err(message);
        }
        if !message.answers() && message.principal != BRIDGE {
            return Ok(());
        }
        let mut pending = self.pending.lock();
        let asked = pending
            .iter_mut()
            .find(|asked| asked.correlation == header.correlation && asked.answer.is_none());
        if let Some(asked) = asked {
            asked.answer = Some(message.into());
            drop(pending);
            self.answered.notify_all();
        }
        Ok(())
    }
}

impl Request<'_> {
    /// Waits for the reply, at most so many milliseconds if any number is given.
    ///
    /// `ETIMEDOUT` if none came in time, `EINTR` (as `ERESTARTSYS`) if a signal came first, and the
    /// errno of the reason if the request came back.
    pub(crate) fn wait(&self, milliseconds: Option<u32>) -> Result<ListArc<Message>> {
        let end = milliseconds.map(deadline);
        let mut pending = self.awaited.pending.lock();
        loop {
            let mine = pending
                .iter_mut()
                .find(|asked| asked.correlation == self.correlation);
            if let Some(answer) = mine.and_then(|mine| mine.answer.take()) {
                let Header { kind, reason, .. } = answer.header();
                return match kind {
                    Kind::Undeliverable => Err(reason_errno(reason)),
                    _ => Ok(answer),
                };
            }
            let left = end.map(time_left);
            if left == Some(0) {
                return Err(ETIMEDOUT);
            }
            sleep(&self.awaited.answered, &mut pending, left)?;
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let mut pending = self.awaited.pending.lock();
        let mine = pending
            .iter()
            .position(|asked| asked.correlation == self.correlation);
        let mine = mine.and_then(|at| pending.remove(at).ok());
        drop(pending);
        drop(mine);
    }
}

/// The errno for a request that came back.
fn reason_errno(reason: Reason) -> Error {
    match reason {
        Reason::None => EPROTO,
        Reason::NoComponent => EHOSTUNREACH,
        Reason::NoEndpoint => ECONNREFUSED,
        Reason::Denied => EACCES,
        Reason::Quota => EAGAIN,
        Reason::PeerGone => ECONNRESET,
        Reason::Deadline => ETIMEDOUT,
        Reason::TooLarge => EMSGSIZE,
        Reason::Hops => ELOOP,
    }
}
