// SPDX-License-Identifier: GPL-2.0

//! How many messages a peer may send that reach nobody, before it has to wait.
//!
//! They cost whoever looks for their receiver as much as others do. What can be had is had by who
//! sends to somebody that was there a moment ago; who goes on is slowed down.

/// Messages that may follow one another, as when a receiver goes that many are on their way to.
pub const BURST: u32 = 1024;
/// Messages for each millisecond, on the average.
pub const PER_MILLISECOND: u64 = 1;

/// What is left of a peer's credit.
#[derive(Debug)]
pub struct Pace {
    left: u32,
}

impl Default for Pace {
    /// All of it.
    fn default() -> Self {
        Self { left: BURST }
    }
}

impl Pace {
    /// A message reached nobody.
    pub fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// So many milliseconds have passed.
    pub fn earn(&mut self, milliseconds: u64) {
        let more = milliseconds.saturating_mul(PER_MILLISECOND);
        let sum = more.saturating_add(self.left.into()).min(BURST.into());
        self.left = sum as u32;
    }

    /// Whether the peer has to wait.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_no_more() {
        let mut pace = Pace::default();
        pace.earn(u64::MAX);
        for _ in 0..BURST {
            assert!(!pace.is_spent());
            pace.spend();
        }
        assert!(pace.is_spent());
        pace.spend();
        assert!(pace.is_spent());
    }

    #[test]
    fn who_keeps_to_the_pace_never_waits() {
        let mut pace = Pace::default();
        for _ in 0..10 * BURST {
            pace.spend();
            pace.earn(1);
            assert!(!pace.is_spent());
        }
    }

    #[test]
    fn who_waited_may_send_as_many_as_it_waited_for() {
        let mut pace = Pace::default();
        (0..BURST).for_each(|_| pace.spend());
        pace.earn(32);
        for _ in 0..32 * PER_MILLISECOND {
            assert!(!pace.is_spent());
            pace.spend();
        }
        assert!(pace.is_spent());
    }
}
