// SPDX-License-Identifier: GPL-2.0

//! The life of a link: it has a channel, or is parked without one, until it ends.
//!
//! A parked link takes messages as far as there is room, and waits for its next channel. Whose
//! time is up ends: what it holds goes back to the senders.

use super::{forget_consumed, tell, Io, Link, Violation};
use crate::{
    bh::SpinLockBh,
    channel::Channel,
    large::Large,
    mcb::Target,
    message::Message,
    pure::{
        flow::Note,
        lineage::{Answer, Mismatch, Offer}, //
    },
    spares::Spares,
    wire::Reason,
    xen::xenbus::{read_u32, Complaints, Device, State}, //
};
use kernel::{
    list::List,
    prelude::*,
    str::CString,
    sync::{aref::ARef, atomic::ordering, Arc},
    time::{delay::fsleep, Delta, Instant, Monotonic}, //
};

/// How long a guest's link waits for its next channel when the management VM's end has gone, or the
/// guest was resumed.
pub(crate) const PARK_UPLINK: Delta = Delta::from_secs(60);
/// How long a management VM keeps the link of a guest that has said that it is suspended.
const PARK_SUSPENDED: Delta = Delta::from_secs(300);
/// How long a management VM keeps the link of a guest whose channel is made anew.
pub(crate) const PARK_BRIEFLY: Delta = Delta::from_secs(30);

/// How long a guest that came from another platform waits for what that has of it.
const ARRIVAL: Delta = Delta::from_secs(30);

/// How long [`Link::pause`] waits at most for the other end, and how long at a time.
const DRAIN: Delta = Delta::from_secs(2);
const DRAIN_STEP: Delta = Delta::from_millis(2);
/// After this time a paused link looks whether its domain was suspended at all: nobody tells.
const PAUSE: Delta = Delta::from_secs(2);

/// Where a link stands.
pub(super) enum Life {
    /// It has no channel, and ends at this time; one that was never connected ends by itself.
    Parked(Option<Instant<Monotonic>>),
    /// It has the channel of this device.
    Attached(ARef<Device>, Arc<Complaints>),
    Ended,
}

impl Life {
    pub(super) fn new() -> Self {
        Self::Parked(None)
    }

    /// Whether the link has the channel of the driver whose complaints these are.
    fn is_of(&self, owner: &Arc<Complaints>) -> bool {
        matches!(self, Self::Attached(_, complaints) if Arc::ptr_eq(complaints, owner))
    }
}

/// Whether rings show what the other end has taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rings {
    Live,
    /// They are of before a suspend: what the other end wrote may be older than what was read.
    Stale,
}

/// How a link comes back.
#[derive(Clone, Copy)]
pub(crate) struct Comeback {
    /// The other end knows nothing of what was before.
    pub(crate) anew: bool,
    /// This domain was suspended meanwhile.
    pub(crate) resumed: bool,
}

impl Io {
    /// Takes the channel away, after a last look at what the other end has taken of it.
    fn take_channel(&mut self, rings: Rings, spares: &Spares) -> Option<Channel> {
        let mut channel = self.channel.take()?;
        // The other end was not told that it arrived: it knows what to do.
        self.large = Large::None;
        if rings == Rings::Live {
            match channel.tx.refresh() {
                Ok(()) => forget_consumed(
                    &channel,
                    &mut self.sent,
                    &mut self.lineage,
                    spares,
                    &mut self.spare,
                ),
                // Then nothing is known to have arrived.
                Err(broken) if self.violation.is_none() => {
                    self.violation = Some(Violation::Ring(broken));
                }
                Err(_) => {}
            }
        }
        self.resumed |= rings == Rings::Stale;
        Some(channel)
    }

    /// In its next channel the link goes on, or begins anew: what the other end sets aside is unknown, or
    /// nothing.
    fn goes_on(&mut self, goes_on: bool) {
        self.is_ready = !goes_on;
        self.says_ready = !goes_on;
    }

    /// The other end has so many of the messages that were sent: the others are sent again.
    fn rewind(&mut self, had: u64) {
        for _ in 0..had {
            drop(self.sent.pop_front());
        }
        self.sent.push_all_back(&mut self.outgoing);
        self.outgoing.push_all_back(&mut self.sent);
    }
}

impl Link {
    /// What a frontend offers with the rings of this link's next channel. `fresh` is random.
    pub(crate) fn offer(&self, fresh: u64) -> Offer {
        // No channel is there whose event it could be.
        self.event.store(false, ordering::Relaxed);
        self.io.lock().lineage.offer(fresh)
    }

    /// Takes the backend's answer. A link that begins anew sends what the backend before was not
    /// known to have taken.
    pub(crate) fn accept(&self, offer: &Offer, answer: &Answer) -> Result<Comeback, Mismatch> {
        let mut io = self.io.lock();
        let goes_on = io.lineage.is(answer.link);
        let had = io.lineage.accept(offer, answer)?;
        io.rewind(had);
        io.goes_on(goes_on);
        Ok(Comeback {
            anew: !goes_on,
            resumed: core::mem::take(&mut io.resumed),
        })
    }

    /// Goes on with what a frontend offers, if it is this link: that loses the channel that it
    /// may still have.
    pub(crate) fn go_on(self: &Arc<Self>, offer: &Offer) -> Result<Answer, Mismatch> {
        let mut life = self.life.lock();
        if matches!(*life, Life::Ended) || !self.io.lock().lineage.is(offer.link) {
            return Err(Mismatch);
        }
        drop(self.leave(&mut life, Rings::Live, PARK_BRIEFLY));
        if let Life::Ended = *life {
            return Err(Mismatch);
        }
        self.event.store(false, ordering::Relaxed);
        let mut io = self.io.lock();
        let (answer, had) = io.lineage.go_on(offer)?;
        io.rewind(had);
        io.goes_on(true);
        Ok(answer)
    }

    /// Gives the link a channel, and starts to move messages. `ENODEV` if it has ended meanwhile.
    pub(crate) fn attach(
        self: &Arc<Self>,
        channel: Channel,
        dev: ARef<Device>,
        complaints: &Arc<Complaints>,
    ) -> Result {
        let mut life = self.life.lock();
        if !matches!(*life, Life::Parked(_)) {
            return Err(ENODEV);
        }
        *life = Life::Attached(dev, complaints.clone());
        let mut io = self.io.lock();
        io.channel = Some(channel);
        io.paused = None;
        io.announced = false;
        // Nobody has told it yet what to hold back, nor the other end.
        io.aside.forget_told();
        self.inbox.go_on_with_all();
        drop(io);
        self.attached.store(true, ordering::Relaxed);
        // What came before this moment had its event unanswered.
        Self::schedule(self);
        Ok(())
    }

    /// The guest has come from another platform. Until [`Link::has_arrived`] nothing that it sends is
    /// taken, and its stable name leads to it only for what other platforms bring.
    pub(crate) fn arrive(self: &Arc<Self>) {
        self.io.lock().arrives = Some(Instant::now() + ARRIVAL);
        self.arriving.store(true, ordering::Relaxed);
        self.look_later();
    }

    pub(crate) fn is_arriving(&self) -> bool {
        self.arriving.load(ordering::Relaxed)
    }

    /// From now on its stable name leads to the guest for all; called with the bridge's table locked.
    pub(crate) fn has_arrived(&self) {
        self.arriving.store(false, ordering::Relaxed);
    }

    /// From now on what the guest sends is taken.
    pub(crate) fn go_ahead(self: &Arc<Self>) {
        self.io.lock().arrives = None;
        Self::schedule(self);
    }

    /// The device whose channel the link has.
    pub(crate) fn device(&self) -> Option<ARef<Device>> {
        match &*self.life.lock() {
            Life::Attached(dev, _) => Some(dev.clone()),
            _ => None,
        }
    }

    /// Takes the link's channel away and parks it for this time, if it has the channel of the
    /// driver whose complaints these are. Returns the channel.
    ///
    /// Waits for running work of the link, never for the other end.
    pub(crate) fn park(
        self: &Arc<Self>,
        owner: &Arc<Complaints>,
        rings: Rings,
        time: Delta,
    ) -> Option<Channel> {
        let mut life = self.life.lock();
        if !life.is_of(owner) {
            return None;
        }
        self.leave(&mut life, rings, time)
    }

    /// As [`Link::park`] if the other end has said that its domain is suspended; else as
    /// [`Link::close`].
    pub(crate) fn park_if_announced(self: &Arc<Self>, owner: &Arc<Complaints>) -> Option<Channel> {
        let announced = self.io.lock().announced;
        if announced {
            self.park(owner, Rings::Live, PARK_SUSPENDED)
        } else {
            self.close(owner)
        }
    }

    /// Ends the link, if it has the channel of the driver whose complaints these are. Returns the
    /// channel. What has not reached the other end goes back to its senders.
    ///
    /// Waits for running work of the link, never for the other end.
    pub(crate) fn close(self: &Arc<Self>, owner: &Arc<Complaints>) -> Option<Channel> {
        let mut life = self.life.lock();
        if !life.is_of(owner) {
            return None;
        }
        self.end(&mut life, Rings::Live)
    }

    /// Ends the link if it has no channel.
    pub(crate) fn end_parked(self: &Arc<Self>) {
        let mut life = self.life.lock();
        if let Life::Parked(_) = *life {
            self.end(&mut life, Rings::Stale);
        }
    }

    /// As [`Link::end_parked`] for a link whose guest went elsewhere: what waits for the guest goes to
    /// `take`. Who sends to it meanwhile finds [`Link::has_moved`], and that `lock` is held. `EBUSY` if
    /// the link has a channel, or holds what the guest had sent.
    pub(crate) fn end_moved(
        self: &Arc<Self>,
        lock: &SpinLockBh<()>,
        take: impl FnOnce(List<Message>),
    ) -> Result {
        let mut life = self.life.lock();
        if !matches!(*life, Life::Parked(Some(_))) {
            return Err(EBUSY);
        }
        let mut io = self.io.lock();
        if io.aside.waits() || io.stopped.is_some() {
            // What the guest had sent before it went is first.
            return Err(EBUSY);
        }
        let moving = lock.lock();
        self.moved.store(true, ordering::Relaxed);
        take(self.left(&mut io));
        drop(moving);
        drop(io);
        self.end(&mut life, Rings::Stale);
        Ok(())
    }

    /// Whether the guest is on another platform.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved.load(ordering::Relaxed)
    }

    /// Closes the queue, and takes out what the other end has not taken, in order.
    fn left(&self, io: &mut Io) -> List<Message> {
        let mut left = List::new();
        left.push_all_back(&mut io.sent);
        left.push_all_back(&mut io.outgoing);
        left.push_all_back(&mut self.inbox.close());
        left
    }

    fn leave(self: &Arc<Self>, life: &mut Life, rings: Rings, time: Delta) -> Option<Channel> {
        let mut io = self.io.lock();
        let channel = io.take_channel(rings, &self.bridge.spares);
        let broken = io.violation.is_some();
        drop(io);
        if broken || !self.bridge.may_park() {
            self.end(life, rings);
            return channel;
        }
        self.attached.store(false, ordering::Relaxed);
        *life = Life::Parked(Some(Instant::now() + time));
        self.look_later();
        channel
    }

    fn end(self: &Arc<Self>, life: &mut Life, rings: Rings) -> Option<Channel> {
        *life = Life::Ended;
        self.attached.store(false, ordering::Relaxed);
        self.bridge.remove_link(self);
        let mut io = self.io.lock();
        let channel = io.take_channel(rings, &self.bridge.spares);
        let mut left = self.left(&mut io);
        // The other end was told that it arrived.
        if io.aside.waits() || io.stopped.is_some() {
            if self.bridge.may_linger() {
                io.lingers = true;
            } else {
                left.push_all_back(&mut io.aside.take_all(self.inbox.account()));
                if let Some(stopped) = io.stopped.take() {
                    left.push_back(stopped.message.into());
                }
            }
        }
        drop(io);
        while let Some(message) = left.pop_front() {
            self.bridge.bounce(&message, Reason::PeerGone);
        }
        channel
    }

    /// Closes the channel of a peer that broke the rules, and says so.
    pub(super) fn end_violated(self: &Arc<Self>) {
        let mut life = self.life.lock();
        let Life::Attached(dev, complaints) = &*life else {
            return;
        };
        let (dev, complaints) = (dev.clone(), complaints.clone());
        drop(self.end(&mut life, Rings::Live));
        let violation = self.io.lock().violation.take();
        let Some(violation) = violation else {
            return;
        };
        let Ok(what) = CString::try_from_fmt(fmt!("channel closed: {}", violation)) else {
            return;
        };
        // With `life` held the device is still bound: its unbinding closes the link first.
        complaints.fatal(&dev, EPROTO, &what);
    }

    /// Tells the other end that this domain is about to be suspended, sends nothing more, and gives
    /// it a moment to take what is in the ring.
    pub(crate) fn pause(self: &Arc<Self>) {
        let end = Instant::<Monotonic>::now() + DRAIN;
        let mut told = false;
        loop {
            let mut io = self.io.lock();
            io.paused = Some(Instant::now());
            match io.drain(&mut told, &self.bridge.spares) {
                Ok(true) => break,
                Ok(false) => {}
                Err(violation) => {
                    self.violated(&mut io, violation);
                    break;
                }
            }
            drop(io);
            if Instant::now() - end >= Delta::ZERO {
                break;
            }
            fsleep(DRAIN_STEP);
        }
        self.look_later();
    }

    /// Has [`Link::tend`] called soon, and again while it says that there is more to come.
    fn look_later(self: &Arc<Self>) {
        Target::Link(self.clone()).expire_later();
    }

    /// Deals with what time brings: messages that expire outside of the queues, a parked link whose
    /// time is up, a pause that no suspend followed. Whether there is more of it to come.
    pub(crate) fn tend(self: &Arc<Self>) -> bool {
        let more = self.expire() | self.tend_arrival();
        let mut life = self.life.lock();
        match &*life {
            Life::Parked(Some(until)) => {
                if Instant::now() - *until < Delta::ZERO {
                    return true;
                }
                self.end(&mut life, Rings::Stale);
                false
            }
            Life::Attached(dev, complaints) => {
                let (dev, complaints) = (dev.clone(), complaints.clone());
                // A suspended domain's xenstore is not to be waited for with the lock held.
                drop(life);
                self.tend_pause(&dev, &complaints) || more
            }
            Life::Parked(None) | Life::Ended => more,
        }
    }

    /// Ends an arrival that takes too long: its daemon may be gone. Whether it goes on.
    fn tend_arrival(self: &Arc<Self>) -> bool {
        let Some(until) = self.io.lock().arrives else {
            return false;
        };
        if Instant::now() - until < Delta::ZERO {
            return true;
        }
        self.bridge.guest_arrived(self, u64::MAX);
        false
    }

    /// Ends a pause after which the domain was not suspended, or resumed where its device had not
    /// been made yet. Whether it goes on.
    fn tend_pause(self: &Arc<Self>, dev: &Device, owner: &Arc<Complaints>) -> bool {
        let Some(since) = self.io.lock().paused else {
            return false;
        };
        if Instant::now() - since < PAUSE {
            return true;
        }
        if read_u32(dev.nodename(), c"state") == Ok(State::Connected.number()) {
            self.io.lock().paused = None;
            Self::schedule(self);
        } else {
            drop(self.park(owner, Rings::Stale, PARK_UPLINK));
        }
        false
    }

    /// Has messages dealt with that expire outside of the queues. Whether there is any that has a
    /// deadline.
    fn expire(self: &Arc<Self>) -> bool {
        let mut expired = List::new();
        let Some(mut io) = self.io.try_lock() else {
            // Somebody deals with it right now.
            return true;
        };
        let mut more = false;
        let mut cursor = io.outgoing.cursor_front();
        while let Some(next) = cursor.peek_next() {
            if next.arc().is_expired() {
                expired.push_back(next.remove());
            } else {
                more |= next.arc().has_deadline();
                cursor.move_next();
            }
        }
        more |= io.aside.expire(self.inbox.account(), &mut expired);
        let stopped = io
            .stopped
            .as_ref()
            .is_some_and(|stopped| stopped.message.has_deadline());
        drop(io);
        let any = stopped || !expired.is_empty();
        while let Some(message) = expired.pop_front() {
            self.bridge.bounce(&message, Reason::Deadline);
        }
        if any {
            Self::try_again(self);
        }
        more || stopped
    }
}

impl Io {
    /// A step of [`Link::pause`]. Whether the other end was told and has taken everything.
    fn drain(&mut self, told: &mut bool, spares: &Spares) -> Result<bool, Violation> {
        let Some(channel) = &mut self.channel else {
            return Ok(true);
        };
        if !*told {
            *told = tell(channel, &Note::Pausing)?;
            if channel.tx.publish() {
                channel.event.notify();
            }
        }
        channel.tx.refresh().map_err(Violation::Ring)?;
        forget_consumed(
            channel,
            &mut self.sent,
            &mut self.lineage,
            spares,
            &mut self.spare,
        );
        Ok(*told && channel.tx.is_consumed(channel.tx.position()))
    }
}
