// SPDX-License-Identifier: GPL-2.0

//! How often a peer may fail before nobody listens to it any more.
//!
//! For failures that cost more than the peer pays for them, such as a line in a log.

/// Failures that are borne one after the other.
pub const MOST: u32 = 8;
/// Seconds without a failure after which one is forgotten.
pub const FORGIVEN_AFTER: u64 = 3600;

/// What is left of the patience with one peer.
#[derive(Debug, Default)]
pub struct Patience {
    failures: u32,
}

impl Patience {
    /// Nothing has failed yet.
    pub const fn new() -> Self {
        Self { failures: 0 }
    }

    /// Counts a failure, so many seconds after the last one. Returns whether patience is at its
    /// end: for good, as it is not asked again.
    pub fn is_over(&mut self, since_last: u64) -> bool {
        let forgiven = u32::try_from(since_last / FORGIVEN_AFTER).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(forgiven).saturating_add(1);
        self.failures >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_failures_in_a_row_are_borne() {
        let mut patience = Patience::new();
        for _ in 1..MOST {
            assert!(!patience.is_over(0));
        }
        assert!(patience.is_over(FORGIVEN_AFTER - 1));
    }

    #[test]
    fn who_fails_seldom_is_borne_for_ever() {
        let mut patience = Patience::new();
        assert!((0..1000).all(|_| !patience.is_over(FORGIVEN_AFTER)));
    }

    #[test]
    fn a_long_time_forgives_all_and_no_more() {
        let mut patience = Patience::new();
        (0..5).for_each(|_| assert!(!patience.is_over(0)));
        assert!(!patience.is_over(u64::MAX));
        for _ in 2..MOST {
            assert!(!patience.is_over(0));
        }
        assert!(patience.is_over(0));
    }
}
