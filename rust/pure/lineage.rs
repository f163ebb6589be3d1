// SPDX-License-Identifier: GPL-2.0

//! What of a link outlives its channel: its name, and how many messages have gone each way.
//!
//! A channel ends when a guest migrates or a backend is bound anew, and what is in its rings is
//! lost. Each end keeps the messages that it has put into the ring until the other end is known to
//! have taken them. When a new channel is made, each end tells the other how many it has taken:
//! those are dropped, the others sent again, in order, before anything new. So nothing is lost,
//! and nothing comes twice.
//!
//! ```text
//! frontend                                       backend
//! link, fresh, received   ------ offer ------>   knows `link`: goes on
//!                                                else: begins anew, as `fresh`
//! the same, or `fresh`    <----- answer ------   link, received
//! ```
//!
//! Numbers of the other end are not trusted: a count that it cannot have is a [`Mismatch`].

/// No lineage: what a frontend goes on with that has not been connected.
pub const NONE: u64 = 0;

/// What a frontend publishes with its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The lineage that it would go on with, or [`NONE`].
    pub link: u64,
    /// The name of the lineage that begins if the backend does not know that one.
    pub fresh: u64,
    /// Messages of `link` that it has taken.
    pub received: u64,
}

/// What a backend publishes when it has taken the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The lineage that holds from now on: one of the two of the offer.
    pub link: u64,
    /// Messages of it that the backend has taken.
    pub received: u64,
}

/// The other end names a lineage or a count that it cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

/// One end's view of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    id: u64,
    /// Messages taken from the other end.
    received: u64,
    /// Messages put into a ring, and how many of them the other end is known to have taken.
    sent: u64,
    taken: u64,
}

impl Lineage {
    /// A lineage in which nothing has been sent.
    pub const fn new(id: u64) -> Self {
        Self {
            id,
            received: 0,
            sent: 0,
            taken: 0,
        }
    }

    /// Whether it is of this name.
    pub fn is(&self, id: u64) -> bool {
        self.id == id && id != NONE
    }

    /// Counts a message that was taken from the other end.
    pub fn count_received(&mut self) {
        self.received += 1;
    }

    /// Counts a message that was put into the ring.
    pub fn count_sent(&mut self) {
        self.sent += 1;
    }

    /// Counts a message that the other end is known to have taken.
    pub fn count_taken(&mut self) {
        self.taken += 1;
    }

    /// What a frontend offers. `fresh` is random.
    pub fn offer(&self, fresh: u64) -> Offer {
        Offer {
            link: self.id,
            fresh,
            received: self.received,
        }
    }

    /// Begins the lineage that an offer is answered with if it is not gone on with.
    pub fn begin(offer: &Offer) -> (Self, Answer) {
        let answer = Answer {
            link: offer.fresh,
            received: 0,
        };
        (Self::new(offer.fresh), answer)
    }

    /// Goes on with an offer, at the backend. Returns the answer, and how many of the messages
    /// that it keeps the frontend has; the others are to be sent again.
    pub fn go_on(&mut self, offer: &Offer) -> Result<(Answer, u64), Mismatch> {
        if !self.is(offer.link) {
            return Err(Mismatch);
        }
        let had = self.rewind(offer.received)?;
        let answer = Answer {
            link: self.id,
            received: self.received,
        };
        Ok((answer, had))
    }

    /// Takes the backend's answer. Returns how many of the messages that it keeps the backend has;
    /// the others are to be sent again.
    pub fn accept(&mut self, offer: &Offer, answer: &Answer) -> Result<u64, Mismatch> {
        // A backend that knows nothing of lineages says none.
        if [offer.fresh, NONE].contains(&answer.link) && answer.received == 0 {
            *self = Self::new(offer.fresh);
            return Ok(0);
        }
        if !self.is(offer.link) || !self.is(answer.link) {
            return Err(Mismatch);
        }
        self.rewind(answer.received)
    }

    /// The other end has taken so many messages: what is sent next has the number behind them.
    fn rewind(&mut self, peer_received: u64) -> Result<u64, Mismatch> {
        if peer_received > self.sent {
            return Err(Mismatch);
        }
        let had = peer_received.checked_sub(self.taken).ok_or(Mismatch)?;
        self.taken = peer_received;
        self.sent = peer_received;
        Ok(had)
    }
}

#[cfg(test)]
mod tests;
