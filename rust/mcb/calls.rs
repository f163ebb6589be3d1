// SPDX-License-Identifier: GPL-2.0

//! Endpoints that are called for each message, instead of reading it.

use super::Endpoint;
use crate::{
    message::Message,
    trace::{trace, Point},
    wire::Reason, //
};
use kernel::{
    list::ListArc,
    prelude::*,
    sync::{atomic::ordering::Relaxed, Arc},
    workqueue::{impl_has_work, WorkItem}, //
};

/// Messages that one endpoint is called for before others get their turn.
const BUDGET: usize = 64;

/// Takes the messages of an endpoint, one call at a time. Called as a softirq: it does not sleep.
pub(crate) trait Receive: Send + Sync {
    fn receive(&self, message: ListArc<Message>);
}

impl_has_work! {
    impl HasWork<Self> for Endpoint { self.calls }
}

impl WorkItem for Endpoint {
    type Pointer = Arc<Endpoint>;

    fn run(this: Arc<Endpoint>) {
        let receiver = this.receiver.lock();
        let Some(receiver) = receiver.as_ref() else {
            return;
        };
        for _ in 0..BUDGET {
            let Ok(message) = this.inbox.pop(usize::MAX) else {
                return;
            };
            trace(Point::Deliver, this.principal.owner, Reason::None, || {
                message.header()
            });
            receiver.receive(message);
        }
        this.call_soon();
    }
}

impl Endpoint {
    /// Has messages go to `receiver` from now on.
    pub(crate) fn call(self: &Arc<Self>, receiver: KBox<dyn Receive>) {
        *self.receiver.lock() = Some(receiver);
        self.is_called.store(true, Relaxed);
        self.call_soon();
    }

    /// Waits for a running call; there is no other.
    pub(crate) fn call_no_more(&self) {
        self.is_called.store(false, Relaxed);
        // A call runs with the lock.
        let receiver = self.receiver.lock().take();
        drop(receiver);
    }

    /// Tells whoever reads it of a message in the inbox.
    pub(super) fn notify(self: &Arc<Self>) {
        if self.is_called.load(Relaxed) {
            self.call_soon();
        } else {
            self.readable.notify_all();
        }
    }

    fn call_soon(self: &Arc<Self>) {
        // If it is queued already, that is as good.
        let _ = self.bridge.moves().enqueue(self.clone());
    }
}
